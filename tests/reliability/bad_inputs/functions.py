"""Bad input to the mathematics: what the rules of the functions, see `tests/test_bad_input.py`, cannot say."""

import math

import numpy as np
import torch

from oeu_ref.beyond import curvature
from oeu_ref.integer.packing import pack_codes, unpack_codes
from oeu_ref.lab.images import augment, channel_statistics
from oeu_ref.reference import metrics

from .row import rows

NAN, INF, HUGE, ENDLESS = math.nan, math.inf, 10**12, 10**400


def _loss_with_graph(w):
    parameter = torch.ones(3, requires_grad=True)
    return torch.autograd.grad(parameter.pow(3).sum(), [parameter], create_graph=True), [parameter]


def _hessian(w, **bad):
    gradient, parameters = _loss_with_graph(w)
    return curvature.hessian_vector_product(
        **{"gradient": list(gradient), "parameters": parameters, "vector": [torch.ones(3)], **bad}
    )


def _membership(w, **bad):
    pair = w.probabilities, np.array([0, 2])
    return metrics.membership_inference(**{"retain": pair, "test": pair, "forget": pair, **bad})


FUNCTIONS = [
    *rows(
        "curvature.hessian_vector_product",
        _hessian,
        ("gradient", "without graph", [torch.ones(3)], ValueError, "its graph", "create_graph=True"),
        ("gradient", "too many", lambda w: w.grads, ValueError, "2", "a list of 1 tensors"),
        ("gradient", "a tensor", torch.ones(3), ValueError, "Tensor", "a list of 1 tensors"),
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
        "metrics.membership_inference",
        _membership,
        ("attack", "wrong length", lambda w: lambda *_: np.array([True]), ValueError, "(1,)", "a boolean for each"),
        ("attack", "no booleans", lambda w: lambda *_: np.array([0.5, 0.5]), ValueError, "float64", "a boolean for"),
    ),
    *rows(
        "unpack_codes",
        lambda w, **bad: unpack_codes(**{"packed": np.zeros(2, np.uint8), "bits": 4, "shape": (4,), **bad}),
        ("packed", "too short", np.zeros(1, np.uint8), ValueError, "(1,)", "2 bytes"),
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
