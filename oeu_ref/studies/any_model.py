"""OEU on a model of any kind: our 4-bit network, one prepared by PyTorch's own QAT tools, and a plain float one.

Read it as the example for a model of your own: `build_network` (or `prepared`) makes it, `unlearn` is all that OEU
needs. What PyTorch's tools ask of the caller, and a network of our own does not:

- Observers go on observing, in eval mode as well: the forget batch and even the test set would move the ranges.
  `disable_observer` after training ends that.
- Where BatchNorm is fused, it is part of the layer in training already: the weight is quantized after scaling.
- Its quantizers pass gradients by the rounded value, up to half a step further out: `mask="round"` in our terms.
- `convert` makes the integer network that a device runs; it is measured beside the fake-quantized one.
"""

import contextlib
import copy
import dataclasses
import itertools
import math
import warnings

import numpy as np
import torch
from torch import nn

try:
    from torch.ao import quantization
except ImportError:  # announced by PyTorch for some later version
    quantization = None

from ..core.network import QuantMLP
from ..core.unlearner import OEU, NonFiniteError
from ..data.samples import Batches, stream
from ..lab import engine, search
from ..lab.experiment import Digits
from ..lab.study import COLUMNS
from ..lab.training import probabilities
from ..report import figures, results

QUESTION = "OEU on a network prepared by PyTorch's own tools, and on one that is not quantized at all: does it forget?"
REPORTED_SEEDS = (1, 2, 3, 4, 5)
SEARCH_SEEDS = (101, 102, 103)
GRID = {"learning_rate": (0.03, 0.1, 0.3), "weight": (0.1, 0.3, 1.0), "steps": (10, 20, 40, 80)}
STYLES = {"original": "retain", "retrain": "retrain", "oeu": "oeu", "int8": "test"}
MARKERS = {"original": "o", "retrain": "s", "oeu": "D", "int8": "^"}
LABELS = {"original": "original", "retrain": "Retrain", "oeu": "OEU", "int8": "OEU, converted to int8"}


class Network(nn.Module):
    """The demo's perceptron in floating point: three linear layers, BatchNorm and ReLU between them.

    sizes: widths from inputs to classes.  forward: (N, in) float -> logits (N, K). The stubs, where PyTorch's tools let
    integers begin and end, do nothing until then.
    """

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in sizes[1:-1])
        self.relu = nn.ReLU()
        self.quant, self.dequant = (
            (nn.Identity(), nn.Identity())
            if quantization is None
            else (quantization.QuantStub(), quantization.DeQuantStub())
        )

    def forward(self, inputs):
        inputs = self.quant(inputs)
        for layer, norm in zip(self.layers, self.norms):
            inputs = self.relu(norm(layer(inputs)))
        return self.dequant(self.layers[-1](inputs))


def prepared(sizes):
    """`Network` with BatchNorm fused and fake-quantized by PyTorch: 8-bit weights a channel, 7- or 8-bit activations.

    Its observers are on, as training needs them.  Raises NotImplementedError where this PyTorch has no such tools.
    """
    if quantization is None:
        raise NotImplementedError("this version of PyTorch has no torch.ao.quantization")
    model = Network(sizes).train()
    with _no_deprecation_warnings():
        model.qconfig = quantization.get_default_qat_qconfig(torch.backends.quantized.engine)
        pairs = [[f"layers.{i}", f"norms.{i}"] for i in range(len(model.norms))]
        return quantization.prepare_qat(quantization.fuse_modules_qat(model, pairs))


def converted(model):
    """The integer network that a device runs, from a copy of a `prepared` one.  On the CPU.

    Raises RuntimeError where this PyTorch has no quantized engine.
    """
    with _no_deprecation_warnings():
        return quantization.convert(copy.deepcopy(model).cpu().eval())


def freeze_ranges(model):
    """Let PyTorch's observers observe no more; a model without any stays as it is.  Returns the model."""
    return model if quantization is None else model.apply(quantization.disable_observer)


