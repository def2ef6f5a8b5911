"""Inputs on which laws are tried. A case is a recipe (kind, shape, scale, seed) that prints in one line.

Kinds are named for what they probe, so that a failing law names the kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

SEEDS = st.integers(0, 999)
# what a failure on a kind of input says: wrong on ordinary inputs ("definition"), unless the kind stands here
CLASSES = {
    "edge": "zero_forget zero_retain both_zero one_layer_zero parallel antiparallel below_threshold one_element "
    "one_hot huge two_way one_sample",
    "numerics": "nearly_parallel nearly_antiparallel nearly_orthogonal mixed_scales extreme_scales near_uniform "
    "barely_inside barely_outside near_ties",
}
CLASSES = {kind: name for name, kinds in CLASSES.items() for kind in kinds.split()}


def kind_of(case):
    """The kind of input that a case is, as reports name it: a key of CLASSES or another word; "" for a mere seed."""
    kind, shapes = getattr(case, "kind", ""), getattr(case, "shapes", [getattr(case, "shape", (2,))])
    if kind in CLASSES or not kind:
        return kind
    if getattr(case, "n", 2) == 1:
        return "one_sample"
    if all(np.prod(shape) == 1 for shape in shapes):
        return "one_element"
    scales = (getattr(case, "forget_scale", 1.0), getattr(case, "retain_scale", 1.0))
    return kind if all(1e-3 <= scale <= 1e3 for scale in scales) else "extreme_scales"


@dataclass(frozen=True)
class Cases:
    """What a law is tried on. drawn: Hypothesis strategy; fixed: what must not depend on the luck of the draw."""

    drawn: st.SearchStrategy
    fixed: Sequence


GRADIENT_KINDS = tuple(
    (
        "typical agreeing conflicting orthogonal nearly_orthogonal parallel antiparallel nearly_parallel "
        "nearly_antiparallel below_threshold zero_forget zero_retain both_zero one_layer_zero mixed_scales sparse"
    ).split()
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
    length = np.linalg.norm(retain)
    across = noise - (noise * retain).sum() / (length**2 or 1.0) * retain
    across = across / (np.linalg.norm(across) or 1.0) * length * (retain.size > 1)  # one element has none across
    sine = 10 ** rng.uniform(np.log10(NARROWEST[dtype]), np.log10(WIDEST))
    return {
        "zero_forget": 0 * noise,
        "both_zero": 0 * noise,
        "zero_retain": noise,
        "parallel": factor * retain,
        "antiparallel": -factor * retain,
        "orthogonal": across if retain.size > 1 else noise,
        "agreeing": factor * (retain + across),
        "conflicting": factor * (across - retain),
        "below_threshold": factor * (retain + BELOW[dtype] * across),
        "nearly_orthogonal": factor * (across + 10 ** rng.uniform(np.log10(NARROWEST[dtype]), -3) * retain),
        "nearly_parallel": factor * (sine * across + retain),
        "nearly_antiparallel": factor * (sine * across - retain),
    }[kind]


def layer_shapes(max_layers=4):
    """Strategy: a tuple of 1 to max_layers shapes, from 0-d to 3-d, at most 64 elements each."""
    vector = st.sampled_from([(2,), (3,), (5,), (17,), (64,)])
    other = st.sampled_from([(2, 2), (3, 4), (8, 8), (2, 3, 4), (1, 5), (1,), ()])
    return st.lists(st.one_of(vector, other), min_size=1, max_size=max_layers).map(tuple)


# large, a convolution's, many layers, 0-d and one element: what must not depend on the luck of the draw
GRADIENT_SIZES = (
    ((5000,),),
    ((4, 3, 3, 3), (6, 6)),
    ((2, 2, 2),) + ((3, 2),) * 11,
    ((), (1,), (1, 4)),
    ((40, 30), (64,)),
)


def gradients(*kinds, layers=4, extra=()):
    """`GradientCase`s of these kinds (none: all): up to so many layers, scales from 1e-6 to 1e6."""
    kinds, scale = kinds or GRADIENT_KINDS, st.sampled_from([1.0, 1e-6, 1e-3, 1e3, 1e6])
    drawn = st.builds(GradientCase, st.sampled_from(kinds), layer_shapes(layers), scale, scale, SEEDS)
    shapes = ((8,), (3, 4), (2, 2))[-layers:]
    fixed = [GradientCase(kind, shapes, seed=7) for kind in kinds]
    sizes = GRADIENT_SIZES if layers > 1 else [shapes[:1] for shapes in GRADIENT_SIZES]
    sizes = [GradientCase(kinds[i % len(kinds)], shapes, seed=11) for i, shapes in enumerate(sizes)]
    return Cases(drawn, [*fixed, *sizes, *extra])


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
        z, classes = rng.normal(size=(self.n, self.k)), np.arange(self.k)
        z = {
            "typical": z,
            "uniform": np.repeat(z[:, :1] * 10, self.k, axis=1),
            "near_uniform": z * 10.0 ** rng.integers(-6, -1),
            "confident": z * 20,
            "huge": rng.uniform(-1e4, 1e4, size=z.shape),
            "one_hot": np.where(classes == rng.integers(self.k, size=(self.n, 1)), 1e4, -1e4),
            # two classes share the probability, far above the rest: neither certain nor uniform at a huge offset
            "two_way": rng.choice([-9e3, 9e3], size=(self.n, 1)) - 500.0 * (classes > 1) + z,
        }[self.kind]
        return implementation.cast(z)


def logits(*kinds, max_classes=130, extra=()):
    """`LogitsCase`s of these kinds (none: all): 1 to 9 samples, 2 to max_classes classes."""
    kinds = kinds or LOGIT_KINDS
    classes = st.one_of(st.integers(2, min(10, max_classes)), st.integers(2, max_classes))
    drawn = st.builds(LogitsCase, st.sampled_from(kinds), st.integers(1, 9), classes, SEEDS)
    sizes = [LogitsCase(kinds[0], n, min(k, max_classes), seed=3) for n, k in ((1, 4), (70, 5), (3, 130))]
    return Cases(drawn, [*(LogitsCase(kind, 5, 3, seed=3) for kind in kinds), *sizes, *extra])


QUANTIZER_KINDS = tuple("inside outside just_outside barely_outside barely_inside mixed ties near_ties ends".split())
STANDARD = tuple((-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(1, 9)) + tuple((0, 2**b - 1) for b in range(1, 9))
UNUSUAL = ((-7, 7), (-1, 1), (3, 10), (-10, -3), (0, 1000), (-2048, 2047))  # narrow, ternary, without zero, wide
# a range and a shape: what must not depend on the luck of the draw, beside 4 bits and a matrix
SHAPES = ((7,), (2, 3, 4), (2, 2, 3, 3), (), (1,), (5,), (1100,))
QUANTIZER_SIZES = tuple(zip(((-2, 1), (-128, 127), (0, 255), (-7, 7), (-1, 1), (3, 10), (-2048, 2047)), SHAPES))
BARELY = {"float64": 1e-9, "float32": 1e-3}  # of a step: what the dtype can tell from nothing, at 2,048 steps


@dataclass(frozen=True)
class QuantizerCase:
    """Values for a quantizer whose codes are q_range[0] to q_range[1]: v = x / step of the kind named, off the ties
    unless it is "ties"."""

    kind: str
    q_range: tuple
    step_exponent: int
    shape: tuple
    seed: int = 0

    def arguments(self, implementation):
        """(grad_out, x, step, q_min, q_max) of the backward pass: arrays of `shape`, float64 that the dtype can hold.

        An implementation that declares RANGES gets one of them instead of another range.
        """
        ranges = implementation.declared["RANGES"] or [self.q_range]
        low, high = self.q_range if self.q_range in ranges else ranges[self.seed % len(ranges)]
        rng = np.random.default_rng(self.seed)
        # a power of two as step makes v = x / step exact, so that ties and ends are where they should be
        exact = self.kind in ("ties", "ends", "near_ties", "barely_outside", "barely_inside")
        step = float(implementation.cast(2.0**self.step_exponent * (1.0 if exact else rng.uniform(1, 2))))
        size = int(np.prod(self.shape))
        x = implementation.cast(self._values(rng, low, high, size, BARELY[str(implementation.dtype)]) * step)
        grad_out = implementation.cast(rng.normal(size=size))
        return grad_out.reshape(self.shape), x.reshape(self.shape), step, low, high

    def _values(self, rng, low, high, n, barely):
        side = rng.random(n) < 0.5
        ends = np.where(side, low, high).astype(float)
        outward = np.where(side, -1, 1)
        if self.kind == "ends":
            return ends
        if self.kind == "just_outside":
            return ends + outward * rng.uniform(0.05, 0.45, n)
        if self.kind == "outside":
            return ends + outward * rng.uniform(0.55, 20, n)
        small = barely * (0.03 / barely) ** rng.random(n)
        if self.kind in ("barely_outside", "barely_inside"):
            return ends + outward * small * (1 if self.kind == "barely_outside" else -1)
        if self.kind in ("ties", "near_ties"):
            return rng.integers(low, high, n) + 0.5 + (self.kind == "near_ties") * outward * small
        low, high = (low, high) if self.kind == "inside" else (low - 3, high + 3)
        codes = rng.integers(low, high + 1, n)
        offset = rng.uniform(0.05, 0.45, n) * outward
        if self.kind == "inside":
            offset = np.where(codes == low, abs(offset), np.where(codes == high, -abs(offset), offset))
        return codes + offset


def quantizers(*kinds, extra=()):
    """`QuantizerCase`s of these kinds (none: all): 1 to 8 bits and unusual ranges, steps from 2^-20 to 2^20."""
    kinds, ranges = kinds or QUANTIZER_KINDS, st.sampled_from(STANDARD + STANDARD + UNUSUAL)
    shapes = st.sampled_from([(), (1,), (2,), (7,), (2, 12), (2, 3, 4)])
    drawn = st.builds(QuantizerCase, st.sampled_from(kinds), ranges, st.integers(-20, 20), shapes, SEEDS)
    fixed = [
        QuantizerCase(kind, q_range, -3, shape, seed=5)
        for i, kind in enumerate(kinds)
        for q_range, shape in (((-8, 7), (2, 12)), ((0, 15), (2, 12)), *QUANTIZER_SIZES[i :: len(kinds)])
    ]
    return Cases(drawn, [*fixed, *extra])
