"""Test vectors: the committed files, right answers in three languages, and answers that must be found wrong."""

import decimal
import itertools
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from oeu_ref import reference
from oeu_ref.__main__ import main
from oeu_ref.judging.cases import CLASSES, GRADIENT_KINDS, LOGIT_KINDS, QUANTIZER_KINDS
from oeu_ref.judging.implementation import load
from oeu_ref.reference.entropy import log_softmax
from oeu_ref.reference.quantizer import fake_quantize_backward
from oeu_ref.vectors import exact, judge, make

HERE = pathlib.Path(__file__).parent
COMMITTED = HERE / "vectors"


def to_array(value):
    return np.array([float(v) for v in value["data"]]).reshape(value["shape"])


def to_json(array):
    array = np.asarray(array)
    return {"shape": list(array.shape), "data": [repr(float(v)) for v in array.ravel()]}


def answer(operation, inputs, implementation):
    """One case, answered by an implementation of the contract."""
    if "logits" in inputs:
        result = getattr(implementation, operation)(to_array(inputs["logits"]))
        if operation == "kl_to_uniform":
            return {"kl": to_json(result)}
        return {"loss": repr(float(result[0])), "grad": to_json(result[1])}
    if operation.startswith("fake_quantize"):
        x, step, ends = to_array(inputs["x"]), float(inputs["step"]), (inputs["q_min"], inputs["q_max"])
        if operation == "fake_quantize":
            return {"x_hat": to_json(implementation.fake_quantize(x, step, *ends))}
        arguments = to_array(inputs["grad_out"]), x, step, *ends, float(inputs["grad_scale"])
        if operation.endswith("clip"):
            grad_x, grad_step = implementation.fake_quantize_backward(*arguments)
        else:
            grad_x, grad_step = fake_quantize_backward(*arguments, mask="round")
        return {"grad_x": to_json(grad_x), "grad_step": repr(float(grad_step))}
    lists = ([to_array(g) for g in inputs[key]] for key in ("forget_grads", "retain_grads"))
    options = {key: inputs[key] for key in ("granularity", "rescale")}
    options.update({key: float(inputs[key]) for key in ("alpha", "beta") if key in inputs})
    return {"result": [to_json(g) for g in getattr(implementation, operation)(*lists, **options)]}


def write_answers(folder, implementation=reference, operations=None, dtype="float64"):
    """Answer the committed vectors; returns the folder."""
    folder.mkdir(exist_ok=True)
    for operation in operations or make.operations():
        cases = json.loads((COMMITTED / f"{operation}.json").read_text())["cases"]
        results = {case["name"]: answer(operation, case["inputs"], implementation) for case in cases}
        content = {"operation": operation, "dtype": dtype, "results": results}
        (folder / f"{operation}.json").write_text(json.dumps(content))
    return folder


def changed(folder, operation, change):
    """Change the answers of one operation in place; returns the folder."""
    path = folder / f"{operation}.json"
    content = json.loads(path.read_text())
    change(content["results"])
    path.write_text(json.dumps(content))
    return folder


def test_the_committed_vectors_are_what_the_command_writes(tmp_path, capsys):
    """A fresh set equals the committed one byte for byte, whatever the machine: expected values are exact."""
    assert main(["vectors", str(tmp_path / "new" / "folder")]) == 0
    fresh = sorted((tmp_path / "new" / "folder").iterdir())
    assert [p.name for p in fresh] == sorted(p.name for p in COMMITTED.iterdir())
    for path in fresh:
        assert path.read_bytes() == (COMMITTED / path.name).read_bytes(), path.name
    assert len(capsys.readouterr().out.splitlines()) == len(fresh)


