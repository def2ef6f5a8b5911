"""Several processes: two real ones, with shards of unequal size, against one process with the whole batch."""

import copy
import json
import os
import socket
import subprocess
import sys
import traceback

import numpy as np
import pytest
import torch
from torch import nn

from oeu_ref import distributed
from oeu_ref.beyond.monitor import Monitored
from oeu_ref.core.network import QuantMLP, quantize_model
from oeu_ref.core.unlearner import OEU, NonFiniteError
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab.training import TrainConfig, UnlearnConfig, build, train, unlearn
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import JointOEU
from oeu_ref.methods.protocol import SHUFFLED
from oeu_ref.own import unlearning as own
from oeu_ref.passes import recalibrate_batchnorm
from oeu_ref.reference import projection as reference

pytestmark = [
    pytest.mark.reliability,  # two more interpreters
    pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without distributed"),
]


def convolutional():
    """A small network as ResNets are: no bias before BatchNorm, whose gradient would be nothing but rounding."""
    layers = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False)]
    layers += [nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3)]
    return quantize_model(nn.Sequential(*layers), 4, 4)


NETWORKS = {"perceptron": lambda: QuantMLP((36, 12, 3), batch_norm=True), "convolutional": convolutional}


def network(name):
    model = build(NETWORKS[name], 0).double()
    return distributed.synchronized(model) if distributed.size() > 1 else model


def batches(name):
    """Forget and retain samples of unequal numbers, neither a multiple of two; some shards hold larger values."""
    rng = np.random.default_rng(0)
    shape = (36,) if name == "perceptron" else (1, 6, 6)
    inputs = [rng.normal(size=(n, *shape)) for n in (7, 13)]
    for x in inputs:
        x[1::2] *= 2
        if name == "perceptron":  # negative values, which decide a quantizer's range, on the second process alone
            x[::2] = abs(x[::2])
    return [Samples(torch.tensor(x), torch.tensor(rng.integers(0, 3, len(x)))) for x in inputs]


def oeu_steps(name, forward="separate"):
    """Five OEU steps with momentum: (weights and buffers as one vector, figures of the reports)."""
    model = network(name)
    forget, retain = (distributed.shard(samples) for samples in batches(name))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    oeu = (JointOEU if forward == "joint" else distributed.ParallelOEU)(model, optimizer, beta=0.7)
    reports = [oeu.step(forget.inputs, retain.inputs, retain.labels) for _ in range(5)]
    figures = [[r.forget_loss, r.retain_loss, r.forget_entropy, r.cosine, *r.layer_cosines.values()] for r in reports]
    return flat(model), torch.tensor(figures)


def method_steps(name):
    """Three steps of a method of `baselines` from the loop that all share."""
    model, (forget, retain) = network("convolutional"), batches("convolutional")
    method = METHODS[name].make(model, forget, Settings(0.02, 0.5), stream(1, "method"))
    reports = unlearn(method, forget, retain, 3, UnlearnConfig(5, 6), (stream(1, "f"), stream(1, "r")))
    return flat(model), torch.tensor([r.retain_loss or r.forget_loss for r in reports])


def shuffled_steps(name):
    """Two passes over both sets shuffled together, in batches of which half have one sample to forget, half none: each
    time one process has none."""
    model, (forget, retain) = network("convolutional"), batches("convolutional")
    forget = forget[:1]
    model(distributed.shard(retain).inputs)  # no original's quantizers are still to see their first batch
    method = METHODS[name].make(model, forget, Settings(0.02, 0.5), stream(1, "method"))
    given = UnlearnConfig(5, 7), (stream(1, "f"), stream(1, "r"))
    reports = unlearn(method, forget, retain, 4, *given, order=SHUFFLED)
    assert sorted(report.forget_loss is None for report in reports) == [False, False, True, True]
    return flat(model), torch.tensor([[r.forget_loss or 0, r.retain_loss] for r in reports])


def too_few():
    """1 if a batch of both sets that some process had nothing of was refused, and nothing changed."""
    model, (forget, retain) = network("convolutional"), batches("convolutional")
    method = METHODS["rl"].make(model, forget, Settings(0.02), stream(1, "method"))
    method.together, before = True, flat(model)
    try:
        method.step(forget[:1], retain[:1])
    except ValueError as error:
        told = "must hold a sample for each of 2 processes, got [1, 1]" in str(error)
        return (torch.tensor(float(told and torch.equal(flat(model), before))),)
    return (torch.tensor(0.0),)


