"""The house rules that a reader relies on: who imports whom, twin files, docstrings."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import oeu_ref

PACKAGE = pathlib.Path(oeu_ref.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# what each room may import of the package; a file of the top counts as a room
BELOW = {
    "arrays": (),
    "boundary": ("arrays",),
    "files": (),
    "locks": ("boundary",),
    "reference": ("boundary",),
    "passes": ("arrays", "boundary"),
    "tensors": ("arrays", "boundary", "reference"),
    "core": ("arrays", "boundary", "reference", "passes", "tensors"),
    "distributed": ("passes", "core"),
    "contract": ("boundary",),
    "vectors": ("boundary", "files", "contract", "reference"),
    "observe": ("boundary",),
    "judging": ("boundary", "contract", "reference"),
    "optional": ("contract", "reference", "observe", "judging"),
    "conformance": ("boundary", "files", "contract", "reference", "vectors", "judging", "optional"),
    "beyond": ("arrays", "boundary", "files", "reference", "passes", "tensors", "core", "distributed"),
    "integer": ("boundary", "files", "reference", "core"),
    "data": ("boundary", "files", "locks"),
    "methods": ("arrays", "boundary", "passes", "core", "distributed", "data"),
    "report": ("boundary", "files", "reference", "methods"),
    "lab": (
        *("boundary", "files", "locks", "reference", "passes", "core", "distributed", "integer", "data", "methods"),
        "report",
    ),
    "studies": (
        *("boundary", "reference", "passes", "core", "distributed", "beyond", "integer", "data", "methods", "report"),
        *("lab", "own"),
    ),
    "audit": ("reference", "passes", "core", "data", "methods", "report", "lab"),
    "own": ("arrays", "boundary", "files", "reference", "core", "distributed", "data", "report", "lab"),
    "commands": (
        *("boundary", "files", "locks", "core", "distributed", "data", "methods", "report", "lab", "own", "studies"),
        "audit",
    ),
    "bench": ("boundary", "locks", "reference", "tensors", "core", "data", "methods", "report", "lab"),
    "__main__": ("boundary", "files", "locks", "vectors", "conformance", "lab", "bench", "commands"),
    "__init__": (),
}
THIRD_PARTY = {
    **{"arrays": (), "boundary": (), "contract": (), "files": (), "locks": ("filelock",), "reference": ("numpy",)},
    **{"passes": ("torch",), "tensors": ("torch",), "distributed": ("torch",), "__main__": ()},
}


# Lines that a room may have. A capability comes in by making another part smaller, or by a room of its own: a number
# here may fall, and rises for the contract or the paper alone.
CEILINGS = {
    "arrays": 171,
    "boundary": 276,
    "files": 66,
    "locks": 56,
    "reference": 847,
    "passes": 266,
    "tensors": 207,
    "core": 1284,
    "distributed": 252,
    "contract": 64,
    "vectors": 794,
    "observe": 441,
    "judging": 914,
    "optional": 492,
    "conformance": 2041,
    "beyond": 1129,
    "integer": 1295,
    "data": 1084,
    "methods": 908,
    "report": 958,
    "lab": 3325,
    "bench": 688,  # rose for the code of other people beside ours
    "studies": 3264,
    "audit": 1348,
    "commands": 938,
    "own": 1198,
    "__main__": 277,
    "__init__": 30,
}
DOOR = 7000  # bytes of README.md


def imported(path):
    """Absolute dotted names of what a file imports, wherever in the file."""
    names, package = [], ("oeu_ref", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            names += [".".join(filter(None, [*above, node.module, alias.name])) for alias in node.names]
    return names


def room(path):
    """The room that a file of the package lies in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    """Each room imports only what lies below it, and the lowest ones no other package than they say."""
    mine = room(path)
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "oeu_ref":
            target = rest.partition(".")[0]
            assert target in (mine, "__version__", *BELOW[mine]), f"{path.name} imports {name}"
        elif mine in THIRD_PARTY and top not in sys.stdlib_module_names:
            assert top in THIRD_PARTY[mine], f"{path.name} imports {name}"


