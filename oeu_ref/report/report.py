"""The report: Markdown, its pictures, and a JSON file with all that they show, from an output folder's files alone."""

import math
import os
import pathlib

import numpy as np

from .. import boundary
from ..methods.names import LABELS
from ..reference import metrics
from . import report_figures, results

COLUMNS = ("FA", "RA", "TA", "MIA", "AG", "share_of_original", "tug_of_war", "forget_vs_test_auc", "time")
# the documents that there are, and what each is called
TITLES = {"table": "Methods", "ablation": "Ablation of OEU", "sweep": "Sweep of alpha", "run": "Runs"}
KINDS = tuple(TITLES)
RULE_TITLES = {
    "true": "Settings chosen by true AG (what papers do; it needs the retrained model)",
    "proxy": "Settings chosen by proxy AG (no retrained model, no test image)",
    "given": "Settings given by hand",
}
# what a file must at least hold to be shown
DOCUMENT = {"kind", "name", "experiment", "seeds", "settings", "original", "retrain", "rows"}
TUNING = {"experiment", "grid", "seeds", "rules"}
CELL = {"diverged", "seconds"}
# what the paper reports: {table: {method: {metric: percent}}}.
PAPER = {
    "cifar10-10": {"oeu": {"AG": 0.58}},
    "cifar100-30": {"oeu": {"AG": 1.98}, "qmul": {"AG": 3.90}, "oeu_global": {"AG": 5.40}},
}
PAPER_SOURCE = "arXiv 2602.00567, the same data set and share, at full size"


def report(out):
    """Write report.md, report.json and the pictures for every document in an output folder.

    out: a folder that `table`, `ablation`, `sweep`, `run` or `tune` wrote to.
    Returns (Markdown text, [path of report.md, path of report.json, paths of pictures ...]).
    Raises TypeError for what is no path, ValueError, naming it, for a folder without such documents or a file that is
    missing, no JSON, or another file in its place.
    """
    out = pathlib.Path(boundary.instance("out", out, (str, os.PathLike), "path"))
    documents = {kind: load(out, kind) for kind in KINDS if (out / f"{kind}.json").is_file()}
    tuning = read_document(out / "tuning.json", TUNING, "tune") if (out / "tuning.json").is_file() else None
    if not documents and tuning is None:
        names = ", ".join(f"{kind}.json" for kind in (*KINDS, "tuning"))
        raise ValueError(f"out must be a folder with one of {names}, got {out}")
    digests = {kind: digest(document) for kind, document in documents.items()}
    data = results.write_json(out / "report.json", results.plain({**digests, "tuning": tuning}))
    text, pictures = [], []
    for document in documents.values():
        name = results.escaped(document["name"] or document["experiment"]["dataset"])
        text += [f"# {TITLES[document['kind']]}: {name}", ""]
        text += [about(document), ""]
        for rule in RULE_TITLES:
            rows = [row for row in document["rows"] if row["rule"] == rule]
            if rows:
                text += [f"## {RULE_TITLES[rule]}", "", table(document, rows), "", *_remarks(rows), ""]
        if not document["rows"]:
            text += [table(document, []), ""]
        drawn = report_figures.draw(document, out) if any(any(row["values"]) for row in document["rows"]) else []
        pictures += drawn
        text += [f"![{path.stem}]({path.name})" for path in drawn] + [""]
    if tuning is not None:
        text += ["# Tuning", "", tuning_table(tuning), ""]
    content = "\n".join(text).strip() + "\n"
    return content, [results.write_text(out / "report.md", content), data, *pictures]


def load(out, kind):
    """A document with the contents of its cells put in: each row gets "cells", "values" and "gaps", a seed each.

    values: as `values`, against Retrain and the original of the same seed. The document gets "original" and "retrain"
    as lists of cells.
    Raises ValueError, naming it, for a file that is missing, no JSON, another file in its place, or one that lies
    outside the folder.
    """
    out = pathlib.Path(out)
    document = read_document(out / f"{kind}.json", DOCUMENT, kind)

    def cells(files):
        return [read_document(results.inside(out, file), CELL, kind) for file in files]

    for name in ("original", "retrain"):
        document[name] = cells(document[name])
    for row in document["rows"]:
        row["cells"] = cells(row["files"])
        row["label"] = LABELS[row["method"]] + "".join(f", {key} = {value:g}" for key, value in row["options"].items())
        row["values"] = _values(document, row["cells"])
    return document


