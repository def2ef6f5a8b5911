"""Projection off the span of several retain gradients: its laws, where one direction fails them, and the memory."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oeu_ref.beyond import subspace as core
from oeu_ref.beyond.subspace import RetainMemory
from oeu_ref.beyond.subspace_reference import basis, project_subspace
from oeu_ref.reference import project
from oeu_ref.tensors import Layers

SHAPES = ((17,), (3, 4), (), (2, 2), (64,))
EPS = {"float64": np.finfo(np.float64).eps, "float32": np.finfo(np.float32).eps}
THRESHOLD = {"float64": 1e-12, "float32": 1e-6}  # the contract's, for what is rounding noise
# sines of nearly parallel pairs, a factor above the threshold: below it a direction may be taken for noise
NARROW = {"float64": 1e-9, "float32": 1e-4}
FULL_RANK = ("typical", "mixed_lengths", "nearly_parallel", "nearly_inside", "huge_and_tiny")
DEPENDENT = ("repeated", "collinear", "combination", "zeros_among", "all_zero")


def history_of(kind, m, seed, dtype="float64", shapes=SHAPES):
    """(forget_grads, retain_history): float64 arrays whose values the dtype can hold; m gradients of this kind."""
    rng = np.random.default_rng(seed)
    layers = [_layer(kind, m, shape, rng, dtype) for shape in shapes]
    cast = lambda array: np.asarray(array, dtype).astype(np.float64)
    return [cast(g_f) for g_f, _ in layers], [[cast(rows[j]) for _, rows in layers] for j in range(m)]


def _layer(kind, m, shape, rng, dtype):
    g_f, rows = rng.normal(size=shape), list(rng.normal(size=(m, *shape)))
    if kind == "mixed_lengths":
        rows = [10.0 ** (8 * (-1) ** j * (j % 3 - 1)) * g for j, g in enumerate(rows)]  # 1e-8, 1, 1e8, 1e8, 1 ...
    elif kind == "huge_and_tiny":
        rows = [10.0 ** (30 * (-1) ** j) * g for j, g in enumerate(rows)]
    elif kind == "nearly_parallel" and m > 1:
        rows[-1] = rows[0] + NARROW[dtype] * rows[-1]
    elif kind == "nearly_inside":
        g_f = sum(rng.normal() * g for g in rows) + NARROW[dtype] * g_f
    elif kind == "inside":
        g_f = sum(rng.normal() * g for g in rows)
    elif kind == "repeated":
        rows = [rows[j % 2] for j in range(m)]
    elif kind == "collinear":
        rows = [rng.normal() * rows[0] for _ in range(m)]
    elif kind == "combination" and m > 2:
        rows[-1] = rows[0] - 3 * rows[1]
    elif kind == "zeros_among":
        rows = [g * (j % 2) for j, g in enumerate(rows)]
    elif kind == "all_zero":
        rows = [np.zeros(shape)] * m
    return g_f, rows


def cases(kinds, least=1, most=6, dtypes=("float64", "float32")):
    """Strategy of arguments for `history_of`."""
    return st.tuples(st.sampled_from(kinds), st.integers(least, most), st.integers(0, 999), st.sampled_from(dtypes))


def apply(dtype, forget, history, **options):
    """The reference for float64, the core for float32 inputs; float64 arrays in and out."""
    if dtype == "float64":
        return project_subspace(forget, history, **options)
    return in_torch(dtype, forget, history, **options)


def in_torch(dtype, forget, history, **options):
    """The core on tensors of this dtype; float64 arrays in and out."""
    tensors = [[torch.tensor(g, dtype=getattr(torch, dtype)) for g in grads] for grads in (forget, *history)]
    return [g.double().numpy() for g in core.project_subspace(tensors[0], tensors[1:], **options)]


def rounding(size, m, dtype):
    """Relative error allowed to an inner product with one of m gradients of `size` elements: a handful of roundings
    and those of its sum, and sqrt(m) of them, since each of the m reflections behind the basis rounds once."""
    return math.sqrt(m) * (16 + math.sqrt(size)) * EPS[dtype]


def norm(array):
    """Euclidean norm without overflow."""
    largest = np.abs(array).max(initial=0.0)
    return largest * np.linalg.norm(np.ravel(array) / largest) if largest else 0.0


def cosine(a, b):
    """Cosine of two arrays, 0 where either is zero."""
    lengths = norm(a), norm(b)
    return math.fsum(np.ravel(a / lengths[0] * (b / lengths[1]))) if all(lengths) else 0.0


def conditioning(vectors, dtype):
    """Largest over smallest singular value of unit gradients, noise left out: how far rounding can turn their span."""
    sizes = np.linalg.svd(np.stack([np.ravel(g) / (norm(g) or 1.0) for g in vectors]), compute_uv=False)
    kept = sizes[sizes > THRESHOLD[dtype] * sizes[0]]
    return kept[0] / kept[-1] if len(kept) else 1.0


def in_layers(grads, ids=None, granularity="layer"):
    """The vectors that a projection works on, in order of first appearance."""
    ids = [0] * len(grads) if granularity == "global" else ids or range(len(grads))
    return [np.concatenate([np.ravel(g) for g, i in zip(grads, ids) if i == layer]) for layer in dict.fromkeys(ids)]


def worst_cosine(projected, history):
    """Largest |cosine| of any layer with any of its retain gradients."""
    return max(abs(cosine(g, g_r)) for grads in history for g, g_r in zip(projected, grads))


@settings(max_examples=40, deadline=None)
@given(case=cases(FULL_RANK + DEPENDENT), rescale=st.sampled_from(["undo", "match"]))
def test_theorem_4_3_holds_for_each_of_m_retain_gradients(case, rescale):
    """With alpha = 1 each layer of the result is orthogonal to each of its m retain gradients, up to rounding."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    for twin in (apply, in_torch):
        for i, g in enumerate(twin(dtype, forget, history, rescale=rescale)):
            assert max(abs(cosine(g, grads[i])) for grads in history) <= rounding(g.size, m, dtype)


