"""The integer network: what it computes, that it agrees with PyTorch, that it cannot overflow, and its file."""

import ast
import copy
import dataclasses
import inspect
import io
import itertools
import json
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from oeu_ref.core import QuantConv2d, QuantLinear, QuantMLP, quantize_model
from oeu_ref.data.samples import stream
from oeu_ref.integer import agreement, export
from oeu_ref.integer import arithmetic as ops
from oeu_ref.integer import file as integer_file
from oeu_ref.integer import network as integer
from oeu_ref.integer.fixed_point import Plan
from oeu_ref.integer.network import Input, IntegerNetwork, Node
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.lab.experiment import Experiment
from oeu_ref.lab.export import export_file
from oeu_ref.lab.images import ImageClassifier
from oeu_ref.lab.models import ARCHITECTURES
from oeu_ref.reference.quantizer import fake_quantize

SHAPE = (3, 12, 12)


def trained(model, make, seed=0):
    """The model after a few steps that give BatchNorm statistics of its own, in eval mode, some steps negative."""
    generator = stream(seed, "training")
    optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
    for _ in range(3):
        inputs = make(generator)
        labels = torch.randint(0, 5, (len(inputs),), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    with torch.no_grad():
        steps = itertools.count()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            if name.endswith("step") and next(steps) % 3 == 0:
                parameter.neg_()
    return model.eval()


def mlp(bits, batch_norm=True, low=0):
    """A perceptron on integers low to 16, sixteenths to the model."""
    torch.manual_seed(0)
    model = QuantMLP((20, 24, 16, 5), bits, bits, batch_norm=batch_norm)
    return trained(model, lambda g: torch.randint(low, 17, (32, 20), generator=g) / 16)


def classifier(arch, bits):
    torch.manual_seed(0)
    network = quantize_model(ARCHITECTURES[arch](5, 8), bits, bits)
    model = ImageClassifier(network, [0.4, 0.5, 0.45], [0.2, 0.25, 0.3])
    return trained(model, lambda g: torch.randint(0, 256, (8, *SHAPE), generator=g).to(torch.uint8))


def images(n=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE)).astype(np.uint8)


def numbers(n=64, low=0):
    return np.random.default_rng(0).integers(low, 17, (n, 20))


def exported(model, value_bits=64, low=0):
    if isinstance(model, ImageClassifier):
        return export.export(model, SHAPE, value_bits=value_bits)
    return export.export(model, (20,), (low, 16), 1 / 16, value_bits=value_bits)


@pytest.fixture(scope="module")
def resnet():
    return classifier("resnet18", 4)


@pytest.fixture(scope="module")
def perceptron():
    return mlp(4)


# --- agreement with PyTorch


@pytest.mark.parametrize(
    ("arch", "bits"),
    [
        # the larger networks at all widths take the default run too long
        pytest.param(arch, bits, marks=pytest.mark.studies if arch != "resnet18" and bits not in (4, "binary") else ())
        for arch, bits in itertools.product(ARCHITECTURES, [2, 4, 8, "ternary", "binary"])
    ],
)
def test_every_code_of_an_image_network_is_pytorchs(arch, bits):
    """Input codes of every layer, weight codes and predictions are identical; the logits to the rounding of float64."""
    model = classifier(arch, bits)
    network = exported(model)
    found = agreement.compare(model, network, images())
    assert found.identical, str(found)
    assert found.logit_difference < 1e-11
    # and the comparison was about something: every layer has codes of several values, of both signs where it may
    codes = {name: array for name, array in integer.walk(network, images()) if name.endswith(".input")}
    assert len(codes) == len(found.codes) == len(found.weights_differing)
    assert min(len(np.unique(array)) for array in codes.values()) >= 2
    assert {node.attributes["q_min"] < 0 for node in network.nodes if node.op == "quantize"} == {True, False}
    assert any(p < 0 for name, p in model.named_parameters() if name.endswith("step"))


@pytest.mark.parametrize("low", [0, -16])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_code_of_a_perceptron_is_pytorchs(bits, batch_norm, low):
    """With and without BatchNorm, with unsigned and signed inputs."""
    model = mlp(bits, batch_norm, low)
    found = agreement.compare(model, exported(model, low=low), numbers(low=low))
    assert found.identical and found.logit_difference < 1e-12, str(found)


def test_narrow_values_differ_rarely_and_say_so(resnet):
    """With 32-bit values and multipliers hardly a code differs, and the logits are as close as their unit."""
    network = exported(resnet, value_bits=32)
    found = agreement.compare(resnet, network, images())
    assert sum(found.codes_differing.values()) <= 1e-3 * sum(found.codes.values())
    assert {array.dtype for name, array in integer.walk(network, images(1)) if name.endswith("value")} == {
        np.dtype("i4")
    }
    assert 0 < found.logit_difference < 1e-5 or not found.identical


