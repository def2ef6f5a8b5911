"""Bad files, truncated, swapped, unreadable: data sets, checkpoints, results, answers, implementations; full disks."""

import builtins
import errno
import os
import pathlib
from contextlib import contextmanager
from unittest import mock

from oeu_ref import conformance
from oeu_ref.data.image_sets import load_images
from oeu_ref.files import write_text
from oeu_ref.integer import file as integer_file
from oeu_ref.lab import checkpoints
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.report import results
from oeu_ref.vectors import judge, make

from .row import Refusal, Row, rows

NPZ = [
    # file, argument, value, remedy
    ("lacking", "lacking", "y_test", "x_train, y_train, x_test, y_test"),
    ("floats", "x_train", "float64", "uint8"),
    ("rank", "x_train", "(60, 192)", "(N, 3, H, W)"),
    ("channels", "x_train", "(60, 8, 8, 5)", "(N, 3, H, W)"),
    ("count", "count", "59 labels", "a label for each image"),
    ("nobody", "nobody", "0 images", "at least one"),
    ("negative", "y_train", "-1", "not be negative"),
    ("halves", "y_train", "float64", "integers of shape (N,)"),
    ("two columns", "y_train", "(30, 2)", "integers of shape (N,)"),
    ("strings", "y_train", "<U21", "integers of shape (N,)"),
    ("small", "small", "(4, 8)", "one image size"),
    ("skipped", "skipped", "none of 1", "a training sample of each class"),
    ("single_class", "single_class", "a second one", "two classes"),
    ("swapped", "x_train", "int64", "uint8"),
    ("truncated", "truncated.npz", "cannot be read", "an .npz file"),
    ("zero", "zero.npz", "cannot be read", "an .npz file"),
    ("garbled", "garbled.npz", "lacks x_train", "x_train, y_train, x_test, y_test"),
    ("flipped", "flipped.npz", "cannot be read", "an .npz file"),
    ("json", "json.npz", "cannot be read", "an .npz file"),
    ("declared", "declared.npz", "cannot be read", "an .npz file"),
]
PICTURES = [
    ("no_test", "no_test", "found no folder 'test'", "test/<class>/..."),
    ("one_class", "one_class", "a second one", "two classes"),
    ("new_class", "new_class", "'c'", "the classes of train alone"),
    ("sizes", "wide.png", "9 x 8", "--image-size"),
    ("text", "text.png", "cannot be read", "must be an image"),
    ("cut", "cut.png", "cannot be read", "must be an image"),
    ("without", "without", "image", "at least one"),
    ("untested", "untested", "none", "a folder for each class"),
]


@contextmanager
def failing(function, error):
    """Every write below `function`, "write" or "open", meets an error of the system."""
    failure = OSError(error, os.strerror(error))

    def fail(*arguments, **words):
        raise failure

    if function == "open":
        real = builtins.open

        def fail_to_write(file, mode="r", *arguments, **words):
            if set(mode) & set("wxa"):
                raise failure
            return real(file, mode, *arguments, **words)

        with mock.patch.object(builtins, "open", fail_to_write):
            yield
    else:
        with mock.patch.object(os, "fsync", fail):
            yield


def under(function, error, call):
    """`call`, where the system lets nothing be written."""

    def failing_call(world):
        with failing(function, error):
            call(world)

    return failing_call


def _load(w, name):
    return load_images(name, w.files, cache_dir=w.cache)


def _restore(w, path):
    return Checkpoint(w.files / path, {"run": 1}).restore(model=w.model)


def _answers(w, folder):
    """The first failure in a folder of answers; "CASE" stands for the name of a case."""
    report = judge.check_results(w.files / folder)
    result = next(r for r in report.results if r.operation == "kl_to_uniform")
    if result.status == "fails":
        raise Refusal(" ".join([*(result.failures or {}).values()]))


def _saved(w, path):
    Checkpoint(w.files / path, {"run": 2}).save(model=w.model)


