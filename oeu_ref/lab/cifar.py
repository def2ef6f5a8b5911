"""CIFAR-10 and CIFAR-100 in their authors' own files. These are pickles; they are read without running what is in them.

Twice over: a file is read only if it has the MD5 of the authors' own, and then by an unpickler that knows arrays, and
nothing else that could be called.
"""

import hashlib
import io
import pickle

import numpy as np

from ..files import alone
from . import archives

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module has another name in each version of NumPy
# what the authors' files name: by the name that NumPy 1 gave it, and by that of NumPy 2
KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads plain data and NumPy arrays; raises `pickle.UnpicklingError` for any other name, and imports nothing."""

    def find_class(self, module, name):
        """What a name in the file stands for, one of KNOWN."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not looked up")
        return KNOWN[module, name]


class Cifar:
    """One of the two data sets.

    kind: callable that returns torchvision's class, which knows the names and the MD5s of the files (its import takes
    long); folder, archive: what is looked for in the data root.
    """

    what = "torchvision's own files"

    def __init__(self, kind, folder, archive):
        self.kind, self.folder, self.archive = kind, folder, archive
        self.expected = f"the folder {folder}"

    def found(self, root):
        """Whether the folder or the archive is there."""
        return (root / self.folder).exists() or (root / self.archive).exists()

    def files(self, root):
        """The files that decide what `read` returns."""
        folder = root / self.folder
        return sorted(folder.glob("*")) if folder.exists() else [root / self.archive]

    def fetch(self, root):
        """Download the archive.  Raises ValueError where that fails."""
        kind = self.kind()
        with alone(root, "data_root", "wait"):
            archives.fetch(kind.url, root, kind.filename, kind.tgz_md5)

    def read(self, root):
        """{"x_train": (N, 3, 32, 32) uint8, "y_train": (N,), "x_test", "y_test", "classes"}.

        An archive is unpacked first, if it is all that is there.  Raises ValueError, naming it, for a file that is
        missing or is not the authors' own.
        """
        kind = self.kind()
        if not (root / self.folder).exists():
            with alone(root, "data_root", "wait"):
                if not (root / self.folder).exists():  # another process may have been faster
                    _with_md5(root / self.archive, kind.tgz_md5)
                    archives.unpack(root / self.archive, root, self.folder)
        arrays = {}
        for part, files in (("train", kind.train_list), ("test", kind.test_list)):
            batches = [self._plain(root, name, md5) for name, md5 in files]
            arrays[f"x_{part}"] = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
            labels = [batch["labels" if "labels" in batch else "fine_labels"] for batch in batches]
            arrays[f"y_{part}"] = np.concatenate([np.asarray(part, dtype=np.int64) for part in labels])
        names = self._plain(root, kind.meta["filename"], kind.meta["md5"])[kind.meta["key"]]
        return {**arrays, "classes": np.array(names)}

    def _plain(self, root, name, md5):
        path = root / self.folder / name
        content = _with_md5(path, md5)  # the very bytes that were checked are read, not the file once more
        try:
            found = PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
        except (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, EOFError) as error:
            raise ValueError(f"{path} must hold plain data and arrays: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path} must hold a dict, got {type(found).__name__}")
        return found


def _with_md5(path, md5):
    """Contents of a file.  Raises ValueError unless it is there and has the MD5."""
    if not path.is_file():
        raise ValueError(f"{path} must be there, it is missing: fetch {path.parent.name} again, or pass --download")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} must have the MD5 {md5}, it is damaged or truncated: fetch it again")
    return content
