"""OEU in PyTorch: the reference's mathematics on any device, for any `nn.Module` and optimizer."""

from ..passes import recalibrate_batchnorm
from .entropy import entropy_loss, kl_to_uniform
from .network import QuantConv2d, QuantLinear, QuantMLP, quantize_model
from .projection import oeu_direction, project
from .quantizer import Quantizer, fake_quantize, fake_quantize_backward
from .stop_rule import EntropyStop
from .unlearner import OEU, NonFiniteError, StepReport

__all__ = [
    "EntropyStop",
    "NonFiniteError",
    "OEU",
    "QuantConv2d",
    "QuantLinear",
    "QuantMLP",
    "Quantizer",
    "StepReport",
    "entropy_loss",
    "fake_quantize",
    "fake_quantize_backward",
    "kl_to_uniform",
    "oeu_direction",
    "project",
    "quantize_model",
    "recalibrate_batchnorm",
]
