"""A quantized network as a device runs it: a graph of integer operations, proven not to overflow, and its forward.

Raw integers go in (pixels 0 to 255), integer logits come out. Between them stand four kinds of integers:

    values (int32 or int64)  --quantize-->  codes (int16)  --conv, linear-->  sums (int32)  --rescale-->  values

A value v stands for the real number v * 2^-f / d: f fraction bits, chosen for each stream of values that residual
connections join, and d the pixels that an average pool summed. `oeu_ref.integer.export` makes such networks of
PyTorch's.  Sources: Jacob et al., CVPR 2018; Umuroglu and Jahre, 2017; both in `arithmetic`.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from .. import boundary
from . import arithmetic as ops

VALUE_TYPES = {32: np.int32, 64: np.int64}
SUM_LIMIT, PRODUCT_LIMIT = 2**31, 2**63  # of 32-bit accumulators, and of the product that rescales them
SIZE_LIMIT = 2**26  # numbers that one sample's output may hold: what a garbled file may ask for

INPUT = "input"  # the name by which nodes refer to the raw integers


@dataclass(frozen=True)
class Node:
    """One operation of the graph.

    name: unique; op: a key of OPERATIONS; inputs: names of earlier nodes, or "input"; attributes: dict of integers and
    pairs of integers (None: a clip without upper end); arrays: dict of integer arrays; about: dict of numbers for
    human readers (bits, steps), which no arithmetic uses.
    """

    name: str
    op: str
    inputs: tuple
    attributes: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """Raw inputs: shape of one sample; low, high: the integers' range; scale, offset: a model's float inputs are
    scale * integers + offset (for human readers and for comparisons, like `Node.about`).
    """

    shape: tuple
    low: int
    high: int
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Fact:
    """What is known of a node's output before anything runs.

    kind: "raw", "code", "sum" or "value"; shape: of one sample; bound: the largest magnitude that any input can cause
    (of sums: a list, one for each channel); unit: (f, d) of values: 1 stands for 2^-f / d.
    """

    kind: str
    shape: tuple
    bound: object
    unit: tuple | None = None


class IntegerNetwork:
    """A graph of integer operations whose every sum, product and value is proven to fit its type.

    nodes: sequence of `Node` in the order of execution, the last giving the logits; input: `Input`; value_bits: 32 or
    64, the width of values.  `facts` maps a node's name to what is known of its output, its magnitude included;
    `logit_scale`: the real number that 1 in the logits stands for.
    Raises ValueError, naming the node, for a graph that does not fit together, and for one that could overflow: for
    each channel sum|weight code| * max|input code| < 2^31, that times |multiplier| plus |offset| < 2^63, and values
    below 2^(value_bits - 1).
    """

    def __init__(self, nodes, input, value_bits=64):
        self.nodes, self.input = tuple(nodes), input
        self.value_bits = boundary.one_of("value_bits", value_bits, tuple(VALUE_TYPES))
        self.facts = {INPUT: _checked_input(input)}
        for node in self.nodes:
            if node.name in self.facts:
                raise ValueError(f"node names must be unique, got {node.name!r} twice")
            try:
                self.facts[node.name] = _fact(node, self._inputs_of(node), value_bits)
            except (ValueError, TypeError) as error:
                raise ValueError(f"node {node.name!r} ({node.op}): {error}") from None
        last = self.facts[self.nodes[-1].name if self.nodes else INPUT]
        if last.kind != "value" or len(last.shape) != 1:
            raise ValueError(f"the last node must give logits, one value a class, got {last.kind} of {last.shape}")
        self.logit_scale = math.ldexp(1.0, -last.unit[0]) / last.unit[1]

    def _inputs_of(self, node):
        if node.op not in OPERATIONS:
            raise ValueError(f"node {node.name!r}: op must be one of {', '.join(OPERATIONS)}, got {node.op!r}")
        if missing := [name for name in node.inputs if name not in self.facts]:
            raise ValueError(f"node {node.name!r}: inputs must be earlier nodes, got {missing}")
        return [self.facts[name] for name in node.inputs]


def walk(network, inputs):
    """Yield (name, integers) of every node in the order of execution; what no later node reads is let go.

    inputs: (N, *network.input.shape) integers within the input's range.  Raises TypeError or ValueError for others.
    """
    outputs = {INPUT: _checked_inputs(network.input, inputs)}
    last_use = {name: i for i, node in enumerate(network.nodes) for name in node.inputs}
    value_type = VALUE_TYPES[network.value_bits]
    for i, node in enumerate(network.nodes):
        arguments = [outputs[name] for name in node.inputs]
        if node.op == "rescale":
            factors = node.arrays["multiplier"], node.arrays["offset"], node.attributes["shift"]
            outputs[node.name] = ops.rescale(*arguments, *factors, value_type)
        else:
            outputs[node.name] = getattr(ops, node.op)(*arguments, **node.arrays, **node.attributes)
        yield node.name, outputs[node.name]
        for name in node.inputs:
            if last_use[name] == i:
                outputs.pop(name, None)


def forward(network, inputs, batch_size=32):
    """Integer logits.

    inputs: (N, *network.input.shape) integers, N >= 1; batch_size >= 1: how many run together, which changes no bit.
    Returns (N, K), int32 or int64; times `network.logit_scale` they are real logits.  Raises as `walk`.
    """
    batch_size = boundary.integer("batch_size", batch_size, 1)
    inputs = _checked_inputs(network.input, inputs)
    batches = (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size))
    # of length 1, so that it holds the last node's integers alone
    return np.concatenate([deque(walk(network, batch), maxlen=1)[0][1] for batch in batches])


def real_logits(network, inputs, batch_size=32):
    """`forward` times `network.logit_scale`: (N, K) float64, for metrics.  Arguments and errors as `forward`."""
    return forward(network, inputs, batch_size) * network.logit_scale


def thresholds(step, q_min, q_max, unit, value_bits=64):
    """Smallest value, in units, for each code above q_min: the quantizer without a division and without a float.

    step > 0: of the quantizer, real; q_min, q_max: its codes; unit: Fraction > 0, the real number that a value of 1
    stands for.  Returns (q_max - q_min,) int32 or int64, ascending: entry k - q_min - 1 is the smallest integer v with
    round(clip(v * unit / step, q_min, q_max)) >= k, halves to even.  The tie at (k - 1/2) * step goes up to k where k
    is even, and down to k - 1 where k is odd.  A threshold beyond the type's range becomes its end.
    Raises TypeError or ValueError for a step, range, unit or width out of bounds.
    Source: Umuroglu and Jahre, 2017, section 2, with exact ties.
    """
    step, q_min = Fraction(boundary.positive("step", step)), boundary.whole("q_min", q_min)
    q_max = boundary.whole("q_max", q_max, q_min, "q_min")
    limits = np.iinfo(VALUE_TYPES[boundary.one_of("value_bits", value_bits, tuple(VALUE_TYPES))])
    ties = [(k, Fraction(2 * k - 1, 2) * step / unit) for k in range(q_min + 1, q_max + 1)]
    first = [math.ceil(tie) if k % 2 == 0 else math.floor(tie) + 1 for k, tie in ties]
    return np.array([min(max(v, limits.min), limits.max) for v in first], limits.dtype)


def sides(image, kernel, stride, padding, dilation=(1, 1)):
    """Height and width of what a window that moves over an image gives; 0 where it does not fit.  All are pairs."""
    return tuple(
        (i + 2 * p - d * (k - 1) - 1) // s + 1 if i + 2 * p > d * (k - 1) else 0
        for i, k, s, p, d in zip(image, kernel, stride, padding, dilation)
    )


def _fact(node, inputs, value_bits):
    """The `Fact` of a node's output.  Raises ValueError for what does not fit or could overflow."""
    kinds, attributes, arrays, kind, rule = OPERATIONS[node.op]
    for what, wanted, found in (("attributes", attributes, node.attributes), ("arrays", arrays, node.arrays)):
        if set(wanted) != set(found):
            raise ValueError(f"{what} must be {list(wanted)}, got {sorted(found)}")
    found = tuple(fact.kind for fact in inputs)
    if found != kinds and not (node.op == "rescale" and found == ("raw",)):
        raise ValueError(f"inputs must be of kind {kinds}, got {found}")
    shape, bound, unit = rule(node, *inputs, value_bits)
    if min(shape) < 1 or math.prod(shape) > SIZE_LIMIT:
        raise ValueError(f"the output must have 1 to {SIZE_LIMIT} numbers a sample, got shape {shape}")
    if kind == "value" and bound >= 2 ** (value_bits - 1):
        raise ValueError(f"values must fit {value_bits} bits, they could reach {bound:.3g}")
    return Fact(kind, shape, bound, unit)


