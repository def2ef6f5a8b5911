"""Orthogonality after the optimizer: what is projected is the change of the parameters, not the gradient.

Theorem 4.3 is about a step along -g_perp. Momentum, adaptive step sizes and weight decay turn that gradient into
another update u = theta_after - theta_before, which has a component along the retain gradient g_r again.
`OrthogonalUpdates` wraps any optimizer, lets it take its step, and corrects the component of u along g_r, layer by
layer. To first order the retain loss changes by <u, g_r>, and so `component` says which of it stays:

    "none"     nothing:  u - <u, r> r,  r = g_r / |g_r|.  Then <u, g_r> = 0: Theorem 4.3 for the update itself.
    "descent"  what lowers the retain loss: as "none" where <u, g_r> > 0, else u as it is.  Then <u, g_r> <= 0.
    "given"    as much as the direction d has that was handed to the optimizer:  u - <u, r> r - |u| cos(d, g_r) r.
    "all"      all of it: the optimizer's own update, for comparison.

Which one, and why: `README.md` beside this file.
"""

import operator

import torch

from .. import arrays, boundary
from ..core.fast import cosines_and_norms, projected
from ..core.unlearner import OEU
from ..tensors import Layers, wide

COMPONENTS = ("none", "descent", "given", "all")
STATE_DICT_HOOKS = [f"register_{when}state_dict_{at}_hook" for when in ("", "load_") for at in ("pre", "post")]


