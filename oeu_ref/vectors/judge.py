"""What a program in another language answered to the test vectors, judged case by case."""

import json
import math
import numbers
import os
import pathlib
from dataclasses import asdict, dataclass

import numpy as np

from .. import boundary
from . import mistakes
from .cases import COLLINEAR, EPS
from .make import by_name, operations

MISTAKE = "this is what comes of a known mistake: "
DTYPES = {"float64": 1.0, "float32": 2.0**29}  # how much wider the tolerances are


@dataclass(frozen=True)
class VectorResult:
    """What became of one operation's answers. status: "holds", "fails" or "skipped"; cases: how many were compared;
    message: the first failure, or why it was skipped; failures: all of them, case name -> message."""

    operation: str
    status: str
    cases: int
    message: str = ""
    failures: dict | None = None


@dataclass(frozen=True)
class VectorReport:
    """What became of a folder of answers."""

    folder: str
    results: list

    @property
    def ok(self):
        """Whether nothing fails and at least one operation holds."""
        return {r.status for r in self.results} - {"skipped"} == {"holds"}

    def as_dict(self):
        """The report as plain dicts and lists, for JSON."""
        return {**asdict(self), "ok": self.ok}

    def table(self):
        """The report as text for a terminal: a line for each operation, and each failing case below."""
        lines = [f"answers in {self.folder}", "", f"{'operation':<30}  cases  result"]
        for r in self.results:
            why = f": {r.message}" * (r.status == "skipped")
            lines.append(f"{r.operation:<30} {r.cases:>6}  {r.status}{why}")
        for r in self.results:
            lines += [f"FAILS  {r.operation}, {name}: {message}" for name, message in (r.failures or {}).items()]
        verdict = "holds all that it answers" if self.ok else "FAILS, or answers nothing"
        return "\n".join([*lines, "", f"{self.folder} {verdict}"])


def check_results(results_dir):
    """Compare answers with the test vectors.

    results_dir: folder with <operation>.json for at least one operation.  Returns a `VectorReport`.
    Raises TypeError for what is no path, ValueError for a folder that is missing or holds no answers.
    """
    results_dir = pathlib.Path(boundary.instance("RESULTS_DIR", results_dir, (str, os.PathLike), "path"))
    if not results_dir.is_dir():
        raise ValueError(f"RESULTS_DIR must be a folder with answers such as project.json, got {str(results_dir)!r}")
    present = {name: results_dir / f"{name}.json" for name in operations()}
    if not any(path.is_file() for path in present.values()):
        names = ", ".join(path.name for path in present.values())
        raise ValueError(f"RESULTS_DIR must hold at least one of {names}, {results_dir} holds none")
    return VectorReport(str(results_dir), [_check_operation(name, path) for name, path in present.items()])


def _check_operation(operation, path):
    if not path.is_file():
        return VectorResult(operation, "skipped", 0, f"{path.name} is missing")
    try:
        dtype, results = _read_answers(operation, path)
    except ValueError as error:
        return VectorResult(operation, "fails", 0, str(error), {path.name: f"cannot be read: {error}"})
    failures, compared = {}, 0
    for case in by_name(operation).values():
        if dtype == "float32" and not fits_float32(case["inputs"]):
            continue
        compared += 1
        try:
            check_case(operation, case, results.get(case["name"]), DTYPES[dtype])
        except ValueError as error:
            failures[case["name"]] = f"{error} (probes: {case['comment']})"
    first = next(iter(failures.values()), "")
    return VectorResult(operation, "fails" if failures else "holds", compared, first, failures or None)


def _read_answers(operation, path):
    """(dtype, {case name: outputs}).  Raises ValueError for a file that is no answer to this operation."""
    try:
        answers = json.loads(path.read_bytes())  # bytes: in UTF-8 or UTF-16, with or without a mark
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} must be a JSON file: {error}") from None
    wanted = f'expected is {{"operation": "{operation}", "results": {{case name: outputs}}}}'
    if not isinstance(answers, dict):
        raise ValueError(f"{wanted}, got a {type(answers).__name__}")
    if (found := answers.get("operation", operation)) != operation:
        raise ValueError(f"{wanted}, got the operation {found!r}")
    if "results" not in answers:
        raise ValueError(f"{wanted}, got no 'results'")
    if not isinstance(answers["results"], dict):
        raise ValueError(f"{wanted}, got the results {answers['results']!r}")
    return boundary.one_of("dtype", answers.get("dtype", "float64"), tuple(DTYPES)), answers["results"]