def conforms(value, rule, schema):
    """Whether a value conforms to a JSON Schema, of the keywords that ours uses."""
    if "$ref" in rule:
        return conforms(value, schema["$defs"][rule["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in rule:
        return any(conforms(value, option, schema) for option in rule["anyOf"])
    assert set(rule) <= {"type", "const", "enum", "pattern", "required", "properties", "additionalProperties", "items"}
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds.get(rule.get("type"), object)) or isinstance(value, bool):
        return False
    if value not in rule.get("enum", [value]) or value != rule.get("const", value):
        return False
    if isinstance(value, str):
        return re.search(rule.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return all(conforms(item, rule["items"], schema) for item in value)
    if isinstance(value, dict):
        known, other = rule.get("properties", {}), rule.get("additionalProperties", {})
        return set(rule.get("required", ())) <= set(value) and all(
            conforms(item, known[key], schema) if key in known else other is not False and conforms(item, other, schema)
            for key, item in value.items()
        )
    return True


def test_vectors_and_answers_conform_to_the_published_schema(tmp_path):
    """The schema that goes with the files describes them, and our answers; what differs in form does not conform."""
    schema = json.loads((COMMITTED / "schema.json").read_text())
    vectors_rule, answers_rule = ({"$ref": f"#/$defs/{name}"} for name in ("vectors", "answers"))
    folder = write_answers(tmp_path / "a")
    for operation in make.operations():
        content = json.loads((COMMITTED / f"{operation}.json").read_text())
        assert conforms(content, vectors_rule, schema) and not conforms(content, answers_rule, schema)
        assert conforms(json.loads((folder / f"{operation}.json").read_text()), answers_rule, schema)
        for key, wrong in (("name", "no name"), ("flags", ["odd"]), ("inputs", None), ("expected", {"loss": "NaN"})):
            changed_content = {**content, "cases": [{**content["cases"][0], key: wrong}]}
            assert not conforms(changed_content, vectors_rule, schema), key
    assert not conforms({"results": {"typical": {"loss": None}}}, answers_rule, schema)
    assert conforms({"results": {"typical": {"loss": 1.5}}}, answers_rule, schema)


def test_flags_are_kinds_of_input_in_the_words_of_the_laws():
    """A case's flags name kinds that the laws know, so that a failure has a class."""
    known = {*CLASSES, *GRADIENT_KINDS, *LOGIT_KINDS, *QUANTIZER_KINDS, "large"}
    flags = {flag for operation in make.operations() for flag in itertools.chain(*make.flags(operation).values())}
    assert flags <= known and {"zero_retain", "one_hot", "just_outside", "nearly_parallel", "typical"} <= flags


def test_exact_values_have_60_digits_whatever_the_callers_arithmetic():
    """Not one operation, a sign's change neither, is rounded to the caller's digits: a uniform prediction has KL 0."""
    row = [decimal.Decimal(-3.5)] * 5
    with decimal.localcontext(decimal.Context(prec=4)):
        assert exact.kl_to_uniform([row]) == [0] and set(exact.entropy_loss([row])[1]) == {0}
        rough = exact.entropy_loss([[decimal.Decimal(1), decimal.Decimal(2)]])
    assert rough == exact.entropy_loss([[decimal.Decimal(1), decimal.Decimal(2)]])
    assert len(str(rough[0])) > 55


def test_every_case_says_what_it_probes_and_has_its_own_name():
    """Names are unique in a file, comments and tolerances there; the probes that the contract names exist."""
    probed = ""
    for operation in make.operations():
        content = json.loads((COMMITTED / f"{operation}.json").read_text())
        names = [case["name"] for case in content["cases"]]
        assert content["schema"] == make.SCHEMA and len(set(names)) == len(names) >= 13
        assert all(case["comment"] and case["tolerance"] for case in content["cases"])
        for case in content["cases"]:
            assert "0-d array" not in case["comment"] or case["inputs"]["x"]["shape"] == []
        probed += " ".join(case["comment"] for case in content["cases"])
    for probe in ("halves", "ends", "zero retain", "collinear", "huge", "layers", "alpha = 0", "alpha = 1/2", "8 bits"):
        assert probe in probed


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("oeu_ref.reference", "float64"),
        ("oeu_ref.core.contract:float64", "float64"),
        ("oeu_ref.core.contract:float32", "float32"),
    ],
)
def test_our_own_answers_hold(name, dtype, tmp_path):
    """Reference and core meet values that were computed in 60-digit arithmetic, independently of both."""
    operations = [operation for operation in make.operations() if "round" not in operation]
    report = judge.check_results(write_answers(tmp_path / "a", load(name).target, operations, dtype))
    assert report.ok, report.table()
    assert {r.operation: r.status for r in report.results}["fake_quantize_backward_round"] == "skipped"
    assert sum(r.cases for r in report.results) > (140 if dtype == "float64" else 100)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_answers_are_read_as_windows_saves_them(tmp_path, encoding):
    folder = write_answers(tmp_path / "a", operations=["project"])
    (path := folder / "project.json").write_text(path.read_text(), encoding=encoding)
    assert judge.check_results(folder).ok


def test_a_javascript_program_answers_them(tmp_path, capsys):
    """The example in plain JavaScript, run by Node, is judged right, end to end."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js (the program `node`)")
    program = [node, str(HERE / "other_languages" / "oeu.js"), str(COMMITTED), str(tmp_path)]
    subprocess.run(program, check=True, timeout=60)
    assert main(["check-vectors", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(" holds") >= 7


def test_a_javascript_program_with_a_mistake_is_found_wrong(tmp_path, capsys):
    """The same program without its second projection pass fails, and the report says why."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js (the program `node`)")
    source = (HERE / "other_languages" / "oeu.js").read_text()
    assert "value - left * axis[i]" in source
    (tmp_path / "wrong.js").write_text(source.replace("value - left * axis[i]", "value"))
    subprocess.run([node, str(tmp_path / "wrong.js"), str(COMMITTED), str(tmp_path / "a")], check=True, timeout=60)
    assert main(["check-vectors", str(tmp_path / "a"), "--json", str(tmp_path / "report.json")]) == 1
    assert "nearly_parallel_30_undo: cosine" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is False


