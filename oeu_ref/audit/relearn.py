"""Does what was forgotten stay forgotten? Unlearned networks are trained on, without a forget sample, and watched.

What they are trained on, at a constant learning rate: the training's own (of its cycle the peak) or a tenth of it, both
fixed beforehand; momentum, weight decay and batch size are the training's:

- retain: the retain set alone. A network that only hides what it knew finds it again; Retrain, which never knew, is
  the floor, and a second Retrain says what chance does to it.
- unrelated: validation samples whose pixels are shuffled, by one order for all. Values, classes and the work of
  telling them apart are the same, no shape is left, and no training sample comes back by the back door. BatchNorm's
  statistics are then of another kind of image: at each look they are estimated anew on the retain set.
- bits: the retain set again, after the network was quantized anew, to 8 bits and back, as deployers do.

Sources: arXiv 2505.22310 for relearning from the retain set; QUAIL, arXiv 2601.15538, for the change of bits; Frankle
et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, for the straight line between networks.
"""

import copy
import dataclasses
import time

import numpy as np
import torch

from ..core.unlearner import NonFiniteError
from ..data.samples import Samples, stream
from ..lab import engine, measures, search
from ..lab.experiment import Digits, described
from ..lab.training import UnlearnConfig, as_left, predictions, unlearn
from ..methods.baselines import FineTuning
from ..methods.method import Settings
from ..methods.names import DEMO, LABELS
from ..passes import logits_of
from ..reference import metrics
from .relearn_views import figure, markdown

__all__ = ["QUESTION", "REPORTED_SEEDS", "collect", "figure", "markdown"]

QUESTION = "Does what was forgotten stay forgotten when a network is trained on without it, or quantized anew?"
REPORTED_SEEDS = tuple(range(1, 11))
IMAGE_SEEDS = (1, 2, 3)
LOOKS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)  # steps: on digits 16 epochs of the retain set
IMAGE_LOOKS = (0, 4, 16, 64, 256)  # on images of the CPU preset between 3 and 4 epochs
WAYS = {  # what a network is trained on, and the share of the training's learning rate
    "retain, own rate": ("retain", 1.0),
    "retain, a tenth": ("retain", 0.1),
    "unrelated, a tenth": ("unrelated", 0.1),
    "bits, a tenth": ("bits", 0.1),
}
IMAGE_WAYS = tuple(WAYS)[1:]  # at the training's own rate a look says little, and each takes seconds
VARIANTS = {  # of OEU at its own setting: (label, times its steps, options)
    "oeu, alpha 0": ("OEU without projection", 1, (("alpha", 0.0),)),
    "oeu, alpha 0.5": ("OEU, alpha 0.5", 1, (("alpha", 0.5),)),
    "oeu, twice": ("OEU, twice the steps", 2, ()),
    "oeu, four times": ("OEU, four times the steps", 4, ()),
}
TRAINED = {"original": "original", "retrain": "Retrain", "again": "Retrain again"}
IMAGE_METHODS = ("oeu", "oeu_no_projection", "qmul", "rl", "salun", "ft", "ga")
POINTS, IMAGE_POINTS = 11, 5  # of the straight line between two networks, ends included
WIDE = 8  # bits, between


def collect(seeds, config, quick, bar, work):
    """(config, found) for the document: every network of every seed, trained on in all ways."""
    on_digits = isinstance(config, Digits)
    ways = {way: WAYS[way] for way in (WAYS if on_digits else IMAGE_WAYS)}
    looks = (LOOKS if on_digits else IMAGE_LOOKS)[: 3 if quick else None]
    rows = _rows(work, quick)
    bar.reset(len(seeds) * (len(TRAINED) + len(rows)))
    runs = []
    for seed in seeds:
        run = {"seed": seed, "rows": {}}
        for name in (*TRAINED, *rows):
            bar.set_description(f"seed {seed}: {name}")
            about = {"seed": seed, "network": str(rows.get(name, name)), "ways": ways, "looks": looks}
            make = lambda: _row(work, seed, name, rows, looks, ways)
            run["rows"][name] = work.part(f"seed-{seed}-{name}", about, make)
            bar.update()
        runs.append(run)
    labels = TRAINED | {name: VARIANTS[name][0] if name in VARIANTS else LABELS[name] for name in rows}
    settings = {n: {**dataclasses.asdict(s), "steps": steps} for n, (_, s, steps, _) in rows.items()}
    rates = {way: config.training().learning_rate * share for way, (_, share) in ways.items()}
    found = {"labels": labels, "settings": settings, "rates": rates, "peak_mib": work.mib, "runs": runs}
    return {**described(config), "looks": looks}, found