@settings(max_examples=12, deadline=None)
@given(case=cases(FULL_RANK, least=2))
def test_theorem_4_3_global_projection_is_orthogonal_over_all_layers_together(case):
    """With granularity "global" the concatenated result is orthogonal to each concatenated gradient."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    [result] = in_layers(apply(dtype, forget, history, granularity="global"), granularity="global")
    assert norm(result) > 0
    for grads in history:
        assert abs(cosine(result, *in_layers(grads, granularity="global"))) <= rounding(result.size, m, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_control_one_direction_leaves_the_older_gradients_where_they_are(dtype):
    """The same measurement on a projection off the newest gradient alone: a large cosine with the older ones."""
    forget, history = history_of("typical", 4, 0, dtype)
    assert worst_cosine(project(forget, history[-1]), history[-1:]) <= 1e-14
    assert worst_cosine(project(forget, history[-1]), history) > 0.1
    assert worst_cosine(apply(dtype, forget, history), history) < 1e-6


def test_control_one_projection_after_the_other_is_not_orthogonal_to_the_first():
    """Off r1, then off r2, without an orthonormal basis: the second puts a part of r1 back."""
    forget, history = history_of("typical", 2, 0, shapes=((17,), (64,)))
    sequential = project(project(forget, history[0]), history[1])
    assert worst_cosine(sequential, history[1:]) <= 1e-14
    assert worst_cosine(sequential, history) > 1e-3
    assert worst_cosine(project_subspace(forget, history), history) <= 1e-14


@settings(max_examples=20, deadline=None)
@given(
    case=cases(FULL_RANK + ("all_zero",), most=1),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    granularity=st.sampled_from(["layer", "global"]),
    rescale=st.sampled_from(["undo", "match"]),
)
def test_theorem_4_3_one_gradient_is_the_ordinary_projection(case, alpha, granularity, rescale):
    """For m = 1 the result is that of `project`, up to rounding, whatever the options."""
    kind, _, seed, dtype = case
    forget, history = history_of(kind, 1, seed, dtype)
    where = {"granularity": granularity, "layer_ids": [0, 0, 1, 1, 2]}
    expected = project(forget, history[0], alpha, rescale=rescale, **where)
    undone = project(forget, history[0], alpha, **where)
    found = apply(dtype, forget, history, alpha=alpha, rescale=rescale, **where)
    vectors = (in_layers(grads, [0, 0, 1, 1, 2], granularity) for grads in (found, expected, undone, forget))
    for g, e, shortest, g_f in zip(*vectors):
        # rounding of g_f is stretched as much as match stretches the result
        stretch = norm(e) / norm(shortest) if shortest.any() else 1.0
        assert norm(g - e) <= rounding(g.size, 1, dtype) * stretch * norm(g_f)


@settings(max_examples=20, deadline=None)
@given(case=cases(FULL_RANK + DEPENDENT, least=2, most=4), data=st.data())
def test_theorem_4_3_the_order_of_the_history_does_not_matter(case, data):
    """Any order of the m gradients gives the same result, up to rounding times the conditioning of their span."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    other = data.draw(st.permutations(history))
    for i, (g, h) in enumerate(zip(apply(dtype, forget, history), apply(dtype, forget, other))):
        allowed = rounding(g.size, m, dtype) * conditioning([grads[i] for grads in history], dtype) * norm(forget[i])
        assert norm(g - h) <= allowed


