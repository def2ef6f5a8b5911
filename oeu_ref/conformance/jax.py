"""JAX code as it is, turned into an implementation of the contract: as `torch.py`, gradients by `jax.vjp`.

Functions are called in JAX's 64-bit mode, which is off again outside, unless DTYPE="float32" is declared.
"""

import numpy as np

from . import adapters


class JAX(adapters.Library):
    """JAX, imported when it is used: this file can be read where it is not installed."""

    def value(self, f, *arrays):
        return self._run(lambda jax: f(*(self._tensors(a) for a in arrays)))

    def gradients(self, f, arrays, cotangent):
        def vjp(jax):
            result, back = jax.vjp(f, *(self._tensors(a) for a in arrays))
            return result, list(back(np.asarray(cotangent, adapters.shaped(result, cotangent).dtype)))

        return self._run(vjp)

    def _run(self, computed):
        import jax.experimental

        # older JAX has it among its experiments alone
        enable_x64 = (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64
        with enable_x64(self.dtype == "float64"):
            return _arrays(computed(jax))

    def _tensors(self, arrays):
        import jax.numpy

        return adapters.each(lambda array: jax.numpy.array(array, self.dtype), arrays)


def _arrays(tensors):
    return adapters.each(lambda t: np.array(t) if hasattr(t, "__array__") else t, tensors)


LIBRARY = JAX()
quantizer, entropy, projection = LIBRARY.quantizer, LIBRARY.entropy, LIBRARY.projection
