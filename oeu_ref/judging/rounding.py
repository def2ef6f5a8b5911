"""How far a right result may lie from the exact one: what a law about sums and projections allows, and measures by."""

import math

import numpy as np


def inner(first, second):
    """Inner product of two arrays, each product rounded once and their sum exact."""
    return math.fsum((first * second).ravel())


def norm(grad):
    """Euclidean norm of an array, as a float; its squares neither overflow nor vanish between 1e-9 and 1e6."""
    return float(np.linalg.norm(grad))


def rounding(implementation, size):
    """Relative error allowed to a sum of `size` products: a handful of roundings, and those of the sum."""
    return (16 + math.sqrt(size)) * implementation.eps


def vectors(granularity, *lists):
    """The vectors that a projection works on: the layers themselves, or all of them as one."""
    if granularity == "layer":
        return list(zip(*lists))
    return [tuple(np.concatenate([np.ravel(g) for g in grads]) for grads in lists)]


def threshold(implementation):
    """Share of |g_f| below which what a projection leaves is noise of collinear gradients: zero or as small."""
    return 1e-12 if implementation.dtype == np.float64 else 1e-6


def tolerance(implementation, g_f, right, plain):
    """Length of the error allowed to a projection: rounding of g_f, stretched as much as "match" stretches the result.

    right: what is expected; plain: the same under "undo".
    """
    if not plain.any():
        return threshold(implementation) * norm(g_f)
    return rounding(implementation, plain.size) * norm(g_f) * norm(right) / norm(plain)
