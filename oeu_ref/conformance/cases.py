"""Inputs on which laws are tried. A case is a recipe (kind, shape, scale, seed) that prints in one line.

Kinds are named for what they probe, so that a failing law names the kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

SEEDS = st.integers(0, 999)


@dataclass(frozen=True)
class Cases:
    """What a law is tried on. drawn: Hypothesis strategy; fixed: what must not depend on the luck of the draw."""

    drawn: st.SearchStrategy
    fixed: Sequence


GRADIENT_KINDS = (
    "typical",
    "agreeing",
    "conflicting",
    "orthogonal",
    "parallel",
    "antiparallel",
    "nearly_parallel",
    "nearly_antiparallel",
    "below_threshold",
    "zero_forget",
    "zero_retain",
    "both_zero",
    "one_layer_zero",
    "mixed_scales",
    "sparse",
)
# The contract's collinear thresholds for the sine of the angle are 1e-12 and 1e-6. Nearly parallel means a sine between
# NARROWEST and WIDEST, below_threshold one of BELOW: both keep a factor from the threshold, so that rounding does not
# put a right implementation on the other side.
NARROWEST = {"float64": 1e-11, "float32": 4e-6}
BELOW = {"float64": 1e-13, "float32": 2e-7}
WIDEST = 1e-2


@dataclass(frozen=True)
class GradientCase:
    """A pair of gradients: layers of these shapes, lengths near these scales, drawn with this seed."""

    kind: str
    shapes: tuple
    forget_scale: float = 1.0
    retain_scale: float = 1.0
    seed: int = 0

    def arrays(self, implementation):
        """(forget_grads, retain_grads): lists of float64 arrays whose values the implementation's dtype can hold."""
        rng = np.random.default_rng(self.seed)
        layers = [self._layer(i, shape, rng, str(implementation.dtype)) for i, shape in enumerate(self.shapes)]
        return [implementation.cast(f) for f, _ in layers], [implementation.cast(r) for _, r in layers]

    def other_length(self, scale):
        """A power of two by which gradients of this scale can be stretched and stay between 1e-6 and 1e6: beyond, an
        implementation may take a gradient for zero."""
        if self.kind == "mixed_scales":
            return 1.0
        return 2.0**-19 if scale >= 1 else 2.0**19

    def _layer(self, index, shape, rng, dtype):
        kind = self.kind
        retain, noise = rng.normal(size=shape), rng.normal(size=shape)
        factor = rng.uniform(0.5, 2.0)
        forget = noise
        scales = np.array([self.forget_scale, self.retain_scale])
        if kind == "one_layer_zero":
            which = [("retain",), ("forget",), ()][(index + self.seed) % 3]
            forget, retain = (forget * ("forget" not in which), retain * ("retain" not in which))
        elif kind == "sparse":
            forget, retain = forget * (rng.random(shape) < 0.4), retain * (rng.random(shape) < 0.4)
        elif kind == "mixed_scales":
            scales = 10.0 ** rng.integers(-6, 7, size=2)
        elif kind != "typical":
            forget = _related(kind, retain, noise, factor, rng, dtype)
            retain = retain * (kind not in ("zero_retain", "both_zero"))
        return scales[0] * forget, scales[1] * retain


def _related(kind, retain, noise, factor, rng, dtype):
    if kind in ("zero_forget", "both_zero"):
        return np.zeros_like(noise)
    if kind == "zero_retain":
        return noise
    if kind in ("parallel", "antiparallel"):
        return (factor if kind == "parallel" else -factor) * retain
    length = np.linalg.norm(retain)
    across = noise - (noise * retain).sum() / (length**2 or 1.0) * retain
    if retain.size < 2:
        across = np.zeros_like(noise)  # a one-element layer has no direction across
    across = across / (np.linalg.norm(across) or 1.0) * length
    if kind == "orthogonal":
        return across if retain.size > 1 else noise
    if kind == "agreeing":
        return factor * (retain + across)
    if kind == "conflicting":
        return factor * (across - retain)
    if kind == "below_threshold":
        return factor * (retain + BELOW[dtype] * across)
    sine = 10 ** rng.uniform(np.log10(NARROWEST[dtype]), np.log10(WIDEST))
    return factor * ((1 if kind == "nearly_parallel" else -1) * retain + sine * across)


def layer_shapes(max_layers=4):
    """Strategy: a tuple of 1 to max_layers shapes, from 0-d to 3-d, at most 64 elements each."""
    vector = st.sampled_from([(2,), (3,), (5,), (17,), (64,)])
    other = st.sampled_from([(2, 2), (3, 4), (8, 8), (2, 3, 4), (1, 5), (1,), ()])
    return st.lists(st.one_of(vector, other), min_size=1, max_size=max_layers).map(tuple)


def gradients(*kinds, layers=4, extra=()):
    """`GradientCase`s of these kinds (none: all): up to so many layers, scales from 1e-6 to 1e6."""
    kinds, scale = kinds or GRADIENT_KINDS, st.sampled_from([1.0, 1e-6, 1e-3, 1e3, 1e6])
    drawn = st.builds(GradientCase, st.sampled_from(kinds), layer_shapes(layers), scale, scale, SEEDS)
    shapes = ((8,), (3, 4), (2, 2))[-layers:]
    return Cases(drawn, [*(GradientCase(kind, shapes, seed=7) for kind in kinds), *extra])


