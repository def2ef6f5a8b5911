"""The report's pictures, drawn from a document and its cells alone."""

import math

import numpy as np

from ..methods.names import METHODS
from .figures import BAR, FAINT, SIDE, STYLES, TEXT, clean, draw_histograms, new_figure, picture

# a line style and a marker of its own for each method, so that they can be told apart in grey
COLOURS = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#8C8C8C", "#6B2C52", "#444444", "#0072B2", "#E69F00"
COLOURS = STYLES["oeu"]["color"], *COLOURS
MARKERS = "os^DvPX*<>h"
# the twelfth method has the first one's colour and marker, but another line
LINES = {
    name: {"linestyle": ("-", "--", "-.", ":")[i % 4], "marker": MARKERS[i % 11], "color": COLOURS[i % 11]}
    for i, name in enumerate(METHODS)
}


def draw(document, out):
    """Draw every picture that the document has data for; returns the paths of the PNG files in `out`."""
    kind = document["kind"]
    if kind == "replicate":
        pictures = {"scale": scale_figure, "search": search_figure, "attacks": attacks_figure}
    else:
        pictures = {
            "methods": methods_figure,
            "tradeoff": tradeoff_figure,
            "entropies": entropies_figure,
            "cosines": cosines_figure,
            "alpha": sweep_figure,
        }
    drawn = [picture(out / f"{kind}_{name}.png", make, document) for name, make in pictures.items()]
    return [path for path in drawn if path is not None]


def rows_of(document):
    """The rows that pictures show: those of the first rule that there is, without methods that always diverged."""
    rule = document["rows"][0]["rule"]
    return [row for row in document["rows"] if row["rule"] == rule and any(row["values"])]


def methods_figure(document):
    """Methods against metrics: a dot for each seed, a bar for the mean, Retrain as the line to reach."""
    rows = rows_of(document)
    shown = (("FA", "FA (%)"), ("RA", "RA (%)"), ("TA", "TA (%)"), ("MIA", "MIA (%)"), ("AG", "AG (points)"))
    figure = new_figure(10.5, 1.2 + 0.34 * len(rows))
    axes = figure.subplots(1, len(shown), sharey=True)
    retrain = STYLES["retrain"]
    for ax, (metric, title) in zip(axes, shown):
        for y, row in enumerate(rows):
            found = [value[metric] for value in row["values"] if value is not None]
            color = LINES[row["method"]]["color"] if row["method"].startswith("oeu") else SIDE
            if metric == "AG":
                ax.barh(y, np.mean(found), height=0.6, color=color if row["method"].startswith("oeu") else BAR)
            else:
                ax.plot([np.mean(found)] * 2, [y - 0.3, y + 0.3], color=color, linewidth=2.4)
            ax.scatter(found, [y] * len(found), s=13, facecolor="white", edgecolor=TEXT, linewidth=0.7, zorder=4)
        if metric != "AG":
            goal = np.mean([cell["metrics"][metric] for cell in document["retrain"]])
            ax.axvline(goal, color=retrain["color"], linestyle=retrain["linestyle"], linewidth=1.5)
            ax.annotate("Retrain", (goal, -0.75), ha="center", fontsize=7.5, color=retrain["color"])
        else:
            ax.set_xlim(left=0)
        clean(ax, "", grid="x")
        ax.set_xlabel(title)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -1.0)
    return figure


def tradeoff_figure(document):
    """Forgetting against retaining along each run: FA to the left, RA up; from the original towards Retrain."""
    rows = rows_of(document)
    figure = new_figure(7, 5)
    ax = figure.subplots()
    start = [np.mean([cell["metrics"][metric] for cell in document["original"]]) for metric in ("FA", "RA")]
    goal = [np.mean([cell["metrics"][metric] for cell in document["retrain"]]) for metric in ("FA", "RA")]
    for row in rows:
        cells = [cell for cell in row["cells"] if not cell["diverged"]]
        path = [start] + [[point["FA"], point["RA"]] for point in mean_curve(cells)]
        style = LINES[row["method"]]
        ax.plot(*zip(*path), linewidth=1.4, markersize=4.5, label=row["label"], **style)
    ax.scatter(*start, s=70, marker="s", facecolor="white", edgecolor=TEXT, zorder=5, label="original")
    ax.scatter(*goal, s=150, marker="*", color=STYLES["retrain"]["color"], zorder=6, label="Retrain: the aim")
    ax.set_xlabel("FA: accuracy on forget images (%)")
    ax.set_ylabel("RA: accuracy on retain images (%)")
    clean(ax, "What forgetting costs, along the runs", grid="both")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def mean_curve(cells):
    """Means over the seeds, point by point: list of {"steps", "FA", "RA", "TA", "retain_loss"}, the last in eval mode.

    A run that ended early stays there; results of before it was measured have no loss.
    """
    points = []
    for i in range(max(len(cell["curve"]) for cell in cells)):
        at = [cell["curve"][min(i, len(cell["curve"]) - 1)] for cell in cells]
        means = {metric: float(np.mean([point["metrics"][metric] for point in at])) for metric in ("FA", "RA", "TA")}
        if all("retain_loss" in point for point in at):
            means["retain_loss"] = float(np.mean([point["retain_loss"] for point in at]))
        points.append({"steps": float(np.mean([point["steps"] for point in at])), **means})
    return points


