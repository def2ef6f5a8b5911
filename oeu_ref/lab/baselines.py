"""Unlearning methods behind one interface, for the one loop `oeu_ref.lab.training.unlearn`.

A method is built from (model, forget, settings, generator) and then turns pairs of batches into updates of the model.
Notation: theta parameters, theta_o the original model's, eta learning rate, w `Settings.weight`; forget batch
(x_f, y_f), retain batch (x_r, y_r); CE mean cross-entropy, L_r = CE(x_r, y_r) with gradient g_r; "SGD along d" is
theta <- theta - eta d, with momentum and weight decay. Both batches are forwarded in train mode, one after the other. A
method whose direction is a sum of one part for each batch also takes one batch alone, None in the other's place: the
protocol of `oeu_ref.lab.protocol` alternates them. And it takes the two as parts of one batch (`Method.together`): they
are forwarded as one, and the sum's parts count by their shares, n_f / (n_f + n_r) and n_r / (n_f + n_r).
Retrain, which all are measured against, is `oeu_ref.lab.training.train` on the retain set.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from .. import boundary
from ..beyond import distributed
from ..beyond.distributed import ParallelOEU
from ..core.undo import check_differentiable, class_logits, in_mode, undone_on_error
from ..core.unlearner import NonFiniteError, StepReport
from ..data.samples import Samples, other_labels
from .training import all_logits


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
    together, shares = False, (1.0, 1.0)

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
        processes. Of one batch of both sets a process may have none of one set, as chance has shuffled them: it forwards
        what it has of the other, and adds 0 to the first one's mean.
        """
        return batch[distributed.rank() :: distributed.size()] if self.together else distributed.shard(batch)

    def loss_of_forget(self, logits, batch):
        """What descent lowers of a batch to be forgotten, a mean; logits: of this process's part of it.

        None in the place of this function or the next: such batches are not read.
        """
        raise NotImplementedError

    def loss_of_retain(self, logits, batch):
        """The same of a retain batch: by default cross-entropy with its labels, in nats."""
        labels = boundary.labels("labels", self.mine(batch.labels), torch, logits)
        return functional.cross_entropy(logits, labels)

    def losses(self, forget, retain):
        """(forget loss, retain loss), scalars of which descent lowers both; None for one that the method ignores."""
        losses_of = (self.loss_of_forget, self.loss_of_retain)
        read = [None if of is None else batch for of, batch in zip(losses_of, (forget, retain))]
        logits = iter(self.logits([self.mine(batch).inputs for batch in read if batch is not None]))
        return tuple(None if b is None else _mean(of, next(logits), b) for of, b in zip(losses_of, read))

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
        _check_batches(forget, retain)
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


def _mean(loss_of, logits, batch):
    """What this process contributes to the mean loss of a whole batch; logits: of its own part, perhaps of none."""
    loss = loss_of(logits, batch)  # also of none, where it has no value: all processes draw the same random numbers
    return distributed.part(loss, len(logits), len(batch)) if len(logits) else logits.sum()


def _check_batches(forget, retain):
    """Raise unless both are None or `Samples` with finite inputs."""
    for name, batch in (("forget", forget), ("retain", retain)):
        if batch is None:
            continue
        inputs = boundary.instance(name, batch, Samples, "Samples").inputs
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise NonFiniteError(f"{name} must hold finite inputs, got NaN or infinity; nothing was changed")


class FineTuning(Method):
    """FT: go on training on what is kept, and hope that the rest fades.

    Update: SGD along g_r, with w times the weight decay: the decay is what forgets, so the weight goes there.
    Source: the fine-tuning baseline of Golatkar et al., CVPR 2020, and of Warnecke et al., NDSS 2023.
    """

    loss_of_forget = None

    def weight_decay(self):
        return self.settings.weight * self.settings.weight_decay


