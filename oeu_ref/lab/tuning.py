"""Tuning that is fair: one grid for all methods, on seeds that no table reports, by two rules that are kept apart.

"true": by AG, as papers do, though it needs the retrained model that unlearning is meant to avoid. "proxy": by
`measures.proxy_average_gap`, which needs none.
"""

import itertools
import math
import pathlib

from .. import boundary, distributed
from ..methods.by_name import METHODS
from ..methods.method import Settings
from ..reference import metrics
from ..report import results
from .cells import Cell
from .engine import checked_seeds
from .experiment import described
from .jobs import run_cells
from .measures import proxy_average_gap
from .options import RULES, TUNING_SEEDS
from .search import checked_grid, searched, setting

GRID = {
    "learning_rate": (0.01, 0.03, 0.1, 0.3),
    # down to where l1-sparse, whose weight multiplies 5e-4, has the 1e-5 and less that other code gives it
    "weight": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "steps": (10, 20, 40, 80),
}
AXES = tuple(GRID)


def tune(runner, experiment, methods=None, seeds=TUNING_SEEDS, grid=None, widen=1):
    """Try every point of the grid with every method, and choose each one's best by either rule.

    runner, experiment: as in `jobs.run_cells`; methods: names, None: all; seeds: distinct integers >= 0, not those
    that a table reports; grid: {"learning_rate", "weight", "steps"}, None: GRID; widen >= 0: how often learning rate
    and weight are extended beyond an end that some method's best lies on, for all methods alike. The steps are a budget
    and stay.
    Returns the contents of OUT/tuning.json: for each rule and method the best point, whether it lies on an end of the
    grid, and the median and the worst AG over the grid.  Restartable.  Raises as `run_cells`, and TypeError or
    ValueError for other methods, seeds or grids.
    """
    methods = checked_methods(METHODS if methods is None else methods)
    if not methods:
        raise ValueError("methods must name at least one, got ()")
    seeds, widen = checked_seeds(seeds), boundary.integer("widen", widen, 0)
    grid = checked_grid(GRID if grid is None else grid)
    runs = {name: METHODS[name].runs(experiment.unlearning(), grid["steps"]) for name in methods}
    while True:
        points = itertools.product(seeds, methods, grid["learning_rate"], grid["weight"])
        cells = [_cell(*point, part, len(runs[point[1]]) > 1) for point in points for part in runs[point[1]]]
        retrain = [Cell(seed, "retrain", folder="tuning") for seed in seeds]
        done = run_cells(runner, experiment, retrain + cells)

        def attempt(seed, name, rate, weight, done=done):
            (rule, method), gaps = name, {}
            for steps in runs[method]:
                cell = _cell(seed, method, rate, weight, steps, len(runs[method]) > 1)
                found = done[cell], done[cell.retrain()], done[cell.original()]
                gaps |= {count: gaps_of(found[0], count, *found[1:])[rule] for count in steps}
            return gaps

        both = searched(list(itertools.product(RULES, methods)), seeds, grid, attempt)
        digests = {rule: {name: both[rule, name] for name in methods} for rule in RULES}
        wider = _widened(grid, digests)
        if widen == 0 or wider == grid:
            break
        widen, grid = widen - 1, wider
    data = results.plain(
        {
            "experiment": described(experiment),
            "data": done[retrain[0]]["data"],
            "device": done[retrain[0]]["device"],
            "versions": results.versions(),
            "seeds": seeds,
            "forget_size": len(experiment.split(experiment.load(runner.source), seeds[0]).forget),
            "grid": grid,
            "rules": digests,
        }
    )
    if distributed.rank() == 0:
        results.write_json(pathlib.Path(runner.out) / "tuning.json", data)
    return data


def checked_methods(names):
    """Return the names of methods as a list; raise TypeError for what is no sequence, ValueError for an unknown one."""
    names = boundary.sequence("methods", names, "names")
    return [boundary.one_of("method", name, tuple(METHODS)) for name in names]


def chosen(tuning, rule, name):
    """(`Settings`, steps) of a method's best point.

    tuning: contents of a tuning.json; rule: "true" or "proxy".  Raises ValueError for a method that was not tuned, or
    settings that are none, TypeError or ValueError for one out of range.
    """
    boundary.one_of("rule", rule, RULES)
    rules = tuning.get("rules", {})
    digests = rules.get(rule, {}) if isinstance(rules, dict) else None
    if not isinstance(digests, dict):
        raise ValueError(f"settings must be the contents of a tuning.json, got a {type(rules).__name__} of rules")
    if name not in digests:
        held = ", ".join(digests) or "none"
        raise ValueError(f"settings must hold those of {name} under the rule {rule!r}, has {held}")
    best = digests[name].get("best") if isinstance(digests[name], dict) else None
    if missing := sorted(set(AXES) - set(best or {})):
        raise ValueError(f"settings must be the contents of a tuning.json, those of {name} lack {', '.join(missing)}")
    try:
        boundary.integer("steps", best["steps"], 1)
        return setting(best)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings must be those of a tuning.json, of {name} they are wrong: {error}") from None


def _cell(seed, method, rate, weight, steps, one_of_several):
    """The cell of one run at a point, which gives all these numbers of steps: `UnlearnConfig.runs`."""
    *points, last = steps
    settings = Settings(rate, weight)
    suffix = f"_lr{rate:g}_w{weight:g}" + f"_s{last}" * one_of_several
    return Cell(seed, method, settings, last, tuple(points), folder="tuning", suffix=suffix, attacked=True)


def gaps_of(found, steps, retrain, original):
    """{rule: AG after so many steps}, inf if the run diverged before."""
    points = {point["steps"]: point for point in found["curve"]}
    if steps not in points and found["diverged"]:
        return dict.fromkeys(RULES, math.inf)
    # a run that the stop rule ended would end there with any larger number, too
    point = points.get(steps) or found["curve"][-1]
    return {
        "true": metrics.average_gap(point["metrics"], retrain["metrics"]),
        "proxy": proxy_average_gap(point["proxy"], original["proxy"]),
    }


def _widened(grid, digests):
    """The grid with learning rate and weight extended where a best point lies on an end, by about a factor of three."""
    wider = {axis: list(values) for axis, values in grid.items()}
    bests = [found["best"] for rule in digests.values() for found in rule.values()]
    for axis, (at, direction) in itertools.product(("learning_rate", "weight"), ((0, -1), (-1, 1))):
        if any(best[axis] == grid[axis][at] for best in bests):
            wider[axis].append(_neighbour(grid[axis][at], direction))
    return {axis: tuple(sorted(values)) for axis, values in wider.items()}


def _neighbour(value, direction):
    """The next of ..., 0.1, 0.3, 1, 3, 10, ..."""
    half_decades = round(2 * math.log10(value)) + direction
    return float(f"{(1, 3)[half_decades % 2]}e{half_decades // 2}")
