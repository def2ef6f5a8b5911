"""The data sets of the paper's experiments, and your own, as uint8 tensors in memory: no decoding in the loop.

What is looked for in a folder, in this order: torchvision's own files (Tiny-ImageNet: its own), `<name>.npz`, a folder
of images. What had to be decoded is kept in a cache, whose content is checked by its SHA-256 each time it is read.
"""

import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import boundary
from ..files import alone, clear_halves, write_bytes, write_json
from . import archives
from .cifar import Cifar

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
# what reading an .npz file that is damaged, or was made to do harm, may raise
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error)
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


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
    """Load a data set, from the cache if it was decoded before.

    name: "cifar10", "cifar100", "svhn", "tinyimagenet", or any other word for data of your own; data_root: folder that
    is searched for torchvision's own layout, then `<name>.npz` (arrays x_train, y_train, x_test, y_test, optionally
    classes; images (N, H, W), (N, H, W, 3) or (N, 3, H, W) uint8), then a folder of images `<name>/train/<class>/...`
    with `<name>/test/<class>/...`, or the same without `<name>/`; download: fetch a data set that torchvision or its
    authors offer, if none of these is there; cache_dir: folder for decoded data, None: `~/.cache/oeu_ref/data`;
    image_size: side to which a folder's images are cropped and scaled, None: they must all have one size.
    Returns `Images`.
    Raises TypeError or ValueError that names the file: nothing found (with what is expected where, and how to get it),
    a wrong checksum, an image that cannot be read or has another size, a class without samples, bad arrays.
    """
    if not isinstance(name, str) or not name or name != pathlib.PurePath(name).name:
        raise ValueError(f"name must be a word such as 'cifar10', got {name!r}")
    if not isinstance(data_root, (str, os.PathLike)):
        raise TypeError(f"data_root must be a path, got {type(data_root).__name__}")
    if image_size is not None:
        boundary.integer("image_size", image_size, 1)
    root = pathlib.Path(data_root)
    own = _OWN_LAYOUTS.get(name)
    folders = [folder for folder in (root / name, root) if (folder / "train").is_dir()]
    if own is not None and own.found(root):
        arrays = _cached(f"{name}, {own.what}", root, own.files(root), lambda: own.read(root), cache_dir)
        source = f"{root} ({own.what})"
    elif (path := root / f"{name}.npz").is_file():
        arrays, source = _read_npz(path), str(path)
    elif folders:
        files = [path for part in ("train", "test") for path in sorted((folders[0] / part).glob("*/*"))]
        what = f"{name}, image folder, size {image_size}"
        arrays = _cached(what, folders[0], files, lambda: _read_folder(folders[0], image_size), cache_dir)
        source = f"{folders[0]} (image folder)"
    elif own is not None and download:
        own.fetch(root)
        return load_images(name, data_root, False, cache_dir, image_size)
    else:
        raise ValueError(_nothing_found(name, root, own))
    return _checked(arrays, source)


def _nothing_found(name, root, own):
    first = f"{own.expected} ({own.what}), " if own is not None else ""
    how = "pass --download to fetch it" if own is not None else "put one of them there"
    return (
        f"data_root must hold {name}, found none in {root}: expected {first}{name}.npz (x_train, y_train, x_test, "
        f"y_test), or the folders {name}/train/<class> and {name}/test/<class> with images; {how}, or name another "
        "--data-root"
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
    classes = tuple(str(c) for c in arrays.get("classes", range(highest + 1)))
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
    if array.ndim == 3:
        array = np.repeat(array[:, None], 3, axis=1)
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] == 1:
        array = np.repeat(array, 3, axis=1)
    if array.ndim != 4 or array.shape[1] != 3:
        raise ValueError(f"{source}: {key} must have shape (N, H, W), (N, H, W, 3) or (N, 3, H, W), got {array.shape}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(source, key, array):
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise ValueError(f"{source}: {key} must be integers of shape (N,), got {array.dtype} of shape {array.shape}")
    if len(array) and array.min() < 0:
        raise ValueError(f"{source}: {key} must not be negative, got {array.min()} at {int(array.argmin())}")
    return torch.from_numpy(array.astype(np.int64))


def _read_npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in (*ARRAYS, "classes") if key in file}
    except (*UNREADABLE, TypeError) as error:  # TypeError: a single array under the name of an archive
        raise ValueError(f"{path} must be an .npz file without pickled objects, it cannot be read: {error}") from None


