"""The OEU step on any PyTorch model and optimizer: a plan, which changes nothing, and its taking.

`OEU.plan` is the twin of `oeu_ref.reference.unlearner.oeu_step`. Small methods (`forget_gradient`, `retain_gradient`,
`project`, …) are what `oeu_ref.beyond` overrides: a new idea is a new class there.
"""

import inspect
from dataclasses import dataclass

import torch
from torch.nn import functional

from .. import arrays
from ..boundary import FUNCTION_OR_NONE, Instance, OneOf, Samples, taking
from ..passes import MODEL, State, check_differentiable, grad_of, in_mode, logits_of, owner, undone
from ..reference.unlearner import STEP
from ..tensors import Layers, wide
from .entropy import entropy
from .fast import cosines_and_norms, overall_cosine, projected

takes = taking(torch)
BATCHES = {"forget_inputs": Samples(), "retain_inputs": Samples()}


class NonFiniteError(ValueError):
    """A loss or gradient is not finite. The model, its buffers and the optimizer are as they were before the step."""


@dataclass(frozen=True)
class StepReport:
    """What one OEU step measured before it changed the model; losses and entropy: batch means, in nats."""

    forget_loss: float  # -forget_entropy unless the loss is your own
    retain_loss: float  # >= 0
    forget_entropy: float  # in [0, log K]
    cosine: float  # between forget and retain gradient, over all parameters as one vector
    layer_cosines: dict  # the same for each layer, by name


@dataclass
class Plan:
    """Everything that one OEU step computes. The model and the optimizer are as before until it is taken.

    The direction is yours to change before you take the plan, to clip it for instance.
    """

    report: StepReport
    parameters: dict  # name -> the parameter that is to move
    forget_grads: dict  # name -> tensor: g_f
    retain_grads: dict  # g_r
    projected_grads: dict  # g_perp
    direction: dict  # d = g_r + beta g_perp
    layers: Layers  # of these
    before: State  # of the model, and `after`: in which the forward passes leave it (BatchNorm's statistics)
    after: State

    @property
    def residual(self):
        """Cosine between projected forget gradient and retain gradient, over all parameters as one vector."""
        return overall_cosine(*self._left())

    @property
    def layer_residuals(self):
        """The same for each layer, by name: 0 up to rounding for alpha = 1. Measured when asked for, not in a step."""
        return dict(zip(self.layers.names, self._left()[0].tolist()))

    @torch.no_grad()
    def _left(self):
        projected, retain = list(self.projected_grads.values()), list(self.retain_grads.values())
        return cosines_and_norms(projected, retain, self.layers).cpu().double()


