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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..files import write_bytes, write_json

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")
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
        checks.integer("image_size", image_size, 1)
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
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


class _TorchvisionData:
    """A data set that torchvision reads; make(root, train, download) builds torchvision's own class."""

    what = "torchvision's own files"

    def __init__(self, expected, make, first_files):
        self.expected, self.make, self.first_files = expected, make, first_files

    def found(self, root):
        return any((root / name).exists() for name in self.first_files)

    def files(self, root):
        found = [root / name for name in self.first_files if (root / name).exists()]
        return sorted(path for top in found for path in ([top] if top.is_file() else top.glob("*")))

    def read(self, root):
        try:
            self._extract(root)
            parts = {part: self.make(root, part == "train", False) for part in ("train", "test")}
        except RuntimeError as error:  # torchvision's word for a missing file or a wrong MD5
            raise ValueError(self._complaint(root, error)) from None
        arrays = {}
        for part, data in parts.items():
            labels = data.targets if hasattr(data, "targets") else data.labels
            arrays[f"x_{part}"], arrays[f"y_{part}"] = np.asarray(data.data), np.asarray(labels, dtype=np.int64)
        if hasattr(parts["train"], "classes"):
            arrays["classes"] = np.array(parts["train"].classes)
        return arrays

    def fetch(self, root):
        try:
            for train in (True, False):
                self.make(root, train, True)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{self.expected} could not be downloaded ({' '.join(str(error).split())[:150]}): fetch it elsewhere "
                f"and put it into {root}"
            ) from None

    def _extract(self, root):
        """Unpack the archive, if it is all that is there, after its MD5 was found right."""
        from torchvision.datasets.utils import check_integrity, extract_archive

        archive = root / self.first_files[-1]
        if archive.suffix == ".gz" and archive.is_file() and not (root / self.first_files[0]).exists():
            md5 = self._class().tgz_md5
            if not check_integrity(str(archive), md5):
                raise ValueError(f"{archive} must have the MD5 {md5}, it is damaged or truncated: fetch it again")
            extract_archive(str(archive), str(root))

    def _class(self):
        return self.make(None, None, None)

    def _complaint(self, root, error):
        from torchvision.datasets.utils import check_integrity

        kind = self._class()
        if hasattr(kind, "train_list"):
            base = root / kind.base_folder
            wanted = [(base / name, md5) for name, md5 in (*kind.train_list, *kind.test_list)]
            wanted.append((base / kind.meta["filename"], kind.meta["md5"]))
        else:
            wanted = [(root / kind.split_list[split][1], kind.split_list[split][2]) for split in ("train", "test")]
        for path, md5 in wanted:
            if not path.is_file():
                return f"{path} must be there, it is missing: fetch {self.expected} again, or pass --download"
            if not check_integrity(str(path), md5):
                return f"{path} must have the MD5 {md5}, it is damaged or truncated: fetch it again"
        return f"{root} must hold {self.expected}: {' '.join(str(error).split())}"


def _cifar10(root, train, download):
    from torchvision.datasets import CIFAR10

    return CIFAR10 if root is None else CIFAR10(root, train=train, download=download)


def _cifar100(root, train, download):
    from torchvision.datasets import CIFAR100

    return CIFAR100 if root is None else CIFAR100(root, train=train, download=download)


def _svhn(root, train, download):
    from torchvision.datasets import SVHN

    return SVHN if root is None else SVHN(root, split="train" if train else "test", download=download)


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
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(TINY_IMAGENET_URL, str(root), md5=TINY_IMAGENET_MD5)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{TINY_IMAGENET_URL} could not be downloaded ({' '.join(str(error).split())[:150]}): fetch it "
                f"elsewhere and unpack it into {root}"
            ) from None

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
    "cifar10": _TorchvisionData(
        "the folder cifar-10-batches-py", _cifar10, ("cifar-10-batches-py", "cifar-10-python.tar.gz")
    ),
    "cifar100": _TorchvisionData(
        "the folder cifar-100-python", _cifar100, ("cifar-100-python", "cifar-100-python.tar.gz")
    ),
    "svhn": _TorchvisionData(
        "the files train_32x32.mat and test_32x32.mat", _svhn, ("train_32x32.mat", "test_32x32.mat")
    ),
    "tinyimagenet": _TinyImageNet(),
}


def _cached(what, root, files, read, cache_dir):
    """What `read` returns, from the cache if these files, with these sizes and times, were decoded before."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "oeu_ref" / "data"
    folder = default if cache_dir is None else pathlib.Path(cache_dir)
    key = hashlib.sha256(f"{what}\n{root.resolve()}\n".encode())
    for path in files:
        status = path.stat()
        key.update(f"{path.relative_to(root)}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    content, digest = (folder / f"{key.hexdigest()[:32]}.{kind}" for kind in ("npz", "json"))
    if content.is_file() and digest.is_file():
        data = content.read_bytes()
        try:
            intact = json.loads(digest.read_text(encoding="utf-8"))["sha256"] == hashlib.sha256(data).hexdigest()
        except (ValueError, KeyError, TypeError):
            intact = False
        if intact:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return {key: file[key] for key in file}
    arrays = read()
    _write_cache(content, digest, what, arrays)
    return arrays


def _write_cache(content, digest, what, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        write_bytes(content, buffer.getvalue())
        write_json(digest, {"what": what, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
    except OSError:
        pass  # a cache that cannot be written costs time at the next start, nothing else