def read_document(path, keys, command):
    """Contents of a JSON file.  Raises ValueError, naming it, unless it is a dict with these keys."""
    found = results.read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a file as `{command}` writes it, got a {type(found).__name__}")
    if missing := sorted(keys - set(found)):
        raise ValueError(f"{path} must be a file as `{command}` writes it, lacks {', '.join(missing)}")
    return found


def digest(document):
    """The document in short: every figure of every seed, and means over the seeds of curves, histograms and cosines."""
    short = {key: document[key] for key in ("kind", "name", "experiment", "seeds", "settings")}
    short.update({key: document["retrain"][0][key] for key in ("attack", "device", "versions", "data")})
    for name in ("original", "retrain"):
        short[name] = {
            "values": _values(document, document[name]),
            "entropy_histograms": _histograms(document[name]),
        }
    short["rows"] = []
    for row in document["rows"]:
        cells = [cell for cell in row["cells"] if not cell["diverged"]]
        found = {key: row[key] for key in ("rule", "method", "label", "settings", "options", "values")}
        short["rows"].append({**found, **(_means(cells) if cells else {})})
    return short


def _means(cells):
    layers = [cell["cosines"] for cell in cells if cell["cosines"]]
    return {
        "curve": report_figures.mean_curve(cells),
        "entropy_histograms": _histograms(cells),
        "cosines": {name: np.round(report_figures.mean_cosine(layers, name), 3).tolist() for name in layers[0]}
        if layers
        else {},
    }


def _histograms(cells):
    parts = cells[0]["entropy_histograms"]
    return {part: np.sum([cell["entropy_histograms"][part] for cell in cells], axis=0).tolist() for part in parts}


def values(cell, retrain, original):
    """The figures of one cell, None if it diverged: its metrics and loss (older cells have no "retain_loss"), "AG",
    "time", the seconds divided by Retrain's, "share_of_original", AG divided by the original's (None where that is 0),
    and "tug_of_war", in percent.

    retrain, original: the cells of the same seed.
    """
    if cell.get("diverged"):
        return None
    gap, scale = (metrics.average_gap(of["metrics"], retrain["metrics"]) for of in (cell, original))
    loss = {key: cell[key] for key in ("retain_loss",) if key in cell}
    return {
        **cell["metrics"],
        **loss,
        "AG": gap,
        "time": cell["seconds"] / retrain["seconds"],
        "share_of_original": gap / scale if scale else None,
        "tug_of_war": tug_of_war(cell["metrics"], retrain["metrics"]),
    }


def _values(document, cells):
    """`values` of cells, one a seed."""
    return [values(*of_seed) for of_seed in zip(cells, document["retrain"], document["original"])]


def tug_of_war(found, retrain):
    """ToW: product over forget, retain and test set of 1 - |accuracy - Retrain's|, in percent; 100 is Retrain.

    found, retrain: mappings with "FA", "RA", "TA" in percent.
    Source: Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024, section 3.
    """
    return 100 * math.prod(1 - abs(found[key] - retrain[key]) / 100 for key in ("FA", "RA", "TA"))


def table(document, rows):
    """Markdown table of some rows of a document, with original and Retrain on top."""
    paper = PAPER.get(document["name"], {})
    same = document["experiment"]["arch"] == "resnet18" and document["experiment"]["weight_bits"] == 4
    summary, labels = {}, {}
    for name in ("original", "retrain"):
        summary[name], labels[name] = _summary(_values(document, document[name])), LABELS[name]
    for name in ("AG", "share_of_original", "tug_of_war"):  # the gap of Retrain to itself would say nothing
        summary["retrain"].pop(name, None)
    for i, row in enumerate(rows):
        found = [value for value in row["values"] if value is not None]
        summary[i], labels[i] = _summary(found) if found else {}, row["label"]
        if same and row["method"] in paper:
            summary[i]["paper_AG"] = {"mean": paper[row["method"]]["AG"], "spread": None}
    columns = (*COLUMNS, "paper_AG") if paper and same else COLUMNS
    if "TA_forgotten" in summary["original"]:
        columns = (*columns[:3], "TA_forgotten", *columns[3:])
    return results.table(summary, labels, columns)


def _summary(found):
    return {
        key: results.mean_and_spread([value[key] for value in found])
        for key in found[0]
        if not any(value[key] is None for value in found)
    }


