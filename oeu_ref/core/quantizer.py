"""Uniform quantizer with straight-through (STE) and learned-step (LSQ) gradients, in PyTorch, and its module.

Twin of `oeu_ref/reference/quantizer.py`, which has the sources and what the masks mean. v = x / s below;
x_hat = s * round(clip(v, Qn, Qp)), rounding halves to even. x: any shape, float, finite; step: float or 0-d tensor > 0,
in the unit of x; integers q_min < q_max. What is none of these raises TypeError or ValueError, naming the argument.
"""

import math
import warnings

import torch
from torch import Tensor, nn

from ..boundary import FLAG, MASK, Floats, Integers, Like, Number, OneOf, Step, Whole, Width, number, of, taking
from ..reference.quantizer import integer_range, step_gradient_scale
from ..tensors import stretches, wide

takes = taking(torch)
X = Floats()  # any shape, finite
RANGE = {"q_min": Whole(), "q_max": Whole(of("q_min"), "q_min")}
SIGNS = (-1, 1)  # range of the binary quantizer, whose codes are signs: for it "sign" stands in the mask's place


@takes(x=X, step=Step(), **RANGE, grad_scale=Number(0), mask=MASK)
def fake_quantize(x, step, q_min, q_max, grad_scale=1.0, mask="clip"):
    """Round x to the grid step * {q_min, ..., q_max}, staying in floating point; differentiable in x and step.

    grad_scale, mask: as in `fake_quantize_backward`, which autograd calls.  Returns x_hat, the shape and dtype of x.
    """
    return _fake_quantized(x, _tensor(step, x), q_min, q_max, grad_scale, mask)


@takes(x=X, grad_out=Like("x"), step=Step(), **RANGE, grad_scale=Number(0), mask=MASK)
def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0, mask="clip"):
    """Gradients that training uses in place of the staircase's own, which is zero almost everywhere.

    grad_out: the shape of x, dL/dx_hat, finite; grad_scale >= 0 scales the step's gradient alone; mask: "clip" (inside
    is Qn <= v <= Qp) or "round" (Qn <= round(v) <= Qp, as PyTorch's own operations have it).
    Returns (grad_x, grad_step), as the reference: the shape of x, and a 0-d tensor summed over all elements.
    """
    return _backward(grad_out, x, _tensor(step, x), q_min, q_max, grad_scale, mask)


@takes(x=X, step=Step(), **RANGE)
def integer_codes(x, step, q_min, q_max):
    """Integers that a device stores: round(clip(x / step, q_min, q_max)), int16 of the shape of x."""
    return _codes(x, _tensor(step, x), q_min, q_max).to(torch.int16)


@takes(codes=Integers(), step=Step())
def dequantize(codes, step):
    """Real values that integer codes stand for: step * codes, the inverse of `integer_codes` on the grid.

    codes: integers, any shape.  Returns the dtype of the step (float32 for a float).
    """
    return codes.to(step.dtype if isinstance(step, Tensor) else torch.float32) * step


@takes(x=X, step=Step(), grad_scale=Number(0))
def binarize(x, step, grad_scale=1.0):
    """Replace each value by the step with its sign, s where x >= 0, -s elsewhere; differentiable in x and step.

    grad_scale: as in `binarize_backward`, which autograd calls.  Returns x_hat, the shape and dtype of x.
    """
    return _fake_quantized(x, _tensor(step, x), *SIGNS, grad_scale, "sign")


@takes(x=X, grad_out=Like("x"), step=Step(), grad_scale=Number(0))
def binarize_backward(grad_out, x, step, grad_scale=1.0):
    """Gradients of `binarize`, as `fake_quantize_backward` has them for the staircase; inside is |x| <= s."""
    return _backward(grad_out, x, _tensor(step, x), *SIGNS, grad_scale, "sign")


@takes(x=X)
def binary_codes(x):
    """The signs that a device stores: 1 where x >= 0, -1 elsewhere, int16 of the shape of x."""
    return _signs(x).to(torch.int16)


@takes(x=Floats(empty=False), q_max=Whole(0))
def initial_step(x, q_max):
    """Step with which LSQ training starts: 2 * mean|x| / sqrt(Qp).

    x: not empty; q_max >= 0 (0, at one signed bit, counts as 1).
    Returns a 0-d tensor > 0; 1.0 where x is zero everywhere, since any step represents zeros exactly.
    """
    return _positive(2 * x.abs().mean() / math.sqrt(max(q_max, 1)))


@takes(x=Floats(empty=False))
def initial_binary_step(x):
    """Step with which training of a binary quantizer starts: mean|x|, that of least squared error.  x: not empty."""
    return _positive(x.abs().mean())


