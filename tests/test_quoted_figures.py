"""Figures that READMEs and notebooks quote are those of the stored results that they come from.

A quote is a file and a sentence as it stands there, its figures computed from the stored result. To add one add a line;
a result that is not stored yet is stored by `python notebooks/store.py`.
"""

import json
import pathlib

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from oeu_ref.audit import objective, relearn_views
from oeu_ref.lab import measures
from oeu_ref.lab.replicate import broken_down
from oeu_ref.methods.protocol import ROWS
from oeu_ref.report import figures, report_figures
from oeu_ref.studies import sensitivity, subspace

ROOT = pathlib.Path(__file__).parent.parent
LAB, STUDIES, AUDIT = (f"oeu_ref/{room}/README.md" for room in ("lab", "studies", "audit"))
REPORT, TABLES = "oeu_ref/lab/REPLICATION.md", "oeu_ref/lab/REPLICATION_TABLES.md"
COLUMNS = ("FA", "RA", "TA", "MIA", "AG", "forget_vs_test_auc")
RULES = ("true", "proxy")
NETWORKS = {"original": "original", "retrain": "Retrain", "retrain again": "second Retrain"}


def stored(name):
    """A stored result: the demo's lies in the package, the others beside the notebooks."""
    folder = ROOT / "oeu_ref" / "lab" if name == "demo" else ROOT / "notebooks" / "stored"
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def spread(values, digits=1):
    """Mean ± standard deviation as it is printed; "–" without values."""
    values = [value for value in values if value is not None]
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}" if values else "–"


def interval(values):
    """Mean ± half of its 95 % interval by Student's t, as it is printed."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.1f} ± {half:.1f}"


def each(runs, *keys):
    """A figure of every run: runs[i][key][key]…, None where a run has none."""
    found = []
    for run in runs:
        for key in keys:
            run = None if run is None else run[key] if isinstance(run, list) else run.get(key)
        found.append(run)
    return found


def mean(values, digits=0):
    """The mean, as it is printed."""
    return f"{np.mean(values):.{digits}f}"


def row(label, cells):
    """A row of a Markdown table."""
    return f"| {label} | {' | '.join(cells)} |"


def demo_quotes():
    """The demo's table, at the door and in full."""
    data = stored("demo")
    lost = np.mean(each(data["runs"], "metrics", "original", "TA")) - np.mean(
        each(data["runs"], "metrics", "oeu", "TA")
    )
    points = {8: "eight", 9: "nine", 10: "ten"}[round(lost)]
    yield "README.md", f"OEU loses {points} points of test accuracy, which AG hides"
    yield LAB, f"OEU loses {points} points of test accuracy here, which AG hides"
    gaps = lambda result: [spread(each(result["runs"], "metrics", name, "AG")) for name in ("oeu", "ft", "qmul")]
    elsewhere = stored("demo-without-avx512")
    assert all(elsewhere[key] == data[key] for key in ("config", "seeds", "versions"))
    yield LAB, "On one without AVX-512 AG is {} (OEU), {} (FT) and {} (Q-MUL)".format(*gaps(elsewhere))
    yield LAB, "where the table has {}, {} and {}".format(*gaps(data))
    runs, size = data["seconds"]["runs"], data["config"]["forget_batch"] + data["config"]["retain_batch"]
    shares = sorted(run["oeu"] / run["retrain"] for run in runs)
    rate = np.median([found["steps"]["oeu"] * size / run["oeu"] for found, run in zip(data["runs"], runs)])
    yield "oeu_ref/bench/README.md", f"{shares[1]:.2f} of Retrain's time ({shares[0]:.2f} to {shares[-1]:.2f} on"
    yield (
        "oeu_ref/bench/README.md",
        f"{data['settings']['oeu']['steps']} steps, {100 * round(rate / 100):,} images a second",
    )
    search = data["search"]
    yield (
        "README.md",
        f"Each method had the same search: {search['points']} settings, at most {search['most_steps']} steps",
    )
    runs = stored("demo-ten-seeds")["runs"]
    gap = {name: spread(each(runs, "metrics", name, "AG")) for name in data["labels"]}
    order = (
        f"OEU {gap['oeu']}, SalUn {gap['salun']}, random labels {gap['rl']}, OEU with the stop rule {gap['oeu_stop']}"
    )
    yield LAB, f"{order}, Q-MUL {gap['qmul']}, gradient ascent {gap['ga']}, fine-tuning {gap['ft']}"
    for name, label in data["labels"].items():
        cells = [spread(each(data["runs"], "metrics", name, column)) for column in COLUMNS]
        yield "README.md", row(label, cells)
        yield LAB, row(label, [*cells, spread(each(data["seconds"]["runs"], name), 2)])
        yield (
            LAB,
            row(label, [spread(each(data["runs"], "metrics", name, kind)) for kind in ("FA", *measures.FA_PARTS)]),
        )
    wrong = {name: mean(each(data["runs"], "metrics", name, measures.FA_PARTS[0])) for name in data["labels"]}
    yield (
        LAB,
        f"says {wrong['retrain']} % of the wrong labels; fine-tuning {wrong['ft']}, Q-MUL {wrong['qmul']}, SalUn "
        f"{wrong['salun']}, OEU {wrong['oeu']}, random labels {wrong['rl']}, OEU with the",
    )
    yield LAB, f"stop rule {wrong['oeu_stop']}. So an FA near Retrain's"


def table_quotes():
    """CIFAR-10 at the CPU preset: table, ablation and sweep."""
    found = stored("cifar10-10-cpu")
    table, ablation = found["table"], found["ablation"]["rows"]
    best = [entry for entry in table["rows"] if entry["rule"] == "true"]
    rows = {"original": table["original"]["values"], **{entry["label"]: entry["values"] for entry in best}}
    for label, values in rows.items():
        cells = [spread(each(values, column)) for column in COLUMNS]
        yield LAB, row(label, [*cells, spread(each(values, "time"), 2)])
    for entry in ablation:
        if entry["rule"] == "true":
            cells = [spread(each(entry["values"], column)) for column in ("FA", "RA", "AG", "forget_vs_test_auc")]
            yield LAB, row(entry["label"], cells)
    gaps = [mean(each(entry["values"], "AG"), 1) for entry in found["sweep"]["rows"] if entry["rule"] == "true"]
    yield LAB, f"(AG {', '.join(gaps)} for 0, 0.5, 0.75, 1)"
    (proxy,) = (e["values"] for e in table["rows"] if e["rule"] == "proxy" and e["method"] == "rl")
    yield LAB, f"random labels (AG {spread(each(proxy, 'AG'))} by the proxy)"
    oeu, labels = rows["OEU"], rows["RL (random labels)"]
    aucs = [mean(each(values, "forget_vs_test_auc"), 1) for values in (oeu, table["retrain"]["values"], labels)]
    yield LAB, f"(AUC {aucs[0]}, Retrain {aucs[1]}), whereas random labels give them away ({aucs[2]})"
    apart = lambda values, other, column: interval(np.subtract(each(values, column), each(other, column)))
    kept = {"OEU": "OEU", "Q-MUL": "Q-MUL (our reading)", "SalUn": "SalUn", "random labels": "RL (random labels)"}
    told = {name: apart(rows[label], table["retrain"]["values"], "forget_vs_test_auc") for name, label in kept.items()}
    yield "notebooks/06_results.ipynb", ", ".join(f"{name} {text}" for name, text in told.items())
    assert [name for name, text in told.items() if np.less(*map(float, text.split(" ± ")))] == ["OEU"]
    parts = {entry["method"]: entry["values"] for entry in ablation if entry["rule"] == "true"}
    worth = apart(parts["oeu"], parts["oeu_random_labels"], "RA"), apart(parts["oeu"], parts["oeu_stop"], "AG")
    yield "notebooks/06_results.ipynb", f"is worth {worth[0]} points of retain accuracy here"
    yield "notebooks/06_results.ipynb", f"ends {worth[1]} points of AG closer to Retrain"
    yield "notebooks/06_results.ipynb", f"original model itself ({mean(each(rows['original'], 'AG'), 1)})"
    true = found["tuning"]["rules"]["true"]
    at_end = sum(digest["best"]["steps"] == max(found["tuning"]["grid"]["steps"]) for digest in true.values())
    numbers = {6: "Six", 11: "eleven"}
    yield (
        "notebooks/06_results.ipynb",
        f"{numbers[at_end]} of {numbers[len(true)]} methods found their best at 80 steps",
    )
    medians = sorted(round(digest["median_AG"]) for name, digest in true.items() if name != "ga")
    worst = round(true["ga"]["median_AG"])
    yield LAB, f"is {medians[0]} to {medians[-1]} for all but gradient ascent ({worst})"


