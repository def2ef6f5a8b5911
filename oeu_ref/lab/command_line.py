"""The commands of the image experiments. PyTorch is imported when a command runs, so that --help is instant."""

import contextlib
import os
import pathlib

# the words that --help lists; they are the keys of TABLES, PRESETS and METHODS in `experiment.py`, and
# `schedule.DETERMINISM`
TABLE_NAMES = ("cifar10-10", "cifar100-30", "svhn-10", "tinyimagenet-10")
PRESET_NAMES = ("full", "cpu")
DETERMINISM = ("warn", "error", "off")
METHOD_NAMES = (
    "oeu",
    "ft",
    "ga",
    "rl",
    "salun",
    "qmul",
    "l1",
    "oeu_stop",
    "oeu_no_projection",
    "oeu_global",
    "oeu_random_labels",
)
RESTART = "Whatever stops it, the same command goes on where it was; what is finished is never made again."
HOW_LONG = "On four CPU cores `--preset cpu` takes ten minutes or so; full size wants a GPU."


def add_commands(commands):
    """Add run, table, ablation, sweep, bits, tune and report to argparse's subparsers."""
    table = commands.add_parser(
        "table",
        help="one of the paper's tables: original, Retrain and seven methods, on several seeds",
        description=f"Trains, retrains and unlearns on real images and compares all methods. {RESTART} {HOW_LONG}",
        epilog="example: python -m oeu_ref table cifar10-10 --preset cpu --data-root data",
    )
    _add_name(table)
    table.add_argument(
        "--methods", metavar="LIST", help="comma-separated, of: " + ", ".join(METHOD_NAMES) + " (default: the first 7)"
    )
    _add_all(table, _table, "table")

    ablation = commands.add_parser(
        "ablation",
        help="OEU without projection, with global projection, with random labels, with the stop rule",
        description=f"Compares OEU with itself without one of its parts. {RESTART}",
        epilog="example: python -m oeu_ref ablation cifar10-10 --preset cpu --data-root data",
    )
    _add_name(ablation)
    _add_all(ablation, _table, "ablation")

    sweep = commands.add_parser(
        "sweep",
        help="OEU with several values of alpha, the share of the retain direction that is removed",
        description=f"Runs a method with several values of alpha, all else being equal. {RESTART}",
        epilog="example: python -m oeu_ref sweep cifar10-10 --alpha 0,0.5,0.75,1 --preset cpu",
    )
    _add_name(sweep)
    sweep.add_argument(
        "--alpha",
        default="0,0.25,0.5,0.75,1",
        metavar="LIST",
        help="comma-separated numbers in [0, 1] (default: 0,0.25,0.5,0.75,1)",
    )
    _add_all(sweep, _sweep, "sweep")

    bits = commands.add_parser(
        "bits",
        help="a table at each of several bit widths, and one picture of them all",
        description="Makes the table of an experiment at several widths of weights and activations, in OUT/bits-WIDTH, "
        f"and bits.json, bits.md and bits.png in OUT. {RESTART}",
        epilog="example: python -m oeu_ref bits cifar10-10 --preset cpu --widths 2,4,8 --data-root data",
    )
    _add_name(bits)
    bits.add_argument(
        "--widths",
        default="2,4,8",
        metavar="LIST",
        help="comma-separated, each 1 to 8, ternary, binary or 32 for off (default: 2,4,8)",
    )
    bits.add_argument("--methods", default="oeu,qmul,rl", metavar="LIST", help="comma-separated (default: oeu,qmul,rl)")
    _add_all(bits, _bits, "bits")

    run = commands.add_parser(
        "run",
        help="one method, with the settings that the tables use or your own",
        description=f"Runs one method, with the original model and Retrain that it is measured against. {RESTART}",
        epilog="example: python -m oeu_ref run --method oeu --preset cpu --seeds 1 --learning-rate 0.03 --weight 0.3 "
        "--steps 40",
    )
    _add_name(run)
    run.add_argument("--method", required=True, metavar="METHOD", help="one of: retrain, " + ", ".join(METHOD_NAMES))
    run.add_argument("--learning-rate", type=float, metavar="X", help="of unlearning, > 0; with --weight and --steps")
    run.add_argument("--weight", type=float, metavar="X", help="of forgetting against retaining, >= 0 (OEU: beta)")
    run.add_argument("--steps", type=int, metavar="N", help="unlearning steps, >= 1")
    _add_all(run, _run, "run")

    tune = commands.add_parser(
        "tune",
        help="search every method's settings on one grid, by true AG and by a proxy that needs no Retrain",
        description="Tries the same learning rates, weights and steps with every method, on seeds that no table "
        "reports; writes OUT/tuning.json, which the other commands take as --settings. The grid is widened for all "
        f"where a method's best lies on an end. {RESTART} With --preset cpu an hour and a half on four cores.",
        epilog="example: python -m oeu_ref tune cifar10-10 --preset cpu --out results/tuning",
    )
    _add_name(tune)
    tune.add_argument("--methods", metavar="LIST", help="comma-separated methods (default: all)")
    tune.add_argument(
        "--widen", type=int, default=1, metavar="N", help="how often the grid may be widened (default: 1)"
    )
    _add_all(tune, _tune, "tune")

    report = commands.add_parser(
        "report",
        help="write tables (Markdown) and pictures of an output folder anew",
        description="Reads the documents and cells that table, ablation, sweep, run and tune left in a folder; writes "
        "report.md and pictures there. Nothing is computed anew.",
    )
    report.add_argument("out", metavar="OUT_DIR", help="the folder, as given to --out")
    report.set_defaults(run=_report)


