"""Bad input to the mathematics: functions of the reference and of the core, beyond what both twins share."""

import math

import numpy as np
import torch

from oeu_ref.beyond import curvature, curvature_reference, subspace
from oeu_ref.core import entropy, projection, quantizer
from oeu_ref.integer.packing import pack_codes, unpack_codes
from oeu_ref.lab.images import augment, channel_statistics
from oeu_ref.reference import entropy as reference_entropy
from oeu_ref.reference import metrics
from oeu_ref.reference import projection as reference_projection
from oeu_ref.reference.quantizer import integer_range

from .row import rows
from .world import with_first

NAN, INF, HUGE, ENDLESS = math.nan, math.inf, 10**12, 10**400
PAIR = [0.5, 0.5], [0, 1]


def _meta(name):
    return lambda w: getattr(w, name).to("meta")


def _sparse(tensor):
    return tensor.to_sparse()


def _row_of(loss):
    return lambda w, **bad: loss(**{"logits": w.logits, "labels": torch.tensor([0, 1, 2, 0]), **bad})


def _project(w, **bad):
    return projection.project(**{"forget_grads": w.grads, "retain_grads": w.grads[:], **bad})


def _reference_project(w, **bad):
    return reference_projection.project(**{"forget_grads": w.arrays, "retain_grads": w.arrays[:], **bad})


def _subspace(w, **bad):
    return subspace.project_subspace(**{"forget_grads": w.grads, "retain_history": [w.grads], **bad})


def _changed(at, change):
    """The gradients with one tensor changed."""
    return lambda w: [change(g) if i == at else g for i, g in enumerate(w.grads)]


def _quantize(w, **bad):
    return quantizer.fake_quantize(**{"x": w.logits, "step": 0.5, "q_min": -8, "q_max": 7, **bad})


def _loss_with_graph(w):
    parameter = torch.ones(3, requires_grad=True)
    return torch.autograd.grad(parameter.pow(3).sum(), [parameter], create_graph=True), [parameter]


def _hessian(w, **bad):
    gradient, parameters = _loss_with_graph(w)
    return curvature.hessian_vector_product(
        **{"gradient": list(gradient), "parameters": parameters, "vector": [torch.ones(3)], **bad}
    )


def _probabilities(w, **bad):
    return metrics.accuracy(**{"probabilities": w.probabilities, "labels": np.array([0, 2]), **bad})


def _membership(w, **bad):
    pair = w.probabilities, np.array([0, 2])
    return metrics.membership_inference(**{"retain": pair, "test": pair, "forget": pair, **bad})


def _attack(w, **bad):
    return metrics.threshold_attack(**{"members": [0.5], "non_members": [0.25], "targets": [0.5], **bad})


GAPS = dict.fromkeys(metrics.METRICS, 50.0)

