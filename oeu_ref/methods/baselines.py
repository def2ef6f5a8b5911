"""The baselines of the field's tables, in the notation and behind the interface of `method.py`."""

import torch
from torch.nn import functional

from .. import boundary
from ..data.samples import Samples, other_labels
from ..passes import class_logits, in_mode
from .method import Method, all_logits, mean_part


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
        self.fade = fade if fade is None else boundary.integer("fade", fade, 1)
        self.taken = 0

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
                part = self.gradient(mean_part(self.loss_of_retain, logits, batch))
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
        turns = not self.together and None in (forget, retain)
        alone = None in (forget, retain)
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
