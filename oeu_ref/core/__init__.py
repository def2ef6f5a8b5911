"""OEU in PyTorch: the reference's mathematics on any device, for any `nn.Module` and optimizer."""

from .entropy import entropy_loss, kl_to_uniform
from .models import QuantMLP, quantize_model
from .monitor import Monitor
from .projection import oeu_direction, project
from .quantizer import QuantConv2d, Quantizer, QuantLinear, fake_quantize, fake_quantize_backward
from .signatures import UnlearningWarning
from .stop_rule import EntropyStop
from .subspace import project_subspace
from .unlearner import OEU, NonFiniteError, StepReport
from .updates import OrthogonalUpdates

__all__ = [
    "EntropyStop",
    "Monitor",
    "NonFiniteError",
    "OEU",
    "OrthogonalUpdates",
    "QuantConv2d",
    "QuantLinear",
    "QuantMLP",
    "Quantizer",
    "StepReport",
    "UnlearningWarning",
    "entropy_loss",
    "fake_quantize",
    "fake_quantize_backward",
    "kl_to_uniform",
    "oeu_direction",
    "project",
    "project_subspace",
    "quantize_model",
]
