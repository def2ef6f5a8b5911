"""The tables and the picture of the study `relearn`, from the contents of relearn.json alone."""

import numpy as np

from ..lab.study import LINES, interval
from ..report import figures, results

PREDICTORS = {
    "FA": "FA before",
    "latent": "distance, latent weights",
    "codes": "distance, codes",
    "retain": "barrier, retain set",
    "forget": "barrier, forget set",
}
BEFORE = {  # of each network before it is trained on: column -> what is read of its row
    "FA": lambda row: row["now"]["FA"],
    "FA wrong": lambda row: row["now"].get("FA wrong"),
    "AUC": lambda row: row["now"]["AUC"],
    "RA": lambda row: row["now"]["RA"],
    "FA at 8 bits": lambda row: row["wide"]["FA"],
    "FA back": lambda row: row["back"]["FA"],
    "latent": lambda row: row["latent"],
    "codes": lambda row: row["codes"],
    "barrier, retain": lambda row: row["barrier"]["retain"],
    "barrier, forget": lambda row: row["barrier"]["forget"],
}
DRAWS = 400  # of seeds, for the interval of a rank correlation
NO_METHOD = ("original", "retrain", "again")


def half_way(looks, values, original):
    """Steps until FA is half-way back from where it began to the original's; None: never within these looks.

    looks: numbers of steps, ascending from 0; values: FA at each, percent; original: the original's.  Returns the first
    look at which it is there, 0 where nothing was forgotten.
    """
    goal = (values[0] + original) / 2
    return next((steps for steps, value in zip(looks, values) if value >= goal), None)