def ties():
    """(model, integer inputs): all numbers are multiples of powers of two, many values exactly between two codes."""
    model = QuantMLP((3, 4, 2))
    with torch.no_grad():
        for i, (layer, step) in enumerate(zip(model.layers, (0.5, 1.0))):
            layer.weight_quantizer.set(0.25, True)
            layer.activation_quantizer.set(step, i == 0)
            layer.weight.copy_(0.25 * torch.arange(layer.weight.numel()).view(layer.weight.shape) - 0.5)
            layer.bias.zero_()
    return model.eval(), np.array(list(itertools.product(range(-6, 7), repeat=3)))


def test_exact_ties_go_to_the_even_code():
    """Where a value stands exactly between two codes, PyTorch's rounding and the thresholds choose the same one."""
    model, inputs = ties()
    network = export.export(model, (3,), (-6, 6), 0.25)
    hidden = dict(integer.walk(network, inputs))["layers.0.value"]
    between = np.array([Fraction(int(v), 2 ** network.facts["layers.0.value"].unit[0]) % 1 for v in hidden.ravel()])
    assert (between == Fraction(1, 2)).mean() > 0.1
    assert agreement.compare(model, network, inputs).identical
    assert agreement.compare(model, network, inputs, "float32").identical


@settings(deadline=None, max_examples=60)
@given(
    step=st.floats(1e-3, 1e3),
    signed=st.booleans(),
    bits=st.integers(1, 8),
    fraction_bits=st.integers(-3, 40),
    divisor=st.sampled_from([1, 16, 49]),
)
@example(step=671.0, signed=False, bits=8, fraction_bits=40, divisor=49)  # the largest codes are beyond 64 bits
def test_thresholds_round_as_exact_arithmetic_does(step, signed, bits, fraction_bits, divisor):
    """For every integer next to a tie, the code is round(clip(v / s)), halves to even, in exact fractions."""
    q_min, q_max = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    unit = Fraction(1, divisor) / Fraction(2) ** fraction_bits
    limits = integer.thresholds(step, q_min, q_max, unit)
    near = [
        int(Fraction(2 * k - 1, 2) * Fraction(step) / unit) + d for k in range(q_min, q_max + 2) for d in (-1, 0, 1, 2)
    ]
    near = [v for v in near if abs(v) < 2**63]  # integers of 64 bits are all that a device adds up
    codes = ops.quantize(np.array(near), limits, q_min, 1)
    wanted = [min(max(round(v * unit / Fraction(step)), q_min), q_max) for v in near]
    assert codes.tolist() == wanted


@given(exponent=st.integers(-4, 4), k=st.integers(-300, 300))
def test_thresholds_agree_with_the_reference_quantizer_on_exact_ties(exponent, k):
    """At (k + 1/2) s, which floating point holds exactly for a power of two, both choose the even code."""
    step = 2.0**exponent
    limits = integer.thresholds(step, -128, 127, Fraction(1, 2**8))
    value = (2 * k + 1) * 2 ** (7 + exponent)
    code = ops.quantize(np.array([value]), limits, -128, 1)[0]
    assert code * step == fake_quantize(np.array([(k + 0.5) * step]), step, -128, 127)[0]


# --- controls: the comparison notices what it is there to notice


def with_arrays(network, change):
    """The network with some nodes replaced: change(node) -> node."""
    return IntegerNetwork([change(node) for node in network.nodes], network.input, network.value_bits)


def test_a_wrong_rounding_is_noticed():
    """Ties to the larger code, ties to the smaller one, and rounding down instead of to the nearest."""
    model, inputs = ties()
    network = export.export(model, (3,), (-6, 6), 0.25)
    up, down, floor = [], [], []
    for node in network.nodes:
        limits = node.arrays.get("thresholds", np.zeros(1, np.int64))
        even = (np.arange(len(limits)) + node.attributes.get("q_min", 0) + 1) % 2 == 0
        inside = (limits > -(2**61)) & (limits < 2**61)  # not those at the ends of the type
        half = np.diff(limits[inside]).max(initial=0) // 2
        for networks, shift in ((up, -(~even).astype(int)), (down, even.astype(int)), (floor, half)):
            arrays = {"thresholds": limits + shift * inside} if node.op == "quantize" else node.arrays
            networks.append(dataclasses.replace(node, arrays=arrays))
    for wrong in (up, down, floor):
        assert not agreement.compare(model, IntegerNetwork(wrong, network.input), inputs).identical


def test_a_forgotten_batch_norm_is_noticed(monkeypatch, perceptron):
    affine = export._affine
    monkeypatch.setattr(export, "_affine", lambda name, layer, step, norm: affine(name, layer, step, None))
    assert not agreement.compare(perceptron, exported(perceptron), numbers()).identical


