"""One run at a time in a folder, by a lock that the system lets go of when its process ends, however it ends."""

import contextlib
import contextvars
import hashlib
import os
import pathlib
import tempfile
import warnings

from . import boundary

try:
    import fcntl
except ImportError:  # not on Windows: there a second run is not noticed
    fcntl = None

BUSY = ("refuse", "wait")
_held = contextvars.ContextVar("folders that this run holds", default=frozenset())


@contextlib.contextmanager
def alone(folder, name="out", busy="refuse", work=""):
    """Be the only run at work in a folder for as long as the context lasts.

    folder: made if need be; name: the argument's, for messages; busy: what to do where another run is at work,
    "refuse" or "wait"; work: a word, where runs of different work share a folder without touching each other's files.
    Who holds a folder may enter it again, in the same thread. A killed process holds nothing. The empty file `.lock`
    (`.<work>.lock`) stays in the folder.
    Raises ValueError where another run is at work, or the folder cannot be written to.
    """
    boundary.one_of("busy", busy, BUSY)
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / (f".{work}.lock" if work else ".lock"), "a")
    except OSError as error:
        raise ValueError(f"{name} must be a directory that can be written to, got {folder}: {error.strerror}") from None
    folder = folder.resolve()
    key = folder, work
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        if fcntl is not None and key not in _held.get() and not _locked(file, busy, folder, name):
            # no locks on this file system, as on some that several machines share: then a lock beside the other
            # temporary files of this machine, which keeps at least its own runs apart
            stack.enter_context(elsewhere := os.fdopen(_local_file(key), "a"))
            _locked(elsewhere, busy, folder, name)
            warnings.warn(
                f"{folder} is on a file system without locks: a run of another machine in it is not noticed",
                stacklevel=3,
            )
        token = _held.set(_held.get() | {key})
        try:
            yield
        finally:
            _held.reset(token)


def _locked(file, busy, folder, name):
    """True once the file is locked, False where its file system has no locks.  Raises ValueError for a locked one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy == "refuse" else 0))
    except BlockingIOError:
        raise ValueError(
            f"{name} must be a folder of this run's own, another run is at work in {folder}: wait, or choose another"
        ) from None
    except OSError:
        return False
    return True


def _local_file(key):
    """Descriptor of a file of this user's, on this machine, that stands for the folder and the work."""
    digest = hashlib.sha256(b"\0".join(map(os.fsencode, key))).hexdigest()[:16]
    path = pathlib.Path(tempfile.gettempdir()) / f"oeu_ref-{os.getuid()}-{digest}.lock"
    # anybody may write to that folder: a link in the file's place is not followed
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