def _add_name(command):
    command.add_argument(
        "name",
        nargs="?",
        default="cifar10-10",
        metavar="NAME",
        help=f"experiment, one of {', '.join(TABLE_NAMES)}: the data set and the percentage to forget "
        "(default: cifar10-10)",
    )


def _add_all(command, run, kind):
    command.set_defaults(run=run, kind=kind)
    files = command.add_argument_group("data and results")
    files.add_argument(
        "--data-root",
        default="data",
        metavar="DIR",
        help="searched for torchvision's own files, then NAME.npz (x_train, y_train, x_test, y_test), then an image "
        "folder NAME/train/CLASS/... (default: data)",
    )
    files.add_argument("--download", action="store_true", help="fetch the data set, if it is not there")
    files.add_argument("--cache-dir", metavar="DIR", help="where decoded data is kept (default: ~/.cache/oeu_ref/data)")
    files.add_argument(
        "--out",
        metavar="DIR",
        help="folder for results, made if it is missing (default: results/NAME-PRESET"
        + ("-bits)" if kind == "bits" else ")"),
    )
    size = command.add_argument_group("experiment (default: that of NAME and --preset)")
    size.add_argument(
        "--preset", choices=PRESET_NAMES, default="full", help="cpu: 10,000 images and a narrow network (default: full)"
    )
    size.add_argument("--dataset", metavar="WORD", help="another data set, one of your own too: the WORD of WORD.npz")
    size.add_argument("--image-size", type=int, metavar="PIXELS", help="scale an image folder's images to this side")
    default_seeds = "101,102" if kind == "tune" else "1,2,3, with --preset cpu 1,2,3,4,5"
    size.add_argument("--seeds", metavar="LIST", help=f"comma-separated (default: {default_seeds})")
    size.add_argument("--forget-ratio", type=float, metavar="SHARE", help="random share to forget, such as 0.1")
    size.add_argument(
        "--forget-classes", metavar="LIST", help="whole classes to forget instead, by name or number, such as cat,5"
    )
    size.add_argument("--forget-file", metavar="FILE", help="indices of training images to forget, one in each line")
    size.add_argument(
        "--forget-copies", action="store_true", help="forget exact copies of these images too, wherever they are"
    )
    size.add_argument("--train-size", type=int, metavar="N", help="training images, drawn at random")
    size.add_argument("--validation-size", type=int, metavar="N", help="images held out of the training images")
    size.add_argument("--test-size", type=int, metavar="N", help="test images, drawn at random")
    size.add_argument("--arch", metavar="NAME", help="resnet18 or mobilenet_v2")
    size.add_argument(
        "--width", type=int, metavar="N", help="channels of the first stage (resnet18: 64, mobilenet: 32)"
    )
    size.add_argument("--stem-stride", type=int, metavar="N", help="1, or 2 to halve the image at once")
    if kind == "bits":
        command.set_defaults(bits=None, weight_bits=None, activation_bits=None)  # --widths says them all
    else:
        widths = "1 to 8, ternary, binary, or 32 for off"
        size.add_argument("--bits", type=_width, metavar="N", help=f"of weights and activations: {widths}")
        size.add_argument("--weight-bits", type=_width, metavar="N", help="of weights alone")
        size.add_argument("--activation-bits", type=_width, metavar="N", help="of activations alone")
    size.add_argument("--epochs", type=int, metavar="N", help="of original and Retrain")
    how = command.add_argument_group("how")
    if kind != "tune":
        files.add_argument("--redo", action="store_true", help="make the wanted cells again, though they are finished")
        files.add_argument(
            "--keep-models",
            action="store_true",
            default=kind == "run",
            help="keep the unlearned models, for oeu_ref.lab.cells.load_model"
            + (" (here always)" if kind == "run" else ""),
        )
        how.add_argument(
            "--settings", metavar="FILE", help="a tuning.json (default: the one that comes with the package)"
        )
        rules = "true" if kind == "bits" else "true,proxy"
        how.add_argument("--rules", default=rules, metavar="LIST", help=f"settings by which rule (default: {rules})")
    how.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, ... (default: cuda where there is one)"
    )
    how.add_argument(
        "--jobs", type=int, metavar="N", help="processes side by side, a thread each (default: CPU cores, else 1)"
    )
    how.add_argument(
        "--precision", metavar="WORD", help="float32 or bfloat16 (default: bfloat16 on cuda, else float32)"
    )
    how.add_argument(
        "--deterministic",
        choices=DETERMINISM,
        default="warn",
        help="on cuda: warn of an operation that may not repeat its bits, end with an error, or off: whatever is "
        "fastest (default: warn; a CPU repeats them anyway)",
    )
    how.add_argument("--compile", action="store_true", help="try torch.compile; where it fails, a warning says so")


