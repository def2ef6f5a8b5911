"""Core and reference, started from the same weights, take the same OEU steps."""

import importlib
import inspect

import numpy as np
import pytest
import torch

from oeu_ref.core import OEU, QuantMLP
from oeu_ref.reference.network import QuantizedMLP
from oeu_ref.reference.unlearner import oeu_step

SIZES = (12, 16, 14, 5)


def twins(weight_bits=4, activation_bits=4, seed=0, signed=False):
    """A reference network and its PyTorch twin in float64, with the batches of one step."""
    rng = np.random.default_rng(seed)
    inputs, labels = rng.uniform(-1 if signed else 0, 1, (40, SIZES[0])), rng.integers(0, SIZES[-1], 40)
    network = QuantizedMLP(SIZES, weight_bits, activation_bits, seed=seed)
    if activation_bits < 32:
        network.calibrate(inputs)
    model = QuantMLP(SIZES, weight_bits, activation_bits).double().load_reference(network)
    return network, model, (inputs[:10], inputs[10:], labels[10:])


def largest_difference(network, model):
    """Largest difference of any parameter."""
    return max(np.abs(p.detach().numpy() - network.parameters[name]).max() for name, p in model.named_parameters())


@pytest.mark.parametrize("layer", ["module", "tensor"])
@pytest.mark.parametrize("granularity", ["layer", "global"])
@pytest.mark.parametrize("rescale", ["undo", "match"])
@pytest.mark.parametrize("bits", [(4, 4), (2, 8), (32, 32), (8, 32)], ids=str)
def test_twenty_steps_agree(layer, granularity, rescale, bits):
    """After each of 20 steps with momentum and weight decay all parameters agree to 1e-10, whatever the options."""
    network, model, batches = twins(*bits)
    options = {"alpha": 0.9, "beta": 0.7, "granularity": granularity, "rescale": rescale, "layer": layer}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    unlearner, velocity, start = OEU(model, optimizer, **options), None, dict(network.parameters)
    for _ in range(20):
        step = oeu_step(network, *batches, 0.05, momentum=0.9, weight_decay=5e-4, velocity=velocity, **options)
        network.parameters, velocity = step.parameters, step.velocity
        unlearner.step(*map(torch.tensor, batches))
        assert largest_difference(network, model) <= 1e-10
    assert max(np.abs(network.parameters[name] - w).max() for name, w in start.items()) > 0.01  # they did move


@pytest.mark.parametrize("layer", ["module", "tensor"])
def test_one_step_reports_what_the_reference_computes(layer):
    """Losses, entropy and the cosines of each layer, before and after the projection, are the reference's."""
    network, model, batches = twins(signed=True)
    step = oeu_step(network, *batches, 0.05, alpha=0.5, layer=layer)
    plan = OEU(model, torch.optim.SGD(model.parameters(), lr=0.05), alpha=0.5, layer=layer).plan(
        *map(torch.tensor, batches)
    )
    report = plan.report
    assert report.forget_loss == pytest.approx(step.forget_loss, abs=1e-12)
    assert report.retain_loss == pytest.approx(step.retain_loss, abs=1e-12)
    assert report.forget_entropy == pytest.approx(step.forget_entropy.mean(), abs=1e-12)
    assert report.layer_cosines == pytest.approx(step.cosines, abs=1e-10)
    assert plan.layer_residuals == pytest.approx(step.residuals, abs=1e-10)


def test_overall_cosines_are_those_of_the_concatenated_gradients():
    """The overall cosine and residual treat all parameters as one vector, although the projection was layer-wise."""
    network, model, batches = twins()
    step = oeu_step(network, *batches, 0.05, alpha=0.5)
    plan = OEU(model, torch.optim.SGD(model.parameters(), lr=0.05), alpha=0.5).plan(*map(torch.tensor, batches))
    g_f, g_r, g_perp = (
        np.concatenate([g.ravel() for g in grads.values()])
        for grads in (step.forget_grads, step.retain_grads, step.projected_grads)
    )
    for value, g in ((plan.report.cosine, g_f), (plan.residual, g_perp)):
        assert value == pytest.approx(g @ g_r / np.linalg.norm(g) / np.linalg.norm(g_r), abs=1e-10)


