"""The contract's operations in decimal arithmetic with 60 digits: expected values to the last bit, on every machine.

Slow, and written from the formulas alone: it shares no code with the reference, which is tested against it. All numbers
are `decimal.Decimal`; a float becomes one without rounding.
"""

import decimal
import functools
from decimal import Decimal

CONTEXT = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN, Emin=-999999, Emax=999999)


def _exactly(function):
    """The same function, with all arithmetic in CONTEXT, whatever the caller's context is."""

    @functools.wraps(function)
    def inside(*args, **options):
        with decimal.localcontext(CONTEXT):
            return function(*args, **options)

    return inside


@_exactly
def dot(first, second):
    """Inner product of two lists of numbers."""
    return sum((a * b for a, b in zip(first, second)), Decimal(0))


@_exactly
def norm(values):
    """Euclidean norm of a list of numbers."""
    return dot(values, values).sqrt()


@_exactly
def log_probabilities(row):
    """log softmax of a list of logits."""
    top = max(row)
    shift = top + sum(((z - top).exp() for z in row), Decimal(0)).ln()
    return [z - shift for z in row]


@_exactly
def entropy(row):
    """Entropy of softmax(row), in nats."""
    log_p = log_probabilities(row)
    return -dot([value.exp() for value in log_p], log_p)


@_exactly
def entropy_loss(logits):
    """(loss, grad) for a list of rows; grad as a flat list."""
    n = Decimal(len(logits))
    entropies = [entropy(row) for row in logits]
    pairs = [(value, h) for row, h in zip(logits, entropies) for value in log_probabilities(row)]
    return -(sum(entropies, Decimal(0)) / n), [value.exp() * (value + h) / n for value, h in pairs]


@_exactly
def kl_to_uniform(logits):
    """log K - H(p) for each row."""
    return [Decimal(len(row)).ln() - entropy(row) for row in logits]


@_exactly
def fake_quantize(x, step, q_min, q_max):
    """step * round(clip(x / step)) for a flat list."""
    return [step * _round(_clip(value / step, q_min, q_max)) for value in x]


@_exactly
def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale, mask):
    """(grad_x, grad_step) for flat lists; mask "clip" or "round"."""
    grad_x, slopes = [], []
    for g, value in zip(grad_out, x):
        v = value / step
        tested = v if mask == "clip" else _round(v)
        inside = q_min <= tested <= q_max
        slopes.append(_round(v) - v if inside else _clip(tested, q_min, q_max))
        grad_x.append(g if inside else Decimal(0))
    return grad_x, grad_scale * dot(grad_out, slopes)


@_exactly
def project_vector(g_f, g_r, alpha, rescale, threshold=Decimal("1e-12")):
    """Projection of one flat vector off another."""
    square = dot(g_r, g_r)
    if square == 0:
        return list(g_f)
    factor = alpha * dot(g_f, g_r) / square
    g_perp = [f - factor * r for f, r in zip(g_f, g_r)]
    norm_f, norm_perp = norm(g_f), norm(g_perp)
    if norm_perp <= threshold * norm_f:
        return [Decimal(0)] * len(g_f)
    return [value * (norm_f / norm_perp) for value in g_perp] if rescale == "match" else g_perp


def project(forget, retain, alpha, granularity, rescale):
    """Projection of a list of flat vectors."""
    if granularity == "layer":
        return [project_vector(f, r, alpha, rescale) for f, r in zip(forget, retain)]
    whole = project_vector([v for f in forget for v in f], [v for r in retain for v in r], alpha, rescale)
    ends = [sum(len(f) for f in forget[: i + 1]) for i in range(len(forget))]
    return [whole[end - len(f) : end] for end, f in zip(ends, forget)]


@_exactly
def oeu_direction(forget, retain, alpha, beta, granularity, rescale):
    """g_r + beta g_perp for a list of flat vectors."""
    projected = project(forget, retain, alpha, granularity, rescale)
    return [[r + beta * p for p, r in zip(*layer)] for layer in zip(projected, retain)]


def _clip(v, low, high):
    return min(max(v, Decimal(low)), Decimal(high))


def _round(v):
    return v.to_integral_value(rounding=decimal.ROUND_HALF_EVEN)
