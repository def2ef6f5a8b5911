"""Laws of the OEU step, and of what a step does to the losses of a real network: Theorems 4.3 and 4.4."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from ..reference import projection as reference
from .cases import Cases, gradients
from .law import about, require
from .projection_laws import GRANULARITIES, RESCALES, WIDE, inner, norm, rounding, tolerance, vectors
from .smooth import SmoothNet

OEU = "OEU"
law = about("project")
SMOOTH = Cases(st.integers(0, 9999), range(8))
DISTANCES = np.geomspace(1e-4, 1e-2, 5)


def _loss_changes(net, direction):
    start = net.retain_loss(net.parameters)[0]
    return np.array([net.retain_loss(net.moved(direction, d))[0] - start for d in DISTANCES])


def _order(changes):
    """Fitted exponent of the change of a loss in the distance: 1 for first order, 2 for second."""
    return np.polyfit(np.log(DISTANCES), np.log(np.abs(changes) + 1e-300), 1)[0]


@law("4.3", SMOOTH)
def retain_loss_changes_at_second_order_only(implementation, seed):
    """On a smooth network, a step of length d along the projected gradient changes the retain loss as d squared, while
    along the raw forget gradient it changes as d (the control, which shows that this measurement can see).

    A step along the projected gradient changes the retain loss at second order only: is it the retain gradient
    that is taken out of the forget gradient, of the same layer, and all of it?"""
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


@law("4.4", SMOOTH)
def forget_loss_falls_along_the_projected_gradient(implementation, seed):
    """On a smooth network, a small step along minus the projected gradient lowers the forget loss, at the promised
    rate.

    A small step along minus the projected gradient lowers the forget loss by |g_perp|^2 times the step size."""
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


law = about("oeu_direction")


@law(OEU, gradients())
def direction_is_retain_gradient_plus_beta_times_projected_forget_gradient(implementation, case):
    """The step's direction is g_r + beta g_perp, with every option handed on to the projection.

    d = g_r + beta g_perp: the projected forget gradient, weighted by beta, added to the retain gradient as it
    is."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        for rescale in RESCALES:
            for alpha, beta in ((1.0, 1.0), (0.5, 0.25), (0.25, 3.0), (0.0, 1.0)):
                options = {"alpha": alpha, "granularity": granularity, "rescale": rescale}
                result = implementation.oeu_direction(forget, retain, beta=beta, **options)
                g_perp = reference.project(forget, retain, **options)
                plain = reference.project(forget, retain, alpha, granularity)
                for d, p, shortest, g_f, g_r in vectors(granularity, result, g_perp, plain, forget, retain):
                    allowed = rounding(implementation, d.size) * norm(g_r)
                    allowed += beta * tolerance(implementation, g_f, p, shortest)
                    require(
                        norm(d - (g_r + beta * p)) <= allowed,
                        lambda: (
                            f"beta = {beta:g}, {options}: off by {norm(d - g_r - beta * p):.3g} where |g_r| = "
                            f"{norm(g_r):.3g} and |g_perp| = {norm(p):.3g}"
                        ),
                    )


@law(OEU, gradients())
def beta_zero_is_plain_retain_training(implementation, case):
    """With beta = 0 the direction is the retain gradient.

    With beta = 0 nothing is left of the forget gradient: beta belongs to it, not to the retain gradient."""
    forget, retain = case.arrays(implementation)
    for d, g_r in zip(implementation.oeu_direction(forget, retain, beta=0.0), retain):
        require(norm(d - g_r) <= 4 * implementation.eps * norm(g_r), f"off by {norm(d - g_r):.3g} of {norm(g_r):.3g}")


@law("4.3", gradients(*WIDE))
def direction_trains_the_retain_set_as_plain_training_does(implementation, case):
    """With alpha = 1, <d, g_r> = |g_r|^2 in each layer: at first order the retain loss falls as if nothing was
    forgotten.

    The forget part must not touch the retain loss at first order: <d, g_r> = |g_r|^2."""
    forget, retain = case.arrays(implementation)
    for beta in (0.5, 4.0):
        for d, g_f, g_r in zip(implementation.oeu_direction(forget, retain, beta=beta), forget, retain):
            allowed = rounding(implementation, d.size) * norm(g_r) * (norm(g_r) + beta * norm(g_f))
            require(
                abs(inner(d, g_r) - norm(g_r) ** 2) <= allowed,
                lambda: f"beta = {beta:g}: <d, g_r> = {inner(d, g_r):.6g}, |g_r|^2 = {norm(g_r) ** 2:.6g}",
            )


@law(OEU, gradients(*WIDE))
def oeu_direction_has_the_contracts_defaults_and_order(implementation, case):
    """Called with two lists alone, or with its options by position, oeu_direction does what the contract says.

    The defaults are alpha=1.0, beta=1.0, granularity="layer", rescale="undo", in this order."""
    forget, retain = case.arrays(implementation)
    size = max(norm(g) for g in forget) + max(norm(g) for g in retain)
    allowed = 8 * rounding(implementation, sum(g.size for g in forget)) * size
    for args in ((), (0.5,), (0.5, 2.0), (0.5, 2.0, "global"), (0.5, 2.0, "global", "match")):
        expected = reference.oeu_direction(forget, retain, *args)
        for d, e in zip(implementation.oeu_direction(forget, retain, *args), expected):
            require(norm(d - e) <= allowed, lambda: f"options {args}: off by {norm(d - e):.3g} of {norm(e):.3g}")
