"""The contract's operations in decimal arithmetic with 60 digits: expected values to the last bit, on every machine.

Slow, and written from the formulas alone: it shares no code with the reference, which is tested against it. All numbers
are `decimal.Decimal`; a float becomes one without rounding.
"""

import decimal
from decimal import Decimal

CONTEXT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN, Emin=-999999, Emax=999999)


def dot(first, second):
    """Inner product of two lists of numbers."""
    total = Decimal(0)
    for a, b in zip(first, second):
        total = CONTEXT.add(total, CONTEXT.multiply(a, b))
    return total


def norm(values):
    """Euclidean norm of a list of numbers."""
    return CONTEXT.sqrt(dot(values, values))


def log_probabilities(row):
    """log softmax of a list of logits."""
    top = max(row)
    total = Decimal(0)
    for z in row:
        total = CONTEXT.add(total, CONTEXT.exp(CONTEXT.subtract(z, top)))
    shift = CONTEXT.add(top, CONTEXT.ln(total))
    return [CONTEXT.subtract(z, shift) for z in row]


def entropy(row):
    """Entropy of softmax(row), in nats."""
    log_p = log_probabilities(row)
    return -dot([CONTEXT.exp(value) for value in log_p], log_p)


def entropy_loss(logits):
    """(loss, grad) for a list of rows; grad as a flat list."""
    n = Decimal(len(logits))
    loss = -CONTEXT.divide(sum((entropy(row) for row in logits), Decimal(0)), n)
    grad = []
    for row in logits:
        h = entropy(row)
        for value in log_probabilities(row):
            product = CONTEXT.multiply(CONTEXT.exp(value), CONTEXT.add(value, h))
            grad.append(CONTEXT.divide(product, n))
    return loss, grad


def kl_to_uniform(logits):
    """log K - H(p) for each row."""
    return [CONTEXT.subtract(CONTEXT.ln(Decimal(len(row))), entropy(row)) for row in logits]


def fake_quantize(x, step, q_min, q_max):
    """step * round(clip(x / step)) for a flat list."""
    return [CONTEXT.multiply(step, _round(_clip(CONTEXT.divide(value, step), q_min, q_max))) for value in x]


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale, mask):
    """(grad_x, grad_step) for flat lists; mask "clip" or "round"."""
    grad_x, grad_step = [], Decimal(0)
    for g, value in zip(grad_out, x):
        v = CONTEXT.divide(value, step)
        tested = v if mask == "clip" else _round(v)
        inside = q_min <= tested <= q_max
        slope = CONTEXT.subtract(_round(v), v) if inside else _clip(tested, q_min, q_max)
        grad_x.append(g if inside else Decimal(0))
        grad_step = CONTEXT.add(grad_step, CONTEXT.multiply(g, slope))
    return grad_x, CONTEXT.multiply(grad_scale, grad_step)


def project_vector(g_f, g_r, alpha, rescale, threshold=Decimal("1e-12")):
    """Projection of one flat vector off another."""
    square = dot(g_r, g_r)
    if square == 0:
        return list(g_f)
    factor = CONTEXT.divide(CONTEXT.multiply(alpha, dot(g_f, g_r)), square)
    g_perp = [CONTEXT.subtract(f, CONTEXT.multiply(factor, r)) for f, r in zip(g_f, g_r)]
    norm_f, norm_perp = norm(g_f), norm(g_perp)
    if norm_perp <= CONTEXT.multiply(threshold, norm_f):
        return [Decimal(0)] * len(g_f)
    if rescale == "match":
        stretch = CONTEXT.divide(norm_f, norm_perp)
        g_perp = [CONTEXT.multiply(value, stretch) for value in g_perp]
    return g_perp


def project(forget, retain, alpha, granularity, rescale):
    """Projection of a list of flat vectors."""
    if granularity == "layer":
        return [project_vector(f, r, alpha, rescale) for f, r in zip(forget, retain)]
    whole = project_vector([v for f in forget for v in f], [v for r in retain for v in r], alpha, rescale)
    ends = [sum(len(f) for f in forget[: i + 1]) for i in range(len(forget))]
    return [whole[end - len(f) : end] for end, f in zip(ends, forget)]


def oeu_direction(forget, retain, alpha, beta, granularity, rescale):
    """g_r + beta g_perp for a list of flat vectors."""
    projected = project(forget, retain, alpha, granularity, rescale)
    return [
        [CONTEXT.add(r, CONTEXT.multiply(beta, p)) for p, r in zip(p_layer, r_layer)]
        for p_layer, r_layer in zip(projected, retain)
    ]


def _clip(v, low, high):
    return min(max(v, Decimal(low)), Decimal(high))


def _round(v):
    return v.to_integral_value(rounding=decimal.ROUND_HALF_EVEN)
