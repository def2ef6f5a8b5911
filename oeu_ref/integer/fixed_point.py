"""A network planned in real numbers, and turned into integers once it is known how large its values can get.

Values that additions join form a stream, and share a unit. A stream has as many fraction bits as its largest possible
value leaves room for: nothing can overflow, whatever the input, and nothing has to be measured on data.
Source: Jacob et al., CVPR 2018, section 2, where units come from observed ranges; the worst-case bounds are ours.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from .network import VALUE_TYPES, Node, sides, thresholds


@dataclass
class Value:
    """A value that still lacks its unit.

    name, op, inputs: of the integer node; stream: number of the stream; divisor: pixels that an average pool summed;
    bound: the largest magnitude, a real number; shape: of one sample; make(fraction_bits, value_bits) -> (attributes,
    arrays) of the node; about: numbers for human readers.
    """

    name: str
    op: str
    inputs: tuple
    stream: int
    divisor: int
    bound: float
    shape: tuple
    make: object = None
    about: dict = field(default_factory=dict)


class Plan:
    """Operations in the order of execution, each method adding one and returning its `Value`."""

    def __init__(self):
        self.steps, self._streams = [], []

    def quantize(self, name, value, step, q_min, q_max, gap, bits):
        """Codes of a value, for a layer: q_min to q_max with this step; gap 2: the signs alone, that of 0 being +1."""

        def make(f, value_bits):
            if gap == 2:
                ascending = np.zeros(1, VALUE_TYPES[value_bits])
            else:
                ascending = thresholds(step, q_min, q_max, Fraction(1, value.divisor) / Fraction(2) ** f, value_bits)
            return {"q_min": q_min, "gap": gap}, {"thresholds": ascending}

        about = {"bits": bits, "step": step}
        self.steps.append(Value(name, "quantize", (value.name,), value.stream, 1, 0.0, value.shape, make, about))

    def sums(self, name, op, weight, attributes, about):
        """Sums of products of the codes called NAME.input, for a layer.  weight: int8 codes."""
        self.steps.append(Node(name, op, (f"{name}.input",), attributes, {"weight": weight}, about))

    def rescale(self, name, source, sums, factor, offset, shape):
        """Values sum * factor + offset, channel by channel: a stream begins.

        sums: (C,) the largest magnitude of each sum; factor, offset: (C,) float64.
        """
        factor = np.where(sums > 0, factor, 0.0)  # a channel without weights has no other sum than 0
        magnitude = sums * np.abs(factor) + np.abs(offset)
        self._streams.append(len(self._streams))

        def make(f, value_bits):
            # the most exact multiplier that its type and the 64 bits of the product have room for
            room = min(value_bits - 2 - _exponent(np.abs(factor).max()), 62 - _exponent(magnitude.max()))
            shift = max(0, min(room - f, 62))
            half = 1 << (shift - 1) if shift else 0
            multiplier = np.array(_scaled(factor, f + shift), VALUE_TYPES[value_bits])
            offsets = np.array([whole + half for whole in _scaled(offset, f + shift)], np.int64)
            return {"shift": shift, "fraction_bits": f}, {"multiplier": multiplier, "offset": offsets}

        return self._add(name, "rescale", (source,), len(self._streams) - 1, 1, float(magnitude.max()), shape, make)

    def clip(self, name, value, high):
        """ReLU (high None), or ReLU6 and its like."""

        def make(f, value_bits):
            if high is None:
                return {"high": None}, {}
            return {"high": min(round(Fraction(2) ** f * value.divisor * high), 2 ** (value_bits - 1) - 1)}, {}

        return self._like(name, "clip", value, value.shape, make)

    def add(self, name, first, second):
        """A residual connection: two streams become one."""
        if (first.shape, first.divisor) != (second.shape, second.divisor):
            raise ValueError(f"{name} must add values of one shape, pooled alike, got {first.shape}, {second.shape}")
        self._streams[self._root(second.stream)] = self._root(first.stream)
        bound = first.bound + second.bound
        return self._add(name, "add", (first.name, second.name), first.stream, first.divisor, bound, first.shape)

    def average(self, name, value):
        """Average over the image: a sum whose unit is smaller by the number of pixels."""
        channels, height, width = value.shape
        shape, divisor = (channels, 1, 1), value.divisor * height * width
        return self._add(name, "sum_pool", (value.name,), value.stream, divisor, value.bound, shape)

    def maximum(self, name, value, kernel, stride, padding):
        """Maximum over windows; kernel, stride, padding: pairs."""
        attributes = {"kernel": kernel, "stride": stride, "padding": padding}
        shape = (value.shape[0], *sides(value.shape[1:], **attributes))
        return self._like(name, "max_pool", value, shape, lambda f, value_bits: (attributes, {}))

    def flatten(self, name, value):
        """All features of a sample in a row."""
        return self._like(name, "flatten", value, (math.prod(value.shape),))

    def nodes(self, value_bits):
        """The integer nodes, for `oeu_ref.integer.network.IntegerNetwork`."""
        largest = {}
        for value in (step for step in self.steps if isinstance(step, Value)):
            root = self._root(value.stream)
            largest[root] = max(largest.get(root, 0.0), value.bound * value.divisor)
        nodes = []
        for step in self.steps:
            if isinstance(step, Value):
                # beside the sign one more bit stays free, for the roundings on the way
                f = value_bits - 2 - _exponent(largest[self._root(step.stream)])
                attributes, arrays = step.make(f, value_bits) if step.make else ({}, {})
                step = Node(step.name, step.op, step.inputs, attributes, arrays, step.about)
            nodes.append(step)
        return nodes

    def _like(self, name, op, value, shape, make=None):
        return self._add(name, op, (value.name,), value.stream, value.divisor, value.bound, shape, make)

    def _add(self, *fields):
        self.steps.append(Value(*fields))
        return self.steps[-1]

    def _root(self, stream):
        while self._streams[stream] != stream:
            stream = self._streams[stream]
        return stream


def _scaled(numbers, exponent):
    """Whole numbers nearest to numbers * 2^exponent, as Python integers: scaling by a power of two is exact."""
    return [round(math.ldexp(float(number), exponent)) for number in numbers]


def _exponent(number):
    """Smallest e with |number| < 2^e; below 2^-60, in values and multipliers alike, nothing is worth a bit."""
    return math.frexp(max(abs(float(number)), 2.0**-60))[1]
