"""Entropy-guided unlearning (EGU) in PyTorch. Twin of `oeu_ref/reference/entropy.py`; gradients come from autograd.

Notation of arXiv 2602.00567: logits z (N, K), p = softmax(z), entropy H(p) = -sum_k p_k log p_k in nats, U uniform.
"""

import math

import torch
from torch.nn import functional

from ..boundary import LOGITS, Integer, Labels, Probabilities, of, size, taking
from .projection import wide

takes = taking(torch)


@takes(logits=LOGITS)
def log_softmax(logits):
    """Logarithm of the predicted probabilities.

    logits: (N, K) float, finite, N >= 1, K >= 2, any device.  Returns (N, K), each <= 0; float16 and bfloat16 logits
    give float32.
    Raises TypeError for a non-float tensor, ValueError for another rank, N = 0, K < 2 or a non-finite logit (which
    waits for the device).
    Source: p = softmax(z), the notation of arXiv 2602.00567.
    """
    log_p = functional.log_softmax(wide(logits), dim=1)
    # logits further apart than the largest number would give -inf, and 0 * -inf is no entropy
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)


@takes(logits=LOGITS)
def softmax(logits):
    """Predicted probabilities p = softmax(z).

    logits: (N, K) float, finite.  Returns (N, K), rows sum to 1.  Raises as `log_softmax`.
    """
    return log_softmax.unchecked(logits).exp()


@takes(logits=LOGITS)
def entropy(logits):
    """Entropy H(p) of each prediction, in nats, differentiable.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K] up to rounding.  Raises as `log_softmax`.
    Source: H(p) = -sum_k p_k log p_k, arXiv 2602.00567.
    """
    log_p = log_softmax.unchecked(logits)
    # a probability that underflows to 0 has a finite log_p here, so that 0 * log 0 is 0 as it should be
    return -(log_p.exp() * log_p).sum(dim=1)


@takes(logits=LOGITS)
def entropy_loss(logits):
    """Forget loss of OEU, the negative mean entropy, differentiable.

    logits: (N, K) float, finite, N >= 1, K >= 2.  Returns a 0-d tensor in [-log K, 0] up to rounding, in nats.
    Raises as `log_softmax`.
    Source: the entropy-guided unlearning loss of arXiv 2602.00567, L_f = -(1/N) sum_n H(p_n); autograd finds
    dL_f/dz_nk = p_nk (log p_nk + H_n) / N, which the reference derives by hand.
    """
    return -entropy.unchecked(logits).mean()


@takes(logits=LOGITS)
def kl_to_uniform(logits):
    """KL divergence from each prediction to the uniform distribution, in nats.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K]: 0 for a uniform prediction, log K for a sure one.
    Raises as `log_softmax`.
    Source: Theorems 4.1 and 4.2 of arXiv 2602.00567;  KL(p || U) = log K - H(p).
    """
    largest = math.log(logits.shape[1])
    return (largest - entropy.unchecked(logits)).clamp(0.0, largest)


@takes(logits=LOGITS, labels=Labels(of("logits")))
def cross_entropy(logits, labels):
    """Retain loss, the mean cross-entropy, differentiable.

    logits: (N, K) float, finite; labels: (N,) integers in [0, K).  Returns a 0-d tensor >= 0, in nats.
    Raises as `log_softmax`; TypeError for labels that are not integers, ValueError for another shape or range.
    Source: the retain loss L_r of arXiv 2602.00567.
    """
    return functional.nll_loss(log_softmax.unchecked(logits), labels)


@takes(num_classes=Integer(2), wrong_labels=Labels(classes=of("num_classes")))
def label_manipulation_optimum(wrong_labels, num_classes):
    """Prediction at which fitting a wrong label ends: all probability on that label.

    wrong_labels: (N,) integers in [0, num_classes); num_classes >= 2.
    Returns p* (N, num_classes) float64, one-hot rows, for which KL(p* || U) = log K, the largest value it takes.
    Raises TypeError for labels that are not integers, ValueError for another rank or range.
    Source: Theorem 4.1 of arXiv 2602.00567: the minimum over p of -log p_y is 0, at p_y = 1.
    """
    size("num_classes", len(wrong_labels) * num_classes, "probabilities")
    return functional.one_hot(wrong_labels, num_classes).double()


@takes(probabilities=Probabilities())
def entropy_of_probabilities(probabilities):
    """Entropy of each given distribution, in nats.

    probabilities: (N, K) float, each in [0, 1], rows sum to 1 (within 1e-3).
    Returns (N,), each in [0, log K] up to rounding, with 0 log 0 = 0.
    Raises TypeError for a non-float tensor, ValueError for another rank, K < 2, or rows that are no distribution.
    """
    return torch.special.entr(probabilities).sum(dim=1)
