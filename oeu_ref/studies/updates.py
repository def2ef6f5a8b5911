"""Momentum and Adam turn an orthogonal gradient into another update: how far, and does projecting that update help?

For each optimizer and each word of `oeu_ref.beyond.updates` two runs. Steps that only forget, d = g_perp, show what is
left of Theorem 4.3 behind the optimizer: the angle of update and retain gradient, and what the retain loss does. Whole
OEU runs, each variant at the best point of the same small search, show whether it matters in the end.
"""

import copy
import dataclasses
import itertools

import numpy as np
import torch
from torch.nn import functional

from ..beyond.updates import OrthogonalUpdates, ProtectedOEU
from ..core.projection import cosines
from ..core.unlearner import NonFiniteError
from ..data.samples import stream
from ..lab import engine, search
from ..lab.study import batches
from ..lab.training import unlearn
from ..report import results
from .updates_views import figure, markdown

__all__ = ["QUESTION", "REPORTED_SEEDS", "collect", "figure", "markdown"]

QUESTION = "Momentum and Adam turn an orthogonal gradient into another update: does projecting that update help?"
REPORTED_SEEDS = tuple(range(1, 9))
SEARCH_SEEDS = (101, 102, 103)
MOMENTUM = {"momentum": 0.9}
DECAY = {"momentum": 0.9, "weight_decay": 5e-4}
# optimizer -> class, options, learning rates of the search, learning rate of steps that only forget. Momentum 0.9 makes
# a step ten times as long, and so the rates of plain SGD are ten times those of momentum.
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {}, (0.3, 1.0, 3.0), 0.05),
    "momentum": (torch.optim.SGD, MOMENTUM, (0.03, 0.1, 0.3), 0.01),
    "momentum, decay": (torch.optim.SGD, DECAY, (0.03, 0.1, 0.3), 0.01),
    "Adam": (torch.optim.Adam, {}, (0.001, 0.003, 0.01), 0.0003),
}
WORDS = ("all", "descent", "given", "none")
ALONE = [("SGD", "all"), *itertools.product(list(OPTIMIZERS)[1:], WORDS)]  # steps that only forget
# "none" takes the repair of the retain loss out of OEU's step: one optimizer shows what that does
VARIANTS = [pair for pair in ALONE if pair[1] != "none" or pair[0] == "momentum, decay"]
GRID = {"rate": (0, 1, 2), "weight": (0.1, 0.3, 1.0), "steps": (10, 20, 40)}  # rate: which of the optimizer's three
FORGET_STEPS = 20
BITS = (4, 32)


class Watched(OrthogonalUpdates):
    """`OrthogonalUpdates` that measures the change of the parameters as it came out.

    measured: a dict for each step, "cosines" of change and retain gradient, a layer each; "first order": their product,
    the change of the retain loss that the first order predicts, in nats.
    """

    measured = ()

    def step(self, closure=None):  # the parameters are few, so that a second snapshot does not matter
        parameters, g_r, layers, _ = self._protected
        before = [p.detach().clone() for p in parameters]
        result = super().step(closure)
        with torch.no_grad():
            change = torch._foreach_sub(parameters, before)
            angles = cosines(change, g_r, layer_ids=layers.ids.tolist())
            found = {"cosines": angles.tolist(), "first order": layers.dots(change, g_r).sum().item()}
        self.measured = [*self.measured, found]
        return result


class OrthogonalEntropyUpdates:
    """OEU through an optimizer of OPTIMIZERS and `OrthogonalUpdates`, as a method for `oeu_ref.lab.training.unlearn`.

    model: changed in place; optimizer, word: a pair of VARIANTS; rate: learning rate; weight: OEU's beta.
    """

    def __init__(self, model, optimizer, word, rate, weight):
        kind, options = OPTIMIZERS[optimizer][:2]
        self.model = model
        self.optimizer = Watched(kind(model.parameters(), rate, **options), word)
        self.oeu = ProtectedOEU(model, self.optimizer, beta=weight)

    def relabel(self, forget):
        """Forget samples as they are: OEU has no use for their labels."""
        return forget

    def step(self, forget, retain):
        """One step of OEU: its report."""
        return self.oeu.step(forget.inputs, retain.inputs, retain.labels)


