"""The data sets of the paper's experiments, and your own, as uint8 tensors in memory: no decoding in the loop.

What is looked for in a folder, in this order: the authors' own files, `<name>.npz`, a folder of images.
"""

import hashlib
import os
import pathlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import boundary
from .folders import UNREADABLE, decoded, note_unused, part_of, read_folder
from .published import PUBLISHED

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory.

    train_images, test_images: (N, 3, H, W) uint8 tensors, one image size; train_labels, test_labels: (N,) int64 in
    [0, K); classes: K names; source: where it was found; sha256: of all four arrays, which says what a result was
    measured on.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple
    source: str
    sha256: str


def load_images(name, data_root, download=False, cache_dir=None, image_size=None):
    """Load a data set.

    name: "cifar10", "cifar100", "svhn", "tinyimagenet", or any other word for data of your own; data_root: folder that
    is searched, and the folders in it, for the authors' own files or archive, then for `<name>.npz` (arrays x_train,
    y_train, x_test, y_test, optionally classes; images (N, H, W), (N, H, W, 3) or (N, 3, H, W) uint8), then for a
    folder of images `<name>/train/<class>/...` with `<name>/test/<class>/...` (or val), or the same without `<name>/`;
    download: fetch a data set that its authors offer, if none of these is there; cache_dir: folder for what had to be
    decoded, None: `~/.cache/oeu_ref/data`; image_size: side to which a folder's images are cropped and scaled, None:
    they must all have one size.
    Returns `Images`.  Warns, with the count, of files that are no data and of pixels that are not as in the file.
    Raises TypeError or ValueError that names the file: nothing found (with what is expected where, and how to get it),
    a wrong checksum, an image that cannot be read or has another size, a class without samples, bad arrays.
    """
    if not isinstance(name, str) or not name or name != pathlib.PurePath(name).name:
        raise ValueError(f"name must be a word such as 'cifar10' (its folder is the data root), got {name!r}")
    if not isinstance(data_root, str | os.PathLike):
        raise TypeError(f"data_root must be a path, got {type(data_root).__name__}")
    if image_size is not None:
        boundary.integer("image_size", image_size, 1)
    root, word = pathlib.Path(os.path.expanduser(data_root)), name.removesuffix(".npz")
    own = PUBLISHED.get(word.lower())
    if own is not None and (place := own.find(root)) is not None:
        arrays, source = own.read(place), f"{root} ({own.what})"
    elif (path := _npz(root, word)) is not None:
        arrays, source = _read_npz(path), str(path)
    elif (folder := _folder(root, word)) is not None:
        arrays, source = read_folder(folder), f"{folder} (image folder)"
    elif own is not None and download:
        own.fetch(root)
        return load_images(name, data_root, False, cache_dir, image_size)
    else:
        raise ValueError(_nothing_found(word, root, own))
    if isinstance(arrays.get("x_train"), list):
        arrays = decoded(arrays, image_size, cache_dir)
    return _checked(arrays, source)


def _npz(root, word):
    """The root itself, or a file in it by this name, in either case; None."""
    named = [path for path in sorted(root.glob("*.[nN][pP][zZ]")) if path.stem.lower() == word.lower()]
    named.sort(key=lambda path: path.name != f"{word}.npz")
    return root if root.is_file() and root.suffix == ".npz" else next(iter(named), None)


def _folder(root, word):
    """The folder that has the images' train and test: by this name, in either case, or the root itself; None."""
    named = [path for path in root.glob("*") if path.name.lower() == word.lower()]
    named.sort(key=lambda path: (path.name != word, path.name))
    # in that, too, as an archive may be unpacked into a folder of its own name
    places = [*named, *(path / path.name for path in named), root]
    found = next((path for path in places if path.is_dir() and part_of(path, "train")), None)
    return root.parent if found is None and part_of(root.parent, "train") == root else found