# kind -> (title, what makes a network of these widths)
KINDS = {
    "ours": ("ours, 4-bit", lambda sizes: QuantMLP(sizes, 4, 4, batch_norm=True)),
    "torch": ("PyTorch's QAT, 8-bit", prepared),
    "float": ("float", Network),
}


@dataclasses.dataclass(frozen=True)
class Prepared(Digits):
    """The digits with a network of another kind; kind: a key of KINDS."""

    kind: str = "ours"

    def network(self, splits):
        return KINDS[self.kind][1](self.sizes)


def prepare(kind, seed, config):
    """The digits, and the original network and Retrain of one kind, trained: `oeu_ref.lab.engine.Case`."""
    case = engine.prepare(seed, Prepared(**vars(config), kind=kind))
    for model in (case.original, case.retrain):
        freeze_ranges(model)
    return case


def unlearn(case, learning_rate, weight, steps, on_step=None):
    """Let a copy of the case's original network forget: this is all that OEU needs of a model.

    learning_rate, weight: of SGD with momentum, and OEU's beta; on_step: called with (model, steps done) after each.
    Returns the model, in eval mode.  Raises `NonFiniteError` if the run diverges.
    """
    model = copy.deepcopy(case.original)
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4)
    unlearner = OEU(model, optimizer, beta=weight)
    forget = Batches(case.splits.forget, case.experiment.forget_batch, stream(case.seed, "forget batches"))
    retain = Batches(case.splits.retain, case.experiment.retain_batch, stream(case.seed, "retain batches"))
    for step in range(1, steps + 1):
        kept = next(retain)
        unlearner.step(next(forget).inputs, kept.inputs, kept.labels)
        if on_step is not None:
            on_step(model, step)
    return model.eval()


def collect(seeds, config, quick, bar):
    """(config, found) for the document: each kind against its own Retrain."""
    grid = {"learning_rate": (0.1,), "weight": (0.3,), "steps": (2,)} if quick else GRID
    search_seeds = SEARCH_SEEDS[:1] if quick else SEARCH_SEEDS
    kinds = [kind for kind in KINDS if kind != "torch" or quantization is not None]
    best = {"ours": _demo_settings(config)}
    runs = {kind: [] for kind in kinds}
    points = len(grid["learning_rate"]) * len(grid["weight"])
    bar.reset(len(search_seeds) * (len(kinds) - 1) * points + len(seeds) * len(kinds))
    for kind in kinds[1:]:
        bar.set_description(f"{kind}: search")
        best[kind] = _search(kind, grid, search_seeds, config, bar)
    for kind, seed in itertools.product(kinds, seeds):
        bar.set_description(f"{kind}: seed {seed}")
        runs[kind].append(_one_run(prepare(kind, seed, config), kind, best[kind]))
        bar.update()
    found = {"grid": grid, "search_seeds": list(search_seeds), "best": best, "runs": runs}
    return dataclasses.asdict(config), found


def _demo_settings(config):
    settings, steps = search.load_settings(config.max_steps)["oeu"]
    return {"learning_rate": settings.learning_rate, "weight": settings.weight, "steps": steps}


def _search(kind, grid, seeds, config, bar):
    """The grid's point with the lowest AG for one kind, averaged over seeds that are not reported."""
    most = max(grid["steps"])

    def attempt(case, _, rate, weight):
        return search.gaps_along(case.gap, grid["steps"], lambda look: unlearn(case, rate, weight, most, look))

    cases = (prepare(kind, seed, config) for seed in seeds)
    found = search.searched([kind], cases, grid, attempt, bar)[kind]
    return {**found["best"], **{key: found[key] for key in ("best_at_end_of", "median_AG", "diverged")}}


