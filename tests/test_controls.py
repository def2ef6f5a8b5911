"""Controls: a law that cannot fail proves nothing. What a theorem excludes must be seen to break its laws."""

import types

import hypothesis.strategies as st
import numpy as np

from oeu_ref import reference
from oeu_ref.conformance import LAWS, Implementation, Violation, check, try_law
from oeu_ref.conformance.cases import Cases
from oeu_ref.conformance.law import Law


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
