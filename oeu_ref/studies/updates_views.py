"""What the study of updates found, as tables and as a picture, from its document alone."""

import math

import numpy as np

from ..report import figures, results

COLUMNS = {
    "FA": ("FA", 1),
    "RA": ("RA", 1),
    "TA": ("TA", 1),
    "MIA": ("MIA", 1),
    "AG": ("AG", 1),
    "forget_vs_test_auc": ("AUC", 1),
    "cosine": ("cos", 2),
    "climbing": ("climbing (%)", 0),
}
NETWORKS = {"4": "4-bit", "32": "float"}
WHAT = {"first order": "predicted", "change": "change"}


def markdown(data):
    """Both tables and their captions, from the contents of updates.json alone."""
    alone = {name: _alone_cells(of) for name, of in data["alone"].items()}
    runs = {name: _run_cells(name, data) for name in data["runs"]}
    points = math.prod(len(values) for values in data["grid"].values())
    seeds, searched = (", ".join(map(str, data[key])) for key in ("seeds", "search_seeds"))
    rates = "; ".join(f"{name}: {rate:g}" for name, rate in data["forget_rates"].items())
    lines = [
        "**Steps that only forget**",
        "",
        _table(alone),
        "",
        f"Digits, {data['forget_steps']} steps along -g_perp (layer by layer, alpha = 1), learning rates {rates}.",
        "Angles: absolute cosine of a step's whole change of the parameters and that step's retain gradient, on the",
        "4-bit network; mean over layers, steps and seeds, and the largest of all. Retain loss: its change on each",
        "step's own retain batch, summed over the steps, and what the first order predicts, in 0.001 nats.",
        "Entropy: of the forget batch at the last step, in nats: how far the steps forgot.",
        f"Mean ± standard deviation over seeds {seeds}.",
        "",
        "**OEU, each variant at its own best setting**",
        "",
        _table(runs),
        "",
        "Percent and percentage points; AG less that of all: seed by seed, the same optimizer unprotected. cos: of a",
        "layer's update and its retain gradient, mean over layers and steps (negative: the retain loss falls);",
        "climbing: share of layers and steps whose update, as it came out, raises the retain loss to first order.",
        f"{points} settings for each variant (learning rate, weight, steps), the best by AG on seeds {searched}.",
        f"Mean ± standard deviation over seeds {seeds}.",
    ]
    return "\n".join(lines)


def _alone_cells(of):
    mean, most = of["4"]["layers mean"]["mean"], of["4"]["layers max"]["max"]
    cells = {"abs. cos": f"{mean:.3f}, at most {most:.2f}"}
    for bits, values in of.items():
        for key, title in WHAT.items():
            cells[f"{NETWORKS[bits]}: {title}"] = results.format_value(_thousandths(values[key]))
        cells[f"{NETWORKS[bits]}: entropy"] = results.format_value(values["entropy"], 2)
    return cells


def _thousandths(value):
    return {key: None if value[key] is None else 1e3 * value[key] for key in ("mean", "spread")}


def _run_cells(name, data):
    many, best = data["runs"][name], data["best"][name]
    finished, lost = results.finished(many)
    cells = {"rate, weight, steps": f"{best['rate']:g}, {best['weight']:g}, {best['steps']}{lost}"}
    for key, (title, decimals) in COLUMNS.items() if finished else ():
        cells[title] = results.spread([one[key] for one in finished], decimals)
        if key == "AG":
            plain = data["runs"].get(name.split(" | ")[0] + " | all", [])
            gains = [one["AG"] - other["AG"] for one, other in zip(many, plain) if one and other]
            cells["AG less that of all"] = results.spread(gains)
    return cells


def _table(rows):
    """Markdown table of {"optimizer | word": {column: text}}, aligned; a column that a row lacks shows as a dash."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["optimizer", "stays", *columns]]
    lines += [[*name.split(" | "), *(row.get(column, "–") for column in columns)] for name, row in rows.items()]
    return results.aligned(lines, left=2)


def figure(data):
    """Two panels: what the retain loss does where steps only forget, and AG in the end.  data: of updates.json."""
    drawn = figures.new_figure(8, 4.4)
    left, right = drawn.subplots(1, 2)
    _draw_losses(left, data["alone"])
    _draw_gaps(right, data["runs"])
    for ax, names in ((left, data["alone"]), (right, data["runs"])):
        ax.set_yticks(range(len(names)), [name.replace(" | ", ": ") for name in names])
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0, labelsize=8)
    return drawn


def _colour(name):
    return figures.BAR if name.endswith("| all") else figures.STYLES["oeu"]["color"]


def _draw_losses(ax, alone):
    from matplotlib.ticker import NullLocator

    figures.clean(ax, "Forgetting alone: loss", grid="x")
    style = figures.STYLES["retain"]
    for (bits, title), marker, face, shift in zip(NETWORKS.items(), "os", (style["color"], "white"), (-0.17, 0.17)):
        values = [_thousandths(of[bits]["change"]) for of in alone.values()]
        ax.errorbar(
            [value["mean"] for value in values],
            [row + shift for row in range(len(values))],
            xerr=[value["spread"] or 0 for value in values],
            color=style["color"],
            marker=marker,
            markerfacecolor=face,
            markersize=4.5,
            linestyle="none",
            elinewidth=0.9,
            capsize=2,
            label=title,
        )
    ax.axvline(0, color=figures.TEXT, linewidth=0.7)
    ax.set_xscale("symlog", linthresh=10)  # one optimizer does a hundred times as much harm as another
    ax.set_xticks([-100, -10, 0, 10, 100, 1000], ["-100", "-10", "0", "10", "100", "1000"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("rise of the retain loss, each step\non its own batch (0.001 nats)")
    ax.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1.04, 0.8))


def _draw_gaps(ax, runs):
    figures.clean(ax, "OEU in the end", grid="x")
    for row, (name, many) in enumerate(runs.items()):
        gaps = [one["AG"] for one in many if one is not None]
        if gaps:
            ax.barh(row, np.mean(gaps), height=0.64, color=_colour(name))
            ax.scatter(
                gaps, [row] * len(gaps), s=12, facecolor="white", edgecolor=figures.TEXT, linewidth=0.7, zorder=4
            )
    ax.set_xlim(left=0)
    ax.set_xlabel("AG (points), a dot a seed;\ngrey: the optimizer's own update")
