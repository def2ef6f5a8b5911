"""Checks of tensors that the core's files share, worded like those of the reference."""

import torch
from torch import Tensor


def floating(name, tensor):
    """Return `tensor`; raise TypeError unless it is a floating point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}; convert with .float()")
    return tensor


def finite(name, tensor):
    """Return `tensor`; raise ValueError that names the first non-finite entry. Waits for the device."""
    ok = torch.isfinite(tensor)
    if not ok.all():
        position = (~ok).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {tensor[~ok][0].item()} at {position}")
    return tensor
