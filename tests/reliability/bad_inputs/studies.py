"""Bad input to what runs experiments: descriptions of them, settings, grids, attacks, reports, missing packages."""

import math

import numpy as np

from oeu_ref.lab import attacks, demo, search, tables, tuning
from oeu_ref.lab.cells import Runner
from oeu_ref.lab.experiment import Experiment
from oeu_ref.lab.search import load_settings
from oeu_ref.report import report, results

from .row import Row, rows, without

NAN, INF, HUGE = math.nan, math.inf, 10**12
SMALL = {"train_size": 30, "validation_size": 10, "test_size": 10, "width": 4, "epochs": 1}


def _experiment(**changes):
    return tables.experiment_named("cifar10-10", dataset="tiny", **SMALL, **changes)


def _source(w):
    return {"data_root": str(w.files), "cache_dir": str(w.cache), "download": False}


def _runner(w, bad):
    """A `Runner` with those of its fields that are among the bad arguments, which are taken out of these."""
    taken = {key: bad.pop(key) for key in ("out", "jobs") if key in bad}
    return Runner(**{"out": w.files / "out", "source": _source(w), "progress": False, **taken})


def _make(w, **bad):
    return tables.make(
        **{
            "kind": "table",
            "runner": _runner(w, bad),
            "experiment": _experiment(),
            "methods": ("oeu",),
            "seeds": (1,),
            **bad,
        }
    )


def _tune(w, **bad):
    return tuning.tune(
        **{
            "runner": _runner(w, bad),
            "experiment": _experiment(),
            "methods": ("oeu",),
            "seeds": (101,),
            **bad,
        }
    )


def _settings(name):
    return lambda w: results.read_json(w.files / f"{name}.json")


def _search(w, **bad):
    return search.search(**{"path": w.files / "out" / "search.json", "progress": False, **bad})


