"""The digits experiment: what every method starts from, how one method forgets, and how the result is measured.

A small 4-bit network learns scikit-learn's digits, a fifth of the labels wrong, and then forgets a tenth of them.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import threading
import time
from pathlib import Path

import numpy as np
import torch

from .. import boundary
from ..core.network import QuantMLP
from ..core.stop_rule import EntropyStop
from ..reference import metrics
from ..reference.entropy import entropy_of_probabilities
from . import baselines, results
from .attacks import SupportVectorAttack
from .data import Splits, digits, stream
from .training import TrainConfig, build, predictions, train, unlearn

SETTINGS_FILE = Path(__file__).with_name("demo_settings.json")

# name -> what to call it, in the order of the table
LABELS = {
    "original": "original",
    "retrain": "Retrain",
    "oeu": "OEU",
    "oeu_stop": "OEU + stop rule",
    "ft": "FT (fine-tuning)",
    "ga": "GA (gradient ascent)",
    "rl": "RL (random labels)",
    "salun": "SalUn",
    "qmul": "Q-MUL (similar labels)",
}
METHODS = {name: baselines.METHODS[name.removesuffix("_stop")] for name in list(LABELS)[2:]}
STOPPED = ("oeu_stop",)
# OEU with one option changed: what the paper leaves open, and what is left without its parts
VARIANTS = {
    "module, undo": {},
    "module, match": {"rescale": "match"},
    "tensor, undo": {"layer": "tensor"},
    "tensor, match": {"layer": "tensor", "rescale": "match"},
    "global": {"granularity": "global"},
    "joint forward": {"forward": "joint"},
    "no projection": {"alpha": 0.0},
}
BINS = 18  # of the entropy histograms, from 0 to log 10 nats


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """The experiment, but for seeds and the methods' settings.

    label_noise, forget_share, validation_size, test_size: as in `oeu_ref.lab.data.digits`; hidden: widths between 64
    inputs and 10 classes; bits: of weights and activations, 1 to 8, "ternary", "binary" or 32 for no quantization
    (first and last layer: 8); train: of original and Retrain;
    forget_batch, retain_batch: samples in each step's two batches; max_steps: cuts every method's steps, None: not.
    """

    label_noise: float = 0.2
    forget_share: float = 0.1
    validation_size: int = 180
    test_size: int = 360
    hidden: tuple = (128, 128)
    bits: int | str = 4
    train: TrainConfig = TrainConfig(epochs=100)
    forget_batch: int = 128
    retain_batch: int = 128
    max_steps: int | None = None


QUICK = DemoConfig(train=TrainConfig(epochs=3), max_steps=4)


@dataclasses.dataclass(frozen=True)
class Case:
    """What all methods of one seed start from: the data, the original model, Retrain, and the seconds each took."""

    seed: int
    config: DemoConfig
    splits: Splits
    original: QuantMLP
    retrain: QuantMLP
    seconds: dict


def prepare(seed, config, on_step=None):
    """Load the data and train the original model and Retrain: a `Case`.  on_step: called after each epoch."""
    splits = digits(seed, config.label_noise, config.forget_share, config.validation_size, config.test_size)
    models, seconds = {}, {}
    for name, samples in (("original", splits.train), ("retrain", splits.retain)):
        start = time.perf_counter()
        make = functools.partial(QuantMLP, (64, *config.hidden, 10), config.bits, config.bits, batch_norm=True)
        model = build(make, stream(seed, f"{name} weights").initial_seed())
        train(model, samples, config.train, stream(seed, f"{name} batches"), on_step)
        models[name], seconds[name] = model, time.perf_counter() - start
    return Case(seed, config, splits, models["original"], models["retrain"], seconds)


def forget(case, name, settings, steps, on_step=None):
    """Let one method unlearn a copy of the original model.

    case: `Case`; name: a key of METHODS or of VARIANTS; settings: `baselines.Settings`; steps: at most so many;
    on_step: called with (model, steps done, report) after each.
    Returns (model, reports, seconds).  Raises `NonFiniteError` if the method diverges.
    """
    model = copy.deepcopy(case.original)
    start = time.perf_counter()
    make = METHODS.get(name) or functools.partial(baselines.OrthogonalEntropy, **VARIANTS[name])
    method = make(model, case.splits.forget, settings, stream(case.seed, "method"))
    stop = None
    if name in STOPPED:
        # unseen by training and by the metrics, and asked for inputs alone
        stop = EntropyStop(model, case.splits.forget.inputs, case.splits.validation.inputs).reached
    reports = unlearn(
        method,
        case.splits.forget,
        case.splits.retain,
        steps,
        case.config.forget_batch,
        case.config.retain_batch,
        (stream(case.seed, "forget batches"), stream(case.seed, "retain batches")),
        stop,
        None if on_step is None else functools.partial(on_step, model),
    )
    return model, reports, time.perf_counter() - start


def measure(case, model):
    """Metrics of a model in percent, as `reference.metrics.unlearning_metrics`, and entropy histograms of three sets.

    Forget and retain samples count with the labels that were trained on, noise included; test labels are clean.
    Returns (metrics, histograms): the latter a dict set -> counts in BINS bins from 0 to log 10 nats.
    """
    outputs = {part: predictions(model, getattr(case.splits, part)) for part in ("retain", "test", "forget")}
    values = metrics.unlearning_metrics(**outputs, attack=SupportVectorAttack(case.seed))
    histograms = {
        part: np.histogram(entropy_of_probabilities(p), BINS, (0, math.log(10)))[0].tolist()
        for part, (p, _) in outputs.items()
    }
    return values, histograms


def load_settings(max_steps=None, path=SETTINGS_FILE):
    """Settings that `search` chose: dict method -> (`baselines.Settings`, steps), steps cut at max_steps."""
    methods = results.read_json(path)["methods"]
    chosen = {}
    for name in METHODS:
        best = methods[name]["best"]
        steps = best["steps"] if max_steps is None else min(best["steps"], max_steps)
        chosen[name] = (baselines.Settings(best["learning_rate"], best["weight"]), steps)
    return chosen


def checked_seeds(seeds):
    """Return `seeds` as a list; raise TypeError or ValueError unless they are distinct integers >= 0, at least one."""
    if isinstance(seeds, (str, bytes)) or not hasattr(seeds, "__iter__"):
        raise TypeError(f"seeds must be a sequence of integers, got {seeds!r}")
    seeds = [boundary.integer("seeds", seed, 0) for seed in seeds]
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