FUNCTIONS = [
    *rows(
        "core.entropy_loss",
        lambda w, logits: entropy.entropy_loss(logits),
        ("logits", "on meta", _meta("logits"), ValueError, "meta", "hold numbers"),
        ("logits", "sparse", lambda w: _sparse(w.logits), TypeError, "sparse_coo", ".to_dense()"),
        ("logits", "complex", lambda w: w.logits.to(torch.complex64), TypeError, "complex64", "floating point"),
        ("logits", "an array", lambda w: w.logits.numpy(), TypeError, "ndarray", "a tensor"),
        ("logits", "booleans", lambda w: w.logits > 0, TypeError, "bool", "floating point"),
        ("logits", "scalar", torch.tensor(1.0), ValueError, "()", "(N, K)"),
        ("logits", "half with infinity", lambda w: with_first(w.logits.half(), INF), ValueError, "inf", "finite"),
    ),
    *rows(
        "core.cross_entropy",
        _row_of(entropy.cross_entropy),
        ("labels", "on meta", lambda w: torch.zeros(4, dtype=torch.int64, device="meta"), ValueError, "meta", "hold"),
        ("labels", "a list", [0, 1, 2, 0], TypeError, "list", "a tensor of dtype int64"),
        ("labels", "booleans", torch.ones(4, dtype=torch.bool), TypeError, "bool", "integers"),
        ("labels", "none", None, TypeError, "NoneType", "integers"),
        ("labels", "huge", torch.tensor([0, 1, 2, 2**62]), ValueError, str(2**62), "[0, 3)"),
    ),
    *rows(
        "core.label_manipulation_optimum",
        lambda w, **bad: entropy.label_manipulation_optimum(
            **{"wrong_labels": torch.tensor([0, 1]), "num_classes": 3, **bad}
        ),
        ("wrong_labels", "a list", [0, 1], TypeError, "list", "a tensor of dtype int64"),
        ("wrong_labels", "rank 2", torch.zeros(2, 2, dtype=torch.int64), ValueError, "(2, 2)", "shape (N,)"),
        ("num_classes", "text", "3", TypeError, "'3'", "an integer"),
        ("num_classes", "half", 2.5, TypeError, "2.5", "an integer"),
        ("num_classes", "huge", HUGE, ValueError, str(2 * HUGE), "fewer"),
    ),
    *rows(
        "reference.label_manipulation_optimum",
        lambda w, wrong_labels=(0, 1), num_classes=3: reference_entropy.label_manipulation_optimum(
            wrong_labels, num_classes
        ),
        ("wrong_labels", "rank 2", [[0, 1]], ValueError, "(1, 2)", "shape (N,)"),
        ("wrong_labels", "words", ["a", "b"], TypeError, "<U1", "integers"),
        ("num_classes", "text", "3", TypeError, "'3'", "an integer"),
        ("num_classes", "half", 2.5, TypeError, "2.5", "an integer"),
        ("num_classes", "huge", HUGE, ValueError, str(2 * HUGE), "fewer"),
    ),
    *rows(
        "reference.entropy_loss",
        lambda w, logits: reference_entropy.entropy_loss(logits),
        ("logits", "ragged", [[1.0, 2.0], [1.0]], TypeError, "list", "rows of one length"),
        ("logits", "words", [["a", "b"]], TypeError, "<U1", "floating point"),
        ("logits", "objects", np.array([[1.0, None]]), TypeError, "object", "floating point"),
        ("logits", "complex", np.array([[1j, 2.0]]), TypeError, "complex128", "floating point"),
        ("logits", "none", None, TypeError, "object", "floating point"),
        ("logits", "rank 3", np.zeros((2, 2, 2)), ValueError, "(2, 2, 2)", "(N, K)"),
    ),
    *rows(
        "core.project",
        _project,
        ("retain_grads", "on meta", _changed(0, lambda g: g.to("meta")), ValueError, "meta", "hold numbers"),
        ("forget_grads", "sparse", _changed(0, _sparse), TypeError, "sparse_coo", ".to_dense()"),
        ("forget_grads", "missing", _changed(1, lambda g: None), TypeError, "NoneType", "a tensor"),
        ("forget_grads", "arrays", lambda w: w.arrays, TypeError, "ndarray", "a tensor"),
        ("forget_grads", "half NaN", _changed(1, lambda g: with_first(g.half(), NAN)), ValueError, "nan", "finite"),
        ("forget_grads", "two dtypes", _changed(0, torch.Tensor.double), TypeError, "float64", "one dtype"),
        ("forget_grads", "a generator", lambda w: iter(w.grads), TypeError, "iterator", "a list of tensors"),
        ("alpha", "endless", ENDLESS, ValueError, "1000000", "[0, 1]"),
        ("alpha", "an array", np.array([1.0]), TypeError, "ndarray", "a number"),
        ("alpha", "complex", 1j, TypeError, "complex", "a number"),
        ("granularity", "an array", np.array(["layer", "global"]), ValueError, "array", "'layer', 'global'"),
        ("rescale", "a list", ["undo"], ValueError, "['undo']", "'undo', 'match'"),
        ("layer_ids", "unhashable", [[0], [1]], TypeError, "list", "hashable"),
        ("layer_ids", "a number", 2, TypeError, "int", "a layer for each tensor"),
        ("layer_ids", "too many", [0, 1, 2], ValueError, "3 labels", "2 tensors"),
    ),
    *rows(
        "reference.project",
        _reference_project,
        ("retain_grads", "ragged", [[[1.0], [1.0, 2.0]], [1.0]], TypeError, "list", "rows of one length"),
        ("retain_grads", "a string", "gradients", TypeError, "str", "a list of arrays"),
        ("retain_grads", "missing", lambda w: [w.arrays[0], None], TypeError, "object", "floating point"),
        ("alpha", "endless", ENDLESS, ValueError, "1000000", "[0, 1]"),
        ("granularity", "an array", np.array(["layer", "global"]), ValueError, "array", "'layer', 'global'"),
        ("layer_ids", "unhashable", [[0], [1]], TypeError, "list", "hashable"),
        ("layer_ids", "a number", 2, TypeError, "int", "a layer for each tensor"),
    ),
    *rows(
        "core.project_subspace",
        _subspace,
        ("retain_history", "a tensor", lambda w: w.grads[0], TypeError, "Tensor", "a list of lists"),
        ("retain_history", "empty", [], ValueError, "none", "at least one"),
        ("retain_history", "shapes", lambda w: [w.grads[::-1]], ValueError, "(4,)", "the shape of forget_grads[0]"),
        ("retain_history", "lengths", lambda w: [w.grads[:1]], ValueError, "2 and 1", "the same length"),
        ("retain_history[0][0]", "NaN", lambda w: [_changed(0, lambda g: g * NAN)(w)], ValueError, "nan", "finite"),
        ("forget_grads[1]", "infinity", _changed(1, lambda g: with_first(g, INF)), ValueError, "inf", "finite"),
        ("rescale", "word", "longer", ValueError, "'longer'", "'undo', 'match'"),
        ("alpha", "too large", 2, ValueError, "2", "[0, 1]"),
    ),
    *rows(
        "core.fake_quantize",
        _quantize,
        ("x", "sparse", lambda w: _sparse(w.logits), TypeError, "sparse_coo", ".to_dense()"),
        ("x", "on meta", _meta("logits"), ValueError, "meta", "hold numbers"),
        ("step", "endless", ENDLESS, ValueError, "1000000", "finite"),
        ("q_max", "infinity", INF, TypeError, "inf", "a whole number"),
        ("q_max", "NaN", NAN, TypeError, "nan", "a whole number"),
        ("grad_scale", "text", "1", TypeError, "str", "a number"),
    ),
    *rows(
        "curvature.largest_learning_rate",
        lambda w, **bad: curvature_reference.largest_learning_rate(
            **{"learning_rate": 0.1, "slope": 1.0, "curvature": 1.0, "max_increase": 0.1, **bad}
        ),
        ("learning_rate", "negative", -0.1, ValueError, "-0.1", "at least 0"),
        ("learning_rate", "booleans", torch.tensor([True]), TypeError, "bool", "real numbers"),
        ("slope", "NaN", NAN, ValueError, "nan", "finite"),
        ("slope", "text", "1", TypeError, "str", "a number"),
        ("curvature", "infinity", torch.tensor(INF), ValueError, "inf", "finite"),
        ("max_increase", "negative", -1.0, ValueError, "-1.0", "at least 0"),
        ("max_increase", "complex", torch.tensor(1j), TypeError, "complex64", "real numbers"),
    ),
    *rows(
        "curvature.hessian_vector_product",
        _hessian,
        ("gradient", "without graph", [torch.ones(3)], ValueError, "its graph", "create_graph=True"),
        ("gradient", "too many", lambda w: w.grads, ValueError, "2", "a list of 1 tensors"),
        ("gradient", "a tensor", torch.ones(3), ValueError, "Tensor", "a list of 1 tensors"),
        ("vector", "shape", [torch.ones(4)], ValueError, "(4,)", "the shape of parameters[0]"),
        ("vector", "integers", [torch.ones(3, dtype=torch.int64)], TypeError, "int64", ".float()"),
    ),
    *rows(
        "curvature.curvature",
        lambda w, granularity: curvature.curvature(*_loss_with_graph(w), [torch.ones(3)], granularity),
        ("granularity", "word", "network", ValueError, "'network'", "'layer', 'global'"),
    ),
    *rows(
        "augment",
        lambda w, **bad: augment(**{"images": w.images, "generator": w.generator, **bad}),
        ("images", "a single one", lambda w: w.images[0], ValueError, "(3, 8, 8)", "(N, C, H, W)"),
        ("images", "an array", lambda w: w.images.numpy(), TypeError, "ndarray", "a tensor"),
        ("generator", "none", None, TypeError, "NoneType", "torch.Generator"),
        ("generator", "a seed", 0, TypeError, "int", "torch.Generator"),
        ("padding", "negative", -1, ValueError, "-1", "[0, 8]"),
        ("padding", "half", 1.5, TypeError, "1.5", "an integer"),
        ("padding", "huge", HUGE, ValueError, str(HUGE), "[0, 8]"),
    ),
    *rows(
        "channel_statistics",
        lambda w, images: channel_statistics(images),
        ("images", "floats", lambda w: w.images.float(), TypeError, "float32", "uint8"),
        ("images", "a single one", lambda w: w.images[0], ValueError, "(3, 8, 8)", "(N, C, H, W)"),
        ("images", "none", lambda w: w.images[:0], ValueError, "(0, 3, 8, 8)", "N >= 1"),
        ("images", "a list", [1], TypeError, "list", "a tensor"),
    ),
    *rows(
        "metrics.accuracy",
        _probabilities,
        ("probabilities", "NaN", lambda w: with_first(w.probabilities, NAN), ValueError, "nan", "finite"),
        ("probabilities", "percent", lambda w: 100 * w.probabilities, ValueError, "70", "[0, 1]"),
        ("probabilities", "integers", np.eye(2, 3, dtype=int), TypeError, "int64", "floating point"),
        ("probabilities", "ragged", [[1.0], [0.5, 0.5]], TypeError, "list", "rows of one length"),
        ("labels", "too few", np.array([0]), ValueError, "(1,)", "one label a sample"),
        ("labels", "words", np.array(["a", "b"]), TypeError, "<U1", "integers"),
        ("labels", "ragged", [[0], [0, 1]], TypeError, "list", "rows of one length"),
    ),
    *rows(
        "metrics.threshold_attack",
        _attack,
        ("members", "none", [], ValueError, "(0,)", "N >= 1"),
        ("members", "words", ["a"], TypeError, "<U1", "numbers"),
        ("non_members", "NaN", [0.5, NAN], ValueError, "nan", "finite"),
        ("targets", "complex", [1j], TypeError, "complex128", "numbers"),
        ("targets", "ragged", [[0.5], [0.5, 0.5]], TypeError, "list", "rows of one length"),
    ),
    *rows(
        "metrics.membership_inference",
        _membership,
        ("retain", "no pair", lambda w: w.probabilities[:1], TypeError, "ndarray", "a pair"),
        ("forget", "a triple", PAIR + PAIR[:1], TypeError, "3", "a pair"),
        ("test", "none", None, TypeError, "NoneType", "a pair"),
        ("attack", "text", "svc", TypeError, "str", "a function"),
        ("attack", "wrong length", lambda w: lambda *_: np.array([True]), ValueError, "(1,)", "a boolean for each"),
        ("attack", "no booleans", lambda w: lambda *_: np.array([0.5, 0.5]), ValueError, "float64", "a boolean for"),
    ),
    *rows(
        "metrics.average_gap",
        lambda w, **bad: metrics.average_gap(**{"metrics": GAPS, "retrain_metrics": GAPS, **bad}),
        ("metrics", "a list", [1, 2], TypeError, "list", "a mapping"),
        ("metrics", "text", {**GAPS, "FA": "50"}, ValueError, "50", "a finite FA"),
        ("metrics", "none", None, TypeError, "NoneType", "a mapping"),
        ("retrain_metrics", "lacks one", {"FA": 1.0}, ValueError, "None", "a finite RA"),
        ("retrain_metrics", "infinity", {**GAPS, "MIA": INF}, ValueError, "inf", "a finite MIA"),
    ),
    *rows(
        "integer_range",
        lambda w, bits: integer_range(bits),
        ("bits", "word", "quaternary", ValueError, "'quaternary'", "'binary', 'ternary'"),
        ("bits", "endless", ENDLESS, ValueError, "1000000", "[1, 8]"),
    ),
    *rows(
        "unpack_codes",
        lambda w, **bad: unpack_codes(**{"packed": np.zeros(2, np.uint8), "bits": 4, "shape": (4,), **bad}),
        ("packed", "too short", np.zeros(1, np.uint8), ValueError, "(1,)", "2 bytes"),
        ("packed", "floats", np.zeros(2), TypeError, "float64", "integers"),
        ("bits", "huge", 64, ValueError, "64", "[1, 8]"),
    ),
    *rows(
        "unpack_codes with a huge shape",
        lambda w, packed: unpack_codes(packed, 4, (HUGE, HUGE)),
        ("packed", "2 bytes", np.zeros(2, np.uint8), ValueError, "(2,)", "bytes for shape (1000000000000,"),
    ),
    *rows(
        "pack_codes",
        lambda w, codes: pack_codes(codes, "binary"),
        ("codes", "zero in binary", np.array([-1, 0, 1]), ValueError, "0", "-1"),
    ),
]
