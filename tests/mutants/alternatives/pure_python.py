"""Right, another way: loops over Python floats and exact sums, NumPy for the arrays in and out only."""

import math

import numpy as np


def log_probabilities(row):
    top = max(row)
    log_total = top + math.log(math.fsum(math.exp(z - top) for z in row))
    return [z - log_total for z in row]


def entropy_loss(logits):
    entropies, grad = [], []
    for row in logits.tolist():
        log_p = log_probabilities(row)
        h = -math.fsum(math.exp(value) * value for value in log_p)
        entropies.append(h)
        grad.append([math.exp(value) * (value + h) / len(logits) for value in log_p])
    return -math.fsum(entropies) / len(entropies), np.array(grad)


def kl_to_uniform(logits):
    rows = [log_probabilities(row) for row in logits.tolist()]
    return np.array([math.fsum(math.exp(v) * (v + math.log(len(row))) for v in row) for row in rows])


def fake_quantize(x, step, q_min, q_max):
    codes = [round(min(max(value / step, q_min), q_max)) for value in x.ravel().tolist()]
    return np.array([code * step for code in codes]).reshape(x.shape)


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    grad_x, terms = [], []
    for g, value in zip(grad_out.ravel().tolist(), x.ravel().tolist()):
        v = value / step
        inside = q_min <= v <= q_max
        grad_x.append(g if inside else 0.0)
        terms.append(g * (round(v) - v if inside else (q_min if v < q_min else q_max)))
    return np.array(grad_x).reshape(x.shape), grad_scale * math.fsum(terms)


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def project_vector(f, r, alpha, rescale):
    norm_f, norm_r = math.hypot(*f), math.hypot(*r)
    if norm_f == 0 or norm_r == 0:
        return list(f)
    axis = [value / norm_r for value in r]
    along = dot(f, axis)
    result = [a - alpha * along * b for a, b in zip(f, axis)]
    correction = dot(result, axis) - (1 - alpha) * along
    result = [a - correction * b for a, b in zip(result, axis)]
    norm = math.hypot(*result)
    if norm < 1e-12 * norm_f:
        return [0.0] * len(f)
    return [value * norm_f / norm for value in result] if rescale == "match" else result


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    forget, retain = [g.ravel().tolist() for g in forget_grads], [g.ravel().tolist() for g in retain_grads]
    if granularity == "global":
        whole = project_vector(sum(forget, []), sum(retain, []), alpha, rescale)
        parts = [[whole.pop(0) for _ in f] for f in forget]
    else:
        parts = [project_vector(f, r, alpha, rescale) for f, r in zip(forget, retain)]
    return [np.array(part).reshape(f.shape) for part, f in zip(parts, forget_grads)]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    parts = project(forget_grads, retain_grads, alpha, granularity, rescale)
    return [np.array(r + beta * p) for p, r in zip(parts, retain_grads)]
