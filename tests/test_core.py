"""The core's quantizer, layers, models and projection, beside PyTorch's own operations and the reference."""

import copy
import io
import math
import warnings

import hypothesis
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import strategies as st
from torch import nn

from oeu_ref.core import (
    QuantConv2d,
    Quantizer,
    QuantLinear,
    QuantMLP,
    contract,
    fake_quantize,
    projection,
    quantize_model,
    quantizer,
)
from oeu_ref.reference import projection as reference_projection
from oeu_ref.reference import quantizer as reference_quantizer
from oeu_ref.reference.network import QuantizedMLP
from oeu_ref.tensors.layers import Layers, _sums_at_once

# --- against PyTorch's own fake-quantize operations ---------------------------------------------------------------

BAND = torch.tensor([-9.0, -8.75, -8.5, -8.25, -8.0, -3.3, 0.2, 6.9, 7.0, 7.25, 7.5, 7.75, 9.0])


def gradients(operation, x, step):
    """Value, gradient of x and gradient of the step, for an outer gradient that is different everywhere."""
    x, step = x.clone().requires_grad_(), step.clone().requires_grad_()
    x_hat = operation(x, step)
    grads = torch.autograd.grad(x_hat, (x, step), torch.linspace(0.5, 2, x.numel()), allow_unused=True)
    return x_hat.detach(), *grads


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_round_mask_is_that_of_pytorchs_learnable_fake_quantize(scale):
    """Value and both gradients equal torch._fake_quantize_learnable_per_tensor_affine, everywhere."""
    zero_point = torch.zeros(1)
    theirs = lambda x, s: torch._fake_quantize_learnable_per_tensor_affine(x, s.reshape(1), zero_point, -8, 7, 1.0)
    ours = lambda x, s: fake_quantize(x, s, -8, 7, mask="round")
    for a, b in zip(
        gradients(ours, BAND * scale, torch.tensor(scale)), gradients(theirs, BAND * scale, torch.tensor(scale))
    ):
        torch.testing.assert_close(a, b)


def test_clip_mask_differs_from_pytorch_only_in_the_half_step_band():
    """Between an end and half a step beyond it PyTorch's gradient passes and ours does not; elsewhere they agree."""
    theirs = lambda x, s: torch.fake_quantize_per_tensor_affine(x, 1.0, 0, -8, 7)
    x_hat, ours, _ = gradients(lambda x, s: fake_quantize(x, s, -8, 7), BAND, torch.tensor(1.0))
    expected, passed, _ = gradients(theirs, BAND, torch.tensor(1.0))
    torch.testing.assert_close(x_hat, expected)
    assert BAND[ours != passed].tolist() == [-8.5, -8.25, 7.25]  # 7.5 rounds to 8, -8.5 to -8: halves to even


# --- quantizer module ---------------------------------------------------------------------------------------------


def test_the_first_batch_sets_step_and_sign():
    """Step as LSQ starts it; a signed range where a value is negative; later batches change neither."""
    for batch, expected in ((torch.rand(8, 5), (0, 15)), (torch.randn(8, 5), (-8, 7))):
        q = Quantizer(4, signed=None)
        assert q.range is None
        q(batch)
        assert q.range == expected
        assert q.step.item() == pytest.approx(2 * batch.abs().mean().item() / math.sqrt(expected[1]))
        before = q.step.item()
        q(-10 * batch)
        assert q.step.item() == before and q.range == expected


def test_one_negative_value_makes_the_range_signed_and_zeros_do_not():
    """What comes out of a ReLU is full of zeros, of both signs even, and takes no negative codes."""
    for batch, signed in (([0.0, -0.0, 2.0], False), ([-1e-3, 2.0], True), ([-3.0, -1.0], True)):
        q = Quantizer(4, signed=None)
        q(torch.tensor(batch))
        assert q.range == ((-8, 7) if signed else (0, 15))


