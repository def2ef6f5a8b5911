"""The NumPy reference against independent arithmetic: decimal, finite differences, brute force, PyTorch's SGD."""

import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from oeu_ref.integer import packing
from oeu_ref.lab.training_reference import train
from oeu_ref.reference import entropy, metrics, network, projection, quantizer
from oeu_ref.reference.network import QuantizedMLP, sgd_step
from oeu_ref.reference.unlearner import oeu_step


def batch(seed=0, width=6, classes=4):
    """Inputs and labels of a small problem."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (9, width)), rng.integers(0, classes, 9)


# --- entropy ------------------------------------------------------------------------------------------------------


def test_cross_entropy_gradient_is_the_slope_of_its_loss():
    """Central differences in every logit give the gradient by hand."""
    z, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1])
    _, grad = entropy.cross_entropy(z, labels)
    for i in np.ndindex(*z.shape):
        h = np.zeros_like(z)
        h[i] = 1e-5
        slope = (entropy.cross_entropy(z + h, labels)[0] - entropy.cross_entropy(z - h, labels)[0]) / 2e-5
        assert grad[i] == pytest.approx(slope, abs=1e-9)


def test_label_manipulation_optimum_is_where_cross_entropy_ends():
    """Theorem 4.1: descent on the cross-entropy to wrong labels ends at the one-hot prediction with KL = log K."""
    wrong, z = np.array([2, 0]), np.random.default_rng(1).normal(size=(2, 3))
    for _ in range(3000):
        z -= 20 * entropy.cross_entropy(z, wrong)[1]
    optimum = entropy.label_manipulation_optimum(wrong, 3)
    np.testing.assert_allclose(entropy.softmax(z), optimum, atol=1e-4)
    np.testing.assert_array_equal(entropy.entropy_of_probabilities(optimum), 0)
    np.testing.assert_allclose(entropy.kl_to_uniform(z), math.log(3), atol=2e-3)


def test_entropy_of_probabilities_agrees_with_entropy_of_logits():
    """Both give the same entropy, also for probabilities that underflow to exactly 0."""
    z = np.array([[0.0, 1.0, -2.0], [800.0, 0.0, -800.0]])
    np.testing.assert_allclose(entropy.entropy_of_probabilities(entropy.softmax(z)), entropy.entropy(z), atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_sure_predictions_and_logits_far_apart_give_no_warning():
    """Zeros, ones and differences beyond the largest number are right input, whatever the formula makes of them."""
    far, p = np.array([[1.7e308, -1.7e308, 0.0]]), np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert np.isfinite(entropy.log_softmax(far)).all() and entropy.entropy(far) == [0]
    np.testing.assert_allclose(entropy.entropy_of_probabilities(p), [0, math.log(2)])
    assert metrics.modified_entropy(p, [0, 2]).tolist() == [0.0, np.inf]
    assert metrics.modified_entropy(p, [2, 0])[0] == np.inf


# --- quantizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_integer_ranges(bits):
    """b bits have 2^b codes; signed ones reach one further below zero."""
    assert quantizer.integer_range(bits) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert quantizer.integer_range(bits, signed=False) == (0, 2**bits - 1)


@pytest.mark.parametrize(
    ("v", "clip", "by_rounding"),
    [
        (7.0, (1, 0.0), (1, 0.0)),
        (7.25, (0, 7.0), (1, -0.25)),
        (7.5, (0, 7.0), (0, 7.0)),  # halves round to even: 8, outside
        (-8.0, (1, 0.0), (1, 0.0)),
        (-8.5, (0, -8.0), (1, 0.5)),  # rounds to -8, inside
        (-8.75, (0, -8.0), (0, -8.0)),
        (2.25, (1, -0.25), (1, -0.25)),
        (2.5, (1, -0.5), (1, -0.5)),
    ],
)
def test_both_masks_at_chosen_points(v, clip, by_rounding):
    """Where the two conventions differ: between an end and half a step beyond it."""
    for mask, expected in (("clip", clip), ("round", by_rounding)):
        grad_x, grad_step = quantizer.fake_quantize_backward(np.ones(1), np.array([v]), 1.0, -8, 7, mask=mask)
        assert (grad_x[0], grad_step) == expected


def test_codes_and_values_are_inverse():
    """dequantize(integer_codes(x)) is the fake-quantized x, and quantizing that gives the same codes."""
    x = np.random.default_rng(0).normal(size=(5, 7))
    codes = quantizer.integer_codes(x, 0.3, -8, 7)
    values = quantizer.dequantize(codes, 0.3)
    assert codes.dtype == np.int16
    np.testing.assert_allclose(values, quantizer.fake_quantize(x, 0.3, -8, 7), rtol=1e-15)
    np.testing.assert_array_equal(quantizer.integer_codes(values, 0.3, -8, 7), codes)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.integers(1, 8), st.booleans(), st.integers(0, 40), st.integers(0, 999))
def test_packed_codes_come_back(bits, signed, size, seed):
    """Packing takes ceil(size * bits / 8) bytes and loses nothing."""
    low, high = quantizer.integer_range(bits, signed)
    codes = np.random.default_rng(seed).integers(low, high + 1, size).astype(np.int16)
    packed = packing.pack_codes(codes, bits, signed)
    assert packed.nbytes == math.ceil(size * bits / 8)
    np.testing.assert_array_equal(packing.unpack_codes(packed, bits, (size,), signed), codes)


def test_packed_bytes_of_an_example():
    """-8, 7, 0 in 4 bits are the codes 0, 15, 8 after the shift: bytes 0x0f, 0x80."""
    assert packing.pack_codes(np.array([-8, 7, 0]), 4).tolist() == [0x0F, 0x80]


def test_initial_step_and_gradient_scale_are_lsqs():
    """2 mean|x| / sqrt(Qp) and 1 / sqrt(N Qp); zeros and one signed bit are no division by zero."""
    assert quantizer.initial_step(np.array([1.0, -3.0]), 4) == 2.0
    assert quantizer.initial_step(np.zeros(3), 7) == 1.0
    assert quantizer.initial_step(np.array([1.0, -3.0]), 0) == 4.0
    assert quantizer.step_gradient_scale(25, 4) == 0.1
    assert quantizer.step_gradient_scale(4, 0) == 0.5


# --- projection ---------------------------------------------------------------------------------------------------


def digits_gradients(scale):
    """Forget and retain gradients of a small network on real digits, times a scale."""
    inputs, labels = load_digits(return_X_y=True)
    net = QuantizedMLP((64, 16, 10), 32, 32, seed=0)
    step = oeu_step(net, inputs[:50] / 16, inputs[50:200] / 16, labels[50:200], 0.1)
    return [[scale * g for g in grads.values()] for grads in (step.forget_grads, step.retain_grads)]


def test_the_additive_epsilon_leaks_by_twice_epsilon_over_the_retain_norm():
    """With g / (|g| + epsilon) about 2 epsilon / |g_r| of the retain component stays; exact division leaves none."""
    forget, retain = digits_gradients(1e-3)
    epsilon = 1e-6
    for normalization, expected in (("exact", 0.0), ("additive", 1.0)):
        result = projection.project(forget, retain, normalization=normalization, epsilon=epsilon)
        for g_perp, g_f, g_r in zip(result, forget, retain):
            leak = (g_perp * g_r).sum() / (g_f * g_r).sum()
            predicted = 2 * epsilon / np.linalg.norm(g_r)
            assert leak == pytest.approx(expected * predicted, rel=0.1, abs=1e-12)


def test_the_second_pass_is_what_keeps_nearly_parallel_gradients_orthogonal():
    """In float32 at 1 - cos = 5e-11 one pass leaves a cosine of about 1e-2; two leave rounding."""
    rng = np.random.default_rng(0)
    r = rng.normal(size=500).astype(np.float32)
    f = (r + 1e-5 * rng.normal(size=500)).astype(np.float32)
    unit_r = r / np.linalg.norm(r)
    once = f - (f @ unit_r) * unit_r
    twice = once - (once @ unit_r) * unit_r
    cosine = lambda p: abs(float(p.astype(np.float64) @ r.astype(np.float64)) / np.linalg.norm(p) / np.linalg.norm(r))
    assert cosine(once) > 1e-4 > 1e-6 > cosine(twice)
    (ours,) = projection.project([f.astype(np.float64)], [r.astype(np.float64)])
    assert cosine(ours) < 1e-14


def test_layer_ids_join_tensors_to_one_layer():
    """Tensors with the same label are projected as their concatenation; labels need not be neighbours."""
    rng = np.random.default_rng(0)
    f, r = ([rng.normal(size=shape) for shape in ((2, 3), (4,), (5,))] for _ in range(2))
    joined = projection.project(f, r, layer_ids=["a", "b", "a"])
    both = [[np.concatenate([grads[0].ravel(), grads[2]]), grads[1]] for grads in (f, r)]
    expected = projection.project(*both)
    np.testing.assert_allclose(np.concatenate([joined[0].ravel(), joined[2]]), expected[0], rtol=1e-14)
    np.testing.assert_allclose(joined[1], expected[1], rtol=1e-14)
    np.testing.assert_allclose(
        projection.cosines(f, r, layer_ids=["a", "b", "a"]), projection.cosines(*both), rtol=1e-13
    )


@pytest.mark.parametrize("scales", [(1e150, 1e150), (1e-150, 1e150), (1e-200, 1e-200), (1e200, 1e-200)])
def test_extreme_scales_neither_overflow_nor_underflow(scales):
    """Gradients whose squares leave the range of float64 are projected as their scaled copies are."""
    rng = np.random.default_rng(0)
    f, r = rng.normal(size=9), rng.normal(size=9)
    (expected,) = projection.project([f], [r], rescale="match")
    (result,) = projection.project([f * scales[0]], [r * scales[1]], rescale="match")
    np.testing.assert_allclose(result / scales[0], expected, rtol=1e-12)


# --- network ------------------------------------------------------------------------------------------------------


def test_backward_of_a_float_network_is_the_slope_of_its_loss():
    """Without quantizers, central differences in every parameter give the gradients by hand."""
    inputs, labels = batch()
    net = QuantizedMLP((6, 5, 4), 32, 32, seed=1)
    logits, cache = net.forward(inputs)
    grads = net.backward(cache, entropy.cross_entropy(logits, labels)[1])
    for name, value in net.parameters.items():
        for i in np.ndindex(*value.shape):
            losses = []
            for h in (1e-6, -1e-6):
                value[i] += h
                losses.append(entropy.cross_entropy(net.forward(inputs)[0], labels)[0])
                value[i] -= h
            assert grads[name][i] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8), (name, i)


def test_backward_of_a_quantized_network_is_autograds_with_a_detached_straight_through():
    """An independent forward in PyTorch, with the STE as detached differences, gives the same gradients and steps."""
    inputs, labels = batch()
    net = QuantizedMLP((6, 7, 5, 4), 3, 4, seed=2).calibrate(inputs)
    logits, cache = net.forward(inputs)
    grads = net.backward(cache, entropy.cross_entropy(logits, labels)[1])
    tensors = {name: torch.tensor(value).requires_grad_() for name, value in net.parameters.items()}

    def quantize(x, step, low, high, count):
        scale = 1 / math.sqrt(count * high)
        step = step * scale + (step - step * scale).detach()  # gradient times scale, value unchanged
        v = x / step
        v = torch.where(v < low, torch.full_like(v, low), torch.where(v > high, torch.full_like(v, high), v))
        return (v + (torch.round(v) - v).detach()) * step

    x = torch.tensor(inputs)
    for i in range(3):
        weight, bits_w, bits_a = tensors[f"layers.{i}.weight"], net.weight_bits[i], net.activation_bits[i]
        x_hat = quantize(x, tensors[f"layers.{i}.activation_quantizer.step"], 0, 2**bits_a - 1, x.shape[1])
        low, high = -(2 ** (bits_w - 1)), 2 ** (bits_w - 1) - 1
        w_hat = quantize(weight, tensors[f"layers.{i}.weight_quantizer.step"], low, high, weight.numel())
        z = x_hat @ w_hat.T + tensors[f"layers.{i}.bias"]
        x = torch.relu(z)
    torch.nn.functional.cross_entropy(z, torch.tensor(labels)).backward()
    np.testing.assert_allclose(z.detach(), logits, atol=1e-12)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(grads[name], tensor.grad, atol=1e-12, err_msg=name)


def test_sgd_is_pytorchs():
    """Five steps with momentum and weight decay move parameters as torch.optim.SGD does."""
    rng = np.random.default_rng(0)
    parameters = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=())}
    tensors = {name: torch.tensor(value).requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.SGD(tensors.values(), lr=0.1, momentum=0.9, weight_decay=0.01)
    velocity = None
    for _ in range(5):
        grads = {name: rng.normal(size=value.shape) for name, value in parameters.items()}
        parameters, velocity = sgd_step(parameters, grads, 0.1, 0.9, 0.01, velocity)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        optimizer.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(parameters[name], tensor.detach(), atol=1e-14)


def test_training_on_digits_learns_and_repeats():
    """A 4-bit network reaches 95 % of 1,000 training digits in 8 epochs, bit for bit the same in a second run."""
    inputs, labels = load_digits(return_X_y=True)
    inputs, labels = inputs[:1000] / 16, labels[:1000]
    nets = [QuantizedMLP((64, 48, 10), seed=3) for _ in range(2)]
    losses = [train(net, inputs, labels, epochs=8, seed=5) for net in nets]
    assert losses[0] == losses[1] and losses[0][-1] < 0.2 * losses[0][0]
    assert metrics.accuracy(nets[0].probabilities(inputs), labels) > 95
    for name in nets[0].parameters:
        np.testing.assert_array_equal(nets[0].parameters[name], nets[1].parameters[name])


def test_first_weights_are_he_normal_and_first_biases_uniform_of_both_signs():
    """Mean and spread of each layer lie within five standard errors of sqrt(2 / in) and of [-1, 1] / sqrt(in)."""
    net = QuantizedMLP((400, 500, 300), seed=0)
    for i, fan_in in enumerate((400, 500)):
        weight, bias = net.parameters[f"layers.{i}.weight"], net.parameters[f"layers.{i}.bias"] * math.sqrt(fan_in)
        assert abs(weight.mean()) < 5 * math.sqrt(2 / fan_in / weight.size)
        assert weight.std() == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * weight.size))
        assert abs(bias).max() <= 1 and bias.min() < -0.95 and bias.max() > 0.95
        assert abs(bias.mean()) < 5 / math.sqrt(3 * bias.size)
    other = QuantizedMLP((400, 500, 300), seed=1)
    assert not np.array_equal(net.parameters["layers.0.weight"], other.parameters["layers.0.weight"])


def test_training_is_plain_sgd_with_a_rate_that_falls_to_zero():
    """Batches of one epoch hold each sample once; its loss is the mean over samples, also where the last batch is
    smaller; weights are those of `sgd_step` with rates that fall in equal steps from the first to 1/steps of it."""
    inputs, labels = batch()
    net, twin = (QuantizedMLP((6, 4), 32, 32, seed=0) for _ in range(2))
    losses = train(net, inputs, labels, 2, batch_size=9, learning_rate=0.5, momentum=0.8, weight_decay=0.1, seed=3)
    velocity, expected = None, []
    for step in range(2):
        logits, cache = twin.forward(inputs)
        loss, grad = entropy.cross_entropy(logits, labels)
        grads, rate = twin.backward(cache, grad), 0.5 * (1 - step / 2)
        twin.parameters, velocity = sgd_step(twin.parameters, grads, rate, 0.8, 0.1, velocity)
        expected.append(loss)
    assert losses == pytest.approx(expected, rel=1e-12)
    for name, value in twin.parameters.items():
        np.testing.assert_allclose(net.parameters[name], value, atol=1e-13)
    still = QuantizedMLP((6, 4), 32, 32, seed=0)
    everything = entropy.cross_entropy(still.forward(inputs)[0], labels)[0]
    losses = train(still, inputs, labels, 2, batch_size=4, learning_rate=1e-15, weight_decay=0.0)
    assert losses == pytest.approx([everything] * 2, rel=1e-9)


@pytest.mark.parametrize("layer", ["module", "tensor"])
def test_every_intermediate_of_a_step_is_what_its_name_says(layer):
    """The fields of OEUStep follow from each other by the definitions, and the network itself is left alone."""
    inputs, labels = batch()
    net = QuantizedMLP((6, 7, 4), seed=0).calibrate(inputs)
    before = {name: value.copy() for name, value in net.parameters.items()}
    step = oeu_step(net, inputs[:4], inputs[4:], labels[4:], 0.1, beta=0.5, layer=layer, weight_decay=0.01)
    for name, value in before.items():
        np.testing.assert_array_equal(net.parameters[name], value)
    np.testing.assert_array_equal(step.forget_logits, net.forward(inputs[:4])[0])
    np.testing.assert_allclose(step.retain_probabilities.sum(axis=1), 1)
    assert step.forget_loss == pytest.approx(-step.forget_entropy.mean())
    assert step.retain_loss == pytest.approx(-np.log(step.retain_probabilities[range(5), labels[4:]]).mean())
    ids = net.layer_ids if layer == "module" else list(net.parameters)
    assert list(step.cosines) == list(step.residuals) == list(dict.fromkeys(ids))
    for label in step.cosines:
        members = [name for name, owner in zip(net.parameters, ids) if owner == label]
        g_f, g_r, g_perp = (
            np.concatenate([grads[name].ravel() for name in members])
            for grads in (step.forget_grads, step.retain_grads, step.projected_grads)
        )
        assert step.cosines[label] == pytest.approx(g_f @ g_r / np.linalg.norm(g_f) / np.linalg.norm(g_r), abs=1e-12)
        np.testing.assert_allclose(g_perp, projection.project_vector(g_f, g_r), atol=1e-12)
        assert abs(step.residuals[label]) < 1e-10
    for name in before:
        np.testing.assert_allclose(step.direction[name], step.retain_grads[name] + 0.5 * step.projected_grads[name])
        moved = before[name] - 0.1 * (step.direction[name] + 0.01 * before[name])
        np.testing.assert_allclose(step.parameters[name], moved, atol=1e-15)


def test_negative_steps_count_by_their_magnitude():
    """A step that training pushed below zero quantizes as its magnitude does; its gradient changes sign."""
    inputs, labels = batch()
    net = QuantizedMLP((6, 4), seed=0).calibrate(inputs)
    name = "layers.0.weight_quantizer.step"
    results = []
    for sign in (1, -1):
        net.parameters[name] = np.array(sign * abs(net.parameters[name]))
        logits, cache = net.forward(inputs)
        results.append((logits, net.backward(cache, entropy.cross_entropy(logits, labels)[1])[name]))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == -results[1][1] != 0


def test_the_range_of_the_first_layer_follows_its_inputs():
    """Inputs with negative values get a signed range; all later inputs come from a ReLU and are unsigned."""
    inputs, _ = batch()
    assert network.QuantizedMLP((6, 5, 4)).calibrate(inputs).signed_inputs is False
    assert network.QuantizedMLP((6, 5, 4)).calibrate(inputs - 0.5).signed_inputs is True


# --- metrics ------------------------------------------------------------------------------------------------------


def probabilities(seed, n, classes=3):
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), n)
    return p, np.random.default_rng(seed + 100).integers(0, classes, n)


def test_accuracy_counts_hits_in_percent():
    """Three of four right is 75."""
    p = np.eye(2)[[0, 1, 1, 0]] * 0.8 + 0.1
    assert metrics.accuracy(p, np.array([0, 1, 1, 1])) == 75.0


def test_modified_entropy_is_the_formula_of_song_and_mittal():
    """Row by row and class by class, as the paper writes it; each row has its own label."""
    p = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    labels = np.arange(30) % 4
    for row, label, value in zip(p, labels, metrics.modified_entropy(p, labels)):
        expected = -(1 - row[label]) * math.log(row[label])
        expected -= sum(row[k] * math.log(1 - row[k]) for k in range(4) if k != label)
        assert value == pytest.approx(expected, rel=1e-12)


def test_modified_entropy_tells_a_sure_right_prediction_from_a_sure_wrong_one():
    """Plain entropy is 0 for both."""
    p = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.modified_entropy(p, [0, 1]).tolist() == [0.0, np.inf]


def test_the_threshold_attack_is_the_best_of_all_thresholds():
    """No threshold separates members from non-members better, and targets are judged by it."""
    rng = np.random.default_rng(0)
    members, others, targets = rng.beta(5, 1, 40).round(2), rng.beta(2, 2, 25).round(2), rng.random(30)
    called = metrics.threshold_attack(members, others, targets)
    values = np.append(np.unique(np.concatenate([members, others])), np.inf)
    scores = [(members >= t).mean() + (others < t).mean() for t in values]
    best = values[int(np.argmax(scores))]
    np.testing.assert_array_equal(called, targets < best)
    assert 0 < called.sum() < 30


def test_a_confidence_that_reaches_the_threshold_is_a_members():
    """Where no threshold tells members from others the lowest is taken, and what is above it or on it is a member."""
    assert metrics.threshold_attack([0.5], [0.5], [0.9]).tolist() == [False]
    assert metrics.threshold_attack([0.5], [0.5], [0.4, 0.5]).tolist() == [True, False]
    assert metrics.threshold_attack([0.7, 0.9], [0.1, 0.2], [0.7, 0.69, 0.2]).tolist() == [False, True, True]


def test_membership_inference_uses_the_attack_it_is_given():
    """MIA is the share that the attack calls non-members, from the confidence in each sample's label."""
    seen = {}

    def attack(members, others, targets):
        seen.update(members=members, others=others, targets=targets)
        return targets < 0.5

    retain, test, forget = (probabilities(seed, n) for seed, n in ((0, 20), (1, 10), (2, 8)))
    value = metrics.membership_inference(retain, test, forget, attack)
    np.testing.assert_array_equal(seen["targets"], forget[0][np.arange(8), forget[1]])
    assert value == 100 * (seen["targets"] < 0.5).mean()
    assert len(seen["members"]) == 20 and len(seen["others"]) == 10


