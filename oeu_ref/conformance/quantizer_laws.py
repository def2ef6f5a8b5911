"""Laws of the uniform quantizer and its surrogate gradients: the STE of arXiv 2602.00567 and the step of LSQ."""

import numpy as np

from ..reference import quantizer as reference
from .cases import QuantizerCase, quantizers
from .law import about, require

LSQ = "LSQ"
law = about("fake_quantize")
EVERY_WIDTH = quantizers(
    "mixed", extra=[QuantizerCase("mixed", bits, signed, 0, 24) for bits in range(1, 9) for signed in (True, False)]
)


def _rounding(implementation, x, step):
    """Bound on the rounding error of x_hat: two roundings of a number of this size."""
    return 4 * implementation.eps * (np.abs(x) + step)


def _worst(error, allowed, x, step):
    i = np.unravel_index(np.argmax(error - allowed), error.shape)
    return f"off by {error[i] / step:.3g} steps at x = {x[i] / step:.9g} steps"


@law(LSQ, quantizers())
def fake_quantize_is_step_times_rounded_clipped_ratio(implementation, case):
    """The quantized value is step * round(clip(x / step, q_min, q_max)), halves rounded to even.

    x_hat = step * round(clip(x / step, q_min, q_max)): check the order, the range and the final multiplication."""
    x, step, _ = case.arrays(implementation)
    expected = reference.fake_quantize(x, step, case.q_min, case.q_max)
    error = np.abs(implementation.fake_quantize(x, step, case.q_min, case.q_max) - expected)
    allowed = _rounding(implementation, expected, step)
    require((error <= allowed).all(), lambda: _worst(error, allowed, x, step))


@law(LSQ, quantizers())
def quantized_values_lie_on_the_grid(implementation, case):
    """Every quantized value is the step times an integer from q_min to q_max.

    A quantized value is the step times a whole number in [q_min, q_max]: is the final multiplication there?"""
    x, step, _ = case.arrays(implementation)
    codes = implementation.fake_quantize(x, step, case.q_min, case.q_max) / step
    off = np.abs(codes - np.round(codes)).max()
    require(off <= 4 * implementation.eps * max(1, np.abs(codes).max()), f"{off:.3g} steps off the grid")
    require(
        case.q_min <= np.round(codes.min()) and np.round(codes.max()) <= case.q_max,
        f"codes from {codes.min():g} to {codes.max():g} outside [{case.q_min}, {case.q_max}]",
    )


@law(LSQ, quantizers("inside", "ties", "ends"))
def quantization_error_is_at_most_half_a_step(implementation, case):
    """Inside the range, a quantized value is at most half a step from the value.

    Rounding goes to the nearest code: floor, ceil and trunc are off by up to a whole step."""
    x, step, _ = case.arrays(implementation)
    error = np.abs(implementation.fake_quantize(x, step, case.q_min, case.q_max) - x)
    allowed = step / 2 + _rounding(implementation, x, step)
    require((error <= allowed).all(), lambda: _worst(error, allowed, x, step))


@law(LSQ, quantizers("ties"))
def halves_are_rounded_to_even(implementation, case):
    """A value halfway between two codes takes the even one.

    Halves go to the even code (IEEE rounding, as NumPy and PyTorch do), not up and not away from zero."""
    x, step, _ = case.arrays(implementation)
    codes = np.round(implementation.fake_quantize(x, step, case.q_min, case.q_max) / step)
    require((codes % 2 == 0).all(), lambda: f"{x[codes % 2 != 0][0] / step:g} became {codes[codes % 2 != 0][0]:g}")


@law(LSQ, quantizers("outside", "just_outside", "ends"))
def values_beyond_the_range_take_its_end(implementation, case):
    """At and below step * q_min the result is step * q_min, at and above step * q_max it is step * q_max.

    Values beyond the range take its end: check q_min and q_max, each side."""
    x, step, _ = case.arrays(implementation)
    expected = np.where(x / step < (case.q_min + case.q_max) / 2, case.q_min, case.q_max) * step
    error = np.abs(implementation.fake_quantize(x, step, case.q_min, case.q_max) - expected)
    allowed = _rounding(implementation, expected, step)
    require((error <= allowed).all(), lambda: _worst(error, allowed, x, step))


@law(LSQ, quantizers())
def quantization_is_monotone(implementation, case):
    """A larger value never has a smaller quantized value.

    A larger value never gets a smaller code."""
    x, step, _ = case.arrays(implementation)
    x = np.sort(x, axis=None)
    rises = np.diff(implementation.fake_quantize(x, step, case.q_min, case.q_max))
    allowed = _rounding(implementation, x[1:], step)
    require((rises >= -allowed).all(), lambda: f"falls by {-rises.min() / step:.3g} steps")


