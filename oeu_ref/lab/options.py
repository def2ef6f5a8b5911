"""What can be chosen, by name: experiments, presets, words of options, and what an image experiment is made of.

The command line and `experiment.py` share it: one place says what a word or an option means. Nothing here imports
PyTorch or NumPy, so that --help is instant.
"""

import dataclasses

from .. import boundary

# experiment -> its fields of `Setup` that are not the default. Data sets, networks and bits are the paper's, and so are
# the shares of CIFAR-10 and CIFAR-100; the other two shares and the schedule are ours.
TABLES = {
    "cifar10-10": {"dataset": "cifar10", "forget_ratio": 0.1},
    "cifar100-30": {"dataset": "cifar100", "forget_ratio": 0.3},
    "svhn-10": {"dataset": "svhn", "forget_ratio": 0.1},
    # 64 x 64 pixels: a stem of stride 2 gives the stages the sizes that they have on CIFAR
    "tinyimagenet-10": {"dataset": "tinyimagenet", "forget_ratio": 0.1, "stem_stride": 2, "validation_size": 10000},
}
# A size that a laptop carries: the whole table in ten minutes on four cores. Without augmentation, since with it so
# short a training memorizes next to nothing, and there would be nothing to forget.
PRESETS = {
    "full": {},
    # between the two: all images, and long enough that the network remembers them and that 10 epochs of unlearning cost
    # a sixth of Retrain
    "long": {"width": 24, "stem_stride": 2, "epochs": 60, "learning_rate": 0.2},
    "cpu": {
        "train_size": 10000,
        "validation_size": 2000,
        "test_size": 2000,
        "width": 16,
        "stem_stride": 2,
        "epochs": 12,
        "learning_rate": 0.2,
        "augmented": False,
    },
}
RULES = ("true", "proxy")
SCHEDULES = ("constant", "linear", "cosine")  # of the learning rate of unlearning
PROTOCOLS = ("joint", "authors")
STANDARD_WIDTHS = {"resnet18": 64, "mobilenet_v2": 32}  # channels of the first stage
PRECISIONS = ("float32", "bfloat16")
DETERMINISM = ("warn", "error", "off")
BENCH = ("step", "projection", "memory", "quantizer", "training", "scaling", "reference", "start")
SEEDS = {"full": (1, 2, 3), "long": (1, 2, 3), "cpu": (1, 2, 3, 4, 5)}
TUNING_SEEDS = (101, 102)
NEEDED = dataclasses.MISSING
record = dataclasses.dataclass(frozen=True, kw_only=True)  # what a command is


def option(default, meaning, shown=None, example=None, unset=None, words=(), flag=None, check=None):
    """A dataclass's field that is an option of the command line, with all that its help says.

    default: NEEDED where there is none; meaning: a phrase, with unit and range; shown: what --help calls the value,
    None: by its type; example: a value, where no default is one; unset: what a default of None means; words: those that
    are known; flag: "--other-name", "WORD" for an argument without one, "" for a field that code alone sets;
    check(flag, value) raises ValueError, naming the flag, for what is no value.
    """
    said = {"meaning": meaning, "shown": shown, "example": example, "unset": unset, "words": words, "flag": flag}
    return dataclasses.field(default=default, metadata={**said, "check": check})


def bits(default, whose, **further):
    """An option for widths."""
    meaning = f"bits {whose}: 1 to 8, ternary, binary, or 32 for no quantization"
    return option(default, meaning, "BITS", check=boundary.bits, **further)


def schedule():
    """The option for what becomes of the learning rate, for `training.UnlearnConfig`."""
    meaning = "learning rate of unlearning over the run, of every method: as it is, or down to zero"
    return option("constant", meaning, words=SCHEDULES)


def recalibrated():
    """The option for BatchNorm's statistics, for `training.UnlearnConfig`."""
    meaning = "after unlearning, whatever the method, estimate BatchNorm's statistics anew on what is to be retained"
    return option(False, meaning, flag="--recalibrate")


def device():
    """The option for where a network computes."""
    unset = "cuda where there is one, else cpu"
    return option("auto", "cpu, cuda or another that PyTorch has", "NAME", example="cpu", unset=unset)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What an experiment on images is made of; `experiment.Experiment` checks it and acts on it."""

    dataset: str = option("cifar10", "another data set, also one of your own: the WORD of WORD.npz", example="mydata")
    image_size: int | None = option(None, "side in pixels that images of an image folder are scaled to", "PIXELS", 32)
    forget_ratio: float | None = option(
        0.1, "share of the training images to forget, drawn at random, in (0, 1)", "SHARE", 0.1
    )
    forget_classes: tuple[int | str, ...] | None = option(
        None, "whole classes to forget instead, by name or number", example="cat,5"
    )
    forget_file: str | None = option(
        None, "training images to forget instead: a text file, an index from 0 in each line", "FILE", "forget.txt"
    )
    train_size: int | None = option(None, "training images, drawn at random", example=10000)
    validation_size: int = option(5000, "training images held out, for the stop rule and the proxy alone", example=2000)
    test_size: int | None = option(None, "test images, drawn at random", example=2000)
    arch: str = option("resnet18", "the network", "NAME", words=tuple(STANDARD_WIDTHS))
    width: int | None = option(None, "channels of the first stage; standard: resnet18 64, mobilenet_v2 32", example=16)
    stem_stride: int = option(1, "stride of the first convolution: 1, or 2 to halve the image at once", example=2)
    weight_bits: int | str = bits(4, "of weights alone", example=2)
    activation_bits: int | str = bits(4, "of activations alone", example="ternary")
    first_last_bits: int | str = bits(8, "of first and last layer", flag="")
    epochs: int = option(30, "passes over the training images, of original and Retrain", example=12)
    batch_size: int = option(128, "images in a training step of original and Retrain", flag="")
    learning_rate: float = option(0.1, "of original and Retrain", flag="")
    weight_decay: float = option(5e-4, "of original and Retrain", flag="")
    augmented: bool = option(True, "whether images are shifted and mirrored, in training and in unlearning", flag="")
    forget_batch: int = option(128, "images to forget in an unlearning step", flag="")
    retain_batch: int = option(128, "images to retain in an unlearning step", flag="")
    schedule: str = schedule()
    recalibrated: bool = recalibrated()
    precision: str = option(
        "float32", "numbers that the network computes with", unset="bfloat16 on cuda, else float32", words=PRECISIONS
    )
    compiled: bool = option(False, "try torch.compile; where it fails, a warning says so", flag="--compile")