@settings(max_examples=20, deadline=None)
@given(case=cases(("typical", "mixed_lengths", "repeated", "zeros_among"), most=4), data=st.data())
def test_theorem_4_3_a_gradient_from_the_span_changes_nothing(case, data):
    """One more gradient that the others make up already, at any length, leaves the result as it is."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype, shapes=((17,), (64,)))
    weights = data.draw(st.lists(st.sampled_from([-2.0, 0.5, 1.0, 3.0]), min_size=m, max_size=m))
    lengths = [[norm(g) or 1.0 for g in grads] for grads in history]
    made = [
        sum(w * (grads[i] / length[i]) for w, grads, length in zip(weights, history, lengths))
        for i in range(len(forget))
    ]
    more = [*history, [np.asarray(1e-7 * g, dtype).astype(np.float64) for g in made]]
    for i, (g, h) in enumerate(zip(apply(dtype, forget, history), apply(dtype, forget, more))):
        # the sum was rounded: relative to a sum that cancels, that is more
        cancelled = sum(map(abs, weights)) / (norm(made[i]) or math.inf)
        allowed = (
            rounding(g.size, m + 1, dtype)
            * conditioning([grads[i] for grads in history], dtype)
            * max(1.0, cancelled)
            * norm(forget[i])
        )
        assert norm(g - h) <= allowed


@settings(max_examples=20, deadline=None)
@given(case=cases(FULL_RANK + DEPENDENT + ("inside",)))
def test_theorem_4_3_projecting_twice_is_projecting_once(case):
    """With alpha = 1 what is projected already stays as it is."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    once = apply(dtype, forget, history)
    for g, h in zip(once, apply(dtype, once, history)):
        assert norm(g - h) <= rounding(g.size, m, dtype) * norm(g)


@settings(max_examples=20, deadline=None)
@given(case=cases(("typical", "mixed_lengths", "nearly_parallel", "repeated", "zeros_among"), least=6))
def test_theorem_4_4_what_is_left_of_the_forget_gradient_falls_with_m(case):
    """A larger history never leaves more of any layer's forget gradient."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    left = [[norm(g) for g in apply(dtype, forget, history[:k])] for k in range(1, m + 1)]
    for fewer, more in itertools.pairwise([[norm(g) for g in forget], *left]):
        for i, (a, b) in enumerate(zip(fewer, more)):
            assert b <= a + rounding(64, m, dtype) * norm(forget[i])
    if kind == "typical":
        assert left[-1][-1] < left[0][-1] < norm(forget[-1])  # it does fall, not only not rise


@settings(max_examples=20, deadline=None)
@given(case=cases(FULL_RANK + DEPENDENT + ("inside",)))
def test_theorem_4_4_the_result_is_a_descent_direction_for_any_m(case):
    """<g_f, g_perp> = |g_perp|^2 for alpha = 1, hence never negative."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    for g, g_f in zip(apply(dtype, forget, history), forget):
        met, allowed = math.fsum(np.ravel(g * g_f)), rounding(g.size, m, dtype) * norm(g) * norm(g_f)
        assert abs(met - norm(g) ** 2) <= allowed
        assert met >= -allowed