def test_what_is_set_by_hand_counts_from_the_next_batch_on():
    """Step and sign, before the first batch and after one that had set others."""
    x = torch.tensor([-0.9, 0.6, 30.0])
    for seen in (False, True):
        q = Quantizer(4)
        if seen:
            q(x)
        q.set(0.5, False)
        assert q(x).tolist() == [0.0, 0.5, 7.5] and q.codes(x).tolist() == [0, 1, 15]
        q.set(-0.5, True)
        assert q(x).tolist() == [-1.0, 0.5, 3.5] and q.codes(x).tolist() == [-2, 1, 7]


@pytest.mark.parametrize("bits", [4, "binary"])
@pytest.mark.parametrize(
    "dummy", [torch.zeros(1, 5), torch.full((1, 5), 255.0), -torch.ones(2, 5)], ids=["0", "255", "-1"]
)
def test_a_look_in_eval_mode_decides_nothing(bits, dummy):
    """Each batch is quantized as if it were the first; the first in train mode decides, and eval mode keeps it."""
    fresh, q, x = Quantizer(bits, None), Quantizer(bits, None), torch.rand(8, 5)
    q.eval()
    for batch in (dummy, dummy * 3 + 1, x):
        torch.testing.assert_close(q(batch), Quantizer(bits, None).train()(batch))
        assert q.range is None and q.step.item() == 1 and q.unread and not q.initialized
    q.train()
    assert torch.equal(q(x), fresh(x)) and q.step.item() == fresh.step.item() and q.range == fresh.range
    q.eval()(dummy)
    assert q.step.item() == fresh.step.item()


@pytest.mark.parametrize("bits", [1, 4, "binary"])
def test_zeros_decide_nothing(bits):
    """A batch of zeros stays zeros (or their sign), and the next one decides; a layer that starts at zero learns."""
    q, x = Quantizer(bits, None), torch.rand(8, 5)
    q(torch.zeros(8, 5))
    assert q.range is None and q.step.item() == 1
    q(x)
    fresh = Quantizer(bits, None)
    fresh(x)
    assert q.range == fresh.range is not None and q.step.item() == fresh.step.item()
    layer = QuantLinear(5, 3, weight_bits=4, activation_bits=4)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(x).sum().backward()
    assert layer.weight_quantizer.unread and layer.weight_quantizer.step.item() == 1
    optimizer.step()
    layer(x)
    assert layer.weight.abs().min() > 0 and not layer.weight_quantizer.unread
    assert layer.weight_quantizer.step.item() == quantizer.initial_step(layer.weight.detach(), 7).item()


def test_reset_has_step_and_sign_found_anew():
    """As by a fresh quantizer; a sign that was given stays."""
    for signed, ranges in ((None, [(0, 15), (-8, 7)]), (True, [(-8, 7), (-8, 7)]), (False, [(0, 15), (0, 15)])):
        q = Quantizer(4, signed)
        for batch, codes in zip((torch.rand(40), 7 * torch.randn(40)), ranges):
            q.reset()
            assert q.range is None and q.unread
            q(batch)
            fresh = Quantizer(4, signed)
            fresh(batch)
            assert q.range == fresh.range == codes and q.step.item() == fresh.step.item()


def warned(q, batches):
    """At which of the batches a quantizer warns."""
    found = []
    for i, batch in enumerate(batches, 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            q(batch)
        found += [i] * len(caught)
        assert all("clips negative inputs to 0" in str(w.message) and "reset()" in str(w.message) for w in caught)
    return found


def test_a_negative_value_that_is_clipped_is_told_once():
    """Where the first batch decided for unsigned codes; batches 1, 2, 4, 8, ... are looked at, in both modes."""
    good, bad = torch.rand(8, 5), torch.rand(8, 5) - 0.1
    assert warned(Quantizer(4, None), [good] * 9) == []
    assert warned(Quantizer(4, None), [good, bad, bad, bad]) == [2]
    assert warned(Quantizer(4, None), [good] * 2 + [bad] + [good] * 4 + [bad] * 9) == [8]
    assert warned(Quantizer(4, None), [bad, good, bad, bad]) == []  # signed
    assert warned(Quantizer(4, False), [good, bad, bad, bad]) == []  # as asked for
    q = Quantizer(4, None)
    q(good)
    assert warned(q.eval(), [bad]) == [1]
    q.reset()
    q.train()(good)
    assert warned(q, [bad]) == [1]


def test_state_travels_through_a_checkpoint_with_weights_only():
    """Steps, signs and the fact that they are set survive torch.save, weights_only loading and a fresh model; also
    into a model that has already seen another batch."""
    torch.manual_seed(0)
    model, inputs = QuantMLP((6, 8, 4), batch_norm=True), torch.randn(9, 6)
    expected = model(inputs), model.eval()(inputs)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for other_inputs in (None, torch.rand(9, 6)):
        fresh = QuantMLP((6, 8, 4), batch_norm=True)
        if other_inputs is not None:
            fresh(other_inputs)
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh.eval()(inputs), expected[1])
        assert fresh.layers[0].activation_quantizer.range == (-128, 127)


