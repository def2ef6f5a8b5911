"""Does a better objective exist? OEU with one thing changed at a time; the same search and the same measures for all.

OEU raises the mean entropy of what is to be forgotten, up to log K if it is let, at a constant learning rate. Retrain
gives such samples about the entropy of samples that nobody saw, far less. What is changed:
"aimed": a sample's entropy counts up to that of unseen samples of its class alone; "weighted": the surer a prediction,
the more it counts; "falling": the learning rate falls to zero along a line; "recalibrated": BatchNorm's statistics are
estimated anew afterwards; "all but weights": the first, the third and the fourth together. Each network is judged as
it is, then trained on with the retain set alone, as in the study `relearn`; an attack that knows the sample comes last.
All of it is ours, none of it the method of arXiv 2602.00567.
"""

import functools
import itertools
import math

import numpy as np

from ..core.entropy import entropy, kl_to_uniform
from ..core.unlearner import NonFiniteError
from ..lab import engine, search
from ..lab.experiment import Digits, described
from ..lab.study import COLUMNS, averaged, cost, interval, under
from ..lab.training import predictions
from ..methods.method import Settings
from ..methods.orthogonal import OrthogonalEntropy
from ..reference.entropy import entropy_of_probabilities
from ..report import figures, results
from . import STUDIES, per_example, relearn
from .per_example_views import bracketed

QUESTION = STUDIES["objective"]
REPORTED_SEEDS = tuple(range(1, 11))
IMAGE_SEEDS = (1, 2, 3)
SEARCH_SEEDS = (101, 102, 103)
GRID = {
    "learning_rate": (0.01, 0.03, 0.1, 0.3, 1.0),
    "weight": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (10, 20, 40, 80),
}
IMAGE_SEARCH_SEEDS = (101, 102)
IMAGE_GRID = {"learning_rate": (0.01, 0.03, 0.1), "weight": (0.3, 1.0, 3.0), "steps": (20, 40, 80)}
QUICK_GRID = {"learning_rate": (0.1,), "weight": (0.3, 1.0), "steps": (2, 4)}
MODELS = 16  # for the attack that knows the sample
WAY = "retain, a tenth"  # of `relearn.WAYS`: what the networks are trained on
TOLD = {  # measure, what never saw the sample, and which samples
    "AUC, Retrain": ("sample auc", "retrain", "all"),
    "KLOM, Retrain": ("klom", "retrain", "all"),
    "F, Retrain": ("F", "retrain", "all"),
    "AUC, own": ("sample auc", "own", "all"),
    "AUC, own, wrong label": ("sample auc", "own", "wrong label"),
    "AUC, own, memorized": ("sample auc", "own", "memorized"),
}
SHOWN = (*COLUMNS, "highest FA", "highest FA wrong")
COMPARED = {  # measure: title; higher is better of RA and TA, lower of the others; the last is of digits alone
    "AG": "AG",
    "AUC": "distance of AUC to Retrain's",
    "RA": "RA",
    "TA": "TA",
    "highest FA": "highest FA, trained on",
    "highest FA wrong": "the same, wrong labels",
}


class AimedEntropy(OrthogonalEntropy):
    """OEU that raises the entropy of a sample no further than samples of its class have it that nobody saw.

    Forget loss: -(1/N) sum_n min(H(p_n), t_y), y the sample's label as it was trained on; t_y: the mean entropy that
    the original model, in eval mode, gives the samples of `validation` with that label, of all where there is none.
    validation: `Samples`, unseen; all else as in `OrthogonalEntropy`.
    """

    def __init__(self, model, forget, settings, generator, validation, **options):
        super().__init__(model, forget, settings, generator, forget_loss=self._up_to_target, **options)
        probabilities, labels = predictions(model, validation)
        found, classes = entropy_of_probabilities(probabilities), range(probabilities.shape[1])
        means = [found[labels == k].mean() if (labels == k).any() else found.mean() for k in classes]
        self.targets = forget.inputs.new_tensor(means, dtype=next(model.parameters()).dtype)

    def step(self, forget, retain):
        self._labels = forget.labels
        return super().step(forget, retain)

    def _up_to_target(self, logits):
        return -entropy(logits).minimum(self.targets[self._labels]).mean()