def variant_quotes():
    """OEU's own options on the digits."""
    found = stored("variants")["variants"]
    own = {name: spread(entry["AG"]["AG, own best setting"]) for name, entry in found.items()}
    demos = {name: spread(entry["AG"]["AG, the demo's OEU setting"]) for name, entry in found.items()}
    for name, entry in found.items():
        yield LAB, row(name, [own[name], demos[name], mean([entry["digest"]["median_AG"]], 1)])
    sentence = f"(AG {own['joint forward']} against {own['module, undo']}, the table of variants in"
    yield "oeu_ref/bench/README.md", sentence
    yield "README.md", f"(AG {demos['no projection']} against {demos['module, undo']}, ten seeds)"
    without = f"{own['no projection']})"
    yield (
        LAB,
        f"({demos['no projection']}; at the settings that were best for it on the search seeds it collapses on "
        f"one seed, {without}",
    )


def loop_quotes():
    """What all methods share, and where projection matters."""
    left, anew = stored("demo"), stored("demo-recalibrated")
    for method, label in left["labels"].items():
        if method not in ("original", "retrain"):
            pairs = [(runs, metric) for metric in ("AG", "TA") for runs in (left["runs"], anew["runs"])]
            yield LAB, row(label, [spread(each(runs, "metrics", method, metric)) for runs, metric in pairs])
    data = stored("loop")
    yield LAB, f"TA of Retrain {spread(each(data['retrain'], 'TA'))})"
    for metric in ("AG", "TA"):
        for method, label in data["labels"].items():
            yield LAB, row(label, [spread(each(runs[method], metric)) for runs in data["values"].values()])
    variants = stored("projection")["variants"]
    for which in ("own best setting", "the demo's OEU setting"):
        scalar, oeu = (np.array(variants[name]["AG"][f"AG, {which}"]) for name in ("no projection", "module, undo"))
        for where in (LAB, "notebooks/06_results.ipynb"):
            yield where, f"{interval(scalar - oeu)} at the"
    for name, entry in variants.items():
        ends = [losses and losses[-1] for losses in entry["retain_losses"]]
        cells = [spread(entry["AG"][f"AG, {which}"]) for which in ("own best setting", "the demo's OEU setting")]
        yield LAB, row(PROJECTIONS[name], [*cells, spread(ends, 2)])


PROJECTIONS = {
    "no projection": "one scalar for all layers and steps",
    "global": "a scalar a step (global projection)",
    "module, undo": "a scalar a layer and step (OEU)",
    "only under conflict": "the same, only under conflict (PCGrad's rule)",
    "forget-only steps": "forget-only steps",
}


def projection_quotes():
    """Where projection matters, on photographs."""
    found, notebook = stored("cifar10-10-cpu-projection"), "notebooks/06_results.ipynb"
    rows = {entry["method"]: entry for entry in found["ablation"]["rows"]}
    gap = {name: np.array(each(entry["values"], "AG")) for name, entry in rows.items()}
    for name, entry in rows.items():
        more = "–" if name == "oeu" else interval(gap[name] - gap["oeu"])
        values, setting = entry["values"], entry["settings"]
        cells = [f"{setting['learning_rate']:g}, {setting['weight']:g}, {setting['steps']}", spread(gap[name]), more]
        yield (
            LAB,
            row(
                PROJECTIONS[PHOTOGRAPHS[name]],
                [
                    *cells,
                    *(spread(each(values, metric), n) for metric, n in (("FA", 1), ("RA", 1), ("retain_loss", 2))),
                ],
            ),
        )
        # the stored search on this grid alone, and the one of the two rows that were searched later
        assert found["tuning"]["rules"]["true"][name]["best"].items() >= setting.items() - UNSEARCHED.items()
    earlier = [entry for entry in stored("cifar10-10-cpu")["ablation"]["rows"] if entry["rule"] == "true"]
    seeds = len(found["ablation"]["seeds"])
    before = {entry["method"]: np.array(each(entry["values"], "AG")) for entry in earlier}
    shift = {
        name: np.abs(gap[name] - before[name][:seeds]).max() for name in ("oeu", "oeu_global", "oeu_no_projection")
    }
    assert shift.pop("oeu_no_projection") == 0
    for where in (LAB, notebook):
        yield where, f"{interval(gap['oeu_no_projection'] - gap['oeu'])} here"
        yield where, f"{interval(before['oeu_no_projection'] - before['oeu'])} in the run"
        yield where, f"differ on one seed by up to {max(shift.values()):.1f} points of AG"
        yield where, f"{interval(gap['oeu_forget_only'] - gap['oeu'])} points of AG more"
    yield (
        REPORT,
        f"one scalar for all layers ends {interval(gap['oeu_no_projection'] - gap['oeu'])} points of AG from OEU",
    )
    lost = -np.mean(np.subtract(*(each(rows[name]["values"], "RA") for name in ("oeu_forget_only", "oeu"))))
    loss = [np.mean(each(rows[name]["values"], "retain_loss")) for name in ("oeu_forget_only", "oeu")]
    tenth, twice = {10: "a tenth"}[round(lost)], {2: "twice"}[round(loss[0] / loss[1])]
    yield LAB, f"more, {tenth} of the retain accuracy and {twice} the retain loss"


UNSEARCHED = {"momentum": 0.9, "weight_decay": 5e-4}
PHOTOGRAPHS = {
    "oeu_no_projection": "no projection",
    "oeu_global": "global",
    "oeu": "module, undo",
    "oeu_conflict": "only under conflict",
    "oeu_forget_only": "forget-only steps",
}


