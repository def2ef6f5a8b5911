"""OEU's own options side by side on the digits: what a layer is, how to rescale, and what projection itself adds."""

import functools
import math

from ..methods.by_name import VARIANTS
from ..report import figures, results
from . import engine, measures, search
from .experiment import Digits, described
from .training import as_left, predictions

GRID = {"learning_rate": (0.03, 0.1, 0.3), "weight": (0.03, 0.1, 0.3, 1.0, 3.0), "steps": (10, 20, 40, 80)}
REPORTED_SEEDS = tuple(range(1, 11))
COLUMNS = ("AG, own best setting", "AG, the demo's OEU setting", "AG in the search, median over the grid")
DIGEST = ("best_at_end_of", "median_AG", "worst_AG", "diverged")
LOSS = "retain loss, own best setting"
POINTS = 10  # of a run's curve, besides its start


def run(out_dir, seeds=REPORTED_SEEDS, grid=None, search_seeds=search.SEARCH_SEEDS, config=None, progress=True):
    """Search every variant's settings on seeds that are not reported, then measure each on the reported ones.

    out_dir: directory for search.json, variants.json and variants.md; seeds, search_seeds: distinct integers >= 0;
    grid: as in `search.search`, None: GRID; config: `Digits`, None: the default; progress: show a bar on stderr.
    Returns {"table": str, "json": Path, "markdown": Path}.  A run that diverges counts as null and is named.
    Raises TypeError or ValueError, naming the argument, for bad seeds or a directory that cannot be written to.
    """
    seeds, config = engine.checked_seeds(seeds), Digits() if config is None else config
    out_dir = results.output_directory("out_dir", out_dir)
    grid = GRID if grid is None else grid
    found = search.search(out_dir / "search.json", search_seeds, grid, list(VARIANTS), config, progress)
    best = {name: found["methods"][name]["best"] for name in VARIANTS}
    common = search.load_settings(config.max_steps)["oeu"]
    gaps = {name: {column: [] for column in COLUMNS[:2]} for name in VARIANTS}
    losses = {name: [] for name in VARIANTS}
    with engine.one_thread(), engine.progress_bar(len(seeds) * len(VARIANTS), progress) as bar:
        for seed in seeds:
            bar.set_description(f"seed {seed}")
            case = engine.prepare(seed, config)
            for name, options in VARIANTS.items():
                for column, used in zip(COLUMNS, (search.setting(best[name]), common)):
                    curve = _Curve(case, used[1])
                    run = functools.partial(engine.forget, case, "oeu", *used, curve.look, tuple(options.items()))
                    values = case.attempt(lambda run=run: run()[0])
                    gaps[name][column].append(values and values["AG"])
                    if column == COLUMNS[0]:
                        losses[name].append(values and curve.losses)
                bar.update()
    data = results.plain(
        {
            "experiment": "variants of OEU on the digits",
            "seeds": seeds,
            "search_seeds": found["seeds"],
            "grid": grid,
            "config": described(config),
            "versions": results.versions(),
            "variants": {
                name: {
                    "options": VARIANTS[name],
                    "best": best[name],
                    "AG": gaps[name],
                    "digest": {key: found["methods"][name][key] for key in DIGEST},
                    "retain_losses": losses[name],
                }
                for name in VARIANTS
            },
        }
    )
    return figures.written(out_dir, "variants", data, markdown(data))


def markdown(data):
    """The table, from the contents of variants.json alone."""
    rows = [["variant of OEU", *COLUMNS, LOSS]]
    for name, found in data["variants"].items():
        cells = [_cell(found["AG"][column]) for column in COLUMNS[:2]]
        ends = [losses and losses[-1] for losses in found["retain_losses"]]
        rows.append([name, *cells, f"{found['digest']['median_AG']:.1f}", _cell(ends, 2)])
    seeds, search_seeds = (", ".join(map(str, data[key])) for key in ("seeds", "search_seeds"))
    points = math.prod(len(values) for values in data["grid"].values())
    return (
        f"{results.aligned(rows)}\n\nAG in percentage points: mean ± standard deviation over seeds {seeds}; {points} "
        f"settings for each\nvariant, chosen on seeds {search_seeds}. Retain loss: at the end of the run, in "
        f"nats, all retain samples in eval mode. {results.how_unlearned(data['config'])}"
    )


class _Curve:
    """Retain loss in nats, all samples in eval mode, at the start and POINTS times along a run of so many steps."""

    def __init__(self, case, steps):
        self.case = case
        self.at = [round(steps * i / POINTS) for i in range(1, POINTS + 1)]
        self.losses = []
        self.add(case.original)
        self.losses *= 1 + self.at.count(0)

    def look(self, model, done, _):
        for _ in range(self.at.count(done)):  # a short run is at some points twice
            with as_left(model, self.case.splits.retain, self.case.experiment.unlearning()):
                self.add(model)

    def add(self, model):
        self.losses.append(measures.mean_loss(*predictions(model, self.case.splits.retain)))


def _cell(values, digits=1):
    finite, lost = results.finished(values)
    return results.spread(finite, digits) + lost
