"""Laws of the uniform quantizer and its surrogate gradients: the STE of arXiv 2602.00567 and the step of LSQ."""

import numpy as np

from ..judging import expected
from ..judging.cases import STANDARD, X_SHAPES, QuantizerCase, quantizers
from ..judging.law import about, require

LSQ = "LSQ"
law = about("fake_quantize")


def _rounding(implementation, x, step):
    """Bound on the rounding error of x_hat: two roundings of a number of this size."""
    return 4 * implementation.eps * (np.abs(x) + step)


def _quantized(implementation, case):
    """(x_hat, x, step, q_min, q_max) of a case."""
    _, *arguments = case.arguments(implementation)
    return implementation.fake_quantize(*arguments), *arguments


def _close(result, right, allowed, x, step):
    """Raise `Violation` unless |result - right| <= allowed, element by element; the message is in steps."""
    error = np.abs(result - right)
    if not error.size:
        return
    i = np.unravel_index(np.argmax(error - allowed), error.shape)
    message = f"at x = {x[i] / step:.9g} steps: {result[i] / step:.6g}, expected {np.asarray(right)[i] / step:.6g}"
    require((error <= allowed).all(), message)


@law(LSQ, quantizers())
def fake_quantize_is_step_times_rounded_clipped_ratio(implementation, case):
    """The quantized value is step * round(clip(x / step, q_min, q_max)), halves rounded as TIES says.

    x_hat = step * round(clip(x / step, q_min, q_max)): check the order, the range and the final multiplication."""
    result, x, step, low, high = _quantized(implementation, case)
    right = expected.fake_quantize(implementation, x, step, low, high)
    _close(result, right, _rounding(implementation, right, step), x, step)


@law(LSQ, quantizers())
def quantized_values_lie_on_the_grid(implementation, case):
    """Every quantized value is the step times an integer from q_min to q_max.

    A quantized value is the step times a whole number in [q_min, q_max]: is the final multiplication there?"""
    result, x, step, low, high = _quantized(implementation, case)
    codes = np.clip(np.round(result / step), low, high)
    _close(result, codes * step, _rounding(implementation, codes * step, step), x, step)


@law(LSQ, quantizers("inside", "ties", "near_ties", "ends"))
def quantization_error_is_at_most_half_a_step(implementation, case):
    """Inside the range, a quantized value is at most half a step from the value.

    Rounding goes to the nearest code: floor, ceil and trunc are off by up to a whole step."""
    result, x, step, _, _ = _quantized(implementation, case)
    _close(result, x, step / 2 + _rounding(implementation, x, step), x, step)


@law(LSQ, quantizers("ties"))
def halves_are_rounded_as_declared(implementation, case):
    """A value halfway between two codes takes the even one, or the one that TIES declares.

    Halves go to the even code (IEEE rounding, as NumPy and PyTorch do); TIES = "up" or "away" declares another rule."""
    result, x, step, low, high = _quantized(implementation, case)
    codes, right = np.round(result / step), expected.rounded(implementation, x / step)
    wrong = codes != right
    require(not wrong.any(), lambda: f"{x[wrong][0] / step:g} became {codes[wrong][0]:g}, not {right[wrong][0]:g}")


@law(LSQ, quantizers("outside", "just_outside", "barely_outside", "ends"))
def values_beyond_the_range_take_its_end(implementation, case):
    """At and below step * q_min the result is step * q_min, at and above step * q_max it is step * q_max.

    Values beyond the range take its end: check q_min and q_max, each side."""
    result, x, step, low, high = _quantized(implementation, case)
    right = np.where(x / step < (low + high) / 2, low, high) * step
    _close(result, right, _rounding(implementation, right, step), x, step)


@law(LSQ, quantizers())
def quantization_is_monotone(implementation, case):
    """A larger value never has a smaller quantized value.

    A larger value never gets a smaller code."""
    _, x, *arguments = case.arguments(implementation)
    x = np.sort(x, axis=None)
    rises = np.diff(implementation.fake_quantize(x.reshape(case.shape), *arguments).ravel())
    require((rises >= -_rounding(implementation, x[1:], arguments[0])).all(), lambda: f"falls by {-rises.min():.3g}")


@law(LSQ, quantizers())
def quantization_is_idempotent(implementation, case):
    """Quantizing twice is quantizing once.

    Quantizing what is quantized already changes nothing: is the result on the same grid as the rounding?"""
    once, _, step, low, high = _quantized(implementation, case)
    twice = implementation.fake_quantize(once, step, low, high)
    _close(twice, once, _rounding(implementation, once, step), once, step)


@law(LSQ, quantizers())
def quantization_scales_with_the_step(implementation, case):
    """Values and step times a power of two: the result is times the same power of two.

    Only the ratio x / step decides the code: an absolute constant or a fixed number of digits has crept in."""
    result, x, step, low, high = _quantized(implementation, case)
    factor = 2.0**9 if step < 1 else 2.0**-9  # towards the middle of the domain
    other = implementation.fake_quantize(x * factor, step * factor, low, high)
    _close(other / factor, result, _rounding(implementation, x, step), x, step)


