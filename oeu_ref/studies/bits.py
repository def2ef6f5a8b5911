"""Very low bits: OEU, Q-MUL and random labels on binary, ternary, 2-, 4- and 8-bit networks, digits or images.

The study is on the digits, at settings that `search` chose for each width and method on seeds that are not
reported, and wrote to `bits_settings.json` beside the demo's. Networks collapse where a learned step runs through zero
and jumps, most often that of the input quantizer, of 8 bits at any width: every run is made a second time with it held.
`images` makes the tables of an image experiment at several widths and one document of them. Both documents have one
form, for `markdown` and `figure`.
"""

import dataclasses
import itertools
import math
import pathlib

import numpy as np

from .. import boundary, distributed
from ..core.unlearner import NonFiniteError
from ..lab import engine, tables, tuning
from ..lab import search as searches
from ..lab.engine import checked_seeds
from ..lab.experiment import Digits
from ..lab.study import COLUMNS, averaged, document
from ..methods.names import LABELS
from ..report import figures, report, results
from ..report.report_figures import LINES

QUESTION = "How do OEU, Q-MUL and random labels fare when the network has fewer and fewer levels?"
REPORTED_SEEDS = tuple(range(1, 11))
SEARCH_SEEDS = (101, 102, 103)
WIDTHS = ("binary", 1, "ternary", 2, 4, 8, 32)  # from two levels to none: binary is {-1, 1}, 1 bit {-1, 0}
METHODS = ("oeu", "qmul", "rl")
GRID = {"learning_rate": (0.03, 0.1, 0.3), "weight": (0.01, 0.03, 0.1, 0.3, 1.0), "steps": (10, 20, 40, 80)}
SETTINGS_FILE = pathlib.Path(__file__).with_name("bits_settings.json")
QUICK_WIDTHS = ("binary", "ternary", 4)
CODES = "codes changed"
FURTHER = (CODES, "time")  # measured on the digits, and on images
COLLAPSED = 50.0  # an RA that no unlearning means: percent
PANELS = {
    "AG": "AG: mean gap to Retrain (points)",
    "FA": "FA: accuracy on forget samples (%)",
    "RA": "RA: accuracy on retain samples (%)",
    "TA": "TA: accuracy on test samples (%)",
}


def search(path, seeds=SEARCH_SEEDS, widths=WIDTHS, grid=None, config=None, progress=True):
    """Choose the settings of each method at each width: the same grid for all, by true AG; half an hour on one core.

    path: the JSON file to write; seeds: distinct integers >= 0, none of which is to be reported; widths: as
    `Digits.bits`; grid: as in `search.search`, None: GRID; config: `Digits`, None: the default; progress: show
    a bar.  Returns the file's contents: what `search.search` finds, but for the single points, under "widths" for each
    width.  Raises as that does.
    """
    config, grid = config or Digits(), GRID if grid is None else grid
    results.output_directory("path", pathlib.Path(path).parent)
    found = {}
    for width in widths:
        seeds, grid, one = searches.on_digits(METHODS, seeds, grid, _at(config, width), progress)
        found[str(width)] = {m: {key: one[m][key] for key in one[m] if key != "points"} for m in METHODS}
    config = dataclasses.asdict(config) | {"bits": list(widths)}
    return searches.write(path, "very low bits: search for settings by true AG", config, seeds, grid, widths=found)


def load_settings(max_steps=None, path=SETTINGS_FILE):
    """What `search` chose: {width as str: {method: (`Settings`, steps)}}, steps cut at max_steps."""
    return {
        width: {name: searches.setting(found["best"], max_steps) for name, found in methods.items()}
        for width, methods in results.read_json(path)["widths"].items()
    }