def test_a_forgotten_epsilon_is_noticed(monkeypatch):
    model = mlp(4)
    for norm in model.norms:
        norm.eps = 0.1
    affine = export._affine

    def without(name, layer, step, norm):
        if norm is not None:
            norm = copy.deepcopy(norm)
            norm.eps = 0.0
        return affine(name, layer, step, norm)

    assert agreement.compare(model, exported(model), numbers()).identical
    monkeypatch.setattr(export, "_affine", without)
    assert not agreement.compare(model, exported(model), numbers()).identical


def test_a_skipped_residual_is_noticed(monkeypatch, resnet):
    network = exported(resnet)
    monkeypatch.setattr(ops, "add", lambda first, second: first)
    assert not agreement.compare(resnet, network, images(2)).identical


def test_a_pool_without_its_division_is_noticed(monkeypatch, resnet):
    network = exported(resnet)
    monkeypatch.setattr(ops, "sum_pool", lambda values: values.sum(axis=(2, 3), keepdims=True) // 4)
    assert not agreement.compare(resnet, network, images(2)).identical


def test_one_changed_weight_code_is_noticed(perceptron):
    """In the count of its layer, also where no input code moves."""
    network = exported(perceptron)

    def change(node):
        if node.name != "layers.1":
            return node
        weight = node.arrays["weight"].copy()
        weight[0, 0] = -weight[0, 0] - 1
        return dataclasses.replace(node, arrays={"weight": weight})

    found = agreement.compare(perceptron, with_arrays(network, change), numbers())
    assert found.weights_differing == {"layers.0": 0, "layers.1": 1, "layers.2": 0} and not found.identical


def test_comparing_leaves_the_model_alone_and_refuses_another(perceptron):
    """No hook appears, no weight changes; a network of other layers, an unknown precision, and floats are refused."""
    before = {name: value.clone() for name, value in perceptron.state_dict().items()}
    agreement.compare(perceptron, exported(perceptron), numbers())
    assert all(torch.equal(before[name], value) for name, value in perceptron.state_dict().items())
    assert not any(module._forward_hooks for module in perceptron.modules())
    with pytest.raises(ValueError, match="export of this model"):
        agreement.compare(perceptron, export.export(*ties()[:1], (3,), (-6, 6), 0.25), numbers())
    with pytest.raises(ValueError, match="precision must be one of 'float64', 'float32'"):
        agreement.compare(perceptron, exported(perceptron), numbers(), "float16")
    with pytest.raises(TypeError, match="inputs must be integers"):
        agreement.compare(perceptron, exported(perceptron), numbers() / 16)


# --- integers only


@pytest.mark.parametrize("value_bits", [32, 64])
def test_no_float_is_anywhere_between_pixels_and_logits(resnet, value_bits):
    """Every intermediate is of the integer type that the design gives it."""
    network = exported(resnet, value_bits)
    types = {"code": np.int16, "sum": np.int32, "value": integer.VALUE_TYPES[value_bits]}
    for name, array in integer.walk(network, images(2)):
        assert array.dtype == types[network.facts[name].kind], name
    for node in network.nodes:
        assert all(array.dtype.kind == "i" for array in node.arrays.values())


def test_the_integer_operations_contain_no_float():
    """No true division, no float literal and no float type stands in their source or in the walk through the graph."""
    for source in (inspect.getsource(ops), inspect.getsource(integer.walk), inspect.getsource(integer.forward)):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.Div)
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)))
            assert not (isinstance(node, ast.Attribute) and "float" in node.attr)


def test_batches_change_no_bit(resnet):
    """However many samples run together."""
    network = exported(resnet)
    assert (integer.forward(network, images(5), 2) == integer.forward(network, images(5), 5)).all()


