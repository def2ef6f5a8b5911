"""The picture of one monitored run, from its records alone."""

import numpy as np

from ..report import figures

LETTERS = "ABCDEFGHIJ"


def monitor_figure(records, title="A monitored run"):
    """Six panels that show a run: `monitor_figure(unlearner.monitor.records)`.

    records: those of a `oeu_ref.beyond.monitor.Monitor`, or what a JSON file holds of them, one at least; title: text.
    Returns a Matplotlib `Figure` of 1500 x 870 pixels, for its `savefig`.  Raises ValueError without records.
    """
    figure = figures.new_figure(10, 5.8)
    draw_monitor(figure, records, title)
    return figure


def draw_monitor(figure, records, title):
    """`monitor_figure` inside a (sub)figure that exists."""
    if not records:
        raise ValueError("records must hold at least one record: take a step first")
    steps = _column(records, "step")
    fired = [(record["step"], name) for record in records for name in record["warnings"]]
    axes = figure.subplots(2, 3)
    named = "; ".join(f"{LETTERS[i]} {name} ({step})" for i, (step, name) in enumerate(fired))
    figure.suptitle(f"{title}\nwarnings: {named or 'none'}", x=0.01, ha="left", fontsize=10.5, color=figures.TEXT)
    _draw_entropy(axes[0, 0], steps, records)
    _draw_losses(axes[0, 1], steps, records)
    _draw_prediction(axes[0, 2], records)
    _draw_cosines(axes[1, 0], steps, records)
    _draw_update(axes[1, 1], steps, records)
    _draw_codes(axes[1, 2], steps, records)
    for ax in axes.flat:
        if ax is not axes[0, 2]:
            # letters in one panel, lines in all: legends have the others
            _mark(ax, fired, with_letters=ax is axes[0, 0])
            ax.set_xlabel("step")


def _draw_entropy(ax, steps, records):
    ax.plot(steps, _column(records, "entropy_share"), **_line("forget"))
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of log K")
    figures.clean(ax, "Forget entropy")


def _draw_losses(ax, steps, records):
    # the entropy is the forget loss with its sign turned, and a loss of one's own may mean anything
    for name in ("forget", "retain"):
        ax.plot(steps, _column(records, f"{name}_loss"), label=name, **_line(name))
    ax.axhline(0, color=figures.FAINT, linewidth=0.7)
    ax.set_ylabel("loss (nats)")
    figures.clean(ax, "Both losses")
    _legend(ax)


def _draw_prediction(ax, records):
    values = {
        name: np.array([[r[kind][name] for kind in ("predicted", "actual")] for r in records], dtype=float)
        for name in ("forget", "retain")
    }
    largest = max([1e-12, *(np.nanmax(np.abs(v)) for v in values.values() if np.isfinite(v).any())])
    line = np.array([-largest, largest])
    ax.plot(line, line, color=figures.FAINT, linewidth=0.9, zorder=1)
    for (name, pairs), marker in zip(values.items(), "o^"):
        ax.scatter(*pairs.T, s=14, marker=marker, facecolor="none", edgecolor=figures.STYLES[name]["color"], label=name)
    # changes differ by powers of ten, and have both signs
    for scale in (ax.set_xscale, ax.set_yscale):
        scale("symlog", linthresh=largest / 100, linscale=0.6)
    decade = 10.0 ** np.floor(np.log10(largest))
    ticks = [-decade, -decade / 10, 0, decade / 10, decade]
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("predicted change, first order (nats)")
    ax.set_ylabel("actual change (nats)")
    figures.clean(ax, "Prediction and what happened")
    _legend(ax)


def _draw_cosines(ax, steps, records):
    layers = list(records[0]["layers"])
    for i, layer in enumerate(layers):
        color = figures.DEPTHS[round(i * (len(figures.DEPTHS) - 1) / max(len(layers) - 1, 1))]
        label = f"layers, {len(layers)}: first light, last dark" if i == len(layers) - 1 else None
        ax.plot(steps, _layer_column(records, layer, "cosine"), color=color, linewidth=0.9, label=label)
    worst = np.max(np.abs([_layer_column(records, layer, "residual") for layer in layers]), axis=0)
    style = {"color": figures.TEXT, "linestyle": ":", "linewidth": 1.6}
    ax.plot(steps, worst, label=f"after: {np.nanmax(worst):.0e} at most", **style)
    ax.set_ylim(-1, 1)
    ax.set_ylabel("cosine of both gradients")
    figures.clean(ax, "Before and after projection")
    _legend(ax)


def _draw_update(ax, steps, records):
    ax.plot(steps, _column(records, "update_cosine"), label="cos(update, retain gradient)", **_line("retain"))
    turned = {**_line("oeu"), "linestyle": "-."}
    ax.plot(steps, _column(records, "turned_back"), label="turned by the optimizer", **turned)
    ax.axhline(0, color=figures.TEXT, linewidth=0.7)
    ax.set_ylim(-1, 2)
    ax.set_ylabel("share of the update's length")
    figures.clean(ax, "Above 0 (blue): it climbs")
    _legend(ax)


def _draw_codes(ax, steps, records):
    codes = [None if r["codes"] is None else 100 * r["codes_changed"] / r["codes"] for r in records]
    ax.plot(steps, np.array(codes, dtype=float), color=figures.TEXT, linewidth=1.5)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("share of the codes (%)")
    figures.clean(ax, "Weight codes that changed" if codes[0] is not None else "No weight codes")


def _mark(ax, fired, with_letters):
    """A dotted line where a warning fired; letters on steps, so that those of near-by steps do not overlap."""
    for i, (step, _) in enumerate(fired):
        ax.axvline(step, color=figures.SIDE, linestyle=":", linewidth=0.9, zorder=0)
        if with_letters:
            place = (step, 0.98 - 0.1 * (i % 4))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            ax.annotate(
                LETTERS[i], place, xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8, bbox=box
            )


def _column(records, key):
    return np.array([record[key] for record in records], dtype=float)  # None becomes NaN, a gap in the line


def _layer_column(records, layer, key):
    return np.array([record["layers"].get(layer, {}).get(key) for record in records], dtype=float)


def _line(name):
    style = figures.STYLES[name]
    return {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.6}


def _legend(ax):
    ax.legend(frameon=False, fontsize=8, handlelength=2.4, loc="best")
