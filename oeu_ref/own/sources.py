"""A user's data, in the form in which it comes, as batches of `Samples` on the model's device.

What data may be: `Samples`; a pair (inputs, labels) of tensors or arrays; a `torch.utils.data.Dataset`; a DataLoader or
any other iterable of batches. A batch is a pair (inputs, labels), or inputs alone where no label is needed.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from .. import arrays
from ..data.samples import Samples
from ..lab import training

UNKNOWN = -1  # label of a sample that came without one
WANTED = "Samples, a pair (inputs, labels), a Dataset, a DataLoader, or another iterable of batches"


def device_of(model):
    """The device of a model's parameters, or of its buffers; the CPU where it has none."""
    return next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device


def in_memory(name, data):
    """`Samples` of data that is tensors, arrays or `Samples` already; None for any other.  Raises as `batch`."""
    whole = isinstance(data, (Samples, torch.Tensor, np.ndarray))
    return batch(name, data) if whole or _is_pair(data) else None


def repeatable(data):
    """The same data, to be passed through more than once: what can be only once, such as a generator, as a list."""
    return list(data) if isinstance(data, Iterator) else data


def batches(name, data, device, batch_size=256):
    """One pass over data, batch after batch: `Samples` on a device.

    name: of the argument, for messages; batch_size: where data comes without batches of its own.
    Raises TypeError or ValueError, naming it, for data that is none, or holds no sample.
    """
    samples, count = in_memory(name, data), 0
    if samples is not None:
        parts = (samples[i : i + batch_size] for i in range(0, len(samples), batch_size))
    else:
        # a generator of its own: a DataLoader draws from the global one else, even where it does not shuffle
        data = _iterable(name, data, batch_size=batch_size, generator=torch.Generator())
        parts = (batch(name, part) for part in data)
    for part in parts:
        count += len(part)
        yield part.to(device)
    if not count:
        raise ValueError(f"{name} must hold at least one sample, got none")


