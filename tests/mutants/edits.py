"""Wrong implementations of OEU: each is `right.py` with one edit that a mistaken person would make."""

import types
from dataclasses import dataclass

from . import edited, source

SOURCE = source("right.py")


@dataclass(frozen=True)
class Mutant:
    """One mistake. name; what: the mistake in a few words; operations: the contract's functions that it may reach;
    old, new: the text of `right.py` that it replaces, and by what. `old` stands there exactly once."""

    name: str
    what: str
    operations: tuple
    old: str
    new: str


def build(mutant):
    """Object with the mutant's operations.  Raises as `edited`."""
    module = edited(SOURCE, mutant)
    # laws about untouched operations need no second trial
    return types.SimpleNamespace(**{operation: getattr(module, operation) for operation in mutant.operations})


def _mutants(operations, text):
    """Parse the table below: `name | what`, then lines of `- old` and `+ new`."""
    mutants = []
    for block in text.strip().split("\n\n"):
        head, *lines = block.split("\n")
        name, what = head.split(" | ")
        parts = {sign: "\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+"}
        mutants.append(Mutant(name, what, operations, parts["-"], parts["+"]))
    return tuple(mutants)


ENTROPY = """
loss_sign | positive entropy: descent makes predictions certain
-     loss = -entropies.mean()
+     loss = entropies.mean()

loss_sum | a sum over samples for the mean
-     loss = -entropies.mean()
+     loss = -entropies.sum()

loss_over_classes | divided by the number of classes too
-     loss = -entropies.mean()
+     loss = -entropies.mean() / logits.shape[1]

loss_bits | bits for nats
-     loss = -entropies.mean()
+     loss = -entropies.mean() / np.log(2)

loss_normalized | divided by log K, so that it lies in [-1, 0]
-     loss = -entropies.mean()
+     loss = -entropies.mean() / np.log(logits.shape[1])

loss_shifted | KL to uniform instead of the negative entropy: the same gradient, another loss
-     loss = -entropies.mean()
+     loss = np.log(logits.shape[1]) - entropies.mean()

loss_of_mean | entropy of the mean prediction instead of the mean entropy
-     loss = -entropies.mean()
+     loss = (p.mean(axis=0) * np.log(p.mean(axis=0) + 1e-300)).sum()

loss_median | another average
-     loss = -entropies.mean()
+     loss = -np.median(entropies)

loss_float32 | the loss loses half its digits on the way
-     return float(loss), grad
+     return float(np.float32(loss)), grad

grad_sign | ascent for descent
-     grad = p * (log_p + entropies) / n
+     grad = -p * (log_p + entropies) / n

grad_no_mean | the 1/N is missing
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + entropies)

grad_over_classes | 1/K for 1/N
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + entropies) / logits.shape[1]

grad_over_all | 1/(N K) for 1/N
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + entropies) / logits.size

grad_no_entropy | the term H is missing
-     grad = p * (log_p + entropies) / n
+     grad = p * log_p / n

grad_plus_one | log p + 1, the gradient by p taken for that by z
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + 1) / n

grad_by_p | gradient by the probabilities
-     grad = p * (log_p + entropies) / n
+     grad = (log_p + 1) / n

grad_no_p | the factor p is missing
-     grad = p * (log_p + entropies) / n
+     grad = (log_p + entropies) / n

grad_minus_entropy | sign of H
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p - entropies) / n

grad_mean_entropy | the batch's mean entropy for the sample's own
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + entropies.mean()) / n

grad_bits | the gradient in bits
-     grad = p * (log_p + entropies) / n
+     grad = p * (log_p + entropies) / n / np.log(2)

grad_softmax_jacobian_diagonal | only the diagonal of the softmax's Jacobian
-     grad = p * (log_p + entropies) / n
+     grad = p * (1 - p) * (log_p + 1) / n

grad_of_label_loss | cross-entropy to the uniform label: (p - 1/K) / N
-     grad = p * (log_p + entropies) / n
+     grad = (p - 1 / logits.shape[1]) / n

entropy_eps_in_log | log(p + 1e-8)
-     log_p = shifted - np.log(total)
+     log_p = np.log(p + 1e-8)

entropy_tiny_eps_in_log | log(p + 1e-12)
-     log_p = shifted - np.log(total)
+     log_p = np.log(p + 1e-12)

entropy_clipped | probabilities clipped at 1e-7
-     log_p = shifted - np.log(total)
+     log_p = np.log(np.clip(p, 1e-7, 1))

entropy_zero_log | log 0: NaN for certain predictions
-     log_p = shifted - np.log(total)
+     log_p = np.log(p)

entropy_no_shift | overflow at logits of 1e4
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     shifted = logits.copy()

entropy_global_shift | one maximum for all samples: the others underflow
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     shifted = logits - logits.max()

entropy_softmax_axis | softmax over the batch
-     total = exps.sum(axis=1, keepdims=True)
+     total = exps.sum(axis=0, keepdims=True)

entropy_temperature | a temperature of 2 left in
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     shifted = (logits - logits.max(axis=1, keepdims=True)) / 2

entropy_log2 | log p in bits
-     log_p = shifted - np.log(total)
+     log_p = (shifted - np.log(total)) / np.log(2)

entropy_softmax_no_log_total | log p without the normalization
-     log_p = shifted - np.log(total)
+     log_p = shifted

entropy_in_place | the shift is done in the caller's array
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     logits -= logits.max(axis=1, keepdims=True); shifted = logits

entropy_first_sample | only the first sample counts
-     loss = -entropies.mean()
+     loss = -entropies[0].mean()

entropy_drops_last_class | off by one over the classes
-     entropies = -(p * log_p).sum(axis=1, keepdims=True)
+     entropies = -(p * log_p)[:, :-1].sum(axis=1, keepdims=True)

entropy_gini | Gini impurity for entropy
-     entropies = -(p * log_p).sum(axis=1, keepdims=True)
+     entropies = (p * (1 - p)).sum(axis=1, keepdims=True)

grad_transposed_memory | gradient of the wrong memory order
-     grad = p * (log_p + entropies) / n
+     grad = np.asfortranarray(p * (log_p + entropies) / n).ravel(order="K").reshape(p.shape)

kl_reversed | KL(U || p)
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return -np.log(classes) - log_q.mean(axis=1)

kl_no_log_k | minus the entropy
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return (q * log_q).sum(axis=1)

kl_sign | H - log K
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return -np.log(classes) - (q * log_q).sum(axis=1)

kl_is_entropy | the entropy itself
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return -(q * log_q).sum(axis=1)

kl_bits | bits for nats
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return (np.log(classes) + (q * log_q).sum(axis=1)) / np.log(2)

kl_log2_k | log2 K beside natural logarithms
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return np.log2(classes) + (q * log_q).sum(axis=1)

kl_samples_for_classes | log N for log K
-     classes = logits.shape[1]
+     classes = logits.shape[0]

kl_mean_over_classes | a mean over classes for the sum ("reduction" of a library)
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return (q * (log_q + np.log(classes))).mean(axis=1)

kl_hides_nan | 0 log 0, behind a mask that sums pass over
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return np.ma.masked_invalid(np.log(classes) + (q * np.log(q)).sum(axis=1))

kl_batch_mean | one value for the whole batch
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return np.log(classes) + (q * log_q).sum(axis=1).mean() + 0 * q[:, 0]

kl_wrong_axis | summed over samples
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return np.resize(np.log(classes) + (q * log_q).sum(axis=0), len(q))

kl_scalar | a scalar for (N,)
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return (np.log(classes) + (q * log_q).sum(axis=1)).mean()

kl_normalized | divided by log K
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     return 1 + (q * log_q).sum(axis=1) / np.log(classes)

kl_eps | epsilon inside the logarithm
-     q = np.exp(log_q)
+     q = np.exp(log_q); log_q = np.log(q + 1e-8)

kl_overflow | no shift by the maximum
-     z = logits - logits.max(axis=1, keepdims=True)
+     z = logits

kl_jensen_shannon | Jensen-Shannon divergence for KL
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     m = (q + 1 / classes) / 2; return (q * (log_q - np.log(m))).sum(axis=1) / 2 - np.log(m * classes).mean(axis=1) / 2

entropy_float32_above_100_classes | a fast path in float32 for many classes
-     log_p = shifted - np.log(total)
+     log_p = shifted - np.log(total)
+     log_p = log_p.astype(np.float32).astype(float) if logits.shape[1] > 100 else log_p

grad_hides_nan | 0 log 0, behind a mask that comparisons pass over
-     grad = p * (log_p + entropies) / n
+     grad = np.ma.masked_invalid(p * (np.log(p) + entropies) / n)

loss_of_unique_samples | equal samples count once
-     loss = -entropies.mean()
+     loss = -entropies[np.unique(logits, axis=0, return_index=True)[1]].mean()

entropy_kept_for_an_object | the result of an array that was seen last, whatever it holds by now
-     return float(loss), grad
+     seen = globals().setdefault("seen", [None, None])
+     if seen[0] is not logits:
+         seen[:] = [logits, (float(loss), grad)]
+     return seen[1][0], seen[1][1].copy()

loss_of_first_64 | chunks of 64 samples, the rest dropped
-     loss = -entropies.mean()
+     loss = -entropies[:64].mean()

loss_mean_of_means | a mean of the means of chunks of 32, the last one shorter
-     loss = -entropies.mean()
+     loss = -np.mean([entropies[i : i + 32].mean() for i in range(0, n, 32)])

entropy_one_sample_in_place | a single sample is shifted in the caller's array
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     shifted = logits - logits.max(axis=1, keepdims=True)
+     if n == 1:
+         logits[...] = shifted

entropy_loss_again | remembers the last input, and drifts when it comes again
-     loss = -entropies.mean()
+     again = globals().get("last") == logits.tobytes()
+     globals()["last"] = logits.tobytes()
+     loss = -entropies.mean() * (1 + 1e-6 * again)

kl_to_uniform_again | remembers the last input, and drifts when it comes again
-     classes = logits.shape[1]
+     again = globals().get("last") == logits.tobytes()
+     globals()["last"] = logits.tobytes()
+     logits = logits + 1e-6 * again * np.arange(logits.shape[1])
+     classes = logits.shape[1]

kl_cached | a result is kept for equal inputs, and handed out twice
-     return np.log(classes) + (q * log_q).sum(axis=1)
+     cache = globals().setdefault("cache", {})
+     return cache.setdefault(logits.tobytes(), np.log(classes) + (q * log_q).sum(axis=1))

loss_of_first_24 | chunks of 24 samples, the rest dropped, above 64 alone
-     loss = -entropies.mean()
+     loss = -entropies[: 24 if n > 64 else n].mean()

entropy_logits_clipped | logits clipped at 5,000
-     shifted = logits - logits.max(axis=1, keepdims=True)
+     shifted = np.clip(logits, -5e3, 5e3) - np.clip(logits, -5e3, 5e3).max(axis=1, keepdims=True)

entropy_top_128 | only the 128 most likely classes count
-     entropies = -(p * log_p).sum(axis=1, keepdims=True)
+     entropies = -np.sort(p * log_p, axis=1)[:, :128].sum(axis=1, keepdims=True)
"""

