"""What all figures share: the clock, the form of a figure, and ResNet-18 with batches of random images."""

import statistics
import time

import numpy as np
import torch

from ..core.network import quantize_model
from ..data.samples import Samples
from ..lab.images import ImageClassifier
from ..lab.models import resnet18
from ..lab.training import build

ROUNDS = 7
MEAN = (0.4914, 0.4822, 0.4465)  # of CIFAR-10's channels
STD = (0.2470, 0.2435, 0.2616)


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
    seconds = {"ours": statistics.median(ours)}
    if other is not None:
        seconds["other"] = statistics.median(other)
    return {
        "figure": name,
        "value": float(middle),
        "quartiles": [float(low), float(high)],
        "unit": unit,
        "goal": goal,
        "goal_is": "at most" if most else "at least",
        "reached": reached,
        "seconds": seconds,
    }


def images_of(count, device):
    """(images, labels): (count, 3, 32, 32) uint8 and (count,), random."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.randint(0, 10, (count,), generator=generator).to(device)


def float_network(machine):
    """ResNet-18 before it is quantized."""
    return build(lambda: resnet18(10, machine.size(64, 4)), 0)


def image_case(machine, bits, network=None, batch=128):
    """(classifier, forget samples, retain samples), ResNet-18 with a batch of each, past its first forward."""
    network = float_network(machine) if network is None else network
    network = quantize_model(network, bits, bits) if bits < 32 else network
    classifier = ImageClassifier(network, MEAN, STD, "bfloat16" if machine.cuda else "float32").to(machine.device)
    images, labels = images_of(2 * machine.size(batch, 8), machine.device)
    half = len(images) // 2
    with torch.no_grad():
        classifier.train()(images[:half])
    return classifier, Samples(images[:half], labels[:half]), Samples(images[half:], labels[half:])