class Quantizer(nn.Module):
    """Fake quantizer with a learned step, for weights or for activations.

    bits: 1 to 8, "ternary", or "binary": signed, that is `binarize`, and unsigned {0, 1}, one bit's staircase; signed:
    whether codes take both signs, None to let the first batch decide (negative values: signed); mask: as in
    `fake_quantize_backward` ("binary" has "clip" alone: beyond its two levels there is nothing to round to);
    per_sample: True for activations, whose step gradient is scaled by the number of features of one sample, False for
    weights, scaled by the number of weights (LSQ, section 2.2).

    The first tensor that passes in train mode sets the step to `initial_step`, or `initial_binary_step`, unless it is
    zero everywhere; before, each is quantized by the step and sign that it would set. `reset` has them set anew. `step`
    is a parameter from the start, so that an optimizer may be built before; below zero it counts by its magnitude.
    Where the first batch decided for unsigned codes and later ones hold negative values, a warning says so; it looks
    at batches 1, 2, 4, 8, …, since reading waits for the device.
    forward: x of any shape, float -> x_hat, the shape and dtype of x.  Raises ValueError for unknown bits or mask.
    """

    @takes(bits=Width(), signed=OneOf((True, False, None)), mask=MASK, per_sample=FLAG)
    def __init__(self, bits, signed=True, mask="clip", per_sample=False):
        super().__init__()
        self.bits, self.mask = bits, mask
        if bits == "binary" and mask != "clip":
            raise ValueError(f"mask must be 'clip' for binary codes, which do not round, got {mask!r}")
        self.per_sample = per_sample
        self.decides_sign = signed is None
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("initialized", torch.tensor(False))
        self.register_buffer("signed", torch.tensor(bool(signed)))
        self._range = None  # (q_min, q_max) once known: reading the buffers at each call would wait for the device
        self._batches = 0  # that passed unsigned

    def forward(self, x):
        found = self._initialized(x) if self._range is None else None
        (q_min, q_max), step = found or (self._range, self.magnitude)
        if self.decides_sign and q_min == 0:
            self._look_for_negatives(x)
        scale = 1.0
        if not torch.jit.is_tracing():  # there sizes are tensors, and gradients nothing
            count = x.shape[1:].numel() if self.per_sample else x.numel()
            scale = step_gradient_scale.unchecked(max(count, 1), q_max)
        return _fake_quantized(x, step, q_min, q_max, scale, self._mask(q_min))

    @property
    def magnitude(self):
        """The step in force, a 0-d tensor > 0."""
        # the smallest normal number keeps a step of exactly zero a divisor
        return self.step.abs().clamp_min(torch.finfo(self.step.dtype).tiny)

    @torch.no_grad()
    def codes(self, x):
        """Integers that stand for x, int16 of its shape: `forward(x)` is `magnitude` times them.

        Raises ValueError before the first batch.
        """
        if self.range is None:
            raise ValueError("the quantizer must know its step: pass a batch first, in train mode")
        return _codes(x, self.magnitude, *self.range, self._mask(self.range[0])).to(torch.int16)

    def set(self, step, signed):
        """Fix step and sign of the range by hand, in place of the first batch.

        step: float or 0-d tensor, finite and not 0: its magnitude counts.  Raises TypeError or ValueError for another.
        """
        if number("step", float(step)) == 0:
            raise ValueError("step must be another number than 0, which would divide")
        with torch.no_grad():
            self.step.copy_(torch.as_tensor(step, device=self.step.device))
            self.signed.fill_(bool(signed))
            self.initialized.fill_(True)
        self._range = None

    def reset(self):
        """Forget step and sign: the next batch in train mode sets them anew."""
        self.initialized.fill_(False)
        self._range, self._batches = None, 0

    def reread(self, known=None):
        """Take notice of buffers that were changed from outside: a restored or loaded state.

        known: the range that they say, for who knows it; None: the next batch has them read, and sets them if need be.
        """
        self._range = known

    @property
    def unread(self):
        """Whether the next batch may still set step and sign: True until one has passed, and after `reread`."""
        return self._range is None

    @property
    def volatile(self):
        """Names of the buffers that the next batch may change: once one has passed, none but those of a subclass."""
        return () if type(self) is Quantizer and not self.unread else self._buffers

    @property
    def range(self):
        """(q_min, q_max) in force, the smallest and the largest code, or None before the first batch."""
        return integer_range(self.bits, bool(self.signed)) if self.initialized else None

    def _mask(self, q_min):
        return "sign" if self.bits == "binary" and q_min < 0 else self.mask

    @torch.no_grad()
    def _initialized(self, x):
        """Set step and sign by a batch. Where it must not: ((q_min, q_max), step) for this batch alone."""
        if not self.initialized:
            other_than_zero, negative = self.found_in(x)
            signed = negative if self.decides_sign else bool(self.signed)
            codes = integer_range(self.bits, signed)
            step = self.first_step(x, *codes)
            # zeros say nothing of what is to come, nor does a look at shapes in eval mode
            if not (self.training and other_than_zero):
                return codes, step.to(self.step)
            self.set(step, signed)
        self._range = self.range

    def found_in(self, x):
        """(whether a first batch holds another value than 0, whether a negative one)."""
        return tuple(torch.stack([(x != 0).any(), (x < 0).any()]).tolist())

    def first_step(self, x, q_min, q_max):
        """The step that the first batch sets, a 0-d tensor: proportional to a mean over it."""
        return initial_binary_step(x) if self._mask(q_min) == "sign" else initial_step(x, q_max)

    def _look_for_negatives(self, x):
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or self._batches is None:
            return
        self._batches += 1
        if self._batches & (self._batches - 1):
            return
        try:
            negative = bool((x < 0).any())
        except RuntimeError:  # under torch.func.vmap nothing can be read
            return
        if negative:
            self._batches = None  # once is enough
            warnings.warn(
                "a quantizer clips negative inputs to 0: the batch that decided its sign held none; call its reset() "
                "before a batch that does, or set(step, signed=True)",
                stacklevel=2,
            )

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.reread()

    def extra_repr(self):
        """What `print(model)` shows of the quantizer."""
        return f"bits={self.bits!r}, range={self.range}, mask={self.mask!r}"


