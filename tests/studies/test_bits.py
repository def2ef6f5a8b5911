"""Very low bits: binary and ternary quantizers, the networks that they make, and the study of them."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from oeu_ref.__main__ import main
from oeu_ref.core import OEU, Quantizer, QuantMLP, quantize_model
from oeu_ref.core import quantizer as torch_side
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.integer import packing
from oeu_ref.lab import cells, engine, tables
from oeu_ref.lab.experiment import QUICK, Experiment
from oeu_ref.lab.study import run as run_study
from oeu_ref.reference import quantizer as numpy_side
from oeu_ref.reference.network import QuantizedMLP
from oeu_ref.reference.unlearner import oeu_step
from oeu_ref.studies import bits as study

from ..test_experiments import SMALL, settings_file, tiny_arrays

WORDS = ("binary", "ternary")
SIDES = [pytest.param(numpy_side, np.array, id="reference"), pytest.param(torch_side, torch.tensor, id="core")]
# multiples of 1/16 and steps that are powers of two: the composition that defines `binarize` is exact on them
dyadic = st.lists(st.integers(-96, 96).map(lambda k: k / 16), min_size=1, max_size=12)
steps = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


def plain(values):
    """A NumPy array of what either side returns."""
    return values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


# The binary quantizer


@pytest.mark.parametrize("side, array", SIDES)
def test_binary_values_and_gradients_by_hand(side, array):
    """At s = 2: the sign times the step, and zero counts as positive; the gradient passes where |x| <= s; the step's
    slope is sign(x) - x/s inside and the sign outside."""
    x = array([-3.0, -2.0, -1.0, 0.0, -0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(plain(side.binarize(x, 2.0)), [-2, -2, -2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(plain(side.binary_codes(x)), [-1, -1, -1, 1, 1, 1, 1, 1])
    passes, slopes = [0, 1, 1, 1, 1, 1, 1, 0], [-1, 0, -0.5, 1, 1, 0.5, 0, 1]
    for i, (passed, slope) in enumerate(zip(passes, slopes)):
        grad_out = 0 * x
        grad_out[i] = 10.0
        grad_x, grad_step = side.binarize_backward(grad_out, x, 2.0, 0.5)
        np.testing.assert_array_equal(plain(grad_x), 10.0 * passed * np.eye(8)[i])
        assert float(grad_step) == pytest.approx(5.0 * slope)


@given(dyadic, steps)
def test_binarize_is_the_one_bit_quantizer_moved_by_a_step(values, step):
    """binarize(x, s) = fake_quantize(x - s, 2 s, -1, 0) + s, gradients included, by autograd through the latter."""
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(1.0, len(values) + 1, dtype=torch.float64)
    composed = torch_side.fake_quantize(x - s, 2 * s, -1, 0) + s
    expected = torch.autograd.grad((composed * weights).sum(), (x, s))
    direct = torch_side.binarize(x, s)
    found = torch.autograd.grad((direct * weights).sum(), (x, s))
    assert torch.equal(direct, composed)
    by_hand = numpy_side.binarize_backward(weights.numpy(), np.array(values), step)
    np.testing.assert_array_equal(numpy_side.binarize(np.array(values), step), plain(direct))
    for automatic, mine, wanted in zip(found, by_hand, expected):
        np.testing.assert_allclose(plain(automatic), plain(wanted), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mine, plain(wanted), rtol=1e-12, atol=1e-12)


def naive(x, s):
    """What one writes first: the sign times the step, its gradient passed on everywhere."""
    return (x.sign() * s - x).detach() + x


def test_control_the_naive_sign_breaks_the_law_in_three_ways():
    """Zero is no level of its own, values beyond the step pass no gradient, and the step learns; naively none holds."""
    x = torch.tensor([-3.0, 0.0, 0.5], requires_grad=True)
    s = torch.tensor(1.0, requires_grad=True)
    grads = {}
    for name, function in (("ours", torch_side.binarize), ("naive", naive)):
        y = function(x, s)
        grads[name] = (y.tolist(), torch.autograd.grad(y.sum(), (x, s), allow_unused=True))
    assert grads["ours"][0] == [-1, 1, 1] and grads["naive"][0] == [-1, 0, 1]
    assert grads["ours"][1][0].tolist() == [0, 1, 1] and grads["naive"][1][0].tolist() == [1, 1, 1]
    assert grads["ours"][1][1] == -1 + 1 + 0.5 and grads["naive"][1][1] is None


@pytest.mark.parametrize("side, array", SIDES)
def test_a_tiny_negative_value_is_negative(side, array):
    """The composition loses its sign, since x - s is rounded to -s; `binarize` keeps it."""
    x = array([-1e-30])
    assert plain(side.binarize(x, 1.0))[0] == -1
    assert plain(side.fake_quantize(x - 1, 2.0, -1, 0) + 1)[0] == 1


def test_a_network_that_diverged_does_not_look_healthy():
    """NaN passes the binary quantizer as NaN, as it passes all others."""
    for width in (*WORDS, 1, 4):
        quantizer = Quantizer(width)
        quantizer.set(1.0, True)
        assert quantizer(torch.tensor([0.5, torch.nan])).isnan().tolist() == [False, True]


@pytest.mark.parametrize("side, array", SIDES)
def test_the_binary_step_starts_at_the_least_squared_error(side, array):
    """mean|x| beats steps next to it; LSQ's 2 mean|x| is as bad as quantizing all to zero, whatever the values."""
    x = array(np.random.default_rng(0).normal(0.3, 2.0, 500))
    step = float(side.initial_binary_step(x))
    error = lambda s: float(((x - side.binarize(x, s)) ** 2).sum())
    assert step == pytest.approx(float(abs(x).mean()))
    assert error(step) < min(error(0.99 * step), error(1.01 * step))
    assert error(2 * step) == pytest.approx(float((x**2).sum()))
    assert float(side.initial_binary_step(0 * x)) == 1.0
    with pytest.raises(ValueError, match="x must not be empty"):
        side.initial_binary_step(x[:0])


