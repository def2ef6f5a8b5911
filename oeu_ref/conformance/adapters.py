"""Functions of a library that differentiates by itself as implementations of the contract: what its adapters share.

`torch.py` and `jax.py` are a `Library` each, whose three adapters they offer.
"""

import copy
import inspect
import types

import numpy as np

from .. import boundary
from ..boundary import OneOf, one_of, taking
from ..contract import DECLARATIONS, OPTIONS

FUNCTION, OR_NONE, TAKES = boundary.FUNCTION, boundary.FUNCTION_OR_NONE, OneOf(("lists", "tensors", "vectors"))
takes = taking()


class Library:
    """A library of tensors with gradients.  dtype: of its tensors, as declared.

    Each adapter returns an object for `check`. declared: what a module under test would declare,
    QUANTIZER_MASK="open" for instance. Raises TypeError for no function, or what is no declaration.
    """

    dtype = "float64"

    def value(self, f, *arrays):
        """f of tensors, as NumPy's arrays.  arrays: arrays or lists of them."""
        raise NotImplementedError

    def gradients(self, f, arrays, cotangent):
        """(f(*arrays), its vector-Jacobian products), None for what f does not depend on."""
        raise NotImplementedError

    def called(self, f):
        """What is to be called in place of f."""
        return f

    @takes(f=FUNCTION)
    def quantizer(self, f, **declared):
        """fake_quantize and fake_quantize_backward of a differentiable quantizer.

        f: f(x, step, q_min, q_max) -> x_hat, the shape of x; step is a 0-d tensor, the ends are integers; a class of
        `torch.autograd.Function` is called through `apply`. An f with an argument grad_scale gets it; elsewhere the
        step's gradient is multiplied by it. A step that f turns into a float has no gradient.
        """
        library, f = self._with(declared), self.called(f)
        scales = "grad_scale" in names(f)
        options = lambda grad_scale: {"grad_scale": grad_scale} if scales else {}

        def fake_quantize(x, step, q_min, q_max):
            return library.value(lambda x, s: f(x, s, q_min, q_max, **options(1.0)), x, step)

        def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
            of = lambda x, s: f(x, s, q_min, q_max, **options(grad_scale))
            _, (grad_x, grad_step) = library.gradients(of, (x, step), grad_out)
            if grad_step is None:
                return grad_x, None
            return grad_x, float(grad_step.sum()) * (1.0 if scales else grad_scale)

        return _object(declared, fake_quantize, fake_quantize_backward)

    @takes(f=FUNCTION, kl=OR_NONE)
    def entropy(self, f, kl=None, **declared):
        """entropy_loss, and kl_to_uniform where kl is given.

        f: f(logits) -> 0-d loss, minus the mean entropy in nats; kl: kl(logits) -> (N,).
        """
        library, f = self._with(declared), self.called(f)

        def entropy_loss(logits):
            loss, (grad,) = library.gradients(f, (logits,), 1.0)
            return float(loss), grad

        def kl_to_uniform(logits):
            return library.value(kl, logits)

        return _object(declared, entropy_loss, *([kl_to_uniform] if kl else []))

    @takes(f=FUNCTION, takes=TAKES)
    def projection(self, f, takes="lists", **declared):
        """project, of a function of forget and retain gradients.

        f: f(forget, retain) -> what is left of forget. Of alpha, granularity and rescale it gets those that it names;
        another has one value, 1, "layer", "undo", or what is declared: RESCALES=("match",).
        takes: "lists" of tensors, one for each layer; "tensors", called for each layer; "vectors", each flattened.
        """
        library, f = self._with(declared), self.called(f)
        known, only = names(f), {"ALPHAS": (1.0,), "GRANULARITIES": ("layer",), "RESCALES": ("undo",)}
        only = {name: only[name] for option, name in OPTIONS.items() if option not in known}

        def project(forget_grads, retain_grads, *args, **options):
            options = {**dict(zip(OPTIONS, args)), **options}
            if takes == "lists":
                return library.value(lambda *grads: f(*grads, **options), forget_grads, retain_grads)
            results = []
            for g_f, g_r in zip(forget_grads, retain_grads):
                pair = (g_f, g_r) if takes == "tensors" else (g_f.reshape(-1), g_r.reshape(-1))
                result = library.value(lambda *grads: f(*grads, **options), *pair)
                results.append(result if takes == "tensors" else result.reshape(g_f.shape))
            return results

        return _object({**only, **declared}, project)

    def _with(self, declared):
        """The same library with the declared dtype."""
        for name in declared:
            if name not in DECLARATIONS:
                raise TypeError(f"{name} is no declaration: known are {', '.join(DECLARATIONS)}")
        other = copy.copy(self)
        other.dtype = one_of("DTYPE", declared.get("DTYPE", self.dtype), ("float64", "float32"))
        return other


def shaped(result, cotangent):
    """What f returned; raise ValueError unless it is a tensor of the shape of what its gradient is multiplied with."""
    shape, wanted = getattr(result, "shape", type(result).__name__), np.shape(cotangent)
    if tuple(shape) != wanted:
        raise ValueError(f"f must return a tensor of shape {wanted}, got {shape}")
    return result


def each(convert, values):
    """convert(value) of a value; of lists and tuples, nested as they are, a list of them."""
    return [each(convert, v) for v in values] if isinstance(values, (list, tuple)) else convert(values)


def names(f):
    """Names of the arguments of a function or class, none where it does not tell."""
    try:
        return set(inspect.signature(f).parameters)
    except (TypeError, ValueError):  # C functions tell nothing
        return set()


def _object(declared, *functions):
    return types.SimpleNamespace(**declared, **{f.__name__: f for f in functions})
