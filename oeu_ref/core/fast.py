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

from . import projection
from .projection import Layers, wide

LARGEST_COSINE = math.sqrt(0.75)  # |cos| up to which g_perp is at least half as long as g_f: one pass is enough
STRETCH = 1 << 18  # elements whose products are held at a time, so that they stay in the cache
SMALL = 1 << 20  # elements up to which the careful way takes no time that a step would notice
# squared norms whose sums neither overflow nor lose elements that matter
SQUARES = {torch.float64: (1e-200, 1e200), torch.float32: (1e-20, 1e30)}


@projection.takes(**projection.projected.rules)
def projected(
    forget_grads,
    retain_grads,
    layers,
    alpha=1.0,
    rescale="undo",
    normalization="exact",
    epsilon=1e-8,
    overwrite=False,
    small=SMALL,
):
    """`projection.projected`, faster on a CPU: layers that are not ordinary go through that function.

    overwrite: write the result over forget_grads, which saves fresh memory and the time that it takes to get it;
    small: networks of up to so many elements go through that function as a whole, as do other devices and the additive
    epsilon: reading products off would wait for the device.
    All other arguments, result and errors are that function's.
    """
    if not _worthwhile(forget_grads, small) or normalization != "exact":
        options = alpha, rescale, normalization, epsilon
        return projection.projected(forget_grads, retain_grads, layers, *options)
    g_f, g_r = wide(forget_grads), wide(retain_grads)
    ids = layers.ids.tolist()
    ff, rr, fr = _products(g_f, g_r, ids, layers.count)
    ordinary = [_ordinary(*products, g_f[0].dtype) for products in zip(ff, rr, fr)]
    result = [None] * len(g_f)
    for i, layer in enumerate(ids):
        if ordinary[layer]:
            along = fr[layer] / rr[layer]
            target = g_f[i] if overwrite else torch.empty_like(g_f[i])
            result[i] = torch.sub(g_f[i], g_r[i], alpha=alpha * along, out=target)
            if rescale == "match":
                result[i].mul_(math.sqrt(ff[layer] / (ff[layer] - alpha * (2 - alpha) * along * fr[layer])))
    rest = [i for i, layer in enumerate(ids) if not ordinary[layer]]
    if rest:
        parts = [g_f[i] for i in rest], [g_r[i] for i in rest]
        careful = projection.projected(*parts, Layers([ids[i] for i in rest], parts[0]), alpha, rescale)
        for i, g in zip(rest, careful):
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
    result, rest = torch.empty(layers.count, 3, dtype=torch.float64), []
    for layer, (aa, bb, ab) in enumerate(zip(*_products(first, second, ids, layers.count))):
        if _summable(aa, bb, first[0].dtype):
            a, b = math.sqrt(aa), math.sqrt(bb)
            result[layer] = torch.tensor([ab / (a * b), a, b], dtype=torch.float64)
        else:
            rest.append(layer)
    if rest:
        chosen = set(rest)
        at = [i for i, layer in enumerate(ids) if layer in chosen]
        parts = [first[i] for i in at], [second[i] for i in at]
        found = _careful_cosines_and_norms(*parts, Layers([ids[i] for i in at], parts[0]))
        result[rest] = found.T.to(result)  # layers are numbered in order of first appearance, here and in the part
    return result.T


def _careful_cosines_and_norms(first, second, layers):
    norms = [layers.norms(grads) for grads in (first, second)]
    cosines = layers.dots(*map(layers.unit, (first, second), norms))
    return torch.stack([cosines, *norms])


def _products(first, second, ids, count):
    """|first|^2, |second|^2 and <first, second> of each layer: three lists of `count` floats."""
    sums, owners = [], []
    for layer, a, b in zip(ids, first, second):
        large = a.numel() > STRETCH
        for x, y in zip(*(g.split(STRETCH) for g in _flat(a, b))) if large else ((a, b),):
            # PyTorch sums pairwise: exact on large tensors too, as its norms and inner products are not
            sums += [(x * x).sum(), (y * y).sum(), (x * y).sum()]
            owners.append(layer)
    values = torch.stack(sums).double().view(-1, 3)
    return values.new_zeros(count, 3).index_add_(0, torch.tensor(owners), values).T.tolist()


def _flat(first, second):
    """Both as vectors with elements in the order of the first's memory: where both have that, no copy is made."""
    axes = sorted(range(first.ndim), key=first.stride, reverse=True)  # channels-last, for instance
    return first.permute(axes).reshape(-1), second.permute(axes).reshape(-1)


def _worthwhile(grads, small):
    return sum(g.numel() for g in grads) > small and grads[0].device.type == "cpu"


def _summable(ff, rr, dtype):
    low, high = SQUARES[dtype]
    return low < ff < high and low < rr < high


def _ordinary(ff, rr, fr, dtype):
    return _summable(ff, rr, dtype) and fr * fr < LARGEST_COSINE**2 * ff * rr