def _one_run(case, kind, best):
    """{row: metrics} of one seed; the converted network also with its agreement, "same": None if a run diverged."""
    models = {"original": case.original, "retrain": case.retrain}
    try:
        models["oeu"] = unlearn(case, *(best[key] for key in ("learning_rate", "weight", "steps")))
    except NonFiniteError:
        return None
    if kind == "torch" and torch.backends.quantized.engine != "none":
        models["int8"] = converted(models["oeu"])
    found = {name: case.target if name == "retrain" else case.judged(one) for name, one in models.items()}
    if "int8" in models:
        everything = [getattr(case.splits, part) for part in ("forget", "retain", "test")]
        pairs = [[predicted(models[name], samples) for name in ("oeu", "int8")] for samples in everything]
        found["int8"]["same"] = float(100 * np.mean(np.concatenate([one == other for one, other in pairs])))
    return found


def predicted(model, samples):
    """Predicted class of each sample, (N,) integers, in eval mode."""
    return probabilities(model, samples.inputs).argmax(1)


@contextlib.contextmanager
def _no_deprecation_warnings():
    """Silence what PyTorch says about its own tools' calls of each other and their coming end."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def markdown(data):
    """A table for each kind of network and the caption, from the contents of any-model.json alone."""
    parts = []
    for kind, runs in data["runs"].items():
        finished, lost = results.finished(runs)
        best = data["best"][kind]
        setting = f"learning rate {best['learning_rate']:g}, weight {best['weight']:g}, {best['steps']} steps"
        parts += [f"**{KINDS[kind][0]}** ({setting}){lost}", ""]
        if finished:
            labels = {name: label for name, label in LABELS.items() if name in finished[0]}
            parts += [results.table(results.summarize(finished), labels, COLUMNS), ""]
        if finished and "same" in finished[0].get("int8", {}):
            same = results.spread([one["int8"]["same"] for one in finished], 2)
            parts += [f"Same prediction before and after conversion: {same} % of all samples.", ""]
    if "torch" not in data["runs"]:
        parts += ["PyTorch's QAT: not measured, this version has no torch.ao.quantization.", ""]
    points = math.prod(len(values) for values in data["grid"].values())
    seeds, searched = (", ".join(map(str, data[key])) for key in ("seeds", "search_seeds"))
    parts += [
        "Digits, a fifth of the training labels wrong, a tenth of the samples to forget; percent and percentage",
        f"points, mean ± standard deviation over seeds {seeds}. Every network has a Retrain of its own kind.",
        f"Settings: ours the demo's, the others the best by AG of {points} each on seeds {searched}.",
    ]
    return "\n".join(parts)


def figure(data):
    """A panel for each kind: FA, RA, TA and MIA of every row, a dot each with its spread.  data: of any-model.json."""
    drawn = figures.new_figure(10, 3.6)
    axes = drawn.subplots(1, len(data["runs"]), sharey=True, squeeze=False)[0]
    shown = ("FA", "RA", "TA", "MIA")
    for ax, (kind, runs) in zip(axes, data["runs"].items()):
        finished = [one for one in runs if one is not None]
        gap = results.spread([one["oeu"]["AG"] for one in finished])
        figures.clean(ax, f"{KINDS[kind][0]}: AG {gap}", grid="y")
        rows = [name for name in MARKERS if finished and name in finished[0]]
        for at, name in enumerate(rows):
            values = [results.mean_and_spread([one[name][metric] for one in finished]) for metric in shown]
            ax.errorbar(
                np.arange(len(shown)) + 0.17 * (at - (len(rows) - 1) / 2),
                [value["mean"] for value in values],
                [value["spread"] or 0 for value in values],
                color=figures.STYLES[STYLES[name]]["color"],
                marker=MARKERS[name],
                markersize=5.5,
                linestyle="none",
                linewidth=0.9,
                capsize=2,
                label=LABELS[name],
            )
        ax.set_xticks(range(len(shown)), shown)
        ax.set_xlim(-0.5, len(shown) - 0.5)
    axes[0].set_ylabel("percent")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    drawn.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5)
    return drawn
