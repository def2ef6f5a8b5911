"""Bad input to networks and their parts, to data, and to the reference's own network."""

import math

import numpy as np
import torch

from oeu_ref import core
from oeu_ref.core.network import quantize_model
from oeu_ref.integer.agreement import compare
from oeu_ref.integer.export import export
from oeu_ref.lab import data, images, models
from oeu_ref.reference import network, unlearner

from .row import rows
from .world import with_first

NAN, INF, HUGE = math.nan, math.inf, 10**12


def _first(name, value):
    """A named tensor of the world with another value in its first place."""
    return lambda w: with_first(getattr(w, name), value)


NETWORKS = [
    *rows(
        "Samples",
        lambda w, **bad: data.Samples(**{"inputs": w.forget, "labels": w.forget_labels, **bad}),
        ("inputs", "a list", [1.0], TypeError, "list", "a tensor"),
        ("labels", "int32", lambda w: w.forget_labels.int(), TypeError, "int32", "int64"),
        ("labels", "too many", lambda w: w.labels, ValueError, "(7,)", "shape (5,)"),
        ("labels", "a column", lambda w: w.forget_labels[:, None], ValueError, "(5, 1)", "shape (5,)"),
    ),
    *rows(
        "Batches",
        lambda w, **bad: data.Batches(
            **{"samples": w.forget_samples, "batch_size": 2, "generator": w.generator, **bad}
        ),
        ("samples", "none", lambda w: w.forget_samples[:0], ValueError, "none", "at least one"),
        ("batch_size", "zero", 0, ValueError, "0", "at least 1"),
        ("batch_size", "text", "128", TypeError, "'128'", "an integer"),
    ),
    *rows(
        "stream",
        lambda w, seed: data.stream(seed, "split"),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
        ("seed", "text", "1", TypeError, "'1'", "an integer"),
        ("seed", "half", 0.5, TypeError, "0.5", "an integer"),
    ),
    *rows(
        "with_label_noise",
        lambda w, **bad: data.with_label_noise(
            **{"labels": w.labels, "share": 0.5, "num_classes": 3, "generator": w.generator, **bad}
        ),
        ("share", "percent", 20, ValueError, "20", "[0, 1]"),
        ("num_classes", "one", 1, ValueError, "1", "at least 2"),
    ),
    *rows(
        "forget_split",
        lambda w, share: data.forget_split(w.retain_samples, share, w.generator),
        ("share", "zero", 0, ValueError, "0", "to forget and to keep"),
        ("share", "one", 1, ValueError, "1", "to forget and to keep"),
        ("share", "NaN", NAN, ValueError, "nan", "[0, 1]"),
    ),
    *rows(
        "split_at",
        lambda w, indices: data.split_at(w.retain_samples, indices),
        ("indices", "none", torch.tensor([], dtype=torch.int64), TypeError, "(0,)", "M >= 1"),
        ("indices", "a mask", torch.ones(7, dtype=torch.bool), TypeError, "bool", "integers"),
        ("indices", "too large", torch.tensor([1, 7]), ValueError, "7", "[0, 7)"),
        ("indices", "negative", torch.tensor([-1]), ValueError, "-1", "[0, 7)"),
        ("indices", "twice", torch.tensor([1, 1]), ValueError, "1 more than once", "distinct"),
        ("indices", "all", torch.arange(7), ValueError, "all 7", "to keep"),
    ),
    *rows(
        "class_indices",
        lambda w, classes: data.class_indices(w.labels, classes),
        ("classes", "none", [], ValueError, "[]", "at least one"),
        ("classes", "twice", [1, 1], ValueError, "[1, 1]", "none twice"),
        ("classes", "absent", [5], ValueError, "5", "classes of the training samples"),
        ("classes", "half", [0.5], TypeError, "0.5", "an integer"),
    ),
    *rows(
        "digits",
        lambda w, **bad: data.digits(1, **bad),
        ("validation_size", "huge", HUGE, ValueError, str(HUGE), "at least 2 of 1797"),
        ("test_size", "zero", 0, ValueError, "0", "at least 1"),
    ),
    *rows(
        "ImageClassifier",
        lambda w, **bad: images.ImageClassifier(
            **{"network": w.conv, "mean": torch.zeros(3), "std": torch.ones(3), **bad}
        ),
        ("network", "text", "resnet18", TypeError, "str", "torch.nn.Module"),
        ("mean", "scalar", 0.5, ValueError, "0.5", "(C,)"),
        ("mean", "NaN", [0.5, NAN, 0.5], ValueError, "nan", "finite"),
        ("std", "zero", [0.0, 1.0, 1.0], ValueError, "0.0", "above 0"),
        ("std", "too few", [1.0], ValueError, "[1.0]", "one shape"),
        ("std", "text", "imagenet", TypeError, "str", "numbers"),
        ("precision", "word", "float16", ValueError, "'float16'", "'float32', 'bfloat16'"),
    ),
    *rows(
        "ImageClassifier.forward",
        lambda w, **bad: images.ImageClassifier(w.conv, torch.zeros(3), torch.ones(3))(**bad),
        ("images", "floats", lambda w: w.images / 255, TypeError, "float32", "uint8"),
        ("images", "a single one", lambda w: w.images[0], ValueError, "(3, 8, 8)", "(N, C, H, W)"),
    ),
    *rows(
        "quantize_model",
        lambda w, **bad: quantize_model(**{"model": w.linear, **bad}),
        ("model", "a dict", {}, TypeError, "dict", "torch.nn.Module"),
        ("weight_bits", "sixteen", 16, ValueError, "16", "1 to 8, or 32"),
        ("activation_bits", "word", "half", ValueError, "'half'", "'binary', 'ternary'"),
        ("first_last_bits", "zero", 0, ValueError, "0", "1 to 8, or 32"),
        ("mask", "word", "all", ValueError, "'all'", "'clip', 'round'"),
    ),
    *rows(
        "resnet18",
        lambda w, **bad: models.resnet18(**{"num_classes": 3, **bad}),
        ("num_classes", "one", 1, ValueError, "1", "at least 2"),
        ("width", "zero", 0, ValueError, "0", "at least 1"),
        ("stem_stride", "three", 3, ValueError, "3", "[1, 2]"),
    ),
    *rows(
        "mobilenet_v2",
        lambda w, **bad: models.mobilenet_v2(**{"num_classes": 3, **bad}),
        ("num_classes", "text", "10", TypeError, "'10'", "an integer"),
        ("width", "half", 0.5, TypeError, "0.5", "an integer"),
        ("stem_stride", "zero", 0, ValueError, "0", "[1, 2]"),
    ),
    *rows(
        "QuantMLP",
        lambda w, **bad: core.QuantMLP(**{"sizes": (6, 3), **bad}),
        ("sizes", "one", (6,), ValueError, "(6,)", "at least input and output"),
        ("sizes[1]", "zero", (6, 0), ValueError, "0", "at least 1"),
        ("sizes[0]", "text", ("6", 3), TypeError, "'6'", "an integer"),
        ("weight_bits", "nine", 9, ValueError, "9", "1 to 8, or 32"),
    ),
    *rows(
        "Quantizer",
        lambda w, **bad: core.Quantizer(**{"bits": 4, **bad}),
        ("bits", "none", None, TypeError, "NoneType", "an integer"),
        ("bits", "32", 32, ValueError, "32", "[1, 8]"),
        ("bits", "a boolean", True, TypeError, "True", "an integer"),
        ("mask", "word", "ste", ValueError, "'ste'", "'clip', 'round'"),
    ),
    *rows(
        "Quantizer of binary codes",
        lambda w, mask: core.Quantizer("binary", mask=mask),
        ("mask", "round", "round", ValueError, "'round'", "'clip' for binary codes"),
    ),
    *rows(
        "Quantizer.forward",
        lambda w, x: core.Quantizer(4)(x),
        ("x", "first batch NaN", _first("logits", NAN), ValueError, "nan", "finite"),
        ("x", "first batch empty", lambda w: w.logits[:0], ValueError, "empty", "must not"),
        ("x", "integers", lambda w: w.labels, TypeError, "int64", ".float()"),
    ),
    *rows(
        "Quantizer.codes",
        lambda w, step: core.Quantizer(4).codes(step),
        ("step", "not yet known", lambda w: w.logits, ValueError, "its step", "pass a batch first"),
    ),
    *rows(
        "export",
        lambda w, **bad: export(**{"model": w.quantized, "input_shape": (6,), "input_scale": 0.1, **bad}),
        ("model", "a path", "model.pt", TypeError, "str", "torch.nn.Module"),
        ("model", "in train mode", lambda w: w.model, ValueError, "eval mode", "model.eval()"),
        ("input_shape", "two numbers", (6, 6), ValueError, "(6, 6)", "(C, H, W) or (features,)"),
        ("input_shape", "zero", (0,), ValueError, "0", "at least 1"),
        ("value_bits", "sixteen", 16, ValueError, "16", "32, 64"),
    ),
    *rows(
        "compare",
        lambda w, **bad: compare(**{"model": w.model, "network": None, "inputs": w.images, **bad}),
        ("precision", "word", "float16", ValueError, "'float16'", "'float64', 'float32'"),
        ("network", "a model", lambda w: w.model, TypeError, "QuantMLP", "an IntegerNetwork"),
    ),
    *rows(
        "QuantizedMLP",
        lambda w, **bad: network.QuantizedMLP(**{"sizes": (6, 3), **bad}),
        ("sizes", "a number", 6, TypeError, "int", "a sequence"),
        ("sizes", "text", "63", TypeError, "str", "a sequence"),
        ("sizes", "huge", (HUGE, HUGE), ValueError, str(HUGE * HUGE), "fewer"),
        ("weight_bits", "three and a half", 3.5, TypeError, "3.5", "an integer"),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
        ("seed", "text", "a", TypeError, "'a'", "an integer"),
    ),
    *rows(
        "QuantizedMLP.forward",
        lambda w, inputs: w.mlp.forward(inputs),
        ("inputs", "width", np.zeros((2, 5)), ValueError, "(2, 5)", "(N, 6)"),
        ("inputs", "infinity", np.full((2, 6), INF), ValueError, "inf", "finite"),
        ("inputs", "ragged", [[1.0], [1.0, 2.0]], TypeError, "list", "rows of one length"),
        ("inputs", "none at all", np.zeros((0, 6)), ValueError, "(0, 6)", "N >= 1"),
    ),
    *rows(
        "QuantizedMLP.backward",
        lambda w, **bad: w.mlp.backward(w.mlp.forward(np.zeros((2, 6)))[1], **bad),
        ("grad_logits", "shape", np.zeros((2, 4)), ValueError, "(2, 4)", "(2, 3)"),
        ("grad_logits", "NaN", np.full((2, 3), NAN), ValueError, "nan", "finite"),
    ),
    *rows(
        "reference.oeu_step",
        lambda w, **bad: unlearner.oeu_step(
            **{
                "network": w.mlp,
                "forget_inputs": w.forget.double().numpy(),
                "retain_inputs": w.retain.double().numpy(),
                "retain_labels": w.labels.numpy(),
                "learning_rate": 0.1,
                **bad,
            }
        ),
        ("network", "a torch model", lambda w: w.model, TypeError, "QuantMLP", "a QuantizedMLP"),
        ("retain_labels", "floats", np.zeros(7), TypeError, "float64", "integers"),
        ("learning_rate", "zero", 0, ValueError, "0", "greater than 0"),
        ("layer", "word", "block", ValueError, "'block'", "'module', 'tensor'"),
        ("momentum", "above 1", 2, ValueError, "2", "[0, 1]"),
        ("velocity", "of others", {"a": np.zeros(1)}, ValueError, "layers.0.weight", "each parameter"),
    ),
    *rows(
        "sgd_step",
        lambda w, **bad: network.sgd_step(
            **{"parameters": {"a": np.ones(2)}, "grads": {"a": np.ones(2)}, "learning_rate": 0.1, **bad}
        ),
        ("grads", "of others", {"b": np.ones(2)}, ValueError, "lacks a", "each parameter"),
        ("grads", "shape", {"a": np.ones(3)}, ValueError, "(3,)", "(2,)"),
        ("weight_decay", "NaN", NAN, ValueError, "nan", "finite"),
    ),
    *rows(
        "reference.train",
        lambda w, **bad: network.train(
            **{"network": w.mlp, "inputs": np.zeros((2, 6)), "labels": np.array([0, 1]), "epochs": 1, **bad}
        ),
        ("inputs", "none at all", np.zeros((0, 6)), ValueError, "(0, 6)", "N >= 1"),
        ("inputs", "NaN in the last row", np.array([[0.0] * 6, [NAN] * 6]), ValueError, "nan", "finite"),
        ("labels", "too few", np.array([0]), ValueError, "(1,)", "(2,)"),
        ("labels", "too large", np.array([0, 3]), ValueError, "3", "[0, 3)"),
        ("epochs", "zero", 0, ValueError, "0", "at least 1"),
        ("batch_size", "half", 0.5, TypeError, "0.5", "an integer"),
        ("learning_rate", "negative", -1, ValueError, "-1", "greater than 0"),
        ("momentum", "text", "0.9", TypeError, "str", "a number"),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
    ),
]
