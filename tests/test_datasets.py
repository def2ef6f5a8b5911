"""Data sets, read from tiny files in each one's true on-disk format, and what is said when a file is not right."""

import contextlib
import hashlib
import os
import pickle
import shutil
import tarfile
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from oeu_ref.data import archives, folders, published
from oeu_ref.data.image_sets import load_images
from oeu_ref.data.requests import class_numbers

RNG = np.random.default_rng(0)


def pixels(count, side=32):
    return RNG.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    """load(name, root) with a cache of the test's own."""
    return lambda name, root, **options: load_images(name, root, cache_dir=tmp_path / "cache", **options)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def write_cifar10(root, monkeypatch):
    """Five training batches of 4 images and a test batch, as the authors' archive has them; returns the arrays."""
    folder, train, test = root / "cifar-10-batches-py", [], []
    parts = {}
    for i in range(6):
        images, labels = pixels(4), [2, 0, 1, int(RNG.integers(3))]
        # a row is 1,024 red, then green, then blue values
        rows = images.transpose(0, 3, 1, 2).reshape(4, -1)
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        path = write_pickle(folder / name, {"data": rows, "labels": labels, "filenames": ["x.png"] * 4})
        (train if i < 5 else test).append([name, md5(path)])
        parts[name] = images, labels
    meta = write_pickle(folder / "batches.meta", {"label_names": ["airplane", "automobile", "bird"]})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(meta)})
    return parts


def test_cifar10_is_read_from_its_own_files(tmp_path, load, monkeypatch):
    parts = write_cifar10(tmp_path, monkeypatch)
    data = load("cifar10", tmp_path)
    batches = [parts[f"data_batch_{i}"] for i in range(1, 6)]
    expected = np.concatenate([images for images, _ in batches]).transpose(0, 3, 1, 2)
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.train_images.numpy(), expected)
    assert data.train_labels.tolist() == sum((labels for _, labels in batches), [])
    assert np.array_equal(data.test_images.numpy(), parts["test_batch"][0].transpose(0, 3, 1, 2))
    assert data.classes == ("airplane", "automobile", "bird")


def test_cifar10_archive_is_unpacked_once_its_md5_is_right(tmp_path, load, monkeypatch):
    source, root = tmp_path / "source", tmp_path / "root"
    write_cifar10(source, monkeypatch)
    root.mkdir()
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    assert len(load("cifar10", root).train_labels) == 20
    whole = archive.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / archive.name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz must have the MD5 .* truncated"):
        load("cifar10", other)
    assert not (other / "cifar-10-batches-py").exists()


