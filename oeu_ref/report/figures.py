"""Pictures, drawn from results files alone. Matplotlib is imported when the first picture is drawn."""

import contextlib
import io
import os
import pathlib
import sys
import tempfile
import warnings
from unittest import mock

import numpy as np

from .. import files

# Okabe and Ito's colours, readable for the colour-blind; the same thing has the same colour in every picture, and a
# line style and a hatch of its own, so that it can be told apart in grey.
STYLES = {
    "forget": {"color": "#D55E00", "linestyle": "-", "hatch": "////"},
    "retain": {"color": "#0072B2", "linestyle": "--", "hatch": "...."},
    "test": {"color": "#009E73", "linestyle": "-.", "hatch": "\\\\\\\\"},
    "retrain": {"color": "#444444", "linestyle": ":", "hatch": "xxxx"},
    "oeu": {"color": "#CC79A7", "linestyle": "-", "hatch": "////"},
}
TEXT, FAINT, BAR, SIDE = "#222222", "#BBBBBB", "#D3D6DA", "#8C8C8C"
# from the first layer to the last: darker is deeper
DEPTHS = ("#E3B4CF", "#C0659A", "#6B2C52")
DPI = 150


def new_figure(width, height):
    """An empty figure of its own, without any global state.  width, height: inches.  Returns a Matplotlib `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def picture(path, make, *arguments):
    """Draw a figure with Matplotlib's own defaults, whatever the user's say, and write it as PNG, whole or not at all.

    make(*arguments) returns a Matplotlib `Figure`, or None where there is nothing to show.  Returns the path, or None
    where nothing was drawn.  A picture that cannot be drawn is a warning: the tables beside it are worth more.
    Raises OSError where the file cannot be written.
    """
    try:
        with _defaults():
            figure, buffer = make(*arguments), io.BytesIO()
            if figure is None:
                return None
            # no version or date in the file: the same figure gives the same bytes
            figure.savefig(buffer, format="png", metadata={"Software": None})
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        warnings.warn(f"{path} was not drawn anew, all else is written ({reason})", stacklevel=2)
        return None
    return files.write_bytes(path, buffer.getvalue())


def written(folder, name, data, text, make=None):
    """Write NAME.json, NAME.md and, where make(data) draws one, NAME.png into a directory that exists.

    Returns {"table": text, "json": Path, "markdown": Path, "picture": Path, or None}.
    """
    return {
        "table": text,
        "json": files.write_json(folder / f"{name}.json", data),
        "markdown": files.write_text(folder / f"{name}.md", text + "\n"),
        "picture": None if make is None else picture(folder / f"{name}.png", make, data),
    }


@contextlib.contextmanager
def _defaults():
    """Matplotlib as it comes, for as long as the context lasts."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _matplotlib():
    """The package; where the user's settings keep it from being imported, without them."""
    with contextlib.suppress(Exception):  # a backend that there is none of, a matplotlibrc that is no UTF-8, ...
        import matplotlib

        return matplotlib
    for half in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[half]  # of the first try
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"MPLBACKEND": "agg"}):
        (pathlib.Path(folder) / "matplotlibrc").touch()
        os.chdir(folder)  # the first place where Matplotlib looks for its settings
        try:
            import matplotlib
        finally:
            os.chdir(before)
        return matplotlib


def demo_figure(data):
    """The demo in three panels: entropies before and after, AG of every method, angles between the two gradients.

    data: contents of demo.json.  Returns a Matplotlib `Figure` of 1500 x 900 pixels.
    """
    figure = new_figure(10, 6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.18), hspace=0.04)
    draw_entropies(top, data)
    left, right = bottom.subplots(1, 2, width_ratios=(1.25, 1))
    draw_gaps(left, data)
    draw_cosines(right, data)
    return figure


def draw_entropies(figure, data):
    """How sure the model is of forget, retain and test samples: originally, after OEU, and under Retrain.

    figure: a (sub)figure, which gets three axes; data: contents of demo.json.
    """
    shown = {"original": "Before: the original model", "oeu": "After OEU", "retrain": "The aim: Retrain"}
    edges = np.array(data["entropy_bins"])
    axes = figure.subplots(1, len(shown), sharex=True, sharey=True)
    for ax, (method, title) in zip(axes, shown.items()):
        clean(ax, title, STYLES["retrain"]["color"] if method == "retrain" else TEXT, grid="y")
        having = [run["entropy_histograms"] for run in data["runs"]]
        # the method may have diverged
        draw_histograms(ax, [found[method] for found in having if method in found], edges)
        ax.set_xlabel("entropy of a prediction (nats)")
        ax.set_xlim(0, edges[-1])
        ax.set_xticks([0, 0.5, 1, 1.5, edges[-1]], ["0", "0.5", "1", "1.5", "log 10"])
        ax.set_yticks([], minor=True)
    axes[0].set_ylabel("share of samples (%)")
    handles, names = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[::-1], names[::-1], frameon=False, fontsize=9, handlelength=2.6, loc="upper right")