def _read_folder(folder, image_size):
    """Arrays of `<folder>/{train,test}/<class>/...`; classes are the names of train's folders, in order."""
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    if not (folder / "test").is_dir():
        raise ValueError(f"{folder} must hold test/<class>/... beside train/<class>/..., found no folder 'test'")
    arrays = {"classes": np.array(classes)}
    for part in ("train", "test"):
        extra = sorted({path.name for path in (folder / part).iterdir() if path.is_dir()} - set(classes))
        if extra:
            raise ValueError(f"{folder / part} must have the classes of train alone, got {extra[0]!r} too")
        files = []
        for label, c in enumerate(classes):
            found = _image_files(folder / part / c)
            if not found and part == "train":
                raise ValueError(f"{folder / part / c} must hold at least one image ({', '.join(IMAGE_FILES)})")
            files += [(path, label) for path in found]
        if not files:
            raise ValueError(f"{folder / part} must hold images in a folder for each class, found none")
        arrays[f"x_{part}"] = _decoded([path for path, _ in files], image_size)
        arrays[f"y_{part}"] = np.array([label for _, label in files])
    return arrays


def _image_files(folder):
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_FILES)


def _decoded(paths, image_size):
    """(N, H, W, 3) uint8, RGB, all of one size."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    images = []
    for path in paths:
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"{path} must be an image, it cannot be read: {error}") from None
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size))
        images.append(np.asarray(image))
        if images[-1].shape != images[0].shape:
            sizes = [f"{i.shape[1]} x {i.shape[0]}" for i in (images[0], images[-1])]
            raise ValueError(
                f"{path} must have the size of {paths[0]}, {sizes[0]}, got {sizes[1]}; --image-size sets one"
            )
    return np.stack(images)


class _Svhn:
    """SVHN as torchvision reads it: two MATLAB files, in which there is no code to run."""

    what = "torchvision's own files"
    expected = "the files train_32x32.mat and test_32x32.mat"

    def found(self, root):
        return bool(self.files(root))

    def files(self, root):
        return [path for path in (root / "train_32x32.mat", root / "test_32x32.mat") if path.is_file()]

    def read(self, root):
        from torchvision.datasets import SVHN
        from torchvision.datasets.utils import check_integrity

        arrays = {}
        for part in ("train", "test"):
            _, name, md5 = SVHN.split_list[part]
            path = root / name
            if not path.is_file():
                raise ValueError(f"{path} must be there, it is missing: fetch {self.expected}, or pass --download")
            if not check_integrity(str(path), md5):
                raise ValueError(f"{path} must have the MD5 {md5}, it is damaged or truncated: fetch it again")
            data = SVHN(root, split=part)
            arrays[f"x_{part}"], arrays[f"y_{part}"] = np.asarray(data.data), np.asarray(data.labels, dtype=np.int64)
        return arrays

    def fetch(self, root):
        from torchvision.datasets import SVHN

        with alone(root, "data_root", "wait"):
            for part in ("train", "test"):
                url, name, md5 = SVHN.split_list[part]
                archives.fetch(url, root, name, md5)


def _cifar10():
    from torchvision.datasets import CIFAR10

    return CIFAR10


def _cifar100():
    from torchvision.datasets import CIFAR100

    return CIFAR100


class _TinyImageNet:
    """Tiny-ImageNet in its authors' own layout; the official validation split is the test set."""

    what = "its own files"
    expected = "the folder tiny-imagenet-200"

    def found(self, root):
        return (root / "tiny-imagenet-200").is_dir()

    def files(self, root):
        folder = root / "tiny-imagenet-200"
        fixed = [path for path in (folder / "wnids.txt", folder / "val" / "val_annotations.txt") if path.is_file()]
        return fixed + sorted(folder.glob("train/*/images/*")) + sorted(folder.glob("val/images/*"))

    def read(self, root):
        folder = root / "tiny-imagenet-200"
        classes = self._lines(folder / "wnids.txt")
        for wnid in classes:
            if wnid != pathlib.PurePath(wnid).name:
                raise ValueError(f"{folder / 'wnids.txt'} must hold names of folders, got {wnid!r}")
        label_of = {wnid: label for label, wnid in enumerate(classes)}
        train = []
        for wnid in classes:
            found = _image_files(folder / "train" / wnid / "images")
            if not found:
                raise ValueError(f"{folder / 'train' / wnid / 'images'} must hold at least one image, found none")
            train += [(path, label_of[wnid]) for path in found]
        annotations = folder / "val" / "val_annotations.txt"
        test = []
        for number, line in enumerate(self._lines(annotations), 1):
            name, wnid = (line.split("\t") + [""])[:2]
            if wnid not in label_of or name != pathlib.PurePath(name).name:
                raise ValueError(
                    f"{annotations}, line {number} must name a file and a class of wnids.txt, got {line!r}"
                )
            test.append((folder / "val" / "images" / name, label_of[wnid]))
        arrays = {"classes": np.array(classes)}
        for part, files in (("train", train), ("test", test)):
            arrays[f"x_{part}"] = _decoded([path for path, _ in files], None)
            arrays[f"y_{part}"] = np.array([label for _, label in files])
        return arrays

    def fetch(self, root):
        with alone(root, "data_root", "wait"):
            if not self.found(root):  # another process may have been faster
                name = TINY_IMAGENET_URL.rpartition("/")[2]
                archives.fetch(TINY_IMAGENET_URL, root, name, TINY_IMAGENET_MD5)
                archives.unpack(root / name, root, "tiny-imagenet-200")

    @staticmethod
    def _lines(path):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} must be a text file of Tiny-ImageNet, it cannot be read: {error}") from None
        lines = [line.strip() for line in lines if line.strip()]
        if not lines:
            raise ValueError(f"{path} must not be empty")
        return lines


