"""Sequential requests: k forget requests one after another on the digits, each against a Retrain of its own.

Do gaps to Retrain add up, and do samples that were forgotten early come back? The experiment is in `sequences.py`.
"""

import dataclasses

import numpy as np

from ..lab.attacks import SupportVectorAttack
from ..lab.study import LINES
from ..methods.names import LABELS
from ..report import figures, results
from .sequences import (
    METHODS,
    QUICK_CONFIG,
    SETTINGS_FILE,
    SequenceConfig,
    load_settings,
    measure,
    prepare,
    search,
    serve,
    with_gaps,
)

__all__ = ["QUESTION", "REPORTED_SEEDS", "collect", "figure", "markdown", "search"]

QUESTION = "One forget request after another: how do gaps to Retrain add up, and does the forgotten come back?"
REPORTED_SEEDS = tuple(range(1, 9))
# the rows of the tables: what has a gap to Retrain
ROWS = {"original": "no unlearning", "again": "Retrain again", **{name: LABELS[name] for name in METHODS}}
MARKERS = {"original": "x", "oeu": "o", "oeu_stop": "s", "ft": "v", "rl": "^", "qmul": "D"}


def collect(seeds, base, quick, bar):
    """(config, found) for the document: every method serves every request on every seed."""
    config = QUICK_CONFIG if quick else SequenceConfig()
    chosen = load_settings(config.base.max_steps)
    searched = results.read_json(SETTINGS_FILE)
    bar.reset(len(seeds) * ((1 + 2 * config.requests) * config.base.train.epochs + len(METHODS)))
    runs = [_run_seed(seed, config, chosen, bar) for seed in seeds]
    return dataclasses.asdict(config), {
        "settings": {name: {**dataclasses.asdict(s), "steps": steps} for name, (s, steps) in chosen.items()},
        "search": {"seeds": searched["seeds"], "grid": searched["grid"]},
        "attack": SupportVectorAttack.name,
        "labels": {"retrain": LABELS["retrain"], **ROWS},
        "runs": runs,
    }


def _run_seed(seed, config, chosen, bar):
    """One seed: "sequence", by method a list, an entry a stage; "repeated", the trainings that stumbled."""
    bar.set_description(f"seed {seed}: training")
    sequence = prepare(seed, config, lambda *_: bar.update())
    stages = range(config.requests)
    targets = [measure(sequence, j, sequence.cases[j].retrain) for j in stages]
    found = {"seed": seed, "sequence": {"retrain": targets}, "repeated": sequence.repeated}
    for name, models in (("original", [sequence.original] * config.requests), ("again", sequence.again)):
        found["sequence"][name] = [with_gaps(measure(sequence, j, models[j]), targets[j]) for j in stages]
    for name in METHODS:
        bar.set_description(f"seed {seed}: {name}")
        found["sequence"][name] = serve(sequence, name, *chosen[name], targets)
        bar.update()
    return found


def markdown(data):
    """The tables with their captions, from the contents of sequential.json alone."""
    labels, count = data["labels"], data["config"]["requests"]
    rows = {name: label for name, label in labels.items() if name != "retrain"}  # what has a gap to Retrain
    parts = [
        "AG after each request, over all samples requested so far:",
        _table(data, rows, lambda stages, *_: _by_stage(stages, lambda stage: stage["AG"])),
        "Accuracy on the first request's samples after each request:",
        _table(data, labels, lambda stages, *_: _by_stage(stages, lambda stage: stage["FA_requests"][0])),
        f"After request {count}:",
        _table(data, labels, lambda stages, *_: _last(stages, count)),
        "From request to request:",
        _table(data, rows, _trends),
        _caption(data),
    ]
    return "\n\n".join(parts)


def _caption(data):
    config, seeds, grid = data["config"], data["seeds"], data["search"]["grid"]
    points = np.prod([len(values) for values in grid.values()])
    most_steps = max(grid["steps"])
    repeated = sum(len(set(run["repeated"])) for run in data["runs"])
    chosen = [
        "{} {learning_rate:g}/{weight:g}/{steps}".format(data["labels"][name], **settings)
        for name, settings in data["settings"].items()
    ]
    lines = [
        f"Digits, {config['base']['bits']}-bit network, {config['base']['label_noise']:.0%} label noise; "
        f"{config['requests']} disjoint requests of {config['request_size']} samples; {results.over(seeds)}. All in "
        "percent or percentage points.",
        "FA, MIA, AG, AUC: over all samples requested so far; newest: over the last request alone. AG: mean gap to the "
        f"stage's own Retrain over FA, RA, TA, MIA (lower is better). MIA: {data['attack']}.",
        "No unlearning: the original at every stage. Retrain again: a second Retrain from other initial weights, which "
        "shows the gap that chance alone leaves.",
        "Slopes: least squares over the stages, in points a request; those of RA and TA are of the method's value less "
        "its Retrain's. Comes back: FA on a request less Retrain's, after the last stage against just after it was "
        "served, mean over all requests but the last; above 0 it rises again, by memory or by healing.",
        "Settings: each method's best by AG, mean over the stages, among the same "
        f"{points} points (learning rate, weight, at most {most_steps} steps a request) on seeds "
        f"{', '.join(map(str, data['search']['seeds']))}; learning rate/weight/steps a request: {'; '.join(chosen)}.",
        f"{repeated} of {len(seeds) * (1 + 2 * config['requests'])} trainings (original and Retrains) ended at a loss "
        f"above {config['largest_loss']} nats and were repeated from other weights.",
    ]
    return "\n".join(lines + _diverged(data))


