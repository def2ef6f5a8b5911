"""A right OEU step on PyTorch models, in plain words, from which `steps.py` makes wrong ones, one edit each.

It shares no code with `oeu_ref`, so that the laws pass or fail it on their own.
"""

import torch
from torch.nn import functional


class OEU:
    """One step: both gradients, the projection of each tensor, or of all as one, and the optimizer's step."""

    def __init__(self, model, optimizer, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
        self.model, self.optimizer = model, optimizer
        self.alpha, self.beta, self.granularity, self.rescale = alpha, beta, granularity, rescale

    def step(self, forget_inputs, retain_inputs, retain_labels):
        """Take one step."""
        self.model.train()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        log_p = self.model(forget_inputs).log_softmax(1)
        forget_loss = (log_p.exp() * log_p).sum(1).mean()
        g_f = torch.autograd.grad(forget_loss, parameters)
        logits = self.model(retain_inputs)
        g_r = torch.autograd.grad(functional.cross_entropy(logits, retain_labels), parameters)
        for p, d in zip(parameters, self.direction(g_f, g_r)):
            p.grad = d
        self.optimizer.step()

    def direction(self, g_f, g_r):
        """g_r + beta g_perp."""
        if self.granularity == "global":
            flat_f, flat_r = (torch.cat([g.flatten() for g in grads]) for grads in (g_f, g_r))
            parts = self.project(flat_f, flat_r).split([g.numel() for g in g_f])
        else:
            parts = [self.project(f.flatten(), r.flatten()) for f, r in zip(g_f, g_r)]
        return [r + self.beta * part.view_as(r) for r, part in zip(g_r, parts)]

    def project(self, f, r):
        """One vector."""
        length, along = f.norm(), f @ r
        if length == 0 or r.norm() == 0:
            return f
        unit = r / r.norm()
        along = f @ unit
        left = f - self.alpha * along * unit
        left = left - (left @ unit - (1 - self.alpha) * along) * unit
        if left.norm() < 1e-12 * length:
            return torch.zeros_like(f)
        return left * length / left.norm() if self.rescale == "match" else left