def collect(seeds, config, quick, bar):
    """(config, found) for the document: search, OEU runs and steps that only forget."""
    variants = VARIANTS[1:3] if quick else VARIANTS
    grid = {"rate": (1,), "weight": (0.3,), "steps": (2,)} if quick else GRID
    search_seeds = SEARCH_SEEDS[:1] if quick else SEARCH_SEEDS
    pairs, steps = (ALONE[:3], 3) if quick else (ALONE, FORGET_STEPS)
    points = len(variants) * len(grid["rate"]) * len(grid["weight"])
    bar.reset(len(search_seeds) * points + len(seeds) * (len(variants) + len(BITS)))
    best = _search(variants, grid, search_seeds, config, bar)
    runs = {_name(*variant): [] for variant in variants}
    alone = {_name(*pair): {str(bits): [] for bits in BITS} for pair in pairs}
    for seed, bits in itertools.product(seeds, BITS):
        bar.set_description(f"seed {seed}")
        case = engine.prepare(seed, dataclasses.replace(config, bits=bits))
        for pair in pairs:
            alone[_name(*pair)][str(bits)].append(_forget_only(case, *pair, steps))
        bar.update()
        for variant in variants if bits == config.bits else ():
            runs[_name(*variant)].append(_one_run(case, variant, best[_name(*variant)]))
            bar.update()
    return dataclasses.asdict(config), {
        "grid": grid,
        "forget_rates": {optimizer: values[3] for optimizer, values in OPTIMIZERS.items()},
        "forget_steps": steps,
        "search_seeds": list(search_seeds),
        "best": best,
        "runs": runs,
        "alone": {name: {b: _spread(many) for b, many in of.items()} for name, of in alone.items()},
    }


def _name(optimizer, word):
    return f"{optimizer} | {word}"


def _search(variants, grid, seeds, config, bar):
    """The best point of each variant: {"rate": learning rate, "weight", "steps", "AG", "best_at_end_of", ...}."""

    def attempt(case, variant, rate, weight):
        settings = {"rate": OPTIMIZERS[variant[0]][2][rate], "weight": weight, "steps": max(grid["steps"])}
        run = lambda look: _unlearn(case, *variant, settings, look).model
        return search.gaps_along(case.gap, grid["steps"], run)

    cases = (engine.prepare(seed, config) for seed in seeds)
    best = {}
    for (optimizer, word), found in search.searched(variants, cases, grid, attempt, bar).items():
        rate = OPTIMIZERS[optimizer][2][found["best"]["rate"]]
        rest = {key: found[key] for key in ("best_at_end_of", "median_AG", "diverged")}
        best[_name(optimizer, word)] = {**found["best"], "rate": rate, **rest}
    return best


def _unlearn(case, optimizer, word, settings, on_step=None):
    """An OEU run on a copy of the case's original model; returns the method."""
    method = OrthogonalEntropyUpdates(
        copy.deepcopy(case.original), optimizer, word, settings["rate"], settings["weight"]
    )
    generators = stream(case.seed, "forget batches"), stream(case.seed, "retain batches")
    config = case.experiment.unlearning()
    look = None if on_step is None else lambda steps, report: on_step(method.model, steps, report)
    unlearn(method, case.splits.forget, case.splits.retain, settings["steps"], config, generators, None, look)
    return method


def _one_run(case, variant, settings):
    """Metrics at the end and angles on the way of one reported run, None if it diverged."""
    try:
        method = _unlearn(case, *variant, settings)
    except NonFiniteError:
        return None
    angles = np.array([step["cosines"] for step in method.optimizer.measured])
    climbing = 100 * (angles > 1e-3).mean()  # rounding leaves cosines of 1e-5 or so of either sign
    return {**case.judged(method.model), "cosine": float(angles.mean()), "climbing": float(climbing)}


def _forget_only(case, optimizer, word, steps):
    """Steps along -g_perp on a copy of the original: angles, and the retain loss after each on that step's batch."""
    model = copy.deepcopy(case.original).train()
    kind, options, _, rate = OPTIMIZERS[optimizer]
    watched = Watched(kind(model.parameters(), rate, **options), word)
    unlearner = ProtectedOEU(model, watched)
    changes = []
    for forget, batch in batches(case, steps):
        plan = unlearner.plan(forget.inputs, batch.inputs, batch.labels)
        plan.direction = plan.projected_grads
        report = unlearner.take(plan)
        with torch.no_grad():
            changes.append(float(functional.cross_entropy(model(batch.inputs), batch.labels) - report.retain_loss))
    sizes = np.abs([step["cosines"] for step in watched.measured])
    return {
        "layers mean": float(sizes.mean()),
        "layers max": float(sizes.max()),
        "first order": float(np.sum([step["first order"] for step in watched.measured])),
        "change": float(np.sum(changes)),
        "entropy": report.forget_entropy,
    }


def _spread(many):
    """{quantity: {"mean", "spread", "max"}} over seeds, "max" the largest of all."""
    columns = {key: [one[key] for one in many] for key in many[0]}
    return {key: {**results.mean_and_spread(values), "max": max(values)} for key, values in columns.items()}
