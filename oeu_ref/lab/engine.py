"""The one way from (experiment, seed) to an original model, its Retrain, a method's run, and what all of them show.

An experiment says what is particular: `oeu_ref.lab.experiment.Experiment` of images, `Digits`. What is made here lives
in memory, as demo and studies want it; `cells.py` puts files and restarts around the same functions.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import threading
import time

import numpy as np
import torch
from torch import nn

from .. import boundary
from ..beyond import distributed
from ..core.stop_rule import EntropyStop
from ..core.unlearner import NonFiniteError
from ..data.requests import like, whole_classes
from ..data.samples import Splits, stream
from ..methods.by_name import METHODS
from ..reference import metrics
from ..reference.entropy import entropy_of_probabilities
from .attacks import SupportVectorAttack
from .training import as_left, build, predictions, train, unlearn

BINS = 18  # of the entropy histograms, from 0 to log K nats
STOP_SAMPLES = 1000  # of the forget and of the validation set, that the stop rule reads
MEASURED = ("retain", "test", "forget")
FA_PARTS = ("FA wrong", "FA right")


def new_model(experiment, splits, seed, name, device="cpu"):
    """The quantized model of one seed with its initial weights; name: "original" or "retrain", or a word after it."""
    weights = stream(seed, f"{name} weights").initial_seed()
    model = build(functools.partial(experiment.network, splits), weights).to(device)
    return distributed.synchronized(model) if distributed.size() > 1 else model


def trained(experiment, splits, seed, name, on_epoch=None, checkpoint=None, device="cpu"):
    """A model trained from scratch: (model in eval mode, mean loss of each epoch in nats).

    experiment: `Experiment` or `Digits`; splits: `Splits` on the device; seed: integer >= 0; name: "original", on all
    training samples, or "retrain", on those to keep, or a word after it, for other random numbers; on_epoch,
    checkpoint: as in `train`.  Raises as `train`.
    """
    samples = splits.train if name.startswith("original") else splits.retain
    model = new_model(experiment, splits, seed, name, device)
    batches = stream(seed, f"{name} batches")
    losses = train(model, samples, experiment.training(), batches, on_epoch, experiment.augment(), checkpoint)
    return model, losses


def unlearned(experiment, splits, seed, model, method, settings, steps, options=(), on_step=None, checkpoint=None):
    """Let one method change a trained model in place.  Returns its reports, one a step.

    experiment, splits, seed: as in `trained`; method: a key of METHODS, or make(model, forget, settings, generator);
    settings: `Settings`; steps: at most so many; options: further arguments of the method, pairs; on_step,
    checkpoint: as in `training.unlearn`.  Raises `NonFiniteError` if the method diverges.
    """
    info = METHODS.get(method) if isinstance(method, str) else None
    make, order = method if info is None else info.make, experiment.order(method, splits)
    needed = {"fade": steps} if info is not None and info.fades else {}
    needed |= {"validation": splits.validation} if info is not None and info.compares else {}
    method = make(model, splits.forget, settings, stream(seed, "method"), **{**needed, **dict(options)})
    stop = None
    if info is not None and info.stops:
        # unseen by training and by the metrics, and asked for inputs alone
        asked, unseen = splits.forget[:STOP_SAMPLES], splits.validation
        if experiment.is_request:  # the classes of what somebody chose may be harder than others, or easier
            unseen = unseen[like(asked.labels, unseen.labels)]
        stop = EntropyStop(model, asked.inputs, unseen.inputs[:STOP_SAMPLES], every=experiment.stop_every)
        if experiment.unlearning().recalibrated:
            retain = splits.retain[:: -(-len(splits.retain) // STOP_SAMPLES)]
            stop = StopAsLeft(stop, retain, experiment.unlearning())
        stop = stop.reached
    return unlearn(
        method,
        splits.forget,
        splits.retain,
        steps,
        experiment.unlearning(),
        (stream(seed, "forget batches"), stream(seed, "retain batches")),
        stop,
        on_step,
        experiment.augment(),
        checkpoint,
        max(50, len(splits.retain) // experiment.retain_batch),
        order,
    )


class StopAsLeft:
    """An `EntropyStop` of the network as the loop would leave it; retain, config: as in `training.as_left`."""

    def __init__(self, stop, retain, config):
        self.stop, self.retain, self.config = stop, retain, config
        self.state_dict, self.load_state_dict = stop.state_dict, stop.load_state_dict

    def reached(self):
        """As `EntropyStop.reached`."""
        looks = self.stop.calls % self.stop.every == 0
        with as_left(self.stop.model, self.retain, self.config) if looks else contextlib.nullcontext():
            return self.stop.reached()


def outputs(model, splits, parts=MEASURED):
    """{part: (probabilities, labels)} of a model, all that is measured of it.  Raises as `predictions`."""
    parts = (*parts, "test_of_forgotten") if splits.test_of_forgotten is not None else parts
    return {part: predictions(model, getattr(splits, part)) for part in parts}


def accuracy_by_label(forget, wrong):
    """FA in two FA_PARTS, in percent: of the samples whose label is wrong, which can only be remembered, and of the
    others, which can be guessed; labels as they were taught.

    forget: (probabilities, labels) as of `outputs`; wrong: (N,) bool array, by `Digits.wrong`, not all of one kind.
    """
    right = forget[0].argmax(1) == forget[1]
    return {metric: float(100 * right[chosen].mean()) for metric, chosen in zip(FA_PARTS, (wrong, ~wrong))}


def mean_loss(probabilities, labels):
    """Mean cross-entropy in nats of `outputs`, those of the network as it predicts, in eval mode."""
    return float(-np.log(np.maximum(metrics.confidence(probabilities, labels), np.finfo(float).tiny)).mean())


def measure(found, seed):
    """{"metrics": as `metrics.unlearning_metrics`, "entropy_histograms": {part: counts in BINS bins up to log K nats}}.

    found: `outputs` of retain, test and forget samples; labels count as they were trained on, noise included; seed: of
    the membership attack's choice of members. Where there are those of "test_of_forgotten", metrics hold "TA_forgotten"
    too, the accuracy on test samples of classes of which none is kept, which count in no other figure.
    """
    of_forgotten = found.get("test_of_forgotten")
    found = {part: found[part] for part in MEASURED}
    limit = math.log(found["test"][0].shape[1])
    histograms = {
        part: np.histogram(entropy_of_probabilities(p).clip(0, limit), BINS, (0, limit))[0].tolist()
        for part, (p, _) in found.items()
    }
    values = metrics.unlearning_metrics(**found, attack=SupportVectorAttack(seed))
    if of_forgotten is not None:
        values["TA_forgotten"] = metrics.accuracy(*of_forgotten)
    return {"metrics": values, "entropy_histograms": histograms}


def proxy(found, seed):
    """What can be said without Retrain and without any test sample: {"FA", "RA", "VA", "MIA", "MIA_unseen"}, percent.

    found: `outputs` of retain, forget and validation samples. VA: accuracy on the validation samples; MIA: by an attack
    that learned on retain against the first half of them; MIA_unseen: what that attack says of the second half.
    Validation samples of classes of which nothing is kept do not count. Of such classes Retrain never saw a label, so
    that it never predicts one, and the attack calls them unseen: where there are any, MIA_unseen has their share at
    100, and "FA_unseen" is VA with their share at 0.
    """
    forget, retain, validation = (found[part] for part in ("forget", "retain", "validation"))
    gone = whole_classes(forget[1], retain[1])
    validation = tuple(array[~np.isin(validation[1], gone)] for array in validation)
    half = len(validation[1]) // 2
    known, unknown = (tuple(array[part] for array in validation) for part in (slice(half), slice(half, None)))
    targets = np.concatenate([metrics.confidence(*part) for part in (forget, unknown)])
    judged = SupportVectorAttack(seed)(metrics.confidence(*retain), metrics.confidence(*known), targets)
    accuracies = {name: metrics.accuracy(*part) for name, part in (("FA", forget), ("RA", retain), ("VA", validation))}
    shares = {"MIA": judged[: len(forget[1])], "MIA_unseen": judged[len(forget[1]) :]}
    values = {**accuracies, **{name: float(100 * np.mean(share)) for name, share in shares.items()}}
    if lost := float(np.isin(forget[1], gone).mean()):
        values["FA_unseen"] = (1 - lost) * values["VA"]
        values["MIA_unseen"] += lost * (100 - values["MIA_unseen"])
    return values


def proxy_average_gap(proxy, original):
    """AG without a retrained model: mean absolute gap to what the original model shows on images that it never saw.

    proxy, original: the `proxy` of the unlearned and of the original model.  Returns a float >= 0, percentage points.
    Source: ours; Retrain is to the forget set what the original is to unseen data.
    """
    return float(np.mean([abs(proxy[key] - target) for key, target in proxy_targets(original).items()]))


def proxy_targets(original):
    """What `proxy` should become, {"FA", "RA", "VA", "MIA"}, by that of the original model: RA and VA what they were,
    FA its accuracy on images that it never saw, MIA the share of these that the attack calls unseen."""
    targets = {"FA": original.get("FA_unseen", original["VA"]), "MIA": original["MIA_unseen"]}
    return {**{key: original[key] for key in ("RA", "VA")}, **targets}


def tug_of_war(found, retrain):
    """ToW: product over forget, retain and test set of 1 - |accuracy - Retrain's|, in percent; 100 is Retrain.

    found, retrain: mappings with "FA", "RA", "TA" in percent.
    Source: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, section 3.
    """
    return 100 * math.prod(1 - abs(found[key] - retrain[key]) / 100 for key in ("FA", "RA", "TA"))


@dataclasses.dataclass(frozen=True)
class Case:
    """What all methods of one seed start from, in memory: data, original, Retrain, and the seconds each took."""

    seed: int
    experiment: object
    splits: Splits
    original: nn.Module
    retrain: nn.Module | None
    seconds: dict

    @functools.cached_property
    def target(self):
        """Retrain's metrics."""
        return self.metrics(self.retrain)

    def metrics(self, model):
        """Metrics of a model in percent, as `reference.metrics.unlearning_metrics`."""
        return measure(outputs(model, self.splits), self.seed)["metrics"]

    def gap(self, model):
        """AG of a model as the loop would leave it: mean gap to Retrain, in percentage points."""
        with as_left(model, self.splits.retain, self.experiment.unlearning()):
            return metrics.average_gap(self.metrics(model), self.target)

    def judged(self, model):
        """Metrics of a model with its "AG" among them."""
        values = self.metrics(model)
        return {**values, "AG": metrics.average_gap(values, self.target)}

    def attempt(self, run):
        """`judged` of the model that run() returns, None if the run diverged."""
        try:
            return self.judged(run())
        except NonFiniteError:
            return None