def study_quotes():
    """What the studies of what the paper leaves open found, in their README and in notebook 7."""
    notebook = "notebooks/07_limits_and_studies.ipynb"
    runs = stored("integer")["runs"]
    agreements = [a["64-bit values, float64"] for run in runs for a in run["agreement"].values()]
    differing, codes = (sum(each(agreements, key)) for key in ("differing", "codes"))
    yield STUDIES, f"{differing} of {codes / 1e6:.1f} million codes differ on the digits"
    changed = [
        mean([100 * run["changed"]["oeu"][layer]["codes"] / run["changed"]["oeu"][layer]["weights"] for run in runs])
        for layer in runs[0]["changed"]["oeu"]
    ]
    yield STUDIES, f"only {min(changed)} to {max(changed)} % of a layer's codes"
    part = lambda name, metric: mean(each(runs, "integer", name, metric))
    yield STUDIES, f"forget (FA {part('oeu weights', 'FA')}, Retrain {part('retrain', 'FA')})"
    yield STUDIES, f"(FA {part('oeu rest', 'FA')}, AG {part('oeu rest', 'AG')})"

    bits = stored("bits")["values"]
    gap = lambda width, method: spread(each(bits[width][method], "AG"))
    yield (
        STUDIES,
        f"(AG of OEU: ternary {gap('ternary', 'oeu')}, 2 bits {gap('2', 'oeu')}, 4 bits {gap('4', 'oeu')}, "
        f"8 bits {gap('8', 'oeu')}, unquantized {gap('32', 'oeu')};",
    )
    yield STUDIES, f"{gap('binary', 'oeu')}, two of ten networks lost, random labels {gap('binary', 'rl')}"
    flips = [mean(each(bits["binary"][method], "codes changed")) for method in ("oeu", "rl", "qmul")]
    yield notebook, f"{flips[0]} % of the signs flip (random labels {flips[1]} %, Q-MUL {flips[2]} %)"
    lost, held = stored("bits")["values"], stored("bits")["held"]
    count = lambda values: sum(
        each(runs, "AG").count(None) + (np.array(each(runs, "AG")) > 40).sum() for runs in values
    )
    methods = ("oeu", "qmul", "rl")
    with_it_held = count(held[width][method] for width in held for method in methods)
    assert with_it_held == 1 < count(lost[width][method] for width in held for method in methods)
    yield notebook, "with that one number held: all collapses but one go"

    sequences = each(stored("sequential")["runs"], "sequence")
    first = lambda method, stage: mean(each(sequences, method, stage, "FA_requests", 0))
    gaps = [spread(each(sequences, "oeu", stage, "AG")) for stage in (0, -1)]
    again = [mean(each(sequences, "again", stage, "AG"), 1) for stage in (0, -1)]
    yield (
        STUDIES,
        f"from {gaps[0]} to {gaps[1]} over five requests (8 seeds; a second Retrain's from {' to '.join(again)})",
    )
    climbs = [f"from {first(method, 0)} to {first(method, -1)}" for method in ("oeu_stop", "rl")]
    aims = sorted(first("retrain", stage) for stage in range(5))
    aim = f"Retrain {aims[0]} to {aims[-1]}"
    yield STUDIES, f"accuracy climbs {climbs[0]}, under random labels {climbs[1]} ({aim})"
    yield (
        notebook,
        f"the first request climbs {climbs[0]} ({aim}), and under random labels {climbs[1]} (means of eight runs)",
    )
    ends = [each(sequences, "oeu_stop", stage, "AG") for stage in (0, -1)]
    for file in (STUDIES, notebook):
        yield file, f"AG ends {interval(np.subtract(ends[1], ends[0]))} points higher"

    yield from first_order_quotes()
    yield from monitor_quotes()

    spans = stored("subspace")
    whole = lambda network, m: spread(each(spans["runs"][network][m], "AG"))
    slower = np.median(spans["costs"]["16"]["time"])
    yield (
        STUDIES,
        f"(AG {whole('4-bit', '1')} for 1, {whole('4-bit', '16')} for 16), at {slower:.1f} times the time of a step",
    )
    harm = [
        "{mean:.0f} ± {spread:.0f} %".format(**subspace.damage(spans["steps"]["4-bit"]["last"], f"m = {m}", at))
        for at in (1, 0)
        for m in (16, 1)
    ]
    yield STUDIES, f"{harm[0]} of what the raw step does, {harm[1]} with one"
    yield notebook, f"{harm[0]} of the raw step's at 4 bits ({harm[1]} with one"
    for file in (STUDIES, notebook):
        yield file, f"{harm[2]} and {harm[3]}"
    plain = f"{whole('unquantized', '1')} and {whole('unquantized', '16')} without quantization"
    yield (
        notebook,
        f"AG is {whole('4-bit', '1')} for $m = 1$ and {whole('4-bit', '16')} for $m = 16$ at 4 bits, {plain}",
    )

    updates = stored("updates")
    turned = updates["alone"]["momentum | all"]["4"]["layers mean"]["mean"]
    yield STUDIES, f"momentum turns them to |cos| {turned:.2f} with the retain gradient"
    gaps = {name: np.array(each(runs, "AG")) for name, runs in updates["runs"].items()}
    descent, given = (interval(gaps["momentum | all"] - gaps[f"momentum | {word}"]) for word in ("descent", "given"))
    yield notebook, f'AG is {descent} (`"descent"`) and {given} points (`"given"`) lower with momentum'
    yield STUDIES, f"{descent} and {given} points of AG lower with momentum"

    stops, retrain = stored("stop")["stops"], mean(each(stored("stop")["retrain"], "FA"), 1)
    at = lambda setting, rule, key: mean(each(stops[setting][rule], key), 1)
    demo, door, large, wreck = "0.1, beta 0.3", "0.01, beta 0.3", "0.1, beta 1", "1, beta 1 (a wreck)"
    yield (
        STUDIES,
        f"(`GuardedStop`) ends at AG {at(demo, 'guarded', 'AG')}, as one mean entropy does "
        f"({at(demo, 'entropy', 'AG')}; the best step in hindsight {at(demo, 'hindsight', 'AG')})",
    )
    yield (
        STUDIES,
        f"at {at(door, 'guarded', 'AG')}, where the mean entropy ends at {at(door, 'entropy', 'AG')} (hindsight "
        f"{at(door, 'hindsight', 'AG')}) and FA {at(door, 'entropy', 'FA')}, Retrain {retrain}",
    )
    given_up = lambda setting: each(stops[setting]["guarded"], "status").count("gave up")
    assert given_up(wreck) == len(stops[wreck]["guarded"])
    yield STUDIES, f"satisfied at RA {at(wreck, 'entropy', 'RA')}, and this rule gives up on each seed"
    yield (
        STUDIES,
        f"gives up on {given_up(large)} of {len(stops[large]['guarded'])} seeds, where the mean entropy ends at RA "
        f"{at(large, 'entropy', 'RA')}, AG {at(large, 'entropy', 'AG')}",
    )

    yield from sensitivity_quotes()

    models = stored("any-model")["runs"]
    torch_gaps = [spread(each(models["torch"], name, "AG")) for name in ("oeu", "int8")]
    same, plain = mean(each(models["torch"], "int8", "same")), spread(each(models["float"], "oeu", "AG"))
    yield STUDIES, f"AG {' and '.join(torch_gaps)}, {same} % equal predictions; a float network: {plain}"


def first_order_quotes():
    """Where first order begins and ends, and the bound."""
    data, notebook = stored("first-order"), "notebooks/07_limits_and_studies.ipynb"
    flips = [run["first_flip"]["projected"] for run in data["staircase"] if run["bits"] == 4]
    assert min(flips) >= 1e-4
    for file, text in ((STUDIES, "Below a learning rate of 1e-4"), (notebook, "below $\\eta$ of about $10^{-4}$")):
        yield file, text
    etas = np.log(data["config"]["etas"])

    def ratio(bits, eta):
        k = np.argmin(np.abs(etas - np.log(eta)))
        runs = [run["retain"] for run in data["staircase"] if run["bits"] == bits]
        return np.divide(*(sum(abs(run[way][k]) for run in runs) for way in ("projected", "raw")))

    ends = [
        [f"{end(ratio(bits, 10**eta) for bits in (2, 3, 4, 6, 8, 32)):.2f}" for end in (min, max)]
        for eta in (-1.5, -0.5)
    ]
    yield (
        STUDIES,
        f"to {' to '.join(ends[0])} of the raw step's at 0.03, by width, and at 0.3 to {' to '.join(ends[1])} "
        f"(unquantized at 0.001: to {ratio(32, 0.001):.2f})",
    )
    smooth = [run for run in data["smooth"] if run["activation"] == "GELU"]
    for eta, low, high in ((10**-1.5, 0.99, 1.01), (10**-0.5, 0.5, 0.6)):
        k = np.argmin(np.abs(np.log(data["config"]["smooth_etas"]) - np.log(eta)))
        assert (
            low < np.mean([run["predicted"]["projected"][k] / run["change"]["projected"][k] for run in smooth]) < high
        )

    def bound(momentum, rate, guard, *keys):
        wanted = {"network": "ReLU, 4 bits", "momentum": momentum, "learning_rate": rate, "guard": guard}
        return each([run for run in data["bound"] if wanted.items() <= run.items()], *keys)

    fast, plain = (
        {guard: spread(bound(m, r, guard, "metrics", "AG")) for guard in ("none", "update", "direction")}
        for m, r in ((0.9, 1), (0, 0.3))
    )
    yield STUDIES, f"AG {fast['update']}, without it {fast['none']})"
    yield STUDIES, f"not the direction it is given ({fast['direction']})"
    assert (
        np.min(bound(0.9, 0.1, "update", "share")) == 1 and np.mean(np.less(bound(0, 0.3, "update", "share"), 1)) == 0.2
    )
    for file in (STUDIES, notebook):
        yield (
            file,
            f"shortens a fifth of the steps, and less is forgotten (AG {plain['update']}, without it {plain['none']})",
        )


def monitor_quotes():
    """What a monitor says, when, and what it costs."""
    data = stored("monitor")
    assert not any(run["warnings"] for run in data["runs"] if run["run"] == "healthy")
    steps = {"turned back": set(), "retain loss": set()}
    for run in data["runs"]:
        if run["run"] == "turned back":
            for warning in run["warnings"]:
                steps.setdefault(warning["signature"], set()).add(warning["step"])
    named, explodes = (steps[signature].pop() for signature in ("turned back", "retain loss"))
    assert not steps["turned back"] and not steps["retain loss"]  # the same on each seed
    assert explodes - named == 12
    yield STUDIES, f"no warning on healthy runs, too much weight decay named at step {named}, twelve steps before"
    cost = data["time_ratios"]["4-bit ResNet-18, width 16, batch 32"]
    quartiles = " to ".join(f"{value:.2f}" for value in cost["quartiles"])
    yield STUDIES, f"costs {cost['median']:.2f} times a plain one on a small ResNet-18 (quartiles {quartiles})"


