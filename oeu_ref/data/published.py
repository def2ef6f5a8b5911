"""The data sets of the paper in their authors' own files: found, fetched, checked by their MD5 and read.

CIFAR's files are pickles, and read without running what is in them, twice over: a file is read only if it has the MD5
that torchvision knows, and then by an unpickler that knows arrays, and nothing that could be called.
"""

import hashlib
import io
import pathlib
import pickle

import numpy as np

from ..locks import alone
from . import archives
from .folders import class_files

# what the authors' files name; NumPy 1 and NumPy 2 have the last one in modules of different names
KNOWN = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
KNOWN |= {(f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in ("core", "_core")}


class PlainUnpickler(pickle.Unpickler):
    """Reads plain data and NumPy arrays; raises `pickle.UnpicklingError` for any other name, and imports nothing."""

    def find_class(self, module, name):
        """What a name in the file stands for, one of KNOWN."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not looked up")
        return KNOWN[module, name]


class Published:
    """A data set as its authors publish it.

    names: of files and folders that show it is there; what: whose files they are, for messages.
    """

    what = "torchvision's own files"

    def __init__(self, *names):
        self.names = names

    def find(self, root):
        """The first of the names that is in the data root or one folder deeper, as a path; None."""
        return next((path for path in (archives.find(root, name) for name in self.names) if path is not None), None)

    def fetch(self, root):
        """Download what `sources` names.  Raises ValueError where that fails."""
        with alone(root, "data_root", "wait"):
            for url, name, md5 in self.sources():
                archives.fetch(url, root, name, md5)

    def sources(self):
        """[(url, file name, MD5)] of what is to be downloaded."""
        raise NotImplementedError

    def read(self, place):
        """{"x_train", "y_train", "x_test", "y_test", "classes"} from what `find` found; images may be lists of paths.

        Raises ValueError, naming it, for a file that is missing or is not the authors' own.
        """
        raise NotImplementedError

    def _unpacked(self, place, md5=None):
        """The folder that an archive holds, unpacked beside it; a folder as it is."""
        if place.is_dir():
            return place
        folder = place.parent / self.names[0]
        with alone(place.parent, "data_root", "wait"):
            if not folder.exists():  # another process may have been faster
                if md5 is not None:
                    _with_md5(place, md5)
                archives.unpack(place, place.parent, folder.name)
        return folder


class Cifar(Published):
    """CIFAR-10 or CIFAR-100; `kind` names torchvision's class, which knows the names and the MD5s of the files."""

    def __init__(self, kind, *names):
        super().__init__(*names)
        self.kind = kind

    def sources(self):
        kind = _torchvision(self.kind)
        return [(kind.url, kind.filename, kind.tgz_md5)]

    def read(self, place):
        kind, arrays = _torchvision(self.kind), {}
        # some browsers take the .gz off: that archive has no known MD5, but each of its files has
        folder = self._unpacked(place, kind.tgz_md5 if place.suffix == ".gz" else None)
        for part, entries in (("train", kind.train_list), ("test", kind.test_list)):
            batches = [_plain(folder / name, md5) for name, md5 in entries]
            arrays[f"x_{part}"] = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
            labels = [batch["labels" if "labels" in batch else "fine_labels"] for batch in batches]
            arrays[f"y_{part}"] = np.concatenate([np.asarray(each, dtype=np.int64) for each in labels])
        return {**arrays, "classes": _plain(folder / kind.meta["filename"], kind.meta["md5"])[kind.meta["key"]]}


class Svhn(Published):
    """SVHN as torchvision reads it: two MATLAB files, in which there is no code to run."""

    def sources(self):
        return [_torchvision("SVHN").split_list[part] for part in ("train", "test")]

    def read(self, place):
        arrays = {}
        for part, (_, name, md5) in zip(("train", "test"), self.sources()):
            _with_md5(place.parent / name, md5)
            data = _torchvision("SVHN")(place.parent, split=part)
            arrays[f"x_{part}"], arrays[f"y_{part}"] = data.data, data.labels
        return arrays


class TinyImageNet(Published):
    """Tiny-ImageNet in its authors' layout, or with class folders in val, as many tutorials lay it out anew.

    The official validation split is the test set.
    """

    what = "its own files"

    def sources(self):
        url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
        return [(url, "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")]

    def read(self, place):
        folder = self._unpacked(place)
        classes = _lines(folder / "wnids.txt")
        for wnid in classes:
            if wnid != pathlib.PurePath(wnid).name:
                raise ValueError(f"{folder / 'wnids.txt'} must hold names of folders, got {wnid!r}")
        relaid = any((folder / "val" / wnid).is_dir() for wnid in classes)
        test = class_files(folder / "val", classes, []) if relaid else self._annotated(folder / "val", classes)
        train = class_files(folder / "train", classes, [])
        return {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1], "classes": classes}

    @staticmethod
    def _annotated(place, classes):
        paths, labels = [], []
        for number, line in enumerate(_lines(place / "val_annotations.txt"), 1):
            name, wnid = (line.split("\t") + [""])[:2]
            if wnid not in classes or name != pathlib.PurePath(name).name:
                raise ValueError(
                    f"{place / 'val_annotations.txt'}, line {number} must name a file and a class of wnids.txt, "
                    f"got {line!r}"
                )
            paths.append(place / "images" / name)
            labels.append(classes.index(wnid))
        return paths, labels


PUBLISHED = {
    "cifar10": Cifar("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-python.tar"),
    "cifar100": Cifar("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", "cifar-100-python.tar"),
    "svhn": Svhn("train_32x32.mat", "test_32x32.mat"),
    "tinyimagenet": TinyImageNet("tiny-imagenet-200", "tiny-imagenet-200.zip"),
}


def _torchvision(kind):
    import torchvision.datasets  # takes long

    return getattr(torchvision.datasets, kind)


def _plain(path, md5):
    """The dict in a pickle that has the MD5: the very bytes that were checked are read, not the file once more."""
    try:
        found = PlainUnpickler(io.BytesIO(_with_md5(path, md5)), encoding="latin1").load()
    except (pickle.UnpicklingError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise ValueError(f"{path} must hold plain data and arrays: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a dict, got {type(found).__name__}")
    return found


def _with_md5(path, md5):
    """Contents of a file.  Raises ValueError unless it is there and has the MD5."""
    again = f"fetch it again, or move {path.parent} away and pass --download"
    if not path.is_file():
        raise ValueError(f"{path} must be there, it is missing: {again}")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} must have the MD5 {md5}, it is damaged or truncated: {again}")
    return content


def _lines(path):
    try:
        lines = [line.strip() for line in archives.read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a text file of Tiny-ImageNet, it cannot be read: {error}") from None
    if not lines:
        raise ValueError(f"{path} must not be empty")
    return lines