def modules_named_in(path):
    """{name in a file: our module that it stands for}, wherever in the file it is imported."""
    found = {}
    for name in imported(path):
        if name.startswith("oeu_ref.") and exists(name):
            found[name.rpartition(".")[2]] = importlib.import_module(name)
    return found


def exists(name):
    """Whether a dotted name is a module of ours, and no function or class."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_file_reads_off_our_modules_is_there(path):
    """`boundary.number` and the like exist, also in a branch that no other test enters."""
    modules = modules_named_in(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            assert hasattr(module, node.attr), f"{path.name}:{node.lineno} reads {module.__name__}.{node.attr}"


def test_no_room_is_larger_than_its_ceiling():
    """Lines of Python in each room, and the README, which is a door; each room and file of the top has a ceiling."""
    lines = dict.fromkeys({room(path) for path in FILES}, 0)
    for path in FILES:
        lines[room(path)] += len(path.read_text(encoding="utf-8").splitlines())
    assert {name: count for name, count in lines.items() if count > CEILINGS.get(name, 0)} == {}
    assert (PACKAGE.parent / "README.md").stat().st_size <= DOOR


def test_the_reference_works_without_torch():
    """`import oeu_ref.reference.network` loads no third-party package but NumPy, in a fresh process."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import oeu_ref.reference.network, oeu_ref.reference.metrics\n"
        "tops = {name.split('.')[0] for name in sys.modules} & {'scipy', 'sklearn', 'hypothesis', 'tqdm'}\n"
        "print(sorted(tops))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "[]", result.stderr


TWINS = {name: (f"reference/{name}.py", f"core/{name}.py") for name in ("entropy", "quantizer", "projection")}
TWINS.update({name: (f"beyond/{name}_reference.py", f"beyond/{name}.py") for name in ("subspace", "curvature")})


@pytest.mark.parametrize("name", TWINS)
def test_twin_files_have_the_same_functions_in_the_same_order(name):
    """Functions that both twins define stand in the same order with the same argument names; the core lacks none of
    the reference's but those about plain vectors."""
    twins = {}
    for side, file in zip(("reference", "core"), TWINS[name]):
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
        twins[side] = {f.name: [a.arg for a in f.args.args] for f in functions}
    only_numpy = {"integer_range", "step_gradient_scale", "layer_numbers", "by_layer"}  # shared
    only_numpy |= {"project_vector", "unit", "norm"}
    # of plain numbers
    only_numpy |= {"loss_change", "largest_learning_rate"}
    assert set(twins["reference"]) - set(twins["core"]) <= only_numpy
    common = [f for f in twins["reference"] if f in twins["core"]]
    assert common == [f for f in twins["core"] if f in twins["reference"]]
    for function in common:
        mine, theirs = twins["reference"][function], twins["core"][function]
        assert theirs[: len(mine)] == mine, function  # the core may offer more options at the end


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path):
    """Modules, their public functions, classes and methods say what they are; overriding methods inherit it."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert module.__doc__
    for member, value in vars(module).items():
        if member.startswith("_") or getattr(value, "__module__", None) != name:
            continue
        assert inspect.getdoc(value), f"{member} in {name}"
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(function) and not method.startswith("_") and method != "forward":
                assert inspect.getdoc(getattr(value, method)), f"{member}.{method} in {name}"


# What a caller gets who says nothing: an argument has one default wherever it stands, but for those named with a place.
# The paper's where it is known (alpha, 4 bits), else the field's, as the docstrings say.
DEFAULTS = {
    **{
        "alpha": 1.0,
        "beta": 1.0,
        "granularity": "layer",
        "rescale": "undo",
        "layer": "module",
        "mode": "train",
        "share": None,
    },
    **{"normalization": "exact", "epsilon": 1e-8, "layer_ids": None, "norms": None, "forget_loss": None},
    **{"weight_bits": 4, "activation_bits": 4, "first_last_bits": 8, "batch_norm": False},
    **{"signed": True, "mask": "clip", "per_sample": False, "grad_scale": 1.0, "known": None},
    **{"momentum": 0.0, "weight_decay": 0.0, "velocity": None, "seed": 0},
    **{"batch_size": 1024, "recalibrate_batchnorm.batch_size": 256, "every": 1},
    **{"dtype": "float64", "device": "cpu", "angles": None, "overwrite": False, "small": 1 << 20},
    **{"check_finite": True, "training": False, "keep_graph": False, "given": None, "attack": "threshold_attack"},
}
DEFAULTS_OF_ROOMS_ABOVE = {
    "lab.training.TrainConfig": {
        **{"epochs": 50, "batch_size": 128, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    },
    "lab.training_reference.train": {
        **{"batch_size": 64, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "seed": 0},
    },
    "lab.training.UnlearnConfig": {
        **{"forget_batch": 128, "retain_batch": 128, "schedule": "constant", "recalibrated": False},
    },
    "methods.method.Settings": {"weight": 1.0, "momentum": 0.9, "weight_decay": 5e-4},
    "methods.baselines.SalUn": {"share": 0.5, "classes": "other"},
    "data.samples.digits": {"label_noise": 0.2, "forget_share": 0.1, "validation_size": 180, "test_size": 360},
    "lab.training.unlearn": {
        "stop": None,
        "on_step": None,
        "augment": None,
        "checkpoint": None,
        "save_every": 50,
        "order": None,
    },
    "lab.models.resnet18": {"width": 64, "stem_stride": 1},
    "lab.models.mobilenet_v2": {"width": 32, "stem_stride": 1},
    "lab.images.augment": {"padding": 4},
    "lab.attacks.SupportVectorAttack": {"seed": 0},
}


def defaults_of(function):
    """{argument: default, a function by its name} of a function, or of what makes an object of a class."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: getattr(p.default, "__name__", p.default) for p in parameters if p.default is not p.empty}


