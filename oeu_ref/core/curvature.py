"""Beyond first order, in PyTorch. Twin of `oeu_ref/reference/curvature.py`; curvature by a second backward pass.

A step of length eta along minus d changes a loss L with gradient g and Hessian H by -eta <g, d> + eta^2 / 2 d'Hd, but
for O(eta^3): slope stands for <g, d>, curvature for d'Hd.

What a second backward pass means through a quantizer: it differentiates the straight-through gradient, not the
staircase. Over the weights that is the Hessian of the loss in the *quantized* values, where the mask lets them pass,
and symmetric. Over the learned steps it is no Hessian, not symmetric (the step's gradient round(v) - v has a slope of
-1 / s in x that no loss has), and through the mask "clip" it does not run: leave steps out of parameters, gradient and
vector. Either way the loss itself jumps where a code flips: on a quantized network a bound from it is a guess, not a
guarantee.
"""

import math

import torch
from torch import Tensor

from .. import boundary
from ._checks import finite
from .projection import Layers, check_gradients, wide


def loss_change(learning_rate, slope, curvature):
    """Change of a loss that a step along minus d makes, to second order: -eta slope + eta^2 / 2 curvature.

    learning_rate: eta >= 0; slope: <g, d>, positive where the step goes downhill; curvature: d'Hd: finite numbers or
    tensors, broadcast together.  Returns a float64 tensor of the common shape, in the unit of the loss.
    Raises TypeError or ValueError, naming the argument, for what is not real, not finite or below its range.
    Source: Taylor's theorem; for d = g_perp the second order of Theorem 4.3 of arXiv 2602.00567.
    """
    eta, slope, curvature = _checked((("learning_rate", learning_rate, 0), ("slope", slope), ("curvature", curvature)))
    # factored: the square of a small eta may underflow where the product does not
    return eta * (eta / 2 * curvature - slope)


def largest_learning_rate(learning_rate, slope, curvature, max_increase):
    """Longest step, at most learning_rate, on the way to which `loss_change` never exceeds max_increase.

    learning_rate: eta >= 0, the step that is wanted; slope, curvature as in `loss_change`; max_increase >= 0, in the
    unit of the loss: finite numbers or tensors, broadcast together.  Returns a float64 tensor of the common shape, in
    [0, learning_rate].  Raises as `loss_change`.
    Source: ours; cases and formulas in the reference's twin.
    """
    eta, slope, curvature, most = _checked(
        (
            ("learning_rate", learning_rate, 0),
            ("slope", slope),
            ("curvature", curvature),
            ("max_increase", max_increase, 0),
        )
    )
    # sqrt(|D|) from its two parts in a common unit, so that no square overflows, underflows or cancels
    bend = curvature.abs().sqrt() * most.sqrt()
    size = torch.maximum(slope.abs(), bend)
    unit = torch.where(size == 0, 1.0, size)
    a, b = slope.abs() / unit, math.sqrt(2) * (bend / unit)
    root_of_d = torch.where(curvature >= 0, torch.hypot(a, b), ((a - b).clamp_min(0) * (a + b)).sqrt())
    uphill = torch.where((curvature < 0) & (a <= b), math.inf, most / unit * (2 / (a + root_of_d)))
    downhill = torch.where(curvature > 0, size / curvature * (a + root_of_d), math.inf)
    return torch.minimum(eta, torch.where(slope < 0, uphill, downhill))


def hessian_vector_product(gradient, parameters, vector):
    """Hessian times a vector, H v, by a second backward pass; exact for a smooth loss.

    gradient: list of P tensors, the loss's by `torch.autograd.grad(..., create_graph=True)`, None for a parameter that
    the loss does not use; parameters: the list of P leaves that it was taken for; vector: list of P tensors of their
    shapes.  Returns a list of P tensors, zero for unused parameters. The graph is kept: the gradient may be asked
    again.
    Raises TypeError or ValueError for lists or shapes that do not match, ValueError for a gradient without a graph
    (also that of a loss linear in all parameters, which has no curvature).
    Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994: H v is the gradient of <g, v>.
    """
    parameters = list(parameters)
    check_gradients("parameters", parameters, "vector", vector)
    if not isinstance(gradient, (list, tuple)) or len(gradient) != len(parameters):
        got = len(gradient) if isinstance(gradient, (list, tuple)) else type(gradient).__name__
        raise ValueError(f"gradient must be a list of {len(parameters)} tensors, one a parameter, got {got}")
    pairs = [(g, v) for g, v in zip(gradient, vector) if g is not None and g.requires_grad]
    if not pairs:
        raise ValueError("gradient must come with its graph: take it with torch.autograd.grad(..., create_graph=True)")
    found = torch.autograd.grad(
        [g for g, _ in pairs], parameters, [v.to(g.dtype) for g, v in pairs], retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(p) if h is None else h for p, h in zip(parameters, found)]


def curvature(gradient, parameters, direction, granularity="global", layer_ids=None):
    """Curvature of a loss along a direction, d'Hd, by one `hessian_vector_product`.

    gradient, parameters as there; direction: d, list of P tensors; granularity: "global" (the whole network) or
    "layer" (each layer's contribution d_l'(Hd)_l, other layers' motion included, which add up to the whole's);
    layer_ids: P labels, equal for tensors that form one layer; None: each tensor is a layer.
    Returns (L,), a layer each in order of first appearance (L = 1 for "global").  Raises as `hessian_vector_product`;
    ValueError for an unknown word or another number of labels.
    Source: the second order of Theorem 4.3 of arXiv 2602.00567.
    """
    boundary.one_of("granularity", granularity, boundary.GRANULARITIES)
    product = hessian_vector_product(gradient, parameters, direction)
    return Layers(layer_ids, list(direction), granularity).dots(wide(direction), wide(product))


def _checked(arguments):
    """The arguments, (name, value) or (name, value, lowest), as float64 tensors of one shape on one device."""
    values = []
    for name, value, *low in arguments:
        if not isinstance(value, Tensor):
            value = torch.tensor(boundary.number(name, value), dtype=torch.float64)
        elif value.dtype == torch.bool or value.is_complex():
            raise TypeError(f"{name} must be real numbers, got dtype {value.dtype}")
        value = finite(name, value.double())
        if low and (value < low[0]).any():
            raise ValueError(f"{name} must be at least {low[0]}, got {value.min().item()}")
        values.append(value)
    device = next((v.device for v in values if v.device.type != "cpu"), values[0].device)
    return torch.broadcast_tensors(*(v.to(device) for v in values))
