"""One run at a time in a folder."""

import contextlib
import contextvars
import errno
import hashlib
import os
import pathlib
import tempfile
import warnings

from . import boundary

_held = contextvars.ContextVar("lock files that this run holds", default=frozenset())


@contextlib.contextmanager
def alone(folder, name="out", busy="refuse", work=""):
    """Be the only run at work in a folder for as long as the context lasts, by a lock that ends with its process.

    folder: made if need be; name: the argument's, for messages; busy: what to do where another run is at work,
    "refuse" or "wait"; work: a word, where runs of different work share a folder without touching each other's files.
    Who holds a folder may enter it again, in the same thread.  The empty file `.lock` (`.<work>.lock`) stays in it.
    Raises ValueError where another run is at work, or the folder cannot be written to.
    """
    boundary.one_of("busy", busy, ("refuse", "wait"))
    with contextlib.ExitStack() as stack:
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            path = pathlib.Path(folder).resolve() / (f".{work}.lock" if work else ".lock")
            if path not in _held.get():
                stack.enter_context(_locked(path, 0 if busy == "refuse" else -1))
        except TimeoutError:
            other = f"another run is at work in {folder}: wait, or choose another"
            raise ValueError(f"{name} must be a folder of this run's own, {other}") from None
        except OSError as error:
            reason = error.strerror
            raise ValueError(f"{name} must be a directory that can be written to, got {folder}: {reason}") from None
        stack.callback(_held.reset, _held.set(_held.get() | {path}))
        yield


def _locked(path, timeout):
    """The lock of a file, held.  Raises TimeoutError where another run holds it, OSError for an impossible file."""
    from filelock import FileLock  # for those alone who need it: the laws are checked without

    try:
        return FileLock(path, timeout).acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    # a file system without locks: one among this machine's temporary files keeps at least its own runs apart
    mine = f"{getattr(os, 'getuid', int)()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    lock = FileLock(f"{tempfile.gettempdir()}/oeu_ref-{mine}.lock", timeout, 0o600).acquire()
    warnings.warn(f"{path.parent} has no locks: a run of another machine in it is not noticed", stacklevel=4)
    return lock
