"""The projection of `projection.py` in fewer passes over memory, for the ordinary case; it obeys the same laws.

`projection.projected` normalizes first, projects twice and reads every gradient about twenty times, so that nearly
parallel, huge and tiny gradients come out right as well. Where a layer's gradients are neither, three numbers say all
that the result depends on:

    g_perp = k (g_f - c g_r),    c = alpha <g_f, g_r> / |g_r|^2,    k = 1 ("undo") or |g_f| / |g_f - c g_r| ("match").

They are measured first, and then each tensor is written once. Every operation is one of PyTorch's own, tensor by
tensor: on a CPU its multi-tensor operations are loops as well, and a BLAS brings threads of its own that wait for
PyTorch's.
"""

import math

import torch

from ..boundary import ALPHA, RESCALE
from ..tensors import Layers, stretches, wide
from . import projection

LARGEST_COSINE = math.sqrt(0.75)  # |cos| up to which g_perp is at least half as long as g_f: one pass is enough
SMALL = 1 << 20  # elements up to which the careful way takes no time that a step would notice
# norms whose squares, added up, neither overflow nor lose elements that matter
NORMS = {torch.float64: (1e-100, 1e100), torch.float32: (1e-10, 1e15)}


@projection.takes(alpha=ALPHA, rescale=RESCALE)
def projected(forget_grads, retain_grads, layers, alpha=1.0, rescale="undo", angles=None, overwrite=False, small=SMALL):
    """`projection.projected` in the exact form, faster on a CPU: layers that are not ordinary go through that function.

    angles: what `cosines_and_norms` found of these gradients, None: measured here; overwrite: write the result over
    forget_grads, which saves fresh memory and the time that it takes to get it; small: networks of up to so many
    elements go through that function as a whole, as do other devices: reading numbers off would wait for them.
    All other arguments, result and errors are that function's.
    """
    if not _worthwhile(forget_grads, small):
        return projection.projected(forget_grads, retain_grads, layers, alpha, rescale)
    g_f, g_r, ids = wide(forget_grads), wide(retain_grads), layers.ids.tolist()
    angles = cosines_and_norms(g_f, g_r, layers, small=0) if angles is None else angles
    ordinary = _summable(*angles[1:], g_f[0].dtype) & (angles[0].abs() < LARGEST_COSINE)
    removed = alpha * angles[0] * angles[1] / angles[2]  # c
    stretch = (1 - alpha * (2 - alpha) * angles[0] ** 2).rsqrt()  # |g_f| / |g_f - c g_r|
    ordinary, removed, stretch = (of_layers.tolist() for of_layers in (ordinary, removed, stretch))
    result = [None] * len(g_f)
    for i, layer in enumerate(ids):
        if ordinary[layer]:
            subtract = g_f[i].sub_ if overwrite else g_f[i].sub
            result[i] = subtract(g_r[i], alpha=removed[layer])
            if rescale == "match":
                result[i].mul_(stretch[layer])
    rest = [i for i, layer in enumerate(ids) if not ordinary[layer]]
    if rest:
        for i, g in zip(rest, projection.projected(*_part(rest, g_f, g_r, ids), alpha, rescale)):
            result[i] = g
    return [g.to(like.dtype) for g, like in zip(result, forget_grads)]


def cosines_and_norms(first, second, layers, small=SMALL):
    """Cosine, |first| and |second| of each layer, as a step reports them; ordinary layers are read once.

    first, second: P tensors each; layers: their `Layers`; small: as in `projected`.
    Returns (3, L), at least float32; the cosine is 0 where either is zero, NaN where either is not finite.
    """
    first, second = wide(first), wide(second)
    if not _worthwhile(first, small):
        return _careful_cosines_and_norms(first, second, layers)
    ids = layers.ids.tolist()
    *squares, inner = stretches.products(first, second, ids, layers.count)
    norms = [s.sqrt() for s in squares]
    result = torch.stack([inner / (norms[0] * norms[1]), *norms])
    careful = ~_summable(*norms, first[0].dtype)
    if careful.any():
        rest = [i for i, layer in enumerate(ids) if careful[layer]]
        # layers are numbered in order of first appearance, here and in the part
        result[:, careful] = _careful_cosines_and_norms(*_part(rest, first, second, ids)).to(result)
    return result


def overall_cosine(cosines, first_norms, second_norms):
    """Cosine between all layers as one vector, a float, from those of each: what `cosines_and_norms` returns."""
    length = (first_norms.norm() * second_norms.norm()).item()
    return (cosines * first_norms * second_norms).sum().item() / length if length else 0.0


def _careful_cosines_and_norms(first, second, layers):
    norms = [layers.norms(grads) for grads in (first, second)]
    return torch.stack([layers.dots(*map(layers.unit, (first, second), norms)), *norms])


def _part(chosen, first, second, ids):
    """Some of the tensors of both lists, and their `Layers`."""
    first, second = [first[i] for i in chosen], [second[i] for i in chosen]
    return first, second, Layers([ids[i] for i in chosen], first)


def _worthwhile(grads, small):
    return sum(g.numel() for g in grads) > small and grads[0].device.type == "cpu"


def _summable(first_norms, second_norms, dtype):
    """Whether squares add up as they should, layer by layer: (L,) bool."""
    (low, high), norms = NORMS[dtype], torch.stack([first_norms, second_norms])
    return ((low < norms) & (norms < high)).all(dim=0)
