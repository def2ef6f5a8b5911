"""Projection off a subspace in PyTorch, and the memory that it needs. Twin of `oeu_ref/beyond/subspace_reference.py`.

For m = 1 this is `projection.project`. Notation as there; B: orthonormal basis of the span of a layer's m retain
gradients, one column a direction.
"""

from collections import deque

import torch

from .. import boundary
from ..core.projection import COLLINEAR, takes
from ..core.unlearner import OEU
from ..tensors import Layers, wide
from .subspace_reference import SUBSPACE


@takes(**SUBSPACE)
def project_subspace(forget_grads, retain_history, alpha=1.0, granularity="layer", rescale="undo", layer_ids=None):
    """Take the span of m retain gradients out of the forget gradient: g_perp = g_f - alpha B B^T g_f for each layer.

    forget_grads: list of P float tensors, finite, any shapes, one dtype and device; retain_history: list of m >= 1 such
    lists with the shapes of forget_grads.  All dtypes are computed in float64.
    Returns a list of P new tensors, dtypes of forget_grads.  All else, errors and source: as the reference's.
    """
    return projected.unchecked(
        forget_grads, retain_history, Layers(layer_ids, forget_grads, granularity), alpha, rescale
    )


@takes(alpha=boundary.ALPHA, rescale=boundary.RESCALE)
def projected(forget_grads, retain_history, layers, alpha=1.0, rescale="undo"):
    """`project_subspace` without the checks of tensors; layers: a `Layers` of the same tensors.

    Time: about 4 D m^2 multiplications and as many additions for a layer of D elements, and a singular value
    decomposition of m x m for each layer. Memory on the way: 3 m copies of the largest layer in float64.
    """
    collinear = COLLINEAR[wide(forget_grads[:1])[0].dtype]
    ids, result = layers.ids.tolist(), [None] * len(forget_grads)
    for layer in range(layers.count):
        members = [i for i, owner in enumerate(ids) if owner == layer]
        # float64 throughout: a QR of ten million rows in float32 has columns that are 1e-3 off orthonormal
        g_f, *history = (
            _float64(torch.cat([grads[i].reshape(-1) for i in members])) for grads in (forget_grads, *retain_history)
        )
        # gradients of any length weigh the same: what counts is where they point
        columns = torch.stack(Layers(None, history).unit(history)).T
        g_perp = _project_off(g_f, basis(columns, collinear), alpha, rescale, collinear)
        parts = g_perp.split([forget_grads[i].numel() for i in members])
        for i, part in zip(members, parts):
            # cloned: a layer's tensors must not share memory, and float64 ones would
            result[i] = part.reshape(forget_grads[i].shape).to(forget_grads[i], copy=True)
    return result


def _float64(values):
    """The same numbers in float64, on the CPU where the device may be one that has no such numbers."""
    return (values if values.is_cuda else values.cpu()).double()


def basis(columns, tolerance=COLLINEAR[torch.float64]):
    """Orthonormal basis of the span of columns; what is noise in them spans nothing.

    columns: (D, m) float64, each of length 1 or zero; tolerance: as the reference's, that of the dtype in which the
    gradients came.  Returns (D, min(D, m)): rank orthonormal columns, and columns of zeros where the rank is lower.
    Source: as the reference's.
    """
    # why QR and then the singular values of R, and what is noise: see the reference
    q, r = torch.linalg.qr(columns)
    # a gradient that is not finite must not stop here: the step's report names the layer and the loss
    directions, sizes, _ = torch.linalg.svd(r.nan_to_num(), full_matrices=False)
    # sizes fall, the first is the largest; columns are zeroed, not cut out: their number would wait for the device
    return q @ (directions * (sizes > tolerance * sizes[:1]))