def _rows(work, quick):
    """{name: (method, settings, steps, options)} of what unlearns, at settings that were chosen by AG."""
    if not isinstance(work.experiment, Digits):
        return {name: (name, *one, ()) for name, one in work.tuned(IMAGE_METHODS, 2 if quick else None).items()}
    settings = search.load_settings(work.experiment.max_steps)
    rate, steps = settings["oeu"]
    variants = {name: ("oeu", rate, times * steps, options) for name, (_, times, options) in VARIANTS.items()}
    return {name: (name, *settings[name], ()) for name in DEMO} | variants


def _row(work, seed, name, rows, looks, ways):
    """One network: what lies between it and the original, and its curves; None if its method diverged."""
    case = work.case(seed)
    model = {"original": case.original, "retrain": case.retrain}.get(name)
    model = work.network(seed, "retrain again") if name == "again" else model
    start = time.process_time()
    if model is None:
        method, settings, steps, options = rows[name]
        try:
            model = engine.forget(case, method, settings, steps, options=options)[0]
        except NonFiniteError:
            return None
    parts = {part: getattr(case.splits, part) for part in ("retain", "forget")}
    wide, back = requantized(model, case.splits.retain.inputs[: case.experiment.retain_batch])
    look = Look(case)
    data = {"unrelated": shuffled(case.splits.validation, stream(case.seed, "pixels"))}
    looks_of = {"unrelated": lambda network: anew(case, network, look)}
    points = POINTS if isinstance(case.experiment, Digits) else IMAGE_POINTS
    found = {**distances(case.original, model), "barrier": barrier(case.original, model, parts, points)}
    found |= {"wide": look(wide), "back": look(back), "curves": {}}
    for way, (kind, share) in ways.items():
        samples = data.get(kind, case.splits.retain)
        begin = back if kind == "bits" else model
        rate = share * case.experiment.training().learning_rate
        found["curves"][way] = relearned(case, begin, samples, rate, looks, looks_of.get(kind, look))
    # "bits" is against the original as it was, before anything was done to it
    return {**found, "now": look(model), "seconds": time.process_time() - start}


class Look:
    """What is read off a network on the way, {metric: percent}: FA, RA, TA, AUC (entropy, forget against test).

    On digits also FA in two parts, as `measures.accuracy_by_label`.  case: `engine.Case`.
    """

    def __init__(self, case):
        self.splits = case.splits
        self.wrong = None
        if isinstance(case.experiment, Digits):
            self.wrong = case.experiment.wrong(case.splits, case.seed)[case.splits.forget_indices]

    def __call__(self, model):
        found = measures.outputs(model, self.splits)
        parts = {"FA": "forget", "RA": "retain", "TA": "test"}
        values = {metric: metrics.accuracy(*found[part]) for metric, part in parts.items()}
        values["AUC"] = metrics.forget_vs_test_auc(found["forget"][0], found["test"][0])
        return values if self.wrong is None else values | measures.accuracy_by_label(found["forget"], self.wrong)


def anew(case, model, look):
    """look(model), with BatchNorm's statistics of the retain set."""
    with as_left(model, case.splits.retain, UnlearnConfig(recalibrated=True)):
        return look(model)


