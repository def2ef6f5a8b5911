"""What a training script does at each step of its optimizer, found from the gradients: is it OEU's step, and which?

    seen = observe(model, optimizer)
    for (x_f, _), (x_r, y_r) in zip(seen.forget(forget_loader), seen.retain(retain_loader)):
        ...  # the script as it is, up to optimizer.step()
    print(seen.report())
"""

import math

import torch
from torch import nn

from ..boundary import Instance, taking
from .explain import Finding, explain

takes = taking()


@takes(model=Instance(nn.Module, "torch.nn.Module"), optimizer=Instance(torch.optim.Optimizer, "torch.optim.Optimizer"))
def observe(model, optimizer):
    """Watch every `optimizer.step()` from now on, changing nothing in the run.

    model: maps inputs (N, ...) to logits (N, K); optimizer: over its parameters.
    Returns an `Observer`.  Raises TypeError for anything else.
    """
    return Observer(model, optimizer)


class Observer:
    """The observer of one model and its optimizer: `observe` makes it.

    findings: a `Finding` for each step so far. It needs to know the batches: hand each loader (the outermost, such as
    `itertools.cycle(loader)`), or each batch, through `forget` and `retain`.
    """

    def __init__(self, model, optimizer):
        self.model, self.findings, self._last = model, [], {}
        self._optimizer, self._old = optimizer, {}
        self._handle = optimizer.register_step_pre_hook(self._look)

    def forget(self, batches):
        """The same loader, or batch, noted as the forget samples: (inputs, ...) or inputs."""
        return self._noted("forget", batches)

    def retain(self, batches):
        """The same loader, or batch, noted as the retain samples: (inputs, labels, ...)."""
        return self._noted("retain", batches)

    def stop(self):
        """Look no more."""
        self._handle.remove()

    def report(self):
        """What the steps were, in words, one line for each kind of step, and the cosines of the last one."""
        if not self.findings:
            return "no step of the optimizer was seen"
        kinds = {}
        for i, finding in enumerate(self.findings, 1):
            kinds.setdefault(str(finding), []).append(i)
        lines = [f"{len(steps)} of {len(self.findings)} steps, first {steps[0]}: {k}" for k, steps in kinds.items()]
        rows = [f"  {name}: {a:.3g}, {b:.3g}" for name, (a, b) in self.findings[-1].cosines.items()]
        return "\n".join([*lines, "cos(g_f, g_r) and cos(d - g_r, g_r) of the last step:"[: 99 * bool(rows)], *rows])

    def _noted(self, kind, batches):
        if isinstance(batches, torch.Tensor) or isinstance(batches, (tuple, list)) and _is_batch(batches):
            self._last[kind] = batches if isinstance(batches, (tuple, list)) else (batches,)
            return batches
        return _Noting(batches, lambda batch: self._noted(kind, batch))

    @torch.no_grad()
    def _look(self, optimizer, args, kwargs):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = {n: p for n, p in self.model.named_parameters() if id(p) in held and p.requires_grad}
        direction = {n: None if p.grad is None else p.grad.detach().clone() for n, p in named.items()}
        missing = [kind for kind in ("forget", "retain") if kind not in self._last]
        if missing or len(self._last["retain"]) < 2:
            lacking = f"no {missing[0]} batch" if missing else "no retain labels"
            self.findings.append(Finding(False, f"{lacking} passed through the observer", math.nan, math.nan, {}))
        else:
            states = [torch.get_rng_state(), *([torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else [])]
            finding = explain(self.model, direction, self._last["forget"], self._last["retain"], self._old)
            torch.set_rng_state(states[0])
            if states[1:]:
                torch.cuda.set_rng_state_all(states[1])
            self.findings.append(finding)
        self._old = direction


def _is_batch(batch):
    return len(batch) > 0 and isinstance(batch[0], torch.Tensor)


class _Noting:
    """A loader whose batches are noted as they pass; all else is the loader's own."""

    def __init__(self, batches, note):
        self._batches, self._note = batches, note

    def __iter__(self):
        return map(self._note, self._batches)

    def __next__(self):
        return self._note(next(self._batches))

    def __len__(self):
        return len(self._batches)

    def __getattr__(self, name):
        return getattr(self._batches, name)
