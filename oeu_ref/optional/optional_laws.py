"""Laws of what an implementation may have beside the six operations: quantizers by channel or with a zero point, LSQ's
start, several retain gradients, the metrics, the stop rule. An operation that is absent is skipped by name.

Each law also holds its operation to good manners, as `conformance/contract_laws.py` does the six.
"""

import copy
import functools
import inspect

import numpy as np
from hypothesis import strategies as st

from ..judging import expected
from ..judging.cases import LAYERS, Cases, GradientCase, QuantizerCase, in_another_layout
from ..judging.implementation import Violation
from ..judging.law import about, require
from ..judging.rounding import norm, rounding, threshold
from ..reference import metrics, quantizer
from ..reference.entropy import entropy_of_probabilities
from ..reference.projection import unit

SEEDS = Cases(st.integers(0, 999), range(6))
KINDS = ("mixed", "inside", "outside", "just_outside", "ends")
PERCENT = 800  # eps: rounding of a figure up to 100


def law(operation, theorem):
    """The decorator for a function (implementation, rng, seed) that gives the arguments of a call of an operation, what
    is right, and the largest error allowed; its name and docstring are the law's."""

    def enter(made):
        def check(implementation, seed):
            arguments, right, allowed = made(implementation, np.random.default_rng(seed), seed)
            given = implementation.own(arguments)
            before = copy.deepcopy(given)

            def judge(arguments, when=""):
                result = implementation.raw(operation, *arguments)
                found = implementation.formed(operation, result, right)
                pairs = list(zip(found, right)) if isinstance(right, (list, tuple)) else [(found, right)]
                for i, (one, value) in enumerate(pairs):
                    error = np.abs(np.asarray(one) - value).max(initial=0)
                    where = f"result {i}: " * (len(pairs) > 1)
                    words = f"{where}off by {error:.3g}{when}, rounding allows {allowed:.2g}"
                    require(error <= allowed, f"{operation}: {words}")

            judge(given)
            require(_same(given, before), f"{operation} changed what it was given in place")
            judge(before, " when called again")
            try:
                judge(in_another_layout(implementation.own(arguments)), " for arrays stored in another order")
            except Violation:
                raise
            except Exception:  # a refusal is seen by whoever calls, as in `conformance/contract_laws.py`
                pass

        check.__name__, check.__doc__ = made.__name__, inspect.getdoc(made)
        return about(operation)(theorem, SEEDS)(check)

    return enter


def _same(first, second):
    """Whether two arguments hold the same."""
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second


def _probabilities(rng, n, k=4):
    """(N, K) predictions, the first certain, the second uniform."""
    p = rng.dirichlet(np.full(k, 0.3), size=n)
    p[0], p[1] = np.eye(k)[1], 1 / k
    return p


def _channels(implementation, seed):
    """(grad_out, x, steps, low, high): four channels or one, each of another kind and with a step of its own."""
    q_range, shape = ((-8, 7), (0, 15), (-128, 127))[seed % 3], ((2, 3), (4,), (3, 2, 2), (), (5,))[seed % 5]
    count = 1 if seed % 4 == 3 else 4
    cases = [QuantizerCase(KINDS[(seed + i) % 5], q_range, i - 3, shape, seed + i) for i in range(count)]
    g, x, steps, (low, *_), (high, *_) = zip(*(case.arguments(implementation) for case in cases))
    return np.stack(g), np.stack(x), np.array(steps), low, high


@law("initial_step", "LSQ")
def initial_step_is_lsqs(implementation, rng, seed):
    """LSQ training starts with the step 2 mean|x| / sqrt(q_max).

    The mean of magnitudes, not their maximum or the standard deviation; times 2; divided by the root of q_max."""
    shape = ((5, 7), (12,), (2, 3, 2), (4, 3, 3, 3), (1,))[seed % 5]
    x, q_max = implementation.cast(0.1 ** (seed % 4) * rng.normal(0.5, 1, shape)), (7, 127, 15, 1)[seed % 4]
    right = quantizer.initial_step(x, q_max)
    return (x, q_max), right, rounding(implementation, x.size) * right


@law("step_gradient_scale", "LSQ")
def step_gradient_scale_is_lsqs(implementation, rng, seed):
    """LSQ scales the step's gradient by 1 / sqrt(count q_max).

    The root of the number of elements times q_max, not of the number alone, nor of the number of bits."""
    arguments = 1 + 97 * seed, (7, 127, 15, 1)[seed % 4]
    right = quantizer.step_gradient_scale(*arguments)
    return arguments, right, 8 * implementation.eps * right