def _quantize_fact(node, fact, value_bits):
    limits = _array(node, "thresholds", VALUE_TYPES[value_bits], 1)
    q_min = boundary.integer("q_min", node.attributes["q_min"], -128, 0)
    q_max = q_min + boundary.integer("gap", node.attributes["gap"], 1, 2) * len(limits)
    if not q_min < q_max <= 255 or (np.diff(limits.astype(object)) < 0).any():
        raise ValueError(f"thresholds must ascend and lead to codes up to 255, got codes {q_min} to {q_max}")
    return fact.shape, max(-q_min, q_max), None


def _linear_fact(node, fact, value_bits):
    weight = _array(node, "weight", np.int8, 2)
    if fact.shape != (weight.shape[1],):
        raise ValueError(f"inputs must have shape ({weight.shape[1]},), got {fact.shape}")
    return (len(weight),), _sum_bounds(weight, fact), None


def _conv_fact(node, fact, value_bits):
    weight = _array(node, "weight", np.int8, 4)
    stride, padding, dilation = _pairs(node, stride=1, padding=0, dilation=1)
    groups = boundary.integer("groups", node.attributes["groups"], 1)
    if len(fact.shape) != 3 or fact.shape[0] != weight.shape[1] * groups or len(weight) % groups:
        raise ValueError(f"weight {weight.shape} in {groups} groups does not fit inputs of shape {fact.shape}")
    image = sides(fact.shape[1:], weight.shape[2:], stride, padding, dilation)
    return (len(weight), *image), _sum_bounds(weight, fact), None


