"""The tables and the picture of the study `first_order`, from the contents of first-order.json alone."""

import math

import numpy as np

from ..report import figures, results

SHOWN_ETAS = (1e-3, 10**-1.5, 10**-0.5)  # points of the grid
WAYS = ("projected", "raw")
GUARDS = {
    "none": "no bound",
    "direction": "bound on the direction",
    "update": "bound on the update",
}
BIT_COLOURS = ("#440154", "#3B528B", "#21918C", "#5EC962", "#B8A000")
BIT_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def markdown(data):
    """Three tables with a caption.  data: contents of first-order.json."""
    config, net = data["config"], data["config"]["network"]
    parts = [
        "**Below the first step**: quantized networks, both losses along the projected and the raw forget gradient; "
        f"flips and changes (nats) at η = {SHOWN_ETAS[1]:.1g}",
        _staircase_table(data),
        "**Beyond first order**: unquantized networks, change of the retain loss and its prediction -η ⟨g_r, d⟩ + η²/2 "
        "d'Hd",
        _smooth_table(data),
        f"**The step bound**: OEU with the predicted rise of the retain loss held at {config['max_increase']:g} nats",
        _bound_table(data),
    ]
    caption = [
        f"Digits, {net['label_noise']:.0%} label noise, {net['forget_share']:.0%} to forget; seeds "
        f"{', '.join(map(str, data['seeds']))}. Mean ± standard deviation.",
        "First two tables: θ - η d, d the projected (by layer, α = 1) or raw gradient of the forget loss on the whole "
        "forget set; float64, BatchNorm in eval mode. η is the learning rate; the length of the step is η ‖d‖.",
        "First table: the weights that quantization rounds move; 32 bits: not quantized. Changes: means over seeds; "
        "ratios: of the means of absolute changes; first flip: geometric mean; in brackets the lowest and the highest "
        "seed. Slope ⟨g_r, d⟩, curvature d'Hd: means of absolute values. Error: measured minus predicted change.",
        f"Third table: {config['steps']} steps along g_r + {config['weight']:g} g_perp, batches of "
        f"{net['forget_batch']} and {net['retain_batch']}, SGD without weight decay, train mode. Active: steps that "
        "were shortened; exceeded: steps that raised the retain batch's loss by more than the bound. L_r: retain loss "
        "of the whole set, eval mode, nats. FA, RA, TA, AG in percent. The bound was chosen on seeds 101 and 102.",
    ]
    return "\n\n".join([*parts, "\n".join(caption)])


def _staircase_table(data):
    etas = data["config"]["etas"]
    k = _index(etas, SHOWN_ETAS[1])
    header = ["bits", "‖g_perp‖", "first flip at η", "codes flipped", "ΔL_f", "ΔL_r", "ΔL_r, raw"]
    header += [f"projected ÷ raw, η = {eta:.1g}" for eta in SHOWN_ETAS]
    rows = []
    for bits in dict.fromkeys(run["bits"] for run in data["staircase"]):
        runs = _pick(data["staircase"], bits=bits)
        row = [str(bits), f"{_mean(run['length']['projected'] for run in runs):.2f}"]
        if runs[0]["codes"]:
            row.append(_range([run["first_flip"]["projected"] or math.inf for run in runs]))
            flipped = [100 * run["flipped"]["projected"][k] / run["codes"] for run in runs]
            row.append(results.spread(flipped, 2) + " %")
        else:
            row += ["–", "–"]
        for loss, way in (("forget", "projected"), ("retain", "projected"), ("retain", "raw")):
            row.append(f"{_mean(run[loss][way][k] for run in runs):.1e}")
        rows.append([*row, *(_ratio_cell(runs, _index(etas, eta)) for eta in SHOWN_ETAS)])
    return results.aligned([header, *rows])


