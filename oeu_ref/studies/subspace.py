"""Does it help to project off the last m retain gradients instead of one? One step, measured, and whole runs.

The forget gradient is projected off the span of m mini-batch retain gradients (`oeu_ref.beyond.subspace`). Fresh ones
are taken at the weights where the step starts, from m batches; a run has one of them and its last m - 1, free of cost.
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

from ..beyond.subspace import RetainMemory, projected
from ..core.entropy import entropy_loss
from ..core.unlearner import layers_of
from ..data.samples import stream
from ..lab import baselines, engine, figures, results, search
from ..lab.training import unlearn
from . import STUDIES
from .one_step import Probe

QUESTION = STUDIES["subspace"]
REPORTED_SEEDS = (1, 2, 3, 4, 5)
SEARCH_SEEDS = (101, 102)
GRID = {"learning_rate": (0.1, 0.3), "weight": (0.1, 0.3, 1.0, 3.0)}
SIZES = (1, 2, 4, 8, 16)
BATCHES = (32, 128)
NETWORKS = {"4-bit": 4, "unquantized": 32}
LENGTHS = (0.01, 0.03, 0.1, 0.3)  # of one step; the vector of all weights is about 21 long
LENGTH = 0.1  # the one in the tables
HELD_OUT = 256  # retain samples that no gradient sees
DRAWS = 4  # of fresh batches; their mean counts as one value
SMALL = {"held_out": 256, "draws": 1, "batches": (32,), "sizes": (1, 2), "grid": {**GRID, "weight": (0.3,)}}
FULL = {"held_out": HELD_OUT, "draws": DRAWS, "batches": BATCHES, "sizes": SIZES, "grid": GRID}
HISTORIES = {"start": "trained network, fresh", "fresh": "within a run, fresh", "last": "within a run, last steps'"}


class OrthogonalEntropyWithMemory(baselines.Method):
    """OEU whose forget gradient is projected off its last m retain gradients; m = 1 is `baselines.OrthogonalEntropy`.

    size: m, 0 for no projection; keep: gradients to remember, at least m.  Update: SGD along g_r + w g_perp.
    """

    def __init__(self, model, forget, settings, generator, size=1, keep=1):
        super().__init__(model, forget, settings, generator)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.layers = layers_of(model, self.named)
        self.size, self.memory = size, RetainMemory(max(size, keep))

    def loss_of_forget(self, logits, batch):
        return entropy_loss(logits)

    def direction(self, forget_loss, retain_loss):
        g_f, g_r = self.gradient(forget_loss), self.gradient(retain_loss)
        self.memory.push(dict(zip(self.named, g_r)))
        if self.size:
            g_f = projected(g_f, self.memory.history(self.named)[-self.size :], self.layers)
        return torch._foreach_add(g_r, g_f, alpha=self.settings.weight)


def collect(seeds, base, quick, bar):
    """(config, found) for the document: single steps and whole runs, 4-bit and unquantized."""
    scale = SMALL if quick else FULL
    demo = search.load_settings(base.max_steps)["oeu"]
    sizes = (0, *scale["sizes"])
    steps = {network: {str(b): {} for b in scale["batches"]} for network in NETWORKS}
    runs = {network: {str(m): {"demo": [], "own": []} for m in sizes} for network in NETWORKS}
    searched = SEARCH_SEEDS[: 1 if quick else None]
    points = len(sizes) * math.prod(map(len, scale["grid"].values()))
    bar.reset(len(searched) * points + len(seeds) * len(NETWORKS))
    best = _search(searched, base, sizes, scale["grid"], demo[1], bar)
    for (network, bits), seed in itertools.product(NETWORKS.items(), seeds):
        bar.set_description(f"{network}, seed {seed}")
        case = engine.prepare(seed, dataclasses.replace(base, bits=bits))
        for b in scale["batches"]:
            _append(steps[network][str(b)], _one_step(case, b, scale, demo[0]))
        for m in sizes:
            own = baselines.Settings(**best[str(m)])
            for name, settings in (("demo", demo[0]), ("own", own)):
                runs[network][str(m)][name].append(_metrics(case, m, settings, demo[1]))
        bar.update()
    costs = _costs(case, scale["sizes"], demo[0], rounds=1 if quick else 9)
    config = {**scale, "lengths": LENGTHS, "search_seeds": searched, "demo": [vars(demo[0]), demo[1]]}
    return config, {"steps": steps, "runs": runs, "best": best, "costs": costs}


def _search(seeds, base, sizes, grid, steps, bar):
    """Best setting of each m by mean AG on the 4-bit network: dict m -> {"learning_rate", "weight"}."""

    def attempt(case, m, rate, weight):
        settings = baselines.Settings(rate, weight)
        return search.gaps_along(case.gap, (steps,), lambda look: _whole_run(case, settings, steps, m))

    cases = (engine.prepare(seed, base) for seed in seeds)
    found = search.searched(sizes, cases, {**grid, "steps": (steps,)}, attempt, bar)
    return {str(m): {axis: found[m]["best"][axis] for axis in grid} for m in sizes}


def _whole_run(case, settings, steps, size):
    return _unlearned(case, settings, steps, case.experiment.retain_batch, size).model


def _metrics(case, size, settings, steps):
    """Metrics of one whole run with memory m = size, AG among them; None if it diverged."""
    found = case.attempt(lambda: _whole_run(case, settings, steps, size))
    return found and {key: found[key] for key in ("FA", "RA", "TA", "MIA", "AG")}


def _unlearned(case, settings, steps, batch, size, retain=None, keep=1):
    """The method after some steps; batches as in `engine.forget`, so that m = 1 is the demo's OEU."""
    model = copy.deepcopy(case.original)
    method = OrthogonalEntropyWithMemory(
        model, case.splits.forget, settings, stream(case.seed, "method"), size=size, keep=keep
    )
    streams = stream(case.seed, "forget batches"), stream(case.seed, "retain batches")
    config = dataclasses.replace(case.experiment.unlearning(), retain_batch=batch)
    unlearn(method, case.splits.forget, case.splits.retain if retain is None else retain, steps, config, streams)
    return method


