"""Beyond first order: what the curvature of a loss says about a step, and how long a step it allows.

A step of length eta (the learning rate) along minus d changes a loss L with gradient g and Hessian H by

    dL = -eta <g, d> + eta^2 / 2 d'Hd + O(eta^3).

slope stands for <g, d>, curvature for d'Hd. Theorem 4.3 of arXiv 2602.00567 makes the slope of the retain loss zero
for d = g_perp, alpha = 1; its O(eta^2) is eta^2 / 2 g_perp'H g_perp.
"""

import functools

import numpy as np

from ..boundary import Rule
from ..reference.projection import takes


def _real(name, value, library, low=-np.inf):
    values = library.asarray(value)
    if values.dtype.kind not in "iuf":
        got = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name} must be a number or an array of real numbers, got {got}")
    values = values.astype(np.float64)
    bad = ~(np.isfinite(values) & (values >= low))
    if bad.any():
        wanted = "finite" if low == -np.inf else f"finite and at least {low:g}"
        raise ValueError(f"{name} must be {wanted}, got {values[bad].flat[0]}")
    return values


Real = functools.partial(Rule, _real)
STEP = {"learning_rate": Real(0), "slope": Real(), "curvature": Real()}


@takes(**STEP)
def loss_change(learning_rate, slope, curvature):
    """Change of a loss that a step along minus d makes, to second order: -eta slope + eta^2 / 2 curvature.

    learning_rate: eta >= 0; slope: <g, d>, positive where the step goes downhill; curvature: d'Hd: finite numbers or
    arrays, broadcast together.  Returns float64 of the common shape, in the unit of the loss.
    Raises TypeError or ValueError, naming the argument, for what is not real, not finite or below its range.
    Source: Taylor's theorem; for d = g_perp the second order of Theorem 4.3 of arXiv 2602.00567.
    """
    # factored: the square of a small eta may underflow where the product does not
    return (learning_rate * (learning_rate / 2 * curvature - slope))[()]


@takes(**STEP, max_increase=Real(0))
def largest_learning_rate(learning_rate, slope, curvature, max_increase):
    """Longest step, at most learning_rate, on the way to which `loss_change` never exceeds max_increase.

    learning_rate: eta >= 0, the step that is wanted; slope, curvature as in `loss_change`; max_increase >= 0, in the
    unit of the loss: finite numbers or arrays, broadcast together.  Returns float64 of the common shape, in
    [0, learning_rate].  Raises as `loss_change`.

    The prediction meets the bound M at the roots of curvature / 2 eta^2 - slope eta - M = 0. With D = slope^2 + 2
    curvature M, the first root above 0 beyond which the prediction exceeds M is

        slope < 0 (uphill):              2 M / (sqrt(D) - slope), none if D <= 0: the loss turns before it reaches M;
        slope >= 0 and curvature > 0:    (slope + sqrt(D)) / curvature;
        slope >= 0 and curvature <= 0:   none.

    "On the way": beyond a hill (slope < 0, curvature < 0) the prediction is below M again. No step is let across: the
    prediction is good near the start alone. So a longer learning_rate never gives a shorter step.
    max_increase = 0 allows no step uphill, and along slope 0 none where the curvature is positive.
    Source: ours, from the second order of Theorem 4.3 of arXiv 2602.00567.
    """
    # sqrt(|D|) from its two parts in a common unit, so that no square overflows, underflows or cancels
    bend = np.sqrt(np.abs(curvature)) * np.sqrt(max_increase)
    size = np.maximum(np.abs(slope), bend)
    unit = np.where(size == 0, 1.0, size)
    a, b = np.abs(slope) / unit, np.sqrt(2) * (bend / unit)
    with np.errstate(all="ignore"):  # a root beyond the largest number is infinite; branches not taken may be anything
        root_of_d = np.where(curvature >= 0, np.hypot(a, b), np.sqrt(np.maximum(a - b, 0) * (a + b)))
        uphill = np.where((curvature < 0) & (a <= b), np.inf, max_increase / unit * (2 / (a + root_of_d)))
        downhill = np.where(curvature > 0, size / curvature * (a + root_of_d), np.inf)
    return np.minimum(learning_rate, np.where(slope < 0, uphill, downhill))[()]
