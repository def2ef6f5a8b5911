"""Right, in single precision throughout: what a careful port to a device would compute."""

import numpy as np

DTYPE = "float32"
F = np.float32


def log_probabilities(logits):
    z = logits - logits.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def entropy_loss(logits):
    log_p = log_probabilities(logits)
    p = np.exp(log_p)
    h = -(p * log_p).sum(axis=1, keepdims=True)
    return -h.mean(), p * (log_p + h) / F(len(p))


def kl_to_uniform(logits):
    log_p = log_probabilities(logits)
    return F(np.log(logits.shape[1])) + (np.exp(log_p) * log_p).sum(axis=1)


def fake_quantize(x, step, q_min, q_max):
    return np.rint(np.clip(x / F(step), F(q_min), F(q_max))) * F(step)


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    v = x / F(step)
    low, high = v < q_min, v > q_max
    slope = np.select([low, high], [F(q_min), F(q_max)], np.rint(v) - v)
    return np.where(low | high, F(0), grad_out), F(grad_scale) * (grad_out * slope).sum()


def project_vector(f, r, alpha, rescale):
    norm_f, norm_r = np.sqrt((f * f).sum()), np.sqrt((r * r).sum())
    if norm_f == 0 or norm_r == 0:
        return f.copy()
    axis = r / norm_r
    along = (f * axis).sum()
    result = f - F(alpha) * along * axis
    result = result - ((result * axis).sum() - F(1 - alpha) * along) * axis
    norm = np.sqrt((result * result).sum())
    if norm < F(1e-6) * norm_f:
        return np.zeros_like(f)
    return result * (norm_f / norm) if rescale == "match" else result


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    if granularity == "layer":
        pairs = zip(forget_grads, retain_grads)
        return [project_vector(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]
    f, r = (np.concatenate([g.reshape(-1) for g in grads]) for grads in (forget_grads, retain_grads))
    parts = np.split(project_vector(f, r, alpha, rescale), np.cumsum([g.size for g in forget_grads])[:-1])
    return [part.reshape(g.shape).copy() for part, g in zip(parts, forget_grads)]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    parts = project(forget_grads, retain_grads, alpha, granularity, rescale)
    return [r + F(beta) * p for p, r in zip(parts, retain_grads)]
