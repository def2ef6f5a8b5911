"""What one forget-only step does to the forget loss and to the retain loss, measured at a point that stays as it is."""

import copy
import math

import torch
from torch.nn import functional

from ..beyond.subspace import projected
from ..core.entropy import entropy_loss
from ..core.unlearner import layers_of


class Probe:
    """One network at one point: its gradients, and what a step from there does to both losses.

    All in train mode, as steps see it: BatchNorm normalizes each batch by itself.  model: is copied; forget: `Samples`;
    retain: all retain `Samples`; unseen: those of them that no mini-batch contains; lengths: of the steps, > 0.
    """

    def __init__(self, model, forget, retain, unseen, lengths):
        self.model = copy.deepcopy(model).train()
        self.lengths = lengths
        self.named = dict(self.model.named_parameters())
        self.layers = layers_of(self.model, self.named)
        self.forget = forget
        self.parts = {"unseen": unseen, "whole": retain}
        self.start = [p.detach().clone() for p in self.named.values()]
        self.g_f = self.gradient(self.forget_loss())
        self.g_r = {name: self.retain_gradient(part) for name, part in self.parts.items()}
        self.before = self.losses()

    def forget_loss(self):
        """Negative mean entropy of the forget set."""
        return entropy_loss(self.model(self.forget.inputs))

    def gradient(self, loss):
        """Gradient of a loss, one tensor a parameter."""
        return [g.detach() for g in torch.autograd.grad(loss, list(self.named.values()))]

    def retain_gradient(self, samples):
        """Gradient of the mean cross-entropy of retain samples."""
        return self.gradient(functional.cross_entropy(self.model(samples.inputs), samples.labels))

    @torch.no_grad()
    def losses(self):
        """{"forget": negative entropy, "unseen", "whole": retain losses}, floats in nats."""
        retain = {k: functional.cross_entropy(self.model(s.inputs), s.labels).item() for k, s in self.parts.items()}
        return {"forget": self.forget_loss().item(), **retain}

    def measure(self, history):
        """What a step against g_perp does, the forget gradient projected off a history; None: not projected.

        history: as in `project_subspace`.  Returns a dict: "left", |g_perp| / |g_f|; "cosine", with the gradient of the
        unseen samples; "curvature", u^T H u of the whole retain loss along it; and the changes of the losses "forget",
        "unseen" and "whole", lists with a value for each length.
        """
        g = self.g_f if history is None else projected(self.g_f, history, self.layers)
        length = norm(g)
        found = {"left": length / norm(self.g_f), "cosine": inner(g, self.g_r["unseen"]) / norm(self.g_r["unseen"])}
        found["cosine"] /= length
        found["curvature"] = self._curvature([d / length for d in g])
        changes = {name: [] for name in self.before}
        for step in self.lengths:
            move(self.named.values(), self.start, g, -step / length)
            for name, after in self.losses().items():
                changes[name].append(after - self.before[name])
        move(self.named.values(), self.start, g, 0.0)
        return {**found, **changes}

    def _curvature(self, unit, step=1e-2):
        """u^T H u of the whole retain loss for a unit direction u, by central differences of its gradient."""
        slopes = []
        for sign in (1, -1):
            move(self.named.values(), self.start, unit, sign * step)
            slopes.append(inner(self.retain_gradient(self.parts["whole"]), unit))
        move(self.named.values(), self.start, unit, 0.0)
        return (slopes[0] - slopes[1]) / (2 * step)


@torch.no_grad()
def move(parameters, start, direction, factor):
    """Set each parameter to start + factor * direction, tensors of their shapes; factor: a number."""
    for parameter, at, d in zip(parameters, start, direction):
        parameter.copy_(at + factor * d)


def inner(first, second):
    """Inner product of two lists of tensors, as a float."""
    return sum((a.double() * b.double()).sum().item() for a, b in zip(first, second))


def norm(grads):
    """Euclidean norm of a list of tensors, as a float."""
    return math.sqrt(inner(grads, grads))
