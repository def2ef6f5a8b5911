"""Files from which an interrupted training goes on, written whole or not at all, and read without running any code."""

import copy
import io
import pathlib
import pickle
import struct
import time
import zipfile
import zlib

import torch

from .. import distributed
from ..files import write_bytes

FORMAT = "oeu_ref checkpoint 1"
# what reading a file that is damaged, or was made to do harm, may raise
UNREADABLE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError)
UNREADABLE += (RuntimeError, TypeError, ValueError)
UNREADABLE += (pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)


class Checkpoint:
    """One file that holds the state of some objects and plain data beside them.

    path: the file's, which need not exist; identity: plain data (strings, numbers, lists, dicts) that says what the
    state belongs to; a file with another identity is refused.
    notes: dict of plain data that travels with the state; what `restore` finds replaces it.
    pause: seconds between two saves; one that comes sooner writes nothing; asked: whether the unlearning loop is
    to save after the step that it is in, whichever that is.
    """

    def __init__(self, path, identity, pause=0.0):
        self.path = pathlib.Path(path)
        self.identity = identity
        self.notes = {}
        self.pause = pause
        self.last = time.monotonic()
        self.asked = False

    def save(self, **parts):
        """Write the state of objects with `state_dict()` and of plain data, by name; the file before stays until then.

        Of several processes (`oeu_ref.distributed`) the first alone writes.
        Raises OSError where it cannot be written; an older checkpoint is then as before.
        """
        if distributed.rank() > 0 or time.monotonic() - self.last < self.pause:
            return
        state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "identity": self.identity, "notes": self.notes, "state": state}, buffer)
        write_bytes(self.path, buffer.getvalue())
        self.last = time.monotonic()

    def restore(self, **parts):
        """Load the state of objects with `load_state_dict()`, by name; None where there is no file yet.

        Returns a dict with the plain data among the saved parts.
        Raises ValueError, naming the file, if it is damaged, not a checkpoint, or belongs to something else; file
        and objects are left as they are.
        """
        if not self.path.exists():
            return None
        saved = read(self.path)
        if saved["identity"] != self.identity:
            other = difference(saved["identity"], self.identity)
            raise ValueError(f"{_wanted(self.path)}: it belongs to another run ({other})")
        state = saved["state"]
        if missing := sorted(set(parts) - set(state)):
            raise ValueError(f"{_wanted(self.path)}: it lacks {', '.join(missing)}")
        # a state that does not fit may be loaded in part before that shows
        before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        try:
            for name, part in parts.items():
                part.load_state_dict(state.pop(name))
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            for part_name, part in parts.items():
                part.load_state_dict(before[part_name])
            reason = str(error).splitlines()[0][:100]
            raise ValueError(f"{_wanted(self.path)}: its {name} does not fit ({reason})") from None
        self.notes = saved["notes"]
        return state

    def discard(self):
        """Remove the file, if there is one."""
        if distributed.rank() == 0:
            self.path.unlink(missing_ok=True)


def read(path):
    """Everything in a checkpoint: {"format", "identity", "notes", "state"}, tensors on the CPU.

    Raises ValueError, naming the file, if it is missing, damaged, or no checkpoint; it is left as it is.
    """
    try:
        content = pathlib.Path(path).read_bytes()
        # what is no zip file PyTorch reads by older ways, of which some ran code in versions before 2.6
        if not content.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("it is no zip file")
        # PyTorch reads past the checksums of the tensors: a flipped bit would be taken for a weight
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        # weights_only: tensors and plain data, no code of the file's is run
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ValueError(f"{_wanted(path)}: it cannot be read ({reason})") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{_wanted(path)}: it is no {FORMAT!r}")
    if missing := sorted({"identity", "notes", "state"} - set(saved)):
        raise ValueError(f"{_wanted(path)}: it lacks {', '.join(missing)}")
    return saved


def _wanted(path):
    return f"{path} must be a checkpoint of this run; it is left as it is, move it away to start anew"


def difference(found, expected):
    """Which entries of two dicts of plain data differ, in words: the first three; those of dicts inside them too."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return f"it says {found!r}, expected {expected!r}"
    found, expected = _flat(found), _flat(expected)
    keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
    return "; ".join(f"{key} is {found.get(key)!r}, expected {expected.get(key)!r}" for key in keys[:3])


def _flat(entries):
    """{"a": 1, "b": {"c": 2}} as {"a": 1, "b.c": 2}."""
    flat = {}
    for key, value in entries.items():
        inner = value if isinstance(value, dict) and value else {}
        flat.update({f"{key}.{name}": v for name, v in _flat(inner).items()} if inner else {key: value})
    return flat