def objective_quotes():
    """Whether another objective is better, and what comes back of each."""
    notebook = "notebooks/07_limits_and_studies.ipynb"
    tried, signed = stored("objective"), "{:+.1f} [{:+.1f}, {:+.1f}]".format
    gains = lambda name, measure: signed(*map(np.mean, objective.compared(tried, name, measure)))
    gap = lambda name: spread(each(tried["values"][name], "AG"))
    yield AUDIT, f"plain OEU {gap('oeu')}, a second Retrain {gap('again')}"
    others = {name: objective.compared(tried, name, "AG") for name in tried["best"] if name != "oeu"}
    assert all(low < 0 < found.mean() < high for found, low, high in others.values())  # as both texts say
    yield AUDIT, f"moves the AUC away from Retrain's ({gains('aimed', 'AUC')} points"
    yield AUDIT, f"loses less test accuracy ({gains('falling', 'TA')})"
    kept = sorted(each(tried["values"]["falling"], "RA"))
    assert kept[1] < 80 < 90 < kept[2]
    yield (
        AUDIT,
        f"nearer to Retrain's ({gains('recalibrated', 'AUC')}), and cost retain "
        f"accuracy ({gains('recalibrated', 'RA')})",
    )
    wrong = {name: found["wrong label"]["sample auc"][0] for name, found in tried["attacks"]["own"].items()}
    ends = [end(wrong[name] for name in tried["best"]) for end in (min, max)]
    yield (
        AUDIT,
        f"{ends[0]:.1f} to {ends[1]:.1f} % for every objective (16 networks; a Retrain {wrong['retrain']:.1f})",
    )
    yield notebook, f"between {ends[0]:.1f} and {ends[1]:.1f} % for every objective, a Retrain {wrong['retrain']:.1f}"
    highest, end = "highest FA wrong", {name: [] for name in ("oeu", "falling")}
    told = [mean(each(tried["values"][name], highest), 1) for name in ("oeu", "aimed", "weighted", "again")]
    for name, found in end.items():
        found += [run[highest] for run, at in zip(tried["values"][name], tried["values"]["falling"]) if at["RA"] > 99]
    kept, plain = (f"{min(found):.1f} to {max(found):.1f}" for found in (end["falling"], end["oeu"]))
    lost = [run[highest] for run in tried["values"]["falling"] if run["RA"] <= 99]
    assert max(lost) < min(end["falling"])
    for file in (AUDIT, notebook):
        yield file, "samples {} (OEU), {} (target), {} (weights), a second Retrain {}".format(*told)
        yield (
            file,
            f"({gains('falling', highest)} points, with target and recalibration {gains('all but weights', highest)})",
        )
        yield (
            file,
            f"on {len(end['oeu'])} of {len(tried['seeds'])} seeds, it comes back to {kept}, OEU's there to {plain}",
        )
    found, low, high = objective.compared(tried, "aimed", "AUC")
    yield notebook, f"moves {found.mean():.1f} points away from Retrain's, [{low:.1f}, {high:.1f}])"


def per_example_quotes():
    """The attack that knows the sample."""
    data, notebook = stored("per-example"), "notebooks/07_limits_and_studies.ipynb"
    words = lambda found, digits=1: "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*found, d=digits)
    group = lambda name, part: data["attacks"]["own"][name][part]
    accuracy = lambda name, key: mean(each(data["metrics"][name], key), 1)
    wrong, right = ({name: group(name, part) for name in data["labels"]} for part in ("wrong label", "right label"))
    auc, other = (words(found["oeu"]["sample auc"]) for found in (wrong, right))
    ends = wrong["original"]["sample auc"][0], words(wrong["retrain"]["sample auc"])
    percent = lambda text: text.replace(" ", " % ", 1)
    yield AUDIT, f"in {percent(auc)} of the cases (the original {ends[0]:.1f}, Retrain {ends[1]}"
    yield AUDIT, f"FA {accuracy('oeu', 'FA')}, Retrain's {accuracy('retrain', 'FA')}"
    yield AUDIT, f"of samples with right labels it names {percent(other)}"
    left = wrong["oeu"]["shift"]
    assert left[1] > 2 and wrong["oeu"]["sample auc"][1] > wrong["retrain"]["sample auc"][2]  # beyond the intervals
    yield AUDIT, f"by {left[0]:.1f} standard deviations"
    tpr = {name: words(group(name, "all")["tpr"][0]) for name in data["labels"]}
    order = f"OEU {tpr['oeu']}, without projection {tpr['oeu_no_projection']}, random labels {tpr['rl']}, SalUn"
    yield (
        AUDIT,
        f"{order} {tpr['salun']}, Q-MUL {tpr['qmul']} at RA {accuracy('qmul', 'RA')}, Retrain {tpr['retrain']}",
    )
    yield AUDIT, f"Fine-tuning alone comes near chance, at RA {accuracy('ft', 'RA')}"
    yield notebook, f"{auc} % of the wrongly labelled samples' pairs under OEU, {other} % of the others'"
    pushed = right["rl"]["shift"][0]
    yield (
        notebook,
        f"by {left[0]:.1f} standard deviations under OEU, while random labels push the others below it ({pushed:.1f})",
    )
    against = [words(data["attacks"]["retrain"][name]["all"]["sample auc"]) for name in ("oeu", "oeu_no_projection")]
    yield notebook, f"(AUC {against[0]}, {against[1]} without projection)"


def per_example_on_images_quotes():
    """The attack that knows the sample, on photographs."""
    data, notebook = stored("per-example-images"), "notebooks/07_limits_and_studies.ipynb"
    names = {"oeu": "OEU", "qmul": "Q-MUL", "rl": "random labels", "original": "the original", "retrain": "Retrain"}
    aucs = {
        reference: {
            name: [found[name][part]["sample auc"] for part in ("memorized", "not memorized")] for name in names
        }
        for reference, found in data["attacks"].items()
    }

    def told(reference, chosen):
        words = "{:.1f} [{:.1f}, {:.1f}]".format
        pairs = {name: " and ".join(words(*auc) for auc in aucs[reference][name]) for name in chosen}
        return ", ".join(f"{names[name]} {pair}" for name, pair in pairs.items())

    accuracy = {(name, key): mean(each(data["metrics"][name], key), 1) for name in names for key in ("FA", "RA")}
    trained = [each(data["metrics"][name], "RA") for name in ("original", "retrain")]
    failed = [" and ".join(f"{accuracy:.0f}" for accuracy in found if accuracy < 50) for found in trained]
    words = f"Of {2 * len(data['seeds'])} trainings three did not learn (two originals, RA {failed[0]}, and a Retrain,"
    known = [("FA after " * (name == "oeu") + f"{names[name]} {accuracy[name, 'FA']}") for name in names]
    average = ", ".join(word for name, word in zip(names, known) if name != "original")
    for file in (AUDIT, notebook):
        yield file, average
        yield file, f"{words} {failed[1]}) and count like any other"
        yield file, f"in percent of the cases: {told('own', names)}"
        yield file, "With Retrain in place of the same method's network"
        yield file, told("retrain", ("oeu", "qmul", "rl"))
        yield file, f"{len(data['seeds'])} networks, 1,000 images"
    yield AUDIT, f"look unlike Retrain (RA {accuracy['rl', 'RA']})"
    yield notebook, f"RA {accuracy['rl', 'RA']} and an FA of {accuracy['rl', 'FA']}, below Retrain's"
    yield notebook, f"below Retrain's {accuracy['retrain', 'FA']}"
    own, retrain = aucs["own"], aucs["retrain"]
    apart = lambda first, second: first[1] > second[2] or second[1] > first[2]
    assert not any(map(apart, own["oeu"], own["qmul"]))  # alike within the intervals
    assert own["oeu"][0][1] > 60 and own["qmul"][0][1] > 60  # memorized images stay known
    assert own["rl"][0][2] < own["oeu"][0][1] and min(auc[1] for auc in retrain["rl"]) > 80
    assert data["config"]["train_size"] == 5000


