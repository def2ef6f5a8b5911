"""The command line as a stranger uses it: what it prints, what it writes, and its exit codes."""

import ast
import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from dataclasses import MISSING

import numpy as np
import pytest

import oeu_ref
from oeu_ref.__main__ import COMMANDS, GROUPS, main, program
from oeu_ref.commands.command import flag_of, in_words_of, read
from oeu_ref.commands.experiments import Images
from oeu_ref.lab.options import Setup

ROOT = pathlib.Path(__file__).parent.parent
SETUP = {field.name for field in dataclasses.fields(Setup)}
UNLEARN = "unlearn --model a:b --data . --forget-classes 1 --checkpoint".split()
RIGHT, WRONG = (
    """
import numpy as np

def kl_to_uniform(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.log(p.shape[1]) + (p * np.log(np.maximum(p, 1e-300))).sum(1)
""",
    """
import numpy as np

def kl_to_uniform(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -np.log(p.shape[1]) - np.log(np.maximum(p, 1e-300)).mean(1)
""",
)


def run(*arguments, cwd=ROOT):
    """Exit code, stdout and stderr of a command in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    return process.returncode, process.stdout, process.stderr


@pytest.fixture
def right(tmp_path):
    """A file with a right implementation of one function."""
    path = tmp_path / "my_right.py"
    path.write_text(RIGHT)
    return path


@pytest.fixture
def wrong(tmp_path):
    """A file with the KL divergence the wrong way round."""
    path = tmp_path / "my_wrong.py"
    path.write_text(WRONG)
    return path


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_explains_itself(word, capsys):
    """--help says what a command does, with an example; each option its meaning, its default, and a value to follow."""
    command = COMMANDS[word]
    with pytest.raises(SystemExit) as exit_info:
        main([word, "--help"])
    assert exit_info.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(command.__doc__.split()) in shown and f"example: python -m oeu_ref {word}" in shown
    assert read(command, sample(command), "")
    for field in command.options():
        said, default = field.metadata, field.default
        assert flag_of(field) in shown and " ".join(said["meaning"].split()) in shown
        assert default not in (None, ()) or said["unset"] or field.name in SETUP, f"{field.name} has no default to show"
        concrete = default not in (None, "auto", MISSING) and (field.name not in SETUP or field.type is bool)
        followed = concrete or said["example"] is not None or said["words"] or not flag_of(field).startswith("--")
        assert followed, f"{field.name} has no value to follow"


def sample(command):
    """Words that give each option of a command the value that its help names."""
    words = []
    for field in command.options():
        flag, said = flag_of(field), field.metadata
        value = said["example"] if said["example"] is not None else said["words"][0] if said["words"] else field.default
        value = value if field.default is MISSING or not isinstance(value, tuple) else ",".join(map(str, value))
        words += [flag] if field.type is bool else [flag, str(value)] if flag.startswith("--") else [str(value)]
    return words


def test_values_arrive_as_they_are_meant():
    """Numbers, lists, bit widths and words get the types of their fields, wherever arguments without a name stand."""
    given = read(COMMANDS["run"], sample(COMMANDS["run"]), "")
    assert (given.train_size, given.forget_ratio, given.forget_classes) == (10000, 0.1, ("cat", 5))
    assert (given.weight_bits, given.activation_bits, given.unlearning_rate) == (2, "ternary", 0.03)
    assert (given.rules, given.redo, given.compiled, given.learning_rate) == (("true",), True, True, None)
    given = read(COMMANDS["bits"], ["--preset", "cpu", "svhn-10", "--widths", "2,binary", "--methods=oeu, ft"], "")
    assert (given.name, given.preset, given.widths, given.methods) == ("svhn-10", "cpu", (2, "binary"), ("oeu", "ft"))
    assert given.where() == "results/svhn-10-cpu-bits" and given.bits is given.epochs is None and given.redo is False
    given = read(COMMANDS["check"], ["a.py", "--require", "project, all", "b:c"], "")
    assert given.implementation == ["a.py", "b:c"] and given.require == ("project", "all") and given.cases == 50


def test_help_lists_each_command_once_by_what_one_came_for(capsys):
    """Every class of a command stands in one group, and --help shows the groups in their order."""
    for words in (["--help"], ["-h"]):
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in GROUPS] == 2 * list(GROUPS)
    assert all(out.count(f"\n  {word} ") == 2 and command.line for word, command in COMMANDS.items())


@pytest.mark.parametrize("word", ["", *COMMANDS])
def test_help_is_as_wide_as_the_terminal_and_says_the_same_on_any(word, monkeypatch, capsys):
    """No line of any --help is wider than a terminal of 40, 80 or 120 columns, lists and examples included."""
    said = set()
    for columns in (40, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main([word, "--help"] if word else ["--help"])
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= columns
        said.add("".join(shown.split()))
    assert len(said) == 1


def test_no_command_is_answered_with_all_of_them(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([])
    captured = capsys.readouterr()
    assert exit_info.value.code == 2 and "COMMAND is missing" in captured.err and "see it work" in captured.out


def test_version_and_script():
    """--version says the package's; `oeu-ref`, which an installation makes, calls the same function."""
    code, out, _ = run("-m", "oeu_ref", "--version")
    assert (code, out) == (0, f"oeu_ref {oeu_ref.__version__}\n")
    scripts = re.search(
        r"^\[project\.scripts\]\noeu-ref = \"(.*)\"$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    entry = importlib.metadata.EntryPoint("oeu-ref", scripts[1], "console_scripts")
    assert entry.load() is program


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows sends Ctrl-C otherwise")
def test_a_second_ctrl_c_while_the_process_ends_is_not_answered():
    """It may come while Python runs what was to be done at its end, PyTorch's clearing up for instance."""
    ending = (
        "import atexit, os, signal, sys\n"
        "from oeu_ref import __main__ as entry\n"
        "def interrupted(*words): raise KeyboardInterrupt\n"
        "entry.read, sys.argv = interrupted, ['oeu_ref', 'demo']\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "entry.program()"
    )
    assert run("-c", ending) == (130, "", "oeu_ref demo: interrupted\n")


def raising(*errors):
    """A function that raises the first, each raised because of the next; `from None` but for an ImportError."""

    def raises(*words):
        first, *rest = errors
        try:
            raising(*rest)() if rest else None
        except BaseException as cause:
            raise first from (cause if isinstance(first, ImportError) else None)
        raise first

    return raises


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ((KeyboardInterrupt(),), 130, "interrupted"),
        ((ImportError("initialization failed"), KeyboardInterrupt()), 130, "interrupted"),
        (
            (ValueError("m must be a module"), ImportError("initialization failed"), KeyboardInterrupt()),
            130,
            "interrupted",
        ),
        ((ValueError("m must be a module"), ImportError("no module m")), 2, "m must be a module"),
        ((ImportError("no module m"),), 2, "no module m; requirements.txt lists what must be installed"),
    ],
)
def test_ctrl_c_is_called_that_whatever_an_import_makes_of_it(errors, code, said, monkeypatch, capsys):
    """pybind11 raises ImportError("initialization failed") for it; functions of ours put that in words."""
    monkeypatch.setattr("oeu_ref.__main__.read", raising(*errors))
    assert main(["demo"]) == code
    assert capsys.readouterr().err == f"oeu_ref demo: {said}\n"