@pytest.mark.parametrize("side, array", SIDES)
def test_bad_input_of_the_binary_quantizer_is_named(side, array):
    x = array([1.0, -2.0])
    for call, error, message in (
        (lambda: side.binarize(x, 0.0), ValueError, "step must be greater than 0"),
        (lambda: side.binarize(x / 0, 1.0), ValueError, "x must be finite"),
        (lambda: side.binary_codes(x / 0), ValueError, "x must be finite"),
        (lambda: side.binarize(array([1, 2]), 1.0), TypeError, "x must be floating point"),
        (lambda: side.binarize_backward(x[:1], x, 1.0), ValueError, "grad_out must have the shape of x"),
        (lambda: side.binarize_backward(x / 0, x, 1.0), ValueError, "grad_out must be finite"),
        (lambda: side.binarize_backward(x, x, 1.0, -1), ValueError, "grad_scale must be"),
    ):
        with np.errstate(divide="ignore"), pytest.raises(error, match=message):
            call()


# Every width


@pytest.mark.parametrize(
    "width, signed, levels",
    [
        ("binary", True, (-1, 1)),
        ("binary", False, (0, 1)),
        ("ternary", True, (-1, 0, 1)),
        ("ternary", False, (0, 1, 2)),
        (1, True, (-1, 0)),
        (2, True, (-2, -1, 0, 1)),
    ],
)
def test_a_quantizer_of_few_levels_obeys_the_laws_of_all(width, signed, levels):
    """The codes are those of its name; forward is magnitude times codes; the error is at most half the distance of two
    levels inside; twice is once; and x passes its gradient between the outermost codes and nowhere else."""
    step = 0.75
    quantizer = Quantizer(width, signed).double()
    quantizer.set(-step, signed)  # below zero: it counts by its magnitude, in the codes too
    x = torch.linspace(-3, 3, 1201, dtype=torch.float64, requires_grad=True)
    x_hat, codes = quantizer(x), quantizer.codes(x)
    assert tuple(codes.unique().tolist()) == levels
    assert quantizer.range == numpy_side.integer_range(width, signed) == (levels[0], levels[-1])
    assert torch.equal(x_hat, quantizer.magnitude * codes)
    inside = (x >= step * levels[0]) & (x <= step * levels[-1])
    distance = step * (levels[1] - levels[0])
    assert (x_hat - x).abs()[inside].max() <= distance / 2 * (1 + 1e-12)
    assert torch.equal(quantizer(x_hat), x_hat)
    (grad,) = torch.autograd.grad(x_hat.sum(), x)
    assert torch.equal(grad, inside.double())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width", [*WORDS, *range(1, 9)])
