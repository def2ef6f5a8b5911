"""Laws of good manners: what the contract asks of every operation, whatever it computes."""

import copy
import itertools

import numpy as np
from hypothesis import strategies as st

from ..contract import SIGNATURES
from ..judging import cases
from ..judging.law import law_of, require

CONTRACT = "contract"
SEEDS = cases.Cases(st.integers(0, 99), [0])
LAYERS = (cases.LAYERS[2], cases.LAYERS[3], cases.LARGE_LAYERS[0])


def _operation_calls(implementation, operation, seed):
    """(arguments, size) for one operation, built to tempt it to hand back or overwrite an input, or to keep a buffer;
    options stand in a dict at the end.

    size: of the largest terms that the operation adds up, in the unit of its results.
    """
    if operation in ("entropy_loss", "kl_to_uniform"):
        for kind, shape in itertools.product(("typical", "uniform", "huge"), cases.LOGITS_SHAPES[:6]):
            z = implementation.own(cases.LogitsCase(kind, *shape, seed).array(implementation))
            yield [z], 1 + np.abs(z).max()
    elif operation in ("fake_quantize", "fake_quantize_backward"):
        for kind, shape in itertools.product(("inside", "ends", "outside"), cases.X_SHAPES[:-2]):
            grad_out, x, step, *ends = cases.QuantizerCase(kind, (-8, 7), 0, shape, seed).arguments(implementation)
            largest = np.abs(x).max(initial=0) + np.abs(grad_out).sum() * (8 + np.abs(x / step).max(initial=0))
            yield implementation.own([grad_out, x, step, *ends])[operation == "fake_quantize" :], largest
    else:
        declared, betas = implementation.declared, [{}] if operation == "project" else [{"beta": 0.0}, {"beta": 2.0}]
        alphas = declared["ALPHAS"] or (1.0, 0.0, 0.5)
        kinds = ("typical", "typical", "typical", "zero_retain", "zero_forget", "orthogonal")
        for kind, shapes in zip(kinds, LAYERS * 2):
            for *words, beta in itertools.product(alphas, declared["GRANULARITIES"], declared["RESCALES"], betas):
                lists = cases.GradientCase(kind, shapes, seed=seed).arrays(implementation)
                size = 2 * sum(np.linalg.norm(g) for grads in lists for g in grads)
                options = {**dict(zip(("alpha", "granularity", "rescale"), words)), **beta}
                yield [*implementation.own(lists), options], size


def _call(implementation, operation, args):
    options = args[-1] if isinstance(args[-1], dict) else {}
    return implementation.raw(operation, *(arg for arg in args if arg is not options), **options)


def _arrays_in(result, numbers=()):
    """All arrays, and numbers of these types as arrays, in nested lists and tuples."""
    if isinstance(result, (list, tuple)):
        return [array for item in result for array in _arrays_in(item, numbers)]
    return [np.asarray(result)] if isinstance(result, (np.ndarray, *numbers)) else []


def _require_same(implementation, first, second, size, what):
    """Raise `Violation` unless two results agree up to the order in which sums run; NaN equals NaN."""
    first, second = (_arrays_in(result, (np.number, float)) for result in (first, second))
    require([a.shape for a in first] == [b.shape for b in second], f"{what}: other shapes")
    for a, b in zip(first, second):
        same = np.isclose(a, b, rtol=0, atol=32 * implementation.eps * size, equal_nan=True)
        require(same.all(), lambda: f"{what}: {a[~same].flat[0]:.9g} became {b[~same].flat[0]:.9g}")


def leaves_its_inputs_alone_and_returns_new_arrays(implementation, seed, operation):
    """{operation} changes none of its inputs, and its result shares memory with none, nor with an earlier result.

    An in-place operation (+=, out=, *_ in PyTorch) on an input, an input handed back where nothing changes, or a
    buffer used for several results."""
    earlier = []  # result arrays and copies of them, of all calls so far
    for args, _ in _operation_calls(implementation, operation, seed):
        # the same once more: a result kept for equal inputs would be handed out twice
        earlier += [(r, r.copy()) for r in _arrays_in(_call(implementation, operation, copy.deepcopy(args)))]
        inputs = _arrays_in(args)
        before = [a.copy() for a in inputs]
        result = _arrays_in(_call(implementation, operation, args))
        for i, (now, then) in enumerate(zip(inputs, before)):
            require(np.array_equal(now, then), f"{operation} changed its input array {i} in place")
        kept = list(map(id, _arrays_in(args))) == list(map(id, inputs))
        require(kept, f"{operation} changed a list that it was given: make a new one, as in [f(g) for g in grads]")
        shared = any(np.shares_memory(r, a) for r in result for a in inputs)
        require(not shared, f"{operation} returned an array that shares its memory with an input: return a copy")
        shared = any(np.may_share_memory(r, array) for r in result for array, _ in earlier)
        shared = shared or any(np.shares_memory(a, b) for a, b in itertools.combinations(result, 2))
        require(not shared, f"{operation} returned arrays that share their memory: return new arrays each time")
        earlier += [(r, r.copy()) for r in result]
    same = all(np.array_equal(array, kept, equal_nan=True) for array, kept in earlier)
    require(same, f"{operation} changed the result of an earlier call: return new arrays each time")


def gives_the_same_result_when_called_again(implementation, seed, operation):
    """{operation} gives the same result, up to the order of its sums, when it is called again with the same input; and
    where the same arrays hold other numbers by then, that of those.

    State kept between calls, or a random draw; a result that is kept for an object (is, id) whatever it holds."""
    for args, size in _operation_calls(implementation, operation, seed):
        first, second = (_call(implementation, operation, args) for _ in range(2))
        _require_same(implementation, first, second, size, f"{operation} gave two results for the same input")
        for array in _arrays_in(args):
            array *= 0.5
        now, right = (_call(implementation, operation, given) for given in (args, copy.deepcopy(args)))
        what = f"{operation} gave another result for arrays changed in place than for new ones that hold the same"
        _require_same(implementation, right, now, size, what)


def does_not_depend_on_memory_layout(implementation, seed, operation):
    """{operation} gives the same result for arrays stored in another order or with gaps, or refuses them.

    Raw memory, or ravel and reshape in memory order, instead of logical order."""
    for args, size in _operation_calls(implementation, operation, seed):
        expected = _call(implementation, operation, args)
        arrays = [i for i, arg in enumerate(args) if isinstance(arg, (list, np.ndarray))]
        # each alone, so that the layouts of two arrays that meet differ, and all together
        for moved in {(i,) for i in arrays} | {tuple(arrays)}:
            again = [cases.in_another_layout(arg) if i in moved else arg for i, arg in enumerate(args)]
            try:
                result = _call(implementation, operation, again)
            except Exception:
                continue  # a refusal is seen by whoever calls; numbers read in the wrong order are not
            _require_same(implementation, expected, result, size, f"{operation}: the result changes with the layout")


GENERAL = (
    leaves_its_inputs_alone_and_returns_new_arrays,
    gives_the_same_result_when_called_again,
    does_not_depend_on_memory_layout,
)
for _check, _operation in itertools.product(GENERAL, SIGNATURES):
    law_of(_operation, _check, CONTRACT, SEEDS, weight=0.01)
