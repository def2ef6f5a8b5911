"""The house rules that a reader relies on: who imports whom, twin files, docstrings."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import oeu_ref

PACKAGE = pathlib.Path(oeu_ref.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    "reference": ("torch", "core", "conformance", "experiments", "files"),
    "core": ("conformance", "experiments"),
    "conformance": ("core", "experiments"),
}


def imported(path):
    """Dotted names that a file imports, relative ones from the package's root."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [".".join(filter(None, [node.module, alias.name])) for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    """reference imports NumPy alone; nothing in core, conformance or reference imports what builds on it."""
    folder = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        for forbidden in FORBIDDEN.get(folder, ()):
            # the whole-step laws import torch inside their functions: they are about PyTorch models
            assert forbidden not in name.split("."), f"{path.name} imports {name}"


def test_the_reference_works_without_torch():
    """`import oeu_ref.reference.network` loads no third-party package but NumPy, in a fresh process."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import oeu_ref.reference.network, oeu_ref.reference.metrics\n"
        "tops = {name.split('.')[0] for name in sys.modules} & {'scipy', 'sklearn', 'hypothesis', 'tqdm'}\n"
        "print(sorted(tops))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", ["entropy", "quantizer", "projection", "subspace", "curvature"])
def test_twin_files_have_the_same_functions_in_the_same_order(name):
    """Functions that both twins define stand in the same order with the same argument names; the core lacks none of
    the reference's but those about stored bytes and plain vectors."""
    twins = {}
    for side in ("reference", "core"):
        tree = ast.parse((PACKAGE / side / f"{name}.py").read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
        twins[side] = {f.name: [a.arg for a in f.args.args] for f in functions}
    only_numpy = {"pack_codes", "unpack_codes", "integer_range", "step_gradient_scale"}  # the last two are shared
    only_numpy |= {"project_vector", "unit", "norm", "checked_probabilities"}
    only_numpy |= {"difference_hessian_vector_product"}  # the core differentiates twice
    assert set(twins["reference"]) - set(twins["core"]) <= only_numpy
    common = [f for f in twins["reference"] if f in twins["core"]]
    assert common == [f for f in twins["core"] if f in twins["reference"]]
    for function in common:
        mine, theirs = twins["reference"][function], twins["core"][function]
        assert theirs[: len(mine)] == mine, function  # the core may offer more options at the end


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path):
    """Modules, their public functions, classes and methods say what they are; overriding methods inherit it."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert module.__doc__
    for member, value in vars(module).items():
        if member.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        assert inspect.getdoc(value), f"{member} in {name}"
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(function) and not method.startswith("_") and method != "forward":
                assert inspect.getdoc(getattr(value, method)), f"{member}.{method} in {name}"


def test_every_law_is_one_sentence_with_a_hint():
    """Each law has a docstring that states it, a theorem or source, and a hint at the usual cause of a failure."""
    from oeu_ref.conformance import LAWS

    assert len(LAWS) > 60 and len({law.name for law in LAWS}) == len(LAWS)
    for law in LAWS:
        assert law.statement.endswith(".") and law.hint and law.theorem and law.needs, law.name
        assert list(inspect.signature(law.check).parameters)[0] == "implementation"
    assert {"4.1", "4.2", "4.3", "4.4"} <= {law.theorem for law in LAWS}
