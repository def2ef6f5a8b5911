"""The later methods' updates on a two-layer network, their gradients worked out by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch

from oeu_ref.data.samples import Samples, stream
from oeu_ref.methods.method import Settings
from oeu_ref.methods.rivals import Lotus, NegGradPlus, Scrub, UniformTarget

RATE, WEIGHT, CLASSES = 0.1, 0.7, 4


@pytest.fixture
def net():
    """Logits relu(x A') B' in float64, without biases, and two batches."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)

    def batch(count):
        return Samples(draw(count, 3), torch.randint(CLASSES, (count,), generator=generator))

    first, second = (torch.nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in ((3, 6), (6, CLASSES)))
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    with torch.no_grad():
        first.weight.copy_(draw(6, 3)), second.weight.copy_(draw(CLASSES, 6))
    return SimpleNamespace(model=model, forget=batch(5), retain=batch(8))


def make(kind, net, **options):
    return kind(net.model, net.forget, Settings(RATE, WEIGHT, 0.0, 0.0), stream(0, "method"), **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def softmax(model, inputs):
    """exp z / sum exp z, by hand."""
    a, b = weights(model)
    e = ((inputs @ a.T).clamp_min(0) @ b.T).exp()
    return e / e.sum(dim=1, keepdim=True)


def one_hot(labels):
    return torch.eye(CLASSES, dtype=torch.float64)[labels]


def gradient(model, inputs, slope):
    """[dL/dA, dL/dB] of a loss that is a mean over samples; slope(p): N dL/dz, (N, K), from the predictions."""
    a, b = weights(model)
    hidden, slope = (inputs @ a.T).clamp_min(0), slope(softmax(model, inputs)) / len(inputs)
    return [((slope @ b) * (hidden > 0)).T @ inputs, slope.T @ hidden]


def moved(before, *parts):
    """theta - eta times the sum of (factor, gradient)."""
    return [w - RATE * sum(factor * g[i] for factor, g in parts) for i, w in enumerate(before)]


def assert_equal(model, expected):
    for found, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-10, atol=1e-12)


def test_ng_plus_climbs_the_forget_loss_and_descends_the_retain_loss(net):
    """theta - eta (g_r - w g_f), each g = (p - y) behind the logits."""
    before = weights(net.model)
    g_f, g_r = (gradient(net.model, s.inputs, lambda p, s=s: p - one_hot(s.labels)) for s in (net.forget, net.retain))
    make(NegGradPlus, net).step(net.forget, net.retain)
    assert_equal(net.model, moved(before, (1, g_r), (-WEIGHT, g_f)))


def test_the_uniform_target_pulls_each_class_towards_one_in_k(net):
    """theta - eta (g_r + w g_u), g_u = (p - 1/K) behind the logits; labels of forgotten samples have no influence."""
    before = weights(net.model)
    g_u = gradient(net.model, net.forget.inputs, lambda p: p - 1 / CLASSES)
    g_r = gradient(net.model, net.retain.inputs, lambda p: p - one_hot(net.retain.labels))
    twin = copy.deepcopy(net)
    twin.forget = Samples(net.forget.inputs, (net.forget.labels + 1) % CLASSES)
    loss = make(UniformTarget, net).step(net.forget, net.retain).forget_loss
    assert_equal(net.model, moved(before, (1, g_r), (WEIGHT, g_u)))
    make(UniformTarget, twin).step(twin.forget, twin.retain)
    assert_equal(twin.model, weights(net.model))
    assert loss == pytest.approx(-softmax(copy_with(net, before), net.forget.inputs).log().mean().item())


def copy_with(net, values):
    """A copy of the model with these weights."""
    model = copy.deepcopy(net.model)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values):
            parameter.copy_(value)
    return model


def test_scrub_leaves_the_teacher_on_what_is_forgotten_and_stays_with_it_on_the_rest(net):
    """theta - eta (g_r + alpha k_r - w k_f), k = p - p_o of the original; k is zero at the first step, not later."""
    method, original = make(Scrub, net, alpha=0.25), copy.deepcopy(net.model)
    for step in range(3):
        before = weights(net.model)
        k_f, k_r = (
            gradient(net.model, s.inputs, lambda p, s=s: p - softmax(original, s.inputs))
            for s in (net.forget, net.retain)
        )
        g_r = gradient(net.model, net.retain.inputs, lambda p: p - one_hot(net.retain.labels))
        method.step(net.forget, net.retain)
        assert_equal(net.model, moved(before, (1, g_r), (0.25, k_r), (-WEIGHT, k_f)))
        assert (max(k.abs().max() for k in k_f) > 1e-3) == (step > 0)


