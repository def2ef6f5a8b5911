"""Laws of the OEU step, and of what a step does to the losses of a real network: Theorems 4.3 and 4.4."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from ..reference import projection as reference
from .cases import GradientCase, LogitsCase, QuantizerCase, fixed_gradient_cases, gradient_cases
from .implementation import Violation
from .law import law, require
from .projection_laws import GRANULARITIES, RESCALES, WIDE, inner, norm, rounding, vectors
from .smooth import SmoothNet

OEU = "OEU"
DIRECTION = ("oeu_direction",)
DISTANCES = np.geomspace(1e-4, 1e-2, 5)
CONTRACT = "contract"


def _loss_changes(net, direction):
    start = net.retain_loss(net.parameters)[0]
    return np.array([net.retain_loss(net.moved(direction, d))[0] - start for d in DISTANCES])


def _order(changes):
    """Fitted exponent of the change of a loss in the distance: 1 for first order, 2 for second."""
    return np.polyfit(np.log(DISTANCES), np.log(np.abs(changes) + 1e-300), 1)[0]


@law(
    "4.3",
    ("project",),
    st.integers(0, 9999),
    "a step along the projected gradient changes the retain loss at second order only: is it the retain gradient that "
    "is taken out of the forget gradient, of the same layer, and all of it?",
    range(8),
)
def retain_loss_changes_at_second_order_only(implementation, seed):
    """On a smooth network, a step of length d along the projected gradient changes the retain loss as d squared, while
    along the raw forget gradient it changes as d (the control, which shows that this measurement can see)."""
    net = SmoothNet(seed)
    forget, retain = (implementation.cast(loss(net.parameters)[1]) for loss in (net.forget_loss, net.retain_loss))
    expected = _loss_changes(net, reference.project(forget, retain))
    # where the curvature along the direction happens to vanish, nothing can be read off
    assume(abs(expected[-1]) > 0.01 * DISTANCES[-1] ** 2 * norm(np.concatenate([g.ravel() for g in retain])))
    assume(1.9 <= _order(expected) <= 2.1)
    raw = _order(_loss_changes(net, forget))
    assume(raw <= 1.2)  # the control: the raw gradient has a first-order effect here
    order = _order(_loss_changes(net, implementation.project(forget, retain)))
    require(order >= 1.9, f"the retain loss changes with exponent {order:.3f}; {raw:.3f} along the raw gradient")


@law(
    "4.4",
    ("project",),
    st.integers(0, 9999),
    "a small step along minus the projected gradient lowers the forget loss by |g_perp|^2 times the step size",
    range(8),
)
def forget_loss_falls_along_the_projected_gradient(implementation, seed):
    """On a smooth network, a small step along minus the projected gradient lowers the forget loss, at the promised
    rate."""
    net = SmoothNet(seed)
    forget, retain = (implementation.cast(loss(net.parameters)[1]) for loss in (net.forget_loss, net.retain_loss))
    start = net.forget_loss(net.parameters)[0]
    distance = 1e-4
    # per unit of distance the loss falls by <g_f, g_perp> / |g_perp| = |g_perp|
    promised = distance * norm(np.concatenate([g.ravel() for g in reference.project(forget, retain)]))
    g_perp = implementation.project(forget, retain)
    require(any(g.any() for g in g_perp), "the projected gradient is zero")
    fall = start - net.forget_loss(net.moved(g_perp, distance))[0]
    assume(promised > 100 * distance**2)
    require(abs(fall - promised) <= 0.1 * promised, f"falls by {fall:.3g}, promised {promised:.3g}")


@law(
    OEU,
    DIRECTION,
    gradient_cases(),
    "d = g_r + beta g_perp: the projected forget gradient, weighted by beta, added to the retain gradient as it is",
    fixed_gradient_cases(),
    weight=2,
)
def direction_is_retain_gradient_plus_beta_times_projected_forget_gradient(implementation, case):
    """The step's direction is g_r + beta g_perp, with every option handed on to the projection."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        for rescale in RESCALES:
            for alpha, beta in ((1.0, 1.0), (0.5, 0.25), (0.25, 3.0), (0.0, 1.0)):
                options = {"alpha": alpha, "granularity": granularity, "rescale": rescale}
                result = implementation.oeu_direction(forget, retain, beta=beta, **options)
                g_perp = reference.project(forget, retain, **options)
                plain = reference.project(forget, retain, alpha, granularity)
                for d, p, shortest, g_f, g_r in vectors(granularity, result, g_perp, plain, forget, retain):
                    stretch = norm(p) / norm(shortest) if shortest.any() else 1.0
                    size = norm(g_r) + beta * norm(g_f) * stretch
                    require(
                        norm(d - (g_r + beta * p)) <= rounding(implementation, d.size) * size,
                        lambda: f"beta = {beta:g}, {options}: off by {norm(d - g_r - beta * p):.3g} where |g_r| = "
                        f"{norm(g_r):.3g} and |g_perp| = {norm(p):.3g}",
                    )


