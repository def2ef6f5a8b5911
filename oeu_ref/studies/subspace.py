"""Does it help to project off the last m retain gradients instead of one? One step, measured, and whole runs.

The forget gradient is projected off the span of m mini-batch retain gradients (`oeu_ref.beyond.subspace`). A step is
measured within a run: fresh gradients are taken at the weights where it starts, from m batches; a run has one of them
and its last m - 1, free of cost.
"""

import copy
import dataclasses
import itertools
import math
import statistics
import textwrap
import time

import numpy as np
import torch

from ..beyond.subspace import SubspaceOEU
from ..data.samples import stream
from ..lab import engine, search
from ..lab.study import batches
from ..methods.method import Settings
from ..methods.orthogonal import OrthogonalEntropy
from ..report import figures, results
from . import STUDIES
from .one_step import Probe

QUESTION = STUDIES["subspace"]
REPORTED_SEEDS = (1, 2, 3, 4, 5)
SEARCH_SEEDS = (101, 102)
GRID = {"learning_rate": (0.1, 0.3), "weight": (0.1, 0.3, 1.0, 3.0)}
SIZES = (1, 2, 4, 8, 16)
NETWORKS = {"4-bit": 4, "unquantized": 32}
LENGTHS = (0.1, 0.3)  # of one step; the vector of all weights is about 21 long
HELD_OUT = 256  # retain samples that no gradient sees
DRAWS = 4  # of fresh batches; their mean counts as one value
FULL = {"held_out": HELD_OUT, "draws": DRAWS, "sizes": SIZES, "grid": GRID}
SMALL = {**FULL, "draws": 1, "sizes": (1, 2), "grid": {**GRID, "weight": (0.3,)}}
HISTORIES = {"fresh": "fresh gradients", "last": "the last steps'"}


class OrthogonalEntropyWithMemory(OrthogonalEntropy):
    """OEU whose forget gradient is projected off its last m retain gradients, `SubspaceOEU`; size: m, 0: not at all."""

    def __init__(self, model, forget, settings, generator, size=1):
        super().__init__(model, forget, settings, generator, alpha=1.0 if size else 0.0)
        if size > 1:
            self.oeu = SubspaceOEU(model, self.optimizer, memory=size, beta=settings.weight)


def collect(seeds, base, quick, bar):
    """(config, found) for the document: single steps and whole runs, 4-bit and unquantized."""
    scale = SMALL if quick else FULL
    demo = search.load_settings(base.max_steps)["oeu"]
    sizes = (0, *scale["sizes"])
    steps = {network: {} for network in NETWORKS}
    runs = {network: {str(m): [] for m in sizes} for network in NETWORKS}
    searched = SEARCH_SEEDS[: 1 if quick else None]
    points = len(sizes) * math.prod(map(len, scale["grid"].values()))
    bar.reset(len(searched) * points + len(seeds) * len(NETWORKS))
    best = _search(searched, base, sizes, scale["grid"], demo[1], bar)
    for (network, bits), seed in itertools.product(NETWORKS.items(), seeds):
        bar.set_description(f"{network}, seed {seed}")
        case = engine.prepare(seed, dataclasses.replace(base, bits=bits))
        _append(steps[network], _one_step(case, scale, demo[0]))
        for m in sizes:
            runs[network][str(m)].append(_metrics(case, m, Settings(**best[str(m)]), demo[1]))
        bar.update()
    costs = _costs(case, scale["sizes"], demo[0], rounds=1 if quick else 9)
    config = {**scale, "lengths": LENGTHS, "search_seeds": searched, "demo": [vars(demo[0]), demo[1]]}
    return config, {"steps": steps, "runs": runs, "best": best, "costs": costs}


