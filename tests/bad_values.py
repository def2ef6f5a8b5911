"""Bad values of an argument, made from its rule: what a caller may get wrong, and how the answer must read.

`bad_values(name, rule, good, given)` yields rows (kind, bad value, error type, words that the message must hold): the
value, or what it is, and what would be right. A rule of a new kind needs a function in KINDS.
"""

import math

import numpy as np
import torch

from oeu_ref import arrays, boundary
from oeu_ref.beyond import curvature_reference, subspace_reference
from oeu_ref.tensors import layers

A = np.array
NAN, INF, HUGE, ENDLESS = math.nan, math.inf, 10**12, 10**400


def bad_values(name, rule, good, given):
    """Rows of one argument: (kind, bad value, error type, words).

    good: the value that a valid call has; given: that whole call, {argument: value}.
    """
    for kind, bad, error, *words in KINDS[rule.accept](good, *rule.read(given), **rule.options):
        if not (bad is None and rule.optional):
            yield kind, bad, error, (name, *words)


# --- plain values -------------------------------------------------------------------------------------------------


def number(good, low=-INF, high=INF, meaning=""):
    """Of `boundary.number`."""
    remedy = f"[{low:g}, {high:g}]" if math.isfinite(high) else f"at least {low:g}" if math.isfinite(low) else "finite"
    yield from no_numbers()
    for bad in (NAN, INF, -INF, ENDLESS):
        yield f"{bad}"[:8], bad, ValueError, f"{bad}"[:8], remedy
    if math.isfinite(low):
        yield "too small", low - 0.5, ValueError, f"{low - 0.5:g}", remedy
    if math.isfinite(high):
        yield "too large", high + 0.5, ValueError, f"{high + 0.5:g}", remedy, meaning


def no_numbers():
    """What is no number at all."""
    for bad in ("0.5", True, None, 1j, [0.5], np.array([0.5])):
        yield type(bad).__name__, bad, TypeError, type(bad).__name__, "a number"


def positive(good):
    """Of `boundary.positive`."""
    yield from no_numbers()
    yield "zero", 0, ValueError, "0", "greater than 0"
    yield "negative", -0.5, ValueError, "-0.5", "greater than 0"
    for bad in (NAN, INF, ENDLESS):
        yield f"{bad}"[:8], bad, ValueError, f"{bad}"[:8], "finite"


def integer(good, low, high=None):
    """Of `boundary.integer`."""
    for bad in ("3", 2.5, True, None, [3], 1j):
        yield type(bad).__name__, bad, TypeError, repr(bad), "an integer"
    remedy = f"at least {low}" if high is None else f"[{low}, {high}]"
    yield "too small", low - 1, ValueError, str(low - 1), remedy
    if high is not None:
        yield "too large", high + 1, ValueError, str(high + 1), remedy


def whole(good, low=-INF, low_name=None):
    """Of `boundary.whole`."""
    for bad in ("7", 7.5, True, None, NAN, INF, [7]):
        yield f"{bad} {type(bad).__name__}", bad, TypeError, repr(bad), "a whole number"
    if low_name:
        yield "equal", low, ValueError, str(low), f"{low_name} must be smaller"
        yield "smaller", low - 1, ValueError, str(low - 1), f"{low_name} must be smaller"
    elif math.isfinite(low):
        yield "too small", low - 1, ValueError, str(low - 1), f"at least {low}"


def one_of(good, known):
    """Of `boundary.one_of`."""
    remedy = ", ".join(map(repr, known))
    for bad in ("no such word", [good], np.array([good, good]), None, 7):
        if isinstance(bad, (list, np.ndarray)) or bad not in known:
            yield type(bad).__name__, bad, ValueError, repr(bad), remedy


def width(good):
    """Of `boundary.width`."""
    for bad in (0, 9, -4, 32, "quaternary", ENDLESS):
        yield str(bad)[:10], bad, ValueError, repr(bad)[:10], "[1, 8]", "'binary', 'ternary'"
    for bad in (2.5, True, "4", None, [4]):
        yield type(bad).__name__, bad, TypeError, repr(bad), "an integer"


