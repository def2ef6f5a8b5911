"""Figures of whole steps: their time and memory beside what one would write oneself, and how they grow."""

import math
import statistics
import weakref

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..core.network import QuantMLP, quantize_model
from ..core.unlearner import OEU
from ..data.samples import Samples
from ..lab.training import build
from ..methods.orthogonal import JointOEU
from .machine import ROUNDS, image_case, row


def step_figures(machine):
    """An OEU step, and one with a joint forward, against the six lines one would write instead and two plain passes.

    torchvision's ResNet-18 as it is: on images this small its stem leaves little arithmetic for each parameter, so that
    what a step does besides the passes weighs more than elsewhere.
    """
    import torchvision

    rows = []
    floor = "two plain passes and one optimizer step"
    for batch, *goals in ((32, 1.02, 1.06), (128, 1.0, 1.02)):
        network = None if machine.quick else build(lambda: torchvision.models.resnet18(num_classes=10), 0)
        model, *data = image_case(machine, 4, network, batch)
        optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
        makers = (_step, _six_lines, _plain_step, lambda *case: _step(*case, kind=JointOEU))
        steps = [make(model, optimizer, *data) for make in makers]
        ours, six, plain, joint = machine.by_turns(*steps, rounds=2 * ROUNDS)
        name = f"4-bit ResNet-18 of torchvision, batch {batch}"
        rows += [
            row(f"OEU step ÷ the six lines one would write oneself, {name}", ours, six, goals[0]),
            row(f"OEU step ÷ {floor}, {name}", ours, plain, goals[1]),
            row(f"OEU step with a joint forward ÷ {floor}, {name}", joint, plain),
        ]
    return rows


def _step(model, optimizer, forget, retain, kind=OEU):
    """A function that takes a step of OEU."""
    oeu = kind(model, optimizer)
    return lambda: oeu.step(forget.inputs, retain.inputs, retain.labels)


def _six_lines(model, optimizer, forget, retain):
    """A function that takes OEU's step as one would write it oneself: a tensor a layer, no report, nothing checked."""
    parameters = list(model.parameters())

    def six_lines():
        log_p = model(forget.inputs).log_softmax(dim=1)
        g_f = torch.autograd.grad((log_p.exp() * log_p).sum(dim=1).mean(), parameters)
        g_r = torch.autograd.grad(functional.cross_entropy(model(retain.inputs), retain.labels), parameters)
        for p, f, r in zip(parameters, g_f, g_r):
            p.grad = r + f - (f * r).sum() / (r * r).sum() * r
        optimizer.step()

    return six_lines


def _plain_step(model, optimizer, *batches):
    """A function that passes each batch of `Samples` forward and backward and takes one step of the optimizer."""

    def plain():
        optimizer.zero_grad(set_to_none=True)
        for samples in batches:
            functional.cross_entropy(model(samples.inputs), samples.labels).backward()
        optimizer.step()

    return plain


def memory_figure(machine):
    """Largest memory of an OEU step beyond that of the six lines, in copies of the gradients."""
    model, *data = image_case(machine, bits=4)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    ours, six = (_peak_memory(machine, make(model, optimizer, *data)) for make in (_step, _six_lines))
    gradients = sum(p.nbytes for p in model.parameters())
    name = "peak memory of a step beyond that of the six lines, in copies of the gradients"
    found = row(name, [ours - six], goal=0.01, scale=1 / gradients, unit="copies")  # 0.01: statistics as they were
    del found["seconds"]
    return [{**found, "bytes": {"ours": ours, "six lines": six, "gradients": gradients}}]


def _peak_memory(machine, function):
    """Bytes of tensors at the worst moment of a call, beyond those before it."""
    function()
    if machine.cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _LiveBytes() as live:
        function()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while it is on and that are still alive; peak: the most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [t.untyped_storage() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            # what an operation was given and gives back, in place or as a view, is not new
            if isinstance(tensor, torch.Tensor) and not any(tensor.untyped_storage() is storage for storage in given):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        if storage not in self.seen:
            self.seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, count):
        self.now -= count


def scaling_figure_rows(machine):
    """Seconds of a step and of plain passes as things grow: ({what: [[size, step, plain]]}, rows with the slopes)."""
    sizes = {
        "parameters": machine.size((1e5, 1e6, 1e7, 1e8), (1e3, 1e4)),
        "layers": machine.size((10, 30, 100, 300, 1000), (4, 8)),
        "classes": machine.size((10, 100, 1000, 10000), (4, 8)),
    }
    curves, rows = {}, []
    for what, values in sizes.items():
        curves[what] = []
        for value in values:
            times = machine.by_turns(*_scaled_steps(machine, what, int(value)), rounds=5)
            curves[what].append([int(value), *map(statistics.median, times)])
        (n1, *before), (n2, *after) = curves[what][-2:]
        slopes = [math.log(t2 / t1) / math.log(n2 / n1) for t1, t2 in zip(before, after)]
        name = f"growth of a step with {what}, {n1:,} to {n2:,}: exponent (1: linear)"
        rows.append(row(name, slopes[:1], goal=1.1, unit=""))
        rows.append(row(f"{name}, less plain passes'", [slopes[0] - slopes[1]], goal=0.03, unit=""))
    for found in rows:
        del found["seconds"]
    return curves, rows


def _scaled_steps(machine, what, value):
    """An OEU step and two plain passes of a perceptron with so many parameters, layers or classes, batch 32 + 32."""
    side = round(math.sqrt(value / 3)) if what == "parameters" else 64
    if what == "parameters":
        model = build(lambda: QuantMLP((side,) * 4), 0)
    elif what == "layers":
        layers = [_Residual(nn.Linear(side, side), value) for _ in range(value)]
        model = quantize_model(build(lambda: nn.Sequential(*layers, nn.Linear(side, 10)), 0), 4, 4)
    else:
        model = build(lambda: QuantMLP((side, 256, value)), 0)
    model.to(machine.device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(64, side, generator=generator).to(machine.device)
    labels = torch.randint(value if what == "classes" else 10, (32,), generator=generator).to(machine.device)
    batches = Samples(inputs[:32], labels), Samples(inputs[32:], labels)
    return _step(model, optimizer, *batches), _plain_step(model, optimizer, *batches)


class _Residual(nn.Module):
    """A layer whose output is added to its input; a thousand without that have gradients of zero."""

    def __init__(self, layer, count):
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, inputs):
        return inputs + torch.relu(self.layer(inputs)) / self.count
