"""What all methods share: does a learning rate that falls, or BatchNorm's statistics estimated anew, change the order?

Each method gets the same search for its settings under each way to run the loop, on seeds that are not reported.
"""

import itertools

from ..lab import engine, search
from ..lab.experiment import described
from ..lab.options import SCHEDULES
from ..lab.study import under
from ..methods.method import Settings
from ..methods.names import DEMO, LABELS
from ..report import figures, results

QUESTION = "Does a learning rate that falls to zero, or BatchNorm's statistics estimated anew, change who is best?"
REPORTED_SEEDS = (1, 2, 3)
SEARCH_SEEDS = (101,)
GRID = {"learning_rate": (0.1, 0.3), "weight": (0.03, 0.3), "steps": (20, 80)}  # coarse: around what the demo chose
QUICK_GRID = {"learning_rate": (0.1,), "weight": (0.3, 1.0), "steps": (2, 4)}
WAYS = {
    f"{schedule}, {'anew' if recalibrated else 'as left'}": {"schedule": schedule, "recalibrated": recalibrated}
    for schedule, recalibrated in itertools.product(SCHEDULES, (False, True))
}
SHOWN = {"AG": "AG (points)", "TA": "TA (%)"}


def collect(seeds, config, quick, bar, ways=tuple(WAYS), methods=DEMO):
    """(config, found) for the document; ways: names among WAYS; methods: those of the demo."""
    grid, searched_on = (QUICK_GRID, SEARCH_SEEDS[:1]) if quick else (GRID, SEARCH_SEEDS)
    names = list(itertools.product(ways, methods))
    points = len(grid["learning_rate"]) * len(grid["weight"])
    bar.reset(len(names) * (points * len(searched_on) + len(seeds)))

    def attempt(case, name, rate, weight):
        return search.gaps_of(under(case, WAYS[name[0]]), name[1], Settings(rate, weight), grid["steps"])

    found = search.searched(names, (engine.prepare(seed, config) for seed in searched_on), grid, attempt, bar)
    best = {way: {method: found[way, method]["best"] for method in methods} for way in ways}
    values = {way: {method: [] for method in methods} for way in ways}
    retrain = []
    for seed in seeds:
        case = engine.prepare(seed, config)
        retrain.append(case.target)
        for way, method in names:
            run = under(case, WAYS[way]), method, *search.setting(best[way][method])
            values[way][method].append(case.attempt(lambda run=run: engine.forget(*run)[0]))
            bar.update()
    labels = {method: LABELS[method] for method in methods}
    found = {"labels": labels, "grid": grid, "search_seeds": searched_on, "best": best, "retrain": retrain}
    return described(config), {**found, "values": values}


def markdown(data):
    """A table for each of SHOWN, from the study's JSON alone: a row a method, a column a way to run the loop."""
    tables = []
    retrain = results.spread([values["TA"] for values in data["retrain"]])
    for metric, title in SHOWN.items():
        rows = [[title, *data["values"]]]
        for method, label in data["labels"].items():
            rows.append([label, *(_cell(data["values"][way][method], metric) for way in data["values"])])
        tables.append(results.aligned(rows))
    points = len(data["grid"]["learning_rate"]) * len(data["grid"]["weight"]) * len(data["grid"]["steps"])
    caption = (
        f"Learning rate constant or falling to zero; BatchNorm's statistics as the steps left them or estimated anew.\n"
        f"TA of Retrain: {retrain}. {results.over(data['seeds']).capitalize()}; settings: each "
        f"method's best by AG\nof the same {points} points under each way, on seeds "
        f"{', '.join(map(str, data['search_seeds']))}."
    )
    return "\n\n".join([*tables, caption])


def _cell(runs, metric):
    left, lost = results.finished(runs)
    return results.spread([run[metric] for run in left]) + lost


def figure(data):
    """Means of both metrics for each method, under each way to run the loop."""
    drawn = figures.new_figure(11, 4)
    ways, methods = list(data["values"]), list(data["labels"])
    for axes, (metric, title) in zip(drawn.subplots(1, 2), SHOWN.items()):
        for i, way in enumerate(ways):
            runs = [results.finished(data["values"][way][method])[0] for method in methods]
            means = [sum(run[metric] for run in some) / len(some) if some else float("nan") for some in runs]
            shade = str(0.65 * (i // 2) / 2)
            look = {"marker": "os^"[i // 2], "markerfacecolor": "white" if i % 2 == 0 else shade, "color": shade}
            axes.plot(means, range(len(methods)), linestyle="", label=way, **look)
        axes.set(yticks=range(len(methods)), yticklabels=data["labels"].values())
        axes.invert_yaxis()
        figures.clean(axes, title, grid="x")
    retrain = sum(values["TA"] for values in data["retrain"]) / len(data["retrain"])
    axes.axvline(retrain, color="black", linewidth=0.7, label="Retrain")
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return drawn