class _FakeQuantize(torch.autograd.Function):
    generate_vmap_rule = True  # per-sample gradients by torch.func

    @staticmethod
    def forward(x, step, q_min, q_max, grad_scale, mask):
        if mask != "sign" and stretches.worthwhile(x):
            return stretches.fake_quantized(x, step, q_min, q_max)
        codes = _codes(x, step, q_min, q_max, mask)
        # PyTorch 2.11 compiles a function that returns what it wrote in place, or an alias, without its gradient
        x_hat = codes * step if torch.compiler.is_compiling() else codes.mul_(step)
        return x_hat if x_hat.dtype == x.dtype else x_hat.to(x.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.constants = inputs[2:]

    @staticmethod
    def backward(ctx, grad_out):
        x, step = ctx.saved_tensors
        # a gradient that is to be differentiated itself is made of operations that autograd follows
        large = ctx.constants[-1] != "sign" and stretches.worthwhile(x) and not torch.is_grad_enabled()
        backward = stretches.fake_quantize_backward if large else _backward
        grad_x, grad_step = backward(grad_out, x, step, *ctx.constants)
        return grad_x, grad_step, None, None, None, None


def _fake_quantized(*inputs):
    # a trace, TorchScript's and ONNX's, holds PyTorch's own operations alone
    return (_FakeQuantize.forward if torch.jit.is_tracing() else _FakeQuantize.apply)(*inputs)


def _codes(x, step, q_min, q_max, mask="clip"):
    # in place: on large tensors fresh memory costs more than the arithmetic
    return _signs(x) if mask == "sign" else (wide(x) / step).clamp_(q_min, q_max).round_()


def _backward(grad_out, x, step, q_min, q_max, grad_scale, mask):
    v = wide(x) / step
    tested = v.round() if mask == "round" else v
    clipped = tested.clamp(q_min, q_max)
    outside = tested != clipped
    # inside the code less v, outside the code alone, which is what was clipped to: code - v, with v = 0 outside
    code = _signs(x) if mask == "sign" else clipped.round_()
    slope_of_step = code.sub_(torch.where(outside, 0.0, v))
    grad_step = grad_scale * (slope_of_step * grad_out).sum(dtype=slope_of_step.dtype)
    return torch.where(outside, 0.0, grad_out), grad_step.to(step.dtype)  # masked_fill makes channels-last contiguous


def _signs(x):
    x = wide(x)
    # NaN stays NaN: compared with 0 it would become -1, and a network that diverged would look healthy
    return (x >= 0).to(x.dtype).mul_(2).sub_(1).masked_fill_(x.isnan(), torch.nan)


def _positive(step):
    return torch.where(step > 0, step, torch.ones_like(step))


def _tensor(step, x):
    # bfloat16 has fewer digits than 8-bit codes need
    return step if isinstance(step, Tensor) else torch.tensor(step, dtype=wide(x).dtype, device=x.device)
