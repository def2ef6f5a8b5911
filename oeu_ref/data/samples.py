"""Labelled samples as tensors in memory, the splits that unlearning needs, and where random numbers come from.

Random numbers. Every draw of a run comes from `stream(seed, name)`, a generator for each use; the global generators of
Python, NumPy and PyTorch are neither used nor changed. The names, with <> for a word or a number:

- data: "split" (training, validation, test), "test images" (which of them), "forget" (what is to be forgotten),
  "label noise" (which labels are wrong, and what they become)
- original and Retrain: "<> weights", and "<> batches" for the order of samples and for augmentation; "estimate batches"
  for a tenth of an epoch that tells how long they take
- unlearning: "method" (random labels), "forget batches", "retain batches" (order and augmentation)
- studies: "requests", "stage <>"; "held out", "fresh batches of <>"; "pool", "half <>"; "relearning batches", "pixels"
- where figures are times: "bench", "cost", "images"

Beside these, from generators made of a seed on the spot: the membership attack's choice of members (the run's seed);
weights and batches of the NumPy reference's network (its argument seed); the cases of the laws (Hypothesis), the test
vectors, the benchmark's inputs and the images on which an exported network is compared (fixed seeds). PyTorch's layers
take no generator for their first weights: `training.build` borrows the global one, and puts it back.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .. import boundary


@dataclass(frozen=True)
class Samples:
    """Inputs with a label each, on one device.

    inputs: (N, ...) tensor; labels: (N,) int64 tensor.  `samples[indices]` picks some, `len(samples)` is N.
    Raises TypeError or ValueError for anything else.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self):
        for name in ("inputs", "labels"):
            if not isinstance(getattr(self, name), Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(getattr(self, name)).__name__}")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must have dtype int64, got {self.labels.dtype}")
        if self.inputs.ndim < 1 or self.labels.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"labels must have shape ({len(self.inputs) if self.inputs.ndim else 0},), one label an input, "
                f"got {tuple(self.labels.shape)}"
            )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, indices):
        return Samples(self.inputs[indices], self.labels[indices])

    def to(self, device):
        """The same samples on another device."""
        return Samples(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """What one unlearning experiment is made of. No sample is in two of forget, retain, validation and test.

    train: what the original model learned, in order; forget, retain: the two parts of it; validation: unseen, for the
    stop rule; test: unseen, for the metrics; forget_indices: (N_forget,) int64, positions in train, ascending;
    indices: {part: positions in the data set}; classes: their names; test_of_forgotten: test samples of classes of
    which none is kept, which are not in test; None where there are no such classes.
    """

    train: Samples
    forget: Samples
    retain: Samples
    validation: Samples
    test: Samples
    forget_indices: Tensor
    indices: dict = field(default_factory=dict)
    classes: tuple = ()
    test_of_forgotten: Samples | None = None

    def to(self, device):
        """The same splits on another device."""
        parts = {name: value for name, value in vars(self).items() if isinstance(value, Samples)}
        return replace(self, **{name: samples.to(device) for name, samples in parts.items()})


def stream(seed, name):
    """A random generator of its own for each use, so that adding one draw leaves all others as they were.

    seed: integer >= 0; name: what the numbers are for, e.g. "label noise".  Returns a CPU `torch.Generator`, a function
    of (seed, name) alone.  Raises TypeError or ValueError for another seed.
    """
    entropy = [boundary.integer("seed", seed, 0), *name.encode()]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def with_label_noise(labels, share, num_classes, generator):
    """Labels of which a share is wrong, uniformly.

    labels: (N,) int64 in [0, num_classes); share in [0, 1]; num_classes >= 2.
    Returns a new (N,) int64 tensor: round(share * N) labels, picked at random, are replaced by another class, each of
    the other classes being equally likely.  Raises TypeError or ValueError for a share or class count out of range.
    """
    share = boundary.number("share", share, 0, 1)
    boundary.integer("num_classes", num_classes, 2)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = other_labels(labels[chosen], num_classes, generator)
    return noisy


def other_labels(labels, num_classes, generator):
    """For each label a different one, uniform over the num_classes - 1 others.

    labels: (N,) int64 in [0, num_classes), any device.  Returns (N,) int64 on the same device.
    """
    # a shift by 1 .. K-1 around the circle of classes never ends where it began; drawn on the generator's own device
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % num_classes


def forget_split(train, share, generator):
    """Divide training samples at random into what is to be forgotten and what is to be kept.

    train: `Samples`, N of them; share strictly between 0 and 1.
    Returns (forget, retain, forget_indices): round(share * N) samples, the others, and where in train the first were,
    all in the order of train.  Raises TypeError or ValueError for a share that leaves either part empty.
    """
    count = round(boundary.number("share", share, 0, 1, "the part of the training samples to forget") * len(train))
    if not 0 < count < len(train):
        raise ValueError(f"share must leave samples to forget and to keep, got {share} of {len(train)} samples")
    generator = boundary.instance("generator", generator, torch.Generator, "torch.Generator")
    return split_at(train, torch.randperm(len(train), generator=generator)[:count])


def class_indices(labels, classes):
    """Where samples of some classes are: the forget set of class-wise unlearning.

    labels: (N,) int64; classes: distinct integers >= 0, at least one.
    Returns (M,) int64, ascending.  Raises TypeError or ValueError, naming it, for a class that has no sample.
    """
    classes = [boundary.integer("classes", c, 0) for c in classes]
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes must name at least one class and none twice, got {classes}")
    for c in classes:
        if not (labels == c).any():
            raise ValueError(f"classes must be classes of the training samples, got {c}, of which there is no sample")
    return torch.isin(labels, torch.tensor(classes, device=labels.device)).nonzero().flatten().cpu()


def split_at(train, indices):
    """Divide training samples into those at the indices, to be forgotten, and the others, to be kept.

    train: `Samples`, N of them; indices: (M,) int64, distinct, in [0, N), in any order; 1 <= M < N.
    Returns (forget, retain, forget_indices), all in the order of train.
    Raises TypeError or ValueError, naming the first that is wrong, for other indices.
    """
    indices = torch.as_tensor(indices)
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool or not len(indices):
        raise TypeError(
            f"indices must be integers of shape (M,), M >= 1, got {indices.dtype} of shape {tuple(indices.shape)}"
        )
    outside = indices[(indices < 0) | (indices >= len(train))]
    if len(outside):
        raise ValueError(f"indices must lie in [0, {len(train)}), one for each training sample, got {outside[0]}")
    chosen = torch.zeros(len(train), dtype=torch.bool)
    chosen[indices] = True
    if (forgotten := int(chosen.sum())) < len(indices):
        values, counts = indices.unique(return_counts=True)
        raise ValueError(f"indices must be distinct, got {values[counts > 1][0]} more than once")
    if forgotten == len(train):
        raise ValueError(f"indices must leave samples to keep, got all {len(train)} of them")
    ascending = chosen.nonzero().flatten()
    chosen = chosen.to(train.labels.device)
    return train[chosen], train[~chosen], ascending


def digits(seed, label_noise=0.2, forget_share=0.1, validation_size=180, test_size=360):
    """The handwritten digits that come with scikit-learn: 1,797 real images of 8 x 8 pixels in 10 classes, no download.

    seed: of all draws; label_noise in [0, 1]: share of the training labels that are made wrong, so that there is
    something to memorize, and so to forget; forget_share in (0, 1); validation_size, test_size >= 1: samples each, the
    rest is for training.  Validation and test labels stay clean.
    Returns `Splits`, inputs (N, 64) float32 in [0, 1].
    Raises TypeError or ValueError, naming the argument, for a value out of range.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part).
    """
    from sklearn.datasets import load_digits  # a second to import: only for those who ask for digits

    validation_size = boundary.integer("validation_size", validation_size, 1)
    test_size = boundary.integer("test_size", test_size, 1)
    images, labels = load_digits(return_X_y=True)
    everything = Samples(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64))
    train_size = len(everything) - validation_size - test_size
    if train_size < 2:
        raise ValueError(
            f"validation_size and test_size must leave at least 2 of {len(everything)} samples for training, "
            f"got {validation_size} and {test_size}"
        )
    order = torch.randperm(len(everything), generator=stream(seed, "split"))
    train_at, validation_at, test_at = order.split([train_size, validation_size, test_size])
    train, validation, test = (everything[part] for part in (train_at, validation_at, test_at))
    train = Samples(train.inputs, with_label_noise(train.labels, label_noise, 10, stream(seed, "label noise")))
    forget, retain, forget_indices = forget_split(train, forget_share, stream(seed, "forget"))
    indices = {"forget": train_at[forget_indices], "validation": validation_at, "test": test_at}
    return Splits(train, forget, retain, validation, test, forget_indices, indices, tuple("0123456789"))