def test_forward_is_magnitude_times_codes_at_every_width(width, signed):
    """So a stored network is the network that was trained: bit for bit, in float32."""
    quantizer = Quantizer(width, signed)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    x_hat = quantizer(x)
    assert torch.equal(x_hat, quantizer.magnitude * quantizer.codes(x))
    low, high = quantizer.range
    assert low <= quantizer.codes(x).min() < quantizer.codes(x).max() <= high


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("width, stored", [("binary", 1), ("ternary", 2)])
@given(st.data())
def test_packed_words_come_back(width, stored, signed, data):
    """A binary code takes one bit, a ternary one two, and nothing is lost."""
    levels = {("binary", True): (-1, 1), ("binary", False): (0, 1), ("ternary", True): (-1, 0, 1)}
    values = data.draw(st.lists(st.sampled_from(levels.get((width, signed), (0, 1, 2))), max_size=30))
    codes = np.array(values, dtype=np.int16)
    packed = packing.pack_codes(codes, width, signed)
    assert packed.nbytes == -(-len(values) * stored // 8)
    np.testing.assert_array_equal(packing.unpack_codes(packed, width, codes.shape, signed), codes)


def test_packed_words_by_hand():
    """+ - + + are the bits 1011, and -1 0 1 1 the pairs 00 01 10 10."""
    assert packing.pack_codes(np.array([1, -1, 1, 1]), "binary").tolist() == [0b10110000]
    assert packing.pack_codes(np.array([-1, 0, 1, 1]), "ternary").tolist() == [0b00011010]
    for codes, width, message in (([0], "binary", "codes must be -1 or 1"), ([2], "ternary", "codes must lie in")):
        with pytest.raises(ValueError, match=message):
            packing.pack_codes(np.array(codes), width)
    with pytest.raises(ValueError, match=r"packed must hold codes in \[-1, 1\], got 2"):
        packing.unpack_codes(np.array([0b11000000], np.uint8), "ternary", (1,))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: Quantizer("quaternary"),
            ValueError,
            "bits must be in [1, 8], or one of 'binary', 'ternary', got 'quat",
        ),
        (lambda: Quantizer("4"), TypeError, "bits must be an integer, got '4'"),
        (lambda: Quantizer("binary", mask="round"), ValueError, "mask must be 'clip' for binary codes"),
        (
            lambda: QuantMLP((4, 3), "Binary"),
            ValueError,
            "32 for no quantization, or one of 'binary', 'ternary', got 'B",
        ),
        (lambda: QuantizedMLP((4, 3), activation_bits="one"), ValueError, "activation_bits must be 1 to 8, or 32"),
        (lambda: numpy_side.integer_range("32"), TypeError, "bits must be an integer"),
        (lambda: dataclasses.replace(Experiment(), weight_bits="two"), ValueError, "weight_bits must be 1 to 8"),
    ],
)
def test_an_unknown_width_is_explained(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


# Networks


def twins(width, first_last_bits, signed):
    """A reference network, its PyTorch twin in float64 with the same weights but no steps yet, and a step's batches."""
    rng = np.random.default_rng(0)
    sizes = (12, 16, 14, 5)
    inputs, labels = rng.uniform(-1 if signed else 0, 1, (40, sizes[0])), rng.integers(0, sizes[-1], 40)
    network = QuantizedMLP(sizes, *width, first_last_bits).calibrate(inputs)
    model = QuantMLP(sizes, *width, first_last_bits).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("step"):
                parameter.copy_(torch.tensor(network.parameters[name]))
    return network, model, (inputs, labels)


FEW = [
    (("binary", "binary"), 8, False),
    (("ternary", "ternary"), 8, False),
    (("binary", 4), "ternary", True),
    (("ternary", 32), "binary", True),
    (("binary", "binary"), "binary", True),
    ((1, 1), 8, False),
]


@pytest.mark.parametrize("width, ends, signed", FEW, ids=str)
def test_core_and_reference_take_the_same_steps_at_few_levels(width, ends, signed):
    """The first batch sets the same quantizer steps, and ten OEU steps with momentum agree to 1e-10."""
    network, model, (inputs, labels) = twins(width, ends, signed)
    logits = model(torch.tensor(inputs))
    np.testing.assert_allclose(plain(logits), network.forward(inputs)[0], atol=1e-12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    unlearner, velocity = OEU(model, optimizer, beta=0.7), None
    before = dict(network.parameters)
    for _ in range(10):
        step = oeu_step(network, inputs[:10], inputs[10:], labels[10:], 0.05, beta=0.7, momentum=0.9, velocity=velocity)
        network.parameters, velocity = step.parameters, step.velocity
        unlearner.step(*map(torch.tensor, (inputs[:10], inputs[10:], labels[10:])))
        for name, parameter in model.named_parameters():
            np.testing.assert_allclose(plain(parameter), network.parameters[name], atol=1e-10, err_msg=name)
    moved = {name for name, value in before.items() if np.abs(network.parameters[name] - value).max() > 1e-6}
    assert {name for name in before if name.startswith("layers.1.") and name.endswith("step")} <= moved


@pytest.mark.parametrize("width", WORDS)
def test_a_model_of_few_levels_is_saved_shown_and_made_of_any_model(width):
    """Words pass through `quantize_model`, `print` and the state; inputs after a ReLU get codes from zero up."""
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    model, x = quantize_model(network, width, width), torch.randn(5, 1, 8, 8)
    y = model(x)
    inner = model[2]
    assert inner.weight_quantizer.range == (-1, 1)
    assert inner.activation_quantizer.range == (0, {"binary": 1, "ternary": 2}[width])
    assert model[0].weight_quantizer.bits == model[5].activation_quantizer.bits == 8
    assert f"bits='{width}', range=(-1, 1)" in repr(model)
    again = quantize_model(network, width, width)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), y)
    assert inner.quantized(torch.rand(1, 3, 6, 6))[1].unique().numel() == {"binary": 2, "ternary": 3}[width]