class OrthogonalUpdates(torch.optim.Optimizer):
    """An optimizer around another one that keeps its updates clear of the retain gradient.

    optimizer: any `torch.optim.Optimizer`; groups, state, defaults and state dicts are its own, so that schedulers,
    checkpoints and `zero_grad` work as on it, and a state dict of the one loads into the other; hooks for state dicts
    are registered there as well. component: what of an update's component along the retain gradient stays, "none",
    "descent", "given" or "all": see above.
    Before each `step`, `protect` says what to keep clear of. What it does not name moves as the inner optimizer says.
    A direction serves one step, at the parameters at which it was measured: see `step`. Copies and state dicts do not
    hold it. For a plain step on purpose, call `.optimizer.step()`.
    Memory: a copy of the protected parameters during a step; the projection needs a few more while it works.
    cosines: (L,), those of the last update and the retain gradient, a layer each, before correction.
    The change of the parameters is orthogonal up to the rounding of the parameters themselves: for parameters theta of
    precision eps, |<change, g_r>| <= eps <|theta|, |g_r|> / 2 and what the projection leaves, a few eps |u| |g_r|.
    Raises TypeError for what is no optimizer, ValueError for an unknown word.
    Source: ours; Theorem 4.3 of arXiv 2602.00567, applied to the update.
    """

    def __init__(self, optimizer, component="descent"):
        boundary.instance("optimizer", optimizer, torch.optim.Optimizer, "torch.optim.Optimizer")
        boundary.one_of("component", component, COMPONENTS)
        # not the base's __init__, which makes groups and a state of its own; this is how it restores a copy
        self.__setstate__({"optimizer": optimizer, "component": component, "cosines": None})

    def __getstate__(self):
        return {"optimizer": self.optimizer, "component": self.component, "cosines": self.cosines}

    def __setstate__(self, state):
        self._protected = None
        super().__setstate__(state)

    def protect(self, parameters, retain_grads, layers=None):
        """Say what the next step's update is to be kept clear of.

        parameters: P tensors that the optimizer holds, each once; retain_grads: P tensors of their shapes, finite, the
        gradient of the retain loss at the parameters as they are now; neither may change before the step.
        layers: which of them form a layer, `oeu_ref.tensors.layers.Layers`, P labels, or None: each is its own.
        Raises TypeError or ValueError, naming the argument, for lists that do not match, a parameter that the optimizer
        does not hold or that is named twice, or a gradient that is not finite.
        """
        self._protected = None  # also where these are refused
        parameters = arrays.gradients("parameters", parameters, torch, check_finite=False)
        retain_grads = arrays.gradients("retain_grads", retain_grads, torch, parameters, "parameters", False)
        held = {id(p) for group in self.param_groups for p in group["params"]}
        if not {id(p) for p in parameters} <= held or len({id(p) for p in parameters}) < len(parameters):
            raise ValueError("parameters must be tensors that the optimizer holds, each once")
        if not torch.stack([g.isfinite().all() for g in retain_grads]).all():
            raise ValueError("retain_grads must be finite, got NaN or infinity")
        if not isinstance(layers, Layers):
            layers = Layers(layers, parameters)
        elif len(layers.ids) != len(parameters):
            raise ValueError(f"layers must be of {len(parameters)} tensors like parameters, got {len(layers.ids)}")
        retain_grads = [g.detach() for g in retain_grads]
        # PyTorch counts the changes of each tensor in place
        self._protected = parameters, retain_grads, layers, [t._version for t in parameters + retain_grads]

    def step(self, closure=None):
        """Let the inner optimizer step, then correct its update.

        closure: as for the inner optimizer; what is corrected is the whole change of the parameters. Not with "given",
        which reads the gradients before the step.
        Returns what the inner step returns.
        Raises RuntimeError without a `protect` since the last step, or if protected parameters or their retain
        gradients have changed since (in place; writing to `.data` goes unnoticed); ValueError for a closure with
        "given".  Nothing has moved then, and the direction is used up.
        """
        protected, self._protected = self._protected, None
        if protected is None:
            raise RuntimeError("protect(parameters, retain_grads, layers) must be called before each step: none was")
        parameters, retain_grads, layers, versions = protected
        if [t._version for t in parameters + retain_grads] != versions:
            raise RuntimeError("protect must be called anew: parameters or retain gradients have changed since")
        given = None
        if self.component == "given":
            if closure is not None:
                raise ValueError('closure must be None for component="given", which needs the gradients beforehand')
            given = cosines_and_norms(self._descent(parameters), retain_grads, layers)[0]
        before = [p.detach().clone() for p in parameters]
        result = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        self._correct(parameters, before, retain_grads, layers, given)
        return result

    @torch.no_grad()
    def _descent(self, parameters):
        """The update that plain SGD would take, for its angle: -learning rate times gradient."""
        rates = {}
        for group in self.param_groups:
            rate = group["lr"] if group.get("maximize") else -group["lr"]
            rates.update({id(p): rate for p in group["params"]})
        return [torch.zeros_like(p) if p.grad is None else rates[id(p)] * p.grad.to_dense() for p in parameters]

    @torch.no_grad()
    def _correct(self, parameters, before, retain_grads, layers, given):
        update = torch._foreach_sub(wide(parameters), wide(before))
        cosines, lengths, norms_r = angles = cosines_and_norms(update, retain_grads, layers)
        self.cosines = cosines
        if self.component == "all":
            return
        # the layers that change; of the others the optimizer's own bits stay
        corrected = cosines > 0 if self.component == "descent" else norms_r > 0
        update = projected(update, retain_grads, layers, angles=angles, overwrite=True)
        if self.component == "given":
            along = (lengths * given).to(update[0].dtype)
            torch._foreach_add_(update, layers.scaled(layers.unit(wide(retain_grads)), along))
        corrected = corrected.to(layers.ids.device)[layers.ids].unbind()
        for parameter, start, change, chosen in zip(parameters, before, update, corrected):
            parameter.copy_(torch.where(chosen, start + change, parameter))

    def load_state_dict(self, state_dict):
        """Load a state dict, this one's or the inner optimizer's; a direction that was protected is forgotten."""
        self._protected = None
        self.optimizer.load_state_dict(state_dict)

    def __repr__(self):
        return f"OrthogonalUpdates(component={self.component!r}, {self.optimizer!r})"


# one set of groups, state, defaults and hooks, the inner optimizer's, whichever of the two is asked or changed
for _name in ("param_groups", "state", "defaults", "add_param_group", "zero_grad", "state_dict", *STATE_DICT_HOOKS):
    setattr(OrthogonalUpdates, _name, property(operator.attrgetter(f"optimizer.{_name}")))


class ProtectedOEU(OEU):
    """OEU whose optimizer is an `OrthogonalUpdates`: each step tells it which retain gradient to keep clear of.

    optimizer: an `OrthogonalUpdates`; all else as `OEU`.  Raises as `OEU`, and TypeError for another optimizer.
    """

    def __init__(self, model, optimizer, *args, **options):
        boundary.instance("optimizer", optimizer, OrthogonalUpdates)
        super().__init__(model, optimizer, *args, **options)

    def update(self, plan):
        """The optimizer's step, with what it makes of the direction corrected."""
        self.optimizer.protect(list(plan.parameters.values()), list(plan.retain_grads.values()), plan.layers)
        return super().update(plan)
