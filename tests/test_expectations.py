"""Known failures: a list of them makes a check pass, until one is mended."""

import subprocess
import sys

import pytest
import torch

from oeu_ref.conformance import Implementation, check, expecting, read_expected
from oeu_ref.conformance.torch import entropy

LAWS = ("entropy gradient is the derivative by hand", "entropy gradient sums to zero over classes")


@pytest.fixture(scope="module")
def report():
    """Of an entropy whose gradient is NaN for certain predictions."""
    loss = entropy(lambda z: -torch.special.entr(z.softmax(1)).sum(1).mean())
    return check(Implementation(loss, "entr"), 1)


def test_what_is_expected_to_fail_is_no_failure(report):
    """With all that fails on the list the check passes, with its reasons in the report; with part of it, it fails."""
    known = {r.law: "NaN at 0" for r in report.failed}
    assert set(LAWS) <= set(known) and report.exit_code == 3
    passed = expecting(report, known)
    assert passed.ok and passed.exit_code == 0 and passed.judged == report.judged
    assert f"expected, {len(known)} laws: NaN at 0" in passed.table()
    del known[LAWS[0]]
    assert [r.law for r in expecting(report, known).failed] == [LAWS[0]] and expecting(report, known).exit_code == 3


def test_what_is_expected_to_fail_and_holds_is_a_failure(report):
    """A list that is out of date is said to be; laws that were not judged are passed over."""
    held = next(r.law for r in report.results if r.status == "holds")
    known = {**{r.law: "NaN at 0" for r in report.failed}, held: "an old mistake", "undo never lengthens": "no project"}
    found = expecting(report, known)
    assert found.exit_code == 1 and [r.law for r in found.failed] == [held]
    assert "expected to fail (an old mistake), but it holds" in found.table()


def test_the_file_is_read_strictly(tmp_path):
    """A law and a reason in each line, comments apart; another line is named."""
    path = tmp_path / "known.txt"
    path.write_text(f"# entr\n\n{LAWS[0]} | NaN | at 0\n")
    assert read_expected(path) == {LAWS[0]: "NaN | at 0"} and read_expected(None) == {}
    for bad in (LAWS[0], f"{LAWS[0]} |", "no such law | NaN"):
        path.write_text(f"# entr\n{bad}\n")
        with pytest.raises(ValueError, match=r"line 2, must be the name of a law, a bar and a reason, got"):
            read_expected(path)


@pytest.mark.reliability
def test_the_command_line_takes_it(report, tmp_path):
    """`check --expected-failures FILE` ends with 0, and with 2 for a file that is none."""
    (tmp_path / "entr.py").write_text(
        "import torch\nfrom oeu_ref.conformance.torch import entropy\n"
        "loss = entropy(lambda z: -torch.special.entr(z.softmax(1)).sum(1).mean())\n"
    )
    path = tmp_path / "known.txt"
    command = [sys.executable, "-m", "oeu_ref", "check", f"{tmp_path / 'entr.py'}:loss", "--cases", "1"]
    command += ["--expected-failures", str(path)]
    run = lambda: subprocess.run(command, capture_output=True, text=True)
    assert (missing := run()).returncode == 2 and len(missing.stderr.splitlines()) == 1
    path.write_text("# nothing\n")
    assert run().returncode == 3
    path.write_text("".join(f"{r.law} | NaN\n" for r in report.failed))
    assert run().returncode == 0
