"""The power of the laws, measured: every wrong implementation is caught, no right one is accused.

Each mutant is `mutants/right.py` with one edit. The summary of a run names the law that caught each, most deadly first;
OEU_POWER_TABLE=FILE writes the whole table, mutant by mutant, as Markdown.
"""

import os
import pathlib
import types

import pytest

from oeu_ref.conformance import LAWS, Implementation, check, load, try_law
from oeu_ref.contract import OPTIONAL
from oeu_ref.files import write_text

from .mutants.edits import MUTANTS, build

HERE = pathlib.Path(__file__).parent / "mutants"
RIGHT = [HERE / "right.py", *sorted((HERE / "alternatives").glob("*.py"))]


@pytest.fixture(scope="module")
def killers(pytestconfig):
    """Collects (mutant, what, law, theorem) for the summary at the end of the run."""
    rows = pytestconfig.caught_mutants
    yield rows
    if "OEU_POWER_TABLE" in os.environ:
        lines = ["| mutant | mistake | caught by | theorem |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        write_text(os.environ["OEU_POWER_TABLE"], "\n".join(lines) + "\n")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_wrong_implementation_is_caught(mutant, killers, pytestconfig):
    """At least one law fails for an implementation with one mistake."""
    report = check(Implementation(build(mutant), mutant.name), pytestconfig.cases, stop_at_first=True)
    assert report.failed, f"no law notices: {mutant.what}"
    killers.append((mutant.name, mutant.what, report.failed[0].law, report.failed[0].theorem))


# one of them here; the others, whose kinds of code cost more time, with -m reliability
FIRST = ("right",)
PATHS = [pytest.param(p, marks=() if p.stem in FIRST else pytest.mark.reliability, id=p.stem) for p in RIGHT]


@pytest.mark.parametrize("path", PATHS)
def test_no_right_implementation_is_accused(path, pytestconfig):
    """No law fails for implementations that are right, however they are written."""
    report = check(load(str(path)), pytestconfig.cases)
    assert report.ok, report.table()


def test_missing_functions_are_skipped_by_name():
    """A partial implementation is judged by what it has; the reasons for all skipped laws name what it lacks."""
    results = check(load(str(HERE / "alternatives" / "partial.py")), cases=1).results
    skipped = [r for r in results if r.status == "skipped"]
    assert {"entropy_loss", "kl_to_uniform"}.isdisjoint(r.message.split(" has no ")[-1] for r in skipped)
    assert all(" has no " in r.message for r in skipped if "QUANTIZER_MASK" not in r.message)
    assert len(skipped) > 40 and sum(r.status == "holds" for r in results) > 15


def test_the_mask_convention_is_told_apart():
    """An implementation that claims the other mask convention than it has fails in both directions."""
    for path, claimed in (("right.py", "round"), ("alternatives/round_mask.py", "clip")):
        target = load(str(HERE / path)).target
        liar = types.SimpleNamespace(QUANTIZER_MASK=claimed, fake_quantize_backward=target.fake_quantize_backward)
        assert not check(Implementation(liar, "liar"), cases=5).ok


@pytest.mark.parametrize("operation", OPTIONAL)
def test_every_optional_operation_has_a_law_that_sees(operation):
    """Each optional operation is right in `right.py`, has a wrong implementation that is caught, and may be absent."""
    target = load(str(HERE / "right.py")).target
    (found,) = [law for law in LAWS if law.needs == (operation,)]
    alone = Implementation(types.SimpleNamespace(**{operation: getattr(target, operation)}), operation)
    assert try_law(found, alone, 50).status == "holds"
    wrong = [mutant for mutant in MUTANTS if mutant.operations == (operation,)]
    assert wrong and all(try_law(found, Implementation(build(mutant)), 5).status == "fails" for mutant in wrong)
    report = check(load(str(HERE / "alternatives" / "partial.py")), cases=1)
    assert operation in report.table().partition("optional, not there: ")[2]


def test_there_are_enough_mutants_each_one_edit_away():
    """At least 200 mutants, names and edits all different, each edit at exactly one place."""
    assert len(MUTANTS) >= 200
    assert len({m.name for m in MUTANTS}) == len({(m.old, m.new) for m in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        build(mutant)