def test_help_and_import_do_not_wait_for_torch():
    """Neither `import oeu_ref` nor the --help of any command imports PyTorch, NumPy or anything else that is large."""
    code, out, err = run(
        "-c",
        "import sys\nbefore = set(sys.modules)\nimport oeu_ref, oeu_ref.__main__ as m\n"
        "for words in (['--help'], *([word, '--help'] for word in m.COMMANDS)):\n"
        "    try: m.main(words)\n    except SystemExit: pass\n"
        # an interpreter may come with modules that its site imports at the start
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))",
    )
    assert code == 0, err
    assert set(ast.literal_eval(out.splitlines()[-1])) <= {"__mp_main__", "oeu_ref"}


@pytest.mark.parametrize(
    ("words", "wrong", "meant"),
    [
        (["chek", "a.py"], "COMMAND must be one of", "'check'"),
        (["demo", "--sead", "1"], "unrecognized argument '--sead'", "'--seeds'"),
        (["table", "--metods=oeu"], "unrecognized argument '--metods=oeu'", "'--methods'"),
        (["table", "cifar10"], "NAME must be one of", "'cifar10-10'"),
        (["table", "--methods", "oeu,salum"], "--methods must be one of", "'salun'"),
        (["table", "--rules", "proxi"], "--rules must be one of", "'proxy'"),
        (["run", "--method", "retain"], "--method must be one of", "'retrain'"),
        (["tune", "--preset", "cpus"], "--preset must be one of", "'cpu'"),
        (["sweep", "--arch", "resnet"], "--arch must be one of", "'resnet18'"),
        (["beyond", "sequentiel"], "STUDY must be one of", "'sequential'"),
        (["beyond", "stop", "cifar10"], "NAME must be one of", "'cifar10-10'"),
        (["bench", "--only", "quantiser"], "--only must be one of", "'quantizer'"),
    ],
)
def test_what_was_meant_is_suggested(words, wrong, meant, capsys):
    """A word that is nearly a command, an option or a value: one line, exit code 2, and the nearest one."""
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and wrong in err and f"did you mean {meant}?" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bits", "cifar10-10"], "STUDY must be one of stop, per-example, objective, relearn with NAME, got 'bits'"),
        (["stop", "--preset", "cpu"], "NAME must be given where options of images are"),
        (["stop", "--train-size", "9"], "NAME must be given where options of images are"),
        (["stop", "cifar10-10", "--device", "cuda"], "--device must be one of 'cpu'"),
        (["stop", "cifar10-10", "--jobs", "2"], "unrecognized argument '--jobs'"),
        (["stop", "cifar10-10", "--forget-ratio", "2"], "--forget-ratio must lie in"),
        (["stop", "cifar10-10", "--data-root", "nowhere"], "--data-root must hold cifar10"),
    ],
)
def test_a_study_is_asked_on_images_only_where_there_is_one(words, message, tmp_path, monkeypatch, capsys):
    """One line, exit code 2, and no folder is left behind."""
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["beyond", *words])
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and message in err and not list(tmp_path.iterdir())


