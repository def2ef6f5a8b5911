"""OEU steps of which the predicted rise of the retain loss is bounded: the loop behind a part of `first_order`."""

import copy
import functools

import torch

from .. import boundary
from ..beyond.curvature import BoundedOEU, curvature
from ..beyond.curvature_reference import largest_learning_rate, loss_change
from ..core.entropy import cross_entropy
from ..core.unlearner import OEU, NonFiniteError
from ..lab.training import probabilities
from .one_step import move
from .study import batches

# none: the step as it is; direction: the curvature along d shortens d, and momentum adds what it has gathered;
# update: the curvature along momentum's whole update shortens that, momentum's memory included; measured: the update is
# halved until the loss of the retain batch, measured anew, obeys
GUARDS = ("none", "direction", "update", "measured")
SHORTEST = 2.0**-20  # "measured" gives up halving there


def unlearned(case, settings, guard, max_increase, steps):
    """A copy of the original model after OEU steps of which each may raise the retain batch's loss by max_increase.

    case: `engine.Case`; settings: `baselines.Settings` (without weight decay); guard: a word of GUARDS; max_increase
    >= 0, in nats.
    Returns (model, records): a dict a step with "share" (of the update that was taken, in [0, 1]), "predicted" and
    "increase" (of the retain batch's loss, second-order prediction and measured in train mode; the former None for
    "none" and "measured") and "retain_loss" (of the retain set, in eval mode), in nats.
    Raises ValueError for an unknown word, `NonFiniteError` if the run diverges.
    """
    boundary.one_of("guard", guard, GUARDS)
    model, records = copy.deepcopy(case.original), []
    # holds the parameters; steps are taken here
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate)
    bounded = guard in ("direction", "update")
    make = functools.partial(BoundedOEU, max_retain_increase=max_increase) if bounded else OEU
    unlearner = make(model, optimizer, beta=settings.weight)
    tensors = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in tensors]
    for forget, retain in batches(case, steps):
        plan = unlearner.plan(forget.inputs, retain.inputs, retain.labels)
        plan.after.put_back()
        direction, loss = [d.detach() for d in plan.direction.values()], plan.report.retain_loss
        # PyTorch's SGD: momentum gathers directions, and the update is what it has gathered
        update = torch._foreach_add(direction, velocity, alpha=settings.momentum)
        share, predicted = 1.0, None
        if bounded:
            along = direction if guard == "direction" else update
            slope, bend = slope_and_curvature(plan.copies, list(plan.retain_grads.values()), along)
            _check_finite([slope, bend])
            eta = largest_learning_rate(settings.learning_rate, slope, bend, max_increase)
            share, predicted = eta.item() / settings.learning_rate, loss_change(eta, slope, bend).item()
        if guard == "direction":
            update = torch._foreach_add(torch._foreach_mul(direction, share), velocity, alpha=settings.momentum)
        start = [p.detach().clone() for p in tensors]
        taken = 1.0 if guard == "direction" else share
        move(tensors, start, update, -settings.learning_rate * taken)
        increase = _batch_loss(model, retain) - loss
        while guard == "measured" and not increase <= max_increase and taken > SHORTEST:
            taken = share = taken / 2
            move(tensors, start, update, -settings.learning_rate * taken)
            increase = _batch_loss(model, retain) - loss
        velocity = torch._foreach_mul(update, taken)
        whole = set_loss(model, case.splits.retain)
        records.append({"share": share, "predicted": predicted, "increase": increase, "retain_loss": whole})
    return model.eval(), records


def slope_and_curvature(parameters, graph, direction):
    """(<g, d>, d'Hd) of a loss, two 0-d tensors; learned steps count in the slope alone, see `beyond.curvature`.

    parameters: dict name -> leaf; graph: gradient of the loss, a list with its graph; direction: list of tensors.
    """
    slope = sum((g.detach() * d).sum(dtype=torch.float64) for g, d in zip(graph, direction))
    smooth = [i for i, name in enumerate(parameters) if not name.endswith("_quantizer.step")]
    leaves = list(parameters.values())
    return slope, curvature(*([values[i] for i in smooth] for values in (graph, leaves, direction)))[0]


def set_loss(model, samples):
    """Mean cross-entropy of a set in eval mode, in nats, a float.  Raises `NonFiniteError` for non-finite logits."""
    p = probabilities(model, samples.inputs)[range(len(samples)), samples.labels.numpy()]
    # a probability that underflows counts as the smallest number: about 708 nats
    return float(-torch.tensor(p).clamp_min(torch.finfo(torch.float64).tiny).log().mean())


@torch.no_grad()
def _batch_loss(model, batch):
    """The batch's loss in train mode; BatchNorm's running statistics are put back."""
    model.train()
    saved = [buffer.clone() for buffer in model.buffers()]
    logits = model(batch.inputs)
    for buffer, value in zip(model.buffers(), saved):
        buffer.copy_(value)
    _check_finite([logits])
    return cross_entropy(logits, batch.labels).item()


def _check_finite(tensors):
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise NonFiniteError("losses, gradients and curvature must be finite: a step was too long")