@law(
    OEU,
    DIRECTION,
    gradient_cases(),
    "with beta = 0 nothing is left of the forget gradient: beta belongs to it, not to the retain gradient",
    fixed_gradient_cases(("typical", "conflicting", "zero_retain")),
    weight=0.5,
)
def beta_zero_is_plain_retain_training(implementation, case):
    """With beta = 0 the direction is the retain gradient."""
    forget, retain = case.arrays(implementation)
    for d, g_r in zip(implementation.oeu_direction(forget, retain, beta=0.0), retain):
        require(norm(d - g_r) <= 4 * implementation.eps * norm(g_r), f"off by {norm(d - g_r):.3g} of {norm(g_r):.3g}")


@law(
    "4.3",
    DIRECTION,
    gradient_cases(WIDE),
    "the forget part must not touch the retain loss at first order: <d, g_r> = |g_r|^2",
    fixed_gradient_cases(("typical", "conflicting", "agreeing")),
)
def direction_trains_the_retain_set_as_plain_training_does(implementation, case):
    """With alpha = 1, <d, g_r> = |g_r|^2 in each layer: at first order the retain loss falls as if nothing was
    forgotten."""
    forget, retain = case.arrays(implementation)
    for beta in (0.5, 4.0):
        for d, g_f, g_r in zip(implementation.oeu_direction(forget, retain, beta=beta), forget, retain):
            allowed = rounding(implementation, d.size) * norm(g_r) * (norm(g_r) + beta * norm(g_f))
            require(
                abs(inner(d, g_r) - norm(g_r) ** 2) <= allowed,
                lambda: f"beta = {beta:g}: <d, g_r> = {inner(d, g_r):.6g}, |g_r|^2 = {norm(g_r) ** 2:.6g}",
            )


@law(
    OEU,
    DIRECTION,
    gradient_cases(WIDE),
    'the defaults are alpha=1.0, beta=1.0, granularity="layer", rescale="undo", in this order',
    fixed_gradient_cases(("typical", "conflicting", "agreeing")),
    weight=0.5,
)
def oeu_direction_has_the_contracts_defaults_and_order(implementation, case):
    """Called with two lists alone, or with its options by position, oeu_direction does what the contract says."""
    forget, retain = case.arrays(implementation)
    size = max(norm(g) for g in forget) + max(norm(g) for g in retain)
    allowed = 8 * rounding(implementation, sum(g.size for g in forget)) * size
    for args in ((), (0.5,), (0.5, 2.0), (0.5, 2.0, "global"), (0.5, 2.0, "global", "match")):
        expected = reference.oeu_direction(forget, retain, *args)
        for d, e in zip(implementation.oeu_direction(forget, retain, *args), expected):
            require(norm(d - e) <= allowed, lambda: f"options {args}: off by {norm(d - e):.3g} of {norm(e):.3g}")


