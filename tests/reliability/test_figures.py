"""What is promised of reliability, measured on real runs; the table of figures comes at the end of the run."""

import pytest

from . import figures
from .figures import CHECKS, markdown, row


@pytest.mark.parametrize("name", CHECKS)
def test_every_figure_is_as_it_is_wanted(name, tmp_path, record_figures):
    """No row of the table says no; one that this machine cannot measure says nothing."""
    rows = CHECKS[name](tmp_path)
    record_figures(rows)
    assert rows and not [r for r in rows if r["ok"] is False]


def test_the_table_tells_yes_no_and_unknown_apart():
    rows = [row("a", 1, 1, True), row("b", "–", 1, None), row("c", 2, 1, False)]
    assert [line.split(" | ")[-1] for line in markdown(rows).splitlines()[2:]] == ["yes |", "– |", "**no** |"]


@pytest.mark.parametrize(
    ("tries", "seconds", "asked"),
    [
        ([(0.3, 1)], 0.3, 1),
        ([(1.4, 1), (0.4, 1)], 0.4, 2),
        ([(1.4, 1), (1.2, 1), (1.3, 1)], 1.2, 3),
        ([(0.3, 2)], 0.3, 1),
        ([(1.4, 1), (0.3, 2)], 0.3, 2),
    ],
    ids=["fast", "slow once", "slow always", "two lines", "two lines at last"],
)
def test_a_slow_end_is_tried_again_and_an_untidy_one_is_not(tries, seconds, asked, tmp_path, monkeypatch):
    left = [{"seconds": s + 2, "code": 130, "lines": lines * ["interrupted"]} for s, lines in tries]
    monkeypatch.setattr(figures.kills, "bare_end", lambda: 2)
    found = figures._fastest(lambda folder: left.pop(0), tmp_path)
    assert found["seconds"] == seconds + 2 and len(tries) - len(left) == asked