def _nothing_found(name, root, own):
    first = f"{' or '.join(own.names)} ({own.what}), " if own is not None else ""
    how = "pass --download to fetch it" if own is not None else "put one of them there"
    inside = sorted(path.name for path in root.glob("*"))
    there = f"which holds {', '.join(inside[:5])}{' ...' * (len(inside) > 5)}" if inside else "which is empty"
    return (
        f"data_root must hold {name}, found none in {root}, {there}: expected {first}{name}.npz (x_train, y_train, "
        f"x_test, y_test), or the folders {name}/train/<class> and {name}/test/<class> with images; {how}, or name "
        "another --data-root"
    )


def _checked(arrays, source):
    """Arrays as `Images`, if they are what they should be; the first thing that is wrong is named."""
    tensors = {}
    for key in ARRAYS:
        if key not in arrays:
            raise ValueError(f"{source} must hold the arrays {', '.join(ARRAYS)}, lacks {key}")
        tensors[key] = _images(source, key, arrays[key]) if key[0] == "x" else _labels(source, key, arrays[key])
    for part in ("train", "test"):
        images, labels = tensors[f"x_{part}"], tensors[f"y_{part}"]
        if len(images) != len(labels) or not len(labels):
            raise ValueError(
                f"{source} must have a label for each image and at least one, got {len(images)} images in x_{part} "
                f"and {len(labels)} labels in y_{part}"
            )
    if tensors["x_train"].shape[1:] != tensors["x_test"].shape[1:]:
        raise ValueError(
            f"{source} must have one image size, got {tuple(tensors['x_train'].shape[2:])} in x_train and "
            f"{tuple(tensors['x_test'].shape[2:])} in x_test"
        )
    highest = int(max(tensors["y_train"].max(), tensors["y_test"].max()))
    classes = np.ravel(arrays.get("classes", range(highest + 1)))
    # a folder's name need not be text
    classes = (c if isinstance(c, bytes) else str(c).encode("utf-8", "surrogatepass") for c in classes)
    classes = tuple(c.decode("utf-8", "replace") for c in classes)
    if highest >= len(classes):
        raise ValueError(f"{source} must name a class for each label, got label {highest} and {len(classes)} classes")
    counts = torch.bincount(tensors["y_train"], minlength=len(classes))
    if len(classes) < 2 or not counts.all():
        missing = classes[int((counts == 0).nonzero()[0])] if len(classes) >= 2 else "a second one"
        raise ValueError(f"{source} must have a training sample of each class, and two classes, has none of {missing}")
    digest = hashlib.sha256()
    for key in ARRAYS:
        digest.update(tensors[key].numpy())
    return Images(*(tensors[key] for key in ARRAYS), classes, source, digest.hexdigest())


def _images(source, key, array):
    array = np.asarray(array)
    if array.dtype != np.uint8:
        raise ValueError(f"{source}: {key} must be uint8 images, 0 to 255, got {array.dtype}")
    if array.ndim == 4 and {array.shape[1], array.shape[3]} <= {1, 3}:
        raise ValueError(f"{source}: {key} must show where its channels are, of shape {array.shape} they may be 1 or 3")
    if array.ndim == 3:
        array = np.repeat(array[:, None], 3, axis=1)
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] == 1:
        array = np.repeat(array, 3, axis=1)
    if array.ndim != 4 or array.shape[1] != 3:
        raise ValueError(f"{source}: {key} must have shape (N, H, W), (N, H, W, 3) or (N, 3, H, W), got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(source, key, array):
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:  # a column, as Keras and MedMNIST have them
        array = array[:, 0]
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise ValueError(
            f"{source}: {key} must be integers of shape (N,) or (N, 1), got {array.dtype} of shape {array.shape}"
        )
    if len(array) and array.min() < 0:
        raise ValueError(f"{source}: {key} must not be negative, got {array.min()} at {int(array.argmin())}")
    return torch.from_numpy(array.astype(np.int64))


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            note_unused(path, {*file} - {*ARRAYS, "classes"})
            return {key: file[key] for key in (*ARRAYS, "classes") if key in file}
    except (*UNREADABLE, TypeError) as error:  # TypeError: a single array under the name of an archive
        raise ValueError(f"{path} must be an .npz file without pickled objects, it cannot be read: {error}") from None