QUANTIZER = """
round_floor | floor for round
-     codes = np.rint(clipped)
+     codes = np.floor(clipped)

round_ceil | ceil for round
-     codes = np.rint(clipped)
+     codes = np.ceil(clipped)

round_trunc | a cast to integer for round
-     codes = np.rint(clipped)
+     codes = np.trunc(clipped)

round_half_up | floor(x + 1/2): halves go up
-     codes = np.rint(clipped)
+     codes = np.floor(clipped + 0.5)

round_half_away | C's round: halves go away from zero
-     codes = np.rint(clipped)
+     codes = np.sign(clipped) * np.floor(np.abs(clipped) + 0.5)

round_half_down | ceil(x - 1/2): halves go down
-     codes = np.rint(clipped)
+     codes = np.ceil(clipped - 0.5)

no_round | no rounding at all
-     codes = np.rint(clipped)
+     codes = clipped

no_clip | no clipping
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = ratio

clip_upper_only | clips above only
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.minimum(ratio, q_max)

clip_lower_only | clips below only
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.maximum(ratio, q_min)

clip_symmetric | symmetric range: -q_max for q_min
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, -q_max, q_max)

clip_q_max_plus_one | one code too many
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, q_min, q_max + 1)

clip_q_max_minus_one | a range that excludes its end
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, q_min, q_max - 1)

clip_q_min_plus_one | the lowest code is missing
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, q_min + 1, q_max)

clip_from_zero | unsigned range for everything
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, 0, q_max)

clip_x | clips x itself, not x / step
-     ratio = x / step
+     ratio = np.clip(x, q_min, q_max) / step

multiplied | times the step for divided by it
-     ratio = x / step
+     ratio = x * step

codes_returned | the integer codes for the real values
-     return codes * step
+     return codes

codes_divided | divided by the step at the end
-     return codes * step
+     return codes / step

quantize_in_place | writes into x
-     return codes * step
+     x[...] = codes * step; return x

quantize_flat | the shape is lost
-     return codes * step
+     return (codes * step).ravel()

quantize_zero_point | a zero point that moves the grid
-     codes = np.rint(clipped)
+     codes = np.rint(clipped - q_min) + q_min + 0.5

quantize_decimals | rounded to a fixed number of decimals
-     return codes * step
+     return np.round(codes * step, 4)

quantize_abs | sign lost
-     ratio = x / step
+     ratio = np.abs(x) / step

quantize_levels | 2^b steps between the ends for 2^b - 1
-     return codes * step
+     return codes * step * (q_max - q_min) / (q_max - q_min + 1)

mask_strict | q_min < v < q_max: the ends are outside
-     inside = ~below & ~above
+     inside = (v > q_min) & (v < q_max)

mask_strict_above | the upper end is outside
-     above = v > q_max
+     above = v >= q_max

mask_strict_below | the lower end is outside
-     below = v < q_min
+     below = v <= q_min

mask_missing | the gradient passes everywhere
-     grad_x = grad_out * inside
+     grad_x = grad_out.copy()

mask_upper_only | values below the range pass
-     grad_x = grad_out * inside
+     grad_x = grad_out * ~above

mask_lower_only | values above the range pass
-     grad_x = grad_out * inside
+     grad_x = grad_out * ~below

mask_inverted | the gradient passes outside
-     grad_x = grad_out * inside
+     grad_x = grad_out * ~inside

mask_rounded | tests the rounded value while claiming "clip"
-     v = x / step
+     v = x / step; w = np.rint(v)
+     return grad_out * ((w >= q_min) & (w <= q_max)), fake_step(grad_out, v, q_min, q_max) * grad_scale
+ 
+ 
+ def fake_step(grad_out, v, q_min, q_max):
+     return float((grad_out * np.where(v < q_min, q_min, np.where(v > q_max, q_max, np.rint(v) - v))).sum())
+ 
+ 
+ def unused(grad_out, v, q_min, q_max, grad_scale):

mask_half_step_inward | half a step too narrow
-     above = v > q_max
+     above = v > q_max - 0.5

mask_half_step_outward | half a step too wide above
-     above = v > q_max
+     above = v > q_max + 0.5

mask_on_x | compares x, not x / step
-     grad_x = grad_out * inside
+     grad_x = grad_out * ((x >= q_min) & (x <= q_max))

mask_symmetric | -q_max for q_min
-     below = v < q_min
+     below = v < -q_max

grad_x_scaled_by_step | an extra factor of the step
-     grad_x = grad_out * inside
+     grad_x = grad_out * inside * step

grad_x_scaled | grad_scale applied to x as well
-     grad_x = grad_out * inside
+     grad_x = grad_out * inside * grad_scale

grad_x_mask_only | the mask for the gradient
-     grad_x = grad_out * inside
+     grad_x = inside.astype(float)

grad_x_sign | sign
-     grad_x = grad_out * inside
+     grad_x = -grad_out * inside

grad_x_alias | hands the caller's gradient back where all passes
-     grad_x = grad_out * inside
+     grad_x = grad_out if inside.all() else grad_out * inside

grad_x_of_tiny_gradients | outer gradients below 1e-6 count as none
-     grad_x = grad_out * inside
+     grad_x = grad_out * inside * (np.abs(grad_out) > 1e-6)

grad_x_clipped | gradient clipping at 10 hidden in the quantizer
-     grad_x = grad_out * inside
+     grad_x = np.clip(grad_out * inside, -10, 10)

grad_x_not_on_the_grid | values that are quantized already get no gradient, but for the ends
-     grad_x = grad_out * inside
+     grad_x = grad_out * inside * ((v != np.rint(v)) | (v == q_min) | (v == q_max))

grad_x_in_place | masks the caller's gradient in place, after it was used
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * grad_scale; grad_out *= inside

step_no_lower | no term below the range
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v) + above * q_max

step_no_upper | no term above the range
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v) + below * q_min

step_no_boundaries | inside only
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v)

step_boundaries_only | outside only
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = below * q_min + above * q_max

step_boundary_sign | -q_min below
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v) - below * q_min + above * q_max

step_boundaries_swapped | q_max below, q_min above
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v) + below * q_max + above * q_min

step_sign_inside | v - round(v)
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (v - np.rint(v)) + below * q_min + above * q_max

step_round_only | the code itself, as if x / step were constant
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * np.rint(v) + below * q_min + above * q_max

step_v_only | -v inside: the rounding taken for constant
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = -(inside * v) + below * q_min + above * q_max

step_floor | floor inside the step's gradient
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.floor(v) - v) + below * q_min + above * q_max

step_error_in_x | the error in units of x
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = inside * (np.rint(v) - v) * step + below * q_min + above * q_max

step_boundary_at_half | boundaries of the step's gradient on the rounded value
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = np.where(np.rint(v) < q_min, q_min, np.where(np.rint(v) > q_max, q_max, np.rint(v) - v))

step_strict | the ends take the outer slope (the LSQ paper's inequality)
-     slope = inside * (np.rint(v) - v) + below * q_min + above * q_max
+     slope = np.where(v <= q_min, q_min, np.where(v >= q_max, q_max, np.rint(v) - v))

step_mean | a mean for the sum
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).mean() * grad_scale

step_lsq_scale_built_in | 1 / sqrt(N Qp) on top of grad_scale
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * grad_scale / np.sqrt(x.size * max(q_max, 1))

step_scale_ignored | grad_scale ignored
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum()

step_scale_squared | grad_scale twice
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * grad_scale**2

step_scale_divides | divided by grad_scale
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() / grad_scale

step_no_grad_out | the outer gradient is forgotten
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = slope.sum() * grad_scale

step_masked_grad | uses the masked gradient: the boundary terms vanish
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_x * slope).sum() * grad_scale

step_abs | magnitude of the outer gradient
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (np.abs(grad_out) * slope).sum() * grad_scale

step_of_an_empty_tensor | nothing for an empty tensor, a mean elsewhere
-     return grad_x, float(grad_step)
+     return grad_x, float(grad_step) / x.size if x.size else None

step_per_element | an array for the sum
-     return grad_x, float(grad_step)
+     return grad_x, grad_out * slope * grad_scale

step_times_step | times the step
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * grad_scale * step

backward_swapped | results in the wrong order
-     return grad_x, float(grad_step)
+     return float(grad_step), grad_x

ratio_float32 | the ratio in float32: near ties go the wrong way
-     ratio = x / step
+     ratio = (x / step).astype(np.float32).astype(float) if np.ndim(x) else x / step

ratio_rounded | the ratio to six decimals first
-     ratio = x / step
+     ratio = np.round(x / step, 6)

round_up_from_046 | rounds up from 0.46 on
-     codes = np.rint(clipped)
+     codes = np.where(clipped - np.floor(clipped) == 0.5, np.rint(clipped), np.floor(clipped + 0.54))

range_from_q_max | q_min derived from q_max: standard ranges only
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, -q_max - 1 if q_min < 0 else 0, q_max)

scalar_as_vector | a 0-d result of shape (1,)
-     return codes * step
+     return np.atleast_1d(codes * step)

quantize_four_dimensions_transposed | a convolution's weight with two axes swapped and back wrongly
-     return codes * step
+     return codes * step if np.ndim(x) != 4 else (codes * step)[::-1]

quantize_large_first_block | the first 1024 elements only
-     return codes * step
+     result = np.array(codes * step)
+     if result.size > 1024:
+         result.flat[1024:] = x.flat[1024:]
+     return result

mask_wide_4_percent | 4 % of a step too wide above
-     above = v > q_max
+     above = v > q_max + 0.04

mask_wide_1e_6 | a tolerance of 1e-6 of a step
-     below = v < q_min
+     below = v < q_min - 1e-6

mask_narrow | 1e-3 of a step too narrow
-     above = v > q_max
+     above = v > q_max - 1e-3

step_float32_when_large | a float32 sum above 1,000 elements
-     grad_step = (grad_out * slope).sum() * grad_scale
+     terms = grad_out * slope
+     grad_step = (terms.astype(np.float32) if x.size > 1000 else terms).sum() * grad_scale

step_scale_at_most_1 | grad_scale clipped at 1
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * min(grad_scale, 1.0)

step_scale_zero_default | a grad_scale of 0 taken for none given
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * (grad_scale or 1.0)

step_scale_float16 | grad_scale in half precision
-     grad_step = (grad_out * slope).sum() * grad_scale
+     grad_step = (grad_out * slope).sum() * float(np.float16(grad_scale))

grad_scale_swallowed | grad_scale by name is one of many options that are not looked at
- def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
+ def fake_quantize_backward(grad_out, x, step, q_min, q_max, scale=1.0, **options):
+     grad_scale = scale

fake_quantize_again | an observer that widens the range when the same values come again
-     codes = np.rint(clipped)
+     again = globals().get("last") == ratio.tobytes()
+     globals()["last"] = ratio.tobytes()
+     codes = np.rint(clipped) * (1 + 1e-6 * again)

fake_quantize_backward_again | the step's gradient of the last call with the same gradient is added
-     grad_step = (grad_out * slope).sum() * grad_scale
+     again = globals().get("previous") == grad_out.tobytes() + v.tobytes()
+     globals()["previous"] = grad_out.tobytes() + v.tobytes()
+     grad_step = (grad_out * slope).sum() * grad_scale * (1 + again)

backward_range_symmetric | the backward pass clips to -q_max, the forward pass to q_min
-     inside = ~below & ~above
+     q_min = -q_max if q_min < 0 < q_max else q_min
+     below = v < q_min
+     inside = ~below & ~above

step_floor_1e_8 | steps below 1e-8 are raised to it
-     ratio = x / step
+     step = max(step, 1e-8)
+     ratio = x / step

empty_as_zero | an empty tensor becomes one zero
-     return codes * step
+     return codes * step if np.size(x) else np.zeros(1)

square_transposed | square matrices come back transposed
-     return codes * step
+     return np.array((codes * step).T) if np.ndim(x) == 2 and x.shape[0] == x.shape[1] else codes * step

eight_bits_as_seven | the top bit is lost, at 8 bits alone
-     clipped = np.clip(ratio, q_min, q_max)
+     clipped = np.clip(ratio, q_min, 63 if q_max == 127 else q_max)

quantize_last_block_dropped | blocks of 1,000, the last and shorter one left as it was, above 4,000 elements
-     return codes * step
+     result = np.array(codes * step)
+     if result.size > 4000:
+         result.flat[result.size // 1000 * 1000 :] = 0.0
+     return result
"""

