"""Tries the laws on every peer that is installed, and writes what came out: `python -m tests.peers.record [NAME ...]`.

Writes `expected/NAME.txt` for each, and the table of `oeu_ref/conformance/PEERS.md` from all of these files.
"""

import datetime
import importlib.metadata
import pathlib
import sys

from oeu_ref.conformance import LAWS, Implementation, check
from oeu_ref.files import write_text

from .adapters import PEERS

CASES = 15
HERE = pathlib.Path(__file__).parent
EXPECTED = HERE / "expected"
TABLE = HERE.parents[1] / "oeu_ref" / "conformance" / "PEERS.md"
START, END = "<!-- table: python -m tests.peers.record -->\n", "<!-- end of the table -->"


def versions(peer):
    """ "package version, package version" of a peer, as installed.  Raises PackageNotFoundError for one that is not."""
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in peer.packages)


def record(peer):
    """Judge one peer and write its file; False where it is not installed."""
    try:
        target, installed = peer.target(), versions(peer)
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        print(f"{peer.name}: {error}")
        return False
    report = check(Implementation(target, peer.name), CASES)
    held = sum(r.status == "holds" for r in report.results)
    lines = [f"# {installed}; {datetime.date.today()}; {', '.join(report.judged)}; {held} laws hold; {peer.note}"]
    lines += [f"{r.law} | {r.severity}: {r.message}".replace("\n", " ") for r in report.failures]
    write_text(EXPECTED / f"{peer.name}.txt", "\n".join(lines) + "\n")
    print(f"{peer.name}: {len(report.failures)} fail, {held} hold", flush=True)
    return True


def table():
    """The table of laws that some peer breaks, and the list of peers, as Markdown."""
    read = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(EXPECTED.glob("*.txt"))}
    read = {name: read[name] for name in PEERS if name in read}
    rows = ["| peer | versions | judged | laws | finding |", "| --- | --- | --- | --- | --- |"]
    for name, (head, *failures) in read.items():
        installed, date, judged, held, note = head[2:].split("; ", 4)
        rows.append(f"| {name} | {installed}; {date} | {judged} | {held}, {len(failures)} fail | {note} |")
    broken = {
        name: {line.split(" | ")[0]: line.split(" | ")[1].split(":")[0] for line in read[name][1:]} for name in read
    }
    columns = [name for name in read if broken[name]]
    rows += ["", "Laws that some of them break, and the class of the failure:", ""]
    rows += [f"| law | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for law in LAWS:
        if any(law.name in broken[name] for name in columns):
            rows.append(f"| {law.name} | {' | '.join(broken[name].get(law.name, '') for name in columns)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        record(PEERS[name])
    text = TABLE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    write_text(TABLE, before + START + "\n" + table() + "\n" + END + rest.partition(END)[2])
