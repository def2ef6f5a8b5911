"""The monitor: it changes nothing, its figures are those worked out by hand, and each failure has its own warning."""

import copy
import json
import math
import pathlib
import pickle
import random
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from oeu_ref import beyond
from oeu_ref.beyond.monitor import SIGNATURES, Monitor, Monitored, Thresholds, UnlearningWarning
from oeu_ref.core import OEU, NonFiniteError, QuantMLP
from oeu_ref.methods.orthogonal import JointOEU

# most networks here are untrained, and some of the optimizers wild
pytestmark = pytest.mark.filterwarnings("ignore::oeu_ref.beyond.monitor.UnlearningWarning")


def batches(seed=0, features=6, classes=4):
    """(forget_inputs, retain_inputs, retain_labels) of a small problem."""
    generator = torch.Generator().manual_seed(seed)
    forget, retain = (torch.rand(n, features, generator=generator) for n in (7, 12))
    return forget, retain, torch.randint(0, classes, (12,), generator=generator)


class Noisy(nn.Module):
    """Dropout, BatchNorm and quantizers, and noise from all three of the global generators."""

    def __init__(self):
        super().__init__()
        self.net = QuantMLP((6, 16, 12, 4), batch_norm=True)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1  # a buffer that is replaced, not written to
        scale = 1 + 0.1 * random.random() + 0.1 * np.random.random()
        return self.dropout(self.net(scale * self.dropout(x)))


def watched(model, optimizer, monitor=True, kind=OEU, **options):
    """An unlearner under a monitor, True: a new one, None: none."""
    unlearner = kind(model, optimizer, **options)
    return unlearner if monitor is None else Monitored(unlearner, None if monitor is True else monitor)


def run(model, steps=6, monitor=None, optimizer=None, batch=None, **options):
    """Some steps on batches of their own; returns the unlearner."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    unlearner = watched(model, optimizer, monitor, **options)
    for seed in range(steps):
        unlearner.step(*(batch or batches(seed)))
    return unlearner


def seeded():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)


def everything(unlearner):
    """All that a run leaves: weights, buffers, modes, optimizer and what the generators draw next."""
    state = {**unlearner.model.state_dict()}
    for key, values in unlearner.optimizer.state_dict()["state"].items():
        state |= {f"{key}.{name}": torch.as_tensor(value) for name, value in values.items()}
    drawn = [torch.rand(3), torch.tensor(np.random.random(3)), torch.tensor(random.random())]
    modes = torch.tensor([module.training for module in unlearner.model.modules()])
    return {**state, **{f"drawn {i}": value for i, value in enumerate(drawn)}, "modes": modes}


def noisy_loss(logits):
    return (logits * torch.rand(logits.shape)).mean()  # the monitor does not draw this a second time


CHOICES = {
    "separate": {},
    "joint": {"kind": JointOEU},
    "keep": {"mode": "keep"},
    "global": {"granularity": "global"},
    "own loss": {"forget_loss": noisy_loss},
    "sparse": {"monitor": Monitor(every=2)},
}


@pytest.mark.parametrize("options", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_monitored_run_is_the_unmonitored_one_to_the_last_bit(options, autocast):
    """Weights, buffers, optimizer, modes and random generators end with the same bits, with dropout in the model."""
    ends = []
    for monitor in (None, options.get("monitor", True)):
        seeded()
        model = Noisy().eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            unlearner = run(model, 4, **{**options, "monitor": monitor})
        ends.append(everything(unlearner))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
    if options.get("mode") != "keep":
        assert ends[0]["calls"] == (4 if options.get("kind") is JointOEU else 8)


@pytest.mark.parametrize("kind", [OEU, JointOEU])
def test_the_actual_change_is_measured_with_the_random_numbers_of_the_step(kind):
    """With the learning rate at zero nothing changes, whatever dropout draws; other random numbers would show, and so
    would another mode than the step's."""
    seeded()
    model = Noisy().eval()
    unlearner = run(model, 3, True, torch.optim.SGD(model.parameters(), 0.0), kind=kind)
    for record in unlearner.monitor.records:
        assert record["actual"] == {"forget": 0.0, "retain": 0.0, "entropy": 0.0}
        assert record["predicted"] == {"forget": 0.0, "retain": 0.0}
    # the control: the same network on the same batch, with fresh random numbers
    model.train()
    assert not torch.equal(model(batches()[1]), model(batches()[1]))


