"""The commands of the image experiments. PyTorch is imported when one runs."""

import contextlib
import dataclasses
import math
import os
import pathlib

from .. import boundary, locks
from ..lab import options
from ..lab.options import NEEDED, option
from ..methods import names
from . import own
from .command import EXPERIMENT, Command, check_writable, say

FOUND = "what tune found"
RULES = "rules by which settings were chosen, rows for each: true is by AG, proxy does without Retrain"


def methods(default, unset=None):
    """The option that chooses methods."""
    return option(default, "methods to compare", example="oeu,ft", unset=unset, words=tuple(names.METHODS))


@options.record
class Files(Command):
    """Where an image experiment reads and writes."""

    title = "data and results"
    data_root: str = option(
        "data",
        "searched for torchvision's own files, then WORD.npz (x_train, y_train, x_test, y_test), then an image folder "
        "WORD/train/CLASS/...",
        "DIR",
    )
    download: bool = option(False, "fetch the data set from the internet, if it is not there")
    cache_dir: str | None = option(None, "where decoded data is kept", "DIR", "/tmp/decoded", "~/.cache/oeu_ref/data")
    out: str | None = option(
        None,
        "folder for results, made if it is missing",
        "DIR",
        "results/mine",
        "results/NAME-PRESET, bits: results/NAME-PRESET-bits",
    )


@options.record
class How(Command):
    """How an image experiment is computed."""

    title = "how"
    device: str = options.device()
    jobs: int | None = option(None, "processes side by side, a thread each, >= 1", None, 2, "CPU cores; on cuda 1")
    deterministic: str = option(
        "warn",
        "on cuda: warn of an operation that may not repeat its bits, end with an error, or off: whatever is fastest; a "
        "CPU repeats them anyway",
        words=options.DETERMINISM,
    )


@options.record
class Named(Command):
    """Which experiment, and how often."""

    name: str = option(
        "cifar10-10", "the data set and the percentage to forget", flag="NAME", words=tuple(options.TABLES)
    )
    preset: str = option(
        "full",
        "full: the paper's size; long: all images and a narrow network; cpu: 10,000 images",
        words=tuple(options.PRESETS),
    )
    seeds: tuple[int, ...] | None = option(
        None, "whole numbers >= 0, a run each", example="1,2", unset="1,2,3; with --preset cpu 1,2,3,4,5"
    )


@options.record
class Images(How, options.Setup, Files, Named):
    """What all image commands share."""

    title = EXPERIMENT
    resumes = True
    called = {"name": "--dataset", "classes": "--forget-classes", "indices": "--forget-classes or --forget-file"}
    bits: int | str | None = options.bits(
        None, "of weights and activations", example=2, unset="that of NAME and --preset"
    )
    forget_copies: bool = option(False, "forget exact copies of these images too, wherever they are")

    def where(self):
        return self.out or f"results/{self.dataset or self.name}-{self.preset}"

    @contextlib.contextmanager
    def started(self):
        """(`Experiment`, `Runner`, whether this process is the only one, or the first that `torchrun` started)."""
        from .. import distributed
        from ..lab import cells, tables

        with distributed.started(checked_device(self.device)) as device:
            changes = {field.name: getattr(self, field.name) for field in dataclasses.fields(options.Setup)}
            for name in ("weight_bits", "activation_bits"):
                changes[name] = self.bits if changes[name] is None else changes[name]
            changes["precision"] = changes["precision"] or ("bfloat16" if device.startswith("cuda") else "float32")
            changes["forget_copies"] = self.forget_copies
            changes["protocol"] = getattr(self, "protocol", None)
            experiment = tables.experiment_named(self.name, self.preset, **changes)
            source = {"data_root": self.data_root, "cache_dir": self.cache_dir, "download": self.download}
            jobs = self.jobs
            if jobs is None:
                jobs = _cores() if device == "cpu" and distributed.size() == 1 else 1
            redo = getattr(self, "redo", None)
            runner = cells.Runner(self.where(), source, device, jobs, redo, determinism=self.deterministic)
            yield experiment, runner, distributed.rank() == 0