def _rescale_fact(node, fact, value_bits):
    multiplier, offset = _array(node, "multiplier", VALUE_TYPES[value_bits], 1), _array(node, "offset", np.int64, 1)
    shift = boundary.integer("shift", node.attributes["shift"], 0, 62)
    f = boundary.integer("fraction_bits", node.attributes["fraction_bits"], -256, 256)
    if not len(multiplier) == len(offset) == fact.shape[0]:
        raise ValueError(f"multiplier and offset must have {fact.shape[0]} channels, got {len(multiplier)}")
    sums = fact.bound if fact.kind == "sum" else [fact.bound] * fact.shape[0]
    products = [b * abs(int(m)) + abs(int(o)) for b, m, o in zip(sums, multiplier, offset)]
    if max(products) >= PRODUCT_LIMIT:
        raise ValueError(f"sum * multiplier + offset must fit 64 bits, it could reach {max(products):.3g}")
    return fact.shape, (max(products) >> shift) + 1, (f, 1)


def _clip_fact(node, fact, value_bits):
    high = node.attributes["high"]
    if high is not None:
        high = boundary.integer("high", high, 0, 2 ** (value_bits - 1) - 1)
    return fact.shape, fact.bound if high is None else min(fact.bound, high), fact.unit


def _add_fact(node, first, second, value_bits):
    if (first.shape, first.unit) != (second.shape, second.unit):
        raise ValueError(
            f"both inputs must have one shape and unit, got {first.shape}, {first.unit} and "
            f"{second.shape}, {second.unit}"
        )
    return first.shape, first.bound + second.bound, first.unit


def _sum_pool_fact(node, fact, value_bits):
    channels, height, width = _image(fact)
    f, divisor = fact.unit
    return (channels, 1, 1), fact.bound * height * width, (f, divisor * height * width)