def _table(data, rows, cells):
    """Markdown: a row a method, mean and spread over seeds of what cells(stages, name, run) finds, a dict by column."""
    summary = {}
    for name in rows:
        columns = {}
        for run in data["runs"]:
            for column, value in cells(run["sequence"][name], name, run).items():
                columns.setdefault(column, []).append(value)
        summary[name] = {column: results.mean_and_spread(values) for column, values in columns.items()}
    # a method may lack a column: Retrain has no gap, and one that diverged has no last stage
    columns = list(dict.fromkeys(column for found in reversed(summary.values()) for column in found))
    return results.table(summary, rows, columns)


def _by_stage(stages, read):
    return {f"request {j}": read(stage) for j, stage in enumerate(stages, 1)}


def _last(stages, count):
    """The last stage's metrics; nothing for a method that did not get there."""
    if len(stages) < count:
        return {}
    last, newest = stages[-1], stages[-1]["newest"]
    found = {"FA": last["FA"], "FA, newest": newest["FA"], "RA": last["RA"], "TA": last["TA"], "MIA": last["MIA"]}
    if "AG" in last:
        found |= {"AG": last["AG"], "AG, newest": newest["AG"]}
    return {**found, "forget-vs-test AUC": last["forget_vs_test_auc"]}


def _trends(stages, name, run):
    """Slopes over the stages, and what comes back; nothing for a method that did not reach the last stage."""
    retrain = run["sequence"]["retrain"]
    if len(stages) < len(retrain):
        return {}
    found = {
        "slope of AG": _slope([stage["AG"] for stage in stages]),
        "slope of AG, newest": _slope([stage["newest"]["AG"] for stage in stages]),
    }
    for key in ("RA", "TA"):
        found[f"slope of {key}"] = _slope([stage[key] - target[key] for stage, target in zip(stages, retrain)])
    return {**found, "comes back": _comes_back(stages, retrain)}


def _slope(values):
    return float(np.polyfit(np.arange(1, len(values) + 1), values, 1)[0])


def _comes_back(stages, retrain):
    """Change of each earlier request's FA less Retrain's, from just after it was served to the end; their mean."""
    # less Retrain's: what the last retain set teaches about samples like these is no memory
    gaps = [np.subtract(s["FA_requests"], target["FA_requests"]) for s, target in zip(stages, retrain)]
    return float(np.mean([gaps[-1][j] - gaps[j][j] for j in range(len(gaps) - 1)]))


def _diverged(data):
    """A sentence for each run that ended early."""
    count = data["config"]["requests"]
    return [
        f"{data['labels'][name]} diverged on seed {run['seed']} after {len(stages)} of {count} stages; from there it "
        "is averaged over the other seeds."
        for run in data["runs"]
        for name, stages in run["sequence"].items()
        if len(stages) < count
    ]


def figure(data):
    """Four panels over the stages: AG, accuracy on the first request, RA and TA; every method, and Retrain in grey.

    data: contents of sequential.json.  Returns a Matplotlib `Figure` of 1500 x 1050 pixels.
    """
    drawing = figures.new_figure(10, 7)
    axes = drawing.subplots(2, 2, sharex=True)
    panels = (
        ("Gap to Retrain, all requests so far", "AG (percentage points)", lambda stage: stage.get("AG")),
        ("The first request's samples: do they come back?", "accuracy (%)", lambda stage: stage["FA_requests"][0]),
        ("What is kept", "retain accuracy (%)", lambda stage: stage["RA"]),
        ("What was never seen", "test accuracy (%)", lambda stage: stage["TA"]),
    )
    names = [name for name in LINES if name in data["labels"]]
    shifts = np.linspace(-0.16, 0.16, len(names))
    for ax, (title, label, read) in zip(axes.flat, panels):
        for name, shift in zip(names, shifts):
            _draw_line(ax, data, name, read, shift)
        figures.clean(ax, title, grid="y")
        ax.set_ylabel(label)
        ax.set_xticks(range(1, data["config"]["requests"] + 1))
    axes[0, 0].set_ylim(bottom=0)
    for ax in axes[1]:
        ax.set_xlabel("requests served")
    # Retrain has no gap to itself: the second panel has every line
    handles, labels = axes[0, 1].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, handlelength=3.4)
    return drawing


def _draw_line(ax, data, name, read, shift):
    """Mean over seeds with whiskers of one standard deviation, set apart sideways so that whiskers do not overlap."""
    runs = [run["sequence"][name] for run in data["runs"]]
    means, whiskers, places = [], [], []
    for j in range(data["config"]["requests"]):
        values = [read(stages[j]) for stages in runs if len(stages) > j]
        if values and None not in values:
            found = results.mean_and_spread(values)
            mean, spread = found["mean"], found["spread"] or 0.0
            places.append(j + 1 + shift)
            means.append(mean)
            # percentages end at 0 and 100, and so do the whiskers
            whiskers.append((min(spread, mean), min(spread, 100 - mean)))
    if places:
        look = {"linewidth": 1.5, "marker": MARKERS.get(name, ""), "markersize": 4.5, "elinewidth": 0.7, **LINES[name]}
        ax.errorbar(places, means, np.transpose(whiskers), label=data["labels"][name], **look)
