"""What an argument may be, as data: rules that a decorator attaches to a function, and the checks of plain values.

    takes = taking(numpy)

    @takes(logits=LOGITS, labels=Labels(of("logits")), alpha=ALPHA, rescale=OneOf(RESCALES))
    def some_loss(logits, labels, alpha=1.0, rescale="undo"): ...

A rule checks its argument and converts it where the code needs that: NumPy's arrays become float64 copies, tensors stay
as they are. `some_loss.unchecked` is the mathematics alone; from `some_loss.rules` the tests of bad input are made.
The checks of arrays are in `oeu_ref.arrays`. Nothing but the standard library is imported here.
"""

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Hashable, Mapping, Sized
from functools import partial, wraps

from . import arrays

GRANULARITIES = ("layer", "global")
RESCALES = ("undo", "match")
NORMALIZATIONS = ("exact", "additive")
MASKS = ("clip", "round")
WIDTHS = ("binary", "ternary")  # of quantizers, beside 1 to 8 bits
LARGEST = 2**31  # numbers in one array: 16 GiB in float64, and no typing error fills the memory


def taking(library=None):
    """The decorator `takes` of a file that computes with a library: numpy, torch, or None where there are no arrays.

    takes(**rules): a `Rule` for each argument, in the order in which they are tried: one may ask about those before it.
    takes(other, **rules): all other arguments go on to the function other, which has rules for them.
    """

    def takes(other=None, /, **rules):
        def decorate(function):
            signature = inspect.signature(function)
            checks = [(name, rule.check_of(name, library)) for name, rule in rules.items()]

            @wraps(function)
            def checked(*args, **kwargs):
                try:
                    bound = signature.bind(*args, **kwargs)
                except TypeError:
                    return function(*args, **kwargs)  # which Python refuses, in its own words
                bound.apply_defaults()
                given = bound.arguments
                for name, check in checks:
                    given[name] = check(given[name], given)
                return function(*bound.args, **bound.kwargs)

            checked.rules, checked.unchecked = {**getattr(other, "rules", {}), **rules}, function
            return checked

        return decorate

    return takes


class Rule:
    """What a check accepts: `Rule(number, 0, 1)` is `number(name, value, 0, 1)`; a setting may be `of` an argument.

    optional: whether None is right as well.
    """

    def __init__(self, accept, *settings, optional=False, **options):
        self.accept, self.settings, self.optional, self.options = accept, settings, optional, options

    def check_of(self, name, library):
        """The check of one argument: maps (value, all arguments by name) to the value, converted, or raises."""
        before = (library,) if "library" in inspect.signature(self.accept).parameters else ()

        def check(value, given):
            if self.optional and value is None:
                return None
            return self.accept(name, value, *before, *self.read(given), **self.options)

        return check

    def read(self, given):
        """The settings, those of other arguments read off."""
        return [setting.read(given) if isinstance(setting, of) else setting for setting in self.settings]


class of:
    """Another argument as a setting of a rule, or a part of it: an attribute's name, or a function that finds it."""

    def __init__(self, argument, part=lambda value: value):
        self.argument, self.part = argument, operator.attrgetter(part) if isinstance(part, str) else part

    def read(self, given):
        """The value, of all arguments by name."""
        return self.part(given[self.argument])


# --- plain values -------------------------------------------------------------------------------------------------