def own_loop(different=False):
    """Four steps of `oeu_ref.unlearn`, with a stop rule that looks and BatchNorm estimated anew: (weights, figures).

    different: whether each process draws another order; then 1 if that was refused.
    """
    model, (forget, retain) = network("convolutional"), batches("convolutional")
    oeu = distributed.ParallelOEU(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    given = {"unseen": retain, "forget_batch": 5, "retain_batch": 6, "recalibrated": True, "progress": False}
    try:
        run = own.unlearn(oeu, forget, retain, 4, seed=distributed.rank() if different else 0, **given)
    except ValueError as error:
        return (torch.tensor(float("forget must give all processes the same batches" in str(error))),)
    looks = [[look[name] for name in ("RA", "FA", "AUC", "forget_entropy")] for look in run.looks]
    return flat(model), torch.tensor([r.cosine for r in run.reports]), torch.tensor(looks)


def alone():
    """1 if `OEU` itself is refused among several processes."""
    model = network("convolutional")
    oeu = OEU(model, torch.optim.SGD(model.parameters(), 0.05))
    try:
        own.unlearn(oeu, *batches("convolutional"), 1, progress=False)
    except TypeError as error:
        return (torch.tensor(float("unlearner must be an oeu_ref.distributed.ParallelOEU" in str(error))),)
    return (torch.tensor(0.0),)


def training():
    """Two epochs of training."""
    model, (_, retain) = network("convolutional"), batches("convolutional")
    losses = train(model, retain, TrainConfig(2, 5), stream(1, "order"))
    return flat(model), torch.tensor(losses)


def infinite_on_one_side():
    """A step whose second process alone has an infinite input: 1 if it was refused and nothing changed."""
    model, (forget, retain) = network("perceptron"), [distributed.shard(b) for b in batches("perceptron")]
    oeu = distributed.ParallelOEU(model, torch.optim.SGD(model.parameters(), 0.05))
    oeu.step(forget.inputs, retain.inputs, retain.labels)
    before = flat(model)
    if distributed.rank() == 1:
        forget.inputs[1, 0] = torch.inf
    try:
        oeu.step(forget.inputs, retain.inputs, retain.labels)
    except NonFiniteError:
        return (torch.tensor(float(torch.equal(flat(model), before))),)
    return (torch.tensor(0.0),)


def used_on_one_side():
    """Gradients of parameters of which each process uses one, one is used by none, one is in half precision; what is
    left of hooks; and a number of which the sum was asked."""
    first, second, unused = (nn.Parameter(torch.ones(3).double()) for _ in range(3))
    half = nn.Parameter(torch.ones(3).bfloat16())
    losses = [(2 * first).sum() + half.sum(), (second**3).sum() + half.sum()]
    loss = sum(losses) if distributed.size() == 1 else losses[distributed.rank()]
    parameters = [first, second, unused, half]
    found = distributed.gradients(loss, parameters)
    idle = distributed.size() > 1 and distributed.rank() == 0
    constant = distributed.gradients(torch.ones(()) if idle else first.sum(), [first])
    halves = found.pop()
    hooks = sum(len(p._backward_hooks or ()) for p in parameters)
    mine = torch.tensor(2.0)
    distributed.total(mine)
    return *found[:2], halves, *constant, torch.tensor(float(hooks)), mine, torch.tensor(float(found[2] is None))


BATCH_NORMS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "without statistics": {"track_running_stats": False},
    "without affine": {"affine": False},
}
DTYPES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.02, "float16": 3e-3}  # what is allowed to differ, relative


