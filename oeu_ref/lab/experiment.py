"""What an experiment is: data, splits, network, training and budget, of images or of digits."""

import collections
import dataclasses
import functools
import hashlib

import torch

from .. import boundary
from ..core.network import QuantMLP, quantize_model
from ..data.image_sets import load_images
from ..data.requests import class_numbers, held_out, indices_of_file, settle_copies, whole_classes
from ..data.samples import Samples, Splits, class_indices, digits, forget_split, split_at, stream
from ..methods.protocol import MIXED, ROWS, SHUFFLED
from . import options
from .images import ImageClassifier, augment, channel_statistics
from .models import ARCHITECTURES
from .options import PRECISIONS, PROTOCOLS, STANDARD_WIDTHS
from .training import TrainConfig, UnlearnConfig


@dataclasses.dataclass(frozen=True)
class Experiment(options.Setup):
    """All that a result depends on, but for the seed, a method's settings, and the kind of device.

    Its fields, and what each means, are those of `options.Setup`; exactly one of forget_ratio, forget_classes and
    forget_file is given. dataset, image_size: as in `oeu_ref.data.image_sets.load_images`; train_size, test_size: None
    for all images that there are, but for the validation images; width: None for the standard width.
    Raises TypeError or ValueError, naming the field, for a value out of range.
    """

    forget_copies = False  # no field: results of before there were `ForgettingCopies` are still of this experiment

    def __post_init__(self):
        chosen = [n for n in ("forget_ratio", "forget_classes", "forget_file") if getattr(self, n) is not None]
        if len(chosen) != 1:
            chosen = ", ".join(chosen) or "none"
            raise ValueError(f"one of forget_ratio, forget_classes and forget_file must be given, got {chosen}")
        if self.forget_ratio is not None:
            boundary.number("forget_ratio", self.forget_ratio, 0, 1, "the part of the training images to forget")
            if self.forget_ratio in (0, 1):
                raise ValueError(
                    "forget_ratio must lie strictly between 0 and 1, so that there are images to forget and to keep, "
                    f"got {self.forget_ratio}"
                )
        boundary.one_of("arch", self.arch, tuple(ARCHITECTURES))
        boundary.one_of("precision", self.precision, PRECISIONS)
        for name, least in (("train_size", 2), ("test_size", 2), ("width", 1), ("image_size", 1)):
            if getattr(self, name) is not None:
                boundary.integer(name, getattr(self, name), least)
        boundary.integer("validation_size", self.validation_size, 4)
        boundary.integer("stem_stride", self.stem_stride, 1, 2)
        for name in ("weight_bits", "activation_bits", "first_last_bits"):
            boundary.bits(name, getattr(self, name))
        self.training(), self.unlearning()

    kept = ("original", "retrain")  # cells whose model is made again where its file is missing
    all_features = False  # whether rows are attacked by all of `attacks.by_feature`, which takes long
    stop_every = 5  # steps between two questions of the stop rule, which reads some thousand images each time

    def training(self):
        """How original and Retrain are trained: a `TrainConfig`."""
        return TrainConfig(self.epochs, self.batch_size, self.learning_rate, weight_decay=self.weight_decay)

    def unlearning(self):
        """How every method unlearns: an `UnlearnConfig`."""
        return UnlearnConfig(self.forget_batch, self.retain_batch, self.schedule, self.recalibrated)

    @property
    def is_request(self):
        """Whether somebody chose what is to be forgotten, and not chance."""
        return self.forget_ratio is None

    def augment(self):
        """What makes other inputs of a batch's, None: nothing does."""
        return augment if self.augmented else None

    def order(self, method, splits):
        """In which order a method gets its batches, as `training.unlearn` takes it; None: one of each at every step."""

    def load(self, source):
        """The data set; source: {"data_root", "cache_dir", "download"}.  Raises as `load_images`."""
        return _images(self.dataset, source["data_root"], source["cache_dir"], self.image_size, source["download"])

    def split(self, data, seed):
        """Training, validation and test images of one seed, and what is to be forgotten: a function of the seed.

        data: as `load` gives it.  Returns `Splits` on the CPU, whose "indices" count the data set's images.
        Raises TypeError or ValueError, naming the field, for sizes or a forget set that the data cannot give.
        """
        everything = Samples(data.train_images, data.train_labels)
        rest = len(everything) - self.validation_size
        train_size = rest if self.train_size is None else self.train_size
        if train_size > rest or train_size < 2:
            raise ValueError(
                f"train_size and validation_size must together be at most {len(everything)}, the training images, "
                f"got {self.train_size} and {self.validation_size}"
            )
        test_count = len(data.test_labels)
        test_size = test_count if self.test_size is None else self.test_size
        if test_size > test_count:
            raise ValueError(f"test_size must be at most {test_count}, the test images, got {test_size}")
        order = torch.randperm(len(everything), generator=stream(seed, "split"))
        wanted = None if self.forget_file is None else indices_of_file(self.forget_file, len(everything))
        validation_at, train_at = held_out(order, self.validation_size, train_size, wanted)
        test_at = torch.randperm(test_count, generator=stream(seed, "test images"))[:test_size].sort().values
        training = everything[train_at]
        if self.forget_ratio is not None:
            chosen = forget_split(training, self.forget_ratio, stream(seed, "forget"))[2]
        elif self.forget_classes is not None:
            chosen = class_indices(training.labels, class_numbers(self.forget_classes, data.classes))
        else:
            chosen = torch.isin(train_at, wanted).nonzero().flatten()
        kept = torch.ones(len(training), dtype=torch.bool)
        kept[chosen] = False
        indices = {"forget": train_at[chosen], "retain": train_at[kept], "validation": validation_at, "test": test_at}
        test = Samples(data.test_images, data.test_labels)
        indices = settle_copies(everything, test, indices, self.forget_copies)
        forget, retain, chosen = split_at(training, torch.isin(train_at, indices["forget"]).nonzero().flatten())
        # as SalUn's code: a retrained model cannot know such classes, and a perfect one would lose accuracy there and
        # give their test images to the attack as unseen
        gone = torch.tensor(whole_classes(forget.labels, retain.labels), dtype=torch.int64)
        gone = torch.isin(test.labels[indices["test"]], gone)
        if gone.all():
            raise ValueError("test_size must leave test images of classes that are kept, there are none")
        of_forgotten = test[indices["test"][gone]] if gone.any() else None
        indices["test"] = indices["test"][~gone]
        validation, test = everything[indices["validation"]], test[indices["test"]]
        return Splits(training, forget, retain, validation, test, chosen, indices, data.classes, of_forgotten)

    def network(self, splits):
        """The quantized classifier of a seed's images, with the global generator's initial weights."""
        # statistics of the retain images: Retrain must not know the others, and the original may do without them
        return self.classifier(len(splits.classes), *channel_statistics(splits.retain.inputs))

    def classifier(self, num_classes, mean, std):
        """The same for any images; mean, std: of each channel, (C,)."""
        width = STANDARD_WIDTHS[self.arch] if self.width is None else self.width
        network = ARCHITECTURES[self.arch](num_classes, width, self.stem_stride)
        if {self.weight_bits, self.activation_bits} != {32}:
            network = quantize_model(network, self.weight_bits, self.activation_bits, self.first_last_bits)
        return ImageClassifier(network, mean, std, self.precision, self.compiled)