def sensitivity_quotes():
    """Which learning rates and betas serve OEU, in the study's line and in the advice."""
    data, own = stored("sensitivity"), "oeu_ref/own/README.md"
    names, before = (
        ("perceptron", "convolutional"),
        [data["start"][name][0] for name in ("perceptron", "convolutional")],
    )
    ag = lambda *points: " and ".join(f"{point[3]:.1f}" for point in points)
    least = lambda column=3, beta=None: [sensitivity.best(data["gaps"][name], column, beta) for name in names]
    best, ones, tens, chosen = least(), least(3, 1.0), least(3, 10.0), least(4)
    start = f"{before[0]:.1f} and {before[1]:.1f}"
    assert [point[:2] for point in best] == [[0.1, 0.1], [0.1, 0.3]] and [point[0] for point in ones] == [0.01, 0.003]
    yield (
        STUDIES,
        f"AG is least ({ag(*best)}) at a learning rate of 0.1 and beta 0.1 to 0.3; the best of beta 1 is {ag(*ones)}",
    )
    yield STUDIES, f"without Retrain ends at {ag(*chosen)}, the networks before at {start}"
    yield own, f"before, AG was {start}"
    yield (
        own,
        f"a rate of 0.1 with beta 0.1 (AG {best[0][3]:.1f}) and 0.3 ({best[1][3]:.1f}). "
        f"Of beta 1 the best is {ag(*ones)}",
    )

    def worse(beta):
        return sum(
            point[3] is None or point[3] > start
            for name, start in zip(names, before)
            for point in data["gaps"][name]
            if point[1] == beta
        )

    yield (
        own,
        f"of beta 10 it is {ag(*tens)}, and {worse(10.0)} of 50 points are worse than doing nothing, "
        f"of beta 0.3 only {worse(0.3)}",
    )
    ranks = [np.argsort(np.argsort([point[c] for point in data["gaps"][name]])) for name in names for c in (3, 4)]
    ranks = " and ".join(f"{np.corrcoef(*pair)[0, 1]:.2f}" for pair in (ranks[:2], ranks[2:]))
    yield own, f"(rank correlation {ranks} over all points)"
    yield own, f"own choice has an AG of {ag(*chosen)}"


def relearn_quotes():
    """What comes back when networks are trained on, on the retain set alone."""
    study, way, notebook = stored("relearn"), "retain, a tenth", "notebooks/07_limits_and_studies.ipynb"

    def over(name, metric="FA", other="retrain", way=way):
        values = relearn_views.compared(study, name, way, metric, other)
        return "{:.1f} ± {:.1f}".format(*relearn_views.interval(values))

    steps = {name: relearn_views.steps_to_half(study, name, way) for name in study["labels"]}
    assert not any(step is not None for name in ("retrain", "again") for step in steps[name])
    back, count = sum(step is not None for step in steps["oeu"]), len(study["seeds"])
    median = np.median([np.inf if step is None else step for step in steps["oeu"]])
    come = f"half-way back on {back} of {count} seeds, in the median after {median:g} steps"
    yield AUDIT, come
    yield notebook, come
    yield "README.md", f"OEU's FA is half-way back after {median:g} steps"
    rows = [(name, over(name)) for name in ("oeu", "rl", "salun", "oeu_stop", "qmul", "again")]
    gaps = "OEU {}, random labels {}, SalUn {}, OEU with the stop rule {}, Q-MUL {}, a second Retrain {}"
    yield AUDIT, gaps.format(*(value for _, value in rows))
    wrong = "OEU {}, Q-MUL {}, a second Retrain {}".format(*(over(n, "FA wrong") for n in ("oeu", "qmul", "again")))
    yield AUDIT, wrong
    yield notebook, wrong
    change = [over(name, "FA", "oeu") for name in ("oeu, alpha 0", "oeu, alpha 0.5", "oeu, four times")]
    yield AUDIT, f"without projection {change[0]}, with alpha 0.5 {change[1]}"
    kept = [mean(each(study["runs"], "rows", name, "now", "RA"), 1) for name in ("oeu", "oeu, four times")]
    fall = change[2].lstrip("-")
    start = [mean(each(study["runs"], "rows", name, "now", "FA"), 0) for name in ("oeu, four times", "retrain")]
    yield (
        AUDIT,
        f"four times the steps lower it by {fall}, from an FA of {start[0]}, below Retrain's {start[1]}, at a lower "
        f"retain accuracy ({kept[1]}, OEU {kept[0]})",
    )
    found = relearn_views.correlations(study, way)["peak"]
    told = {name: "{:.2f} [{:.2f}, {:.2f}]".format(*found[name]) for name in ("FA", "latent", "codes")}
    yield AUDIT, f"latent weights {told['latent']}, in codes {told['codes']}; FA itself {told['FA']}"
    bits = [mean(each(study["runs"], "rows", "oeu", part, "FA"), 1) for part in ("now", "back")]
    yield AUDIT, f"OEU's FA from {bits[0]} to {bits[1]}"
    far = [np.mean(each(study["runs"], "rows", name, "latent")) for name in ("qmul", "oeu")]
    low, half = relearn_views.interval(relearn_views.compared(study, "qmul", way))
    assert far[0] > 3 * far[1] and abs(low) < half
    own = np.mean([c["FA"] for c, *_ in relearn_views.curves(study, "original", "retain, own rate")], axis=0)
    assert own[-1] < own[0] - 3  # fine-tuning itself forgets
    ends = [mean(each([row for row in each(study["runs"], "rows", n) if row], "now", "RA"), 1) for n in ("qmul", "ft")]
    yield AUDIT, f"RA {ends[0]} and {ends[1]} before"


def stop_on_images_quotes():
    """Where rules end OEU on photographs: at a setting that gets there, and at two that do not in 80 steps."""
    data, notebook, own = stored("stop-images"), "notebooks/07_limits_and_studies.ipynb", "oeu_ref/own/README.md"
    stops, retrain = data["stops"], mean(each(data["retrain"], "FA"), 1)
    ends = lambda setting, rule, key: each(stops[setting][rule], key)
    at = lambda *of: mean(ends(*of), 1)
    table, slow, slower = data["config"]["settings"]
    assert set(ends(table, "guarded", "status")) == {"reached"} and ends(table, "guarded", "step") == ends(
        table, "fa", "step"
    )
    assert all(end is None for name in (slow, slower) for rule in ("entropy", "auc", "fa") for end in stops[name][rule])
    assert all(np.subtract(ends(table, "entropy", "AG"), ends(table, "guarded", "AG")) > 3)  # on each seed
    ended = (
        f"ends at AG {at(table, 'guarded', 'AG')} (the best look in hindsight {at(table, 'hindsight', 'AG')}), the "
        f"mean entropy at {at(table, 'entropy', 'AG')} and FA {at(table, 'entropy', 'FA')}, Retrain {retrain}"
    )
    fa, ag = ([at(name, "guarded", key) for name in (slow, slower)] for key in ("FA", "AG"))
    for file in (STUDIES, own, notebook):
        yield file, ended
        yield file, f"spent at FA {fa[0]} and {fa[1]}, AG {ag[0]} and {ag[1]}"
    assert len(data["seeds"]) == 2  # as the texts say


def relearn_on_images_quotes():
    """What comes back on photographs: of three seeds, with the intervals that these allow."""
    data, notebook = stored("relearn-images"), "notebooks/07_limits_and_studies.ipynb"
    retain, unrelated, bits = data["rates"]
    assert data["seeds"] == [1, 2, 3] and data["config"]["looks"] == [0, 4, 16, 64, 256]  # as the texts say

    def curves(name, way=retain, metric="FA"):
        return np.array([curve[metric] for curve, *_ in relearn_views.curves(data, name, way)])

    def ends(name, way=retain):
        return "{:.1f} to {:.1f}".format(*curves(name, way).mean(axis=0)[[0, -1]])

    over = {name: interval(relearn_views.compared(data, name, retain)) for name in data["labels"]}
    rise = {name: curves(name).max(axis=1) - curves(name)[:, 0] for name in ("oeu", "qmul")}
    apart = interval(rise["oeu"] - rise["qmul"])
    latent, low, high = relearn_views.correlations(data, retain)["peak"]["latent"]
    half = {name: relearn_views.steps_to_half(data, name, retain) for name in data["labels"]}
    assert set(half["qmul"]) == {None} and sorted(half["oeu"]) == [64, 64, 256]
    before = {name: curves(name, metric="RA")[:, 0].mean() for name in data["labels"]}
    less = interval(curves("oeu", bits)[:, -1] - curves("oeu")[:, -1])
    left = interval(relearn_views.compared(data, "oeu", unrelated, at=relearn_views.last))
    for file in (AUDIT, notebook):
        yield file, f"OEU's FA goes from {ends('oeu')}, Q-MUL's from {ends('qmul')}, Retrain's from {ends('retrain')}"
        yield file, f"OEU {over['oeu']}, Q-MUL {over['qmul']}, a second Retrain {over['again']}; OEU without projection"
        yield file, f"without projection {over['oeu_no_projection']}, random labels {over['rl']}, SalUn {over['salun']}"
        yield file, f"fine-tuning {over['ft']} (RA {before['ft']:.1f} before)"
        yield file, f"gradient ascent {over['ga']} (RA {before['ga']:.1f})"
        yield file, f"with the distance in latent weights {latent:.2f} [{low:.2f}, {high:.2f}]"
        yield file, f"{mean(rise['oeu'], 1)} and {mean(rise['qmul'], 1)} points (difference {apart}"
        yield file, "half-way back to the original's by step 64 on two seeds and by 256 on the third, Q-MUL's on none"
        yield file, f"OEU's FA goes from {ends('oeu', bits)}, Q-MUL's from {ends('qmul', bits)}"
        yield file, f"Retrain's from {ends('retrain', bits)}"
        yield file, f"{less} from where the retain set alone leaves it"
        yield file, f"the original's FA from {ends('original', unrelated)}, OEU's from {ends('oeu', unrelated)}"
        yield file, f"Retrain's from {ends('retrain', unrelated)}: OEU's stays {left} above it"


