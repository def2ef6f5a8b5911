"""The monitor at work: a healthy run beside one for each failure signature, and what monitoring is worth and costs."""

import copy
import statistics
import time
import warnings

import numpy as np
import torch

from ..beyond.monitor import Monitor, Monitored, UnlearningWarning
from ..core.network import quantize_model
from ..core.stop_rule import mean_entropy
from ..core.unlearner import OEU, NonFiniteError
from ..data.samples import Samples, stream
from ..lab import engine
from ..lab.models import resnet18
from ..lab.search import load_settings
from ..lab.study import batches
from ..lab.training import build
from ..report import figures, results
from .monitor_figure import draw_monitor, monitor_figure

__all__ = ["QUESTION", "REPORTED_SEEDS", "collect", "figure", "markdown", "monitor_figure"]

QUESTION = "What does each step do to both losses, and which known failure does a run head for?"

REPORTED_SEEDS = (1, 2, 3)
# what differs from the demo's OEU setting (SGD, momentum 0.9, weight decay 5e-4); the run's name is the signature that
# it is made to show
RUNS = {
    "healthy": {},
    "over-forgetting": {"beta": 1.0, "steps": 80},
    "under-forgetting": {"learning_rate": 1e-3, "steps": 40},
    "retain loss": {"learning_rate": 3.0, "steps": 40},
    "collinear gradients": {"retain_batch": "the forget batch", "steps": 40},
    "turned back": {"weight_decay": 0.1, "beta": 0.1, "steps": 40},
    "quantizer step": {"step_rate": 30.0, "steps": 40},
    "staircase": {"learning_rate": 1e-6, "steps": 40},
}
ENDS = ("FA", "RA", "TA", "AG", "forget_vs_test_auc")


def collect(seeds, config, quick, bar):
    """(config, found) for the document: healthy and failing runs, and what watching them costs."""
    settings, steps = load_settings()["oeu"]
    demo = {"learning_rate": settings.learning_rate, "beta": settings.weight, "steps": steps}
    demo |= {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
    demo |= {"step_rate": 1.0, "retain_batch": "from the retain set", "most": config.max_steps}
    runs, kept = [], {}
    bar.reset(len(seeds) * len(RUNS))
    for seed in seeds:
        bar.set_description(f"seed {seed}")
        case = engine.prepare(seed, config)
        for name, changed in RUNS.items():
            found, records = _one_run(case, {**demo, **changed})
            runs.append({"seed": seed, "run": name, **found})
            kept.setdefault(name, records)  # one seed's records are enough for the picture
            bar.update()
    found = {"runs": runs, "time_ratios": _costs(case, demo, quick), "records": kept}
    return {"demo": demo, "runs": RUNS}, found


def _one_run(case, options):
    """(plain data about warnings and the end of one run, its records)."""
    model, monitor, lost = _watched(case, options)
    found = {"warnings": monitor.warnings, "steps": monitor.steps, "lost": lost, "end": None}
    last = monitor.last
    found |= {"entropy_share": last["entropy_share"], "entropy_progress": last["entropy_progress"]}
    climbs = [r["update_cosine"] for r in monitor.records if r["update_cosine"] is not None]
    turned = [r["turned_back"] for r in monitor.records if r["turned_back"] is not None]
    found |= {"climb": max(climbs), "turned_back": float(np.mean(turned))}
    try:
        found["end"] = case.judged(model)
    except NonFiniteError:
        found["lost"] = True
    return found, monitor.records


def _watched(case, options):
    """One run with a monitor: (model in eval mode, monitor, whether it ended in numbers that are not finite)."""
    model = copy.deepcopy(case.original)
    unseen = mean_entropy(model, case.splits.validation.inputs)
    unlearner = _unlearner(model, options, Monitor(target_entropy=unseen))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)  # the table lists them
        try:
            for forget, retain in _batches(case, options):
                unlearner.step(forget.inputs, retain.inputs, retain.labels)
        except NonFiniteError:
            return model.eval(), unlearner.monitor, True
    return model.eval(), unlearner.monitor, False


def _unlearner(model, options, monitor):
    """OEU with SGD; quantizer steps are a parameter group of their own, at step_rate times the learning rate."""
    rate = options["learning_rate"]
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[name.endswith("quantizer.step")].append(parameter)
    groups = [{"params": groups[False]}, {"params": groups[True], "lr": rate * options["step_rate"]}]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        rate,
        options["momentum"],
        weight_decay=options["weight_decay"],
    )
    unlearner = OEU(model, optimizer, beta=options["beta"])
    return unlearner if monitor is None else Monitored(unlearner, monitor)