def _max_pool_fact(node, fact, value_bits):
    kernel, stride, padding = _pairs(node, kernel=1, stride=1, padding=0)
    channels, *image = _image(fact)
    if any(2 * p > k for p, k in zip(padding, kernel)):
        raise ValueError(f"padding must be at most half of the kernel, got {padding} and {kernel}")
    return (channels, *sides(image, kernel, stride, padding)), fact.bound, fact.unit


def _flatten_fact(node, fact, value_bits):
    return (math.prod(fact.shape),), fact.bound, fact.unit


# operation -> kinds of its inputs (a rescale also takes raw integers), its attributes, its arrays, kind of its output,
# and what finds shape, bound and unit of that
OPERATIONS = {
    "quantize": (("value",), ("q_min", "gap"), ("thresholds",), "code", _quantize_fact),
    "linear": (("code",), (), ("weight",), "sum", _linear_fact),
    "conv": (("code",), ("stride", "padding", "dilation", "groups"), ("weight",), "sum", _conv_fact),
    "rescale": (("sum",), ("shift", "fraction_bits"), ("multiplier", "offset"), "value", _rescale_fact),
    "clip": (("value",), ("high",), (), "value", _clip_fact),
    "add": (("value", "value"), (), (), "value", _add_fact),
    "sum_pool": (("value",), (), (), "value", _sum_pool_fact),
    "max_pool": (("value",), ("kernel", "stride", "padding"), (), "value", _max_pool_fact),
    "flatten": (("value",), (), (), "value", _flatten_fact),
}


def _sum_bounds(weight, fact):
    """sum|weight code| * max|input code| of each channel; proves that no accumulator overflows, whatever the input."""
    magnitudes = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1)
    bounds = [int(magnitude) * fact.bound for magnitude in magnitudes]
    if max(bounds) >= SUM_LIMIT:
        raise ValueError(
            f"sums must fit 32-bit accumulators: sum|weight code| * max|input code| is {max(bounds)}, "
            f"must be below 2^31; use fewer bits or a narrower layer"
        )
    return bounds


def _array(node, name, dtype, ndim):
    array = node.arrays[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must be an array of {np.dtype(dtype)} with {ndim} dimensions, not empty")
    return array


def _pairs(node, **least):
    pairs = []
    for name, low in least.items():
        pair = node.attributes[name]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{name} must be a pair of integers, got {pair!r}")
        pairs.append(tuple(boundary.integer(name, side, low, 2**10) for side in pair))
    return pairs


def _image(fact):
    if len(fact.shape) != 3:
        raise ValueError(f"inputs must have shape (C, H, W), got {fact.shape}")
    return fact.shape


def _checked_input(raw):
    if not isinstance(raw, Input) or not raw.shape or len(raw.shape) not in (1, 3):
        raise ValueError(f"input must be an Input of shape (features,) or (C, H, W), got {raw}")
    for side in raw.shape:
        boundary.integer("a side of the input's shape", side, 1, 2**20)
    if math.prod(raw.shape) > SIZE_LIMIT:
        raise ValueError(f"input's shape must hold at most {SIZE_LIMIT} numbers, got {raw.shape}")
    low, high = (boundary.integer(name, getattr(raw, name), -(2**15), 2**15) for name in ("low", "high"))
    boundary.number("scale", raw.scale), boundary.number("offset", raw.offset)
    if low >= high:
        raise ValueError(f"input's low must be smaller than its high, got {low} and {high}")
    return Fact("raw", tuple(raw.shape), max(abs(low), abs(high)))


def _checked_inputs(raw, inputs):
    inputs = np.asarray(inputs)
    if not np.issubdtype(inputs.dtype, np.integer):
        raise TypeError(f"inputs must be integers, got dtype {inputs.dtype}")
    if inputs.shape[1:] != tuple(raw.shape) or not len(inputs):
        raise ValueError(f"inputs must have shape (N, {', '.join(map(str, raw.shape))}), N >= 1, got {inputs.shape}")
    if inputs.min() < raw.low or inputs.max() > raw.high:
        raise ValueError(f"inputs must lie in [{raw.low}, {raw.high}], got {inputs.min()} to {inputs.max()}")
    return inputs