@law("fake_quantize_channels", "LSQ")
def channels_are_quantized_each_with_its_own_step(implementation, rng, seed):
    """Each index of the first axis is quantized as a tensor of its own, with its own step.

    steps (C,) belong to the first axis: they must not be broadcast along the last one."""
    _, x, steps, *ends = _channels(implementation, seed)
    right = np.stack([expected.fake_quantize(implementation, *pair, *ends) for pair in zip(x, steps)])
    return (x, steps, *ends), right, 4 * implementation.eps * (np.abs(right).max() + steps.max())


@law("fake_quantize_channels_backward", "LSQ")
def channels_have_a_step_gradient_each(implementation, rng, seed):
    """The gradients of each index of the first axis are those of a tensor of its own; steps get (C,) of them.

    The gradient of each step sums over its own channel, all other axes, and no further; grad_scale scales them all."""
    g, x, steps, low, high = arguments = _channels(implementation, seed)
    parts = zip(*(expected.fake_quantize_backward(implementation, *part, low, high) for part in zip(g, x, steps)))
    grad_x, grad_steps = map(np.array, parts)
    largest = high - low + np.abs(x.T / steps).max()
    scale = ((0.5,), (3.0,), ())[seed % 3]
    right = grad_x, np.prod(scale) * grad_steps
    return (*arguments, *scale), right, 16 * max(1.0, np.prod(scale)) * implementation.eps * np.abs(g).sum() * largest


@law("fake_quantize_affine", "affine")
def a_zero_point_moves_the_codes_and_not_the_values(implementation, rng, seed):
    """x_hat = step (clip(round(x / step) + zero_point, q_min, q_max) - zero_point).

    The zero point is added before clipping and taken off after it, so that 0 stays 0 wherever it is in range."""
    low, high = ((0, 15), (-8, 7), (0, 255), (-128, 127))[seed % 4]
    shape = ((4, 5), (6,), (2, 3, 2), (2, 2, 3, 3), ())[seed % 5]
    step, zero = float(implementation.cast(2.0 ** (seed % 9 - 6) * rng.uniform(1, 2))), int(rng.integers(low, high + 1))
    x = rng.integers(1.3 * (low - high), 1.3 * (high - low), shape) + rng.uniform(-0.45, 0.45, shape)
    x = implementation.cast(step * x)
    right = step * (np.clip(np.round(x / step) + zero, low, high) - zero)
    return (x, step, zero, low, high), right, 5 * (high - low) * implementation.eps * step


@law("project_subspace", "GOP")
def projection_off_several_gradients_is_orthogonal_to_each(implementation, rng, seed):
    """In each layer it is g_f less alpha times the part of it within the span of that layer's retain gradients.

    One retain gradient after another takes back what an earlier one took out: it needs an orthonormal basis of them,
    without the noise that a factorization gives for a gradient that is zero or stands there twice."""
    lists = [GradientCase("typical", LAYERS[2], seed=3 * seed + i).arrays(implementation) for i in range(2)]
    forget, *history = [*lists[0], *lists[1]][: (4, 2, 3)[seed % 3]]
    alpha = ((1.0,), (0.5,), ())[seed % 3]
    right, allowed = [], 0.0
    for g_f, *layer in zip(forget, *history):
        basis, sizes, _ = np.linalg.svd(np.stack([unit(r.ravel())[0] for r in layer], axis=1), full_matrices=False)
        right.append(g_f - np.prod(alpha) * (basis @ (basis.T @ g_f.ravel())).reshape(g_f.shape))
        allowed = max(allowed, (rounding(implementation, g_f.size) / sizes[-1] + threshold(implementation)) * norm(g_f))
    if seed % 4 == 1:  # adds nothing to the span
        history.insert(1, [-2 * g for g in history[0]])
    if seed % 4 == 2:
        history.append([0 * g for g in history[0]])
    return (forget, history, *alpha), right, allowed


@law("accuracy", "FA, RA, TA")
def accuracy_is_the_percentage_of_right_labels(implementation, rng, seed):
    """Accuracy is the share of samples whose most likely class is their label, in percent.

    In percent, not a share of 1; over samples, not a mean over classes or batches."""
    n, k = ((9, 4), (6, 2), (1, 3))[seed % 3]
    arguments = implementation.cast(_probabilities(rng, n + 2, k)[2:]), rng.integers(0, k, n)
    return arguments, metrics.accuracy(*arguments), PERCENT * implementation.eps


