"""A right implementation of the contract in plain NumPy, from which `edits.py` makes wrong ones, one edit each.

It shares no code with `oeu_ref`, so that the laws pass or fail it on their own.
"""

import numpy as np

DTYPE = "float64"
QUANTIZER_MASK = "clip"


def entropy_loss(logits):
    """(loss, grad) of the negative mean entropy."""
    n = logits.shape[0]
    shifted = logits - logits.max(axis=1, keepdims=True)
    exps = np.exp(shifted)
    total = exps.sum(axis=1, keepdims=True)
    p = exps / total
    log_p = shifted - np.log(total)
    entropies = -(p * log_p).sum(axis=1, keepdims=True)
    loss = -entropies.mean()
    grad = p * (log_p + entropies) / n
    return float(loss), grad


def kl_to_uniform(logits):
    """KL(p || U) for each row."""
    classes = logits.shape[1]
    z = logits - logits.max(axis=1, keepdims=True)
    log_q = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    q = np.exp(log_q)
    return np.log(classes) + (q * log_q).sum(axis=1)


def fake_quantize(x, step, q_min, q_max):
    """step * round(clip(x / step, q_min, q_max))."""
    ratio = x / step
    clipped = np.clip(ratio, q_min, q_max)
    codes = np.rint(clipped)
    return codes * step


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    """(grad_x, grad_step): straight through inside the range, and the step's gradient of LSQ."""
    v = x / step
    below = v < q_min
    above = v > q_max
    inside = ~below & ~above
    grad_x = grad_out * inside
    slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
    grad_step = (grad_out * slope).sum() * grad_scale
    return grad_x, float(grad_step)


def length(v):
    """Norm of a flat vector."""
    biggest = np.abs(v).max() if v.size else 0.0
    return biggest * np.sqrt(((v / biggest) ** 2).sum()) if biggest > 0 else 0.0


def project_flat(f, r, alpha, rescale):
    """Projection of one flat vector off another."""
    length_f = length(f)
    length_r = length(r)
    if length_f == 0:
        return np.zeros_like(f)
    if length_r == 0:
        return f.copy()
    unit_f = f / length_f
    unit_r = r / length_r
    cosine = unit_f @ unit_r
    left = unit_f - alpha * cosine * unit_r
    excess = left @ unit_r - (1 - alpha) * cosine
    left = left - excess * unit_r
    length_left = length(left)
    if length_left < 1e-12:
        return np.zeros_like(f)
    if rescale == "match":
        left = left / length_left
    return left * length_f


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    """List of projected forget gradients."""
    if granularity == "layer":
        pairs = zip(forget_grads, retain_grads)
        return [project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]
    flat_f = np.concatenate([f.reshape(-1) for f in forget_grads])
    flat_r = np.concatenate([r.reshape(-1) for r in retain_grads])
    whole = project_flat(flat_f, flat_r, alpha, rescale)
    pieces = np.split(whole, np.cumsum([f.size for f in forget_grads])[:-1])
    return [piece.reshape(f.shape).copy() for piece, f in zip(pieces, forget_grads)]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    """List of g_r + beta g_perp."""
    projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
    return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]


def initial_step(x, q_max):
    """The step with which LSQ starts."""
    return float(2 * np.abs(x).mean() / np.sqrt(q_max))


def step_gradient_scale(count, q_max):
    """LSQ's scale of the step's gradient."""
    return float(1 / np.sqrt(count * q_max))


def fake_quantize_channels(x, steps, q_min, q_max):
    """A step for each index of the first axis."""
    wide = steps.reshape(-1, *[1] * (x.ndim - 1))
    return np.clip(np.rint(x / wide), q_min, q_max) * wide


def fake_quantize_channels_backward(grad_out, x, steps, q_min, q_max, grad_scale=1.0):
    """(grad_x, grad_steps), each step's summed over its own channel."""
    quotient = x / steps.reshape(-1, *[1] * (x.ndim - 1))
    low, high = quotient < q_min, quotient > q_max
    slopes = np.where(low, q_min, np.where(high, q_max, np.rint(quotient) - quotient))
    return np.where(low | high, 0.0, grad_out), grad_scale * (grad_out * slopes).sum(axis=tuple(range(1, x.ndim)))


def fake_quantize_affine(x, step, zero_point, q_min, q_max):
    """Codes with a zero point."""
    moved = np.rint(x / step) + zero_point
    return (np.clip(moved, q_min, q_max) - zero_point) * step


def project_subspace(forget_grads, retain_history, alpha=1.0):
    """What is left of each layer's forget gradient off the span of its retain gradients."""
    results = []
    for f, *others in zip(forget_grads, *retain_history):
        columns = np.stack([r.reshape(-1) / (length(r.reshape(-1)) or 1.0) for r in others], axis=1)
        left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
        basis = left[:, sizes > 1e-9]
        results.append(f - alpha * (basis @ (basis.T @ f.reshape(-1))).reshape(f.shape))
    return results


def accuracy(probabilities, labels):
    """Percentage of samples whose most likely class is their label."""
    return float(100 * np.mean(probabilities.argmax(axis=1) == labels))


def modified_entropy(probabilities, labels):
    """Entropy that knows the label, sample by sample."""
    true = np.eye(probabilities.shape[1], dtype=bool)[labels]
    inner = np.where(true, (1 - probabilities) * np.log(probabilities), probabilities * np.log(1 - probabilities))
    return -inner.sum(axis=1)


def membership_inference(retain, test, forget):
    """Percentage of forget samples that a threshold halfway between members and others calls non-members."""
    members, others, targets = (p[np.arange(len(y)), y] for p, y in (retain, test, forget))
    threshold = (members.mean() + others.mean()) / 2
    return float(100 * (targets < threshold).mean())


def average_gap(metrics, retrain_metrics):
    """Mean of absolute gaps."""
    return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in ("FA", "RA", "TA", "MIA")]))


def auc(positives, negatives):
    """Percentage of pairs in the right order, ties counted half."""
    differences = positives[:, None] - negatives[None, :]
    return float(100 * ((differences > 0) + 0.5 * (differences == 0)).mean())


def js_divergence(p, q):
    """Jensen-Shannon divergence of each row, in nats."""
    middle = (p + q) / 2
    parts = [a * np.log(np.where(a > 0, a, 1) / np.where(middle > 0, middle, 1)) for a in (p, q)]
    return (parts[0] + parts[1]).sum(axis=1) / 2


def stop(forget_probabilities, unseen_probabilities):
    """Whether the forget set is as uncertain as unseen data."""
    means = [
        -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1).mean() for p in (forget_probabilities, unseen_probabilities)
    ]
    return bool(means[0] >= means[1])