def test_autocast_does_not_hide_the_change():
    """Within autocast the old weights wait in its cache: the second evaluation has to cast the new ones."""
    model = linear(False)
    with torch.autocast("cpu", torch.bfloat16):
        record = run(model, 1, True, torch.optim.SGD(model.parameters(), 1.0)).monitor.last
    assert record["actual"]["retain"] < -0.01 and record["predicted"]["retain"] < -0.01


def linear(double=True):
    torch.manual_seed(0)
    return nn.Linear(6, 4).double() if double else nn.Linear(6, 4)


def doubled(seed=0):
    return tuple(t.double() if t.is_floating_point() else t for t in batches(seed))


def gradients(model, forget, retain, labels):
    """(g_f, g_r), each one vector, by automatic differentiation of the two losses as the paper writes them."""
    log_p = model(forget).log_softmax(1)
    losses = (log_p.exp() * log_p).sum(1).mean(), nn.functional.cross_entropy(model(retain), labels)
    return [torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]) for loss in losses]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("momentum, weight_decay", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.3)])
def test_predictions_and_cosines_are_those_of_the_formulas(momentum, weight_decay):
    """<g_f, u>, <g_r, u>, cos(u, g_r), cos(u, g_r) - cos(-d, g_r), u the actual update, on a network of one layer."""
    model, data = linear(), [doubled(0), doubled(1)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum, weight_decay=weight_decay)
    unlearner = watched(model, optimizer, beta=0.7)
    for batch in data:
        before, (g_f, g_r) = flat(model), gradients(model, *batch)
        d = g_r + 0.7 * (g_f - g_f.dot(g_r) / g_r.dot(g_r) * g_r)
        losses = [loss(model, *batch) for loss in (entropy_of, retain_of)]
        unlearner.step(*batch)
        u, record = flat(model) - before, unlearner.monitor.records[-1]
        climb, aimed = (v.dot(g_r) / v.norm() / g_r.norm() for v in (u, -d))
        assert record["predicted"]["forget"] == pytest.approx(g_f.dot(u).item(), rel=1e-9)
        assert record["predicted"]["retain"] == pytest.approx(g_r.dot(u).item(), rel=1e-9)
        assert record["update_cosine"] == pytest.approx(climb.item(), abs=1e-9)
        assert record["turned_back"] == pytest.approx((climb - aimed).item(), abs=1e-9)
        assert record["update_norm"] == pytest.approx(u.norm().item(), rel=1e-9)
        assert record["actual"]["entropy"] == pytest.approx(entropy_of(model, *batch) - losses[0], abs=1e-12)
        assert record["actual"]["forget"] == -record["actual"]["entropy"]
        assert record["actual"]["retain"] == pytest.approx(retain_of(model, *batch) - losses[1], abs=1e-12)
        layer = record["layers"][""]
        assert layer["predicted_retain"] == pytest.approx(record["predicted"]["retain"], rel=1e-9)
        assert layer["turned_back"] == pytest.approx(record["turned_back"], abs=1e-9)


@torch.no_grad()
def entropy_of(model, forget, retain, labels):
    p = model(forget).softmax(1)
    return -(p * p.log()).sum(1).mean().item()


@torch.no_grad()
def retain_of(model, forget, retain, labels):
    return nn.functional.cross_entropy(model(retain), labels).item()


