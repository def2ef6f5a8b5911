"""What is right under the conventions that an implementation declares: the reference, with ties, masks and rules."""

import numpy as np

from ..reference import projection as reference


def rounded(implementation, v):
    """v at the nearest integer, halves as TIES says: to the even one, up, or away from zero."""
    if implementation.declared["TIES"] == "even":
        return np.round(v)
    sign = np.where((implementation.declared["TIES"] == "away") & (v < 0), -1, 1)
    below = np.floor(sign * v)
    return sign * (below + (sign * v - below >= 0.5))


def fake_quantize(implementation, x, step, q_min, q_max):
    """step * round(clip(x / step, q_min, q_max))."""
    return step * rounded(implementation, np.clip(x / step, q_min, q_max))


def sides(implementation, v, q_min, q_max):
    """(below, above): where QUANTIZER_MASK lets no gradient pass."""
    mask = implementation.declared["QUANTIZER_MASK"]
    if mask == "open":
        return v <= q_min, v >= q_max
    tested = rounded(implementation, v) if mask == "round" else v
    return (tested < q_min) & (mask != "none"), (tested > q_max) & (mask != "none")


def fake_quantize_backward(implementation, grad_out, x, step, q_min, q_max):
    """(grad_x, grad_step) with grad_scale = 1."""
    v = x / step
    below, above = sides(implementation, v, q_min, q_max)
    grad_x = np.where(below | above, 0.0, grad_out)
    if implementation.declared["QUANTIZER_MASK"] == "none":  # that of x alone: clipping moves the step's all the same
        below, above = v < q_min, v > q_max
    slope = np.where(below, q_min, np.where(above, q_max, rounded(implementation, v) - v))
    return grad_x, float((grad_out * slope).sum())


def project(implementation, forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
    """Projection with NORMALIZATION and EPSILON as declared, and as PROJECT_WHEN declares, always or in conflict."""
    declared = implementation.declared
    options = alpha, granularity, rescale, declared["NORMALIZATION"], declared["EPSILON"]
    projected = reference.project.unchecked(forget, retain, *options)
    if declared["PROJECT_WHEN"] == "always":
        return projected
    products = [float((f * r).sum()) for f, r in zip(forget, retain)]
    products = products if granularity == "layer" else [sum(products)] * len(products)
    return [p if product < 0 else f for p, f, product in zip(projected, forget, products)]