def _table(args):
    methods = _list("--methods", getattr(args, "methods", None))
    return _make(args, methods=methods)


def _sweep(args):
    from ..boundary import alpha

    alphas = [alpha(value) for value in _list("--alpha", args.alpha, float)]
    return _make(args, options=tuple((("alpha", value),) for value in dict.fromkeys(alphas)))


def _bits(args):
    from ..beyond import distributed
    from ..studies import bits
    from . import results

    with distributed.started(checked_device(args.device)) as device:
        experiment, runner = _common(args, device, distributed.size())
        written = bits.images(
            runner,
            experiment,
            _list("--widths", args.widths, _width),
            _list("--methods", args.methods),
            _seeds(args),
            _list("--rules", args.rules),
            settings=None if args.settings is None else results.read_json(args.settings),
            name=args.name if args.dataset is None else "",
            keep=args.keep_models,
        )
    if written is not None:
        _print((written["table"], [written["json"], written["markdown"], written["picture"]]))
    return 0


def _run(args):
    own = (args.learning_rate, args.weight, args.steps)
    if any(value is not None for value in own) and None in own:
        raise ValueError("--learning-rate, --weight and --steps must be given together, or none of them")
    settings = None
    if args.method == "retrain":
        return _make(args, methods=())
    if own[0] is not None:
        from ..boundary import integer
        from .baselines import Settings

        settings = {args.method: (Settings(own[0], own[1]), integer("--steps", own[2], 1))}
    return _make(args, methods=(args.method,), settings=settings)