STUDIES = [
    *rows(
        "Experiment",
        lambda w, **bad: Experiment(**bad),
        ("forget_ratio", "zero", 0, ValueError, "0", "strictly between 0 and 1"),
        ("forget_ratio", "percent", 10, ValueError, "10", "[0, 1]"),
        ("forget_ratio", "none of the three", None, ValueError, "none", "must be given"),
        ("forget_classes", "beside a ratio", (1,), ValueError, "forget_ratio, forget_classes", "one of"),
        ("arch", "word", "resnet50", ValueError, "'resnet50'", "'resnet18', 'mobilenet_v2'"),
        ("precision", "word", "float16", ValueError, "'float16'", "'float32', 'bfloat16'"),
        ("train_size", "one", 1, ValueError, "1", "at least 2"),
        ("validation_size", "three", 3, ValueError, "3", "at least 4"),
        ("test_size", "text", "all", TypeError, "'all'", "an integer"),
        ("width", "zero", 0, ValueError, "0", "at least 1"),
        ("stem_stride", "three", 3, ValueError, "3", "[1, 2]"),
        ("weight_bits", "sixteen", 16, ValueError, "16", "1 to 8, or 32"),
        ("activation_bits", "word", "half", ValueError, "'half'", "'binary', 'ternary'"),
        ("epochs", "zero", 0, ValueError, "0", "at least 1"),
        ("batch_size", "half", 0.5, TypeError, "0.5", "an integer"),
        ("learning_rate", "NaN", NAN, ValueError, "nan", "finite"),
        ("forget_batch", "zero", 0, ValueError, "0", "at least 1"),
        ("image_size", "negative", -1, ValueError, "-1", "at least 1"),
    ),
    *rows(
        "experiment_named",
        lambda w, **bad: tables.experiment_named(**{"name": "cifar10-10", **bad}),
        ("name", "word", "mnist", ValueError, "'mnist'", "'cifar10-10'"),
        ("preset", "word", "gpu", ValueError, "'gpu'", "'full', 'long', 'cpu'"),
        ("changes", "unknown field", lambda w: 3, TypeError, "'changes'", "fields"),
    ),
    *rows(
        "tables.make",
        _make,
        ("kind", "word", "figure", ValueError, "'figure'", "'table', 'ablation', 'sweep', 'run'"),
        ("out", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a directory"),
        ("out", "a number", 1, TypeError, "int", "a path"),
        ("experiment", "a name", "cifar10-10", TypeError, "str", "an Experiment"),
        ("methods", "a string", "oeu", TypeError, "'oeu'", "a sequence of names"),
        ("seeds", "a string", "123", TypeError, "'123'", "a sequence of integers"),
        ("seeds", "twice", (1, 1), ValueError, "[1, 1]", "each different"),
        ("seeds", "none", (), ValueError, "[]", "at least one"),
        ("seeds", "negative", (-1,), ValueError, "-1", "at least 0"),
        ("rules", "a string", "true", TypeError, "'true'", "a sequence of words"),
        ("settings", "empty", _settings("settings-empty"), ValueError, "lacks", "a tuning.json"),
        ("settings", "a list", _settings("settings-list"), ValueError, "list", "a tuning.json"),
        ("settings", "no method", _settings("settings-no-method"), ValueError, "none", "those of oeu"),
        ("settings", "rules a list", _settings("settings-rules"), ValueError, "list", "a tuning.json"),
        ("settings", "best lacks", _settings("settings-best"), ValueError, "learning_rate", "a tuning.json"),
        ("settings", "bad rate", _settings("settings-rate"), ValueError, "-1", "learning_rate must be greater than 0"),
        ("settings", "bad steps", _settings("settings-steps"), ValueError, "'5'", "steps must be an integer"),
        ("jobs", "zero", 0, ValueError, "0", "at least 1"),
    ),
    *rows(
        "tables.make",
        lambda w, method="oeu", rule="true": _make(w, methods=(method,), rules=(rule,)),
        ("method", "unknown", "bad_teacher", ValueError, "'bad_teacher'", "'salun'"),
        ("rule", "unknown", "best", ValueError, "'best'", "'true', 'proxy'"),
    ),
    *rows(
        "tune",
        lambda w, method: _tune(w, methods=("oeu", method)),
        ("method", "unknown", "bad_teacher", ValueError, "'bad_teacher'", "'salun'"),
    ),
    *rows(
        "chosen",
        lambda w, rule: tuning.chosen({"rules": {}}, rule, "oeu"),
        ("rule", "word", "best", ValueError, "'best'", "'true', 'proxy'"),
    ),
    *rows(
        "chosen",
        lambda w, settings: tuning.chosen(settings, "true", "ft"),
        ("settings", "without rules", {}, ValueError, "none", "those of ft"),
        ("settings", "of another method", {"rules": {"true": {"oeu": {}}}}, ValueError, "has oeu", "those of ft"),
    ),
    *rows(
        "tune",
        _tune,
        ("methods", "a string", "oeu", TypeError, "'oeu'", "a sequence of names"),
        ("methods", "none", (), ValueError, "()", "at least one"),
        ("seeds", "none", (), ValueError, "[]", "at least one"),
        ("widen", "negative", -1, ValueError, "-1", "at least 0"),
        ("grid", "lacks an axis", {"learning_rate": (0.1,)}, ValueError, "weight", "learning_rate, weight, steps"),
        ("grid", "an empty axis", {**tuning.GRID, "steps": ()}, ValueError, "steps", "at least one"),
        ("grid", "zero rate", {**tuning.GRID, "learning_rate": (0,)}, ValueError, "0", "greater than 0"),
        ("grid", "half a step", {**tuning.GRID, "steps": (0.5,)}, TypeError, "0.5", "an integer"),
        ("grid", "a number", {**tuning.GRID, "weight": 1.0}, TypeError, "float", "a sequence"),
    ),
    *rows(
        "search",
        _search,
        ("path", "in a file", lambda w: w.files / "notes.txt" / "a.json", ValueError, "notes.txt", "a directory"),
        ("seeds", "none", (), ValueError, "[]", "at least one"),
        ("methods", "unknown", ("bad_teacher",), ValueError, "'bad_teacher'", "'oeu'"),
        ("grid", "lacks an axis", {"steps": (5,)}, ValueError, "learning_rate", "learning_rate, weight, steps"),
        ("grid", "an empty axis", {**search.GRID, "weight": ()}, ValueError, "weight", "at least one"),
        ("config", "a dict", {"bits": 4}, TypeError, "dict", "a Digits"),
    ),
    *rows(
        "demo.run",
        lambda w, **bad: demo.run(**{"out_dir": w.files / "out", "quick": True, "progress": False, **bad}),
        ("out_dir", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a directory"),
        ("out_dir", "none", None, TypeError, "NoneType", "a path"),
        ("seeds", "a number", 3, TypeError, "3", "a sequence of integers"),
        ("seeds", "half", (0.5,), TypeError, "0.5", "an integer"),
    ),
    *rows(
        "demo.redraw",
        lambda w, path: demo.redraw(path, w.files / "out" / "demo.png"),
        ("path", "absent", lambda w: w.files / "nowhere.json", ValueError, "nowhere", "can be read"),
        ("path", "no demo", lambda w: w.files / "list.json", ValueError, "list.json", "a demo.json"),
    ),
    *rows(
        "load_settings",
        lambda w, path: load_settings(path=path),
        ("path", "absent", lambda w: w.files / "nowhere.json", ValueError, "nowhere", "can be read"),
    ),
    *rows(
        "report",
        lambda w, out: report.report(out),
        ("out", "absent", lambda w: w.files / "nowhere", ValueError, "nowhere", "a folder with one of"),
        ("out", "without documents", lambda w: w.files / "folder", ValueError, "folder", "table.json"),
        ("out", "a file", lambda w: w.files / "notes.txt", ValueError, "notes.txt", "a folder with one of"),
        ("out", "a number", 1, TypeError, "int", "a path"),
    ),
    *(
        Row("report", argument, kind, lambda w, f=folder: report.report(w.files / f), ValueError, value, remedy)
        for folder, argument, kind, value, remedy in (
            ("listed", "table.json", "a list", "got a list", "table"),
            ("broken", "table.json", "truncated", "line 1", "a JSON file"),
            ("lost", "original.json", "a missing cell", "No such file", "can be read"),
            ("tuned", "tuning.json", "half a tuning", "lacks", "tune"),
        )
    ),
    *rows(
        "SupportVectorAttack",
        lambda w, seed: attacks.SupportVectorAttack(seed),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
        ("seed", "text", "1", TypeError, "'1'", "an integer"),
    ),
    *rows(
        "SupportVectorAttack()",
        lambda w, **bad: attacks.SupportVectorAttack()(
            **{"members": [0.5], "non_members": [0.25], "targets": [0.5], **bad}
        ),
        ("members", "none", [], ValueError, "(0,)", "N >= 1"),
        ("non_members", "NaN", [NAN], ValueError, "nan", "finite"),
        ("targets", "a table", np.zeros((2, 2)), ValueError, "(2, 2)", "(N,)"),
    ),
    Row(
        "SupportVectorAttack()",
        "scikit-learn",
        "not installed",
        without("sklearn", lambda w: attacks.SupportVectorAttack()([0.5], [0.25], [0.5])),
        ImportError,
        "SupportVectorAttack",
        "pip install scikit-learn",
    ),
]
