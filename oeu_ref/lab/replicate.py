"""The paper's claims at full size within a budget of minutes: complete rows in order of worth, a seed after the other.

Settings are searched on a seed that is never reported: a few points a row, by true AG and by the proxy. What is there
is written after each cell, to `replicate.json`, and the same command goes on from it, on another machine too.
"""

import dataclasses
import functools
import math
import time

from .. import boundary
from ..data.samples import stream
from ..methods.method import Settings
from ..methods.protocol import ROWS, SEARCH_SEED, SHUFFLED, label
from ..report import results
from ..report.report import read_document, values
from . import engine, tuning
from .cells import TRAINED, Cell
from .checkpoints import difference
from .experiment import Replication, described
from .jobs import run_planned
from .options import RULES
from .training import train

SEARCHED = [Cell(SEARCH_SEED, name, folder="tuning") for name in TRAINED]
LEAST_STEPS = 10  # of an epoch of training, below which `fitted` makes no table smaller: 5,120 images
COLUMNS = ("FA", "RA", "TA", "MIA", "AG", "share_of_original", "tug_of_war", "forget_vs_test_auc", "seconds")


class Plan:
    """Which cells there are, in order of worth, as far as is known from those that are there.

    experiment: `Replication`; passes: as its `passes` gives them; seeds: reported ones; rows: keys of ROWS.
    """

    def __init__(self, experiment, passes, seeds, rows=tuple(ROWS)):
        self.experiment = experiment
        self.passes = passes
        self.seeds = seeds
        self.rows = rows

    def __call__(self, done):
        """All cells wanted; done: {cell: contents}."""
        cells = []
        for i, seed in enumerate(self.seeds):
            cells += [Cell(seed, name) for name in TRAINED]
            for name in self.rows:
                if i == 0 and (searched := self.search(name)):
                    cells += [*searched, self.judge(done)]
                cells += self.runs(name, seed, done, ("true",))
            for name in self.rows:
                cells += self.runs(name, seed, done, ("proxy",))
        return list(dict.fromkeys(cells))

    def search(self, name):
        """The search's original and Retrain, and a row's points."""
        return SEARCHED[:2] + [self.cell(name, point, SEARCH_SEED, "tuning") for point in ROWS[name].points]

    def judge(self, done):
        """The search's Retrain that its points are compared with; where it broke down one with other random numbers."""
        models = {cell.name: done[cell]["metrics"] for cell in SEARCHED[:2] if cell in done}
        return SEARCHED[2 if models and broken_down(models) == ["retrain"] else 1]

    def cell(self, name, point, seed, folder=""):
        """The cell of a row's run."""
        row = self.experiment.row(name)
        steps = row.steps(*self.passes)
        suffix = f"_lr{point[0]:g}_w{point[1]:g}_s{steps}" + f"_{SHUFFLED}" * (row.reads == SHUFFLED)
        return Cell(seed, row.method, Settings(*point), steps, (), row.options, folder=folder, suffix=suffix)

    def images(self, splits):
        """Images that all cells read, with one run a row and seed; splits: of one of the seeds."""
        trained = self.experiment.training().epochs * sum(map(len, (splits.train, splits.retain, splits.retain)))
        total = len(self.seeds) * trained + self.experiment.training().epochs * len(splits.train) * 2
        for name in self.rows:
            row = self.experiment.row(name)
            forget, retain = row.counts(*self.passes)
            read = row.epochs * (forget * self.experiment.forget_batch + retain * self.experiment.retain_batch)
            total += read * (len(row.points) + len(self.seeds))
        return total

    def gaps(self, name, done):
        """AG of each of a row's points: {rule: list, inf where a run diverged}; None as long as one is missing."""
        (original, _, *cells), retrain = self.search(name), self.judge(done)
        if not all(cell in done for cell in (original, retrain, *cells)):
            return None
        found = [tuning.gaps_of(done[cell], cell.steps, done[retrain], done[original]) for cell in cells]
        return {rule: [gap[rule] for gap in found] for rule in RULES}

    def chosen(self, name, done):
        """{rule: a row's best point} as far as its search is finished and not all of it diverged."""
        gaps = self.gaps(name, done) or {}
        best = {rule: min(zip(of_rule, ROWS[name].points)) for rule, of_rule in gaps.items()}
        return {rule: point for rule, (gap, point) in best.items() if gap < math.inf}

    def runs(self, name, seed, done, rules):
        """A row's cells of one seed, as far as their settings are known."""
        chosen = self.chosen(name, done)
        return [self.cell(name, chosen[rule], seed) for rule in rules if rule in chosen]

    def document(self, done):
        """What `replicate.json` holds, but for what all cells share."""
        search, rows, trained = {}, [], {}
        for name in self.rows:
            if (gaps := self.gaps(name, done)) is not None:
                finite = {rule: [g if g < math.inf else None for g in found] for rule, found in gaps.items()}
                found = {"points": ROWS[name].points, "AG": finite, "chosen": self.chosen(name, done)}
                search[name] = {**found, "judge": self.judge(done).name}
        for seed in self.seeds:
            models = {kind: done[cell] for kind in TRAINED if (cell := Cell(seed, kind)) in done}
            if not {"original", "retrain"} <= set(models):
                continue
            short = functools.partial(_short, retrain=models["retrain"], original=models["original"])
            trained[seed] = {kind: short(found) for kind, found in models.items()}
            for name in self.rows:
                chosen = self.chosen(name, done)
                for rate, weight in dict.fromkeys(chosen.values()):
                    cell = self.cell(name, (rate, weight), seed)
                    if cell in done:
                        rules = [rule for rule in chosen if chosen[rule] == (rate, weight)]
                        head = {"row": name, "label": label(name), "seed": seed, "rules": rules, "steps": cell.steps}
                        rows.append({**head, "learning_rate": rate, "weight": weight, "values": short(done[cell])})
        return {"search_seed": SEARCH_SEED, "search": search, "trained": trained, "rows": rows}


