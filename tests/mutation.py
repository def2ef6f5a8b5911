"""A mutation audit: does the default test run notice a mistake in `reference/`, `core/` or what lies below them?

    python -m tests.mutation --count 200 --seed 0 --jobs 2 --out audit.jsonl

Each mutant is one edit of one file in a copy of the repository: a comparison, an operator, a constant, a word, a
condition, an argument, a statement, a mode. Docstrings, types and error texts stay. The test files that promise most
come first; what passes them is run on the others when all mutants had those. A line of JSON tells of each mutant when
it is judged; run again, the audit goes on where the file ends. Tests that fail without a mutant are left out and named.
Needs a system that can fork.
"""

import argparse
import ast
import collections
import concurrent.futures
import copy
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ("oeu_ref/reference/*.py", "oeu_ref/core/*.py", "oeu_ref/passes/*.py", "oeu_ref/tensors/*.py")
COMPARED = {"Lt": ("LtE", "GtE"), "LtE": ("Lt", "Gt"), "Gt": ("GtE", "LtE"), "GtE": ("Gt", "Lt"), "Eq": ("NotEq",)}
COMPARED |= {"NotEq": ("Eq",), "Is": ("IsNot",), "IsNot": ("Is",), "In": ("NotIn",), "NotIn": ("In",)}
OPERATORS = {"Add": "Sub", "Sub": "Add", "Mult": "Div", "Div": "Mult", "FloorDiv": "Div", "Mod": "Mult", "Pow": "Mult"}
OPERATORS |= {"LShift": "RShift", "BitOr": "BitAnd", "BitAnd": "BitOr"}
SETTINGS = ("layer global", "undo match", "exact additive", "clip round", "module tensor", "train keep", "left right")
WORDS = {a: b for pair in SETTINGS for a, b in (pair.split(), pair.split()[::-1])}
TWINS = ("min max", "any all", "sum mean", "train eval", "zeros_like ones_like", "argmax argmin", "maximum minimum")
FUNCTIONS = {a: b for pair in TWINS for a, b in (pair.split(), pair.split()[::-1])}
# calls that may be left out, so that what they are made of stands in their place
WRAPPERS = {"detach", "clone", "copy", "double", "float", "to", "cpu", "to_dense", "abs", "clamp", "clamp_min", "max"}
WRAPPERS |= {"wide", "sorted", "reversed", "int", "bool", "list", "min", "no_grad", "deepcopy", "round", "round_"}


# what takes seconds to import is imported once
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["hypothesis", "matplotlib.pyplot", "pytest", "sklearn.datasets", "sympy", "torchvision"]
)