@options.record
class Rows(Images):
    """What all commands share that make tables."""

    title = "rows"
    settings: str | None = option(
        None, "each method's settings, as tune wrote them", "FILE", "tuning.json", "those that come with the package"
    )
    rules: tuple[str, ...] = option(options.RULES, RULES, words=options.RULES)
    redo: bool = option(False, "make the wanted cells again, though they are finished")
    keep_models: bool = option(False, "keep the unlearned models, for export and oeu_ref.lab.cells.load_model")

    def asked(self):
        """The arguments of `tables.make` that follow the methods."""
        from ..report import results

        return {
            "seeds": options.SEEDS[self.preset] if self.seeds is None else self.seeds,
            "rules": self.rules,
            "settings": None if self.settings is None else results.read_json(self.settings),
            "name": self.name if self.dataset is None else "",
            "keep": self.keep_models,
        }

    def make(self, methods, **changed):
        """Make a table with rows of these methods, and the folder's report; changed: arguments of `tables.make`."""
        from ..lab import tables
        from ..report import report

        with self.started() as (experiment, runner, first):
            tables.make(self.word(), runner, experiment, **{"methods": methods, **self.asked(), **changed})
            return _show(report.report(runner.out)) if first else 0


@options.record
class Table(Rows):
    """Trains, retrains and unlearns on real images and compares all methods. On four CPU cores --preset cpu takes ten
    minutes or so; full size wants a GPU. Results are one JSON file a cell, table.json, report.md and pictures."""

    line = "one of the paper's tables: original, Retrain and seven methods, on several seeds"
    example = "cifar10-10 --preset cpu --data-root data"
    methods: tuple[str, ...] = methods(names.BASELINES)

    def run(self):
        return self.make(self.methods)


@options.record
class Ablation(Table):
    """Compares OEU with itself without one of its parts."""

    line = "OEU without projection, with global projection, with random labels, with the stop rule"
    example = "cifar10-10 --preset cpu --data-root data"
    methods: tuple[str, ...] = methods(names.ABLATIONS)


@options.record
class Sweep(Rows):
    """Runs OEU with several values of alpha, all else being equal."""

    line = "OEU with several values of alpha, the share of the retain direction that is removed"
    example = "cifar10-10 --alpha 0,0.5,0.75,1 --preset cpu"
    alpha: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        "shares to remove, each in [0, 1]",
        check=lambda flag, value: boundary.number(flag, value, *boundary.ALPHA.settings),
    )

    def run(self):
        return self.make(("oeu",), options=tuple((("alpha", value),) for value in dict.fromkeys(self.alpha)))


@options.record
class Run(Rows):
    """Runs one method, with the original model and Retrain that it is measured against."""

    line = "one method, with the settings that the tables use or your own"
    example = "--method oeu --preset cpu --seeds 1 --learning-rate 0.03 --weight 0.3 --steps 40"
    method: str = option(NEEDED, "the method", "METHOD", words=("retrain", *names.METHODS))
    unlearning_rate: float | None = option(
        None,
        "learning rate of unlearning, > 0; with --weight and --steps",
        example=0.03,
        unset=FOUND,
        flag="--learning-rate",
    )
    weight: float | None = option(
        None, "weight of forgetting against retaining, >= 0; OEU: beta", example=0.3, unset=FOUND
    )
    steps: int | None = option(None, "steps of unlearning, >= 1", example=40, unset=FOUND)
    keep_models: bool = option(True, "keep the unlearned models, for export and oeu_ref.lab.cells.load_model: always")

    def run(self):
        own = (self.unlearning_rate, self.weight, self.steps)
        if any(value is not None for value in own) and None in own:
            raise ValueError("--learning-rate, --weight and --steps must be given together, or none of them")
        if self.method == "retrain" or own[0] is None:
            return self.make(() if self.method == "retrain" else (self.method,))
        from ..methods.method import Settings

        settings = {self.method: (Settings(*own[:2]), boundary.integer("--steps", self.steps, 1))}
        return self.make((self.method,), settings=settings)


@options.record
class Tune(Images):
    """Tries the same learning rates, weights and steps with every method, on seeds that no table reports; writes
    OUT/tuning.json, which the other commands take as --settings. The grid is widened for all where a method's best lies
    on an end. With --preset cpu an hour and a half on four cores."""

    line = "search every method's settings on one grid, by true AG and by a proxy that needs no Retrain"
    example = "cifar10-10 --preset cpu --out results/tuning"
    seeds: tuple[int, ...] = option(options.TUNING_SEEDS, "whole numbers >= 0 that no table reports")
    methods: tuple[str, ...] | None = methods(None, "all")
    widen: int = option(1, "times that the grid may be widened, >= 0")

    def run(self):
        from ..lab import tuning
        from ..report import report

        with self.started() as (experiment, runner, first):
            tuning.tune(runner, experiment, self.methods, self.seeds, widen=self.widen)
            return _show(report.report(runner.out)) if first else 0


