"""One cell of a table: one seed's original model, its Retrain, or one method's run, restartable, as a JSON file.

A cell is a function of the experiment, the seed and the cell's own settings; it reads nothing but the data and, for a
method, the original model of the same seed. So cells may be made in any order, in any process, and again.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
import time

import numpy as np
import torch

from ..beyond import distributed
from ..core.network import quantize_model
from ..core.stop_rule import EntropyStop
from ..core.unlearner import NonFiniteError
from ..reference import metrics
from ..reference.entropy import entropy_of_probabilities
from . import baselines, results
from .attacks import SupportVectorAttack
from .checkpoints import Checkpoint, difference, read
from .data import (
    Samples,
    class_indices,
    class_numbers,
    forget_split,
    held_out,
    indices_of_file,
    settle_copies,
    split_at,
    stream,
)
from .datasets import load_images
from .experiment import METHODS, Experiment
from .images import ImageClassifier, augment, channel_statistics
from .training import build, predictions, train, unlearn

BINS = 18  # of the entropy histograms, from 0 to log K nats
STOP_EVERY = 5  # steps between two questions of the stop rule, which reads up to STOP_SAMPLES of both sets each time
STOP_SAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Cell:
    """What to make: "original", "retrain", or a method's run.

    seed: integer >= 0; name: "original", "retrain" or a key of METHODS; settings: `baselines.Settings` of a method;
    steps: at most so many; evaluate_at: steps after which the model is measured, besides the end; attacked: whether
    that includes the attacks, as tuning needs it, or accuracies alone; options: further arguments of the method, such
    as (("alpha", 0.5),); folder: where seed-<seed> lies below the output folder; suffix: tells apart runs of one
    method; keep: whether the unlearned model is kept, as a checkpoint beside the JSON file (original and Retrain
    always are).
    """

    seed: int
    name: str
    settings: baselines.Settings | None = None
    steps: int = 0
    evaluate_at: tuple = ()
    options: tuple = ()
    folder: str = ""
    suffix: str = ""
    attacked: bool = False
    keep: bool = False

    def path(self, out):
        """The cell's JSON file."""
        return pathlib.Path(out) / self.folder / f"seed-{self.seed}" / f"{self.name}{self.suffix}.json"

    def original(self):
        """The cell of the original model that this cell starts from."""
        return Cell(self.seed, "original", folder=self.folder)

    def retrain(self):
        """The cell that this cell is compared with."""
        return Cell(self.seed, "retrain", folder=self.folder)

    def plan(self):
        """What the cell is to do, as plain data: a finished cell with another plan is another cell."""
        settings = None if self.settings is None else dataclasses.asdict(self.settings)
        plan = {"seed": self.seed, "method": self.name, "settings": settings, "steps": self.steps}
        return results.plain({**plan, "evaluate_at": self.evaluate_at, "options": dict(self.options)})


@dataclasses.dataclass(frozen=True)
class ImageSplits:
    """The parts of one seed, all on the device, and where they come from. No image is in two of forget, retain,
    validation and test; train is forget and retain together. indices: {part: positions in the data set}."""

    train: Samples
    forget: Samples
    retain: Samples
    validation: Samples
    test: Samples
    classes: tuple
    indices: dict


@functools.lru_cache(maxsize=2)
def _data(dataset, data_root, cache_dir, image_size, download):
    return load_images(dataset, data_root, download, cache_dir, image_size)


def load_data(experiment, source):
    """The experiment's data set; source: {"data_root", "cache_dir", "download"}.  Raises as `load_images`."""
    return _data(
        experiment.dataset, source["data_root"], source["cache_dir"], experiment.image_size, source["download"]
    )