class OEU:
    """Orthogonal Entropy Unlearning of a model in place, step by step, through an optimizer of your choice.

    model: any `nn.Module` that maps inputs (N, ...) to logits (N, K); parameters may be frozen, shared or unused.
    optimizer: a `torch.optim.Optimizer` over (some of) the model's parameters; only these are changed.
    alpha in [0, 1]: share of the retain direction that is removed from the forget gradient (paper: 1).
    beta >= 0: weight of the projected forget gradient.
    granularity: "layer" or "global"; rescale: "undo" or "match": see `oeu_ref.core.projection.project`.
    layer: what counts as a layer, "module" (a layer's weight, bias and step sizes are one vector) or "tensor" (each
    parameter is its own). A one-element tensor, such as an LSQ step, is always collinear with its retain gradient: as a
    layer of its own it would never receive a forget gradient.
    mode: "train" puts a model that is in eval mode in train mode for the step's forward passes, so that BatchNorm
    normalizes the forget batch as it did the training batches (in eval mode networks with BatchNorm collapse), and back
    afterwards; of a model in train mode, layers frozen in eval mode on purpose stay so. "keep" switches nothing.
    forget_loss: None for OEU's own, the negative mean entropy; or maps forget logits (N_f, K) to a scalar of which
    descent forgets, for experiments with other losses.
    Mixed precision: call `step` under `torch.autocast` with bfloat16, and without a GradScaler: OEU takes its own
    gradients, and a step that is not finite raises with nothing changed. float16 may lose small gradients.
    Raises TypeError for another model or optimizer, one whose step takes a closure (LBFGS), or complex parameters,
    ValueError for a setting outside its range or an optimizer that maximizes, or holds other or none of the parameters.
    Source: the OEU algorithm of arXiv 2602.00567.
    """

    @takes(
        model=MODEL,
        optimizer=Instance(torch.optim.Optimizer, "torch.optim.Optimizer"),
        **STEP,
        mode=OneOf(("train", "keep")),
        forget_loss=FUNCTION_OR_NONE,
    )
    def __init__(
        self,
        model,
        optimizer,
        alpha=1.0,
        beta=1.0,
        granularity="layer",
        rescale="undo",
        layer="module",
        mode="train",
        forget_loss=None,
    ):
        self.model, self.optimizer = model, optimizer
        self.alpha, self.beta, self.granularity, self.rescale = alpha, beta, granularity, rescale
        self.layer, self.mode, self.forget_loss = layer, mode, forget_loss
        self._layers = {}
        # of the class: a scheduler puts a function that takes self in the object's own place
        _, *asked = inspect.signature(type(optimizer).step).parameters.values()
        if needed := [
            p.name for p in asked if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]:
            raise TypeError(f"optimizer must step without a {needed[0]}, got {type(optimizer).__name__}")
        if not self._trainable():
            raise ValueError("optimizer must hold at least one parameter of the model that requires a gradient")

    def step(self, forget_inputs, retain_inputs, retain_labels):
        """Take one step: `plan` and `take`. Forget labels are not needed.

        Arguments, errors: as `plan`.  Returns a `StepReport`.
        """
        return self.take(self.plan(forget_inputs, retain_inputs, retain_labels))

    @takes(**BATCHES)
    def plan(self, forget_inputs, retain_inputs, retain_labels):
        """Compute both gradients, the projection and the direction, and change nothing (but for what dropout draws).

        forget_inputs: (N_f, ...), retain_inputs: (N_r, ...), what the model takes; retain_labels: (N_r,) integers.
        Returns a `Plan`, good for the parameters as they are now.
        Raises TypeError or ValueError for empty or mismatched batches, bad labels, and in inference mode,
        `NonFiniteError` (a ValueError) for a non-finite loss or gradient.
        """
        check_differentiable(self.model)
        parameters = self._trainable()
        with undone(self.model) as before:
            with in_mode(self.model, True if self.mode == "train" else None), torch.enable_grad():
                losses, g_f, g_r = self.gradients(parameters, forget_inputs, retain_inputs, retain_labels)
            # a quantizer clips infinite inputs to finite ones: the losses alone would not show them
            finite = torch.stack([forget_inputs.isfinite().all(), retain_inputs.isfinite().all()])
            parameters, g_f, g_r = _used(parameters, g_f, g_r)
            with torch.no_grad():
                layers = self._layers_of(parameters)
                angles = cosines_and_norms(g_f, g_r, layers)
                g_perp = self.project(parameters, g_f, g_r, layers, angles)
                direction = torch._foreach_add(g_r, g_perp, alpha=self.beta)
                report = _report(*self.over_all(finite, losses), angles, layers)
            after = before.now()
        g_f, g_r, g_perp, direction = (dict(zip(parameters, tensors)) for tensors in (g_f, g_r, g_perp, direction))
        return Plan(report, parameters, g_f, g_r, g_perp, direction, layers, before, after)

    def take(self, plan):
        """Hand a plan's direction to the optimizer, and let it step.

        plan: a `Plan` of this object's, made at the parameters as they are now.  Returns its `StepReport`.
        What the optimizer raises is raised here, with the model's buffers as they were.
        """
        check_differentiable(self.model)  # the optimizer would remember tensors that it could not change afterwards
        plan.after.put_back()
        self.optimizer.zero_grad(set_to_none=True)
        for name, parameter in plan.parameters.items():
            parameter.grad = plan.direction[name]
        try:
            return self.update(plan)
        except BaseException:
            plan.before.put_back()
            raise

    def update(self, plan):
        """Let the optimizer step, with the direction in the parameters' `grad`.  Returns the step's report."""
        self.optimizer.step()
        return plan.report

    def gradients(self, parameters, forget_inputs, retain_inputs, retain_labels):
        """((3,) forget loss, retain loss and forget entropy, g_f, g_r): lists, None where a parameter is not used."""
        # one after the other, each with its gradient at once, so that only one batch's activations are in memory;
        # retain last: BatchNorm's running statistics weigh the latest batch most
        forget_loss, entropy, g_f = self.forget_gradient(parameters, forget_inputs)
        retain_loss, g_r = self.retain_gradient(parameters, retain_inputs, retain_labels)
        return torch.stack([forget_loss, retain_loss, entropy]), g_f, g_r

    def forget_gradient(self, parameters, inputs):
        """(forget loss, entropy, g_f) of the forget batch; parameters: dict."""
        loss, entropy = self.losses_of_forget(logits_of(self.model, inputs))
        return loss.detach(), entropy, self.differentiate(loss, list(parameters.values()))

    def retain_gradient(self, parameters, inputs, labels):
        """(retain loss, g_r) of the retain batch; parameters: dict."""
        loss = self.loss_of_retain(logits_of(self.model, inputs), labels)
        return loss.detach(), self.differentiate(loss, list(parameters.values()))

    def losses_of_forget(self, logits):
        """(the loss that is to fall, mean entropy detached) for the forget batch's logits."""
        logits = _checked(logits, "forget_inputs")
        unsure = entropy.unchecked(logits).mean()
        loss = -unsure if self.forget_loss is None else self.forget_loss(logits)
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0 or loss.requires_grad < logits.requires_grad:
            raise TypeError("forget_loss must return a 0-d tensor that depends on the logits, such as a batch mean")
        return self.part(loss, len(logits)), self.part(unsure.detach(), len(logits))

    def loss_of_retain(self, logits, labels):
        """Mean cross-entropy of the retain batch's logits."""
        logits = _checked(logits, "retain_inputs")
        labels = arrays.labels("retain_labels", labels, torch, logits)
        return self.part(functional.cross_entropy(logits, labels), len(labels))

    def project(self, parameters, g_f, g_r, layers, angles):
        """g_perp: the forget gradient without the retain direction, a list of new tensors.

        angles: (3, L), cosines of g_f and g_r, |g_f| and |g_r| of each layer.
        """
        return projected(g_f, g_r, layers, self.alpha, self.rescale, angles=angles)

    def logits(self, forget_inputs, retain_inputs):
        """What the model makes of both batches, passed as in a step: for who measures what a step did."""
        return logits_of(self.model, forget_inputs), logits_of(self.model, retain_inputs)

    # what several processes do otherwise: `oeu_ref.distributed`

    def part(self, loss, count):
        """What the mean loss of `count` samples contributes to the mean over the batch: itself."""
        return loss

    def differentiate(self, loss, parameters, keep_graph=False):
        """Gradient of a loss, one dense tensor a parameter; None for one that the loss does not depend on."""
        if not loss.requires_grad:
            return [None] * len(parameters)
        grads = grad_of(loss, parameters, retain_graph=keep_graph)
        return [g.to_dense() if g is not None and g.is_sparse else g for g in grads]

    def over_all(self, finite, losses):
        """(whether forget and retain inputs are finite, the three losses) of the whole batch, (2,) and (3,)."""
        return finite, losses

    def _trainable(self):
        """Parameters that a step changes, by name, each once: the model's that the optimizer holds."""
        if any(group.get("maximize") for group in self.optimizer.param_groups):
            raise ValueError("optimizer must minimize, since OEU's direction leads downhill, got maximize=True")
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        named = {name: p for name, p in self.model.named_parameters() if id(p) in held}
        if others := len(held) - len(named):
            raise ValueError(f"optimizer must hold only parameters of the model, got {others} of something else")
        if complex_ones := [name for name, p in named.items() if p.is_complex()]:
            raise TypeError(
                f"model must have real parameters, got complex {complex_ones[0]}: torch.view_as_real gives pairs"
            )
        return {name: p for name, p in named.items() if p.requires_grad}

    def _layers_of(self, parameters):
        key = tuple(parameters)
        if key not in self._layers:
            self._layers = {key: layers_of(self.model, parameters, self.layer, self.granularity)}
        return self._layers[key]