class Settled(Plan):
    """A plan that goes on from an earlier replicate.json: its settings, and those of its seeds that are not made here;
    a row that it has not searched is searched.

    earlier: that file; all else as in `Plan`.  Raises ValueError unless it is undamaged, of this experiment, and
    searched among the points that are tried.
    """

    def __init__(self, earlier, *arguments):
        super().__init__(*arguments)
        self.earlier = read_document(earlier, {"experiment", "search", "trained", "rows"}, "replicate")
        try:
            points = {name: found["points"] for name, found in self.earlier["search"].items()}
            expected = {**described(self.experiment), "points": {name: ROWS[name].points for name in points}}
            other = difference({**self.earlier["experiment"], "points": points}, results.plain(expected))
            if not other:
                table(results.plain(self.document({})))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"earlier must be a file as `replicate` writes it, it is damaged: {error!r}") from None
        if other:
            raise ValueError(f"earlier must be of this experiment and these points, it is of others ({other})")

    def search(self, name):
        """As `Plan.search`, of rows that the earlier file has not; of others none."""
        return [] if name in self.earlier["search"] else super().search(name)

    def gaps(self, name, done):
        """As `Plan.gaps`, of the earlier file where it has the row."""
        if (found := self.earlier["search"].get(name)) is None:
            return super().gaps(name, done)
        return {rule: [math.inf if gap is None else gap for gap in found["AG"][rule]] for rule in RULES}

    def document(self, done):
        """As `Plan.document`, with the earlier file's search, and of its seeds those that are not made here."""
        found, earlier = super().document(done), self.earlier
        trained = {int(seed): models for seed, models in earlier["trained"].items() if int(seed) not in self.seeds}
        rows = [row for row in earlier["rows"] if row["seed"] in trained] + found["rows"]
        seeds, trained = sorted({*trained, *self.seeds}), dict(sorted((trained | found["trained"]).items()))
        found |= {"seeds": seeds, "trained": trained, "search": found["search"] | earlier["search"]}
        return {**found, "rows": sorted(rows, key=lambda row: row["seed"])}


def _short(cell, retrain, original):
    """A cell's figures, as `report.values`, with "features" and "seconds"; None if it diverged."""
    found = values(cell, retrain, original)
    return found and {**found, "features": cell["features"], "seconds": cell["seconds"]}


def replicate(runner, experiment, seeds, minutes=math.inf, rows=tuple(ROWS), name="", earlier=None):
    """Make as many cells of the table as the time allows, in order of worth.

    runner: `cells.Runner`; experiment: `protocol.Replication`; seeds: distinct integers >= 0, not SEARCH_SEED;
    minutes > 0; rows: keys of ROWS, in order of worth; name: the experiment's; earlier: a replicate.json to go on from,
    as in `Settled`.
    Returns (path of replicate.json, whether all is made).  Raises as `jobs.run_planned` and `Settled`.
    """
    out = results.output_directory("out", runner.out)
    boundary.instance("experiment", experiment, Replication, "Replication, as experiment_named gives it")
    seeds = engine.checked_seeds(seeds)
    if SEARCH_SEED in seeds:
        raise ValueError(f"seeds must not hold {SEARCH_SEED}, on which settings are searched, got {seeds}")
    boundary.positive("minutes", minutes) if minutes != math.inf else None
    rows = [boundary.one_of("rows", row, tuple(ROWS)) for row in boundary.sequence("rows", rows, "words")]
    kind = Plan if earlier is None else functools.partial(Settled, earlier)
    plan = kind(experiment, experiment.passes(experiment.split(experiment.load(runner.source), seeds[0])), seeds, rows)
    path = out / "replicate.json"

    def write(done):
        cell = next(iter(done.values()))
        head = {"kind": "replicate", "name": name, "experiment": described(experiment), "seeds": seeds}
        head |= {key: cell[key] for key in ("attack", "device", "versions", "data")}
        head |= {"jobs": runner.jobs, "passes": plan.passes, "cells": len(done)}
        results.write_json(path, results.plain({**head, **plan.document(done)}))

    _, finished = run_planned(runner, experiment, plan, write, minutes)
    return path, finished


