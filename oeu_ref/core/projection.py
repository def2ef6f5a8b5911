"""Gradient orthogonal projection (GOP) in PyTorch, on lists of tensors. Twin of `oeu_ref/reference/projection.py`.

Notation of arXiv 2602.00567: g_f forget gradient, g_r retain gradient, hats for unit vectors, alpha the strength.
All arithmetic over elements goes through PyTorch's multi-tensor operations (`torch._foreach_*`); sums over a layer are
one small tensor with an entry a tensor.
"""

import math

import torch

from .. import boundary
from ._checks import finite, floating

# Below this ratio |g_perp| / |g_f| what is left of g_f is rounding noise: ~4,500 eps of float64, ~8 eps of float32.
COLLINEAR = {torch.float64: 1e-12, torch.float32: 1e-6}
PIECE = 1 << 15  # elements whose squares PyTorch's norm may add up in order


def project(
    forget_grads,
    retain_grads,
    alpha=1.0,
    granularity="layer",
    rescale="undo",
    normalization="exact",
    epsilon=1e-8,
    layer_ids=None,
):
    """Take the retain direction out of the forget gradient, layer by layer or once for all layers together.

    forget_grads, retain_grads: two lists of P float tensors, finite, equal shapes pairwise (any shape, 0-d included),
    one dtype and device; float16 and bfloat16 are computed in float32.
    alpha in [0, 1]: share of the retain direction that is removed.
    granularity: "layer" (each layer is a vector of its own) or "global" (all layers are one vector).
    rescale: "undo" multiplies the projected unit gradient by |g_f|; "match" gives the result the norm |g_f|.
    normalization: "exact" (g / |g|, orthogonal to rounding) or "additive" (g / (|g| + epsilon): the
    summary of the paper that this was built from names an epsilon, not where it stands).
    layer_ids: P labels, equal for tensors that form one layer; None: each tensor is a layer.
    Returns a list of P new tensors, dtypes of forget_grads. Where g_r = 0 it is g_f; where g_f = 0, or both are
    collinear, it is 0.
    Raises TypeError or ValueError, naming the argument, for lists or shapes that do not match, tensors that are not
    float or not finite, alpha outside [0, 1], epsilon <= 0, or an unknown word.
    Source: the gradient orthogonal projection of arXiv 2602.00567, Theorems 4.3 and 4.4.
    """
    check_gradients("forget_grads", forget_grads, "retain_grads", retain_grads)
    _check_alike("forget_grads and retain_grads", [*forget_grads, *retain_grads])
    for i, (g_f, g_r) in enumerate(zip(forget_grads, retain_grads)):
        finite(f"forget_grads[{i}]", g_f), finite(f"retain_grads[{i}]", g_r)
    layers = Layers(layer_ids, forget_grads, granularity)
    return projected(forget_grads, retain_grads, layers, alpha, rescale, normalization, epsilon)


def projected(forget_grads, retain_grads, layers, alpha=1.0, rescale="undo", normalization="exact", epsilon=1e-8):
    """`project` without the checks of tensors, which wait for the device; layers: a `Layers` of the same tensors."""
    alpha = boundary.alpha(alpha)
    boundary.one_of("rescale", rescale, boundary.RESCALES)
    boundary.one_of("normalization", normalization, boundary.NORMALIZATIONS)
    epsilon = boundary.positive("epsilon", epsilon) if normalization == "additive" else 0.0
    g_f, unit_r = wide(forget_grads), wide(retain_grads)
    # in units in which no product or sum overflows: powers of two, so that not a bit of an ordinary gradient is lost
    size_f = layers.sizes(g_f)
    g_f = layers.divided(g_f, size_f)
    norm_f = layers.plain_norms(g_f)
    if epsilon:
        # an epsilon beside each norm: not quite orthogonal, by about 2 epsilon / |g_r| of g_f
        g_f = layers.scaled(g_f, norm_f / (norm_f + epsilon / size_f))
        size_r = layers.sizes(unit_r)
        unit_r = layers.divided(unit_r, size_r)
        unit_r = layers.divided(unit_r, layers.plain_norms(unit_r) + epsilon / size_r)
    else:
        unit_r = layers.unit(unit_r)  # zero for a zero g_r, which then takes nothing out of g_f
    along = layers.dots(g_f, unit_r)
    g_perp = torch._foreach_sub(g_f, layers.scaled(unit_r, alpha * along))
    if not epsilon:
        # Second pass. The first leaves a share of about eps |g_f| of the retain direction behind, which is nothing next
        # to g_f but not next to g_perp when the gradients are nearly parallel; what is left too much is removed.
        left = layers.dots(g_perp, unit_r) - (1 - alpha) * along
        torch._foreach_sub_(g_perp, layers.scaled(unit_r, left))
    norm_perp = layers.plain_norms(g_perp)
    collinear = norm_perp <= COLLINEAR[norm_perp.dtype] * norm_f
    if rescale == "match":
        g_perp = layers.scaled(g_perp, torch.where(collinear, 0.0, norm_f / norm_perp))
    g_perp = layers.scaled(g_perp, torch.where(collinear, 0.0, size_f))
    return [g.to(like.dtype) for g, like in zip(g_perp, forget_grads)]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo", **options):
    """Direction of the OEU step, d = g_r + beta g_perp, which an optimizer then follows downhill.

    beta: finite, >= 0, weight of the projected forget gradient; all else, `options` included, as in `project`.
    Returns a list of P new tensors.  Raises as `project`, and for a beta below 0.
    Source: the OEU update of arXiv 2602.00567.
    """
    beta = boundary.beta(beta)
    g_perp = project(forget_grads, retain_grads, alpha, granularity, rescale, **options)
    return torch._foreach_add(list(retain_grads), g_perp, alpha=beta)