def some(name, data, device, count):
    """At most `count` samples in memory: of tensors, evenly spread ones; of what comes in batches, the first."""
    if (samples := in_memory(name, data)) is not None:
        return next(batches(name, samples[:: -(-len(samples) // count) or 1], device, count))
    parts, found = [], 0
    for part in batches(name, data, device):
        parts, found = [*parts, part], found + len(part)
        if found >= count:
            break
    if len(shapes := {tuple(part.inputs.shape[1:]): None for part in parts}) > 1:
        one, other, *_ = shapes
        raise ValueError(
            f"{name} must give inputs of one shape in all batches, got samples of shapes {one} and {other}: pad them "
            "to one length; labels, if these are, are integers"
        )
    joined = (torch.cat([getattr(part, field) for part in parts])[:count] for field in ("inputs", "labels"))
    return Samples(*joined)


def predictions(name, model, samples):
    """`oeu_ref.lab.training.predictions` of the data of that name.  ValueError for what the model cannot take."""
    try:
        return training.predictions(model, samples)
    except (RuntimeError, IndexError) as error:
        if type(error) not in (RuntimeError, IndexError):  # out of memory, for instance, is not the data's fault
            raise
        inputs = samples.inputs
        raise ValueError(
            f"{name} must hold inputs that the model takes, got {inputs.dtype} of shape {tuple(inputs.shape)}: {error}"
        ) from error


def source(name, data, device, batch_size, generator):
    """What the unlearning loop draws batches from: `Samples` of what is in memory, `Repeated` of all else.

    batch_size: of a data set without batches of its own; generator: of its order.
    """
    if (samples := in_memory(name, data)) is not None:
        return samples.to(device)
    return Repeated(name, _iterable(name, data, batch_size=batch_size, shuffle=True, generator=generator), device)


def split_off(name, data, device, count):
    """(the same data, `some` of it): what can be passed through once only loses nothing by the look."""
    if not isinstance(data, Iterator):
        return data, some(name, data, device, count)
    first = []
    while sum(map(len, first)) < count and (part := next(data, None)) is not None:
        first.append(batch(name, part))
    return itertools.chain(first, data), some(name, first, device, count)


class Bytes(nn.Module):
    """A network that takes images as bytes, around one that takes floats in [0, 1]."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        """images: (N, ...) uint8.  What the network makes of them."""
        return self.network(images / 255)


class Repeated:
    """Endless batches of an iterable, from its beginning again at its end: `next(...)` gives `Samples` on a device.

    What can be passed through once only, such as a generator, is kept as it comes, and repeated from memory.
    inputs: of some samples, in memory, for BatchNorm's statistics.
    Raises ValueError, naming it, where it gives no batch at all, and as `batch`.
    """

    def __init__(self, name, data, device):
        self.name, self.device = name, device
        self.data = itertools.cycle(data) if isinstance(data, Iterator) else data
        self.inputs = None
        self._begin()

    def _begin(self):
        # a loader without a generator of its own draws its order from the global one, with the first batch
        self.start = [generator.get_state() for generator in self._generators()]
        self.drawn = 0
        now = iter(self.data)
        self.now = itertools.chain(list(itertools.islice(now, 1)), now)

    def _generators(self):
        places = (self.data, getattr(self.data, "sampler", None))
        own = [generator for place in places if (generator := getattr(place, "generator", None)) is not None]
        return [torch.default_generator, *own]

    def __iter__(self):
        return self

    def __next__(self):
        for _ in range(2):
            for part in self.now:
                self.drawn += 1
                return batch(self.name, part).to(self.device)
            self._begin()
        raise ValueError(f"{self.name} must hold at least one batch, got none")

    def state_dict(self):
        """Where it stands in a pass, and the generators as they were at its beginning."""
        return {"start": self.start, "drawn": self.drawn}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is, if its data gives the same batches again."""
        for generator, start in zip(self._generators(), state["start"]):
            generator.set_state(start)
        if not isinstance(self.data, Iterator):  # else it has just begun, and can do so once
            self._begin()
        for _ in range(state["drawn"]):
            next(self)


def batch(name, part):
    """`Samples` of one batch, a pair (inputs, labels) or inputs alone, which have the label UNKNOWN.

    Raises TypeError or ValueError, naming the data that it is of, for anything else.
    """
    if isinstance(part, Samples):
        return part
    if isinstance(part, (tuple, list)) and len(part) == 1:
        part = part[0]
    inputs, labels = part if _is_pair(part) else (part, None)
    if not isinstance(inputs, (torch.Tensor, np.ndarray)):
        raise TypeError(f"{name} must give batches (inputs, labels) of tensors, got {_described(part)}")
    if labels is not None and np.ndim(labels) == 0:
        raise ValueError(f"{name} must give batches, got a single sample: a DataLoader makes batches of samples")
    inputs = torch.as_tensor(inputs)
    if labels is None:
        return Samples(inputs, torch.full(inputs.shape[:1], UNKNOWN))
    labels = arrays.integers(f"the labels of {name}", torch.as_tensor(labels), torch).long()
    try:
        return Samples(inputs, labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def labelled(name, samples):
    """Return `Samples` in which every sample has a label; raise TypeError otherwise."""
    if (samples.labels == UNKNOWN).any():
        raise TypeError(f"{name} must come with labels: pairs (inputs, labels), got inputs alone, or a label -1")
    return samples


def _iterable(name, data, **options):
    if isinstance(data, Dataset):
        # one without a length has its own order; BatchNorm has no use for the batch of one that may be left over
        shuffled = options.pop("shuffle", False) and hasattr(data, "__len__")
        return DataLoader(data, shuffle=shuffled, drop_last=shuffled and len(data) >= options["batch_size"], **options)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, dict)):
        raise TypeError(f"{name} must be {WANTED}, got {type(data).__name__}")
    # in an order drawn anew each time others are left out, and all have their turn
    fixed = isinstance(data, DataLoader) and data.drop_last and isinstance(data.sampler, SequentialSampler)
    if name == "forget" and fixed and (dropped := len(data.sampler) % data.batch_size):
        raise ValueError(f"forget must give every sample, its DataLoader drops {dropped}: make it with drop_last=False")
    return data


def _is_pair(data):
    arrays = (torch.Tensor, np.ndarray)
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not all(isinstance(part, arrays) for part in data):
        return False
    labels = torch.as_tensor(data[1])
    return labels.ndim < 2 or not labels.is_floating_point()  # else they are two batches of inputs alone


def _described(part):
    if isinstance(part, (tuple, list)):
        kinds = [type(p).__name__ for p in part[:4]] + ["…"] * (len(part) > 4)
        return f"{type(part).__name__} of {', '.join(kinds) or 'nothing'}"
    return type(part).__name__
