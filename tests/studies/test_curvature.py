"""Beyond first order: the study of slope and curvature, where codes flip first, and guards that bound a step."""

import copy
import dataclasses
import itertools
import json

import pytest
import torch
from torch.nn import functional

from oeu_ref import core
from oeu_ref.beyond import curvature as core_curvature
from oeu_ref.beyond import curvature_reference
from oeu_ref.core import OEU, QuantMLP
from oeu_ref.data.samples import Batches, Samples, stream
from oeu_ref.lab import engine
from oeu_ref.lab.baselines import Settings
from oeu_ref.lab.experiment import QUICK
from oeu_ref.studies import first_order, step_bound
from oeu_ref.studies.study import run as run_study
from tests.beyond.test_curvature import quantized_layer


def test_on_the_staircase_the_prediction_bounds_nothing():
    """Before the first code flips the weights' loss does not move, whatever is predicted; at the flip it jumps, by more
    than the prediction says."""
    layer, x, labels = quantized_layer()
    loss = functional.cross_entropy(layer(x), labels)
    gradient = torch.autograd.grad(loss, [layer.weight], create_graph=True)
    d = [torch.where(layer.weight_quantizer.codes(layer.weight).abs() < 3, -gradient[0].detach(), 0.0)]  # uphill
    slope, bend = (gradient[0].detach() * d[0]).sum(), core_curvature.curvature(gradient, [layer.weight], d)[0]
    eta = first_flip_of(layer, d[0])
    changes = []
    for share in (0.999, 1.001):
        moved = copy.deepcopy(layer)
        with torch.no_grad():
            moved.weight -= share * eta * d[0]
            changes.append((functional.cross_entropy(moved(x), labels) - loss).item())
    predicted = curvature_reference.loss_change(eta, slope.detach(), bend).item()
    assert changes[0] == 0 < predicted
    assert changes[1] > 1.1 * predicted


def first_flip_of(layer, direction):
    model = QuantMLP((6, 4), 3, 32, 3)
    model.layers[0] = layer
    return first_order.first_flip(model, {"layers.0.weight": direction})


@pytest.fixture(scope="module")
def case():
    """The digits with networks of a few epochs, 4 bits."""
    with engine.one_thread():
        return engine.prepare(0, QUICK)


@pytest.mark.parametrize("way", ["projected", "raw"])
def test_the_first_flip_is_exact(case, way):
    """A hair before the eta that is reported no weight code differs; a hair beyond one does, and only one."""
    model = copy.deepcopy(case.original).double().eval()
    named = {name: p for name, p in model.named_parameters() if name in [f"layers.{i}.weight" for i in range(3)]}
    losses = first_order._losses(model, case.splits)
    g_f, g_r = (torch.autograd.grad(loss(), list(named.values())) for loss in losses)
    d = first_order._directions(model, named, g_f, g_r)[way]
    eta, before = first_order.first_flip(model, dict(zip(named, d))), first_order._codes(model)
    counts = []
    for share in (1 - 1e-9, 1 + 1e-9):
        with first_order._moved(list(named.values()), d, share * eta):
            counts.append(sum(int((a != b).sum()) for a, b in zip(before, first_order._codes(model))))
    assert counts == [0, 1]
    found = first_order.staircase(case.original, case.splits, "weights")
    assert found["first_flip"][way] == eta
    still = [k for k, value in enumerate(first_order.ETAS) if value < eta]
    assert still and all(found["retain"][way][k] == found["flipped"][way][k] == 0 for k in still)


def test_a_weight_at_the_end_of_the_range_flips_inward_alone():
    """Codes of 3 bits end at 3: on the way out none flips, on the way in at 2.5 steps."""
    layer = quantized_layer()[0]
    with torch.no_grad():
        layer.weight.fill_(0.06 * 3.25)
    outward = -torch.ones_like(layer.weight)
    assert first_flip_of(layer, outward) is None
    assert first_flip_of(layer, -outward) == pytest.approx(0.06 * 0.75, rel=1e-6)  # 0.06 is stored as float32


def test_without_a_bound_the_loop_is_oeu_itself(case):
    """The study's loop without a bound takes the steps of `OEU` with PyTorch's SGD and momentum."""
    settings = Settings(0.1, 0.3, 0.9, 0.0)
    model, _ = step_bound.unlearned(case, settings, "none", 0.0, 4)
    twin = copy.deepcopy(case.original)
    unlearner = OEU(twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), beta=0.3)
    forget, retain = (
        Batches(getattr(case.splits, part), 128, stream(case.seed, f"{part} batches")) for part in ("forget", "retain")
    )
    for _ in range(4):
        f, r = next(forget), next(retain)
        unlearner.step(f.inputs, r.inputs, r.labels)
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6, msg=name)
    for (name, p), q in zip(model.named_buffers(), twin.buffers()):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-6, msg=name)


