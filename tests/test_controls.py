"""Controls: a law that cannot fail proves nothing, and one that fails for right code says something false.

What a theorem excludes must be seen to break its laws; what is right up to rounding must not, however it is written.
"""

import collections
import functools
import itertools
import os
import pathlib
import subprocess
import sys
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from oeu_ref import reference
from oeu_ref.__main__ import main
from oeu_ref.conformance import LAWS, SIGNATURES, Implementation, LoadError, Violation, check, load, try_law
from oeu_ref.judging.cases import Cases, LogitsCase, logits
from oeu_ref.judging.law import FORM, LOST, Law, Trial, require
from oeu_ref.reference.entropy import softmax

from .mutants.edits import MUTANTS, SOURCE, build

ROOT = str(pathlib.Path(__file__).parent.parent)

ALTERNATIVES = sorted((pathlib.Path(__file__).parent / "mutants" / "alternatives").glob("*.py"))


def variant(**functions):
    """The reference with some functions replaced."""
    namespace = {name: getattr(reference, name) for name in reference.__all__} | functions
    return Implementation(types.SimpleNamespace(**namespace), "variant")


def broken(implementation, theorem):
    """Names of the laws under a theorem that the implementation breaks."""
    return {law.name for law in LAWS if law.theorem == theorem and try_law(law, implementation, 15).status == "fails"}


def test_the_raw_forget_gradient_breaks_theorem_4_3():
    """Without any projection orthogonality, alpha's share and second order are all seen to be violated."""
    raw = variant(project=lambda forget, retain, *options, **named: [g.copy() for g in forget])
    names = broken(raw, "4.3")
    assert "projected gradient is orthogonal to the retain gradient of every layer" in names
    assert "retain loss changes at second order only" in names
    assert "alpha removes that share of the retain component" in names
    assert "direction trains the retain set as plain training does" not in names  # that is about oeu_direction


def test_the_projection_onto_the_retain_gradient_breaks_theorem_4_4():
    """What is taken out instead of what is left is no descent direction of the promised length."""

    def onto(forget, retain, *options, **named):
        return [f - p for f, p in zip(forget, reference.project(forget, retain, *options, **named))]

    assert "projected gradient is a descent direction" in broken(variant(project=onto), "4.4")


def test_one_fixed_weight_breaks_the_law_of_the_weights():
    """No weighted sum with the same weights in every layer and step is OEU's direction."""

    def fixed_weight(forget, retain, alpha=1.0, beta=1.0, *options, **named):
        return [np.asarray(r + beta / (1 + beta / 2) * f) for f, r in zip(forget, retain)]

    (law,) = [law for law in LAWS if law.name == "direction is a weighted sum whose weights follow the angle"]
    assert try_law(law, variant(oeu_direction=fixed_weight)).status == "fails"
    assert try_law(law, variant()).status == "holds"


def test_label_manipulation_breaks_theorem_4_2():
    """The loss that fits wrong labels does not end at the uniform prediction."""

    def wrong_label_loss(logits):
        return reference.entropy.cross_entropy(logits, (logits.argmax(axis=1) + 1) % logits.shape[1])

    names = broken(variant(entropy_loss=wrong_label_loss), "4.2")
    assert {"descent reaches the uniform prediction", "uniform prediction is stationary"} <= names


def test_the_reversed_kl_breaks_theorem_4_1():
    """KL(U || p) exceeds log K for confident predictions."""

    def reversed_kl(logits):
        return -np.log(logits.shape[1]) - reference.entropy.log_softmax(logits).mean(axis=1)

    assert "nothing is further from uniform than one hot" in broken(variant(kl_to_uniform=reversed_kl), "4.1")


def test_every_law_is_broken_by_nonsense():
    """No law holds for both of two implementations that return numbers without meaning, so none is blind."""
    laws = [law for law in LAWS if law.when.get("PROJECT_WHEN") != "conflict"]
    holds = [
        {law.name for law in laws if try_law(law, Implementation(nonsense()), cases=20).status == "holds"}
        for nonsense in (OneBuffer, Counting)
    ]
    assert holds[0] & holds[1] == set()


class OneBuffer:
    """Nonsense that writes every result into the same memory."""

    def __init__(self):
        self.memory = np.zeros(1000)

    def fill(self, like):
        self.memory += 1.0
        return self.memory[: like.size].reshape(like.shape)

    def entropy_loss(self, z):
        return 0.3 + float(z.sum()), self.fill(z)

    def kl_to_uniform(self, z):
        return self.fill(z[:, 0])

    def fake_quantize(self, x, *rest):
        return self.fill(x)

    def fake_quantize_backward(self, grad_out, x, *rest):
        return self.fill(x), 0.777

    def project(self, forget, retain, *rest, **options):
        return [self.fill(g) for g in forget]

    oeu_direction = project

    class OEU:
        """A step that forgets everything."""

        def __init__(self, model, optimizer, **options):
            self.model = model

        def step(self, *batches):
            for parameter in self.model.parameters():
                parameter.data.fill_(0.321)


