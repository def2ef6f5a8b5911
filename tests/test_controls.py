"""Controls: a law that cannot fail proves nothing, and one that fails for right code says something false.

What a theorem excludes must be seen to break its laws; what is right up to rounding must not, however it is written.
"""

import itertools
import pathlib
import types

import hypothesis.strategies as st
import numpy as np
import pytest

from oeu_ref import reference
from oeu_ref.conformance import LAWS, Implementation, Violation, check, load, try_law
from oeu_ref.conformance.cases import Cases, LogitsCase
from oeu_ref.conformance.law import Law

ALTERNATIVES = sorted((pathlib.Path(__file__).parent / "mutants" / "alternatives").glob("*.py"))


def variant(**functions):
    """The reference with some functions replaced."""
    namespace = {name: getattr(reference, name) for name in reference.__all__} | functions
    return Implementation(types.SimpleNamespace(**namespace), "variant")


def broken(implementation, theorem):
    """Names of the laws under a theorem that the implementation breaks."""
    return {law.name for law in LAWS if law.theorem == theorem and try_law(law, implementation).status == "fails"}


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
    laws = [law for law in LAWS if law.when != {"QUANTIZER_MASK": "round"}]
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
def test_what_is_right_up_to_rounding_is_not_accused(name):
    """No law asks for the reference's own zeros, bits or order of sums."""
    report = check(Implementation(types.SimpleNamespace(**RIGHT[name]), name), cases=30)
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


def test_another_mask_is_no_failure_of_grad_scale():
    """An undeclared mask breaks the laws about the mask, not the one about grad_scale."""

    def rounded(*args):
        return reference.fake_quantize_backward(*args, mask="round")

    failed = {r.law for r in check(only("fake_quantize_backward", rounded)).failed}
    assert "clip mask blocks what clipping moves" in failed
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
    """State between calls shows in the loss and in the step's gradient; shared memory, before anything overwrites it."""
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
        failed = {r.law for r in check(only(name, function)).failed}
        assert f"{name.replace('_', ' ')} {repeats}" in failed
    failed = {r.law: r.message for r in check(only("project", cached_zeros)).failed}
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
        report = check(only("fake_quantize_backward", memory_order(which, ndim)))
        assert [r.law for r in report.failed] == ["fake quantize backward does not depend on memory layout"]


def test_refused_cases_are_counted_and_no_pass():
    """A NotImplementedError takes its case out, not the law; what is refused in part is no pass, what never is there is."""

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


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["oeu_ref.reference", "oeu_ref.core.contract:float32", *map(str, ALTERNATIVES)])
def test_no_right_implementation_is_accused_whatever_is_drawn(name):
    """Many cases of many seeds: no law is false for a right implementation."""
    for seed in range(10):
        report = check(load(name), cases=200, seed=seed)
        assert report.ok, f"seed {seed}: {report.table()}"