@options.record
class Replicate(Images):
    """Tests the paper's claims by the protocol of the field's own code: 10 epochs of unlearning, settings searched on a
    seed that is not reported, a second Retrain as the floor. Makes complete rows in order of worth for as long as
    --minutes says; writes replicate.json after each, and pictures at the end. Wants a GPU, on which several processes
    pay."""

    line = "the paper's claims at full size within a budget of minutes, by the protocol of the field's own code"
    example = "cifar10-10 --minutes 9 --jobs 6 --data-root data --out results/replicate"
    without = ("forget_copies",)
    minutes: float | None = option(
        None,
        "minutes to spend, > 0; --preset long takes as many images as fit in those of its first call",
        example=9,
        unset="as long as it takes",
    )
    protocol: str = option("authors", "batches of each set in turns or shuffled; or pairs", words=options.PROTOCOLS)
    rows: tuple[str, ...] = option(names.REPLICATED, "rows, the most worth first", words=names.REPLICATED)
    earlier: str | None = option(None, "a result to go on from: settings and seeds", "FILE", "replicate.json", "none")
    deterministic: str = option("off", "as for table, where it is warn", words=options.DETERMINISM)

    def run(self):
        from ..lab import replicate
        from ..report import report_figures, results

        with self.started() as (experiment, runner, _):
            seeds = options.SEEDS[self.preset] if self.seeds is None else self.seeds
            minutes = math.inf if self.minutes is None else boundary.positive("--minutes", self.minutes)
            if self.preset == "long" and self.earlier is None:
                experiment, said = replicate.fitted(runner, experiment, seeds, minutes, self.rows)
                say(said)
            path, whole = replicate.replicate(runner, experiment, seeds, minutes, self.rows, self.name, self.earlier)
            if path.is_file():
                found = results.read_json(path)
                say(replicate.table(found), *report_figures.draw(found, path.parent))
            say(*(() if whole else ("The time is over: the same command goes on.",)), path)
        return 0


@options.record
class Report(Command):
    """Reads the documents and cells that table, ablation, sweep, run and tune left in a folder; writes report.md,
    report.json and pictures there. Nothing is computed anew."""

    line = "write tables (Markdown) and pictures of an output folder anew"
    example = "results/cifar10-10-cpu"
    out: str = option(NEEDED, "the folder, as given to --out", flag="OUT_DIR")

    def run(self):
        from ..report import report

        # whoever makes cells in a folder leaves a lock there: without one there is nobody to wait for
        at_work = (pathlib.Path(self.out) / ".lock").exists()
        with locks.alone(self.out) if at_work else contextlib.nullcontext():
            return _show(report.report(self.out))


@options.record
class Export(Command):
    """Turns a .pt file of an output folder, or the state_dict of a network of your own, into the integer network that a
    device runs: one .npz without pickle, read back and compared with PyTorch's forward on random images."""

    called = {"checkpoint": "FILE"}
    line = "write a kept image model as integer codes and scales, what a device runs, and check it"
    example = "results/cifar10-10-cpu/seed-1/original.pt --out original.npz"
    file: str = option(NEEDED, "a .pt file that table, ablation or run kept, or a state_dict", flag="FILE")
    out: str = option(NEEDED, "the .npz to write", "FILE", "original.npz")
    image_size: int | None = option(None, "side of the images", "PIXELS", 32, "that of the model's experiment")
    value_bits: int = option(64, "bits of the values between layers: 32, or 64 to agree with PyTorch in every code")
    model: str | None = option(None, own.MODEL, "MODULE:FUNCTION", "my_networks:build", "FILE says")
    channels: int = option(3, "of the images of a network of your own")

    def run(self):
        from ..lab.export import export_file, export_network

        check_writable("--out", self.out, self.file)
        if self.model is None:
            say(export_file(self.file, self.out, self.image_size, self.value_bits))
        elif self.image_size is None:
            raise ValueError("--image-size must be given with --model: nothing else says it")
        else:
            shape = (self.channels, self.image_size, self.image_size)
            network = own.built(self.model, self.file)
            say(export_network(network, shape, self.out, self.value_bits, input_scale=1 / 255))
        return 0


def _show(written):
    text, paths = written
    say(text, *paths[1:], paths[0])
    return 0


def _cores():
    """CPU cores that this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_device(name):
    """What PyTorch calls the device; "auto": cuda where there is one, else cpu.  Raises ValueError for one that is not
    there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"--device must be a device of this machine, such as cpu, got {name!r}: {reason}") from None
    return str(device)
