"""Other people's implementations, as far as they are installed: `pytest -m peers`; the table of it is PEERS.md.

`expected/NAME.txt` holds the laws that each breaks, as `check --expected-failures` takes them, and the versions that
were judged. `python -m tests.peers.record` writes these files and the table anew.
"""

import importlib.metadata
import pathlib

import pytest

from oeu_ref.conformance import Implementation, check, expecting, read_expected

from .adapters import PEERS
from .record import CASES, EXPECTED, TABLE, versions

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_breaks_the_laws_that_it_is_expected_to_break(peer):
    """No more and no fewer, for these versions; skipped by name where the package is missing."""
    try:
        target = peer.target()
        installed = versions(peer)
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        pytest.skip(f"{peer.name}: {error}")
    path = EXPECTED / f"{peer.name}.txt"
    report = expecting(check(Implementation(target, peer.name), CASES), read_expected(path))
    recorded = path.read_text(encoding="utf-8").splitlines()[0]
    assert report.ok, f"recorded for {recorded[2:]}, installed {installed}\n{report.table()}"


def test_every_reproducer_prints_what_the_table_says():
    """Each Python block of PEERS.md ends with what it prints, as a comment."""
    blocks = TABLE.read_text(encoding="utf-8").split("```python\n")[1:]
    for block in blocks:
        *code, last = block.partition("```")[0].strip().split("\n")
        call, _, claimed = last.partition("  # ")
        names = {}
        try:
            exec("\n".join(code), names)
        except ImportError:
            continue
        found = eval(call.removeprefix("print(").removesuffix(")"), names)
        assert str(found) == claimed, block


def test_the_expected_files_are_of_peers_and_say_their_versions():
    """One for each that was judged, no other."""
    for path in pathlib.Path(EXPECTED).glob("*.txt"):
        assert path.stem in PEERS
        assert path.read_text(encoding="utf-8").startswith(f"# {PEERS[path.stem].packages[0]} ")