@settings(max_examples=15, deadline=None)
@given(case=cases(FULL_RANK + DEPENDENT), alpha=st.floats(0, 1))
def test_theorem_4_4_alpha_goes_in_a_straight_line_from_g_f_to_g_perp(case, alpha):
    """Under "undo" the result is (1 - alpha) g_f + alpha g_perp."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    found, full = (apply(dtype, forget, history, alpha=a) for a in (alpha, 1.0))
    for g, g_perp, g_f in zip(found, full, forget):
        # below the threshold a layer is zeroed, which ends the line one threshold before its end
        allowed = (rounding(g.size, m, dtype) + THRESHOLD[dtype]) * norm(g_f)
        assert norm(g - ((1 - alpha) * g_f + alpha * g_perp)) <= allowed


@settings(max_examples=20, deadline=None)
@given(
    case=cases(FULL_RANK + ("repeated", "zeros_among", "all_zero")),
    alpha=st.sampled_from([0.25, 1.0]),
    granularity=st.sampled_from(["layer", "global"]),
    ids=st.sampled_from([None, [0, 0, 1, 1, 2], ["b", "a", "b", "a", "b"]]),
)
def test_theorem_4_3_twins_agree(case, alpha, granularity, ids):
    """The core on float64 and on float32 tensors gives the reference's result for the same numbers."""
    kind, m, seed, dtype = case
    forget, history = history_of(kind, m, seed, dtype)
    options = {"alpha": alpha, "granularity": granularity, "layer_ids": ids}
    results = in_torch(dtype, forget, history, **options), project_subspace(forget, history, **options)
    vectors = [in_layers(grads, ids, granularity) for grads in (*results, forget, *history)]
    for g, e, g_f, *layer_history in zip(*vectors):
        allowed = rounding(g.size, m, dtype) * conditioning(layer_history, dtype) * norm(g_f)
        assert norm(g - e) <= allowed


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rescale", ["undo", "match"])
def test_a_forget_gradient_inside_the_span_gives_exactly_zero(dtype, rescale):
    """What rounding leaves of it is not blown up; a forget gradient just outside keeps its direction."""
    forget, history = history_of("inside", 3, 1, dtype, shapes=((17,), (64,), (2,), ()))
    assert not any(g.any() for g in apply(dtype, forget, history, rescale=rescale))
    forget, history = history_of("nearly_inside", 3, 1, dtype, shapes=((17,), (64,)))
    for g, g_f in zip(apply(dtype, forget, history), forget):
        assert 0.01 * NARROW[dtype] * norm(g_f) < norm(g) < 100 * NARROW[dtype] * norm(g_f)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_history_with_as_many_gradients_as_elements_leaves_nothing(dtype):
    """m gradients span a layer of m elements or fewer; larger layers keep a part, one-element layers never do."""
    forget, history = history_of("typical", 4, 3, dtype)
    left = [norm(g) > 0 for g in apply(dtype, forget, history, rescale="match")]
    assert left == [True, True, False, False, True]  # 17, 12, 1, 4 and 64 elements


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_tells_two_gradients_apart_is_signal_above_the_threshold_and_noise_below(dtype):
    """Above it the second gradient is projected off as well; below, g_f keeps what it has along that difference."""
    rng = np.random.default_rng(0)
    first, across = np.linalg.qr(rng.normal(size=(64, 2)))[0].T
    forget = [first + across]
    for sine, kept in ((10 * THRESHOLD[dtype], False), (0.1 * THRESHOLD[dtype], True)):
        history = [[np.asarray(g, dtype).astype(float)] for g in (first, first + sine * across)]
        [g] = apply(dtype, forget, history)
        assert (abs(g @ across) > 0.9) == kept
        # left in, it costs no more than a cosine of the threshold's size
        assert worst_cosine([g], history) <= THRESHOLD[dtype] * math.sqrt(2)