def _one_step(case, batch, scale, settings):
    """Measurements of single steps of one seed: dict history -> direction -> `Probe.measure`'s result."""
    retain, sizes = case.splits.retain, scale["sizes"]
    order = torch.randperm(len(retain), generator=stream(case.seed, "held out"))
    unseen, seen = retain[order[: scale["held_out"]]], retain[order[scale["held_out"] :]]
    method = _unlearned(case, settings, max(sizes), batch, 1, seen, keep=max(sizes) - 1 or 1)
    found = {}
    for place, model in (("start", case.original), ("fresh", method.model)):
        probe = Probe(model, case.splits.forget, retain, unseen, LENGTHS)
        generator, past = stream(case.seed, f"{place} batches of {batch}"), method.memory.history(probe.named)
        draws, lasts = [], []
        for _ in range(scale["draws"]):
            chosen = [torch.randperm(len(seen), generator=generator)[:batch] for _ in range(max(sizes))]
            history = [probe.retain_gradient(seen[indices]) for indices in chosen]
            draws.append({f"m = {m}": probe.measure(history[-m:]) for m in sizes})
            # the same samples and the same cost, but one direction: what averaging alone would do
            mean = [sum(parts) / len(parts) for parts in zip(*history)]
            draws[-1][f"mean of {len(history)}"] = probe.measure([mean])
            lasts.append({f"m = {m}": probe.measure([*past, history[-1]][-m:]) for m in sizes})
        ends = {"raw": probe.measure(None)}, {"whole": probe.measure([probe.g_r["whole"]])}
        found[place] = {**ends[0], **_mean(draws), **ends[1]}
    found["last"] = {**ends[0], **_mean(lasts), **ends[1]}  # at the place of the last turn of the loop
    return found


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
    batches = case.splits.forget[:128], case.splits.retain[:128]
    methods = {}
    for m in sizes:
        model = copy.deepcopy(case.original)
        methods[m] = OrthogonalEntropyWithMemory(model, batches[0], settings, stream(0, "method"), size=m)
        for _ in range(m):
            methods[m].step(*batches)  # from then on the memory is full
    ratios = {m: [] for m in sizes}
    for _ in range(rounds):
        seconds = {}
        for m, method in methods.items():
            start = time.perf_counter()
            for _ in range(5):
                method.step(*batches)
            seconds[m] = time.perf_counter() - start
        for m in sizes:
            ratios[m].append(seconds[m] / seconds[sizes[0]])
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return {str(m): {"time": ratios[m], "bytes": m * held} for m in sizes}


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
    steps, config = data["steps"], data["config"]
    at = config["lengths"].index(LENGTH)
    batch = str(config["batches"][-1])
    labels = {(p, d): f"{HISTORIES[p]}: {d}" for p, found in steps["4-bit"][batch].items() for d in found}
    one_step, damages = {}, {}
    for place, name in labels:
        directions = steps["4-bit"][batch][place]
        found = directions[name]
        values = {"left of g_f, %": np.multiply(100, found["left"])}
        values["cosine with unseen, %"] = np.multiply(100, found["cosine"])
        for part, title in (("unseen", "unseen"), ("whole", "whole retain set"), ("forget", "forget entropy")):
            values[f"{title}, mnat"] = 1000 * np.array(found[part])[:, at] * (-1 if part == "forget" else 1)
        one_step[place, name] = {key: results.mean_and_spread(value) for key, value in values.items()}
        damages[place, name] = {
            f"{network}, {b}: {length:g}": damage(of_b[place], name, config["lengths"].index(length))
            for network, by_batch in steps.items()
            for b, of_b in by_batch.items()
            for length in (LENGTH, config["lengths"][-1])
        }
        curvature = steps["unquantized"][batch][place][name]["curvature"]
        damages[place, name]["curvature"] = results.mean_and_spread(curvature)
    first, second = (results.table(t, labels, list(t["start", "raw"])) for t in (one_step, damages))
    parts = [f"One step of length {LENGTH}, 4-bit network, batches of {batch}:", first]
    parts += [
        "Rise of the unseen retain loss for each nat of forget entropy, % of the raw step's (network, batch: length):",
        second,
    ]
    return "\n\n".join([*parts, "Whole runs:", _runs_table(data), _caption(data)])