def test_a_damaged_file_is_named_with_its_md5(tmp_path, load, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3 must have the MD5 [0-9a-f]{32}, it is damaged"):
        load("cifar10", tmp_path)


def test_a_missing_file_of_a_data_set_is_named(tmp_path, load, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(ValueError, match="test_batch must be there"):
        load("cifar10", tmp_path)


def test_cifar100_is_read_with_its_fine_labels(tmp_path, load, monkeypatch):
    folder, images = tmp_path / "cifar-100-python", {"train": pixels(6), "test": pixels(3)}
    lists = {}
    for part, x in images.items():
        labels = [i % 3 for i in range(len(x))]
        content = {"data": x.transpose(0, 3, 1, 2).reshape(len(x), -1), "fine_labels": labels, "coarse_labels": [9] * 6}
        lists[part] = [[part, md5(write_pickle(folder / part, content))]]
    meta = write_pickle(folder / "meta", {"fine_label_names": ["apple", "bee", "cup"], "coarse_label_names": []})
    monkeypatch.setattr(CIFAR100, "train_list", lists["train"])
    monkeypatch.setattr(CIFAR100, "test_list", lists["test"])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(meta)})
    data = load("cifar100", tmp_path)
    assert np.array_equal(data.train_images.numpy(), images["train"].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.classes == ("apple", "bee", "cup")


def test_svhn_is_read_and_its_label_10_is_the_digit_0(tmp_path, load, monkeypatch):
    from scipy.io import savemat

    images, splits = {"train": pixels(4), "test": pixels(2)}, {}
    for part, x in images.items():
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": x.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [2], [10]])[: len(x)]})
        splits[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", splits)
    data = load("svhn", tmp_path)
    assert np.array_equal(data.train_images.numpy(), images["train"].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [0, 1, 2, 0]
    (tmp_path / "test_32x32.mat").write_bytes(b"")
    with pytest.raises(ValueError, match="test_32x32.mat must have the MD5"):
        load("svhn", tmp_path)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_tiny_imagenet(root):
    """Two classes, two training images each, three validation images; wnids.txt decides the labels."""
    folder, train, val = root / "tiny-imagenet-200", pixels(4, 64), pixels(3, 64)
    wnids = ["n02", "n01"]
    for i, image in enumerate(train):
        save(folder / "train" / wnids[i // 2] / "images" / f"{wnids[i // 2]}_{i}.png", image)
    for i, image in enumerate(val):
        save(folder / "val" / "images" / f"val_{i}.png", image)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    lines = [f"val_{i}.png\t{wnids[i % 2]}\t0\t0\t62\t62\n" for i in range(3)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder, train, val


def test_tiny_imagenet_is_read_and_its_validation_split_is_the_test_set(tmp_path, load):
    _, train, val = write_tiny_imagenet(tmp_path)
    data = load("tinyimagenet", tmp_path)
    assert np.array_equal(data.train_images.numpy(), train.transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(data.test_images.numpy(), val.transpose(0, 3, 1, 2))
    assert data.test_labels.tolist() == [0, 1, 0]
    assert data.classes == ("n02", "n01")


def test_tiny_imagenet_annotations_cannot_point_outside(tmp_path, load):
    folder, _, _ = write_tiny_imagenet(tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("../../secret.png\tn01\t0\n")
    with pytest.raises(ValueError, match="line 1 must name a file and a class"):
        load("tinyimagenet", tmp_path)


def write_folder(root, side=8):
    for part, count in (("train", 3), ("test", 2)):
        for c in ("cat", "dog"):
            for i in range(count):
                save(root / part / c / f"{i}.png", pixels(1, side)[0])
    return root


def test_a_folder_of_images_is_read(tmp_path, load):
    write_folder(tmp_path / "pets")
    data = load("pets", tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test_labels.tolist() == [0, 0, 1, 1]
    third = np.asarray(Image.open(tmp_path / "pets" / "train" / "dog" / "0.png"))
    assert np.array_equal(data.train_images[3].permute(1, 2, 0).numpy(), third)
    # the folder itself may be named, too
    assert load("pets", tmp_path / "pets").sha256 == data.sha256


def test_grey_and_differently_sized_images_become_one_size_on_request(tmp_path, load):
    write_folder(tmp_path / "pets")
    path = tmp_path / "pets" / "train" / "cat" / "0.png"
    save(path, RNG.integers(0, 256, (10, 12), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"must have the size of .*0.png, 12 x 10, got 8 x 8; --image-size sets one"):
        load("pets", tmp_path)
    assert load("pets", tmp_path, image_size=6).train_images.shape == (6, 3, 6, 6)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "train" / "cat" / "1.png").write_bytes(b"no image"), r"1.png must be an image"),
        (lambda root: [p.unlink() for p in (root / "train" / "dog").iterdir()], r"dog must hold at least one image"),
        (lambda root: (root / "test" / "bird").mkdir(), r"must have the classes of train alone, got 'bird'"),
        (lambda root: (root / "test").rename(root / "tests"), r"test/<class>"),
        (lambda root: [p.unlink() for p in (root / "test").glob("*/*")], r"test must hold images"),
    ],
)
def test_a_folder_that_is_not_right_is_named(tmp_path, load, spoil, message):
    spoil(write_folder(tmp_path / "pets"))
    with pytest.raises(ValueError, match=message):
        load("pets", tmp_path)


def arrays(**changes):
    content = {"x_train": pixels(4, 8), "y_train": [0, 1, 0, 1], "x_test": pixels(2, 8), "y_test": [1, 0]}
    return {key: np.asarray(value) for key, value in {**content, **changes}.items() if value is not None}


def test_an_npz_is_read_with_channels_first_last_or_none(tmp_path, load):
    content = arrays()
    np.savez(tmp_path / "mine.npz", **content)
    data = load("mine", tmp_path)
    assert np.array_equal(data.train_images.numpy(), content["x_train"].transpose(0, 3, 1, 2))
    assert data.classes == ("0", "1")
    first = {key: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for key, v in content.items()}
    np.savez(tmp_path / "first.npz", **first)
    assert load("first", tmp_path).sha256 == data.sha256
    grey = {key: v[..., 0] if v.ndim == 4 else v for key, v in content.items()}
    np.savez(tmp_path / "grey.npz", **grey)
    images = load("grey", tmp_path).train_images
    assert all(np.array_equal(images[:, c].numpy(), grey["x_train"]) for c in range(3))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": pixels(4, 8).astype(float)}, "x_train must be uint8"),
        ({"x_train": pixels(4, 8)[0, 0]}, r"x_train must have shape"),
        ({"x_test": pixels(2, 9)}, "must have one image size"),
        ({"y_train": [0, 1, 0]}, "4 images in x_train and 3 labels"),
        ({"y_train": [0.0, 1.0, 0.0, 1.0]}, "y_train must be integers"),
        ({"y_train": [0, 1, -1, 1]}, "y_train must not be negative, got -1 at 2"),
        ({"y_train": [0, 0, 0, 0]}, "has none of 1"),
        ({"y_test": [0, 2]}, "has none of 2"),
        ({"classes": ["a"]}, "label 1 and 1 classes"),
        ({"y_train": [0, 0, 0, 0], "y_test": [0, 0]}, "has none of a second one"),
        ({"x_train": pixels(0, 8), "y_train": np.zeros(0, int)}, "at least one"),
    ],
)
def test_an_npz_that_is_not_right_is_explained(tmp_path, load, changes, message):
    np.savez(tmp_path / "mine.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        load("mine", tmp_path)


def test_an_npz_with_pickled_objects_or_cut_short_is_refused(tmp_path, load):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(), classes=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ValueError, match=r"mine.npz must be an .npz file without pickled objects"):
        load("mine", tmp_path)
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"mine.npz must be an .npz file"):
        load("mine", tmp_path)


def test_own_files_come_before_an_npz_and_an_npz_before_a_folder(tmp_path, load, monkeypatch):
    write_folder(tmp_path / "cifar10")
    assert "image folder" in load("cifar10", tmp_path).source
    np.savez(tmp_path / "cifar10.npz", **arrays())
    assert load("cifar10", tmp_path).source.endswith("cifar10.npz")
    write_cifar10(tmp_path, monkeypatch)
    assert "torchvision's own files" in load("cifar10", tmp_path).source


def test_no_data_says_what_is_expected_where_and_how_to_get_it(tmp_path, load):
    with pytest.raises(ValueError) as caught:
        load("cifar10", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for expected in (str(tmp_path), "cifar-10-batches-py", "cifar10.npz", "cifar10/train/<class>", "--download"):
        assert expected in message
    with pytest.raises(ValueError, match="put one of them there"):
        load("mine", tmp_path)


def test_download_is_asked_for_only_where_nothing_is_found(tmp_path, load, monkeypatch):
    fetched = []

    def fetch(self, root):
        fetched.append(root)
        np.savez(root / "cifar10.npz", **arrays())

    monkeypatch.setattr(published.Cifar, "fetch", fetch)
    assert len(load("cifar10", tmp_path, download=True).train_labels) == 4
    assert len(load("cifar10", tmp_path, download=True).train_labels) == 4
    assert fetched == [tmp_path]


def test_a_failed_download_is_one_line(tmp_path, load, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(ValueError, match=r"could not be downloaded \(no route to host\): fetch it elsewhere"):
        load("cifar10", tmp_path, download=True)


def test_images_are_decoded_once_and_again_when_a_file_changed(tmp_path, load, monkeypatch):
    write_folder(tmp_path / "pets")
    first = load("pets", tmp_path)
    decoded = []
    original = folders._decoded
    monkeypatch.setattr(folders, "_decoded", lambda *args: decoded.append(args) or original(*args))
    again = load("pets", tmp_path)
    assert not decoded
    assert again.sha256 == first.sha256 and again.classes == first.classes
    save(tmp_path / "pets" / "train" / "cat" / "0.png", pixels(1, 8)[0])
    assert load("pets", tmp_path).sha256 != first.sha256
    assert decoded


def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, load):
    write_folder(tmp_path / "pets")
    first = load("pets", tmp_path)
    (cached,) = (tmp_path / "cache").glob("*.npz")
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(bytes(content))
    assert load("pets", tmp_path).sha256 == first.sha256
    assert cached.read_bytes() != bytes(content)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    write_folder(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    assert len(load_images("pets", tmp_path, cache_dir=tmp_path / "file" / "cache").train_labels) == 6


@pytest.mark.parametrize("name", ["../secret", "", None, "a/b"])
def test_a_name_is_a_word(tmp_path, load, name):
    with pytest.raises(ValueError, match="name must be a word"):
        load(name, tmp_path)


# What people really have in their folders


def shade(path, value, mode="RGB", side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value).save(path)


def write_shades(root, classes):
    """A class folder for each name; its two training images and one test image are as bright as its position."""
    for i, c in enumerate(classes):
        for part, name in (("train", "0.png"), ("train", "1.png"), ("test", "0.png")):
            shade(root / part / c / name, (10 * i,) * 3)
    return root


@pytest.mark.parametrize(
    "classes",
    [
        [str(i) for i in range(12)],
        [str(i) for i in range(1, 12)],
        ["class 2", "class 10", "class 20"],
        ["02", "3", "11"],
        ["1a", "1b", "2", "10b"],
    ],
)
def test_class_folders_are_in_natural_order(tmp_path, load, classes):
    data = load("mine", write_shades(tmp_path, classes))
    assert data.classes == tuple(classes)
    assert (data.train_images[:, 0, 0, 0] == 10 * data.train_labels).all()
    assert (data.test_images[:, 0, 0, 0] == 10 * data.test_labels).all()


@pytest.mark.parametrize(("train", "test"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_class_is_the_same_however_its_accents_are_written(tmp_path, load, train, test):
    """Some systems write a letter and its accent apart: folders, and the word of a request, are found all the same."""
    name = "\u00e9t\u00e9"
    write_shades(tmp_path, ["a", name])
    for part, form in (("train", train), ("test", test)):
        os.rename(tmp_path / part / name, tmp_path / part / unicodedata.normalize(form, name))
    data = load("mine", tmp_path)
    assert data.classes == ("a", name) and data.test_labels.tolist() == [0, 1]
    for form in ("NFC", "NFD"):
        for names in (data.classes, ["a", unicodedata.normalize("NFD", name)]):
            assert class_numbers([unicodedata.normalize(form, name)], names) == [1]


def test_a_class_in_two_folders_that_look_the_same_is_refused(tmp_path, load):
    write_shades(tmp_path, ["a", "\u00e9"])
    (tmp_path / "train" / unicodedata.normalize("NFD", "\u00e9")).mkdir()
    with pytest.raises(ValueError, match="train must hold each class in one folder, got two that are written"):
        load("mine", tmp_path)


NO_DATA = ["train/a/._0.png", "train/a/.DS_Store", "test/b/Thumbs.db", "train/b/desktop.ini", "train/.DS_Store"]
NO_DATA += ["train/.ipynb_checkpoints/0-checkpoint.png", "train/a/.ipynb_checkpoints/0-checkpoint.png"]
NO_DATA += [
    "train/__MACOSX/a/._0.png",
    "test/__MACOSX/._b",
    "train/@eaDir/a.png",
    "train/a/notes.txt",
    "train/list.csv",
]


@pytest.mark.parametrize("name", NO_DATA)
def test_files_and_folders_that_are_no_data_are_left_out_and_counted(tmp_path, load, name):
    write_shades(tmp_path, "ab")
    whole = load("mine", tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out 1 files and folders that are no images, such as"):
        data = load("mine", tmp_path)
    assert data.classes == ("a", "b") and data.sha256 == whole.sha256


def test_a_part_for_validation_beside_train_and_test_is_named_as_unused(tmp_path, load):
    """Whoever has a third part, in a folder or an .npz file, is told that nobody reads it."""
    write_shades(tmp_path, "ab")
    whole = load("mine", tmp_path)
    shade(tmp_path / "val" / "a" / "1.png", (10,) * 3)
    with pytest.warns(UserWarning, match=": train and test are read, not val .validation is drawn from train"):
        assert load("mine", tmp_path).sha256 == whole.sha256
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    parts = {
        f"{kind}_{part}": value for part in ("train", "test", "val") for kind, value in zip("xy", (images, labels))
    }
    np.savez(tmp_path / "arrays.npz", **parts)
    with pytest.warns(UserWarning, match="arrays.npz: train and test are read, not x_val, y_val .validation"):
        assert len(load("arrays", tmp_path).train_images) == 4


def test_an_empty_folder_of_a_tool_is_no_class(tmp_path, load):
    write_shades(tmp_path, "ab")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    with pytest.warns(UserWarning, match="left out 1 "):
        assert load("mine", tmp_path).classes == ("a", "b")


def test_images_in_folders_below_a_class_belong_to_it(tmp_path, load):
    write_shades(tmp_path, "ab")
    shade(tmp_path / "train" / "b" / "summer" / "2.png", (10,) * 3)
    assert load("mine", tmp_path).train_labels.tolist() == [0, 0, 1, 1, 1]


def test_a_link_to_a_folder_above_brings_no_class_into_another(tmp_path, load):
    """It is left out and counted; a link to a folder elsewhere is followed."""
    write_shades(tmp_path, "ab")
    whole = load("mine", tmp_path)
    os.symlink(tmp_path / "train", tmp_path / "train" / "a" / "all")
    with pytest.warns(UserWarning, match="left out 1 files and folders that are no images, such as .*all"):
        assert load("mine", tmp_path).sha256 == whole.sha256
    os.remove(tmp_path / "train" / "a" / "all")
    shade(tmp_path / "elsewhere" / "2.png", (10,) * 3)
    os.symlink(tmp_path / "elsewhere", tmp_path / "train" / "b" / "more")
    assert load("mine", tmp_path).train_labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX systems alone")
def test_the_name_of_a_class_can_be_written_whatever_its_bytes_are(tmp_path, load):
    """A folder's name in Latin-1 is no UTF-8: results and messages hold what can be read of it."""
    write_shades(tmp_path, "ab")
    for part in ("train", "test"):
        os.rename(tmp_path / part / "b", os.fsencode(tmp_path / part) + b"/caf\xe9")
    first, second = load("mine", tmp_path).classes
    assert first == "a" and second.startswith("caf") and second.encode("utf-8")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_images_stand_upright_as_the_camera_says(tmp_path, load, suffix):
    """A photograph that is stored lying down says so in its Exif data, as every viewer shows it."""
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = 255  # light above, dark below
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees, clockwise
    for path in ("train/a/0", "train/b/0", "test/a/0"):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(np.rot90(upright).copy()).save(tmp_path / f"{path}.{suffix}", exif=turned)
    images = load("mine", tmp_path).train_images
    assert images.shape == (2, 3, 16, 8) and images[:, :, :8].min() > 250 and images[:, :, 8:].max() < 5


RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
EIGHT = np.rint(RAMP / 257).astype(np.uint8)
CLEAR = np.dstack([np.zeros((8, 8, 3), np.uint8), EIGHT])
PALETTE = Image.fromarray(EIGHT).convert("P")
MODES = {
    "16 bits PNG": (Image.fromarray(RAMP), "png", EIGHT, "scaled to 8 bits, 65535 is white"),
    "16 bits TIFF": (Image.fromarray(RAMP), "tif", EIGHT, "scaled to 8 bits, 65535 is white"),
    "16 bits TIFF, big-endian": (
        Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()),
        "tif",
        EIGHT,
        "scaled",
    ),
    "16 bits PGM": (Image.fromarray(RAMP.astype(np.int32)), "pgm", EIGHT, "scaled to 8 bits, 65535 is white"),
    "12 bits PNG": (
        Image.fromarray(RAMP // 16),
        "png",
        np.rint(RAMP // 16 / 257),
        "hold no value above 4095: .* by 16",
    ),
    "float TIFF": (Image.fromarray((RAMP / 65535).astype(np.float32)), "tif", EIGHT, "scaled to 8 bits, 1 is white"),
    "8 bits": (Image.fromarray(EIGHT), "png", EIGHT, None),
    "palette": (PALETTE, "png", EIGHT, None),
    "CMYK": (Image.fromarray(EIGHT).convert("CMYK"), "tif", EIGHT, None),
    "1 bit": (Image.fromarray(EIGHT > 99), "png", np.where(EIGHT > 99, 255, 0), None),
    "opaque": (Image.fromarray(EIGHT).convert("RGBA"), "png", EIGHT, None),
    "black on clear": (Image.fromarray(CLEAR, "RGBA"), "png", 255 - EIGHT, "partly transparent, and laid on white"),
    "grey on clear": (Image.fromarray(CLEAR[..., 2:], "LA"), "png", 255 - EIGHT, "partly transparent"),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_in_every_mode_keep_their_pixels(tmp_path, load, name):
    image, suffix, expected, note = MODES[name]
    for path in ("train/a/0", "train/b/0", "test/a/0"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / f"{path}.{suffix}")
    for _ in range(2):  # decoded, and from the cache
        with pytest.warns(UserWarning, match=f"3 images .*{note}") if note else contextlib.nullcontext():
            data = load("mine", tmp_path)
        assert (data.train_images[0].numpy() == expected).all()


@pytest.mark.parametrize(
    "values", [RAMP.astype(np.int32), EIGHT.astype(np.float32), EIGHT / np.float32(-255), RAMP * np.float32("nan")]
)
def test_numbers_of_which_nobody_knows_which_is_white_are_refused(tmp_path, load, values):
    write_shades(tmp_path, "ab")
    Image.fromarray(values).save(tmp_path / "train" / "a" / "2.tif")
    with pytest.raises(ValueError, match="2.tif must be an image, .* nobody knows which is white"):
        load("mine", tmp_path)


def test_the_first_of_several_frames_is_taken_and_said(tmp_path, load):
    write_shades(tmp_path, "ab")
    frames = [Image.new("L", (8, 8), value) for value in (7, 8)]
    frames[0].save(tmp_path / "train" / "a" / "0.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="1 images have more than one frame, the first is taken"):
        assert load("mine", tmp_path).train_images[1].unique().tolist() == [7]


def test_a_cache_knows_files_by_their_content(tmp_path, load):
    """Swapped classes, with files of one size and one time, as archives and container layers have them."""

    def put(cat, dog):
        for part in ("train", "test"):
            for c, value in (("cat", cat), ("dog", dog)):
                shade(path := tmp_path / part / c / "0.bmp", (value,) * 3)
                os.utime(path, (1e9, 1e9))
        return load("mine", tmp_path).train_images[:, 0, 0, 0].tolist()

    assert put(10, 200) == [10, 200]
    assert put(200, 10) == [200, 10]


def lay_out_anew(folder, inner):
    """Validation images into class folders, as tutorials have it."""
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (folder / "val" / wnid / inner).mkdir(parents=True, exist_ok=True)
        (folder / "val" / "images" / name).rename(folder / "val" / wnid / inner / name)
    (folder / "val" / "images").rmdir()


@pytest.mark.parametrize(
    "layout", ["folders", "folders with images", "without annotations", "nested", "direct", "CRLF"]
)
def test_tiny_imagenet_in_the_layouts_that_people_have(tmp_path, load, layout):
    folder, _, val = write_tiny_imagenet(tmp_path)
    root, annotations = tmp_path, folder / "val" / "val_annotations.txt"
    if layout == "nested":
        folder.rename(tmp_path / "inner")
        folder.mkdir()
        (tmp_path / "inner").rename(folder / folder.name)
    elif layout == "direct":
        root = folder
    elif layout == "CRLF":
        for path in (annotations, folder / "wnids.txt"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    else:
        lay_out_anew(folder, "images" if layout == "folders with images" else ".")
        if layout == "without annotations":
            annotations.unlink()
    data = load("tinyimagenet", root)
    order = [0, 2, 1] if "nnotations" in layout or "folders" in layout else [0, 1, 2]
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert data.test_labels.tolist() == [[0, 1, 0][i] for i in order]
    assert np.array_equal(data.test_images.numpy(), val[order].transpose(0, 3, 1, 2))


def test_labels_in_a_column_and_names_in_bytes_are_read(tmp_path, load):
    column = {key: np.reshape(value, (-1, 1)) for key, value in arrays().items() if key[0] == "y"}
    np.savez(tmp_path / "mine.npz", **arrays(**column, classes=np.array(["Käse".encode(), b"dog"])))
    data = load("mine", tmp_path)
    assert data.train_labels.tolist() == [0, 1, 0, 1] and data.test_labels.tolist() == [1, 0]
    assert data.classes == ("Käse", "dog")


@pytest.mark.parametrize("shape", [(4, 3, 8, 3), (4, 1, 8, 3), (4, 3, 8, 1)])
def test_a_shape_that_can_be_read_in_two_ways_is_refused(tmp_path, load, shape):
    np.savez(tmp_path / "mine.npz", **arrays(x_train=np.zeros(shape, np.uint8)))
    with pytest.raises(ValueError, match="x_train must show where its channels are"):
        load("mine", tmp_path)


@pytest.mark.parametrize("where", ["CIFAR10.npz", "cifar10.NPZ", "mine.npz"])
def test_an_npz_is_found_in_either_case_and_by_its_path(tmp_path, load, where):
    np.savez(tmp_path / "a.npz", **arrays())
    (tmp_path / "a.npz").rename(tmp_path / where)
    root, word = (tmp_path / where, "mine") if where == "mine.npz" else (tmp_path, "cifar10")
    assert len(load(word, root).train_labels) == 4
    assert len(load("mine.npz", tmp_path).train_labels) == 4 if word == "mine" else True


@pytest.mark.parametrize("deeper", ["cifar10", "cifar-10-batches-py", "anything", "itself"])
def test_cifar_is_found_one_folder_deeper(tmp_path, load, monkeypatch, deeper):
    root = tmp_path if deeper == "itself" else tmp_path / deeper
    write_cifar10(root, monkeypatch)
    assert len(load("cifar10", tmp_path / "cifar-10-batches-py" if deeper == "itself" else tmp_path).train_labels) == 20


def test_an_archive_that_a_browser_has_taken_the_gz_off_is_unpacked(tmp_path, load, monkeypatch):
    write_cifar10(tmp_path / "source", monkeypatch)
    with tarfile.open(tmp_path / "cifar-10-python.tar", "w") as file:
        file.add(tmp_path / "source" / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "source")
    assert len(load("cifar10", tmp_path).train_labels) == 20


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "Test"])
def test_the_test_set_goes_by_several_names(tmp_path, load, name):
    write_shades(tmp_path / "mine", "ab")
    (tmp_path / "mine" / "test").rename(tmp_path / "mine" / "spare")
    (tmp_path / "mine" / "spare").rename(tmp_path / "mine" / name)
    assert load("mine", tmp_path).test_labels.tolist() == [0, 1]


@pytest.mark.parametrize("where, root", [("mine/mine", "."), ("MINE", "."), ("mine", "mine/train"), ("mine", "mine")])
def test_a_folder_of_images_is_found_where_people_put_it(tmp_path, load, where, root):
    write_shades(tmp_path / where, "ab")
    assert load("mine", tmp_path / root).train_labels.tolist() == [0, 0, 1, 1]


def test_where_nothing_is_found_it_is_said_what_there_is(tmp_path, load):
    (tmp_path / "cats").mkdir()
    with pytest.raises(ValueError, match="which holds cats: expected"):
        load("mine", tmp_path)
    with pytest.raises(ValueError, match="which is empty: expected"):
        load("mine", tmp_path / "cats")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_shades(tmp_path / "data" / "mine", "ab")
    assert len(load_images("mine", "~/data", cache_dir="~/cache").train_labels) == 4
    assert [path.suffix for path in (tmp_path / "cache").glob("*.npz")] == [".npz"]


def test_an_archive_is_not_unpacked_where_python_cannot_do_it_safely(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(ValueError, match=r"a.tar.gz must be unpacked by hand, or by Python 3.10.12, 3.11.4 or newer"):
        archives.unpack(tmp_path / "a.tar.gz", tmp_path, "data")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_is_read_in_every_encoding_that_windows_writes(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("1\r\nKäse\r\n".encode(encoding))
    assert archives.read_text(tmp_path / "a.txt").split() == ["1", "Käse"]
    (tmp_path / "a.txt").write_bytes(b"")
    assert archives.read_text(tmp_path / "a.txt") == ""
