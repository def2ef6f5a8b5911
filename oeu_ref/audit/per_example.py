"""Is every single sample forgotten? An attack that knows the sample, on many models that forgot it or never saw it.

A fixed pool of training samples; each model learns all other training samples and one half of the pool, then forgets
that half. Two models make a block: the second has the other half. So of each block one model forgot a given sample, as
`likelihood_ratio.py` wants it, and every Retrain has the same training set, all but the pool. What never saw a sample
is either Retrain ("retrain": is the network told from one that is made anew?) or the block's other model of the same
method ("own": what unlearning does to any network is no trace of the sample). The ends: Retrain in the method's place,
the floor, since for networks with one training set membership is a coin, and the original before unlearning.
"""

import numpy as np
import torch

from ..core.unlearner import NonFiniteError
from ..data.samples import Splits, split_at, stream
from ..lab import engine, search
from ..lab.experiment import Digits, described
from ..lab.study import under
from ..lab.training import predictions
from ..methods.method import Settings
from ..methods.names import LABELS
from . import STUDIES, likelihood_ratio
from .per_example_views import figure, markdown

__all__ = ["QUESTION", "REPORTED_SEEDS", "collect", "figure", "markdown"]

QUESTION = STUDIES["per-example"]
REPORTED_SEEDS = tuple(range(1, 65))  # a model each
IMAGE_SEEDS = tuple(range(1, 17))
METHODS = ("oeu", "oeu_no_projection", "qmul", "rl", "salun", "ft", "ga")
IMAGE_METHODS = ("oeu", "qmul", "rl")
QUICK_METHODS = ("oeu", "ft")
NO_PROJECTION = Settings(0.1, 0.1), 40  # of the digits: what the search of `variants` chose
DATA_SEED = 0  # of splits, wrong labels, pool and halves: one data set, many models
REFERENCES = ("retrain", "own")
LEAST = 6  # models
RATES = (0.01, 0.001)  # of false positives, in the table
CURVE = tuple(np.geomspace(1e-4, 1, 41)[:-1].round(6).tolist())
MEMORIZED = 0.5  # the least memorization estimate of images that count as memorized


def collect(seeds, config, quick, bar, work):
    """(config, found) for the document.  seeds: a model each, an even number, blocks in their order."""
    if isinstance(config, Digits):
        methods = QUICK_METHODS if quick else METHODS
        settings = {**search.load_settings(config.max_steps), "oeu_no_projection": NO_PROJECTION}
    else:
        methods = QUICK_METHODS if quick else IMAGE_METHODS
        settings = work.tuned(methods, 2 if quick else None)
    runs = {name: (name, *settings[name]) for name in methods}
    found = evidence(seeds, work, runs, bar)
    labels = {"original": LABELS["original"], **{name: LABELS[name] for name in runs}}
    labels["retrain"] = "Retrain (the floor)"
    settings = {name: [vars(setting), steps] for name, (_, setting, steps) in runs.items()}
    config = {**described(config), "settings": settings, "rates": RATES, "curve": CURVE}
    return config, {"labels": labels, **found, "attacks": attacks(found, labels)}


def evidence(seeds, work, runs, bar):
    """What the models say of the pool, plain data, from which all else is computed.

    seeds: as above; work: `study.Work`, which has a part for each model; runs: {name: (method, `Settings`, steps)}, a
    method as `engine.forget` takes it, and, if the loop is to run another way, a dict of fields of the experiment.
    Returns {"members": (M, N) of 0 and 1, "groups": {name: positions in the pool}, "memorization": (N,) estimates in
    [-1, 1], "confidences": {name: M lists of N, or None of a run that diverged}, "metrics": {name: M dicts in percent,
    or None}, "seconds" of processor time, "MiB"}; names are those of the runs, "original" and "retrain".
    Raises ValueError for an odd number of seeds or too few.
    """
    if len(seeds) < LEAST or len(seeds) % 2:
        raise ValueError(f"seeds must be an even number of models, at least {LEAST}, got {len(seeds)}")
    splits = work.splits(DATA_SEED)
    pool, members = drawn(len(splits.train), 2 * len(splits.forget), len(seeds))
    of = lambda method: getattr(getattr(method, "func", method), "__name__", method)  # of a partial, a class or a word
    plan = {name: [of(run[0]), vars(run[1]), *run[2:]] for name, run in runs.items()}
    bar.reset(len(seeds))
    models = []
    for number, (seed, half) in enumerate(zip(seeds, members)):
        make = lambda: _model(work.experiment, splits, seed, pool, half, runs)
        models.append(work.part(f"model-{number}", {"runs": plan, "seed": seed}, make))
        bar.update()
    by_name = {key: {n: [m[key][n] for m in models] for n in models[0][key]} for key in ("confidences", "metrics")}
    right = np.array([model["right"] for model in models])
    share = lambda seen: (right * seen).sum(axis=0) / seen.sum(axis=0)
    memorization = share(members) - share(~members)
    wrong, names = _wrong_labels(work.experiment, splits, pool), ("wrong label", "right label")
    if wrong is None:
        wrong, names = memorization >= MEMORIZED, ("memorized", "not memorized")
    groups = {"all": np.ones(len(pool), dtype=bool), names[0]: wrong, names[1]: ~wrong}
    found = {"members": members.astype(int).tolist(), "memorization": memorization.round(4).tolist(), **by_name}
    found["groups"] = {name: np.flatnonzero(group).tolist() for name, group in groups.items() if group.any()}
    return {**found, "seconds": work.seconds, "MiB": work.mib}