def test_the_twins_start_from_the_same_logits():
    """With the same weights and steps both networks give the same logits, for signed and unsigned inputs."""
    for signed in (False, True):
        network, model, (inputs, *_) = twins(signed=signed)
        assert network.signed_inputs is signed
        np.testing.assert_allclose(model(torch.tensor(inputs)).detach(), network.forward(inputs)[0], atol=1e-12)


Z, Y = np.random.default_rng(0).normal(0, 3, (5, 4)), np.array([0, 3, 1, 1, 2])
G = np.random.default_rng(1).normal(size=14)
# inside, outside, on the ends, at half a step beyond them, halves, zeros of both signs
X = np.array([-3.3, -2.5, -2.26, -2.25, -2.0, -0.75, -0.25, -0.0, 0.0, 0.3, 1.5, 1.75, 1.8, 9.0])
# good input of every function that both twins have; where the reference has a gradient, autograd's is the core's
CALLS = {
    **{f"entropy.{f}": {"logits": Z} for f in ("log_softmax", "softmax", "entropy", "entropy_loss", "kl_to_uniform")},
    "entropy.cross_entropy": {"logits": Z, "labels": Y},
    "entropy.label_manipulation_optimum": {"wrong_labels": Y, "num_classes": 6},
    "entropy.entropy_of_probabilities": {"probabilities": np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])},
    **{f"quantizer.{f}": {"x": X, "step": 0.5, "q_min": -4, "q_max": 3} for f in ("fake_quantize", "integer_codes")},
    "quantizer.fake_quantize_backward": {
        "grad_out": G,
        "x": X,
        "step": 0.5,
        "q_min": -4,
        "q_max": 3,
        "grad_scale": 0.3,
    },
    "quantizer.dequantize": {"codes": np.array([-4, 0, 3], np.int16), "step": 0.5},
    "quantizer.binarize": {"x": X, "step": 0.5},
    "quantizer.binarize_backward": {"grad_out": G, "x": X, "step": 0.5, "grad_scale": 0.3},
    "quantizer.binary_codes": {"x": X},
    "quantizer.initial_step": {"x": X, "q_max": 7},
    "quantizer.initial_binary_step": {"x": X},
}


@pytest.mark.parametrize("name", CALLS)
def test_twin_functions_return_the_same(name):
    """Every value to rounding, codes exactly; a loss comes with the gradient of the reference."""
    room, function = name.split(".")
    plain, core = (
        getattr(importlib.import_module(f"oeu_ref.{side}.{room}"), function) for side in ("reference", "core")
    )
    call = {key: torch.tensor(v) if isinstance(v, np.ndarray) else v for key, v in CALLS[name].items()}
    expected = plain(**CALLS[name])
    call_dtype = torch.float32 if function in ("dequantize", "label_manipulation_optimum") else torch.float64
    if function in ("entropy_loss", "cross_entropy"):
        loss = core(**call | {"logits": call["logits"].requires_grad_()})
        found = loss, torch.autograd.grad(loss, call["logits"])[0]
    else:
        found = core(**call)
    for mine, theirs in zip(*(v if isinstance(v, tuple) else (v,) for v in (found, expected)), strict=True):
        assert tuple(mine.shape) == np.shape(theirs)
        assert mine.dtype == {"integer_codes": torch.int16, "binary_codes": torch.int16}.get(function, call_dtype)
        np.testing.assert_allclose(mine.detach(), theirs, rtol=1e-13, atol=1e-14)


def test_every_function_that_both_twins_have_is_called_above():
    """Those of `projection` are compared in test_core.py; what the core imports from the reference is the reference."""
    for room in ("entropy", "quantizer"):
        both = [
            {f for f, v in vars(importlib.import_module(f"oeu_ref.{side}.{room}")).items() if inspect.isfunction(v)}
            for side in ("reference", "core")
        ]
        own = importlib.import_module(f"oeu_ref.core.{room}")
        both = {f for f in both[0] & both[1] if f[0] != "_" and getattr(own, f).__module__ == own.__name__}
        assert {f"{room}.{f}" for f in both} == {name for name in CALLS if name.startswith(f"{room}.")}
