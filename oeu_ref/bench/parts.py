"""Figures of a step's parts, projection and quantizer, of training, of the reference, and of the first second."""

import subprocess
import sys
import warnings

import numpy as np
import torch
from torch.nn import functional

from ..core import OEU, QuantMLP, fast
from ..core.quantizer import Quantizer, integer_range, step_gradient_scale
from ..data.samples import Samples, stream
from ..lab.images import ImageClassifier, augment
from ..lab.models import mobilenet_v2, resnet18
from ..lab.training import TrainConfig, train
from ..reference.network import QuantizedMLP
from ..reference.unlearner import oeu_step
from ..tensors import Layers
from .machine import MEAN, ROUNDS, STD, float_network, image_case, images_of, row


def projection_figures(machine):
    """The projection alone, against the device's copy bandwidth and against the usual loop over tensors."""
    rows = []
    for name, network in (("ResNet-18", resnet18(10)), ("MobileNetV2", mobilenet_v2(100))):
        shapes = [p.shape for p in network.parameters()][: machine.size(None, 6)]
        generator = torch.Generator().manual_seed(0)
        forget, retain = (
            [torch.randn(shape, generator=generator).to(machine.device) for shape in shapes] for _ in range(2)
        )
        layers = Layers(None, forget)
        count = sum(g.numel() for g in forget)
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
        share = row(f"{what}: copy bandwidth reached", copy, ours, 0.5, False, 2.5)
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


def quantizer_figures(machine):
    """A 4-bit network against the float one, and the fake quantizer alone against PyTorch's fused operation."""
    cases = [image_case(machine, bits) for bits in (4, 32)]

    def passes(classifier, samples):
        classifier.train()
        classifier.zero_grad(set_to_none=True)
        functional.cross_entropy(classifier(samples.inputs), samples.labels).backward()

    quantized, plain = machine.by_turns(*(lambda c=c: passes(c[0], c[1]) for c in cases))
    goal = 1.15 if machine.cuda else 1.12
    rows = [row("4-bit pass forward and backward ÷ float one, ResNet-18, batch 128", quantized, plain, goal)]
    x, quantizer, out, ours = quantizer_case(machine)
    q_min, q_max = integer_range(4, False)
    scale = quantizer.step.detach().clone().view(1).requires_grad_()
    factor = step_gradient_scale(x[0].numel(), q_max)
    step = scale.item()
    zero = torch.zeros_like(scale)

    def learned():
        x_hat = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, q_min, q_max, factor)
        torch.autograd.grad(x_hat, (x, scale), out)

    def fixed():
        torch.autograd.grad(torch.fake_quantize_per_tensor_affine(x, step, 0, q_min, q_max), x, out)

    mine, *others = machine.by_turns(ours, learned, fixed)
    peers = zip(("fused learnable", "fixed-step"), (2.0, 0.6), others)
    name = f"one, forward and backward, {x.numel() / 1e6:.1f} M values, eager"
    return rows + [row(f"fake quantizer ÷ PyTorch's {peer} {name}", mine, other, goal) for peer, goal, other in peers]


def quantizer_case(machine):
    """(activations, a 4-bit quantizer, the cotangent of its output, a function that passes forward and backward)."""
    shape = machine.size((128, 64, 32, 32), (2, 4, 8, 8))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().to(machine.device).requires_grad_()
    quantizer = Quantizer(4, signed=False, per_sample=True).to(machine.device)
    quantizer(x.detach())
    out = torch.ones_like(x)
    return x, quantizer, out, lambda: torch.autograd.grad(quantizer(x), (x, quantizer.step), out)


def training_figure(machine):
    """Images a second of our training loop against the usual one, with a `DataLoader` of four worker processes."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    count = machine.size(12800 if machine.cuda else 1280, 64)
    images, labels = images_of(count, "cpu")
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
    network = float_network(machine).to(machine.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def usual():
        network.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(inputs.to(machine.device)), targets.to(machine.device))
            loss.backward()
            optimizer.step()

    precision = "bfloat16" if machine.cuda else "float32"
    classifier = ImageClassifier(float_network(machine), MEAN, STD, precision).to(machine.device)
    samples = Samples(images, labels).to(machine.device)
    config = TrainConfig(1, batch, 0.01)

    def ours():
        train(classifier, samples, config, stream(0, "bench"), augment=augment)

    ours_s, usual_s = machine.by_turns(ours, usual, rounds=3)
    name = f"training, images a second: ours ({precision}) ÷ DataLoader with 4 workers (float32), float ResNet-18"
    # images a second of ours by theirs: seconds of theirs by ours
    return [row(name, usual_s, ours_s, 5.0 if machine.cuda else 1.2, most=False)]


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
    """Seconds until a command is done, the interpreter's own start included."""
    commands = {
        "import oeu_ref": (["-c", "import oeu_ref"], 0.3),
        "python -m oeu_ref --help": (["-m", "oeu_ref", "--help"], 0.3),
        "python -m oeu_ref check oeu_ref.reference": (["-m", "oeu_ref", "check", "oeu_ref.reference"], 3.0),
    }
    rows = []
    for name, (arguments, goal) in commands.items():
        command = [sys.executable, *arguments]
        (found,) = machine.by_turns(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        rows.append(row(f"{name}, with the interpreter's start", found, goal=goal, unit="s"))
    return rows