class L1Sparse(FineTuning):
    """l1-sparse: fine-tuning that pushes weights to zero, since a sparse network remembers less.

    Update: SGD along g_r + w gamma sign(theta), sign(0) = 0; gamma = 5e-4 is ours. All parameters are penalized, as in
    the authors' code, whose factor is 0.2 by default and fades linearly to 0 over the epochs. So it does here over
    `fade` steps, an integer >= 1 (in the tables' row l1_fading the run's own); None: it stays what it is.
    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, equation 4.
    """

    gamma = 5e-4

    def __init__(self, model, forget, settings, generator, fade=None):
        super().__init__(model, forget, settings, generator)
        self.fade, self.taken = fade if fade is None else boundary.integer("fade", fade, 1), 0

    def state_dict(self):
        return {**super().state_dict(), "taken": self.taken}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.taken = state["taken"]

    def step(self, forget, retain):
        losses = super().step(forget, retain)
        self.taken += 1
        return losses

    def weight_decay(self):
        return self.settings.weight_decay

    def direction(self, forget_loss, retain_loss):
        gradient, signs = self.gradient(retain_loss), [p.detach().sign() for p in self.parameters]
        left = 1.0 if self.fade is None else max(0.0, 1 - self.taken / self.fade)
        return torch._foreach_add(gradient, signs, alpha=self.settings.weight * self.gamma * left)


class GradientAscent(Method):
    """GA: climb the loss of the forget samples; the retain set is not used.

    Update: SGD along -w grad CE(x_f, y_f).
    Source: Thudi et al., "Unrolling SGD", EuroS&P 2022; Graves et al., AAAI 2021.
    """

    loss_of_retain = None

    def loss_of_forget(self, logits, batch):
        return -super().loss_of_retain(logits, batch)


class RandomLabels(Method):
    """RL: teach a random wrong label for each forget sample, drawn anew at each step, while training on the rest.

    Update: SGD along g_r + w grad CE(x_f, y'), y' uniform over the classes other than y_f; with classes "all" over all.
    Source: Golatkar et al., CVPR 2020; SalUn (Fan et al., ICLR 2024), equation 6, without its mask. (SalUn's code
    draws over all classes, the true one included; its equation excludes it, and so do we where nothing else is asked.)
    """

    def __init__(self, model, forget, settings, generator, classes="other"):
        super().__init__(model, forget, settings, generator)
        self.classes = boundary.one_of("classes", classes, ("other", "all"))

    def drawn(self, labels, num_classes):
        """Labels that are taught in place of these, (N,) int64; num_classes: K."""
        if self.classes == "other":
            return other_labels(labels, num_classes, self.generator)
        generator = self.generator
        drawn = torch.randint(num_classes, labels.shape, generator=generator, device=generator.device)
        return drawn.to(labels.device)

    def loss_of_forget(self, logits, batch):
        # drawn for the whole batch, also by a process that needs only its part: all processes draw the same
        return functional.cross_entropy(logits, self.mine(self.drawn(batch.labels, logits.shape[1])))