def cosines(first_grads, second_grads, granularity="layer", layer_ids=None):
    """Cosine of the angle between two gradients, layer by layer.

    first_grads, second_grads, granularity, layer_ids as in `project`.
    Returns (L,) in [-1, 1], a layer each in order of first appearance (L = 1 for "global"); 0 where either gradient is
    zero.  Raises as `project`.  Source: cos(phi) of Theorem 4.4 of arXiv 2602.00567.
    """
    check_gradients("first_grads", first_grads, "second_grads", second_grads)
    _check_alike("first_grads and second_grads", [*first_grads, *second_grads])
    layers = Layers(layer_ids, first_grads, granularity)
    return layers.dots(layers.unit(wide(first_grads)), layers.unit(wide(second_grads))).clamp(-1.0, 1.0)


class Layers:
    """Which tensors form a layer, and sums, norms and scalings by layer. All layer values have shape (L,).

    layer_ids: P labels or None, as in `project`; tensors: the P tensors, for their number, device and dtype.
    names: what to call the L layers, their labels in order of first appearance.
    """

    def __init__(self, layer_ids, tensors, granularity="layer"):
        ids = boundary.layer_ids(layer_ids, len(tensors), granularity)
        labels = range(len(tensors)) if layer_ids is None else layer_ids
        self.names = ["global"] if granularity == "global" else list(dict.fromkeys(labels))
        self.count = max(ids) + 1
        self.ids = torch.tensor(ids, device=tensors[0].device)

    def dots(self, first, second):
        """Inner product of two lists of tensors for each layer: (L,)."""
        # PyTorch has no multi-tensor sum; a sum of products is pairwise and so more exact than torch.dot
        sums = torch.stack([product.sum() for product in torch._foreach_mul(first, second)])
        return sums.new_zeros(self.count).index_add_(0, self.ids, sums)

    def largest(self, tensors):
        """Largest magnitude of each layer: (L,), 1 for a layer of zeros."""
        values = torch.stack(torch._foreach_norm([t if t.numel() else t.new_zeros(1) for t in tensors], math.inf))
        largest = values.new_zeros(self.count).scatter_reduce_(0, self.ids, values, "amax")
        return torch.where(largest == 0, 1.0, largest)

    def sizes(self, tensors):
        """Power of two of each layer, (L,), by which its largest magnitude lies in [1, 2); 1 for a layer of zeros."""
        largest = self.largest(tensors)
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


def wide(grads):
    """The same tensors, float16 and bfloat16 ones as float32: sums over a layer need the digits."""
    return [g.float() if g.dtype in (torch.float16, torch.bfloat16) else g for g in grads]


def _check_alike(names, tensors):
    """Raise TypeError unless all tensors have one dtype, once halves are widened, and ValueError for two devices."""
    kinds = {t.dtype for t in wide([t.new_empty(0) for t in tensors])}
    if len(kinds) > 1:
        raise TypeError(f"{names} must have one dtype, got {' and '.join(sorted(map(str, kinds)))}")
    if len(devices := {t.device for t in tensors}) > 1:
        raise ValueError(f"{names} must be on one device, got {' and '.join(sorted(map(str, devices)))}")


def check_gradients(first_name, first, second_name, second):
    """Raise TypeError or ValueError unless both are lists of float tensors with equal shapes pairwise; never waits."""
    if not isinstance(first, (list, tuple)) or not isinstance(second, (list, tuple)):
        raise TypeError(
            f"{first_name} and {second_name} must be lists of tensors, "
            f"got {type(first).__name__} and {type(second).__name__}"
        )
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{first_name} and {second_name} must be lists of the same length, at least 1, "
            f"got {len(first)} and {len(second)}"
        )
    for i, (a, b) in enumerate(zip(first, second)):
        floating(f"{first_name}[{i}]", a), floating(f"{second_name}[{i}]", b)
        if a.shape != b.shape:
            raise ValueError(
                f"{second_name}[{i}] must have the shape of {first_name}[{i}], {tuple(a.shape)}, got {tuple(b.shape)}"
            )