def test_copies_and_dtypes():
    """deepcopy is independent; .double() computes in float64; bfloat16 inputs come back as bfloat16."""
    q = Quantizer(8, signed=True)
    x = torch.randn(100)
    q(x)
    twin = copy.deepcopy(q)
    twin.set(1.0, False)
    assert q.range == (-128, 127) and twin.range == (0, 255)
    assert q.double()(x.double()).dtype == torch.float64
    assert Quantizer(8)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits", [8, "binary"])
@pytest.mark.parametrize("step", ["float", "tensor"])
def test_halves_are_quantized_in_float32(dtype, bits, step):
    """Values, codes and gradients are those of the same numbers in float32, rounded once, at the end: in halves 8 bits
    of codes would not be whole numbers of steps."""
    torch.manual_seed(0)
    q = Quantizer(bits)
    q.set(0.0371, True)
    call = lambda x: q(x)
    if step == "float":
        two_signs = bits == "binary"
        call = lambda x: quantizer.binarize(x, 0.0371) if two_signs else quantizer.fake_quantize(x, 0.0371, -128, 127)
    x, grad = (3 * torch.randn(400)).to(dtype), torch.randn(400).to(dtype)
    found = []
    for values in (x, x.float()):
        values.requires_grad_()
        x_hat = call(values)
        wanted = [values, *([q.step] if step == "tensor" else [])]
        found.append([x_hat.detach(), *torch.autograd.grad(x_hat, wanted, grad.to(x_hat.dtype)), q.codes(values)])
    assert found[0][0].dtype == dtype
    for half, single in zip(*found):
        assert torch.equal(half, single.to(half.dtype))


