"""Which settings to begin with, found on one's own network and data without Retrain: `suggest`."""

import copy
import dataclasses

import numpy as np
import torch
from torch import nn

from .. import boundary
from ..core.unlearner import OEU
from ..data.samples import stream
from ..lab import training
from ..lab.engine import STOP_SAMPLES, progress_bar
from ..lab.measures import proxy_average_gap
from ..lab.search import gaps_along, searched
from ..report import figures
from .evaluation import outputs, without_retrain
from .sources import device_of, labelled, repeatable, some, source
from .unlearning import Steps

GRID = {
    "learning_rate": (0.003, 0.01, 0.03, 0.1, 0.3),
    "beta": (0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (5, 10, 20, 40, 80),
}


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What `suggest` found. `print` shows the best of each pair of settings as a table, `plot` draws it.

    learning_rate, beta, steps: the best point; gap: its proxy AG; start: that of the network as it is; points: all that
    were tried, [learning rate, beta, steps, proxy AG], in percentage points, None where a run diverged.
    """

    learning_rate: float
    beta: float
    steps: int
    gap: float
    start: float
    points: list

    def __str__(self):
        lines = [f"{'learning rate':>13} {'beta':>6} {'steps':>6} {'proxy AG':>9}"]
        for rate, beta, steps, gap in sorted(_best(self.points).values(), key=lambda p: (p[3] is None, p[3])):
            lines.append(f"{rate:>13g} {beta:>6g} {steps:>6} {'diverged' if gap is None else f'{gap:.1f}':>9}")
        return "\n".join([*lines, f"{'as it is':>27} {self.start:>9.1f}"])

    def plot(self, path=None):
        """The table as a Matplotlib `Figure`; path: where to write it as PNG."""
        if path is not None:
            figures.picture(path, lambda: self.plot())
        figure = figures.new_figure(4.5, 3.2)
        draw_grid(figure.subplots(), self.points, "Proxy AG")
        return figure


def suggest(
    model,
    forget,
    retain,
    unseen,
    make=None,
    learning_rates=GRID["learning_rate"],
    betas=GRID["beta"],
    steps=GRID["steps"],
    forget_batch=128,
    retain_batch=128,
    recalibrated=False,
    seed=0,
    progress=True,
):
    """Try OEU's learning rates, betas and steps on copies of a network, and say which came nearest to forgetting.

    model: left as it is; forget, retain, unseen: labelled data as for `unlearn`; make: function of (network, learning
    rate, beta) that returns an `OEU` or a method of `oeu_ref.methods`, None: `OEU` with SGD of momentum 0.9;
    learning_rates > 0, betas >= 0, steps >= 1: at least one of each, all pairs are run for the most steps, and looked
    at after each number of them; forget_batch, retain_batch, recalibrated, progress: as for `unlearn`; seed: of all
    that is drawn, Dropout included, which is the same for all pairs.
    Nearest is the least mean gap, over FA, RA, accuracy on unseen samples and MIA, to what the network shows as it is
    of samples that it never saw (`proxy_average_gap`), by at most 1,000 samples of each part: it needs no Retrain.
    Returns a `Suggestion`.
    Raises TypeError or ValueError, naming the argument, and `NonFiniteError` where all diverge.
    Source: ours.
    """
    boundary.instance("model", model, nn.Module, "torch.nn.Module")
    grid = {
        "learning_rate": _axis("learning_rates", learning_rates, boundary.positive),
        "beta": _axis("betas", betas, boundary.number, 0),
        "steps": _axis("steps", steps, boundary.integer, 1),
    }
    make = _plain if boundary.function("make", make) is None else make
    config, device = training.UnlearnConfig(forget_batch, retain_batch), device_of(model)
    judged = dataclasses.replace(config, recalibrated=recalibrated)
    data = {"forget": repeatable(forget), "retain": repeatable(retain), "unseen": repeatable(unseen)}
    with training.seeded(seed):
        parts = {name: labelled(name, some(name, part, device, STOP_SAMPLES)) for name, part in data.items()}
    before = without_retrain(outputs(model, parts), seed)

    def gap(network):
        with training.as_left(network, parts["retain"], judged):
            return proxy_average_gap(without_retrain(outputs(network, parts), seed), before)

    def attempt(case, name, rate, beta):
        def run(look):
            network = copy.deepcopy(model)
            orders = [stream(seed, f"{part} batches") for part in ("forget", "retain")]
            sources = [
                source(part, data[part], device, size, order)
                for part, size, order in zip(("forget", "retain"), (forget_batch, retain_batch), orders)
            ]
            on_step = lambda done, report: look(network, done)
            method = Steps(make(network, rate, beta))
            if method.model is not network:
                raise ValueError("make must return a method of the network that it is given, got one of another")
            training.unlearn(method, *sources, max(grid["steps"]), config, orders, None, on_step)
            return network

        with training.seeded(seed):  # Dropout, and loaders that draw their order there: the same for all
            return gaps_along(gap, grid["steps"], run)

    with progress_bar(len(grid["learning_rate"]) * len(grid["beta"]), progress, "runs") as bar:
        found = searched([0], [0], grid, attempt, bar)[0]
    if found["best"]["AG"] is None:
        raise training.NonFiniteError("learning_rates must hold one at which the loss stays finite, all diverged")
    best = {name: found["best"][name] for name in GRID}
    return Suggestion(**best, gap=found["best"]["AG"], start=gap(model), points=found["points"])


def _axis(name, values, check, *least):
    """Distinct values, ascending, as the grid has them; check: a function of `boundary`."""
    values = [check(name, value, *least) for value in boundary.sequence(name, values, "numbers")]
    if not values:
        raise ValueError(f"{name} must hold at least one value, got none")
    return tuple(sorted(set(values)))


def _plain(network, rate, beta):
    return OEU(network, torch.optim.SGD(network.parameters(), rate, momentum=0.9), beta=beta)


def _best(points):
    """{(learning rate, beta): the point with the best number of steps}."""
    found = {}
    for point in points:
        other = found.setdefault(tuple(point[:2]), point)
        if point[3] is not None and (other[3] is None or point[3] < other[3]):
            found[tuple(point[:2])] = point
    return found


def draw_grid(ax, points, title):
    """Gap over learning rate and beta, the darker the better; in each field the gap, below it the best number of steps.

    ax: Matplotlib's axes; points: as those of `Suggestion`.
    """
    best = _best(points)
    rates, betas = (sorted({pair[axis] for pair in best}) for axis in (0, 1))
    gaps = np.array([[best[rate, beta][3] or np.nan for rate in rates] for beta in betas], dtype=float)
    shown = ax.imshow(np.log(gaps), cmap="viridis", origin="lower", aspect="auto")
    for row, beta in enumerate(betas):
        for column, rate in enumerate(rates):
            *_, steps, gap = best[rate, beta]
            text = "diverged" if gap is None else f"{gap:.1f}\n{steps}"
            dark = gap is not None and shown.norm(np.log(gap)) < 0.5
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    ax.set(xlabel="learning rate", ylabel="beta")
    figures.clean(ax, title)