@law("modified_entropy", "MIA")
def modified_entropy_is_song_and_mittals(implementation, rng, seed):
    """Modified entropy is -(1 - p_y) log p_y - sum over k != y of p_k log(1 - p_k), for each sample.

    Copied code takes log p_k where log(1 - p_k) belongs, or replaces the true class's column for all rows at once."""
    p, labels = _probabilities(rng, 9) * 0.98 + 0.005, rng.integers(0, 4, 9)
    p[0] = np.arange(4) == labels[0]  # certain and right: 0 log 0
    p = implementation.cast(p)
    own = -(1 - p[range(9), labels]) * np.log(p[range(9), labels])
    others = np.where(np.arange(4) == labels[:, None], 0.0, p * np.log1p(-p)).sum(axis=1)
    return (p, labels), own - others, 4096 * implementation.eps


@law("membership_inference", "MIA")
def mia_is_the_percentage_called_non_members(implementation, rng, seed):
    """Where confidence tells members from non-members, MIA is the percentage of forget samples on the others' side.

    It counts forget samples that are called non-members, as the field does: high is well forgotten. Confidence is the
    probability of the label, not the largest one; the attack learns where the line is."""

    def batch(confidence):
        labels = rng.integers(0, 4, len(confidence))
        own = np.arange(4) == labels[:, None]
        return np.where(own, confidence[:, None], (1 - confidence[:, None]) / 3), labels

    far = rng.integers(0, 2, 9).astype(bool)
    ends = (((0.3, 0.4), (0.9, 0.99)), ((0.02, 0.08), (0.3, 0.4)), ((0.6, 0.7), (0.95, 1.0)))[seed % 3]
    low, high = (functools.partial(rng.uniform, *pair) for pair in ends)
    sets = batch(high(20)), batch(low(20)), batch(np.where(far, low(9), high(9)))
    return sets, 100.0 * far.mean(), PERCENT * implementation.eps


@law("average_gap", "AG")
def average_gap_is_the_mean_of_absolute_gaps(implementation, rng, seed):
    """AG is the mean of |gap| to the retrained model over FA, RA, TA and MIA.

    Gaps of either sign count alike: absolute values first, their mean afterwards; of these four, whatever else is
    measured, by their names."""
    pair = [dict(zip((*metrics.METRICS, "AUC"), row)) for row in rng.uniform(0, 100, (2, 5)).tolist()]
    pair = pair[0], dict(reversed(pair[1].items()))
    return pair, metrics.average_gap(*pair), PERCENT * implementation.eps


@law("auc", "AUC")
def auc_is_the_chance_that_a_positive_scores_higher(implementation, rng, seed):
    """AUC is the percentage of pairs in which the positive scores above the negative, ties counted half.

    In percent; positives first; ties count half, which a sort without midranks gets wrong."""
    start, apart = ((0.0, 0.25), (-1.0, 0.5), (1.0, 4 * implementation.eps))[seed % 3]  # scores may lie close together
    pair = start + apart * rng.integers(0, 6, 9), start + apart * rng.integers(0, 5, 7)
    return pair, metrics.auc(*pair), 8 * PERCENT * implementation.eps


@law("js_divergence", "JS")
def js_divergence_is_the_mean_of_two_kls(implementation, rng, seed):
    """For each sample, JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats: 0 to log 2.

    The divergence, not its root (SciPy's "distance"); nats; KL towards the mixture, not from it; zeros count 0."""
    first, second = (_probabilities(rng, 7, (4, 2, 7)[seed % 3]) for _ in range(2))
    pair = implementation.cast(first), implementation.cast(second[::-1])
    middle = sum(pair) / 2
    kls = [(p * np.log(np.where(p > 0, p, 1) / np.where(middle > 0, middle, 1))).sum(axis=1) for p in pair]
    return pair, sum(kls) / 2, 256 * implementation.eps


@law("stop", "stop")
def stopping_is_when_forget_samples_are_as_uncertain_as_unseen_ones(implementation, rng, seed):
    """The stop rule says True once the forget set's mean entropy is at least that of unseen data.

    A mean over samples of entropies, not the entropy of a mean; at least, so that equal ones stop; nothing is kept
    from call to call."""
    first, second = (implementation.cast(_probabilities(rng, n)) for n in (6, 9))
    more = implementation.cast(first + 1e-4 * (0.25 - first))  # a little more uncertain
    sets = ((first, second), (second, first), (first, first), (first, more), (first[1:2], first[:1]), (first[:1], more))
    sets = sets[seed % 6]
    forget, unseen = (entropy_of_probabilities(p / p.sum(axis=1, keepdims=True)).mean() for p in sets)
    return sets, bool(forget >= unseen), 0
