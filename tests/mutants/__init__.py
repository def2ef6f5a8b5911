"""Wrong implementations, each a right file with one edit, and right ones that are written otherwise."""

import pathlib
import types


def source(file_name):
    """The text of a right implementation beside this file."""
    return pathlib.Path(__file__).with_name(file_name).read_text(encoding="utf-8")


def edited(text, mistake):
    """The module that a text makes with one edit; mistake: its name, and old and new text.

    Raises ValueError unless the edit applies at exactly one place.
    """
    if text.count(mistake.old) != 1:
        raise ValueError(f"{mistake.name}: {mistake.old!r} stands {text.count(mistake.old)} times, not once")
    module = types.ModuleType(mistake.name)
    exec(compile(text.replace(mistake.old, mistake.new), f"<{mistake.name}>", "exec"), module.__dict__)
    return module
