"""OEU with and without a bound on the predicted rise of the retain loss: the loop behind a part of `first_order`."""

import copy
import math

import torch

from .. import boundary
from ..beyond.curvature import BoundedOEU, BoundedReport
from ..core.unlearner import OEU, NonFiniteError
from ..lab import measures
from ..lab.study import batches
from ..lab.training import predictions
from ..passes import in_mode, undone


class BoundedDirection(BoundedOEU):
    """The bound in the wrong place: d is shortened, and what momentum has gathered is added to it afterwards."""

    def update(self, plan):
        """The optimizer's step along the share of the direction that obeys; a `BoundedReport`."""
        rate = self.optimizer.param_groups[0]["lr"]
        change = [-rate * d for d in plan.direction.values()]
        share = self._share(plan, list(plan.copies.values()), change)
        for parameter in plan.parameters.values():
            parameter.grad = share * parameter.grad
        return BoundedReport(**vars(OEU.update(self, plan)), update_share=share)


GUARDS = {"none": OEU, "direction": BoundedDirection, "update": BoundedOEU}


def unlearned(case, settings, guard, max_increase, steps):
    """A copy of the original model after OEU steps, each of which may raise the retain batch's loss by max_increase.

    case: `engine.Case`; settings: `Settings` (without weight decay); guard: a word of GUARDS; max_increase
    >= 0, in nats.
    Returns (model, records): a dict a step with "share" (of the update that was taken, in [0, 1]), "increase" (of the
    retain batch's loss, in train mode) and "retain_loss" (of the retain set, in eval mode), in nats.
    Raises ValueError for an unknown word, `NonFiniteError` if the run diverges.
    """
    boundary.one_of("guard", guard, tuple(GUARDS))
    model = copy.deepcopy(case.original)
    records = []
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)
    bound = {} if guard == "none" else {"max_retain_increase": max_increase}
    unlearner = GUARDS[guard](model, optimizer, beta=settings.weight, **bound)
    for forget, retain in batches(case, steps):
        report = unlearner.step(forget.inputs, retain.inputs, retain.labels)
        with torch.no_grad(), undone(model), in_mode(model, True):
            after = torch.nn.functional.cross_entropy(model(retain.inputs), retain.labels).item()
        if not math.isfinite(after):
            raise NonFiniteError("the retain batch's loss must be finite: a step was too long")
        whole = measures.mean_loss(*predictions(model, case.splits.retain))
        share = getattr(report, "update_share", 1.0)
        records.append({"share": share, "increase": after - report.retain_loss, "retain_loss": whole})
    return model.eval(), records
