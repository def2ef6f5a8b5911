"""Sums over tensors, layer by layer or a stretch at a time, in PyTorch: what the core computes with."""

from . import stretches
from .layers import Layers, paired, wide

__all__ = ["Layers", "paired", "stretches", "wide"]
