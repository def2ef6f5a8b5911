"""The command line as a stranger uses it: what it prints, what it writes, and its exit codes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from oeu_ref.__main__ import main

ROOT = pathlib.Path(__file__).parent.parent
RIGHT, WRONG = (
    """
import numpy as np

def kl_to_uniform(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.log(p.shape[1]) + (p * np.log(np.maximum(p, 1e-300))).sum(1)
""",
    """
import numpy as np

def kl_to_uniform(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -np.log(p.shape[1]) - np.log(np.maximum(p, 1e-300)).mean(1)
""",
)


def run(*arguments, cwd=ROOT):
    """Exit code, stdout and stderr of a command in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    return process.returncode, process.stdout, process.stderr


@pytest.fixture
def right(tmp_path):
    """A file with a right implementation of one function."""
    path = tmp_path / "my_right.py"
    path.write_text(RIGHT)
    return path


@pytest.fixture
def wrong(tmp_path):
    """A file with the KL divergence the wrong way round."""
    path = tmp_path / "my_wrong.py"
    path.write_text(WRONG)
    return path


@pytest.mark.parametrize("command", ["", "demo", "variants", "check", "template", "vectors", "check-vectors"])
def test_every_command_explains_itself(command, capsys):
    """--help exits with 0 and says what the command does."""
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    assert exit_info.value.code == 0
    assert len(capsys.readouterr().out) > 150


def test_help_and_import_do_not_wait_for_torch():
    """Neither `import oeu_ref` nor --help imports PyTorch or NumPy."""
    code, out, _ = run(
        "-c",
        "import sys, oeu_ref, oeu_ref.__main__ as m\n"
        "try: m.main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'hypothesis') if name in sys.modules])",
    )
    assert code == 0 and out.splitlines()[-1] == "[]"


def test_check_of_a_right_file_exits_with_0(right, capsys):
    """All laws about the one function hold, the others are skipped by the function's name."""
    assert main(["check", str(right), "--cases", "10"]) == 0
    out = capsys.readouterr().out
    assert "holds all laws that apply" in out and "has no project" in out and "0 fail" in out


def test_check_of_a_wrong_file_exits_with_1_and_explains(wrong, capsys):
    """Each failing law comes with what happened, the smallest case and the usual cause."""
    assert main(["check", str(wrong), "--cases", "10"]) == 1
    out = capsys.readouterr().out
    for expected in ("BREAKS LAWS", "FAILS  kl to uniform is log k minus entropy", "smallest case:", "direction"):
        assert expected in out


def test_check_writes_json(right, wrong, tmp_path, capsys):
    """--json holds, for each implementation, every law with its status."""
    path = tmp_path / "new folder" / "report.json"
    assert main(["check", str(right), str(wrong), "--cases", "5", "--json", str(path)]) == 1
    reports = json.loads(path.read_text())
    assert [report["ok"] for report in reports] == [True, False]
    failing = [r for r in reports[1]["results"] if r["status"] == "fails"]
    assert failing and all(r["example"] and r["message"] and r["hint"] for r in failing)


def test_check_finds_modules_of_the_current_folder(right):
    """`check my_right` works from the folder of my_right.py, as a module name."""
    code, out, err = run("-m", "oeu_ref", "check", "my_right", "--cases", "5", cwd=right.parent)
    assert code == 0, err
    assert "my_right holds all laws that apply" in out


def test_check_judges_a_class_with_the_steps_signature(capsys):
    """A PyTorch class is compared with the reference's whole step; one that forgets beta is found out."""
    assert main(["check", "oeu_ref.core:OEU", "--cases", "10"]) == 0
    assert "whole steps end at the references weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here", "cannot be imported (ModuleNotFoundError"),
        ("no_such_file.py", "is no file; expected is a Python file"),
        ("oeu_ref.reference:nothing", "has no attribute 'nothing'"),
        ("json", "must define at least one of entropy_loss"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_exit_code_2(name, message, capsys):
    """A name that leads nowhere is explained in one line on stderr."""
    assert main(["check", name]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("oeu_ref check: ")


def test_a_file_that_raises_on_import_is_explained(tmp_path, capsys):
    """The error of a stranger's file is named, in one line, without a traceback."""
    (tmp_path / "broken.py").write_text("import no_such_package_here")
    assert main(["check", str(tmp_path / "broken.py")]) == 2
    assert "No module named 'no_such_package_here'" in capsys.readouterr().err


@pytest.mark.parametrize("constant", ["DTYPE = 'float16'", "QUANTIZER_MASK = 'none'"])
def test_an_unknown_declaration_is_explained(right, constant, capsys):
    """DTYPE and QUANTIZER_MASK have known values."""
    right.write_text(constant + RIGHT)
    assert main(["check", str(right)]) == 2
    assert "must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "is NoneType"),
        ("logits.mean()", "must have shape (5,), got ()"),
        ("logits[:, 0].astype(int)", "is an array of dtype int64"),
        ("logits[:, 0].astype('float32')", "must have dtype float64 as DTYPE declares, got float32"),
        ("logits[:, :1]", "must have shape (5,), got (5, 1)"),
        ("logits[:, 0] * np.nan", "holds nan"),
        ("list(logits[:, 0])", "is a list of 5"),
    ],
)
def test_a_wrong_return_type_says_what_was_expected(tmp_path, returned, message, capsys):
    """A result of another type, shape, precision, or with NaN fails its laws with the signature or the shape."""
    path = tmp_path / "typed.py"
    path.write_text(f"import numpy as np\ndef kl_to_uniform(logits):\n    return {returned}\n")
    assert main(["check", str(path), "--cases", "1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert message in out and "kl_to_uniform" in out


def test_the_template_is_a_file_to_fill_in(tmp_path, capsys):
    """The template imports, has every function of the contract, and skips all laws until something is filled in."""
    from oeu_ref.conformance import SIGNATURES

    assert main(["template"]) == 0
    path = tmp_path / "my_oeu.py"
    path.write_text(capsys.readouterr().out)
    for signature in SIGNATURES.values():
        assert signature.split(" ->")[0] in path.read_text()
    assert main(["check", str(path), "--cases", "1"]) == 1
    out = capsys.readouterr().out
    assert "has nothing to check" in out and "0 fail" in out and "NotImplementedError" in out


def test_unwritable_json_is_exit_code_2(right, tmp_path, capsys):
    """A report that cannot be written is an error in one line."""
    (tmp_path / "file").write_text("")
    assert main(["check", str(right), "--cases", "1", "--json", str(tmp_path / "file" / "report.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_cases_are_refused(right, capsys):
    """--cases 0 would prove nothing."""
    assert main(["check", str(right), "--cases", "0"]) == 2
    assert "--cases must be at least 1" in capsys.readouterr().err


def test_pytest_runs_the_laws_against_any_implementation(right, wrong):
    """`pytest -k theorems --impl A --impl B` judges A and B instead of ours, and names the law that B breaks."""
    code, out, _ = run("-m", "pytest", "-k", "theorems and kl", f"--impl={right}", f"--impl={wrong}")
    assert code == 1
    assert "my_wrong.py-4.1 kl to uniform is log k minus entropy" in out
    assert "usual cause" in out
    assert "oeu_ref.reference" not in out and "my_right.py-4.1" not in out  # ours are not run, and right ones pass


def test_pytest_explains_an_implementation_that_cannot_be_loaded():
    """A wrong name for --impl is a usage error (exit code 4) that says what was expected."""
    code, out, err = run("-m", "pytest", "-k", "theorems", "--impl", "no_such_module_here")
    assert code == 4
    assert "cannot be imported" in out + err


def test_an_implementation_that_changes_its_inputs_is_caught(tmp_path, capsys):
    """In-place work on an input breaks the law about it, and no other law is confused by it."""
    path = tmp_path / "greedy.py"
    path.write_text(
        RIGHT.replace("    p =", "    logits += 1.0\n    p =", 1)
    )  # KL does not notice: softmax is shift invariant
    assert main(["check", str(path), "--cases", "10"]) == 1
    out = capsys.readouterr().out
    assert "kl_to_uniform changed its input array 0 in place" in out


def test_demo_seeds_must_be_numbers(capsys):
    """--seeds with something else is one line and exit code 2."""
    assert main(["demo", "--seeds", "1,x"]) == 2
    assert "--seeds must be whole numbers" in capsys.readouterr().err