def _runs_table(data):
    rows, labels = {}, {m: f"m = {m}" if m != "0" else "no projection" for m in data["runs"]["4-bit"]}
    for m in labels:
        rows[m] = {}
        for network, found in data["runs"].items():
            for settings in _settings_shown(data):
                kept = [run for run in found[m][settings] if run is not None]
                for metric in ("AG", "FA", "RA", "TA", "MIA") if kept else ():
                    column = f"{network}: {metric}" + (", own" if settings == "own" else "")
                    rows[m][column] = results.mean_and_spread([run[metric] for run in kept])
        if m in data["costs"]:
            rows[m]["time / m = 1"] = {"mean": statistics.median(data["costs"][m]["time"]), "spread": None}
            rows[m]["memory, KiB"] = {"mean": data["costs"][m]["bytes"] / 1024, "spread": None}
    return results.table(rows, labels, list(rows["1"]))


def _settings_shown(data):
    """Demo's and own settings, the latter only where the search chose another one for some m."""
    demo = data["config"]["demo"][0]
    same = all(found == {key: demo[key] for key in found} for found in data["best"].values())
    return ("demo",) if same else ("demo", "own")


def _caption(data):
    config, seeds = data["config"], ", ".join(map(str, data["seeds"]))
    demo, steps = config["demo"]
    chosen = {m: f"{best['learning_rate']:g} and {best['weight']:g}" for m, best in data["best"].items()}
    own = "; ".join(f"{'no projection' if m == '0' else f'm = {m}'} {best}" for m, best in chosen.items())
    own = "that one for each m" if _settings_shown(data) == ("demo",) else own
    lost = sum(
        run is None for found in data["runs"].values() for of in found.values() for r in of.values() for run in r
    )
    searched = ", ".join(map(str, config["search_seeds"]))
    m, points = config["sizes"][-1], math.prod(map(len, config["grid"].values()))
    text = f"""Digits, mean ± standard deviation over seeds {seeds}. A step goes against g_perp: the gradient of the
        forget set's negative entropy, in each layer projected off the span of m mini-batch retain gradients; raw: not
        projected; mean of {m}: off their mean; whole: off the whole retain set's gradient. Trained network: before
        unlearning; within a run: after {m} OEU steps at the demo's setting. Fresh: all gradients at the weights where
        the step starts; last steps': as in a run, one fresh gradient and those of the m - 1 steps before; both averaged
        over {config["draws"]} draws of batches. Unseen: {config["held_out"]} retain samples that no mini-batch
        contains. Losses in train mode; mnat: a thousandth of a nat. Percentages: ratios of means over seeds ± standard
        error by the jackknife. Curvature: u'Hu of the whole retain loss for the
        unit step u, unquantized network, batches of {config["batches"][-1]}. Whole runs: {steps} steps, batches of 128.
        Demo's setting: learning rate {demo["learning_rate"]:g}, weight {demo["weight"]:g}, chosen for m = 1.
        Own setting, best AG on the 4-bit network of {points} points, seeds {searched}: {own}.
        {lost or "No"} run{"s" * (lost != 1)} diverged. Time of a step at batch 128, median over rounds; memory: of the
        m gradients."""
    return textwrap.fill(" ".join(text.split()), 120)