def test_missing_operations_are_skipped_by_name(tmp_path):
    """Answers to one operation alone are judged; the others are skipped with the name of the missing file."""
    report = judge.check_results(write_answers(tmp_path / "a", operations=["project"]))
    assert report.ok
    assert "entropy_loss.json is missing" in report.table()


def set_output(name, output, value):
    return lambda results: results[name].update({output: value})


@pytest.mark.parametrize(
    ("operation", "change", "message"),
    [
        ("entropy_loss", lambda r: r["typical"].update(loss=str(-float(r["typical"]["loss"]))), "loss is"),
        ("entropy_loss", lambda r: r.pop("uniform"), "no answer: expected are the outputs loss, grad"),
        ("entropy_loss", lambda r: r["huge"].pop("grad"), "output 'grad' is missing"),
        ("entropy_loss", set_output("huge", "loss", "NaN"), "loss must be finite"),
        ("entropy_loss", set_output("huge", "loss", "minus one"), "must hold numbers or decimal text"),
        ("entropy_loss", set_output("huge", "loss", True), "must hold numbers or decimal text"),
        ("entropy_loss", set_output("huge", "loss", None), "loss holds null, which is what JSON writers make of NaN"),
        (
            "entropy_loss",
            lambda r: r["typical"].update(loss=str(7 * float(r["typical"]["loss"]))),
            "N = 7 times too large: a sum over samples where a mean is meant",
        ),
        (
            "kl_to_uniform",
            set_output(
                "two_rows_plain",
                "kl",
                to_json(-np.log(3) - log_softmax(np.array([[1, 2, 0.5], [0, 1, -3]])).mean(axis=1)),
            ),
            "KL(U || p), the wrong way round",
        ),
        (
            "entropy_loss",
            set_output("huge", "grad", {"shape": [3], "data": [0, 0, 0]}),
            "must have shape [1, 3], got [3]",
        ),
        ("entropy_loss", set_output("huge", "grad", {"shape": [2, 3], "data": [0, 0, 0]}), "do not fill its shape"),
        ("entropy_loss", set_output("huge", "grad", {"data": [0, 0, 0]}), '"shape": [...], "data": [...]'),
        ("kl_to_uniform", set_output("one_sample", "kl", {"shape": [1], "data": [0.7]}), "kl is 0.69999"),
        ("fake_quantize", lambda r: r["ties"]["x_hat"]["data"].__setitem__(0, "-1.75"), "halves go to the even code"),
        ("fake_quantize_backward_clip", set_output("ends", "grad_step", "1.0"), "grad_step is 1"),
        (
            "project",
            lambda r: r["one_layer_match_1"]["result"].append({"shape": [], "data": [0]}),
            "a list of 1 arrays",
        ),
        ("project", set_output("one_layer_undo_1", "result", 1.0), "a list of 1 arrays"),
        (
            "project",
            set_output("zero_retain_undo", "result", [{"shape": [6], "data": [0] * 6}]),
            "zero retain gradient",
        ),
        ("oeu_direction", lambda r: r.update(zero_forget_undo_beta_0=None), ""),
    ],
)
def test_wrong_answers_fail_with_the_reason(operation, change, message, tmp_path):
    """Each wrong answer fails its operation, named, with what was expected and what the case probes."""
    report = judge.check_results(changed(write_answers(tmp_path / "a", operations=[operation]), operation, change))
    if not message:
        assert report.ok  # an answer to a case that does not exist does no harm
    else:
        assert not report.ok
        assert message in report.table()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"operation": "project"}', "no 'results'"),
        ('{"operation": "project", "results": []}', "expected is"),
        ('{"operation": "entropy_loss", "results": {}}', "expected is"),
        ('{"dtype": "float16", "results": {}}', "dtype must be one of 'float64', 'float32'"),
    ],
)
def test_files_that_are_no_answers_are_explained(text, message, tmp_path):
    """A file of another form fails its operation with what is right; others are still judged."""
    folder = write_answers(tmp_path / "a", operations=["project", "kl_to_uniform"])
    (folder / "project.json").write_text(text)
    report = judge.check_results(folder)
    assert {r.operation: r.status for r in report.results}["kl_to_uniform"] == "holds"
    assert not report.ok and message in report.table()


def test_a_folder_without_answers_is_exit_code_2(tmp_path, capsys):
    """No folder, or none of the files, is one line on stderr."""
    for folder in (tmp_path / "missing", tmp_path):
        assert main(["check-vectors", str(folder)]) == 2
        err = capsys.readouterr().err
        assert "RESULTS_DIR must" in err and err.count("\n") == 1
