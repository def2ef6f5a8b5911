"""Files from which an interrupted training goes on, written whole or not at all, and read without running any code."""

import io
import pathlib
import pickle
import zipfile

import torch

from ..files import write_bytes
from . import distributed

FORMAT = "oeu_ref checkpoint 1"


class Checkpoint:
    """One file that holds the state of some objects and plain data beside them.

    path: the file's, which need not exist; identity: plain data (strings, numbers, lists, dicts) that says what the
    state belongs to; a file with another identity is refused.
    notes: dict of plain data that travels with the state; what `restore` finds replaces it.
    """

    def __init__(self, path, identity):
        self.path, self.identity, self.notes = pathlib.Path(path), identity, {}

    def save(self, **parts):
        """Write the state of objects with `state_dict()` and of plain data, by name; the file before stays until then.

        Of several processes (`oeu_ref.core.distributed`) the first alone writes.
        Raises OSError where it cannot be written; an older checkpoint is then as before.
        """
        if distributed.rank() > 0:
            return
        state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "identity": self.identity, "notes": self.notes, "state": state}, buffer)
        write_bytes(self.path, buffer.getvalue())

    def restore(self, **parts):
        """Load the state of objects with `load_state_dict()`, by name; None where there is no file yet.

        Returns a dict with the plain data among the saved parts.
        Raises ValueError, naming the file, if it is damaged, not a checkpoint, or belongs to something else; the
        file is left as it is.
        """
        if not self.path.exists():
            return None
        saved = read(self.path)
        if saved["identity"] != self.identity:
            difference = _difference(saved["identity"], self.identity)
            raise ValueError(f"{_wanted(self.path)}: it belongs to another run ({difference})")
        state = saved["state"]
        if missing := sorted(set(parts) - set(state)):
            raise ValueError(f"{_wanted(self.path)}: it lacks {', '.join(missing)}")
        try:
            for name, part in parts.items():
                part.load_state_dict(state.pop(name))
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
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
        # weights_only: tensors and plain data, no code of the file's is run
        saved = torch.load(io.BytesIO(pathlib.Path(path).read_bytes()), map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ValueError(f"{_wanted(path)}: it cannot be read ({reason})") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{_wanted(path)}: it is no {FORMAT!r}")
    return saved


def _wanted(path):
    return f"{path} must be a checkpoint of this run; it is left as it is, move it away to start anew"


def _difference(found, expected):
    """Which entries differ, in words."""
    if not isinstance(found, dict) or not isinstance(expected, dict):
        return f"it says {found!r}, expected {expected!r}"
    keys = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
    return "; ".join(f"{key} is {found.get(key)!r}, expected {expected.get(key)!r}" for key in keys[:3])