def bits(good):
    """Of `boundary.bits`."""
    for bad in (0, 9, 16, -4, "half"):
        yield str(bad), bad, ValueError, repr(bad), "1 to 8, or 32", "'binary', 'ternary'"
    for bad in (3.5, True, "8", None, np.array([4, 4])):
        yield type(bad).__name__, bad, TypeError, repr(bad), "an integer"


def instance(good, kind, wanted=None):
    """Of `boundary.instance`."""
    for bad in (None, "text", 7, {"a": 1}, dict, [good]):
        if not isinstance(bad, kind):
            yield type(bad).__name__, bad, TypeError, type(bad).__name__, wanted or kind.__name__


def sizes(good):
    """Of `boundary.sizes`."""
    for bad in (6, "63", None):
        yield type(bad).__name__, bad, TypeError, repr(bad), "a sequence of integers"
    yield "one", (6,), ValueError, "(6,)", "at least input and output"
    yield "none", (), ValueError, "()", "at least input and output"
    yield "zero", (6, 0), ValueError, "[1]", "0", "at least 1"
    yield "words", ("6", 3), TypeError, "[0]", "'6'", "an integer"
    yield "halves", (6, 2.5), TypeError, "[1]", "2.5", "an integer"
    yield "huge", (HUGE, HUGE), ValueError, str(HUGE * HUGE), "fewer"


def layer_ids(good, tensors):
    """Of `boundary.layer_ids`."""
    count = len(tensors)
    yield "a number", 2, TypeError, "int", "a layer for each tensor"
    yield "unhashable", [[0]] * count, TypeError, "list", "hashable"
    yield "too many", [0] * (count + 1), ValueError, f"{count + 1} labels", f"{count} tensors"
    yield "none", [], ValueError, "0 labels", f"{count} tensors"


def function(good):
    """Of `boundary.function`."""
    for bad in ("entropy", 7, [1]):
        yield type(bad).__name__, bad, TypeError, type(bad).__name__, "a function"


# --- arrays -------------------------------------------------------------------------------------------------------


def with_first(good, value):
    """A copy with another value in its first place."""
    other = good.clone() if isinstance(good, torch.Tensor) else good.copy()
    other.reshape(-1)[0] = value
    return other


def no_arrays(good, wanted="tensor"):
    """What is no array, or holds no numbers."""
    if isinstance(good, torch.Tensor):
        for bad in (None, [1.0], good.detach().numpy(), 0.5, "words"):
            yield type(bad).__name__, bad, TypeError, type(bad).__name__, wanted
        yield "on meta", good.to("meta"), ValueError, "meta", "hold numbers"
        yield "sparse", good[None].to_sparse(), TypeError, "sparse_coo", ".to_dense()"
    else:
        yield "ragged", [[1.0, 2.0], [1.0]], TypeError, "list", "rows of one length"


def changed_dtypes(good, names):
    """The same array with other dtypes: (kind, array, word)."""
    for name in names:
        changed = good.to(getattr(torch, name)) if isinstance(good, torch.Tensor) else good.astype(name)
        yield name, changed, f"dtype {changed.dtype}"


def samples(good):
    """Of `arrays.samples`."""
    yield from no_arrays(good)
    yield "none at all", good[:0], ValueError, str(tuple(good[:0].shape)), "at least one sample"
    yield "a number", good.reshape(-1)[0], ValueError, "()", "at least one sample"


