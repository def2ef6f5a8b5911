"""One run from nothing to a table and a picture: a 4-bit network learns noisy digits, then forgets a tenth of them.

`run` trains, unlearns with every method and writes JSON, Markdown and a picture. `search` chose the methods' settings,
on seeds that `run` does not report, and wrote them to `demo_settings.json` beside this file.
"""

import dataclasses
import math
import time

import numpy as np

from .. import locks
from ..core.unlearner import NonFiniteError
from ..methods.names import DEMO, LABELS
from ..reference import metrics
from ..report import figures, results
from . import engine, measures
from .attacks import SupportVectorAttack
from .experiment import QUICK, Digits, described
from .search import SETTINGS_FILE, load_settings, search

__all__ = ["REPORTED_SEEDS", "markdown", "redraw", "run", "search"]

REPORTED_SEEDS = (1, 2, 3)


def run(out_dir, seeds=REPORTED_SEEDS, quick=False, schedule="constant", recalibrated=False, anew=False, progress=True):
    """The demo: every method on every seed; writes demo.json, demo.md and demo.png.

    out_dir: directory for the three files, made if need be; seeds: distinct integers >= 0; quick: a few epochs and
    steps only, to see that everything works, the figures mean nothing; schedule, recalibrated: as in `UnlearnConfig`;
    anew: search the settings first, and keep them in settings.json of the directory, not in those that come with the
    package; progress: show a bar on stderr, if a terminal.
    Returns {"table": str, "json": Path, "markdown": Path, "picture": Path}.
    Raises TypeError or ValueError, naming the argument, for bad seeds or a directory that cannot be written to.
    """
    seeds = engine.checked_seeds(seeds)
    out_dir = results.output_directory("out_dir", out_dir)
    config = dataclasses.replace(QUICK if quick else Digits(), schedule=schedule, recalibrated=recalibrated)
    config.unlearning()
    path = out_dir / "settings.json" if anew else SETTINGS_FILE
    if anew:
        search(path, config=dataclasses.replace(Digits(), schedule=schedule, recalibrated=recalibrated))
    chosen = load_settings(config.max_steps, path)
    start = time.perf_counter()
    total = len(seeds) * (2 * config.train.epochs + sum(steps for _, steps in chosen.values()))
    with locks.alone(out_dir), engine.one_thread(), engine.progress_bar(total, progress) as bar:
        runs = [_run_seed(seed, config, chosen, bar) for seed in seeds]
    data = _document(config, seeds, chosen, runs, time.perf_counter() - start, path)
    return figures.written(out_dir, "demo", data, markdown(data), figures.demo_figure)


def _run_seed(seed, config, chosen, bar):
    """One seed: a dict of metrics, steps, entropies and cosines by method, and the seconds that each took.

    A method that diverges is named under "diverged" and is missing elsewhere.
    """
    bar.set_description(f"seed {seed}: training")
    case = engine.prepare(seed, config, lambda *_: bar.update())
    models = {"original": case.original, "retrain": case.retrain}
    reports = {}
    seconds = dict(case.seconds)
    diverged = []
    for name, (settings, steps) in chosen.items():
        bar.set_description(f"seed {seed}: {name}")
        try:
            run = engine.forget(case, name, settings, steps, lambda *_: bar.update())
            models[name], reports[name], seconds[name] = run
        except NonFiniteError:
            diverged.append(name)
            continue
        bar.update(steps - len(reports[name]))  # steps that the stop rule saved
    outputs = {name: measures.outputs(model, case.splits) for name, model in models.items()}
    found = {name: measures.measure(one, seed) for name, one in outputs.items()}
    wrong = config.wrong(case.splits, seed)[case.splits.forget_indices]
    values = {n: {**found[n]["metrics"], **measures.accuracy_by_label(outputs[n]["forget"], wrong)} for n in models}
    for name in set(values) - {"retrain"}:  # the gap of Retrain to itself would say nothing
        values[name] = {**values[name], "AG": metrics.average_gap(values[name], values["retrain"])}
    return {
        "seed": seed,
        "diverged": diverged,
        "metrics": values,
        "steps": {name: len(taken) for name, taken in reports.items()},
        "entropy_histograms": {name: one["entropy_histograms"] for name, one in found.items()},
        "cosines": engine.cosines(reports.get("oeu", [])),
        "seconds": seconds,
    }


