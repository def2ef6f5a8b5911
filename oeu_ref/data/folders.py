"""Folders of images, one for each class: which files count, in which order, and with which pixels."""

import hashlib
import io
import os
import pathlib
import re
import unicodedata
import warnings
import zipfile
import zlib

import numpy as np

from .. import files, locks
from .archives import is_no_data

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".pgm", ".pnm", ".ppm", ".webp", ".tif", ".tiff")
PARTS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
# what reading an .npz file that is damaged, or was made to do harm, may raise
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error)


def natural(name):
    """Sort key by which names go as words do, and the numbers in them by their value: 2 before 10."""
    words = re.split(r"([0-9]+)", name)
    return [int(word) if i % 2 else word for i, word in enumerate(words)], name


def composed(name):
    """A name with each letter and its accents as one character: some systems write them apart, which looks the same."""
    return unicodedata.normalize("NFC", name)


def part_of(folder, part):
    """The folder of a part, "train" or "test", by one of the names it goes by, in either case; None."""
    inside = {path.name.lower(): path for path in sorted(folder.glob("*"), reverse=True) if path.is_dir()}
    return next((inside[name] for name in PARTS[part] if name in inside), None)


def read_folder(folder):
    """{"x_train": paths, "y_train", "x_test", "y_test", "classes"} of `<folder>/{train,test}/<class>/...`.

    Classes are the names of train's folders in natural order; a class's images may lie in folders below it.  What is
    left out is counted in a warning, a third part named.  Raises ValueError, naming the folder, for a class or a part
    without images.
    """
    arrays, left, places = {}, [], []
    for part in PARTS:
        places.append(place := part_of(folder, part))
        if place is None:
            raise ValueError(f"{folder} must hold test/<class>/... beside train/<class>/..., found no folder 'test'")
        inside = sorted(place.iterdir(), key=lambda path: natural(path.name))
        folders = [path.name for path in inside if path.is_dir() and not is_no_data(path.name)]
        left += [path for path in inside if path.name not in folders]
        found = dict(zip(map(composed, folders), folders))
        if twice := [name for name in folders if name not in found.values()]:
            raise ValueError(f"{place} must hold each class in one folder, got two that are written {twice[0]}")
        classes = arrays.setdefault("classes", list(found))
        if extra := sorted(set(found) - set(classes)):
            raise ValueError(f"{place} must have the classes of train alone, got {extra[0]!r} too")
        named = [found.get(c, c) for c in classes]
        arrays[f"x_{part}"], arrays[f"y_{part}"] = class_files(place, named, left, empty=part == "test")
        if not arrays[f"x_{part}"]:
            raise ValueError(f"{place} must hold images in a folder for each class, found none")
    known = sum(PARTS.values(), ())
    note_unused(folder, [path.name for path in folder.iterdir() if path.name.lower() in known and path not in places])
    if left:
        warnings.warn(
            f"{folder}: left out {len(left)} files and folders that are no images, such as {left[0]}", stacklevel=3
        )
    return arrays


def note_unused(source, names):
    """Warn of parts of a data set that nobody reads, such as a part for validation; names: theirs, none: no warning."""
    if names:
        what = ", ".join(sorted(names)[:5])
        warnings.warn(f"{source}: train and test are read, not {what} (validation is drawn from train)", stacklevel=4)


def class_files(place, classes, left, empty=False):
    """(paths of the images below each class's folder in `place`, sorted, their labels); all else is added to `left`.

    empty: whether a class may have no images, or no folder.  Raises ValueError, naming it, for one that must have some.
    """
    found = [_images_below(place / c, left) if (place / c).is_dir() else [] for c in classes]
    if not empty and [] in found:
        raise ValueError(f"{place / classes[found.index([])]} must hold at least one image ({', '.join(IMAGE_FILES)})")
    return sum(found, []), np.repeat(np.arange(len(classes)), [len(images) for images in found])


def _images_below(folder, left):
    def complain(error):
        raise ValueError(f"{error.filename} must be a folder that can be read: {error.strerror}")

    found = []
    for place, folders, names in os.walk(folder, onerror=complain, followlinks=True):
        real = {name: os.path.join(os.path.realpath(os.path.join(place, name)), "") for name in ("", *folders)}
        # a link to a folder above would bring all classes into this one, without end
        out = [name for name in folders if is_no_data(name) or real[""].startswith(real[name])]
        left += [pathlib.Path(place, name) for name in out]
        folders[:] = [name for name in folders if name not in out]
        for name in names:
            image = name.lower().endswith(IMAGE_FILES) and not is_no_data(name)
            (found if image else left).append(pathlib.Path(place, name))
    return sorted(found, key=pathlib.Path.as_posix)


