"""The search for each method's settings on the digits: the same grid for all, on seeds that are not reported."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np

from .. import boundary
from ..core.unlearner import NonFiniteError
from ..reference import metrics
from . import baselines, results
from .digits import (
    METHODS,
    SETTINGS_FILE,
    VARIANTS,
    DemoConfig,
    checked_seeds,
    forget,
    measure,
    one_thread,
    prepare,
    progress_bar,
)

# The search budget, the same for every method. The end of the steps is a budget, not a range: 80 steps read a fifth of
# the samples that Retrain reads (a step reads two batches, each of Retrain's 800 steps one). It matters who wins: the
# README says what more steps would do.
GRID = {
    "learning_rate": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "weight": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (5, 10, 20, 40, 80),
}
SEARCH_SEEDS = (101, 102, 103, 104, 105)


def search(path=SETTINGS_FILE, seeds=SEARCH_SEEDS, grid=None, methods=METHODS, config=None, progress=True):
    """Choose every method's settings: the grid point with the lowest AG, averaged over seeds that are not reported.

    path: the JSON file to write; seeds: distinct integers >= 0; grid: {"learning_rate", "weight", "steps"}, values of
    each, None: GRID; methods: names among METHODS and
    VARIANTS; config: `DemoConfig`, None: the default; progress: show a bar.
    All methods get the same grid. A point's AG is null where the method diverged on any seed; it counts as the worst.
    Returns the JSON's contents: for each method the best point, which of its axes end there, median and worst AG over
    the grid, and the AG of every point.  Raises TypeError or ValueError, naming the argument.
    """
    seeds = checked_seeds(seeds)
    methods = [boundary.one_of("methods", name, (*METHODS, *VARIANTS)) for name in methods]
    results.output_directory("path", Path(path).parent)
    grid = checked_grid(GRID if grid is None else grid)
    config = boundary.instance("config", DemoConfig() if config is None else config, DemoConfig)
    pairs = list(itertools.product(grid["learning_rate"], grid["weight"]))
    total = len(seeds) * (2 * config.train.epochs + len(methods) * len(pairs) * max(grid["steps"]))
    gaps = {name: {} for name in methods}
    with one_thread(), progress_bar(total, progress) as bar:
        for seed in seeds:
            bar.set_description(f"seed {seed}: training")
            case = prepare(seed, config, lambda *_: bar.update())
            target = measure(case, case.retrain)[0]
            for name, (learning_rate, weight) in itertools.product(methods, pairs):
                bar.set_description(f"seed {seed}: {name}")
                settings = baselines.Settings(learning_rate, weight)
                along = _gaps_along(case, name, settings, sorted(grid["steps"]), target)
                for steps, gap in along.items():
                    gaps[name].setdefault((learning_rate, weight, steps), []).append(gap)
                bar.update(max(grid["steps"]))
    data = results.plain(
        {
            "experiment": "OEU demo: search for settings by true AG",
            "config": dataclasses.asdict(config),
            "seeds": list(seeds),
            "grid": {axis: list(values) for axis, values in grid.items()},
            "versions": results.versions(),
            "methods": {name: digest(points, grid) for name, points in gaps.items()},
        }
    )
    results.write_json(path, data)
    return data


def checked_grid(grid):
    """Return a grid with each axis as an ascending tuple; raise TypeError or ValueError for a bad axis or value."""
    if not isinstance(grid, dict) or set(GRID) - set(grid):
        lacking = [axis for axis in GRID if not isinstance(grid, dict) or axis not in grid]
        raise ValueError(f"grid must be a dict with {', '.join(GRID)}, lacks {', '.join(lacking)}")
    axes = {axis: boundary.sequence(f"grid[{axis!r}]", grid[axis], "numbers") for axis in GRID}
    for axis, values in axes.items():
        if not values:
            raise ValueError(f"grid[{axis!r}] must hold at least one value, got none")
    for rate, weight in itertools.product(axes["learning_rate"], axes["weight"]):
        _of_grid(baselines.Settings, rate, weight)
    for steps in axes["steps"]:
        boundary.integer("grid['steps']", steps, 1)
    return {axis: tuple(sorted(values)) for axis, values in axes.items()}


def _of_grid(make, *values):
    try:
        return make(*values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"grid must hold settings: {error}") from None


def _gaps_along(case, name, settings, checkpoints, target):
    """AG after each number of steps in checkpoints, inf if diverged; one run, as its prefixes are the shorter runs."""
    gaps = {}

    def look(model, steps, report):
        if steps in checkpoints:
            gaps[steps] = metrics.average_gap(measure(case, model)[0], target)

    try:
        model, reports, _ = forget(case, name, settings, checkpoints[-1], look)
        final = metrics.average_gap(measure(case, model)[0], target)
    except NonFiniteError:
        final = math.inf
    # a run that the stop rule ended would end there with any larger maximum, too
    return {steps: gaps.get(steps, final) for steps in checkpoints}


def digest(points, grid):
    """Best, median and worst of a method's grid.

    points: dict (learning rate, weight, steps) -> AG a seed, inf where the run diverged; grid: values of each axis.
    Returns {"best": the point with its AG, "best_at_end_of": axes that end there, "median_AG", "worst_AG" (of those
    that did not diverge), "diverged": number of points, "points": all with their AG}; None for what is not finite.
    """
    means = {point: float(np.mean(gaps)) for point, gaps in points.items()}
    # of equals the one with most steps: with a stop rule they are a maximum that is not reached
    best = min(means, key=lambda point: (means[point], -point[2]))
    ends = [axis for axis, value in zip(grid, best) if value in (min(grid[axis]), max(grid[axis]))]
    finite = [gap for gap in means.values() if math.isfinite(gap)]
    median = float(np.median(list(means.values())))
    return {
        "best": {**dict(zip(grid, best)), "AG": means[best] if finite else None},
        "best_at_end_of": ends,
        "median_AG": median if math.isfinite(median) else None,
        "worst_AG": max(finite, default=None),
        "diverged": len(means) - len(finite),
        "points": [[*point, round(gap, 2) if math.isfinite(gap) else None] for point, gap in means.items()],
    }
