"""Small real runs in processes of their own, and what two output folders differ in."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import torch
from tqdm import tqdm

from oeu_ref.lab import tables
from oeu_ref.lab.checkpoints import read
from oeu_ref.lab.experiment import described
from oeu_ref.methods.by_name import METHODS
from oeu_ref.report import results

TIMES = ("seconds", "time")
SIZE = {"dataset": "tiny", "width": 4, "epochs": 4, "train_size": 120, "validation_size": 40}
IMPORTS = ("oeu_ref.lab.tuning", "oeu_ref.report.report", "sklearn.svm")  # what a run needs time for before it begins
STEPS = 60  # more than lie between two checkpoints


def make_data(folder):
    """Write `tiny.npz`, three classes of 8 x 8 images, and `settings.json` for a table of it.  Returns the folder."""
    folder, rng = pathlib.Path(folder), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    patterns, arrays = rng.integers(0, 128, (3, 8, 8, 3)), {}
    for part, count in (("train", 260), ("test", 60)):
        labels = rng.integers(0, 3, count)
        arrays[f"x_{part}"] = (patterns[labels] + rng.integers(0, 128, (count, 8, 8, 3))).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    np.savez(folder / "tiny.npz", **arrays)
    best = {"best": {"learning_rate": 0.02, "weight": 0.5, "steps": STEPS}}
    settings = {
        "experiment": described(tables.experiment_named("cifar10-10", **SIZE)),
        "forget_size": 12,
        "seeds": [101],
        "rules": {"true": dict.fromkeys(METHODS, best)},
    }
    results.write_json(folder / "settings.json", results.plain(settings))
    return folder


def table(data, out, seeds="1", methods="oeu,rl", jobs=1):
    """The command line, after `python -m oeu_ref`, of a table on that data: original, Retrain and two methods."""
    size = [word for name, value in SIZE.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    files = ["--data-root", str(data), "--cache-dir", str(data / "cache"), "--out", str(out)]
    how = ["--settings", str(data / "settings.json"), "--rules", "true", "--device", "cpu", "--jobs", str(jobs)]
    return ["table", *size, *files, *how, "--seeds", seeds, "--methods", methods, "--keep-models"]


def python(arguments, **environment):
    """Start `python -m oeu_ref` in a new process and session.  Returns the `Popen`, with text pipes."""
    return start(["-m", "oeu_ref", *arguments], **environment)


def start(arguments, **environment):
    """The same with any arguments of `python`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, so that Ctrl-C can be sent to all of it, as a terminal does
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def fork(arguments, log, death=None, threads=1):
    """Start the same command in a process whose imports are done already, so that many runs take little time.

    log: file for what it prints; death: None, or (point, count) as in `die_at`; threads: PyTorch's.
    Returns the `multiprocessing.Process`, started.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    process = context.Process(target=_run, args=(arguments, str(log), death, threads))
    process.start()
    return process


def finish(arguments, log):
    """Run a command to its end in such a process.  Raises RuntimeError, with what it printed, unless it succeeds."""
    process = fork(arguments, log)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.exitcode}: {pathlib.Path(log).read_text()}")


def _run(arguments, log, death, threads):
    from oeu_ref.__main__ import main

    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    torch.set_num_threads(threads)
    # tqdm's own lock is one for several processes: each that is killed would leave a semaphore behind
    tqdm.set_lock(threading.RLock())
    if death is not None:
        die_at(*death)
    sys.exit(main(arguments))


POINTS = ("half written", "before a rename", "after a rename", "before a removal", "after a removal")


def die_at(point, count):
    """Have this process kill itself by SIGKILL the count-th time that it comes to a point, one of POINTS, of a write.

    "half written": half of the bytes are in the temporary file.
    """
    left = {point: count}

    def come_to(here):
        left[here] = left.get(here, 0) - 1
        if left[here] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor):
        if left.get("half written") == 1:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        come_to("half written")
        system_fsync(descriptor)

    def around(function, what):
        def watched(*arguments, **options):
            come_to(f"before a {what}")
            found = function(*arguments, **options)
            come_to(f"after a {what}")
            return found

        return watched

    system_fsync, os.fsync = os.fsync, fsync
    os.replace = around(os.replace, "rename")
    pathlib.Path.unlink = around(pathlib.Path.unlink, "removal")


def differences(first, second):
    """What two output folders differ in, in words, a line for each file; empty if in nothing but times.

    JSON files are compared without their times, checkpoints tensor by tensor, others by being there. Remains of
    interrupted runs count as a difference.
    """
    first, second = pathlib.Path(first), pathlib.Path(second)
    names = [_files(folder) for folder in (first, second)]
    lines = [f"{name}: in one folder alone" for name in sorted(names[0] ^ names[1])]
    lines += [f"{name}: left over" for name in sorted(names[0] | names[1]) if name.endswith((".tmp", ".partial.pt"))]
    for name in sorted(names[0] & names[1]):
        if name.endswith(".json"):
            contents = [without_times(json.loads((folder / name).read_text())) for folder in (first, second)]
        elif name.endswith(".pt"):
            contents = [read(folder / name) for folder in (first, second)]
        else:
            continue
        if not same(*contents):
            lines.append(f"{name}: other contents")
    return lines


def _files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def without_times(document):
    """A JSON document without what differs from run to run: seconds, and what is computed from them."""
    if isinstance(document, dict):
        return {key: without_times(value) for key, value in document.items() if key not in TIMES}
    return [without_times(value) for value in document] if isinstance(document, list) else document


def same(first, second):
    """Whether two pieces of plain data with tensors in them are the same, bit for bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        # as bytes: 0 and -0 are different, and NaN is like itself
        return first.dtype == second.dtype and first.shape == second.shape and _bytes(first) == _bytes(second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def _bytes(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