def floats(good, *axes, check_finite=True, empty=True):
    """Of `arrays.floats`."""
    yield from no_arrays(good)
    tensors = isinstance(good, torch.Tensor)
    convert = ".float()" if tensors else ".astype(float)"
    for kind, bad, word in changed_dtypes(
        good, ["int64", "bool", "complex64", *([] if tensors else ["str", "object"])]
    ):
        yield kind, bad, TypeError, word, "floating point", convert
    if not tensors:
        yield "none", None, TypeError, "object", "floating point"
        yield "a word", "a", TypeError, "<U1", "floating point"
    for value in (NAN, INF, -INF) if check_finite else ():
        for half in (False, True):
            bad = with_first(good, value)
            bad = (bad.half() if tensors else bad.astype(np.float16)) if half else bad
            at = str([0] * good.ndim)
            yield f"{value}{' in half precision' * half}", bad, ValueError, f"{value} at {at}", "finite"
    for axis, size in enumerate(axes):
        named = size in arrays.LEAST
        wanted = f"{size} >= {arrays.LEAST[size][0]}" if named else str(size)
        for other in range(arrays.LEAST[size][0]) if named else (size + 1, size - 1):
            shape = [*good.shape]
            shape[axis] = other
            bad = torch.ones(shape) if tensors else np.ones(shape)
            yield f"axis {axis} of {other}", bad, ValueError, str(tuple(shape)), wanted
    for bad in (good[0], good[None]) if axes else ():
        yield f"rank {bad.ndim}", bad, ValueError, str(tuple(bad.shape)), "shape"
    if not empty:
        yield "empty", good[:0], ValueError, str((0, *good.shape[1:])), "must not be empty"


def like(good, other, what):
    """Of `arrays.like`."""
    yield from floats(good)
    for bad in (good[:1], good[None]):
        yield f"shape {tuple(bad.shape)}", bad, ValueError, str(tuple(bad.shape)), f"shape of {what}"


def probabilities(good):
    """Of `arrays.probabilities`."""
    yield from floats(good, "N", "K")
    for kind, bad in (
        ("percent", 100 * good),
        ("negative", with_first(good, -0.5)),
        ("above 1", with_first(good, 1.5)),
    ):
        yield kind, bad, ValueError, "got entries from", "rows that sum to 1"


def integers(good):
    """Of `arrays.integers`."""
    yield from no_arrays(good, "integers")
    for kind, bad, word in changed_dtypes(good, ["float64", "bool", "complex64"]):
        yield kind, bad, TypeError, word, "integers"
    if not isinstance(good, torch.Tensor):
        yield "words", np.array(["a", "b"]), TypeError, "<U1", "integers"
        yield "none", None, TypeError, "object", "integers"


def labels(good, rows=None, classes=None):
    """Of `arrays.labels`."""
    yield from integers(good)
    classes = classes or rows.shape[1]
    for bad in (classes, -1, 2**62):
        yield f"{bad}", with_first(good, bad), ValueError, f"{bad}", f"[0, {classes})"
    for bad in (good[:, None], *([] if rows is None else [good[:1], good[:0]])):
        yield f"shape {tuple(bad.shape)}", bad, ValueError, str(tuple(bad.shape)), "one label a sample"


def step(good):
    """Of `boundary.step`, for floats."""
    yield from positive(good)


def step_tensor(good):
    """Of `boundary.step`, for tensors."""
    yield "two of them", torch.ones(2), ValueError, "(2,)", "0-d"
    yield "zero", torch.tensor(0.0), ValueError, "0.0", "greater than 0"
    yield "NaN", torch.tensor(NAN), ValueError, "nan", "finite"
    yield "on meta", torch.tensor(1.0, device="meta"), ValueError, "meta", "hold numbers"


def gradients(good, other=None, other_name=None, check_finite=True):
    """Of `arrays.gradients`."""
    for bad in (good[0], iter(good), "gradients", None, 7):
        yield type(bad).__name__, bad, TypeError, type(bad).__name__, "a list of"
    yield "empty", [], ValueError, "empty", "at least 1"
    for kind, bad, error, *words in floats(good[-1], check_finite=check_finite):
        yield f"one: {kind}", [*good[:-1], bad], error, f"[{len(good) - 1}]", *words
    if other is not None:
        yield "too many", [*good, good[0]], ValueError, f"got {len(other)} and {len(good) + 1}", "same length"
        shape = tuple(good[0][None].shape)
        yield "shapes", [good[0][None], *good[1:]], ValueError, f"got {shape}", f"shape of {other_name}[0]"