@law(LSQ, quantizers("mixed", extra=[QuantizerCase("mixed", q_range, 0, (1,)) for q_range in STANDARD]), weight=0.1)
def every_code_of_the_range_is_used(implementation, case):
    """Values that run through the whole range reach every code from q_min to q_max, and only those.

    Every range, signed and unsigned, narrow or wide, uses all its codes and no others."""
    *_, low, high = case.arguments(implementation)
    result = implementation.fake_quantize(np.resize(np.arange(low - 2, high + 3) * 0.5, X_SHAPES[-1]), 0.5, low, high)
    codes = np.unique(np.round(result / 0.5))
    require(np.array_equal(codes, np.arange(low, high + 1)), f"{codes} for the range [{low}, {high}]")


law = about("fake_quantize_backward")


def _allowed(implementation, grad_out, x, step, q_min, q_max):
    """Bound on the rounding error of the step's gradient: of each x / step, and of the sum."""
    largest = max(abs(q_min), abs(q_max)) + np.abs(x / step).max(initial=0)
    return (8 + np.sqrt(x.size)) * implementation.eps * np.abs(grad_out).sum() * largest


def _check_grad_x(implementation, case):
    grad_out, x, step, low, high = arguments = case.arguments(implementation)
    result = implementation.fake_quantize_backward(*arguments)[0]
    right, _ = expected.fake_quantize_backward(implementation, *arguments)
    error = np.abs(result - right)
    if not error.size:
        return
    i = np.unravel_index(np.argmax(error), error.shape)
    came = f"gradient {grad_out[i]:.6g} came out as {result[i]:.6g}, expected {right[i]:.6g}"
    message = f"at x / step = {x[i] / step:.9g}, range [{low}, {high}]: {came}"
    require((error <= 2 * implementation.eps * np.abs(grad_out)).all(), message)


@law("STE", quantizers("inside", "outside", "mixed", "on_grid", "near_ties", "barely_inside"))
def straight_through_gradient_passes_inside_only(implementation, case):
    """The gradient with respect to x is that of x_hat inside the range and 0 outside, or as QUANTIZER_MASK declares.

    The straight-through gradient passes unchanged inside the range and is 0 outside, on both sides."""
    _check_grad_x(implementation, case)


@law("STE", quantizers("just_outside", "barely_outside"))
def up_to_half_a_step_beyond_the_range_the_mask_decides(implementation, case):
    """What clipping moves by less than half a step passes no gradient, unless QUANTIZER_MASK is "round" or "none".

    With the default, "clip", values barely beyond the range are outside already; PyTorch's own fake-quant operations
    pass them: that is QUANTIZER_MASK = "round"."""
    _check_grad_x(implementation, case)


@law("STE", quantizers("ends", "ties"))
def the_ends_of_the_range_pass_their_gradient(implementation, case):
    """Values at exactly step * q_min and step * q_max pass their gradient unless the mask is "open"; ties inside do.

    The ends belong to the inside (q_min <= x / step <= q_max) by default; a strict mask, such as LSQ's own equations
    have and the gradient of torch.clamp in recent versions, is QUANTIZER_MASK = "open"."""
    _check_grad_x(implementation, case)


law = about("fake_quantize", "fake_quantize_backward")


@law("STE", quantizers("mixed", "inside", "outside"), QUANTIZER_MASK=("clip", "open", "round"))
def the_gradient_passes_where_its_own_forward_moves(implementation, case):
    """Where the implementation's own quantized value stays when x moves a step either way, x gets no gradient; where
    it moves both ways, x gets the outer gradient.

    The backward pass masks another range than the forward pass clips to: are step, q_min and q_max the same in both?"""
    grad_out, x, step, low, high = case.arguments(implementation)
    inputs = [implementation.cast(x + d) for d in (0, step, -step)]
    here, up, down = (implementation.fake_quantize(values, step, low, high) for values in inputs)
    moves = [np.abs(there - here) > step / 2 for there in (up, down)]
    grad_x = implementation.fake_quantize_backward(grad_out, x, step, low, high)[0]
    for where, right, words in ((~moves[0] & ~moves[1], 0.0, "stays"), (moves[0] & moves[1], grad_out, "moves")):
        wrong = where & (np.abs(grad_x - right) > 2 * implementation.eps * np.abs(grad_out))
        message = lambda: f"at x = {x[wrong][0] / step:.6g} steps x_hat {words}, and the gradient passed is "
        require(not wrong.any(), lambda: message() + f"{grad_x[wrong][0]:.6g} of {grad_out[wrong][0]:.6g}")


law = about("fake_quantize_backward")


@law(LSQ, quantizers())
def step_gradient_is_lsqs(implementation, case):
    """The step's gradient is the sum of grad_out times (round(v) - v inside, q_min below, q_max above).

    dx_hat/ds = round(v) - v inside, q_min below, q_max above; times grad_out, summed over all elements."""
    arguments = case.arguments(implementation)
    right = expected.fake_quantize_backward(implementation, *arguments)[1]
    allowed = _allowed(implementation, *arguments)
    result = implementation.step_gradient(*arguments)
    require(abs(result - right) <= allowed, f"{result:.9g}, expected {right:.9g} within {allowed:.1e}")


