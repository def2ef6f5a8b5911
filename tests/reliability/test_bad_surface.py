"""Bad input of every kind to the whole public surface: the right error, in words, and nothing changed."""

import pytest

from . import bad_inputs
from .bad_inputs import GENERATED, ROWS, Row, World, judge
from .bad_inputs.row import Refusal


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One for all rows: none may change it."""
    return World(tmp_path_factory.mktemp("bad-inputs"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_is_answered_in_words_and_changes_nothing(world, row):
    """The exact type; a message that names argument, value and remedy; model, optimizer, arrays, files as before."""
    assert judge(row, world) == ""


def test_the_table_covers_the_surface():
    """Thousands of rows, each with a name of its own, and each kind of surface with its share."""
    assert len(ROWS) + len(GENERATED) >= 3000
    assert len({row.name for row in (*ROWS, *GENERATED)}) == len(ROWS) + len(GENERATED)
    assert len(GENERATED) + len(bad_inputs.FUNCTIONS) >= 2000
    shares = [getattr(bad_inputs, name) for name in ("METHODS", "NETWORKS", "FILES", "STUDIES", "COMMANDS")]
    assert sum(map(len, shares)) + len(bad_inputs.FUNCTIONS) == len(ROWS)
    assert min(map(len, shares)) >= 50
    assert {"OEU.step/forget_inputs: NaN", "table, the command/--forget-file: empty"} <= {row.name for row in ROWS}


def _raise(message, change=lambda w: None, error=ValueError):
    def call(world):
        change(world)
        if message is not None:
            raise error(message)

    return call


RIGHT = "alpha must lie in [0, 1], got 2"


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (_raise(None), "nothing was raised"),
        (_raise(RIGHT, error=TypeError), "TypeError in place of ValueError"),
        (_raise(RIGHT, error=UnicodeError), "UnicodeError in place of ValueError"),
        (_raise(RIGHT, error=SystemExit), "SystemExit in place of ValueError"),
        (_raise("must lie in [0, 1], got 2"), "the argument 'alpha' is not named"),
        (_raise("alpha must lie in [0, 1]"), "the value '2' is not named"),
        (_raise("alpha is bad, got 2"), "the remedy '[0, 1]' is not named"),
        (_raise(RIGHT, lambda w: w.forget.add_(1)), "forget changed"),
        (_raise(RIGHT, lambda w: w.arrays[0].fill(0)), "arrays changed"),
        (_raise(RIGHT, lambda w: w.model.eval()), "model changed"),
        (_raise(RIGHT, lambda w: w.model.norms[0].running_mean.add_(1)), "model changed"),
        (_raise(RIGHT, lambda w: w.optimizer.zero_grad()), "model changed"),
        (_raise(RIGHT, lambda w: w.optimizer.state.clear()), "optimizer changed"),
        (_raise(RIGHT, lambda w: w.generator.manual_seed(5)), "generator changed"),
        (_raise(RIGHT, lambda w: (w.files / "notes.txt").write_text("new")), "file notes.txt changed"),
        (_raise(RIGHT, lambda w: (w.files / "notes.txt").unlink()), "file notes.txt changed"),
        (_raise(RIGHT, lambda w: (w.files / "left.tmp").touch()), "file left.tmp changed"),
        (_raise(RIGHT, lambda w: __import__("torch").rand(1)), "global generators changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_answer_is_seen(tmp_path, call, wrong):
    """The judge itself: each way to answer badly, or to leave something behind, is named."""
    row = Row("control", "alpha", "too large", call, ValueError, "2", "[0, 1]")
    assert wrong in judge(row, World(tmp_path))


def test_a_right_answer_is_seen(world):
    assert judge(Row("control", "alpha", "too large", _raise(RIGHT), ValueError, "2", "[0, 1]"), world) == ""


def test_a_command_must_end_with_2_and_one_line(world):
    """A traceback, another exit code or more lines are no refusal."""
    with pytest.raises(AssertionError, match="exit code"):
        bad_inputs.row.command(world, "template")
    with pytest.raises(Refusal, match="COMMAND must be one of demo, .*, got 'no-such-command'"):
        bad_inputs.row.command(world, "no-such-command")
    with pytest.raises(Refusal, match="RESULTS_DIR"):
        bad_inputs.row.command(world, "check-vectors", "nowhere")


def test_run_counts(monkeypatch):
    """What the table of figures calls: passed, total, and the failures by name."""
    bad = Row("control", "alpha", "accepted", _raise(None), ValueError, "2", "[0, 1]")
    monkeypatch.setattr(bad_inputs, "ROWS", (*ROWS[:3], bad))
    monkeypatch.setattr(bad_inputs, "GENERATED", GENERATED[:2])
    assert bad_inputs.run() == (5, 6, {"control/alpha: accepted": "nothing was raised"})
