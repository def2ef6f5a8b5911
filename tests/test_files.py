"""Files are written by Windows' rules too: what is open can be neither renamed nor removed."""

import functools
import os

import pytest
import torch

from oeu_ref import files
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.report import results
from oeu_ref.vectors.make import write_vectors


@pytest.fixture
def windows(monkeypatch):
    """Windows' rule, on a system that can tell which files are open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open files")

    def is_open(path):
        where = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return os.path.realpath(path) in [os.path.realpath(fd) for fd in where]

    def guarded(act):
        @functools.wraps(act)
        def guard(path, *others, **options):
            for name in (path, *others[:1]):
                if isinstance(name, str | os.PathLike) and is_open(name):
                    raise PermissionError(13, "it is being used by another process", str(name))
            return act(path, *others, **options)

        return guard

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


def test_the_rule_is_kept(windows, tmp_path):
    """The control: an open file can be neither replaced nor removed."""
    with open(tmp_path / "a", "w"):
        with pytest.raises(PermissionError):
            os.replace(tmp_path / "a", tmp_path / "b")
        with pytest.raises(PermissionError):
            (tmp_path / "a").unlink()


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: files.write_bytes(folder / "a.bin", b"x"),
        lambda folder: results.write_json(folder / "a.json", {"a": [1, 2]}),
        lambda folder: Checkpoint(folder / "a.pt", {}).save(model=torch.nn.Linear(2, 2)),
        lambda folder: write_vectors(folder),
    ],
    ids=["bytes", "JSON", "checkpoint", "vectors"],
)
def test_everything_is_written_anew_and_again(windows, tmp_path, write):
    for _ in range(2):
        write(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith(files.HALF)] == []


def test_a_checkpoint_is_read_and_discarded(windows, tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.pt", {})
    checkpoint.save(weights=torch.ones(3))
    assert torch.equal(checkpoint.restore()["weights"], torch.ones(3))
    checkpoint.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_the_old_file_and_no_half(windows, tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_held_folder_is_tidied_and_left(windows, tmp_path):
    with files.alone(tmp_path):
        (tmp_path / f".a.0{files.HALF}").touch()
        files.clear_halves(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