def _search(seeds, base, sizes, grid, steps, bar):
    """Best setting of each m by mean AG on the 4-bit network: dict m -> {"learning_rate", "weight"}."""

    def attempt(case, m, rate, weight):
        settings = Settings(rate, weight)
        return search.gaps_along(case.gap, (steps,), lambda look: _unlearned(case, m, settings, steps, look))

    cases = (engine.prepare(seed, base) for seed in seeds)
    found = search.searched(sizes, cases, {**grid, "steps": (steps,)}, attempt, bar)
    return {str(m): {axis: found[m]["best"][axis] for axis in grid} for m in sizes}


def _unlearned(case, size, settings, steps, look=None):
    return engine.forget(case, OrthogonalEntropyWithMemory, settings, steps, look, (("size", size),))[0]


def _metrics(case, size, settings, steps):
    """Metrics of one whole run with memory m = size, AG among them; None if it diverged."""
    found = case.attempt(lambda: _unlearned(case, size, settings, steps))
    return found and {key: found[key] for key in ("FA", "RA", "TA", "MIA", "AG")}


def _one_step(case, scale, settings):
    """Measurements of single steps of one seed: dict history -> direction -> `Probe.measure`'s result."""
    retain = case.splits.retain
    sizes = scale["sizes"]
    batch = case.experiment.retain_batch
    order = torch.randperm(len(retain), generator=stream(case.seed, "held out"))
    unseen, seen = retain[order[: scale["held_out"]]], retain[order[scale["held_out"] :]]
    case = dataclasses.replace(case, splits=dataclasses.replace(case.splits, retain=seen))
    method = OrthogonalEntropyWithMemory(
        copy.deepcopy(case.original), case.splits.forget, settings, stream(case.seed, "method"), size=max(sizes)
    )
    for pair in batches(case, max(sizes)):
        method.step(*pair)
    probe = Probe(method.model, case.splits.forget, retain, unseen, LENGTHS)
    generator = stream(case.seed, f"fresh batches of {batch}")
    past = method.oeu.remembered.history(probe.named)
    draws = {place: [] for place in HISTORIES}
    for _ in range(scale["draws"]):
        chosen = [torch.randperm(len(seen), generator=generator)[:batch] for _ in range(max(sizes))]
        fresh = [probe.retain_gradient(seen[indices]) for indices in chosen]
        for place, history in (("fresh", fresh), ("last", [*past, fresh[-1]])):
            draws[place].append({f"m = {m}": probe.measure(history[-m:]) for m in sizes})
    raw, whole = {"raw": probe.measure(None)}, {"whole": probe.measure([probe.g_r["whole"]])}
    return {place: {**raw, **_mean(found), **whole} for place, found in draws.items()}


def _mean(draws):
    """Mean of several draws' measurements, direction by direction and key by key."""
    return {
        name: {key: np.mean([draw[name][key] for draw in draws], axis=0).tolist() for key in draws[0][name]}
        for name in draws[0]
    }


def _append(collected, found):
    """Add one seed's measurements to the lists that hold all seeds'."""
    for place, directions in found.items():
        for name, values in directions.items():
            for key, value in values.items():
                collected.setdefault(place, {}).setdefault(name, {}).setdefault(key, []).append(value)


def _costs(case, sizes, settings, rounds):
    """{m: {"time": ratios of a step's time to that of the step with m = 1, by turns, "bytes": of the memory}}."""
    pair = case.splits.forget[:128], case.splits.retain[:128]
    methods = {}
    for m in sizes:
        model = copy.deepcopy(case.original)
        methods[m] = OrthogonalEntropyWithMemory(model, pair[0], settings, stream(0, "method"), size=m)
        for _ in range(m):
            methods[m].step(*pair)  # from then on the memory is full
    ratios = {m: [] for m in sizes}
    for _ in range(rounds):
        seconds = {}
        for m, method in methods.items():
            start = time.perf_counter()
            for _ in range(5):
                method.step(*pair)
            seconds[m] = time.perf_counter() - start
        for m in sizes:
            ratios[m].append(seconds[m] / seconds[sizes[0]])
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return {str(m): {"time": ratios[m], "bytes": (m - 1) * held} for m in sizes}