def normalized(options, dtype, autocast=False):
    """Three forward and backward passes of a BatchNorm: (outputs, gradients, statistics), of the whole batch."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, **options).to(torch.float32 if autocast else dtype)
    layer = distributed.synchronized(layer) if distributed.size() > 1 else layer
    inputs, weights = (torch.randn(7, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    inputs, found = (3 * inputs + 5).to(dtype), []
    for _ in range(3):
        x = distributed.shard(inputs).clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=autocast):
            out = layer(x)
        assert out.dtype == dtype
        mine = (out.double() * distributed.shard(weights)).sum()
        found += [_whole(out.detach()), _whole(torch.autograd.grad(mine, x, retain_graph=True)[0])]
        if parameters := list(layer.parameters()):
            found += distributed.gradients(mine, parameters)
    found += layer.state_dict().values()
    return found


def _whole(mine):
    """What all processes' shards are together."""
    whole = torch.zeros(7, *mine.shape[1:], dtype=torch.float64)
    distributed.shard(whole).copy_(mine)
    return distributed.total(whole).to(mine.dtype)


def monitored():
    """Figures of the records of two steps under a monitor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)).double()
    model = distributed.synchronized(model) if distributed.size() > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    unlearner = Monitored(distributed.ParallelOEU(model, optimizer))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        forget, retain = (torch.rand(n, 6, generator=generator, dtype=torch.float64) for n in (7, 12))
        labels = torch.randint(0, 4, (12,), generator=generator)
        unlearner.step(*map(distributed.shard, (forget, retain, labels)))
    keys = ("retain_loss", "forget_entropy", "update_cosine", "turned_back")
    return torch.tensor(
        [
            [*map(record.get, keys), *record["predicted"].values(), *record["actual"].values()]
            for record in unlearner.monitor.records
        ]
    ), torch.zeros(())


def unused_and_sparse():
    """Gradients of a loss on which one parameter does not depend and one depends sparsely; small buckets."""
    embedding = nn.Embedding(5, 2, sparse=True).double()
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(10.0).view(5, 2))
    unused, scale = nn.Parameter(torch.ones(3).double()), nn.Parameter(torch.tensor(2.0).double())
    rows = distributed.shard(torch.tensor([0, 1, 1, 4, 3]))
    loss = distributed.part((scale * embedding(rows)).square().mean(), len(rows), 5)
    before, distributed.BUCKET = distributed.BUCKET, 4
    grads = distributed.gradients(loss, [embedding.weight, unused, scale])
    distributed.BUCKET = before
    assert grads[1] is None
    return grads[0], grads[2]


def recalibrated():
    """Statistics of a network, estimated anew on 19 samples in batches of 4 and 5."""
    model, (_, retain) = network("convolutional"), batches("convolutional")
    inputs = torch.cat([retain.inputs, retain.inputs + 1])[:19]
    recalibrate_batchnorm(model, inputs, batch_size=5, share=distributed.shard)
    return (flat(model),)


# SalUn is random labels with a mask, for which it divides the whole forget set: here one sample
MIXED = ("qmul_released", "rl", "uniform", "scrub", "lotus")
WORK = {
    "recalibrated": recalibrated,
    "oeu perceptron": lambda: oeu_steps("perceptron"),
    "oeu convolutional": lambda: oeu_steps("convolutional"),
    "oeu joint": lambda: oeu_steps("convolutional", "joint"),
    "training": training,
    "own loop": own_loop,
    "other batches": lambda: own_loop(True),
    "alone": alone,
    **{name: lambda name=name: method_steps(name) for name in METHODS},
    **{f"shuffled {name}": lambda name=name: shuffled_steps(name) for name in MIXED},
    "too few": too_few,
    "infinite": infinite_on_one_side,
    "unused": unused_and_sparse,
    "one side": used_on_one_side,
    "monitor": monitored,
    **{f"norm {n}": lambda o=o: normalized(o, torch.float64) for n, o in BATCH_NORMS.items()},
    **{f"norm {d}": lambda d=d: normalized({}, getattr(torch, d)) for d in DTYPES},
    **{f"norm {d} autocast": lambda d=d: normalized({}, getattr(torch, d), True) for d in ("bfloat16", "float16")},
}


REFUSED = ("infinite", "other batches", "alone", "too few")


def flat(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def found_or_error(work):
    try:
        return work()
    except Exception:
        return traceback.format_exc()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found for all of WORK: [{name: tensors}, {name: tensors}]."""
    out = tmp_path_factory.mktemp("two")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "tests.test_distributed", str(out)]
    processes = [subprocess.Popen(command, env={**common, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]
    try:
        assert [process.wait(100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(out / f"{i}.pt") for i in range(2)]


@pytest.mark.parametrize("name", [name for name in WORK if name not in REFUSED])
def test_two_processes_on_shards_do_what_one_does_on_the_whole(found, name):
    """Weights, figures, gradients and statistics of all options, to rounding; in halves, to theirs."""
    expected = WORK[name]()
    for mine in found:
        assert not isinstance(mine[name], str), mine[name]
        assert len(mine[name]) == len(expected)
        for value, whole in zip(mine[name], expected):
            # float32 statistics of halves are as exact as others
            allowed = DTYPES.get(str(value.dtype).removeprefix("torch."), 0) if name.startswith("norm ") else 1e-10
            torch.testing.assert_close(value, whole, rtol=0, atol=allowed * max(1, whole.abs().max().item()))
    assert all(torch.equal(first, second) for first, second in zip(found[0][name], found[1][name]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_on_one_process_is_refused_by_all_and_changes_nothing(found, name):
    """An input that is not finite; batches that are not the same; an `OEU` that does not know of the others."""
    assert [mine[name][0].item() for mine in found] == [1.0, 1.0]


def test_the_mean_of_projections_is_not_the_projection_of_the_means():
    rng = np.random.default_rng(0)
    forget, retain = rng.normal(size=(2, 2, 5))
    mean_of_projections = np.mean([reference.project_vector(f, r) for f, r in zip(forget, retain)], axis=0)
    projection_of_means = reference.project_vector(forget.mean(axis=0), retain.mean(axis=0))
    assert abs(projection_of_means @ retain.mean(axis=0)) < 1e-12
    assert abs(mean_of_projections @ retain.mean(axis=0)) > 0.01


def test_without_processes_nothing_happens():
    batch = torch.arange(3)
    assert distributed.shard(batch) is batch and distributed.total(batch) is batch
    assert distributed.part(batch, 3) is batch and distributed.size() == 1 and distributed.rank() == 0
    with distributed.started("cpu") as device:
        assert device == "cpu" and distributed.size() == 1


def test_synchronized_keeps_names_values_and_modes():
    model = build(NETWORKS["convolutional"], 0)
    model(torch.randn(8, 1, 6, 6))
    model[1].eval()
    names, inputs, other = list(model.state_dict()), torch.randn(4, 1, 6, 6), copy.deepcopy(model)
    again = distributed.synchronized(model)
    assert list(again.state_dict()) == names and isinstance(again[1], distributed.SynchronizedBatchNorm)
    assert not again[1].training and again[4].training
    assert torch.equal(again(inputs), other(inputs)) and torch.equal(flat(again), flat(other))


@pytest.mark.reliability
def test_torchrun_makes_a_cell_as_one_process_does(tmp_path):
    """The command line under `torchrun`: one set of files, with the figures of a plain run up to rounding."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 90), ("test", 30)):
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 128, (count, 8, 8, 3)) + 60 * labels[:, None, None, None]
        arrays[f"x_{part}"] = images.astype(np.uint8)
        arrays[f"y_{part}"] = labels
    np.savez(tmp_path / "tiny.npz", **arrays)
    arguments = ["-m", "oeu_ref", "run", "--method", "oeu", "--seeds", "1", "--dataset", "tiny", "--width", "4"]
    arguments += "--epochs 1 --validation-size 10 --learning-rate 0.01 --weight 1 --steps 2 --device cpu".split()
    arguments += ["--data-root", str(tmp_path), "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port", free_port()]
    for command, name in (
        ([*torchrun, *arguments], "two"),
        (
            [
                sys.executable,
                *arguments,
            ],
            "one",
        ),
    ):
        result = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    for name in ("original", "retrain", "oeu_lr0.01_w1_s2"):
        one, two = (json.loads((tmp_path / n / "seed-1" / f"{name}.json").read_text()) for n in ("one", "two"))
        assert one["plan"] == two["plan"]
        one, two = (
            found["losses"] if name != "oeu_lr0.01_w1_s2" else found["losses"]["retain"] for found in (one, two)
        )
        assert two == pytest.approx(one, rel=0.02)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.started("cpu"):
        torch.save(
            {name: found_or_error(work) for name, work in WORK.items()}, f"{sys.argv[1]}/{distributed.rank()}.pt"
        )
