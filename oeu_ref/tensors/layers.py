"""Lists of tensors as vectors, layer by layer: sums, norms and scalings that neither overflow nor wait for the device.

Arithmetic over elements goes through PyTorch's multi-tensor operations (`torch._foreach_*`); sums over a layer are one
small tensor with an entry a layer.
"""

import math

import torch

from .. import arrays
from ..boundary import GRANULARITY, LayerIds, taking
from ..reference.projection import layer_numbers

takes = taking(torch)
PIECE = 1 << 15  # elements whose squares PyTorch's norm may add up in order


def wide(x):
    """The same tensor, or list of tensors, float16 and bfloat16 as float32: sums over a layer need the digits."""
    if isinstance(x, (list, tuple)):
        return [wide(tensor) for tensor in x]
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def paired(name, value, library, other, other_name, check_finite=True):
    """Return `arrays.gradients` of one dtype, halves once widened, and device with the other list's, or raise."""
    value = arrays.gradients(name, value, library, other, other_name, check_finite)
    for what, error, found in (
        ("have one dtype", TypeError, {wide(t.new_empty(0)).dtype for t in [*other, *value]}),
        ("be on one device", ValueError, {t.device for t in [*other, *value]}),
    ):
        if len(found) > 1:
            raise error(f"{other_name} and {name} must {what}, got {' and '.join(sorted(map(str, found)))}")
    return value


class Layers:
    """Which tensors form a layer, and sums, norms and scalings by layer. All layer values have shape (L,).

    layer_ids: P labels or None, as in `project`; tensors: the P tensors, for their number, device and dtype.
    names: what to call the L layers, their labels in order of first appearance.
    """

    @takes(layer_ids=LayerIds("tensors"), granularity=GRANULARITY)
    def __init__(self, layer_ids, tensors, granularity="layer"):
        labels = range(len(tensors)) if layer_ids is None else layer_ids
        self.names = ["global"] if granularity == "global" else list(dict.fromkeys(labels))
        ids = layer_numbers(layer_ids, len(tensors), granularity)
        self.count = max(ids) + 1
        self.ids = torch.tensor(ids, device=tensors[0].device)

    def dots(self, first, second):
        """Inner product of two lists of tensors for each layer: (L,)."""
        sums = _sums(torch._foreach_mul(first, second))
        return sums.new_zeros(self.count).index_add_(0, self.ids, sums)

    def sizes(self, tensors):
        """Power of two of each layer, (L,), by which its largest magnitude lies in [1, 2); 1 for a layer of zeros."""
        values = torch.stack(torch._foreach_norm([t if t.numel() else t.new_zeros(1) for t in tensors], math.inf))
        largest = values.new_zeros(self.count).scatter_reduce_(0, self.ids, values, "amax")
        largest = torch.where(largest == 0, 1.0, largest)
        return largest / (2 * torch.frexp(largest).mantissa)

    def plain_norms(self, tensors):
        """Euclidean norm of each layer, (L,), for magnitudes near 1, whose squares neither overflow nor vanish."""
        squares = _squares(tensors)
        return squares.new_zeros(self.count).index_add_(0, self.ids, squares).sqrt()

    def norms(self, tensors):
        """Euclidean norm of each layer, (L,), without overflow or underflow on the way."""
        sizes = self.sizes(tensors)
        return sizes * self.plain_norms(self.divided(tensors, sizes))

    def unit(self, tensors, norms=None):
        """Tensors divided by their layer's norm, also one beyond the largest number; a layer of zeros stays zero.

        norms: (L,), None: measured here.
        """
        if norms is None:
            tensors = self.divided(tensors, self.sizes(tensors))
            norms = self.plain_norms(tensors)
        return self.divided(tensors, torch.where(norms == 0, 1.0, norms))

    def scaled(self, tensors, factors):
        """Tensors times their layer's factor; factors: (L,)."""
        return torch._foreach_mul(tensors, list(factors[self.ids].unbind()))

    def divided(self, tensors, divisors):
        """Tensors divided by their layer's divisor, whose reciprocal may overflow; divisors: (L,)."""
        return torch._foreach_div(tensors, list(divisors[self.ids].unbind()))


def _sums(products):
    """Sum of each tensor, (P,); overwrites them."""
    # On a CPU one after the other, pairwise and so more exact than torch.dot. A GPU would wait for so many launches.
    return torch.stack([p.sum() for p in products]) if products[0].device.type == "cpu" else _sums_at_once(products)


def _sums_at_once(products):
    # PyTorch has no multi-tensor sum, but the 1-norm of the positive and of the negative elements
    positive = torch.stack(torch._foreach_norm(torch._foreach_clamp_min(products, 0), 1))
    torch._foreach_clamp_max_(products, 0)
    return positive - torch.stack(torch._foreach_norm(products, 1))


def _squares(tensors):
    """Squared Euclidean norm of each tensor, (P,)."""
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors)).square()
    # On a CPU these norms add up in order, which is wrong by 1e-3 and more for ten million elements: pieces of them do.
    pieces = [t.reshape(-1).split(PIECE) if t.numel() > PIECE else (t,) for t in tensors]
    squares = torch.stack(torch._foreach_norm([piece for part in pieces for piece in part])).square()
    if len(squares) == len(tensors):
        return squares
    return torch.stack([part.sum() for part in squares.split([len(part) for part in pieces])])
