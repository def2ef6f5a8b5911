"""One bad input and what it must be answered with, and how rows are written: one line each."""

import functools
import io
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock


class Refusal(Exception):
    """What a command, or a judgement of files, says in place of raising: its one line."""


@dataclass(frozen=True)
class Row:
    """One bad input. call(world) passes it; error: the exact type of what it must raise; argument, value, remedy: what
    the message must contain; kind: what is wrong with the input, for the row's name."""

    where: str
    argument: str
    kind: str
    call: object
    error: type
    value: str
    remedy: str

    @property
    def name(self):
        """Such as "OEU.step/forget_inputs: NaN"."""
        return f"{self.where}/{self.argument}: {self.kind}"


def rows(where, call, *lines):
    """Rows of one callable.

    call(world, **{argument: bad input}); lines: (argument, kind, bad input, error, value, remedy). A bad input that is
    a function gets the world, and gives the real one.
    """
    return [
        Row(where, argument, kind, functools.partial(_call, call, argument, bad), error, value, remedy)
        for argument, kind, bad, error, value, remedy in lines
    ]


def _call(call, argument, bad, world):
    # "sizes[1]" is how a message names a part of the argument "sizes"
    call(world, **{argument.partition("[")[0]: bad(world) if callable(bad) else bad})


def command(world, *argv):
    """Run a command of the package in this process.

    Raises `Refusal` with its line if it ends as one must with bad input: exit code 2, one line on stderr.
    """
    from oeu_ref.__main__ import main

    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as error:
            code = error.code
    lines = errors.getvalue().splitlines()
    if code != 2 or len(lines) != 1:
        raise AssertionError(f"exit code {code}, {len(lines)} lines on stderr, the last {lines[-1:]}")
    raise Refusal(lines[0])


def without(package, call):
    """`call`, on a machine that lacks a package."""

    def lacking(world):
        missing = {name: None for name in [*sys.modules, package] if name.partition(".")[0] == package}
        with mock.patch.dict(sys.modules, missing):
            call(world)

    return lacking


def judge(row, world):
    """Try one row: "" if all is as it must be, else what is not."""
    before, message = world.fingerprint(), None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row.call(world)
        wrong = ["nothing was raised"]
    except (Exception, SystemExit) as error:
        message, wrong = str(error), []
        if type(error) is not row.error:
            wrong.append(f"{type(error).__name__} in place of {row.error.__name__}")
        parts = {"argument": row.argument, "value": row.value, "remedy": row.remedy}
        wrong += [f"the {part} {word!r} is not named" for part, word in parts.items() if word not in message]
    after = world.fingerprint()
    wrong += [f"{name} changed" for name in {**before, **after} if before.get(name) != after.get(name)]
    return "; ".join([*wrong, *([f"it said: {message}"] if message is not None else [])]) if wrong else ""
