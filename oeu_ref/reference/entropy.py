"""Entropy-guided unlearning (EGU): forget by raising the entropy of the prediction, not by teaching a wrong label.

Notation of arXiv 2602.00567: logits z (N, K), p = softmax(z), entropy H(p) = -sum_k p_k log p_k in nats, U uniform.
"""

import numpy as np

from .. import boundary
from ._checks import array


def log_softmax(logits):
    """Logarithm of the predicted probabilities.

    logits: (N, K) float, finite, N >= 1, K >= 2.  Returns (N, K), each <= 0.
    Raises TypeError for a non-float array, ValueError for another rank, N = 0, K < 2 or a non-finite logit.
    Source: p = softmax(z), the notation of arXiv 2602.00567.
    """
    logits = _checked(logits)
    # log-sum-exp: with the row's maximum subtracted no exponent is positive, so logits of 1e4 do not overflow
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    # logits further apart than the largest number would give -inf, and 0 * -inf is no entropy
    shifted = np.maximum(shifted, np.finfo(np.float64).min)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits):
    """Predicted probabilities p = softmax(z).

    logits: (N, K) float, finite.  Returns (N, K), rows sum to 1.  Raises as `log_softmax`.
    """
    return np.exp(log_softmax(logits))


def entropy(logits):
    """Entropy H(p) of each prediction, in nats.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K].  Raises as `log_softmax`.
    Source: H(p) = -sum_k p_k log p_k, arXiv 2602.00567.
    """
    log_p = log_softmax(logits)
    # a probability that underflows to 0 has a finite log_p here, so that 0 * log 0 is 0 as it should be
    return np.clip(-(np.exp(log_p) * log_p).sum(axis=1), 0.0, np.log(log_p.shape[1]))


def entropy_loss(logits):
    """Forget loss of OEU, the negative mean entropy, and its gradient by hand.

    logits: (N, K) float, finite, N >= 1, K >= 2.
    Returns (loss, grad): loss a float in [-log K, 0], in nats; grad (N, K), its derivative with respect to each logit.
    Raises as `log_softmax`.
    Source: the entropy-guided unlearning loss of arXiv 2602.00567, L_f = -(1/N) sum_n H(p_n). With
    dp_j/dz_k = p_j (delta_jk - p_k):  dH/dz_k = -sum_j (log p_j + 1) dp_j/dz_k = -p_k (log p_k + H), hence
    dL_f/dz_nk = p_nk (log p_nk + H_n) / N.
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    h = -(p * log_p).sum(axis=1, keepdims=True)
    loss = -entropy(logits).mean()
    return float(loss), p * (log_p + h) / len(log_p)


def kl_to_uniform(logits):
    """KL divergence from each prediction to the uniform distribution, in nats.

    logits: (N, K) float, finite.  Returns (N,), each in [0, log K]: 0 for a uniform prediction, log K for a sure one.
    Raises as `log_softmax`.
    Source: Theorems 4.1 and 4.2 of arXiv 2602.00567;  KL(p || U) = sum_k p_k log(p_k / (1/K)) = log K - H(p).
    """
    h = entropy(logits)
    return np.log(np.shape(logits)[1]) - h


def cross_entropy(logits, labels):
    """Retain loss, the mean cross-entropy, and its gradient by hand.

    logits: (N, K) float, finite; labels: (N,) integers in [0, K).
    Returns (loss, grad): loss a float >= 0, in nats; grad (N, K).
    Raises as `log_softmax`; TypeError for labels that are not integers, ValueError for another shape or range.
    Source: the retain loss L_r of arXiv 2602.00567;  dL_r/dz_nk = (p_nk - [k = y_n]) / N.
    """
    log_p = log_softmax(logits)
    labels = checked_labels("labels", labels, *log_p.shape)
    rows = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[rows, labels] -= 1.0
    return float(-log_p[rows, labels].mean()), grad / len(labels)


def label_manipulation_optimum(wrong_labels, num_classes):
    """Prediction at which fitting a wrong label ends: all probability on that label.

    wrong_labels: (N,) integers in [0, num_classes); num_classes >= 2.
    Returns p* (N, num_classes), one-hot rows, for which KL(p* || U) = log K, the largest value it takes.
    Raises TypeError for labels that are not integers, ValueError for another rank or range.
    Source: Theorem 4.1 of arXiv 2602.00567: the minimum over p of -log p_y is 0, at p_y = 1.
    """
    num_classes = boundary.integer("num_classes", num_classes, 2)
    wrong_labels = checked_labels("wrong_labels", wrong_labels, None, num_classes)
    boundary.size("num_classes", len(wrong_labels) * num_classes, "probabilities")
    optimum = np.zeros((len(wrong_labels), num_classes))
    optimum[np.arange(len(wrong_labels)), wrong_labels] = 1.0
    return optimum


def entropy_of_probabilities(probabilities):
    """Entropy of each given distribution, in nats.

    probabilities: (N, K) float, each in [0, 1], rows sum to 1 (within 1e-3: float32 or float16 outputs are welcome).
    Returns (N,), each in [0, log K], with 0 log 0 = 0.
    Raises TypeError for a non-float array, ValueError for another rank, K < 2, or rows that are no distribution.
    """
    p = checked_probabilities("probabilities", probabilities)
    # where p is 0 the logarithm is never taken
    log_p = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.clip(-(p * log_p).sum(axis=1), 0.0, np.log(p.shape[1]))


def checked_labels(name, labels, count, num_classes):
    """Return labels as an integer array (count,) with values in [0, num_classes); raise TypeError or ValueError.

    count: None for any number of labels.
    """
    labels = array(name, labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got dtype {labels.dtype}")
    if labels.ndim != 1 or len(labels) != (len(labels) if count is None else count):
        count = "N" if count is None else count
        raise ValueError(f"{name} must have shape ({count},), one label a sample, got {labels.shape}")
    if labels.size and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(f"{name} must lie in [0, {num_classes}), got values from {labels.min()} to {labels.max()}")
    return labels


def checked_probabilities(name, probabilities):
    """Return probabilities as float64 (N, K) whose rows are distributions; raise TypeError or ValueError otherwise."""
    p = _checked(probabilities, name, "probability")
    sums = p.sum(axis=1)
    if p.min() < 0 or p.max() > 1 + 1e-3 or np.abs(sums - 1).max() > 1e-3:
        worst = int(np.abs(sums - 1).argmax())
        raise ValueError(
            f"{name} must be distributions: entries in [0, 1] and rows that sum to 1 (apply softmax to logits), "
            f"got entries from {p.min():g} to {p.max():g} and row {worst} with sum {sums[worst]:g}"
        )
    return p


def _checked(values, name="logits", one="logit"):
    values = array(name, values)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"{name} must be floating point, got dtype {values.dtype}; convert with .astype(float)")
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape (N, K), a row a sample, got shape {values.shape}")
    if values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(f"{name} must have at least one row and two classes, got shape {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{name} must be finite, got {values[row, column]} for the {one} at [{row}, {column}]")
    return values
