"""One cell of a table: one seed's original model, its Retrain, or one method's run, restartable, as a JSON file.

A cell is a function of the experiment, the seed and the cell's own settings; it reads nothing but the data and, for a
method, the original model of the same seed. So cells may be made in any order, in any process, and again.
"""

import dataclasses
import functools
import hashlib
import pathlib
import time

import torch

from .. import distributed
from ..core.unlearner import NonFiniteError
from ..methods.method import Settings
from ..reference import metrics
from ..report import results
from . import engine, measures
from .attacks import SupportVectorAttack, by_feature
from .checkpoints import Checkpoint, difference, read
from .experiment import Experiment, described
from .training import as_left

# parts of a cell's identity that its file has under "data", and what they are called there
OF_DATA = {"forget": "forget_sha256", "test_of_forgotten": "test_of_forgotten"}
TRAINED = ("original", "retrain", "retrain again")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What to make: "original", "retrain", "retrain again" (other random numbers), or a method's run.

    seed: integer >= 0; name: "original", "retrain" or a key of METHODS; settings: `Settings` of a method;
    steps: at most so many; evaluate_at: steps after which the model is measured, besides the end; attacked: whether
    that includes the attacks, as tuning needs it, or accuracies alone; options: further arguments of the method, such
    as (("alpha", 0.5),); folder: where seed-<seed> lies below the output folder; suffix: tells apart runs of one
    method; keep: whether the unlearned model is kept, as a checkpoint beside the JSON file (original and Retrain
    always are).
    """

    seed: int
    name: str
    settings: Settings | None = None
    steps: int = 0
    evaluate_at: tuple = ()
    options: tuple = ()
    folder: str = ""
    suffix: str = ""
    attacked: bool = False
    keep: bool = False

    def path(self, out):
        """The cell's JSON file."""
        name = f"{self.name.replace(' ', '_')}{self.suffix}.json"
        return pathlib.Path(out) / self.folder / f"seed-{self.seed}" / name

    @property
    def trains(self):
        """Whether a model is trained from scratch, and no method unlearns."""
        return self.name in TRAINED

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
class Runner:
    """Where cells are made, and how: what all commands that make some hand on.

    out: the output folder; source: as in `Experiment.load`, None for digits; device: "cpu", "cuda", ...; jobs >= 1:
    processes side by side, each on one thread (on a CPU four such processes make twice what one with four threads
    makes); redo: make the wanted cells again though they are finished, None: nobody can ask for it; progress: show a
    bar, in images and images a second; determinism: as in `jobs.deterministic`.
    """

    out: str | pathlib.Path
    source: dict | None = None
    device: str = "cpu"
    jobs: int = 1
    redo: bool | None = False
    progress: bool = True
    determinism: str = "warn"


@functools.lru_cache(maxsize=2)
def _splits_on_device(experiment, data, seed, device):
    return experiment.split(data, seed).to(device)


