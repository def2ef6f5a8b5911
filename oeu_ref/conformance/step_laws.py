"""Laws of the OEU step, and of what a step does to the losses of a real network: Theorems 4.3 and 4.4."""

import itertools

import numpy as np
from hypothesis import strategies as st

from ..judging import expected
from ..judging.cases import Cases, gradients
from ..judging.law import about, assume, require
from ..judging.rounding import inner, norm, rounding, threshold, tolerance, vectors
from ..reference import projection as reference
from .projection_laws import WIDE
from .smooth import SmoothNet

OEU = "OEU"
PLAIN = {"alpha": 1.0, "granularity": "layer", "rescale": "undo"}
STRENGTHS = ((1.0, 1.0), (0.5, 0.25), (0.25, 3.0), (0.0, 1.0), (1.0, 12.34567))  # alpha, beta
SMOOTH = Cases(st.integers(0, 9999), range(8))
DISTANCES = np.geomspace(1e-4, 1e-2, 5)


def _loss_changes(net, direction):
    start = net.retain_loss(net.parameters)[0]
    return np.array([net.retain_loss(net.moved(direction, d))[0] - start for d in DISTANCES])


def _order(changes):
    """Fitted exponent of the change of a loss in the distance: 1 for first order, 2 for second."""
    return np.polyfit(np.log(DISTANCES), np.log(np.abs(changes) + 1e-300), 1)[0]


law = about("project", NORMALIZATION="exact", PROJECT_WHEN="always", RESCALES="undo", GRANULARITIES="layer", ALPHAS=1.0)


@law("4.3", SMOOTH)
def retain_loss_changes_at_second_order_only(implementation, seed):
    """On a smooth network, a step of length d along the projected gradient changes the retain loss as d squared, while
    along the raw forget gradient it changes as d (the control, which shows that this measurement can see).

    A step along the projected gradient changes the retain loss at second order only: is it the retain gradient
    that is taken out of the forget gradient, of the same layer, and all of it?"""
    net = SmoothNet(seed)
    forget, retain = (implementation.cast(loss(net.parameters)[1]) for loss in (net.forget_loss, net.retain_loss))
    right = _loss_changes(net, reference.project(forget, retain))
    # where the curvature along the direction happens to vanish, nothing can be read off
    assume(abs(right[-1]) > 0.01 * DISTANCES[-1] ** 2 * norm(np.concatenate([g.ravel() for g in retain])))
    assume(1.9 <= _order(right) <= 2.1)
    raw = _order(_loss_changes(net, forget))
    assume(raw <= 1.2)  # the control: the raw gradient has a first-order effect here
    order = _order(_loss_changes(net, implementation.project(forget, retain, **PLAIN)))
    require(order >= 1.9, f"the retain loss changes with exponent {order:.3f}; {raw:.3f} along the raw gradient")


@law("4.4", SMOOTH)
def forget_loss_falls_along_the_projected_gradient(implementation, seed):
    """On a smooth network, a small step along minus the projected gradient lowers the forget loss at that rate.

    A small step along minus the projected gradient lowers the forget loss by |g_perp|^2 times the step size."""
    net = SmoothNet(seed)
    forget, retain = (implementation.cast(loss(net.parameters)[1]) for loss in (net.forget_loss, net.retain_loss))
    start = net.forget_loss(net.parameters)[0]
    distance = 1e-4
    # per unit of distance the loss falls by <g_f, g_perp> / |g_perp| = |g_perp|
    promised = distance * norm(np.concatenate([g.ravel() for g in reference.project(forget, retain)]))
    g_perp = implementation.project(forget, retain, **PLAIN)
    require(any(g.any() for g in g_perp), "the projected gradient is zero")
    fall = start - net.forget_loss(net.moved(g_perp, distance))[0]
    assume(promised > 100 * distance**2)
    require(abs(fall - promised) <= 0.1 * promised, f"falls by {fall:.3g}, promised {promised:.3g}")


law = about("oeu_direction")


@law(OEU, gradients())
def direction_is_retain_gradient_plus_beta_times_projected_forget_gradient(implementation, case):
    """The step's direction is g_r + beta g_perp, with every option handed on to the projection.

    d = g_r + beta g_perp: the projected forget gradient, weighted by beta, added to the retain gradient as it is."""
    forget, retain = case.arrays(implementation)
    declared = implementation.declared
    strengths = [((declared["ALPHAS"] or [alpha])[0], beta) for alpha, beta in STRENGTHS]
    for granularity, rescale in itertools.product(declared["GRANULARITIES"], declared["RESCALES"]):
        for alpha, beta in strengths:
            options = {"alpha": alpha, "granularity": granularity, "rescale": rescale}
            result = implementation.oeu_direction(forget, retain, beta=beta, **options)
            g_perp = expected.project(implementation, forget, retain, **options)
            plain = expected.project(implementation, forget, retain, alpha, granularity)
            for d, p, shortest, g_f, g_r in vectors(granularity, result, g_perp, plain, forget, retain):
                allowed = rounding(implementation, d.size) * norm(g_r)
                allowed += beta * tolerance(implementation, g_f, p, shortest)
                error = norm(d - (g_r + beta * p))
                where = lambda: f"where |g_r| = {norm(g_r):.3g} and |g_perp| = {norm(p):.3g}"
                require(error <= allowed, lambda: f"beta = {beta:g}, {options}: off by {error:.3g} {where()}")