def mutants_of(path):
    """[(kind, line, old text, start, end, new text)] of a file: every edit that is known here."""
    source = path.read_text(encoding="utf-8")
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []

    def edit(kind, node, new):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        text = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(node, ast.stmt):
            text = textwrap.indent(text, " " * node.col_offset).lstrip()
        elif isinstance(node, ast.expr):
            text = f"({text})"
        found.append((kind, node.lineno, source.encode()[start:end].decode(), start, end, text))

    def changed(node, **fields):
        new = copy.copy(node)
        vars(new).update(fields)
        return new

    def visit(node, last=False):
        match node:
            case ast.Raise():
                return edit("statement", node, "pass")
            case ast.JoinedStr() | ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
                return None
            case ast.Assign(targets=[ast.Name(id="__all__" | "takes")]):
                return None
            case ast.Compare():
                for i, op in enumerate(node.ops):
                    for name in COMPARED[type(op).__name__]:
                        ops = [*node.ops[:i], getattr(ast, name)(), *node.ops[i + 1 :]]
                        edit("comparison", node, changed(node, ops=ops))
            case ast.BinOp(op=op) if type(op).__name__ in OPERATORS:
                edit("arithmetic", node, changed(node, op=getattr(ast, OPERATORS[type(op).__name__])()))
            case ast.UnaryOp():
                edit("arithmetic", node, node.operand)
            case ast.BoolOp():
                edit("and/or", node, changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And()))
                for i in range(len(node.values)):
                    rest = node.values[:i] + node.values[i + 1 :]
                    edit("and/or", node, rest[0] if len(rest) == 1 else changed(node, values=rest))
            case ast.Constant(value=bool(value)):
                edit("constant", node, repr(not value))
            case ast.Constant(value=int(value)):
                for other in (value + 1, value - 1):
                    edit("constant", node, repr(other))
            case ast.Constant(value=float(value)):
                edit("constant", node, repr(value * 2 or 1.0))
            case ast.Constant(value=str(value)) if value in WORDS:
                edit("word", node, repr(WORDS[value]))
            case ast.If() | ast.IfExp() | ast.While():
                for value in ("True", "False"):
                    edit("branch", node.test, value)
            case ast.comprehension():
                for test in node.ifs:
                    edit("branch", test, "True")
            case ast.With() if not any(item.optional_vars for item in node.items):
                edit("mode", node, ast.If(ast.Constant(True), node.body, []))
            case ast.Call():
                calls(node)
            case ast.AugAssign():
                if type(node.op).__name__ in OPERATORS:
                    edit("arithmetic", node, changed(node, op=getattr(ast, OPERATORS[type(node.op).__name__])()))
                edit("statement", node, "pass")
            case ast.Assign(targets=[target]):
                read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
                written = {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
                if isinstance(target, (ast.Attribute, ast.Subscript)) or read & written:
                    edit("statement", node, "pass")
            case ast.Expr():
                edit("statement", node, "pass")
            case ast.Return() if not last:
                edit("statement", node, "pass")
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "targets", "target", "optional_vars"):
                continue
            if field == "decorator_list":
                value = [d for d in value if "dataclass" not in ast.unparse(d)]
                for decorator in (d for d in value if "no_grad" in ast.unparse(d)):
                    edit("mode", decorator, "lambda f: f")
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, last=isinstance(node, ast.FunctionDef) and child is node.body[-1])

    def calls(node):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first, *rest = node.args or [None]
        if rest and not isinstance(first, ast.Starred) and not isinstance(rest[0], ast.Starred):
            if ast.unparse(first) != ast.unparse(rest[0]) and name not in ("isinstance", "getattr", "hasattr"):
                edit("arguments", node, changed(node, args=[rest[0], first, *rest[1:]]))
        for keyword in node.keywords if name not in ("takes", "field") else ():
            if keyword.arg:
                edit("arguments", node, changed(node, keywords=[k for k in node.keywords if k is not keyword]))
        if name in FUNCTIONS:
            field = "attr" if isinstance(node.func, ast.Attribute) else "id"
            edit("function", node, changed(node, func=changed(node.func, **{field: FUNCTIONS[name]})))
        inner = first if isinstance(node.func, ast.Name) else getattr(node.func, "value", None)
        if name in WRAPPERS and inner is not None and ast.unparse(inner) not in ("torch", "np", "copy"):
            edit("detach", node, inner)

    visit(ast.parse(source))
    return found


def sample(count, seed):
    """`count` mutants, drawn over both rooms: dicts of their id, what a line tells of them, and the edit."""
    everything, seen = [], collections.Counter()
    for path in sorted(file for files in FILES for file in ROOT.glob(files)):
        name = path.relative_to(ROOT).as_posix()
        for kind, line, old, start, end, new in mutants_of(path):
            # known by its text, so that an edit elsewhere in the file does not make it another mutant
            key = f"{name}: {' '.join(old.split())} -> {' '.join(new.split())}"
            seen[key] += 1
            told = {"id": f"{key} #{seen[key]}", "file": name, "line": line, "kind": kind}
            everything.append(told | {"edit": (start, end, new)})
    # by a hash of each, so that a change elsewhere in the sources does not draw others
    return sorted(everything, key=lambda m: hashlib.sha256(f"{seed} {m['id']}".encode()).digest())[:count]


def run(folder, files, left_out, limit):
    """(exit status, None when time was up; id of the first test that failed or None) of pytest in a folder."""
    arguments = ["-x", "-p", "no:cacheprovider", *(file for file in files if file not in left_out)]
    log = pathlib.Path(f"{folder}.log")
    process = PROCESSES.Process(target=_pytest, args=(folder, arguments + [f"--deselect={t}" for t in left_out], log))
    process.start()
    process.join(limit)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        return None, None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(errors="replace"), re.MULTILINE)
    return process.exitcode, failed and failed[1]


def _pytest(folder, arguments, log):
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("oeu_ref", "tests")]:
        del sys.modules[name]  # what comes from this folder
    sys.path = [str(folder), *(place for place in sys.path if pathlib.Path(place or ".").resolve() != ROOT)]
    os.chdir(folder)
    os._exit(pytest.main(arguments))


