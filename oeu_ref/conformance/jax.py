"""JAX code as it is, turned into an implementation of the contract: as `torch.py`, gradients by `jax.vjp`.

Functions are called in JAX's 64-bit mode, which is off again outside, unless DTYPE="float32" is declared.
"""

import numpy as np

from . import adapters
from .adapters import FUNCTION, OR_NONE, TAKES, takes


@takes(f=FUNCTION)
def quantizer(f, **declared):
    """fake_quantize and its backward pass, of f(x, step, q_min, q_max): as `oeu_ref.conformance.torch.quantizer`."""
    return adapters.quantizer(_Jax(declared), f, declared)


@takes(f=FUNCTION, kl=OR_NONE)
def entropy(f, kl=None, **declared):
    """entropy_loss and kl_to_uniform of f(logits) and kl(logits), as `oeu_ref.conformance.torch.entropy`."""
    return adapters.entropy(_Jax(declared), f, kl, declared)


@takes(f=FUNCTION, takes=TAKES)
def projection(f, takes="lists", **declared):
    """project of a function of forget and retain gradients, as `oeu_ref.conformance.torch.projection`."""
    return adapters.projection(_Jax(declared), f, takes, declared)


class _Jax:
    """JAX as a library of `adapters.py`."""

    def __init__(self, declared):
        self.dtype = adapters.dtype_of(declared)

    def value(self, f, *arrays):
        return self._run(lambda jax: f(*(self._tensors(a) for a in arrays)))

    def gradients(self, f, arrays, cotangent):
        def vjp(jax):
            result, back = jax.vjp(f, *(self._tensors(a) for a in arrays))
            return result, list(back(np.asarray(cotangent, adapters.shaped(result, cotangent).dtype)))

        return self._run(vjp)

    def _run(self, computed):
        import jax.experimental  # here, not above: that this file can be imported where JAX is not installed

        # older JAX has it among its experiments alone
        enable_x64 = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64
        with enable_x64(self.dtype == "float64"):
            return _arrays(computed(jax))

    def _tensors(self, arrays):
        import jax.numpy

        return adapters.each(lambda array: jax.numpy.array(array, self.dtype), arrays)


def _arrays(tensors):
    return adapters.each(lambda t: np.array(t) if hasattr(t, "__array__") else t, tensors)
