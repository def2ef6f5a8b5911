"""Reliability in figures: small runs are killed, repeated, crowded and attacked, and counted.

Each check is a function in CHECKS, called with an empty folder, that returns rows made by `row`. To add one, write its
measuring function in a module beside this one, and a check here that says what is wanted.
"""

import os

from . import bad_inputs, crowds, intruders, kills, long_runs, repeats

MIB = 2**20
# seconds that the freeing of a lock may take, or Ctrl-C, beyond what a process that did nothing takes: of PyTorch's
# own share, up to a second and more, nothing can be made shorter
LATENCY = 1.0
TRIES = 3  # a machine that is shared makes a fast end slow now and then, and never a slow one fast
# what an allocator may keep for itself: far less than a leaked step, of which 990 would take tens of megabytes
SLACK = 4 * MIB


def row(what, measured, wanted, ok):
    """One line of the table: texts, and whether what was measured is what was wanted; ok None: it cannot be here."""
    return {"what": what, "measured": str(measured), "wanted": str(wanted), "ok": ok}


def check_kills(folder):
    """Runs that are killed and go on."""
    found = kills.killed(folder, 24)
    n, lost = found["kills"], found["differences"]
    what = f"a table killed by SIGKILL, {found['in_writes']} times while writing: files that differ in the end"
    rows = [row(what, f"{len(lost)} after {n} kills in {found['runs']} runs", 0, not lost)]
    found = kills.killed_with_workers(folder, 4)
    lost, slowest = found["differences"], max(found["seconds"], default=0.0)
    what = "the same with two processes side by side: files that differ in the end"
    rows.append(row(what, f"{len(lost)} after {found['kills']} kills", 0, not lost))
    # a worker that is still importing PyTorch has to come to its end first
    rows.append(row("seconds until a killed run's last worker is gone", f"{slowest:.2f}", "below 10", slowest < 10))
    return rows


def check_interrupts(folder):
    """Ctrl-C."""
    rows = []
    for jobs in (1, 2):
        found = _fastest(kills.interrupted, folder, jobs)
        rows += _interrupt_rows(f"a table, {jobs} process{'es' if jobs > 1 else ''}", found)
        lost = found["differences"]
        rows.append(row("... files that differ once it has gone on", len(lost), 0, not lost))
    rows += _interrupt_rows("a table, while its processes start", _fastest(kills.interrupted_at_start, folder))
    found = _fastest(kills.interrupted_demo, folder)
    rows += _interrupt_rows("the demo", found)
    return [*rows, row("... files that it left", len(found["files"]), 0, not found["files"])]


def _fastest(interrupted, folder, *args):
    """What the fastest of a few interrupts found; none after one that was fast, or not tidy."""
    tries = []
    while len(tries) < TRIES and all(_is_tidy(found) and _beyond(found) >= LATENCY for found in tries):
        place = folder / f"try-{len(tries)}"
        place.mkdir(exist_ok=True)
        tries.append({**interrupted(place, *args), "bare": kills.bare_end()})
    return min(tries, key=lambda found: (_is_tidy(found), _beyond(found)))


def _beyond(found):
    return found["seconds"] - found["bare"]


def _is_tidy(found):
    said = found["code"] == 130 and len(found["lines"]) == 1 and found["lines"][0].endswith("interrupted")
    return said and not found.get("differences") and not found.get("files")


def _interrupt_rows(what, found):
    tidy = found["code"] == 130 and len(found["lines"]) == 1 and found["lines"][0].endswith("interrupted")
    said = f"exit code {found['code']}, {len(found['lines'])} line{'' if len(found['lines']) == 1 else 's'}"
    busy = _load() > 1
    measured = f"{found['seconds']:.2f} against {found['bare']:.2f}" + (
        f" (busy machine: {_load():.1f} processes wait for each core)" if busy else ""
    )
    # on a busy machine a slow end says nothing, a fast one does
    fast = True if _beyond(found) < LATENCY else None if busy else False
    return [
        row(
            f"Ctrl-C in {what}: seconds to the end of all processes, and of one that does nothing",
            measured,
            "below 1 more",
            fast,
        ),
        row("... and what it says", said, "exit code 130, 1 line", tidy),
    ]


