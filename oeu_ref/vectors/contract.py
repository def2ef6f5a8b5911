"""The contract: six functions, NumPy arrays in and out, which laws and vectors are about."""

SIGNATURES = {
    "entropy_loss": "entropy_loss(logits) -> (loss, grad): a float and a float array (N, K)",
    "kl_to_uniform": "kl_to_uniform(logits) -> kl: a float array (N,)",
    "fake_quantize": "fake_quantize(x, step, q_min, q_max) -> x_hat: a float array of the shape of x",
    "fake_quantize_backward": "fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0) -> "
    "(grad_x, grad_step): a float array of the shape of x and a float",
    "project": 'project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo") -> '
    "list of float arrays, shapes of forget_grads",
    "oeu_direction": "oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, "
    'granularity="layer", rescale="undo") -> list of float arrays, shapes of forget_grads',
}