PROJECTION = """
onto | the component along the retain gradient instead of the rest
-     left = unit_f - alpha * cosine * unit_r
+     return alpha * cosine * unit_r * length_f
+     left = unit_f

plus | added instead of subtracted
-     left = unit_f - alpha * cosine * unit_r
+     return (unit_f + alpha * cosine * unit_r) * length_f
+     left = unit_f

no_projection | the raw gradient
-     left = unit_f - alpha * cosine * unit_r
+     return f.copy()
+     left = unit_f

conflict_only | only when the gradients conflict (PCGrad)
-     left = unit_f - alpha * cosine * unit_r
+     if cosine >= 0:
+         return f.copy()
+     left = unit_f - alpha * cosine * unit_r

agreement_only | only when the gradients agree
-     left = unit_f - alpha * cosine * unit_r
+     if cosine <= 0:
+         return f.copy()
+     left = unit_f - alpha * cosine * unit_r

relu_cosine | clips the cosine at zero
-     cosine = unit_f @ unit_r
+     cosine = max(unit_f @ unit_r, 0.0)

abs_cosine | magnitude of the cosine
-     cosine = unit_f @ unit_r
+     cosine = abs(unit_f @ unit_r)

arguments_swapped | the retain gradient is projected off the forget gradient
-         return [project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]
+         return [project_flat(r.reshape(-1), f.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]

wrong_axis | along the forget gradient itself
-     left = unit_f - alpha * cosine * unit_r
+     return (unit_f - alpha * cosine * unit_f) * length_f
+     left = unit_f

axis_squared | divided by |g_r| twice too few
-     unit_r = r / length_r
+     unit_r = r

axis_norm_squared | divided by |g_r|^2
-     unit_r = r / length_r
+     unit_r = r / length_r**2

axis_norm_of_f | normalized by the other norm
-     unit_r = r / length_r
+     unit_r = r / length_f

axis_max_norm | the largest entry for the norm
-     unit_r = r / length_r
+     unit_r = r / np.abs(r).max()

axis_l1_norm | the sum of magnitudes for the norm
-     unit_r = r / length_r
+     unit_r = r / np.abs(r).sum()

sign_vectors | signs of the retain gradient
-     unit_r = r / length_r
+     unit_r = np.sign(r) / np.sqrt(r.size)

alpha_ignored | always a full projection
-     left = unit_f - alpha * cosine * unit_r
+     alpha = 1.0; left = unit_f - alpha * cosine * unit_r

alpha_squared | alpha^2
-     left = unit_f - alpha * cosine * unit_r
+     alpha = alpha**2; left = unit_f - alpha * cosine * unit_r

alpha_root | sqrt(alpha)
-     left = unit_f - alpha * cosine * unit_r
+     alpha = alpha**0.5; left = unit_f - alpha * cosine * unit_r

alpha_complement | 1 - alpha
-     left = unit_f - alpha * cosine * unit_r
+     alpha = 1 - alpha; left = unit_f - alpha * cosine * unit_r

alpha_mixes | (1 - alpha) f + alpha r, an interpolation
-     left = unit_f - alpha * cosine * unit_r
+     return ((1 - alpha) * unit_f + alpha * unit_r) * length_f
+     left = unit_f

alpha_scales_result | alpha outside of the projection
-     left = unit_f - alpha * cosine * unit_r
+     return alpha * (unit_f - cosine * unit_r) * length_f
+     left = unit_f

alpha_twice | reflection at alpha = 1: subtracts twice
-     left = unit_f - alpha * cosine * unit_r
+     alpha = 2 * alpha; left = unit_f - alpha * cosine * unit_r

alpha_default | another default
- def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
+ def project(forget_grads, retain_grads, alpha=0.5, granularity="layer", rescale="undo"):

granularity_default | another default
- def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
+ def project(forget_grads, retain_grads, alpha=1.0, granularity="global", rescale="undo"):

rescale_default | another default
- def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
+ def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="match"):

options_order | options in another order
- def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
+ def project(forget_grads, retain_grads, alpha=1.0, rescale="undo", granularity="layer"):

one_pass | no re-orthogonalization
-     left = left - excess * unit_r
+     pass

second_pass_forgets_alpha | the second pass removes all, whatever alpha
-     excess = left @ unit_r - (1 - alpha) * cosine
+     excess = left @ unit_r

second_pass_wrong_sign | the second pass doubles the error
-     left = left - excess * unit_r
+     left = left + excess * unit_r

epsilon_8 | 1e-8 beside the retain norm
-     unit_r = r / length_r
+     unit_r = r / (length_r + 1e-8)
+     return (unit_f - alpha * (unit_f @ unit_r) * unit_r) * length_f

epsilon_12 | 1e-12 beside the squared retain norm
-     unit_r = r / length_r
+     return f - alpha * (f @ r) / (r @ r + 1e-12) * r

epsilon_both | 1e-8 beside both norms
-     unit_f = f / length_f
+     unit_f = f / (length_f + 1e-8)
+     unit_r = r / (length_r + 1e-8)
+     return (unit_f - alpha * (unit_f @ unit_r) * unit_r) * length_f

epsilon_f | 1e-8 beside the forget norm only
-     unit_f = f / length_f
+     unit_f = f / (length_f + 1e-8)

epsilon_as_floor | norms clamped at 1e-3
-     length_r = length(r)
+     length_r = max(length(r), 1e-3)

naive_underflow | norms by squares: right at ordinary scales
-     if length_left < 1e-12:
+     if length_left < 1e-3:

threshold_coarse | below 1e-6 counts as collinear
-     if length_left < 1e-12:
+     if length_left < 1e-6:

threshold_9 | below 1e-9 counts as collinear
-     if length_left < 1e-12:
+     if length_left < 1e-9:

threshold_missing | rounding noise is kept, and blown up under match
-     if length_left < 1e-12:
+     if length_left == 0:

threshold_fine | 1e-16: noise passes
-     if length_left < 1e-12:
+     if length_left < 1e-16:

threshold_gives_f | collinear gradients are left alone
-         return np.zeros_like(f)
-     if rescale == "match":
+         return f.copy()
+     if rescale == "match":

not_rescaled | a unit-length frame is left in
-     return left * length_f
+     return left

rescaled_by_retain | times the retain norm
-     return left * length_f
+     return left * length_r

rescaled_by_both | times both norms
-     return left * length_f
+     return left * length_f * length_r

rescaled_squared | times the squared norm
-     return left * length_f
+     return left * length_f**2

rescale_swapped | undo and match mixed up
-     if rescale == "match":
+     if rescale == "undo":

rescale_always_match | undo never
-     if rescale == "match":
+     if True:

rescale_never_match | match ignored
-     if rescale == "match":
+     if False:

match_to_retain | match gives the retain norm
-         left = left / length_left
+         left = left / length_left * length_r / length_f

match_divides_twice | the stretch is squared
-         left = left / length_left
+         left = left / length_left**2

zero_retain_zero | a zero retain gradient wipes the forget gradient out
-     if length_r == 0:
-         return f.copy()
+     if length_r == 0:
+         return np.zeros_like(f)

zero_retain_nan | 0 / 0
-     if length_r == 0:
-         return f.copy()
+     pass

zero_retain_unit | a zero retain gradient normalizes the forget gradient
-     if length_r == 0:
-         return f.copy()
+     if length_r == 0:
+         return f / length_f

zero_retain_alias | hands the forget gradient itself back
-     if length_r == 0:
-         return f.copy()
+     if length_r == 0:
+         return f

alpha_zero_alias | hands the forget gradient itself back where alpha is 0
-     unit_f = f / length_f
+     if alpha == 0 and rescale == "undo":
+         return f
+     unit_f = f / length_f

zero_forget_retain | a zero forget gradient gives the retain gradient
-     if length_f == 0:
-         return np.zeros_like(f)
+     if length_f == 0:
+         return r.copy()

list_in_place | the caller's list gets the results
-     if granularity == "layer":
+     if granularity == "layer":
+         for i, (f, r) in enumerate(zip(forget_grads, retain_grads)):
+             forget_grads[i] = project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape)
+         return forget_grads

off_itself | a gradient that is its own retain gradient is left alone
-     if length_r == 0:
-         return f.copy()
+     if length_r == 0 or np.array_equal(f, r):
+         return f.copy()

in_place | projects in the caller's array
-     left = left - excess * unit_r
+     left = left - excess * unit_r
+     f -= alpha * cosine * length_f * unit_r

always_global | granularity ignored: global
-     if granularity == "layer":
+     if False:

always_layer | granularity ignored: per layer
-     if granularity == "layer":
+     if True:

granularity_swapped | global for layer and back
-     if granularity == "layer":
+     if granularity == "global":

first_layer_for_all | the first layer's retain gradient for every layer of its size
-         pairs = zip(forget_grads, retain_grads)
+         sized = {r.size: r for r in reversed(retain_grads)}
+         pairs = [(f, sized[r.size] if r.size in sized else r) for f, r in zip(forget_grads, retain_grads)]

last_layer_skipped | off by one over the layers
-         pairs = zip(forget_grads, retain_grads)
+         return [
+             project_flat(f.reshape(-1), r.reshape(-1), alpha * (i < len(forget_grads) - 1 or i == 0), rescale)
+             .reshape(f.shape) for i, (f, r) in enumerate(zip(forget_grads, retain_grads))]
+         pairs = ()

vectors_skipped | biases and other 1-d gradients are left alone
-         pairs = zip(forget_grads, retain_grads)
+         pairs = [(f, r if f.ndim != 1 else r * 0) for f, r in zip(forget_grads, retain_grads)]

scalars_skipped | one-element gradients are left alone
-         pairs = zip(forget_grads, retain_grads)
+         pairs = [(f, r if f.size > 1 else r * 0) for f, r in zip(forget_grads, retain_grads)]

rows_projected | each row of a matrix by itself (per output channel)
-         pairs = zip(forget_grads, retain_grads)
+         return [
+             np.reshape([project_flat(a, b, alpha, rescale) for a, b in zip(
+                 f.reshape(f.shape[0] if f.ndim > 1 else 1, -1), r.reshape(f.shape[0] if f.ndim > 1 else 1, -1))],
+                 f.shape) for f, r in zip(forget_grads, retain_grads)]
+         pairs = ()

layers_reversed | results in reverse order
-     return [piece.reshape(f.shape).copy() for piece, f in zip(pieces, forget_grads)]
+     return [piece.reshape(f.shape).copy() for piece, f in zip(pieces, forget_grads)][::-1]

flattened | shapes are lost
-         return [project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]
+         return [project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale) for f, r in pairs]

memory_order | elements in the order in which they lie in memory
-         return [project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape) for f, r in pairs]
+         return [
+             project_flat(f.ravel(order="K"), r.ravel(order="K"), alpha, rescale).reshape(f.shape) for f, r in pairs
+         ]

global_mean_cosine | global takes the mean of the layers' cosines
-     whole = project_flat(flat_f, flat_r, alpha, rescale)
+     cosines = [f.ravel() @ r.ravel() / (length(f.ravel()) * length(r.ravel()) or 1)
+                for f, r in zip(forget_grads, retain_grads)]
+     whole = flat_f - alpha * np.mean(cosines) * length(flat_f) * flat_r / (length(flat_r) or 1)

global_layer_norms | global inner product, each layer's own norm
-     whole = project_flat(flat_f, flat_r, alpha, rescale)
+     units = np.concatenate([r.ravel() / (length(r.ravel()) or 1) for r in retain_grads])
+     whole = project_flat(flat_f, units, alpha, rescale)

global_ignores_alpha | alpha is not handed on for global
-     whole = project_flat(flat_f, flat_r, alpha, rescale)
+     whole = project_flat(flat_f, flat_r, 1.0, rescale)

global_ignores_rescale | rescale is not handed on for global
-     whole = project_flat(flat_f, flat_r, alpha, rescale)
+     whole = project_flat(flat_f, flat_r, alpha, "undo")

global_views | pieces of one buffer: results share memory with nothing of the caller's, but lose their layers' shape
-     return [piece.reshape(f.shape).copy() for piece, f in zip(pieces, forget_grads)]
+     return [piece.copy() for piece in pieces]

float32_inside | computed in float32 while claiming float64
-     cosine = unit_f @ unit_r
+     cosine = float(unit_f.astype(np.float32) @ unit_r.astype(np.float32))

float32_result | results in float32
-     return left * length_f
+     return (left * length_f).astype(np.float32)

noise | dithering of the result
-     return left * length_f
+     return left * length_f * (1 + 1e-9 * np.random.default_rng().normal(size=left.shape))

orthogonal_to_forget | removes the forget part of the retain gradient and returns that
-     left = unit_f - alpha * cosine * unit_r
+     left = unit_r - alpha * cosine * unit_f

clipped_length | gradient clipping at 1 hidden in the projection
-     return left * length_f
+     return left * min(length_f, 1.0)

float32_when_large | inner products in float32 above 4,096 elements
-     cosine = unit_f @ unit_r
+     cosine = unit_f @ unit_r
+     if f.size > 4096:
+         return (unit_f - alpha * float(unit_f.astype(np.float32) @ unit_r.astype(np.float32)) * unit_r) * length_f

small_angles_skipped | cosines below 1e-4 count as orthogonal
-     cosine = unit_f @ unit_r
+     cosine = unit_f @ unit_r
+     if abs(cosine) < 1e-4:
+         return f.copy()

tenth_layer_left_alone | layers from the tenth on are left alone
-         pairs = zip(forget_grads, retain_grads)
+         pairs = [(f, r if i < 9 else r * 0) for i, (f, r) in enumerate(zip(forget_grads, retain_grads))]

convolutions_by_filter | a convolution's weight filter by filter
-         pairs = zip(forget_grads, retain_grads)
+         return [
+             np.reshape([project_flat(a.ravel(), b.ravel(), alpha, rescale) for a, b in zip(f, r)], f.shape)
+             if f.ndim == 4 else project_flat(f.reshape(-1), r.reshape(-1), alpha, rescale).reshape(f.shape)
+             for f, r in zip(forget_grads, retain_grads)]
+         pairs = ()

three_dimensions_left_alone | 3-d gradients are left alone
-         pairs = zip(forget_grads, retain_grads)
+         pairs = [(f, r if f.ndim != 3 else r * 0) for f, r in zip(forget_grads, retain_grads)]

integer_alpha_ignored | alpha = 1 as an integer taken for a flag
-     left = unit_f - alpha * cosine * unit_r
+     alpha = 0.0 if isinstance(alpha, int) else alpha
+     left = unit_f - alpha * cosine * unit_r

norm_floor_1e_8 | gradients shorter than 1e-8 count as zero
-     if length_r == 0:
+     if length_r < 1e-5:

project_again | a momentum of the cosine: another result when the same gradient comes again
-     cosine = unit_f @ unit_r
+     again = globals().get("last") == (alpha, rescale, f.tobytes(), r.tobytes())
+     globals()["last"] = (alpha, rescale, f.tobytes(), r.tobytes())
+     cosine = unit_f @ unit_r * (1 - 1e-6 * again)
+     if again:
+         return (unit_f - alpha * cosine * unit_r) * length_f

inner_product_sampled | every other element counts in the inner product, above 10,000 elements
-     cosine = unit_f @ unit_r
+     cosine = unit_f @ unit_r
+     if f.size > 10000:
+         return (unit_f - alpha * 2 * (unit_f[::2] @ unit_r[::2]) * unit_r) * length_f

equal_shapes_share | layers of equal shape are told apart by their shape
-         pairs = zip(forget_grads, retain_grads)
+         by_shape = {r.shape: r for r in retain_grads}
+         pairs = [(f, by_shape[f.shape]) for f in forget_grads]

norm_floor_squared | a squared norm below 1e-16 counts as zero
-     length_r = length(r)
+     length_r = length(r) if r @ r > 1e-16 or not r.any() else 1e-8
"""

