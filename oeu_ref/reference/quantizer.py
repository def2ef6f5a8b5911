"""Uniform quantizer with straight-through (STE) and learned-step (LSQ) gradients, and the integer codes behind it.

Sources: arXiv 2602.00567 for the method; Esser et al., "Learned Step Size Quantization", ICLR 2020 (LSQ) for the
gradient of the step. v = x / s below; x_hat = s * round(clip(v, Qn, Qp)), rounding halves to even. The binary
quantizer, which has no zero, stands apart: Rastegari et al., "XNOR-Net", ECCV 2016, with a learned step.

x: any shape, float, finite; step: float > 0, in the unit of x; integers q_min < q_max; grad_out: the shape of x,
dL/dx_hat; grad_scale >= 0, of the step's gradient alone. What is none of these raises TypeError for another kind of
number, ValueError for another shape, range, or an entry that is not finite, naming the argument.
"""

import math

import numpy as np

from ..boundary import FLAG, MASK, Floats, Integer, Integers, Like, Number, Step, Whole, Width, of, taking

takes = taking(np)
X = Floats()  # any shape, finite
RANGE = {"q_min": Whole(), "q_max": Whole(of("q_min"), "q_min")}


@takes(bits=Width(), signed=FLAG)
def integer_range(bits, signed=True):
    """Smallest and largest integer code (Qn, Qp).

    bits: 1 to 8.  signed (weights): [-2^(b-1), 2^(b-1) - 1]; unsigned (activations after ReLU): [0, 2^b - 1]. One
    signed bit gives the codes {-1, 0}.  "ternary": {-1, 0, 1}, unsigned {0, 1, 2}.  "binary": {-1, 1} without 0, for
    `binarize` and not for `fake_quantize`; unsigned {0, 1}, the same as one bit.
    Source: LSQ, section 2; the words are ours.
    """
    if isinstance(bits, str):
        levels = {"binary": 2, "ternary": 3}[bits]
        return (-1, 1) if signed else (0, levels - 1)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@takes(x=X, step=Step(), **RANGE)
def fake_quantize(x, step, q_min, q_max):
    """Round x to the grid step * {q_min, ..., q_max}, staying in floating point.

    Returns x_hat, the shape of x.  Source: LSQ, equations 1 and 2;  x_hat = s * round(clip(x / s, Qn, Qp)).
    """
    return step * np.round(np.clip(x / step, q_min, q_max))


@takes(x=X, grad_out=Like("x"), step=Step(), **RANGE, grad_scale=Number(0), mask=MASK)
def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0, mask="clip"):
    """Gradients that training uses in place of the staircase's own, which is zero almost everywhere.

    Returns (grad_x, grad_step): the shape of x, and a float summed over all elements:

        dx_hat/dx = 1 inside, 0 elsewhere;   dx_hat/ds = round(v) - v inside, Qn below, Qp above.

    mask says what "inside" means. "clip": Qn <= v <= Qp, the region that clipping leaves alone (the LSQ paper has the
    strict inequality; here the ends are included, which only a value that lies exactly on one can tell).
    "round": Qn <= round(v) <= Qp, as PyTorch's own fake-quantize operations do, up to half a step further out.
    Source: LSQ, equations 3 (step) and 5 (STE).
    """
    v = x / step
    codes = np.round(v)
    return _gradients(grad_out, v, codes, v if mask == "clip" else codes, q_min, q_max, grad_scale)


@takes(x=X, step=Step(), **RANGE)
def integer_codes(x, step, q_min, q_max):
    """Integers that a device stores: round(clip(x / step, q_min, q_max)), int16 of the shape of x."""
    return np.round(np.clip(x / step, q_min, q_max)).astype(np.int16)


@takes(codes=Integers(), step=Step())
def dequantize(codes, step):
    """Real values that integer codes stand for: step * codes, the inverse of `integer_codes` on the grid.

    codes: integers, any shape.  Returns float64.
    """
    return step * codes.astype(np.float64)