@pytest.mark.parametrize(
    "stride, padding, dilation, groups",
    [
        ((1, 1), (0, 0), (1, 1), 1),
        ((2, 1), (1, 2), (1, 1), 2),
        ((1, 2), (2, 1), (2, 1), 4),
        ((3, 3), (1, 1), (1, 2), 1),
    ],
)
def test_integer_convolution_is_pytorchs(stride, padding, dilation, groups):
    rng = np.random.default_rng(0)
    codes, weight = rng.integers(-128, 256, (2, 4, 9, 8)), rng.integers(-128, 128, (8, 4 // groups, 3, 2))
    sums = ops.conv(codes.astype(np.int16), weight.astype(np.int8), stride, padding, dilation, groups)
    tensors = (torch.tensor(array, dtype=torch.float64) for array in (codes, weight))
    wanted = nn.functional.conv2d(*tensors, None, stride, padding, dilation, groups)
    assert sums.dtype == np.int32 and (sums == wanted.numpy()).all()


def test_integer_max_pool_is_pytorchs():
    values = np.random.default_rng(0).integers(-9, 0, (2, 3, 7, 6))  # zeros around the image would win
    wanted = nn.functional.max_pool2d(torch.tensor(values, dtype=torch.float64), (3, 2), (2, 1), (1, 1))
    assert (ops.max_pool(values, (3, 2), (2, 1), (1, 1)) == wanted.numpy()).all()


@given(
    sums=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=5),
    multiplier=st.integers(-(2**30), 2**30),
    offset=st.integers(-(2**61), 2**61),
    shift=st.integers(0, 62),
)
def test_rescaling_is_exact(sums, multiplier, offset, shift):
    """(sum * multiplier + offset) >> shift in unbounded integers, rounding down, also for negative numbers."""
    arrays = np.array([multiplier]), np.array([offset])
    values = ops.rescale(np.array(sums, np.int32)[:, None], *arrays, shift, np.int64)
    assert values.ravel().tolist() == [(total * multiplier + offset) >> shift for total in sums]


# --- nothing can overflow


def one_layer(weight, high=255, multiplier=1, offset=0, shift=0, value_bits=64):
    """A network of one fully connected layer whose input codes are the raw integers 0 to high."""
    kind, channels = integer.VALUE_TYPES[value_bits], weight.shape[1]
    same = {"multiplier": np.ones(channels, kind), "offset": np.zeros(channels, np.int64)}
    last = {"multiplier": np.full(len(weight), multiplier, kind), "offset": np.full(len(weight), offset, np.int64)}
    nodes = [
        Node("pixels", "rescale", ("input",), {"shift": 0, "fraction_bits": 0}, same),
        Node(
            "codes", "quantize", ("pixels",), {"q_min": 0, "gap": 1}, {"thresholds": np.arange(1, high + 1, dtype=kind)}
        ),
        Node("layer", "linear", ("codes",), {}, {"weight": weight.astype(np.int8)}),
        Node("logits", "rescale", ("layer",), {"shift": shift, "fraction_bits": 0}, last),
    ]
    return IntegerNetwork(nodes, Input((channels,), 0, high), value_bits)


def test_accumulators_that_could_overflow_are_refused():
    """The largest layer that is allowed gives the right sums at its worst input; one weight more is refused."""
    fits = (2**31 - 1) // (127 * 255)
    network = one_layer(np.stack([np.full(fits, 127), np.full(fits, -127)]))
    worst = integer.forward(network, np.full((1, fits), 255))
    assert worst.tolist() == [[fits * 127 * 255, -fits * 127 * 255]]
    with pytest.raises(ValueError, match=r"node 'layer' \(linear\): sums must fit 32-bit accumulators.*below 2\^31"):
        one_layer(np.full((1, fits + 1), 127))


def test_export_refuses_accumulators_that_could_overflow():
    """Proven from the codes alone, before anything runs; with fewer bits the same layer is exported."""
    for bits, refused in ((8, True), (4, False)):
        layer = QuantLinear(70000, 2, weight_bits=bits, activation_bits=bits)
        layer.weight_quantizer.set(1.0, True)
        layer.activation_quantizer.set(1.0, False)
        nn.init.constant_(layer.weight, 1000.0)
        model = nn.Sequential(layer).eval()
        if refused:
            with pytest.raises(ValueError, match="'0' .*32-bit accumulators"):
                export.export(model, (70000,), (0, 255), 1.0)
        else:
            export.export(model, (70000,), (0, 255), 1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"multiplier": 2**62}, r"sum \* multiplier \+ offset must fit 64 bits"),
        ({"offset": 2**62, "multiplier": 2**54, "shift": 10}, r"sum \* multiplier \+ offset must fit 64 bits"),
        ({"multiplier": 2**30, "value_bits": 32}, "values must fit 32 bits"),
        ({"offset": 2**31, "value_bits": 32}, "values must fit 32 bits"),
    ],
)
def test_products_and_values_that_could_overflow_are_refused(options, message):
    one_layer(np.ones((1, 2)))
    with pytest.raises(ValueError, match=message):
        one_layer(np.ones((1, 2)), **options)


def test_sums_of_values_that_could_overflow_are_refused():
    """Each of two values fits 32 bits, and so does their sum, unless both are large."""

    def network(size):
        same = {"multiplier": np.array([size], np.int32), "offset": np.zeros(1, np.int64)}
        nodes = [Node(name, "rescale", ("input",), {"shift": 0, "fraction_bits": 0}, same) for name in "ab"]
        return IntegerNetwork([*nodes, Node("both", "add", ("a", "b"))], Input((1,), 0, 1), 32)

    assert integer.forward(network(2**30 - 2), np.array([[1]])).tolist() == [[2**31 - 4]]
    with pytest.raises(ValueError, match="'both' .*values must fit 32 bits"):
        network(2**30)


