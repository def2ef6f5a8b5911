"""The OEU step on any PyTorch model and optimizer."""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .. import boundary
from . import distributed, subspace
from ._checks import with_data
from .curvature import curvature, largest_learning_rate
from .entropy import check_logits_shape, checked_labels
from .fast import cosines_and_norms, projected
from .monitor import monitored
from .projection import Layers, wide
from .undo import is_quantizer, undone_on_error
from .updates import OrthogonalUpdates

FORWARDS = ("separate", "joint")
MODES = ("train", "keep")


class NonFiniteError(ValueError):
    """A loss or gradient is not finite. The model, its buffers and the optimizer are as they were before the step."""


@dataclass(frozen=True)
class StepReport:
    """What one OEU step measured before it changed the model.

    forget_loss, -forget_entropy unless the loss is your own; retain_loss >= 0; forget_entropy in [0, log K]: floats, in
    nats, batch means;
    cosine: between forget and retain gradient, residual: between projected forget gradient and retain gradient, both
    over all parameters as one vector; layer_cosines, layer_residuals: the same for each layer, by name;
    update_share in [0, 1]: how much of the optimizer's update was taken, 1 unless `max_retain_increase` asked for less.
    """

    forget_loss: float
    retain_loss: float
    forget_entropy: float
    cosine: float
    residual: float
    layer_cosines: dict
    layer_residuals: dict
    update_share: float = 1.0