def one_of(name, value, known):
    """Return `value` if it is one of the words `known`; raise ValueError that lists them otherwise."""
    # an array, which compares element by element, is not hashable
    if not isinstance(value, Hashable) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def number(name, value, low=-math.inf, high=math.inf, meaning=""):
    """Return `value` as float; raise TypeError for what is no number, ValueError unless finite and in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (_is_finite(value) and low <= value <= high):
        if math.isfinite(low) and math.isfinite(high):
            wanted = f"lie in [{low:g}, {high:g}]"
        else:
            wanted = f"be finite and at least {low:g}" if math.isfinite(low) else "be finite"
        raise ValueError(f"{name} must {wanted}{f' ({meaning})' if meaning else ''}, got {value}")
    return float(value)


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


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


def whole(name, value, low=-math.inf, low_name=None):
    """Return `value` as int; raise TypeError unless it is a whole number (8.0 is), ValueError below `low`.

    low_name: of the argument that `low` is, which the value must exceed.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not (_is_finite(value) and value % 1 == 0):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if low_name and value <= low:
        raise ValueError(f"{low_name} must be smaller than {name}, got {low_name}={low}, {name}={value}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    return int(value)


def width(name, value, wanted="in [1, 8]"):
    """Return the width of a quantizer, an integer from 1 to 8 or one of the words WIDTHS; wanted: in the message."""
    if isinstance(value, str) and value in WIDTHS:
        return value
    # a number in quotes is no integer, any other word no word that is known
    if isinstance(value, str) and not value.isdigit() or not 1 <= integer(name, value, -math.inf) <= 8:
        raise ValueError(f"{name} must be {wanted}, or one of {', '.join(map(repr, WIDTHS))}, got {value!r}")
    return int(value)


def bits(name, value):
    """Return a bit width: as `width`, or 32, which means "not quantized"."""
    if isinstance(value, numbers.Real) and value == 32:
        return 32
    return width(name, value, "1 to 8, or 32 for no quantization")


def instance(name, value, kind, wanted=None):
    """Return `value` if it is of a class; raise TypeError otherwise.  wanted: what to call it, None: by its name."""
    if not isinstance(value, kind):
        wanted = wanted or kind.__name__
        article = "an" if wanted[0] in "AEIOaeiou" else "a"
        raise TypeError(f"{name} must be {article} {wanted}, got {type(value).__name__}")
    return value


def function(name, value):
    """Return `value` if it is None or can be called; raise TypeError otherwise."""
    return value if value is None else instance(name, value, Callable, "function")


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


def sizes(name, values):
    """Return a perceptron's widths from inputs to classes as a list of ints; raise TypeError or ValueError."""
    values = sequence(name, values, "integers")
    if len(values) < 2:
        raise ValueError(f"{name} must name at least input and output width, got {values}")
    values = [integer(f"{name}[{i}]", value, 1) for i, value in enumerate(values)]
    size(name, sum(a * b for a, b in zip(values, values[1:])), "weights")
    return values


def percents(name, value, keys):
    """Return a mapping with a finite percentage for each of keys; raise TypeError or ValueError otherwise."""
    instance(name, value, Mapping, "mapping")
    for key in keys:
        if not isinstance(value.get(key), numbers.Real) or not _is_finite(value[key]):
            raise ValueError(f"{name} must hold a finite {key} (percent), got {value.get(key)}")
    return value


def step(name, value, library):
    """Return a quantizer's step, a number above 0, or a 0-d tensor of one as it is; raise otherwise."""
    if not isinstance(value, library.Tensor if library.__name__ == "torch" else ()):
        return positive(name, value)
    if value.ndim:
        raise ValueError(f"{name} must be a float or a 0-d tensor, got shape {tuple(value.shape)}")
    positive(name, arrays.array(name, value, library).item())
    return value


def layer_ids(name, values, tensors):
    """Return a hashable label for each of the tensors; raise TypeError or ValueError otherwise."""
    if not isinstance(values, Sized):
        raise TypeError(f"{name} must name a layer for each tensor, got {type(values).__name__}")
    for label in values:
        if not isinstance(label, Hashable):
            raise TypeError(f"{name} must be hashable labels, got a {type(label).__name__}")
    if len(values) != len(tensors):
        raise ValueError(f"{name} must name a layer for each tensor: {len(tensors)} tensors, {len(values)} labels")
    return values


# --- the rules ----------------------------------------------------------------------------------------------------

Number, Positive, Integer, Whole = (partial(Rule, f) for f in (number, positive, integer, whole))
OneOf, Width, Bits, Instance, Sizes = (partial(Rule, f) for f in (one_of, width, bits, instance, sizes))
Step, Percents = (partial(Rule, f) for f in (step, percents))
Floats, Integers, Labels = (partial(Rule, f) for f in (arrays.floats, arrays.integers, arrays.labels))
Probabilities, Samples, Scores = (partial(Rule, f) for f in (arrays.probabilities, arrays.samples, arrays.scores))
Pair, ForEach = (partial(Rule, f) for f in (arrays.pair, arrays.for_each))
LOGITS = Floats("N", "K")
FLAG = OneOf((True, False))
FUNCTION, FUNCTION_OR_NONE = Instance(Callable, "function"), Instance(Callable, "function", optional=True)
MASK, GRANULARITY, LAYER = OneOf(MASKS), OneOf(GRANULARITIES), OneOf(("module", "tensor"))
RESCALE, NORMALIZATION = OneOf(RESCALES), OneOf(NORMALIZATIONS)
ALPHA = Number(0, 1, "0: no protection, 1: full orthogonality")
BETA = Number(0, math.inf, "the weight of the projected forget gradient")


def Like(argument, what=None):
    """Rule of an array with the shape of another argument, or of a part of it that the message calls what."""
    return Rule(arrays.like, argument if isinstance(argument, of) else of(argument), what or argument)


def Gradients(argument=None, check_finite=True):
    """Rule of a list of arrays, of the shapes of another argument's if one is named."""
    other = (of(argument), argument) if argument else ()
    return Rule(arrays.gradients, *other, check_finite=check_finite)


def LayerIds(argument):
    """Rule of a label for each tensor of another argument, or None."""
    return Rule(layer_ids, of(argument), optional=True)