def rank_correlation(first, second):
    """Spearman's rank correlation of two lists, equals share their mean rank; None where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (first, second)]
    return None if min(map(np.ptp, ranks)) == 0 else float(np.corrcoef(*ranks)[0, 1])


def correlations(data, way):
    """{outcome: {predictor: (rank correlation, low, high)}} over methods and seeds, None where it is not defined.

    way: of relearning. Outcomes: "steps", until FA is half-way back, where never is more than any; "peak", the
    highest FA on the way less Retrain's. low, high: 95 % of DRAWS resamples of the seeds; methods are as they are,
    OEU's variants by option not among them, Retrain neither.
    """
    names = [name for name in data["labels"] if name not in NO_METHOD and "," not in name]
    blocks = []
    for run in data["runs"]:
        original, floor = run["rows"]["original"]["now"]["FA"], max(run["rows"]["retrain"]["curves"][way]["FA"])
        blocks.append([])
        for row in (run["rows"][name] for name in names):
            if row is not None and row["curves"][way] is not None:
                values = row["curves"][way]["FA"]
                steps = half_way(data["config"]["looks"], values, original)
                point = {"FA": row["now"]["FA"], "latent": row["latent"], "codes": row["codes"], **row["barrier"]}
                blocks[-1].append({**point, "steps": np.inf if steps is None else steps, "peak": max(values) - floor})
    draws = np.random.default_rng(0).integers(len(blocks), size=(DRAWS, len(blocks)))

    def found(predictor, outcome):
        pairs = [np.array([[point[predictor], point[outcome]] for point in block]).reshape(-1, 2) for block in blocks]
        drawn = [
            rank_correlation(*np.concatenate([pairs[i] for i in draw]).T) for draw in draws[: DRAWS * (len(pairs) > 1)]
        ]
        drawn = [value for value in drawn if value is not None]
        return rank_correlation(*np.concatenate(pairs).T), *(
            np.percentile(drawn, (2.5, 97.5)) if drawn else (None,) * 2
        )

    return {outcome: {name: found(name, outcome) for name in PREDICTORS} for outcome in ("steps", "peak")}


def curves(data, name, way):
    """[(values by metric, the original's metrics before, run)] of a network's runs that did not diverge."""
    found = [(run["rows"][name] and run["rows"][name]["curves"][way], run) for run in data["runs"]]
    return [(curve, run["rows"]["original"]["now"], run) for curve, run in found if curve]


def steps_to_half(data, name, way, metric="FA"):
    """`half_way` of each seed's run that did not diverge; metric: "FA", or on digits "FA wrong"."""
    looks = data["config"]["looks"]
    return [half_way(looks, curve[metric], original[metric]) for curve, original, _ in curves(data, name, way)]


def compared(data, name, way, metric="FA", other="retrain", at=max):
    """A metric less that of another network, by default Retrain's, a value a seed.

    at: which value of a curve: max, the highest on the way (of either), or `last`.
    """
    found = [
        (curve, run["rows"][other] and run["rows"][other]["curves"][way]) for curve, _, run in curves(data, name, way)
    ]
    return [at(curve[metric]) - at(than[metric]) for curve, than in found if than]


def last(values):
    """The value after the last step."""
    return values[-1]


def markdown(data):
    """The tables and their caption."""
    labels, ways, steps = data["labels"], list(data["rates"]), data["config"]["looks"][-1]
    memory = ("FA", "FA wrong") if "FA wrong" in data["runs"][0]["rows"]["original"]["now"] else ("FA",)
    others = [name for name in labels if name not in ("original", "retrain")]
    variants = [name for name in others if name.startswith(("oeu,", "oeu_"))]
    parts = ["Before: what was forgotten, and how far each network is from the original:", _before(data)]

    def add(title, names, cell):
        rows = [["method", *ways], *([labels[name], *(cell(name, way) for way in ways)] for name in names)]
        parts.extend([title, results.aligned(rows)])

    for m in memory:
        title = f"Steps until {m} is half-way back to the original's, median over seeds:"
        add(title, ["retrain", *others], lambda name, way, m=m: _steps(steps_to_half(data, name, way, m), steps))
    for m in memory:
        title = f"Highest {m} on the way less Retrain's highest:"
        add(title, ["original", *others], lambda name, way, m=m: _between(compared(data, name, way, m)))
    for m in ("AUC", "RA"):
        title = f"{m} after {steps} steps less Retrain's after as many:"
        add(title, ["original", *others], lambda name, way, m=m: _between(compared(data, name, way, m, at=last)))
    for m in memory if variants else ():
        title = f"Highest {m} on the way less OEU's highest:"
        add(title, variants, lambda name, way, m=m: _between(compared(data, name, way, m, "oeu")))
    titles = {"steps": "steps until FA is half-way", "peak": "highest FA less Retrain's"}
    rows = [["rank correlation with", *PREDICTORS.values()]]
    for way in ways:
        rows += [[f"{titles[o]}; {way}", *map(_correlation, by.values())] for o, by in correlations(data, way).items()]
    return "\n\n".join([*parts, "What predicts it?", results.aligned(rows), _caption(data, "FA wrong" in memory)])


def _before(data):
    known = data["runs"][0]["rows"]["original"]
    columns = {title: read for title, read in BEFORE.items() if read(known) is not None}
    rows = [["method", *columns]]
    for name, label in data["labels"].items():
        found, lost = results.finished([run["rows"][name] for run in data["runs"]])
        cells = []
        for title, read in columns.items():
            cells.append(results.spread([read(row) for row in found], 2 if "barrier" in title else 1))
        rows.append([label + lost, *cells])
    return results.aligned(rows)


def _steps(found, last):
    """The median, and how many seeds never got there."""
    if not found:
        return "–"
    never = found.count(None)
    median = np.median([np.inf if steps is None else steps for steps in found])
    text = f"> {last}" if np.isinf(median) else f"{median:g}"
    return text + (f" (never {never} of {len(found)})" if never else "")


def _between(values):
    if not values:
        return "–"
    middle, half = interval(values)
    return f"{middle:.1f}" if half is None else f"{middle:.1f} ± {half:.1f}"


def _correlation(found):
    value, low, high = found
    return "–" if value is None else f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _caption(data, wrong):
    rates = ", ".join(dict.fromkeys(f"{way.partition(', ')[2]} {rate:g}" for way, rate in data["rates"].items()))
    seeds = ", ".join(map(str, data["seeds"]))
    seconds = sum(row["seconds"] for run in data["runs"] for row in run["rows"].values() if row)
    lines = [
        f"Trained on without any forget sample at a constant learning rate ({rates}): retain: on the retain set;",
        "unrelated: on validation samples with shuffled pixels, BatchNorm's statistics anew on the retain set at",
        "each look; bits: quantized anew, to 8 bits and back, then on the retain set. FA, RA: accuracy on forget",
        "and retain set, AUC: entropy, forget against test, percent. Latent, codes: Euclidean distance from the",
        "original in latent weights and integer codes; barrier: rise of the mean loss above the straight chord to",
        f"the original, nats. First table: mean ± standard deviation over seeds {seeds}; differences: mean ± half a 95",
        "% interval (Student's t), paired over seeds. Highest: at the training's own rate fine-tuning itself",
        "forgets later on. Never counts as more than any number of steps. Rank correlations: over methods (not",
        "Retrain, not OEU's variants by option) and seeds; in brackets 95 % of resamples of the seeds, methods as",
        "they are.",
        f"{seconds / 60:.0f} minutes of one core besides training original and Retrain"
        + (f", at most {data['peak_mib']:.0f} MiB." if data["peak_mib"] else "."),
    ]
    if wrong:
        lines.insert(-1, "FA wrong: of the forget samples whose label is wrong, which can only be remembered.")
    return "\n".join(lines)


def figure(data):
    """Four panels: FA while trained on retain and after the change of bits, what only memory knows, and what came back.

    data: contents of relearn.json.  Marks of the last panel: means with 95 % intervals.
    """
    drawn = figures.new_figure(11, 7.4)
    ways = list(data["rates"])
    looks = data["config"]["looks"]
    axes = drawn.subplots(2, 2)
    wrong = "FA wrong" in data["runs"][0]["rows"]["original"]["now"]
    panels = (
        (axes[0, 0], ways[0], "FA", "accuracy on forget samples (%)"),
        (axes[0, 1], ways[-1], "FA", "accuracy on forget samples (%)"),
        (
            axes[1, 0],
            ways[min(1, len(ways) - 1)],
            *(("FA wrong", "forget samples with a wrong label (%)") if wrong else ("AUC", "AUC (%)")),
        ),
    )
    for ax, way, metric, title in panels:
        for name in [name for name in LINES if name in data["labels"]]:
            values = [curve[metric] for curve, *_ in curves(data, name, way)]
            if values:
                ax.plot(looks, np.mean(values, axis=0), label=data["labels"][name], **LINES[name])
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(0, looks[-1])
        ticks = [look for look in looks if look & (look - 1) == 0]
        ax.set_xticks(ticks, map(str, ticks))
        ax.minorticks_off()
        ax.set_xlabel(f"steps, learning rate {data['rates'][way]:g}")
        figures.clean(ax, f"{way}: {title}", grid="y")
    _leftover(axes[1, 1], data, ways)
    handles, names = axes[0, 0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5, handlelength=3)
    return drawn


def _leftover(ax, data, ways):
    """Highest FA on the way less Retrain's, a row a network, a mark a way."""
    names = [name for name in data["labels"] if name not in ("original", "retrain")]
    for i, (way, marker) in enumerate(zip(ways, "oDx^")):
        found = [(height, *interval(values)) for height, n in enumerate(names) if (values := compared(data, n, way))]
        heights, middles, halves = zip(*found)
        places = [height + 0.2 * (i - (len(ways) - 1) / 2) for height in heights]
        look = {"marker": marker, "color": str(0.2 * i), "markersize": 4, "elinewidth": 0.8, "linestyle": ""}
        ax.errorbar(middles, places, xerr=[half or 0 for half in halves], label=way, **look)
    ax.axvline(0, color=figures.TEXT, linewidth=0.7)
    ax.set_yticks(range(len(names)), [data["labels"][name] for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("points; 0: as Retrain")
    figures.clean(ax, "Highest FA on the way, less Retrain's", grid="x")
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=len(ways))
