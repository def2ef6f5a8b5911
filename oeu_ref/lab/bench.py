"""The benchmark: what OEU costs on top of what it needs, as ratios of times measured by turns in one run.

Machines are noisy, so nothing here is a test. Every figure names its goal, and says whether this machine reached it.
"""

import math
import os
import statistics
import subprocess
import sys
import time
import warnings
import weakref

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .. import boundary, files
from ..core import fast, projection
from ..core.network import QuantMLP, quantize_model
from ..core.quantizer import Quantizer, integer_range, step_gradient_scale
from ..core.unlearner import OEU
from ..data.samples import Samples, stream
from ..methods.orthogonal import JointOEU
from ..reference.network import QuantizedMLP
from ..reference.unlearner import oeu_step
from ..report import results
from ..report.figures import STYLES, clean, new_figure, picture, written
from .engine import progress_bar
from .images import ImageClassifier, augment
from .models import mobilenet_v2, resnet18
from .training import TrainConfig, build, train

ROUNDS = 7
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's channels


def bench(out, device="cpu", only=None, quick=False, progress=True):
    """Measure all figures, or some, and write OUT/bench.json, OUT/bench.md and OUT/bench_scaling.png.

    out: a folder, made if it is missing; device: "cpu" or "cuda"; only: names among FIGURES, None: all; quick: tiny
    sizes and few rounds, to see that everything works: the figures mean nothing; progress: show a bar on stderr.
    Returns {"table": str, "json": Path, "markdown": Path}.
    Raises ValueError for an unknown name, or a folder that cannot be written to.
    """
    names = [boundary.one_of("only", name, tuple(FIGURES)) for name in (FIGURES if only is None else only)]
    out = results.output_directory("out", out)
    rows, curves = [], {}
    with files.alone(out), progress_bar(len(names), progress, "figures") as bar:
        for name in names:
            bar.set_description(name)
            found = FIGURES[name](Machine(device, quick))
            if name == "scaling":
                curves, found = found
            rows += found
            bar.update()
    data = results.plain(
        {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "versions": results.versions(),
            "date": time.strftime("%Y-%m-%d"),
            "load": os.getloadavg(),
            "quick": quick,
            "rows": rows,
            "scaling": curves,
        }
    )
    found = written(out, "bench", data, markdown(data))
    if curves:
        picture(out / "bench_scaling.png", scaling_figure, curves)
    return found


class Machine:
    """Where to measure and how: a device, sizes, and a clock that waits for the device."""

    def __init__(self, device, quick):
        self.device, self.quick = device, quick
        self.cuda = str(device).startswith("cuda")

    def size(self, full, quick):
        """One of two sizes, as asked for."""
        return quick if self.quick else full

    def by_turns(self, *functions, rounds=ROUNDS):
        """Seconds of each function in each round, called by turns after one call of each that does not count.

        Returns a list of lists, one a function.
        """
        times = [[] for _ in functions]
        for i in range(self.size(rounds, 2) + 1):
            for found, function in zip(times, functions):
                self.wait()
                start = time.perf_counter()
                function()
                self.wait()
                if i:
                    found.append(time.perf_counter() - start)
        return times

    def wait(self):
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()


def row(name, ours, other=None, goal=None, most=True, scale=1.0, unit="ratio"):
    """A figure: median over the rounds of ours / other (or of ours alone) times scale, with quartiles.

    goal: a number, None where a figure is only reported; most: whether the goal is an upper bound.
    """
    values = [scale * a / b for a, b in zip(ours, other)] if other is not None else [scale * a for a in ours]
    low, middle, high = np.percentile(values, (25, 50, 75)) if len(values) > 1 else values * 3
    reached = None if goal is None else bool(middle <= goal if most else middle >= goal)
    found = {"figure": name, "value": float(middle), "quartiles": [float(low), float(high)], "unit": unit}
    seconds = {"ours": statistics.median(ours), **({} if other is None else {"other": statistics.median(other)})}
    return {**found, "goal": goal, "goal_is": "at most" if most else "at least", "reached": reached, "seconds": seconds}


# One step


def step_figures(machine):
    """An OEU step, and one with a joint forward, against the six lines one would write instead and two plain passes.

    torchvision's ResNet-18 as it is: on images this small its stem leaves little arithmetic for each parameter, so that
    what a step does besides the passes weighs more than elsewhere.
    """
    import torchvision

    rows, floor = [], "two plain passes and one optimizer step"
    for batch, *goals in ((32, 1.02, 1.06), (128, 1.0, 1.02)):
        network = None if machine.quick else build(lambda: torchvision.models.resnet18(num_classes=10), 0)
        model, *data = _image_case(machine, 4, network, batch)
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
    model, *data = _image_case(machine, bits=4)
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


# The projection