@law(OEU, gradients())
def beta_zero_is_plain_retain_training(implementation, case):
    """With beta = 0 the direction is the retain gradient.

    With beta = 0 nothing is left of the forget gradient: beta belongs to it, not to the retain gradient."""
    forget, retain = case.arrays(implementation)
    for granularity in implementation.declared["GRANULARITIES"]:
        options = {"alpha": implementation.alphas()[-1], "beta": 0.0, "granularity": granularity}
        for d, g_r in zip(implementation.oeu_direction(forget, retain, **options), retain):
            apart = norm(d - g_r)
            require(apart <= 4 * implementation.eps * norm(g_r), f"{options}: off by {apart:.3g}")


law = about("oeu_direction", NORMALIZATION="exact", PROJECT_WHEN="always")


@law("4.3", gradients(*WIDE), RESCALES="undo", GRANULARITIES="layer", ALPHAS=1.0)
def direction_trains_the_retain_set_as_plain_training_does(implementation, case):
    """With alpha = 1, <d, g_r> = |g_r|^2 in each layer: the retain loss falls as without forgetting.

    The forget part must not touch the retain loss at first order: <d, g_r> = |g_r|^2."""
    forget, retain = case.arrays(implementation)
    for beta in (0.5, 4.0):
        direction = implementation.oeu_direction(forget, retain, alpha=1.0, beta=beta, granularity="layer")
        for d, g_f, g_r in zip(direction, forget, retain):
            allowed = rounding(implementation, d.size) * norm(g_r) * (norm(g_r) + beta * norm(g_f))
            along, square = inner(d, g_r), norm(g_r) ** 2
            require(abs(along - square) <= allowed, f"beta = {beta:g}: <d, g_r> = {along:.6g}, |g_r|^2 = {square:.6g}")


@law("GOP", gradients(), RESCALES="undo")
def direction_is_a_weighted_sum_whose_weights_follow_the_angle(implementation, case):
    """Under "undo", d = (1 - beta c) g_r + beta g_f with c = alpha <g_f, g_r> / |g_r|^2, a layer or all as one.

    In each layer the direction is a weighted sum of the two gradients, with a c of that layer; under "global" with
    one c for all: another weight, or a direction outside of the plane of the two, breaks this."""
    forget, retain = case.arrays(implementation)
    declared = implementation.declared
    for granularity, alpha in itertools.product(declared["GRANULARITIES"], declared["ALPHAS"] or (1.0, 0.5)):
        for beta in (0.7, 8.0):
            options = {"alpha": alpha, "beta": beta, "granularity": granularity, "rescale": "undo"}
            direction = implementation.oeu_direction(forget, retain, **options)
            for d, g_f, g_r in vectors(granularity, direction, forget, retain):
                size_f, size_r = norm(g_f), norm(g_r)
                # c g_r as a whole, since c alone is huge where g_r is tiny
                axis = g_r / size_r if size_r else g_r
                right = g_r + beta * (g_f - alpha * inner(g_f, axis) * axis)
                noise = threshold(implementation)
                allowed = rounding(implementation, d.size) * (size_r + beta * size_f)
                if norm(right - g_r) <= 2 * beta * noise * size_f:  # collinear: zero, or what is left
                    allowed += beta * noise * size_f
                error = norm(d - right)
                require(error <= allowed, f"{options}: off by {error:.3g}, rounding allows {allowed:.1e}")


law = about("oeu_direction")


@law(OEU, gradients(*WIDE))
def oeu_direction_has_the_contracts_defaults_and_order(implementation, case):
    """Called with two lists alone, or with its options by position, it gives what the same options by name give.

    The defaults are alpha=1.0, beta=1.0, granularity="layer", rescale="undo", in this order."""
    assume(implementation.takes_all_options)
    forget, retain = case.arrays(implementation)
    size = max(norm(g) for g in forget) + max(norm(g) for g in retain)
    allowed = 8 * rounding(implementation, sum(g.size for g in forget)) * size
    for args in ((), (0.5,), (0.5, 2.0), (0.5, 2.0, "global"), (0.5, 2.0, "global", "match"), (1, 2)):
        alpha, beta, *words = (*args, *(1.0, 1.0, "layer", "undo")[len(args) :])
        named = dict(zip(("alpha", "beta", "granularity", "rescale"), (float(alpha), float(beta), *words)))
        right = implementation.oeu_direction(forget, retain, **named)
        for d, e in zip(implementation.oeu_direction(forget, retain, *args), right):
            message = f"called with {args}: off by {norm(d - e):.3g} from what {named} gives, of {norm(e):.3g}"
            require(norm(d - e) <= allowed, message)


law = about("oeu_direction", "project")


@law(OEU, gradients(*WIDE, "parallel"))
def direction_adds_beta_times_its_own_projection(implementation, case):
    """oeu_direction is g_r plus beta times what the implementation's own project gives for the same options.

    d(beta) - g_r = beta g_perp: the direction uses another projection, or other options, than project itself."""
    forget, retain = case.arrays(implementation)
    declared = implementation.declared
    options = {"alpha": (declared["ALPHAS"] or (0.5,))[0], "granularity": declared["GRANULARITIES"][-1]}
    options["rescale"] = declared["RESCALES"][-1]
    g_perp = implementation.project(forget, retain, **options)
    for d, p, g_r in zip(implementation.oeu_direction(forget, retain, beta=3.0, **options), g_perp, retain):
        error, allowed = norm(d - (g_r + 3.0 * p)), rounding(implementation, 1) * (norm(g_r) + 3 * norm(p))
        noise = 3 * threshold(implementation) * max(norm(g) for g in forget)  # of collinear gradients, which may differ
        require(error <= allowed + noise, f"{options}: off by {error:.3g} of {norm(d):.3g}")