def collect(seeds, config, quick, bar):
    """(config, found) for the document on the digits: every method at every width on every seed."""
    widths = QUICK_WIDTHS if quick else WIDTHS
    chosen = load_settings(config.max_steps)
    values = {str(width): {name: [] for name in ("original", "retrain", *METHODS)} for width in widths}
    held = {str(width): {name: [] for name in METHODS} for width in widths if width != 32}
    bar.reset(len(seeds) * len(widths))
    for width, seed in itertools.product(widths, seeds):
        bar.set_description(f"{title(width)}, seed {seed}")
        case = engine.prepare(seed, _at(config, width))
        for name, found in _measured(case, chosen[str(width)]).items():
            values[str(width)][name].append(found)
        if width != 32:
            case.original.layers[0].activation_quantizer.step.requires_grad_(False)
            again = _measured(case, chosen[str(width)])
            for name in METHODS:
                held[str(width)][name].append(again[name])
        bar.update()
    searched = results.read_json(SETTINGS_FILE)
    return dataclasses.asdict(config), {
        "labels": {name: LABELS[name] for name in ("original", "retrain", *METHODS)},
        "settings": {w: {m: {**dataclasses.asdict(s), "steps": n} for m, (s, n) in chosen[w].items()} for w in values},
        "values": values,
        "held": held,
        "caption": _caption(config, seeds, searched),
    }


def _measured(case, chosen):
    """Metrics of a case's original, Retrain and every method, None for a method that diverged."""
    found = {"original": case.judged(case.original), "retrain": case.target}
    for name, (settings, steps) in chosen.items():
        try:
            model = engine.forget(case, name, settings, steps)[0]
        except NonFiniteError:
            found[name] = None
            continue
        found[name] = case.judged(model)
        if case.experiment.bits != 32:
            found[name][CODES] = changed_codes(case.original, model)
    return found


def changed_codes(before, after):
    """Share of the inner layers' weight codes that differ between two `QuantMLP`s of one shape, in percent."""
    pairs = list(zip(before.layers[1:-1], after.layers[1:-1]))
    codes = [[layer.weight_quantizer.codes(layer.weight).flatten() for layer in pair] for pair in pairs]
    return float(100 * np.mean(np.concatenate([(one != other).cpu().numpy() for one, other in codes])))


def images(runner, experiment, widths, methods=METHODS, seeds=tables.REPORTED_SEEDS, rules=("true",), **how):
    """An image experiment at several widths: a folder `bits-<width>` in `runner.out` for each, a document of them all.

    runner: `cells.Runner`, whose folder is made if need be; what is finished there is not made again; experiment:
    `Experiment`; widths: 1 to 8, "ternary", "binary" or 32, of weights and activations; methods, seeds, rules, how: as
    in `tables.make`. Of several rules the first is shown.
    Returns what `study.run` returns, in one of several processes that work together the first alone, else None.
    Raises as `tables.make`; ValueError for widths that are none, unknown or given twice.
    """
    out = results.output_directory("out", runner.out)
    widths = [boundary.bits("widths", width) for width in widths]
    if not widths or len(set(widths)) < len(widths):
        raise ValueError(f"widths must be at least one, each different, got {widths}")
    methods = tuning.checked_methods(methods)
    # all experiments before the first is made: a wrong width is found at once
    made = {width: dataclasses.replace(experiment, weight_bits=width, activation_bits=width) for width in widths}
    for width, one in made.items():
        there = dataclasses.replace(runner, out=folder(out, width))
        tables.make("table", there, one, methods=methods, seeds=seeds, rules=rules, **how)
    if distributed.rank() > 0:
        return None
    loaded = {str(width): report.load(folder(out, width), "table") for width in widths}
    found = {
        "labels": {name: LABELS[name] for name in ("original", "retrain", *methods)},
        "settings": {w: {row["method"]: row["settings"] for row in _rows(one)} for w, one in loaded.items()},
        "values": {width: _values(one) for width, one in loaded.items()},
        "caption": _images_caption(loaded),
    }
    config = {**dataclasses.asdict(experiment), "weight_bits": widths, "activation_bits": widths}
    data = document(QUESTION, config, checked_seeds(seeds), found)
    return figures.written(out, "bits", data, markdown(data), figure)


def folder(out, width):
    """Where `images` has the table of one width."""
    return pathlib.Path(out) / f"bits-{width}"


