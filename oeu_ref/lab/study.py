"""What all studies share: the frame around what one collects, the networks and files it goes on from, the document."""

import dataclasses
import functools
import math
import sys
import time

import numpy as np

from .. import locks
from ..data.samples import Batches, stream
from ..report import figures, results
from . import engine, tables
from .cells import Cell, load_model
from .checkpoints import difference
from .experiment import QUICK, Digits, described
from .jobs import run_cells
from .tuning import chosen

COLUMNS = ("FA", "RA", "TA", "MIA", "AG", "forget_vs_test_auc")
# a line for each method and network, the same in the pictures of all studies that draw many
GREY, PINK = figures.STYLES["retrain"]["color"], figures.STYLES["oeu"]["color"]
LINES = {
    "original": {"color": figures.SIDE, "linestyle": (0, (1, 2))},
    "retrain": {"color": GREY, "linestyle": ":", "linewidth": 2.6},
    "again": {"color": GREY, "linestyle": "--"},
    "oeu": {"color": PINK, "linewidth": 2.4},
    "oeu_stop": {"color": PINK, "linestyle": (0, (3, 1, 1, 1))},
    "oeu_no_projection": {"color": PINK, "linestyle": "-."},
    "oeu, four times": {"color": PINK, "linestyle": "--"},
    "ft": {"color": "#7A5C3E", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    "ga": {"color": "#0072B2", "linestyle": (0, (5, 1))},
    "rl": {"color": "#E69F00", "linestyle": "-."},
    "salun": {"color": "#009E73", "linestyle": "--"},
    "qmul": {"color": "#56B4E9", "linestyle": "-"},
}
SMALL = {"epochs": 1, "train_size": 500, "validation_size": 100, "test_size": 100}  # of a quick run on images


def run(study, out_dir, seeds=None, quick=False, progress=True, experiment=None, runner=None):
    """Run a study and write NAME.json, NAME.md and NAME.png.

    study: its module, such as `oeu_ref.studies.stop`; out_dir: directory for the three files, made if need be; seeds:
    distinct integers >= 0, None: the study's REPORTED_SEEDS, on images its IMAGE_SEEDS; quick: few images, epochs,
    steps and cases, to see that everything works, the figures mean nothing; progress: show a bar on stderr, if a
    terminal; experiment: `Experiment`, None: the digits; runner: `cells.Runner` of images, whose folder may be a
    table's: networks of both are the same.
    Studies with IMAGE_SEEDS keep what is finished in a folder NAME of out_dir, and the same call goes on from there.
    Returns {"table": str, "json": Path, "markdown": Path, "picture": Path}.  A run that diverges is null and is named.
    Raises TypeError or ValueError, naming the argument, for bad seeds, a directory that cannot be written to or holds
    parts of other settings, or images where the study has no form for them.
    """
    name = study.__name__.rpartition(".")[2].replace("_", "-")
    image_seeds = getattr(study, "IMAGE_SEEDS", None)
    folder = f"{name}-quick" if quick else name
    if experiment is None:
        experiment, usual = QUICK if quick else Digits(), study.REPORTED_SEEDS
    elif image_seeds is None:
        raise ValueError(f"study must be one that there is on images, with IMAGE_SEEDS, got {name!r}")
    else:
        sizes = {n: min(size, getattr(experiment, n) or size) for n, size in SMALL.items() if quick}
        experiment, usual = dataclasses.replace(experiment, **sizes), image_seeds
    seeds = engine.checked_seeds(usual if seeds is None else seeds)
    out_dir = results.output_directory("out_dir", out_dir)
    work = (Work(experiment, out_dir / folder, runner),) if image_seeds else ()
    with engine.one_thread(), engine.progress_bar(0, progress, "runs") as bar:
        config, found = study.collect(seeds, experiment, quick, bar, *work)
    data = document(study.QUESTION, config, seeds, found)
    return figures.written(out_dir, name, data, study.markdown(data), study.figure)


class Work:
    """The networks that a study starts from, and what it has finished, each part a file.

    experiment: `Digits` or `Experiment`; folder: for the parts, None: they are not kept; runner: `cells.Runner`, in
    whose folder the networks of images are trained, as cells; None, on digits: each time anew.
    seconds, mib: processor time of all parts, those read too, and most memory of any; None where no system says so.
    """

    def __init__(self, experiment, folder=None, runner=None):
        self.experiment = experiment
        self.folder = folder
        self.runner = runner
        self.seconds = 0.0
        self.mib = None
        self.case = functools.lru_cache(maxsize=1)(self.case)

    def splits(self, seed):
        """The data of a seed, `Splits`."""
        return self.experiment.split(self.experiment.load(self.runner and self.runner.source), seed)

    def case(self, seed):
        """`engine.Case` of a seed: its data, original and Retrain."""
        networks = [self.network(seed, name) for name in ("original", "retrain")]
        return engine.Case(seed, self.experiment, self.splits(seed), *networks, {})

    def network(self, seed, name):
        """A trained network, in eval mode; name: "original", "retrain" or "retrain again", of other random numbers."""
        if self.runner is None:
            return engine.trained(self.experiment, self.splits(seed), seed, name)[0]
        cell = Cell(seed, name, keep=True)
        with locks.alone(self.runner.out, busy="wait"):  # another study may be training there
            run_cells(self.runner, self.experiment, [cell])
        return load_model(cell.path(self.runner.out).with_suffix(".pt"))

    def tuned(self, methods, most=None):
        """{method: (`Settings`, steps)} of images as in a table: chosen by AG, steps by passes over the forget set.

        most: steps, None: as many as there are.
        """
        tuning = results.read_json(tables.SETTINGS_FILE)
        scale = tables.steps_scale(tuning, self.experiment, self.runner and self.runner.source)
        cut = lambda steps: max(1, min(round(steps * scale), most or math.inf))
        return {name: (best, cut(steps)) for name in methods for best, steps in [chosen(tuning, "true", name)]}

    def part(self, name, about, make):
        """What make() returns, plain data: read where it is kept already, else kept, its time and memory printed.

        name: the file's, without its ending; about: dict of plain data, all that it depends on but the experiment.
        Raises ValueError, naming the file, if that is of another experiment or about something else.
        """
        of = results.plain({"experiment": described(self.experiment), **about})
        name = name.replace(", ", "-").replace(" ", "-")
        start = time.process_time()
        path = self.folder and self.folder / f"{name}.json"
        if path is not None and path.is_file():
            part = results.read_json(path)
        else:
            found = make()
            part = {"of": of, "found": found, "seconds": time.process_time() - start, "mib": peak_memory()}
            part = results.plain(part)
            if path is not None:
                results.write_json(path, part)
                print(f"{path}: {part['seconds']:.0f} s, {part['mib'] or 0:.0f} MiB at most", flush=True)
        if part["of"] != of:
            made = difference(part["of"], of)
            raise ValueError(f"{path} must be of this run, it is of another ({made}): choose another folder")
        self.seconds = self.seconds + part["seconds"]
        self.mib = max(self.mib or 0, part["mib"] or 0) or None
        return part["found"]


def cost(data):
    """What a study took, in words, from "seconds" and "mib" of its document; nothing where it has none."""
    if "seconds" not in data:
        return ""
    memory = f", at most {data['mib']:.0f} MiB" if data["mib"] else ""
    return f"\n{data['seconds'] / 60:.0f} minutes of one core{memory}."


def document(question, config, seeds, found):
    """A study's document as plain data; ValueError for a number that is not finite.

    question: what it answers, a sentence; config: plain data, all that the figures depend on but for the seeds; seeds:
    those reported; found: dict, merged into the document.
    """
    about = {"question": question, "config": config, "seeds": list(seeds), "versions": results.versions()}
    return results.plain(about | found)


def batches(case, steps):
    """Pairs of a forget and a retain batch, `Samples`, so many as steps, drawn as `engine.forget` draws them."""
    sizes = {"forget": case.experiment.forget_batch, "retain": case.experiment.retain_batch}
    sources = [Batches(getattr(case.splits, k), n, stream(case.seed, f"{k} batches")) for k, n in sizes.items()]
    for _ in range(steps):
        yield [next(source) for source in sources]


def averaged(runs):
    """{metric: {"mean", "spread"}} over runs, dicts of one shape; of those that diverged, None, nothing is counted."""
    left, _ = results.finished(runs)
    return {metric: results.mean_and_spread([run[metric] for run in left]) for metric in (left[0] if left else ())}


def under(case, way):
    """The `engine.Case` with its loop run another way; way: fields of `Digits`, or of another experiment."""
    return dataclasses.replace(case, experiment=dataclasses.replace(case.experiment, **way))


def interval(values):
    """(mean, half the width of its 95 % interval by Student's t; None for one value): values independent."""
    from scipy.stats import t  # which scikit-learn brings

    count = len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5 if count > 1 else None
    return float(np.mean(values)), half


def peak_memory():
    """Most memory that the process had so far, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