# The study on the digits


RUN = functools.partial(run_study, study, quick=True, progress=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick run on two seeds."""
    return RUN(tmp_path_factory.mktemp("bits"), seeds=(1, 2))


def test_the_study_measures_every_method_at_every_width(written):
    """Each has a value a seed; table and picture are functions of the JSON alone; unquantized codes do not exist."""
    data = json.loads(written["json"].read_text())
    assert list(data["values"]) == list(map(str, study.QUICK_WIDTHS))
    for found in data["values"].values():
        assert list(found) == ["original", "retrain", *study.METHODS]
        assert all(len(values) == 2 for values in found.values())
        assert all("AG" not in value for value in found["retrain"])
        assert all(0 <= value[study.CODES] <= 100 for name in study.METHODS for value in found[name])
    assert data["values"]["binary"]["original"] != data["values"]["4"]["original"]  # other networks, not other names
    assert study.markdown(data) == written["table"] == written["markdown"].read_text().rstrip("\n")
    assert "| binary: OEU " in written["table"] and "seeds 1, 2" in written["table"]
    assert written["picture"].read_bytes()[:4] == b"\x89PNG"


def test_the_study_repeats_itself_seed_by_seed(written, tmp_path):
    """A seed gives the same figures again, whichever seeds are measured beside it."""
    again = json.loads(RUN(tmp_path, seeds=(2,))["json"].read_text())["values"]
    for width, found in json.loads(written["json"].read_text())["values"].items():
        assert {name: values[1:] for name, values in found.items()} == again[width]


def test_at_four_bits_the_study_is_the_demo(written):
    """Original and Retrain at 4 bits are the demo's, so that the two tables can be laid side by side."""
    case = engine.prepare(1, QUICK)
    at_four = json.loads(written["json"].read_text())["values"]["4"]
    for name, model in (("original", case.original), ("retrain", case.retrain)):
        measured = case.metrics(model)
        assert {key: at_four[name][0][key] for key in measured} == pytest.approx(measured)


def test_a_method_that_diverges_is_named(monkeypatch, tmp_path):
    """Its values are null, and table and picture do without them, also where it always diverged."""
    forget = engine.forget

    def sometimes(case, name, *rest):
        if name == "qmul" and (case.experiment.bits == "ternary" or case.seed == 1):
            raise NonFiniteError("diverged")
        return forget(case, name, *rest)

    monkeypatch.setattr(engine, "forget", sometimes)
    written = RUN(tmp_path, seeds=(1, 2))
    assert json.loads(written["json"].read_text())["values"]["ternary"]["qmul"] == [None, None]
    assert "binary: Q-MUL (our reading) diverged on 1 of 2 seeds" in written["table"]
    assert "ternary: Q-MUL (our reading) diverged on 2 of 2 seeds" in written["table"]


def test_a_run_that_collapses_is_named(written):
    """The mean hides it: the caption says how many there were and what the median is, and the picture still stands."""
    data = json.loads(written["json"].read_text())
    for values in data["values"]["4"].values():
        for value in values:
            value["RA"] = 90.0
    assert "4 bits: OEU collapsed" not in study.markdown(data)
    first, second = data["values"]["4"]["oeu"]
    first.update(RA=10.0, AG=62.0)
    second["AG"] = 4.0
    assert "4 bits: OEU collapsed (RA below 50) on 1 of 2 seeds; its median AG is 33.0." in study.markdown(data)
    assert "held: 4 bits" not in study.markdown({**data, "held": {}})
    data["held"]["4"]["oeu"][1]["RA"] = 10.0
    assert "With that step held: 4 bits: OEU collapsed (RA below 50) on" in study.markdown(data)
    assert len(study.figure(data).axes) == 4
    for values in (values for found in data["values"].values() for values in found.values()):
        for value in values:
            value["RA"] = 10.0
    assert len(study.figure(data).axes) == 4  # also where nothing else is left to show


def test_the_second_run_of_each_method_holds_the_input_step(monkeypatch, tmp_path):
    """And the first run does not: there, the step of the input quantizer moves."""
    forget, moved, measured = engine.forget, [], []
    step = lambda model: model.layers[0].activation_quantizer.step

    def watched(case, *rest):
        model, *others = forget(case, *rest)
        moved.append(not torch.equal(step(model), step(case.original)))
        measured.append(case.metrics(model))
        return model, *others

    monkeypatch.setattr(engine, "forget", watched)
    written = RUN(tmp_path, seeds=(1,))
    assert moved == 3 * [True, True, True, False, False, False]
    held = json.loads(written["json"].read_text())["held"]
    for i, (width, name) in enumerate((w, m) for w in study.QUICK_WIDTHS for m in study.METHODS):
        (found,), wanted = held[str(width)][name], measured[6 * (i // 3) + 3 + i % 3]
        assert {metric: found[metric] for metric in wanted} == wanted


def test_the_search_gives_every_width_and_method_the_same_grid(tmp_path):
    grid = {"learning_rate": (0.1,), "weight": (0.1, 0.3), "steps": (2,)}
    path = tmp_path / "found.json"
    found = study.search(path, (101,), ("binary", 2), grid, QUICK, progress=False)
    assert found == json.loads(path.read_text())
    assert list(found["widths"]) == ["binary", "2"]
    loaded = study.load_settings(1, path)
    assert all(list(methods) == list(study.METHODS) for methods in loaded.values())
    assert all(s.weight in (0.1, 0.3) and steps == 1 for methods in loaded.values() for s, steps in methods.values())


def test_the_settings_that_come_along_fit_the_study():
    """Every width and method has one, searched on the grid and seeds that the study names, none of them reported."""
    data = json.loads(study.SETTINGS_FILE.read_text())
    assert set(data["widths"]) == set(map(str, study.WIDTHS))
    assert {axis: tuple(values) for axis, values in data["grid"].items()} == study.GRID
    assert tuple(data["seeds"]) == study.SEARCH_SEEDS and not set(study.SEARCH_SEEDS) & set(study.REPORTED_SEEDS)


def test_changed_codes_counts_codes_and_not_weights():
    """A latent weight that moves within its level changes nothing; one that crosses a boundary is one of all."""
    model = QuantMLP((4, 8, 8, 3), "binary", "binary")
    model(torch.rand(6, 4))  # a batch of training, which sets the steps
    model.eval()
    other = QuantMLP((4, 8, 8, 3), "binary", "binary").eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.layers[1].weight.mul_(1.5)
        other.layers[0].weight.neg_()  # an end, which is not at the width
        assert study.changed_codes(model, other) == 0
        other.layers[1].weight[2, 3].neg_()
    assert study.changed_codes(model, other) == pytest.approx(100 / 64)


# Images


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "tiny.npz", **tiny_arrays())
    return folder


def command(kind, root, out, *options):
    settings = settings_file(out, steps=2)
    common = [*SMALL, "--data-root", str(root), "--out", str(out), "--settings", str(settings), "--seeds", "1,2"]
    return main([kind, "cifar10-10", *common, *options])


def test_images_at_several_widths_reuse_what_is_there(root, tmp_path, monkeypatch, capsys):
    """A table that was made at one width before counts as that width; the second time nothing is made at all."""
    before = tmp_path / "bits-2"
    before.mkdir()
    assert command("table", root, before, "--bits", "2", "--methods", "oeu", "--rules", "true") == 0
    made, original = [], cells._train_cell
    monkeypatch.setattr(cells, "_train_cell", lambda *args: made.append(args[3]) or original(*args))
    capsys.readouterr()
    for expected in (4, 0):
        made.clear()
        assert command("bits", root, tmp_path, "--widths", "2,32", "--methods", "oeu,rl") == 0
        assert len(made) == expected  # original and Retrain on two seeds, unquantized alone
    out = capsys.readouterr().out
    assert "| 2 bits: OEU" in out and "| not quantized: Retrain" in out and "w: the width named" in out
    assert out.splitlines()[-1].endswith("bits.png")
    data = json.loads((tmp_path / "bits.json").read_text())
    assert data["config"]["weight_bits"] == [2, 32] and data["seeds"] == [1, 2]
    cell = json.loads((tmp_path / "bits-2" / "seed-2" / "retrain.json").read_text())
    assert data["values"]["2"]["retrain"][1]["FA"] == cell["metrics"]["FA"]
    assert (tmp_path / "bits-2" / "table.json").is_file() and (tmp_path / "bits.png").is_file()
    assert study.markdown(data) == (tmp_path / "bits.md").read_text().rstrip("\n")


@pytest.mark.parametrize("widths, message", [("2,9", "widths must be 1 to 8"), ("2,2", "widths must be at least one")])
def test_wrong_widths_are_found_before_anything_is_made(root, tmp_path, capsys, widths, message):
    assert command("bits", root, tmp_path, "--widths", widths) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "bits-2").exists()


@pytest.mark.parametrize("width", WORDS)
def test_images_can_have_few_levels(root, tmp_path, width):
    """The word travels from the command line into the network, its file and back."""
    assert command("run", root, tmp_path, "--method", "oeu", "--bits", width, "--seeds", "1") == 0
    (path,) = [path for path in (tmp_path / "seed-1").glob("oeu*.pt")]
    model = cells.load_model(path)
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    assert {str(q.bits) for q in quantizers} == {width, "8"}


def test_the_command_line_knows_the_words(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(tables, "make", lambda kind, out, experiment, **rest: made.append(experiment) or 1 / 0)
    for options in (["--bits", "ternary"], ["--bits", "binary", "--activation-bits", "4"], ["--weight-bits", "binary"]):
        with pytest.raises(ZeroDivisionError):
            main(["table", *SMALL, *options])
    assert [(e.weight_bits, e.activation_bits) for e in made] == [("ternary", "ternary"), ("binary", 4), ("binary", 4)]
    assert main(["table", *SMALL, "--bits", "none"]) == 2
    assert "or one of 'binary', 'ternary', got 'none'" in capsys.readouterr().err