class WeightedEntropy(OrthogonalEntropy):
    """OEU in which a sample counts the more, the surer the network still is of it.

    Forget loss: -(1/N) sum_n w_n H(p_n), w_n = KL_n / mean KL over the batch, held constant, KL_n = log K - H(p_n): its
    gradient is that of (1/N) sum_n KL_n^2 / (2 mean KL). The weights' mean is 1; all are 0 where all KL_n are.
    """

    def __init__(self, model, forget, settings, generator, **options):
        super().__init__(model, forget, settings, generator, forget_loss=_weighted, **options)


def _weighted(logits):
    weights = kl_to_uniform(logits).detach()
    weights = weights / weights.mean().clamp_min(1e-12)
    return -(weights * entropy(logits)).mean()


# name: (label, method, how the loop is run)
FALLING, ANEW = {"schedule": "linear"}, {"recalibrated": True}
OBJECTIVES = {
    "oeu": ("OEU", "oeu", {}),
    "aimed": ("entropy up to a target", AimedEntropy, {}),
    "weighted": ("entropy weighted by sample", WeightedEntropy, {}),
    "falling": ("OEU, rate falling", "oeu", FALLING),
    "recalibrated": ("OEU, recalibrated", "oeu", ANEW),
    "all but weights": ("target, falling, recalibrated", AimedEntropy, FALLING | ANEW),
}


def forget(case, name, settings, steps, on_step=None):
    """The network that one of OBJECTIVES makes of a case's original; else as in `engine.forget`."""
    _, method, way = OBJECTIVES[name]
    options = (("validation", case.splits.validation),) if method is AimedEntropy else ()
    return engine.forget(under(case, way), method, settings, steps, on_step, options)[0]


def attacked(work, best, models, bar):
    """What an attack that knows the sample makes of each objective, `per_example` with fewer models.

    work: `study.Work`; best: {objective: settings}; models: even, at least 6.  Returns {reference: {name: {group:
    {measure: [value, low, high]}}}} of TOLD, None for a name that diverged on some model; names: also "original" and
    "retrain", the floor.
    """
    unseen = work.splits(per_example.DATA_SEED).validation
    runs = {}
    for name, (_, method, way) in OBJECTIVES.items():
        method = functools.partial(method, validation=unseen) if method is AimedEntropy else method
        runs[name] = method, *search.setting(best[name]), way
    found = per_example.evidence(range(1, models + 1), work, runs, bar)
    judged = per_example.attacks(found, ("original", "retrain", *OBJECTIVES))
    keys, groups = ({told[i] for told in TOLD.values()} for i in (0, 2))
    kept = lambda of: of and {group: {key: of[group][key] for key in sorted(keys)} for group in sorted(groups & {*of})}
    return {reference: {name: kept(of) for name, of in names.items()} for reference, names in judged.items()}


def collect(seeds, config, quick, bar, work):
    """(config, found) for the document: "values" has a dict of metrics a seed, None of a run that diverged."""
    on_digits = isinstance(config, Digits)
    grid = GRID if on_digits else IMAGE_GRID
    searched_on = SEARCH_SEEDS if on_digits else IMAGE_SEARCH_SEEDS
    grid, searched_on = (QUICK_GRID, searched_on[:1]) if quick else (grid, searched_on)
    points = list(itertools.product(grid["learning_rate"], grid["weight"]))
    steps = grid["steps"]
    looks = (relearn.LOOKS if on_digits else relearn.IMAGE_LOOKS)[: 3 if quick else None]
    bar.reset(len(OBJECTIVES) * (len(searched_on) + len(seeds)))
    gaps = {}
    for seed, name in itertools.product(searched_on, OBJECTIVES):
        about = {"seed": seed, "objective": name, "grid": grid}
        make = lambda: _gaps(work, seed, name, points, steps)
        gaps[seed, name] = dict(zip(points, work.part(f"search-{seed}-{name}", about, make)))
        bar.update()

    def attempt(seed, name, *point):
        return {n: math.inf if gap is None else gap for n, gap in zip(steps, gaps[seed, name][point])}

    chosen = search.searched(OBJECTIVES, searched_on, grid, attempt)
    best = {name: digest["best"] | {"at_end_of": digest["best_at_end_of"]} for name, digest in chosen.items()}
    labels = {"original": "original", "retrain": "Retrain", "again": "second Retrain"}
    labels |= {name: label for name, (label, *_) in OBJECTIVES.items()}
    values = {name: [] for name in labels}
    for seed in seeds:
        for name in labels:
            about = {"seed": seed, "objective": name, "best": best.get(name), "looks": looks}
            make = lambda: _judged(work, seed, name, best, looks)
            values[name].append(work.part(f"seed-{seed}-{name}", about, make))
            bar.update(name in OBJECTIVES)
    models = per_example.LEAST if quick else MODELS
    found = {"labels": labels, "grid": grid, "search_seeds": searched_on, "best": best, "values": values}
    found |= {"models": models, "attacks": attacked(work, best, models, bar)}
    return described(config), {**found, "seconds": work.seconds, "mib": work.mib}


