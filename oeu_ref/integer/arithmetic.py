"""What a device computes: the operations of an integer network, with no floating-point number anywhere.

Codes are int16, accumulators int32, values between layers int32 or int64. Nothing here looks for overflow: bounds are
proven once, from the codes, when an `oeu_ref.integer.network.IntegerNetwork` is made.
Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018 (accumulators and rescaling); Umuroglu and Jahre, "Streamlined Deployment for Quantized Neural Networks",
2017 (thresholds).
"""

import numpy as np

CODE, ACCUMULATOR, PRODUCT = np.int16, np.int32, np.int64


def quantize(values, thresholds, q_min, gap):
    """Code of each value: q_min + gap * the number of thresholds that it reaches.

    values: integers, any shape; thresholds: the type of the values, ascending; gap: 1, or 2 for the signs -1 and +1,
    which have no zero between them.  Returns int16 of the shape of values.  With gap 1 and the thresholds of
    `oeu_ref.integer.network.thresholds` this is round(clip(v / s, q_min, q_max)), halves to even, for every integer.
    Source: Umuroglu and Jahre, 2017, section 2.
    """
    reached = np.searchsorted(thresholds, values.ravel(), side="right").reshape(values.shape)
    return (q_min + gap * reached).astype(CODE)


def linear(codes, weight):
    """Integer sums of a fully connected layer.  codes: (N, in); weight: (out, in) codes.  Returns int32 (N, out)."""
    return _products(codes[:, None], weight[None])


def conv(codes, weight, stride, padding, dilation, groups):
    """Integer sums of a convolution, as `torch.nn.Conv2d` arranges them, zeros around the image.

    codes: (N, C, H, W); weight: (C', C / groups, h, w) codes; stride, padding, dilation: pairs.
    Returns int32 (N, C', H', W').
    """
    windows = _windows(codes, weight.shape[2:], stride, padding, dilation, 0)
    n, channels, height, width = windows.shape[:4]
    # one row a position and group, its products contiguous: the sum over the last axis is what takes the time
    windows = windows.reshape(n, groups, channels // groups, height, width, -1).transpose(0, 3, 4, 1, 2, 5)
    rows = windows.reshape(n * height * width, groups, -1)
    sums = _products(rows, weight.reshape(groups, len(weight) // groups, -1))
    return np.ascontiguousarray(sums.reshape(n, height, width, -1).transpose(0, 3, 1, 2))


def rescale(sums, multiplier, offset, shift, value_type):
    """Values that integer sums stand for: (sums * multiplier + offset) >> shift, channel by channel.

    sums: integers (N, C, ...); multiplier, offset: (C,); shift >= 0: the offset then holds the half that makes the
    shift, which rounds down, a rounding to the nearest; value_type: int32 or int64.  The product is 64 bits wide.
    Source: Jacob et al., CVPR 2018, section 2.2, with bias and BatchNorm in the wide offset.
    """
    shape = (1, -1) + (1,) * (sums.ndim - 2)
    product = sums.astype(PRODUCT) * multiplier.astype(PRODUCT).reshape(shape) + offset.reshape(shape)
    return (product >> shift).astype(value_type)


def clip(values, high):
    """ReLU, or ReLU6 and its like: values below 0 become 0, values above high become high (None: no such end)."""
    return np.clip(values, 0, high)


def add(first, second):
    """Sum of two values of one unit: the residual connection."""
    return first + second


def sum_pool(values):
    """Sum over the image, in the type of the values: an average whose 1 / (H W) went into the unit.

    values: (N, C, H, W).  Returns (N, C, 1, 1).
    """
    return values.sum(axis=(2, 3), keepdims=True, dtype=values.dtype)


def max_pool(values, kernel, stride, padding):
    """Largest value in each window; kernel, stride, padding: pairs.  values: (N, C, H, W)."""
    lowest = np.iinfo(values.dtype).min  # what no value of the image loses against
    return _windows(values, kernel, stride, padding, (1, 1), lowest).max(axis=(4, 5))


def flatten(values):
    """All features of a sample in a row.  values: (N, ...).  Returns (N, features)."""
    return values.reshape(len(values), -1)


def _products(rows, weight):
    """rows: (P, G, I), weight: (G, O, I).  Returns int32 (P, G * O): for each row and group the sums over I."""
    rows, weight = (np.ascontiguousarray(codes, ACCUMULATOR) for codes in (rows, weight))
    # NumPy multiplies integer matrices without a library, and einsum is the faster of its two ways
    sums = [np.einsum("pi,oi->po", rows[:, g], weight[g], dtype=ACCUMULATOR) for g in range(len(weight))]
    return np.concatenate(sums, axis=1)


def _windows(images, kernel, stride, padding, dilation, around):
    """(N, C, H', W', h, w): what each position of a kernel sees; `around`: what stands outside of the image."""
    edges = [(0, 0), (0, 0), *((p, p) for p in padding)]
    images = np.pad(images, edges, constant_values=around)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation))
    seen = np.lib.stride_tricks.sliding_window_view(images, extent, axis=(2, 3))
    return seen[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