def run_cell(runner, experiment, cell, on_images=None):
    """Make one cell, unless it is finished; go on where an interrupted run of it stopped.

    runner: `Runner`; experiment: `Experiment` or `Digits`; on_images: called with a number of images each time that so
    many were read.
    Returns the contents of the cell's JSON file; a run that diverges has "diverged": true and no metrics.
    Raises ValueError, naming the file, for a finished cell with another plan, or a checkpoint that cannot be read.
    """
    path, device, redo = cell.path(runner.out), runner.device, runner.redo
    data = experiment.load(runner.source)
    # a file may say something else by now than when it was read last
    split = _splits_on_device if experiment.forget_file is None else _splits_on_device.__wrapped__
    splits = split(experiment, data, cell.seed, device)
    identity = _identity(cell, experiment, data, splits)
    # on a GPU an epoch takes hardly longer than to save it
    partial = Checkpoint(path.with_suffix(".partial.pt"), identity, 0.0 if str(device) == "cpu" else 20.0)
    if path.is_file() and not redo:
        found = results.read_json(path)
        if (made := _identity_of(found)) != identity:
            raise ValueError(
                f"{path} must be of this plan, it is of another ({difference(made, identity)}): choose another --out"
                + ", or pass --redo to make it again" * (redo is not None)
            )
        # a model that is missing is made again, to the same bits
        keeps = cell.keep or cell.name in experiment.kept
        if not keeps or found["diverged"] or path.with_suffix(".pt").is_file():
            partial.discard()  # of a run that was killed between its last two files
            return found
    on_images = on_images or (lambda count: None)
    if redo and path.is_file():
        partial.discard()
        distributed.barrier()
    if cell.trains:
        split_path = path.with_name("split.json")
        if not split_path.is_file() and distributed.rank() == 0:
            results.write_json(split_path, {part: at.tolist() for part, at in splits.indices.items()})
        found = _train_cell(experiment, splits, device, cell, partial, on_images, path)
    else:
        found = _method_cell(runner.out, experiment, data, splits, device, cell, partial, on_images, path)
    # the name alone: results are passed on, and whose folder it was is nobody's business
    origin = {"source": pathlib.PurePath(data.source).name, "sha256": data.sha256}
    origin |= {said: identity[name] for name, said in OF_DATA.items() if name in identity}
    document = {
        "experiment": described(experiment),
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
    identity = {**cell.plan(), "experiment": described(experiment), "data": data.sha256}
    if experiment.forget_file is not None:  # the file's name says nothing about what is in it
        identity["forget"] = hashlib.sha256(splits.indices["forget"].numpy()).hexdigest()
    if splits.test_of_forgotten is not None:  # results of before they were apart are of another test set
        identity["test_of_forgotten"] = len(splits.test_of_forgotten)
    return results.plain(identity)


def _identity_of(found):
    """The same, from the contents of a finished cell's JSON file."""
    data = found.get("data", {})
    identity = {**found.get("plan", {}), "experiment": found.get("experiment"), "data": data.get("sha256")}
    return identity | {name: data[said] for name, said in OF_DATA.items() if said in data}


def device_name(device):
    """What to call the device in a report."""
    return torch.cuda.get_device_name(device) if str(device).startswith("cuda") else "cpu"


def _train_cell(experiment, splits, device, cell, partial, on_images, path):
    count = len(splits.train if cell.name == "original" else splits.retain)
    clock = Clock(partial, device)

    def after_epoch(epoch, loss):
        on_images(count)
        clock.note()

    model, losses = engine.trained(experiment, splits, cell.seed, cell.name, after_epoch, partial, device)
    seconds = clock.read()
    if cell.keep or cell.name in experiment.kept:
        _keep(model, splits, path, partial.identity)
    found = measure(model, splits, cell.seed, experiment.all_features and not cell.folder)
    return {"diverged": False, "losses": losses, **found, "seconds": seconds}


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
    if "dataset" not in fields:
        raise ValueError(f"{path} must hold a model of images, it is of the digits")
    for name in ("forget_copies", "protocol"):  # of subclasses: the network is the same
        fields.pop(name, None)
    classifier = Experiment(**fields).classifier(len(saved["notes"]["classes"]), torch.zeros(3), torch.ones(3))
    classifier.load_state_dict(saved["state"]["model"])
    return classifier.to(device).eval()


def load_original(out, experiment, data, splits, cell, device):
    """The original model of a cell's seed.  Raises ValueError, naming the file, if that is missing or not its own."""
    original = cell.original()
    path = original.path(out).with_suffix(".pt")
    identity = _identity(original, experiment, data, splits)
    model = engine.new_model(experiment, splits, cell.seed, "original", device)
    if Checkpoint(path, identity).restore(model=model) is None:
        raise ValueError(f"{path} must hold the original model, it is missing: move {original.path(out)} away too")
    return model.eval()


def _method_cell(out, experiment, data, splits, device, cell, partial, on_images, path):
    model = load_original(out, experiment, data, splits, cell, device)
    partial.notes = {"curve": [], "seconds": 0.0}
    clock = Clock(partial, device)
    try:
        batch = experiment.forget_batch + experiment.retain_batch

        def after_step(done, report):
            on_images(batch)
            clock.note()
            if done in cell.evaluate_at:
                with as_left(model, splits.retain, experiment.unlearning()):
                    along = _brief(measure(model, splits, cell.seed)) if cell.attacked else accuracies(model, splits)
                partial.notes["curve"].append({"steps": done, **along})
                clock.restart()  # measuring is not unlearning

        of_cell = (cell.name, cell.settings, cell.steps, cell.options)
        reports = engine.unlearned(experiment, splits, cell.seed, model, *of_cell, after_step, partial)
        seconds = clock.read()
        on_images((cell.steps - len(reports)) * batch)  # that a stop rule saved
        final = measure(model, splits, cell.seed, experiment.all_features and not cell.folder)
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
        "losses": {part: [getattr(report, f"{part}_loss") for report in reports] for part in ("forget", "retain")},
        "cosines": {layer: [round(c, 4) for c in found] for layer, found in engine.cosines(reports).items()},
        "seconds": seconds,
    }


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


def measure(model, splits, seed, all_features=False):
    """Everything that a table, a tuning rule or a figure asks of a model: what `measures.measure` finds, and "proxy".

    all_features: whether "features" is among it, what `attacks.by_feature` finds.
    """
    outputs = measures.outputs(model, splits, (*measures.MEASURED, "validation"))
    found = {**measures.measure(outputs, seed), "proxy": measures.proxy(outputs, seed)}
    if all_features:
        found["features"] = by_feature(*(outputs[part] for part in measures.MEASURED), seed)
    return {**found, "retain_loss": measures.mean_loss(*outputs["retain"])}


def accuracies(model, splits):
    """{"metrics": {"FA", "RA", "TA"}, "retain_loss": nats}, what a curve asks of a model: attacks take longer."""
    found = measures.outputs(model, splits)
    parts = {"FA": "forget", "RA": "retain", "TA": "test"}
    shares = {metric: metrics.accuracy(*found[part]) for metric, part in parts.items()}
    return {"metrics": shares, "retain_loss": measures.mean_loss(*found["retain"])}


def _brief(found):
    return {key: found[key] for key in ("metrics", "proxy", "retain_loss")}
