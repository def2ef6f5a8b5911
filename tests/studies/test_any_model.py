"""OEU on models that others made: PyTorch's own QAT networks and plain float ones beside ours."""

import copy
import json
import math

import pytest
import torch

from oeu_ref.core import OEU
from oeu_ref.core.quantizer import fake_quantize
from oeu_ref.lab import engine, search
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.study import run as run_study
from oeu_ref.studies import STUDIES, any_model

SIZES = (6, 16, 12, 4)
TOOLS = any_model.quantization is not None
needs_tools = pytest.mark.skipif(not TOOLS, reason="this version of PyTorch has no torch.ao.quantization")
needs_engine = pytest.mark.skipif(
    torch.backends.quantized.engine == "none", reason="this build of PyTorch has no quantized engine"
)
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs_tools if kind == "torch" else ()) for kind in any_model.KINDS]
)


def network(kind, batch=None):
    """A small network of one kind; batch: what its quantizers see first, and by default remember, None: nothing."""
    torch.manual_seed(0)
    model = any_model.KINDS[kind][1](SIZES)
    if batch is not None:
        model(batch)
        any_model.freeze_ranges(model)
    return model


def batches(seed=0):
    """(forget_inputs, retain_inputs, retain_labels) of a small problem."""
    generator = torch.Generator().manual_seed(seed)
    forget, retain = (torch.rand(n, 6, generator=generator) for n in (9, 20))
    return forget, retain, torch.randint(0, 4, (20,), generator=generator)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)


def snapshot(model):
    """Everything that a model holds, copied."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    """Names of what differs from a snapshot, in shape or in value."""
    now = model.state_dict()
    return [name for name, value in before.items() if not torch.equal(value, now[name])]


@kinds
def test_steps_forget_and_leave_the_retain_gradient_alone(kind):
    """On each kind of network every layer's projected gradient is orthogonal, and the forget entropy rises."""
    forget, retain, labels = batches()
    model = network(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(retain), labels).backward()
        optimizer.step()
    any_model.freeze_ranges(model)
    unlearner = OEU(model, sgd(model), beta=3.0)
    reports, left = [], []
    for _ in range(100):
        plan = unlearner.plan(forget, retain, labels)
        left += plan.layer_residuals.values()
        reports.append(unlearner.take(plan))
    assert reports[-1].forget_entropy > 1.3 * reports[0].forget_entropy
    assert max(abs(cosine) for cosine in reports[0].layer_cosines.values()) > 0.05
    assert max(map(abs, left)) < 1e-5


@needs_tools
def test_observers_watch_every_batch_until_they_are_told_not_to():
    """Control: with observers on, a step and even an evaluation move the ranges; after `freeze_ranges` nothing does."""
    forget, retain, labels = batches()
    for frozen in (True, False):
        model = network("torch", retain)
        if not frozen:
            model.apply(any_model.quantization.enable_observer)
        before = snapshot(model)
        with torch.no_grad():
            model.eval()(3 * forget)
        evaluated = changed(before, model)
        OEU(model, sgd(model)).step(3 * forget, retain, labels)
        stepped = [name for name in changed(before, model) if name.endswith((".scale", ".min_val", ".max_val"))]
        assert bool(evaluated) != frozen
        assert bool(stepped) != frozen
        assert {f"layers.0.{name}" for name in ("weight", "bias", "bn.weight", "bn.running_mean")} <= {
            *changed(before, model)
        }


@needs_tools
@pytest.mark.parametrize("seen", [True, False])
def test_an_error_puts_observers_back_even_where_their_buffers_have_changed_shape(seen):
    """A step that is refused leaves ranges, scales and statistics as they were, those of channels that no batch has
    reached yet included, whose buffers have no elements."""
    forget, retain, labels = batches()
    model = network("torch", retain if seen else None)
    model.apply(any_model.quantization.enable_observer)
    before, buffers = snapshot(model), dict(model.named_buffers())
    with pytest.raises(ValueError, match="retain_labels must lie in"):
        OEU(model, sgd(model)).step(2 * forget, retain, labels + 10)
    assert not changed(before, model)
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    OEU(model, sgd(model)).step(forget, retain, labels)


