"""The cases of the test vectors: inputs chosen by hand or drawn once, what each probes, and its tolerances.

Inputs are multiples of small powers of two unless a case is about something else, so that most of them are exact in
float32 too. Tolerances are those of float64 arithmetic, derived as in the laws: a handful of roundings, the square root
of the number of summands, and the conditioning of the case.
"""

import math
import random

EPS = 2.0**-52
COLLINEAR = 1e-12  # of |g_f|: what is left of collinear gradients may be zero or as small
# how the name of a case begins = kinds of input that it probes, in the words of cases.py; all others are "typical"
FLAGS = """
one_sample uniform near_uniform huge confident ties ends one_element zero_retain zero_forget both_zero parallel
antiparallel orthogonal nearly_parallel below_threshold conflicting agreeing mixed_scales certain=one_hot
mixed_sizes=huge many_classes=large just_beyond=just_outside half_beyond=just_outside,ties far_beyond=outside
scalar=one_element large_step=extreme_scales small_step=extreme_scales long_retain=extreme_scales
short_retain=extreme_scales
"""
FLAGS = {start: (kinds or start).split(",") for start, _, kinds in (word.partition("=") for word in FLAGS.split())}


def array(shape, values):
    """An array as the files hold it: a shape and the elements in row-major order."""
    values = [float(v) for v in values]
    assert math.prod(shape) == len(values), (shape, len(values))
    return {"shape": list(shape), "data": values}


def _grid(rng, count, scale=1.0):
    """Numbers on a grid of 1/64: exact in float32."""
    return [rng.randint(-256, 256) / 64 * scale for _ in range(count)]


def flags(name):
    """Kinds of input that a case of this name probes, the most telling one first."""
    return next((kinds for start, kinds in FLAGS.items() if name.startswith(start)), ["typical"])


def of(operation):
    """(name, comment, inputs) of an operation's cases."""
    if operation in ("entropy_loss", "kl_to_uniform"):
        return logits_cases()
    if "quantize" in operation:
        return quantizer_cases()
    return gradient_cases() if operation == "project" else direction_cases()


def logits_cases():
    """(name, comment, inputs) for the operations on logits."""
    rng = random.Random(1)

    def case(name, comment, n, k, values):
        return name, comment, {"logits": array((n, k), values)}

    yield case("one_sample", "N = 1: the smallest batch", 1, 3, _grid(rng, 3))
    yield case("typical", "N different from K: 1/N, not 1/K; mean, not sum", 7, 4, _grid(rng, 28))
    yield case("two_classes", "K = 2", 3, 2, _grid(rng, 6))
    yield case("many_classes", "K = 100", 2, 100, _grid(rng, 200))
    yield case("uniform", "equal logits: entropy log K, KL 0, gradient 0", 2, 5, [0.0] * 5 + [-3.5] * 5)
    yield case("near_uniform", "almost equal logits: cancellation", 2, 4, [v / 2**16 for v in _grid(rng, 8)])
    yield case(
        "shifted", "equal to 'two_rows_plain' up to a constant in each row", 2, 3, [101, 102, 100.5, -50, -49, -53]
    )
    yield case("two_rows_plain", "softmax over classes, not over samples", 2, 3, [1, 2, 0.5, 0, 1, -3])
    yield case("certain", "one logit far above: 0 log 0 = 0, KL log K", 2, 4, [1e4, 0, 0, 0, -1e4, -1e4, 1e4, -1e4])
    yield case("huge", "logits up to 1e4: overflow without the shift by the maximum", 1, 3, [1e4, 9999, 9998])
    yield case("huge_negative", "all logits near -1e4: underflow without the shift", 1, 3, [-1e4, -9999, -9998])
    yield case(
        "mixed_sizes", "a huge row beside a small one: one maximum for all rows underflows", 2, 2, [1e4, 9999, 1, 0]
    )
    yield case(
        "confident", "probabilities down to 1e-17: an epsilon inside the logarithm shows", 2, 3, [0, 20, -20, 9, -9, 30]
    )


def quantizer_cases():
    """(name, comment, inputs) for the quantizer; grad_out and grad_scale are used by the backward pass alone."""
    rng = random.Random(2)

    def case(name, comment, x, step, low=-8, high=7, shape=None, grad_scale=1.0):
        """x: values, or how many of them to draw."""
        x = _grid(rng, x) if isinstance(x, int) else x
        shape = (len(x),) if shape is None else shape
        grad_out = array(shape, [v or 0.5 for v in _grid(rng, len(x))])
        numbers = {"step": step, "q_min": low, "q_max": high, "grad_scale": grad_scale}
        return name, comment, {"grad_out": grad_out, "x": array(shape, x), **numbers}

    ties, ends = [(v + 0.5) / 4 for v in range(-8, 7)], [-2.0, 1.75, -2.0, 1.75]
    positive = [0.0, 0.0, 0.375, 9.0, 1.5, -0.125]
    yield case("ties", "halves go to the even code, on both sides of zero", ties, 0.25)
    yield case("ends", "values at exactly q_min and q_max: inside, gradient passes", ends, 0.25)
    comment = "a quarter step beyond the ends: the masks 'clip' and 'round' differ"
    yield case("just_beyond", comment, [-8.25, 7.25], 1.0)
    yield case("half_beyond", "half a step beyond: -8.5 rounds into the range, 7.5 out of it", [-8.5, 7.5], 1.0)
    far = [-100.0, 50.0, -9.0, 8.0]
    yield case("far_beyond", "far outside: q_min and q_max are the step's slopes", far, 1.0)
    yield case("typical", "inside and outside, three dimensions", 12, 0.375, shape=(2, 3, 2))
    yield case("odd_step", "a step that is no power of two", [0.0, 0.1, -0.25, 0.9, -1.7], 0.1)
    yield case("unsigned", "activations after ReLU: exact zeros are inside", positive, 0.25, 0, 15)
    yield case("scalar", "a 0-d array", [0.8125], 0.5, shape=())
    yield case("grad_scale", "grad_scale scales the step's gradient alone", 6, 0.5, grad_scale=0.25)
    yield case("large_step", "values far smaller than the step", 5, 1024.0)
    yield case("small_step", "values far larger than the step", 5, 2.0**-20)
    for bits in range(1, 9):
        step, half = 2.0 ** (1 - bits), 2 ** (bits - 1)
        yield case(f"signed_{bits}_bits", f"{bits} bits, signed", 6, step, -half, half - 1)
        yield case(f"unsigned_{bits}_bits", f"{bits} bits, unsigned", 6, step, 0, 2 * half - 1)