def _smooth_table(data):
    etas = np.array(data["config"]["smooth_etas"])
    header = ["activation", "slope, projected", "raw", "d'Hd, projected", "raw"]
    header += [f"error ÷ change, projected, η = {eta:.1g}" for eta in (*SHOWN_ETAS[1:], 1.0)]
    rows = []
    for activation in dict.fromkeys(run["activation"] for run in data["smooth"]):
        runs = _pick(data["smooth"], activation=activation)
        row = [activation]
        for what in ("slope", "curvature"):
            row += [f"{_mean(abs(run[what][way]) for run in runs):.1e}" for way in WAYS]
        for eta in (*SHOWN_ETAS[1:], 1.0):
            k = _index(etas, eta)
            errors = [100 * abs(_error(r, "projected")[k] / r["change"]["projected"][k]) for r in runs]
            row.append(results.spread(errors, 0) + " %")
        rows.append(row)
    return results.aligned([header, *rows])


def _bound_table(data):
    header = ["network", "momentum", "learning rate", "", "active", "exceeded", "largest L_r", "last L_r"]
    header += ["FA", "RA", "TA", "AG"]
    rows = []
    keys = ("network", "momentum", "learning_rate", "guard")
    for key in dict.fromkeys(tuple(run[k] for k in keys) for run in data["bound"]):
        runs = _pick(data["bound"], **dict(zip(keys, key)))
        whole = [run for run in runs if not run["diverged"]]
        lost = f" ({len(runs) - len(whole)} diverged)" if len(whole) < len(runs) else ""
        row = [key[0], f"{key[1]:g}", f"{key[2]:g}", GUARDS[key[3]] + lost]
        bound = data["config"]["max_increase"] * (1 + 1e-6)
        columns = [
            ([100 * np.mean(np.array(run["share"]) < 1) for run in whole], 0),
            ([100 * np.mean(np.array(run["increase"]) > bound) for run in whole], 0),
            ([max(run["retain_loss"]) for run in whole], 2),
            ([run["retain_loss"][-1] for run in whole], 2),
            *(([run["metrics"][metric] for run in whole], 1) for metric in ("FA", "RA", "TA", "AG")),
        ]
        cells = [results.spread(values, digits) for values, digits in columns]
        rows.append([*row, *(f"{cell} %" for cell in cells[:2]), *cells[2:]])
    return results.aligned([header, *rows])


def figure(data):
    """Four panels.  data: contents of first-order.json.  Returns a Matplotlib `Figure` of 1500 x 1200 pixels."""
    drawn = figures.new_figure(10, 8)
    axes = drawn.subplots(2, 2)
    _draw_codes(axes[0, 0], data)
    _draw_staircase(axes[0, 1], data)
    _draw_smooth(axes[1, 0], data)
    _draw_bound(axes[1, 1], data)
    for ax in axes.flat:
        ax.legend(frameon=False, fontsize=8, handlelength=2.8)
    return drawn


def _draw_codes(ax, data):
    etas = data["config"]["etas"]
    widths = dict.fromkeys(run["bits"] for run in data["staircase"])
    for bits, color, line in zip([b for b in widths if b != 32], BIT_COLOURS, BIT_LINES):
        runs = _pick(data["staircase"], bits=bits)
        share = np.mean([100 * np.array(run["flipped"]["projected"]) / run["codes"] for run in runs], axis=0)
        share[share == 0] = np.nan  # a logarithmic axis has no zero
        ax.plot(etas, share, color=color, linestyle=line, linewidth=1.6, label=f"{bits} bits")
    _against_eta(ax, etas, "Below the first step no code flips", "weights moved along the projected gradient")
    ax.set_ylabel("weight codes flipped (%)")


def _draw_staircase(ax, data):
    etas = data["config"]["etas"]
    widths = {32: figures.STYLES["retrain"]["color"], 4: figures.STYLES["oeu"]["color"]}
    for bits, color in widths.items():
        runs = _pick(data["staircase"], bits=bits)
        for way, line in (("projected", "-"), ("raw", ":")):
            change = np.mean([np.abs(run["retain"][way]) for run in runs], axis=0)
            label = f"{'not quantized' if bits == 32 else f'{bits} bits'}, {way}"
            ax.plot(etas, np.where(change > 0, change, np.nan), color=color, linestyle=line, linewidth=1.7, label=label)
    _against_eta(ax, etas, "What projection is worth, by step", "weights moved")
    ax.set_ylim(1e-13, 1)