def paired(good, other, other_name, check_finite=True):
    """Of `tensors.layers.paired`."""
    yield from gradients(good, other, other_name, check_finite)
    yield "two dtypes", [good[0].float(), *good[1:]], TypeError, "float32", "one dtype"


def history(good, forget_grads):
    """Of the history of retain gradients in `oeu_ref.beyond`."""
    yield "an array", good[0][0], TypeError, type(good[0][0]).__name__, "a list of lists"
    yield "empty", [], ValueError, "none", "at least one"
    for kind, bad, error, *words in gradients(good[0], forget_grads, "forget_grads"):
        yield f"one: {kind}", [bad], error, "[0]", *words


def real(good, low=-INF):
    """Of the numbers of a bound in `oeu_ref.beyond`."""
    for bad, word in (("1", "str"), (None, "NoneType"), (A([True]), "bool"), (A([1j]), "complex128")):
        yield word, bad, TypeError, word, "real numbers"
    for bad in (NAN, INF, -INF, A([0.5, NAN])):
        yield f"{bad}", bad, ValueError, "nan" if "nan" in f"{bad}" else f"{bad}", "finite"
    if math.isfinite(low):
        yield "too small", low - 0.5, ValueError, f"{low - 0.5}", f"at least {low}"


def scores(good):
    """Of `arrays.scores`."""
    yield from no_arrays(good)
    for bad, word in ((["a"], "<U1"), ([1j], "complex128"), ([None], "object")):
        yield word, bad, TypeError, word, "real numbers"
    for bad, word in (([0.5, NAN], "nan at [1]"), ([-INF], "-inf at [0]")):
        yield word, bad, ValueError, word, "finite"
    for bad, word in (([], "(0,)"), ([[0.5]], "(1, 1)"), (0.5, "()")):
        yield word, bad, ValueError, word, "N >= 1"


def pair(good):
    """Of `arrays.pair`."""
    p, y = good
    for bad, word in ((p, "ndarray"), (None, "NoneType"), ((p,), "1 things"), ((p, y, y), "3 things")):
        yield word, bad, TypeError, word, "a pair"
    for kind, bad, error, *words in probabilities(p):
        yield f"probabilities: {kind}", (bad, y), error, "[0]", *words
    for kind, bad, error, *words in labels(y, p):
        yield f"labels: {kind}", (p, bad), error, "[1]", *words


def percents(good, keys):
    """Of `boundary.percents`."""
    for bad in (None, [1, 2], "FA"):
        yield type(bad).__name__, bad, TypeError, type(bad).__name__, "a mapping"
    yield "lacks one", {"FA": 1.0}, ValueError, "None", "a finite RA"
    for bad in ("50", NAN, INF, None, ENDLESS):
        yield f"{bad}"[:8], {**good, "MIA": bad}, ValueError, f"{bad}"[:8], "a finite MIA"


def for_each(good, parameters):
    """Of `arrays.for_each`."""
    for bad in (None, [1.0], "velocity"):
        yield type(bad).__name__, bad, TypeError, type(bad).__name__, "dict"
    key = next(iter(parameters))
    yield "of others", {"another": 1.0}, ValueError, f"lacks {key}", "each parameter"
    yield (
        "shape",
        {**parameters, key: np.ones((9, 9))},
        ValueError,
        "(9, 9)",
        f"shape of its parameter, {np.shape(parameters[key])}",
    )


KINDS = {
    getattr(boundary, f.__name__): f
    for f in (number, positive, integer, whole, one_of, width, bits, instance, sizes, layer_ids, function, percents)
}
KINDS |= {
    getattr(arrays, f.__name__): f
    for f in (samples, floats, like, probabilities, integers, labels, gradients, scores, pair, for_each)
}
KINDS[boundary.step] = lambda good: (step_tensor if isinstance(good, torch.Tensor) else step)(good)
KINDS[layers.paired] = paired
KINDS[curvature_reference._real] = real
KINDS[subspace_reference._history] = history
