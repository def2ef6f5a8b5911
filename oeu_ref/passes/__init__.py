"""Passes through somebody else's model: what they need, what they change, and how that is put back."""

from .backward import check_differentiable, grad_of
from .batch_norm import recalibrate_batchnorm
from .forward import MODEL, class_logits, in_mode, logits_of
from .modules import is_quantizer, owner
from .undo import State, copies_of, undone, undone_on_error

__all__ = [
    "MODEL",
    "State",
    "check_differentiable",
    "class_logits",
    "copies_of",
    "grad_of",
    "in_mode",
    "is_quantizer",
    "logits_of",
    "owner",
    "recalibrate_batchnorm",
    "undone",
    "undone_on_error",
]