def test_lotus_teaches_noisy_answers_of_the_original_at_its_temperature(net):
    """theta - eta (d_r + w d_f): behind the logits p less softmax((z_o + G) / T), and p less a draw from p_o."""
    validation = Samples(net.retain.inputs[:4], net.retain.labels[:4])
    method, twin = make(Lotus, net, alpha=1.5, validation=validation), stream(0, "method")
    original, before = copy.deepcopy(net.model), weights(net.model)
    right = lambda s: (softmax(net.model, s.inputs).argmax(dim=1) == s.labels).double().mean().item()
    temperature = torch.tensor(1.5 * (right(net.forget) - right(validation))).exp().item()
    assert method.temperature == pytest.approx(temperature, rel=1e-6)
    assert abs(method.temperature - 1) > 0.01

    def noisy(inputs):
        uniform = torch.rand(len(inputs), CLASSES, generator=twin)
        return softmax(original, inputs).log() - (-uniform.double().log()).log()

    soft = (noisy(net.forget.inputs) / method.temperature).softmax(dim=1)
    drawn = one_hot(noisy(net.retain.inputs).argmax(dim=1))
    d_f, d_r = (
        gradient(net.model, net.forget.inputs, lambda p: p - soft),
        gradient(net.model, net.retain.inputs, lambda p: p - drawn),
    )
    method.step(net.forget, net.retain)
    for found, wanted in zip(net.model.parameters(), moved(before, (1, d_r), (WEIGHT, d_f)), strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-7)  # noise is float32


def test_lotus_draws_from_the_originals_predictions(net):
    """Of 40,000 draws for one sample each class has its share, to five standard deviations."""
    method, inputs = make(Lotus, net), net.retain.inputs[:1]
    counts = torch.bincount(method.noisy(inputs.expand(40000, 3)).argmax(dim=1), minlength=CLASSES)
    expected = 40000 * softmax(net.model, inputs)[0]
    assert ((counts - expected).abs() <= 5 * (expected * (1 - expected / 40000)).sqrt() + 1).all()


def test_lotus_measures_its_temperature_anew_after_each_epoch(net):
    """Two batches of 3 and 2 are an epoch of five samples: T follows the accuracy as it is then, and not before."""
    method = make(Lotus, net, alpha=3.0)
    with torch.no_grad():
        net.model[2].weight.mul_(-1)  # other predictions, other accuracy
    before = method.temperature
    method.step(net.forget[torch.arange(3)], net.retain)
    assert method.temperature == before
    method.step(net.forget[torch.arange(3, 5)], None)
    accuracy = (softmax(net.model, net.forget.inputs).argmax(dim=1) == net.forget.labels).double().mean().item()
    assert method.temperature == pytest.approx(torch.tensor(3.0 * accuracy).exp().item(), rel=1e-6)
    assert method.temperature != before


@pytest.mark.parametrize("kind", [NegGradPlus, UniformTarget, Scrub, Lotus])
def test_in_turns_each_batch_has_its_part_alone(net, kind):
    """A forget batch and then a retain batch report a loss each, and none for the other."""
    method = make(kind, net)
    alone = method.step(net.forget, None), method.step(None, net.retain)
    assert [report.forget_loss is None for report in alone] == [False, True]
    assert [report.retain_loss is None for report in alone] == [True, False]


def test_in_one_batch_of_both_sets_each_sample_counts_the_same(net):
    """theta - eta (5/13 w g_u + 8/13 g_r), with 5 samples to forget and 8 to retain."""
    before, method = weights(net.model), make(UniformTarget, net)
    g_u = gradient(net.model, net.forget.inputs, lambda p: p - 1 / CLASSES)
    g_r = gradient(net.model, net.retain.inputs, lambda p: p - one_hot(net.retain.labels))
    method.together = True
    method.step(net.forget, net.retain)
    assert_equal(net.model, moved(before, (8 / 13, g_r), (5 / 13 * WEIGHT, g_u)))


@pytest.mark.parametrize("kind", [Scrub, Lotus])
def test_a_bad_option_of_a_taught_method_is_named(net, kind):
    with pytest.raises(ValueError, match="alpha must be finite and at least 0"):
        make(kind, net, alpha=-1.0)
    if kind is Lotus:
        with pytest.raises(TypeError, match="validation must be"):
            make(kind, net, validation=net.forget.inputs)