def _remarks(rows):
    """What a reader must know of these rows: runs that diverged."""
    return [
        f"{row['label']} diverged on {row['values'].count(None)} of {len(row['values'])} seeds and is averaged over "
        "the others."
        for row in rows
        if None in row["values"]
    ]


def about(document):
    """What was measured and how, in a paragraph."""
    e = document["experiment"]
    first = document["retrain"][0]
    if e["forget_ratio"] is not None:
        forgotten = f"{e['forget_ratio']:.0%} of them to forget, drawn at random"
    elif e["forget_classes"] is not None:
        forgotten = f"classes {results.escaped(', '.join(map(str, e['forget_classes'])))} to forget"
    else:
        forgotten = f"those of {results.escaped(e['forget_file'])} to forget"
    forgotten += ", with exact copies of them" if e.get("forget_copies") else ""
    widths = {32: "unquantized", "binary": "binary", "ternary": "ternary"}
    weights, activations = (
        widths.get(e[f"{part}_bits"], f"{e[f'{part}_bits']}-bit") for part in ("weight", "activation")
    )
    bits = f"{weights} weights and {activations} activations"
    spread = results.over(document["seeds"])
    size = f"{e['train_size']} training images" if e["train_size"] else "all training images"
    origin = document["settings"]
    moved = ", their steps scaled to as many passes over the forget set, and not searched anew for this experiment"
    versions = first["versions"]
    lines = [
        f"{results.escaped(e['dataset'])}, {size}, {forgotten}; {e['arch']}"
        f"{'' if e['width'] is None else ' of width ' + str(e['width'])}, {bits}, {e['epochs']} epochs"
        f"{'' if e['augmented'] else ' without augmentation'}; {spread}.",
        f"FA, RA, TA: accuracy on forget, retain and test images; MIA: share of forget images that a {first['attack']} "
        "calls unseen; AG: mean absolute gap to Retrain of the same seed over these four, lower is better; all in "
        "percent. AG / original's: AG divided by that of the original model; ToW: product of 1 - gap over FA, RA and "
        "TA, 100 is Retrain. forget-vs-test AUC: 50 where entropy cannot tell forgotten from unseen images. time / "
        "Retrain: seconds divided by Retrain's in the same run.",
        results.how_unlearned(e),
        f"Settings: {origin['source']}"
        + (f", seeds {', '.join(map(str, origin['seeds']))}" if "seeds" in origin else "")
        + (moved if origin["transferred"] else "")
        + ".",
        f"Device: {first['device']}; torch {versions['torch']}, oeu_ref {versions['oeu_ref']}.",
    ]
    if "TA_forgotten" in first["metrics"]:
        lines.append("Test images of forgotten classes are in no figure but TA forgotten, the accuracy on them.")
    if document["name"] in PAPER:
        lines.append(f"AG in the paper: {PAPER_SOURCE}.")
    return "  \n".join(lines)


def tuning_table(tuning):
    """Markdown: what each method's best setting is by either rule, and what a wrong one costs."""
    grid = tuning["grid"]
    points = math.prod(len(axis) for axis in grid.values())
    lines = [
        f"Every method has the same {points} settings: learning rate {_list(grid['learning_rate'])}, weight "
        f"{_list(grid['weight'])}, steps {_list(grid['steps'])}; AG is the mean over seeds "
        f"{', '.join(map(str, tuning['seeds']))}. {results.how_unlearned(tuning['experiment'])}",
        "",
    ]
    for rule in tuning["rules"]:
        head = ["method", "learning rate", "weight", "steps", "best AG", "median AG", "worst AG", "diverged"]
        rows = [[*head, "at an end of"]]
        for name, found in tuning["rules"][rule].items():
            best = found["best"]
            gaps = [_number(value) for value in (best["AG"], found["median_AG"], found["worst_AG"])]
            point = [f"{best['learning_rate']:g}", f"{best['weight']:g}", f"{best['steps']}"]
            ends = ", ".join(found["best_at_end_of"]).replace("_", " ") or "–"
            rows.append([LABELS[name], *point, *gaps, f"{found['diverged']}", ends])
        lines += [f"## By {rule} AG", "", results.aligned(rows), ""]
    return "\n".join(lines).rstrip()


def _list(values):
    return ", ".join(f"{value:g}" for value in values)


def _number(value):
    return "–" if value is None else f"{value:.1f}"