_OWN_LAYOUTS = {
    "cifar10": Cifar(_cifar10, "cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": Cifar(_cifar100, "cifar-100-python", "cifar-100-python.tar.gz"),
    "svhn": _Svhn(),
    "tinyimagenet": _TinyImageNet(),
}


def _cached(what, root, files, read, cache_dir):
    """What `read` returns, from the cache if these files, with these sizes and times, were decoded before."""
    folder = _cache_folder() if cache_dir is None else pathlib.Path(cache_dir)
    if folder is None:
        return read()
    key = hashlib.sha256(f"{what}\n{root.resolve()}\n".encode())
    for path in files:
        status = path.stat()
        key.update(f"{path.relative_to(root)}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    content, digest = (folder / f"{key.hexdigest()[:32]}.{kind}" for kind in ("npz", "json"))
    if (found := _read_cache(content, digest)) is not None:
        return found
    arrays = read()
    _write_cache(content, digest, what, arrays)
    return arrays


def _cache_folder():
    """Where decoded data is kept, None for a user without a home."""
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "oeu_ref" / "data"
    try:
        return pathlib.Path.home() / ".cache" / "oeu_ref" / "data"
    except RuntimeError:
        return None


def _read_cache(content, digest):
    """Arrays, None where they are not there or are not those that the digest is of."""
    try:
        data = content.read_bytes()
        if json.loads(digest.read_text(encoding="utf-8"))["sha256"] != hashlib.sha256(data).hexdigest():
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {key: file[key] for key in file}
    except (*UNREADABLE, KeyError, TypeError):
        return None


def _write_cache(content, digest, what, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        # one at a time: the two files belong together
        with alone(content.parent, "cache_dir", "wait"):
            clear_halves(content.parent)
            write_bytes(content, buffer.getvalue())
            write_json(digest, {"what": what, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
    except (OSError, ValueError):
        pass  # a cache that cannot be written costs time at the next start, nothing else
