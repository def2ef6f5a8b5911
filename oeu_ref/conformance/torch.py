"""PyTorch code as it is, turned into an implementation of the contract: gradients by autograd, NumPy in and out.

    # my_check.py; then `python -m oeu_ref check my_check.py:weights` or `pytest -k theorems --impl=my_check.py:weights`
    from oeu_ref.conformance.torch import entropy, module, projection, quantizer

    weights = quantizer(lambda x, s, low, high: MyFunction.apply(x, s, low, high), QUANTIZER_MASK="open")
    loss = entropy(lambda z: -torch.distributions.Categorical(logits=z).entropy().mean(), DTYPE="float32")

What you know of your code you declare, by the names in this room's README; DTYPE is what the tensors will be.
"""

import copy

import numpy as np
import torch
from torch import nn

from ..boundary import FLAG, Instance, Integer, instance
from ..reference.quantizer import integer_range
from . import adapters
from .adapters import FUNCTION, OR_NONE, takes


class PyTorch(adapters.Library):
    """PyTorch; a class of `torch.autograd.Function` is called through `apply`."""

    def called(self, f):
        return f.apply if isinstance(f, type) and issubclass(f, torch.autograd.Function) else f

    def value(self, f, *arrays):
        return _arrays(f(*(self._tensors(a) for a in arrays)))

    def gradients(self, f, arrays, cotangent):
        inputs = [self._tensors(a).requires_grad_() for a in arrays]
        result = adapters.shaped(f(*inputs), cotangent)
        if not result.requires_grad:
            raise ValueError("f must return a tensor with a gradient, got one that is detached from its inputs")
        grads = torch.autograd.grad(result, inputs, torch.tensor(cotangent, dtype=result.dtype), allow_unused=True)
        return _arrays(result), [None if g is None else _arrays(g) for g in grads]

    def _tensors(self, arrays):
        return adapters.each(lambda array: torch.tensor(np.asarray(array), dtype=getattr(torch, self.dtype)), arrays)


def _arrays(tensors):
    """NumPy arrays of tensors, copies; anything else as it is, for the contract's own check of form."""
    return adapters.each(lambda t: t.detach().cpu().numpy().copy() if isinstance(t, torch.Tensor) else t, tensors)


LIBRARY = PyTorch()
quantizer, entropy, projection = LIBRARY.quantizer, LIBRARY.entropy, LIBRARY.projection


@takes(cls=FUNCTION, step=Instance(str), bits=Integer(1, 8), signed=FLAG, scale=OR_NONE)
def module(cls, step="s", bits=4, signed=True, scale=None, **declared):
    """fake_quantize and fake_quantize_backward of an `nn.Module` with a step, forward(x) -> x_hat.

    cls: a class of `nn.Module` or a function that makes one, which gets `bits` where an argument of it has "bit" in its
    name; or a module, which is copied. step: name of the parameter, or buffer, of which each entry is the step, such as
    "quantizer.s". bits in [1, 8], signed: the range, which is declared. scale: what it multiplies the step's gradient
    by, a function of (number of values, q_max): LSQ's is `oeu_ref.reference.quantizer.step_gradient_scale`.
    A module that finds its step in the first batch sees one before the step is set. All else as in `quantizer`.
    Raises ValueError where the module has no such step.
    """
    declared = {"RANGES": (integer_range(bits, signed),), **declared}
    if step not in dict(_steps(_made(cls, bits))):
        raise ValueError(f"step must name a parameter or a buffer of the module, got {step!r}")

    def quantized(x, s, q_min, q_max):
        if not x.numel():
            return x * s  # no batch of a training run is empty: a module need not have a step for it
        made = _made(cls, bits).to(x.dtype)
        with torch.no_grad():
            made(x)
        found = dict(_steps(made))[step]
        if not isinstance(found, nn.Parameter):
            s = s.detach()  # no optimizer would train it
        elif scale is not None:
            s = s.detach() + (s - s.detach()) / scale(x.numel(), q_max)  # s, and its gradient without the scale
        # a step of shape (1,) makes a vector of a 0-d x
        return torch.func.functional_call(made, {step: s.expand(found.shape)}, x).reshape(x.shape)

    return quantizer(quantized, **declared)


def _made(cls, bits):
    if isinstance(cls, nn.Module):
        return copy.deepcopy(cls)
    made = cls(**{name: bits for name in adapters.names(cls) if "bit" in name})
    return instance("what cls makes", made, nn.Module, "torch.nn.Module")


def _steps(made):
    return (*made.named_parameters(), *made.named_buffers())
