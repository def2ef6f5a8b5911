"""The one interface of all unlearning methods, for the one loop `oeu_ref.lab.training.unlearn`.

A method is built from (model, forget, settings, generator) and then turns pairs of batches into updates of the model.
Notation: theta parameters, theta_o the original model's, eta learning rate, w `Settings.weight`; forget batch
(x_f, y_f), retain batch (x_r, y_r); CE mean cross-entropy, L_r = CE(x_r, y_r) with gradient g_r; "SGD along d" is
theta <- theta - eta d, with momentum and weight decay. Both batches are forwarded in train mode, one after the other. A
method whose direction is a sum of one part for each batch also takes one batch alone, None in the other's place: the
protocol of `protocol.py` alternates them. And it takes the two as parts of one batch (`Method.together`): they
are forwarded as one, and the sum's parts count by their shares, n_f / (n_f + n_r) and n_r / (n_f + n_r).
Retrain, which all are measured against, is `oeu_ref.lab.training.train` on the retain set.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .. import arrays, boundary, distributed
from ..core.unlearner import NonFiniteError
from ..data.samples import Samples
from ..passes import check_differentiable, class_logits, in_mode, undone_on_error


@dataclass(frozen=True)
class Settings:
    """What every method can be tuned by.

    learning_rate > 0; weight >= 0: of forgetting against retaining, what it multiplies is each method's own; momentum
    in [0, 1]; weight_decay >= 0.  Raises TypeError or ValueError, naming the field, for a value out of range.
    """

    learning_rate: float
    weight: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self):
        boundary.positive("learning_rate", self.learning_rate)
        boundary.number("weight", self.weight, 0)
        boundary.number("momentum", self.momentum, 0, 1)
        boundary.number("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class Losses:
    """What one step measured before it changed the model, batch means in nats; None where a method has no such loss."""

    forget_loss: float | None
    retain_loss: float | None


class Method:
    """What all methods share: an optimizer, and SGD along a direction that the subclass computes.

    model: maps (N, ...) to logits (N, K), changed in place; forget: `Samples` to be forgotten, all of them, for
    methods that look at the original model first; settings: `Settings`; generator: of the method's own random numbers.
    Raises TypeError for anything else, ValueError for a model without a parameter that can learn.
    """

    Report = Losses  # what `step` returns
    # whether a step's batches are parts of one, of both sets shuffled together: the loop says so
    together = False
    shares = (1.0, 1.0)

    def __init__(self, model, forget, settings, generator):
        boundary.instance("model", model, nn.Module, "torch.nn.Module")
        boundary.instance("forget", forget, Samples, "Samples")
        boundary.instance("settings", settings, Settings)
        self.model, self.settings = model, settings
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model must have at least one parameter that requires a gradient")
        self.generator = boundary.instance("generator", generator, torch.Generator, "torch.Generator")
        options = {"momentum": settings.momentum, "weight_decay": self.weight_decay()}
        self.optimizer = torch.optim.SGD(self.parameters, settings.learning_rate, **options)

    def weight_decay(self):
        """Weight decay of the optimizer."""
        return self.settings.weight_decay

    def state_dict(self):
        """All that steps change: model, optimizer and generator. What a method knows beforehand it computes anew."""
        parts = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**parts, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        """Go on where the method stood whose `state_dict` this is; this one was made from the same original model."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])

    def relabel(self, forget):
        """Forget samples with the labels that this method teaches; asked for once, before the first step."""
        return forget

    def mine(self, batch):
        """This process's part of a batch that all processes hold, `Samples` or a tensor (N, ...).

        Where each set's batch is forwarded for itself, no process may go without: ValueError for fewer samples than
        processes. Of one batch of both sets a process may have none of one set, as chance has shuffled them: it
        forwards what it has of the other, and adds 0 to the first one's mean.
        """
        return batch[distributed.rank() :: distributed.size()] if self.together else distributed.shard(batch)

    def loss_of_forget(self, logits, batch):
        """What descent lowers of a batch to be forgotten, a mean; logits: of this process's part of it.

        None in the place of this function or the next: such batches are not read.
        """
        raise NotImplementedError

    def loss_of_retain(self, logits, batch):
        """The same of a retain batch: by default cross-entropy with its labels, in nats."""
        labels = arrays.labels("labels", self.mine(batch.labels), torch, logits)
        return functional.cross_entropy(logits, labels)

    def losses(self, forget, retain):
        """(forget loss, retain loss), scalars of which descent lowers both; None for one that the method ignores."""
        losses_of = (self.loss_of_forget, self.loss_of_retain)
        read = [None if of is None else batch for of, batch in zip(losses_of, (forget, retain))]
        logits = iter(self.logits([self.mine(batch).inputs for batch in read if batch is not None]))
        return tuple(None if b is None else mean_part(of, next(logits), b) for of, b in zip(losses_of, read))

    def logits(self, inputs):
        """Logits of each of a list of inputs, which the model gets one after the other, or as one."""
        if not self.together or len(inputs) < 2:
            return [class_logits(self.model, part) for part in inputs]
        return class_logits(self.model, torch.cat(inputs)).split([len(part) for part in inputs])

    def direction(self, forget_loss, retain_loss):
        """Gradient that the optimizer follows downhill, one tensor a parameter: that of L_r + w L_f by default."""
        parts = [] if retain_loss is None else [self.shares[1] * retain_loss]
        parts += [] if forget_loss is None else [self.shares[0] * self.settings.weight * forget_loss]
        return self.gradient(sum(parts))

    def gradient(self, loss, keep_graph=False):
        """Gradient of a loss, one tensor a parameter, zeros where the loss does not depend on it."""
        check_differentiable(self.model)
        grads = distributed.gradients(loss, self.parameters, keep_graph)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, grads)]

    def step(self, forget, retain):
        """Update the model once.

        forget, retain: batches, `Samples`, or one of them None.  Returns `Losses`.
        Raises TypeError or ValueError for bad batches or none that the method learns from, `NonFiniteError` (a
        ValueError) for inputs, a loss or a gradient that are not finite; model, optimizer and generator are then as
        before.
        """
        check_batches(forget, retain)
        if self.together:
            counts = [0 if batch is None else len(batch) for batch in (forget, retain)]
            self.shares = tuple(count / max(1, sum(counts)) for count in counts)
            if max(counts) < distributed.size() > 1:
                raise ValueError(
                    f"forget or retain must hold a sample for each of {distributed.size()} processes, got {counts}"
                )
        with undone_on_error(self.model, self.generator), in_mode(self.model, True), torch.enable_grad():
            forget_loss, retain_loss = self.losses(forget, retain)
            losses = (forget_loss, retain_loss)
            values = [None if loss is None else distributed.total(loss.detach()).item() for loss in losses]
            for name, value in zip(("forget", "retain"), values):
                if value is not None and not abs(value) < float("inf"):
                    raise NonFiniteError(
                        f"the {name} loss must be finite, got {value}: lower learning_rate or weight (of a class that "
                        "the model masks with -inf no label can be taught)"
                    )
            if losses == (None, None):
                raise ValueError(f"forget, retain must hold a batch that {type(self).__name__} learns from, got none")
            direction = self.direction(forget_loss, retain_loss)
            if not torch.stack(torch._foreach_norm(direction, float("inf"))).isfinite().all():
                raise NonFiniteError("the gradient must be finite, got NaN or infinity: lower learning_rate or weight")
        for parameter, d in zip(self.parameters, direction):
            parameter.grad = d
        self.optimizer.step()
        return Losses(*values)


def mean_part(loss_of, logits, batch):
    """What this process contributes to the mean loss of a whole batch; logits: of its own part, perhaps of none."""
    loss = loss_of(logits, batch)  # also of none, where it has no value: all processes draw the same random numbers
    return distributed.part(loss, len(logits), len(batch)) if len(logits) else logits.sum()


def check_batches(forget, retain):
    """Raise unless both are None or `Samples` with finite inputs."""
    for name, batch in (("forget", forget), ("retain", retain)):
        if batch is None:
            continue
        inputs = boundary.instance(name, batch, Samples, "Samples").inputs
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise NonFiniteError(f"{name} must hold finite inputs, got NaN or infinity; nothing was changed")


@torch.no_grad()
def all_logits(model, inputs, batch_size=1024):
    """Logits (N, K) of a model in eval mode, computed in batches; each module's own mode is put back afterwards."""
    with in_mode(model):
        return torch.cat([class_logits(model, batch) for batch in inputs.split(batch_size)])
