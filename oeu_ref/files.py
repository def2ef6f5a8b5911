"""Writing files so that nothing is lost: to a temporary neighbour first, then renamed."""

import json
import os
import pathlib
import tempfile


def write_bytes(path, content):
    """Write `content` (bytes) to `path`: readers see the old file or the new one, never half of it.

    Missing folders are made.  Returns the path as `pathlib.Path`.  Raises OSError where it cannot be written; an
    existing file is then as before.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text(path, content):
    """`write_bytes` for a string, in UTF-8."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path, content):
    """`write_text` for dicts, lists, strings, finite numbers and None, indented; ValueError for NaN and infinity."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