@given(factor=st.floats(1e-3, 10), offset=st.floats(-10, 10), total=st.integers(-1000, 1000))
def test_planned_rescaling_rounds_to_the_nearest(factor, offset, total):
    """With 32-bit values and multipliers, off by half a unit at most, and what the multiplier's own rounding adds."""
    plan = Plan()
    plan.rescale("v", "input", np.array([1000.0]), np.array([factor]), np.array([offset]), (1,))
    (node,) = plan.nodes(32)
    arrays = node.arrays["multiplier"], node.arrays["offset"], node.attributes["shift"]
    value = int(ops.rescale(np.array([[total]], np.int32), *arrays, np.int32)[0, 0])
    exact = (Fraction(factor) * total + Fraction(offset)) * Fraction(2) ** node.attributes["fraction_bits"]
    assert abs(value - exact) <= Fraction(1, 2) + Fraction(1001, 2) / 2 ** node.attributes["shift"]


@pytest.mark.parametrize("value_bits", [32, 64])
def test_bounds_hold_and_are_used(resnet, value_bits):
    """No output exceeds its bound; the largest value of the network has all bits but two of its type."""
    network = exported(resnet, value_bits)
    extremes = np.concatenate([images(2), np.zeros((1, *SHAPE), np.uint8), np.full((1, *SHAPE), 255, np.uint8)])
    for name, array in integer.walk(network, extremes):
        assert np.abs(array.astype(np.int64)).max() <= np.max(network.facts[name].bound), name
    largest = max(fact.bound for fact in network.facts.values() if fact.kind == "value")
    assert 2 ** (value_bits - 3) < largest <= 2 ** (value_bits - 2) + 100


# --- what cannot be exported is refused by name


class Graph(nn.Module):
    """A convolution, and what is done with it."""

    def __init__(self, after, **options):
        super().__init__()
        self.conv = QuantConv2d(3, 3, 1, **options)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.plain = nn.Conv2d(3, 3, 1)
        self.tanh = nn.Tanh()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.after = after

    def forward(self, x):
        return self.after(self, x)


def logits(x):
    return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)


def branch(m, x):
    y = m.conv(x)
    return logits(m.norm(y) + y)


def overwritten(m, x):
    y = m.conv(x)
    return logits(m.relu(y) + y)


@pytest.mark.parametrize(
    "after, options, message",
    [
        (lambda m, x: logits(m.plain(x)), {}, "plain must be a quantized layer"),
        (lambda m, x: logits(m.tanh(m.conv(x))), {}, r"tanh \(Tanh\) has no integer form; supported are QuantConv2d"),
        (lambda m, x: logits(torch.sigmoid(m.conv(x))), {}, r"sigmoid.* has no integer form"),
        (lambda m, x: logits(m.conv(x) + 1.0), {}, "add must add two values"),
        (lambda m, x: logits(m.conv(x) * m.conv(x)), {}, "conv must be called once"),
        (branch, {}, "norm must directly follow a quantized layer that nothing else reads"),
        (overwritten, {}, "relu overwrites its input"),
        (lambda m, x: logits(m.pool(m.conv(x))), {}, "plain maximum"),
        (lambda m, x: torch.flatten(m.conv(x)), {}, "flatten must flatten all but the batch"),
        (lambda m, x: nn.functional.adaptive_avg_pool2d(m.conv(x), 2), {}, "must pool"),
        (lambda m, x: logits(m.conv(x)), {"weight_bits": 32}, "conv must have quantized weights.*its weights have 32"),
        (
            lambda m, x: logits(m.conv(x)),
            {"activation_bits": 32},
            "conv must have quantized inputs.*its inputs have 32",
        ),
        (lambda m, x: logits(m.conv(x)), {"padding_mode": "reflect", "padding": 0}, "conv must pad with zeros"),
        (lambda m, x: logits(m.conv(x) if x.sum() > 0 else x), {}, "torch.fx can trace"),
        (lambda m, x: (logits(m.conv(x)), x), {}, "must return its logits alone"),
        (lambda m, x: m.conv(x), {}, "last node must give logits"),
    ],
)
def test_what_has_no_integer_form_is_refused_by_name(after, options, message):
    model = Graph(after, **options)
    model.conv(torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=message):
        export.export(model.eval(), (3, 4, 4), (0, 255), 1.0)


