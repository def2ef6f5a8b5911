"""What a device runs: which integer codes did unlearning change, and does the integer network forget?

Original, Retrain and what the methods made of the original become integer networks, which are measured as the field
measures. Hybrids of each method then say where its forgetting lies: the unlearned weight codes under the original's
steps, BatchNorm and biases; the same with the weights' own steps, since a code means nothing without its step; and the
original's codes under all else that was unlearned. FT, which never sees a forget sample, says what changes anyway.
"""

import numpy as np
import torch

from ..core.unlearner import NonFiniteError
from ..integer import network as integer
from ..integer.agreement import changed_codes, compare, with_codes
from ..integer.export import export, to_bytes
from ..lab import engine, measures
from ..lab.export import float_bytes
from ..lab.search import load_settings
from ..lab.study import COLUMNS
from ..reference import metrics
from ..reference.entropy import softmax
from ..report import figures, results

QUESTION = "of the codes that a device stores, which did unlearning change, and does the integer network forget?"
REPORTED_SEEDS = (1, 2, 3, 4, 5)
METHODS = ("oeu", "qmul", "rl", "ft")
QUICK_METHODS = ("oeu", "ft")
SHORT = {"original": "original", "retrain": "Retrain", "oeu": "OEU", "qmul": "Q-MUL", "rl": "RL", "ft": "FT"}
HYBRIDS = {
    "codes": "{} codes, all else original",
    "weights": "{} codes and weight steps, all else original",
    "rest": "original codes, all else {}",
}
CHANGES = {
    "latent": "latent weight changed",
    "codes": "code changed",
    "crossed": "crossed, step held",
    "step": "moved by the step",
}
LEVELS = 16  # scikit-learn's pixels are whole numbers from 0 to 16


def collect(seeds, config, quick, bar):
    """(config, found) for the document: the integer networks of every seed."""
    chosen = load_settings(config.max_steps)
    chosen = {name: chosen[name] for name in (QUICK_METHODS if quick else METHODS)}
    bar.reset(len(seeds) * (len(chosen) + 1))
    runs = [_run_seed(seed, config, chosen, bar) for seed in seeds]
    settings = {name: {"settings": vars(found), "steps": steps} for name, (found, steps) in chosen.items()}
    return {"quick": quick, "methods": settings}, {"runs": runs}


def integers(inputs):
    """The whole numbers 0 to 16 behind the digits' float inputs, uint8.  Raises ValueError for inputs between them."""
    levels = (inputs * LEVELS).round()
    if not torch.equal(levels / LEVELS, inputs):
        raise ValueError(f"inputs must be whole multiples of 1 / {LEVELS}")
    return levels.to(torch.uint8).numpy()


def integer_network(model, value_bits=64):
    """The integer network of a digits model."""
    return export(model, (model.layers[0].in_features,), (0, LEVELS), 1 / LEVELS, value_bits=value_bits)


def measure(case, network):
    """Metrics of an integer network in percent, as `Case.metrics` has them for PyTorch's."""
    outputs = {}
    for part in ("retain", "test", "forget"):
        samples = getattr(case.splits, part)
        logits = integer.real_logits(network, integers(samples.inputs), len(samples))
        outputs[part] = softmax(logits), samples.labels.numpy()
    return measures.measure(outputs, case.seed)["metrics"]


def _run_seed(seed, config, chosen, bar):
    """One seed: metrics of every integer network and of PyTorch's, changed codes, agreement, sizes."""
    bar.set_description(f"seed {seed}")
    case = engine.prepare(seed, config)
    bar.update()
    models = {"original": case.original, "retrain": case.retrain}
    diverged = []
    for name, (settings, steps) in chosen.items():
        try:
            models[name] = engine.forget(case, name, settings, steps)[0]
        except NonFiniteError:
            diverged.append(name)
        bar.update()
    pytorch = {name: case.metrics(model) for name, model in models.items()}
    unlearned = {name: model for name, model in models.items() if name in chosen}
    for name, model in unlearned.items():
        models[f"{name} codes"] = with_codes(case.original, model)
        models[f"{name} weights"] = with_codes(case.original, model, steps="donor")
        models[f"{name} rest"] = with_codes(model, case.original)
    measured = {name: measure(case, integer_network(model)) for name, model in models.items()}
    for found in (pytorch, measured):
        for name in found:
            found[name]["AG"] = metrics.average_gap(found[name], found["retrain"])
    return {
        "seed": seed,
        "diverged": diverged,
        "integer": measured,
        "pytorch": pytorch,
        "changed": {name: changed_codes(case.original, model) for name, model in unlearned.items()},
        "agreement": {name: _agreement(case, models[name]) for name in pytorch},
        "bytes": {
            "float32": float_bytes(case.original),
            **{str(bits): len(to_bytes(integer_network(case.original, bits))) for bits in integer.VALUE_TYPES},
        },
    }


