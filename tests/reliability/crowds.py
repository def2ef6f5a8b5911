"""Several processes in one place: a second run in the same folder, the lock of a killed one, one cache for many."""

import contextlib
import contextvars
import io
import multiprocessing
import pathlib
import time

import numpy as np

from oeu_ref import locks
from oeu_ref.__main__ import main
from oeu_ref.data.image_sets import load_images

from . import runs

# what is started while another run is at work in the same folder
COMMANDS = {
    "table": lambda data, out: runs.table(data, out),
    "tune": lambda data, out: ["tune", *_size(data, out), "--methods", "ft"],
    "report": lambda data, out: ["report", str(out)],
    "demo": lambda data, out: ["demo", "--quick", "--seeds", "1", "--out", str(out)],
    "variants": lambda data, out: ["variants", "--out", str(out)],
    "bench": lambda data, out: ["bench", "--quick", "--only", "reference", "--out", str(out)],
}


def second_runs(folder, commands=tuple(COMMANDS)):
    """Start each command in a folder where a run is at work: {command: "refused", or what happened instead}.

    Refused means exit code 2, one line that says why, and no new file.
    """
    folder = pathlib.Path(folder)
    data, out, found = runs.make_data(folder / "data"), folder / "out", {}
    runs.finish(runs.table(data, out, methods="ft"), folder / "log.txt")
    before = _files(out)
    for command in commands:
        printed = io.StringIO()
        with locks.alone(out), contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            # in a context of its own it does not know that this process holds the folder
            code = contextvars.Context().run(main, COMMANDS[command](data, out))
        refused = code == 2 and printed.getvalue().count("\n") == 1 and "another run is at work" in printed.getvalue()
        same = _files(out) == before
        found[command] = "refused" if refused and same else f"exit code {code}, files {'kept' if same else 'changed'}"
    return found


def at_once(folder, count=2):
    """Start the same table `count` times at one moment.  Returns {"codes": sorted exit codes, "differences": lines}."""
    folder = pathlib.Path(folder)
    data, out, whole = runs.make_data(folder / "data"), folder / "out", folder / "whole"
    runs.finish(runs.table(data, whole), folder / "log.txt")
    processes = [runs.fork(runs.table(data, out), folder / f"log-{i}.txt") for i in range(count)]
    for process in processes:
        process.join()
    codes = sorted(process.exitcode for process in processes)
    return {"codes": codes, "differences": runs.differences(whole, out)}


def lock_of_a_killed_process(folder):
    """Seconds from killing the process that holds a folder until another one holds it, which must be next to none."""
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(folder), ready), daemon=True)
    process.start()
    ready.wait()
    try:
        with locks.alone(folder):
            raise RuntimeError("a folder that is held was entered")
    except ValueError:
        pass
    process.kill()
    start = time.perf_counter()
    with locks.alone(folder, busy="wait"):
        return time.perf_counter() - start


def _hold(folder, ready):
    with locks.alone(folder):
        ready.set()
        time.sleep(3600)


def one_cache(folder, processes=4):
    """Have several processes decode the same images into the same empty cache at one moment.

    Returns {"digests": how many different data sets they saw, "cached": whether the next one reads the cache alone,
    "left": temporary files}.
    """
    from PIL import Image

    folder, rng = pathlib.Path(folder), np.random.default_rng(0)
    for i in range(120):
        path = folder / "pets" / ("train", "test")[i % 2] / ("cat", "dog")[i // 2 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    context = multiprocessing.get_context("forkserver")
    start, digests = context.Event(), context.SimpleQueue()
    arguments = (str(folder), start, digests)
    crowd = [context.Process(target=_load, args=arguments) for _ in range(processes)]
    for process in crowd:
        process.start()
    start.set()
    seen = {digests.get() for _ in crowd}
    for process in crowd:
        process.join()
    cache = folder / "cache"
    before = _files(cache)
    load_images("pets", folder, cache_dir=cache)
    left = [path.name for path in cache.iterdir() if path.name.endswith(".tmp")]
    return {"digests": len(seen), "cached": _files(cache) == before, "left": left}


def _load(folder, start, digests):
    start.wait()
    digests.put(load_images("pets", folder, cache_dir=pathlib.Path(folder) / "cache").sha256)


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def _size(data, out):
    return runs.table(data, out)[1 : runs.table(data, out).index("--settings")]