def draw_histograms(ax, found, edges):
    """Entropies of forget, retain and test samples, shares in percent.

    found: a dict part -> counts for each run, all of which are shown together; edges: of the bins.
    """
    for part in ("retain", "test", "forget") if found else ():
        counts = np.sum([one[part] for one in found], axis=0)
        share, color = 100 * counts / counts.sum(), STYLES[part]["color"]
        if part == "forget":
            ax.stairs(share, edges, fill=True, color=color, alpha=0.14)
        ax.stairs(share, edges, color=color, linestyle=STYLES[part]["linestyle"], linewidth=1.7, label=part)
    # nearly all retain samples share the first bin: on a linear axis nothing else would be seen
    ax.set_yscale("log")
    ax.set_ylim(0.2, 130)
    ax.set_yticks([1, 10, 100], ["1", "10", "100"])


def draw_gaps(ax, data):
    """AG of every method: a bar for the mean, a whisker for the spread, a dot for each seed.  data: as above."""
    methods = [name for name in data["labels"] if "AG" in data["summary"].get(name, {})]
    methods.sort(key=lambda name: data["summary"][name]["AG"]["mean"])
    for row, name in enumerate(methods):
        mean, spread = (data["summary"][name]["AG"][key] for key in ("mean", "spread"))
        ax.barh(row, mean, height=0.64, color=STYLES["oeu"]["color"] if name.startswith("oeu") else BAR)
        if spread is not None:
            # a gap is never negative, and so the whisker ends at 0
            whisker = [[min(spread, mean)], [spread]]
            ax.errorbar(mean, row, xerr=whisker, color=TEXT, linewidth=0.9, capsize=3, zorder=3)
        seeds = [run["metrics"][name]["AG"] for run in data["runs"] if name in run["metrics"]]
        ax.scatter(seeds, [row] * len(seeds), s=15, facecolor="white", edgecolor=TEXT, linewidth=0.8, zorder=4)
    ax.set_yticks(range(len(methods)), [data["labels"][name] for name in methods])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("AG: mean gap to Retrain (percentage points)")
    clean(ax, "Distance from the aim: shorter is better", grid="x")
    ax.tick_params(axis="y", length=0, labelsize=9)


def draw_cosines(ax, data):
    """Cosine between forget and retain gradient of each layer along OEU's steps, mean over seeds.  data: as above."""
    from matplotlib.ticker import MaxNLocator

    runs = [run for run in data["runs"] if run["cosines"]]  # not those on which OEU diverged
    layers = list(runs[0]["cosines"]) if runs else []
    linear, norms = ([name for name in layers if name.startswith(kind)] for kind in ("layers", "norms"))
    lines = {}
    for i, name in enumerate(norms):
        lines[f"norm {i + 1}"] = (name, {"color": SIDE, "linewidth": 1, "linestyle": ("-", ":")[i % 2]})
    for i, name in enumerate(linear):
        depth = DEPTHS[round(i * (len(DEPTHS) - 1) / max(len(linear) - 1, 1))]
        lines[f"linear {i + 1}"] = (name, {"color": depth, "linewidth": 1.7, "linestyle": (":", "--", "-")[i % 3]})
    for label, (name, style) in lines.items():
        values = np.mean([run["cosines"][name] for run in runs], axis=0)
        ax.plot(np.arange(1, len(values) + 1), values, label=label, **style)
    ax.axhline(0, color=TEXT, linewidth=0.7)
    ax.set_xlim(1, max([2, *(len(curve) for run in runs for curve in run["cosines"].values())]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=2))
    ax.set_xlabel("step of OEU")
    ax.set_ylabel("cosine of forget and retain gradient")
    clean(ax, "Conflict, layer by layer (below 0)")
    handles, names = ax.get_legend_handles_labels()
    order = [names.index(f"linear {i + 1}") for i in range(len(linear))] + list(range(len(norms)))
    ax.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        frameon=False,
        fontsize=8,
        ncols=2,
        handlelength=2.4,
        columnspacing=1.2,
        loc="lower right",
    )


def clean(ax, title, color=TEXT, grid=None):
    """The house style of every pair of axes: a bold title at the left, faint spines, small ticks.

    grid: "x", "y" or "both", behind all else; None: without.
    """
    if grid is not None:
        ax.grid(axis=grid, color=FAINT, linewidth=0.4, alpha=0.6)
        ax.set_axisbelow(True)
    ax.set_title(title, fontsize=10.5, loc="left", color=color, fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(labelsize=8.5, color=FAINT, labelcolor=TEXT)
    ax.xaxis.label.set(size=9, color=TEXT)
    ax.yaxis.label.set(size=9, color=TEXT)
