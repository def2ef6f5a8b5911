"""Writing files so that nothing is lost: to a temporary neighbour first, then renamed."""

import json
import os
import pathlib
import re
import secrets

# of a temporary neighbour: no other program's file has such a name, so that what a killed process left can be removed
HALF = ".oeu_ref.tmp"


def write_bytes(path, content):
    """Write `content` (bytes) to `path`: readers see the old file or the new one, never half of it.

    Missing folders are made.  Returns the path as `pathlib.Path`.  Raises OSError where it cannot be written; an
    existing file is then as before.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{HALF}")
    # "x": the file is new, and nobody has put a link in its place
    with open(temporary, "xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


def clear_halves(folder):
    """Remove the temporary files that a killed `write_bytes` left in a folder, not those below it.

    Only for who is alone in the folder (`locks.alone`): another process may be writing at this moment.
    """
    for leftover in pathlib.Path(folder).glob(f".*{HALF}"):
        leftover.unlink(missing_ok=True)


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