@takes(x=X, step=Step())
def binarize(x, step):
    """Replace each value by the step with its sign: two levels, -s and s, and no zero between them.

    Returns x_hat, the shape of x: s where x >= 0, -s elsewhere.
    Source: XNOR-Net, section 3.1.  In exact arithmetic it is the quantizer with step 2 s and codes {-1, 0}, moved by s:
    fake_quantize(x - s, 2 s, -1, 0) + s. In floating point that composition gives s for a negative x so small that
    x - s is rounded to -s.
    """
    return np.where(x >= 0, step, -step)


@takes(x=X, grad_out=Like("x"), step=Step(), grad_scale=Number(0))
def binarize_backward(grad_out, x, step, grad_scale=1.0):
    """Gradients of `binarize`, as `fake_quantize_backward` has them for the staircase.

    What is returned: as there. By the chain rule through Q(x - s, 2 s) + s, v' = (x - s) / 2s and k its code, 0 or -1:

        dx_hat/dx = 1 where |x| <= s, 0 elsewhere, since Qn <= v' <= Qp is -1 <= v' <= 0;
        dx_hat/ds = -dQ/dx + 2 dQ/ds' + 1 = -1 + 2 (k - v') + 1 = sign(x) - x/s inside, with sign(0) = 1,
                    0 + 2 (-1) + 1 = -1 below, 0 + 2 (0) + 1 = 1 above.

    Source: ours, of LSQ, equations 3 and 5; the mask |x| <= s is that of Hubara et al., "Binarized Neural Networks",
    NeurIPS 2016, equation 4, in the unit of the step.
    """
    v = x / step
    return _gradients(grad_out, v, np.where(v >= 0, 1.0, -1.0), v, -1, 1, grad_scale)


@takes(x=X)
def binary_codes(x):
    """The signs that a device stores: 1 where x >= 0, -1 elsewhere, int16: `dequantize` makes `binarize` of them."""
    return np.where(x >= 0, 1, -1).astype(np.int16)


@takes(x=Floats(empty=False), q_max=Whole(0))
def initial_step(x, q_max):
    """Step with which LSQ training starts: 2 * mean|x| / sqrt(Qp).

    x: not empty; q_max >= 0 (0, at one signed bit, counts as 1).
    Returns a float > 0; 1.0 where x is zero everywhere, since any step represents zeros exactly.
    Source: LSQ, section 2.1.

    At Qp = 1, ternary or 2 bits, that is 1.6 standard deviations of normal values, above the 1.22 of least squared
    error (0.23 for 0.19 of the variance): a start that training moves, kept because it is LSQ's. At Qp = 0, codes
    {-1, 0}, the formula has no value; with 1 for Qp the negative half sees the ternary quantizer.
    """
    return 2 * float(np.abs(x).mean()) / math.sqrt(max(q_max, 1)) or 1.0


@takes(x=Floats(empty=False))
def initial_binary_step(x):
    """Step with which training of a binary quantizer starts: mean|x|.

    x: not empty.  Returns a float > 0; 1.0 where x is zero everywhere, as in `initial_step`.
    Source: XNOR-Net, equation 6. Setting the derivative of sum (|x| - s)^2 to zero gives s = mean|x|, the least squared
    error. LSQ's 2 mean|x| would be twice that: for normal values an error of the whole variance, no better than
    quantizing all to 0, where mean|x| leaves 1 - 2/pi = 36 % of it.
    """
    return float(np.abs(x).mean()) or 1.0


@takes(count=Integer(1), q_max=Whole(0))
def step_gradient_scale(count, q_max):
    """Scale of the step's gradient that keeps its relative update near that of the weights: 1 / sqrt(count * Qp).

    count: number of weights, or of features of one sample for activations; q_max >= 0 (0 counts as 1).
    Returns a float > 0.  Source: LSQ, section 2.2.
    """
    return 1 / math.sqrt(count * max(q_max, 1))


def _gradients(grad_out, v, codes, tested, q_min, q_max, grad_scale):
    """Of x and of the step; tested: what must lie in the range for x to be inside."""
    below, above = tested < q_min, tested > q_max
    slope_of_step = np.where(below, q_min, np.where(above, q_max, codes - v))
    return np.where(below | above, 0.0, grad_out), float(grad_scale * (grad_out * slope_of_step).sum())