def damage(directions, name, at):
    """Rise of the unseen retain loss for each nat of forget entropy gained, in percent of that of the raw step.

    directions: measurements from one point, by direction; name: one of them; at: the length's number.
    Returns {"mean", "spread"}: the ratio of the means over seeds, and its standard error by the jackknife. A mean of
    ratios would hang on the one seed whose raw step does next to no harm.
    """
    harm = {
        n: np.array(directions[n]["unseen"])[:, at] / -np.array(directions[n]["forget"])[:, at] for n in (name, "raw")
    }
    ratio = lambda kept: 100 * harm[name][kept].mean() / harm["raw"][kept].mean()
    everyone = np.arange(len(harm["raw"]))
    left_out = [ratio(everyone != i) for i in everyone] if len(everyone) > 1 else None
    spread = None if left_out is None else float(np.std(left_out) * (len(everyone) - 1) ** 0.5)
    return {"mean": float(ratio(everyone)), "spread": spread}


def markdown(data):
    """Three tables and a caption, from the contents of subspace.json alone."""
    steps, lengths = data["steps"], data["config"]["lengths"]
    labels = {(p, d): f"{HISTORIES[p]}: {d}" for p, found in steps["4-bit"].items() for d in found}
    one_step, damages = {}, {}
    for place, name in labels:
        found = steps["4-bit"][place][name]
        values = {"left of g_f, %": np.multiply(100, found["left"])}
        values["cosine with unseen, %"] = np.multiply(100, found["cosine"])
        for part, title in (("unseen", "unseen"), ("whole", "whole retain set"), ("forget", "forget entropy")):
            values[f"{title}, mnat"] = 1000 * np.array(found[part])[:, 0] * (-1 if part == "forget" else 1)
        one_step[place, name] = {key: results.mean_and_spread(value) for key, value in values.items()}
        damages[place, name] = {
            f"{network}: {length:g}": damage(of[place], name, at)
            for network, of in steps.items()
            for at, length in enumerate(lengths)
        }
        damages[place, name]["curvature"] = results.mean_and_spread(steps["unquantized"][place][name]["curvature"])
    first, second = (results.table(t, labels, list(t["fresh", "raw"])) for t in (one_step, damages))
    parts = [f"One step of length {lengths[0]}, 4-bit network:", first]
    parts += ["Rise of the unseen retain loss for each nat of forget entropy, % of the raw step's (network: length):"]
    return "\n\n".join([*parts, second, "Whole runs:", _runs_table(data), _caption(data)])


def _runs_table(data):
    rows = {}
    labels = {m: f"m = {m}" if m != "0" else "no projection" for m in data["runs"]["4-bit"]}
    for m in labels:
        rows[m] = {}
        for network, found in data["runs"].items():
            kept = [run for run in found[m] if run is not None]
            for metric in ("AG", "FA", "RA", "TA", "MIA") if kept else ():
                rows[m][f"{network}: {metric}"] = results.mean_and_spread([run[metric] for run in kept])
        if m in data["costs"]:
            rows[m]["time / m = 1"] = {"mean": statistics.median(data["costs"][m]["time"]), "spread": None}
            rows[m]["memory, KiB"] = {"mean": data["costs"][m]["bytes"] / 1024, "spread": None}
    return results.table(rows, labels, list(rows["1"]))