@law(LSQ, quantizers())
def quantization_is_idempotent(implementation, case):
    """Quantizing twice is quantizing once.

    Quantizing what is quantized already changes nothing: is the result on the same grid as the rounding?"""
    x, step, _ = case.arrays(implementation)
    once = implementation.fake_quantize(x, step, case.q_min, case.q_max)
    twice = implementation.fake_quantize(once, step, case.q_min, case.q_max)
    error, allowed = np.abs(twice - once), _rounding(implementation, once, step)
    require((error <= allowed).all(), lambda: _worst(error, allowed, once, step))


@law(LSQ, quantizers())
def quantization_scales_with_the_step(implementation, case):
    """Values and step times a power of two: the result is times the same power of two.

    Only the ratio x / step decides the code: an absolute constant or a fixed number of digits has crept in."""
    x, step, _ = case.arrays(implementation)
    factor = 2.0**-9
    small = implementation.fake_quantize(x * factor, step * factor, case.q_min, case.q_max)
    error = np.abs(small / factor - implementation.fake_quantize(x, step, case.q_min, case.q_max))
    allowed = _rounding(implementation, x, step)
    require((error <= allowed).all(), lambda: _worst(error, allowed, x, step))


@law(LSQ, EVERY_WIDTH, weight=0.1)
def every_code_of_the_range_is_used(implementation, case):
    """Values that run through the whole range reach every code from q_min to q_max, and only those.

    Every bit width from 1 to 8, signed and unsigned, uses all its codes and no others."""
    codes = np.arange(case.q_min - 2, case.q_max + 3)
    result = np.round(implementation.fake_quantize(codes * 0.5, 0.5, case.q_min, case.q_max) / 0.5)
    expected = np.arange(case.q_min, case.q_max + 1)
    require(np.array_equal(np.unique(result), expected), f"codes {np.unique(result)}, expected {expected}")


law = about("fake_quantize_backward")


def _expected_backward(implementation, case, grad_scale):
    x, step, grad_out = case.arrays(implementation)
    expected = reference.fake_quantize_backward(
        grad_out, x, step, case.q_min, case.q_max, grad_scale, implementation.mask
    )
    largest = max(abs(case.q_min), abs(case.q_max)) + np.abs(x / step).max()
    # each term of the sum carries the rounding of x / step, and the sum that of its terms
    allowed = (8 + np.sqrt(x.size)) * implementation.eps * grad_scale * np.abs(grad_out).sum() * largest
    return x, step, grad_out, *expected, allowed


def _check_grad_x(implementation, case):
    x, step, grad_out, grad_x, _, _ = _expected_backward(implementation, case, 1.0)
    result, _ = implementation.fake_quantize_backward(grad_out, x, step, case.q_min, case.q_max)
    error = np.abs(result - grad_x)
    i = np.unravel_index(np.argmax(error), error.shape)
    require(
        (error <= 2 * implementation.eps * np.abs(grad_out)).all(),
        f"at x / step = {x[i] / step:.9g}, range [{case.q_min}, {case.q_max}]: gradient {grad_out[i]:.6g} came out as "
        f"{result[i]:.6g}, expected {grad_x[i]:.6g}",
    )


@law("STE", quantizers("inside", "outside", "mixed"))
def straight_through_gradient_passes_inside_only(implementation, case):
    """The gradient with respect to x is that of x_hat inside the range and 0 outside.

    The straight-through gradient passes unchanged inside the range and is 0 outside, on both sides."""
    _check_grad_x(implementation, case)


@law("STE", quantizers("just_outside"), QUANTIZER_MASK="clip")
def clip_mask_blocks_what_clipping_moves(implementation, case):
    """With the clip mask, no gradient passes where clipping moved the value, even by less than half a step.

    With QUANTIZER_MASK = "clip" values up to half a step beyond the range are outside already; PyTorch's own fake-
    quant operations pass them: that is QUANTIZER_MASK = "round"."""
    _check_grad_x(implementation, case)


@law("STE", quantizers("just_outside"), QUANTIZER_MASK="round")
def round_mask_passes_what_rounds_into_the_range(implementation, case):
    """With the round mask, the gradient passes up to half a step beyond the range.

    QUANTIZER_MASK = "round" is claimed: values that round to a code in the range pass their gradient."""
    _check_grad_x(implementation, case)


@law("STE", quantizers("ends", "ties"))
def the_ends_of_the_range_pass_their_gradient(implementation, case):
    """Values at exactly step * q_min and step * q_max, and on ties inside, pass their gradient.

    The ends belong to the inside (q_min <= x / step <= q_max): a strict mask, such as the gradient of torch.clamp
    in recent versions, stops values that lie exactly on an end."""
    _check_grad_x(implementation, case)