def _make(args, methods=None, settings=None, **options):
    from ..beyond import distributed
    from . import report, results, tables

    with distributed.started(checked_device(args.device)) as device:
        experiment, runner = _common(args, device, distributed.size())
        if settings is None and args.settings is not None:
            settings = results.read_json(args.settings)
        tables.make(
            args.kind,
            runner,
            experiment,
            methods=tables.DEFAULT_METHODS[args.kind] if methods is None else methods,
            seeds=_seeds(args),
            rules=_list("--rules", args.rules),
            settings=settings,
            name=args.name if args.dataset is None else "",
            keep=args.keep_models,
            **options,
        )
        return _print(report.report(_out(args))) if distributed.rank() == 0 else 0


def _tune(args):
    from ..beyond import distributed
    from . import report, tuning

    with distributed.started(checked_device(args.device)) as device:
        experiment, runner = _common(args, device, distributed.size())
        seeds = {} if args.seeds is None else {"seeds": _seeds(args)}
        tuning.tune(runner, experiment, methods=_list("--methods", args.methods), widen=args.widen, **seeds)
        return _print(report.report(_out(args))) if distributed.rank() == 0 else 0


def _report(args):
    from .. import files
    from . import report

    # whoever makes cells in a folder leaves a lock there: without one there is nobody to wait for
    at_work = (pathlib.Path(args.out) / ".lock").exists()
    with files.alone(args.out) if at_work else contextlib.nullcontext():
        return _print(report.report(args.out))


def _print(written):
    text, paths = written
    print(text)
    for path in (*paths[1:], paths[0]):
        print(path)
    return 0


def _common(args, device, processes):
    """(`Experiment`, `Runner`) of a command; processes: that `torchrun` started, 1 without it."""
    from . import cells, tables

    bits = {"weight_bits": args.bits, "activation_bits": args.bits}
    bits.update({name: getattr(args, name) for name in bits if getattr(args, name) is not None})
    fields = ("dataset", "image_size", "forget_ratio", "forget_file", "train_size", "validation_size", "test_size")
    changes = {name: getattr(args, name) for name in (*fields, "arch", "width", "stem_stride", "epochs")}
    classes = _list("--forget-classes", args.forget_classes, _class)
    precision = args.precision or ("bfloat16" if device.startswith("cuda") else "float32")
    experiment = tables.experiment_named(
        args.name,
        args.preset,
        **changes,
        **bits,
        forget_classes=None if classes is None else tuple(classes),
        forget_copies=args.forget_copies,
        precision=precision,
        compiled=args.compile or None,
    )
    source = {"data_root": args.data_root, "cache_dir": args.cache_dir, "download": args.download}
    jobs = args.jobs
    if jobs is None:
        jobs = _cores() if device == "cpu" and processes == 1 else 1
    redo = getattr(args, "redo", False)
    return experiment, cells.Runner(_out(args), source, device, jobs, redo, determinism=args.deterministic)


def _cores():
    """CPU cores that this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _out(args):
    end = "-bits" if args.kind == "bits" else ""
    return pathlib.Path(args.out or f"results/{args.dataset or args.name}-{args.preset}{end}")


def _width(text):
    """A bit width as the experiments know it: a number or a word, which they check."""
    try:
        return int(text)
    except ValueError:
        return text


def checked_device(name):
    """What PyTorch calls the device; "auto": cuda where there is one, else cpu.  Raises ValueError for one that is not
    there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"--device must be a device of this machine, such as cpu, got {name!r}: {reason}") from None
    return str(device)


def _seeds(args):
    default = "1,2,3,4,5" if args.preset == "cpu" else "1,2,3"
    return _list("--seeds", args.seeds or default, int)


def _class(word):
    """A class's name or number: a number in other digits than its own, such as 02, can only be a name."""
    return int(word) if word.isdecimal() and word == str(int(word)) else word


def _list(option, text, kind=str):
    """A comma-separated list, None where the option was not given."""
    if text is None:
        return None
    try:
        return [kind(item.strip()) for item in text.split(",")]
    except ValueError:
        what = {int: "whole numbers", float: "numbers"}[kind]
        raise ValueError(f"{option} must be {what} separated by commas, got {text!r}") from None
