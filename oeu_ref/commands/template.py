"""My implementation of OEU, to be judged by `python -m oeu_ref check my_oeu.py`.

Fill in what you have and delete the rest: laws about missing functions are skipped by name. Arrays are NumPy arrays in
and out; convert to and from your own tensors inside. N samples, K classes, p = softmax(logits), natural logarithms.
Inputs must be left as they are, results must be new arrays.
"""

DTYPE = "float64"  # or "float32": what you compute in; sets the tolerances
QUANTIZER_MASK = "clip"  # or "open", "round", "none": where your straight-through gradient passes (see below)


def entropy_loss(logits):
    """logits (N, K) -> (loss, grad): loss = -(1/N) sum_n H(p_n), a float; grad (N, K), its derivative by the logits."""
    raise NotImplementedError


def kl_to_uniform(logits):
    """logits (N, K) -> kl (N,): KL(p_n || uniform) = log K - H(p_n)."""
    raise NotImplementedError


def fake_quantize(x, step, q_min, q_max):
    """x, any shape -> x_hat, same shape: step * round(clip(x / step, q_min, q_max)), halves to even; step > 0."""
    raise NotImplementedError


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    """dL/dx_hat and the forward's arguments -> (grad_x, grad_step): an array of the shape of x, and a float or None.

    With v = x / step: grad_x = grad_out inside, 0 outside; grad_step = grad_scale * sum of grad_out times
    (round(v) - v inside, q_min below, q_max above). Inside is q_min <= v <= q_max for the "clip" mask,
    q_min <= round(v) <= q_max for "round".
    """
    raise NotImplementedError


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    """Two lists of arrays, one for each layer -> list of arrays: g_f - alpha <g_f, r> r with r = g_r / |g_r|.

    granularity: "layer" (each array by itself) or "global" (all as one vector). rescale: "undo" (as above) or "match"
    (then stretched to the length |g_f|). Zero g_r: g_f; zero g_f, or collinear up to rounding: zero.
    """
    raise NotImplementedError


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    """As project -> list of arrays: g_r + beta * project(...), the direction that the optimizer descends along."""
    raise NotImplementedError


# Optional, each judged by a law of its own: initial_step(x, q_max), step_gradient_scale(count, q_max),
# fake_quantize_channels(x, steps, q_min, q_max), fake_quantize_affine(x, step, zero_point, q_min, q_max),
# project_subspace(forget_grads, retain_history, alpha=1.0), accuracy, modified_entropy, membership_inference,
# average_gap, auc, js_divergence, stop: see oeu_ref/conformance/README.md.
#
# For PyTorch: a class with this signature is compared with the NumPy reference's whole step on a small network.
#
# class OEU:
#     def __init__(self, model, optimizer, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"): ...
#     def step(self, forget_inputs, retain_inputs, retain_labels): ...