def test_defaults_are_the_documented_ones():
    """Of every public function and method of the reference, of the core, and of what lies below it."""
    from .test_bad_input import functions, modules

    used = set()
    for module in (*modules("reference"), *modules("core"), *modules("passes"), *modules("tensors")):
        for name, function in functions(module):
            for argument, default in defaults_of(function).items():
                place = f"{name}.{argument}"
                key = place if place in DEFAULTS else argument
                assert (default, type(default)) == (DEFAULTS[key], type(DEFAULTS[key])), f"{place} of {module.__name__}"
                used.add(key)
    assert used == set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS_OF_ROOMS_ABOVE)
def test_defaults_of_the_rooms_above_are_the_documented_ones(name):
    """Of what the README's figures, and those of others, were made with."""
    file, _, function = name.rpartition(".")
    assert defaults_of(getattr(importlib.import_module(f"oeu_ref.{file}"), function)) == DEFAULTS_OF_ROOMS_ABOVE[name]


def test_a_plain_experiment_is_the_documented_one():
    """Data, network and schedule of the table's setup, as `Setup` says them."""
    from oeu_ref.lab.options import Setup

    expected = {
        **{"dataset": "cifar10", "forget_ratio": 0.1, "validation_size": 5000, "arch": "resnet18", "stem_stride": 1},
        **{"weight_bits": 4, "activation_bits": 4, "first_last_bits": 8, "epochs": 30, "batch_size": 128},
        **{"learning_rate": 0.1, "weight_decay": 5e-4, "augmented": True, "forget_batch": 128, "retain_batch": 128},
        **{"schedule": "constant", "recalibrated": False, "precision": "float32", "compiled": False},
    }
    assert {name: value for name, value in dataclasses.asdict(Setup()).items() if value is not None} == expected


def test_every_law_is_one_sentence_with_a_hint():
    """Each law has a docstring that states it, a theorem or source, and a hint at the usual cause of a failure."""
    from oeu_ref.conformance import LAWS

    assert len(LAWS) > 60 and len({law.name for law in LAWS}) == len(LAWS)
    for law in LAWS:
        assert law.statement.endswith(".") and law.hint and law.theorem and law.needs, law.name
        assert list(inspect.signature(law.check).parameters)[0] == "implementation"
    assert {"4.1", "4.2", "4.3", "4.4"} <= {law.theorem for law in LAWS}