def test_bad_models_and_arguments_are_refused(perceptron, resnet):
    fresh = QuantMLP((20, 5)).eval()
    with pytest.raises(ValueError, match="layers.0 must know the step of its weights: pass a batch first"):
        exported(fresh)
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        exported(QuantMLP((20, 5)))
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        export.export(3, (20,))
    with pytest.raises(ValueError, match="input_scale must say"):
        export.export(perceptron, (20,))
    with pytest.raises(ValueError, match="input_scale must be None"):
        export.export(resnet, SHAPE, input_scale=1.0)
    with pytest.raises(ValueError, match="value_bits must be one of 32, 64, got 16"):
        exported(perceptron, 16)
    with pytest.raises(ValueError, match=r"layers.0 must get inputs of 1 dimensions, the first 20, got shape \(21,\)"):
        export.export(perceptron, (21,), (0, 16), 1 / 16)
    broken = mlp(4)
    broken.norms[0].running_var[3] = float("nan")
    with pytest.raises(ValueError, match="the BatchNorm after layers.0 must be finite, got nan"):
        exported(broken)
    network = exported(perceptron)
    for inputs, error, message in (
        (numbers() / 16, TypeError, "inputs must be integers"),
        (numbers() + 1, ValueError, r"inputs must lie in \[0, 16\]"),
        (numbers()[:, 1:], ValueError, r"shape \(N, 20\)"),
        (numbers()[:0], ValueError, "N >= 1"),
    ):
        with pytest.raises(error, match=message):
            integer.forward(network, inputs)


def test_max_pool_and_a_branch_of_relus_are_exported():
    """A network with the operations that the standard ones lack: max pooling and a sum after ReLU6, ReLU as methods."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = QuantConv2d(3, 6, 3, 2, 1), QuantConv2d(6, 6, 3, 1, 1, groups=3, bias=False)
            self.pool, self.act = nn.MaxPool2d(3, 2, 1), nn.ReLU6()
            self.norm, self.last = nn.BatchNorm2d(6, affine=False), QuantLinear(54, 5)

        def forward(self, x):
            x = self.pool(self.first(x))
            return self.last(torch.flatten(self.act(self.norm(self.second(x))) + x.relu(), 1))

    torch.manual_seed(0)
    model = ImageClassifier(Net(), [0.4, 0.5, 0.45], [0.2, 0.25, 0.3])
    model = trained(model, lambda g: torch.randint(0, 256, (8, *SHAPE), generator=g).to(torch.uint8))
    model.network.norm.running_var.mul_(0.001)  # values 30 times as large, so that some reach 6
    network = exported(model)
    clipped = dict(integer.walk(network, images()))["act"]
    assert (clipped == clipped.max()).sum() > 10
    found = agreement.compare(model, network, images())
    assert found.identical and found.logit_difference < 1e-12, str(found)


def test_streams_that_an_addition_joins_share_one_unit():
    """Also where a third joins by one of them that is no longer the first of its stream."""
    plan = Plan()
    one, two, three = (
        plan.rescale(name, "input", np.ones(1), np.array([size]), np.zeros(1), (1,))
        for name, size in (("one", 1.0), ("two", 1000.0), ("three", 1e6))
    )
    plan.add("both", one, two)
    plan.add("more", three, two)
    units = {node.attributes["fraction_bits"] for node in plan.nodes(32) if node.op == "rescale"}
    assert units == {30 - 20}  # 1e6 and more than 2^19: 20 bits before the point


# --- which codes changed


def test_changed_codes_tells_a_crossing_from_a_moved_step():
    """By hand: one weight that crosses, one that moves within its code, two that only the step moves."""
    before, after = (nn.Sequential(QuantLinear(4, 1, bias=False)).eval() for _ in range(2))
    for model, weights, step in ((before, (0.2, 1.2, 2.6, 3.7), 1.0), (after, (0.7, 1.3, 2.6, 3.7), 1.1)):
        model[0].weight_quantizer.set(step, True)
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([weights]))
    found = agreement.changed_codes(before, after)["0"]
    assert found.pop("steps") == [1.0, pytest.approx(1.1)]
    # codes before (0, 1, 3, 4), with the step held (1, 1, 3, 4), after (1, 1, 2, 3)
    assert found == {"weights": 4, "bits": 4, "latent": 2, "codes": 3, "crossed": 1, "step": 2}
    with pytest.raises(ValueError, match="must have the same quantized layers"):
        agreement.changed_codes(before, QuantMLP((4, 1)))


def test_hybrids_have_the_codes_of_one_and_all_else_of_the_other(perceptron):
    other = mlp(4)
    for layer in other.layers:
        with torch.no_grad():
            layer.weight.mul_(-1.3)
            layer.weight_quantizer.step.mul_(1.1)
    mixed, whole = (agreement.with_codes(perceptron, other, steps) for steps in ("own", "donor"))
    changes = agreement.changed_codes(other, mixed)
    assert all(found["codes"] == 0 and found["steps"][0] != found["steps"][1] for found in changes.values())
    assert sum(found["codes"] for found in agreement.changed_codes(perceptron, mixed).values()) > 100
    for name, value in mixed.state_dict().items():
        is_weight = name.startswith("layers") and name.endswith(".weight")
        assert torch.equal(value, perceptron.state_dict()[name]) != is_weight, name
    for layer, donor in zip(whole.layers, other.layers):
        assert torch.equal(layer.quantized(torch.ones(1, layer.in_features))[1], donor.weight_quantizer(donor.weight))
    with pytest.raises(ValueError, match="steps must be one of 'own', 'donor'"):
        agreement.with_codes(perceptron, other, "both")


# --- the file


def same(first, second):
    """Whether two networks are one, bit by bit."""
    fields = [
        (n.name, n.op, n.inputs, n.attributes, n.about, {k: (v.dtype, v.tolist()) for k, v in n.arrays.items()})
        for n in first.nodes
    ]
    others = [
        (n.name, n.op, n.inputs, n.attributes, n.about, {k: (v.dtype, v.tolist()) for k, v in n.arrays.items()})
        for n in second.nodes
    ]
    return fields == others and first.input == second.input and first.value_bits == second.value_bits


@pytest.mark.parametrize("value_bits", [32, 64])
@pytest.mark.parametrize("bits", [1, 3, "ternary", "binary"])
def test_a_file_comes_back_as_it_was(bits, value_bits, tmp_path):
    network = exported(mlp(bits), value_bits)
    path = export.write(tmp_path / "deep" / "network.npz", network)
    assert same(integer_file.read(path), network)
    assert [p.name for p in path.parent.iterdir()] == ["network.npz"]
    with np.load(path, allow_pickle=False) as arrays:  # plain NumPy can look at it
        assert json.loads(bytes(arrays["header"]))["schema"] == integer_file.SCHEMA
        wide = {1: 1, 3: 3, "ternary": 2, "binary": 1}[bits]
        assert arrays["layers.1.weight"].size == 24 * 16 * wide / 8


def test_a_file_of_an_image_network_is_a_fraction_of_float32(resnet, tmp_path):
    path = export.write(tmp_path / "network.npz", exported(resnet))
    assert same(integer_file.read(path), exported(resnet))
    assert 4 * path.stat().st_size < sum(4 * p.numel() for p in resnet.parameters())


def test_damage_never_passes_for_another_network(perceptron, tmp_path):
    """Each of many truncations is refused; of flipped bytes those that count: what is read is the same network."""
    network, path = exported(perceptron), tmp_path / "network.npz"
    content = export.to_bytes(network)
    rng = np.random.default_rng(0)
    for cut in {0, 1, 30, len(content) - 1, *rng.integers(0, len(content), 40).tolist()}:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="network.npz must be an 'oeu_ref integer network 1'"):
            integer_file.read(path)
    refused = 0
    for at in rng.integers(0, len(content), 150):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
        try:
            assert same(integer_file.read(path), network)
        except ValueError as error:
            assert "network.npz must be" in str(error)
            refused += 1
    assert refused > 100


def rewritten(content, change, compression=zipfile.ZIP_STORED):
    """The file's bytes with its entries changed: change(dict name -> bytes)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    return buffer.getvalue()