def _batches(case, options):
    """Pairs of forget and retain batches, `Samples`, as a run of these options takes them."""
    for forget, retain in batches(case, min(options["steps"], options["most"] or options["steps"])):
        yield (forget, forget) if options["retain_batch"] == "the forget batch" else (forget, retain)


def _costs(case, demo, quick):
    """Time of a monitored step over that of a plain one, by turns: {network: {"median", "quartiles"}}."""
    networks = {"digits perceptron, batch 128": (case.original, next(_batches(case, demo)), 10)}
    if not quick:
        model = build(lambda: quantize_model(resnet18(10, width=16)), stream(0, "cost").initial_seed())
        samples = Samples(torch.rand(32, 3, 32, 32, generator=stream(0, "images")), torch.arange(32) % 10)
        networks["4-bit ResNet-18, width 16, batch 32"] = (model, (samples, samples), 1)
    return {name: _cost(*parts, demo, 2 if quick else 11) for name, parts in networks.items()}


def _cost(model, pair, steps, demo, rounds):
    unlearners = [_unlearner(copy.deepcopy(model), demo, monitor) for monitor in (None, Monitor())]
    forget, retain = pair
    ratios = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearningWarning)
        for _ in range(rounds + 1):
            seconds = []
            for unlearner in unlearners:
                start = time.perf_counter()
                for _ in range(steps):
                    unlearner.step(forget.inputs, retain.inputs, retain.labels)
                seconds.append(time.perf_counter() - start)
            ratios.append(seconds[1] / seconds[0])
    low, median, high = statistics.quantiles(ratios[1:], n=4)  # the first round warms up
    return {"median": median, "quartiles": [low, high]}


def markdown(data):
    """Both tables with their caption, from the contents of monitor.json alone."""
    watched = [["run", "warnings, at step", "entropy / log K", "most climb", "turned back", *HEADS]]
    for name in data["config"]["runs"]:
        runs = [run for run in data["runs"] if run["run"] == name]
        cells = [name, _fired(runs), *(_mean(runs, key, 2) for key in ("entropy_share", "climb", "turned_back"))]
        ends = [run["end"] for run in runs if run["end"] is not None]
        watched.append([*cells, *(_mean(ends, key, 1) for key in ENDS)])
    times = [["time of a monitored step / of a plain one", "median", "quartiles"]]
    for name, ratio in data["time_ratios"].items():
        times.append([name, f"{ratio['median']:.2f}", "{:.2f} to {:.2f}".format(*ratio["quartiles"])])
    return "\n\n".join([results.aligned(watched, left=2), results.aligned(times), "\n".join(_caption(data))])


HEADS = [results.TITLES.get(name, name) for name in ENDS]


def _caption(data):
    demo = data["config"]["demo"]
    lines = [
        f"Digits, {results.over(data['seeds'])}. Healthy is the demo's OEU setting: SGD, learning rate",
        f"{demo['learning_rate']:g}, beta {demo['beta']:g}, {demo['steps']} steps, momentum {demo['momentum']:g}, "
        f"weight decay {demo['weight_decay']:g}. The others differ from it on purpose:",
    ]
    for name, options in data["config"]["runs"].items():
        if options:
            changes = (f"{key.replace('_', ' ')} {value}" for key, value in options.items())
            lines.append(f"{name}: {', '.join(changes)};")
    return lines + [
        "step rate: learning rate of the quantizers' steps by that of all else.",
        "Warnings: the step of each seed at which it fired, – where it did not. Entropy: of the last forget batch, in",
        "train mode. Most climb: largest cosine between update and retain gradient. Turned back: mean over steps of",
        "cos(u, g_r) - cos(-d, g_r), a share of the update's length. FA to AUC: at the end, in percent.",
    ]


def _fired(runs):
    """Which warnings a run's seeds gave, and when: "collinear gradients 5, 8, –; ..."."""
    steps = {}
    for i, run in enumerate(runs):
        for warning in run["warnings"]:
            steps.setdefault(warning["signature"], ["–"] * len(runs))[i] = str(warning["step"])
    return "; ".join(f"{signature} {', '.join(at)}" for signature, at in steps.items()) or "none"


def _mean(rows, key, digits):
    return results.spread([row[key] for row in rows if row.get(key) is not None], digits)


def figure(data):
    """A healthy run above one whose optimizer works against the projection, from monitor.json alone: 1500 px wide."""
    drawing = figures.new_figure(10, 11.6)
    top, bottom = drawing.subfigures(2, 1, hspace=0.04)
    draw_monitor(top, data["records"]["healthy"], "A healthy run: the demo's OEU setting")
    draw_monitor(bottom, data["records"]["turned back"], "A failing run: too much weight decay")
    return drawing
