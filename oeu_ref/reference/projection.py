"""Gradient orthogonal projection (GOP): what of the forget gradient leaves the retain loss alone, to first order.

Notation of arXiv 2602.00567: g_f forget gradient, g_r retain gradient, hats for unit vectors, alpha the strength.
Orthogonal projection for unlearning was there before: Projected Gradient Unlearning (WACV 2024); layer by layer, for
gradients in conflict, SAGO (arXiv 2604.14808).

Gradients are lists of P arrays, float, finite, of any shape, 0-d included; two lists have equal shapes pairwise.
What is none of these, or no option that is known, raises TypeError or ValueError, naming the argument.
"""

import numpy as np

from ..boundary import ALPHA, BETA, GRANULARITY, NORMALIZATION, RESCALE, Gradients, LayerIds, Positive, taking

takes = taking(np)
OPTIONS = {"alpha": ALPHA, "rescale": RESCALE, "normalization": NORMALIZATION, "epsilon": Positive()}

# Below this ratio |g_perp| / |g_f| what is left of g_f is rounding noise: ~4,500 eps of float64.
COLLINEAR = 1e-12


@takes(
    forget_grads=Gradients(),
    retain_grads=Gradients("forget_grads"),
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

    alpha in [0, 1]: share of the retain direction that is removed.
    granularity: "layer" (each layer is a vector of its own) or "global" (all layers are one vector).
    rescale: "undo" multiplies the projected unit gradient by |g_f|; "match" gives the result the norm |g_f|.
    normalization: "exact" (g / |g|, orthogonal to rounding) or "additive" (g / (|g| + epsilon): the summary of the
    paper that this was built from names an epsilon, not where it stands).
    layer_ids: P labels, equal for tensors that form one layer; None: each tensor is a layer.
    Returns a list of P new float64 arrays. Where g_r = 0 it is g_f; where g_f = 0, or both are collinear, it is 0.
    Source: the gradient orthogonal projection of arXiv 2602.00567, Theorems 4.3 and 4.4.
    """
    projected = [None] * len(forget_grads)
    for members, g_f, g_r in by_layer((forget_grads, retain_grads), granularity, layer_ids):
        if normalization == "exact":
            g_perp = project_vector(g_f, g_r, alpha, rescale)
        else:
            g_perp = _project_additive(g_f, g_r, alpha, rescale, epsilon)
        ends = np.cumsum([forget_grads[i].size for i in members])
        for i, part in zip(members, np.split(g_perp, ends[:-1])):
            projected[i] = part.reshape(forget_grads[i].shape).copy()
    return projected


def project_vector(g_f, g_r, alpha=1.0, rescale="undo"):
    """Projection of one layer: g_f - alpha <g_f, g_r/|g_r|> g_r/|g_r|, then rescaled.

    g_f, g_r: (D,) float64; alpha in [0, 1]; rescale "undo" or "match".  Returns (D,); raises nothing: see `project`.
    Source: arXiv 2602.00567 normalizes both gradients and multiplies by |g_f| at the end; for g_f the two cancel.
    """
    unit_r, _ = unit(g_r)  # zero for a zero g_r, which then takes nothing out of g_f
    g_f, size = _near_one(g_f)  # in a unit in which no sum overflows
    along = g_f @ unit_r
    g_perp = g_f - alpha * along * unit_r
    # Second pass. The first leaves a share of about eps |g_f| of the retain direction behind, which is nothing next to
    # g_f but not next to g_perp when the gradients are nearly parallel; what is left too much is measured and removed.
    g_perp -= (g_perp @ unit_r - (1 - alpha) * along) * unit_r
    return size * _rescaled(g_perp, norm(g_f), rescale)


def _near_one(g):
    """(g / size, size): size a power of two, so that no bit is lost, by which the largest magnitude is in [1, 2)."""
    size = 2.0 ** (np.frexp(np.abs(g).max(initial=0.0) or 1.0)[1] - 1)
    return g / size, size


def _project_additive(g_f, g_r, alpha, rescale, epsilon):
    """One layer with an epsilon beside each norm: not quite orthogonal, by about 2 epsilon / |g_r| of g_f."""
    (g_f, size_f), (g_r, size_r) = _near_one(g_f), _near_one(g_r)
    norm_f = norm(g_f)
    unit_f, unit_r = g_f / (norm_f + epsilon / size_f), g_r / (norm(g_r) + epsilon / size_r)
    return size_f * _rescaled((unit_f - alpha * (unit_f @ unit_r) * unit_r) * norm_f, norm_f, rescale)


def _rescaled(g_perp, norm_f, rescale):
    norm_perp = norm(g_perp)
    if norm_perp <= COLLINEAR * norm_f:
        return np.zeros_like(g_perp)
    return g_perp * (norm_f / norm_perp) if rescale == "match" else g_perp


@takes(project, beta=BETA)
def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo", **options):
    """Direction of the OEU step, d = g_r + beta g_perp, which an optimizer then follows downhill.

    beta: finite, >= 0, weight of the projected forget gradient; all else, `options` included, as in `project`.
    Returns a list of P new float64 arrays.
    Source: the OEU update of arXiv 2602.00567.
    """
    projected = project(forget_grads, retain_grads, alpha, granularity, rescale, **options)
    # asarray: NumPy turns a sum of 0-d arrays into a scalar
    return [np.asarray(g_r + beta * g_perp) for g_r, g_perp in zip(retain_grads, projected)]


@takes(
    first_grads=Gradients(),
    second_grads=Gradients("first_grads"),
    granularity=GRANULARITY,
    layer_ids=LayerIds("first_grads"),
)
def cosines(first_grads, second_grads, granularity="layer", layer_ids=None):
    """Cosine of the angle between two gradients, layer by layer.

    granularity, layer_ids: as in `project`.
    Returns (L,) float64 in [-1, 1], a layer each in order of first appearance (L = 1 for "global"); 0 where either
    gradient is zero.  Source: cos(phi) of Theorem 4.4 of arXiv 2602.00567.
    """
    vectors = by_layer((first_grads, second_grads), granularity, layer_ids)
    return np.array([np.clip(unit(a)[0] @ unit(b)[0], -1.0, 1.0) for _, a, b in vectors])


def by_layer(lists, granularity, layer_ids):
    """Of each layer, as in `project`: places of its tensors, and of each list of P arrays these as a vector, (D,)."""
    ids = layer_numbers(layer_ids, len(lists[0]), granularity)
    for layer in range(max(ids) + 1):
        members = [i for i, owner in enumerate(ids) if owner == layer]
        yield members, *(np.concatenate([grads[i].ravel() for i in members]) for grads in lists)


def layer_numbers(layer_ids, count, granularity):
    """Number of the layer that each of `count` tensors belongs to, in order of first appearance: a list of ints.

    layer_ids, granularity: as in `project`; "global" makes one layer of all tensors, whatever the labels.
    """
    if granularity == "global":
        return [0] * count
    labels = range(count) if layer_ids is None else layer_ids
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def unit(g):
    """Unit vector of g and its norm, without overflow or underflow on the way.

    g: (D,) float64.  Returns (g / |g|, |g|), both zero for a zero g.
    """
    largest = np.abs(g).max(initial=0.0)
    if largest == 0:
        return np.zeros_like(g), 0.0
    scaled = g / largest
    length = np.sqrt(scaled @ scaled)
    return scaled / length, float(largest * length)


def norm(g):
    """Euclidean norm of g, (D,) float64, as a float, without overflow or underflow on the way."""
    return unit(g)[1]
