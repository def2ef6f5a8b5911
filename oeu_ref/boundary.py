"""Checks of plain arguments (numbers and words) that reference and core share: one rule, one message, no NumPy."""

import math
import numbers
from collections.abc import Hashable, Sized

GRANULARITIES = ("layer", "global")
RESCALES = ("undo", "match")
NORMALIZATIONS = ("exact", "additive")
MASKS = ("clip", "round")
LAYERS = ("module", "tensor")
WIDTHS = ("binary", "ternary")  # of quantizers, beside 1 to 8 bits
LARGEST = 2**31  # numbers in one array: 16 GiB in float64, and no typing error fills the memory


def one_of(name, value, known):
    """Return `value` if it is one of the words `known`; raise ValueError that lists them otherwise."""
    # an array, which compares element by element, is not hashable
    if not isinstance(value, Hashable) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def number(name, value, low=-math.inf, high=math.inf, meaning=""):
    """Return `value` as float if it is a finite number in [low, high].

    Raises TypeError for what is no number (booleans included), ValueError outside the range, explained by `meaning`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (_is_finite(value) and low <= value <= high):
        if math.isfinite(low) and math.isfinite(high):
            wanted = f"lie in [{low:g}, {high:g}]"
        elif math.isfinite(low):
            wanted = f"be finite and at least {low:g}"
        else:
            wanted = "be finite"
        raise ValueError(f"{name} must {wanted}{f' ({meaning})' if meaning else ''}, got {value}")
    return float(value)


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def alpha(value):
    """Return the projection strength as float; raise unless it is a number in [0, 1]."""
    return number("alpha", value, 0, 1, "0: no protection, 1: full orthogonality")


def beta(value):
    """Return the weight of the projected forget gradient as float; raise unless it is a finite number >= 0."""
    return number("beta", value, 0, meaning="the weight of the projected forget gradient")


def positive(name, value):
    """Return `value` as float; raise unless it is a finite number above 0."""
    if number(name, value) <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value}")
    return float(value)


def integer(name, value, low, high=None):
    """Return `value` as int; raise TypeError unless it is an integer, ValueError unless low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return int(value)


def width(name, value, wanted="in [1, 8]"):
    """Return the width of a quantizer: an integer from 1 to 8, its bits, or one of the words WIDTHS.

    wanted: what a number should have been, for the message.  Raises TypeError for what is no integer (a number in
    quotes included), ValueError for another integer or word.
    """
    if isinstance(value, str) and value in WIDTHS:
        return value
    if isinstance(value, str) and not value.isdigit():
        known = False
    else:
        known = 1 <= integer(name, value, -math.inf) <= 8
    if not known:
        raise ValueError(f"{name} must be {wanted}, or one of {', '.join(map(repr, WIDTHS))}, got {value!r}")
    return int(value)


def bits(name, value):
    """Return a bit width: as `width`, or 32, which means "not quantized"."""
    if value == 32 and not isinstance(value, bool):
        return 32
    return width(name, value, "1 to 8, or 32 for no quantization")


def integer_range(q_min, q_max):
    """Return (q_min, q_max) as ints; raise unless both are whole numbers with q_min < q_max."""
    for name, value in (("q_min", q_min), ("q_max", q_max)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _is_whole(value):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    if q_min >= q_max:
        raise ValueError(f"q_min must be smaller than q_max, got q_min={q_min}, q_max={q_max}")
    return int(q_min), int(q_max)


def _is_whole(value):
    return _is_finite(value) and value == math.floor(value)


def instance(name, value, kind, wanted=None):
    """Return `value` if it is of a class; raise TypeError otherwise.  wanted: what to call it, None: by its name."""
    if not isinstance(value, kind):
        wanted = wanted or kind.__name__
        article = "an" if wanted[0] in "AEIOaeiou" else "a"
        raise TypeError(f"{name} must be {article} {wanted}, got {type(value).__name__}")
    return value


def function(name, value):
    """Return `value` if it is None or can be called; raise TypeError otherwise."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")
    return value


def sequence(name, values, of):
    """Return `values` as a tuple; raise TypeError for a word or what cannot be iterated.  of: what they are, plural."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be a sequence of {of}, got {values!r} ({type(values).__name__})")
    return tuple(values)


def size(name, count, what):
    """Return a number of numbers; raise ValueError for more than LARGEST.  what: which they are, for the message."""
    if count > LARGEST:
        raise ValueError(f"{name} must give fewer than {LARGEST} {what}, got {count}")
    return count


def layer_ids(values, count, granularity):
    """Return for each of `count` tensors the number of the layer that it belongs to.

    values: None (each tensor is a layer) or `count` hashable labels, equal for tensors of one layer. With granularity
    "global" all tensors are one layer, whatever the labels.  Raises TypeError for what are no labels, ValueError for
    another number of them.
    """
    one_of("granularity", granularity, GRANULARITIES)
    if values is not None and not isinstance(values, Sized):
        raise TypeError(f"layer_ids must name a layer for each tensor, got {type(values).__name__}")
    for label in () if values is None else values:
        if not isinstance(label, Hashable):
            raise TypeError(f"layer_ids must be hashable labels, got a {type(label).__name__}")
    if values is not None and len(values) != count:
        raise ValueError(f"layer_ids must name a layer for each tensor: {count} tensors, {len(values)} labels")
    if granularity == "global":
        return [0] * count
    if values is None:
        return list(range(count))
    numbers_of = {label: i for i, label in enumerate(dict.fromkeys(values))}
    return [numbers_of[label] for label in values]