def split_images(experiment, data, seed):
    """Training, validation and test images of one seed, and what is to be forgotten: a function of the seed.

    Returns `ImageSplits` on the CPU.  Raises TypeError or ValueError, naming the field, for sizes or a forget set that
    the data cannot give.
    """
    everything = Samples(data.train_images, data.train_labels)
    rest = len(everything) - experiment.validation_size
    train_size = rest if experiment.train_size is None else experiment.train_size
    if train_size > rest or train_size < 2:
        raise ValueError(
            f"train_size and validation_size must together be at most {len(everything)}, the training images, "
            f"got {experiment.train_size} and {experiment.validation_size}"
        )
    test_count = len(data.test_labels)
    test_size = test_count if experiment.test_size is None else experiment.test_size
    if test_size > test_count:
        raise ValueError(f"test_size must be at most {test_count}, the test images, got {test_size}")
    order = torch.randperm(len(everything), generator=stream(seed, "split"))
    wanted = None if experiment.forget_file is None else indices_of_file(experiment.forget_file, len(everything))
    validation_at, train_at = held_out(order, experiment.validation_size, train_size, wanted)
    test_at = torch.randperm(test_count, generator=stream(seed, "test images"))[:test_size].sort().values
    training = everything[train_at]
    if experiment.forget_ratio is not None:
        chosen = forget_split(training, experiment.forget_ratio, stream(seed, "forget"))[2]
    elif experiment.forget_classes is not None:
        chosen = class_indices(training.labels, class_numbers(experiment.forget_classes, data.classes))
    else:
        chosen = torch.isin(train_at, wanted).nonzero().flatten()
    kept = torch.ones(len(training), dtype=torch.bool)
    kept[chosen] = False
    indices = {"forget": train_at[chosen], "retain": train_at[kept], "validation": validation_at, "test": test_at}
    test = Samples(data.test_images, data.test_labels)
    indices = settle_copies(everything, test, indices, experiment.forget_copies)
    forget, retain, _ = split_at(training, torch.isin(train_at, indices["forget"]).nonzero().flatten())
    validation, test = everything[indices["validation"]], test[indices["test"]]
    return ImageSplits(training, forget, retain, validation, test, data.classes, indices)


@functools.lru_cache(maxsize=1)
def _splits_on_device(experiment, data, seed, device):
    splits = split_images(experiment, data, seed)
    parts = {name: getattr(splits, name).to(device) for name in ("train", "forget", "retain", "validation", "test")}
    return dataclasses.replace(splits, **parts)


def run_cell(out, experiment, source, device, cell, redo=False, on_images=None):
    """Make one cell, unless it is finished; go on where an interrupted run of it stopped.

    out: the output folder; experiment: `Experiment`; source: as in `load_data`; device: "cpu", "cuda", ...; redo: make
    it again though it is finished; on_images: called with a number of images each time that so many were read.
    Returns the contents of the cell's JSON file; a run that diverges has "diverged": true and no metrics.
    Raises ValueError, naming the file, for a finished cell with another plan, or a checkpoint that cannot be read.
    """
    path = cell.path(out)
    data = load_data(experiment, source)
    # a file may say something else by now than when it was read last
    split = _splits_on_device if experiment.forget_file is None else _splits_on_device.__wrapped__
    splits = split(experiment, data, cell.seed, device)
    identity = _identity(cell, experiment, data, splits)
    partial = Checkpoint(path.with_suffix(".partial.pt"), identity)
    if path.is_file() and not redo:
        found = results.read_json(path)
        if (made := _identity_of(found)) != identity:
            raise ValueError(
                f"{path} must be of this plan, it is of another ({difference(made, identity)}): choose another --out, "
                "or pass --redo to make it again"
            )
        # a model that is missing is made again, to the same bits
        keeps = cell.keep or cell.name in ("original", "retrain")
        if not keeps or found["diverged"] or path.with_suffix(".pt").is_file():
            partial.discard()  # of a run that was killed between its last two files
            return found
    on_images = on_images or (lambda count: None)
    if redo and path.is_file():
        partial.discard()
        distributed.barrier()
    if cell.name in ("original", "retrain"):
        split_path = path.with_name("split.json")
        if not split_path.is_file() and distributed.rank() == 0:
            results.write_json(split_path, {part: at.tolist() for part, at in splits.indices.items()})
        found = _train_cell(experiment, splits, device, cell, partial, on_images, path)
    else:
        found = _method_cell(out, experiment, data, splits, device, cell, partial, on_images, path)
    # the name alone: results are passed on, and whose folder it was is nobody's business
    origin = {"source": pathlib.PurePath(data.source).name, "sha256": data.sha256}
    if "forget" in identity:
        origin["forget_sha256"] = identity["forget"]
    document = {
        "experiment": dataclasses.asdict(experiment),
        "plan": cell.plan(),
        "data": origin,
        "attack": SupportVectorAttack.name,
        "device": device_name(device),
        "versions": results.versions(),
        **found,
    }
    if distributed.rank() == 0:
        results.write_json(path, results.plain(document))
    partial.discard()
    distributed.barrier()  # the others read what the first has written
    return results.read_json(path)


def _identity(cell, experiment, data, splits):
    """What a cell's files belong to, as plain data: all that its result depends on, but for device and versions."""
    identity = {**cell.plan(), "experiment": dataclasses.asdict(experiment), "data": data.sha256}
    if experiment.forget_file is not None:  # the file's name says nothing about what is in it
        identity["forget"] = hashlib.sha256(splits.indices["forget"].numpy()).hexdigest()
    return results.plain(identity)


def _identity_of(found):
    """The same, from the contents of a finished cell's JSON file."""
    data = found.get("data", {})
    identity = {**found.get("plan", {}), "experiment": found.get("experiment"), "data": data.get("sha256")}
    return {**identity, "forget": data["forget_sha256"]} if "forget_sha256" in data else identity