FULL, DENIED, READ_ONLY = errno.ENOSPC, errno.EACCES, errno.EROFS
FILES = [
    *(
        Row("load_images", argument, f"{name}.npz", lambda w, n=name: _load(w, n), ValueError, value, remedy)
        for name, argument, value, remedy in NPZ
    ),
    *(
        Row("load_images", argument, f"{name}, pictures", lambda w, n=name: _load(w, n), ValueError, value, remedy)
        for name, argument, value, remedy in PICTURES
    ),
    *rows(
        "load_images",
        lambda w, **bad: load_images(**{"name": "tiny", "data_root": w.files, "cache_dir": w.cache, **bad}),
        ("name", "none", None, ValueError, "None", "a word such as 'cifar10'"),
        ("name", "a path", "../tiny", ValueError, "'../tiny'", "a word such as 'cifar10'"),
        ("name", "empty", "", ValueError, "''", "a word such as 'cifar10'"),
        ("data_root", "a number", 5, TypeError, "int", "a path"),
        ("data_root", "absent", lambda w: w.files / "nowhere", ValueError, "nowhere", "tiny.npz"),
        ("data_root", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "tiny.npz"),
        ("image_size", "zero", 0, ValueError, "0", "at least 1"),
        ("image_size", "text", "32", TypeError, "'32'", "an integer"),
    ),
    *(
        Row("Checkpoint.restore", path, kind, lambda w, p=path: _restore(w, p), ValueError, value, "move it away")
        for path, kind, value in (
            ("truncated.pt", "truncated", "cannot be read"),
            ("flipped.pt", "a flipped bit", "cannot be read"),
            ("zero.pt", "empty", "cannot be read"),
            ("folder", "a folder", "cannot be read"),
            ("tiny.npz", "a data set", "it"),
            ("list.json", "JSON", "cannot be read"),
            ("state.pt", "a bare state dict", "it is no 'oeu_ref checkpoint 1'"),
            ("bare.pt", "without contents", "it lacks identity, notes, state"),
            ("plain.pt", "plain data", "its model does not fit"),
        )
    ),
    Row(
        "Checkpoint.restore",
        "good.pt",
        "of another run",
        lambda w: Checkpoint(w.files / "good.pt", {"run": 2}).restore(model=w.model),
        ValueError,
        "run is 1, expected 2",
        "move it away",
    ),
    Row(
        "Checkpoint.restore",
        "good.pt",
        "without an optimizer",
        lambda w: w.checkpoint.restore(model=w.model, optimizer=w.optimizer),
        ValueError,
        "it lacks optimizer",
        "move it away",
    ),
    Row(
        "checkpoints.read",
        "nowhere.pt",
        "absent",
        lambda w: checkpoints.read(w.files / "nowhere.pt"),
        ValueError,
        "cannot be read",
        "must be a checkpoint",
    ),
    *(
        Row("read_json", path, kind, lambda w, p=path: results.read_json(w.files / p), ValueError, value, remedy)
        for path, kind, value, remedy in (
            ("broken.json", "truncated", "line 1", "a JSON file"),
            ("deep.json", "too deep", "recursion", "a JSON file"),
            ("binary.txt", "binary", "utf-8", "a JSON file"),
            ("tiny.npz", "a data set", "utf-8", "a JSON file"),
            ("folder", "a folder", "Is a directory", "can be read"),
            ("nowhere.json", "absent", "No such file", "can be read"),
        )
    ),
    *(
        Row("integer_file", path, kind, lambda w, p=path: integer_file.read(w.files / p), ValueError, value, "must be")
        for path, kind, value in (
            ("nowhere.npz", "absent", "No such file"),
            ("folder", "a folder", "Is a directory"),
            ("tiny.npz", "a data set", "it has no header"),
            ("good.pt", "a checkpoint", ".npy"),
            ("truncated.npz", "truncated", "zip"),
            ("list.json", "JSON", "zip"),
        )
    ),
    *rows(
        "output_directory",
        lambda w, out: results.output_directory("out", out),
        ("out", "a number", 3, TypeError, "int", "a path"),
        ("out", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a directory"),
        ("out", "below a file", lambda w: w.files / "notes.txt" / "a", ValueError, "notes.txt", "a directory"),
    ),
    *(
        Row(
            name,
            word,
            kind,
            under(function, error, call),
            OSError if error != DENIED else PermissionError,
            word,
            "",
        )
        for name, call in (
            ("write_text", lambda w: write_text(w.files / "notes.txt", "new")),
            ("Checkpoint.save", lambda w: _saved(w, "good.pt")),
        )
        for kind, function, error, word in (
            ("full disk", "write", FULL, "No space left"),
            ("read-only file system", "open", READ_ONLY, "Read-only"),
            ("denied", "open", DENIED, "Permission denied"),
        )
    ),
    *(
        Row("check_results", argument, kind, lambda w, f=f"answers-{kind}": _answers(w, f), Refusal, value, remedy)
        for kind, argument, value, remedy in (
            ("none", "kl", "no answer", "expected are the outputs"),
            ("broken", "kl_to_uniform.json", "line 1", "a JSON file"),
            ("binary", "kl_to_uniform.json", "utf-8", "a JSON file"),
            ("list", "kl_to_uniform", "list", '"results"'),
            ("deep", "kl_to_uniform.json", "recursion", "a JSON file"),
            ("dtype", "dtype", "'float16'", "'float64', 'float32'"),
            ("unhashable", "dtype", "[]", "'float64', 'float32'"),
            ("swapped", "operation", "project", '"results"'),
            ("words", "results", "'all right'", '"results"'),
            ("huge", "kl", "1000000", "finite"),
            ("shape", "kl", "1000000000000", "fill its shape"),
            ("nan", "kl", "nan", "finite"),
        )
    ),
    *rows(
        "check_results",
        lambda w, RESULTS_DIR: judge.check_results(RESULTS_DIR),
        ("RESULTS_DIR", "absent", lambda w: w.files / "nowhere", ValueError, "nowhere", "a folder with answers"),
        ("RESULTS_DIR", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a folder with answers"),
        ("RESULTS_DIR", "without answers", lambda w: w.files / "folder", ValueError, "folder", "project.json"),
        ("RESULTS_DIR", "a number", 3, TypeError, "int", "a path"),
    ),
    *rows(
        "write_vectors",
        lambda w, out_dir: make.write_vectors(out_dir),
        ("out_dir", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a directory"),
        ("out_dir", "a number", 3, TypeError, "int", "a path"),
    ),
    Row(
        "write_vectors",
        "out_dir",
        "read-only",
        under("open", READ_ONLY, lambda w: make.write_vectors(w.files / "folder")),
        ValueError,
        "Read-only",
        "can be written to",
    ),
    *(
        Row("load", argument, kind, lambda w, n=name: conformance.load(n(w)), conformance.LoadError, value, remedy)
        for kind, name, argument, value, remedy in (
            ("no module", lambda w: "no.such.module", "no.such.module", "No module", "package.module"),
            ("no file", lambda w: str(w.files / "no.py"), "no.py", "is no file", "a Python file"),
            ("a folder", lambda w: str(w.files / "folder"), "folder", "cannot be imported", "path/to/file.py"),
            ("empty", lambda w: "", "''", "cannot be imported", "package.module"),
            ("no attribute", lambda w: "math:oeu", "'math'", "'oeu'", "the object after the colon"),
            ("nothing to check", lambda w: str(w.files / "nothing.py"), "nothing.py", "found none", "template"),
            ("bad syntax", lambda w: str(w.files / "syntax.py"), "syntax.py", "SyntaxError", "path/to/file.py"),
            ("raises", lambda w: str(w.files / "raising.py"), "raising.py", "no good", "path/to/file.py"),
            ("exits", lambda w: str(w.files / "leaving.py"), "leaving.py", "SystemExit", "path/to/file.py"),
            ("DTYPE", lambda w: str(w.files / "dtype.py"), "DTYPE", "'float16'", "'float64', 'float32'"),
            ("QUANTIZER_MASK", lambda w: str(w.files / "mask.py"), "MASK", "'strict'", "'clip', 'open', 'round'"),
            ("a text file", lambda w: str(w.files / "notes.txt"), "notes.txt", "cannot be imported", "path/to/file.py"),
        )
    ),
    *rows(
        "load",
        lambda w, name: conformance.load(name),
        ("name", "a path", lambda w: pathlib.Path("a.py"), TypeError, "Path", "a string"),
    ),
    *rows(
        "check",
        lambda w, **bad: conformance.check(**{"implementation": conformance.load("oeu_ref.reference"), **bad}),
        ("implementation", "text", "oeu_ref.reference", TypeError, "str", "load("),
        ("cases", "zero", 0, ValueError, "0", "at least 1"),
        ("cases", "half", 0.5, TypeError, "0.5", "an integer"),
    ),
]