def prepare(seed, experiment, on_epoch=None, source=None):
    """Load the data and train the original model and Retrain: a `Case`.

    on_epoch: called after each epoch; source: as in `Experiment.load`, not needed for digits.
    """
    splits = experiment.split(experiment.load(source), seed)
    models, seconds = {}, {}
    for name in ("original", "retrain"):
        start = time.perf_counter()
        models[name] = trained(experiment, splits, seed, name, on_epoch)[0]
        seconds[name] = time.perf_counter() - start
    return Case(seed, experiment, splits, models["original"], models["retrain"], seconds)


def forget(case, method, settings, steps, on_step=None, options=()):
    """Let one method unlearn a copy of a case's original model.

    case: `Case`; method, settings, steps, options: as in `unlearned`; on_step: called with (model, steps done, report).
    Returns (model, reports, seconds).  Raises `NonFiniteError` if the method diverges.
    """
    model, start = copy.deepcopy(case.original), time.perf_counter()
    look = None if on_step is None else functools.partial(on_step, model)
    reports = unlearned(case.experiment, case.splits, case.seed, model, method, settings, steps, options, look)
    return model, reports, time.perf_counter() - start


def cosines(reports):
    """Cosine of forget and retain gradient: dict layer -> a value a step; empty for methods that do not report it."""
    layers = getattr(reports[0], "layer_cosines", {}) if reports else {}
    return {layer: [report.layer_cosines[layer] for report in reports] for layer in layers}


def checked_seeds(seeds):
    """Return `seeds` as a list; raise TypeError or ValueError unless they are distinct integers >= 0, at least one."""
    seeds = [boundary.integer("seeds", seed, 0) for seed in boundary.sequence("seeds", seeds, "integers")]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be at least one integer, each different, got {seeds}")
    return seeds


@contextlib.contextmanager
def one_thread():
    """PyTorch on one thread: tensors this small only wait for each other, and sums keep one order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def progress_bar(total, progress, unit="step"):
    """A bar on stderr over `total` steps or other units, silent where progress is false or stderr is no terminal."""
    from tqdm import tqdm

    # tqdm's own lock is for several processes with a bar each, and a killed run would leave its semaphore behind
    tqdm.set_lock(threading.RLock())
    # None leaves it to tqdm to look for a terminal: in a log file a bar would be thousands of characters
    return tqdm(
        total=total,
        disable=None if progress else True,
        unit=unit,
        unit_scale=unit != "step",
        leave=False,
        dynamic_ncols=True,
    )