class SalUn(RandomLabels):
    """SalUn: random labels, but only the parameters that matter for the forget set move.

    Mask: m = 1 for the `share` of all parameters (one ranking for the whole model) at which |grad CE(x_f, y_f)|, taken
    over the whole forget set on the original model in eval mode, is largest.
    Update: theta <- m * (SGD along g_r + w grad CE(x_f, y')) + (1 - m) * theta_o, y' as in `RandomLabels`.
    share in (0, 1]: 0.5 is the paper's.
    Source: SalUn (Fan et al., ICLR 2024), equations 3 to 6.
    """

    def __init__(self, model, forget, settings, generator, share=0.5, classes="other"):
        super().__init__(model, forget, settings, generator, classes)
        self.originals = [p.detach().clone() for p in self.parameters]
        self.masks = self.saliency_masks(forget, share)

    def saliency_masks(self, forget, share, batch_size=1024):
        """Boolean masks, one a parameter, True at the share of parameters with the largest gradient."""
        if not 0 < boundary.number("share", share, 0, 1):
            raise ValueError(f"share must be greater than 0, got {share}")
        gradient = [torch.zeros_like(p) for p in self.parameters]
        # eval mode: BatchNorm as the original model has it, and its statistics stay what they are
        with in_mode(self.model), torch.enable_grad():
            # of nearly equal size: a small last one might not do for all processes
            count = -(-len(forget) // batch_size)
            for chunk in torch.arange(len(forget), device=forget.labels.device).tensor_split(count):
                batch = forget[chunk]
                logits = class_logits(self.model, self.mine(batch).inputs)
                part = self.gradient(_mean(self.loss_of_retain, logits, batch))
                torch._foreach_add_(gradient, part, alpha=len(batch) / len(forget))
        sizes = [p.numel() for p in self.parameters]
        saliency = torch.cat([g.flatten().abs() for g in gradient])
        # ranked, not thresholded: of equal gradients (zeros, at dead units) some may be in and some out
        chosen = torch.zeros_like(saliency, dtype=torch.bool)
        chosen[saliency.argsort(descending=True, stable=True)[: max(1, round(share * sum(sizes)))]] = True
        return [mask.view_as(p) for mask, p in zip(chosen.split(sizes), self.parameters)]

    def step(self, forget, retain):
        losses = super().step(forget, retain)
        with torch.no_grad():
            # put back after the step, not masked before it: momentum and weight decay would move them all the same
            for parameter, mask, original in zip(self.parameters, self.masks, self.originals):
                parameter.copy_(torch.where(mask, parameter, original))
        return losses


class SimilarLabels(Method):
    """Q-MUL: teach each forget sample the most likely wrong class, with gradients that are balanced.

    Labels: y' = argmax over k != y_f of p_k(x_f) under the original model, fixed before the first step.
    Update: SGD along 2 (l_r g_r + w l_f g_f), g_f = grad CE(x_f, y'), l_f = |g_r| / (|g_f| + |g_r|),
    l_r = |g_f| / (|g_f| + |g_r|): both parts have the same norm, the harmonic mean of |g_f| and |g_r|, at w = 1.
    This is our reading of Q-MUL's two ideas, similar labels and adaptive gradient reweighting; not its schedule. The
    code that its authors released weighs otherwise (`SimilarLabelsByEpoch`). Its rule for labels takes the class whose
    logit is nearest p_y in an array from which y was removed, and does not map the index back: the true label can be
    taught, and the last class never. That is a defect, and is not imitated here.
    Source: Tong et al., "Robust Machine Unlearning for Quantized Neural Networks via Adaptive Gradient Reweighting with
    Similar Labels", arXiv 2503.13917.
    """

    def __init__(self, model, forget, settings, generator):
        super().__init__(model, forget, settings, generator)
        self.similar = similar_labels(model, forget)

    def relabel(self, forget):
        return Samples(forget.inputs, self.similar)

    def loss_of_forget(self, logits, batch):
        return self.loss_of_retain(logits, batch)  # with the labels that `relabel` gave it

    def direction(self, forget_loss, retain_loss):
        g_f, g_r = self.gradient(forget_loss), self.gradient(retain_loss)
        norm_f, norm_r = (torch.stack(torch._foreach_norm(g)).norm() for g in (g_f, g_r))
        total = norm_f + norm_r
        # both zero: any weights do, since there is nothing to weigh
        total = torch.where(total > 0, total, torch.ones_like(total))
        scaled_r = torch._foreach_mul(g_r, 2 * norm_f / total)
        return torch._foreach_add(scaled_r, torch._foreach_mul(g_f, 2 * self.settings.weight * norm_r / total))


class SimilarLabelsByEpoch(SimilarLabels):
    """`SimilarLabels` with the weights of the code that Q-MUL's authors released: the same ones for a whole epoch.

    Update: SGD along w_r g_r + w_f g_f, w_f = G_r / (G_f + G_r), w_r = G_f / (G_f + G_r), G the mean, over the batches
    of the epoch before, of the sum of the tensors' gradient norms; the first epoch takes its first batch for it. An
    epoch is as many steps as it takes to draw as many samples as there are to forget, or, where a step has one batch,
    the forget batches and the retain batches after them; the first such epoch has no norms to go by: 1/2 and 1/2. Of
    parts of one batch, each part's own mean gradient counts. `Settings.weight` is not used.
    Source: as `SimilarLabels`.
    """

    def __init__(self, model, forget, settings, generator):
        super().__init__(model, forget, settings, generator)
        self.epoch = {"samples": 0, "sums": [0.0, 0.0], "counts": [0, 0], "weights": None}

    def state_dict(self):
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.epoch = {**state["epoch"]}

    def direction(self, forget_loss, retain_loss):
        # what was forwarded as one has one graph
        grads = [None if loss is None else self.gradient(loss, self.together) for loss in (forget_loss, retain_loss)]
        self._norms = [0.0 if g is None else torch.stack(torch._foreach_norm(g)).sum().item() for g in grads]
        weights = self.epoch["weights"] or ((0.5, 0.5) if None in grads else _crosswise(self._norms))
        scales = [w * share for w, share in zip(weights, self.shares)]
        weighted = [torch._foreach_mul(g, scale) for g, scale in zip(grads, scales) if g is not None]
        return weighted[0] if len(weighted) == 1 else torch._foreach_add(*weighted[::-1])

    def step(self, forget, retain):
        turns, alone = not self.together and None in (forget, retain), None in (forget, retain)
        if turns and retain is None and self.epoch["counts"][1]:
            self._end_epoch()  # the retain batches come last
        losses = super().step(forget, retain)
        now = self.epoch
        self.epoch = {
            "samples": now["samples"] + (0 if turns or forget is None else len(forget)),
            "sums": [total + norm for total, norm in zip(now["sums"], self._norms)],
            "counts": [count + (batch is not None) for count, batch in zip(now["counts"], (forget, retain))],
            "weights": now["weights"] or (None if alone else _crosswise(self._norms)),
        }
        if self.epoch["samples"] >= len(self.similar):
            self._end_epoch()
        return losses

    def _end_epoch(self):
        means = [total / max(count, 1) for total, count in zip(self.epoch["sums"], self.epoch["counts"])]
        self.epoch = {"samples": 0, "sums": [0.0, 0.0], "counts": [0, 0], "weights": _crosswise(means)}


def _crosswise(norms):
    """(w_f, w_r) = (G_r, G_f) / (G_f + G_r); (0.5, 0.5) where both are zero."""
    total = sum(norms)
    return (norms[1] / total, norms[0] / total) if total > 0 else (0.5, 0.5)


def similar_labels(model, samples, batch_size=1024):
    """The most likely class other than each sample's own label, in eval mode; modules' modes are put back.

    model: maps (N, ...) to logits (N, K); samples: `Samples`.  Returns (N,) int64, never equal to `samples.labels`.
    Source: the similar labels of Q-MUL, arXiv 2503.13917.
    """
    logits = all_logits(model, samples.inputs, batch_size)
    return logits.scatter(1, samples.labels[:, None], -torch.inf).argmax(dim=1)


class JointOEU(ParallelOEU):
    """OEU that passes both batches in one, which BatchNorm then normalizes together. It saves no time.

    Arguments as `OEU`; forget and retain inputs have one sample shape.
    """

    def gradients(self, parameters, forget_inputs, retain_inputs, retain_labels):
        """As `OEU.gradients`, of one forward pass."""
        forget_logits, retain_logits = self.logits(forget_inputs, retain_inputs)
        forget_loss, entropy = self.losses_of_forget(forget_logits)
        retain_loss = self.loss_of_retain(retain_logits, retain_labels)
        g_f = self.differentiate(forget_loss, list(parameters.values()), keep_graph=True)
        g_r = self.differentiate(retain_loss, list(parameters.values()))
        return torch.stack([forget_loss.detach(), retain_loss.detach(), entropy]), g_f, g_r

    def logits(self, forget_inputs, retain_inputs):
        """What the model makes of both batches, passed as one."""
        if forget_inputs.shape[1:] != retain_inputs.shape[1:]:
            raise ValueError(
                f"forget_inputs must have the sample shape of retain_inputs for a joint forward, "
                f"{tuple(retain_inputs.shape[1:])}, got {tuple(forget_inputs.shape[1:])}"
            )
        both = torch.cat([forget_inputs, retain_inputs])
        return class_logits(self.model, both).split([len(forget_inputs), len(retain_inputs)])


class ConflictOEU(ParallelOEU):
    """OEU that projects only where the gradients conflict: a layer with <g_f, g_r> >= 0 keeps its forget gradient.

    Arguments as `OEU`.
    Source: the rule of PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020), layer by layer.
    """

    def project(self, parameters, g_f, g_r, layers, angles):
        """As `OEU.project`, but for layers where the gradients agree."""
        agree = angles[0].to(g_f[0].device) >= 0
        projected = super().project(parameters, g_f, g_r, layers, angles)
        return [torch.where(agree[i], f, p) for i, f, p in zip(layers.ids, g_f, projected)]


class ForgetOnlyOEU(ParallelOEU):
    """OEU without its retain term, d = beta g_perp: the one step of which Theorem 4.3 speaks as a whole.

    Arguments as `OEU`.
    """

    def plan(self, forget_inputs, retain_inputs, retain_labels):
        """As `OEU.plan`, with another direction."""
        plan = super().plan(forget_inputs, retain_inputs, retain_labels)
        return replace(plan, direction={name: self.beta * g for name, g in plan.projected_grads.items()})


FORMS = {"separate": ParallelOEU, "joint": JointOEU, "under conflict": ConflictOEU, "forget only": ForgetOnlyOEU}


class OrthogonalEntropy(Method):
    """OEU: raise the entropy of the forget predictions, at right angles to what the retain set needs.

    Update: SGD along g_r + w g_perp, g_perp the gradient of -mean H(p(x_f)) with its component along g_r removed layer
    by layer (`oeu_ref.core.unlearner.OEU`, whose beta is w); forget labels are not used. form: a key of
    FORMS, that class of OEU takes the steps; options: its.  Steps return its `StepReport`.  With a stop rule the loop
    ends early: pass `EntropyStop(...).reached` as `stop`.
    Source: arXiv 2602.00567.
    """

    Report = StepReport

    def __init__(self, model, forget, settings, generator, form="separate", **options):
        super().__init__(model, forget, settings, generator)
        make = FORMS[boundary.one_of("form", form, tuple(FORMS))]
        self.oeu = make(model, self.optimizer, beta=settings.weight, **options)

    def step(self, forget, retain):
        _check_batches(forget, retain)
        forget, retain = distributed.shard(forget), distributed.shard(retain)
        with undone_on_error(self.model, self.generator):
            return self.oeu.step(forget.inputs, retain.inputs, retain.labels)


class OrthogonalRandomLabels(OrthogonalEntropy):
    """Ablation of OEU: random wrong labels in place of entropy, everything else as it is.

    Update: SGD along g_r + w g_perp, g_perp the gradient of CE(x_f, y'), y' as in `RandomLabels`, with its component
    along g_r removed layer by layer. options: as in `OrthogonalEntropy`.  Steps return its `StepReport`.
    Source: the ablation of arXiv 2602.00567 that takes the entropy out.
    """

    def __init__(self, model, forget, settings, generator, **options):
        super().__init__(model, forget, settings, generator, forget_loss=self._teach_wrong_labels, **options)

    def step(self, forget, retain):
        self._forget_labels = forget.labels
        return super().step(forget, retain)

    def _teach_wrong_labels(self, logits):
        wrong = other_labels(self._forget_labels, logits.shape[1], self.generator)
        return functional.cross_entropy(logits, distributed.shard(wrong))
