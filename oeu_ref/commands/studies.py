"""The commands of what the paper leaves open. PyTorch is imported when one runs."""

import dataclasses
import importlib

from .. import audit, locks, studies
from ..lab import options
from ..lab.options import NEEDED, option, record
from .command import QUICK, Command, Folder, one_of, read, wrapped
from .experiments import RULES, Images, Rows, methods

STUDIES = studies.STUDIES | audit.STUDIES
ON_IMAGES = studies.ON_IMAGES + audit.ON_IMAGES


def load(name):
    """The module of a study; name: a key of STUDIES."""
    room = audit if name in audit.STUDIES else studies
    return importlib.import_module(f"{room.__name__}.{name.replace('-', '_')}")


@record
class Bits(Rows):
    """Makes the table of an experiment at several widths of weights and activations, in OUT/bits-WIDTH, and bits.json,
    bits.md and bits.png in OUT."""

    line = "a table at each of several bit widths, and one picture of them all"
    example = "cifar10-10 --preset cpu --widths 2,4,8 --data-root data"
    without = ("bits", "weight_bits", "activation_bits")  # --widths says them all
    widths: tuple[int | str, ...] = options.bits((2, 4, 8), "of weights and activations, each")
    methods: tuple[str, ...] = methods(("oeu", "qmul", "rl"))
    rules: tuple[str, ...] = option(("true",), RULES, words=options.RULES)

    def where(self):
        return self.out or f"{super().where()}-bits"

    def run(self):
        from ..studies import bits

        with self.started() as (experiment, runner, _):
            written = bits.images(runner, experiment, self.widths, self.methods, **self.asked())
        return 0 if written is None else Folder.show(self, written)


@record
class Study(Command):
    """Which study."""

    study: str = option(NEEDED, "one of those above", flag="STUDY")


@record
class Beyond(Images, Study):
    """One study on the demo's digits; those with a * also on images, of an experiment NAME. Writes a table, a
    picture and JSON. Those with a * keep in OUT what is finished: the same command goes on where it was."""

    line = f"{len(STUDIES)} studies of what the paper leaves open, on digits and some on images: see its --help"
    example = "stop cifar10-10 --preset cpu --data-root data"
    without = ("jobs", "deterministic")
    resumes = False  # those on images do, as its help says
    called = Images.called | {"out_dir": "--out"}
    name: str | None = option(
        None, "the data set and the percentage to forget", unset="the digits", flag="NAME", words=tuple(options.TABLES)
    )
    out: str | None = option(
        None, "folder, made if it is missing", "DIR", "results/mine", "results/beyond; with NAME results/NAME-PRESET"
    )
    seeds: tuple[int, ...] | None = option(
        None, "whole numbers >= 0, a run each", example="1,2", unset="the study's own"
    )
    device: str = option("cpu", "there is no other for studies", words=("cpu",))
    quick: bool = option(False, QUICK)

    @classmethod
    def about(cls):
        rows = {f"  {name + ' *' * (name in ON_IMAGES):13}  ": what for name, what in STUDIES.items()}
        return "\n".join([super().about(), "", *(wrapped(what, name, " " * 17) for name, what in rows.items())])

    def where(self):
        return self.out or (f"{super().where()}{'-quick' * self.quick}" if self.name else "results/beyond")

    def run(self):
        from ..lab.engine import checked_seeds
        from ..lab.study import run

        one_of("STUDY", self.study, STUDIES)
        how = {"seeds": None if self.seeds is None else checked_seeds(self.seeds), "quick": self.quick}
        own = {name: getattr(self, name) for name in ("out", "seeds", "quick")}
        if self.name is None and self != dataclasses.replace(read(Beyond, [self.study], ""), **own):
            raise ValueError("NAME must be given where options of images are: the digits have none of them")
        if self.name is not None:
            if self.study not in ON_IMAGES:
                raise ValueError(f"STUDY must be one of {', '.join(ON_IMAGES)} with NAME, got {self.study!r}")
            with self.started() as (experiment, runner, _):
                experiment.split(experiment.load(runner.source), 0)  # before there is any folder
            how |= {"experiment": experiment, "runner": dataclasses.replace(runner, jobs=1, determinism="warn")}
        # studies share a folder, each with files of its own name
        with locks.alone(self.where(), "out_dir", work=self.study):
            return Folder.show(self, run(load(self.study), self.where(), **how))
