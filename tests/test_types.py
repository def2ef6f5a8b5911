"""Types of what `oeu_ref` exports: `oeu_ref/__init__.pyi` says what the code does, and a type checker sees mistakes."""

import ast
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import oeu_ref

STUB = pathlib.Path(oeu_ref.__file__).with_suffix(".pyi")
TREE = {
    node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
}


def functions(name):
    """(the stub's, the code's) functions of a name: itself, or the methods that the stub's class has."""
    node, value = TREE[name], getattr(oeu_ref, name)
    if isinstance(node, ast.FunctionDef):
        yield node, value
        return
    for method in node.body:
        if isinstance(method, ast.FunctionDef):
            found = inspect.getattr_static(value, method.name)
            yield method, found.fget if isinstance(found, property) else found


@pytest.mark.parametrize("name", oeu_ref.PUBLIC)
def test_the_stub_has_every_public_name_with_the_codes_arguments_and_defaults(name):
    for node, function in functions(name):
        arguments = inspect.signature(function).parameters
        assert [argument.arg for argument in node.args.args] == list(arguments), node.name
        defaults = [p.default for p in arguments.values() if p.default is not p.empty]
        assert len(node.args.defaults) == len(defaults), node.name
        for shown, default in zip(node.args.defaults, defaults):
            assert ast.literal_eval(shown) in (default, ...), node.name


@pytest.mark.parametrize("name", [name for name, node in TREE.items() if name in oeu_ref.PUBLIC and "Stop" not in name])
def test_fields_of_the_stub_are_fields_of_the_code(name):
    """Of dataclasses: all of them, in their order."""
    fields = getattr(getattr(oeu_ref, name), "__dataclass_fields__", None)
    if fields is not None:
        assert [n.target.id for n in TREE[name].body if isinstance(n, ast.AnnAssign)] == list(fields)


PROGRAM = """
import torch
from oeu_ref import OEU, EntropyStop, GuardedStop, evaluate, quantize_model, suggest, unlearn
from oeu_ref.data.samples import Samples
from torch.utils.data import DataLoader, TensorDataset

model = quantize_model(torch.nn.Linear(3, 4))
x, y = torch.randn(8, 3), torch.arange(8) % 4
loader = DataLoader(TensorDataset(x, y), batch_size=4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
unlearner = OEU(model, optimizer, beta=0.3)
run = unlearn(unlearner, forget=loader, retain=(x, y), unseen=loader, max_steps=3, schedule=scheduler)
rule = GuardedStop(model, Samples(x, y), Samples(x, y), Samples(x, y))
unlearn(OEU(model, optimizer), loader, loader, 3, stop=rule, checkpoint="run.pt")
unlearn(OEU(model, optimizer), loader, loader, 3, stop=EntropyStop(model, x, x).reached)
found = evaluate(model, forget=loader, retain=(x, y), test=loader, before=run.before)
print(found.AG or 0.0, run.reached, run.plot(), suggest(model, loader, loader, loader).beta)
"""
MISTAKES = {
    'unlearn(OEU(model, optimizer), loader, loader, "many")': "arg-type",
    'OEU(model, optimizer, granularity="tensor")': "arg-type",
    "unlearn(model, loader, loader, 3)": "arg-type",
    "evaluate(model, loader, loader)": "call-arg",
    "found.AG + 1": "operator",
    "run.verdikt": "attr-defined",
}


@pytest.mark.reliability
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: pip install '.[types]'")
def test_a_type_checker_sees_what_is_wrong_in_a_users_script_and_nothing_else(tmp_path):
    """mypy, strictly: no complaint of a right program, one of each mistake."""
    (tmp_path / "program.py").write_text(PROGRAM + "".join(f"{line}\n" for line in MISTAKES))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path),
        "program.py",
    ]
    environment = {**os.environ, "MYPYPATH": str(STUB.parent.parent)}
    command += ["--follow-imports", "silent", "--ignore-missing-imports"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout.splitlines()
    first = PROGRAM.count("\n") + 1
    codes = {int(line.split(":")[1]): line.rpartition("[")[2].rstrip("]") for line in said if ": error:" in line}
    assert codes == {first + i: code for i, code in enumerate(MISTAKES.values())}, said