@functools.lru_cache(maxsize=2)
def _images(dataset, data_root, cache_dir, image_size, download):
    return load_images(dataset, data_root, download, cache_dir, image_size)


@dataclasses.dataclass(frozen=True)
class Digits:
    """The demo's experiment, with all that `Experiment` offers to the engine: a small network learns scikit-learn's
    digits, a fifth of the labels wrong, and then forgets a tenth of them.

    label_noise, forget_share, validation_size, test_size: as in `oeu_ref.data.samples.digits`; hidden: widths between
    64 inputs and 10 classes; bits: of weights and activations, 1 to 8, "ternary", "binary" or 32 for no quantization
    (first and last layer: 8); train: of original and Retrain;
    forget_batch, retain_batch, schedule, recalibrated: as in `UnlearnConfig`; max_steps: cuts every method's steps,
    None: not.
    """

    label_noise: float = 0.2
    forget_share: float = 0.1
    validation_size: int = 180
    test_size: int = 360
    hidden: tuple = (128, 128)
    bits: int | str = 4
    train: TrainConfig = TrainConfig(epochs=100)
    forget_batch: int = 128
    retain_batch: int = 128
    max_steps: int | None = None
    schedule: str = "constant"
    recalibrated: bool = False

    stop_every = 1
    all_features = False
    kept = Experiment.kept
    augmented = False
    forget_file = None
    is_request = False

    @property
    def sizes(self):
        """Widths of the perceptron, from inputs to classes."""
        return (64, *self.hidden, 10)

    def training(self):
        """How original and Retrain are trained: a `TrainConfig`."""
        return self.train

    unlearning, augment, order = Experiment.unlearning, Experiment.augment, Experiment.order

    def load(self, source=None):
        """Where the data is from, for a cell's file; the digits themselves come with scikit-learn."""
        return _digits_origin()

    def split(self, data, seed):
        """The digits of one seed: `Splits`.  data: not needed.  Raises as `oeu_ref.data.samples.digits`."""
        return digits(seed, self.label_noise, self.forget_share, self.validation_size, self.test_size)

    def wrong(self, splits, seed):
        """Which labels of `splits.train` are wrong, (N,) bool array.  splits: as `split` gives them for the seed."""
        clean = dataclasses.replace(self, label_noise=0.0).split(None, seed)
        return (clean.train.labels != splits.train.labels).numpy()

    def network(self, splits):
        """The quantized perceptron, with the global generator's initial weights."""
        return QuantMLP(self.sizes, self.bits, self.bits, batch_norm=True)


