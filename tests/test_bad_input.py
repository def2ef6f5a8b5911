"""Bad input, alike in reference and core: the same argument, the same exception type, the same remedy."""

import math

import numpy as np
import pytest
import torch

from oeu_ref import core, reference
from oeu_ref.core import entropy as core_entropy
from oeu_ref.core import projection as core_projection
from oeu_ref.core import quantizer as core_quantizer
from oeu_ref.core.network import quantize_model
from oeu_ref.integer import packing
from oeu_ref.reference import entropy, metrics, network, projection, quantizer

NUMPY, TORCH = "reference", "core"
MODULES = {
    NUMPY: {"entropy": entropy, "quantizer": quantizer, "projection": projection},
    TORCH: {"entropy": core_entropy, "quantizer": core_quantizer, "projection": core_projection},
}


def make(twin, value):
    """Nested lists of numbers as the twin's arrays; everything else as it is."""
    if isinstance(value, np.ndarray):
        return value.copy() if twin == NUMPY else torch.tensor(value)
    if isinstance(value, list):
        return [make(twin, item) for item in value]
    return value


A = np.array
Z = A([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
F, G = [A([1.0, 2.0]), A([[1.0, 0.5]])], [A([0.5, -1.0]), A([[2.0, 1.0]])]
X = A([0.5, -1.5, 3.0])
NAN, INF = math.nan, math.inf
with_value = lambda array, value: np.concatenate([[value], array.ravel()[1:]]).reshape(array.shape)

LOGITS = [
    (Z[0], ValueError, "logits must have shape (N, K)"),
    (Z[None], ValueError, "logits must have shape (N, K)"),
    (with_value(Z, NAN), ValueError, "logits must be finite"),
    (with_value(Z, INF), ValueError, "logits must be finite"),
    (with_value(Z, -INF), ValueError, "logits must be finite"),
    (Z.astype(np.int64), TypeError, "logits must be floating point"),
    (Z[:, :1], ValueError, "K >= 2 classes"),
    (Z[:0], ValueError, "N >= 1 samples"),
    (Z[:, :0], ValueError, "K >= 2 classes"),
]
LABELS = [
    (A([0.0, 1.0]), TypeError, "labels must be integers"),
    (A([0, 3]), ValueError, "labels must lie in [0, 3)"),
    (A([-1, 0]), ValueError, "labels must lie in [0, 3)"),
    (A([0]), ValueError, "labels must have shape (2,)"),
    (A([[0], [1]]), ValueError, "labels must have shape (2,)"),
]
PROBABILITIES = [
    (Z, ValueError, "probabilities must be distributions"),
    (A([[0.5, 0.6]]), ValueError, "rows that sum to 1"),
    (A([[1.5, -0.5]]), ValueError, "entries in [0, 1]"),
    (A([[0.5, NAN]]), ValueError, "probabilities must be finite"),
    (A([0.5, 0.5]), ValueError, "probabilities must have shape (N, K)"),
]
QUANTIZER = [
    (dict(x=with_value(X, NAN)), ValueError, "x must be finite"),
    (dict(x=with_value(X, INF)), ValueError, "x must be finite"),
    (dict(x=X.astype(np.int64)), TypeError, "x must be floating point"),
    (dict(step=0.0), ValueError, "step must be greater than 0"),
    (dict(step=-0.5), ValueError, "step must be greater than 0"),
    (dict(step=NAN), ValueError, "step must be finite"),
    (dict(step="0.5"), TypeError, "step must be a number"),
    (dict(q_min=7, q_max=7), ValueError, "q_min must be smaller than q_max"),
    (dict(q_min=8, q_max=-7), ValueError, "q_min must be smaller than q_max"),
    (dict(q_min=-7.5), TypeError, "q_min must be a whole number"),
    (dict(q_max="7"), TypeError, "q_max must be a whole number"),
    (dict(q_max=True), TypeError, "q_max must be a whole number"),
]
BACKWARD = [
    (dict(grad_out=X[:2]), ValueError, "grad_out must have the shape of x"),
    (dict(grad_out=with_value(X, NAN)), ValueError, "grad_out must be finite"),
    (dict(grad_out=X.astype(np.int64)), TypeError, "grad_out must be floating point"),
    (dict(grad_scale=-1.0), ValueError, "grad_scale must be finite and at least 0"),
    (dict(grad_scale=NAN), ValueError, "grad_scale must be finite and at least 0"),
    (dict(mask="strict"), ValueError, "mask must be one of 'clip', 'round'"),
]
PROJECT = [
    (dict(forget_grads=A([1.0, 2.0])), TypeError, "forget_grads must be a list"),
    (dict(forget_grads=F[:1]), ValueError, "must be lists of the same length"),
    (dict(forget_grads=[], retain_grads=[]), ValueError, "at least 1"),
    (dict(retain_grads=[G[0], G[1][0]]), ValueError, "retain_grads[1] must have the shape of forget_grads[1]"),
    (dict(forget_grads=[F[0], with_value(F[1], NAN)]), ValueError, "forget_grads[1] must be finite"),
    (dict(retain_grads=[with_value(G[0], INF), G[1]]), ValueError, "retain_grads[0] must be finite"),
    (dict(forget_grads=[F[0].astype(np.int64), F[1]]), TypeError, "forget_grads[0] must be floating point"),
    (dict(alpha=1.5), ValueError, "alpha must lie in [0, 1]"),
    (dict(alpha=-0.1), ValueError, "alpha must lie in [0, 1]"),
    (dict(alpha=NAN), ValueError, "alpha must lie in [0, 1]"),
    (dict(alpha="1"), TypeError, "alpha must be a number"),
    (dict(alpha=True), TypeError, "alpha must be a number"),
    (dict(alpha=None), TypeError, "alpha must be a number"),
    (dict(granularity="layers"), ValueError, "granularity must be one of 'layer', 'global'"),
    (dict(rescale=None), ValueError, "rescale must be one of 'undo', 'match'"),
    (dict(normalization="l2"), ValueError, "normalization must be one of 'exact', 'additive'"),
    (dict(normalization="additive", epsilon=0.0), ValueError, "epsilon must be greater than 0"),
    (dict(layer_ids=[0]), ValueError, "layer_ids must name a layer for each tensor"),
]
BETA = [
    (dict(beta=-1.0), ValueError, "beta must be finite and at least 0"),
    (dict(beta=INF), ValueError, "beta must be finite and at least 0"),
    (dict(beta="1"), TypeError, "beta must be a number"),
]
BITS = [(0, ValueError), (9, ValueError), (-4, ValueError), (2.5, TypeError), (True, TypeError), ("4", TypeError)]


def cases():
    """(file, function, keyword arguments, exception type, part of the message) for both twins."""
    for function in ("entropy_loss", "kl_to_uniform", "entropy", "softmax", "log_softmax"):
        for logits, error, message in LOGITS:
            yield "entropy", function, {"logits": logits}, error, message
    for logits, error, message in LOGITS:
        yield "entropy", "cross_entropy", {"logits": logits, "labels": A([0, 1])}, error, message
    for labels, error, message in LABELS:
        yield "entropy", "cross_entropy", {"logits": Z, "labels": labels}, error, message
    for probabilities, error, message in PROBABILITIES:
        yield "entropy", "entropy_of_probabilities", {"probabilities": probabilities}, error, message
    for change, message in (
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({}, "wrong_labels must lie in [0, 2)"),
    ):
        arguments = {"wrong_labels": A([0, 5]), "num_classes": 2, **change}
        yield "entropy", "label_manipulation_optimum", arguments, ValueError, message
    quantizer_arguments = {"x": X, "step": 0.5, "q_min": -8, "q_max": 7}
    for function in ("fake_quantize", "integer_codes", "fake_quantize_backward"):
        backward = {"grad_out": X} if function.endswith("backward") else {}
        for change, error, message in QUANTIZER + (BACKWARD if backward else []):
            yield "quantizer", function, {**backward, **quantizer_arguments, **change}, error, message
    yield "quantizer", "initial_step", {"x": X[:0], "q_max": 7}, ValueError, "x must not be empty"
    yield "quantizer", "initial_step", {"x": with_value(X, NAN), "q_max": 7}, ValueError, "x must be finite"
    yield "quantizer", "dequantize", {"codes": X, "step": 0.5}, TypeError, "codes must be integers"
    yield "quantizer", "dequantize", {"codes": A([1, 2]), "step": 0.0}, ValueError, "step must be greater than 0"
    yield "quantizer", "step_gradient_scale", {"count": 0, "q_max": 7}, ValueError, "count must be at least 1"
    for bits, error in BITS:
        yield "quantizer", "integer_range", {"bits": bits}, error, "bits must be"
    for function, changes in (("project", PROJECT), ("oeu_direction", PROJECT + BETA)):
        for change, error, message in changes:
            yield "projection", function, {"forget_grads": F, "retain_grads": G, **change}, error, message
    yield "projection", "cosines", {"first_grads": F, "second_grads": G[:1]}, ValueError, "first_grads and second_grads"


CASES = list(cases())


@pytest.mark.parametrize("twin", [NUMPY, TORCH])
@pytest.mark.parametrize(
    ("file", "function", "arguments", "error", "message"),
    CASES,
    ids=[f"{function}-{message}-{i}" for i, (_, function, _, _, message) in enumerate(CASES)],
)
def test_bad_input_names_argument_and_remedy(twin, file, function, arguments, error, message):
    """Both twins raise the same type with the same words, and leave every array as it was."""
    given = {name: make(twin, value) for name, value in arguments.items()}
    with pytest.raises(error) as caught:
        getattr(MODULES[twin][file], function)(**given)
    assert type(caught.value) is error
    assert message in str(caught.value)
    for name, value in given.items():
        pairs = zip(value, arguments[name]) if isinstance(value, list) else [(value, arguments[name])]
        for now, then in pairs:
            if isinstance(then, np.ndarray):
                np.testing.assert_array_equal(np.asarray(now), then)


def test_there_are_enough_cases():
    """The table covers the public functions of all three twin files."""
    assert len(CASES) >= 120
    assert {file for file, *_ in CASES} == {"entropy", "quantizer", "projection"}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: packing.pack_codes(A([8]), 4), ValueError, "codes must lie in [-8, 7]"),
        (lambda: packing.pack_codes(A([0.5]), 4), TypeError, "codes must be integers"),
        (lambda: packing.unpack_codes(A([1, 2], np.uint8), 4, (5,)), ValueError, "packed must hold 3 bytes"),
        (lambda: packing.unpack_codes(A([1, 2]), 4, (4,)), TypeError, "packed must be uint8"),
        (lambda: metrics.accuracy(Z, A([0, 1])), ValueError, "probabilities must be distributions"),
        (lambda: metrics.accuracy(A([[0.5, 0.5]]), A([2])), ValueError, "labels must lie in [0, 2)"),
        (lambda: metrics.auc([], [1.0]), ValueError, "positives must"),
        (lambda: metrics.auc([NAN], [1.0]), ValueError, "positives must"),
        (lambda: metrics.threshold_attack([0.5], [[0.5]], [0.5]), ValueError, "non_members must"),
        (lambda: metrics.average_gap({"FA": 1}, {}), ValueError, "metrics must hold a finite RA"),
        (lambda: metrics.average_gap(dict.fromkeys(metrics.METRICS, 1), {"FA": NAN}), ValueError, "retrain_metrics"),
        (lambda: network.QuantizedMLP((4,)), ValueError, "sizes must name at least input and output"),
        (lambda: network.QuantizedMLP((4, 0)), ValueError, "sizes[1] must be at least 1"),
        (lambda: network.QuantizedMLP((4, 3), weight_bits=9), ValueError, "weight_bits must be 1 to 8, or 32"),
        (lambda: network.QuantizedMLP((4, 3)).forward(np.ones((2, 4))), ValueError, "call calibrate(inputs) first"),
        (lambda: network.QuantizedMLP((4, 3)).calibrate(np.ones((2, 5))), ValueError, "inputs must have shape (N, 4)"),
        (lambda: network.QuantizedMLP((4, 3)).calibrate(np.ones((2, 4), int)), TypeError, "inputs must be floating"),
        (lambda: network.QuantizedMLP((4, 3)).calibrate(A([[NAN] * 4])), ValueError, "inputs must be finite"),
        (lambda: network.sgd_step({}, {}, 0), ValueError, "learning_rate must be greater than 0"),
        (lambda: network.sgd_step({}, {}, 1, momentum=1.5), ValueError, "momentum must lie in [0, 1]"),
        (
            lambda: network.sgd_step({}, {}, 1, weight_decay=-1),
            ValueError,
            "weight_decay must be finite and at least 0",
        ),
        (lambda: core.QuantMLP((4,)), ValueError, "sizes must name at least input and output"),
        (lambda: core.QuantMLP((4, 3), activation_bits=0), ValueError, "activation_bits must be 1 to 8, or 32"),
        (lambda: core.QuantLinear(4, 3, mask="all"), ValueError, "mask must be one of 'clip', 'round'"),
        (lambda: core.QuantConv2d(4, 3, 1, weight_bits=16), ValueError, "weight_bits must be 1 to 8, or 32"),
        (lambda: core.Quantizer(32), ValueError, "bits must be in [1, 8]"),
        (lambda: quantize_model(torch.nn.ReLU()), ValueError, "at least one Conv2d or Linear layer"),
        (lambda: quantize_model("resnet18"), TypeError, "model must be a torch.nn.Module"),
        (lambda: core_quantizer.fake_quantize(torch.ones(2), torch.ones(2), 0, 1), ValueError, "a 0-d tensor"),
        (lambda: core.entropy_loss([[1.0, 2.0]]), TypeError, "logits must be a tensor"),
    ],
)
def test_bad_input_elsewhere_is_named_too(call, error, message):
    """Packing, metrics, networks and layers explain bad input in the same manner."""
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_the_names_of_the_contract_are_those_of_the_reference():
    """The reference module itself is an implementation of the contract."""
    from oeu_ref.conformance import SIGNATURES

    assert set(SIGNATURES) == set(reference.__all__)