def test_control_the_gram_matrix_squares_the_condition_number():
    """Its eigenvalues cannot tell apart two gradients with a sine of 1e-9; the basis from QR does."""
    rng = np.random.default_rng(0)
    first, across = np.linalg.qr(rng.normal(size=(64, 2)))[0].T
    columns = np.stack([first, first + 1e-9 * across], axis=1)
    assert basis(columns).shape == (64, 2)
    smallest, largest = np.linalg.eigvalsh(columns.T @ columns)
    # what rounding makes of 5e-19: 0, or some eps, of either sign
    assert not 0.1 * 5e-19 < smallest < 10 * 5e-19 and largest > 1.9


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_gradients_are_projected_like_others(scale):
    """float32 gradients of 1e30 and 1e-30 beside each other: no overflow, no underflow, the same direction."""
    forget, history = history_of("huge_and_tiny", 3, 5, "float32")
    scaled = [np.asarray(scale * g, "float32").astype(float) for g in forget]
    for g, h in zip(in_torch("float32", scaled, history), in_torch("float32", forget, history)):
        assert np.isfinite(g).all() and norm(g / scale - h) <= 1e-6 * norm(h)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_more_digits_and_comes_back_in_its_own(dtype):
    """Only the result is rounded to the narrow dtype."""
    forget, history = history_of("typical", 3, 0, shapes=((8, 8),))
    narrow = [[torch.tensor(g).to(dtype) for g in grads] for grads in (forget, *history)]
    [g] = core.project_subspace(narrow[0], narrow[1:])
    [exact] = project_subspace(*(lambda f, *h: (f, h))(*([g.double().numpy() for g in grads] for grads in narrow)))
    assert g.dtype == dtype
    assert norm(g.double().numpy() - exact) <= torch.finfo(dtype).eps * norm(exact)


def test_a_layer_of_two_million_float32_elements_is_orthogonal_to_rounding():
    """Gradients with a common part, as sums of one sign need the digits; a QR in float32 is 2e-4 off orthonormal."""
    generator = torch.Generator().manual_seed(0)
    common = torch.rand(1 << 21, generator=generator)
    forget, *history = ([common + torch.randn(1 << 21, generator=generator)] for _ in range(4))
    [g] = core.project_subspace(forget, history, alpha=1.0)
    for [g_r] in history:
        along = (g.double() @ g_r.double() / (g.double().norm() * g_r.double().norm())).item()
        assert abs(along) <= EPS["float32"]


def test_nothing_is_changed_and_nothing_shares_memory():
    """The gradients stay as they are, and writing into a result changes neither them nor another result."""
    tensors = [[torch.randn(4, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)] for _ in range(3)]
    copies = [[g.clone() for g in grads] for grads in tensors]
    for alpha, ids in ((1.0, [0, 0]), (0.0, None)):
        results = core.project_subspace(tensors[0], tensors[1:], alpha=alpha, layer_ids=ids)
        second = results[1].clone()
        results[0].fill_(7.0)
        assert results[0].untyped_storage().data_ptr() != results[1].untyped_storage().data_ptr()
        assert torch.equal(results[1], second)
        assert all(torch.equal(a, b) for old, new in zip(copies, tensors) for a, b in zip(old, new))
    arrays = [[g.numpy() for g in grads] for grads in tensors]
    for g in project_subspace(arrays[0], [[np.zeros_like(g) for g in arrays[1]]], layer_ids=[0, 0]):
        assert g.base is None  # no view of a whole layer either
        g.fill(7.0)
    assert all(np.array_equal(a, b) for old, new in zip(copies, arrays) for a, b in zip(old, new))


@pytest.mark.parametrize("function, make", [(project_subspace, np.ones), (core.project_subspace, torch.ones)])
@pytest.mark.parametrize(
    "history, options, error, message",
    [
        (None, {}, TypeError, "retain_history must be a list of lists"),
        ([], {}, ValueError, "retain_history must hold at least one retain gradient"),
        ("flat", {}, TypeError, r"retain_history\[0\]"),
        ("shape", {}, ValueError, r"retain_history\[1\]\[0\] must have the shape"),
        ("nan", {}, ValueError, r"retain_history\[1\]\[0\] must be finite"),
        ("good", {"alpha": 1.5}, ValueError, "alpha must lie in"),
        ("good", {"rescale": "shrink"}, ValueError, "rescale must be one of 'undo', 'match'"),
        ("good", {"granularity": "tensor"}, ValueError, "granularity must be one of"),
        ("good", {"layer_ids": [1, 2]}, ValueError, "layer_ids must name a layer for each tensor"),
    ],
)
def test_bad_input_is_named(function, make, history, options, error, message):
    """The message names the argument, and which gradient of the history."""
    histories = {
        "flat": [make(3)],
        "shape": [[make(3)], [make(4)]],
        "nan": [[make(3)], [make(3) * math.nan]],
        "good": [[make(3)]],
    }
    with pytest.raises(error, match=message):
        function([make(3)], histories[history] if isinstance(history, str) else history, **options)


