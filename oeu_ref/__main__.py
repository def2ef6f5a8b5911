"""The command line: `python -m oeu_ref COMMAND`. Each command imports what it needs, so that --help is instant."""

import os
import pathlib
import signal
import sys

from . import __version__, boundary, files, locks
from .commands.command import QUICK, Command, Folder, Parser, check_writable, in_words_of, meant, read, say, wrapped
from .commands.experiments import Ablation, Export, Replicate, Report, Run, Sweep, Table, Tune, checked_device
from .commands.own import Unlearn
from .commands.studies import Beyond, Bits
from .lab import options
from .lab.options import NEEDED, option, record

USAGE_ERROR = 2
INTERRUPTED = 130
PROGRAM = "oeu-ref" if pathlib.Path(sys.argv[0]).stem == "oeu-ref" else "python -m oeu_ref"
DESCRIPTION = (
    "OEU, Orthogonal Entropy Unlearning for quantized networks (arXiv 2602.00567): a reference that proves itself."
)


def main(argv=None):
    """Run one command; argv: list of strings, the process's own by default.

    Returns the exit code: 0 done, 1 a check found something wrong, 2 bad input (one line on stderr), 130 interrupted.
    Raises SystemExit with 0 for --help and --version, with 2 (one line on stderr) for unknown words.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # a process may have no console
        setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="oeu_ref.plain")
    word, *words = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if word not in COMMANDS:
        _no_command(word)
    try:
        command = read(COMMANDS[word], words, PROGRAM)
        if command.where() is not None and sys.stderr.isatty():
            print(f"oeu_ref {word}: results go to {command.where()}", file=sys.stderr)
        return command.run()
    except (ImportError, OSError, TypeError, ValueError, KeyboardInterrupt) as error:
        lacking = f"{error}; requirements.txt lists what must be installed"
        message = lacking if isinstance(error, ImportError) else in_words_of(COMMANDS[word], str(error))
        cause = error  # a C++ module whose import Ctrl-C ends makes an ImportError of it, which others may put in words
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        message, code = (message, USAGE_ERROR) if cause is None else ("interrupted", INTERRUPTED)
    print(f"oeu_ref {word}: {message}", file=sys.stderr)
    return code


def program():
    """Run the process's own command, and end the process with its exit code.

    Who presses Ctrl-C twice is answered once: the second would meet what Python and PyTorch do at their end.
    """
    code = main()
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _no_command(word):
    """Answer what is asked without a command, and end the process."""
    parser = Parser(PROGRAM)
    if word in ("", "-h", "--help"):
        say(overview())
        parser.exit(0 if word else USAGE_ERROR, "" if word else f"{PROGRAM}: COMMAND is missing\n")
    if word == "--version":
        say(f"oeu_ref {__version__}")
        parser.exit()
    parser.error(f"COMMAND must be one of {', '.join(COMMANDS)}, got {word!r}{meant(word, COMMANDS)}")


def overview():
    """What --help says: all commands, by what one came for."""
    wide = max(map(len, COMMANDS))
    row = lambda command: wrapped(command.line, f"  {command.word():{wide}}  ", " " * (wide + 4))
    groups = ("\n".join([title, *map(row, group)]) for title, group in GROUPS.items())
    end = (
        f"{PROGRAM} COMMAND --help says what a command does, its options, and where its results go;",
        f"{PROGRAM} --version says which version this is.",
        "Exit codes: 0 done, 1 a check found something wrong (3: at edges alone, 4: in precision alone), 2 bad usage "
        "or input, 130 interrupted.",
    )
    usage = wrapped(f"usage: {PROGRAM} COMMAND [options]", then=" " * 7)
    return "\n\n".join([usage, wrapped(DESCRIPTION), *groups, "\n".join(map(wrapped, end))])


@record
class Demo(Folder):
    """Trains a 4-bit network on scikit-learn's handwritten digits with 20 % label noise, retrains it without 10 % of
    the samples, and lets OEU and its rivals forget them. Under a minute on two cores."""

    line = "train, unlearn and compare on real digits: a table and a picture, in a minute"
    example = "--out results/demo"
    out: str = option("results/demo", "folder for demo.json, demo.md and demo.png, made if it is missing", "DIR")
    seeds: tuple[int, ...] = option((1, 2, 3), "whole numbers >= 0, a run each")
    quick: bool = option(False, QUICK)
    search: bool = option(
        False, "first search all settings anew, seeds 101 to 105 (10 minutes), into OUT/settings.json"
    )
    schedule: str = options.schedule()
    recalibrated: bool = options.recalibrated()

    def run(self):
        from .lab import demo

        return self.show(demo.run(self.out, self.seeds, self.quick, self.schedule, self.recalibrated, self.search))


@record
class Template(Command):
    """Prints a Python file with the contract's functions, to be filled in and checked; functions that you lack may stay
    empty."""

    line = "print a Python file to fill in and check"
    example = "> my_oeu.py"

    def run(self):
        from importlib import resources

        say((resources.files("oeu_ref.commands") / "template.py").read_text(encoding="utf-8").rstrip("\n"))
        return 0


@record
class Check(Command):
    """Imports an implementation (which runs its code: use only what you trust), tries every law on it, and prints a
    verdict, what fails with a small case and the usual cause, and a table of laws. Exit code 3: right on ordinary
    inputs, wrong at the edges (zeros, certain predictions, one sample); 4: only imprecise on nearly parallel, tiny or
    huge inputs. Functions that it lacks are skipped by name; a case that it refuses with NotImplementedError is counted
    as declined, and what is declined in part is no pass."""

    called = {"required": "--require"}
    line = "judge an implementation of OEU by the laws; exit code 0 if all that apply hold, 1, 3 or 4 if not"
    example = "my_package.my_oeu --json report.json"
    implementation: tuple[str, ...] = option(
        NEEDED,
        "package.module, path/to/file.py, or either followed by :object; a class with the OEU step's signature is "
        "checked on PyTorch models",
        flag="IMPLEMENTATION",
    )
    cases: int = option(50, "cases drawn for each law, >= 1: more of them find rarer faults")
    require: tuple[str, ...] = option(
        (), "operations, or all: exit code 1 unless each was judged", "OPERATIONS", "project,oeu_direction", "none"
    )
    strict: bool = option(False, "exit code 1 for every failure, not 3 or 4 for some")
    verbose: bool = option(False, "a row for each law, and the values tried in each dimension of the input")
    dump_case: int | None = option(None, "write failure N: its arrays, and a script", "N", "1", "not written")
    expected_failures: str | None = option(None, "known failures, each LAW | REASON", "FILE", "known.txt", "none")
    json: str | None = option(None, "also write the report there, as JSON", "FILE", "report.json", "not written")

    def run(self):
        from .conformance import check, dump_case, expecting, load, read_expected

        cases, expected = boundary.integer("--cases", self.cases, 1), read_expected(self.expected_failures)
        implementations = [load(name) for name in self.implementation]
        code = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        check_writable("--json", self.json, self.expected_failures, *code)
        reports = []
        for implementation in implementations:
            reports.append(expecting(check(implementation, cases, False, _dot, filter(None, self.require)), expected))
            _dot(None)
            say(reports[-1].table(self.verbose), "")
            if self.dump_case is not None and (failures := reports[-1].failures):
                number = boundary.integer("--dump-case", self.dump_case, 1, len(failures))
                say(*dump_case(implementation, failures[number - 1]))
        _write_json(self.json, [report.as_dict() for report in reports])
        worst = min(filter(None, (report.exit_code for report in reports)), default=0)
        return min(worst, 1) if self.strict else worst


@record
class Vectors(Command):
    """Writes one JSON file for each operation, with inputs, expected outputs and tolerances, for a program in any
    language to answer."""

    line = "write test vectors (JSON) for implementations in any language"
    example = "vectors/"
    out_dir: str = option(NEEDED, "folder for the files, made if it is missing", flag="OUT_DIR")

    def run(self):
        from .vectors.make import write_vectors

        say(*write_vectors(self.out_dir))
        return 0


@record
class CheckVectors(Command):
    """Compares RESULTS_DIR/OPERATION.json, for each operation that is there, with the test vectors."""

    line = "judge the answers that a program in any language gave to the test vectors; exit code 0 or 1"
    example = "my_answers/"
    results_dir: str = option(NEEDED, "folder with the answers", flag="RESULTS_DIR")
    json: str | None = option(None, "also write the report there, as JSON", "FILE", "report.json", "not written")

    def run(self):
        from .vectors.judge import check_results
        from .vectors.make import operations

        answers = [pathlib.Path(self.results_dir) / f"{name}.json" for name in operations()]
        check_writable("--json", self.json, *answers)
        report = check_results(self.results_dir)
        say(report.table())
        _write_json(self.json, report.as_dict())
        return 0 if report.ok else 1


@record
class Variants(Folder):
    """On the demo's digits, gives each variant of OEU the same search for its settings (seeds 101 to 105) and reports
    the average gap to Retrain on ten other seeds. About a quarter of an hour."""

    line = "OEU's own options on the digits: layer notion, rescaling, projection; a quarter of an hour"
    example = "--out results/variants"
    out: str = option(
        "results/variants", "folder for search.json, variants.json and variants.md, made if it is missing", "DIR"
    )
    schedule: str = options.schedule()
    recalibrated: bool = options.recalibrated()

    def run(self):
        from .lab import variants

        config = variants.Digits(schedule=self.schedule, recalibrated=self.recalibrated)
        with locks.alone(self.out, "out_dir"):
            return self.show(variants.run(self.out, config=config))


@record
class Bench(Folder):
    """Measures an OEU step, the projection, the quantizer, the training loop and how a step grows with the network,
    each beside what it is compared with, by turns in one run. About 10 minutes."""

    line = "what OEU costs on top of what it needs: ratios of times measured by turns; about 10 minutes"
    example = "--only projection,start"
    out: str = option("results/bench", "folder for bench.json, bench.md and bench_scaling.png", "DIR")
    only: tuple[str, ...] | None = option(None, "figures", example="projection,start", unset="all", words=options.BENCH)
    peers: bool = option(False, "others' code too: torchao, brevitas, torchjd, pytorch_optimizer, what is installed")
    device: str = option("auto", "cpu or cuda", "NAME", "cpu", "cuda where there is one, else cpu")
    quick: bool = option(False, QUICK)

    def run(self):
        from .bench.bench import bench

        return self.show(bench(self.out, checked_device(self.device), self.only, self.quick, peers=self.peers))


def _dot(result):
    """Progress on stderr, where it is a terminal: a mark for each law, wiped at the end."""
    if sys.stderr.isatty():
        mark = "\r\033[K" if result is None else {"holds": ".", "fails": "F"}.get(result.status, result.status[0])
        print(mark, end="", file=sys.stderr, flush=True)


def _write_json(path, content):
    if path is not None:
        say(files.write_json(path, content))


GROUPS = {
    "see it work": (Demo,),
    "is mine right?": (Template, Check, Vectors, CheckVectors),
    "the paper's experiments": (Table, Ablation, Sweep, Bits, Run, Tune, Replicate, Report),
    "beyond the paper": (Beyond, Variants),
    "your own network": (Unlearn, Export),
    "tools": (Bench,),
}
COMMANDS = {command.word(): command for group in GROUPS.values() for command in group}

if __name__ == "__main__":
    program()
