"""Projection off a subspace: what of the forget gradient leaves the loss on m retain batches alone, to first order.

One mini-batch's retain gradient is a noisy sample of the retain set's. Orthogonality to the last m of them, newest
last, asks for more. For m = 1 this is `projection.project`.

Notation as there; B: orthonormal basis of the span of a layer's m retain gradients, one column a direction.
"""

import numpy as np

from .. import arrays, boundary
from ..boundary import Gradients, LayerIds, Rule, of
from ..reference.projection import COLLINEAR, by_layer, norm, takes, unit


def _history(name, value, library, forget_grads):
    """Return a list of at least one list of arrays, each as forget_grads; raise TypeError or ValueError otherwise."""
    boundary.instance(name, value, (list, tuple), "list of lists of arrays")
    if not value:
        raise ValueError(f"{name} must hold at least one retain gradient, got none")
    grads = enumerate(value)
    return [arrays.gradients(f"{name}[{j}]", g, library, forget_grads, "forget_grads") for j, g in grads]


SUBSPACE = {
    "forget_grads": Gradients(),
    "retain_history": Rule(_history, of("forget_grads")),
    "alpha": boundary.ALPHA,
    "rescale": boundary.RESCALE,
    "granularity": boundary.GRANULARITY,
    "layer_ids": LayerIds("forget_grads"),
}


@takes(**SUBSPACE)
def project_subspace(forget_grads, retain_history, alpha=1.0, granularity="layer", rescale="undo", layer_ids=None):
    """Take the span of m retain gradients out of the forget gradient: g_perp = g_f - alpha B B^T g_f for each layer.

    forget_grads: list of P float arrays, finite, any shapes; retain_history: list of m >= 1 such lists with the shapes
    of forget_grads, oldest first (the result does not depend on their order, nor on their lengths).
    alpha, granularity, rescale, layer_ids: as in `projection.project`.
    Returns a list of P new float64 arrays. Zero gradients in the history take nothing out. Where g_f = 0, or lies in
    the span up to rounding, the result is 0: so in every layer that has no more elements than the history has
    directions.
    With alpha = 1 the cosine of g_perp with each of the m gradients is rounding, or at most COLLINEAR sqrt(m) where
    `basis` took what tells that gradient from the others for rounding.
    Raises TypeError or ValueError as `projection.project`, and for an empty history.
    Source: ours; the gradient orthogonal projection of arXiv 2602.00567 with a subspace in place of a line.
    """
    projected = [None] * len(forget_grads)
    for members, g_f, *layer_history in by_layer((forget_grads, *retain_history), granularity, layer_ids):
        # gradients of any length weigh the same: what counts is where they point
        columns = np.stack([unit(g_r)[0] for g_r in layer_history], axis=1)
        g_perp = _project_off(g_f, basis(columns), alpha, rescale)
        ends = np.cumsum([forget_grads[i].size for i in members])
        for i, part in zip(members, np.split(g_perp, ends[:-1])):
            projected[i] = part.reshape(forget_grads[i].shape).copy()
    return projected


def basis(columns, tolerance=COLLINEAR):
    """Orthonormal basis of the span of columns; what is noise in them spans nothing.

    columns: (D, m) float64, each of length 1 or zero; tolerance: share of the largest singular value up to which a
    direction counts as rounding noise.
    Returns (D, rank) with orthonormal columns, rank <= min(D, m); (D, 0) for columns of zeros.
    Source: Golub and Van Loan, Matrix Computations, section 5.4 (rank from the singular values, by QR first).
    """
    # Why QR and then the singular values of R. The eigenvectors of the Gram matrix would square the condition number:
    # two gradients at an angle of 1e-9 would count as one. Gram-Schmidt decides gradient by gradient what is new, so
    # that near the tolerance the rank would depend on their order; singular values do not.
    q, r = np.linalg.qr(columns)
    directions, sizes, _ = np.linalg.svd(r, full_matrices=False)
    # Signal or noise? Along a direction of singular value s no column has more than s, so that dropping it leaves a
    # cosine of at most s with any of them; and rounding alone, of batches that repeat or of sums, gives values of a few
    # eps times the largest. The tolerance is `project`'s for the same question: ~4,500 eps, harmless if left, noise if
    # kept. A noise direction is a random one: it would take a part out of g_f that no retain gradient asked for.
    return q @ directions[:, sizes > tolerance * sizes.max(initial=0.0)]


def _project_off(g_f, directions, alpha, rescale):
    """g_f - alpha B B^T g_f, then rescaled; g_f: (D,), directions B: (D, rank) orthonormal."""
    along = directions.T @ g_f
    g_perp = g_f - directions @ (alpha * along)
    # second pass, as in `project`: where g_f lies almost in the span, the first pass leaves rounding that is much next
    # to a short g_perp
    g_perp -= directions @ (directions.T @ g_perp - (1 - alpha) * along)
    norm_f, norm_perp = norm(g_f), norm(g_perp)
    if norm_perp <= COLLINEAR * norm_f:
        return np.zeros_like(g_perp)
    return g_perp * (norm_f / norm_perp) if rescale == "match" else g_perp
