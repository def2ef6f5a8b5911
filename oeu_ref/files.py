"""Writing files so that nothing is lost: to a temporary neighbour first, then renamed."""

import json
import os
import pathlib
import re
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
    """`write_text` for dicts, lists, strings, finite numbers and None, indented, lists of numbers on one line.

    Raises ValueError for a number that is not finite: JSON has none.
    """
    text = json.dumps(content, indent=1, allow_nan=False)
    # a curve of a thousand numbers would otherwise fill a thousand lines
    text = re.sub(r"\[(?:null|[-+\d.eE,\s])*\]", lambda numbers: "".join(numbers[0].split()).replace(",", ", "), text)
    return write_text(path, text + "\n")