def projection_figures(machine):
    """The projection alone, against the device's copy bandwidth and against the usual loop over tensors."""
    rows = []
    for name, network in (("ResNet-18", resnet18(10)), ("MobileNetV2", mobilenet_v2(100))):
        shapes = [p.shape for p in network.parameters()][: machine.size(None, 6)]
        generator = torch.Generator().manual_seed(0)
        forget, retain = (
            [torch.randn(shape, generator=generator).to(machine.device) for shape in shapes] for _ in range(2)
        )
        layers, count = projection.Layers(None, forget), sum(g.numel() for g in forget)
        # written to: memory that never was is one page of zeros, which a copy reads from the cache
        source, target = (torch.ones(count, device=machine.device) for _ in range(2))
        work = [g.clone() for g in forget]
        ours, loop, copy = machine.by_turns(
            lambda: fast.projected(work, retain, layers, overwrite=True),
            lambda: _surgery(forget, retain),
            lambda: target.copy_(source),
            rounds=5 * ROUNDS,
        )
        what = f"projection, {count / 1e6:.1f} M parameters in {len(shapes)} tensors ({name})"
        # reads each gradient twice and writes the result once; a copy reads once and writes once
        share = row(f"{what}: copy bandwidth reached", copy, ours, 0.5 if machine.cuda else 0.4, False, 2.5)
        rows += [share, row(f"{what} ÷ loop over tensors", ours, loop, 0.2 if machine.cuda else 0.7)]
    return rows


def _surgery(forget, retain):
    """What most code for gradient surgery does: tensor by tensor, normalize, project, scale back."""
    result = []
    for g_f, g_r in zip(forget, retain):
        norm_f, norm_r = g_f.norm(), g_r.norm()
        unit_f, unit_r = g_f / norm_f, g_r / norm_r
        result.append((unit_f - (unit_f * unit_r).sum() * unit_r) * norm_f)
    return result


# The quantizer


def quantizer_figures(machine):
    """A 4-bit network against the float one, and the fake quantizer alone against PyTorch's fused operation."""
    cases = [_image_case(machine, bits) for bits in (4, 32)]

    def passes(classifier, samples):
        classifier.train()
        classifier.zero_grad(set_to_none=True)
        functional.cross_entropy(classifier(samples.inputs), samples.labels).backward()

    quantized, plain = machine.by_turns(*(lambda c=c: passes(c[0], c[1]) for c in cases))
    goal = 1.15 if machine.cuda else 1.12
    rows = [row("4-bit pass forward and backward ÷ float one, ResNet-18, batch 128", quantized, plain, goal)]
    shape = machine.size((128, 64, 32, 32), (2, 4, 8, 8))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().to(machine.device).requires_grad_()
    quantizer = Quantizer(4, signed=False, per_sample=True).to(machine.device)
    quantizer(x.detach())
    out, (q_min, q_max) = torch.ones_like(x), integer_range(4, False)
    scale = quantizer.step.detach().clone().view(1).requires_grad_()
    factor, step, zero = step_gradient_scale(x[0].numel(), q_max), scale.item(), torch.zeros_like(scale)

    def ours():
        torch.autograd.grad(quantizer(x), (x, quantizer.step), out)

    def learned():
        x_hat = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, q_min, q_max, factor)
        torch.autograd.grad(x_hat, (x, scale), out)

    def fixed():
        torch.autograd.grad(torch.fake_quantize_per_tensor_affine(x, step, 0, q_min, q_max), x, out)

    mine, *others = machine.by_turns(ours, learned, fixed)
    peers = zip(("fused learnable", "fixed-step"), (2.0, 0.6), others)
    name = f"one, forward and backward, {x.numel() / 1e6:.1f} M values, eager"
    return rows + [row(f"fake quantizer ÷ PyTorch's {peer} {name}", mine, other, goal) for peer, goal, other in peers]


# Training