def check_case(operation, case, answer, widening=1.0):
    """Compare an answer, {output: number, array or list of them}, in plain values or NumPy's, with a test vector.

    widening: how much wider the tolerances are.  Raises ValueError that says what was expected, and which known mistake
    gives this answer.
    """
    if not isinstance(answer, dict):
        raise ValueError(f"no answer: expected are the outputs {', '.join(case['expected'])}")
    wrong, found = "", {}
    for output, wanted in case["expected"].items():
        if output not in answer:
            raise ValueError(f"output {output!r} is missing")
        many, allowed = isinstance(wanted, list), case["tolerance"][output]
        if many and (not isinstance(answer[output], list) or len(answer[output]) != len(wanted)):
            raise ValueError(f"{output} must be a list of {len(wanted)} arrays")
        found[output] = []
        triples = zip(*(value if many else [value] for value in (answer[output], wanted, allowed)))
        for i, (one, right, bound) in enumerate(triples):
            label, bound = f"{output}[{i}]" * many or output, float(bound) * widening
            one, right = _array(label, one), _array(label, right)
            if one.shape != right.shape:
                raise ValueError(f"{label} must have shape {list(right.shape)}, got {list(one.shape)}")
            found[output].append(one)
            error = np.abs(one - right)
            if not wrong and not (error <= bound).all():
                at = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
                where = f"{label} is {one.flat[at]:.17g} at element {at}, expected {right.flat[at]:.17g}"
                wrong = f"{where}: off by {error.flat[at]:.3g}, allowed {bound:.2g}"
    if wrong:
        expected = {name: [_array("", a) for a in _listed(value)] for name, value in case["expected"].items()}
        mistake = mistakes.recognise(operation, parsed(case["inputs"]), found, expected, 1e-13 * widening)
        raise ValueError(f"{wrong}; {MISTAKE}{mistake}" if mistake else wrong)
    if operation == "project" and float(case["inputs"]["alpha"]) == 1:
        _check_orthogonality(case["inputs"], answer["result"], widening)


def _listed(value):
    return value if isinstance(value, list) else [value]


def parsed(value):
    """Inputs of a test vector, nested as they are, as NumPy has them: floats, integers, words, arrays, lists."""
    if isinstance(value, list):
        return [parsed(item) for item in value]
    if isinstance(value, dict) and "data" not in value:
        return {name: parsed(item) for name, item in value.items()}
    try:
        return _array("", value) if isinstance(value, dict) else value if isinstance(value, int) else float(value)
    except ValueError:
        return value  # a word


def _check_orthogonality(inputs, answer, widening):
    """With alpha = 1 orthogonality holds relative to the result's own length: closer than the tolerance by element."""
    lists = [
        [_array("", g).ravel() for g in grads] for grads in (answer, inputs["retain_grads"], inputs["forget_grads"])
    ]
    if inputs["granularity"] == "global":
        lists = [[np.concatenate(grads)] for grads in lists]
    for g_perp, g_r, g_f in zip(*lists):
        if np.linalg.norm(g_perp) <= COLLINEAR * widening * np.linalg.norm(g_f):
            continue  # collinear: what is left is rounding
        cosine = abs(math.fsum(g_perp * g_r)) / ((np.linalg.norm(g_perp) * np.linalg.norm(g_r)) or 1.0)
        allowed = (16 + math.sqrt(g_perp.size)) * EPS * widening
        if cosine > allowed:
            raise ValueError(
                f"cosine {cosine:.2g} with the retain gradient, rounding allows {allowed:.2g}: project twice"
            )


def fits_float32(value):
    """Whether all numbers in inputs of a test vector, nested as they are, are float32 numbers."""
    if isinstance(value, dict):
        return all(fits_float32(item) for key, item in value.items() if key != "shape")
    if isinstance(value, list):
        return all(fits_float32(item) for item in value)
    try:
        number = float(value)
    except ValueError:
        return True  # a word
    return float(np.float32(number)) == number


def _array(label, value):
    """An array of an answer: a number, numeric text, or {"shape", "data"}.  Raises ValueError for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict):
        if not isinstance(value.get("shape"), list) or not isinstance(value.get("data"), list):
            raise ValueError(f'{label} must be {{"shape": [...], "data": [...]}}')
        values = np.array([_number(label, v) for v in value["data"]])
        if any(not isinstance(n, int) or n < 0 for n in value["shape"]) or math.prod(value["shape"]) != values.size:
            raise ValueError(f"{label} has {values.size} elements, which do not fill its shape {value['shape']}")
        return values.reshape(value["shape"])
    return np.array(_number(label, value))


def _number(label, value):
    if value is None:
        raise ValueError(f"{label} holds null, which is what JSON writers make of NaN and infinity")
    try:
        if isinstance(value, bool) or not isinstance(value, (str, numbers.Real)):
            raise ValueError
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    except ValueError:
        raise ValueError(f"{label} must hold numbers or decimal text, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{label} must be finite, got {value!r}")
    return number
