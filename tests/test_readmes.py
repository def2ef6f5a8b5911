"""What READMEs print is true: their code runs, their commands exist, their links lead somewhere."""

import copy
import importlib
import pathlib
import re

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from oeu_ref.__main__ import main
from oeu_ref.core import OEU, QuantMLP

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = sorted((ROOT / "oeu_ref").glob("*/README.md"))
READMES = [ROOT / "README.md", *ROOMS, ROOT / "tests" / "README.md", ROOT / "notebooks" / "README.md"]
DOCUMENTS = [*READMES, *sorted((ROOT / "oeu_ref").glob("*/REPLICATION*.md"))]


def blocks(path, language):
    """The code blocks of a language in a Markdown file, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def surroundings():
    """What a reader of the door has: a network, batches of digits' size, an optimizer."""
    torch.manual_seed(2)
    inputs = torch.rand(40, 8)
    # sure of its predictions, and here a little surer of samples to forget than of the others: ten steps to the stop
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    with torch.no_grad():
        network[2].weight *= 6
    model = QuantMLP((8, 16, 4))
    model(inputs)  # sets the quantizers' first steps
    sizes = {"forget": slice(8), "retain": slice(8, 24), "validation": slice(24, 40), "test": slice(24, 40)}
    sets = {n: TensorDataset(inputs[part], torch.arange(40)[part] % 4) for n, part in sizes.items()}
    return {
        **{f"{name}_set": found for name, found in sets.items()},
        **{f"{name}_loader": DataLoader(found, batch_size=8) for name, found in sets.items()},
        "forget_labels": torch.arange(8) % 4,
        "validation_labels": torch.arange(16) % 4,
        "model": model,
        "my_float_network": network,
        "forget_inputs": inputs[:8],
        "retain_inputs": inputs[8:24],
        "validation_inputs": inputs[24:],
        "retain_labels": torch.arange(16) % 4,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "beta": 0.7,
        "class_weights": torch.ones(4),
    }


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_code_of_a_readme_runs(path, capsys):
    """All Python blocks of a README run in their order, given a network, batches and an optimizer."""
    names = surroundings()
    for block in blocks(path, "python"):
        exec(compile(block, str(path), "exec"), names)
        assert "report = " not in block or names["report"].retain_loss > 0


def test_the_program_of_the_door_is_complete_and_says_whether_forgetting_worked(capsys):
    """In fifteen lines, from a float network to a verdict in words and a table with its gap to targets."""
    names = {name: value for name, value in surroundings().items() if name not in ("model", "optimizer", "beta")}
    program = blocks(READMES[0], "python")[-1]
    assert len([line for line in program.splitlines() if line and line[0] != "#"]) <= 15
    exec(program, names)
    verdict, _, table = capsys.readouterr().out.partition("\n")
    assert verdict == names["run"].verdict and verdict.startswith(("reached", "gave up", "budget spent at FA"))
    assert "proxy AG" in table and "support vector classifier" in table


def test_the_five_lines_of_the_door_are_the_step_of_oeu():
    """The door's method takes the step that `OEU` takes with tensors as layers."""
    names = surroundings()
    twin = copy.deepcopy(names["model"])
    method = blocks(READMES[0], "python")[0]
    assert len(method.rpartition("\n\n")[2].strip().split("\n")) == 5
    exec(method, names)
    OEU(twin, torch.optim.SGD(twin.parameters(), lr=0.1), beta=0.7, layer="tensor").step(
        names["forget_inputs"], names["retain_inputs"], names["retain_labels"]
    )
    for ours, theirs, before in zip(
        names["model"].parameters(), twin.parameters(), surroundings()["model"].parameters()
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        assert not torch.equal(theirs, before)


def test_the_door_is_short_and_prints_the_two_commands():
    """At most 7,000 bytes; the first sh block holds, ready to paste, one command for the demo and one for the tests."""
    assert READMES[0].stat().st_size <= 7000
    commands = [line for line in blocks(READMES[0], "sh")[0].splitlines() if line.startswith("python3 -m venv")]
    install = "python3 -m venv .venv && .venv/bin/python -m pip install -q -r requirements.txt && .venv/bin/python -m "
    assert commands == [install + "oeu_ref demo", install + "pytest"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_commands_of_a_readme_exist(path):
    """Each link to a file of the project leads to one; each `python -m oeu_ref WORD` names a command."""
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        assert (path.parent / target).resolve().exists(), target
    for command in sorted(set(re.findall(r"-m oeu_ref (\w[\w-]*)", text))):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0, command


def test_names_of_the_package_in_backticks_exist():
    """Each `oeu_ref.some.name` in a docstring, comment, README or notebook is a module of ours or lies in one."""
    files = [*READMES, *(ROOT / "oeu_ref").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    missing = {}
    for path in files:
        for name in re.findall(r"`(oeu_ref(?:\.\w+)+)", path.read_text(encoding="utf-8")):
            target, *rest = importlib.import_module("oeu_ref"), *name.split(".")[1:]
            for part in rest:
                try:
                    target = importlib.import_module(f"{target.__name__}.{part}")
                except (ImportError, AttributeError):
                    target = getattr(target, part, None)
            if target is None:
                missing[name] = path.relative_to(ROOT).as_posix()
    assert not missing


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.parent.name)
def test_the_readme_of_a_room_names_its_files(path):
    """Each public file of a room is named in the room's README, by name or as a study; none is named that is gone."""
    text = path.read_text(encoding="utf-8")
    files = {file.name for file in path.parent.glob("*.py") if file.name[0] != "_"}
    named = set(re.findall(r"`(\w+\.py)`", text))
    studies = {f"{word.replace('-', '_')}.py" for word in re.findall(r"`([a-z-]+)`", text)}
    assert files <= named | studies and named <= files
