"""Reliability in figures: `python -m oeu_ref selftest` kills, repeats, crowds and attacks small runs, and counts.

Each check is a function in CHECKS, called with (an empty folder, quick), that returns rows made by `row`. To add one,
write its measuring function in `reliability/`, and a check here that says what is wanted.
"""

import os
import platform
import tempfile
import time
from pathlib import Path

from .. import locks
from . import results
from .digits import progress_bar
from .reliability import bad_inputs, crowds, intruders, kills, long_runs, repeats

MIB = 2**20
LATENCY = 1.0  # seconds that Ctrl-C may take on a quiet machine
# what an allocator may keep for itself: far less than a leaked step, of which 990 would take tens of megabytes
SLACK = 4 * MIB


def row(what, measured, wanted, ok):
    """One line of the table: texts, and whether what was measured is what was wanted; ok None: it cannot be here."""
    return {"what": what, "measured": str(measured), "wanted": str(wanted), "ok": ok}


def check_kills(folder, quick):
    """Runs that are killed and go on."""
    found = kills.killed(folder, 4 if quick else 24)
    n, lost = found["kills"], found["differences"]
    what = f"a table killed by SIGKILL, {found['in_writes']} times while writing: files that differ in the end"
    rows = [row(what, f"{len(lost)} after {n} kills in {found['runs']} runs", 0, not lost)]
    found = kills.killed_with_workers(folder, 1 if quick else 4)
    lost, slowest = found["differences"], max(found["seconds"], default=0.0)
    what = "the same with two processes side by side: files that differ in the end"
    rows.append(row(what, f"{len(lost)} after {found['kills']} kills", 0, not lost))
    # a worker that is still importing PyTorch has to come to its end first
    rows.append(row("seconds until a killed run's last worker is gone", f"{slowest:.2f}", "below 10", slowest < 10))
    return rows


def check_interrupts(folder, quick):
    """Ctrl-C."""
    rows = []
    for jobs in (1,) if quick else (1, 2):
        found = kills.interrupted(folder, jobs)
        rows += _interrupt_rows(f"a table, {jobs} process{'es' if jobs > 1 else ''}", found)
        lost = found["differences"]
        rows.append(row("... files that differ once it has gone on", len(lost), 0, not lost))
    if not quick:
        rows += _interrupt_rows("a table, while its processes start", kills.interrupted_at_start(folder))
    found = kills.interrupted_demo(folder)
    rows += _interrupt_rows("the demo", found)
    return [*rows, row("... files that it left", len(found["files"]), 0, not found["files"])]


def _interrupt_rows(what, found):
    tidy = found["code"] == 130 and len(found["lines"]) == 1 and found["lines"][0].endswith("interrupted")
    said = f"exit code {found['code']}, {len(found['lines'])} line{'' if len(found['lines']) == 1 else 's'}"
    seconds, busy = found["seconds"], _load() > 1
    measured = f"{seconds:.2f}" + (f" (busy machine: {_load():.1f} processes wait for each core)" if busy else "")
    # on a busy machine a slow end says nothing, a fast one does
    fast = True if seconds < LATENCY else None if busy else False
    return [
        row(f"Ctrl-C in {what}: seconds to the end of all processes", measured, "below 1", fast),
        row("... and what it says", said, "exit code 130, 1 line", tidy),
    ]


def _load():
    """Processes that want each of this machine's cores, on the average of the last minute; 0 where nobody says."""
    return os.getloadavg()[0] / os.cpu_count() if hasattr(os, "getloadavg") else 0.0


def check_repeats(folder, quick):
    """The same seed again."""
    names = {"restart": "in a new process", "threads": "offered four threads for one", "jobs": "two cells side by side"}
    ways = ("threads",) if quick else tuple(names)
    found = repeats.repeated(folder / "table", ways)
    rows = [row(f"a table again, {names[w]}: files that differ", len(found[w]), 0, not found[w]) for w in ways]
    other = len(found["another seed"])
    rows.append(row("... and with another seed, the control", other, "more than 0", other > 0))
    lines = repeats.repeated_demo(folder)
    rows.append(row("a quick demo again, in a new process and offered four threads", len(lines), 0, not lines))
    touched = repeats.global_generators_touched(["demo", "--quick", "--seeds", "1", "--out", str(folder / "demo")])
    what = "global random generators that a demo leaves in another state (random, NumPy, PyTorch)"
    return [*rows, row(what, ", ".join(touched) or 0, 0, not touched)]


def check_crowds(folder, quick):
    """Several runs in one folder."""
    found = crowds.second_runs(folder / "second", ("table", "report") if quick else tuple(crowds.COMMANDS))
    refused = sum(verdict == "refused" for verdict in found.values())
    what = f"a second run in the same folder refused by one line: {', '.join(found)}"
    rows = [row(what, f"{refused} of {len(found)}", f"{len(found)} of {len(found)}", refused == len(found))]
    both = crowds.at_once(folder / "at-once")
    what = "two runs started at one moment: exit codes, files that differ in the end"
    measured = f"{both['codes']}, {len(both['differences'])}"
    rows.append(row(what, measured, "[0, 2], 0", both["codes"] == [0, 2] and not both["differences"]))
    seconds = crowds.lock_of_a_killed_process(folder / "stale")
    rows.append(row("seconds until a killed process's lock is free", f"{seconds:.3f}", "below 1", seconds < 1))
    cache = crowds.one_cache(folder / "cache")
    measured = f"{cache['digests']} data set{'' if cache['digests'] == 1 else 's'}, {len(cache['left'])} files left"
    ok = cache == {"digests": 1, "cached": True, "left": []}
    return [*rows, row("four processes that fill one cache: what they saw", measured, "1 data set, 0 files left", ok)]