def layers_of(model, parameters, layer="module", granularity="layer"):
    """`Layers` of a model's parameters, a dict by name; layer, granularity: as in `OEU`."""
    labels = list(parameters) if layer == "tensor" else [owner(model, name) for name in parameters]
    return Layers(labels, list(parameters.values()), granularity)


def _checked(logits, name):
    """What a model made of the inputs of that name, widened; its numbers are looked at later, with all others."""
    return wide(arrays.floats(f"the model's logits for {name}", logits, torch, "N", "K", check_finite=False))


def _used(parameters, g_f, g_r):
    """Parameters that either loss depends on, by name, and both gradients for them, zero where one does not."""
    used = {name: p for (name, p), f, r in zip(parameters.items(), g_f, g_r) if not (f is None and r is None)}
    if not used:
        raise ValueError("model must connect at least one parameter that the optimizer holds with its logits")
    g_f, g_r = (
        [torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), grads) if name in used]
        for grads in (g_f, g_r)
    )
    return used, g_f, g_r


def _report(finite, losses, angles, layers):
    """`StepReport` of what was measured; raise `NonFiniteError` unless all is finite, in one transfer."""
    # in float64 only here: there are devices without it
    measured = torch.cat([finite.to(losses.dtype), losses, *angles]).cpu().double()
    finite, losses, *angles = measured.split([2, 3] + 3 * [layers.count])
    for name, ok in zip(("forget_inputs", "retain_inputs"), finite):
        if not ok:
            raise NonFiniteError(f"{name} must be finite, got NaN or infinity; nothing was changed")
    if not losses.isfinite().all():
        raise NonFiniteError(
            f"forget and retain loss must be finite, got {losses[0]:g} and {losses[1]:g}: check inputs and labels (no "
            "label may be of a class masked with -inf), or lower the learning rate; nothing was changed"
        )
    for kind, layer_norms in zip(("forget", "retain"), angles[1:]):
        if not layer_norms.isfinite().all():
            worst = int((~layer_norms.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"{kind} gradient must be finite, got a norm of {layer_norms[worst]:g} "
                f"in layer {layers.names[worst]!r}: lower the learning rate or the loss scale; nothing was changed"
            )
    forget_loss, retain_loss, forget_entropy = losses.tolist()
    layer_cosines = dict(zip(layers.names, angles[0].tolist()))
    return StepReport(forget_loss, retain_loss, forget_entropy, overall_cosine(*angles), layer_cosines)
