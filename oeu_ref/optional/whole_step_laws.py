"""Laws of a whole OEU step on a PyTorch model: what the step should compute, from autograd and the NumPy projection."""

import copy
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from ..contract import STEP
from ..judging.cases import Cases
from ..judging.law import about, assume, require
from ..reference.projection import project

STEPS = 3
law = about(STEP)


@dataclass(frozen=True)
class StepCase:
    """A network, two batches and the settings of a step.

    kind: "plain", "batch_norm" or "quantized"; or "one_hot" (certain predictions among the forget samples),
    "zero_forget" and "zero_retain" (nothing else), "one_layer_zero" (a dead layer), "one_element" (a gain of one
    element), "parallel" (two classes: the last bias has collinear gradients), "steep" (gradients of large norm); sizes:
    of the batches; call: of the class, options by "name" or "position", or "defaults"; old_grad: whether something lies
    in `.grad` before; groups: of parameters, with a learning rate each.
    """

    kind: str
    alpha: float = 1.0
    beta: float = 1.0
    granularity: str = "layer"
    rescale: str = "undo"
    momentum: float = 0.0
    weight_decay: float = 0.0
    sizes: tuple = (5, 8)
    call: str = "name"
    old_grad: bool = False
    groups: int = 1
    seed: int = 0

    @property
    def options(self):
        """Options of the class under test, by name, in the contract's order."""
        return {name: getattr(self, name) for name in ("alpha", "beta", "granularity", "rescale")}

    def made(self, implementation, model):
        """(the class's object, its optimizer) for a model."""
        optimizer = self.optimizer(model)
        by_position = tuple(self.options.values()) * (self.call == "position")
        by_name = self.options if self.call == "name" else {}
        return implementation.step_class(model, optimizer, *by_position, **by_name), optimizer

    def optimizer(self, model):
        """SGD over the model's trainable parameters."""
        from ..observe.networks import optimizer  # here, not above: the other laws need no PyTorch

        return optimizer(model, self.groups, self.momentum, self.weight_decay)

    def model_and_batches(self):
        """(model, float64, (forget inputs, retain inputs, retain labels))."""
        from ..observe.networks import model_and_batches

        return model_and_batches(self.kind, self.sizes, self.seed)


KINDS = (
    "plain",
    "batch_norm",
    "quantized",
    "one_hot",
    "zero_forget",
    "zero_retain",
    "one_layer_zero",
    "one_element",
    "parallel",
    "steep",
)
DRAWN = {
    "kind": KINDS,
    "alpha": (1.0, 0.5, 0.0),
    "beta": (1.0, 0.3, 2.0),
    "granularity": ("layer", "global"),
    "rescale": ("undo", "match"),
    "momentum": (0.0, 0.9),
    "weight_decay": (0.0, 0.1),
    "sizes": ((5, 8), (7, 3), (40, 33)),
    "call": ("name", "position"),
    "old_grad": (False, True),
    "groups": (1, 2),
    "seed": range(1000),
}
FIXED = [
    *(StepCase(kind, seed=10 + i) for i, kind in enumerate(KINDS)),
    StepCase("plain", 1.0, 0.5, "layer", "match", 0.9, 0.1, seed=1),
    StepCase("batch_norm", 0.5, 2.0, "global", "undo", 0.9, call="position", seed=2),
    StepCase("quantized", 1.0, 0.3, "global", "match", old_grad=True, seed=3),
    StepCase("one_element", 1.0, 2.0, "layer", "match", call="position", groups=2, seed=5),
    StepCase("parallel", rescale="match", seed=4),
    StepCase("plain", call="defaults", old_grad=True, seed=6),
    StepCase("batch_norm", sizes=(3, 300), groups=2, weight_decay=0.1, seed=7),
    StepCase("plain", sizes=(300, 5), beta=0.3, seed=8),
    StepCase("plain", sizes=(1, 1), seed=9),
    StepCase("plain", granularity="global", groups=2, seed=19),
]
STEP_CASES = Cases(st.builds(StepCase, **{name: st.sampled_from(values) for name, values in DRAWN.items()}), FIXED)


def _directions(grads, case, names):
    """What may lie in `.grad`, dict name -> array, where each tensor is a layer and where each module is."""
    arrays = [[g[name].numpy() for name in names] for g in grads]
    for ids in (names, [name.rpartition(".")[0] for name in names]):
        g_perp = project(*arrays, case.alpha, case.granularity, case.rescale, layer_ids=ids)
        yield {name: g_r + case.beta * p for name, g_r, p in zip(names, arrays[1], g_perp)}


def _away(found, right):
    """(name, distance, size) of the array that is farthest from what is right, relative to the largest of them."""
    size = max(np.abs(value).max(initial=0) for value in right.values()) or 1.0
    far = {name: np.abs(found[name] - value).max(initial=0) for name, value in right.items()}
    name = max(far, key=lambda name: np.inf if np.isnan(far[name]) else far[name])
    return name, far[name], size