def test_nothing_is_suggested_where_nothing_is_near(capsys):
    with pytest.raises(SystemExit):
        main(["zzz"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message", "said"),
    [
        ("table", "train_size and validation_size must together", "--train-size and --validation-size must together"),
        ("table", "name must be a word", "--dataset must be a word"),
        ("run", "learning_rate must be greater", "--learning-rate must be greater"),
        ("demo", "out_dir must be\n a directory", "--out must be a directory"),
        ("vectors", "out_dir must be a directory", "OUT_DIR must be a directory"),
        ("table", "width of a thing must be", "width of a thing must be"),
        ("table", "/a/out/seed must be of this plan", "/a/out/seed must be of this plan"),
        ("table", "no more memory", "no more memory"),
    ],
)
def test_errors_call_options_as_they_were_typed(word, message, said):
    """What the code calls an argument is called as its user knows it, and nothing else is changed."""
    assert in_words_of(COMMANDS[word], message) == said


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "+- - ? ?"), ("cp1252", "± – ? ?"), ("utf-8", "± – α ?")])
def test_a_console_that_lacks_a_character_shows_another(encoding, shown, monkeypatch):
    """A table's signs, and names of files that are no text, never end a run on a narrow console."""
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr("oeu_ref.__main__.DESCRIPTION", "± – α \udcff")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert shown in console.buffer.getvalue().decode(encoding)


def test_a_reader_who_leaves_costs_no_result(wrong, tmp_path):
    """With a closed pipe for its output, as after `| head`, a check ends with its report written and its own code."""
    reading, writing = os.pipe()
    os.close(reading)
    words = ["-m", "oeu_ref", "check", str(wrong), "--cases", "1", "--json", str(tmp_path / "report.json")]
    process = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, "")
    assert json.loads((tmp_path / "report.json").read_text())