def test_the_prediction_holds_for_a_small_step_and_not_for_a_large_one():
    """On a smooth network actual and predicted change agree to first order: the error falls with the square."""
    errors = []
    for rate in (1e-2, 1e-3, 10.0):
        model = linear()
        record = run(model, 1, True, torch.optim.SGD(model.parameters(), rate), batch=doubled()).monitor.last
        errors.append([abs(record["actual"][k] - record["predicted"][k]) for k in ("forget", "retain")])
    for coarse, fine, lost in zip(*errors):
        assert coarse / fine == pytest.approx(100, rel=0.1)
        assert lost > 0.1  # the control


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_plain_sgd_turns_nothing_back(rate):
    """The update is -rate d: its angle with the retain gradient is the direction's, at any rate and in every layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    monitor = run(model, 3, Monitor(), torch.optim.SGD(model.parameters(), rate), batch=doubled()).monitor
    for record in monitor.records:
        assert abs(record["turned_back"]) < 1e-9
        assert all(abs(layer["turned_back"]) < 1e-9 for layer in record["layers"].values())


def vector_step(momentum_buffer, weight_decay):
    """One parameter vector w = (w1, w2), gradients (1, 0) for retain and (0, 1) for forget, worked out below."""

    class Plane(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0, 0.0], dtype=torch.float64))

        def forward(self, x):
            # forget samples carry a second feature, retain samples a first
            first, second = x[:, :1] * self.w[0], x[:, 1:] * self.w[1]
            return torch.cat([first, second, torch.zeros_like(first)], dim=1)

    model = Plane()
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.5, weight_decay=weight_decay)
    if momentum_buffer is not None:
        buffer = torch.tensor(momentum_buffer, dtype=torch.float64)
        optimizer.state[model.w]["momentum_buffer"] = buffer
    forget, retain = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    unlearner = watched(model, optimizer, beta=0.0, forget_loss=lambda z: z[:, 1].sum())
    unlearner.step(forget, retain, torch.tensor([1]))
    return unlearner.monitor.last


def test_momentum_and_weight_decay_turn_the_update_back_as_worked_out_by_hand():
    """With g_r = (g, 0), g > 0, and beta = 0: d = g_r, cos(-d, g_r) = -1. A buffer (-4g, 0) at momentum 1/2 makes
    u = -(g - 2g, 0) = (g, 0): cos 1, turned back 2. A buffer (0, 2g): u = -(g, g), cos -1/sqrt(2). A buffer along d:
    nothing. Weight decay -g at w1 = 2 with coefficient -g (here: c = -2g/2) makes the same (g, 0)."""
    g = math.exp(2) / (math.exp(2) + 2)  # p_1 at logits (2, 0, 0), the slope of -log p_2
    assert vector_step(None, 0.0)["turned_back"] == pytest.approx(0, abs=1e-12)
    assert vector_step([6 * g, 0.0], 0.0)["turned_back"] == pytest.approx(0, abs=1e-12)
    assert vector_step([-4 * g, 0.0], 0.0)["turned_back"] == pytest.approx(2)
    assert vector_step([0.0, 2 * g], 0.0)["turned_back"] == pytest.approx(1 - math.sqrt(0.5))
    record = vector_step([-4 * g, 0.0], 0.0)
    assert record["predicted"]["retain"] == pytest.approx(g * g) and record["update_cosine"] == pytest.approx(1)


def test_weight_decay_that_is_stronger_than_the_retain_gradient_climbs():
    """w1 = 2 raises the loss -log p_1 when it shrinks: with decay c, u = -(g + 2c), g = p_1 - 1 < 0, and 2c > -g
    turns the sign: from descent (-1) to climb (+1), so 2 is turned back."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x):
            return torch.cat([x * self.w, torch.zeros_like(x)], dim=1)

    for decay, turned in ((0.0, 0.0), (0.05, 0.0), (0.07, 2.0)):  # -g / 2 = (1 - p_1) / 2 = 0.0596
        model = Line()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, weight_decay=decay)
        x = torch.ones(1, 1, dtype=torch.float64)
        unlearner = watched(model, optimizer, beta=0.0)
        unlearner.step(x, x, torch.tensor([0]))
        assert unlearner.monitor.last["turned_back"] == pytest.approx(turned, abs=1e-9), decay


