"""Files written whole or not at all."""

import contextlib
import errno
import json
import os
import pathlib
import re
import secrets

# of a temporary neighbour: no other program's file has such a name, so that what a killed process left can be removed
HALF = ".oeu_ref.tmp"
IRREPLACEABLE = "it is a device, a pipe, or what is printed to, which a file would replace"


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
