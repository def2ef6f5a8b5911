"""The one way from (experiment, seed) to an original model, its Retrain and a method's run.

An experiment says what is particular: `oeu_ref.lab.experiment.Experiment` of images, `Digits`. What is made here lives
in memory, as demo and studies want it; `cells.py` puts files and restarts around the same functions.
"""

import contextlib
import copy
import dataclasses
import functools
import threading
import time

import torch
from torch import nn

from .. import boundary, distributed
from ..core.stop_rule import EntropyStop
from ..core.unlearner import NonFiniteError
from ..data.requests import like
from ..data.samples import Splits, stream
from ..methods.by_name import METHODS
from ..reference import metrics
from .measures import measure, outputs
from .training import as_left, build, train, unlearn

STOP_SAMPLES = 1000  # of the forget and of the validation set, that the stop rule reads


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
    make = method if info is None else info.make
    order = experiment.order(method, splits)
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
    generators = [stream(seed, f"{part} batches") for part in ("forget", "retain")]
    how = {"augment": experiment.augment(), "save_every": max(50, len(splits.retain) // experiment.retain_batch)}
    how |= {"stop": stop, "on_step": on_step, "checkpoint": checkpoint, "order": order}
    return unlearn(method, splits.forget, splits.retain, steps, experiment.unlearning(), generators, **how)


class StopAsLeft:
    """An `EntropyStop` of the network as the loop would leave it; retain, config: as in `training.as_left`."""

    def __init__(self, stop, retain, config):
        self.stop = stop
        self.retain = retain
        self.config = config
        self.state_dict, self.load_state_dict = stop.state_dict, stop.load_state_dict

    def reached(self):
        """As `EntropyStop.reached`."""
        looks = self.stop.calls % self.stop.every == 0
        with as_left(self.stop.model, self.retain, self.config) if looks else contextlib.nullcontext():
            return self.stop.reached()


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
    silent = None if progress else True
    return tqdm(total=total, disable=silent, unit=unit, unit_scale=unit != "step", leave=False, dynamic_ncols=True)