def test_records_are_plain_data_and_say_what_the_report_says():
    """JSON without NaN takes them; entropy as share of log K and of the way to the target."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4), batch_norm=True)
    start = run(copy.deepcopy(model), 1, True).monitor.last["forget_entropy"]
    monitor = Monitor(target_entropy=start + 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    unlearner = watched(model, optimizer, monitor)
    for seed in range(3):
        plan = unlearner.plan(*batches(seed))
        report = unlearner.take(plan)
        record = monitor.last
        for name in ("forget_loss", "retain_loss", "forget_entropy", "cosine"):
            assert record[name] == getattr(report, name)
        assert record["residual"] == plan.residual
        assert record["step"] == seed + 1
        assert record["entropy_share"] == pytest.approx(report.forget_entropy / math.log(4))
        assert record["entropy_progress"] == pytest.approx((report.forget_entropy - start) / 0.5, abs=1e-5)
        assert {name: layer["cosine"] for name, layer in record["layers"].items()} == report.layer_cosines
        assert {name: layer["residual"] for name, layer in record["layers"].items()} == plan.layer_residuals
    assert json.loads(json.dumps(monitor.records, allow_nan=False)) == monitor.records


def test_the_rooms_readme_names_each_key_of_a_record():
    """And no other."""
    torch.manual_seed(0)
    record = run(QuantMLP((6, 16, 4)), 1, True).monitor.last
    text = (pathlib.Path(beyond.monitor.__file__).parent / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| key of a record") :].split("\n\n")[0]
    named = [word for row in table.splitlines()[2:] for word in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(record)


def test_changed_codes_and_steps_are_those_of_the_quantizers():
    """The count is what `Quantizer.codes` finds before and after; step sizes are the parameters themselves."""
    torch.manual_seed(0)
    model, batch = QuantMLP((6, 16, 12, 4)), batches()
    model(batch[1])

    def codes():
        return [layer.weight_quantizer.codes(layer.weight) for layer in model.layers]

    before, steps = codes(), {n: p.item() for n, p in model.named_parameters() if n.endswith("quantizer.step")}
    record = run(model, 1, True, torch.optim.SGD(model.parameters(), 0.5), batch=batch).monitor.last
    changed = sum((old != new).sum().item() for old, new in zip(before, codes()))
    assert record["codes_changed"] == changed > 0 and record["codes"] == sum(c.numel() for c in before)
    after = dict(model.named_parameters())
    assert record["step_sizes"] == {name: [value, after[name].item()] for name, value in steps.items()}
    plain = nn.Linear(6, 4)
    record = run(plain, 1, True).monitor.last
    assert record["codes"] is None and record["codes_changed"] is None and record["step_sizes"] == {}


def test_an_exception_leaves_no_half_record():
    """A refused step leaves records, counters and warnings as they were; the next one goes on."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4), batch_norm=True)
    unlearner = run(model, 2, True)
    before = copy.deepcopy(vars(unlearner.monitor))
    forget, retain, labels = batches(2)
    with pytest.raises(NonFiniteError):
        unlearner.step(forget * math.nan, retain, labels)
    with pytest.raises(ValueError, match="retain_labels"):
        unlearner.step(forget, retain, labels + 10)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="connect"):
        unlearner.step(forget, retain, labels)
    model.requires_grad_(True)
    assert vars(unlearner.monitor) == before
    unlearner.step(forget, retain, labels)
    assert [record["step"] for record in unlearner.monitor.records] == [1, 2, 3]