def _project_off(g_f, directions, alpha, rescale, collinear):
    """g_f - alpha B B^T g_f, then rescaled; g_f: (D,), directions B: (D, rank or more) orthonormal or zero."""
    along = directions.T @ g_f
    g_perp = g_f - directions @ (alpha * along)
    # second pass, as in `project`: where g_f lies almost in the span, the first pass leaves rounding that is much next
    # to a short g_perp
    g_perp -= directions @ (directions.T @ g_perp - (1 - alpha) * along)
    norm_f, norm_perp = Layers(["g_f", "g_perp"], [g_f, g_perp]).norms([g_f, g_perp])
    factor = norm_f / norm_perp if rescale == "match" else torch.ones_like(norm_f)
    return g_perp * torch.where(norm_perp <= collinear * norm_f, 0.0, factor)


class RetainMemory:
    """The last retain gradients of a run, by parameter name: detached copies, the oldest forgotten first.

    size >= 0: how many gradients are kept. Each costs as much memory as the parameters that it belongs to: at m = 16 a
    ResNet-18 in float32 (11.2 M parameters) holds 0.7 GB of them.
    gradients: the deque of them, dicts by name, to save with a run, clear or extend.
    Raises TypeError or ValueError for a size below 0.  Source: ours.
    """

    @takes(size=boundary.Integer(0))
    def __init__(self, size):
        self.size = size
        self.gradients = deque(maxlen=size)

    def push(self, gradients):
        """Keep a copy of a gradient, the oldest makes room.

        gradients: dict parameter name -> float tensor.  Raises TypeError for anything else.
        """
        if not isinstance(gradients, dict) or not all(isinstance(g, torch.Tensor) for g in gradients.values()):
            raise TypeError("gradients must be a dict of tensors, by parameter name, e.g. dict(zip(names, grads))")
        # copies: what the caller gives an optimizer as .grad may be changed or cleared in place
        self.gradients.append({name: g.detach().clone() for name, g in gradients.items()})

    def history(self, parameters):
        """The gradients held, as `project_subspace` takes them: a list of lists of tensors, oldest first.

        parameters: dict name -> tensor: whose parts are wanted, in which order, shape, dtype and device. The set may
        differ from step to step: a parameter that an old gradient lacks has zeros there, which protect nothing.
        Raises ValueError for a parameter whose shape has changed: gradients of the old one say nothing about it.
        """
        for name, parameter in parameters.items():
            for gradient in self.gradients:
                if name in gradient and gradient[name].shape != parameter.shape:
                    raise ValueError(
                        f"parameters[{name!r}] must have the shape of its remembered gradients, "
                        f"{tuple(gradient[name].shape)}, got {tuple(parameter.shape)}; forget them: gradients.clear()"
                    )
        return [
            [gradient[name].to(p) if name in gradient else torch.zeros_like(p) for name, p in parameters.items()]
            for gradient in self.gradients
        ]


class SubspaceOEU(OEU):
    """OEU that projects off the span of this and the last steps' retain gradients.

    memory: m >= 1, how many retain gradients span the subspace, at the price of m - 1 copies of the gradients; all else
    as `OEU`.  remembered: the `RetainMemory` of the m - 1 gradients before this step's.
    With m = 1 it is `OEU`.  Raises as `OEU`, and TypeError or ValueError for a memory below 1.
    Source: ours; see `project_subspace`.
    """

    def __init__(self, *args, memory, **options):
        super().__init__(*args, **options)
        self.remembered = RetainMemory(boundary.integer("memory", memory, 1) - 1)

    def project(self, parameters, g_f, g_r, layers, angles):
        """g_perp without the span of the gradients remembered and g_r."""
        if self.remembered.size == 0:
            return super().project(parameters, g_f, g_r, layers, angles)
        return projected(g_f, [*self.remembered.history(parameters), g_r], layers, self.alpha, self.rescale)

    def update(self, plan):
        """The optimizer's step; the plan's retain gradient is remembered from then on."""
        report = super().update(plan)
        self.remembered.push(plan.retain_grads)
        return report
