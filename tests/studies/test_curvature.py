"""Beyond first order: the study of slope and curvature, where codes flip first, and guards that bound a step."""

import copy
import json

import pytest
import torch
from torch.nn import functional

from oeu_ref import core
from oeu_ref.beyond import curvature as core_curvature
from oeu_ref.beyond import curvature_reference
from oeu_ref.core import OEU, QuantMLP
from oeu_ref.lab import engine
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.study import batches
from oeu_ref.lab.study import run as run_study
from oeu_ref.methods.method import Settings
from oeu_ref.studies import first_order, step_bound
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
    found = first_order.staircase(case.original, case.splits)
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


def test_every_guard_does_what_it_says(case):
    """With a bound: the share of the update that was taken is below 1 where a step was shortened; without momentum a
    bound on the direction is one on the update; a bound that is never met changes nothing."""
    bounds = {"max_increase": 0.01, "steps": 3}
    for guard in ("direction", "update"):
        _, records = step_bound.unlearned(case, Settings(3.0, 0.3, 0.9, 0.0), guard, **bounds)
        assert any(record["share"] < 1 for record in records)
    plain = Settings(3.0, 0.3, 0.0, 0.0)
    for one, other in zip(
        *(step_bound.unlearned(case, plain, guard, **bounds)[1] for guard in ("direction", "update"))
    ):
        assert one == pytest.approx(other, rel=1e-4)
    slow = Settings(0.1, 0.3, 0.9, 0.0)
    free = [step_bound.unlearned(case, slow, guard, 1e6, 2)[0] for guard in step_bound.GUARDS]
    for model in free[1:]:
        assert all(torch.equal(p, q) for p, q in zip(free[0].parameters(), model.parameters()))
    with pytest.raises(ValueError, match="guard must be one of"):
        step_bound.unlearned(case, Settings(0.1), "hope", 0.1, 1)


def test_the_bound_on_the_direction_lets_momentum_through(case):
    """Replayed with plain gradients of OEU: v <- 0.9 v + share d, theta <- theta - eta v; the batch's loss is measured
    with BatchNorm's statistics left alone."""
    settings = Settings(3.0, 0.3, 0.9, 0.0)
    model, records = step_bound.unlearned(case, settings, "direction", 0.01, 3)
    twin = copy.deepcopy(case.original)
    unlearner = OEU(twin, torch.optim.SGD(twin.parameters(), lr=0.0), beta=0.3)  # leaves d in grad, moves nothing
    memory = [torch.zeros_like(p) for p in twin.parameters()]
    for record, (f, r) in zip(records, batches(case, 3)):
        loss = unlearner.step(f.inputs, r.inputs, r.labels).retain_loss
        memory = [0.9 * m + record["share"] * p.grad for m, p in zip(memory, twin.parameters())]
        with torch.no_grad():
            for p, m in zip(twin.parameters(), memory):
                p -= 3.0 * m
            after = functional.cross_entropy(copy.deepcopy(twin).train()(r.inputs), r.labels).item()
        assert record["increase"] == pytest.approx(after - loss, rel=1e-3)
    for (name, p), q in zip(model.state_dict().items(), twin.state_dict().values()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4, msg=name)


def test_the_study_writes_what_it_measured(tmp_path):
    """A quick run: three files, the table and the figure functions of the JSON alone, the same again."""
    written = run_study(first_order, tmp_path / "one", seeds=(0,), quick=True, progress=False)
    data = json.loads(written["json"].read_text(encoding="utf-8"))
    text = written["markdown"].read_text(encoding="utf-8")
    assert first_order.markdown(data) == written["table"] == text.rstrip("\n")
    assert written["picture"].read_bytes().startswith(b"\x89PNG")
    assert [run["bits"] for run in data["staircase"]] == [4, 32]
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