def _rows(loaded):
    return [row for row in loaded["rows"] if row["rule"] == loaded["rows"][0]["rule"]]


def _values(loaded):
    """{method: metrics a seed} of a document that `report.load` has read."""
    pairs = list(zip(loaded["retrain"], loaded["original"]))
    originals = [report.values(original, retrain, original) for retrain, original in pairs]
    return {
        "original": originals,
        "retrain": [{**cell["metrics"], "time": 1.0} for cell in loaded["retrain"]],
        **{row["method"]: row["values"] for row in _rows(loaded)},
    }


def title(width):
    """What to call a width: "binary", "1 bit", "4 bits", "not quantized"."""
    named = {"1": "1 bit", "32": "not quantized"}
    return named.get(str(width), f"{width} bits" if str(width).isdigit() else str(width))


def markdown(data):
    """AG of each method against width, then everything, then the caption: from a document alone."""
    summary = summarized(data["values"])
    labels = {(w, name): f"{title(w)}: {label}" for w in data["values"] for name, label in data["labels"].items()}
    columns = [*COLUMNS, *(column for column in FURTHER if any(column in found for found in summary.values()))]
    parts = ["AG:", _gaps(data, data["values"])]
    if "held" in data:
        parts += ["AG, the step of the input quantizer held where the original has it:", _gaps(data, data["held"])]
    parts += ["All measurements:", results.table(summary, labels, columns)]
    remarks = _remarks(data["values"], labels)
    remarks += [f"With that step held: {line}" for line in _remarks(data.get("held", {}), labels)]
    return "\n\n".join([*parts, "\n".join([data["caption"], *remarks])])


def _gaps(data, values):
    """Markdown table: a method in each row, AG at a width in each column."""
    names = [name for name in data["labels"] if name not in ("original", "retrain")]
    summary = summarized(values)
    gaps = {name: {title(w): summary[w, name]["AG"] for w in values if summary[w, name]} for name in names}
    return results.table(gaps, {name: data["labels"][name] for name in names}, list(map(title, values)))


def _remarks(runs, labels):
    """Which runs diverged or collapsed, and what the median is where a mean hides it."""
    lines = []
    for w, found in runs.items():
        for name, values in found.items():
            finite = [value for value in values if value is not None]
            if len(finite) < len(values):
                lost = f"{len(values) - len(finite)} of {len(values)} seeds"
                lines.append(f"{labels[w, name]} diverged on {lost} and is averaged over the others.")
            collapsed = [value for value in finite if value["RA"] < COLLAPSED]
            if collapsed and name not in ("original", "retrain"):
                lines.append(
                    f"{labels[w, name]} collapsed (RA below {COLLAPSED:.0f}) on {len(collapsed)} of {len(values)} "
                    f"seeds; its median AG is {np.median([value['AG'] for value in finite]):.1f}."
                )
    return lines


def summarized(values):
    """{(width as str, method): `study.averaged`} of a document's values."""
    return {(width, name): averaged(runs) for width, found in values.items() for name, runs in found.items()}