def share_of(values, original):
    """Mean AG over the original's, as it is printed."""
    return mean([np.mean(each(values, "AG")) / np.mean(each(original, "AG"))], 2)


def full_size_quotes():
    """At full size the scale alone."""
    full = stored("replicate-cifar10-10")
    models, epochs = full["trained"]["1"], full["experiment"]["epochs"]
    assert full["rows"] == [] and list(full["trained"]) == ["1"]  # a row that is there is to be told
    for name, label in NETWORKS.items():
        found = models[name]
        cells = [f"{found[key]:.1f}" for key in ("FA", "RA", "TA", "MIA")]
        gap = "–" if name == "retrain" else f"{found['AG']:.2f}"
        yield TABLES, row(label, [*cells, gap, *(f"{share:.1f}" for share in found["features"].values())])
    floor, scale = models["retrain again"]["AG"], models["original"]["AG"]
    yield TABLES, f"**two Retrains of one split differ by an AG of {floor:.2f}**"
    yield TABLES, f"the original is {scale:.2f} away"
    yield REPORT, f"0.58 is less than the {floor:.2f} between two Retrains"
    yield TABLES, f"all images, width 64, {epochs} epochs, test accuracy {models['original']['TA']:.1f}"
    apart = [
        abs(models["retrain again"]["features"][name] - share) for name, share in models["retrain"]["features"].items()
    ]
    between = sorted(found["features"]["probability"] for found in models.values())[1]
    assert max(apart) == apart[-1] and between == models["original"]["features"]["probability"]
    yield TABLES, "most by the whole probability vector, by which the original lies between them"
    yield TABLES, f"apart by {min(apart):.1f} to {max(apart):.1f} points"


SETTINGS = ("replicate-cifar10-10-cpu", "replicate-cifar100-30-cpu", "replicate-cifar10-10-long")
CLAIMED = {  # row of the page's table: of the small size, of the others
    "similar labels (Q-MUL)": ("Q-MUL (our reading)", "qmul", ", our reading"),
    "OEU, global projection": ("OEU, global projection", "oeu_global", ""),
    "OEU without projection": ("OEU without projection", "oeu_no_projection", ""),
    "random labels": ("OEU, random labels for entropy", "rl", ", in OEU for the entropy"),
}


def claims_quotes():
    """The page's table of all settings, and what its verdicts quote."""
    found = stored("cifar10-10-cpu")
    rows = {
        entry["label"]: entry["values"]
        for kind in ("table", "ablation", "sweep")
        for entry in found[kind]["rows"]
        if entry["rule"] == "true"
    }
    gap = {label: spread(each(values, "AG")) for label, values in rows.items()}
    kept = {label: spread(each(values, "RA")) for label, values in rows.items()}
    original = found["table"]["original"]["values"]
    made = [replicated(name) for name in SETTINGS]
    experiments = [found["table"]["experiment"], *(data["experiment"] for data, *_ in made)]
    assert {(e["arch"], e["width"], e["weight_bits"]) for e in experiments} == {("resnet18", 16, 4)}
    sizes = [f"{e['train_size']:,}; {100 * e['forget_ratio']:.0f} %" for e in experiments]
    yield REPORT, row("images; of them to forget", sizes)
    small, *epochs = (e["epochs"] for e in experiments)
    steps = max(found["tuning"]["grid"]["steps"])
    assert [e["augmented"] for e in experiments] == [False, False, False, True]
    epochs = f"{small} epochs; {steps} joint steps at most | {{}}; ten | {{}}; ten | {{}}, augmented; ten".format(
        *epochs
    )
    yield REPORT, row("trained for; unlearned for", [epochs])
    lost = ", of which one has nothing to forget"
    seeds = [f"{len(data['seeds'])}{lost if len(used) < len(data['seeds']) else ''}" for data, used, *_ in made]
    seeds[-1] += "; one more was given up"  # before it had a row, so that the result does not have it
    yield REPORT, row("seeds", [str(len(original)), *seeds])
    networks = lambda kind: [of_seeds(models[kind]) for _, _, models, *_ in made]
    yield REPORT, row("original", [spread(each(original, "AG")), *networks("original")])
    yield REPORT, row("second Retrain", ["–", *networks("retrain again")])
    yield REPORT, row("OEU", [gap["OEU"], *(listing(table)("oeu") for *_, table, _ in made)])
    shares = [mean(each(values_of(table["oeu"]).values(), "share_of_original"), 2) for *_, table, _ in made]
    yield REPORT, row("OEU's over the original's", [share_of(rows["OEU"], original), *shares])
    for label, (at_small, name, note) in CLAIMED.items():
        cells = [listing(table)(name) if name in table else "–" for *_, table, _ in made]
        yield REPORT, row(label, [gap[at_small] + note, *cells])
    # none of these rows does worse than OEU at the small size
    assert min(np.mean(np.subtract(each(rows["OEU"], "AG"), each(rows[at], "AG"))) for at, *_ in CLAIMED.values()) > 0
    apart = np.mean(each(original, "FA")) - np.mean(each(original, "TA"))
    yield REPORT, f"its original knows what it saw {apart:.0f} points better than what it did not"
    digits = {
        name: spread(entry["AG"]["AG, the demo's OEU setting"])
        for name, entry in stored("variants")["variants"].items()
    }
    yield REPORT, f"at one setting for both: {digits['module, undo']} against {digits['global']} |"
    yield REPORT, f"retain accuracy {kept['OEU without projection']} without it, {kept['OEU']} with it |"
    yield REPORT, f"in what is kept, {kept['OEU']} against {kept['OEU, random labels for entropy']} |"
    alphas = [mean(each(values, "AG"), 1) for label, values in rows.items() if label.startswith("OEU, alpha")]
    yield REPORT, f"AG {', '.join(alphas)} for 0, 0.5, 0.75, 1; not tested elsewhere"
    yield REPORT, f"small: {spread(each(rows['OEU'], 'time'), 2)} of Retrain's seconds"


def replicated(name):
    """A stored run of the field's schedule: (document, seeds of which no training broke down, {network: {seed: dict}},
    {row: {seed it was made on: dict}}, its settings chosen by AG, {row: least AG on the seed of the search})."""
    data = stored(name)
    seeds = [seed for seed in data["seeds"] if not broken_down(data["trained"][str(seed)])]
    models = {kind: {seed: data["trained"][str(seed)][kind] for seed in seeds} for kind in NETWORKS}
    rows = {}
    for found in data["rows"]:
        if "true" in found["rules"] and found["seed"] in seeds:
            rows.setdefault(found["row"], {})[found["seed"]] = found
    return data, seeds, models, rows, {name: min(found["AG"]["true"]) for name, found in data["search"].items()}


def replicated_cells(made, seeds):
    """Cells that such tables share: means of FA, RA, TA, MIA; AG of each seed; means of the share and AUC.

    made: {seed: values}.
    """
    values = list(made.values())
    means = [mean(each(values, key), 1) for key in ("FA", "RA", "TA", "MIA")]
    gaps = " / ".join(f"{made[seed]['AG']:.1f}" if seed in made else "–" for seed in seeds)
    scale = [gaps, mean(each(values, "share_of_original"), 2)] if values[0]["AG"] else ["–", "–"]
    return [*means, *scale, mean(each(values, "forget_vs_test_auc"), 1)]


def replicated_table(seeds, models, rows, least, read):
    """Lines of a table without times; read: {row: how much of the forget set it read}, the rest of `replicated`."""
    for name, label in NETWORKS.items():
        yield row(label, ["–", *replicated_cells(models[name], seeds), "–"])
    for name, made in rows.items():
        cells = replicated_cells(values_of(made), seeds)
        yield row(made[seeds[0]]["label"], [f"{read[name]:,}", *cells, f"{least[name]:.1f}"])


def listed(values):
    """Figures of several seeds as they are printed: "1.0, 2.0 and 3.0"."""
    *others, last = (f"{value:.1f}" for value in values)
    return " and ".join(filter(None, [", ".join(others), last]))