def check_intruders(folder, quick):
    """Files that were made to do harm."""
    (folder / "control").mkdir()
    works = intruders.control(folder / "control")
    found = intruders.refused(folder / "intruders")
    bad = [f"{name}: {verdict}" for name, verdict in found.items() if verdict != "refused"]
    refused = f"{len(found) - len(bad)} of {len(found)}"
    return [
        row("malicious files refused" + "".join(f"; {line}" for line in bad), refused, f"all {len(found)}", not bad),
        row("... and one that nothing stops does its harm, the control", works, True, works),
    ]


def check_bad_inputs(folder, quick):
    """Bad input of every kind."""
    passed, total, failures = bad_inputs.run()
    what = "bad inputs answered in words, with nothing changed" + "".join(f"; {n}: {w}" for n, w in failures.items())
    return [row(what, f"{passed} of {total}", f"all {total}", not failures)]


def check_long_runs(folder, quick):
    """What grows."""
    late = 100 if quick else 1000
    grown = {
        f"{late} OEU steps against 10": long_runs.steps(10, late),
        "training epochs with a checkpoint each, 60 against 5": long_runs.epochs(folder),
        "checkpoints written and read, 200 against 10": long_runs.checkpoints(folder),
    }
    rows = []
    for what, found in grown.items():
        measured = [
            "–" if found["memory"] is None else f"{found['memory'] / MIB:.1f} MiB",
            f"{found['tensors']} tensors",
            "–" if found["handles"] is None else f"{found['handles']} open files",
        ]
        ok = found["tensors"] == 0 and found["handles"] in (0, None) and (found["memory"] or 0) < SLACK
        wanted = f"below {SLACK // MIB} MiB, 0 tensors, 0 open files"
        rows.append(row(f"growth over {what}", ", ".join(measured), wanted, ok))
    kept = long_runs.steps(10, 60, leak=[])["tensors"]
    rows.append(row("... over 50 steps that keep their graph, the control: tensors", kept, "more than 0", kept > 0))
    size = long_runs.history()
    rows.append(row("EntropyStop.history, for each measurement", f"{size:.0f} bytes", "below 500 bytes", size < 500))
    return rows


# in the order of the table
CHECKS = {
    "kills": check_kills,
    "interrupts": check_interrupts,
    "repeats": check_repeats,
    "crowds": check_crowds,
    "intruders": check_intruders,
    "bad inputs": check_bad_inputs,
    "long runs": check_long_runs,
}


def run(out_dir, quick=False, only=None, progress=True):
    """Measure everything, and write selftest.json and selftest.md.

    out_dir: directory for the two files, made if need be; quick: fewer kills and steps, a minute or so in place of
    several; only: names of CHECKS, None: all; progress: show a bar on stderr.
    Returns {"table": str, "json": Path, "markdown": Path, "ok": whether no row fails}.
    Raises ValueError for an unknown name or a directory that cannot be written to.
    """
    from ..checks import one_of

    names = [one_of("only", name, tuple(CHECKS)) for name in (CHECKS if only is None else only)]
    out_dir, found = results.output_directory("out_dir", out_dir), {}
    with locks.alone(out_dir), progress_bar(len(names), progress, "check") as bar:
        for name in names:
            bar.set_description(name)
            start = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="oeu_ref-selftest-", ignore_cleanup_errors=True) as folder:
                rows = CHECKS[name](Path(folder), quick)
            found[name] = {"rows": rows, "seconds": time.perf_counter() - start}
            bar.update()
    ok = not any(r["ok"] is False for check in found.values() for r in check["rows"])
    machine = {"system": platform.system(), "machine": platform.machine()}
    data = {"quick": quick, "ok": ok, "checks": found, "versions": results.versions(), **machine}
    text = markdown(data)
    return {
        "table": text,
        "json": results.write_json(out_dir / "selftest.json", data),
        "markdown": results.write_text(out_dir / "selftest.md", text + "\n"),
        "ok": ok,
    }


def markdown(data):
    """The table, from the contents of selftest.json alone."""
    lines = ["| what | measured | wanted | ok |", "| --- | ---: | ---: | --- |"]
    for check in data["checks"].values():
        for r in check["rows"]:
            verdict = {True: "yes", False: "**no**", None: "–"}[r["ok"]]
            lines.append(f"| {r['what']} | {r['measured']} | {r['wanted']} | {verdict} |".replace("\n", " "))
    seconds = sum(check["seconds"] for check in data["checks"].values())
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    lines += ["", f"{data['system']}, {data['machine']}; {versions}; {seconds:.0f} seconds."]
    if data["quick"]:
        lines.append("Quick: fewer kills and steps than the full test.")
    return "\n".join(lines)