def gradient_cases():
    """(name, comment, inputs) for project; oeu_direction adds beta."""
    rng = random.Random(3)
    shapes = [(6,), (2, 3), ()]

    def case(name, comment, forget, retain, shapes=((6,),), alpha=1.0, granularity="layer", rescale="undo"):
        lists = {"forget_grads": forget, "retain_grads": retain}
        lists = {key: [array(s, g) for s, g in zip(shapes, grads)] for key, grads in lists.items()}
        return name, comment, {**lists, "alpha": alpha, "granularity": granularity, "rescale": rescale}

    f, r = _grid(rng, 6), _grid(rng, 6)
    many = [_grid(rng, math.prod(s)) for s in shapes], [_grid(rng, math.prod(s)) for s in shapes]
    scaled = [[v * 2.0**20 for v in many[0][0]], [v * 2.0**-20 for v in many[0][1]], many[0][2]]
    zero = [0.0] * 6
    for rescale in ("undo", "match"):
        for alpha in (0.0, 0.25, 0.5, 1.0):
            yield case(f"one_layer_{rescale}_{alpha:g}", f"alpha = {alpha:g}", [f], [r], alpha=alpha, rescale=rescale)
        for granularity in ("layer", "global"):
            name = f"{granularity}_{rescale}"
            options = {"shapes": shapes, "granularity": granularity, "rescale": rescale}
            comment = "layers of three ranks, one of them 0-d: layer and global differ"
            yield case(f"many_layers_{name}", comment, *many, **options)
            yield case(f"half_{name}", "alpha = 1/2 over many layers", *many, alpha=0.5, **options)
            yield case(f"mixed_scales_{name}", "layers from 1e-6 to 1e6", scaled, many[1], **options)
        across = [r[1], -r[0], r[3], -r[2], r[5], -r[4]]
        pairs = [
            ("zero_retain", "zero retain gradient: g_f stays", f, zero),
            ("zero_forget", "zero forget gradient: zero", zero, r),
            ("both_zero", "both zero: zero", zero, zero),
            ("parallel", "collinear: zero, not blown-up noise", [3 * v for v in r], r),
            ("antiparallel", "opposite: zero", [-0.1 * v for v in r], r),
            ("one_element", "one element is always collinear", [0.7], [-1.5]),
            ("orthogonal", "orthogonal already: g_f stays", across, r),
        ]
        for bits in (10, 20, 30):
            comment = f"nearly parallel, sine 2^-{bits}: needs a second pass to be orthogonal"
            pairs.append((f"nearly_parallel_{bits}", comment, [v + 2.0**-bits * a for v, a in zip(r, across)], r))
        below = [v + 2.0**-43 * a for v, a in zip(r, across)]
        pairs.append(("below_threshold", "sine 1e-13, below the threshold of 1e-12: zero", below, r))
        for name, comment, forget, retain in pairs:
            yield case(f"{name}_{rescale}", comment, [forget], [retain], ((len(forget),),), rescale=rescale)
    yield case("conflicting", "negative cosine", [[-v + 0.5 for v in r]], [r])
    yield case("agreeing", "positive cosine: projected all the same", [[v + 0.5 for v in r]], [r])
    comment = "only the direction of the retain gradient counts: times 2^20"
    yield case("long_retain", comment, [f], [[v * 2.0**20 for v in r]])
    yield case("short_retain", "times -2^-20: an epsilon beside the norm shows", [f], [[v * -(2.0**-20) for v in r]])
    twins = [_grid(rng, 4) for _ in range(4)]
    for granularity in ("layer", "global"):
        comment = "two layers of equal shape: each has its own retain gradient"
        yield case(
            f"equal_shapes_{granularity}", comment, twins[:2], twins[2:], ((2, 2), (2, 2)), granularity=granularity
        )


def direction_cases():
    """(name, comment, inputs) for oeu_direction."""
    for name, comment, inputs in gradient_cases():
        if name.startswith(("one_layer", "many_layers", "zero", "parallel", "conflicting", "equal")):
            for beta in (0.0, 0.5, 2.0) if name.startswith("many_layers") else (0.75,):
                yield f"{name}_beta_{beta:g}", f"beta = {beta:g}; {comment}", {**inputs, "beta": beta}
