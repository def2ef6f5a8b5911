"""When to stop: where do four rules end OEU, and what would the best step in hindsight have been?

No rule sees Retrain or a test sample; the mean gap to Retrain (AG) says afterwards what its choice was worth. On images
a look takes longer than the steps between two: every fifth step is looked at, and hindsight knows no others.
"""

import copy
import dataclasses

import numpy as np

from ..core.stop_rule import mean_entropy
from ..core.unlearner import NonFiniteError
from ..lab import engine
from ..lab.experiment import Digits, described
from ..lab.study import cost
from ..methods.method import Settings
from ..own.stop import IDEAL, GuardedStop
from ..report import figures, results

QUESTION = "Where do stop rules end OEU, and what would the best step in hindsight have been?"
REPORTED_SEEDS = (1, 2, 3)
IMAGE_SEEDS = (1, 2, 3)
SETTINGS = {  # learning rate, beta, momentum, and the steps that are looked at
    "0.1, beta 0.3": (Settings(0.1, 0.3, 0.9, 0.0), 40),
    "0.01, beta 0.3": (Settings(0.01, 0.3, 0.9, 0.0), 160),
    "0.1, beta 1": (Settings(0.1, 1.0, 0.9, 0.0), 40),
    "1, beta 1 (a wreck)": (Settings(1.0, 1.0, 0.9, 0.0), 20),
    "0.001, beta 1 (too slow)": (Settings(0.001, 1.0, 0.9, 0.0), 40),
}
IMAGE_SETTINGS = {  # what the search for the tables chose, and what an engineer at the door would take
    "0.03, beta 1": (Settings(0.03, 1.0), 80),
    "0.03, beta 0.3": (Settings(0.03, 0.3, 0.9, 0.0), 80),
    "0.01, beta 0.3": (Settings(0.01, 0.3, 0.9, 0.0), 80),
}
IMAGE_EVERY = 5  # steps between two looks
RULES = {
    "entropy": "mean entropy (`EntropyStop`)",
    "auc": "AUC at least 50",
    "fa": "FA at its target",
    "guarded": "all, and a floor (`GuardedStop`)",
    "hindsight": "best step in hindsight",
}


def collect(seeds, config, quick, bar, work):
    """(config, found): "stops"[setting][rule] has a dict a seed, status, step, and FA, RA, TA, AG there; "retrain"."""
    chosen, every = (SETTINGS, 1) if isinstance(config, Digits) else (IMAGE_SETTINGS, IMAGE_EVERY)
    settings = {name: (s, 2 if quick else steps) for name, (s, steps) in chosen.items()}
    bar.reset(len(settings) * len(seeds))
    stops = {name: {rule: [] for rule in RULES} for name in settings}
    retrain = []
    for seed in seeds:
        retrain.append(work.part(f"seed-{seed}-retrain", {"seed": seed}, lambda: work.case(seed).target))
        for name, (setting, steps) in settings.items():
            about = {"seed": seed, "settings": vars(setting), "steps": steps, "every": every}
            make = lambda: _ends(work.case(seed), setting, steps, every)
            for rule, end in work.part(f"seed-{seed}-{name}", about, make).items():
                stops[name][rule].append(end)
            bar.update()
    plain = {name: {**dataclasses.asdict(s), "steps": steps} for name, (s, steps) in settings.items()}
    found = {"labels": RULES, "stops": stops, "retrain": retrain, "seconds": work.seconds, "mib": work.mib}
    return {**described(config), "settings": plain, "every": every}, found


def _ends(case, setting, steps, every=1):
    """{rule: where it ends one run}: None where it never does; every: steps between two looks."""
    splits = case.splits
    model = copy.deepcopy(case.original)
    guard = GuardedStop(model, splits.forget, splits.retain, splits.validation, max_steps=steps)
    ends = dict.fromkeys(RULES)

    def look(network, step, report=None):
        if step % every and step < steps:
            return
        guard.model = network
        now = {**guard.measure(), "step": step}
        values = {key: value for key, value in case.judged(network).items() if key in ("FA", "RA", "TA", "AG")}
        forget, unseen = (mean_entropy(network, part.inputs) for part in (splits.forget, splits.validation))
        right_fa = now["FA"] <= guard.target + guard.error
        for rule, over in (("entropy", forget >= unseen), ("auc", now["AUC"] >= IDEAL), ("fa", right_fa)):
            if over and ends[rule] is None:
                ends[rule] = {"status": "reached", "step": step, **values}
        if guard.status is None:
            guard.judge(now, step == steps)
            if guard.status is not None:
                ends["guarded"] = {"status": guard.status, "step": step, **values}
        if ends["hindsight"] is None or values["AG"] < ends["hindsight"]["AG"]:
            ends["hindsight"] = {"status": "reached", "step": step, **values}

    look(model, 0)
    try:
        engine.forget(case, "oeu", setting, steps, look)
    except NonFiniteError:
        pass  # what was reached before counts
    return ends


def markdown(data):
    """Table from the study's JSON alone: a row a setting and rule, means over the seeds on which the rule ended."""
    rows = [["learning rate", "rule", "ends", "step", "FA", "RA", "TA", "AG"]]
    for name, by_rule in data["stops"].items():
        for rule, ends in by_rule.items():
            found = [end for end in ends if end is not None]
            means = [f"{np.mean([end[key] for end in found]):.1f}" if found else "–" for key in rows[0][4:]]
            step = f"{np.mean([end['step'] for end in found]):.0f}" if found else "–"
            rows.append([name, data["labels"][rule], _statuses(ends), step, *means])
    target = np.mean([values["FA"] for values in data["retrain"]])
    seeds = ", ".join(map(str, data["seeds"]))
    every = data["config"].get("every", 1)
    looked = f" Every {every} steps are looked at." if every > 1 else ""
    caption = (
        "Learning rate and weight of OEU, momentum 0.9; what the network is where a rule ends the run. FA, RA, TA in "
        f"percent, AG in points,\nmeans over seeds {seeds}, those on which the rule ended. FA of Retrain: {target:.1f}."
    )
    return results.aligned(rows, left=3) + "\n\n" + caption + looked + cost(data)


def _statuses(ends):
    words = ["never" if end is None else end["status"] for end in ends]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def figure(data):
    """AG where each rule ends, one panel a setting; a cross where it gave up or spent its budget."""
    drawn = figures.new_figure(11, 2.6)
    rules = list(data["labels"])
    panels = drawn.subplots(1, len(data["stops"]), sharey=True, squeeze=False)[0]
    for axes, (name, by_rule) in zip(panels, data["stops"].items()):
        for height, rule in enumerate(rules):
            for end in by_rule[rule]:
                if end is not None:
                    axes.plot(end["AG"], height, "k" + ("o" if end["status"] == "reached" else "x"), markersize=4)
        most = max(end["AG"] for found in by_rule.values() for end in found if end)
        axes.set(yticks=range(len(rules)), yticklabels=rules, xlabel="AG (points)", xlim=(0, 1.05 * most))
        axes.invert_yaxis() if axes.get_subplotspec().is_first_col() else None
        figures.clean(axes, name, grid="x")
    return drawn
