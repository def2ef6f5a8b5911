"""Checks of tensors that the core's files share, worded like those of the reference."""

import torch
from torch import Tensor


def floating(name, tensor):
    """Return `tensor`; raise TypeError unless it is a dense floating point tensor, ValueError for one without data."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}; convert with .float()")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got layout {tensor.layout}; convert with .to_dense()")
    return with_data(name, tensor)


def with_data(name, tensor):
    """Return `tensor`; raise ValueError if it is on the device "meta", where tensors have a shape and nothing else."""
    if tensor.device.type == "meta":
        raise ValueError(f"{name} must hold numbers, got a tensor on the device meta")
    return tensor


def finite(name, tensor):
    """Return `tensor`; raise ValueError that names the first non-finite entry. Waits for the device."""
    ok = torch.isfinite(tensor)
    if not ok.all():
        position = (~ok).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {tensor[~ok][0].item()} at {position}")
    return tensor