def figure(data):
    """AG, FA, RA and TA against width: a dot for each seed, a line through the medians, Retrain in dark grey.

    data: a document.  Medians, since one run that collapses would move a mean away from all dots; runs that collapsed
    are crosses at the edge.  Returns a Matplotlib `Figure`, 1500 pixels wide.
    """
    picture = figures.new_figure(10, 6.6)
    widths = list(data["values"])
    names = [name for name in data["labels"] if name != "original"]
    for ax, (metric, label) in zip(picture.subplots(2, 2).flat, PANELS.items()):
        low, high = _limits(data, metric)
        ax.set_ylim(low, high)
        for i, name in enumerate(names):
            runs = [[run for run in data["values"][w][name] if run and metric in run] for w in widths]
            # side by side, so that dots of different methods do not hide each other
            at = np.arange(len(widths)) + 0.02 * len(widths) * (i - (len(names) - 1) / 2)
            style = _line(name)
            for x, found in zip(at, runs):
                dots = [run[metric] for run in found if run["RA"] >= COLLAPSED]
                ax.scatter([x] * len(dots), dots, s=9, color=style["color"], alpha=0.45, linewidth=0)
                lost = len(found) - len(dots)
                edge = high if metric == "AG" else low
                ax.scatter([x] * lost, [edge] * lost, s=26, marker="x", color=style["color"], clip_on=False, zorder=5)
            middle = [np.median([run[metric] for run in found]) if found else np.nan for found in runs]
            ax.plot(at, middle, label=data["labels"][name], **style)
        ax.set_xlim(-0.5, len(widths) - 0.5)
        ax.set_xticks(range(len(widths)), [title(w).replace("not quantized", "not\nquantized") for w in widths])
        figures.clean(ax, label, grid="y")
    # Retrain, which has no AG, is a line of the other panels
    handles, labels = picture.axes[1].get_legend_handles_labels()
    picture.legend(
        handles,
        labels,
        title="lines: medians; dots: seeds; crosses at the edge: runs that collapsed",
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        title_fontsize=8.5,
    )
    return picture


def _limits(data, metric):
    """Ends of an axis that shows all runs but those that collapsed."""
    runs = [run for found in data["values"].values() for name in found if name != "original" for run in found[name]]
    shown = [run[metric] for run in runs if run and metric in run and run["RA"] >= COLLAPSED] or [0.0, 100.0]
    margin = 0.06 * (max(shown) - min(shown)) + 0.5
    return 0 if metric == "AG" else min(shown) - margin, max(shown) + margin


def _line(name):
    if name == "retrain":
        style = {key: figures.STYLES["retrain"][key] for key in ("color", "linestyle")}
        return {**style, "marker": "s", "markersize": 4.5, "linewidth": 2.2}
    return {**LINES[name], "markersize": 5, "linewidth": 1.5}


def _caption(config, seeds, searched):
    spread = results.over(seeds)
    points = math.prod(len(axis) for axis in searched["grid"].values())
    shape = " - ".join(map(str, (64, *config.hidden, 10)))
    ends = [f"{title(w)} {LABELS[m]}" for w, f in searched["widths"].items() for m in f if f[m]["best_at_end_of"]]
    return (
        f"Digits, perceptron {shape}: weights and activations of the inner layers at the width named, first and last "
        f"layer 8 bits; binary {{-1, 1}}, 1 bit {{-1, 0}}, ternary {{-1, 0, 1}}, activations after a ReLU from 0 up; "
        f"{config.label_noise:.0%} label noise, {config.forget_share:.0%} of the training samples to forget; {spread}."
        "\n"
        "FA, RA, TA: accuracy on forget, retain, test set; AG: mean gap to the Retrain of the same width and seed over "
        "these and MIA (lower is better); forget-vs-test AUC: 50 where entropy cannot tell forgotten from unseen "
        "samples; codes changed: share of the inner layers' weight codes that unlearning changed. All in percent.\n"
        f"Settings: each method's best at each width by AG among the same {points} points (learning rate, weight, at "
        f"most {max(searched['grid']['steps'])} steps), on seeds {', '.join(map(str, searched['seeds']))}"
        + (f"; at an end of the grid: {', '.join(ends)}." if ends else ".")
    )


def _images_caption(loaded):
    """What was measured, from the documents of all widths; where settings are from, by one that they were meant for."""
    moved = [title(w) for w, one in loaded.items() if one["settings"]["transferred"]]
    first = next((one for one in loaded.values() if not one["settings"]["transferred"]), next(iter(loaded.values())))
    experiment = {**first["experiment"], "weight_bits": "w", "activation_bits": "w"}
    text = report.about({**first, "experiment": experiment, "name": ""}).replace("  \n", "\n")
    text += f"\nw: the width named, of all layers but first and last, which have {experiment['first_last_bits']} bits."
    if 0 < len(moved) < len(loaded):
        text += f" At {', '.join(moved)} the same settings are used, not searched anew."
    return text


def _at(config, width):
    return dataclasses.replace(config, bits=width)
