"""A monitor of unlearning: what each step does to both losses, and which known failure a run heads for.

`Monitored(unlearner)` measures, its `monitor.records` hold what it found, and an `UnlearningWarning` says once for each
failure signature what is wrong (`signatures.py`).
"""

import collections
import contextlib
import math
import random
import warnings
from functools import partial

import numpy as np
import torch

from .. import boundary, distributed
from ..core.entropy import entropy
from ..core.fast import cosines_and_norms, overall_cosine
from ..core.quantizer import Quantizer
from ..core.unlearner import OEU
from ..passes import in_mode, is_quantizer, logits_of, undone
from ..tensors import wide
from .signatures import SIGNATURES, Thresholds, UnlearningWarning

__all__ = ["SIGNATURES", "Monitor", "Monitored", "Thresholds", "UnlearningWarning"]

FROM_REPORT = ("forget_loss", "retain_loss", "forget_entropy", "cosine")


class Monitor:
    """Record of the run of a `Monitored` unlearner, and warnings about it. One monitor belongs to one run.

    target_entropy: mean entropy in nats at which the forget set counts as forgotten, such as that of data never seen
    (`oeu_ref.core.stop_rule.mean_entropy`), or None; thresholds: a `Thresholds`; every >= 1: one step of so many is
    measured, the others cost nothing; eval_every >= 1: one measured step of so many is looked at in eval mode, too, at
    the price of another forward pass; max_records >= 16: when more are kept, every second is dropped, and from then on
    one of twice as many measured steps is kept. So a long run stays bounded; warnings see every measured step, and the
    records at which one fired stay.

    records: list of dicts of plain data, one a measured step, in their order, each O(layers): losses and their changes,
    predicted and actual, in nats, cosines, codes, step sizes, layers and warnings; `README.md` beside this file says
    what each key holds. A number that is not finite is None.
    warnings: list of {"step", "signature", "message"}; last: the latest record; steps: steps taken.

    Monitoring changes nothing: weights, buffers, optimizer and random numbers (PyTorch's global ones on CPU and CUDA,
    NumPy's, Python's) are to the last bit those of the run without. It costs two forward passes, now and then a third,
    and a copy of the parameters. Hooks on the model run once more, or twice. Over several processes each passes its
    shard, as to `OEU.step`: losses are those of the whole batch, records are the same everywhere, and the first process
    warns.
    Raises TypeError or ValueError, naming the argument.
    """

    def __init__(self, target_entropy=None, thresholds=None, every=1, max_records=1000, eval_every=5):
        self.target_entropy = None if target_entropy is None else boundary.positive("target_entropy", target_entropy)
        self.thresholds = boundary.instance(
            "thresholds", Thresholds() if thresholds is None else thresholds, Thresholds
        )
        self.every = boundary.integer("every", every, 1)
        self.max_records = boundary.integer("max_records", max_records, 16)
        self.eval_every = boundary.integer("eval_every", eval_every, 1)
        self.records, self.warnings = [], []
        self.first = self.last = None
        self.steps = self.measured = 0
        self.keep_every = 1
        self.sizes = {}
        self.recent = collections.deque(maxlen=self.thresholds.patience)

    def add(self, record, classes, sizes):
        """Keep a record and warn of what it shows for the first time; called by `Monitored`.

        record: as above, but for what follows from earlier ones; classes: K; sizes: {layer: elements}.
        """
        self.steps, self.classes, self.sizes = record["step"], classes, sizes
        self.first, self.last = self.first or record, record
        self.recent.append(record)
        record["entropy_share"] = record["forget_entropy"] / math.log(classes)
        record["entropy_progress"] = self._progress(record["forget_entropy"])
        warned = {warning["signature"] for warning in self.warnings}
        checked = {name: check(self) for name, check in SIGNATURES.items() if name not in warned}
        found = {name: message for name, message in checked.items() if message}
        record["warnings"] = list(found)
        if found or self.measured % self.keep_every == 0:
            self.records.append(record)
        self.measured += 1
        if len(self.records) > self.max_records:
            self.keep_every *= 2
            stride = self.every * self.keep_every
            self.records = [r for r in self.records if (r["step"] - 1) % stride == 0 or r["warnings"]]
        for name, message in found.items():
            self.warnings.append({"step": record["step"], "signature": name, "message": message})
        for name, message in found.items() if distributed.rank() == 0 else ():
            # the line that called `Monitored.step`: add, take and step lie between
            warnings.warn(f"step {record['step']}, {name}: {message}", UnlearningWarning, stacklevel=4)

    def _progress(self, entropy):
        start, target = self.first["forget_entropy"], self.target_entropy
        return None if target is None or target == start else (entropy - start) / (target - start)

    def retain_loss(self):
        """Retain loss after the latest measured update, in nats; None if it is not finite."""
        change = self.last["actual"]["retain"]
        return None if change is None else self.last["retain_loss"] + change

    def mean(self, key):
        """Mean of a record's number over the latest `window` records; None if there are fewer or one is None."""
        values = [record[key] for record in self.recent][-self.thresholds.window :]
        if len(values) < self.thresholds.window or None in values:
            return None
        return sum(values) / len(values)