def device_name(device):
    """What to call the device in a report."""
    return torch.cuda.get_device_name(device) if str(device).startswith("cuda") else "cpu"


def make_model(experiment, splits, seed, name, device):
    """The quantized classifier of one seed with its initial weights; name: "original" or "retrain"."""

    def make():
        # statistics of the retain images: Retrain must not know the others, and the original may do without them
        return _classifier(experiment, len(splits.classes), *channel_statistics(splits.retain.inputs))

    model = build(make, stream(seed, f"{name} weights").initial_seed()).to(device)
    return distributed.synchronized(model) if distributed.size() > 1 else model


def _classifier(experiment, num_classes, mean, std):
    network = experiment.make_network(num_classes)
    bits = experiment.weight_bits, experiment.activation_bits, experiment.first_last_bits
    network = quantize_model(network, *bits) if set(bits[:2]) != {32} else network
    return ImageClassifier(network, mean, std, experiment.precision, experiment.compiled)


def _train_cell(experiment, splits, device, cell, partial, on_images, path):
    samples = splits.train if cell.name == "original" else splits.retain
    model = make_model(experiment, splits, cell.seed, cell.name, device)
    clock = Clock(partial, device)

    def after_epoch(epoch, loss):
        on_images(len(samples))
        clock.note()

    losses = train(
        model,
        samples,
        experiment.training(),
        stream(cell.seed, f"{cell.name} batches"),
        after_epoch,
        augment if experiment.augmented else None,
        partial,
    )
    seconds = clock.read()
    _keep(model, splits, path, partial.identity)
    return {"diverged": False, "losses": losses, **measure(model, splits, cell.seed), "seconds": seconds}


def _keep(model, splits, path, identity):
    final = Checkpoint(path.with_suffix(".pt"), identity)
    final.notes = {"classes": list(splits.classes)}
    final.save(model=model)


def load_model(path, device="cpu"):
    """A model that a cell kept, in eval mode: an `ImageClassifier`, which takes uint8 images (N, 3, H, W).

    path: of a `.pt` file in an output folder, but for those of interrupted runs; device: where to put it.
    Raises ValueError, naming the file, if it is missing, damaged, or no model of a cell.
    """
    saved = read(path)
    if "classes" not in saved["notes"] or "experiment" not in saved["identity"]:
        raise ValueError(f"{path} must be the checkpoint of a finished cell, it is of an interrupted run")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["identity"]["experiment"].items()}
    fields.pop("forget_copies", None)  # of `ForgettingCopies`: the network is the same
    classifier = _classifier(Experiment(**fields), len(saved["notes"]["classes"]), torch.zeros(3), torch.ones(3))
    classifier.load_state_dict(saved["state"]["model"])
    return classifier.to(device).eval()


def load_original(out, experiment, data, splits, cell, device):
    """The original model of a cell's seed.  Raises ValueError, naming the file, if that is missing or not its own."""
    original = cell.original()
    path = original.path(out).with_suffix(".pt")
    identity = _identity(original, experiment, data, splits)
    model = make_model(experiment, splits, cell.seed, "original", device)
    if Checkpoint(path, identity).restore(model=model) is None:
        raise ValueError(f"{path} must hold the original model, it is missing: make it with --redo")
    return model.eval()