class Batches:
    """Endless batches, each pass over the samples in a new random order. Where it stands can be saved and restored.

    samples: `Samples`, at least one; batch_size >= 1; generator: a `torch.Generator`; augment: None, or called with
    (inputs, generator) to make other inputs of them, such as `oeu_ref.lab.images.augment`.
    `next(...)` gives `Samples` of exactly min(batch_size, len(samples)): what is left over at the end of a pass sits
    this one out, since BatchNorm has no use for a batch of one.
    Raises TypeError or ValueError for no samples or a batch size below 1.
    """

    def __init__(self, samples, batch_size, generator, augment=None):
        if len(samples) == 0:
            raise ValueError("samples must hold at least one sample, got none")
        self.samples, self.augment = samples, augment
        # None would be PyTorch's global generator
        self.generator = boundary.instance("generator", generator, torch.Generator, "torch.Generator")
        self.batch_size = min(boundary.integer("batch_size", batch_size, 1), len(samples))
        self.order, self.position = None, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.order is None or self.position + self.batch_size > len(self.samples):
            order = torch.randperm(len(self.samples), generator=self.generator, device=self.generator.device)
            self.order, self.position = order.to(self.samples.labels.device), 0
        batch = self.samples[self.order[self.position : self.position + self.batch_size]]
        self.position += self.batch_size
        return batch if self.augment is None else Samples(self.augment(batch.inputs, self.generator), batch.labels)

    def state_dict(self):
        """What `load_state_dict` of another object over the same samples needs to go on with the same batches."""
        return {"order": self.order, "position": self.position, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is."""
        self.order, self.position = state["order"], state["position"]
        if self.order is not None:
            self.order = self.order.to(self.samples.labels.device)
        self.generator.set_state(state["generator"].cpu())
