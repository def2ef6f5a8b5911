"""Inputs on which laws are tried. A case is a recipe (kind, shape, scale, seed) that prints in one line.

Kinds are named for what they probe, so that a failing law names the kind. Shapes are few and values many: a compiler
that works shape by shape, such as JAX's, is asked once for each. Together they are the domain that an implementation
has to serve: README.md states it, and a test which values of each dimension are tried whatever is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from ..contract import SIGNATURES

SEEDS = st.integers(0, 999)
# kind of input -> what a failure on it says: wrong on ordinary inputs ("definition"), or only at an edge or in numerics
GRADIENT_KINDS = {
    "typical": "definition",
    "agreeing": "definition",
    "conflicting": "definition",
    "orthogonal": "definition",
    "nearly_orthogonal": "numerics",
    "parallel": "edge",
    "antiparallel": "edge",
    "nearly_parallel": "numerics",
    "nearly_antiparallel": "numerics",
    "below_threshold": "edge",
    "zero_forget": "edge",
    "zero_retain": "edge",
    "both_zero": "edge",
    "one_layer_zero": "edge",
    "mixed_scales": "numerics",
    "sparse": "definition",
}
LOGIT_KINDS = {"typical": "definition", "uniform": "definition", "near_uniform": "numerics", "confident": "definition"}
LOGIT_KINDS |= {"huge": "edge", "one_hot": "edge", "two_way": "edge"}
QUANTIZER_KINDS = {"inside": "definition", "outside": "definition", "just_outside": "definition"}
QUANTIZER_KINDS |= {"barely_outside": "numerics", "barely_inside": "numerics", "mixed": "definition"}
QUANTIZER_KINDS |= {"ties": "definition", "near_ties": "numerics", "ends": "definition", "on_grid": "definition"}
# what `kind_of` makes of an ordinary kind of unusual size
SIZE_KINDS = {"empty": "edge", "one_sample": "edge", "one_element": "edge", "extreme_scales": "numerics"}
SMALL = "small_entries"  # what is off, on inputs of any kind, where that is all that is off
CLASSES = {SMALL: "numerics", **GRADIENT_KINDS, "itself": "edge", **LOGIT_KINDS, **QUANTIZER_KINDS, **SIZE_KINDS}


def kind_of(case):
    """The kind of input that a case is, as reports name it; "" for a mere seed."""
    kind, shapes = getattr(case, "kind", ""), getattr(case, "shapes", [getattr(case, "shape", (2,))])
    sizes = [math.prod(shape) for shape in shapes]
    if kind and max(sizes) == 0:
        return "empty"
    if not kind or CLASSES.get(kind, "definition") != "definition":
        return kind
    n, k = getattr(case, "n", 2), getattr(case, "k", 2)
    if n == 1:
        return "one_sample"
    if set(sizes) == {1}:
        return "one_element"
    names, step = ("forget_scale", "retain_scale"), 2.0 ** getattr(case, "step_exponent", 0)
    if not all(1e-3 <= scale <= 1e3 for scale in (step, *(getattr(case, name, 1.0) for name in names))):
        return "extreme_scales"
    if max(sizes) > 1000 or n > 24 or k > 100:
        return "large"
    return "many_layers" if len(shapes) > 8 else kind


def dimensions(operation, args, options):
    """{dimension: values} of one call of an operation of the contract."""
    if operation not in SIGNATURES:
        return {}
    if operation in ("entropy_loss", "kl_to_uniform"):
        return {"samples": args[0].shape[:1], "classes": args[0].shape[1:], "|logits|": [_decade(args[0])]}
    if operation.startswith("fake_quantize"):
        x, step, low, high, *scale = (*args[operation.endswith("backward") :], *options.values())
        return {
            "shape": [x.shape],
            "range": [(low, high)],
            "step": [2.0 ** math.floor(math.log2(step))],
            "grad_scale": scale,
        }
    forget, retain = args[:2]
    named = zip(("alpha", *["beta"] * (operation == "oeu_direction"), "granularity", "rescale"), args[2:])
    values = {"layers": [len(forget)], "rank": {g.ndim for g in forget}, "elements": {g.size for g in forget}}
    values |= {"|g_f|": map(_decade, forget), "|g_r|": map(_decade, retain)}
    return {**values, **{name: [value] for name, value in (*named, *options.items())}}


def _decade(array):
    """Order of magnitude of an array's largest element, as text."""
    largest = np.abs(array).max(initial=0)
    return f"1e{math.floor(math.log10(largest)):+03}" if largest else "0"


@dataclass(frozen=True)
class Cases:
    """What a law is tried on. drawn: Hypothesis strategy; fixed: what must not depend on the luck of the draw."""

    drawn: st.SearchStrategy
    fixed: Sequence


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
        "itself": retain,
        "antiparallel": -factor * retain,
        "orthogonal": across if retain.size > 1 else noise,
        "agreeing": factor * (retain + across),
        "conflicting": factor * (across - retain),
        "below_threshold": factor * (retain + BELOW[dtype] * across),
        "nearly_orthogonal": factor * (across + 10 ** rng.uniform(np.log10(NARROWEST[dtype]), -3) * retain),
        "nearly_parallel": factor * (sine * across + retain),
        "nearly_antiparallel": factor * (sine * across - retain),
    }[kind]


