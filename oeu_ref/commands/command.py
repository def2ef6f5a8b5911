"""A command is a dataclass whose fields are its options: what reads them, explains them and says what is wrong."""

import argparse
import codecs
import dataclasses
import difflib
import errno
import os
import pathlib
import re
import shutil
import sys
import tempfile
import textwrap
import types
import typing

from .. import files
from ..lab.options import NEEDED, Setup, record

EXPERIMENT = "experiment; default: that of NAME and --preset"  # heading; what stands below it
RESTART = "Whatever stops it, the same command goes on where it was; what is finished is never made again."
QUICK = "tiny sizes and a few steps only, to see that everything works: the figures mean nothing"
SHOWN = {int: "N", float: "X", str: "WORD"}  # what --help calls a value of a type


class Command:
    """Base of all commands: frozen dataclasses of `options.option`s, whose docstring is what their --help says.

    line: what the list of all commands says; example: words after the name; title: heading of the options that a class
    brings, None: none; without: names of fields that are no options here, and None; called: {what the code calls an
    argument: the option that its user knows}, where the names differ; resumes: whether it goes on where it was.
    """

    line = ""
    example = ""
    title = None
    without = ()
    called = {}
    resumes = False

    @classmethod
    def word(cls):
        """What is typed for it."""
        return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in cls.__name__)[1:]

    @classmethod
    def options(cls):
        """{field: the class that brings it} for each option."""
        classes = [c for c in reversed(cls.__mro__) if dataclasses.is_dataclass(c)]
        return {
            field: next(c for c in classes if field.name in c.__dataclass_fields__)
            for field in dataclasses.fields(cls)
            if field.metadata["flag"] != "" and field.name not in cls.without
        }

    @classmethod
    def about(cls):
        """What its --help says before the options."""
        return wrapped(cls.__doc__ + f" {RESTART}" * cls.resumes)

    def where(self):
        """The folder for results of long work, None for other work."""

    def run(self):
        """Do it.  Returns the exit code."""
        raise NotImplementedError


@record
class Folder(Command):
    """Long work with a folder for its results."""

    called = {"out_dir": "--out"}

    def where(self):
        return self.out

    def show(self, written):
        """Print what a run wrote: its table, then where everything is.  Returns the exit code."""
        say(written["table"], "", *(written[kind] for kind in ("json", "markdown", "picture") if written.get(kind)))
        return 0


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and what may have been meant."""

    def error(self, message):
        """Print one line and end the process with exit code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; --help says more\n")


def read(command, words, program):
    """A command with the options that are given.

    command: subclass of `Command`; words: list of strings; program: what was called.
    Raises SystemExit for --help (code 0) and for options that there are none of (2); ValueError, naming the option, for
    a value that it cannot have.
    """
    parser = _parser(command, program)
    # a shell expands a ~ where a word begins with it, not in --out=~/results, and on Windows nowhere
    words = [re.sub("^(--[^=]+=)?(~.*)$", lambda m: (m[1] or "") + os.path.expanduser(m[2]), word) for word in words]
    given, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        parser.error(f"unrecognized argument {unknown[0]!r}{meant(unknown[0].partition('=')[0], flags)}")
    values = dict.fromkeys(field.name for field in dataclasses.fields(command))  # of an experiment, None: as it is
    for field, owner in command.options().items():
        value = getattr(given, field.name)
        unset = None if owner is Setup else field.default
        values[field.name] = unset if value is None else _converted(field, value)
    return command(**values)


def flag_of(field):
    """What is typed for a field: "--train-size", or the name of an argument without one."""
    return field.metadata["flag"] or "--" + field.name.replace("_", "-")


