"""Beta and learning rate: how far apart are good and bad ones, is there a beta to begin with, and does a proxy find it?

Every point of one grid, on two networks that learned the digits: AG by Retrain, and the gap that `oeu_ref.suggest`
goes by, which needs none.
"""

import dataclasses
import itertools

import numpy as np
from torch import nn

from ..core.network import quantize_model
from ..lab import engine, measures
from ..lab.experiment import Digits, described
from ..lab.search import gaps_along
from ..methods.method import Settings
from ..own.advice import GRID, draw_grid
from ..report import figures, results

QUESTION = "Which learning rates and betas serve OEU, and does a search without Retrain find them?"
REPORTED_SEEDS = (1, 2, 3)
QUICK = {"learning_rate": (0.03, 0.1), "beta": (0.3, 1.0), "steps": (1, 2)}


@dataclasses.dataclass(frozen=True)
class Images(Digits):
    """The digits as images of 8 x 8 pixels, for a small convolutional network with BatchNorm."""

    def network(self, splits):
        """Two convolutions and a linear layer, quantized; with the global generator's initial weights."""
        layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
        return quantize_model(nn.Sequential(*layers, nn.Linear(32 * 16, 10)), self.bits, self.bits)


def collect(seeds, config, quick, bar):
    """(config, found): "gaps"[network] has a list [learning rate, beta, steps, AG, proxy AG] a point, means over seeds,
    None where a run diverged; "start"[network]: both of the network before."""
    grid = QUICK if quick else GRID
    cases = {"perceptron": config, "convolutional": Images(**vars(config))}
    bar.reset(len(cases) * len(seeds) * len(grid["learning_rate"]) * len(grid["beta"]))
    gaps, start = {}, {}
    for name, experiment in cases.items():
        found, before = {}, []
        for seed in seeds:
            case = engine.prepare(seed, experiment)
            before.append(_both(case)(case.original))
            for rate, beta in itertools.product(grid["learning_rate"], grid["beta"]):
                for steps, gap in _along(case, Settings(rate, beta), grid["steps"]).items():
                    found.setdefault((rate, beta, steps), []).append(gap)
                bar.update()
        means = {point: np.mean(values, axis=0) for point, values in found.items()}
        gaps[name] = [[*point, *(float(g) if np.isfinite(g) else None for g in mean)] for point, mean in means.items()]
        start[name] = np.mean(before, axis=0).tolist()
    return {**described(config), "grid": grid}, {"gaps": gaps, "start": start}


def _both(case):
    """A function of a network: its AG, and what `suggest` sees instead."""
    parts = ("forget", "retain", "validation")
    original = measures.proxy(measures.outputs(case.original, case.splits, parts), case.seed)

    def gap(model):
        near = measures.proxy(measures.outputs(model, case.splits, parts), case.seed)
        return np.array([case.gap(model), measures.proxy_average_gap(near, original)])

    return gap


def _along(case, settings, steps):
    def run(look):
        return engine.forget(case, "oeu", settings, max(steps), look)[0]

    found = gaps_along(_both(case), steps, run)
    return {count: np.broadcast_to(gap, 2) for count, gap in found.items()}


def best(points, column, beta=None):
    """The point with the least gap in a column, of one beta alone or of all; None where all diverged."""
    found = [point for point in points if point[column] is not None and beta in (None, point[1])]
    return min(found, key=lambda point: point[column], default=None)


def markdown(data):
    """Table from the study's JSON alone: the best of each beta, and what the proxy chooses."""
    names = list(data["gaps"])
    rows = [["", *(f"{name}: {word}" for name in names for word in ("AG", "rate", "steps"))]]
    betas = sorted({point[1] for point in data["gaps"][names[0]]})
    kinds = {f"best of beta {beta:g}": lambda points, beta=beta: best(points, 3, beta) for beta in betas}
    kinds |= {"best of all": lambda points: best(points, 3), "chosen by the proxy": lambda points: best(points, 4)}
    for label, choose in kinds.items():
        chosen = [choose(data["gaps"][name]) for name in names]
        rows.append([label, *(word for point in chosen for word in _words(point))])
    rows.append(["before", *(word for name in names for word in (f"{data['start'][name][0]:.1f}", "–", "–"))])
    seeds = ", ".join(map(str, data["seeds"]))
    caption = f"AG in points, means over seeds {seeds}, at the learning rate and number of steps that are best for it."
    return results.aligned(rows) + "\n\n" + caption


def _words(point):
    return ("–",) * 3 if point is None else (f"{point[3]:.1f}", f"{point[0]:g}", f"{point[2]}")


def figure(data):
    """AG and the proxy's gap over learning rate and beta, at the best number of steps for each, a panel a network."""
    drawn = figures.new_figure(9, 6.4)
    for line, (column, word) in zip(drawn.subplots(2, len(data["gaps"]), squeeze=False), ((3, "AG"), (4, "proxy AG"))):
        for ax, (name, points) in zip(line, data["gaps"].items()):
            draw_grid(ax, [[*point[:3], point[column]] for point in points], f"{name}: {word}")
    return drawn
