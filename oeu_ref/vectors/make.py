"""Test vectors: the contract's cases as JSON for programs in any language.

A file for each operation. Numbers are decimal text that round-trips float64 (JSON itself promises no precision); arrays
are {"shape": [...], "data": [...]} in row-major order. The answers are files of the same names: see format.md.
"""

import functools
import json
import math
import os
import pathlib
import re
from decimal import Decimal

from .. import boundary
from ..contract import SIGNATURES
from ..files import write_text
from . import cases, exact

SCHEMA = "oeu_ref test vectors, version 2"
SOURCE = "arXiv 2602.00567 (OEU); quantizer: Esser et al., ICLR 2020 (LSQ)"
TOLERANCE = (
    "largest absolute error of any element in float64 arithmetic, from the size and conditioning of the case; answers "
    "that say dtype float32 are allowed 2^29 times as much, and cases whose inputs float32 cannot hold are skipped"
)
# what goes with the files: how to answer, and a JSON Schema of vectors and answers
BESIDE = {"README.md": "format.md", "schema.json": "schema.json"}


def flags(operation):
    """{name: flags} of an operation's test vectors."""
    return {name: cases.flags(name) for name, *_ in cases.of(operation)}


def operations():
    """Names of the operations that have test vectors, in the order of the contract."""
    names = [name for name in SIGNATURES if name != "fake_quantize_backward"]
    names[3:3] = [f"fake_quantize_backward_{mask}" for mask in boundary.MASKS]
    return names


def build(operation):
    """All test vectors of an operation, as the content of its file: a dict of plain values."""
    signature = SIGNATURES[operation.removesuffix("_clip").removesuffix("_round")]
    made = []
    for name, comment, inputs, (expected, tolerance) in _cases(operation):
        if operation == "fake_quantize":
            inputs = {key: value for key, value in inputs.items() if not key.startswith("grad")}
        parts = {"inputs": _text(inputs), "expected": _text(expected), "tolerance": _text(tolerance)}
        made.append({"name": name, "comment": comment, "flags": cases.flags(name), **parts})
    header = {"schema": SCHEMA, "operation": operation, "signature": signature, "source": SOURCE}
    return {**header, "tolerance": TOLERANCE, "cases": made}


@functools.cache
def by_name(operation):
    """{name: test vector} of an operation, as `build` gives them; not to be changed."""
    return {case["name"]: case for case in build(operation)["cases"]}


def write_vectors(out_dir):
    """Write the test vectors of all operations, a README and a schema to a folder that is made if it is missing.

    Returns the paths written.  Raises TypeError for what is no path, ValueError for a folder that cannot be written to.
    """
    out_dir = pathlib.Path(boundary.instance("out_dir", out_dir, (str, os.PathLike), "path"))
    here = pathlib.Path(__file__)
    contents = {name: here.with_name(source).read_text(encoding="utf-8") for name, source in BESIDE.items()}
    contents |= {f"{name}.json": _lines(build(name)) for name in operations()}
    try:
        return [write_text(out_dir / name, text) for name, text in contents.items()]
    except OSError as error:
        reason = error.strerror
        raise ValueError(f"out_dir must be a directory that can be written to, got {out_dir}: {reason}") from None


def _lines(content):
    """JSON text, indented, with the elements of an array on one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda match: " ".join(match.group().split()), text) + "\n"


def _cases(operation):
    """(name, comment, inputs, (expected outputs, tolerances)) of each case: outputs as floats and arrays of floats."""
    if operation in ("entropy_loss", "kl_to_uniform"):
        expected = _expected_of_logits
    else:
        expected = _expected_of_quantizer if "quantize" in operation else _expected_of_gradients
    return ((name, comment, inputs, expected(operation, inputs)) for name, comment, inputs in cases.of(operation))


def _expected_of_logits(operation, inputs):
    logits = inputs["logits"]
    n, k = logits["shape"]
    rows = [_decimals(logits["data"][i * k : (i + 1) * k]) for i in range(n)]
    # rounding of logits of this size moves log p by that much, and entropy by log K + 1 times it
    moved = (8 + math.sqrt(k)) * cases.EPS * (1 + max(map(abs, logits["data"])))
    if operation == "kl_to_uniform":
        return {"kl": cases.array((n,), exact.kl_to_uniform(rows))}, {"kl": moved * (3 + math.log(k))}
    loss, grad = exact.entropy_loss(rows)
    tolerances = {"loss": moved * (3 + math.log(k)), "grad": moved * (3 + math.log(k)) / n}
    return {"loss": float(loss), "grad": cases.array((n, k), grad)}, tolerances


def _expected_of_quantizer(operation, inputs):
    x, step, shape = inputs["x"]["data"], inputs["step"], inputs["x"]["shape"]
    arguments = _decimals(x), Decimal(step), inputs["q_min"], inputs["q_max"]
    if operation == "fake_quantize":
        x_hat = exact.fake_quantize(*arguments)
        tolerance = 4 * cases.EPS * (max(float(abs(v)) for v in x_hat) + step)
        return {"x_hat": cases.array(shape, x_hat)}, {"x_hat": tolerance}
    grad_out, grad_scale = inputs["grad_out"]["data"], inputs["grad_scale"]
    mask = operation.rpartition("_")[2]
    grad_x, grad_step = exact.fake_quantize_backward(_decimals(grad_out), *arguments, Decimal(grad_scale), mask)
    largest = max(abs(inputs["q_min"]), inputs["q_max"]) + max(abs(v) for v in x) / step
    roundings = (8 + math.sqrt(len(x))) * cases.EPS
    return (
        {"grad_x": cases.array(shape, grad_x), "grad_step": float(grad_step)},
        {
            "grad_x": 2 * cases.EPS * max(map(abs, grad_out)),
            "grad_step": roundings * grad_scale * math.fsum(map(abs, grad_out)) * largest,
        },
    )


def _expected_of_gradients(operation, inputs):
    forget, retain = ([_decimals(g["data"]) for g in inputs[key]] for key in ("forget_grads", "retain_grads"))
    options = Decimal(inputs["alpha"]), inputs["granularity"], inputs["rescale"]
    g_perp = exact.project(forget, retain, *options)
    plain = exact.project(forget, retain, options[0], options[1], "undo")
    beta, result = inputs.get("beta"), list(g_perp)
    if operation == "oeu_direction":
        result = exact.oeu_direction(forget, retain, options[0], Decimal(beta), *options[1:])
    tolerances = []
    for i, layer in enumerate(zip(forget, retain, g_perp, plain)):
        if options[1] == "global":
            layer = [[v for g in grads for v in g] for grads in (forget, retain, g_perp, plain)]
        size_f, size_r, size_p, size_plain = (float(exact.norm(g)) for g in layer)
        stretch = size_p / size_plain if size_plain else 1.0  # match stretches rounding errors too
        scale = size_f * stretch if beta is None else size_r + beta * size_f * stretch
        allowed = (16 + math.sqrt(len(layer[0]))) * cases.EPS * scale
        # zero, or what is really left of collinear gradients
        tolerances.append(allowed if size_plain else max(allowed, cases.COLLINEAR * size_f))
        result[i] = cases.array(inputs["forget_grads"][i]["shape"], result[i])
    return {"result": result}, {"result": tolerances}


def _decimals(values):
    return [Decimal(v) for v in values]


def _text(value):
    """Floats as decimal text, in nested dicts and lists; integers and words as they are."""
    if isinstance(value, dict):
        return {key: _text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item) for item in value]
    return repr(value) if isinstance(value, float) else value