def meant(word, known):
    """The end of a message that suggests the nearest of the known words; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(flag, word, known):
    """Return a word that is known; raise ValueError that lists those that are, and the nearest, for another."""
    if word not in known:
        raise ValueError(f"{flag} must be one of {', '.join(map(repr, known))}, got {word!r}{meant(word, known)}")
    return word


def _parser(command, program):
    program = f"{program} {command.word()}"
    example = wrapped(f"example: {program} {command.example}")
    parser = Parser(program, "", command.about(), example, formatter_class=argparse.RawDescriptionHelpFormatter)
    usage = [program]
    groups = {None: parser}
    for field, owner in command.options().items():
        title = EXPERIMENT if owner is Setup else vars(owner).get("title")
        if title not in groups:
            groups[title] = parser.add_argument_group(*title.split("; "))
        flag = flag_of(field)
        needed = field.default is NEEDED
        kind, several = _kind(field)
        shown = field.metadata["shown"] or ("LIST" if several else SHOWN.get(kind))
        how = {"help": _explained(field, owner is Setup), "default": None}
        if not flag.startswith("-"):
            usage.append((flag if needed else f"[{flag}]") + " ..." * several)
            how |= {"metavar": flag, "nargs": ("+" if several else None) if needed else "?"}
            groups[title].add_argument(field.name, **how)
            continue
        usage += [f"{flag} {shown}"] if needed else []
        how |= {"action": "store_true"} if kind is bool else {"metavar": shown, "required": needed}
        groups[title].add_argument(flag, dest=field.name, **how)
    parser.usage = wrapped(" ".join([*usage, "[options]"]), "usage: ", " " * 7)[7:]
    return parser


def wrapped(text, first="", then=""):
    """Text in lines as wide as the terminal, as argparse has them: `first` begins the first one, `then` the others."""
    how = {"initial_indent": first, "subsequent_indent": then, "break_on_hyphens": False}
    return textwrap.fill(" ".join(text.split()), shutil.get_terminal_size().columns - 2, **how)


def _kind(field):
    """(type of a value, whether a comma-separated list of them is taken); a bit width is an int or a word."""
    kind = field.type
    if isinstance(kind, types.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not types.NoneType]
        kind = kinds[0] if len(kinds) == 1 else kind
    several = typing.get_origin(kind) is tuple
    return (typing.get_args(kind)[0] if several else kind), several


def _explained(field, of_setup):
    """An option's help: what it means, the words that there are, an example, and what happens without it."""
    said, notes = field.metadata, []
    text = f"{said['meaning']}; of: {', '.join(said['words'])}" if said["words"] else said["meaning"]
    if said["example"] is not None:
        notes.append(f"such as {said['example']}")
    if said["unset"] is not None:
        notes.append(f"default: {said['unset']}")
    elif field.default is not NEEDED and _kind(field)[0] is not bool and not of_setup:
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        notes.append(f"default: {','.join(map(str, values))}")
    return (f"{text} ({'; '.join(notes)})" if notes else text).replace("%", "%%")


def _converted(field, text):
    """The value of what was typed.  Raises ValueError, naming the option, for what is none."""
    if not isinstance(text, str):
        return text
    flag = flag_of(field)
    kind, several = _kind(field)
    said = field.metadata
    values = [_number_or_word(item.strip(), kind) for item in (text.split(",") if several else [text])]
    if kind in (int, float) and not all(isinstance(value, kind) for value in values):
        what = "whole number" if kind is int else "number"
        raise ValueError(f"{flag} must be {f'{what}s separated by commas' if several else f'a {what}'}, got {text!r}")
    if values in ([""], ["-"]) and not said["words"]:
        got = "'-', which is no stream here: ./- is a file of that name" if values[0] else "an empty one"
        raise ValueError(f"{flag} must be a word or a path, got {got}")
    for value in values:
        if said["words"]:
            one_of(flag, value, said["words"])
        if said["check"]:
            said["check"](flag, value)
    return tuple(values) if several else values[0]


def _number_or_word(text, kind):
    """`text` as int or float where that is the kind; where both are, a number if it is written as one: 02 is a name."""
    if kind is str:
        return text
    try:
        number = (float if kind is float else int)(text)
    except ValueError:
        return text
    return number if kind in (int, float) or text == str(number) else text


def check_writable(flag, path, *inputs):
    """Raise ValueError, before any work, unless a file can be written at path which is none of the inputs, or None."""
    if path is None:
        return
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not files.replaceable(path):
            raise OSError(errno.EINVAL, files.IRREPLACEABLE)
        tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())).close()
    except OSError as error:
        raise ValueError(f"{flag} must be a file that can be written, got {path}: {error.strerror}") from None
    for file in filter(None, inputs) if path.exists() else ():  # what is new replaces nothing
        if os.path.exists(file) and path.samefile(file):
            raise ValueError(f"{flag} must be another file than {file}, which is read and would be replaced")


def in_words_of(command, message):
    """An error's message on one line, in which arguments are called as the options that were typed."""
    head, must, rest = " ".join(message.split()).partition(" must ")
    if re.fullmatch(r"\w+(( and |, )\w+)*", head):
        known = {field.name: flag_of(field) for field in command.options()}
        known |= {flag.strip("-").replace("-", "_").lower(): flag for flag in known.values()} | command.called
        head = re.sub(r"\w+", lambda word: known.get(word[0], word[0]), head)
    return head + must + rest


def say(*lines):
    """Print lines. Where nobody reads them any more, as after `| head`, go on in silence: there is work to be done."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        # what is still in the buffer, the interpreter would try to write again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # the latter on Windows
            raise


def _plain(error):
    """What a console that lacks a character shows in its place."""
    nearest = {"±": "+-", "–": "-", "‖": "||", "≤": "<=", "≥": ">=", "÷": "/"}
    return "".join(nearest.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("oeu_ref.plain", _plain)