@law(LSQ, quantizers("mixed", "outside"))
def grad_scale_scales_the_step_gradient_alone(implementation, case):
    """grad_scale multiplies the step's gradient and nothing else.

    grad_scale multiplies the gradient of the step, once, and leaves that of x alone."""
    arguments = case.arguments(implementation)
    allowed, one = _allowed(implementation, *arguments), implementation.step_gradient(*arguments)
    for scale, by_name in ((0.25, False), (3.0, False), (3.0, True), (1e-5, False), (0.0, False)):
        try:
            options = {"grad_scale": scale} if by_name else {}
            grad_x, result = implementation.fake_quantize_backward(*arguments, *[scale] * (not by_name), **options)
        except TypeError:
            if not by_name:
                raise
            continue  # it has another name there, which is seen by whoever uses it
        message = f"grad_scale {scale:g} gives the step gradient {result:.9g}, grad_scale 1 gives {one:.9g}"
        require(abs(result - scale * one) <= 2 * allowed * scale, message)
        same = np.abs(grad_x - implementation.fake_quantize_backward(*arguments)[0])
        require((same <= 2 * implementation.eps).all(), f"the gradient of x changed with grad_scale {scale:g}")


@law(LSQ, quantizers("mixed", "inside", "outside"))
def step_gradient_is_a_sum_over_elements(implementation, case):
    """The step's gradient of a tensor is the sum of those of its parts.

    The step's gradient adds up over elements: a mean, or an extra 1/N, breaks this."""
    grad_out, x, *rest = arguments = case.arguments(implementation)
    parts = zip(*(a.reshape((-1, 2, 12) if a.size > 1000 else (-1, 1)) for a in (grad_out, x)))
    whole, parts = implementation.step_gradient(*arguments), sum(implementation.step_gradient(*p, *rest) for p in parts)
    allowed = 2 * _allowed(implementation, *arguments)
    require(abs(whole - parts) <= allowed, f"{whole:.9g} for the whole, {parts:.9g} for its elements")


@law(LSQ, quantizers("mixed", "inside", "outside"))
def quantizer_gradients_are_linear_in_the_outer_gradient(implementation, case):
    """The outer gradient times -2, 2^-30 or 2^20 gives the gradients times as much.

    Both gradients are linear in grad_out: used once, with its sign, however small or large; nothing is clipped."""
    grad_out, *rest = arguments = case.arguments(implementation)
    once = implementation.fake_quantize_backward(*arguments)
    for factor in (-2.0, 2.0**-30, 2.0**20):
        other = implementation.fake_quantize_backward(factor * grad_out, *rest)
        allowed = 2 * implementation.eps * np.abs(grad_out)
        message = f"grad_out times {factor:g}: the gradient of x does not become {factor:g} times what it was"
        require((np.abs(other[0] / factor - once[0]) <= allowed).all(), message)
        if once[1] is not None:
            off, allowed = abs(other[1] / factor - once[1]), 2 * _allowed(implementation, *arguments)
            message = f"grad_out times {factor:g}: the step's gradient {once[1]:.9g} became {other[1]:.9g}"
            require(off <= allowed, message)


# without a mask the two are gradients of different functions
@law("STE", quantizers("mixed", "inside", "outside", "just_outside"), QUANTIZER_MASK=("clip", "open", "round"))
def gradients_are_those_of_the_surrogate(implementation, case):
    """Both gradients equal finite differences of the surrogate: v + offset inside, the range's end outside, times s.

    The gradients are those of the surrogate that keeps each element's rounding offset and side of the range fixed."""
    grad_out, x, step, low, high = arguments = case.arguments(implementation)
    below, above = expected.sides(implementation, x / step, low, high)
    offset = expected.rounded(implementation, np.clip(x / step, low, high)) - x / step

    def surrogate(x, step):
        inside = step * (x / step + offset)
        return (grad_out * np.where(below, step * low, np.where(above, step * high, inside))).sum()

    # the surrogate is linear in x and in s, so that a difference over a large distance is exact up to rounding
    direction = np.random.default_rng(case.seed).normal(size=x.shape) * step
    by_x = surrogate(x + direction, step) - surrogate(x, step)
    by_step = (surrogate(x, 2 * step) - surrogate(x, step)) / step
    grad_x, grad_step = implementation.fake_quantize_backward(*arguments)
    promised, allowed = (grad_x * direction).sum(), 4 * _allowed(implementation, *arguments)
    message = f"x: the gradient promises {promised / step:.9g}, the surrogate moves {by_x / step:.9g}"
    require(abs(promised - by_x) <= allowed * step, message)
    if grad_step is not None:
        require(abs(grad_step - by_step) <= allowed, f"step: gradient {grad_step:.9g}, surrogate {by_step:.9g}")