def test_auc_is_scikit_learns():
    """Also with ties."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 10, 50) / 10, rng.integers(3, 14, 70) / 10
    expected = 100 * roc_auc_score([1] * 50 + [0] * 70, np.concatenate([a, b]))
    assert metrics.auc(a, b) == pytest.approx(expected, abs=1e-10)


def test_forget_vs_test_auc_tells_over_forgetting_from_remembering():
    """Uniform forget predictions give 100, certain ones 0, equally distributed ones 50."""
    sure, flat = np.array([[0.99, 0.01]] * 4), np.array([[0.5, 0.5]] * 6)
    middle = np.array([[0.8, 0.2]] * 5)
    assert metrics.forget_vs_test_auc(flat, middle) == 100
    assert metrics.forget_vs_test_auc(sure, middle) == 0
    assert metrics.forget_vs_test_auc(middle, middle) == 50


def test_average_gap_is_the_mean_of_four_absolute_gaps():
    """Signs do not cancel, and other metrics do not count."""
    mine = {"FA": 70.0, "RA": 98.0, "TA": 90.0, "MIA": 20.0, "forget_vs_test_auc": 99.0}
    retrain = {"FA": 66.0, "RA": 99.0, "TA": 93.0, "MIA": 28.0, "forget_vs_test_auc": 50.0}
    assert metrics.average_gap(mine, retrain) == (4 + 1 + 3 + 8) / 4


def test_unlearning_metrics_are_those_of_their_parts():
    """FA is about the forget set, RA the retain set, TA the test set."""
    retain, test, forget = (probabilities(seed, n) for seed, n in ((0, 20), (1, 10), (2, 8)))
    result = metrics.unlearning_metrics(retain, test, forget)
    assert result["FA"] == metrics.accuracy(*forget) and result["RA"] == metrics.accuracy(*retain)
    assert result["TA"] == metrics.accuracy(*test)
    assert result["MIA"] == metrics.membership_inference(retain, test, forget)
    assert result["forget_vs_test_auc"] == metrics.forget_vs_test_auc(forget[0], test[0])


@pytest.mark.parametrize(("bits", "initial"), [("binary", 1.0), (4, 2 / 7**0.5), (1, 2.0), ("ternary", 2.0)])
def test_a_networks_steps_start_where_training_of_their_quantizers_does(bits, initial):
    """mean|w| for signs, LSQ's 2 mean|w| / sqrt(Qp) for every other width; of activations likewise."""
    inputs = np.linspace(-1, 2, 24).reshape(4, 6)
    mlp = network.QuantizedMLP((6, 5, 3), bits, bits, first_last_bits=bits).calibrate(inputs)
    for i in range(2):
        mean = np.abs(mlp.parameters[f"layers.{i}.weight"]).mean()
        assert mlp.parameters[f"layers.{i}.weight_quantizer.step"] == pytest.approx(initial * mean)
    assert mlp.parameters["layers.0.activation_quantizer.step"] == pytest.approx(initial * np.abs(inputs).mean())