def _gaps(work, seed, name, points, steps):
    """For each point of the grid AG after each of some numbers of steps, None where the run diverged."""
    case = under(work.case(seed), OBJECTIVES[name][2])
    found = []
    for point in points:
        gaps = {}
        for part in case.experiment.unlearning().runs(steps):
            run = functools.partial(forget, case, name, Settings(*point), max(part))
            gaps |= search.gaps_along(case.gap, part, run)
        found.append([gaps[n] if math.isfinite(gaps[n]) else None for n in steps])
    return found


def _judged(work, seed, name, best, looks):
    """Metrics of one network of a seed: of OBJECTIVES, "original", "retrain" or "again", another Retrain.

    Among them "highest FA", on digits also "highest FA wrong": of `relearn.Look`'s FA and FA wrong over all looks while
    a copy is trained on, on the retain set alone.  None if the network diverged, or its copy.
    """
    case = work.case(seed)
    try:
        model = forget(case, name, *search.setting(best[name])) if name in best else _trained(work, case, name)
    except NonFiniteError:
        return None
    kind, share = relearn.WAYS[WAY]
    look = relearn.Look(case)
    rate = share * case.experiment.training().learning_rate
    curve = relearn.relearned(case, model, getattr(case.splits, kind), rate, looks, look)
    if curve is None:
        return None
    highest = {f"highest {metric}": max(curve[metric]) for metric in ("FA", "FA wrong") if metric in curve}
    return (case.target if name == "retrain" else case.judged(model)) | highest


def _trained(work, case, name):
    networks = {"original": case.original, "retrain": case.retrain}
    return networks[name] if name in networks else work.network(case.seed, "retrain again")


def compared(data, name, measure, against="oeu"):
    """A row's values less those of another, seed by seed: (differences, low, high), a 95 % interval of their mean.

    measure: of COMPARED, "AUC" the distance of forget-vs-test AUC to Retrain's, in points as all. By Student's t over
    the seeds on which both finished; None for the ends where these are fewer than two.
    """
    rows = zip(data["values"][name], data["values"][against], data["values"]["retrain"])
    found = np.array([_read(a, aim, measure) - _read(b, aim, measure) for a, b, aim in rows if a and b])
    if len(found) < 2:
        return found, None, None
    middle, half = interval(found)
    return found, middle - half, middle + half


def measures(data):
    """Those of COMPARED that these networks have, with their titles."""
    return {name: COMPARED[name] for name in COMPARED if name in ("AUC", *averaged(data["values"]["again"]))}


def _read(values, aim, measure):
    return abs(values["forget_vs_test_auc"] - aim["forget_vs_test_auc"]) if measure == "AUC" else values[measure]