def relearned(case, model, samples, rate, looks, look):
    """Train a copy of a network on samples: {metric: [a value for each of looks]} of what look(network) returns.

    case: `engine.Case`, for batch size, momentum, weight decay, augmentation and seed; rate: constant; looks: ascending
    numbers of steps, from 0.  None for a run that diverged.
    """
    network = copy.deepcopy(model)
    training = case.experiment.training()
    settings = Settings(rate, 1.0, training.momentum, training.weight_decay)
    method = FineTuning(network, samples, settings, stream(case.seed, "method"))
    found = [look(network)]
    batches = stream(case.seed, "relearning batches")

    def after(done, report):
        if done in looks:
            found.append(look(network))

    config = UnlearnConfig(retain_batch=training.batch_size)
    how = {"on_step": after, "augment": case.experiment.augment(), "order": lambda done: (False, True)}
    try:
        unlearn(method, samples, samples, max(looks), config, (batches, batches), **how)
    except NonFiniteError:
        return None
    return {metric: [values[metric] for values in found] for metric in found[0]}


def shuffled(samples, generator):
    """`Samples` whose pixels stand in another order, one for all: (N, D), or (N, C, H, W), channels together."""
    flat = samples.inputs.flatten(2) if samples.inputs.ndim > 2 else samples.inputs
    order = torch.randperm(flat.shape[-1], generator=generator)
    return Samples(flat[..., order].reshape(samples.inputs.shape), samples.labels)


def quantized(model):
    """The quantized layers, in the order of `model.modules()`."""
    return [module for module in model.modules() if getattr(module, "weight_quantizer", None) is not None]


def inner(model):
    """The quantized layers but first and last, which have 8 bits."""
    return quantized(model)[1:-1]


@torch.no_grad()
def requantized(model, inputs):
    """Two copies of a network: its inner layers at WIDE bits, and back at their own width.

    The way out starts from the latent weights, the way back from the WIDE-bit values alone, which is what a deployer
    has. Steps of weights and activations are set anew each time, as before training, by `inputs`, (N, ...): a batch.
    All else, BatchNorm's statistics too, stays.
    """
    own = [(layer.weight_quantizer.bits, layer.activation_quantizer.bits) for layer in inner(model)]
    wide = _with_bits(model, [(WIDE, WIDE)] * len(own), inputs)
    back = copy.deepcopy(wide)
    for layer in inner(back):
        layer.weight.copy_(layer.weight_quantizer(layer.weight))
    return wide, _with_bits(back, own, inputs)


def _with_bits(model, bits, inputs):
    network = copy.deepcopy(model).eval()
    for layer, widths in zip(inner(network), bits):
        for quantizer, width in zip((layer.weight_quantizer, layer.activation_quantizer), widths):
            quantizer.bits = width
            quantizer.reset()
            quantizer.train()  # alone, so that BatchNorm sees nothing of the batch
    logits_of(network, inputs)
    return network.eval()


@torch.no_grad()
def distances(one, other):
    """{"latent", "codes"}: Euclidean distance of two networks of one shape.

    latent: of the weights of all quantized layers; codes: of the integer codes of the inner ones.
    """
    pairs = zip(quantized(one), quantized(other))
    latent = sum((a.weight - b.weight).double().square().sum().item() for a, b in pairs)
    codes = 0
    for pair in zip(inner(one), inner(other)):
        a, b = (layer.weight_quantizer.codes(layer.weight).long() for layer in pair)
        codes += (a - b).square().sum().item()
    return {"latent": latent**0.5, "codes": codes**0.5}


def barrier(one, other, parts, points=POINTS):
    """{part: nats}: how far the mean loss rises above the chord, at most, on the straight line between two networks.

    parts: {name: `Samples`}. The line runs through everything that is a real number: parameters, the quantizers' steps
    and BatchNorm's statistics. 0 where no point lies above the chord; the ends are on it.
    Source: Frankle et al., ICML 2020; above the chord in place of the ends' mean, as their losses differ here.
    """
    network = copy.deepcopy(one)
    ends = [model.state_dict() for model in (one, other)]
    at = np.linspace(0, 1, points)
    losses = {part: [] for part in parts}
    for t in at:
        pairs = ((name, ends[0][name], ends[1][name]) for name in ends[0])
        network.load_state_dict({n: torch.lerp(a, b, float(t)) if a.is_floating_point() else a for n, a, b in pairs})
        for part, samples in parts.items():
            losses[part].append(measures.mean_loss(*predictions(network, samples)))
    chords = {part: found[0] + at * (found[-1] - found[0]) for part, found in losses.items()}
    return {part: float(np.max(found - chords[part])) for part, found in losses.items()}