class OEU:
    """Orthogonal Entropy Unlearning of a model in place, step by step, through an optimizer of your choice.

    model: any `nn.Module` that maps inputs (N, ...) to logits (N, K); parameters may be frozen, shared or unused.
    optimizer: a `torch.optim.Optimizer` over (some of) the model's parameters; only these are changed. Around it may
    stand a `oeu_ref.core.updates.OrthogonalUpdates`, which projects what the optimizer makes of the direction.
    alpha in [0, 1]: share of the retain direction that is removed from the forget gradient (paper: 1).
    beta >= 0: weight of the projected forget gradient.
    granularity: "layer" or "global"; rescale: "undo" or "match": see `oeu_ref.core.projection.project`.
    layer: what counts as a layer, "module" (a layer's weight, bias and step sizes are one vector) or "tensor" (each
    parameter is its own). A one-element tensor, such as an LSQ step, is always collinear with its retain gradient: as a
    layer of its own it would never receive a forget gradient.
    forward: "separate" passes the forget and the retain batch one after the other, "joint" passes both in one batch,
    which BatchNorm then normalizes together.
    mode: "train" puts the model in train mode for the step's forward passes, so that BatchNorm normalizes the forget
    batch as it did the training batches (in eval mode networks with BatchNorm collapse), and back afterwards; "keep"
    leaves every module's mode as you set it, for BatchNorm layers frozen on purpose.
    normalization, epsilon: as in `oeu_ref.core.projection.project`.
    forget_loss: None for OEU's own, the negative mean entropy; or maps forget logits (N_f, K) to a scalar of which
    descent forgets, for experiments with other losses.
    memory: m >= 1: the span of this and the m - 1 last steps' retain gradients is taken out of the forget gradient, at
    the price of m - 1 copies of the gradients; see `oeu_ref.core.subspace` (paper: 1).
    max_retain_increase: None, or a bound >= 0, in nats, on what a step may add to the retain batch's loss: where slope
    and curvature along the optimizer's update predict more, the update is shortened, and a momentum buffer with it. It
    costs a second backward pass and a copy of the parameters, and needs one process and forward="separate". Exact to
    second order on a smooth loss; a quantizer's staircase keeps no such promise (`oeu_ref.core.curvature`).
    monitor: True, or a `oeu_ref.core.monitor.Monitor`: record what each step does in `unlearner.monitor`, and warn of
    known failures; the run stays the same to the last bit.
    Mixed precision: call `step` under `torch.autocast` with bfloat16, and without a GradScaler: OEU takes its own
    gradients, and a step that is not finite raises with nothing changed. float16 may lose small gradients.
    Raises TypeError for another model or optimizer, ValueError for a setting outside its range or an optimizer that
    holds none of the model's parameters, or others.
    Over several processes (`oeu_ref.core.distributed`) each passes its own shard of both batches to `step`, which takes
    the step of one process with both batches whole; BatchNorm layers must be synchronized for that.
    Source: the OEU algorithm of arXiv 2602.00567.
    """

    def __init__(
        self,
        model,
        optimizer,
        alpha=1.0,
        beta=1.0,
        granularity="layer",
        rescale="undo",
        layer="module",
        forward="separate",
        mode="train",
        normalization="exact",
        epsilon=1e-8,
        forget_loss=None,
        memory=1,
        max_retain_increase=None,
        monitor=None,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.model, self.optimizer = model, optimizer
        self.alpha, self.beta = boundary.alpha(alpha), boundary.beta(beta)
        self.granularity = boundary.one_of("granularity", granularity, boundary.GRANULARITIES)
        self.rescale = boundary.one_of("rescale", rescale, boundary.RESCALES)
        self.layer = boundary.one_of("layer", layer, boundary.LAYERS)
        self.forward = boundary.one_of("forward", forward, FORWARDS)
        self.mode = boundary.one_of("mode", mode, MODES)
        self.normalization = boundary.one_of("normalization", normalization, boundary.NORMALIZATIONS)
        self.epsilon = boundary.positive("epsilon", epsilon)
        self.forget_loss = boundary.function("forget_loss", forget_loss)
        memory = boundary.integer("memory", memory, 1)
        if memory > 1 and self.normalization != "exact":
            raise ValueError(f"normalization must be 'exact' for a memory above 1, got {normalization!r}")
        self.remembered = subspace.RetainMemory(memory - 1) if memory > 1 else None
        self.max_retain_increase = max_retain_increase
        if max_retain_increase is not None:
            self.max_retain_increase = boundary.number("max_retain_increase", max_retain_increase, 0)
            if self.forward != "separate":
                raise ValueError(f"forward must be 'separate' for max_retain_increase, got {forward!r}")
        self.monitor = monitored(monitor)
        self._layers = {}
        if not self._trainable():
            raise ValueError("optimizer must hold at least one parameter of the model that requires a gradient")

    def step(self, forget_inputs, retain_inputs, retain_labels):
        """Take one step: two gradients, projection, one step of the optimizer. Forget labels are not needed.

        forget_inputs: (N_f, ...), retain_inputs: (N_r, ...), what the model takes; retain_labels: (N_r,) integers.
        Returns a `StepReport`.
        Raises TypeError or ValueError for empty or mismatched batches and bad labels, `NonFiniteError` (a ValueError)
        for a non-finite loss or gradient; the model, buffers included, and the optimizer are then as before.
        """
        parameters = self._trainable()
        bounded = self.max_retain_increase is not None
        if bounded and distributed.size() > 1:
            raise ValueError(f"max_retain_increase must be None for several processes, got {distributed.size()}")
        watch = self.monitor and self.monitor.watch(self)
        with undone_on_error(self.model), self._forward_mode():
            # the retain loss's graph must outlive the update, which changes the parameters in place
            copies = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()} if bounded else None
            losses, g_f, g_r = self._losses_and_gradients(
                parameters, forget_inputs, retain_inputs, retain_labels, copies
            )
            # a quantizer clips infinite inputs to finite ones: the losses alone would not show them
            inputs_finite = torch.stack([forget_inputs.isfinite().all(), retain_inputs.isfinite().all()])
            inputs_finite = distributed.total(inputs_finite.double()) == distributed.size()
            parameters, g_f, g_r = _used(parameters, g_f, g_r)
            with torch.no_grad():
                layers, names = self._layers_of(parameters)
                g_perp = self._projected(parameters, g_f, g_r, layers)
                report = self._report(inputs_finite, losses, g_f, g_r, g_perp, layers, names)
                direction = torch._foreach_add(g_r, g_perp, alpha=self.beta)
        if self.remembered is not None:
            self.remembered.push(dict(zip(parameters, g_r)))
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, d in zip(parameters.values(), direction):
            parameter.grad = d
        if isinstance(self.optimizer, OrthogonalUpdates):
            self.optimizer.protect(list(parameters.values()), g_r, layers)
        if watch:
            watch.before_update(parameters, g_f, g_r, direction, layers, names)
        self.optimizer.step()
        if bounded:
            share = self._shorten_update(parameters, [copies[name] for name in parameters], g_r)
            report = dataclasses.replace(report, update_share=share)
        if watch:
            watch.after_update(report, forget_inputs, retain_inputs, retain_labels)
        return report

    def _projected(self, parameters, g_f, g_r, layers):
        """g_perp: the forget gradient without the retain direction, or without the span of those remembered."""
        if self.remembered is None:
            return projected(g_f, g_r, layers, self.alpha, self.rescale, self.normalization, self.epsilon)
        history = [*self.remembered.history(parameters), g_r]
        return subspace.projected(g_f, history, layers, self.alpha, self.rescale)

    def _shorten_update(self, parameters, before, g_r):
        """Take back what of the update is predicted to lift the retain loss above the bound; the share that remains.

        parameters: dict, after the update; before: list of leaves, their values before it; g_r: with its graph.
        """
        with torch.no_grad():
            update = torch._foreach_sub(list(parameters.values()), before)
            slope = -sum((g * u).sum(dtype=torch.float64) for g, u in zip(g_r, update))
        # a learned step's gradient has no Hessian (`curvature`'s module says why): steps count in the slope alone
        smooth = [i for i, name in enumerate(parameters) if not self._is_step(name)]
        bend = curvature(*([values[i] for i in smooth] for values in (g_r, before, update)))[0]
        finite = bool(slope.isfinite() and bend.isfinite())
        share = largest_learning_rate(1.0, slope, bend, self.max_retain_increase).item() if finite else 0.0
        if share < 1:
            with torch.no_grad():
                for parameter, old, u in zip(parameters.values(), before, update):
                    # not u * share for a share of 0: an infinite u would leave NaN behind
                    parameter.copy_(old + share * u if share else old)
                    buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
                    if buffer is not None:
                        buffer.mul_(share) if share else buffer.zero_()
        if not finite:
            raise NonFiniteError(
                f"the update must have a finite effect on the retain loss, got a slope of {slope:g} and a curvature of "
                f"{bend:g}: lower the learning rate; the parameters are as before"
            )
        return share

    def _is_step(self, parameter_name):
        return is_quantizer(self.model.get_submodule(parameter_name.rpartition(".")[0]))

    def _trainable(self):
        """Parameters that a step changes, by name, each once: the model's that the optimizer holds."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        named = {name: p for name, p in self.model.named_parameters() if id(p) in held}
        if len(named) < len(held):
            raise ValueError(
                f"optimizer must hold only parameters of the model, got {len(held) - len(named)} of something else"
            )
        return {name: p for name, p in named.items() if p.requires_grad}

    def _layers_of(self, parameters):
        key = tuple(parameters)
        if key not in self._layers:
            labels = list(parameters) if self.layer == "tensor" else [self._owner(name) for name in parameters]
            layers = Layers(labels, list(parameters.values()), self.granularity)
            names = ["global"] if self.granularity == "global" else list(dict.fromkeys(labels))
            self._layers = {key: (layers, names)}
        return self._layers[key]

    def _owner(self, parameter_name):
        """Name of the module that a parameter belongs to; a quantizer's step belongs to the layer that it serves."""
        owner = parameter_name.rpartition(".")[0]
        return owner.rpartition(".")[0] if self._is_step(parameter_name) else owner

    def _losses_and_gradients(self, parameters, forget_inputs, retain_inputs, retain_labels, copies=None):
        """(losses, g_f, g_r): forget loss, retain loss and forget entropy as (3,) float64; lists, None where unused.

        copies: dict name -> leaf of the parameter's value, in which g_r is then taken, with its graph.
        """
        for name, inputs in (("forget_inputs", forget_inputs), ("retain_inputs", retain_inputs)):
            if not isinstance(inputs, torch.Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(inputs).__name__}")
            if inputs.ndim < 1 or len(inputs) == 0:
                raise ValueError(f"{name} must hold at least one sample, got shape {tuple(inputs.shape)}")
            with_data(name, inputs)
        parameters = list(parameters.values())
        if self.forward == "joint":
            if forget_inputs.shape[1:] != retain_inputs.shape[1:]:
                raise ValueError(
                    f"forget_inputs must have the sample shape of retain_inputs for a joint forward, "
                    f"{tuple(retain_inputs.shape[1:])}, got {tuple(forget_inputs.shape[1:])}"
                )
            logits = self.model(torch.cat([forget_inputs, retain_inputs]))
            forget_loss, entropies = self._forget_loss(logits[: len(forget_inputs)])
            retain_loss = self._retain_loss(logits[len(forget_inputs) :], retain_labels)
            g_f = distributed.gradients(forget_loss, parameters, keep_graph=True)
        else:
            # one after the other, each with its gradient at once, so that only one batch's activations are in memory;
            # retain last: BatchNorm's running statistics weigh the latest batch most
            forget_loss, entropies = self._forget_loss(self.model(forget_inputs))
            g_f = distributed.gradients(forget_loss, parameters)
            call = self.model if copies is None else functools.partial(_called_with, self.model, copies)
            retain_loss = self._retain_loss(call(retain_inputs), retain_labels)
        if copies is None:
            g_r = distributed.gradients(retain_loss, parameters)
        else:
            g_r = torch.autograd.grad(retain_loss, list(copies.values()), create_graph=True, allow_unused=True)
        losses = torch.stack([forget_loss.detach(), retain_loss.detach(), entropies]).double()
        return distributed.total(losses), g_f, g_r

    def _forget_loss(self, logits):
        """(the loss that is to fall, mean entropy detached) for the forget batch's logits."""
        check_logits_shape(logits, "the model's logits for forget_inputs")
        logits = logits.to(wide([logits])[0].dtype)
        log_p = functional.log_softmax(logits, dim=1)
        negative_entropy = (log_p.exp() * log_p).sum(dim=1).mean()
        loss = negative_entropy if self.forget_loss is None else self.forget_loss(logits)
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0 or loss.requires_grad < logits.requires_grad:
            raise TypeError("forget_loss must return a 0-d tensor that depends on the logits, such as a batch mean")
        count = len(logits)
        return distributed.part(loss, count), -distributed.part(negative_entropy.detach(), count)

    def _retain_loss(self, logits, labels):
        check_logits_shape(logits, "the model's logits for retain_inputs")
        labels = checked_labels("retain_labels", labels, *logits.shape)
        loss = functional.cross_entropy(logits.to(wide([logits])[0].dtype), labels)
        return distributed.part(loss, len(labels))

    def _report(self, inputs_finite, losses, g_f, g_r, g_perp, layers, names):
        """Measure, and raise `NonFiniteError` unless all is finite, in one transfer from the device."""
        before, norms_f, norms_r = cosines_and_norms(g_f, g_r, layers)
        after, norms_perp, _ = cosines_and_norms(g_perp, g_r, layers)
        measured = [norms_f, norms_r, norms_perp, before, after]
        inputs_finite, losses, norms_f, norms_r, norms_perp, before, after = (
            torch.cat([inputs_finite.double(), losses, *measured]).cpu().split([2, 3] + 5 * [layers.count])
        )
        for name, inputs_ok in zip(("forget_inputs", "retain_inputs"), inputs_finite):
            if not inputs_ok:
                raise NonFiniteError(f"{name} must be finite, got NaN or infinity; nothing was changed")
        if not losses.isfinite().all():
            raise NonFiniteError(
                f"forget and retain loss must be finite, got {losses[0]:g} and {losses[1]:g}: "
                "check the inputs, or lower the learning rate; nothing was changed"
            )
        for kind, layer_norms in (("forget", norms_f), ("retain", norms_r)):
            if not layer_norms.isfinite().all():
                worst = names[int((~layer_norms.isfinite()).nonzero()[0])]
                raise NonFiniteError(
                    f"{kind} gradient must be finite, got a norm of {layer_norms[names.index(worst)]:g} "
                    f"in layer {worst!r}: lower the learning rate or the loss scale; nothing was changed"
                )
        return StepReport(
            forget_loss=losses[0].item(),
            retain_loss=losses[1].item(),
            forget_entropy=losses[2].item(),
            cosine=_overall_cosine(before, norms_f, norms_r),
            residual=_overall_cosine(after, norms_perp, norms_r),
            layer_cosines=dict(zip(names, before.tolist())),
            layer_residuals=dict(zip(names, after.tolist())),
        )

    @contextlib.contextmanager
    def _forward_mode(self):
        """The model in the mode asked for; each module's own is put back afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        if self.mode == "train":
            self.model.train()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _called_with(model, parameters, inputs):
    return torch.func.functional_call(model, parameters, (inputs,))


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


def _overall_cosine(layer_cosines, first_norms, second_norms):
    length = (first_norms.norm() * second_norms.norm()).item()
    return (layer_cosines * first_norms * second_norms).sum().item() / length if length else 0.0
