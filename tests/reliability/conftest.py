"""The table of figures at the end of the run, and the mark by which the folder is asked for."""

import pathlib

import pytest

from .figures import markdown

HERE = pathlib.Path(__file__).parent
ROWS = pytest.StashKey[list]()


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.reliability)


@pytest.fixture
def record_figures(pytestconfig):
    """Called with rows that are to stand in the table."""
    return pytestconfig.stash.setdefault(ROWS, []).extend


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash.get(ROWS, None):
        terminalreporter.write_line(markdown(rows))