def _caption(data):
    config = data["config"]
    seeds = ", ".join(map(str, data["seeds"]))
    demo, steps = config["demo"]
    own = "; ".join(
        f"{'no projection' if m == '0' else f'm = {m}'} {best['learning_rate']:g} and {best['weight']:g}"
        for m, best in data["best"].items()
    )
    lost = sum(run is None for found in data["runs"].values() for runs in found.values() for run in runs)
    searched = ", ".join(map(str, config["search_seeds"]))
    m = config["sizes"][-1]
    points = math.prod(map(len, config["grid"].values()))
    text = f"""Digits, mean ± standard deviation over seeds {seeds}; batches of 128. A step goes against g_perp: the
        gradient of the forget set's negative entropy, in each layer projected off the span of m mini-batch retain
        gradients; raw: not projected; whole: off the whole retain set's gradient. It is taken after {m} steps of OEU
        with m = {m} at the demo's setting, learning rate {demo["learning_rate"]:g} and weight {demo["weight"]:g}.
        Fresh: all gradients at the weights where the step starts; the last steps': as in a run, one fresh gradient and
        those of the m - 1 steps before; both averaged over {config["draws"]} draws of batches. Unseen:
        {config["held_out"]} retain samples that no mini-batch contains. Losses in train mode; mnat: a thousandth of a
        nat. Percentages: ratios of means over seeds ± standard error by the jackknife. Curvature: u'Hu of the whole
        retain loss for the unit step u, unquantized network. Whole runs: {steps} steps, learning rate and weight the
        best by AG on the 4-bit network of {points} points, seeds {searched}: {own}.
        {lost or "No"} run{"s" * (lost != 1)} diverged. Time of a step, median over rounds; memory: of the m - 1
        gradients of earlier steps."""
    return textwrap.fill(" ".join(text.split()), 120)


def figure(data):
    """What a step costs against m; AG against m.  data: contents of subspace.json."""
    picture = figures.new_figure(8, 3.9)
    axes = picture.subplots(1, 2)
    _draw_sizes(axes[0], data["steps"], data["config"])
    _draw_gaps(axes[1], data["runs"])
    for ax in axes:
        ax.legend(frameon=False, fontsize=8, handlelength=2.8)
    return picture


def _draw_sizes(ax, steps, config):
    sizes = config["sizes"]
    looks = {"4-bit": (figures.DEPTHS[-1], "-"), "unquantized": (figures.STYLES["test"]["color"], "-.")}
    for network, (color, line) in looks.items():
        for place, marker, fill in (("fresh", "o", color), ("last", "s", "white")):
            directions = steps[network][place]
            means = [damage(directions, f"m = {m}", 0)["mean"] for m in sizes]
            label = f"{network}, {'fresh' if place == 'fresh' else 'last steps'}"
            style = {"color": color, "linestyle": line, "marker": marker, "markerfacecolor": fill, "linewidth": 1.5}
            ax.plot(range(len(sizes)), means, label=label, markersize=4.5, **style)
        whole = damage(steps[network]["fresh"], "whole", 0)["mean"]
        ax.axhline(whole, color=color, linestyle=":", linewidth=1.1, label=f"{network}, whole set")
    ax.set_xticks(range(len(sizes)), sizes)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("m: retain gradients projected off")
    ax.set_ylabel("retain harm per forgetting (% of raw)")
    figures.clean(ax, f"A step of length {config['lengths'][0]:g}", grid="y")


def _draw_gaps(ax, runs):
    looks = {"4-bit": (figures.DEPTHS[-1], "-", "o"), "unquantized": (figures.STYLES["test"]["color"], "-.", "s")}
    for shift, (network, (color, line, marker)) in zip((-0.06, 0.06), looks.items()):
        found = [results.mean_and_spread([r["AG"] for r in of if r] or [math.nan]) for of in runs[network].values()]
        means, spreads = [value["mean"] for value in found], [value["spread"] or 0.0 for value in found]
        low = np.fmin(means, spreads)  # a gap is never negative
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4.5, "capsize": 2.5}
        ax.errorbar(np.arange(len(found)) + shift, means, [low, spreads], label=network, **style)
    ax.set_xticks(range(len(runs["4-bit"])), ["none" if m == "0" else m for m in runs["4-bit"]])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("m: retain gradients projected off")
    ax.set_ylabel("AG (percentage points)")
    figures.clean(ax, "Whole runs", grid="y")