def markdown(data):
    """What each objective ends at, and what it gains on plain OEU, with intervals: from the study's JSON alone."""
    parts = [_values(data)]
    names = [name for name in data["best"] if name != "oeu"]
    told = measures(data)
    rows = [["less plain OEU, paired", *told.values()]]
    for name in ["again", *names]:
        rows.append([data["labels"][name], *(_interval(*compared(data, name, measure)) for measure in told)])
    parts += [results.aligned(rows), _attacks(data)]
    points = int(np.prod([len(axis) for axis in data["grid"].values()]))
    chosen = "; ".join(
        "{} {learning_rate:g}/{weight:g}/{steps}".format(data["labels"][name], **best)
        for name, best in data["best"].items()
    )
    axes = {"learning_rate", "weight"}
    ends = [data["labels"][name] for name, best in data["best"].items() if axes & {*best["at_end_of"]}]
    caption = (
        f"{results.over(data['seeds']).capitalize()}. Differences: in points, mean and 95 % interval (Student's t),\n"
        f"above 0 is better in RA and TA, below 0 in the others; of {len(names) * len(told)} such intervals about one\n"
        f"in twenty excludes 0 by chance. Trained on: on the retain set alone, at {relearn.WAYS[WAY][1]:g} of the "
        "training's\nlearning rate, as in `relearn`; highest FA: on the way; wrong: of wrongly labelled samples.\n"
        f"Settings: each one's best by AG of the same {points} points, on seeds "
        f"{', '.join(map(str, data['search_seeds']))}; learning rate/\nweight/steps: {chosen}.\n"
        f"At an end of the grid in rate or weight: {', '.join(ends) or 'none'}.\n"
        f"The attack: as in the study `per-example`, {data['models']} models; in brackets 95 % intervals over models. "
        "AUC: percent, a mean\nover samples; KLOM: nats; own: models of the same objective that forgot others and never"
        " saw the sample."
    )
    return "\n\n".join([*parts, caption + cost(data)])


def _values(data):
    found = {name: averaged(runs) for name, runs in data["values"].items()}
    labels = {name: data["labels"][name] + results.finished(runs)[1] for name, runs in data["values"].items()}
    shown = [column for column in SHOWN if any(column in means for means in found.values())]
    return results.table(found, labels, shown)


def _attacks(data):
    """A row a name: told from Retrain, and from models of its own that forgot other samples."""
    own = data["attacks"]["own"]["retrain"]  # on digits one knows which labels are wrong, on images what is memorized
    told = {title: of for title, of in TOLD.items() if own is None or of[2] in own}
    rows = [["an attack that knows the sample", *told]]
    for name in data["attacks"]["retrain"]:
        row = [data["labels"][name] + " (the floor)" * (name == "retrain")]
        for key, reference, group in told.values():
            found = data["attacks"][reference][name] or {}
            digits = 1 if key == "sample auc" else 2
            row.append(bracketed(found[group][key], digits) if group in found else "–")
        rows.append(row)
    return results.aligned(rows)


def _interval(found, low, high):
    ends = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{found.mean():+.1f}{ends}" if len(found) else "–"


def figure(data):
    """What each objective gains on plain OEU, a dot a seed, with the mean's interval; last, what the attack finds."""
    told = measures(data)
    names = ["again", *(name for name in data["best"] if name != "oeu")]
    drawn = figures.new_figure(11, 5.4)
    *panels, last = drawn.subplots(2, 4, sharey=True).flat[: len(told) + 1]
    for unused in drawn.axes[len(told) + 1 :]:
        unused.set_axis_off()
    for axes, (measure, title) in zip(panels, told.items()):
        for height, name in enumerate(names):
            found, low, high = compared(data, name, measure)
            axes.plot(found, np.full(len(found), height), "o", color=_color(name), markersize=4, alpha=0.35)
            if low is not None:
                _whisker(axes, height, found.mean(), low, high, _color(name))
        axes.axvline(0, color=figures.SIDE, linewidth=0.8)
        axes.set_xlabel(f"{title},\nless plain OEU's (points)")
    found = data["attacks"]["retrain"]
    for height, name in enumerate(names):
        if of := found["retrain" if name == "again" else name]:
            _whisker(last, height, *of["all"]["sample auc"], _color(name))
    if found["oeu"]:
        last.axvspan(*found["oeu"]["all"]["sample auc"][1:], color=figures.BAR)
    last.set_xlabel("AUC of a sample (%),\ngrey: plain OEU")
    last.set(yticks=range(len(names)), yticklabels=[data["labels"][name] for name in names])
    last.invert_yaxis()
    for axes in (*panels, last):
        figures.clean(axes, "", grid="x")
    return drawn


def _color(name):
    return figures.STYLES["retrain" if name == "again" else "oeu"]["color"]


def _whisker(axes, height, value, low, high, color):
    axes.errorbar(value, height, xerr=[[value - low], [high - value]], fmt="D", color=color, markersize=5, capsize=3)