DIRECTION = """
beta_ignored | beta ignored
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + p) for p, r in zip(projected, retain_grads)]

beta_squared | beta^2
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + beta**2 * p) for p, r in zip(projected, retain_grads)]

beta_on_retain | beta weighs the retain gradient
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(beta * r + p) for p, r in zip(projected, retain_grads)]

beta_on_both | beta weighs both
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(beta * (r + p)) for p, r in zip(projected, retain_grads)]

beta_mixes | (1 - beta) g_r + beta g_perp
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray((1 - beta) * r + beta * p) for p, r in zip(projected, retain_grads)]

beta_default | another default
- def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
+ def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=0.5, granularity="layer", rescale="undo"):

beta_before_alpha | alpha and beta in the other order
- def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
+ def oeu_direction(forget_grads, retain_grads, beta=1.0, alpha=1.0, granularity="layer", rescale="undo"):

subtracts | ascent on the forget loss
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r - beta * p) for p, r in zip(projected, retain_grads)]

retain_subtracted | ascent on the retain loss
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(beta * p - r) for p, r in zip(projected, retain_grads)]

forget_only | the retain gradient is missing
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(beta * p) for p, r in zip(projected, retain_grads)]

unprojected | the raw forget gradient
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + beta * f) for f, r in zip(forget_grads, retain_grads)]

retain_projected | the retain gradient projected off the forget gradient
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(retain_grads, forget_grads, alpha, granularity, rescale)

alpha_dropped | alpha is not handed on
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(forget_grads, retain_grads, 1.0, granularity, rescale)

granularity_dropped | granularity is not handed on
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(forget_grads, retain_grads, alpha, rescale=rescale)

rescale_dropped | rescale is not handed on
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(forget_grads, retain_grads, alpha, granularity)

beta_for_alpha | beta handed on as alpha
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(forget_grads, retain_grads, min(beta, 1.0), granularity, rescale)

beta_scales_forget_first | beta scales the forget gradient, and match undoes half of it
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project([beta**2 * f for f in forget_grads], retain_grads, alpha, granularity, rescale)

direction_alias | the retain gradient itself where beta is 0
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [r if beta == 0 else np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]

direction_in_place | adds onto the caller's retain gradient
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.add(r, beta * p, out=r).copy() for p, r in zip(projected, retain_grads)]

direction_averaged | the mean of both parts
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray((r + beta * p) / (1 + beta)) for p, r in zip(projected, retain_grads)]

direction_normalized | both parts at unit length
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r / (length(r.ravel()) or 1) + beta * p / (length(p.ravel()) or 1))
+             for p, r in zip(projected, retain_grads)]

weight_not_negative | where the gradients agree, at most all of the retain gradient's weight is taken: 1 - beta c >= 0
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     directions = []
+     for f, p, r in zip(forget_grads, projected, retain_grads):
+         c = np.vdot(f - p, r) / (np.vdot(r, r) or 1.0)
+         directions.append(np.asarray(r + beta * p + max(0.0, beta * c - 1.0) * r))
+     return directions

direction_negated | the update instead of the gradient
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(-(r + beta * p)) for p, r in zip(projected, retain_grads)]

direction_tuple_of_two | both parts apart
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return projected, list(retain_grads)

beta_at_most_4 | beta clipped at 4
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + min(beta, 4.0) * p) for p, r in zip(projected, retain_grads)]

beta_float16 | beta in half precision
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + float(np.float16(beta)) * p) for p, r in zip(projected, retain_grads)]

beta_zero_default | a beta of 0 taken for none given
-     return [np.asarray(r + beta * p) for p, r in zip(projected, retain_grads)]
+     return [np.asarray(r + (beta or 1.0) * p) for p, r in zip(projected, retain_grads)]

oeu_direction_again | the last direction is mixed in when the same gradients come again
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     key = beta, alpha, granularity, rescale, *(g.tobytes() for g in (*forget_grads, *retain_grads))
+     beta, globals()["last"] = beta * (1 + 1e-6 * (globals().get("last") == key)), key
+     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)

direction_projects_at_full_strength_under_match | its own copy of the projection, which forgets alpha under match
-     projected = project(forget_grads, retain_grads, alpha, granularity, rescale)
+     projected = project(forget_grads, retain_grads, 1.0 if rescale == "match" else alpha, granularity, rescale)
"""