def of_seeds(made, key="AG"):
    """AG, or another figure, of all seeds as they are printed.  made: {seed: values}."""
    return listed(each(made.values(), key))


def listing(rows):
    """A function: `of_seeds` of a row."""
    return lambda name, key="AG": of_seeds(values_of(rows[name]), key)


def values_of(made):
    """{seed: values} of a row."""
    return {seed: found["values"] for seed, found in made.items()}


RIVAL_WORDS = {
    "salun": "SalUn",
    "uniform": "the uniform target",
    "scrub": "SCRUB",
    "ng_plus": "NG+",
    "lotus": "LoTUS",
    "l1": "l1-sparse",
}


def schedule_quotes():
    """Ten epochs by the schedule of the field's own code: three seeds, and what the search found on another."""
    data, seeds, models, rows, least = replicated("replicate-cifar10-10-cpu")
    assert (data["experiment"]["epochs"], data["experiment"]["train_size"], seeds) == (60, 10000, [1, 2, 3])
    assert data["passes"][:2] == [3, 35]
    batches = {name: ROWS[name].epochs * ROWS[name].counts(*data["passes"])[0] for name in rows}
    for name, label in NETWORKS.items():
        yield TABLES, row(label, ["–", *replicated_cells(models[name], seeds), "–", "–"])
    for name, made in rows.items():
        values, label = values_of(made), made[seeds[-1]]["label"]
        time = "–" if name == "l1" else f"{values[seeds[-1]]['time']:.2f}"  # made apart from its Retrain
        last = [time, f"{least[name]:.1f}"]
        yield TABLES, row(label, [str(batches[name]), *replicated_cells(values, seeds), *last])
    at = listing(rows)
    gaps = {name: {seed: values["AG"] for seed, values in values_of(made).items()} for name, made in rows.items()}
    whole = [name for name, made in gaps.items() if list(made) == seeds]
    assert set(rows) - set(whole) == set(RIVAL_WORDS)
    own = gaps["oeu"]
    assert all(own[seed] < min(gaps[name][seed] for name in ("rl", "qmul")) for seed in seeds)
    assert all(own[seed] == min(made.get(seed, 99) for made in gaps.values()) for seed in seeds)
    yield TABLES, f"AG {at('oeu')}, random labels {at('rl')}, Q-MUL {at('qmul')}"
    read = 2 * rows["oeu"][3]["steps"] * data["experiment"]["retain_batch"]
    of_retrain = data["experiment"]["epochs"] * (1 - data["experiment"]["forget_ratio"]) * 10000
    yield (
        REPORT,
        f"ten epochs: {values_of(rows['oeu'])[3]['time']:.2f}, as {read / of_retrain:.2f} of Retrain's images;",
    )
    kept = [each(rows[name].values(), "values", "RA") for name in ("oeu", "rl")]
    assert all(ours > theirs for ours, theirs in zip(*kept))
    kept = [mean(values, 1) for values in kept]
    yield REPORT, f"in AG and in retain accuracy, {kept[0]} against {kept[1]}, on all three seeds"
    yield TABLES, f"It had {batches['oeu']} batches of forget images for it, they {batches['rl']}"
    assert batches["rl"] == batches["qmul"] == batches["oeu_short"]
    short = f"AG {at('oeu_short')} and a retain accuracy of {at('oeu_short', 'RA')}"
    yield (
        TABLES,
        f"With {batches['oeu_short']} such steps, its other reading, and a weight chosen for them it ends at {short}",
    )
    for name in ("oeu", "rl", "qmul"):
        assert all(found["values"]["FA"] < models["retrain"][seed]["FA"] for seed, found in rows[name].items())
    rivals = [name for name in rows if name in RIVAL_WORDS]
    assert rivals and all(sorted(gaps[name]) == [2, 3] for name in rivals)
    mean_gap = lambda name: np.mean(list(gaps[name].values()))
    said = ", ".join(f"{RIVAL_WORDS[name]} {at(name)}" for name in sorted(rivals, key=mean_gap))
    yield TABLES, f"**Rivals, on the second and third seeds alone**: {said}, where OEU has {listed([own[2], own[3]])}"
    beyond = [listed(each((made[2], made[3]), "MIA")) for made in (values_of(rows["uniform"]), values_of(rows["oeu"]))]
    beyond.append(listed(each((models["retrain"][2], models["retrain"][3]), "MIA")))
    known = [found["values"]["MIA"] for name, made in rows.items() if name != "uniform" for found in made.values()]
    assert min(each(rows["uniform"].values(), "values", "MIA")) > max(known)
    yield TABLES, "an MIA of {}, OEU {}, Retrain {}".format(*beyond)
    yield TABLES, f"SalUn comes to {least['salun']:.1f} there"
    auc = "forget_vs_test_auc"
    knows = of_seeds(models["original"], auc)
    yield TABLES, f"other way round (AUC {at('oeu', auc)}, the original's {knows})"
    searched = listed(least[name] for name in ("oeu_no_projection", "oeu_global", "oeu"))
    again = of_seeds(models["retrain again"])
    behind = {name: [gaps[name][seed] - own[seed] for seed in seeds] for name in ("oeu_no_projection", "oeu_global")}
    assert all(min(behind[name]) > 0 for name in behind) and least["oeu_no_projection"] < least["oeu"]
    bare, whole = (f"by {min(apart):.1f} to {max(apart):.1f}" for apart in behind.values())
    yield TABLES, f"without it AG is higher on all three seeds, {bare}, with global projection {whole}"
    yield TABLES, f"two Retrains are {again} apart; on the seed of the search the three end at {searched}"
    further = [rows["oeu_no_projection"][seed]["values"]["MIA"] - rows["oeu"][seed]["values"]["MIA"] for seed in seeds]
    beyond = [rows["oeu"][seed]["values"]["MIA"] - models["retrain"][seed]["MIA"] for seed in seeds]
    assert min(further) > 0 and min(beyond) > 0
    assert all(rows["oeu_global"][seed]["values"]["MIA"] > rows["oeu"][seed]["values"]["MIA"] for seed in seeds)
    yield TABLES, f"its MIA is {listed(beyond)} above Retrain's, and {listed(further)} more without projection"
    shares = [found["values"]["share_of_original"] for name in ("ft", "ga") for found in rows[name].values()]
    assert min(shares) > 0.98 and min(least["ft"], least["ga"]) > 29
    yield TABLES, f"(retain loss {models['original'][1]['retain_loss']:.4f})"
    other = {r["row"]: r["values"]["AG"] for r in data["rows"] if r["rules"] == ["proxy"] and r["seed"] == seeds[0]}
    come = f"Q-MUL comes to {other['qmul']:.1f}, global projection to {other['oeu_global']:.1f}, OEU's other reading to"
    yield TABLES, f"{come} {other['oeu_short']:.1f}"
    for name in ("oeu", "oeu_no_projection", "rl"):
        assert data["search"][name]["chosen"]["true"] == data["search"][name]["chosen"]["proxy"]
    chosen = {name: found["chosen"]["true"] == found["points"][-1] for name, found in data["search"].items()}
    others = {name for name in chosen if ROWS[name].method.startswith("oeu")} | {"uniform", "lotus", "ga"}
    assert chosen["oeu"] and all(chosen[name] for name in set(chosen) - others)
    assert not any(chosen[name] for name in ("uniform", "lotus", "ga"))


