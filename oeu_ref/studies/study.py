"""What all studies share: the frame around what one collects, the document, and the three files."""

import sys

import numpy as np

from ..lab import engine, figures, results
from ..lab.experiment import QUICK, Digits
from . import load


def run(name, out_dir, seeds=None, quick=False, progress=True):
    """Run a study and write NAME.json, NAME.md and NAME.png.

    name: a key of `oeu_ref.studies.STUDIES`; out_dir: directory for the three files, made if need be; seeds: distinct
    integers >= 0, None: the study's REPORTED_SEEDS; quick: few epochs, steps and cases, to see that everything works,
    the figures mean nothing; progress: show a bar on stderr, if a terminal.
    Returns {"table": str, "json": Path, "markdown": Path, "picture": Path}.  A run that diverges is null and is named.
    Raises TypeError or ValueError, naming the argument, for bad seeds or a directory that cannot be written to.
    """
    study = load(name)
    seeds = engine.checked_seeds(study.REPORTED_SEEDS if seeds is None else seeds)
    out_dir = results.output_directory("out_dir", out_dir)
    with engine.one_thread(), engine.progress_bar(0, progress, "runs") as bar:
        config, found = study.collect(seeds, QUICK if quick else Digits(), quick, bar)
    data = document(study.QUESTION, config, seeds, found)
    return figures.written(out_dir, name, data, study.markdown(data), study.figure)


def document(question, config, seeds, found):
    """A study's document as plain data; ValueError for a number that is not finite.

    question: what it answers, a sentence; config: plain data, all that the figures depend on but for the seeds; seeds:
    those reported; found: dict, merged into the document.
    """
    about = {"question": question, "config": config, "seeds": list(seeds), "versions": results.versions()}
    return results.plain(about | found)


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
