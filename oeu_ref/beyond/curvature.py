"""Beyond first order, in PyTorch. Twin of `oeu_ref/beyond/curvature_reference.py`; curvature by a second backward pass.

What slope <g, d> and curvature d'Hd say about a step, formulas of plain numbers, stands in the reference alone.

What a second backward pass means through a quantizer: it differentiates the straight-through gradient, not the
staircase. Over the weights that is the Hessian of the loss in the *quantized* values, where the mask lets them pass,
and symmetric. Over the learned steps it is no Hessian, not symmetric (the step's gradient round(v) - v has a slope of
-1 / s in x that no loss has), and through the mask "clip" it does not run: leave steps out of parameters, gradient and
vector. Either way the loss itself jumps where a code flips: on a quantized network a bound from it is a guess, not a
guarantee.
"""

import contextlib
import copy
import math
from dataclasses import dataclass

import torch

from .. import boundary
from ..boundary import GRANULARITY, Gradients, LayerIds
from ..core.unlearner import OEU, NonFiniteError, Plan, StepReport
from ..passes import copies_of, grad_of, is_quantizer, logits_of
from ..tensors.layers import Layers, takes, wide
from .curvature_reference import largest_learning_rate

# a compiled network has no second backward pass: it is passed as it was before; PyTorch knows how since 2.6
EAGER = getattr(torch.compiler, "set_stance", contextlib.nullcontext)


@takes(parameters=Gradients(check_finite=False), vector=Gradients("parameters", check_finite=False))
def hessian_vector_product(gradient, parameters, vector):
    """Hessian times a vector, H v, by a second backward pass; exact for a smooth loss.

    gradient: list of P tensors, the loss's by `torch.autograd.grad(..., create_graph=True)`, None for a parameter that
    the loss does not use; parameters: the list of P leaves that it was taken for; vector: list of P tensors of their
    shapes.  Returns a list of P tensors, zero for unused parameters. The graph is kept: the gradient may be asked
    again.
    Raises TypeError or ValueError for lists or shapes that do not match, ValueError for a gradient without a graph
    (also that of a loss linear in all parameters, which has no curvature).
    Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994: H v is the gradient of <g, v>.
    """
    if not isinstance(gradient, (list, tuple)) or len(gradient) != len(parameters):
        got = len(gradient) if isinstance(gradient, (list, tuple)) else type(gradient).__name__
        raise ValueError(f"gradient must be a list of {len(parameters)} tensors, one a parameter, got {got}")
    pairs = [(g, v) for g, v in zip(gradient, vector) if g is not None and g.requires_grad]
    if not pairs:
        raise ValueError("gradient must come with its graph: take it with torch.autograd.grad(..., create_graph=True)")
    weights = [v.to(g.dtype) for g, v in pairs]
    found = grad_of([g for g, _ in pairs], parameters, grad_outputs=weights, retain_graph=True)
    return [torch.zeros_like(p) if h is None else h for p, h in zip(parameters, found)]


@takes(
    parameters=Gradients(check_finite=False),
    direction=Gradients("parameters", check_finite=False),
    granularity=GRANULARITY,
    layer_ids=LayerIds("direction"),
)
def curvature(gradient, parameters, direction, granularity="global", layer_ids=None):
    """Curvature of a loss along a direction, d'Hd, by one `hessian_vector_product`.

    gradient, parameters as there; direction: d, list of P tensors; granularity: "global" (the whole network) or
    "layer" (each layer's contribution d_l'(Hd)_l, other layers' motion included, which add up to the whole's);
    layer_ids: P labels, equal for tensors that form one layer; None: each tensor is a layer.
    Returns (L,), a layer each in order of first appearance (L = 1 for "global").  Raises as `hessian_vector_product`;
    ValueError for an unknown word or another number of labels.
    Source: the second order of Theorem 4.3 of arXiv 2602.00567.
    """
    product = hessian_vector_product.unchecked(gradient, parameters, direction)
    return Layers(layer_ids, direction, granularity).dots(wide(direction), wide(product))


@dataclass(frozen=True)
class BoundedReport(StepReport):
    """A `StepReport` that says, beside, which share in [0, 1] of the optimizer's update was taken."""

    update_share: float


@dataclass
class BoundedPlan(Plan):
    """A `Plan` whose retain gradients hold their graph; copies: dict name -> the leaves at which they were taken."""

    copies: dict