def decoded(arrays, image_size, cache_dir):
    """The same with (N, H, W, 3) uint8 images for their paths, from the cache if these very files were decoded before.

    image_size: side to which all are cropped and scaled, None: they must have one size; cache_dir: None for
    `~/.cache/oeu_ref/data`.  How images in other modes became RGB is counted in warnings.
    Raises ValueError, naming the file, for one that cannot be read or has another size.
    """
    key = hashlib.sha256(f"images in folders 2, size {image_size}\n".encode())
    for path in [*arrays["x_train"], None, *arrays["x_test"]]:
        try:
            key.update(b"" if path is None else hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise ValueError(f"{path} must be an image, it cannot be read: {error.strerror}") from None
    cached = _cache_folder(cache_dir) / f"{key.hexdigest()[:32]}.npz"
    if (found := read_cache(cached)) is None:
        notes = {}
        found = {f"x_{part}": _decoded(arrays[f"x_{part}"], image_size, notes) for part in PARTS}
        found["notes"] = np.array([f"{count} images {note}" for note, count in notes.items()], dtype=str)
        _write_cache(cached, found)
    for note in found.pop("notes"):
        warnings.warn(str(note), stacklevel=3)
    return {**arrays, **found}


def _decoded(paths, image_size, notes):
    """(N, H, W, 3) uint8, RGB, all of one size; notes: {what was done: number of images}."""
    from PIL import Image, ImageOps

    images = []
    for path in paths:
        try:
            with Image.open(path) as file:
                ImageOps.exif_transpose(file, in_place=True)  # a camera that was held upright says so beside its pixels
                image, done = _rgb(file)
        except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"{path} must be an image, it cannot be read: {error}") from None
        for note in done:
            notes[note] = notes.get(note, 0) + 1
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size))
        images.append(np.asarray(image))
        if images[-1].shape != images[0].shape:
            sizes = [f"{i.shape[1]} x {i.shape[0]}" for i in (images[0], images[-1])]
            raise ValueError(
                f"{path} must have the size of {paths[0]}, {sizes[0]}, got {sizes[1]}; --image-size sets one"
            )
    return np.stack(images)


def _rgb(image):
    """(the image in 8-bit RGB with all the contrast that this holds, [what was done]).

    Raises ValueError for numbers of which nobody knows which is white.
    """
    from PIL import Image

    done = ["have more than one frame, the first is taken"] if getattr(image, "n_frames", 1) > 1 else []
    if image.mode[0] in "IF":
        # 16 bits: PNG and PGM have them in 32; floats are shares of full brightness
        white = 1.0 if image.mode == "F" else 65535
        values = np.asarray(image, dtype=np.float64)
        if (image.mode == "I" and image.format not in ("PNG", "PPM")) or not 0 <= values.min() <= values.max() <= white:
            raise ValueError(
                f"of its values {values.min():g} to {values.max():g} nobody knows which is white; save it with 8 bits"
            )
        image = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
        done.append(f"are scaled to 8 bits, {white:g} is white")
        if values.max() < 4096 and white == 65535:
            done.append("hold no value above 4095: if that is the white of a 12-bit camera, multiply them by 16 first")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            done.append("are partly transparent, and laid on white")
    return image.convert("RGB"), done


def _cache_folder(cache_dir):
    if cache_dir is None:
        cache_dir = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "oeu_ref", "data")
    return pathlib.Path(os.path.expanduser(cache_dir))


def read_cache(path):
    """Arrays, None where they are not there or damaged, which the checksums in the file show."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in ("x_train", "x_test", "notes")}
    except (*UNREADABLE, KeyError, TypeError):
        return None


def _write_cache(path, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        with locks.alone(path.parent, "cache_dir", "wait"):
            files.clear_halves(path.parent)
            files.write_bytes(path, buffer.getvalue())
    except (OSError, ValueError):
        pass  # a cache that cannot be written costs time at the next start, nothing else
