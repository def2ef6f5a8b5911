"""The paper's tables, ablations and sweeps: which cells they are made of, and the document that a report reads.

Each command leaves one document, `<kind>.json`, in the output folder: the experiment, the seeds, and for each row the
method, its settings, and the files of its cells. The documents hold no result that is not in the cells' own files.
"""

import dataclasses
import pathlib

from .. import boundary, distributed
from ..methods.protocol import SCHEDULE
from ..report import results
from ..report.report import KINDS
from .cells import Cell
from .engine import checked_seeds
from .experiment import TABLES, Experiment, ForgettingCopies, Replication, described
from .jobs import run_cells
from .options import PRESETS, RULES, SEEDS
from .tuning import checked_methods, chosen

SETTINGS_FILE = pathlib.Path(__file__).with_name("table_settings.json")
REPORTED_SEEDS = SEEDS["cpu"]
CURVE_POINTS = 5  # measurements along a run, for the trade-off figure


def experiment_named(name, preset="full", forget_copies=False, protocol=None, **changes):
    """One of the paper's experiments, at full size or at a preset's, with some fields changed.

    name: a key of TABLES; preset: a key of PRESETS; changes: fields of `Experiment`, None: as it is; forget_copies:
    True for a `ForgettingCopies`; protocol: one of PROTOCOLS for a `Replication`, which has a schedule of its own.
    Returns an `Experiment`.  Raises TypeError or ValueError for an unknown word or field or a value out of range.
    """
    fields = [field.name for field in dataclasses.fields(Experiment)]
    if unknown := sorted(set(changes) - set(fields)):
        raise TypeError(f"changes must be fields of an Experiment ({', '.join(fields)}), got {unknown[0]!r}")
    experiment = TABLES[boundary.one_of("name", name, tuple(TABLES))]
    wanted = dict(PRESETS[boundary.one_of("preset", preset, tuple(PRESETS))])
    if protocol is not None:
        wanted = {**SCHEDULE, **wanted, "protocol": protocol}
    if changes.get("forget_classes") is not None or changes.get("forget_file") is not None:
        wanted["forget_ratio"] = None
    wanted.update({name: value for name, value in changes.items() if value is not None})
    kind = Replication if protocol is not None else ForgettingCopies if forget_copies else Experiment
    return kind(**{**dataclasses.asdict(experiment), **wanted})


def make(
    kind,
    runner,
    experiment,
    methods,
    seeds=REPORTED_SEEDS,
    rules=RULES,
    settings=None,
    options=((),),
    name="",
    keep=False,
):
    """Make all cells of a table, an ablation, a sweep or a single run, and the document that lists them.

    kind: one of KINDS, the document's name; runner, experiment: as in `jobs.run_cells`; methods: names; seeds:
    distinct integers >= 0; rules: by which rules settings were chosen, a group of rows for each; settings: contents of
    a tuning.json, or {method: (`Settings`, steps)} for settings of your own, None: those that come with the package;
    options: for each variant of every method the further arguments, such as ((("alpha", 0.5),), (("alpha", 1.0),));
    name: the experiment's, for the paper's figures; keep: whether unlearned models are kept, for `cells.load_model`.
    Returns the path of the document.  Raises as `run_cells`; ValueError for settings that lack a method.
    """
    boundary.one_of("kind", kind, KINDS)
    boundary.instance("experiment", experiment, Experiment, "Experiment, as experiment_named gives it")
    seeds, methods = checked_seeds(seeds), checked_methods(methods)
    rules = [boundary.one_of("rule", rule, RULES) for rule in boundary.sequence("rules", rules, "words")]
    if kind == "run" and settings is not None and set(settings) == set(methods):
        rows = [_row("given", method, *settings[method], extra) for method in methods for extra in options]
        origin = {"source": "given on the command line", "transferred": False}
    elif not methods:
        rows = []
        origin = {"source": "none needed", "transferred": False}
    else:
        tuning, origin = _tuning(settings, experiment)
        scale = steps_scale(tuning, experiment, runner.source) if origin["transferred"] else 1.0
        rows = []
        for rule in rules:
            for method in methods:
                best, steps = chosen(tuning, rule, method)
                steps = max(1, round(steps * scale))
                rows += [_row(rule, method, best, steps, extra) for extra in options]
        overlap = sorted(set(seeds) & set(tuning["seeds"]))
        if overlap and not origin["transferred"]:
            raise ValueError(f"seeds must not be those that the settings were chosen on, got {overlap[0]} in both")
    out = results.output_directory("out", runner.out)
    cells = [dataclasses.replace(cell, keep=keep) for row in rows for cell in _cells_of(row, seeds)]
    retrain = [Cell(seed, "retrain") for seed in seeds]
    run_cells(runner, experiment, retrain + cells)
    document = {
        "kind": kind,
        "name": name,
        "experiment": described(experiment),
        "seeds": seeds,
        "settings": origin,
        "original": [Cell(seed, "original").path("").as_posix() for seed in seeds],
        "retrain": [cell.path("").as_posix() for cell in retrain],
        "rows": [
            {
                "rule": row["rule"],
                "method": row["method"],
                "settings": {**dataclasses.asdict(row["settings"]), "steps": row["steps"]},
                "options": dict(row["options"]),
                "files": [cell.path("").as_posix() for cell in _cells_of(row, seeds)],
            }
            for row in rows
        ],
    }
    path = out / f"{kind}.json"
    return results.write_json(path, results.plain(document)) if distributed.rank() == 0 else path


def _row(rule, method, settings, steps, options):
    return {"rule": rule, "method": method, "settings": settings, "steps": steps, "options": tuple(options)}


def _cells_of(row, seeds):
    """A row's cells, a seed each. The file's name holds the settings: the same run asked for twice is made once."""
    settings, steps = row["settings"], row["steps"]
    suffix = f"_lr{settings.learning_rate:g}_w{settings.weight:g}_s{steps}"
    suffix += "".join(
        f"_{key}{value:g}" if isinstance(value, float) else f"_{key}-{value}" for key, value in row["options"]
    )
    points = sorted({round(steps * i / CURVE_POINTS) for i in range(1, CURVE_POINTS)} - {0, steps})
    return [Cell(seed, row["method"], settings, steps, tuple(points), row["options"], suffix=suffix) for seed in seeds]


def _tuning(settings, experiment):
    """(contents of a tuning.json, where it is from and whether it was made for another experiment)."""
    tuning = results.read_json(SETTINGS_FILE) if settings is None else settings
    if not isinstance(tuning, dict):
        raise ValueError(f"settings must be the contents of a tuning.json, got a {type(tuning).__name__}")
    if missing := sorted({"experiment", "forget_size", "rules", "seeds"} - set(tuning)):
        raise ValueError(f"settings must be the contents of a tuning.json, lacks {', '.join(missing)}")
    same = tuning["experiment"] == results.plain(described(experiment))
    made_on = tuning["experiment"]
    size = f"{made_on['train_size'] or 'all'} images"
    what = f"{made_on['dataset']}, {made_on['arch']} of width {made_on['width'] or 'standard'}, {size}"
    return tuning, {
        "source": f"{'the package' if settings is None else 'a tuning of your own'}: searched on {what}",
        "seeds": tuning["seeds"],
        "transferred": not same,
    }


def steps_scale(tuning, experiment, source):
    """Steps here for each step of a tuning.json's search: as many passes over the forget set, a float > 0."""
    here = len(experiment.split(experiment.load(source), 0).forget) / experiment.forget_batch
    return here / (tuning["forget_size"] / tuning["experiment"]["forget_batch"])