def npy(array, **header):
    """Bytes of a .npy file; header: what it says in place of the truth."""
    buffer = io.BytesIO()
    array = np.asarray(array)
    fields = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(buffer, {**fields, **header})
    return buffer.getvalue() + array.tobytes()


def in_header(change):
    def edit(entries):
        text = entries["header.npy"][entries["header.npy"].index(b'{"schema"') :]
        header = json.loads(text)
        header = change(header) or header
        entries["header.npy"] = npy(np.frombuffer(json.dumps(header).encode(), np.uint8))

    return edit


def node(index, **fields):
    return in_header(lambda header: header["nodes"][index].update(fields))


def pickled(entries):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([print], dtype=object))
    entries["layers.0.weight.npy"] = buffer.getvalue()


def array(name, *arguments, **header):
    return lambda entries: entries.update({f"{name}.npy": npy(*arguments, **header)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda entries: entries.pop("layers.1.weight.npy"), "array layers.1.weight is missing"),
        (lambda entries: entries.update({"more.npy": npy(np.zeros(3, int))}), "holds arrays that no node has: more"),
        (lambda entries: entries.update({"notes.txt": b"x"}), "must be .npy files"),
        (lambda entries: entries.pop("header.npy"), "it has no header"),
        (array("header", np.frombuffer(b"no json", np.uint8)), "Expecting value"),
        (array("header", np.frombuffer(b"[" * 100000, np.uint8)), "recursion|Recursion|nested|Expecting"),
        (
            in_header(lambda header: header.update(schema="oeu_ref integer network 9")),
            "must be an object that names this schema",
        ),
        (in_header(lambda header: [header]), "must be an object that names this schema"),
        (in_header(lambda header: header.update(value_bits=32)), "must have dtype int32, got int64"),
        (in_header(lambda header: header.update(value_bits=[])), "value_bits|unhashable"),
        (in_header(lambda header: header.update(nodes={})), "nodes a list"),
        (in_header(lambda header: header.update(extra=1)), "header must have"),
        (in_header(lambda header: header["input"].update(shape=[10**12])), r"must be in \[1, 1048576\]"),
        (in_header(lambda header: header["input"].update(low=99)), "low must be smaller"),
        (in_header(lambda header: header["nodes"].reverse()), "inputs must be earlier nodes"),
        (node(0, op="exec"), "op of quantize"),
        (node(0, inputs=["layers.2.value"]), "inputs must be earlier nodes"),
        (node(0, attributes={"shift": 0.5, "fraction_bits": 0}), "shift must be an integer"),
        (node(0, attributes={"shift": 0}), "attributes must be"),
        (node(1, attributes={"q_min": -7, "gap": 2}), "codes up to 255"),
        (node(0, name="input.value2"), "array input.value2.multiplier is missing"),
        (pickled, "layers.0.weight must hold integers"),
        (array("layers.0.weight", np.zeros(1, np.uint8), shape=(10**15,)), "layers.0.weight must hold integers"),
        (array("layers.0.weight", np.zeros(7, np.uint8)), "packed must hold"),
        (array("layers.0.weight", np.zeros(480, np.int8)), "must have dtype uint8, got int8"),
        (array("layers.0.value.offset", np.zeros(24)), "must hold integers in C order"),
        (array("layers.0.value.offset", np.zeros(25, np.int64)), r"must have shape \(24,\), got \(25,\)"),
        (array("layers.0.value.multiplier", np.full(24, 2**62)), r"layers.0.value.*must fit 64 bits"),
        (array("layers.0.input.thresholds", np.arange(255)[::-1].copy()), "thresholds must ascend"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(change, message, perceptron, tmp_path):
    """With one ValueError that names the file and what is wrong, whatever is wrong."""
    path = tmp_path / "network.npz"
    path.write_bytes(rewritten(export.to_bytes(exported(perceptron)), change))
    with pytest.raises(ValueError, match=message) as caught:
        integer_file.read(path)
    assert str(caught.value).startswith(f"{path} must be")


def test_the_order_of_entries_and_keys_means_nothing(perceptron, tmp_path):
    """A file whose JSON objects and entries stand in another order is the same network."""

    def shuffled(entries):
        in_header(lambda header: sorted_deep(header))(entries)
        for name in sorted(entries):
            entries[name] = entries.pop(name)

    def sorted_deep(value):
        if isinstance(value, dict):
            return {key: sorted_deep(value[key]) for key in sorted(value, reverse=True)}
        return [sorted_deep(entry) for entry in value] if isinstance(value, list) else value

    network, path = exported(perceptron), tmp_path / "network.npz"
    path.write_bytes(rewritten(export.to_bytes(network), shuffled))
    assert (integer.forward(integer_file.read(path), numbers()) == integer.forward(network, numbers())).all()


def test_a_file_that_unfolds_is_refused(perceptron, tmp_path):
    """A compressed archive, which could be a thousand times larger inside, and a file that is not there."""
    path = tmp_path / "network.npz"
    path.write_bytes(rewritten(export.to_bytes(exported(perceptron)), lambda entries: None, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="must be stored uncompressed"):
        integer_file.read(path)
    with pytest.raises(ValueError, match="no-such.npz must be a file that can be read"):
        integer_file.read(tmp_path / "no-such.npz")


# --- the command


def test_a_kept_image_model_is_exported_and_checked(tmp_path):
    """The text says what was written and that it agrees."""
    torch.manual_seed(0)
    experiment = Experiment(width=8, stem_stride=2, image_size=12)
    model = experiment.classifier(5, [0.4, 0.5, 0.45], [0.2, 0.25, 0.3])
    model = trained(model, lambda g: torch.randint(0, 256, (8, *SHAPE), generator=g).to(torch.uint8))
    kept = Checkpoint(tmp_path / "model.pt", {"experiment": dataclasses.asdict(experiment)})
    kept.notes = {"classes": list("abcde")}
    kept.save(model=model)
    text = export_file(tmp_path / "model.pt", tmp_path / "model.npz")
    assert "21 quantized layers" in text and "12 x 12 pixels" in text and "times smaller than float32" in text
    assert "0 of 8 predictions" in text and text.endswith("model.npz")
    network = integer_file.read(tmp_path / "model.npz")
    assert agreement.compare(model, network, images()).identical
    with pytest.raises(ValueError, match="no-such.pt"):
        export_file(tmp_path / "no-such.pt", tmp_path / "model.npz")
