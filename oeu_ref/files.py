"""Files written whole or not at all, and one run at a time in a folder."""

import contextlib
import contextvars
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import tempfile
import warnings

from . import boundary

# of a temporary neighbour: no other program's file has such a name, so that what a killed process left can be removed
HALF = ".oeu_ref.tmp"
IRREPLACEABLE = "it is a device, a pipe, or what is printed to, which a file would replace"
_held = contextvars.ContextVar("lock files that this run holds", default=frozenset())


def replaceable(path):
    """Whether a path is free, a folder, or a plain file, that nothing is printed to: no device, no pipe."""
    if not os.path.isfile(path):
        return not os.path.exists(path) or os.path.isdir(path)
    printed = []
    for number in (1, 2):  # stdout, stderr
        with contextlib.suppress(OSError):  # it may be closed
            printed.append(os.fstat(number))
    return not any(os.path.samestat(os.stat(path), other) for other in printed)


def write_bytes(path, content):
    """Write `content` (bytes) to `path`, in folders made if need be: readers see the old file or the new, never half.

    Returns the path as `pathlib.Path`.  Raises OSError where it cannot be written, or what is there is not
    `replaceable`; an existing file is then as before.
    """
    if not replaceable(path):
        raise OSError(errno.EINVAL, IRREPLACEABLE, str(path))
    (path := pathlib.Path(path)).parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF}")
    file = open(temporary, "xb")  # "x": the file is new, and nobody has put a link in its place
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # once it is closed: Windows neither renames nor removes an open file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def clear_halves(folder):
    """Remove the temporary files that a killed `write_bytes` left in a folder where one is `alone`, not below it."""
    for leftover in pathlib.Path(folder).glob(f".*{HALF}"):
        leftover.unlink(missing_ok=True)


def write_text(path, content):
    """`write_bytes` for a string, in UTF-8."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path, content):
    """`write_text` for plain data, indented, lists of numbers on one line.  Raises ValueError for inf and nan."""
    text = json.dumps(content, indent=1, allow_nan=False)
    # a curve of a thousand numbers would otherwise fill a thousand lines
    text = re.sub(r"\[(?:null|[-+\d.eE,\s])*\]", lambda numbers: "".join(numbers[0].split()).replace(",", ", "), text)
    return write_text(path, text + "\n")


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