def test_long_work_says_where_its_results_go(tmp_path, monkeypatch, capsys):
    """On a terminal, at once; the last line of what is printed is a path that was written."""
    made = {"table": "a table", "json": tmp_path / "a.json", "markdown": tmp_path / "a.md", "picture": None}
    monkeypatch.setattr("oeu_ref.lab.demo.run", lambda *_: made)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"oeu_ref demo: results go to {tmp_path}\n"
    assert captured.out.splitlines()[-1] == str(tmp_path / "a.md")


@pytest.mark.parametrize("word", [word for word, command in COMMANDS.items() if issubclass(command, Images)])
def test_no_error_suggests_redo_where_a_command_lacks_it(word):
    """A folder of another experiment: those that make cells anew when asked know it, the others are not told to."""
    words = ["stop", "cifar10-10"] * (word == "beyond") + ["--method", "oeu"] * (word == "run")
    command = read(COMMANDS[word], words, "oeu_ref")
    with command.started() as (_, runner, _):
        assert runner.redo is (False if "redo" in command.__dataclass_fields__ else None)


def test_check_of_a_right_file_exits_with_0(right, capsys):
    """All laws about the one function hold, the others are skipped by the function's name."""
    assert main(["check", str(right), "--cases", "10"]) == 0
    out = capsys.readouterr().out
    assert "holds all laws that apply" in out and "has no project" in out and "0 fail" in out


def test_check_of_a_wrong_file_exits_with_1_and_explains(wrong, capsys):
    """Each failing law comes with what happened, the smallest case and the usual cause."""
    assert main(["check", str(wrong), "--cases", "10"]) == 1
    out = capsys.readouterr().out
    for expected in (
        "BREAKS LAWS",
        "kl to uniform is log k minus entropy  (theorem 4.1",
        "smallest case:",
        "direction",
    ):
        assert expected in out


def test_check_writes_json(right, wrong, tmp_path, capsys):
    """--json holds, for each implementation, every law with its status."""
    path = tmp_path / "new folder" / "report.json"
    assert main(["check", str(right), str(wrong), "--cases", "5", "--json", str(path)]) == 1
    reports = json.loads(path.read_text())
    assert [report["ok"] for report in reports] == [True, False]
    failing = [r for r in reports[1]["results"] if r["status"] == "fails"]
    assert failing and all(r["example"] and r["message"] and r["hint"] for r in failing)


def test_check_finds_modules_of_the_current_folder(right):
    """`check my_right` works from the folder of my_right.py, as a module name."""
    code, out, err = run("-m", "oeu_ref", "check", "my_right", "--cases", "5", cwd=right.parent)
    assert code == 0, err
    assert "my_right holds all laws that apply" in out


def test_check_judges_a_class_with_the_steps_signature(capsys):
    """A PyTorch class is compared with the reference's whole step; one that forgets beta is found out."""
    assert main(["check", "oeu_ref.core:OEU", "--cases", "10", "--verbose"]) == 0
    assert "whole steps compute the references" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here", "cannot be imported (ModuleNotFoundError"),
        ("no_such_file.py", "is no file; expected is a Python file"),
        ("oeu_ref.reference:nothing", "has no attribute 'nothing'"),
        ("json", "must define at least one of entropy_loss"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_exit_code_2(name, message, capsys):
    """A name that leads nowhere is explained in one line on stderr."""
    assert main(["check", name]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("oeu_ref check: ")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["demo", "--out="], "--out"),
        (["demo", "--out", " "], "--out"),
        (["check", "oeu_ref.reference", "--json", ""], "--json"),
        (["table", "--data-root="], "--data-root"),
        (["export", "", "--out", "a.npz"], "FILE"),
        (["beyond", "stop", "--out="], "--out"),
    ],
)
def test_an_empty_word_is_no_path(words, flag, tmp_path, monkeypatch, capsys):
    """It would be the current folder: a script whose variable is not set would write there."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert f"{flag} must be a word or a path, got an empty one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


PATHS = ("FILE", "DIR", "OUT_DIR", "RESULTS_DIR", "PATH")


@pytest.mark.parametrize(
    ("word", "field"),
    [(w, f) for w, c in COMMANDS.items() for f in c.options() if (f.metadata["shown"] or f.metadata["flag"]) in PATHS],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_dash_is_no_path(word, field):
    """Where a file or a folder is named, - is neither one of that name nor what is printed to: a table stands there."""
    words, flag = sample(COMMANDS[word]), flag_of(field)
    words = [*words, flag, "-"] if flag.startswith("--") else ["-", *words[1:]]
    with pytest.raises(ValueError, match=f"^{flag} must be a word or a path, got '-', which is no stream here: ./- is"):
        read(COMMANDS[word], words, "")
    assert getattr(read(COMMANDS[word], [{"-": "./-"}.get(w, w) for w in words], ""), field.name) == "./-"


def test_a_file_that_raises_on_import_is_explained(tmp_path, capsys):
    """The error of a stranger's file is named, in one line, without a traceback."""
    (tmp_path / "broken.py").write_text("import no_such_package_here")
    assert main(["check", str(tmp_path / "broken.py")]) == 2
    assert "No module named 'no_such_package_here'" in capsys.readouterr().err


