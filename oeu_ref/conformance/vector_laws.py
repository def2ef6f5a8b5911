"""Laws of exact values: the test vectors, which decimal arithmetic made, without the reference."""

from dataclasses import dataclass

from hypothesis import strategies as st

from ..contract import OPTIONS, SIGNATURES
from ..judging.cases import Cases
from ..judging.implementation import Violation
from ..judging.law import assume, law_of
from ..vectors import judge, make
from ..vectors.mistakes import NAN

PLAIN = {"NORMALIZATION": "exact", "PROJECT_WHEN": "always"}
WHEN = {"project": PLAIN, "oeu_direction": PLAIN, "fake_quantize": {"TIES": "even"}}
WHEN["fake_quantize_backward"] = {"TIES": "even", "QUANTIZER_MASK": ("clip", "round")}


@dataclass(frozen=True)
class VectorCase:
    """One test vector of an operation, by its name in the file; kind: the first of its flags."""

    kind: str
    name: str


def _answer(implementation, operation, inputs):
    """Outputs of an implementation for the inputs of a vector, both as `judge.parsed` gives them."""
    result = getattr(implementation, operation)
    if "logits" in inputs:
        result = result(inputs["logits"])
        return {"kl": result} if operation == "kl_to_uniform" else dict(zip(("loss", "grad"), result))
    if "x" in inputs:
        names = ("grad_out", "x", "step", "q_min", "q_max", "grad_scale")
        result = result(*(inputs[name] for name in names if name in inputs))
        return {"x_hat": result} if operation == "fake_quantize" else dict(zip(("grad_x", "grad_step"), result))
    options = {name: inputs[name] for name in ("alpha", "beta", "granularity", "rescale") if name in inputs}
    return {"result": result(inputs["forget_grads"], inputs["retain_grads"], **options)}


def gives_the_exact_values_of_the_test_vectors(implementation, case, operation):
    """{operation} gives what 60-digit arithmetic gives for each test vector.

    The vector's name and what it probes say where to look: inputs and expected values are those of
    tests/vectors/{operation}*.json."""
    declared, float32 = implementation.declared, str(implementation.dtype) == "float32"
    file = f"{operation}_{declared['QUANTIZER_MASK']}" if operation == "fake_quantize_backward" else operation
    vector = make.by_name(file)[case.name]
    inputs = judge.parsed(vector["inputs"])
    assume(not float32 or judge.fits_float32(vector["inputs"]))
    given = {**inputs, "range": (inputs["q_min"], inputs["q_max"])} if "q_min" in inputs else inputs
    for option, names in {**OPTIONS, "range": "RANGES"}.items():
        assume(option not in given or declared[names] is None or given[option] in declared[names])
    expected = vector["expected"]
    try:
        answer = _answer(implementation, operation, inputs)
        if answer.get("grad_step", 0) is None:
            expected = {"grad_x": expected["grad_x"]}
        vector = {**vector, "expected": expected}
        judge.check_case(operation, vector, answer, judge.DTYPES[str(implementation.dtype)])
    except (Violation, ValueError) as error:
        known = f"; {judge.MISTAKE}{NAN[operation]}" if "nan" in str(error) and operation in NAN else ""
        raise Violation(f"{case.name} ({vector['comment']}): {error}{known}") from None


for _operation in SIGNATURES:
    _cases = Cases(st.nothing(), [VectorCase(flags[0], name) for name, flags in make.flags(_operation).items()])
    _when = WHEN.get(_operation, {})
    law_of(_operation, gives_the_exact_values_of_the_test_vectors, "exact", _cases, weight=0.0, **_when)