LOGIT_KINDS = ("typical", "uniform", "near_uniform", "confident", "huge", "one_hot", "two_way")


@dataclass(frozen=True)
class LogitsCase:
    """A batch of logits: n samples, k classes."""

    kind: str
    n: int
    k: int
    seed: int = 0

    def array(self, implementation):
        """(n, k) float64 array whose values the implementation's dtype can hold."""
        rng = np.random.default_rng(self.seed)
        z = rng.normal(size=(self.n, self.k))
        if self.kind == "uniform":
            z = np.repeat(z[:, :1] * 10, self.k, axis=1)
        elif self.kind == "near_uniform":
            z = z * 10.0 ** rng.integers(-6, -1)
        elif self.kind == "confident":
            z = z * 20
        elif self.kind == "huge":
            z = rng.uniform(-1e4, 1e4, size=(self.n, self.k))
        elif self.kind == "one_hot":
            z = np.where(np.arange(self.k) == rng.integers(self.k, size=(self.n, 1)), 1e4, -1e4)
        elif self.kind == "two_way":
            # two classes share the probability, far above the rest: neither certain nor uniform at a huge offset
            z = rng.choice([-9e3, 9e3], size=(self.n, 1)) - 500.0 * (np.arange(self.k) > 1) + z
        return implementation.cast(z)


def logits(*kinds, max_classes=100, extra=()):
    """`LogitsCase`s of these kinds (none: all): 1 to 9 samples, 2 to max_classes classes; fixed ones of 5 and 3."""
    kinds = kinds or LOGIT_KINDS
    classes = st.one_of(st.integers(2, min(10, max_classes)), st.integers(2, max_classes))
    drawn = st.builds(LogitsCase, st.sampled_from(kinds), st.integers(1, 9), classes, SEEDS)
    return Cases(drawn, [*(LogitsCase(kind, 5, 3, seed=3) for kind in kinds), *extra])


QUANTIZER_KINDS = ("inside", "outside", "just_outside", "mixed", "ties", "ends")


@dataclass(frozen=True)
class QuantizerCase:
    """Values for a quantizer of `bits` bits: v = x / step of the kind named, kept off the ties unless it is "ties"."""

    kind: str
    bits: int
    signed: bool
    step_exponent: int
    size: int
    seed: int = 0

    @property
    def q_min(self):
        """Smallest code."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def q_max(self):
        """Largest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    def arrays(self, implementation):
        """(x, step, grad_out): x and grad_out of shape (size,) or (2, size / 2), float64 that the dtype can hold."""
        rng = np.random.default_rng(self.seed)
        exact = self.kind in ("ties", "ends")
        # a power of two as step makes v = x / step exact, so that ties and ends are where they should be
        step = 2.0**self.step_exponent * (1.0 if exact else rng.uniform(1, 2))
        x = implementation.cast(self._values(rng) * float(implementation.cast(step)))
        shape = (2, self.size // 2) if self.size % 2 == 0 else (self.size,)
        grad_out = implementation.cast(rng.normal(size=self.size))
        return x.reshape(shape), float(implementation.cast(step)), grad_out.reshape(shape)

    def _values(self, rng):
        low, high, n = self.q_min, self.q_max, self.size
        side = rng.random(n) < 0.5
        if self.kind == "ends":
            return np.where(side, low, high).astype(float)
        if self.kind == "ties":
            return rng.integers(low, high, n) + 0.5
        if self.kind == "just_outside":
            return np.where(side, low - rng.uniform(0.05, 0.45, n), high + rng.uniform(0.05, 0.45, n))
        if self.kind == "outside":
            return np.where(side, low - rng.uniform(0.55, 20, n), high + rng.uniform(0.55, 20, n))
        low, high = (low, high) if self.kind == "inside" else (low - 3, high + 3)
        codes = rng.integers(low, high + 1, n)
        offset = rng.uniform(0.05, 0.45, n) * np.where(side, -1, 1)
        if self.kind == "inside":
            offset = np.where(codes == low, abs(offset), np.where(codes == high, -abs(offset), offset))
        return codes + offset


def quantizers(*kinds, extra=()):
    """`QuantizerCase`s of these kinds (none: all): 1 to 8 bits, steps from 2^-20 to 2^20; fixed ones of 4 bits."""
    kinds, signs = kinds or QUANTIZER_KINDS, (True, False)
    exponents, sizes = st.integers(-20, 20), st.sampled_from([1, 2, 7, 24])
    bits = st.integers(1, 8)
    drawn = st.builds(QuantizerCase, st.sampled_from(kinds), bits, st.booleans(), exponents, sizes, SEEDS)
    return Cases(drawn, [*(QuantizerCase(kind, 4, sign, -3, 24, seed=5) for kind in kinds for sign in signs), *extra])
