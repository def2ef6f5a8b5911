"""Bad input to the command line: each command must end with exit code 2 and one line."""

from .row import Refusal, Row, command


def _options(kind):
    """What every image command needs to be quick, and to touch nothing but the world."""
    return ["--preset", "cpu", "--dataset", "tiny", "--device", "cpu", "--jobs", "1"]


def _image(name, *given):
    """A row's call: an image command on the world's data, with the options that are given."""

    def call(w):
        argv = [name, *_options(name), "--data-root", w.files, "--cache-dir", w.cache, "--out", w.files / "out"]
        argv += ["--train-size", 30, "--validation-size", 10, "--test-size", 10]
        command(w, *argv, *(word(w) if callable(word) else word for word in given))

    return call


def _plain(*argv):
    return lambda w: command(w, *(word(w) if callable(word) else word for word in argv))


def _file(name):
    return lambda w: w.files / name


IMAGES = [
    # options, argument, kind, value, remedy: the same for all image commands
    (["--seeds", "one"], "--seeds", "text", "'one'", "whole numbers separated by commas"),
    (["--seeds", "1,1"], "--seeds", "twice", "[1, 1]", "each different"),
    (["--seeds", "-1"], "--seeds", "negative", "-1", "at least 0"),
    (["--dataset", "nowhere"], "--data-root", "no such data", "nowhere", "--data-root"),
    (["--dataset", "truncated"], "truncated.npz", "truncated data", "cannot be read", "an .npz file"),
    (["--dataset", "declared"], "declared.npz", "declares 10^15 bytes", "cannot be read", "an .npz file"),
    (["--dataset", "../tiny"], "--dataset", "a path for data", "'../tiny'", "a word"),
    (["--forget-ratio", "2"], "--forget-ratio", "above 1", "2", "[0, 1]"),
    (["--forget-ratio", "nan"], "--forget-ratio", "NaN", "nan", "[0, 1]"),
    (["--forget-classes", "9"], "classes", "absent", "9", "classes of the training samples"),
    (["--forget-classes", "a"], "--forget-classes", "text", "'a'", "names or numbers of classes"),
    (["--forget-file", _file("indices.txt")], "--forget-file", "out of range", "'99999'", "0 to 59"),
    (["--forget-file", _file("words.txt")], "--forget-file", "words", "'one'", "indices of training images"),
    (["--forget-file", _file("empty.txt")], "--forget-file", "empty", "'none'", "indices of training images"),
    (["--forget-file", _file("binary.txt")], "--forget-file", "binary", "utf-8", "a text file"),
    (["--forget-file", _file("folder")], "--forget-file", "a folder", "Is a directory", "a text file"),
    (["--forget-file", _file("nowhere")], "--forget-file", "absent", "No such file", "a text file"),
    (["--forget-file", _file("all.txt")], "--forget-file", "all images", "names 60", "to keep"),
    (["--train-size", "1000000000000"], "--train-size", "huge", "1000000000000", "at most 60"),
    (["--test-size", "1000000000000"], "--test-size", "huge", "1000000000000", "at most 20"),
    (["--validation-size", "60"], "--validation-size", "all of them", "60", "at most 60"),
    (["--arch", "vgg"], "--arch", "word", "'vgg'", "'resnet18', 'mobilenet_v2'"),
    (["--width", "0"], "--width", "zero", "0", "at least 1"),
    (["--stem-stride", "5"], "--stem-stride", "five", "5", "[1, 2]"),
    (["--epochs", "0"], "--epochs", "zero", "0", "at least 1"),
    (["--precision", "float16"], "--precision", "word", "'float16'", "'float32', 'bfloat16'"),
    (["--device", "tpu9"], "--device", "word", "'tpu9'", "such as cpu"),
    (["--jobs", "0"], "--jobs", "zero", "0", "at least 1"),
    (["--out", _file("notes.txt")], "--out", "a file", "notes.txt", "a directory"),
    (["--image-size", "0"], "--image-size", "zero", "0", "at least 1"),
]
ONE_EACH = [
    ("table", ["--methods", "oeu,bad_teacher"], "--methods", "unknown", "'bad_teacher'", "'salun'"),
    ("table", ["--rules", "best"], "--rules", "unknown", "'best'", "'true', 'proxy'"),
    ("table", ["--settings", _file("nowhere.json")], "path", "absent settings", "nowhere.json", "can be read"),
    ("table", ["--settings", _file("broken.json")], "path", "truncated settings", "broken.json", "a JSON file"),
    ("table", ["--settings", _file("settings-empty.json")], "settings", "empty", "lacks", "a tuning.json"),
    ("table", ["--settings", _file("settings-list.json")], "settings", "a list", "list", "a tuning.json"),
    ("table", ["--settings", _file("settings-best.json")], "settings", "half", "learning_rate", "a tuning.json"),
    ("table", ["--bits", "9"], "--bits", "nine", "9", "1 to 8, or 32"),
    ("table", ["--activation-bits", "x"], "--activation-bits", "word", "'x'", "'binary', 'ternary'"),
    ("ablation", ["--weight-bits", "0"], "--weight-bits", "zero", "0", "1 to 8, or 32"),
    ("sweep", ["--alpha", "0,2"], "--alpha", "two", "2", "[0, 1]"),
    ("sweep", ["--alpha", "half"], "--alpha", "text", "'half'", "numbers separated by commas"),
    ("sweep", ["--alpha", "nan"], "--alpha", "NaN", "nan", "[0, 1]"),
    ("bits", ["--widths", "4,9"], "--widths", "nine", "9", "1 to 8, or 32"),
    ("bits", ["--methods", "bad_teacher"], "--methods", "unknown", "'bad_teacher'", "'salun'"),
    ("tune", ["--widen", "-1"], "--widen", "negative", "-1", "at least 0"),
    ("tune", ["--methods", "bad_teacher"], "--methods", "unknown", "'bad_teacher'", "'salun'"),
    ("replicate", ["--earlier", _file("nowhere.json")], "path", "absent result", "nowhere.json", "can be read"),
    ("replicate", ["--earlier", _file("broken.json")], "path", "truncated result", "broken.json", "a JSON file"),
    ("replicate", ["--earlier", _file("list.json")], "list.json", "a list", "got a list", "`replicate`"),
    ("replicate", ["--earlier", _file("settings-empty.json")], "empty.json", "empty", "lacks", "`replicate`"),
    ("run", ["--method", "bad_teacher"], "--method", "unknown", "'bad_teacher'", "'salun'"),
    ("run", ["--method", "oeu", "--steps", "5"], "--steps", "alone", "none of them", "together"),
    (
        "run",
        ["--method", "oeu", "--learning-rate", "0", "--weight", "1", "--steps", "5"],
        "--learning-rate",
        "zero",
        "0",
        "greater than 0",
    ),
    (
        "run",
        ["--method", "oeu", "--learning-rate", "1", "--weight", "1", "--steps", "0"],
        "--steps",
        "zero",
        "0",
        "at least 1",
    ),
]
OTHERS = [
    (["demo", "--seeds", "a"], "--seeds", "text", "'a'", "whole numbers separated by commas"),
    (["demo", "--seeds", "1,1"], "--seeds", "twice", "[1, 1]", "each different"),
    (["demo", "--out", _file("notes.txt")], "--out", "a file", "notes.txt", "a directory"),
    (["variants", "--out", _file("notes.txt")], "--out", "a file", "notes.txt", "a directory"),
    (["bench", "--only", "everything"], "--only", "unknown", "'everything'", "'step'"),
    (["bench", "--device", "tpu9"], "--device", "word", "'tpu9'", "such as cpu"),
    (["check", "no.such.module"], "no.such.module", "no module", "No module", "package.module"),
    (["check", _file("syntax.py")], "syntax.py", "bad syntax", "SyntaxError", "path/to/file.py"),
    (["check", _file("leaving.py")], "leaving.py", "exits", "SystemExit", "path/to/file.py"),
    (["check", _file("nothing.py")], "nothing.py", "nothing to check", "found none", "template"),
    (["check", "oeu_ref.reference", "--cases", "0"], "--cases", "zero", "0", "at least 1"),
    (["vectors", _file("notes.txt")], "OUT_DIR", "a file", "notes.txt", "a directory"),
    (["check-vectors", _file("nowhere")], "RESULTS_DIR", "absent", "nowhere", "a folder with answers"),
    (["check-vectors", _file("folder")], "RESULTS_DIR", "without answers", "folder", "project.json"),
    (["report", _file("nowhere")], "OUT_DIR", "absent", "nowhere", "a folder with one of"),
    (["report", _file("listed")], "table.json", "a list", "got a list", "table"),
    (["report", _file("lost")], "original.json", "a missing cell", "No such file", "can be read"),
]
COMMANDS = [
    *(
        Row(f"{name}, the command", argument, kind, _image(name, *given), Refusal, value, remedy)
        for name in ("table",)
        for given, argument, kind, value, remedy in IMAGES
    ),
    *(
        Row(f"{name}, the command", argument, kind, _image(name, *given), Refusal, value, remedy)
        for name, given, argument, kind, value, remedy in ONE_EACH
    ),
    *(
        Row(f"{argv[0]}, the command", argument, kind, _plain(*argv), Refusal, value, remedy)
        for argv, argument, kind, value, remedy in OTHERS
    ),
]
