"""The command line: `python -m oeu_ref COMMAND`. Each command imports what it needs, so that --help is instant."""

import argparse
import os
import re
import sys

from . import files
from . import studies as beyond
from .lab import command_line

USAGE_ERROR = 2

DESCRIPTION = """\
OEU, Orthogonal Entropy Unlearning for quantized networks (arXiv 2602.00567): a reference that proves itself.

from nothing to a result:    python -m oeu_ref demo
the paper's tables:          python -m oeu_ref table cifar10-10 --data-root data [--preset cpu]
is my implementation right?  python -m oeu_ref template > my_oeu.py   (fill in what you have)
                             python -m oeu_ref check my_oeu.py
in another language:         python -m oeu_ref vectors vectors/       (answer them)
                             python -m oeu_ref check-vectors my_answers/
"""


def main(argv=None):
    """Run one command; argv: list of strings, the process's own by default.

    Returns the exit code: 0 done, 1 a check found something wrong, 2 bad usage or input (one line on stderr), 130
    interrupted.
    """
    # a shell expands a ~ where a word begins with it, not in --out=~/results, and on Windows nowhere
    words = [re.sub(r"^(--[\w-]+=)?(~.*)$", _with_home, word) for word in (sys.argv[1:] if argv is None else argv)]
    args = _parser().parse_args(words)
    try:
        return args.run(args)
    except ImportError as error:
        print(f"oeu_ref {args.command}: {error}; requirements.txt lists what must be installed", file=sys.stderr)
        return USAGE_ERROR
    except (ValueError, TypeError, OSError) as error:
        print(f"oeu_ref {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"oeu_ref {args.command}: interrupted", file=sys.stderr)
        return 130


def _with_home(word):
    return (word[1] or "") + os.path.expanduser(word[2])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to read more."""

    def error(self, message):
        """Print one line and end the process with exit code 2."""
        self.exit(USAGE_ERROR, f"{self.prog}: {' '.join(message.split())}; --help says more\n")


def _parser():
    parser = _Parser(
        prog="python -m oeu_ref", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_variants(commands)
    command_line.add_commands(commands)
    _add_beyond(commands)
    _add_export(commands)
    _add_bench(commands)
    _add_check(commands)
    _add_template(commands)
    _add_vectors(commands)
    _add_check_vectors(commands)
    return parser


def _add_demo(commands):
    command = commands.add_parser(
        "demo",
        help="train, unlearn and compare on real digits; writes a table, a picture and JSON",
        description="Trains a 4-bit network on scikit-learn's handwritten digits with 20 % label noise, retrains it "
        "without 10 % of the samples, and lets OEU and its rivals forget them. Under a minute on two cores.",
    )
    command.add_argument(
        "--out",
        default="results/demo",
        metavar="DIR",
        help="folder for demo.json, demo.md and demo.png, made if it is missing (default: results/demo)",
    )
    command.add_argument(
        "--seeds", default="1,2,3", metavar="LIST", help="comma-separated seeds to report (default: 1,2,3)"
    )
    command.add_argument(
        "--quick", action="store_true", help="a few steps only, to see that everything works; the figures mean nothing"
    )
    command.add_argument(
        "--search",
        action="store_true",
        help="search every method's settings anew first, on seeds 101 to 105 (about 10 minutes), and overwrite "
        "oeu_ref/lab/demo_settings.json",
    )
    command.set_defaults(run=_demo)


def _add_variants(commands):
    command = commands.add_parser(
        "variants",
        help="compare OEU's own options on the digits: layer notion, rescaling, projection; about 10 minutes",
        description="On the demo's digits, gives each variant of OEU the same search for its settings (seeds 101 to "
        "105) and reports the average gap to Retrain on ten other seeds.",
    )
    command.add_argument(
        "--out",
        default="results/variants",
        metavar="DIR",
        help="folder for search.json, variants.json and variants.md (default: results/variants)",
    )
    command.set_defaults(run=_variants)


def _add_beyond(commands):
    width = max(map(len, beyond.STUDIES))
    listed = "\n".join(f"  {name:{width}}  {question}" for name, question in beyond.STUDIES.items())
    command = commands.add_parser(
        "beyond",
        help="what the paper leaves open, measured on the digits: " + ", ".join(beyond.STUDIES),
        description=f"One study on the demo's digits; writes a table, a picture and JSON. Studies:\n\n{listed}",
        epilog="example: python -m oeu_ref beyond subspace",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", metavar="STUDY", help="one of those above")
    command.add_argument(
        "--out",
        metavar="DIR",
        help="folder for STUDY.json, STUDY.md and STUDY.png, made if it is missing (default: results/beyond)",
        default="results/beyond",
    )
    command.add_argument("--seeds", metavar="LIST", help="comma-separated seeds to report (default: the study's own)")
    command.add_argument(
        "--quick", action="store_true", help="a few steps only, to see that everything works; the figures mean nothing"
    )
    command.set_defaults(run=_beyond)


def _add_export(commands):
    command = commands.add_parser(
        "export",
        help="write a kept image model as integer codes and scales, what a device runs, and check it",
        description="Turns a .pt file of an output folder into the integer network that a device runs: one .npz "
        "without pickle, read back and compared with PyTorch's forward on random images.",
        epilog="example: python -m oeu_ref export results/cifar10-10-cpu/seed-1/original.pt --out original.npz",
    )
    command.add_argument("model", metavar="FILE", help="a .pt file that table, ablation or run kept")
    command.add_argument("--out", required=True, metavar="FILE", help="the .npz to write")
    command.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the images (default: that of the model's experiment)"
    )
    command.add_argument(
        "--value-bits",
        type=int,
        choices=(32, 64),
        default=64,
        help="width of the values between layers; 64 agrees with PyTorch in every code (default: 64)",
    )
    command.set_defaults(run=_export)


def _add_bench(commands):
    command = commands.add_parser(
        "bench",
        help="what OEU costs on top of what it needs: ratios of times measured by turns; about 10 minutes",
        description="Measures an OEU step, the projection, the quantizer, the training loop and how a step grows with "
        "the network, each beside what it is compared with, by turns in one run. Writes bench.json, bench.md and "
        "bench_scaling.png.",
        epilog="example: python -m oeu_ref bench --only projection,start",
    )
    command.add_argument(
        "--out", default="results/bench", metavar="DIR", help="folder, made if it is missing (default: results/bench)"
    )
    command.add_argument(
        "--only",
        metavar="LIST",
        help="comma-separated, of: step, projection, memory, quantizer, training, scaling, reference, start "
        "(default: all)",
    )
    command.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu or cuda (default: cuda where there is one)"
    )
    command.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that everything works; the figures mean nothing"
    )
    command.set_defaults(run=_bench)


def _add_check(commands):
    command = commands.add_parser(
        "check",
        help="judge an implementation of OEU by the laws; exit code 0 if all that apply hold, 1 if not",
        description="Imports an implementation (which runs its code: use only what you trust), tries every law on "
        "it, and prints a table: law, theorem, cases tried, holds / fails / skipped; for a failure the smallest "
        "case and the usual cause. Functions that it lacks are skipped by name; a case that it refuses with "
        "NotImplementedError is counted as declined, and what is declined in part is no pass.",
        epilog="example: python -m oeu_ref check my_package.my_oeu --json report.json",
    )
    command.add_argument(
        "implementation",
        nargs="+",
        help="package.module, path/to/file.py, or either followed by :object; a class with the OEU step's signature "
        "is checked on PyTorch models",
    )
    command.add_argument(
        "--cases", type=int, default=50, metavar="N", help="cases drawn for each law, at least 1 (default: 50)"
    )
    command.add_argument(
        "--require",
        metavar="OPERATIONS",
        default="",
        help="operations, separated by commas, or all: exit code 1 unless each of them was judged",
    )
    command.add_argument("--json", metavar="FILE", help="also write the report there as JSON")
    command.set_defaults(run=_check)


def _add_template(commands):
    command = commands.add_parser(
        "template",
        help="print a Python file to fill in and check",
        description="Prints a file with the contract's functions to fill in: python -m oeu_ref template > my_oeu.py",
    )
    command.set_defaults(run=_template)


def _add_vectors(commands):
    command = commands.add_parser(
        "vectors",
        help="write test vectors (JSON) for implementations in any language",
        description="Writes one JSON file for each operation, with inputs, expected outputs and tolerances.",
    )
    command.add_argument("out_dir", metavar="OUT_DIR", help="folder for the files; made if it is missing")
    command.set_defaults(run=_vectors)


def _add_check_vectors(commands):
    command = commands.add_parser(
        "check-vectors",
        help="judge the answers that a program in any language gave to the test vectors; exit code 0 or 1",
        description="Compares RESULTS_DIR/<operation>.json, for each operation that is there, with the test vectors.",
    )
    command.add_argument("results_dir", metavar="RESULTS_DIR", help="folder with the answers")
    command.add_argument("--json", metavar="FILE", help="also write the report there as JSON")
    command.set_defaults(run=_check_vectors)


def _demo(args):
    from .lab import demo

    seeds = _seeds(args.seeds)
    if args.search:
        demo.search()
    return _show(demo.run(args.out, seeds=seeds, quick=args.quick))


def _beyond(args):
    from .lab.engine import checked_seeds
    from .studies.study import run

    beyond.load(args.study)
    seeds = None if args.seeds is None else checked_seeds(_seeds(args.seeds))
    # studies share a folder, each with files of its own name
    with files.alone(args.out, "out_dir", work=args.study):
        return _show(run(args.study, args.out, seeds=seeds, quick=args.quick))


def _export(args):
    from .lab.export import export_file

    print(export_file(args.model, args.out, args.image_size, args.value_bits))
    return 0


def _seeds(text):
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise ValueError(f"--seeds must be whole numbers separated by commas, such as 1,2,3; got {text!r}") from None


def _show(written):
    """Print what a run wrote: its table, then where everything is."""
    print(written["table"], end="\n\n")
    for kind in ("json", "markdown", "picture"):
        if kind in written:
            print(written[kind])
    return 0


def _variants(args):
    from .lab import variants

    with files.alone(args.out, "out_dir"):
        return _show(variants.run(args.out))


def _bench(args):
    from .lab.bench import bench

    only = None if args.only is None else [name.strip() for name in args.only.split(",")]
    written = bench(args.out, command_line.checked_device(args.device), only, args.quick)
    print(written["table"], "", written["json"], sep="\n")
    return 0


def _check(args):
    from .boundary import integer
    from .conformance import check, load

    cases = integer("--cases", args.cases, 1)
    implementations = [load(name) for name in args.implementation]
    reports = []
    for implementation in implementations:
        reports.append(
            check(implementation, cases, progress=_dot, required=list(filter(None, args.require.split(","))))
        )
        _dot(None)
        print(reports[-1].table(), end="\n\n")
    _write_json(args.json, [report.as_dict() for report in reports])
    return 0 if all(report.ok for report in reports) else 1


def _template(args):
    from importlib import resources

    print((resources.files("oeu_ref.conformance") / "template.py").read_text(encoding="utf-8"), end="")
    return 0


def _vectors(args):
    from .conformance.vectors import write_vectors

    for path in write_vectors(args.out_dir):
        print(path)
    return 0


def _check_vectors(args):
    from .conformance.vectors import check_results

    report = check_results(args.results_dir)
    print(report.table())
    _write_json(args.json, report.as_dict())
    return 0 if report.ok else 1


def _dot(result):
    """Progress on stderr, where it is a terminal: a mark for each law, wiped at the end."""
    if sys.stderr.isatty():
        mark = "\r\033[K" if result is None else {"holds": ".", "fails": "F"}.get(result.status, result.status[0])
        print(mark, end="", file=sys.stderr, flush=True)


def _write_json(path, content):
    if path is not None:
        from .files import write_json

        write_json(path, content)
        print(path)


if __name__ == "__main__":
    sys.exit(main())