def test_frozen_unused_and_held_back_parameters_and_other_dtypes():
    """A frozen layer has no entry, an unused one neither; bfloat16 parameters are measured in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)).bfloat16()
    model.unused = nn.Linear(3, 3).bfloat16()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    model[0].requires_grad_(False)
    data = tuple(t.bfloat16() if t.is_floating_point() else t for t in batches())
    record = run(model, 2, True, torch.optim.SGD(model.parameters(), 0.1), batch=data).monitor.last
    assert list(record["layers"]) == ["2"] and record["predicted"]["retain"] < 0


def test_layers_that_not_every_step_uses_come_and_go():
    """A layer that some batches leave out is in the records of the others; no signature minds."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.extra, self.calls = nn.Linear(6, 4), nn.Linear(6, 4), 0

        def forward(self, x):
            return self.main(x) + (self.extra(x) if x.sum() > 0 else 0)

    torch.manual_seed(0)
    unlearner = watched(model := Gate(), torch.optim.SGD(model.parameters(), 0.01))
    forget, retain, labels = batches()
    for step in range(12):
        sign = 1 if step % 3 else -1
        unlearner.step(sign * forget, sign * retain, labels)
    assert [len(record["layers"]) for record in unlearner.monitor.records] == [1, 2, 2] * 4
    assert unlearner.monitor.sizes == {"main": 28, "extra": 28}


def test_a_forget_loss_of_ones_own_is_not_called_a_second_time():
    """It may draw random numbers: the forget change is unknown, the entropy's is measured; all else stays."""
    calls = []

    def loss(logits):
        calls.append(1)
        return -nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))

    record = run(linear(False), 3, True, forget_loss=loss).monitor.last
    assert len(calls) == 3 and record["actual"]["forget"] is None
    assert record["actual"]["entropy"] != 0 and record["predicted"]["forget"] != 0


def test_copies_and_pickles_go_on_by_themselves():
    """A deep copy and a pickle of the unlearner keep the records and take the same next step, apart from the first."""
    torch.manual_seed(0)
    unlearner = run(QuantMLP((6, 16, 12, 4)), 3, True)
    others = [copy.deepcopy(unlearner), pickle.loads(pickle.dumps(unlearner))]
    for one in (unlearner, *others):
        one.step(*batches(9))
    assert len(unlearner.monitor.records) == 4
    for other in others:
        assert other.monitor.records == unlearner.monitor.records and other.monitor is not unlearner.monitor


def test_a_long_run_keeps_a_bounded_and_even_record():
    """Beyond max_records every second goes, evenly over the run; the record at which a warning fired stays."""
    monitor = Monitor(max_records=16, target_entropy=5.0)  # above log 4: never reached
    with pytest.warns(UnlearningWarning, match="step 20, under-forgetting"):
        run(linear(False), 130, monitor, batch=batches())
    assert monitor.steps == monitor.measured == 130 and monitor.keep_every == 16
    assert [record["step"] for record in monitor.records] == sorted([*range(1, 131, 16), 20])
    sparse = Monitor(every=4)
    run(linear(False), 10, sparse, batch=batches())
    assert [record["step"] for record in sparse.records] == [1, 5, 9] and sparse.steps == 10


