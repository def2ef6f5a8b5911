"""Core and reference, started from the same weights, take the same OEU steps."""

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
    report = OEU(model, torch.optim.SGD(model.parameters(), lr=0.05), alpha=0.5, layer=layer).step(
        *map(torch.tensor, batches)
    )
    assert report.forget_loss == pytest.approx(step.forget_loss, abs=1e-12)
    assert report.retain_loss == pytest.approx(step.retain_loss, abs=1e-12)
    assert report.forget_entropy == pytest.approx(step.forget_entropy.mean(), abs=1e-12)
    assert report.layer_cosines == pytest.approx(step.cosines, abs=1e-10)
    assert report.layer_residuals == pytest.approx(step.residuals, abs=1e-10)


def test_overall_cosines_are_those_of_the_concatenated_gradients():
    """The overall cosine and residual treat all parameters as one vector, although the projection was layer-wise."""
    network, model, batches = twins()
    step = oeu_step(network, *batches, 0.05, alpha=0.5)
    report = OEU(model, torch.optim.SGD(model.parameters(), lr=0.05), alpha=0.5).step(*map(torch.tensor, batches))
    g_f, g_r, g_perp = (
        np.concatenate([g.ravel() for g in grads.values()])
        for grads in (step.forget_grads, step.retain_grads, step.projected_grads)
    )
    for value, g in ((report.cosine, g_f), (report.residual, g_perp)):
        assert value == pytest.approx(g @ g_r / np.linalg.norm(g) / np.linalg.norm(g_r), abs=1e-10)


def test_the_twins_start_from_the_same_logits():
    """With the same weights and steps both networks give the same logits, for signed and unsigned inputs."""
    for signed in (False, True):
        network, model, (inputs, *_) = twins(signed=signed)
        assert network.signed_inputs is signed
        np.testing.assert_allclose(model(torch.tensor(inputs)).detach(), network.forward(inputs)[0], atol=1e-12)
