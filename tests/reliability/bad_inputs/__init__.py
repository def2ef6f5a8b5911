"""Bad input of every kind to the whole public surface: does it get the right error in words, and did nothing change?

ROWS is the table, in six files: `functions` (mathematics), `methods` (OEU, its rivals, training), `networks` (and
data), `files` (data sets, checkpoints, results), `studies` (what runs experiments), `commands` (the command line). To
add a row, add a line there. GENERATED are the rows that `tests/test_bad_input.py` makes of the rules of functions.
"""

import tempfile

from ...test_bad_input import ROWS as GENERATED
from ...test_bad_input import judge_generated
from .commands import COMMANDS
from .files import FILES
from .functions import FUNCTIONS
from .methods import METHODS
from .networks import NETWORKS
from .row import Row, judge
from .studies import STUDIES
from .world import World

__all__ = ["GENERATED", "ROWS", "Row", "World", "judge", "run"]

ROWS = (*FUNCTIONS, *METHODS, *NETWORKS, *FILES, *STUDIES, *COMMANDS)


def run():
    """Try every row.  Returns (how many passed, how many there are, {name: what is wrong, of those that failed})."""
    with tempfile.TemporaryDirectory(prefix="oeu_ref-bad-inputs-") as folder:
        world = World(folder)
        found = {row.name: judge(row, world) for row in ROWS}
    found.update({row.name: judge_generated(row) for row in GENERATED})
    failures = {name: wrong for name, wrong in found.items() if wrong}
    return len(found) - len(failures), len(found), failures