# what is drawn, the simplest first: from 0-d to 3-d, one element, square, two layers of equal shape
LAYERS = (((6,),), ((2, 2), (2, 2)), ((8,), (3, 4), (2, 2)), ((), (1,), (1, 4)), ((2, 3, 4), (17,), (3, 4)), ((64,),))
# a convolution's weight, many layers, large ones: beside LAYERS, what must not depend on the luck of the draw
LARGE_LAYERS = (((4, 3, 3, 3), (6, 6)), ((2, 2, 2),) + ((3, 2),) * 11, ((40, 30), (64,)), ((20000,),))
SCALES = (1.0, 1e-9, 1e-3, 1e3, 1e6)  # of a gradient's elements: the domain's ends, and what is common


def gradients(*kinds, layers=12, extra=()):
    """`GradientCase`s of these kinds (none: all): lists of up to so many layers, scales from 1e-9 to 1e6."""
    kinds, scale = kinds or tuple(GRADIENT_KINDS), st.sampled_from(SCALES)
    small, large = ([shapes for shapes in lists if len(shapes) <= layers] for lists in (LAYERS, LARGE_LAYERS))
    drawn = st.builds(GradientCase, st.sampled_from(kinds), st.sampled_from(small), scale, scale, SEEDS)
    fixed = [GradientCase(kind, small[min(2, len(small) - 1)], seed=7) for kind in kinds]
    sizes = [GradientCase(kinds[i % len(kinds)], shapes, seed=11) for i, shapes in enumerate(small)]
    sizes += [GradientCase(kinds[0], shapes, seed=11) for shapes in large]
    ends = [GradientCase(kinds[0], small[-1], *scales, seed=13) for scales in ((1e-9, 1.0), (1.0, 1e-9), (1e6, 1e6))]
    return Cases(drawn, [*fixed, *sizes, *ends, *extra])


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


# (N, K), with twice as many samples beside two of them; some are shapes of the test vectors too
LOGITS_SHAPES = ((1, 3), (2, 3), (5, 3), (10, 3), (3, 2), (7, 4), (70, 5), (3, 130))


def logits(*kinds, max_classes=130, shapes=LOGITS_SHAPES, extra=()):
    """`LogitsCase`s of these kinds (none: all): 1 to 70 samples, 2 to max_classes classes."""
    kinds, shapes = kinds or tuple(LOGIT_KINDS), [shape for shape in shapes if shape[1] <= max_classes]
    drawn = st.builds(
        lambda kind, shape, seed: LogitsCase(kind, *shape, seed), *map(st.sampled_from, (kinds, shapes)), SEEDS
    )
    sizes = [LogitsCase(kinds[i % len(kinds)], *shape, seed=3) for i, shape in enumerate(shapes)]
    return Cases(drawn, [*(LogitsCase(kind, 5, 3, seed=3) for kind in kinds), *sizes, *extra])


STANDARD = tuple((-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in range(1, 9)) + tuple((0, 2**b - 1) for b in range(1, 9))
UNUSUAL = ((-7, 7), (-1, 1), (3, 10), (-10, -3), (0, 1000), (-2048, 2047))  # narrow, ternary, without zero, wide
FIXED_RANGES = ((-8, 7), (0, 15), (-2, 1), (-128, 127), (0, 255))
# 10,008 elements: a multiple of 24, so that they make (2, 12) too, and more than the widest range has codes
X_SHAPES = ((2, 12), (1,), (), (3, 3), (2, 3, 2), (2, 2, 3, 3), (0,), (10008,))
SIZES = tuple(zip((*UNUSUAL, (-8, 7), (-1, 0)), X_SHAPES))
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
        exact = self.kind in ("ties", "ends", "on_grid", "near_ties", "barely_outside", "barely_inside")
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
        if self.kind == "on_grid":  # between the ends, which are a kind of their own; at one bit there is nothing
            return rng.choice(np.arange(low + 1.0, high) if high > low + 1 else [low + 0.25], n)
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
    """`QuantizerCase`s of these kinds (none: all): 1 to 8 bits and unusual ranges, steps from 2^-30 to 2^20."""
    kinds, ranges = kinds or tuple(QUANTIZER_KINDS), st.sampled_from(STANDARD + UNUSUAL)
    shapes = st.sampled_from(X_SHAPES[:6])
    drawn = st.builds(QuantizerCase, st.sampled_from(kinds), ranges, st.integers(-30, 20), shapes, SEEDS)
    fixed = [QuantizerCase(kind, q_range, -3, (2, 12), seed=5) for kind in kinds for q_range in FIXED_RANGES]
    sizes = [QuantizerCase(kinds[i % len(kinds)], q_range, -3, shape, 5) for i, (q_range, shape) in enumerate(SIZES)]
    ends = [QuantizerCase(kinds[0], (-8, 7), exponent, (2, 12), 5) for exponent in (-30, 20)]
    return Cases(drawn, [*fixed, *sizes, *ends, *extra])


def in_another_layout(value):
    """The same arrays, elements stored in another order and with gaps in between."""
    if isinstance(value, np.ndarray) and value.ndim:
        every_other = tuple(slice(None, None, 2) for _ in value.shape)
        wide = np.zeros(tuple(2 * n for n in value.shape), value.dtype, order="F")
        wide[every_other] = value
        return wide[every_other]
    return type(value)(map(in_another_layout, value)) if isinstance(value, (list, tuple)) else value