def test_a_gradient_that_is_not_finite_reaches_the_steps_report():
    """`projected`, which a step calls before it looks, gives non-finite numbers for it and does not raise."""
    forget, history = [torch.ones(5)], [[torch.rand(5)], [torch.rand(5) * math.nan], [torch.rand(5)]]
    [g] = core.projected(forget, history, Layers(None, forget))
    assert not g.isfinite().any()


def gradient(value, **shapes):
    """A gradient by parameter name, each element `value`."""
    return {
        name: torch.full(shape, float(value)) for name, shape in (shapes or {"weight": (2, 3), "bias": (2,)}).items()
    }


def values(memory, parameters):
    """The first element of every tensor of the history."""
    return [[g.flatten()[0].item() for g in grads] for grads in memory.history(parameters)]


def test_the_memory_keeps_the_newest_gradients_oldest_first():
    """At most `size` of them; cleared, none."""
    memory, parameters = RetainMemory(3), gradient(0)
    assert memory.history(parameters) == [] and len(memory.gradients) == 0
    for value in range(1, 6):
        memory.push(gradient(value))
        assert len(memory.gradients) == min(value, 3)
    assert values(memory, parameters) == [[3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]
    memory.gradients.clear()
    assert not memory.gradients


def test_the_memory_holds_copies_without_a_graph():
    """An optimizer that changes its gradients in place does not change the past; no graph is kept alive."""
    memory, weight = RetainMemory(2), torch.ones(3, requires_grad=True)
    pushed = {"weight": weight * 2}
    memory.push(pushed)
    pushed["weight"].detach().fill_(9.0)
    [[held]] = memory.history({"weight": weight})
    assert torch.equal(held, torch.full((3,), 2.0)) and not held.requires_grad


def test_the_memory_follows_a_changed_set_of_parameters():
    """Gradients are found by name: a new parameter has zeros in the past, one that is absent is left out."""
    memory = RetainMemory(2)
    memory.push(gradient(1))
    memory.push(gradient(2, bias=(2,), extra=(4,)))
    parameters = {"extra": torch.ones(4), "bias": torch.ones(2, dtype=torch.float64)}
    assert values(memory, parameters) == [[0.0, 1.0], [2.0, 2.0]]
    assert [g.dtype for g in memory.history(parameters)[0]] == [torch.float32, torch.float64]
    with pytest.raises(ValueError, match=r"parameters\['bias'\] must have the shape .* \(2,\), got \(3,\); .*clear"):
        memory.history({"bias": torch.zeros(3)})


def test_the_memory_goes_on_from_its_state(tmp_path):
    """Saved and loaded as plain tensors, into a memory of the same size or a smaller one."""
    memory = RetainMemory(3)
    for value in (1, 2, 3, 4):
        memory.push(gradient(value))
    torch.save(list(memory.gradients), tmp_path / "memory.pt")
    state = torch.load(tmp_path / "memory.pt", weights_only=True)
    for size, expected in ((3, [2.0, 3.0, 4.0]), (2, [3.0, 4.0]), (5, [2.0, 3.0, 4.0])):
        other = RetainMemory(size)
        other.gradients.extend(state)
        assert [row[0] for row in values(other, gradient(0))] == expected


def test_the_memory_refuses_what_is_no_gradient():
    """A size below 0, or gradients without names."""
    with pytest.raises(ValueError, match="size must be at least 0"):
        RetainMemory(-1)
    with pytest.raises(TypeError, match="gradients must be a dict of tensors"):
        RetainMemory(1).push([torch.ones(2)])
