"""The mathematics of OEU in NumPy, float64, derived by hand. This module is an implementation of the contract."""

from .entropy import entropy_loss, kl_to_uniform
from .projection import oeu_direction, project
from .quantizer import fake_quantize, fake_quantize_backward

DTYPE = "float64"
QUANTIZER_MASK = "clip"

__all__ = ["entropy_loss", "fake_quantize", "fake_quantize_backward", "kl_to_uniform", "oeu_direction", "project"]
