"""The search for settings: every name at each point of one grid, on seeds that are not reported.

`searched` is the loop of every search, of digits and images, in memory and on disk; `search` chose the demo's settings.
"""

import dataclasses
import functools
import itertools
import math
from pathlib import Path

import numpy as np

from .. import boundary
from ..core.unlearner import NonFiniteError
from ..methods.by_name import METHODS, VARIANTS
from ..methods.method import Settings
from ..methods.names import DEMO
from ..report import results
from . import engine
from .experiment import Digits, described

SETTINGS_FILE = Path(__file__).with_name("demo_settings.json")
# The search budget, the same for every method. The end of the steps is a budget, not a range: 80 steps read a fifth of
# the samples that Retrain reads (a step reads two batches, each of Retrain's 800 steps one). It matters who wins: the
# README says what more steps would do.
GRID = {
    "learning_rate": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "weight": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (5, 10, 20, 40, 80),
}
SEARCH_SEEDS = (101, 102, 103, 104, 105)


def searched(names, cases, grid, attempt, bar=None):
    """Try every name at each point of the grid on each case: {name: `digest`}.

    names: hashable; cases: iterable, one a seed; grid: {axis: values}, of which the third axis is "steps"; attempt: a
    function of (case, name, value of the first axis, of the second) that returns {steps: AG}, for all of the grid's
    steps, inf where the run diverged; bar: a progress bar, moved by one for each call of it.
    """
    gaps = {name: {} for name in names}
    first, second, _ = grid.values()
    for case in cases:
        for name, *point in itertools.product(names, first, second):
            for steps, gap in attempt(case, name, *point).items():
                gaps[name].setdefault((*point, steps), []).append(gap)
            if bar is not None:
                bar.update()
    return {name: digest(points, grid) for name, points in gaps.items()}


def gaps_along(gap, steps, run):
    """AG after each number of steps, inf from where on the run diverged: one run, as its prefixes are the shorter runs.

    gap: a function of a model, `Case.gap`; steps: of the grid; run: a function of on_step that unlearns and returns the
    model, and calls on_step with (model, steps done, ...) after each step.
    """
    gaps = {}

    def look(model, done, *_):
        if done in steps:
            gaps[done] = gap(model)

    try:
        model = run(look)
        # a run that the stop rule ended would end there with any larger maximum, too
        final = gap(model) if set(steps) - set(gaps) else None
    except NonFiniteError:
        final = math.inf
    return {n: gaps.get(n, final) for n in steps}


def gaps_of(case, method, settings, steps, options=()):
    """{steps: AG} of a method at one point, for each of some numbers of steps; arguments as in `engine.forget`."""
    gaps = {}
    for part in METHODS[method].runs(case.experiment.unlearning(), steps):
        run = functools.partial(engine.forget, case, method, settings, max(part), options=options)
        gaps |= gaps_along(case.gap, part, lambda look, run=run: run(look)[0])
    return gaps


def search(path, seeds=SEARCH_SEEDS, grid=None, methods=DEMO, config=None, progress=True):
    """Choose every method's settings: the grid point with the lowest AG, averaged over seeds that are not reported.

    path: the JSON file to write; seeds: distinct integers >= 0; grid: {"learning_rate", "weight", "steps"}, values of
    each, None: GRID; methods: names among METHODS and VARIANTS; config: `Digits`, None: the default; progress: show a
    bar.
    All methods get the same grid. A point's AG is null where the method diverged on any seed; it counts as the worst.
    Returns the JSON's contents: for each method the best point, which of its axes end there, median and worst AG over
    the grid, and the AG of every point.  Raises TypeError or ValueError, naming the argument.
    """
    methods = [boundary.one_of("methods", name, (*METHODS, *VARIANTS)) for name in methods]
    results.output_directory("path", Path(path).parent)
    config = boundary.instance("config", Digits() if config is None else config, Digits)
    seeds, grid, found = on_digits(methods, seeds, GRID if grid is None else grid, config, progress)
    return write(path, "OEU demo: search for settings by true AG", config, seeds, grid, methods=found)


def on_digits(methods, seeds, grid, config, progress=True):
    """(seeds, grid, {method: `digest`}) of a search on the digits; arguments as in `search`, seeds and grid checked."""
    seeds, grid = engine.checked_seeds(seeds), checked_grid(grid)

    def attempt(case, name, rate, weight):
        options = tuple(VARIANTS.get(name, {}).items())
        method = "oeu" if name in VARIANTS else name
        return gaps_of(case, method, Settings(rate, weight), grid["steps"], options)

    total = len(seeds) * len(methods) * len(grid["learning_rate"]) * len(grid["weight"])
    with engine.one_thread(), engine.progress_bar(total, progress, "runs") as bar:
        cases = (engine.prepare(seed, config) for seed in seeds)
        return seeds, grid, searched(methods, cases, grid, attempt, bar)


def write(path, experiment, config, seeds, grid, **found):
    """Write what a search found, with what it depends on.  Returns the JSON file's contents."""
    config = described(config) if dataclasses.is_dataclass(config) else config
    head = {"experiment": experiment, "config": config, "seeds": seeds, "grid": grid, "versions": results.versions()}
    data = results.plain({**head, **found})
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
        try:
            Settings(rate, weight)
        except (TypeError, ValueError) as error:
            raise type(error)(f"grid must hold settings: {error}") from None
    for steps in axes["steps"]:
        boundary.integer("grid['steps']", steps, 1)
    return {axis: tuple(sorted(values)) for axis, values in axes.items()}


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


def setting(best, max_steps=None):
    """(`Settings`, steps) of a `digest`'s best point, steps cut at max_steps."""
    steps = best["steps"] if max_steps is None else min(best["steps"], max_steps)
    return Settings(best["learning_rate"], best["weight"]), steps


def load_settings(max_steps=None, path=SETTINGS_FILE):
    """Settings that `search` chose: dict method -> (`Settings`, steps), steps cut at max_steps."""
    methods = results.read_json(path)["methods"]
    return {name: setting(methods[name]["best"], max_steps) for name in DEMO}