class Counting(OneBuffer):
    """Nonsense that depends on how often it was called, and spoils its inputs."""

    calls = 0

    def fill(self, like):
        self.calls += 1
        result = like**2 - self.calls
        like += 1.0
        return result

    def entropy_loss(self, z):
        return 0.3 + self.calls, self.fill(z)

    def fake_quantize_backward(self, grad_out, x, *rest):
        return self.fill(x), 0.777 + self.calls


CONVENTIONS = [  # what is declared, the operation, and how it differs from the reference
    ({"QUANTIZER_MASK": "open"}, "fake_quantize_backward", lambda v, low, high: (v > low) & (v < high)),
    (
        {"QUANTIZER_MASK": "round"},
        "fake_quantize_backward",
        lambda v, low, high: (v.round() >= low) & (v.round() <= high),
    ),
    ({"QUANTIZER_MASK": "none"}, "fake_quantize_backward", None),
    ({"TIES": "up"}, "fake_quantize", lambda v: np.floor(v) + (v - np.floor(v) >= 0.5)),
    ({"TIES": "away"}, "fake_quantize", lambda v: np.sign(v) * (np.floor(abs(v)) + (abs(v) - np.floor(abs(v)) >= 0.5))),
    ({"NORMALIZATION": "additive", "EPSILON": 1e-8}, "project", {"normalization": "additive"}),
    ({"GRANULARITIES": ("global",)}, "project", {"granularity": "global"}),
]
# more of the same kinds, with -m reliability
CONVENTIONS += [
    pytest.param(declared, "project", how, marks=pytest.mark.reliability)
    for declared, how in (
        ({"NORMALIZATION": "additive", "EPSILON": 1e-6}, {"normalization": "additive", "epsilon": 1e-6}),
        ({"PROJECT_WHEN": "conflict"}, "conflict"),
        ({"RESCALES": ("match",)}, {"rescale": "match"}),
        ({"ALPHAS": (1.0,), "RESCALES": ("undo",)}, {"alpha": 1.0, "rescale": "undo"}),
    )
]