class Monitored:
    """An unlearner under observation: `step`, `plan` and `take` as before, the run to the last bit as before.

    unlearner: an `OEU`, of which all other attributes are this object's too; monitor: a `Monitor`, None: a new one.
    Raises TypeError for another unlearner or monitor.
    """

    def __init__(self, unlearner, monitor=None):
        self.unlearner = boundary.instance("unlearner", unlearner, OEU)
        self.monitor = boundary.instance("monitor", Monitor() if monitor is None else monitor, Monitor)
        self._watched = None

    def __getattr__(self, name):
        if name == "unlearner":  # of a copy, before it has one
            raise AttributeError(name)
        return getattr(self.unlearner, name)

    step = OEU.step  # this object's plan and take

    def plan(self, forget_inputs, retain_inputs, retain_labels):
        """As the unlearner's; only the latest plan can be taken."""
        due = self.monitor.steps % self.monitor.every == 0
        generators = _generators(self.model) if due else None
        plan = self.unlearner.plan(forget_inputs, retain_inputs, retain_labels)
        self._watched = plan, (forget_inputs, retain_inputs, retain_labels), generators
        return plan

    def take(self, plan):
        """As the unlearner's, and the monitor learns what came of it; ValueError for a plan that is not the latest."""
        if self._watched is None or self._watched[0] is not plan:
            raise ValueError("plan must be the one made last, by this object, and not yet taken")
        (_, batches, generators), self._watched = self._watched, None
        if generators is None:
            report = self.unlearner.take(plan)
            self.monitor.steps += 1
            return report
        plan.after.put_back()  # a quantizer's first step is a parameter: it does not count as moved by the update
        with torch.no_grad():
            old = {name: p.detach().clone() for name, p in plan.parameters.items()}
            old_codes = self._codes(plan)
            left, aimed = (_angles(plan, g, plan.retain_grads) for g in (plan.projected_grads, plan.direction))
        report = self.unlearner.take(plan)
        with torch.no_grad():
            moved = zip(old, *(wide(list(values.values())) for values in (old, plan.parameters)))
            update = {name: after - before for name, before, after in moved}
            with _as_in_the_step(self.unlearner, generators):
                losses, classes = self._losses(*batches)
            if self.monitor.measured % self.monitor.eval_every == 0:
                losses = torch.cat([losses, self._loss_in_eval_mode(generators, *batches[1:])])
            changed = [(before != now).sum() for before, now in zip(old_codes, self._codes(plan))]
            steps = [name for name in old if is_quantizer(self.model.get_submodule(name.rpartition(".")[0]))]
            ends = [end for name in steps for end in (old[name], plan.parameters[name])]
            angles = left, aimed, *(_angles(plan, update, grads) for grads in (plan.retain_grads, plan.forget_grads))
            losses, *angles = (found := _fetched([losses, *angles, *changed, *ends]))[:5]
        ends = [_finite(end) for end in found[5 + len(changed) :]]
        changed = found[5 : 5 + len(changed)]
        record = {
            "step": self.monitor.steps + 1,
            **{name: getattr(report, name) for name in FROM_REPORT},
            "actual": self._actual(report, losses),
            "eval_gap": _finite(losses[2] - losses[1]) if len(losses) > 2 else None,
            **_first_order(report, plan.layers, *angles),
            "codes_changed": int(sum(changed)) if changed else None,
            "codes": sum(codes.numel() for codes in old_codes) or None,
            "step_sizes": {name: list(pair) for name, *pair in zip(steps, ends[::2], ends[1::2])},
        }
        self.monitor.add(record, classes, self._sizes(plan))
        return report

    def _actual(self, report, losses):
        entropy, retain = _finite(losses[0] - report.forget_entropy), _finite(losses[1] - report.retain_loss)
        own_loss = self.unlearner.forget_loss is not None
        return {"forget": None if own_loss or entropy is None else -entropy, "retain": retain, "entropy": entropy}

    def _codes(self, plan):
        """Weight codes of the quantized layers that the optimizer moves: a list of int8 tensors."""
        moved, codes = {id(p) for p in plan.parameters.values()}, []
        for module in self.model.modules():
            quantizer, weight = getattr(module, "weight_quantizer", None), getattr(module, "weight", None)
            if isinstance(quantizer, Quantizer) and not quantizer.unread and id(weight) in moved:
                # not `Quantizer.codes`, which reads buffers and so would wait for the device
                codes.append((quantizer(weight) / quantizer.magnitude).round().to(torch.int8))
        return codes

    def _sizes(self, plan):
        if list(self.monitor.sizes) == plan.layers.names:  # reading the layers' numbers waits for the device
            return self.monitor.sizes
        counts = collections.Counter()
        for layer, g in zip(plan.layers.ids.tolist(), plan.retain_grads.values()):
            counts[plan.layers.names[layer]] += g.numel()
        return dict(counts)

    def _losses(self, forget_inputs, retain_inputs, retain_labels):
        """((2,) mean forget entropy and retain loss as they are now, number of classes)."""
        forget_logits, retain_logits = self.logits(forget_inputs, retain_inputs)
        # not the step's own forget loss, which may draw random numbers
        unsure = self.part(entropy.unchecked(forget_logits).mean(), len(forget_logits))
        losses = torch.stack([unsure, self.loss_of_retain(retain_logits, retain_labels)])
        return self.over_all(torch.ones(2, device=losses.device), losses)[1], forget_logits.shape[1]

    def _loss_in_eval_mode(self, generators, inputs, labels):
        """(1,) retain loss of the network as it predicts."""
        # apart from the other passes: in train mode they move the statistics, and each draws the step's random numbers
        with _as_in_the_step(self.unlearner, generators), in_mode(self.model):
            loss = self.loss_of_retain(logits_of(self.model, inputs), labels)[None]
        return self.over_all(torch.ones(2, device=loss.device), loss)[1]


