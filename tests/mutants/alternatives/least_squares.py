"""Right, another way: what is left of g_f after a least-squares fit by g_r, with the fit refined once; a QR
decomposition would do as well. Entropy through SciPy-like log-sum-exp, gradients of the quantizer by cases."""

import numpy as np


def log_probabilities(logits):
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def entropy_loss(logits):
    log_p = log_probabilities(logits)
    p = np.exp(log_p)
    expected = (p * log_p).sum(axis=1)
    return expected.mean(), p * (log_p - expected[:, None]) / len(p)


def kl_to_uniform(logits):
    log_p = log_probabilities(logits)
    return (np.exp(log_p) * (log_p - np.log(1 / logits.shape[1]))).sum(axis=1)


def fake_quantize(x, step, q_min, q_max):
    grid = np.arange(q_min, q_max + 1)
    # the nearest grid point; between two equally near ones the even code
    distance = np.abs(np.asarray(x)[..., None] / step - grid)
    order = distance + (grid % 2 != 0) * 1e-13
    return grid[order.argmin(axis=-1)] * float(step)


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    grad_x, grad_step = np.zeros(x.shape), 0.0
    for i in np.ndindex(*x.shape):
        v = x[i] / step
        if v < q_min:
            grad_step += grad_out[i] * q_min
        elif v > q_max:
            grad_step += grad_out[i] * q_max
        else:
            grad_step += grad_out[i] * (round(v) - v)
            grad_x[i] = grad_out[i]
    return grad_x, grad_step * grad_scale


def project_vector(f, r, alpha, rescale):
    if not f.any() or not r.any():
        return f.copy()
    axis = (r / np.linalg.norm(r))[:, None]
    fit = np.linalg.lstsq(axis, f, rcond=None)[0]
    rest = f - axis @ fit
    rest = rest - axis @ np.linalg.lstsq(axis, rest, rcond=None)[0]
    result = rest + (1 - alpha) * (axis @ fit)
    share = np.linalg.norm(result) / np.linalg.norm(f)
    if share < 1e-12:
        return np.zeros_like(f)
    return result / share if rescale == "match" else result


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    sizes = [g.size for g in forget_grads]
    groups = [[i] for i in range(len(sizes))] if granularity == "layer" else [list(range(len(sizes)))]
    result = {}
    for group in groups:
        f, r = (np.hstack([grads[i].flatten() for i in group]) for grads in (forget_grads, retain_grads))
        parts = np.split(project_vector(f, r, alpha, rescale), np.cumsum([sizes[i] for i in group])[:-1])
        result.update({i: part.reshape(forget_grads[i].shape).copy() for i, part in zip(group, parts)})
    return [result[i] for i in range(len(sizes))]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
    return [beta * p + r for p, r in zip(projected, retain_grads)]
