"""What bad input could harm: one small world of models, arrays, generators and files, and how to see a change of it."""

import copy
import pathlib
import random
import sys

import numpy as np
import torch
from torch import nn

from oeu_ref import core
from oeu_ref.beyond import subspace
from oeu_ref.core.quantizer import Quantizer
from oeu_ref.data import samples
from oeu_ref.lab import checkpoints, training
from oeu_ref.methods import by_name
from oeu_ref.methods.method import Method, Settings
from oeu_ref.reference import network

from .bad_files import write_files


class World:
    """A model in training, its optimizer, arrays, generators, and a folder of good and bad files.

    folder: an empty one. The files below `files` and all else are watched; `cache` is not, for the package may fill it.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.files, self.cache = self.folder / "files", self.folder / "cache"
        generator = torch.Generator().manual_seed(0)
        self.generator, self.generators = generator, [torch.Generator().manual_seed(i) for i in (1, 2)]
        self.forget, self.retain = torch.rand(5, 6, generator=generator), torch.rand(7, 6, generator=generator)
        self.labels, self.forget_labels = torch.arange(7) % 3, torch.arange(5) % 3
        self.model = training.build(lambda: core.QuantMLP((6, 8, 3), batch_norm=True), 0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.05, momentum=0.9)
        self.oeu = core.OEU(self.model, self.optimizer)
        self.oeu.step(self.forget, self.retain, self.labels)
        self.stop = core.EntropyStop(self.model, self.forget, self.retain)
        self.forget_samples = samples.Samples(self.forget, self.forget_labels)
        self.retain_samples = samples.Samples(self.retain, self.labels)
        self.settings = Settings(0.1)
        self.methods = {}
        for name, info in by_name.METHODS.items():
            parts = copy.deepcopy(self.model), self.forget_samples, self.settings
            self.methods[name] = info.make(*parts, torch.Generator().manual_seed(3))
            self.methods[name].step(self.forget_samples, self.retain_samples)
        self.images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator)
        self.logits = torch.randn(4, 3, generator=generator)
        self.grads = [torch.randn(2, 3, generator=generator), torch.randn(4, generator=generator)]
        self.arrays = [g.double().numpy() for g in self.grads]
        self.probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
        with torch.random.fork_rng(devices=[]):
            self.conv, self.linear = nn.Conv2d(3, 2, 8), nn.Linear(6, 3)
            self.quantized = core.QuantMLP((6, 3)).eval()
        self.quantized(self.retain)
        self.mlp = network.QuantizedMLP((6, 5, 3)).calibrate(self.retain.double().numpy())
        self.memory = subspace.RetainMemory(2)
        self.memory.push(dict(self.model.named_parameters()))
        self.checkpoint = checkpoints.Checkpoint(self.files / "good.pt", {"run": 1})
        write_files(self.files, self.checkpoint, self.model)

    def fingerprint(self):
        """Everything that is watched: {name: bytes or text}."""
        found = {name: _bytes(value) for name, value in vars(self).items() if name not in ("folder", "cache")}
        for path in sorted(self.files.rglob("*")):
            if "__pycache__" in path.parts:  # what Python keeps of a module that was imported
                continue
            found[f"file {path.relative_to(self.files)}"] = path.read_bytes() if path.is_file() else b"a folder"
        found["global generators"] = _bytes([torch.get_rng_state(), random.getstate(), np.random.get_state()])
        found["threads, grad mode, path"] = f"{torch.get_num_threads()} {torch.is_grad_enabled()} {sys.path}"
        return found


def with_first(array, value):
    """A copy of an array or tensor with another value in its first place."""
    other = array.clone() if isinstance(array, torch.Tensor) else array.copy()
    other.reshape(-1)[0] = value
    return other


def _bytes(value):
    """What tells two states of an object apart."""
    if isinstance(value, torch.Tensor):
        return str((value.dtype, value.shape)).encode() + value.detach().reshape(-1).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, torch.Generator):
        return _bytes(value.get_state())
    if isinstance(value, nn.Module):
        modes = [(module.training, isinstance(module, Quantizer) and module.range) for module in value.modules()]
        return _bytes([value.state_dict(), modes, [p.grad for p in value.parameters()]])
    if isinstance(value, dict):
        return b"".join(str(key).encode() + _bytes(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return b"".join(map(_bytes, value))
    if isinstance(value, (network.QuantizedMLP, samples.Samples)):
        return _bytes(vars(value))
    if isinstance(value, checkpoints.Checkpoint):
        return _bytes(value.notes)
    if isinstance(value, core.OEU):
        return _bytes([value.optimizer, value.alpha, value.beta])
    if isinstance(value, Method):
        return _bytes([value.model, value.state_dict()])
    return _bytes(value.state_dict()) if hasattr(value, "state_dict") else repr(value).encode()