def _document(config, seeds, chosen, runs, seconds, path):
    """All that the files show, as plain data. Everything but "seconds" is a function of config, seeds and versions."""
    seconds = {"total": seconds, "runs": [run.pop("seconds") for run in runs]}
    times = [{name: {"seconds": value} for name, value in run.items()} for run in seconds["runs"]]
    return results.plain(
        {
            "experiment": "OEU demo: scikit-learn digits",
            "config": described(config),
            "settings": {name: {**dataclasses.asdict(s), "steps": steps} for name, (s, steps) in chosen.items()},
            "seeds": list(seeds),
            "search": _search_in_short(path),
            "attack": SupportVectorAttack.name,
            "versions": results.versions(),
            "labels": {name: LABELS[name] for name in ("original", "retrain", *DEMO)},
            "summary": results.summarize([run["metrics"] for run in runs]),
            "entropy_bins": np.linspace(0, math.log(10), measures.BINS + 1).tolist(),
            "runs": runs,
            "seconds": {**seconds, "summary": results.summarize(times)},
        }
    )


def _search_in_short(path):
    """How the settings were chosen: the seeds, the number of grid points, and what a wrong choice costs a method."""
    found = results.read_json(path)
    return {
        "how": results.how_unlearned(found["config"]),
        "seeds": found["seeds"],
        "most_steps": max(found["grid"]["steps"]),
        "points": math.prod(len(values) for values in found["grid"].values()),
        "AG": {
            name: {"best": digest["best"]["AG"], "median": digest["median_AG"], "worst": digest["worst_AG"]}
            for name, digest in found["methods"].items()
        },
    }


def markdown(data):
    """The table with its caption, from the contents of demo.json alone."""
    summary = {name: {**values, **data["seconds"]["summary"][name]} for name, values in data["summary"].items()}
    config = data["config"]
    caption = (
        f"Digits, {config['bits']}-bit network, {config['label_noise']:.0%} label noise, "
        f"{config['forget_share']:.0%} of the training samples to forget; {results.over(data['seeds'])}.\n"
        f"FA, RA, TA: accuracy on forget, retain, test set; MIA: share of forget samples taken for unseen by a "
        f"{data['attack']}; AG: mean gap to Retrain over these four (lower is better). All in percent.\n"
        f"forget-vs-test AUC: 50 where entropy cannot tell forgotten from unseen samples. s: seconds.\n"
        f"{results.how_unlearned(config)}\n"
        f"Settings: each method's best by AG among the same {data['search']['points']} points (learning rate, weight, "
        f"at most {data['search']['most_steps']} steps), on seeds {', '.join(map(str, data['search']['seeds']))}."
    )
    if (how := data["search"].get("how", results.how_unlearned({}))) != results.how_unlearned(config):
        caption += f" In that search: {how}"
    for run in data["runs"]:
        for name in run["diverged"]:
            caption += f"\n{data['labels'][name]} diverged on seed {run['seed']} and is averaged over the others."
    labels = {name: label for name, label in data["labels"].items() if name in summary}
    return f"{results.table(summary, labels)}\n\n{caption}"


def redraw(json_path, picture_path):
    """Draw the picture again from demo.json alone.  Returns the picture's path; raises ValueError for a bad file."""
    data = results.read_json(json_path)
    if not isinstance(data, dict) or {"runs", "summary", "labels", "entropy_bins"} - set(data):
        raise ValueError(f"path must be a demo.json as `demo` writes it, got {json_path}")
    return figures.picture(picture_path, figures.demo_figure, data)