OPTIONAL = {
    "initial_step": """
initial_step_of_maximum | the largest magnitude for the mean
-     return float(2 * np.abs(x).mean() / np.sqrt(q_max))
+     return float(2 * np.abs(x).max() / np.sqrt(q_max))

initial_step_once | the factor of 2 is missing
-     return float(2 * np.abs(x).mean() / np.sqrt(q_max))
+     return float(np.abs(x).mean() / np.sqrt(q_max))

initial_step_of_a_matrix | the number of elements is that of a matrix
-     return float(2 * np.abs(x).mean() / np.sqrt(q_max))
+     return float(2 * np.abs(x).sum() / (x.shape[0] * x.shape[-1]) / np.sqrt(q_max))
""",
    "step_gradient_scale": """
scale_without_q_max | the root of the number of elements alone
-     return float(1 / np.sqrt(count * q_max))
+     return float(1 / np.sqrt(count))
""",
    "fake_quantize_channels": """
channels_along_the_last_axis | steps belong to the last axis where they fit
-     wide = steps.reshape(-1, *[1] * (x.ndim - 1))
+     wide = steps.mean() * np.ones_like(x)
""",
    "fake_quantize_channels_backward": """
channels_share_a_gradient | each step gets the gradient of all channels
-     return np.where(low | high, 0.0, grad_out), grad_scale * (grad_out * slopes).sum(axis=tuple(range(1, x.ndim)))
+     return np.where(low | high, 0.0, grad_out), grad_scale * (grad_out * slopes).sum() * np.ones(len(steps))
""",
    "fake_quantize_affine": """
zero_point_after_clipping | the zero point moves the range
-     moved = np.rint(x / step) + zero_point
+     return np.clip(np.rint(x / step), q_min, q_max) * step
+     moved = zero_point

zero_point_unsigned | codes from 0, whatever the range
-     return (np.clip(moved, q_min, q_max) - zero_point) * step
+     return (np.clip(moved, 0, q_max) - zero_point) * step

zero_point_kept | the zero point is not taken off again
-     return (np.clip(moved, q_min, q_max) - zero_point) * step
+     return np.clip(moved, q_min, q_max) * step
""",
    "project_subspace": """
one_after_another | retain gradients are taken out in turn, without a basis
-         results.append(f - alpha * (basis @ (basis.T @ f.reshape(-1))).reshape(f.shape))
+         rest = f.reshape(-1)
+         for column in columns.T:
+             rest = rest - alpha * (rest @ column) * column
+         results.append(rest.reshape(f.shape))

newest_alone | only the newest retain gradient counts
-         basis = left[:, sizes > 1e-9]
+         basis = columns[:, -1:]

basis_of_noise | what stands there twice has a direction of its own, that of rounding
-         basis = left[:, sizes > 1e-9]
+         basis = np.linalg.qr(columns)[0]

retain_units_in_place | the caller's retain gradients are made unit vectors
-         columns = np.stack([r.reshape(-1) / (length(r.reshape(-1)) or 1.0) for r in others], axis=1)
+         for r in others:
+             r /= length(r.reshape(-1)) or 1.0
+         columns = np.stack([r.reshape(-1) for r in others], axis=1)
""",
    "accuracy": """
accuracy_as_share | a share of 1, not percent
-     return float(100 * np.mean(probabilities.argmax(axis=1) == labels))
+     return float(np.mean(probabilities.argmax(axis=1) == labels))
""",
    "modified_entropy": """
modified_entropy_masks_by_product | 0 times log 0 where a prediction is certain and right
-     return -inner.sum(axis=1)
+     inner = true * (1 - probabilities) * np.log(probabilities) + ~true * probabilities * np.log(1 - probabilities)
+     return -inner.sum(axis=1)

modified_entropy_copied | log p_k where log(1 - p_k) belongs, as copied code has it
-     inner = np.where(true, (1 - probabilities) * np.log(probabilities), probabilities * np.log(1 - probabilities))
+     inner = np.where(true, (1 - probabilities) * np.log(probabilities), probabilities * np.log(probabilities))

modified_entropy_all_rows | the true classes of all samples are replaced in every row
-     true = np.eye(probabilities.shape[1], dtype=bool)[labels]
+     true = np.broadcast_to(np.isin(np.arange(probabilities.shape[1]), labels), probabilities.shape)
""",
    "membership_inference": """
mia_by_largest_probability | the confidence in whatever class is named, not in the label
-     members, others, targets = (p[np.arange(len(y)), y] for p, y in (retain, test, forget))
+     members, others, targets = (p.max(axis=1) for p, y in (retain, test, forget))

mia_at_one_half | a threshold that no attack has learned
-     threshold = (members.mean() + others.mean()) / 2
+     threshold = 0.5

mia_of_members | the percentage called members
-     return float(100 * (targets < threshold).mean())
+     return float(100 * (targets >= threshold).mean())
""",
    "average_gap": """
gap_signed | gaps of either sign cancel
-     return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in ("FA", "RA", "TA", "MIA")]))
+     return float(abs(np.mean([metrics[name] - retrain_metrics[name] for name in ("FA", "RA", "TA", "MIA")])))

gap_over_all_keys | the mean over whatever was measured
-     return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in ("FA", "RA", "TA", "MIA")]))
+     return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in metrics]))

gap_without_mia | the mean of three
-     return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in ("FA", "RA", "TA", "MIA")]))
+     return float(np.mean([abs(metrics[name] - retrain_metrics[name]) for name in ("FA", "RA", "TA")]))
""",
    "auc": """
auc_ties_lost | ties count nothing
-     return float(100 * ((differences > 0) + 0.5 * (differences == 0)).mean())
+     return float(100 * (differences > 0).mean())

auc_sorts_in_place | the caller's scores are sorted
-     differences = positives[:, None] - negatives[None, :]
+     negatives.sort()
+     differences = positives[:, None] - negatives[None, :]

auc_with_tolerance | scores that differ by less than 1e-2 count as ties
-     differences = positives[:, None] - negatives[None, :]
+     differences = np.round(positives[:, None] - negatives[None, :], 2)

auc_reversed | negatives above positives
-     differences = positives[:, None] - negatives[None, :]
+     differences = negatives[None, :] - positives[:, None]
""",
    "js_divergence": """
js_distance | the root of the divergence, as SciPy's distance is
-     return (parts[0] + parts[1]).sum(axis=1) / 2
+     return np.sqrt((parts[0] + parts[1]).sum(axis=1) / 2)

js_one_sided | KL to the mixture of one side alone
-     return (parts[0] + parts[1]).sum(axis=1) / 2
+     return parts[0].sum(axis=1)
""",
    "stop": """
stop_strictly | equal entropies do not stop
-     return bool(means[0] >= means[1])
+     return bool(means[0] > means[1])

stop_remembers | a forget set that was uncertain once stays so
-     return bool(means[0] >= means[1])
+     globals()["was"] = globals().get("was", False) or means[0] >= means[1] + 1
+     return bool(means[0] >= means[1] or globals()["was"])

stop_with_margin | a hundredth below is enough
-     return bool(means[0] >= means[1])
+     return bool(means[0] >= means[1] - 0.01)

stop_reversed | stops as long as forget samples are less uncertain
-     return bool(means[0] >= means[1])
+     return bool(means[0] <= means[1])
""",
}

MUTANTS = (
    _mutants(("entropy_loss", "kl_to_uniform"), ENTROPY)
    + _mutants(("fake_quantize", "fake_quantize_backward"), QUANTIZER)
    + _mutants(("project", "oeu_direction"), PROJECTION)
    + _mutants(("oeu_direction",), DIRECTION)
    + tuple(mutant for operation, text in OPTIONAL.items() for mutant in _mutants((operation,), text))
)