def drawn(count, size, models):
    """(positions of the pool, (N,) int64 ascending; (M, N) bool: whether a model forgets a sample of it).

    count: training samples; size: N, even; models: M, even. A block's first model has half of the pool, drawn at
    random, its second the other half.
    """
    pool = torch.randperm(count, generator=stream(DATA_SEED, "pool"))[:size].sort().values
    members = np.zeros((models, size), dtype=bool)
    for block in range(0, models, 2):
        members[block, torch.randperm(size, generator=stream(DATA_SEED, f"half {block}"))[: size // 2].numpy()] = True
        members[block + 1] = ~members[block]
    return pool, members


def _case(experiment, splits, seed, pool, half):
    """`engine.Case` of one model, which learns all but the other half of the pool."""
    half = torch.from_numpy(half)
    kept = torch.ones(len(splits.train), dtype=torch.bool)
    kept[pool[~half]] = False
    training = splits.train[kept]
    parts = split_at(training, (kept.cumsum(0) - 1)[pool[half]])
    mine = Splits(training, parts[0], parts[1], splits.validation, splits.test, parts[2], {}, splits.classes)
    original, retrain = (engine.trained(experiment, mine, seed, name)[0] for name in ("original", "retrain"))
    return engine.Case(seed, experiment, mine, original, retrain, {})


def _model(experiment, splits, seed, pool, half, runs):
    """One model's part of `evidence`; the confidences are rounded before anything is computed from them."""
    case = _case(experiment, splits, seed, pool, half)
    pool = splits.train[pool]
    confidences, metrics = {}, {}
    made = {"original": lambda: case.original, "retrain": lambda: case.retrain}
    for name, run in runs.items():
        made[name] = lambda run=run: engine.forget(under(case, dict(*run[3:])), *run[:3])[0]
    for name, make in made.items():
        try:
            network = make()
            confidence = likelihood_ratio.logit_confidence(*predictions(network, pool))
            confidences[name], metrics[name] = confidence.round(4).tolist(), case.judged(network)
        except NonFiniteError:
            confidences[name] = metrics[name] = None
    probabilities, labels = predictions(case.original, pool)
    right = (probabilities.argmax(axis=1) == labels).tolist()
    return {"confidences": confidences, "metrics": metrics, "right": right}


def _wrong_labels(experiment, splits, pool):
    """(N,) bool, which labels of the pool are wrong; None where no label was made wrong on purpose."""
    if not getattr(experiment, "label_noise", 0):
        return None
    return experiment.wrong(splits, DATA_SEED)[pool]


def attacks(found, names):
    """{reference: {name: {group: `likelihood_ratio.judged`}}}, None of a name that diverged on some model.

    found: `evidence`; names: to be judged; "tpr" is at RATES and then at CURVE.
    """
    members = np.array(found["members"], dtype=bool)
    groups = {name: np.isin(np.arange(members.shape[1]), at) for name, at in found["groups"].items()}
    retrain = np.array(found["confidences"]["retrain"])
    judged = {reference: {} for reference in REFERENCES}
    for name in names:
        lost = any(confidence is None for confidence in found["confidences"][name])
        for reference in REFERENCES:
            if not lost:
                mine = np.array(found["confidences"][name])
                mine = np.where(members, mine, retrain) if reference == "retrain" else mine
            judged[reference][name] = None if lost else likelihood_ratio.judged(mine, members, (*RATES, *CURVE), groups)
    return judged