# fields that results of before there were such lack, and what they would say there
LATER = {"schedule": "constant", "recalibrated": False}


def described(experiment):
    """An `Experiment` or `Digits` as files hold it, a dict: files of before a field came are of the same one."""
    fields = dataclasses.asdict(experiment).items()
    return {name: value for name, value in fields if name not in LATER or value != LATER[name]}


Origin = collections.namedtuple("Origin", "source, sha256")  # of data: what a cell's file says of it


@functools.lru_cache(maxsize=1)
def _digits_origin():
    from sklearn.datasets import load_digits

    content = b"".join(array.tobytes() for array in load_digits(return_X_y=True))
    return Origin("digits", hashlib.sha256(content).hexdigest())


QUICK = Digits(train=TrainConfig(epochs=3), max_steps=4)


@dataclasses.dataclass(frozen=True)
class ForgettingCopies(Experiment):
    """An experiment that forgets exact copies of what is to be forgotten, too, as `requests.settle_copies` does."""

    forget_copies: bool = True


@dataclasses.dataclass(frozen=True)
class Replication(Experiment):
    """An experiment whose methods unlearn for epochs, by the "authors" protocol; "joint": pairs in place of turns, and
    of sets that are shuffled."""

    protocol: str = "authors"

    # who goes on on another machine brings results, and of the models what methods start from is made again
    all_features = True
    kept = ("original",)

    def __post_init__(self):
        super().__post_init__()
        boundary.one_of("protocol", self.protocol, PROTOCOLS)

    def passes(self, splits):
        """Batches in a pass over forget set, over retain set, and over both together: three integers."""
        forget, retain = len(splits.forget), len(splits.retain)
        counts = (forget // self.forget_batch, retain // self.retain_batch, (forget + retain) // self.retain_batch)
        return tuple(max(1, count) for count in counts)

    def row(self, name):
        """A row as this experiment makes it.  name: a key of ROWS."""
        row = ROWS[name]
        instead = SHUFFLED if self.dataset in MIXED else "turns"
        instead = "pairs" if self.protocol == "joint" else instead
        return dataclasses.replace(row, reads=instead) if row.reads == "turns" else row

    def order(self, method, splits):
        row = next((self.row(name) for name, row in ROWS.items() if row.method == method), None)
        if row is None or "pairs" in row.reads:
            return None
        if row.reads == SHUFFLED:
            return SHUFFLED
        forget, retain = row.counts(*self.passes(splits))
        epoch = [(True, False)] * forget + [(False, True)] * retain
        return lambda step: epoch[step % len(epoch)]


TABLES = {name: Experiment(**fields) for name, fields in options.TABLES.items()}