def _agreement(case, model):
    """How often input codes differ over all training and test samples, from PyTorch's in two precisions."""
    samples = np.concatenate([integers(getattr(case.splits, part).inputs) for part in ("train", "test")])
    wide, narrow = (integer_network(model, bits) for bits in (64, 32))
    pairs = {
        "64-bit values, float64": (wide, "float64"),
        "32-bit values, float64": (narrow, "float64"),
        "64-bit values, float32": (wide, "float32"),
    }
    found = {}
    for name, (network, precision) in pairs.items():
        agreement = compare(model, network, samples, precision, batch_size=len(samples))
        found[name] = {
            "codes": sum(agreement.codes.values()),
            "differing": sum(agreement.codes_differing.values()),
            "predictions_differing": agreement.predictions_differing,
            "samples": agreement.samples,
            "logit_difference": agreement.logit_difference,
        }
    return found


def markdown(data):
    """The tables, from the contents of integer.json alone."""
    runs = data["runs"]
    summary = results.summarize([run["integer"] for run in runs])
    labels = {name: f"{SHORT[name]}" for name in ("original", "retrain")}
    for name in METHODS:
        rows = {name: SHORT[name], **{f"{name} {key}": text.format(SHORT[name]) for key, text in HYBRIDS.items()}}
        labels.update({row: text for row, text in rows.items() if row in summary})
    changed = [["OEU's layer", "weights", *CHANGES.values(), "step, after / before"]]
    for layer, shares in _shares(runs, "oeu").items():
        cells = [results.format_value(shares[key]) for key in CHANGES]
        changed.append([layer, f"{shares['weights']:,}", *cells, results.format_value(shares["growth"], 2)])
    agree = [
        ["compared with PyTorch", "input codes", "differ", "predictions", "differ", "largest logit difference (nats)"]
    ]
    for pair, total in _agreements(runs).items():
        counts = [f"{total[key]:,}" for key in ("codes", "differing", "samples", "predictions_differing")]
        agree.append([pair, *counts, f"{total['logit_difference']:.1e}"])
    tables = [results.table(summary, labels, COLUMNS), results.aligned(changed), results.aligned(agree)]
    seeds = ", ".join(map(str, data["seeds"]))
    sizes = runs[0]["bytes"]
    lost = [f"{SHORT[name]} diverged on seed {run['seed']}." for run in runs for name in run["diverged"]]
    widest = max(
        abs(run["integer"][n][c] - run["pytorch"][n][c]) for run in runs for n in run["pytorch"] for c in COLUMNS
    )
    return "\n".join(
        [
            "\n\n".join(tables),
            "",
            f"Integer networks on the digits, percent: mean ± standard deviation over seeds {seeds}; the demo's",
            f"settings for each method. No metric differs from PyTorch's own by more than {widest:.2g} points. Changes",
            "in percent of a layer's weights. Crossed, step held: another code than before under the original's step.",
            "Moved by the step: another code under its own step than under the original's. The original's file has",
            f"{sizes['64']:,} bytes with 64-bit values and {sizes['32']:,} with 32-bit values; float32 takes",
            f"{sizes['float32']:,}.",
            *lost,
        ]
    )


def figure(data):
    """Two panels: the share of codes that each method changed, by layer; FA, RA and AG of OEU and its hybrids."""
    drawn = figures.new_figure(10, 4.8)
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_changes(left, data["runs"])
    _draw_hybrids(right, data["runs"])
    return drawn