@needs_tools
def test_a_learned_scale_belongs_to_the_layer_that_it_serves():
    """PyTorch's learned quantizers hold a scale as a parameter; as a layer of its own it would never unlearn."""
    learnable = pytest.importorskip("torch.ao.quantization._learnable_fake_quantize")
    quantization = any_model.quantization
    quantizer = learnable._LearnableFakeQuantize.with_args(
        observer=quantization.MovingAverageMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8, scale=0.02
    )
    model = any_model.Network(SIZES).train()
    model.qconfig = quantization.QConfig(activation=torch.nn.Identity, weight=quantizer)
    with any_model._no_deprecation_warnings():
        model = quantization.prepare_qat(model)
    scales = [name for name, _ in model.named_parameters() if name.endswith("weight_fake_quant.scale")]
    assert len(scales) == 3
    report = OEU(model, sgd(model)).step(*batches())
    assert set(report.layer_cosines) == {f"layers.{i}" for i in range(3)} | {f"norms.{i}" for i in range(2)}


@needs_tools
def test_pytorchs_quantizer_passes_gradients_by_the_rounded_value():
    """Up to half a step beyond the largest code a gradient passes, as with our mask="round", and not with "clip"."""
    step = 0.125
    x = step * torch.tensor([-8.6, -8.4, -8.0, 0.3, 7.0, 7.4, 7.6])
    found = {}
    for mask in ("torch", "round", "clip"):
        inputs = x.clone().requires_grad_(True)
        if mask == "torch":
            torch.fake_quantize_per_tensor_affine(inputs, step, 0, -8, 7).sum().backward()
        else:
            fake_quantize(inputs, step, -8, 7, mask=mask).sum().backward()
        found[mask] = inputs.grad.tolist()
    assert found["torch"] == found["round"] == [0, 1, 1, 1, 1, 1, 0]
    assert found["clip"] == [0, 0, 1, 1, 1, 0, 0]


@needs_tools
@needs_engine
def test_the_converted_network_predicts_what_the_fake_quantized_one_did():
    """After unlearning: real 8-bit integers inside, logits within two steps of the last layer, nearly the same classes;
    the fake-quantized model itself is left as it was."""
    forget, retain, labels = batches()
    model = network("torch", torch.cat([forget, retain]))
    unlearner = OEU(model, sgd(model), beta=0.3)
    for _ in range(20):
        unlearner.step(forget, retain, labels)
    model.eval()
    before = snapshot(model)
    integer = any_model.converted(model)
    assert integer.layers[0].weight().int_repr().dtype == torch.int8
    inputs = torch.rand(300, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        simulated, real = model(inputs), integer(inputs)
    scale = float(model.layers[-1].activation_post_process.scale)
    assert (simulated - real).abs().max() <= 3 * scale
    assert (simulated.argmax(1) == real.argmax(1)).float().mean() > 0.95
    assert not changed(before, model)


def test_ours_is_the_demos_own_run():
    """The example's short loop and the experiments' own are the same run, bit for bit."""
    case = any_model.prepare("ours", 1, QUICK)
    twin = engine.prepare(1, QUICK)
    settings, steps = search.load_settings(QUICK.max_steps)["oeu"]
    model = any_model.unlearn(case, settings.learning_rate, settings.weight, steps)
    expected = engine.forget(twin, "oeu", settings, steps)[0].state_dict()
    assert not changed(expected, model)


def test_the_study_writes_what_it_measured(tmp_path):
    """A quick run: every kind of network with every row, and the table is a function of the JSON alone."""
    written = run_study(any_model, tmp_path, seeds=(1, 2), quick=True, progress=False)
    data = json.loads(written["json"].read_text())
    assert "any-model" in STUDIES and written["picture"].stat().st_size > 10_000
    assert any_model.markdown(data) == written["table"]
    assert set(data["runs"]) == {"ours", "float"} | ({"torch"} if TOOLS else set())
    for kind, runs in data["runs"].items():
        assert len(runs) == 2
        for run in runs:
            assert {"original", "retrain", "oeu"} <= set(run)
            assert all(math.isfinite(value) for row in run.values() for value in row.values())
        assert any_model.KINDS[kind][0] in written["table"]


def test_a_pytorch_without_the_tools_is_said_so(tmp_path, monkeypatch):
    """Where `torch.ao.quantization` is gone the study goes on without it, in one line."""
    monkeypatch.setattr(any_model, "quantization", None)
    with pytest.raises(NotImplementedError, match="has no torch.ao.quantization"):
        any_model.prepared(SIZES)
    table = run_study(any_model, tmp_path, seeds=(1,), quick=True, progress=False)["table"]
    assert "PyTorch's QAT: not measured, this version has no torch.ao.quantization." in table
    assert copy.deepcopy(network("float"))(batches()[0]).shape == (9, 4)