def _load():
    """Processes that want each of this machine's cores, on the average of the last minute; 0 where nobody says."""
    return os.getloadavg()[0] / os.cpu_count() if hasattr(os, "getloadavg") else 0.0


def check_repeats(folder):
    """The same seed again."""
    names = {"restart": "in a new process", "threads": "offered four threads for one", "jobs": "two cells side by side"}
    found = repeats.repeated(folder / "table", tuple(names))
    rows = [row(f"a table again, {names[w]}: files that differ", len(found[w]), 0, not found[w]) for w in names]
    other = len(found["another seed"])
    rows.append(row("... and with another seed, the control", other, "more than 0", other > 0))
    lines = repeats.repeated_demo(folder)
    rows.append(row("a quick demo again, in a new process and offered four threads", len(lines), 0, not lines))
    touched = repeats.global_generators_touched(["demo", "--quick", "--seeds", "1", "--out", str(folder / "demo")])
    what = "global random generators that a demo leaves in another state (random, NumPy, PyTorch)"
    return [*rows, row(what, ", ".join(touched) or 0, 0, not touched)]


def check_crowds(folder):
    """Several runs in one folder."""
    found = crowds.second_runs(folder / "second", tuple(crowds.COMMANDS))
    refused = sum(verdict == "refused" for verdict in found.values())
    what = f"a second run in the same folder refused by one line: {', '.join(found)}"
    rows = [row(what, f"{refused} of {len(found)}", f"{len(found)} of {len(found)}", refused == len(found))]
    both = crowds.at_once(folder / "at-once")
    what = "two runs started at one moment: exit codes, files that differ in the end"
    measured = f"{both['codes']}, {len(both['differences'])}"
    rows.append(row(what, measured, "[0, 2], 0", both["codes"] == [0, 2] and not both["differences"]))
    seconds = min(crowds.lock_of_a_killed_process(folder / f"stale-{i}") for i in range(TRIES))
    rows.append(row("seconds until a killed process's lock is free", f"{seconds:.3f}", "below 1", seconds < LATENCY))
    cache = crowds.one_cache(folder / "cache")
    measured = f"{cache['digests']} data set{'' if cache['digests'] == 1 else 's'}, {len(cache['left'])} files left"
    ok = cache == {"digests": 1, "cached": True, "left": []}
    return [*rows, row("four processes that fill one cache: what they saw", measured, "1 data set, 0 files left", ok)]


def check_intruders(folder):
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


def check_bad_inputs(folder):
    """Bad input of every kind."""
    passed, total, failures = bad_inputs.run()
    what = "bad inputs answered in words, with nothing changed" + "".join(f"; {n}: {w}" for n, w in failures.items())
    return [row(what, f"{passed} of {total}", f"all {total}", not failures)]


def check_long_runs(folder):
    """What grows."""
    grown = {
        "1000 OEU steps against 10": lambda: long_runs.steps(10, 1000),
        "training epochs with a checkpoint each, 60 against 5": lambda: long_runs.epochs(folder),
        "checkpoints written and read, 200 against 10": lambda: long_runs.checkpoints(folder),
    }
    rows = []
    for what, measure in grown.items():
        found = long_runs.lasting(measure, SLACK)
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


def markdown(rows):
    """The table of what was measured beside what was wanted; rows: of `row`."""
    lines = ["| what | measured | wanted | ok |", "| --- | ---: | ---: | --- |"]
    for r in rows:
        verdict = {True: "yes", False: "**no**", None: "–"}[r["ok"]]
        lines.append(f"| {r['what']} | {r['measured']} | {r['wanted']} | {verdict} |".replace("\n", " "))
    return "\n".join(lines)