def hundred_classes_quotes():
    """The same schedule on CIFAR-100, 30 % of it to forget: three rows."""
    data, seeds, models, rows, least = replicated("replicate-cifar100-30-cpu")
    experiment = data["experiment"]
    assert (experiment["epochs"], experiment["train_size"], experiment["forget_ratio"]) == (40, 10000, 0.3)
    assert list(rows) == ["oeu", "qmul", "oeu_global"]
    lost, retrain = (data["trained"]["3"][kind] for kind in ("original", "retrain"))
    assert set(data["seeds"]) - set(seeds) == {3}
    knows = f"{lost['FA']:.1f} % of its forget set right and {lost['RA']:.1f} % of its retain set"
    yield TABLES, f"{knows}, Retrain {retrain['FA']:.1f} and {retrain['RA']:.1f}"
    ends = [found["values"]["AG"] for found in data["rows"] if found["seed"] == 3]
    ended = f"{min(ends):.0f} to {max(ends):.0f} from Retrain, where they began at {lost['AG']:.0f}"
    yield TABLES, f"all three rows end {ended}"
    forget = experiment["train_size"] * experiment["forget_ratio"]
    read = {name: made[seeds[0]]["steps"] * experiment["forget_batch"] for name, made in rows.items()}
    read["qmul"] = round(ROWS["qmul"].epochs * forget)
    for line in replicated_table(seeds, models, rows, least, read):
        yield TABLES, line
    at = listing(rows)
    gaps = {name: [values["AG"] for values in values_of(made).values()] for name, made in rows.items()}
    again = of_seeds(models["retrain again"])
    assert all(lost > 3 * max(both) for lost, *both in zip(gaps["qmul"], gaps["oeu"], gaps["oeu_global"]))
    ahead = [other - own for own, other in zip(gaps["oeu"], gaps["oeu_global"])]
    assert sum(apart > 0 for apart in ahead) == 2 and least["oeu_global"] > least["oeu"]
    yield TABLES, f"is closer on two of the three and on that of the search, by at most {max(ahead):.1f} points"
    originals = of_seeds(models["original"])
    apart = f"where two Retrains are {again} apart; Q-MUL {at('qmul')}"
    yield TABLES, f"AG {at('oeu')}, of {originals} for the original, {apart}"
    yield (
        TABLES,
        f"{at('qmul', 'FA')} % of the forget set right, Retrain {of_seeds(models['retrain'], 'FA')}",
    )
    yield TABLES, f"retain accuracy of {at('qmul', 'RA')}: at the largest rate that is tried"
    searched = data["search"]["qmul"]["AG"]["true"]
    assert data["search"]["qmul"]["chosen"]["true"] == data["search"]["qmul"]["points"][-1]
    yield TABLES, f"from {searched[-2]:.1f} to {searched[-1]:.1f} with the last step of the rate"
    auc = "forget_vs_test_auc"
    known = of_seeds(models["retrain"], auc)
    yield TABLES, f"AUC {at('oeu', auc)} (Q-MUL {at('qmul', auc)}, Retrain {known})"
    yield TABLES, f"test accuracy of {of_seeds(models['original'], 'TA')}"
    chosen = {name: found["chosen"]["true"] for name, found in data["search"].items()}
    assert chosen["oeu"] == chosen["oeu_global"] == data["search"]["oeu"]["points"][-1]
    yield TABLES, f"**Global projection**, at the same settings, ends at {at('oeu_global')}, OEU at {at('oeu')}"
    yield TABLES, f"on the seed of the search at {least['oeu_global']:.1f}, OEU at {least['oeu']:.1f}"
    assert least["qmul"] - least["oeu"] < 4
    yield TABLES, f"On the seed of the search it is {least['qmul'] - least['oeu']:.1f} points behind OEU"


def long_quotes():
    """The same schedule with augmented images, as many as fit in 110 minutes: two rows."""
    data, seeds, models, rows, least = replicated("replicate-cifar10-10-long")
    experiment = data["experiment"]
    assert (experiment["epochs"], experiment["augmented"], experiment["width"]) == (60, True, 16)
    assert list(rows) == ["oeu", "qmul"] and {found["judge"] for found in data["search"].values()} == {"retrain"}
    yield TABLES, f"{experiment['train_size']:,} of {50000 - experiment['validation_size']:,} training images"
    batches = {name: ROWS[name].epochs * ROWS[name].counts(*data["passes"])[0] for name in rows}
    for line in replicated_table(seeds, models, rows, least, batches):
        yield TABLES, line
    search = data["search"]
    chosen = {name: [search[name]["points"].index(search[name]["chosen"][rule]) for rule in RULES] for name in rows}
    assert chosen == {"oeu": [3, 1], "qmul": [2, 2]}
    proxy = {found["seed"]: found["values"] for found in data["rows"] if found["rules"] == ["proxy"]}
    assert list(proxy) == seeds
    cells = [f"{batches['oeu']}", *replicated_cells(proxy, seeds), f"{search['oeu']['AG']['true'][1]:.1f}"]
    yield TABLES, row("OEU, settings by the proxy", cells)
    at = listing(rows)
    original, retrain, again = (models[name] for name in NETWORKS)
    assert [a > b for a, b in zip(*(each(rows[name].values(), "values", "AG") for name in rows))] == [True, False, True]
    assert all(found["AG"] < rows["qmul"][seed]["values"]["AG"] for seed, found in proxy.items())
    yield (
        TABLES,
        f"AG {at('oeu')}, Q-MUL {at('qmul')}, where two Retrains are {of_seeds(again)} apart and the original "
        f"{of_seeds(original)}",
    )
    apart = listed(rows["qmul"][seed]["values"]["AG"] - found["AG"] for seed, found in proxy.items())
    yield TABLES, f"OEU ends at {of_seeds(proxy)}, Q-MUL, whose rate is the same, at {at('qmul')}, apart by {apart}"
    tried = {name: ", ".join(f"{gap:.1f}" for gap in search[name]["AG"]["true"]) for name in rows}
    yield TABLES, f"Q-MUL's search ends at {tried['qmul']} for its four rates, OEU's at {tried['oeu']} for its pairs"
    kept = f"{at('oeu', 'TA')}, by the proxy {of_seeds(proxy, 'TA')}, Q-MUL {at('qmul', 'TA')}"
    yield TABLES, f"test accuracy is {kept}, Retrain's {of_seeds(retrain, 'TA')}"
    apart = listed(found["FA"] - found["TA"] for found in original.values())
    yield TABLES, f"has {of_seeds(original, 'FA')} % of its forget set right, {apart} points more than of the test set"
    assert all(found["values"]["MIA"] > retrain[seed]["MIA"] for seed, found in rows["oeu"].items())
    yield TABLES, f"an MIA of {at('oeu', 'MIA')} where Retrain has {of_seeds(retrain, 'MIA')}"
    closer = f"{of_seeds(proxy)} against {at('qmul')} with settings chosen without Retrain"
    yield REPORT, closer


def text_of(path):
    """What a file says, runs of white space as one blank; of a notebook its Markdown."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return " ".join(text.split())


QUOTES = [
    *demo_quotes(),
    *table_quotes(),
    *variant_quotes(),
    *loop_quotes(),
    *projection_quotes(),
    *study_quotes(),
    *objective_quotes(),
    *per_example_quotes(),
    *per_example_on_images_quotes(),
    *relearn_quotes(),
    *stop_on_images_quotes(),
    *relearn_on_images_quotes(),
    *full_size_quotes(),
    *claims_quotes(),
    *schedule_quotes(),
    *hundred_classes_quotes(),
    *long_quotes(),
]


@pytest.mark.parametrize(("path", "sentence"), QUOTES, ids=[f"{path}: {sentence[:40]}" for path, sentence in QUOTES])
def test_a_quoted_figure_is_that_of_the_stored_result(path, sentence):
    assert sentence in text_of(path)


def table_document():
    """The table of CIFAR-10 as the report's pictures take it, from what is stored of it."""
    table = stored("cifar10-10-cpu")["table"]
    cells = lambda values: [{"metrics": metrics, "diverged": False} for metrics in values]
    rows = [
        {**row, "cells": [{"diverged": False, "curve": [{"steps": p["steps"], "metrics": p} for p in row["curve"]]}]}
        for row in table["rows"]
    ]
    return {"rows": rows, **{name: cells(table[name]["values"]) for name in ("original", "retrain")}}


PICTURES = {
    "demo": lambda: figures.demo_figure(stored("demo")),
    "sensitivity": lambda: sensitivity.figure(stored("sensitivity")),
    "cifar10-10-cpu-methods": lambda: report_figures.methods_figure(table_document()),
    "replicate-cifar10-10-attacks": lambda: report_figures.attacks_figure(stored("replicate-cifar10-10")),
    "replicate-cifar10-10-cpu-scale": lambda: report_figures.scale_figure(stored("replicate-cifar10-10-cpu")),
    "cifar10-10-cpu-tradeoff": lambda: report_figures.tradeoff_figure(table_document()),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_the_stored_result(name, tmp_path):
    """Drawn anew it looks the same, but for how letters come out on another machine. Differences are those of means of
    blocks of 25 x 25 pixels: a bar that moved is seen, a letter that is drawn otherwise is not."""
    paths = (figures.picture(tmp_path / "fresh.png", PICTURES[name]), next((ROOT / "oeu_ref").glob(f"*/{name}.png")))
    pictures = [matplotlib.image.imread(path)[..., :3] for path in paths]
    assert pictures[0].shape == pictures[1].shape
    height, width = (size // 25 for size in pictures[0].shape[:2])
    blocks = [p[: 25 * height, : 25 * width].reshape(height, 25, width, 25, 3).mean(axis=(1, 3)) for p in pictures]
    assert np.abs(blocks[0] - blocks[1]).max() < 0.2