class BoundedOEU(OEU):
    """OEU whose updates are shortened where they are predicted to raise the retain loss by more than a bound.

    max_retain_increase >= 0, in nats: what a step may add to the retain batch's loss, by slope and curvature along the
    optimizer's update; where they predict more, the update is shortened, and a momentum buffer with it. All else as
    `OEU`. It costs a second backward pass and copies of parameters and optimizer. Exact to second order on a smooth
    loss; a quantizer's staircase keeps no such promise.
    `step` returns a `BoundedReport`.  An update whose effect is not finite raises `NonFiniteError`; the model and the
    optimizer are then as before.  Raises as `OEU`, and TypeError or ValueError for another bound.
    Source: ours; `largest_learning_rate`.
    """

    def __init__(self, *args, max_retain_increase, **options):
        super().__init__(*args, **options)
        self.max_retain_increase = boundary.number("max_retain_increase", max_retain_increase, 0)

    def plan(self, forget_inputs, retain_inputs, retain_labels):
        """A `BoundedPlan`; arguments, errors as `OEU.plan`."""
        plan = super().plan(forget_inputs, retain_inputs, retain_labels)
        return BoundedPlan(**vars(plan), copies=self.__dict__.pop("_copies"))

    def retain_gradient(self, parameters, inputs, labels):
        """As `OEU.retain_gradient`; the gradient holds its graph."""
        # of copies: the graph must outlive the update, which changes the parameters in place, and the plan, which puts
        # the buffers back
        self._copies = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        buffers = dict(self.model.named_buffers())
        own = {name: c for name, c in zip(buffers, copies_of(buffers.values())) if c is not None}
        with EAGER("force_eager"):
            loss = self.loss_of_retain(logits_of(self.model, inputs, self._copies | own), labels)
        with torch.no_grad():
            for name, copy_of_it in own.items():
                buffers[name].copy_(copy_of_it)
        return loss.detach(), grad_of(loss, list(self._copies.values()), create_graph=True)

    def update(self, plan):
        """The bounded update; nothing is changed if its effect is not finite, or cannot be told."""
        state = {p: copy.deepcopy(values) for p, values in self.optimizer.state.items()}
        try:
            return self._bounded(plan)
        except BaseException:
            with torch.no_grad():
                for name, parameter in plan.parameters.items():
                    parameter.copy_(plan.copies[name])
            self.optimizer.state.clear()
            self.optimizer.state.update(state)
            raise

    def _bounded(self, plan):
        """The optimizer's step, of which is taken back what lifts the retain loss above the bound."""
        super().update(plan)
        before = [plan.copies[name] for name in plan.parameters]
        with torch.no_grad():
            update = torch._foreach_sub(list(plan.parameters.values()), before)
        share = self._share(plan, before, update)
        if share < 1:
            self._shorten(plan, before, update, share)
        return BoundedReport(**vars(plan.report), update_share=share)

    @torch.no_grad()
    def _shorten(self, plan, before, update, share):
        for parameter, old, u in zip(plan.parameters.values(), before, update):
            # not u * share for a share of 0: an infinite u would leave NaN behind
            parameter.copy_(old + share * u if share else old)
            buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                buffer.mul_(share) if share else buffer.zero_()

    def _share(self, plan, before, update):
        """How much of an update obeys the bound, in [0, 1]; before, update: lists of tensors."""
        g_r = list(plan.retain_grads.values())
        products = [(wide(g.detach()) * wide(u)).sum() for g, u in zip(g_r, update)]
        slope = -torch.stack(products).cpu().double().sum().item()
        # a learned step's gradient has no Hessian: steps count in the slope alone
        modules = (self.model.get_submodule(name.rpartition(".")[0]) for name in plan.parameters)
        smooth = [i for i, module in enumerate(modules) if not is_quantizer(module)]
        bend = curvature(*([values[i] for i in smooth] for values in (g_r, before, update)))[0].item()
        if not math.isfinite(slope + bend):
            raise NonFiniteError(
                f"the update must have a finite effect on the retain loss, got a slope of {slope:g} and a curvature of "
                f"{bend:g}: lower the learning rate; nothing was changed"
            )
        return float(largest_learning_rate(1.0, slope, bend, self.max_retain_increase))