def following(operation, how):
    """A function of the contract under another convention, written without `judging.expected`."""

    def backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
        v = x / step
        passes = np.ones(v.shape, bool) if how is None else how(v, q_min, q_max)
        inside = (q_min <= v) & (v <= q_max) if how is None else passes
        slope = np.where(inside, np.round(v) - v, np.where(v < (q_min + q_max) / 2, q_min, q_max))
        return grad_out * passes, grad_scale * float((grad_out * slope).sum())

    def fake_quantize(x, step, q_min, q_max):
        return step * how(np.clip(x / step, q_min, q_max))

    def in_conflict(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
        projected = reference.project(forget, retain, alpha, granularity, rescale)
        products = [(f * r).sum() for f, r in zip(forget, retain)]
        if granularity == "global":
            products = [sum(products)] * len(products)
        return [f.copy() if product >= 0 else p for p, f, product in zip(projected, forget, products)]

    def project(forget, retain, *args, **options):
        return reference.project(forget, retain, *args, **options, **how)

    project = in_conflict if how == "conflict" else project
    return {"fake_quantize_backward": backward, "fake_quantize": fake_quantize, "project": project}[operation]


@pytest.mark.parametrize(("declared", "operation", "how"), CONVENTIONS, ids=lambda value: str(value)[:40])
def test_a_declared_convention_is_no_failure_and_an_undeclared_one_is_proposed(declared, operation, how):
    """What follows another convention holds its laws once it says so; before, `check` says what to declare."""
    function = following(operation, how)
    report = check(only(operation, function, **declared), cases=3)
    assert report.ok, report.table()
    report = check(only(operation, function), cases=1)
    assert report.failed and not report.ok
    (proposal,) = report.proposals
    assert set(proposal.split(" and ")) == {f"{name} = {value!r}" for name, value in declared.items()}


def by_name_alone(forget, retain, *, alpha=1.0, granularity="layer", rescale="undo"):
    return reference.project(forget, retain, alpha, granularity, rescale)


def with_rounded_alpha(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
    return reference.project(forget, retain, float(round(alpha)), granularity, rescale)


def with_another_match(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
    projected = reference.project(forget, retain, alpha, granularity, rescale)
    return projected if rescale == "undo" else [1.5 * g for g in projected]


@pytest.mark.parametrize(
    "project",
    [
        with_rounded_alpha,
        pytest.param(by_name_alone, marks=pytest.mark.reliability),
        pytest.param(with_another_match, marks=pytest.mark.reliability),
    ],
)
def test_who_takes_an_option_and_gets_it_wrong_is_told_so_and_not_to_declare_one_value(project):
    """A restriction is proposed for an option that changes nothing; elsewhere it would hide what is wrong."""
    report = check(only("project", project), cases=1)
    assert report.failed and not report.proposals


@pytest.mark.parametrize(
    ("operation", "function", "of_form"),
    [
        ("kl_to_uniform", lambda z: reference.kl_to_uniform(z).tolist(), True),
        ("kl_to_uniform", lambda z: reference.kl_to_uniform(z).astype(np.float16), True),
        ("kl_to_uniform", lambda z: reference.kl_to_uniform(z)[:1], True),
        ("entropy_loss", lambda z: reference.entropy_loss(z)[0], True),
        ("entropy_loss", lambda z: (np.ones(3), reference.entropy_loss(z)[1]), True),
        ("kl_to_uniform", lambda z: reference.kl_to_uniform(z) + 1, False),
        ("kl_to_uniform", lambda z: reference.kl_to_uniform(z) * np.nan, False),
    ],
)
def test_a_result_of_another_form_is_not_explained_by_mathematics(operation, function, of_form):
    """A list for an array, half precision, another shape: the usual cause is the form, and a law's own for values."""
    (worst, *_) = check(only(operation, function), cases=1).failures
    (law,) = [law for law in LAWS if law.name == worst.law]
    assert worst.hint == (FORM if of_form else law.hint)


def test_a_quantizer_without_step_gradient_is_judged_by_the_rest():
    """grad_step None skips the laws about the step by name, and nothing else."""

    def no_step(*args):
        return reference.fake_quantize_backward(*args)[0], None

    report = check(only("fake_quantize_backward", no_step), cases=5)
    skipped = {r.law for r in report.results if "grad_step is None" in r.message}
    assert report.ok and "step gradient is lsqs" in skipped and len(skipped) == 3


def test_declared_ranges_are_the_only_ones_that_are_tried():
    """RANGES says which codes a quantizer has; others are not asked for."""

    def four_bits(x, step, q_min, q_max):
        assert (q_min, q_max) in ((-8, 7), (0, 15))
        return reference.fake_quantize(x, step, q_min, q_max)

    assert check(only("fake_quantize", four_bits, RANGES=((-8, 7), (0, 15))), cases=10).ok
    assert not check(only("fake_quantize", four_bits), cases=10).ok


@pytest.mark.parametrize(
    ("declaration", "value", "message"),
    [
        ("TIES", "odd", "TIES must be one of 'even', 'away', 'up'"),
        ("EPSILON", 0.0, "EPSILON must be greater than 0"),
        ("RANGES", (-8, 7), r"RANGES must be a tuple such as \(\(-8, 7\), \(0, 15\)\)"),
        ("RESCALES", "undo", r"RESCALES must be a tuple such as \('undo',\)"),
        ("ALPHAS", (2.0,), r"ALPHAS must be a tuple such as \(1.0,\)"),
    ],
)
def test_unknown_declarations_are_refused_with_what_is_right(declaration, value, message):
    """A declaration that says nothing known is an error of usage, not a law's."""
    with pytest.raises(LoadError, match=message):
        only("project", reference.project, **{declaration: value})


@pytest.mark.parametrize(
    ("name", "code", "words", "first"),
    [
        ("one_pass", 4, "right on ordinary inputs; imprecise: nearly_parallel", "orthogonality holds to rounding"),
        (
            "zero_retain_nan",
            3,
            "right on ordinary inputs; wrong at the edges: zero_retain",
            "zero gradients are harmless",
        ),
        ("entropy_zero_log", 3, "right on ordinary inputs; wrong at the edges: huge, one_hot", ""),
        ("round_trunc", 1, "wrong on ordinary inputs", ""),
    ],
)
def test_a_verdict_says_whether_it_matters_and_the_most_specific_failure_comes_first(name, code, words, first):
    """Failures on ordinary inputs, at the edges, and in numerics have words and exit codes of their own."""
    (mutant,) = [mutant for mutant in MUTANTS if mutant.name == name]
    report = check(Implementation(build(mutant), name), cases=1)
    assert (report.exit_code, report.ok) == (code, False) and words in report.verdict()
    assert report.failures[0].law.startswith(first)
    headings = [line for line in report.table().splitlines() if line.startswith("FAILS")]
    assert headings[0].startswith(f"FAILS 1  {report.failures[0].law}")
    if name == "entropy_zero_log":  # one NaN is one cause
        assert len(headings) <= 2 and "also:" in report.table()


def logarithm_of_probabilities(least):
    """The entropy loss by log max(p, least), of probabilities that are rounded."""

    def entropy_loss(z):
        p = softmax(z)
        log_p = np.log(np.maximum(p, least))
        entropy = -(p * log_p).sum(axis=1, keepdims=True)
        return float(-entropy.mean()), p * (log_p + entropy) / len(z)

    return entropy_loss


def by_categorical(z):
    """PyTorch's own, given probabilities, which it clamps."""
    z = torch.tensor(z, requires_grad=True)
    loss = -torch.distributions.Categorical(probs=z.softmax(dim=1)).entropy().mean()
    return loss.item(), torch.autograd.grad(loss, z)[0].numpy()


@pytest.mark.parametrize(
    ("entropy_loss", "code"),
    [(by_categorical, 4), (logarithm_of_probabilities(1e-30), 4), (logarithm_of_probabilities(1e-6), 1)],
)
def test_what_is_lost_in_small_entries_alone_is_numerics(entropy_loss, code):
    """A gradient of 1e-39 that should be 1e-40 is not wrong on ordinary inputs; one of 1e-6 is."""
    report = check(only("entropy_loss", entropy_loss), cases=20)
    assert report.exit_code == code
    (failure, *_) = [r for r in report.failed if r.law == "entropy gradient is the derivative by hand"]
    if code == 4:
        assert "right on ordinary inputs; imprecise: small_entries)" in report.verdict()
        assert len(report.failed) == 1 and failure.severity == "numerics" and failure.hint == LOST


def test_a_failure_at_an_edge_does_not_end_the_search_on_ordinary_inputs():
    """Fixed cases fail at an edge alone, drawn ones on ordinary inputs too: that is the law's class and its case."""

    def check_few(implementation, case):
        require(case.kind != "huge", "huge")
        require(case.kind != "typical" or case.seed <= 500, "far")

    law = Law("few", "none", "Few fail.", "", (), check_few, Cases(logits().drawn, (LogitsCase("huge", 2, 3, 0),)))
    result = try_law(law, variant(), cases=200)
    assert (result.severity, result.message) == ("definition", "far") and result.case.seed == 501
    assert not result.kinds["huge"]


def test_a_failing_law_names_its_smallest_case_and_hint():
    """The report of a failure carries a shrunken case, the measured violation and the usual cause."""

    def check_small(implementation, case):
        if case >= 17:
            raise Violation(f"{case} is too large")

    law = Law("small", "none", "Numbers are small.", "count less", (), check_small, Cases(st.integers(0, 1000), ()))
    result = try_law(law, variant(), cases=100)
    assert (result.status, result.example, result.message, result.hint) == (
        "fails",
        "17",
        "17 is too large",
        "count less",
    )


@pytest.mark.parametrize("operation", ["kl_to_uniform", "project"])
def test_an_implementation_that_leaves_has_failed(operation):
    """`sys.exit` in a function would end `check` with an exit code of its own, and without a word."""
    report = check(only(operation, lambda *args, **options: sys.exit(0)), cases=1)
    assert report.exit_code == 1 and {r.status for r in report.results} == {"fails", "skipped"}
    assert report.failures[0].message == "SystemExit: 0"


def test_the_report_is_deterministic():
    """The same implementation gets the same report, failing examples included."""
    wrong = types.SimpleNamespace(kl_to_uniform=lambda z: reference.kl_to_uniform(z) * 1.01)
    assert check(Implementation(wrong), cases=10) == check(Implementation(wrong), cases=10)


def only(name, function, **declared):
    """An implementation with one operation."""
    return Implementation(types.SimpleNamespace(**{name: function}, **declared), name)


def true_remainder(g_f, g_r, alpha, rescale):
    """The reference's projection, but for what is below the collinear threshold: what is really left, not zero."""
    result = reference.projection.project_vector(g_f, g_r, alpha, rescale)
    if result.any() or not g_f.any():
        return result
    axis = reference.projection.unit(g_r)[0]
    for _ in range(2):
        g_f = g_f - (g_f @ axis) * axis
    return g_f


def projection_of(vector):
    """`project` made of a projection of one vector."""

    def project(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
        if granularity == "layer":
            return [vector(f.ravel(), r.ravel(), alpha, rescale).reshape(f.shape) for f, r in zip(forget, retain)]
        flat = (np.concatenate([g.ravel() for g in grads]) for grads in (forget, retain))
        parts = np.split(vector(*flat, alpha, rescale), np.cumsum([f.size for f in forget])[:-1])
        return [part.reshape(f.shape).copy() for part, f in zip(parts, forget)]

    return project


def in_any_order(rng=np.random.default_rng(0)):
    """Entropy loss and KL whose sums run in another order at each call, as sums by several threads do."""

    def rows(logits):
        order = rng.permutation(logits.shape[1])
        log_p = reference.entropy.log_softmax(logits[:, order])
        sums = np.zeros(len(logits))
        for column in (np.exp(log_p) * log_p).T:
            sums += column
        log_p = log_p[:, np.argsort(order)]
        return log_p, -sums

    def entropy_loss(logits):
        log_p, h = rows(logits)
        return -sum(h[rng.permutation(len(h))].tolist()) / len(h), np.exp(log_p) * (log_p + h[:, None]) / len(h)

    return {"entropy_loss": entropy_loss, "kl_to_uniform": lambda z: np.log(z.shape[1]) - rows(z)[1]}


def step_gradient_in_any_order(grad_out, x, step, q_min, q_max, grad_scale=1.0, rng=np.random.default_rng(0)):
    """LSQ's gradients, the step's summed in another order at each call."""
    order = rng.permutation(x.size)
    flat = (grad_out.ravel()[order], x.ravel()[order])
    terms = [reference.fake_quantize_backward(g, v, step, q_min, q_max) for g, v in zip(*(a[:, None] for a in flat))]
    grad_x, _ = reference.fake_quantize_backward(grad_out, x, step, q_min, q_max)
    return grad_x, grad_scale * sum(term for _, term in terms)


RIGHT = {
    "true remainder": {"project": projection_of(true_remainder)},
    "any order of sums": in_any_order(),
    "any order of the step's sum": {"fake_quantize_backward": step_gradient_in_any_order},
    "one ulp": {"fake_quantize": lambda *args: np.nextafter(reference.fake_quantize(*args), np.inf)},
    "one ulp of the sign": {"fake_quantize": lambda *args: reference.fake_quantize(*args) * (1 + 2.0**-52)},
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.reliability
def test_what_is_right_up_to_rounding_is_not_accused(name):
    """No law asks for the reference's own zeros, bits or order of sums."""
    report = check(Implementation(types.SimpleNamespace(**RIGHT[name]), name), cases=10)
    assert report.ok, report.table()


def test_sums_of_many_terms_may_run_one_by_one():
    """The tolerances for entropy grow with K and N as the rounding of a sequential sum does."""
    implementation = Implementation(types.SimpleNamespace(**in_any_order()), "sequential")
    cases = [
        LogitsCase(*case) for case in (("near_uniform", 3, 1000), ("near_uniform", 20000, 3, 2), ("huge", 50, 300))
    ]
    laws = [law for law in LAWS if any(isinstance(c, LogitsCase) and c.kind == "huge" for c in law.cases.fixed)]
    assert len(laws) >= 5
    for law, case in itertools.product(laws, cases):
        law.check(implementation, case)


def test_subnormal_numbers_may_be_made_zero():
    """A compiler that flushes subnormal probabilities to zero, as XLA does on a CPU, is not accused for it."""

    def flushed(logits):
        log_p = reference.entropy.log_softmax(logits)
        p = np.where(log_p < np.log(np.finfo(float).tiny), 0.0, np.exp(log_p))
        h = -(p * log_p).sum(axis=1, keepdims=True)
        return -h.mean(), p * (log_p + h) / len(p)

    for seed in range(600, 700):  # some of these have a subnormal probability
        law_named("entropy gradient is the derivative by hand").check(
            only("entropy_loss", flushed), LogitsCase("huge", 70, 5, seed)
        )


def test_another_mask_is_no_failure_of_grad_scale():
    """An undeclared mask breaks the laws about the mask, not the one about grad_scale."""

    def rounded(*args):
        return reference.fake_quantize_backward(*args, mask="round")

    failed = {r.law for r in check(only("fake_quantize_backward", rounded)).failed}
    assert "up to half a step beyond the range the mask decides" in failed
    assert "grad scale scales the step gradient alone" not in failed


def test_every_start_of_the_descent_reaches_the_uniform_prediction():
    """The law about descent is true of all cases that it may draw, not only of lucky ones."""
    (law,) = [law for law in LAWS if law.name == "descent reaches the uniform prediction"]
    for seed in range(0, 1000, 7):
        law.check(variant(), LogitsCase("typical", 1 + seed % 9, 2 + seed % 5, seed))
    law.check(variant(), LogitsCase("typical", 1, 2, 3))


def test_nan_is_called_nan_and_equals_itself():
    """A NaN fails the laws about values, which name it; those about repeats and layouts have nothing to say."""

    def with_nan(logits):
        loss, grad = reference.entropy_loss(logits)
        return loss, np.where(logits > 1, np.nan, grad)

    failed = check(only("entropy_loss", with_nan)).failed
    assert failed and all("grad holds nan" in r.message for r in failed)
    assert not any(r.theorem == "contract" for r in failed)


def test_contract_laws_look_at_the_numbers_too():
    """State between calls shows in the loss and in the step's gradient; shared memory before anything is lost."""
    calls = itertools.count()
    zeros = {}

    def drifting(logits):
        loss, grad = reference.entropy_loss(logits)
        return loss * (1 + 1e-9 * next(calls)), grad

    def step_drifting(*args):
        grad_x, grad_step = reference.fake_quantize_backward(*args)
        return grad_x, grad_step * (1 + 1e-9 * next(calls))

    def cached_zeros(forget, retain, *rest, **options):
        result = reference.project(forget, retain, *rest, **options)
        return [g if g.any() else zeros.setdefault(g.shape, g) for g in result]

    repeats = "gives the same result when called again"
    for function, name in ((drifting, "entropy_loss"), (step_drifting, "fake_quantize_backward")):
        failed = {r.law for r in check(only(name, function), cases=1).failed}
        assert f"{name.replace('_', ' ')} {repeats}" in failed
    failed = {r.law: r.message for r in check(only("project", cached_zeros), cases=1).failed}
    assert "share their memory" in failed.pop("project leaves its inputs alone and returns new arrays")
    assert not failed


def test_contract_laws_turn_each_argument_and_all_ranks():
    """Whoever reads one argument, or one rank alone, in memory order is found."""

    def memory_order(which, ndim):
        def backward(grad_out, x, *rest):
            moved = [grad_out, x]
            if x.ndim == ndim:
                moved[which] = moved[which].ravel(order="K").reshape(x.shape)
            return reference.fake_quantize_backward(*moved, *rest)

        return backward

    for which, ndim in ((0, 2), (1, 2), (0, 3), (1, 3)):
        report = check(only("fake_quantize_backward", memory_order(which, ndim)), cases=1)
        assert [r.law for r in report.failed] == ["fake quantize backward does not depend on memory layout"]


def test_refused_cases_are_counted_and_no_pass():
    """A NotImplementedError takes its case out, not the law; what is refused in part is no pass."""

    def easy_only(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
        if rescale == "match" or any(not g.any() for g in retain):
            raise NotImplementedError("only undo, and no zeros")
        return reference.project(forget, retain, alpha, granularity, rescale)

    report = check(only("project", easy_only), cases=5)
    status = {r.law: r for r in report.results}
    assert not report.ok and not report.failed and report.judged == ["project"]
    assert status["layer projection under match is its definition"].status == "declined"
    partial = status["alpha removes that share of the retain component"]
    assert partial.status == "partial" and partial.cases > 5 and partial.declined > 0
    assert "declines cases" in report.verdict() and "only undo, and no zeros" in report.table()

    def wrong_where_easy(forget, retain, alpha=1.0, granularity="layer", rescale="undo"):
        return [2 * g for g in easy_only(forget, retain, alpha, granularity, rescale)]

    assert check(only("project", wrong_where_easy), cases=5).failed

    def never(*args, **options):
        raise NotImplementedError

    template = Implementation(types.SimpleNamespace(project=never, kl_to_uniform=reference.kl_to_uniform), "filled in")
    assert check(template, cases=5).ok
    assert not check(only("project", never), cases=5).ok


def test_required_operations_have_to_be_judged():
    """`required` makes a missing operation no pass; the verdict says what was judged and what was not."""
    kl = only("kl_to_uniform", reference.kl_to_uniform)
    assert check(kl, cases=1).ok and check(kl, cases=1, required=["kl_to_uniform"]).ok
    for required, lacking in ((["project"], "project"), (["all"], "entropy_loss, fake_quantize")):
        report = check(kl, cases=1, required=required)
        assert not report.ok and f"lacks what is required, {lacking}" in report.verdict()
    assert "1 of 7 operations" in check(kl, cases=1).verdict()
    with pytest.raises(ValueError, match="required must be one of 'entropy_loss'"):
        check(kl, required=["projekt"])


def mutant(name):
    """A wrong implementation by the name of its mistake."""
    (found,) = [mutant for mutant in MUTANTS if mutant.name == name]
    return Implementation(build(found), name)


def law_named(name):
    """The law of this name."""
    (law,) = [law for law in LAWS if law.name == name]
    return law


@functools.cache
def one_report():
    """The reference as an implementation, what `check` finds for it with one drawn case, and the shapes asked for."""
    shapes = {operation: set() for operation in SIGNATURES}

    def watched(operation):
        def called(*args, **options):
            arrays = args[0] if isinstance(args[0], list) else [args[0]]
            shapes[operation].add(tuple(np.shape(a) for a in arrays))
            return getattr(reference, operation)(*args, **options)

        return functools.wraps(getattr(reference, operation))(called)

    implementation = variant(**{operation: watched(operation) for operation in SIGNATURES})
    return implementation, check(implementation, cases=1), shapes


# operation -> dimension -> values that are tried whatever is drawn, on both sides of where code goes another way
LOGITS = {"samples": (1, 5, 70), "classes": (2, 3, 130), "|logits|": ("1e-05", "1e+00", "1e+04")}
X = {
    "shape": ((), (0,), (1,), (2, 12), (3, 3), (2, 3, 2), (2, 2, 3, 3), (10008,)),
    "range": ((-1, 0), (-1, 1), (-7, 7), (-8, 7), (0, 15), (3, 10), (-10, -3), (-128, 127), (0, 1000), (-2048, 2047)),
    "step": (2.0**-30, 2.0**-3, 2.0**20),
}
GRADIENTS = {"layers": (1, 2, 3, 12), "rank": (0, 1, 2, 3, 4), "elements": (1, 64, 1200, 20000)}
GRADIENTS |= {"alpha": (0.0, 0.5, 1.0), "granularity": ("layer", "global"), "rescale": ("undo", "match")}
GRADIENTS |= dict.fromkeys(("|g_f|", "|g_r|"), ("0", "1e-09", "1e+00", "1e+06"))
DIMENSIONS = {"entropy_loss": LOGITS, "kl_to_uniform": LOGITS, "fake_quantize": X, "project": GRADIENTS}
DIMENSIONS["fake_quantize_backward"] = {**X, "grad_scale": (0.0, 1e-5, 0.25, 1.0, 3.0)}
DIMENSIONS["oeu_direction"] = {**GRADIENTS, "beta": (0.0, 0.25, 1.0, 8.0, 12.34567)}


@pytest.mark.parametrize("operation", DIMENSIONS)
def test_every_dimension_of_the_domain_is_tried_whatever_is_drawn(operation):
    """Sizes, ranks, ranges, scales and options that the table of dimensions names are seen by the reference."""
    _, report, _ = one_report()
    for dimension, values in DIMENSIONS[operation].items():
        assert set(values) <= set(report.tried[operation][dimension]), dimension
    assert f"{operation}, {next(iter(DIMENSIONS[operation]))}:" in report.table(verbose=True)
    assert "tried, in each dimension" not in report.table()


def test_few_shapes_are_asked_for():
    """A compiler that works shape by shape is asked a dozen times for each operation, not hundreds of times."""
    implementation, report, shapes = one_report()
    for law in LAWS:
        Trial(law, implementation).try_drawn(5)
    assert report.ok and all(shapes.values())
    assert {operation: len(found) for operation, found in shapes.items() if len(found) > 16} == {}


def test_bits_are_drawn_evenly():
    """Of the quantizer's calls no width takes more than a third, and 2, 4 and 8 bits are tried by every law."""
    counts = collections.Counter()
    reference_implementation = load("oeu_ref.reference").declaring(
        lambda operation, args, options: counts.update([args[-2:]] if operation == "fake_quantize" else [])
    )
    laws = [law for law in LAWS if law.needs == ("fake_quantize",) and law.theorem == "LSQ"]
    for law in laws:
        assert {(-2, 1), (-8, 7), (-128, 127), (0, 255)} <= {case.q_range for case in law.cases.fixed}
        try_law(law, reference_implementation, 50)
    share = {ends: count / counts.total() for ends, count in counts.items()}
    one_bit, eight_bits = share[-1, 0] + share[0, 1], share[-128, 127] + share[0, 255]
    assert max(share.values()) < 1 / 3 and one_bit < 0.2 and eight_bits > 0.1


@pytest.mark.parametrize("operation", SIGNATURES)
def test_state_between_calls_is_found_by_the_law_about_it(operation):
    """What drifts when the same input comes again breaks the law that calls twice."""
    law = law_named(f"{operation.replace('_', ' ')} gives the same result when called again")
    assert try_law(law, mutant(f"{operation}_again")).status == "fails"
    assert try_law(law, variant()).status == "holds"


@pytest.mark.parametrize(
    ("name", "law_name"),
    [
        ("backward_range_symmetric", "the gradient passes where its own forward moves"),
        ("mask_missing", "the gradient passes where its own forward moves"),
        ("direction_projects_at_full_strength_under_match", "direction adds beta times its own projection"),
        ("alpha_default", "project has the contracts defaults and order"),
        ("beta_before_alpha", "oeu direction has the contracts defaults and order"),
        ("kl_cached", "kl to uniform leaves its inputs alone and returns new arrays"),
        ("kl_reversed", "kl to uniform gives the exact values of the test vectors"),
    ],
)
def test_laws_without_the_reference_see_on_their_own(name, law_name):
    """Laws that compare an implementation with itself, or with exact values, find what they are about."""
    law, wrong = law_named(law_name), mutant(name)
    for operation in law.needs:  # beside the mutant's own
        vars(wrong.target).setdefault(operation, getattr(reference, operation))
    assert try_law(law, wrong, 5).status == "fails"
    assert try_law(law, variant(), 5).status == "holds"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("entropy_tiny_eps_in_log", "entropy_loss looks like a known mistake: log(p + 1e-12): an epsilon inside"),
        ("entropy_zero_log", "entropy_loss looks like a known mistake: 0 log 0"),
        ("loss_sum", "N = 7 times too large: a sum over samples where a mean is meant"),
        ("kl_reversed", "KL(U || p), the wrong way round"),
        ("step_mean", "a mean over elements where a sum is meant"),
        ("epsilon_8", "an epsilon of 1e-08 in a norm"),
        ("rows_projected", "project: only matrices, 3-d arrays, 4-d arrays fail, not single numbers, vectors"),
        ("kl_batch_mean", "one value for the whole batch, where each sample has its own"),
        ("conflict_only", "consistent with PROJECT_WHEN = 'conflict'"),
        ("square_transposed", ""),
    ],
)
def test_known_mistakes_are_named_in_the_first_lines(name, words):
    """The first five lines of a report say what a common mistake is, and which arrays it takes."""
    report = check(mutant(name), cases=1)
    assert words in "\n".join(report.table().splitlines()[:5])
    assert bool(report.recognised) == ("consistent" not in words and bool(words))


def test_versions_are_part_of_the_verdict():
    """What passes with one version of a library may fail with the next one."""
    assert f"PyTorch {torch.__version__}" in check(only("kl_to_uniform", reference.kl_to_uniform), cases=1).verdict()


@pytest.mark.parametrize(("name", "number"), [("round_trunc", 1), ("always_global", 2)])
@pytest.mark.reliability
def test_a_failing_case_is_written_as_arrays_and_a_script(name, number, tmp_path, monkeypatch, capsys):
    """`--dump-case` writes what was passed, and a script that makes the same calls and breaks the same law."""
    (found,) = [mutant for mutant in MUTANTS if mutant.name == name]
    (tmp_path / "mine.py").write_text(SOURCE.replace(found.old, found.new), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "mine.py", "--cases", "1", "--dump-case", str(number)]) == 1
    arrays, script = sorted(tmp_path.glob("failing-*"), key=lambda path: path.suffix, reverse=False)
    assert arrays.suffix == ".npz" and f"{script.name}" in capsys.readouterr().out
    assert len(np.load(arrays).files) >= 1
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )
    assert "Violation" in result.stderr and "[" in result.stdout
    assert main(["check", "mine.py", "--cases", "1", "--dump-case", "99"]) == 2
    assert "--dump-case must be in [1, " in capsys.readouterr().err


NAMES = ["oeu_ref.reference", "oeu_ref.core.contract:float32", *map(str, ALTERNATIVES)]


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 51))
def test_no_right_implementation_is_accused_whatever_is_drawn(seed):
    """Fifty seeds beside the fixed one, the implementations in turns: no law is false for a right one."""
    name = NAMES[seed % len(NAMES)]
    report = check(load(name), cases=50, seed=seed)
    assert report.ok, f"{name}: {report.table()}"


@pytest.mark.reliability
@pytest.mark.parametrize("name", NAMES[:2])
def test_no_right_implementation_is_accused_in_many_cases(name):
    """500 cases for each law, of another seed: what is false for one case in some thousands shows."""
    report = check(load(name), cases=500, seed=1000)
    assert report.ok, report.table()
