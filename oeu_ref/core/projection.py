"""Gradient orthogonal projection (GOP) in PyTorch, on lists of tensors. Twin of `oeu_ref/reference/projection.py`.

Notation of arXiv 2602.00567: g_f forget gradient, g_r retain gradient, hats for unit vectors, alpha the strength.
All arithmetic over elements goes through PyTorch's multi-tensor operations (`torch._foreach_*`), by layer through
`oeu_ref.tensors.layers.Layers`.
"""

import torch

from ..boundary import BETA, GRANULARITY, Gradients, LayerIds, Rule, of, taking
from ..reference.projection import OPTIONS
from ..tensors import Layers, paired, wide

takes = taking(torch)

# Below this ratio |g_perp| / |g_f| what is left of g_f is rounding noise: ~4,500 eps of float64, ~8 eps of float32.
COLLINEAR = {torch.float64: 1e-12, torch.float32: 1e-6}


@takes(
    forget_grads=Gradients(),
    retain_grads=Rule(paired, of("forget_grads"), "forget_grads"),
    **OPTIONS,
    granularity=GRANULARITY,
    layer_ids=LayerIds("forget_grads"),
)
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
    one dtype and device; float16 and bfloat16 are computed in float32.  All other arguments, what is returned (P new
    tensors, dtypes of forget_grads) and raised, source: as in the reference's `project`.
    """
    layers = Layers(layer_ids, forget_grads, granularity)
    return projected.unchecked(forget_grads, retain_grads, layers, alpha, rescale, normalization, epsilon)


@takes(**OPTIONS)
def projected(forget_grads, retain_grads, layers, alpha=1.0, rescale="undo", normalization="exact", epsilon=1e-8):
    """`project` without the checks of tensors, which wait for the device; layers: a `Layers` of the same tensors."""
    epsilon = epsilon if normalization == "additive" else 0.0
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


@takes(project, beta=BETA)
def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo", **options):
    """Direction of the OEU step, d = g_r + beta g_perp, which an optimizer then follows downhill.

    beta: finite, >= 0, weight of the projected forget gradient; all else, `options` included, as in `project`.
    Returns a list of P new tensors.  Raises as `project`, and for a beta below 0.
    """
    g_perp = project(forget_grads, retain_grads, alpha, granularity, rescale, **options)
    return list(torch._foreach_add(list(retain_grads), g_perp, alpha=beta))


@takes(
    first_grads=Gradients(check_finite=False),
    second_grads=Rule(paired, of("first_grads"), "first_grads", check_finite=False),
    granularity=GRANULARITY,
    layer_ids=LayerIds("first_grads"),
)
def cosines(first_grads, second_grads, granularity="layer", layer_ids=None):
    """Cosine of the angle between two gradients, layer by layer.

    first_grads, second_grads, granularity, layer_ids, errors: as in `project`, but for NaN where one is not finite.
    Returns (L,) in [-1, 1], a layer each in order of first appearance (L = 1 for "global"); 0 where either is zero.
    """
    layers = Layers(layer_ids, first_grads, granularity)
    return layers.dots(layers.unit(wide(first_grads)), layers.unit(wide(second_grads))).clamp(-1.0, 1.0)