# What a run looks like to the signatures, healthy, and what is changed to show each failure.
LOG_K = math.log(10)
HEALTHY = {
    "forget_loss": -0.6,
    "retain_loss": 0.05,
    "forget_entropy": 0.6,
    "predicted": {"forget": -0.01, "retain": -0.001},
    "actual": {"forget": -0.01, "retain": 0.0, "entropy": 0.01},
    "cosine": -0.1,
    "residual": 0.0,
    "update_norm": 0.1,
    "update_cosine": -0.3,
    "turned_back": 0.5,
    "eval_gap": 0.1,
    "codes_changed": 100,
    "codes": 1000,
    "step_sizes": {"layers.0.weight_quantizer.step": [0.1, 0.101]},
    "layers": {name: {"cosine": -0.2} for name in ("layers.0", "layers.1", "layers.2", "step", "scale")},
}
SIZES = {"layers.0": 40, "layers.1": 40, "layers.2": 40, "step": 1, "scale": 1}
COLLINEAR = {name: {"cosine": -0.99} for name in SIZES}
FAILING = {
    "over-forgetting": {"forget_entropy": 0.8 * LOG_K},
    "under-forgetting": {"forget_entropy": 0.1},
    "retain loss": {"actual": {"forget": -0.01, "retain": 1.5, "entropy": 0.01}},
    "collinear gradients": {"layers": COLLINEAR},
    "turned back": {"update_cosine": 0.2, "turned_back": 1.1},
    "quantizer step": {"step_sizes": {"layers.0.weight_quantizer.step": [0.1, -0.004]}},
    "lagging statistics": {"eval_gap": 0.12 * LOG_K},
    "staircase": {"codes_changed": 0},
}
# as bad as a healthy run may look without being taken for a failing one
HARMLESS = {
    "over-forgetting": {"forget_entropy": 0.6 * LOG_K},
    "under-forgetting": {"forget_entropy": 0.1 + 0.04 * LOG_K},
    "retain loss": {"actual": {"forget": -0.01, "retain": 1.0, "entropy": 0.01}},
    "collinear gradients": {
        "layers": HEALTHY["layers"] | {name: {"cosine": 1.0} for name in ("layers.0", "step", "scale")}
    },
    "turned back": {"update_cosine": 0.2, "turned_back": 0.0},  # alpha < 1: the direction climbs by itself
    "quantizer step": {"step_sizes": {"layers.0.weight_quantizer.step": [0.1, 0.3]}},
    "lagging statistics": {"eval_gap": 0.08 * LOG_K},
    "staircase": {"codes_changed": 1},
}


def told(change, steps=40, **options):
    """(signatures that fire, messages) where a run shows `change`, but for the entropy from which it starts."""
    monitor = Monitor(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, steps + 1):
            record = copy.deepcopy(HEALTHY | change | ({"forget_entropy": 0.1} if step == 1 else {}))
            monitor.add({"step": step, **record}, 10, SIZES)
    assert [w.category for w in caught] == [UnlearningWarning] * len(monitor.warnings)
    return [w["signature"] for w in monitor.warnings], [str(w.message) for w in caught]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_failure_has_its_warning_once_and_no_other(signature):
    """Over 40 steps the signature fires once, alone, with a number and a remedy; what only comes close is silent."""
    fired, messages = told(FAILING[signature])
    assert fired == [signature]
    assert signature in messages[0] and any(c.isdigit() for c in messages[0].partition(": ")[2])
    assert any(word in messages[0] for word in ("lower", "raise", "stop", "take"))
    assert told(HARMLESS[signature])[0] == []
    assert told(HEALTHY)[0] == []


def test_a_target_moves_both_entropy_warnings():
    """Far above the target it is over-forgetting, stuck far below it under-forgetting, near it neither."""
    assert told({}, target_entropy=0.7)[0] == []
    assert told({"forget_entropy": 1.0}, target_entropy=0.2)[0] == ["over-forgetting"]
    assert told({}, target_entropy=2.0)[0] == ["under-forgetting"]


def test_single_climbs_are_not_a_turned_back_run():
    """Four climbs in five updates are the noise of batches, however high; five in a row are not."""
    for pattern, fired in (((0.9, 0.9, 0.9, 0.9, -0.01), []), ((0.03,) * 5, ["turned back"])):
        monitor = Monitor()
        for step in range(1, 11):
            monitor.add({"step": step, **HEALTHY, "update_cosine": pattern[step % 5], "turned_back": 1.0}, 10, SIZES)
        assert [warning["signature"] for warning in monitor.warnings] == fired