def test_every_guard_does_what_it_says(case):
    """With a bound: the prediction obeys for direction and update, the measured rise for measured; without momentum the
    former two are one; a bound that is never met changes nothing."""
    bounds = {"max_increase": 0.01, "steps": 3}
    for guard in ("direction", "update"):
        _, records = step_bound.unlearned(case, Settings(3.0, 0.3, 0.9, 0.0), guard, **bounds)
        assert all(record["predicted"] <= 0.01 * (1 + 1e-9) for record in records)
        assert any(record["share"] < 1 for record in records)
    _, records = step_bound.unlearned(case, Settings(3.0, 0.3, 0.9, 0.0), "measured", **bounds)
    assert all(record["increase"] <= 0.01 for record in records) and records[0]["share"] < 1
    plain = Settings(3.0, 0.3, 0.0, 0.0)
    for one, other in zip(
        *(step_bound.unlearned(case, plain, guard, **bounds)[1] for guard in ("direction", "update"))
    ):
        assert one == pytest.approx(other, rel=1e-4)
    slow = Settings(0.1, 0.3, 0.9, 0.0)
    free = [step_bound.unlearned(case, slow, guard, 1e6, 2)[0] for guard in ("none", "update")]
    assert all(torch.equal(p, q) for p, q in zip(*(model.parameters() for model in free)))
    with pytest.raises(ValueError, match="guard must be one of"):
        step_bound.unlearned(case, Settings(0.1), "hope", 0.1, 1)


def test_the_guard_of_the_update_shortens_momentums_memory_too(case):
    """Replayed step by step with `OEU`'s directions: what is bounded, moved and remembered is the whole update. In
    float64: in float32 a rounding may flip a code, and the two runs part."""
    parts = {name: getattr(case.splits, name) for name in ("forget", "retain")}
    splits = dataclasses.replace(case.splits, **{n: Samples(s.inputs.double(), s.labels) for n, s in parts.items()})
    case = dataclasses.replace(case, splits=splits, original=copy.deepcopy(case.original).double())
    model, records = step_bound.unlearned(case, Settings(3.0, 0.3, 0.9, 0.0), "update", 0.01, 4)
    assert sum(record["share"] < 1 for record in records[:-1]) >= 2
    twin = copy.deepcopy(case.original)
    unlearner = OEU(twin, torch.optim.SGD(twin.parameters(), lr=0.0), beta=0.3)  # leaves d in grad, moves nothing
    forget, retain = (
        Batches(getattr(case.splits, part), 128, stream(case.seed, f"{part} batches")) for part in ("forget", "retain")
    )
    named = dict(twin.named_parameters())
    memory = [torch.zeros_like(p) for p in named.values()]
    for record in records:
        f, r = next(forget), next(retain)
        unlearner.step(f.inputs, r.inputs, r.labels)
        update = [p.grad + 0.9 * m for p, m in zip(named.values(), memory)]
        probe = copy.deepcopy(twin).train()
        leaves = dict(probe.named_parameters())
        loss = functional.cross_entropy(probe(r.inputs), r.labels)
        graph = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        slope, bend = step_bound.slope_and_curvature(leaves, graph, update)
        predicted = curvature_reference.loss_change(3.0 * record["share"], slope, bend).item()
        assert record["predicted"] == pytest.approx(predicted, rel=1e-6)
        memory = [record["share"] * u for u in update]
        with torch.no_grad():
            for p, m in zip(named.values(), memory):
                p -= 3.0 * m
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9, msg=name)


def test_the_study_writes_what_it_measured(tmp_path):
    """A quick run: three files, the table and the figure functions of the JSON alone, the same again."""
    written = run_study(first_order, tmp_path / "one", seeds=(0,), quick=True, progress=False)
    data = json.loads(written["json"].read_text(encoding="utf-8"))
    text = written["markdown"].read_text(encoding="utf-8")
    assert first_order.markdown(data) == written["table"] == text.rstrip("\n")
    assert written["picture"].read_bytes().startswith(b"\x89PNG")
    assert [(r["bits"], r["scope"]) for r in data["staircase"]] == list(itertools.product((4, 32), ("weights", "all")))
    assert [run["activation"] for run in data["smooth"]] == ["GELU"]
    assert {run["guard"] for run in data["bound"]} == set(step_bound.GUARDS)
    for run in data["smooth"]:
        assert abs(run["slope"]["projected"]) < 1e-12 < abs(run["slope"]["raw"])
    again = run_study(first_order, tmp_path / "two", seeds=(0,), quick=True, progress=False)
    assert again["json"].read_bytes() == written["json"].read_bytes()


def test_a_run_that_diverges_is_counted_not_hidden(tmp_path, monkeypatch):
    """A diverged run is marked in the JSON, and the table says how many there were."""

    def diverge(*args, **options):
        raise core.NonFiniteError("the loss must be finite")

    monkeypatch.setattr(step_bound, "unlearned", diverge)
    written = run_study(first_order, tmp_path, seeds=(0,), quick=True, progress=False)
    assert "no bound (1 diverged)" in written["table"]