def _method_cell(out, experiment, data, splits, device, cell, partial, on_images, path):
    model = load_original(out, experiment, data, splits, cell, device)
    info = METHODS[cell.name]
    partial.notes = {"curve": [], "seconds": 0.0}
    clock = Clock(partial, device)
    try:
        method = info.make(model, splits.forget, cell.settings, stream(cell.seed, "method"), **dict(cell.options))
        stop = None
        if info.stops:
            parts = splits.forget.inputs[:STOP_SAMPLES], splits.validation.inputs[:STOP_SAMPLES]
            stop = EntropyStop(model, *parts, every=STOP_EVERY).reached
        images = (experiment.forget_batch, experiment.retain_batch)

        def after_step(done, report):
            on_images(sum(images))
            clock.note()
            if done in cell.evaluate_at:
                along = _brief(measure(model, splits, cell.seed)) if cell.attacked else accuracies(model, splits)
                partial.notes["curve"].append({"steps": done, **along})
                clock.restart()  # measuring is not unlearning

        reports = unlearn(
            method,
            splits.forget,
            splits.retain,
            cell.steps,
            *images,
            (stream(cell.seed, "forget batches"), stream(cell.seed, "retain batches")),
            stop,
            after_step,
            augment if experiment.augmented else None,
            partial,
            max(50, len(splits.retain) // experiment.retain_batch),
        )
        seconds = clock.read()
        on_images((cell.steps - len(reports)) * sum(images))  # that a stop rule saved
        final = measure(model, splits, cell.seed)
        if cell.keep:
            _keep(model, splits, path, partial.identity)
    except NonFiniteError as error:
        curve = partial.notes["curve"]
        return {"diverged": True, "reason": str(error), "curve": curve, "seconds": clock.read()}
    return {
        "diverged": False,
        "steps": len(reports),
        "curve": [*partial.notes["curve"], {"steps": len(reports), **_brief(final)}],
        **final,
        "losses": {
            "forget": [report.forget_loss for report in reports],
            "retain": [report.retain_loss for report in reports],
        },
        "cosines": _cosines(reports),
        "seconds": seconds,
    }


def _cosines(reports):
    """Cosine of forget and retain gradient: dict layer -> a value a step; empty for methods that do not report it."""
    if not reports or not hasattr(reports[0], "layer_cosines"):
        return {}
    return {name: [round(r.layer_cosines[name], 4) for r in reports] for name in reports[0].layer_cosines}


class Clock:
    """Seconds of work over all interrupted runs of a cell: what came before travels in the checkpoint's notes."""

    def __init__(self, partial, device):
        self.partial, self.device = partial, device
        partial.notes.setdefault("seconds", 0.0)
        self.start = time.perf_counter()

    def note(self):
        """Add the time since the last call to the notes."""
        now = time.perf_counter()
        self.partial.notes["seconds"] += now - self.start
        self.start = now

    def restart(self):
        """Forget the time since the last call."""
        self.start = time.perf_counter()

    def read(self):
        """All seconds, after the device finished what it was given."""
        if str(self.device).startswith("cuda"):
            torch.cuda.synchronize()
        self.note()
        return self.partial.notes["seconds"]


def measure(model, splits, seed):
    """Everything that a table, a tuning rule or a figure asks of a model.

    Returns {"metrics": as `metrics.unlearning_metrics`, "proxy": the same four in which no Retrain and no test image
    has a part, "entropy_histograms": {part: counts in BINS bins from 0 to log K nats}}.

    proxy: FA and RA as ever; VA, the accuracy on the validation images; MIA by an attack that learned on retain
    against the first half of the validation images; MIA_unseen, what that attack says of the second half.
    """
    attack = SupportVectorAttack(seed)
    forget, retain, validation, test = (
        predictions(model, getattr(splits, part)) for part in ("forget", "retain", "validation", "test")
    )
    values = metrics.unlearning_metrics(retain, test, forget, attack)
    half = len(validation[1]) // 2
    known, unknown = (tuple(array[part] for array in validation) for part in (slice(half), slice(half, None)))
    judged = attack(metrics.confidence(*retain), metrics.confidence(*known), _confidences(forget, unknown))
    proxy = {
        "FA": values["FA"],
        "RA": values["RA"],
        "VA": metrics.accuracy(*validation),
        "MIA": float(100 * np.mean(judged[: len(forget[1])])),
        "MIA_unseen": float(100 * np.mean(judged[len(forget[1]) :])),
    }
    limit = math.log(len(splits.classes))
    histograms = {
        part: np.histogram(entropy_of_probabilities(p).clip(0, limit), BINS, (0, limit))[0].tolist()
        for part, (p, _) in (("forget", forget), ("retain", retain), ("test", test))
    }
    return {"metrics": values, "proxy": proxy, "entropy_histograms": histograms}


def accuracies(model, splits):
    """{"metrics": {"FA", "RA", "TA"}}, what a curve asks of a model; the attacks cost more than some steps do."""
    parts = {"FA": splits.forget, "RA": splits.retain, "TA": splits.test}
    return {"metrics": {metric: metrics.accuracy(*predictions(model, samples)) for metric, samples in parts.items()}}


def _confidences(*parts):
    return np.concatenate([metrics.confidence(*part) for part in parts])


def _brief(found):
    return {key: found[key] for key in ("metrics", "proxy")}


def proxy_average_gap(proxy, original):
    """AG without a retrained model: mean absolute gap to what the original model shows on images that it never saw.

    proxy, original: the "proxy" of `measure` for the unlearned and for the original model. The targets are: for FA the
    original's validation accuracy, for MIA the share of validation images that the attack calls unseen under it, for
    RA and VA the original's own.  Returns a float >= 0, percentage points.
    Source: ours; Retrain is to the forget set what the original is to unseen data.
    """
    targets = {"FA": original["VA"], "RA": original["RA"], "VA": original["VA"], "MIA": original["MIA_unseen"]}
    return float(np.mean([abs(proxy[key] - target) for key, target in targets.items()]))