class Audit:
    """Judges mutants in copies of the repository, and writes what it finds."""

    def __init__(self, out, jobs, minutes):
        self.out, self.jobs, self.end = pathlib.Path(out), jobs, time.monotonic() + 60 * minutes
        lines = self.out.read_text(encoding="utf-8").splitlines() if self.out.exists() else []
        self.known = {entry["id"]: entry for entry in map(json.loads, lines)}
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="mutation-")) / "base"
        self.base.mkdir()
        for name in ("oeu_ref", "tests", "notebooks"):
            shutil.copytree(ROOT / name, self.base / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (file for file in ROOT.iterdir() if file.is_file()):
            shutil.copy(file, self.base)
        self.files = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("test_*.py"))
        self.files = [f for f in self.files if "/reliability/" not in f and "/studies/" not in f]

    def tell(self, entry):
        self.known[entry["id"]] = entry
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def each(self, function, things):
        """function(thing) for all, several at a time, until time is up."""
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda thing: function(thing) if time.monotonic() < self.end else None, things))

    def measure(self, file):
        """How long a test file takes without a mutant, and which of its tests fail."""
        start, failed = time.monotonic(), []
        while file not in failed and (found := run(self.base, [file], failed, 900))[0] not in (0, 5):
            failed.append(found[1] if found[1] not in (None, *failed) else file)
        self.tell({"id": file, "seconds": time.monotonic() - start, "failed": failed})

    def ranked(self, source):
        """Test files, the most promising by the second first: by what they noticed before and what they name."""
        words = re.findall(r"^(?:class|def) ([A-Za-z]\w+)", (ROOT / source).read_text(encoding="utf-8"), re.MULTILINE)
        killers = [e["by"].partition("::")[0] for e in list(self.known.values()) if e.get("file") == source and e["by"]]
        rates = {}
        for file in self.files:
            named = set(words) & set(re.findall(r"\w+", (ROOT / file).read_text(encoding="utf-8")))
            rates[file] = (killers.count(file) + len(named) / (len(words) + 1)) / self.known[file]["seconds"]
        return sorted(self.files, key=rates.get, reverse=True)

    def judge(self, mutant):
        """Run the most promising third of the tests on a new mutant, the others on one that has passed it."""
        tried = self.known.get(mutant["id"], {}).get("tried", [])
        files = [file for file in self.ranked(mutant["file"]) if file not in tried]
        seconds = list(itertools.accumulate(self.known[file]["seconds"] for file in files))
        if not tried:
            files = files[: 1 + sum(passed < seconds[-1] / 3 for passed in seconds)]
        start, end, new = mutant["edit"]
        with tempfile.TemporaryDirectory(dir=self.base.parent) as folder:
            copied = pathlib.Path(folder) / "copy"
            shutil.copytree(self.base, copied)
            source = (copied / mutant["file"]).read_bytes()
            (copied / mutant["file"]).write_bytes(source[:start] + new.encode() + source[end:])
            left_out = [test for file in files for test in self.known[file]["failed"]]
            began = time.monotonic()
            status, test = run(copied, files, left_out, min(30 + 2 * seconds[len(files) - 1], self.end - began))
        if status is None and time.monotonic() >= self.end:
            return
        verdict = "timeout" if status is None else "killed" if status not in (0, 5) else "survived" if tried else "open"
        told = {key: value for key, value in mutant.items() if key != "edit"} | {"verdict": verdict, "by": test}
        told["seconds"] = round(time.monotonic() - began, 1)
        self.tell(told | {"tried": files} if verdict == "open" else told)

    def go(self, mutants):
        """Judge all that are not judged yet; prints the summary."""
        self.each(self.measure, [file for file in self.files if file not in self.known])
        for verdict in (None, "open"):
            self.each(self.judge, [m for m in mutants if self.known.get(m["id"], {}).get("verdict") == verdict])
        shutil.rmtree(self.base.parent, ignore_errors=True)
        verdicts = collections.defaultdict(collections.Counter)
        for mutant in mutants:
            verdicts[mutant["kind"]][self.known.get(mutant["id"], {"verdict": "not judged"})["verdict"]] += 1
        for kind, counts in sorted(verdicts.items()):
            print(f"{kind:12}", dict(counts))
        print(f"{'all':12}", dict(sum(verdicts.values(), collections.Counter())))
        for file in self.files:
            for test in self.known.get(file, {"failed": ()})["failed"]:
                print("fails without a mutant:", test)
        for mutant in mutants:
            if self.known.get(mutant["id"], {}).get("verdict") == "survived":
                print(f"survived: line {mutant['line']} of {mutant['id']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="mutants to judge side by side, one core each")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after so many; run again to go on")
    parser.add_argument("--out", default="mutation.jsonl", help="file of results, one line of JSON each")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    Audit(options.out, options.jobs, options.minutes).go(sample(options.count, options.seed))


if __name__ == "__main__":
    main()
