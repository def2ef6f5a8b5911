"""Files are written by Windows' rules too: what is open can be neither renamed nor removed."""

import functools
import os
import subprocess
import sys

import pytest
import torch

from oeu_ref import files, locks
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
    with locks.alone(tmp_path):
        (tmp_path / f".a.0{files.HALF}").touch()
        files.clear_halves(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path, linked):
    """What would take the place of /dev/stdout or /dev/null breaks every program after it."""
    os.mkfifo(pipe := tmp_path / "pipe")
    path = tmp_path / "link" if linked else pipe
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(OSError, match="which a file would replace"):
        files.write_bytes(path, b"x")
    assert pipe.is_fifo() and path.is_symlink() == linked and not list(tmp_path.glob(".*"))
    assert not files.replaceable(os.devnull) and files.replaceable(tmp_path) and files.replaceable(tmp_path / "new")


def test_what_is_printed_to_is_not_replaced_under_the_printers_hands(tmp_path):
    """`program > out.txt`, where the program is to write out.txt: what it prints would go to a file without a name."""
    program = "import sys; from oeu_ref import files; print(files.replaceable(sys.argv[1]), files.replaceable('other'))"
    with open(path := tmp_path / "out.txt", "w") as out:
        subprocess.run([sys.executable, "-c", program, path], stdout=out, check=True)
    assert path.read_text().split() == ["False", "True"]