@pytest.mark.parametrize("constant", ["DTYPE = 'float16'", "QUANTIZER_MASK = 'soft'"])
def test_an_unknown_declaration_is_explained(right, constant, capsys):
    """DTYPE and QUANTIZER_MASK have known values."""
    right.write_text(constant + RIGHT)
    assert main(["check", str(right)]) == 2
    assert "must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "is NoneType"),
        ("logits.mean()", "must have shape (5,), got ()"),
        ("logits[:, 0].astype(int)", "is an array of dtype int64"),
        ("logits[:, 0].astype('float32')", "must have dtype float64 as DTYPE declares, got float32"),
        ("logits[:, :1]", "must have shape (5,), got (5, 1)"),
        ("logits[:, 0] * np.nan", "holds nan"),
        ("list(logits[:, 0])", "is a list of 5"),
    ],
)
def test_a_wrong_return_type_says_what_was_expected(tmp_path, returned, message, capsys):
    """A result of another type, shape, precision, or with NaN fails its laws with the signature or the shape."""
    path = tmp_path / "typed.py"
    path.write_text(f"import numpy as np\ndef kl_to_uniform(logits):\n    return {returned}\n")
    assert main(["check", str(path), "--cases", "1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert message in out and "kl_to_uniform" in out


def test_the_template_is_a_file_to_fill_in(tmp_path, capsys):
    """The template imports, has every function of the contract, and skips all laws until something is filled in."""
    from oeu_ref.conformance import SIGNATURES

    assert main(["template"]) == 0
    path = tmp_path / "my_oeu.py"
    path.write_text(capsys.readouterr().out)
    for signature in SIGNATURES.values():
        assert signature.split(" ->")[0] in path.read_text()
    assert main(["check", str(path), "--cases", "1"]) == 1
    out = capsys.readouterr().out
    assert "has nothing to check" in out and "0 fail" in out and "NotImplementedError" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "mine.py", "--json", "mine.py"], "--json must be another file than .*mine.py, which is read"),
        (["check", "mine.py:kl", "--json", "./mine.py"], "--json must be another file than .*mine.py, which is read"),
        (["check", "mine.py", "--expected-failures", "known.txt", "--json", "known.txt"], "--json must be another"),
        (["check", "mine.py", "--json", "."], "--json must be a file that can be written, got .: it is a folder"),
        (["check", "mine.py", "--json", "mine.py/report.json"], "--json must be a file that can be written"),
        (
            ["check", "mine.py", "--json", os.devnull],
            "--json must be a file that can be written, got .*: it is a device",
        ),
        (["check-vectors", ".", "--json", "project.json"], "--json must be another file than project.json"),
        (["check-vectors", ".", "--json", "."], "--json must be a file that can be written, got .: it is a folder"),
        (["export", "net.pt", "--out", "net.pt"], "--out must be another file than net.pt, which is read"),
        (["export", "net.pt", "--out", "."], "--out must be a file that can be written, got .: it is a folder"),
        ([*UNLEARN, "unlearned.pt", "--out", "."], "--out must be another file than unlearned.pt, which is read"),
        ([*UNLEARN, "net.pt", "--out", "mine.py"], "--out must be a file that can be written, got mine.py/report.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_file_that_must_not_be_written_is_refused_before_any_work(words, said, tmp_path, monkeypatch, capsys):
    """A folder, a place below a file, and what the command reads: one line, nothing judged, nothing written."""
    contents = {"mine.py": "class Kl:\n    kl_to_uniform = abs\n\n\nkl, kl_to_uniform = Kl(), abs\n"}
    contents["known.txt"] = "# none\n"
    contents |= dict.fromkeys(["net.pt", "unlearned.pt", "project.json"], "its content")
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for work in ("conformance.check", "vectors.judge.check_results", "lab.export.export_file", "commands.own.built"):
        monkeypatch.setattr(f"oeu_ref.{work}", lambda *_: pytest.fail("work was done before"))
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"oeu_ref {words[0]}: {said}", line)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.*")} == contents


