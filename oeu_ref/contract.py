"""The contract: what an implementation of OEU has, NumPy arrays in and out, and what it may declare.

Laws (`oeu_ref.conformance`), test vectors (`oeu_ref.vectors`) and adapters are about these functions.
"""

from . import boundary

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
# what an implementation may have beside: metrics in percent, probabilities (N, K), labels (N,)
OPTIONAL = {
    "initial_step": "initial_step(x, q_max) -> float",
    "step_gradient_scale": "step_gradient_scale(count, q_max) -> float",
    "fake_quantize_channels": "fake_quantize_channels(x, steps, q_min, q_max) -> x_hat: a step for each x[i]",
    "fake_quantize_channels_backward": "fake_quantize_channels_backward(grad_out, x, steps, q_min, q_max, "
    "grad_scale=1.0) -> (grad_x, grad_steps): arrays of the shapes of x and steps",
    "fake_quantize_affine": "fake_quantize_affine(x, step, zero_point, q_min, q_max) -> x_hat",
    "project_subspace": "project_subspace(forget_grads, retain_history, alpha=1.0) -> list of float arrays",
    "accuracy": "accuracy(probabilities, labels) -> float",
    "modified_entropy": "modified_entropy(probabilities, labels) -> a float array (N,)",
    "membership_inference": "membership_inference(retain, test, forget) -> float, of pairs (probabilities, labels)",
    "average_gap": "average_gap(metrics, retrain_metrics) -> float, of dicts with FA, RA, TA and MIA",
    "auc": "auc(positives, negatives) -> float",
    "js_divergence": "js_divergence(p, q) -> a float array (N,), of probabilities (N, K)",
    "stop": "stop(forget_probabilities, unseen_probabilities) -> True or False",
}
EVERY = {**SIGNATURES, **OPTIONAL}
STEP = "OEU"  # a class OEU(model, optimizer, ...).step(forget_inputs, retain_inputs, retain_labels), on PyTorch models


def _one_of(*words):
    return words[0], lambda value: value in words, f"one of {', '.join(map(repr, words))}"


def _some_of(default, right, example):
    is_right = lambda values: isinstance(values, tuple) and len(values) > 0 and all(map(right, values))
    return default, is_right, f"a tuple such as {example!r}"


# what an implementation may declare: what holds where it does not, whether a value is right, and what would be right
DECLARATIONS = {
    "DTYPE": _one_of("float64", "float32"),
    "QUANTIZER_MASK": _one_of("clip", "open", "round", "none"),
    "TIES": _one_of("even", "away", "up"),
    "NORMALIZATION": _one_of(*boundary.NORMALIZATIONS),
    "EPSILON": (1e-8, lambda value: value > 0, "greater than 0"),
    "PROJECT_WHEN": _one_of("always", "conflict"),
    # what it supports, where that is not all; None: anything
    "RANGES": _some_of(None, lambda ends: len(ends) == 2 and ends[0] < ends[1], ((-8, 7), (0, 15))),
    "ALPHAS": _some_of(None, lambda alpha: 0 <= alpha <= 1, (1.0,)),
    "GRANULARITIES": _some_of(boundary.GRANULARITIES, lambda word: word in boundary.GRANULARITIES, ("layer",)),
    "RESCALES": _some_of(boundary.RESCALES, lambda word: word in boundary.RESCALES, ("undo",)),
}
# an option with one supported value is not handed over
OPTIONS = {"alpha": "ALPHAS", "granularity": "GRANULARITIES", "rescale": "RESCALES"}