def test_a_negative_step_counts_by_its_magnitude():
    """Values are those of the positive step; the gradient of the step changes sign."""
    x = torch.linspace(-3, 3, 50)
    results = []
    for sign in (1, -1):
        q = Quantizer(4)
        q.set(0.3, True)
        with torch.no_grad():
            q.step.mul_(sign)
        x_hat = q(x)
        x_hat.sum().backward()
        results.append((x_hat.detach(), q.step.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == -results[1][1] != 0


def test_a_step_of_exactly_zero_stays_finite():
    """No division by zero: the output is finite, and so are the gradients."""
    q = Quantizer(4)
    q.set(1.0, True)
    with torch.no_grad():
        q.step.zero_()
    x = torch.randn(20, requires_grad=True)
    x_hat = q(x)
    x_hat.sum().backward()
    assert x_hat.isfinite().all() and x.grad.isfinite().all() and q.step.grad.isfinite()


# --- layers and models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "groups": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"dilation": 2, "bias": False},
        {"padding": "same", "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_a_quantized_convolution_is_the_convolution_of_quantized_tensors(options):
    """Whatever the options of nn.Conv2d, the layer convolves the quantized input with the quantized weight."""
    torch.manual_seed(0)
    layer, x = QuantConv2d(4, 6, 3, **options), torch.rand(2, 4, 9, 9)
    output = layer(x)
    plain = nn.Conv2d(4, 6, 3, **options)
    x_hat, w_hat = layer.quantized(x)
    with torch.no_grad():
        plain.weight.copy_(w_hat)
        if plain.bias is not None:
            plain.bias.copy_(layer.bias)
    torch.testing.assert_close(output, plain(x_hat))
    assert w_hat.unique().numel() <= 16 and x_hat.unique().numel() <= 16


def test_gradients_reach_inputs_weights_biases_and_steps():
    """Every parameter of a quantized layer learns, and the gradient goes on to the input."""
    torch.manual_seed(0)
    layer, x = QuantLinear(7, 5), torch.rand(9, 7, requires_grad=True)
    layer(x).square().sum().backward()
    assert len(list(layer.parameters())) == 4
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("mask", ["clip", "round"])
def test_both_quantizers_of_a_layer_are_what_it_was_told(mask):
    """Mask and bits reach them, weights are signed and scaled as a whole, activations decide their sign and are scaled
    by the sample, and steps have the layer's dtype; also where a model is quantized, of one layer or of several."""
    options, double = {"weight_bits": 3, "activation_bits": 5, "mask": mask}, {"dtype": torch.float64}
    plain = nn.Sequential(nn.Conv2d(2, 3, 1, **double), nn.Flatten(), nn.Linear(12, 6, **double))
    layers = [QuantLinear(3, 2, **options, **double), QuantConv2d(2, 3, 1, **options, **double)]
    for model in (plain, plain[0]):
        found = quantize_model(model, **options, first_last_bits=4).modules()
        layers += [m for m in found if isinstance(m, (QuantLinear, QuantConv2d))]
    assert len(layers) == 5
    for i, layer in enumerate(layers):
        weight, activation = layer.weight_quantizer, layer.activation_quantizer
        assert (weight.mask, weight.bits, weight.per_sample, weight.decides_sign) == (
            mask,
            4 if i > 1 else 3,
            False,
            False,
        )
        assert (activation.mask, activation.bits) == (mask, 4 if i > 1 else 5)
        assert activation.per_sample and activation.decides_sign and bool(weight.signed)
        assert weight.step.dtype == activation.step.dtype == layer.weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_quantize_model_takes_every_layer_and_nothing_else(name):
    """All Conv2d and Linear layers, shortcuts too, are quantized in a copy; ends have 8 bits; the original stays."""
    torch.manual_seed(0)
    original = getattr(torchvision.models, name)(num_classes=10)
    model = quantize_model(original, weight_bits=3, activation_bits=5)
    wanted = [n for n, m in original.named_modules() if type(m) in (nn.Conv2d, nn.Linear)]
    found = {n: m for n, m in model.named_modules() if isinstance(m, (QuantConv2d, QuantLinear))}
    assert list(found) == wanted and not any(hasattr(m, "weight_quantizer") for m in original.modules())
    if name == "resnet18":
        assert "layer2.0.downsample.0" in found
    bits = [(m.weight_quantizer.bits, m.activation_quantizer.bits) for m in found.values()]
    assert bits[0] == bits[-1] == (8, 8) and set(bits[1:-1]) == {(3, 5)}
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_32_bits_are_the_float_model():
    """With quantization off the copy computes what the original does, to the bit."""
    torch.manual_seed(0)
    original = torchvision.models.resnet18(num_classes=10).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(quantize_model(original, 32, 32).eval()(images), original(images))


def test_8_bits_are_close_to_the_float_model_and_2_bits_are_not():
    """Quantization error falls with the bits."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.rand(50, 20)
    errors = [(quantize_model(original, b, b)(inputs) - original(inputs)).abs().mean().item() for b in (8, 4, 2)]
    assert errors[0] < 0.5 * errors[1] < 0.5 * errors[2]


def test_a_single_layer_can_be_quantized():
    """The model may be the layer itself."""
    layer = nn.Linear(4, 3)
    assert isinstance(quantize_model(layer), QuantLinear) and type(layer) is nn.Linear


def test_load_reference_takes_over_all_parameters():
    """Names, values and ranges are those of the NumPy network."""
    network = QuantizedMLP((6, 5, 4), 4, 8, seed=3).calibrate(np.random.default_rng(0).normal(size=(9, 6)))
    model = QuantMLP((6, 5, 4), 4, 8).double().load_reference(network)
    assert [name for name, _ in model.named_parameters()] == list(network.parameters)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.detach(), network.parameters[name])
    assert model.layers[0].activation_quantizer.range == (-128, 127)
    assert model.layers[1].activation_quantizer.range == (0, 255)


# --- projection ---------------------------------------------------------------------------------------------------


@hypothesis.settings(deadline=None, max_examples=80, database=None)
@hypothesis.seed(0)
@hypothesis.given(
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["undo", "match"]),
    st.sampled_from(["exact", "additive"]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, (0, 1, 0, 2), ("a", "b", "b", "a")]),
    st.integers(0, 999),
)
def test_core_and_reference_project_alike(granularity, rescale, normalization, alpha, layer_ids, seed):
    """Every combination of options, layer labels included, gives the reference's result to rounding."""
    rng = np.random.default_rng(seed)
    shapes = ((3, 4), (5,), (), (2, 2, 2))
    f, r = ([rng.normal(size=s) * 10.0 ** rng.integers(-3, 4) for s in shapes] for _ in range(2))
    options = dict(
        alpha=alpha,
        granularity=granularity,
        rescale=rescale,
        normalization=normalization,
        epsilon=1e-3,
        layer_ids=layer_ids,
    )
    expected = reference_projection.project(f, r, **options)
    result = projection.project([torch.tensor(g) for g in f], [torch.tensor(g) for g in r], **options)
    size = max(np.abs(g).max() for g in f)
    for a, b, g in zip(expected, result, f):
        allowed = 1e-12 * (size if granularity == "global" or layer_ids else np.abs(g).max())
        np.testing.assert_allclose(b.numpy(), a, atol=allowed * (100 if rescale == "match" else 1))
    np.testing.assert_allclose(
        projection.cosines([torch.tensor(g) for g in f], [torch.tensor(g) for g in r], granularity, layer_ids),
        reference_projection.cosines(f, r, granularity, layer_ids),
        atol=1e-12,
    )


@pytest.mark.parametrize("scales", [(1e30, 1e30), (1e-30, 1e30), (1e30, 1e-30), (1e-30, 1e-30)])
@pytest.mark.parametrize("rescale", ["undo", "match"])
def test_float32_scales_whose_squares_overflow(scales, rescale):
    """Norms are taken without squaring numbers that float32 cannot square."""
    torch.manual_seed(0)
    f, r = torch.randn(50), torch.randn(50)
    (expected,) = projection.project([f], [r], rescale=rescale)
    (result,) = projection.project([f * scales[0]], [r * scales[1]], rescale=rescale)
    torch.testing.assert_close(result / scales[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"rescale": "match"}, {"normalization": "additive", "epsilon": 0.1}], ids=str)
def test_half_precision_is_summed_in_float32(dtype, options):
    """Gradients in halves give the float32 result, rounded once, at the end; so do their cosines."""
    torch.manual_seed(0)
    f, r = torch.randn(2000).to(dtype), torch.randn(2000).to(dtype)
    (result,) = projection.project([f], [r], **options)
    (wide,) = projection.project([f.float()], [r.float()], **options)
    assert result.dtype == dtype and torch.equal(result, wide.to(dtype))
    assert torch.equal(projection.cosines([f], [r]), projection.cosines([f.float()], [r.float()]))
    layers = Layers(None, [f])
    assert torch.equal(projection.projected([f], [r], layers, **options)[0], result)
    assert torch.equal(
        projection.project([f], [r.float()], **options)[0], result
    )  # a list of halves beside one of floats


def test_layers_are_measured_where_their_tensors_are():
    """And the cosine of a gradient that is not finite is NaN, since to refuse it would wait for the device."""
    assert Layers(None, [torch.empty(3, device="meta")]).ids.device.type == "meta"
    for bad in (torch.inf, torch.nan):
        grads = [torch.tensor([1.0, 2.0])], [torch.tensor([bad, 1.0])]
        assert projection.cosines(*grads).isnan() and projection.cosines(*grads[::-1]).isnan()


@pytest.mark.parametrize("dtype, threshold", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("rescale", ["undo", "match"])
def test_what_is_left_of_collinear_gradients_is_zero_below_the_threshold_and_only_there(dtype, threshold, rescale):
    """A component across the retain direction of 1.5 thresholds is a direction, and one of 0.7 is rounding noise; the
    reference draws the line of float64 alike."""
    for share in (0.7, 1.5):
        left = share * threshold * 10  # of a norm of 10, that of a hundred ones
        f, r = (torch.tensor([1.0] * 100 + [last], dtype=dtype) for last in (left, 0.0))
        expected = torch.zeros(101, dtype=dtype)
        if share > 1:
            expected[-1] = left if rescale == "undo" else 10.0
        projections = [projection.project([f], [2 * r], rescale=rescale)[0]]
        if dtype == torch.float64:
            projections.append(torch.tensor(reference_projection.project([f.numpy()], [r.numpy()], rescale=rescale)[0]))
        for found in projections:
            torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-3 * expected[-1].item())


def test_cosines_of_collinear_gradients_do_not_leave_minus_one_and_one():
    """Products of unit vectors do, by rounding, in about one case of four."""
    rng = np.random.default_rng(0)
    for length in range(2, 100):
        g = rng.normal(size=length)
        for sign in (1, -1):
            (theirs,) = reference_projection.cosines([g], [sign * g])
            (mine,) = projection.cosines([torch.tensor(g)], [torch.tensor(sign * g)])
            assert 1 - 1e-14 < sign * theirs <= 1 and 1 - 1e-14 < sign * mine <= 1


@pytest.mark.parametrize("piece", [1, 4, 1 << 15])
def test_norms_do_not_depend_on_the_pieces_in_which_they_are_summed(monkeypatch, piece):
    """Tensors that are one piece, several and a part of one, that share a layer, and that are no contiguous memory."""
    monkeypatch.setattr("oeu_ref.tensors.layers.PIECE", piece)
    torch.manual_seed(0)
    tensors = [torch.randn(s).double() for s in ((3, 5), (4,), (), (0,), (2, 3, 3))]
    tensors[0] = tensors[0].t()
    layers = Layers(["a", "b", "a", "b", "c"], tensors)
    of_layer = [torch.cat([tensors[i].flatten() for i in at]) for at in ((0, 2), (1, 3), (4,))]
    for norms in (layers.norms(tensors), layers.plain_norms(tensors)):
        torch.testing.assert_close(norms, torch.stack([t.norm() for t in of_layer]), rtol=1e-13, atol=0)


def test_memory_layout_and_empty_tensors_make_no_difference():
    """Channels-last and transposed gradients, and tensors without elements, are projected by their logical order."""
    torch.manual_seed(0)
    f = [torch.randn(2, 3, 4, 4), torch.randn(5, 6), torch.zeros(0, 3), torch.randn(())]
    r = [torch.randn_like(g) for g in f]
    expected = projection.project(f, r, 1.0, "global")
    moved = [f[0].to(memory_format=torch.channels_last), f[1].t().contiguous().t(), f[2], f[3]]
    for a, b in zip(expected, projection.project(moved, r, 1.0, "global")):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mask", ["clip", "round"])
def test_a_quantizer_leaves_channels_where_they_are(mask):
    """Output and gradient of an input whose channels come last have its memory format: no layer behind it converts."""
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    x_hat = quantizer.fake_quantize(x, torch.tensor(0.3), -8, 7, mask=mask)
    (grad,) = torch.autograd.grad(x_hat, x, torch.randn_like(x_hat))
    assert x_hat.stride() == grad.stride() == x.stride()


def test_the_contract_on_a_gpu_is_there_for_who_asks_and_nothing_else_is():
    """Made when asked for, so that the file can be imported where there is none."""
    for name, dtype in (("cuda", "float32"), ("cuda_float64", "float64")):
        found = getattr(contract, name)
        assert (found.DTYPE, found.device.type, found.QUANTIZER_MASK) == (dtype, "cuda", "clip")
    with pytest.raises(AttributeError, match="no attribute 'tpu'"):
        contract.tpu  # noqa: B018


def test_integer_codes_are_the_references():
    """Codes, their inverse and the initial step agree with NumPy's."""
    from oeu_ref.reference import quantizer as reference_quantizer

    x = np.random.default_rng(0).normal(size=(40,))
    codes = quantizer.integer_codes(torch.tensor(x), 0.3, -8, 7)
    np.testing.assert_array_equal(codes, reference_quantizer.integer_codes(x, 0.3, -8, 7))
    np.testing.assert_allclose(
        quantizer.dequantize(codes, 0.3), reference_quantizer.dequantize(codes.numpy(), 0.3), rtol=1e-6
    )
    assert quantizer.initial_step(torch.tensor(x), 7).item() == pytest.approx(reference_quantizer.initial_step(x, 7))
    assert quantizer.initial_step(torch.zeros(3), 7) == 1.0


def test_sums_made_at_once_are_those_made_one_by_one():
    """What a GPU adds up by two norms is what a CPU adds up tensor by tensor, of no, infinite and NaN elements too."""
    generator = torch.Generator().manual_seed(0)
    products = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((), (0,), (3, 4), (1000,))]
    products += [torch.tensor(pair, dtype=torch.float64) for pair in ((1.0, math.inf), (1e300, -1e300))]
    expected = torch.stack([p.sum() for p in products])
    size = torch.stack([p.abs().sum() for p in products]).clamp_max(1e300)
    found = _sums_at_once([p.clone() for p in products])
    assert (found == expected).logical_or((found - expected).abs() <= 1e-15 * size).all()
    assert _sums_at_once([torch.tensor([torch.inf, -torch.inf]), torch.tensor([torch.nan])]).isnan().all()


@pytest.mark.parametrize("per_sample, shape", [(True, (0, 3)), (True, (2, 0)), (False, (0,))])
def test_a_quantizer_hands_an_empty_batch_on(per_sample, shape):
    quantizer = Quantizer(4, per_sample=per_sample)
    quantizer.set(0.5, signed=True)
    assert quantizer(torch.empty(shape)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_quantizer_has_the_gradients_of_the_plain_one(dtype):
    """Older PyTorch compiles some functions without their gradient, and says nothing."""
    x, step, grad_out = torch.linspace(-3, 3, 64), torch.tensor(0.3), torch.linspace(-1, 2, 64, dtype=dtype)

    def gradients_of(function):
        of = x.to(dtype).requires_grad_(), step.clone().requires_grad_()
        return torch.autograd.grad(function(*of), of, grad_out)

    def plain(x, step):
        return quantizer._FakeQuantize.apply(x, step, -8, 7, 0.1, "clip")

    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    for found, expected in zip(gradients_of(compiled), gradients_of(plain)):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected)


def test_a_binary_quantizer_passes_no_gradient_beyond_its_step_on_either_side():
    """Inside is |x| <= s, ends included, in both twins."""
    x, inside = 0.25 * np.array([-2.0, -1.25, -1, -0.5, 0.5, 1, 1.25, 2]), [0, 0, 1, 1, 1, 1, 0, 0]
    found, _ = quantizer.binarize_backward(torch.ones(8, dtype=torch.float64), torch.tensor(x), 0.25)
    assert found.tolist() == inside
    assert reference_quantizer.binarize_backward(np.ones(8), x, 0.25)[0].tolist() == inside


def test_large_tensors_are_summed_in_pieces():
    """A norm that adds up one square after the other is off by far more than rounding."""
    x = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    norm = Layers(None, [x]).plain_norms([x]).item()
    assert norm == pytest.approx(x.double().norm().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_contract_computes_in_the_dtype_that_it_declares(name):
    """Judged as float32, it is not computed in float64."""
    implementation = getattr(contract, name)
    assert implementation.kl_to_uniform(np.zeros((2, 3))).dtype == implementation.DTYPE == name
    assert implementation.project([np.ones(3)], [np.eye(3)[0]])[0].dtype == name
