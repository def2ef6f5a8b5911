"""Entropy-guided unlearning (EGU) in PyTorch. Twin of `oeu_ref/reference/entropy.py`; gradients come from autograd.

Notation of arXiv 2602.00567: logits z (N, K), p = softmax(z), entropy H(p) = -sum_k p_k log p_k in nats, U uniform.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from .. import boundary
from ._checks import finite, floating, with_data


def log_softmax(logits):
    """Logarithm of the predicted probabilities.

    logits: (N, K) float, finite, N >= 1, K >= 2, any device.  Returns (N, K), each <= 0; float16 and bfloat16 logits
    give float32.
    Raises TypeError for a non-float tensor, ValueError for another rank, N = 0, K < 2 or a non-finite logit (which
    waits for the device).
    Source: p = softmax(z), the notation of arXiv 2602.00567.
    """
    return _log_softmax(_checked(logits))


def softmax(logits):
    """Predicted probabilities p = softmax(z).

    logits: (N, K) float, finite.  Returns (N, K), rows sum to 1.  Raises as `log_softmax`.
    """
    return log_softmax(logits).exp()


def entropy(logits):
    """Entropy H(p) of each prediction, in nats, differentiable.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K] up to rounding.  Raises as `log_softmax`.
    Source: H(p) = -sum_k p_k log p_k, arXiv 2602.00567.
    """
    return _entropy(log_softmax(logits))


def entropy_loss(logits):
    """Forget loss of OEU, the negative mean entropy, differentiable.

    logits: (N, K) float, finite, N >= 1, K >= 2.  Returns a 0-d tensor in [-log K, 0] up to rounding, in nats.
    Raises as `log_softmax`.
    Source: the entropy-guided unlearning loss of arXiv 2602.00567, L_f = -(1/N) sum_n H(p_n); autograd finds
    dL_f/dz_nk = p_nk (log p_nk + H_n) / N, which the reference derives by hand.
    """
    return -entropy(logits).mean()


def kl_to_uniform(logits):
    """KL divergence from each prediction to the uniform distribution, in nats.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K]: 0 for a uniform prediction, log K for a sure one.
    Raises as `log_softmax`.
    Source: Theorems 4.1 and 4.2 of arXiv 2602.00567;  KL(p || U) = log K - H(p).
    """
    h = entropy(logits)
    largest = math.log(logits.shape[1])
    return (largest - h).clamp(0.0, largest)


def cross_entropy(logits, labels):
    """Retain loss, the mean cross-entropy, differentiable.

    logits: (N, K) float, finite; labels: (N,) integers in [0, K).  Returns a 0-d tensor >= 0, in nats.
    Raises as `log_softmax`; TypeError for labels that are not integers, ValueError for another shape or range.
    Source: the retain loss L_r of arXiv 2602.00567.
    """
    log_p = log_softmax(logits)
    return functional.nll_loss(log_p, checked_labels("labels", labels, *log_p.shape))


def label_manipulation_optimum(wrong_labels, num_classes):
    """Prediction at which fitting a wrong label ends: all probability on that label.

    wrong_labels: (N,) integers in [0, num_classes); num_classes >= 2.
    Returns p* (N, num_classes) float64, one-hot rows, for which KL(p* || U) = log K, the largest value it takes.
    Raises TypeError for labels that are not integers, ValueError for another rank or range.
    Source: Theorem 4.1 of arXiv 2602.00567: the minimum over p of -log p_y is 0, at p_y = 1.
    """
    num_classes = boundary.integer("num_classes", num_classes, 2)
    wrong_labels = checked_labels("wrong_labels", wrong_labels, None, num_classes)
    boundary.size("num_classes", len(wrong_labels) * num_classes, "probabilities")
    return functional.one_hot(wrong_labels, num_classes).double()


def entropy_of_probabilities(probabilities):
    """Entropy of each given distribution, in nats.

    probabilities: (N, K) float, each in [0, 1], rows sum to 1 (within 1e-3).
    Returns (N,), each in [0, log K] up to rounding, with 0 log 0 = 0.
    Raises TypeError for a non-float tensor, ValueError for another rank, K < 2, or rows that are no distribution.
    """
    p = _checked(probabilities, "probabilities")
    if p.min() < 0 or p.max() > 1 + 1e-3 or (p.sum(dim=1) - 1).abs().max() > 1e-3:
        raise ValueError(
            "probabilities must be distributions: entries in [0, 1] and rows that sum to 1 (apply softmax to logits), "
            f"got entries from {p.min():g} to {p.max():g}"
        )
    return torch.special.entr(p).sum(dim=1)


def checked_labels(name, labels, count, num_classes):
    """Return labels as an int64 tensor (count,) with values in [0, num_classes); raise TypeError or ValueError.

    count: None for any number of labels.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = f"dtype {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name} must be integers (a tensor of dtype int64), got {kind}")
    if with_data(name, labels).ndim != 1 or len(labels) != (len(labels) if count is None else count):
        count = "N" if count is None else count
        raise ValueError(f"{name} must have shape ({count},), one label a sample, got {tuple(labels.shape)}")
    if labels.numel() and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(f"{name} must lie in [0, {num_classes}), got values from {labels.min()} to {labels.max()}")
    return labels.long()


def check_logits_shape(logits, name="logits"):
    """Raise TypeError or ValueError unless `logits` is a float tensor (N, K) with N >= 1, K >= 2; never waits."""
    floating(name, logits)
    if logits.ndim != 2:
        raise ValueError(f"{name} must have shape (N, K), a row a sample, got shape {tuple(logits.shape)}")
    if logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(f"{name} must have at least one row and two classes, got shape {tuple(logits.shape)}")


def _checked(logits, name="logits"):
    check_logits_shape(logits, name)
    return finite(name, logits)


def _log_softmax(logits):
    half = logits.dtype in (torch.float16, torch.bfloat16)
    log_p = functional.log_softmax(logits, dim=1, dtype=torch.float32 if half else None)
    # logits further apart than the largest number would give -inf, and 0 * -inf is no entropy
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)


def _entropy(log_p):
    # a probability that underflows to 0 has a finite log_p here, so that 0 * log 0 is 0 as it should be
    return -(log_p.exp() * log_p).sum(dim=1)