@law("OEU", STEP_CASES, weight=0.2)
def whole_steps_compute_the_references(implementation, case):
    """Three steps from the same weights have the reference's direction in `.grad` and its weights and BatchNorm
    statistics (train mode, forget batch first) afterwards; a layer may be each tensor, or each module.

    Two gradients of the same weights (entropy on the forget batch, cross-entropy on the retain batch, both batch
    means), projection, then one step of the optimizer along g_r + beta g_perp."""
    import torch

    from ..observe.explain import explain, gradients

    model, batches = case.model_and_batches()
    unlearner, optimizer = case.made(implementation, model)
    names, seen = [name for name, _ in model.named_parameters()], []
    read = lambda: {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    optimizer.register_step_pre_hook(lambda *_: seen.append(read()))
    notions = ["tensor", "module"]
    twin = copy.deepcopy(model)
    follower = case.optimizer(twin)
    for number in range(1, STEPS + 1):
        if case.old_grad:
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.1 * (i + 1))
        old, before, seen[:] = read(), copy.deepcopy(model), []
        given = [b.clone() for b in batches]
        with torch.enable_grad():
            unlearner.step(*given)
        at = f"step {number}: "
        require(all(map(torch.equal, given, batches)), f"{at}a batch was changed in place")
        require(len(seen) == 1, f"{at}the optimizer's step was called {len(seen)} times")
        forget, retain = batches[:1], batches[1:]
        grads = gradients(twin, forget, retain)
        # a certain prediction whose probabilities underflow all but the last: gradients that the contract leaves out
        assume(not any(0 < float(g.abs().max()) < 1e-100 for side in grads for g in side.values()))
        rights = dict(zip(("tensor", "module"), _directions(grads, case, names)))
        found = {name: np.nan if d is None else d.numpy() for name, d in seen[0].items()}
        off = {notion: _away(found, rights[notion]) for notion in notions}
        fits = [notion for notion in notions if off[notion][1] <= 1e-9 * off[notion][2]]
        name, distance, size = min(off.values(), key=lambda o: np.inf if np.isnan(o[1]) else o[1])

        def in_words(at=at, name=name, distance=distance, size=size, before=before, old=old):
            found = explain(before, seen[0], forget, retain, old)
            swapped = case.alpha != case.beta and np.allclose((found.beta, found.alpha), (case.alpha, case.beta))
            wanted = ", ".join(f"{option} = {value}" for option, value in case.options.items())
            return (
                f"{at}found {found}{' (alpha and beta are swapped)' * swapped}; wanted {wanted}"
                f"{f' ({case.call})' * (case.call != 'name')}; the direction of {name} "
                + ("is not there" if seen[0][name] is None else f"is off by {distance:.3g} (largest entry: {size:.3g})")
            )

        require(bool(fits), in_words)
        notions = fits
        for p, d in zip(twin.parameters(), rights[fits[0]].values()):
            p.grad = torch.tensor(d)
        with torch.no_grad():  # BatchNorm's statistics: forget first, retain last
            for batch in batches[:2]:
                twin(batch)
        follower.step()
        state, wanted = ({n: t.detach().numpy() for n, t in m.state_dict().items()} for m in (model, twin))
        name, distance, size = _away(state, wanted)
        statistics = " of BatchNorm: are both batches passed once, forget first, in train mode?" * ("running" in name)
        require(distance <= 1e-9 * size, f"{at}the direction is right, but {name} ends {distance:.3g} away{statistics}")


NEARLY_PARALLEL = [StepCase("nearly_parallel", rescale="match", sizes=(1, 1), seed=seed) for seed in range(4)]


@law("4.3", Cases(st.sampled_from(NEARLY_PARALLEL), NEARLY_PARALLEL), weight=0)
def a_steps_forget_part_is_orthogonal_when_gradients_are_nearly_parallel(implementation, case):
    """With alpha = 1 and "match", where both batches are nearly the same sample, d - g_r is orthogonal to g_r.

    One pass leaves rounding noise of g_f along g_r, which "match" stretches: project a second time."""
    import torch

    from ..observe.explain import gradients

    rng = np.random.default_rng(case.seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 2, dtype=torch.float64))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.tensor(rng.normal(size=tuple(p.shape))))
    inputs = rng.normal(size=(1, 6))
    batches = [torch.tensor(inputs), torch.tensor(inputs + 1e-7 * rng.normal(size=(1, 6))), torch.tensor([0])]
    _, g_r = gradients(model, batches[:1], batches[1:])
    unlearner, optimizer = case.made(implementation, model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.extend(copy.deepcopy(p.grad) for p in model.parameters()))
    unlearner.step(*batches)
    require(len(seen) == 2 and None not in seen, "the optimizer's step was not called once, with all gradients")
    weight, bias = ((d - g).numpy() for d, g in zip(seen, g_r.values()))
    cosines = []
    for pieces in ([(weight, g_r["0.weight"])], [(weight, g_r["0.weight"]), (bias, g_r["0.bias"])]):
        d, g = (np.concatenate([np.asarray(p).ravel() for p in pieces]) for pieces in zip(*pieces))
        cosines.append(abs(d @ g) / (np.linalg.norm(d) * np.linalg.norm(g) or 1.0))
    require(min(cosines) <= 1e-12, f"the cosine of d - g_r and g_r is {min(cosines):.3g}, not 0")


@law("OEU", Cases(st.just(StepCase("plain")), [StepCase("plain")]), weight=0)
def frozen_parameters_stay(implementation, case):
    """Parameters that are frozen stay to the bit, and all others move.

    Parameters with requires_grad=False have no gradient: leave them out of the projection and of the update."""
    import torch

    model, batches = case.model_and_batches()
    named, frozen = dict(model.named_parameters()), ("0.weight", "2.bias")
    before = {name: p.detach().clone() for name, p in named.items()}
    for name in frozen:
        named[name].requires_grad_(False)
    unlearner, _ = case.made(implementation, model)
    unlearner.step(*batches)
    for name, p in named.items():
        same = torch.equal(p.detach(), before[name])
        require(same == (name in frozen), f"{name} {'stayed' if same else 'moved'}")