def _draw_changes(ax, runs):
    """Bars: codes changed by OEU, of those that crossed a boundary, and of those that the step moved."""
    shares = _shares(runs, "oeu")
    bars = {
        "codes": {"label": "code changed", "color": figures.STYLES["oeu"]["color"]},
        "crossed": {"label": "crossed a boundary, step held", "color": figures.BAR, "hatch": "////"},
        "step": {"label": "moved by the step alone", "color": figures.BAR, "hatch": "...."},
    }
    for i, (key, style) in enumerate(bars.items()):
        means = [shares[layer][key]["mean"] for layer in shares]
        spreads = [shares[layer][key]["spread"] or 0 for layer in shares]
        at = np.arange(len(shares)) + 0.27 * (i - 1)
        whiskers = {"ecolor": figures.TEXT, "elinewidth": 0.9, "capsize": 2.5}
        ends = [np.minimum(spreads, means), spreads]
        ax.bar(at, means, 0.25, yerr=ends, edgecolor=figures.TEXT, linewidth=0.5, error_kw=whiskers, **style)
    ax.set_xticks(range(len(shares)), [f"{layer}\n{shares[layer]['bits']}-bit codes" for layer in shares])
    ax.set_ylabel("share of the layer's weights (%)")
    ax.set_ylim(0, 125)
    ax.set_yticks([0, 25, 50, 75, 100])
    figures.clean(ax, "Which weight codes did OEU change?", grid="y")
    ax.tick_params(axis="x", length=0)
    ax.legend(frameon=False, fontsize=8.5, loc="upper right")


def _draw_hybrids(ax, runs):
    """FA, RA and AG of the integer networks between original and Retrain: the mean, and a ring for each seed."""
    rows = {
        "original": "original",
        "oeu rest": "original codes,\nall else OEU",
        "oeu codes": "OEU codes,\nall else original",
        "oeu weights": "OEU codes and weight\nsteps, all else original",
        "oeu": "OEU",
        "retrain": "Retrain",
    }
    markers = {
        "FA": ("o", figures.STYLES["forget"]["color"], "FA: accuracy on forget samples"),
        "RA": ("s", figures.STYLES["retain"]["color"], "RA: accuracy on retain samples"),
        "AG": ("D", figures.TEXT, "AG: mean gap to Retrain"),
    }
    for i, (metric, (marker, color, label)) in enumerate(markers.items()):
        for row, name in enumerate(rows):
            values = [run["integer"][name][metric] for run in runs if name in run["integer"]]
            height = row + 0.2 * (i - 1)
            ax.scatter(values, [height] * len(values), s=14, facecolor="none", edgecolor=color, linewidth=0.8)
            if values:
                mean = np.mean(values)
                shown = label if row == 0 else None
                ax.plot(mean, height, marker, color=color, markersize=7, linestyle="none", label=shown)
    ax.set_yticks(range(len(rows)), list(rows.values()))
    ax.set_ylim(len(rows) - 0.5, -1.35)
    ax.set_xlim(-2, 105)
    ax.set_xlabel("percent, or percentage points for AG")
    figures.clean(ax, "Which part forgets: the codes, or all else?")
    ax.tick_params(axis="y", length=0, labelsize=9)
    for row in range(1, len(rows)):
        ax.axhline(row - 0.5, color=figures.FAINT, linewidth=0.5)
    ax.legend(frameon=False, fontsize=8.5, loc="upper left", ncols=2, columnspacing=1.2, handlelength=1.5)


def _shares(runs, method):
    """layer -> {"weights", "bits", "growth" of the step, each of CHANGES in percent}, over runs with the method."""
    having = [run["changed"][method] for run in runs if method in run["changed"]]
    shares = {}
    for layer, first in having[0].items() if having else ():
        shares[layer] = {"weights": first["weights"], "bits": first["bits"]}
        for key in CHANGES:
            values = [100 * found[layer][key] / found[layer]["weights"] for found in having]
            shares[layer][key] = results.mean_and_spread(values)
        growth = [found[layer]["steps"][1] / found[layer]["steps"][0] for found in having]
        shares[layer]["growth"] = results.mean_and_spread(growth)
    return shares


def _agreements(runs):
    """kind of comparison -> totals over all models and seeds; of logit differences the largest."""
    totals = {}
    for found in (found for run in runs for found in run["agreement"].values()):
        for pair, counts in found.items():
            total = totals.setdefault(pair, dict.fromkeys(counts, 0))
            for key, count in counts.items():
                total[key] = max(total[key], count) if key == "logit_difference" else total[key] + count
    return totals