def fitted(runner, experiment, seeds, minutes=math.inf, rows=tuple(ROWS)):
    """The experiment at a size of which the whole table is made in so many minutes: fewer training images, if need be.

    How long it takes is estimated from a tenth of an epoch of training; measuring does not count. Steps go with the
    images, so that unlearning costs the same share of Retrain at every size. What was cut is in OUT/size.json, and
    later calls go on with that, whatever their minutes. A train_size of the experiment's own is kept, and a table that
    was begun whole.
    Arguments as in `replicate`.  Returns (`Replication`, what to say of it).  Raises ValueError for another size.json.
    """
    out = results.output_directory("out", runner.out)
    if (out / "size.json").is_file() and experiment.train_size is None:
        chosen = read_document(out / "size.json", {"train_size", "estimate"}, "replicate")
        return dataclasses.replace(experiment, train_size=chosen["train_size"]), chosen["estimate"]

    def images(experiment):
        splits = experiment.split(experiment.load(runner.source), seeds[0])
        return splits, Plan(experiment, experiment.passes(splits), seeds, rows).images(splits)

    splits, count = images(experiment)
    rate = speed(runner, experiment, splits, seeds[0])
    all_images = len(splits.train)
    said = (
        f"About {count / rate / 3600:.1f} hours: {count / 1e6:.1f} million images at {rate:.0f} a second, "
        f"{runner.jobs} processes side by side; {len(seeds)} seeds and {len(rows)} rows, fewer of them take less."
    )
    fits = min(1.0, 60 * minutes * rate / count) * all_images
    size = max(LEAST_STEPS, int(fits) // experiment.batch_size) * experiment.batch_size
    if experiment.train_size is not None or fits >= all_images or size >= all_images:
        return experiment, said
    if any(out.glob("seed-*")):
        return experiment, f"{said} {out} was begun with all {all_images} training images, and goes on with them."
    experiment = dataclasses.replace(experiment, train_size=size)
    least = f"; fewer are not taken, and they need {images(experiment)[1] / rate / 60:.0f}" if size > fits else ""
    said += f" Cut to {size} of {all_images} training images, for {minutes:g} minutes{least}."
    results.write_json(out / "size.json", {"train_size": size, "estimate": said})
    return experiment, said


def speed(runner, experiment, splits, seed):
    """Images a second in training, by all processes side by side, from a tenth of an epoch; splits: on the CPU."""
    splits = splits.to(runner.device)
    model = engine.new_model(experiment, splits, seed, "estimate", runner.device)
    few = splits.train[slice(max(experiment.batch_size, len(splits.train) // 10))]
    config, start = dataclasses.replace(experiment.training(), epochs=1), time.perf_counter()
    train(model, few, config, stream(seed, "estimate batches"), None, experiment.augment())
    return len(few) / (time.perf_counter() - start) * runner.jobs


def broken_down(models):
    """Names of a seed's networks, {name: {"RA": percent}}, that know less than half of what the best of them knows of
    the retain set: their training broke down, and rows beside them tell nothing."""
    best = max(found["RA"] for found in models.values())
    return [name for name, found in models.items() if found["RA"] < best / 2]


def table(data):
    """Markdown table of what is there, from the contents of replicate.json alone: a row a seed and rule; below it the
    networks that have `broken_down`."""
    lines = [["row", "seed", "rules", "rate", "weight", *(results.TITLES.get(column, column) for column in COLUMNS)]]
    for seed, models in data["trained"].items():
        lines += [[kind, seed, "", "", "", *_cells(found)] for kind, found in models.items()]
    for row in data["rows"]:
        point = [f"{row['learning_rate']:g}", f"{row['weight']:g}"]
        lines.append([row["label"], str(row["seed"]), ", ".join(row["rules"]), *point, *_cells(row["values"])])
    lost = [(seed, name) for seed, models in data["trained"].items() for name in broken_down(models)]
    told = [f"\nThe training of seed {seed}'s {name} broke down: that seed tells nothing." for seed, name in lost]
    return "\n".join([results.aligned(lines), *told])


def _cells(found):
    if found is None:
        return ["diverged"] + [""] * (len(COLUMNS) - 1)
    return ["–" if found[key] is None else f"{found[key]:.2f}" for key in COLUMNS]