def _first_order(report, layers, left, aimed, along_r, along_f):
    """What follows from cosine and norms of each layer: of (g_perp, g_r), (d, g_r), (u, g_r) and (u, g_f)."""
    retain, forget = along_r.prod(dim=0), along_f.prod(dim=0)  # <u, g_r> and <u, g_f>
    overall, promised = overall_cosine(*along_r), overall_cosine(*aimed)
    columns = {
        "cosine": report.layer_cosines.values(),
        "residual": left[0],
        "predicted_forget": forget,
        "predicted_retain": retain,
        "update_cosine": along_r[0],
        "turned_back": along_r[0] + aimed[0],
    }
    rows = zip(*([_finite(value) for value in column] for column in columns.values()))
    return {
        "residual": _finite(overall_cosine(*left)),
        "predicted": {"forget": _finite(forget.sum()), "retain": _finite(retain.sum())},
        "update_norm": _finite(along_r[1].norm()),
        "update_cosine": _finite(overall),
        "turned_back": _finite(overall + promised),
        "layers": {name: dict(zip(columns, row)) for name, row in zip(layers.names, rows)},
    }


def _angles(plan, first, second):
    """Cosine and both norms for each layer, (3, L), of two dicts of tensors."""
    return cosines_and_norms(list(first.values()), list(second.values()), plan.layers)


def _fetched(tensors):
    """The same tensors on the CPU, float64, in one transfer from the device for each dtype."""
    found, device = [None] * len(tensors), tensors[0].device
    for dtype in {t.dtype for t in tensors}:
        at = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].detach().flatten().to(device) for i in at]).cpu().double()
        for i, part in zip(at, flat.split([tensors[i].numel() for i in at])):
            found[i] = part.view(tensors[i].shape)
    return found


def _generators(model):
    """(setter, state) of each global random generator: PyTorch's for CPU and model, NumPy's, Python's."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    cuda = [(partial(torch.cuda.set_rng_state, device=d), torch.cuda.get_rng_state(d)) for d in devices]
    others = (torch.set_rng_state, torch.get_rng_state()), (np.random.set_state, np.random.get_state())
    return [*cuda, *others, (random.setstate, random.getstate())]


def _set(generators):
    for put, state in generators:
        put(state)


@contextlib.contextmanager
def _as_in_the_step(unlearner, generators):
    """Let the model run as in the step, with the same random numbers, and leave no trace of it.

    generators: states that the generators had before the step's own forward passes: dropout drops the same units.
    """
    now, cached = _generators(unlearner.model), torch.is_autocast_cache_enabled()
    _set(generators)
    # casts of the new weights, made without a graph, must not wait for the next step in autocast's cache
    torch.set_autocast_cache_enabled(False)
    try:
        with undone(unlearner.model), in_mode(unlearner.model, True if unlearner.mode == "train" else None):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        _set(now)


def _finite(value):
    value = float(value)
    return value if math.isfinite(value) else None
