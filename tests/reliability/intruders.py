"""Files that were made to do harm, each in the place of one that the package reads: is it refused, and does nothing?"""

import hashlib
import io
import os
import pathlib
import pickle
import tarfile
import zipfile
from functools import partial
from unittest import mock

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from oeu_ref.data import archives, folders, image_sets, published
from oeu_ref.lab.checkpoints import FORMAT, Checkpoint
from oeu_ref.report import results

MARK = "intruder-was-here"


class Intruder:
    """Whoever unpickles this makes a folder: harmless, and seen."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(pathlib.Path(self.folder) / MARK),)


def refused(folder):
    """Try every intruder: {name: "refused", or what happened instead}.

    Refused means a ValueError in words, no code of the file's run, and nothing outside the folder it may write to.
    """
    found = {}
    for name, attack in INTRUDERS.items():
        place = pathlib.Path(folder) / name.replace(" ", "-")
        inside = place / "inside"
        inside.mkdir(parents=True)
        try:
            attack(inside)
            verdict = "accepted"
        except ValueError:
            verdict = "refused"
        except Exception as error:  # whatever else it is, a user would see a traceback
            verdict = f"{type(error).__name__}: {error}"
        if (inside / MARK).exists():
            verdict = "its code was run"
        elif [path.name for path in place.iterdir()] != ["inside"]:
            verdict = "it wrote outside"
        found[name] = verdict
    return found


def control(folder):
    """Whether an intruder does what it says where nothing stops it: unpickled by `pickle.loads`, which must be True."""
    pickle.loads(pickle.dumps(Intruder(folder)))
    return (pathlib.Path(folder) / MARK).exists()


def _checkpoint_of(folder, where):
    content = {"format": FORMAT, "identity": {}, "notes": {}, "state": {}}
    torch.save({**content, where: Intruder(folder)}, folder / "a.pt")
    Checkpoint(folder / "a.pt", {}).restore()


def _pickled_checkpoint(folder, legacy):
    if legacy:  # the format of PyTorch before 1.6
        torch.save({"format": FORMAT, "notes": Intruder(folder)}, folder / "a.pt", _use_new_zipfile_serialization=False)
    else:
        (folder / "a.pt").write_bytes(pickle.dumps(Intruder(folder), protocol=2))
    Checkpoint(folder / "a.pt", {}).restore()


def _tar_checkpoint(folder):
    """The format of PyTorch before 0.1.10, which versions before 2.6 read by a full unpickler (CVE-2025-32434)."""
    with tarfile.open(folder / "a.pt", "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            _add(file, name, pickle.dumps(Intruder(folder), protocol=2))
    Checkpoint(folder / "a.pt", {}).restore()


def _npz(folder, key):
    arrays = {"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.array([0, 1, 0, 1])}
    arrays |= {"x_test": np.zeros((2, 8, 8), np.uint8), "y_test": np.array([0, 1])}
    np.savez(folder / "mine.npz", **{**arrays, key: np.array([Intruder(folder), None], dtype=object)})
    image_sets.load_images("mine", folder)


def _cifar(folder, right_md5, content=None):
    """A batch file with an intruder in it; with the right MD5, as if somebody had found a way to make one."""
    content = {"data": Intruder(folder), "labels": [0]} if content is None else content
    content = content if isinstance(content, bytes) else pickle.dumps(content, protocol=4)
    md5 = hashlib.md5(content).hexdigest() if right_md5 else 32 * "0"
    for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], None)):
        (folder / name).write_bytes(content)
    lists = {name: [[file, md5] for file, _ in getattr(CIFAR10, name)] for name in ("train_list", "test_list")}
    with mock.patch.multiple(CIFAR10, **lists, meta={**CIFAR10.meta, "md5": md5}):
        published.PUBLISHED["cifar10"].read(folder)


def _cache(folder):
    """A cache with the right names and checksums: it is made anew, not believed."""
    plain = np.zeros(0, np.uint8)
    np.savez(folder / "c.npz", x_train=np.array([Intruder(folder)], dtype=object), x_test=plain, notes=plain)
    if folders.read_cache(folder / "c.npz") is None:
        raise ValueError("not believed")


def _tar(folder, name, kind=tarfile.REGTYPE, target=""):
    with tarfile.open(folder / "a.tar.gz", "w:gz") as file:
        _add(file, "data/fine", b"fine")
        _add(file, name, b"" if target else b"outside", kind, target)
    archives.unpack(folder / "a.tar.gz", folder, "data")


def _tar_through_a_link(folder):
    """First a link that leads outside, then a file that is written through it."""
    with tarfile.open(folder / "a.tar.gz", "w:gz") as file:
        _add(file, "data/out", b"", tarfile.SYMTYPE, "../../..")
        _add(file, "data/out/outside", b"outside")
    archives.unpack(folder / "a.tar.gz", folder, "data")


def _add(file, name, content, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    file.addfile(info, io.BytesIO(content))


def _zip(folder, name, link=False):
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("data/fine", b"fine")
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o120777 if link else 0o100644) << 16
        file.writestr(info, b"../../../outside")
    archives.unpack(folder / "a.zip", folder, "data")


def _tiny_imagenet(folder, wnid, line):
    inner = folder / "tiny-imagenet-200"
    (inner / "val").mkdir(parents=True)
    (inner / "wnids.txt").write_text(f"n01\n{wnid}\n")
    (inner / "val" / "val_annotations.txt").write_text(line)
    image_sets.load_images("tinyimagenet", folder, cache_dir=folder / "cache")


def _json(folder, content):
    (folder / "a.json").write_text(content)
    results.read_json(folder / "a.json")


def _document(folder, name):
    """A document from elsewhere names a file of this machine as one of its cells."""
    results.inside(folder, name)


OTHER_GLOBAL = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueR."
INTRUDERS = {
    "checkpoint with an object in its state": partial(_checkpoint_of, where="state"),
    "checkpoint with an object in its notes": partial(_checkpoint_of, where="notes"),
    "checkpoint with an object in its identity": partial(_checkpoint_of, where="identity"),
    "checkpoint that is a bare pickle": partial(_pickled_checkpoint, legacy=False),
    "checkpoint in an old format": partial(_pickled_checkpoint, legacy=True),
    "checkpoint in a tar file": _tar_checkpoint,
    "npz with objects for images": partial(_npz, key="x_train"),
    "npz with objects for class names": partial(_npz, key="classes"),
    "CIFAR batch with a foreign MD5": partial(_cifar, right_md5=False),
    "CIFAR batch with the right MD5": partial(_cifar, right_md5=True),
    "CIFAR batch that names a system call": partial(_cifar, right_md5=True, content=OTHER_GLOBAL),
    "data cache with objects": _cache,
    "tar with a path upwards": partial(_tar, name="data/../../../outside"),
    "tar with an absolute path": partial(_tar, name="/tmp/outside"),
    "tar with a symbolic link": partial(_tar, name="data/a", kind=tarfile.SYMTYPE, target="/etc/passwd"),
    "tar with a hard link": partial(_tar, name="data/a", kind=tarfile.LNKTYPE, target="../../../outside"),
    "tar with a device": partial(_tar, name="data/a", kind=tarfile.FIFOTYPE),
    "tar that writes through a link": _tar_through_a_link,
    "zip with a path upwards": partial(_zip, name="data/../../../outside"),
    "zip with an absolute path": partial(_zip, name="/tmp/outside"),
    "zip with a Windows path": partial(_zip, name="data\\..\\..\\outside"),
    "zip with a symbolic link": partial(_zip, name="data/a", link=True),
    "Tiny-ImageNet with a class upwards": partial(_tiny_imagenet, wnid="../../..", line="a.png\tn01\n"),
    "Tiny-ImageNet with an image upwards": partial(_tiny_imagenet, wnid="n02", line="../../../a.png\tn01\n"),
    "JSON that is too deep": partial(_json, content="[" * 100_000),
    "JSON that is a pickle": partial(_json, content=pickle.dumps(Intruder("/nowhere"), protocol=0).decode("latin1")),
    "document that names a file upwards": partial(_document, name="../../secret.json"),
    "document that names an absolute path": partial(_document, name="/etc/hostname"),
}
