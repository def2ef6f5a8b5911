"""Results: what is written, as JSON for machines and as Markdown for people."""

import json
import os
import platform
import re
import tempfile
from pathlib import Path

import numpy as np

from .. import __version__, files

write_json, write_text = files.write_json, files.write_text  # beside `read_json`, for who writes results
COLUMNS = ("FA", "RA", "TA", "MIA", "AG", "forget_vs_test_auc", "seconds")
TITLES = {
    "TA_forgotten": "TA forgotten",
    "share_of_original": "AG / original's",
    "tug_of_war": "ToW",
    "forget_vs_test_auc": "forget-vs-test AUC",
    "seconds": "s",
    "time": "time / Retrain",
    "paper_AG": "AG in the paper",
}
DIGITS = {"share_of_original": 2, "seconds": 2, "time": 2, "paper_AG": 2}


def output_directory(name, path):
    """Return `path` as a `Path` of a directory that exists and can be written to, made if need be.

    name: the argument's, for the message.  Raises TypeError for what is no path, ValueError for a path that is a file
    or cannot be made or written to.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {type(path).__name__}")
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # asking for permission bits is not enough: read-only and full file systems show only when written to
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"0")
    except OSError as error:
        raise ValueError(f"{name} must be a directory that can be written to, got {path}: {error.strerror}") from None
    return path


def plain(data):
    """The same data as it comes back from a JSON file: tuples as lists.  Raises ValueError as `write_json`."""
    return json.loads(json.dumps(data, allow_nan=False))


def read_json(path):
    """Read what `write_json` wrote.  Raises ValueError that names the file if it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_bytes())  # bytes: in UTF-8 or UTF-16, with or without a mark
    except OSError as error:
        raise ValueError(f"path must be a file that can be read, got {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path must be a JSON file, got {path}: {error}") from None


def escaped(text):
    """`text` for a Markdown table or paragraph, so that a name that comes with data is shown, not obeyed."""
    return re.sub(r"([\\`*_{}\[\]<>|~#!])", r"\\\1", " ".join(str(text).split()))


def inside(folder, name):
    """The path of a file that a document names, below the document's folder.

    name: relative; raises ValueError for a name that leads out of the folder, as a document from elsewhere may have it.
    """
    path = Path(folder) / str(name).replace("\\", "/")  # as Windows wrote it
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"files must lie in the folder of the document that names them, {folder}, got {name!r}")
    return path


def versions():
    """Versions of what a result depends on: a dict of strings."""
    import sklearn
    import torch

    return {
        "oeu_ref": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
    }


def mean_and_spread(values):
    """{"mean": float, "spread": float or None}: mean and sample standard deviation, None for a single value."""
    values = np.asarray(values, dtype=np.float64)
    return {"mean": float(values.mean()), "spread": float(values.std(ddof=1)) if len(values) > 1 else None}


def summarize(runs):
    """Mean and spread over runs of every metric of every method.

    runs: list of dicts method -> metric -> number, the same metrics in each; a method may be missing in some runs.
    Returns a dict method -> metric -> {"mean", "spread"}, over the runs that have the method.
    """
    first = {method: metrics for run in reversed(runs) for method, metrics in run.items()}
    return {
        method: {metric: mean_and_spread([run[method][metric] for run in runs if method in run]) for metric in metrics}
        for method, metrics in first.items()
    }


def how_unlearned(config):
    """What all methods of a table share, a sentence for its caption; config: an experiment's, plain data."""
    falls = {"constant": "constant", "linear": "falling linearly to zero", "cosine": "falling to zero along a cosine"}
    anew = "estimated anew on the retain set" if config.get("recalibrated") else "as the steps left them"
    return f"All methods: learning rate {falls[config.get('schedule', 'constant')]}; BatchNorm's statistics {anew}."


def over(seeds):
    """What figures of these seeds are, in words for a caption."""
    return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "one seed"


def finished(runs):
    """(runs that are not None, " (2 diverged)" or nothing): for the mean, and to be said beside it."""
    left = [run for run in runs if run is not None]
    return left, f" ({len(runs) - len(left)} diverged)" if len(left) < len(runs) else ""


def format_value(value, digits=1):
    """The text "71.4 ± 3.2", or "71.4" where there is no spread.  value: {"mean", "spread"}."""
    spread = "" if value["spread"] is None else f" ± {value['spread']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def spread(values, digits=1):
    """The text "71.4 ± 3.2", mean and standard deviation of numbers; "–" where there are none."""
    return format_value(mean_and_spread(values), digits) if values else "–"


def table(summary, labels, columns=COLUMNS):
    """Markdown table: a row a method, a column a metric.

    summary: as `summarize` returns; labels: dict method -> what to call it, in the order of rows; columns: metrics; a
    metric that a method lacks shows as a dash.  Returns a string without a final newline.
    """
    rows = [["method", *(TITLES.get(column, column) for column in columns)]]
    for method, label in labels.items():
        cells = [
            format_value(summary[method][column], DIGITS.get(column, 1)) if column in summary[method] else "–"
            for column in columns
        ]
        rows.append([" ".join(label.split()).replace("|", "\\|"), *cells])
    return aligned(rows)


def aligned(rows, left=1):
    """Markdown table of lists of text, aligned so that it reads well in a terminal too.

    rows: the head first, all of one length; left: so many columns are set to the left, the others to the right.
    Returns a string without a final newline.
    """
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        for row in [rows[0], rule, *rows[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
