"""What grows while a run goes on: memory, live tensors, open files."""

import gc
import os
import pathlib
import sys

import torch

from oeu_ref.core.network import QuantMLP
from oeu_ref.core.stop_rule import EntropyStop
from oeu_ref.core.unlearner import OEU
from oeu_ref.data.samples import Batches, digits, stream
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.lab.engine import one_thread
from oeu_ref.lab.training import TrainConfig, build, train
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import OrthogonalEntropy


def snapshot():
    """What this process holds: {"memory": bytes in RAM, "tensors": live ones, "handles": open files}.

    memory and handles are None where the system does not say (anywhere but on Linux and macOS).
    """
    gc.collect()
    # type(), not isinstance(): the latter wakes lazy objects of other packages
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    statm, handles = pathlib.Path("/proc/self/statm"), pathlib.Path("/dev/fd")
    return {
        "memory": int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None,
        "tensors": tensors,
        "handles": len(os.listdir(handles)) if handles.exists() else None,
    }


def growth(work, early=10, late=1000):
    """How much more a process holds after `late` calls of `work` than after `early`: as `snapshot`.

    work: called with the number of the call, from 1; 1 <= early < late.
    """
    for i in range(1, late + 1):
        work(i)
        if i == early:
            before = snapshot()
    after = snapshot()
    return {key: None if after[key] is None else after[key] - before[key] for key in after}


def lasting(measure, memory, tries=3):
    """Growth that comes each time: an allocator may take pages once, for good, where a leak takes them again.

    measure: called without arguments, returns what `growth` does; memory: bytes below which it is not asked again.
    """
    found = [measure()]
    while len(found) < tries and (found[-1]["memory"] or 0) >= memory:
        found.append(measure())
    worst = {key: max((f[key] for f in found if f[key] is not None), default=None) for key in found[0]}
    return {**worst, "memory": found[-1]["memory"]}


def steps(early=10, late=1000, leak=None):
    """Growth over OEU steps on the digits.  leak: a list, for a control, to which each step's loss graph is added."""
    model, optimizer, splits = _parts()
    unlearner = OEU(model, optimizer)
    sources = [Batches(part, 64, stream(0, "long run")) for part in (splits.forget, splits.retain)]

    def work(_):
        forget, retain = (next(source) for source in sources)
        unlearner.step(forget.inputs, retain.inputs, retain.labels)
        if leak is not None:
            leak.append(model(retain.inputs).sum())

    with one_thread():
        return growth(work, early, late)


def epochs(folder, early=5, late=60):
    """Growth over epochs of training that each write a checkpoint; one that lies there is not gone on from."""
    model, _, splits = _parts()
    path = pathlib.Path(folder) / "long.pt"
    path.unlink(missing_ok=True)
    checkpoint, found = Checkpoint(path, {}), {}

    def look(epoch, loss):
        if epoch in (early, late):
            found[epoch] = snapshot()

    with one_thread():
        train(model, splits.retain[:256], TrainConfig(epochs=late), stream(0, "long run"), look, None, checkpoint)
    return {key: None if found[late][key] is None else found[late][key] - found[early][key] for key in found[late]}


def checkpoints(folder, early=10, late=200):
    """Growth over checkpoints of a method that are written and read again."""
    model, _, splits = _parts()
    method = OrthogonalEntropy(model, splits.forget, Settings(0.01, 1.0), stream(0, "method"))

    def work(_):
        checkpoint = Checkpoint(pathlib.Path(folder) / "long.pt", {})
        checkpoint.save(method=method)
        checkpoint.restore(method=method)

    with one_thread():
        return growth(work, early, late)


def history(measurements=200):
    """Bytes that `EntropyStop` keeps for each measurement: a pair of numbers, for as long as the object lives."""
    model, _, splits = _parts()
    stop = EntropyStop(model, splits.forget.inputs[:32], splits.validation.inputs[:32])
    with one_thread():
        for _ in range(measurements):
            stop.reached()
    pairs = sum(sys.getsizeof(pair) + sum(map(sys.getsizeof, pair)) for pair in stop.history)
    return (sys.getsizeof(stop.history) + pairs) / measurements


def _parts():
    splits = digits(0)
    model = build(lambda: QuantMLP((64, 32, 10), batch_norm=True), 0)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), splits