def training_figure(machine):
    """Images a second of our training loop against the usual one, with a `DataLoader` of four worker processes."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    count = machine.size(12800 if machine.cuda else 1280, 64)
    images, labels = _images(count, "cpu")
    crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()

    class Pictures(Dataset):
        """As torchvision's CIFAR10 gives them: a PIL image through its transforms, one at a time."""

        transform = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        arrays = images.permute(0, 2, 3, 1).contiguous().numpy()

        def __len__(self):
            return count

        def __getitem__(self, i):
            return self.transform(Image.fromarray(self.arrays[i])), int(labels[i])

    batch, workers = machine.size((128, 4), (16, 0))
    with warnings.catch_warnings():  # the usual loop has four workers, on fewer cores too
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(Pictures(), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    network = _float_network(machine).to(machine.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def usual():
        network.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(inputs.to(machine.device)), targets.to(machine.device))
            loss.backward()
            optimizer.step()

    precision = "bfloat16" if machine.cuda else "float32"
    classifier = ImageClassifier(_float_network(machine), MEAN, STD, precision).to(machine.device)
    samples = Samples(images, labels).to(machine.device)
    config = TrainConfig(1, batch, 0.01)

    def ours():
        train(classifier, samples, config, stream(0, "bench"), augment=augment)

    ours_s, usual_s = machine.by_turns(ours, usual, rounds=3)
    name = f"training, images a second: ours ({precision}) ÷ DataLoader with 4 workers (float32), float ResNet-18"
    # images a second of ours by theirs: seconds of theirs by ours
    return [row(name, usual_s, ours_s, 5.0 if machine.cuda else 1.2, most=False)]


# Growth


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
        name, own = f"growth of a step with {what}, {n1:,} to {n2:,}: exponent (1: linear)", [slopes[0] - slopes[1]]
        rows += [row(name, slopes[:1], goal=1.1, unit=""), row(f"{name}, less plain passes'", own, goal=0.03, unit="")]
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


def scaling_figure(curves):
    """Step time against the size of the work, both logarithmic, with a line of slope 1 through the last point."""
    figure = new_figure(9.5, 3.2)
    for ax, (what, points) in zip(figure.subplots(1, len(curves)), curves.items()):
        sizes, seconds, plain = np.array(points).T
        ax.loglog(sizes, 1e3 * seconds, marker="o", color=STYLES["oeu"]["color"], label="OEU step")
        ax.loglog(sizes, 1e3 * plain, marker="s", linestyle="--", color="0.55", label="two plain passes")
        ax.loglog(sizes, 1e3 * seconds[-1] * sizes / sizes[-1], linestyle=":", color=STYLES["retrain"]["color"])
        ax.legend(frameon=False, fontsize="small")
        ax.set_xlabel(f"{what} (dotted: linear)")
        ax.set_ylabel("time of a step (ms)")
        clean(ax, "", grid="both")
    return figure


# The reference, and the first second


def reference_figure(machine):
    """A step of the NumPy reference against one of the core, on the same small network."""
    rng = np.random.default_rng(0)
    sizes = (64, 32, 10)
    net = QuantizedMLP(sizes)
    inputs, labels = rng.random((64, 64)), rng.integers(0, 10, 32)
    net.calibrate(inputs)
    model = QuantMLP(sizes).double()
    model.load_reference(net)
    oeu = OEU(model, torch.optim.SGD(model.parameters(), 1e-3))
    tensors = torch.tensor(inputs), torch.tensor(labels)
    ours = machine.by_turns(
        lambda: oeu_step(net, inputs[:32], inputs[32:], labels, 1e-3),
        lambda: oeu.step(tensors[0][:32], tensors[0][32:], tensors[1]),
        rounds=5 * ROUNDS,
    )
    return [row("NumPy reference step ÷ core step, perceptron 64-32-10, CPU", *ours)]


def start_figures(machine):
    """Seconds until `import oeu_ref` and `python -m oeu_ref --help` are done, the interpreter's own start included."""
    commands = {"import oeu_ref": ["-c", "import oeu_ref"], "python -m oeu_ref --help": ["-m", "oeu_ref", "--help"]}
    rows = []
    for name, arguments in commands.items():
        command = [sys.executable, *arguments]
        (found,) = machine.by_turns(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        rows.append(row(f"{name}, with the interpreter's start", found, goal=0.3, unit="s"))
    return rows


FIGURES = {
    "step": step_figures,
    "projection": projection_figures,
    "memory": memory_figure,
    "quantizer": quantizer_figures,
    "training": training_figure,
    "scaling": scaling_figure_rows,
    "reference": reference_figure,
    "start": start_figures,
}


def markdown(data):
    """The table of a bench.json, with machine, versions and date below: a string."""
    rows = [["figure", "measured", "quartiles", "goal", "reached"]]
    for found in data["rows"]:
        low, high = found["quartiles"]
        unit = f" {found['unit']}" if found["unit"] not in ("ratio", "") else ""
        bound = "≤" if found["goal_is"] == "at most" else "≥"
        goal = "–" if found["goal"] is None else f"{bound} {found['goal']:g}{unit}"
        reached = {None: "–", True: "yes", False: "no"}[found["reached"]]
        rows.append([found["figure"], f"{found['value']:.2f}{unit}", f"{low:.2f} to {high:.2f}", goal, reached])
    versions = data["versions"]
    where = data["device"] if data["device"] != "cpu" else f"CPU, {data['threads']} threads"
    about = (
        f"{where}; torch {versions['torch']}, NumPy {versions['numpy']}, Python {versions['python']}; {data['date']}; "
        f"processes at work in the last minutes: {data['load'][2]:.1f}."
    )
    quick = " Tiny sizes, to see that it works: the figures mean nothing." if data["quick"] else ""
    return f"{results.aligned(rows)}\n\n{about}{quick}"


def _images(count, device):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.randint(0, 10, (count,), generator=generator).to(device)


def _float_network(machine):
    return build(lambda: resnet18(10, machine.size(64, 4)), 0)


def _image_case(machine, bits, network=None, batch=128):
    """(classifier, forget samples, retain samples), ResNet-18 with a batch of each, past its first forward."""
    network = _float_network(machine) if network is None else network
    network = quantize_model(network, bits, bits) if bits < 32 else network
    classifier = ImageClassifier(network, MEAN, STD, "bfloat16" if machine.cuda else "float32").to(machine.device)
    images, labels = _images(2 * machine.size(batch, 8), machine.device)
    half = len(images) // 2
    with torch.no_grad():
        classifier.train()(images[:half])
    return classifier, Samples(images[:half], labels[:half]), Samples(images[half:], labels[half:])
