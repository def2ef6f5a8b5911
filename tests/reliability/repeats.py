"""The same seed again: in a new process, with more threads, side by side; and what a run does to global generators."""

import contextlib
import io
import json
import pathlib
import random

import numpy as np
import torch

from oeu_ref.__main__ import main

from . import runs


def repeated(folder, ways=("restart", "threads", "jobs")):
    """Differences between a table's files and those of the same run made in another way.

    ways: "restart", another process with other hashes of strings; "threads", PyTorch and OpenMP offered four threads
    instead of one; "jobs", two cells side by side.  Returns {way: lines}, and the control: {"another seed": lines}.
    """
    folder = pathlib.Path(folder)
    data = runs.make_data(folder / "data")
    environment = {"PYTHONHASHSEED": "1"}
    first = _made(runs.table(data, folder / "first"), **environment)
    found = {}
    for way in ways:
        changed = {"restart": {"PYTHONHASHSEED": "2"}, "threads": {"OMP_NUM_THREADS": "4"}}.get(way, {})
        out = runs.table(data, folder / way, jobs=2 if way == "jobs" else 1)
        found[way] = runs.differences(first, _made(out, **{**environment, **changed}))
    # the control: what the comparison says of a run that is another
    runs.finish(runs.table(data, folder / "another", seeds="3"), folder / "log.txt")
    for path in (folder / "another" / "seed-3").iterdir():
        (folder / "another" / "seed-1").mkdir(exist_ok=True)
        path.rename(folder / "another" / "seed-1" / path.name)
    return {**found, "another seed": runs.differences(first / "seed-1", folder / "another" / "seed-1")}


def repeated_demo(folder):
    """Differences between two quick demos in processes of their own, one of which is offered four threads: lines."""
    folder, documents = pathlib.Path(folder), []
    for threads in ("1", "4"):
        out = folder / f"demo-{threads}"
        arguments = ["demo", "--quick", "--seeds", "1", "--out", str(out)]
        _finished(arguments, OMP_NUM_THREADS=threads, PYTHONHASHSEED=threads)
        documents.append(runs.without_times(json.loads((out / "demo.json").read_text())))
    return [] if documents[0] == documents[1] else ["demo.json: other contents"]


def _made(arguments, **environment):
    """The output folder of a command, once it is done."""
    _finished(arguments, **environment)
    return pathlib.Path(arguments[arguments.index("--out") + 1])


def _finished(arguments, **environment):
    process = runs.python(arguments, **environment)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {errors}")


def global_generators_touched(command):
    """Names of the global random generators that a command, run in this process, leaves in another state: a list."""
    before = _global_states()
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    if code:
        raise RuntimeError(f"{' '.join(command)} failed")
    return [name for name, state in _global_states().items() if state != before[name]]


def _global_states():
    numpy_state = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "torch": torch.random.get_rng_state().numpy().tobytes(),
    }