@law(LSQ, quantizers())
def step_gradient_is_lsqs(implementation, case):
    """The step's gradient is the sum of grad_out times (round(v) - v inside, q_min below, q_max above).

    dx_hat/ds = round(v) - v inside, q_min below, q_max above; times grad_out, summed over all elements."""
    x, step, grad_out, _, grad_step, allowed = _expected_backward(implementation, case, 1.0)
    _, result = implementation.fake_quantize_backward(grad_out, x, step, case.q_min, case.q_max)
    require(abs(result - grad_step) <= allowed, f"{result:.9g}, expected {grad_step:.9g} within {allowed:.1e}")


@law(LSQ, quantizers("mixed", "outside"))
def grad_scale_scales_the_step_gradient_alone(implementation, case):
    """grad_scale multiplies the step's gradient and nothing else.

    grad_scale multiplies the gradient of the step, once, and leaves that of x alone."""
    x, step, grad_out, _, _, allowed = _expected_backward(implementation, case, 1.0)
    arguments = grad_out, x, step, case.q_min, case.q_max
    grad_x, grad_step = implementation.fake_quantize_backward(*arguments)
    result_x, result_step = implementation.fake_quantize_backward(*arguments, 0.25)
    require(
        abs(result_step - 0.25 * grad_step) <= allowed / 2,
        f"grad_scale 0.25 gives the step gradient {result_step:.9g}, grad_scale 1 gives {grad_step:.9g}",
    )
    require(
        (np.abs(result_x - grad_x) <= 2 * implementation.eps * np.abs(grad_out)).all(),
        "the gradient of x changed with grad_scale",
    )


@law(LSQ, quantizers("mixed", "inside", "outside"))
def step_gradient_is_a_sum_over_elements(implementation, case):
    """The step's gradient of a tensor is the sum of those of its elements, one at a time.

    The step's gradient adds up over elements: a mean, or an extra 1/N, breaks this."""
    x, step, grad_out, _, _, allowed = _expected_backward(implementation, case, 1.0)
    _, whole = implementation.fake_quantize_backward(grad_out, x, step, case.q_min, case.q_max)
    parts = sum(
        implementation.fake_quantize_backward(
            grad_out.flat[i : i + 1], x.flat[i : i + 1], step, case.q_min, case.q_max
        )[1]
        for i in range(x.size)
    )
    require(abs(whole - parts) <= 2 * allowed, f"{whole:.9g} for the whole, {parts:.9g} for its elements")


@law(LSQ, quantizers("mixed", "inside", "outside"))
def quantizer_gradients_are_linear_in_the_outer_gradient(implementation, case):
    """Twice the negative outer gradient gives twice the negative gradients.

    Both gradients are linear in grad_out: it must be used once, with its sign."""
    x, step, grad_out, _, _, allowed = _expected_backward(implementation, case, 1.0)
    grad_x, grad_step = implementation.fake_quantize_backward(grad_out, x, step, case.q_min, case.q_max)
    grad_x2, grad_step2 = implementation.fake_quantize_backward(-2 * grad_out, x, step, case.q_min, case.q_max)
    require(
        (np.abs(grad_x2 + 2 * grad_x) <= 4 * implementation.eps * np.abs(grad_out)).all(), "the gradient of x is not"
    )
    require(abs(grad_step2 + 2 * grad_step) <= 4 * allowed, f"step gradient {grad_step:.9g} became {grad_step2:.9g}")


@law("STE", quantizers("mixed", "inside", "outside", "just_outside"))
def gradients_are_those_of_the_surrogate(implementation, case):
    """Both gradients equal finite differences of the surrogate: v + offset inside, the range's end outside, times s.

    The gradients are those of the surrogate that keeps each element's rounding offset and side of the range
    fixed."""
    x, step, grad_out = case.arrays(implementation)
    v = x / step
    tested = v if implementation.mask == "clip" else np.round(v)
    below, above = tested < case.q_min, tested > case.q_max
    offset = np.round(np.clip(v, case.q_min, case.q_max)) - v

    def surrogate(x, step):
        inside = step * (x / step + offset)
        return (grad_out * np.where(below, step * case.q_min, np.where(above, step * case.q_max, inside))).sum()

    # the surrogate is linear in x and in s, so that a difference over a large distance is exact up to rounding
    direction = np.random.default_rng(case.seed).normal(size=x.shape) * step
    by_x = surrogate(x + direction, step) - surrogate(x, step)
    by_step = (surrogate(x, 2 * step) - surrogate(x, step)) / step
    grad_x, grad_step = implementation.fake_quantize_backward(grad_out, x, step, case.q_min, case.q_max)
    allowed = _expected_backward(implementation, case, 1.0)[-1]
    require(
        abs((grad_x * direction).sum() - by_x) <= 4 * allowed * step,
        f"x: the gradient promises {(grad_x * direction).sum() / step:.9g}, the surrogate moves {by_x / step:.9g}",
    )
    require(abs(grad_step - by_step) <= 4 * allowed, f"step: gradient {grad_step:.9g}, surrogate {by_step:.9g}")