def mean_cosine(cosines, layer):
    """Mean over the seeds of a layer's cosine at each step, as far as all runs went.

    cosines: dict layer -> values, a seed each.  Returns (steps,).
    """
    steps = min(len(one[layer]) for one in cosines)
    return np.mean([one[layer][:steps] for one in cosines], axis=0)


def entropies_figure(document):
    """Entropy of forget, retain and test images under the original, Retrain, and each method, all seeds together."""
    rows = rows_of(document)
    panels = [("original", document["original"]), ("Retrain: the aim", document["retrain"])]
    panels += [(row["label"], [cell for cell in row["cells"] if not cell["diverged"]]) for row in rows]
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(10, 0.5 + 1.9 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    bins = len(panels[0][1][0]["entropy_histograms"]["forget"])
    for ax in grid.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (title, cells) in zip(grid.flat, panels):
        draw_histograms(ax, [cell["entropy_histograms"] for cell in cells], np.linspace(0, 1, bins + 1))
        ax.set_xlim(0, 1)
        clean(ax, title)
    for ax in grid[:, 0]:
        ax.set_ylabel("share of images (%)")
    for i in range(columns):
        last = [ax for ax in grid[:, i] if ax.get_visible()][-1]
        last.set_xlabel("entropy of a prediction / log K")
        last.tick_params(labelbottom=True)
    grid[0, 0].legend(frameon=False, fontsize=8, handlelength=2.6, loc="upper right")
    return figure


def cosines_figure(document):
    """Where forget and retain gradient of OEU are in conflict: cosine of each layer over the steps, and its range."""
    oeu = [row for row in rows_of(document) if row["method"] == "oeu"]
    cells = [cell for cell in (oeu[0]["cells"] if oeu else ()) if not cell["diverged"]]
    if not cells:
        return None
    layers = list(cells[0]["cosines"])
    values = np.array([mean_cosine([cell["cosines"] for cell in cells], layer) for layer in layers])
    steps = values.shape[1]
    figure = new_figure(10.5, 1.4 + 0.14 * len(layers))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    limit = max(0.1, np.abs(values).max())
    picture = left.imshow(values, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    at = range(0, steps, max(1, round(steps / 8)))
    left.set_xticks(at, [str(i + 1) for i in at])
    left.set_yticks(range(len(layers)), [name.removeprefix("network.") for name in layers])
    left.set_xlabel("step of OEU")
    clean(left, "Cosine of forget and retain gradient, mean over seeds")
    left.tick_params(axis="y", labelsize=6.5)
    figure.colorbar(picture, ax=left, shrink=0.6, pad=0.01).ax.tick_params(labelsize=8)
    rows = np.arange(len(layers))
    right.hlines(rows, values.min(axis=1), values.max(axis=1), color=FAINT, linewidth=2)
    right.scatter(values.mean(axis=1), rows, s=11, color=STYLES["oeu"]["color"], zorder=3)
    right.axvline(0, color=TEXT, linewidth=0.7)
    right.set_xlabel("cosine: mean (dot) and range")
    clean(right, "Conflict is left of 0")
    right.tick_params(axis="y", length=0)
    return figure


def sweep_figure(document):
    """AG and the four gaps that it is the mean of, against alpha; nothing for a document without a sweep."""
    rows = [row for row in rows_of(document) if "alpha" in row["options"]]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row["options"]["alpha"])
    alphas = [row["options"]["alpha"] for row in rows]
    figure = new_figure(7, 4)
    ax = figure.subplots()
    styles = {"FA": STYLES["forget"], "RA": STYLES["retrain"], "TA": STYLES["test"], "MIA": STYLES["retain"]}
    for marker, (metric, style) in zip("sDv^", styles.items()):
        gaps = [
            np.mean([abs(v[metric] - r["metrics"][metric]) for v, r in zip(row["values"], document["retrain"]) if v])
            for row in rows
        ]
        ax.plot(alphas, gaps, marker=marker, markersize=4, linewidth=1, label=f"gap in {metric}", **_line(style))
    found = [[v["AG"] for v in row["values"] if v] for row in rows]
    spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in found]
    mean = [np.mean(v) for v in found]
    ax.errorbar(alphas, mean, spread, color=STYLES["oeu"]["color"], marker="o", linewidth=2.2, capsize=3, label="AG")
    ax.set_xlabel("alpha: share of the retain direction that is removed")
    ax.set_ylabel("gap to Retrain (points)")
    ax.set_ylim(bottom=0)
    clean(ax, "How much projection?", grid="y")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _line(style):
    return {key: style[key] for key in ("color", "linestyle")}


