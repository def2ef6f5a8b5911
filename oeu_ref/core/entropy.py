"""Entropy-guided unlearning (EGU) in PyTorch. Twin of `oeu_ref/reference/entropy.py`, which has the sources.

Notation of arXiv 2602.00567: logits z (N, K), p = softmax(z), entropy H(p) = -sum_k p_k log p_k in nats, U uniform. All
is differentiable, by autograd. logits: (N, K) float tensor, finite, N >= 1, K >= 2, any device; float16 and bfloat16
are computed in float32. What is no such tensor raises TypeError or ValueError, which waits for the device.
"""

import math

import torch
from torch.nn import functional

from ..boundary import LOGITS, Integer, Labels, Probabilities, of, size, taking
from ..tensors import wide

takes = taking(torch)


@takes(logits=LOGITS)
def log_softmax(logits):
    """Logarithm of the predicted probabilities.  logits: (N, K).  Returns (N, K), each <= 0."""
    log_p = functional.log_softmax(wide(logits), dim=1)
    # logits further apart than the largest number would give -inf, and 0 * -inf is no entropy
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)


@takes(logits=LOGITS)
def softmax(logits):
    """Predicted probabilities p = softmax(z).  logits: (N, K).  Returns (N, K), rows sum to 1."""
    return log_softmax.unchecked(logits).exp()


@takes(logits=LOGITS)
def entropy(logits):
    """Entropy H(p) of each prediction, in nats.  logits: (N, K).  Returns (N,), each in [0, log K] up to rounding."""
    log_p = log_softmax.unchecked(logits)
    # a probability that underflows to 0 has a finite log_p here, so that 0 * log 0 is 0 as it should be
    return -(log_p.exp() * log_p).sum(dim=1)


@takes(logits=LOGITS)
def entropy_loss(logits):
    """Forget loss of OEU, the negative mean entropy: L_f = -(1/N) sum_n H(p_n), arXiv 2602.00567.

    logits: (N, K).  Returns a 0-d tensor in [-log K, 0] up to rounding, in nats; the reference derives its gradient.
    """
    return -entropy.unchecked(logits).mean()


@takes(logits=LOGITS)
def kl_to_uniform(logits):
    """KL divergence from each prediction to the uniform distribution, log K - H(p), in nats (Theorems 4.1 and 4.2).

    logits: (N, K).  Returns (N,), each in [0, log K]: 0 for a uniform prediction, log K for a sure one.
    """
    largest = math.log(logits.shape[1])
    return (largest - entropy.unchecked(logits)).clamp(0.0, largest)


@takes(logits=LOGITS, labels=Labels(of("logits")))
def cross_entropy(logits, labels):
    """Retain loss L_r, the mean cross-entropy.

    logits: (N, K); labels: (N,) integers in [0, K), TypeError or ValueError for others.  Returns a 0-d tensor >= 0, in
    nats.
    """
    return functional.nll_loss(log_softmax.unchecked(logits), labels)


@takes(num_classes=Integer(2), wrong_labels=Labels(None, of("num_classes")))
def label_manipulation_optimum(wrong_labels, num_classes):
    """Prediction at which fitting a wrong label ends: all probability on that label.

    wrong_labels: (N,) integers in [0, num_classes); num_classes >= 2; TypeError or ValueError for others.
    Returns p* (N, num_classes) float32, one-hot rows, for which KL(p* || U) = log K (Theorem 4.1).
    """
    size("num_classes", len(wrong_labels) * num_classes, "probabilities")
    return functional.one_hot(wrong_labels, num_classes).float()


@takes(probabilities=Probabilities())
def entropy_of_probabilities(probabilities):
    """Entropy of each given distribution, in nats.

    probabilities: (N, K) float, each in [0, 1], rows sum to 1 (within 1e-3); TypeError or ValueError for others.
    Returns (N,), each in [0, log K] up to rounding, with 0 log 0 = 0.
    """
    return torch.special.entr(probabilities).sum(dim=1)