def figure(data):
    """What a step costs against its length; that cost against m; AG against m.  data: contents of subspace.json.

    Returns a Matplotlib `Figure`, 1500 pixels wide.
    """
    picture = figures.new_figure(10, 3.9)
    axes = picture.subplots(1, 3)
    batch = str(data["config"]["batches"][-1])
    _draw_lengths(axes[0], data["steps"]["4-bit"][batch]["last"], data["config"]["lengths"])
    _draw_sizes(axes[1], data["steps"], batch, data["config"])
    _draw_gaps(axes[2], data["runs"], _settings_shown(data))
    for ax in axes:
        ax.legend(frameon=False, fontsize=8, handlelength=2.8)
    return picture


def _draw_lengths(ax, directions, lengths):
    oeu, sizes = figures.STYLES["oeu"]["color"], [name for name in directions if name.startswith("m = ")]
    lines = {"raw": ("not projected", figures.STYLES["forget"]["color"], "-", "o")}
    lines[sizes[0]] = (sizes[0], oeu, "--", "s")
    lines[sizes[-1]] = (sizes[-1], figures.DEPTHS[-1], "-", "D")
    lines["whole"] = ("whole retain set", figures.STYLES["retain"]["color"], ":", "^")
    for name, (label, color, line, marker) in lines.items():
        change = 1000 * np.mean(directions[name]["unseen"], axis=0)
        change[change <= 0] = math.nan  # steps so short that the loss fell have no place on a log axis
        ax.plot(lengths, change, color=color, linestyle=line, marker=marker, markersize=4, label=label, linewidth=1.6)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(lengths, [f"{length:g}" for length in lengths])
    ax.minorticks_off()
    ax.set_xlabel("length of the step")
    ax.set_ylabel("rise of unseen retain loss (mnat)")
    figures.clean(ax, "Harm of one step, 4-bit", grid="y")


def _draw_sizes(ax, steps, batch, config):
    sizes, at = config["sizes"], config["lengths"].index(LENGTH)
    looks = {"4-bit": (figures.DEPTHS[-1], "-"), "unquantized": (figures.STYLES["test"]["color"], "-.")}
    for network, (color, line) in looks.items():
        for place, marker, fill in (("fresh", "o", color), ("last", "s", "white")):
            directions = steps[network][batch][place]
            means = [damage(directions, f"m = {m}", at)["mean"] for m in sizes]
            label = f"{network}, {'fresh' if place == 'fresh' else 'last steps'}"
            style = {"color": color, "linestyle": line, "marker": marker, "markerfacecolor": fill, "linewidth": 1.5}
            ax.plot(range(len(sizes)), means, label=label, markersize=4.5, **style)
        whole = damage(steps[network][batch]["fresh"], "whole", at)["mean"]
        ax.axhline(whole, color=color, linestyle=":", linewidth=1.1, label=f"{network}, whole set")
    ax.set_xticks(range(len(sizes)), sizes)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("m: retain gradients projected off")
    ax.set_ylabel("retain harm per forgetting (% of raw)")
    figures.clean(ax, f"A step of length {LENGTH:g}", grid="y")


def _draw_gaps(ax, runs, shown):
    looks = {"4-bit": (figures.DEPTHS[-1], "-", "o"), "unquantized": (figures.STYLES["test"]["color"], "-.", "s")}
    for shift, (network, (color, line, marker)) in zip((-0.06, 0.06), looks.items()):
        of_m = runs[network].values()
        found = [results.mean_and_spread([r["AG"] for r in of[shown[-1]] if r] or [math.nan]) for of in of_m]
        means, spreads = [value["mean"] for value in found], [value["spread"] or 0.0 for value in found]
        low = np.fmin(means, spreads)  # a gap is never negative
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4.5, "capsize": 2.5}
        ax.errorbar(np.arange(len(found)) + shift, means, [low, spreads], label=network, **style)
    ax.set_xticks(range(len(runs["4-bit"])), ["none" if m == "0" else m for m in runs["4-bit"]])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("m: retain gradients projected off")
    ax.set_ylabel("AG (percentage points)")
    figures.clean(ax, "Whole runs", grid="y")