def _draw_smooth(ax, data):
    etas = np.array(data["config"]["smooth_etas"])
    kinds = [run["activation"] for run in data["smooth"]]
    activation = "GELU" if "GELU" in kinds else kinds[-1]
    runs = _pick(data["smooth"], activation=activation)
    blue = figures.STYLES["retain"]["color"]
    mean = {
        "predicted": np.mean([np.abs(run["predicted"]["projected"]) for run in runs], axis=0),
        "measured": np.mean([np.abs(run["change"]["projected"]) for run in runs], axis=0),
        "error": np.mean([np.abs(_error(run, "projected")) for run in runs], axis=0),
        "raw": np.mean([np.abs(run["change"]["raw"]) for run in runs], axis=0),
    }
    ax.plot(etas, mean["raw"], color=figures.STYLES["forget"]["color"], linestyle="-.", label="raw: measured")
    ax.plot(etas, mean["predicted"], color=blue, linestyle="-", label="projected: η²/2 d'Hd")
    ax.plot(etas, mean["measured"], color=blue, linestyle="none", marker="o", markersize=4.5, markerfacecolor="white",
            label="projected: measured")  # fmt: skip
    ax.plot(etas, mean["error"], color=figures.TEXT, linestyle=":", marker=".", label="error of the prediction")
    k = _index(etas, 1e-2)
    guide = mean["error"][k] * (etas / etas[k]) ** 3
    ax.plot(etas, guide, color=figures.SIDE, linewidth=0.8, label="∝ η³")
    _against_eta(ax, etas, f"Beyond first order: {activation}, not quantized", "all parameters moved")


def _draw_bound(ax, data):
    network, momentum, rate = (data["bound"][-1][key] for key in ("network", "momentum", "learning_rate"))
    styles = {
        "none": {"color": figures.STYLES["retrain"]["color"], "linestyle": ":"},
        "direction": {"color": figures.STYLES["forget"]["color"], "linestyle": "-."},
        "update": {"color": figures.STYLES["oeu"]["color"], "linestyle": "-"},
    }
    for guard, style in styles.items():
        runs = _pick(data["bound"], network=network, momentum=momentum, learning_rate=rate, guard=guard)
        ax.plot([], [], linewidth=1.3, label=GUARDS[guard], **style)
        for curve in [run["retain_loss"] for run in runs if not run["diverged"]]:
            ax.plot(range(1, len(curve) + 1), curve, linewidth=1.3, **style)
    ax.set_yscale("log")
    ax.set_xlabel("step of OEU")
    ax.set_ylabel("retain loss, whole set (nats)")
    ax.set_ylim(3e-4, None)  # room for the legend
    ax.xaxis.get_major_locator().set_params(integer=True)
    figures.clean(ax, f"The step bound: {network}, learning rate {rate:g}", grid="both")


def _against_eta(ax, etas, title, moved):
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(etas[0], etas[-1])
    ax.set_xlabel(f"η, {moved}")
    ax.set_ylabel("|change of the retain loss| (nats)")
    figures.clean(ax, title, grid="both")
    # learning rate 0.1 times weight 0.3, and ten times that, to which momentum 0.9 amounts
    ax.axvspan(0.03, 0.3, color=figures.BAR, alpha=0.5, linewidth=0, label="the demo's steps")


def _pick(runs, **wanted):
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def _mean(values):
    return float(np.mean(list(values)))


def _index(etas, eta):
    return int(np.argmin(np.abs(np.log(np.array(etas) / eta))))


def _error(run, way):
    return np.array(run["change"][way]) - np.array(run["predicted"][way])


def _ratios(runs, k):
    """Of each seed, and of the seeds' means; a seed where the raw step moves nothing is left out of the former."""
    projected, raw = ([abs(run["retain"][way][k]) for run in runs] for way in ("projected", "raw"))
    return [p / r for p, r in zip(projected, raw) if r], (sum(projected) / sum(raw) if sum(raw) else None)


def _ratio_cell(runs, k):
    each, overall = _ratios(runs, k)
    if overall is None:
        return "0 ÷ 0" if not any(run["retain"]["projected"][k] for run in runs) else "∞"
    return f"{overall:.2g} ({min(each):.2g} to {max(each):.2g})"


def _range(values):
    return f"{math.exp(np.mean(np.log(values))):.0e} ({min(values):.0e} to {max(values):.0e})"