def scale_figure(data):
    """AG of each row of replicate.json whose settings true AG chose, between the second Retrain and the original."""
    found = {}
    for row in data["rows"]:
        if "true" in row["rules"] and row["values"] is not None:
            found.setdefault(row["label"], []).append(row["values"]["AG"])
    models = [seed for seed in data["trained"].values() if "retrain again" in seed]
    if not found or not models:
        return None
    figure = new_figure(7.5, 1.4 + 0.34 * len(found))
    ax = figure.subplots()
    for y, (label, gaps) in enumerate(found.items()):
        color = STYLES["oeu"]["color"] if label.startswith("OEU") else BAR
        ax.barh(y, np.mean(gaps), height=0.6, color=color)
        ax.scatter(gaps, [y] * len(gaps), s=13, facecolor="white", edgecolor=TEXT, linewidth=0.7, zorder=4)
    for name, said, style in (("retrain again", "second Retrain", "retrain"), ("original", "original", "retain")):
        goal = np.mean([seed[name]["AG"] for seed in models])
        ax.plot([goal, goal], [len(found) - 0.4, -0.55], linewidth=1.5, **_line(STYLES[style]))
        ax.annotate(said, (goal, -0.75), ha="center", fontsize=7.5, color=STYLES[style]["color"])
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.4, -1.0)
    ax.set_xlim(left=0)
    ax.set_xlabel("AG (points)")
    clean(ax, "", grid="x")
    return figure


def search_figure(data):
    """AG of each point that replicate.json's search tried, by true AG and by the proxy, a panel a row of the table."""
    if not data["search"]:
        return None
    columns = min(4, len(data["search"]))
    lines = -(-len(data["search"]) // columns)
    figure = new_figure(2.6 * columns, 2.2 * lines + 0.4)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for ax, (name, found) in zip(axes, data["search"].items()):
        points = range(len(found["points"]))
        for rule, marker, style in (("true", "o", "oeu"), ("proxy", "s", "retain")):
            gaps = [np.nan if gap is None else gap for gap in found["AG"][rule]]
            ax.scatter(points, gaps, marker=marker, s=16, label=rule, color=STYLES[style]["color"])
        names = [f"{rate:g}" if weight == 1 else f"{rate:g}\n{weight:g}" for rate, weight in found["points"]]
        ax.set_xticks(points, names, fontsize=7)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2346" else "")
        clean(ax, name.replace("_", " "), grid="y")
    for ax in list(figure.axes)[len(data["search"]) :]:
        ax.set_visible(False)
    figure.axes[0].set_ylabel("AG on the search seed")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=7.5, ncols=2, loc="lower right")
    figure.supxlabel("learning rate (below it the weight, where that is not 1)", fontsize=8)
    return figure


def attacks_figure(data):
    """What each of five attacks calls unseen of the forget set, of every network trained for replicate.json's table."""
    if not data["trained"]:
        return None
    styles = {"original": "retain", "retrain": "retrain", "retrain again": "oeu"}
    names = list(next(iter(data["trained"].values()))["retrain"]["features"])
    figure = new_figure(7, 2.6)
    ax = figure.subplots()
    for marker, (name, style) in zip("osD", styles.items()):
        for i, models in enumerate(seed for seed in data["trained"].values() if name in seed):
            shares = [models[name]["features"][feature] for feature in names]
            said = {"retrain": "Retrain", "retrain again": "second Retrain"}.get(name, name)
            color = STYLES[style]["color"]
            ax.scatter(range(len(names)), shares, marker=marker, color=color, label=said if i == 0 else None, zorder=3)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("called unseen (%)")
    clean(ax, "", grid="y")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
