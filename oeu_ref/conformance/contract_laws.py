"""Laws of good manners: what the contract asks of every operation, whatever it computes."""

import inspect

import numpy as np
from hypothesis import strategies as st

from .cases import Cases, GradientCase, LogitsCase, QuantizerCase
from .implementation import SIGNATURES
from .law import about, require

CONTRACT = "contract"
SEEDS = Cases(st.integers(0, 99), [0])


def _operation_calls(implementation, operation, seed):
    """Argument lists for one operation, built to tempt it to hand back or overwrite an input."""
    dtype = implementation.dtype
    if operation in ("entropy_loss", "kl_to_uniform"):
        return [[LogitsCase(kind, 4, 3, seed).array(implementation).astype(dtype)] for kind in ("typical", "uniform")]
    if operation in ("fake_quantize", "fake_quantize_backward"):
        calls = []
        for kind in ("inside", "ends", "outside"):
            case = QuantizerCase(kind, 4, True, 0, 8, seed)
            x, step, grad_out = case.arrays(implementation)
            arrays = [x.astype(dtype)] if operation == "fake_quantize" else [grad_out.astype(dtype), x.astype(dtype)]
            calls.append([*arrays, step, case.q_min, case.q_max])
        return calls
    options = [(), (0.0,), (0.5,)] if operation == "project" else [(), (0.0,), (1.0, 0.0), (0.5, 2.0)]
    calls = []
    for kind in ("typical", "zero_retain", "zero_forget", "orthogonal"):
        case = GradientCase(kind, ((4,), (2, 3), ()), seed=seed)
        for more in options:
            for words in (("layer", "undo"), ("global", "match")):
                forget, retain = case.arrays(implementation)
                full = more + (1.0, 1.0)[len(more) : 1 + (operation == "oeu_direction")]
                calls.append([[g.astype(dtype) for g in forget], [g.astype(dtype) for g in retain], *full, *words])
    return calls


def _arrays_in(value):
    """All arrays in nested lists and tuples."""
    if isinstance(value, np.ndarray):
        return [value]
    return [a for item in value for a in _arrays_in(item)] if isinstance(value, (list, tuple)) else []


def _in_another_layout(value):
    """The same arrays, elements stored in another order and with gaps in between."""
    if isinstance(value, np.ndarray) and value.ndim:
        every_other = tuple(slice(None, None, 2) for _ in value.shape)
        wide = np.zeros(tuple(2 * n for n in value.shape), value.dtype, order="F")
        wide[every_other] = value
        return wide[every_other]
    return [_in_another_layout(item) for item in value] if isinstance(value, list) else value


def leaves_its_inputs_alone_and_returns_new_arrays(implementation, operation, seed):
    """{operation} changes none of its inputs, and its result shares memory with none, nor with an earlier result.

    An in-place operation (+=, out=, *_ in PyTorch) on an input, an input handed back where nothing changes, or a
    buffer used for several results."""
    earlier = []  # (result arrays, copies of them) of all calls so far
    for args in _operation_calls(implementation, operation, seed):
        inputs = _arrays_in(args)
        before = [a.copy() for a in inputs]
        result = _arrays_in(implementation.raw(operation, *args))
        for i, (now, then) in enumerate(zip(inputs, before)):
            require(np.array_equal(now, then), f"{operation} changed its input array {i} in place")
        shared = any(np.shares_memory(r, a) for r in result for a in inputs)
        require(not shared, f"{operation} returned an array that shares its memory with an input: return a copy")
        for arrays, copies in earlier:
            kept = all(np.array_equal(a, c) for a, c in zip(arrays, copies))
            require(kept, f"{operation} changed the result of an earlier call: return new arrays each time")
        earlier.append((result, [r.copy() for r in result]))


def gives_the_same_result_when_called_again(implementation, operation, seed):
    """{operation} gives the same result when it is called again with the same input.

    State kept between calls, or a random draw."""
    for args in _operation_calls(implementation, operation, seed)[:2]:
        first, second = (_arrays_in(implementation.raw(operation, *args)) for _ in range(2))
        same = len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second))
        require(same, f"{operation} gave two results for the same input")


def does_not_depend_on_memory_layout(implementation, operation, seed):
    """{operation} gives the same result for arrays stored in another order or with gaps, or refuses them.

    Raw memory, or ravel and reshape in memory order, instead of logical order."""
    for args in _operation_calls(implementation, operation, seed):
        # the first argument only: where two arrays meet, their layouts then differ
        moved = [_in_another_layout(args[0]), *args[1:]]
        expected = _arrays_in(implementation.raw(operation, *args))
        try:
            result = _arrays_in(implementation.raw(operation, *moved))
        except Exception:
            continue  # a refusal is seen by whoever calls; numbers read in the wrong order are not
        for e, r in zip(expected, result):
            # sums may run in another order, so that the last digits may differ
            allowed = 32 * implementation.eps * (np.abs(e).max(initial=0) or 1)
            require(np.abs(e - r).max(initial=0) <= allowed, f"{operation}: the result changes with the layout")


def _enter(check, operation):
    def for_operation(implementation, seed):
        check(implementation, operation, seed)

    for_operation.__name__ = f"{operation}_{check.__name__}"
    for_operation.__doc__ = inspect.getdoc(check).format(operation=operation)
    about(operation)(CONTRACT, SEEDS, weight=0.05)(for_operation)


for _check in (
    leaves_its_inputs_alone_and_returns_new_arrays,
    gives_the_same_result_when_called_again,
    does_not_depend_on_memory_layout,
):
    for _operation in SIGNATURES:
        _enter(_check, _operation)