def test_statistics_that_lag_are_seen_in_eval_mode_now_and_then():
    """The gap is the retain loss of eval mode less that of train mode, of the step's batch at the new weights; every
    third measured step has it, and a network whose statistics were moved away is warned of; anew, it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    for _ in range(50):
        model(batches()[1])
    for moved in (True, False):
        one = copy.deepcopy(model)
        if moved:
            one[1].running_mean.sub_(10)
        watching = watched(one, torch.optim.SGD(one.parameters(), 0.01), Monitor(eval_every=3))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watching.step(*batches())
        losses = []
        for training in (True, False):
            logits = copy.deepcopy(one).train(training)(batches()[1])
            losses.append(nn.functional.cross_entropy(logits, batches()[2]).item())
        assert watching.monitor.last["eval_gap"] == pytest.approx(losses[1] - losses[0], abs=1e-5)
        for seed in range(3):
            watching.step(*batches(seed))
        looked = [record["eval_gap"] is not None for record in watching.monitor.records]
        assert looked == [True, False, False, True]
        assert [str(w.message).partition(":")[0] for w in caught] == ["step 1, lagging statistics"] * moved


def test_a_lost_network_is_a_retain_loss_and_not_over_forgetting():
    """Uniform everywhere gives nothing away; a loss that is no number counts as lost."""
    lost = {"forget_entropy": LOG_K, "actual": {"forget": 0.0, "retain": 2.25, "entropy": 0.0}}
    assert told(lost)[0] == ["retain loss"]
    assert told({"actual": {"forget": None, "retain": None, "entropy": None}})[0] == ["retain loss"]
    # a network that was no better than guessing from the start has nothing to lose
    assert told({"retain_loss": LOG_K + 0.3})[0] == []


def test_steps_collapse_explode_and_jump():
    """Each way for a step to go wrong is named."""
    name = "layers.0.weight_quantizer.step"
    for pair, word in (([0.1, 0.005], "collapsed"), ([0.1, 1.5], "exploded"), ([0.1, -0.1], "jumped across zero")):
        assert word in told({"step_sizes": {name: pair}})[1][0]


def test_a_real_failing_run_warns_and_a_real_healthy_one_does_not():
    """At a wild learning rate the retain loss explodes, once; the warning points to the line that took the step."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batches()[1]), batches()[2]).backward()
        optimizer.step()
    ends = {}
    for rate in (1e-2, 5.0):
        one = copy.deepcopy(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(one, 6, True, torch.optim.SGD(one.parameters(), rate), batch=batches())
        ends[rate] = [str(w.message) for w in caught]
        assert all(w.filename == __file__ for w in caught)
    assert ends[1e-2] == []
    assert sum("retain loss:" in message for message in ends[5.0]) == 1


def test_bad_arguments_are_named():
    """A monitor that is none, thresholds that are none, numbers out of range."""
    plain = OEU(model := linear(), torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(TypeError, match="monitor must be a Monitor, got str"):
        Monitored(plain, "yes")
    with pytest.raises(TypeError, match="unlearner must be an OEU, got Linear"):
        Monitored(model)
    watching = Monitored(plain)
    plan = watching.plan(*doubled())
    watching.plan(*doubled())
    with pytest.raises(ValueError, match="plan must be the one made last"):
        watching.take(plan)
    for options, error, message in (
        ({"thresholds": {}}, TypeError, "thresholds must be a Thresholds"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"eval_every": 0}, ValueError, "eval_every must be at least 1"),
        ({"max_records": 2}, ValueError, "max_records must be at least 16"),
        ({"target_entropy": 0}, ValueError, "target_entropy must be greater than 0"),
    ):
        with pytest.raises(error, match=message):
            Monitor(**options)
    for options, message in (({"uniform": 2}, "uniform must lie in"), ({"patience": 3}, "patience must be at least 5")):
        with pytest.raises(ValueError, match=message):
            Thresholds(**options)
