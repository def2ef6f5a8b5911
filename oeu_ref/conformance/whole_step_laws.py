"""Laws of a whole OEU step on a PyTorch model: same weights in, same weights out as the NumPy reference."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from ..reference.network import QuantizedMLP
from ..reference.unlearner import oeu_step
from .cases import Cases
from .implementation import STEP
from .law import about, require

SIZES = (6, 9, 7, 4)
LEARNING_RATE = 0.05
STEPS = 4
law = about(STEP)


@dataclass(frozen=True)
class StepCase:
    """Settings of an OEU run on a small float network."""

    alpha: float
    beta: float
    granularity: str
    rescale: str
    momentum: float
    seed: int

    @property
    def options(self):
        """Keyword arguments of the class under test and of the reference's step alike."""
        return {name: getattr(self, name) for name in ("alpha", "beta", "granularity", "rescale")}

    def batches(self):
        """(forget_inputs, retain_inputs, retain_labels), NumPy."""
        rng = np.random.default_rng(self.seed)
        return rng.normal(size=(5, SIZES[0])), rng.normal(size=(8, SIZES[0])), rng.integers(0, SIZES[-1], 8)


CHOICES = ((1.0, 0.5, 0.0), (1.0, 0.3, 2.0), ("layer", "global"), ("undo", "match"), (0.0, 0.9), range(1000))
STEP_CASES = st.builds(StepCase, *map(st.sampled_from, CHOICES))
FIXED = [
    StepCase(1.0, 1.0, "layer", "undo", 0.0, 0),
    StepCase(1.0, 0.5, "layer", "match", 0.9, 1),
    StepCase(0.5, 2.0, "global", "undo", 0.9, 2),
    StepCase(1.0, 1.0, "global", "match", 0.0, 3),
]


def _torch_model(network):
    """A PyTorch twin of a reference network without quantizers, float64, and its parameters by the network's names."""
    import torch  # here, not above: the other laws need no PyTorch

    linears = [torch.nn.Linear(i, o, dtype=torch.float64) for i, o in zip(SIZES, SIZES[1:])]
    named = {f"layers.{i}.{kind}": getattr(m, kind) for i, m in enumerate(linears) for kind in ("weight", "bias")}
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(torch.tensor(network.parameters[name]))
    stack = [module for linear in linears for module in (linear, torch.nn.ReLU())]
    return torch.nn.Sequential(*stack[:-1]), named


def _run(implementation, case, frozen=()):
    import torch

    network = QuantizedMLP(SIZES, weight_bits=32, activation_bits=32, seed=case.seed)
    model, named = _torch_model(network)
    for name in frozen:
        named[name].requires_grad_(False)
    trainable = [p for p in named.values() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=LEARNING_RATE, momentum=case.momentum)
    unlearner = implementation.step_class(model, optimizer, **case.options)
    for _ in range(STEPS):
        unlearner.step(*(torch.tensor(a) for a in case.batches()))
    return network, {name: p.detach().numpy() for name, p in named.items()}


@law("OEU", Cases(STEP_CASES, FIXED), weight=0.2)
def whole_steps_end_at_the_references_weights(implementation, case):
    """From the same weights, four OEU steps of a PyTorch model end where the NumPy reference's end; what counts as a
    layer may be each tensor, or each module's weight and bias together.

    Two gradients of the same weights (entropy on the forget batch, cross-entropy on the retain batch, both batch
    means), projection, then one step of the optimizer along g_r + beta g_perp."""
    network, result = _run(implementation, case)
    distances = {}
    for layer in ("tensor", "module"):
        twin, velocity = QuantizedMLP(SIZES, weight_bits=32, activation_bits=32, seed=case.seed), None
        for _ in range(STEPS):
            step = oeu_step(
                twin,
                *case.batches(),
                LEARNING_RATE,
                layer=layer,
                momentum=case.momentum,
                velocity=velocity,
                **case.options,
            )
            twin.parameters, velocity = step.parameters, step.velocity
        distances[layer] = max(np.abs(result[name] - value).max() for name, value in twin.parameters.items())
    moved = max(np.abs(result[name] - value).max() for name, value in network.parameters.items())
    require(
        min(distances.values()) <= 1e-10,
        f"weights end {distances['tensor']:.3g} (layer: tensor) and {distances['module']:.3g} (layer: module) away "
        f"from the reference's, having moved by {moved:.3g}",
    )


@law("OEU", Cases(STEP_CASES, FIXED[:1]), weight=0.1)
def frozen_parameters_stay(implementation, case):
    """Parameters that are frozen stay to the bit, and all others move.

    Parameters with requires_grad=False have no gradient: leave them out of the projection and of the update."""
    frozen = ("layers.0.weight", "layers.1.bias")
    network, result = _run(implementation, case, frozen)
    for name, value in network.parameters.items():
        same = np.array_equal(result[name], value)
        require(same == (name in frozen), f"{name} {'stayed' if same else 'moved'}")
