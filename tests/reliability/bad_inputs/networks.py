"""Bad input to networks and their parts, to data, and to the reference's own network."""

import math

import torch

from oeu_ref import core
from oeu_ref.data import samples
from oeu_ref.integer.agreement import compare
from oeu_ref.integer.export import export
from oeu_ref.lab import images, models

from .row import rows
from .world import with_first

NAN, INF, HUGE = math.nan, math.inf, 10**12


def _first(name, value):
    """A named tensor of the world with another value in its first place."""
    return lambda w: with_first(getattr(w, name), value)


NETWORKS = [
    *rows(
        "Samples",
        lambda w, **bad: samples.Samples(**{"inputs": w.forget, "labels": w.forget_labels, **bad}),
        ("inputs", "a list", [1.0], TypeError, "list", "a tensor"),
        ("labels", "int32", lambda w: w.forget_labels.int(), TypeError, "int32", "int64"),
        ("labels", "too many", lambda w: w.labels, ValueError, "(7,)", "shape (5,)"),
        ("labels", "a column", lambda w: w.forget_labels[:, None], ValueError, "(5, 1)", "shape (5,)"),
    ),
    *rows(
        "Batches",
        lambda w, **bad: samples.Batches(
            **{"samples": w.forget_samples, "batch_size": 2, "generator": w.generator, **bad}
        ),
        ("samples", "none", lambda w: w.forget_samples[:0], ValueError, "none", "at least one"),
        ("batch_size", "zero", 0, ValueError, "0", "at least 1"),
        ("batch_size", "text", "128", TypeError, "'128'", "an integer"),
    ),
    *rows(
        "stream",
        lambda w, seed: samples.stream(seed, "split"),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
        ("seed", "text", "1", TypeError, "'1'", "an integer"),
        ("seed", "half", 0.5, TypeError, "0.5", "an integer"),
    ),
    *rows(
        "with_label_noise",
        lambda w, **bad: samples.with_label_noise(
            **{"labels": w.labels, "share": 0.5, "num_classes": 3, "generator": w.generator, **bad}
        ),
        ("share", "percent", 20, ValueError, "20", "[0, 1]"),
        ("num_classes", "one", 1, ValueError, "1", "at least 2"),
    ),
    *rows(
        "forget_split",
        lambda w, share: samples.forget_split(w.retain_samples, share, w.generator),
        ("share", "zero", 0, ValueError, "0", "to forget and to keep"),
        ("share", "one", 1, ValueError, "1", "to forget and to keep"),
        ("share", "NaN", NAN, ValueError, "nan", "[0, 1]"),
    ),
    *rows(
        "split_at",
        lambda w, indices: samples.split_at(w.retain_samples, indices),
        ("indices", "none", torch.tensor([], dtype=torch.int64), TypeError, "(0,)", "M >= 1"),
        ("indices", "a mask", torch.ones(7, dtype=torch.bool), TypeError, "bool", "integers"),
        ("indices", "too large", torch.tensor([1, 7]), ValueError, "7", "[0, 7)"),
        ("indices", "negative", torch.tensor([-1]), ValueError, "-1", "[0, 7)"),
        ("indices", "twice", torch.tensor([1, 1]), ValueError, "1 more than once", "distinct"),
        ("indices", "all", torch.arange(7), ValueError, "all 7", "to keep"),
    ),
    *rows(
        "class_indices",
        lambda w, classes: samples.class_indices(w.labels, classes),
        ("classes", "none", [], ValueError, "[]", "at least one"),
        ("classes", "twice", [1, 1], ValueError, "[1, 1]", "none twice"),
        ("classes", "absent", [5], ValueError, "5", "classes of the training samples"),
        ("classes", "half", [0.5], TypeError, "0.5", "an integer"),
    ),
    *rows(
        "digits",
        lambda w, **bad: samples.digits(1, **bad),
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
]