def _operation_calls(implementation, operation, seed):
    """Argument lists for one operation, built to tempt it to hand back or overwrite an input."""
    dtype = implementation.dtype
    if operation in ("entropy_loss", "kl_to_uniform"):
        return [[LogitsCase(kind, 4, 3, seed).array(implementation).astype(dtype)] for kind in ("typical", "uniform")]
    if operation in ("fake_quantize", "fake_quantize_backward"):
        calls = []
        for kind in ("inside", "ends", "outside"):
            case = QuantizerCase(kind, 4, True, 0, 8, seed)
            x, step, grad_out = case.arrays(implementation)
            arrays = [x.astype(dtype)] if operation == "fake_quantize" else [grad_out.astype(dtype), x.astype(dtype)]
            calls.append([*arrays, step, case.q_min, case.q_max])
        return calls
    options = [(), (0.0,), (0.5,)] if operation == "project" else [(), (0.0,), (1.0, 0.0), (0.5, 2.0)]
    calls = []
    for kind in ("typical", "zero_retain", "zero_forget", "orthogonal"):
        case = GradientCase(kind, ((4,), (2, 3), ()), seed=seed)
        for more in options:
            for words in (("layer", "undo"), ("global", "match")):
                forget, retain = case.arrays(implementation)
                full = more + (1.0, 1.0)[len(more) : 1 + (operation == "oeu_direction")]
                calls.append([[g.astype(dtype) for g in forget], [g.astype(dtype) for g in retain], *full, *words])
    return calls


def _arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    return [a for item in value for a in _arrays_in(item)] if isinstance(value, (list, tuple)) else []


def _check_manners(implementation, operation, seed):
    earlier = []  # (result arrays, copies of them) of all calls so far
    for args in _operation_calls(implementation, operation, seed):
        inputs = _arrays_in(args)
        before = [a.copy() for a in inputs]
        result = _arrays_in(implementation.raw(operation, *args))
        for i, (now, then) in enumerate(zip(inputs, before)):
            require(np.array_equal(now, then), f"{operation} changed its input array {i} in place")
        for r in result:
            if any(np.shares_memory(r, a) for a in inputs):
                raise Violation(f"{operation} returned an array that shares its memory with an input: return a copy")
        for arrays, copies in earlier:
            if not all(np.array_equal(a, c) for a, c in zip(arrays, copies)):
                raise Violation(f"{operation} changed the result of an earlier call: return new arrays each time")
        earlier.append((result, [r.copy() for r in result]))
        # an input written to afterwards must not reach into the result, nor be remembered
        for a in inputs:
            a[...] = 0


def _enter_manners(operation):
    def manners(implementation, seed):
        _check_manners(implementation, operation, seed)

    manners.__name__ = f"{operation}_leaves_its_inputs_alone_and_returns_new_arrays"
    manners.__doc__ = f"{operation} changes none of its inputs, and its result shares memory with none."
    hint = "an in-place operation (+=, out=, *_ in PyTorch) on an input, or an input handed back where nothing changes"
    law(CONTRACT, (operation,), st.integers(0, 99), hint, [0], weight=0.05)(manners)


for _operation in (
    "entropy_loss",
    "kl_to_uniform",
    "fake_quantize",
    "fake_quantize_backward",
    "project",
    "oeu_direction",
):
    _enter_manners(_operation)


def _enter_determinism(operation):
    def repeated(implementation, seed):
        for args in _operation_calls(implementation, operation, seed)[:2]:
            first, second = (_arrays_in(list(_as_list(implementation.raw(operation, *args)))) for _ in range(2))
            same = all(np.array_equal(a, b) for a, b in zip(first, second)) and len(first) == len(second)
            require(same, f"{operation} gave two results for the same input")

    repeated.__name__ = f"{operation}_repeats_itself"
    repeated.__doc__ = f"{operation} gives the same result when it is called again with the same input."
    law(CONTRACT, (operation,), st.integers(0, 99), "state kept between calls, or a random draw", [0], weight=0.05)(
        repeated
    )


def _as_list(value):
    return value if isinstance(value, (list, tuple)) else [value]


for _operation in ("entropy_loss", "fake_quantize_backward", "project", "oeu_direction"):
    _enter_determinism(_operation)