def test_what_numpy_is_told_to_raise_is_no_mistake_of_an_implementation(capsys):
    """Whoever made underflow an error, a user or the file that is judged: probabilities of 0 are no failure."""
    with np.errstate(all="raise"):
        assert main(["check", "oeu_ref.reference", "--cases", "2"]) == 0


def test_an_operation_that_there_is_not_is_named_by_the_option_that_was_typed(capsys):
    """The function calls them required, the command --require."""
    assert main(["check", "oeu_ref.reference", "--require", "kl"]) == 2
    assert capsys.readouterr().err.startswith("oeu_ref check: --require must be one of 'entropy_loss'")


def test_without_docstrings_there_are_no_laws():
    """`python -OO` leaves out what the laws are stated in: one line, and not a verdict."""
    code, _, err = run("-OO", "-m", "oeu_ref", "check", "oeu_ref.reference")
    assert code == 2 and err.count("\n") == 1 and "run it with -O at most" in err


def test_no_cases_are_refused(right, capsys):
    """--cases 0 would prove nothing."""
    assert main(["check", str(right), "--cases", "0"]) == 2
    assert "--cases must be at least 1" in capsys.readouterr().err


@pytest.mark.reliability
def test_pytest_runs_the_laws_against_any_implementation(right, wrong):
    """`pytest -k theorems --impl A --impl B` judges A and B instead of ours, and names the law that B breaks."""
    code, out, _ = run("-m", "pytest", "-k", "theorems and kl", f"--impl={right}", f"--impl={wrong}")
    assert code == 1
    assert "my_wrong.py-4.1 kl to uniform is log k minus entropy" in out
    assert "usual cause" in out
    assert "oeu_ref.reference" not in out and "my_right.py-4.1" not in out  # ours are not run, and right ones pass


def test_pytest_explains_an_implementation_that_cannot_be_loaded():
    """A wrong name for --impl is a usage error (exit code 4) that says what was expected."""
    code, out, err = run("-m", "pytest", "-k", "theorems", "--impl", "no_such_module_here")
    assert code == 4
    assert "cannot be imported" in out + err


def test_an_implementation_that_changes_its_inputs_is_caught(tmp_path, capsys):
    """In-place work on an input breaks the law about it, and no other law is confused by it."""
    path = tmp_path / "greedy.py"
    path.write_text(
        RIGHT.replace("    p =", "    logits += 1.0\n    p =", 1)
    )  # KL does not notice: softmax is shift invariant
    assert main(["check", str(path), "--cases", "10"]) == 1
    out = capsys.readouterr().out
    assert "kl_to_uniform changed its input array 0 in place" in out


def test_demo_seeds_must_be_numbers(capsys):
    """--seeds with something else is one line and exit code 2."""
    assert main(["demo", "--seeds", "1,x"]) == 2
    assert "--seeds must be whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_process_without_a_console_writes_its_results(tmp_path, monkeypatch, missing):
    """Where Python has no stream at all, as under a service, files are written and the exit code is the usual one."""
    monkeypatch.setattr(
        "oeu_ref.lab.demo.run", lambda *_: (tmp_path / "demo.md").write_text("done") and {"table": "done"}
    )
    for name in missing:
        monkeypatch.setattr(sys, name, None)
    assert main(["demo", "--out", str(tmp_path)]) == 0 and (tmp_path / "demo.md").read_text() == "done"
    with pytest.raises(SystemExit, match="2"):
        main(["nonsense"])
