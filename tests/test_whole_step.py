"""The laws of the whole step: wrong classes are caught and named, right ones pass, the laws' own steps are right."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from oeu_ref.conformance import LAWS, Implementation
from oeu_ref.core import OEU, fast
from oeu_ref.judging.law import Trial
from oeu_ref.observe.explain import gradients
from oeu_ref.optional.whole_step_laws import FIXED, StepCase, _directions
from oeu_ref.reference.network import QuantizedMLP
from oeu_ref.reference.unlearner import oeu_step

from .mutants import right_step
from .mutants.steps import WRONG_STEPS
from .test_readmes import READMES, blocks

STEP_LAWS = [law for law in LAWS if law.needs == ("OEU",)]


class Fast(OEU):
    """The step through `oeu_ref.core.fast`, which small networks do not take by themselves."""

    def project(self, parameters, g_f, g_r, layers, angles):
        return fast.projected(g_f, g_r, layers, self.alpha, self.rescale, angles=angles, small=0)


class Tensors(OEU):
    """Each tensor a layer."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options, layer="tensor")


class Door:
    """The five lines that the README prints, for the options that they have."""

    def __init__(self, model, optimizer, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
        if (alpha, granularity, rescale) != (1.0, "layer", "undo"):
            raise NotImplementedError
        self.names = {"model": model, "optimizer": optimizer, "beta": beta}
        self.code = next(block for block in blocks(READMES[0], "python") if "optimizer.step()" in block)

    def step(self, forget_inputs, retain_inputs, retain_labels):
        batches = {"forget_inputs": forget_inputs, "retain_inputs": retain_inputs, "retain_labels": retain_labels}
        exec(self.code, {**self.names, **batches})


def tried(step_class, drawn=0):
    """Results of the step's laws on a class: fixed cases, and drawn ones times the law's weight."""
    trials = [Trial(law, Implementation(step_class)) for law in STEP_LAWS]
    for trial in trials:
        all(map(trial.try_case, trial.law.cases.fixed))
        trial.try_drawn(drawn)
    return [trial.result() for trial in trials]


@pytest.mark.parametrize("step_class", [OEU, Fast, Tensors, right_step.OEU], ids=lambda c: c.__name__)
def test_right_steps_are_not_accused(step_class):
    """The core's OEU, its fast projection, each tensor a layer, and plain PyTorch."""
    results = tried(step_class, 15)
    assert [r.status for r in results] == 3 * ["holds"] and results[0].cases > 15, results


def test_the_five_lines_of_the_door_are_not_accused():
    """The README's five lines are OEU's step, wherever they have the options and no parameter is frozen."""
    result = tried(Door, 15)[0]
    assert result.status == "partial" and result.cases > 8, result


@pytest.mark.parametrize("wrong", WRONG_STEPS, ids=lambda wrong: wrong.name)
def test_wrong_steps_are_caught_and_named(wrong):
    """Each fails a law, and what is found says which mistake it is."""
    messages = [result.message for result in tried(wrong.build()) if result.status == "fails"]
    assert any(wrong.words in message for message in messages), messages


def test_few_drawn_cases_differ_too():
    """Of ten cases that a law draws at least five differ: they are not the simplest one, ten times."""
    seen = []
    law = dataclasses.replace(STEP_LAWS[0], check=lambda implementation, case: seen.append(case), weight=0.2)
    Trial(law, Implementation(right_step.OEU)).try_drawn(50)
    assert len(seen) == 10 and len(set(seen)) >= 5


def test_each_wrong_step_is_another():
    """Names and edits are all different, each edit at one place."""
    assert len({w.name for w in WRONG_STEPS}) == len({(w.old, w.new) for w in WRONG_STEPS}) == len(WRONG_STEPS) >= 25


@pytest.mark.parametrize("case", FIXED, ids=lambda case: case.kind)
def test_the_laws_directions_are_those_of_the_numpy_reference(case):
    """On networks without BatchNorm, quantizer and gain, autograd with the NumPy projection gives what the reference
    gives, whose gradients are derived by hand, for both notions of a layer."""
    if case.kind in ("batch_norm", "quantized", "one_element"):
        pytest.skip("the reference has no such network")
    model, (x_f, x_r, y) = case.model_and_batches()
    linears = [module for module in model if isinstance(module, nn.Linear)]
    network = QuantizedMLP([6, *(linear.out_features for linear in linears)], 32, 32)
    names = dict(zip(network.parameters, (name for name, _ in model.named_parameters())))
    network.parameters = {name: model.get_parameter(names[name]).detach().numpy() for name in names}
    ours = dict(zip(("tensor", "module"), _directions(gradients(model, (x_f,), (x_r, y)), case, list(names.values()))))
    for layer, direction in ours.items():
        right = oeu_step(network, x_f.numpy(), x_r.numpy(), y.numpy(), 0.1, **case.options, layer=layer).direction
        for name, value in right.items():
            np.testing.assert_allclose(direction[names[name]], value, rtol=1e-9, atol=1e-12 * abs(value).max() + 1e-14)


def test_the_cases_are_what_they_say():
    """Certain predictions are certain, dead layers dead, collinear gradients collinear; the others are none of it."""
    for case in FIXED:
        model, (x_f, x_r, y) = case.model_and_batches()
        g_f, g_r = gradients(model, (x_f,), (x_r, y))
        zero = [all(not g.any() for g in grads.values()) for grads in (g_f, g_r)]
        assert zero == [case.kind == "zero_forget", case.kind == "zero_retain"], case
        certain = bool((model(x_f).softmax(1) == 0).any())
        assert certain == (case.kind in ("zero_forget", "one_hot")), case
        assert (not g_r["0.weight"].any()) == (case.kind in ("zero_retain", "one_layer_zero")), case
        assert all(p.grad is None for p in model.parameters()) and model.training
    f, r = (g["4.bias"] for g in gradients(*_of(StepCase("parallel"))))
    assert abs(abs(torch.cosine_similarity(f, r, 0)) - 1) < 1e-14


def _of(case):
    model, (x_f, x_r, y) = case.model_and_batches()
    return model, (x_f,), (x_r, y)
