"""Runs that are killed, and that go on: what is lost (nothing), and how long Ctrl-C takes."""

import os
import pathlib
import signal
import subprocess
import time

import torch

from oeu_ref.data.samples import stream

from . import runs

PATIENCE = 120  # seconds until something that should have happened counts as not happening


def killed(folder, kills=24, seed=0):
    """Kill a table's run by SIGKILL until `kills` are reached, let it go on each time, and compare what it ends with.

    folder: for the runs, may be shared with the functions below; kills >= 1: half of them at random moments, half in
    the middle of writing a file; seed: of moments and places.  A run that comes to its end is compared with one that
    nobody disturbed; then a new one starts.
    Returns {"kills", "in_writes", "runs", "differences": lines, "seconds_of_a_run"}.
    """
    folder, generator = pathlib.Path(folder), stream(seed, "kills")
    data, whole = _undisturbed(folder)
    log = folder / "log.txt"
    start = time.perf_counter()
    runs.finish(runs.table(data, folder / "again"), log)
    duration = time.perf_counter() - start
    found = {"kills": 0, "in_writes": 0, "runs": 0, "differences": runs.differences(whole, folder / "again")}
    while found["kills"] < kills:
        found["runs"] += 1
        out = folder / f"killed-{found['runs']}"
        while True:
            in_write = found["kills"] % 2 == 1
            point = runs.POINTS[int(torch.randint(len(runs.POINTS), (), generator=generator))]
            death = (point, int(torch.randint(1, 8, (), generator=generator))) if in_write else None
            moment = float(torch.rand((), generator=generator)) * duration / 2
            enough = found["kills"] >= kills
            process = runs.fork(runs.table(data, out), log, None if enough else death)
            process.join(None if enough or in_write else moment)
            if process.exitcode is None:
                process.kill()
                process.join()
            if process.exitcode == 0:
                break
            if process.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"a run ended with {process.exitcode}: {log.read_text()}")
            found["kills"] += 1
            found["in_writes"] += in_write
        found["differences"] += [f"{out.name}: {line}" for line in runs.differences(whole, out)]
    return {**found, "seconds_of_a_run": duration}


def killed_with_workers(folder, kills=2, jobs=2, seed=0):
    """The same with several processes side by side, each started as a user would; do the workers end with the parent?

    Returns {"kills", "differences": lines, "seconds": from each kill until the last worker is gone}.
    """
    folder, generator = pathlib.Path(folder), stream(seed, "kills of parents")
    data, whole = _undisturbed(folder, "1,2")
    out, seconds = folder / "killed-with-workers", []
    for _ in range(kills):
        process = runs.python(runs.table(data, out, "1,2", jobs=jobs))
        seen = set(out.rglob("*.pt"))
        # until the workers have written something new, and then a random while longer
        _wait(lambda: set(out.rglob("*.pt")) - seen or process.poll() is not None)
        time.sleep(float(torch.rand((), generator=generator)))
        if process.poll() is not None:
            break
        process.kill()
        seconds.append(_ended(process)[0])
    runs.finish(runs.table(data, out, "1,2"), folder / "log.txt")
    return {"kills": len(seconds), "differences": runs.differences(whole, out), "seconds": seconds}


def interrupted(folder, jobs=1, twice=False):
    """Ctrl-C, sent to all processes of a table's run as a terminal does, when it is at work; then it goes on.

    twice: whether an impatient user presses it again a tenth of a second later.
    Returns {"seconds": until all processes are gone, "code": exit code, "lines": on stderr, "differences": lines}.
    """
    folder = pathlib.Path(folder)
    data, whole = _undisturbed(folder)
    out = folder / f"interrupted-{jobs}{'-twice' if twice else ''}"
    found = _ctrl_c(runs.table(data, out, jobs=jobs), lambda: list(out.rglob("*.partial.pt")), twice)
    runs.finish(runs.table(data, out), folder / "log.txt")
    return {**found, "differences": runs.differences(whole, out)}


def interrupted_at_start(folder, jobs=2, after=1.0):
    """Ctrl-C some seconds after the output folder is there, when workers are still importing.  Returns as above."""
    folder = pathlib.Path(folder)
    data, out = runs.make_data(folder / "data"), folder / "interrupted-at-start"
    begun = []

    def at_work():
        if not begun and out.exists():
            begun.append(time.perf_counter())
        return begun and time.perf_counter() - begun[0] >= after

    return _ctrl_c(runs.table(data, out, jobs=jobs), at_work)


def interrupted_demo(folder):
    """Ctrl-C in the middle of the demo.  Returns as above, and "files": those that it left."""
    out, begun = pathlib.Path(folder) / "demo", []

    def at_work():
        if not begun and out.exists():
            begun.append(time.perf_counter())
        return begun and time.perf_counter() - begun[0] > 1

    found = _ctrl_c(["demo", "--out", str(out)], at_work)
    return {**found, "files": sorted(path.name for path in out.rglob("*") if path.name != ".lock")}


def _undisturbed(folder, seeds="1"):
    """(data, output folder of a table that nobody disturbed), which is made where it is not there."""
    data, whole = runs.make_data(folder / "data"), folder / f"whole-{seeds}"
    if not (whole / "report.md").exists():
        runs.finish(runs.table(data, whole, seeds), folder / "log.txt")
    return data, whole


def _ctrl_c(arguments, at_work, twice=False):
    process = runs.python(arguments)
    _wait(lambda: at_work() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    if twice:
        time.sleep(0.1)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    seconds, errors = _ended(process)
    # as a shell shows it: having caught the signal, Python still ends by it where it came in the middle of some imports
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return {"seconds": seconds, "code": code, "lines": errors.splitlines()}


def bare_end():
    """Seconds that a process takes to end on Ctrl-C which has only imported what a run imports: PyTorch's own share."""
    program = f"import time, {', '.join(runs.IMPORTS)}\nprint(flush=True)\ntime.sleep(600)"
    process = runs.start(["-c", program])
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    return _ended(process)[0]


def _ended(process):
    """(seconds until the process and all that it started are gone, what they said on stderr)."""
    start = time.perf_counter()
    try:
        _, errors = process.communicate(timeout=PATIENCE)  # the workers hold the pipes too
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    return time.perf_counter() - start, errors


def _wait(happened):
    deadline = time.perf_counter() + PATIENCE
    while not happened():
        if time.perf_counter() > deadline:
            raise TimeoutError(f"a run must be at work after {PATIENCE} seconds, it is not")
        time.sleep(0.01)
