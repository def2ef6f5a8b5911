"""Entropy-guided unlearning (EGU): forget by raising the entropy of the prediction, not by teaching a wrong label.

Notation of arXiv 2602.00567: logits z (N, K), p = softmax(z), entropy H(p) = -sum_k p_k log p_k in nats, U uniform.
logits: (N, K) float, finite, N >= 1, K >= 2; labels: (N,) integers in [0, K). What is none of these raises TypeError
for another kind of number, ValueError for another shape, range, or an entry that is not finite, naming the argument.
"""

import numpy as np

from ..boundary import LOGITS, Integer, Labels, Probabilities, of, size, taking

takes = taking(np)


@takes(logits=LOGITS)
def log_softmax(logits):
    """Logarithm of the predicted probabilities.  logits: (N, K).  Returns (N, K), each <= 0."""
    # log-sum-exp: with the row's maximum subtracted no exponent is positive, so logits of 1e4 do not overflow
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    # logits further apart than the largest number would give -inf, and 0 * -inf is no entropy
    shifted = np.maximum(shifted, np.finfo(np.float64).min)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@takes(logits=LOGITS)
def softmax(logits):
    """Predicted probabilities p = softmax(z).  logits: (N, K).  Returns (N, K), rows sum to 1."""
    return np.exp(log_softmax.unchecked(logits))


@takes(logits=LOGITS)
def entropy(logits):
    """Entropy H(p) of each prediction, in nats.  logits: (N, K).  Returns (N,), each in [0, log K]."""
    log_p = log_softmax.unchecked(logits)
    # a probability that underflows to 0 has a finite log_p here, so that 0 * log 0 is 0 as it should be
    return _within(-(np.exp(log_p) * log_p).sum(axis=1), log_p)


@takes(logits=LOGITS)
def entropy_loss(logits):
    """Forget loss of OEU, the negative mean entropy, and its gradient by hand.

    logits: (N, K).
    Returns (loss, grad): loss a float in [-log K, 0], in nats; grad (N, K), its derivative with respect to each logit.
    Source: the entropy-guided unlearning loss of arXiv 2602.00567, L_f = -(1/N) sum_n H(p_n). With
    dp_j/dz_k = p_j (delta_jk - p_k):  dH/dz_k = -sum_j (log p_j + 1) dp_j/dz_k = -p_k (log p_k + H), hence
    dL_f/dz_nk = p_nk (log p_nk + H_n) / N.
    """
    log_p = log_softmax.unchecked(logits)
    p = np.exp(log_p)
    h = -(p * log_p).sum(axis=1)
    return float(-_within(h, log_p).mean()), p * (log_p + h[:, None]) / len(log_p)


@takes(logits=LOGITS)
def kl_to_uniform(logits):
    """KL divergence from each prediction to the uniform distribution, in nats.

    logits: (N, K).  Returns (N,), each in [0, log K]: 0 for a uniform prediction, log K for a sure one.
    Source: Theorems 4.1 and 4.2 of arXiv 2602.00567;  KL(p || U) = sum_k p_k log(p_k / (1/K)) = log K - H(p).
    """
    return np.log(logits.shape[1]) - entropy.unchecked(logits)


@takes(logits=LOGITS, labels=Labels(of("logits")))
def cross_entropy(logits, labels):
    """Retain loss, the mean cross-entropy, and its gradient by hand.

    logits: (N, K); labels: (N,).  Returns (loss, grad): loss a float >= 0, in nats; grad (N, K).
    Source: the retain loss L_r of arXiv 2602.00567;  dL_r/dz_nk = (p_nk - [k = y_n]) / N.
    """
    log_p = log_softmax.unchecked(logits)
    rows = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[rows, labels] -= 1.0
    return float(-log_p[rows, labels].mean()), grad / len(labels)


@takes(num_classes=Integer(2), wrong_labels=Labels(None, of("num_classes")))
def label_manipulation_optimum(wrong_labels, num_classes):
    """Prediction at which fitting a wrong label ends: all probability on that label.

    wrong_labels: (N,) integers in [0, num_classes); num_classes >= 2.
    Returns p* (N, num_classes), one-hot rows, for which KL(p* || U) = log K, the largest value it takes.
    Source: Theorem 4.1 of arXiv 2602.00567: the minimum over p of -log p_y is 0, at p_y = 1.
    """
    size("num_classes", len(wrong_labels) * num_classes, "probabilities")
    return np.equal.outer(wrong_labels, np.arange(num_classes)).astype(np.float64)


@takes(probabilities=Probabilities())
def entropy_of_probabilities(probabilities):
    """Entropy of each given distribution, in nats.

    probabilities: (N, K) float, each in [0, 1], rows sum to 1 (within 1e-3: float32 or float16 outputs are welcome).
    Returns (N,), each in [0, log K], with 0 log 0 = 0.  Raises ValueError for rows that are no distribution too.
    """
    # where p is 0 the logarithm is never taken
    log_p = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return _within(-(probabilities * log_p).sum(axis=1), log_p)


def _within(h, log_p):
    """Entropies without the rounding that would leave [0, log K]."""
    return np.clip(h, 0.0, np.log(log_p.shape[1]))
