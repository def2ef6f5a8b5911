"""Large tensors on a CPU, a stretch at a time, so that what lies between operations stays in the cache.

Memory is what large tensors wait for: as Linux comes, pages given back and got anew cost more than all arithmetic.
"""

import torch

STRETCH = 1 << 18  # elements of a stretch


def stretches(*tensors):
    """Tensors of one shape as vectors with elements in the order of the first's memory, cut into stretches.

    Yields a tuple for each stretch; where all have that order, no copy is made.
    """
    axes = _axes(tensors[0])
    return zip(*(t.permute(axes).reshape(-1).split(STRETCH) for t in tensors))


def products(first, second, ids, count):
    """|first|^2, |second|^2 and <first, second> of each layer: (3, count), float64.

    first, second: lists of tensors of pairwise the same shape; ids: the number of each one's layer, below count.
    """
    sums, owners = [], []
    held = first[0].new_empty(STRETCH)
    for layer, a, b in zip(ids, first, second):
        large = a.numel() > STRETCH
        for x, y in stretches(a, b) if large else [(a, b)]:
            z = held[: len(x)] if large else None
            # PyTorch sums pairwise: exact on large tensors too, as its norms and inner products are not
            for p, q in ((x, x), (y, y), (x, y)):
                sums.append(torch.mul(p, q, out=z).sum())
            owners.append(layer)
    values = torch.stack(sums).double().view(-1, 3)
    return values.new_zeros(count, 3).index_add_(0, torch.tensor(owners), values).T


def _axes(x):
    return sorted(range(x.ndim), key=x.stride, reverse=True)  # channels-last, for instance
