"""The same seed gives the same bits, whatever the process; every random number comes from a place that is listed."""

import ast
import pathlib
import re

import pytest
import torch

import oeu_ref
from oeu_ref.data import samples
from oeu_ref.data.samples import stream
from oeu_ref.lab import cells, jobs

from . import repeats, runs

PACKAGE = pathlib.Path(oeu_ref.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def test_a_table_repeats_in_another_process_and_with_more_threads(tmp_path):
    """Other hashes of strings, other addresses, four threads for one: the same JSON but for times, the same weights.

    PyTorch promises this for one number of threads alone, as sums are taken in another order with another; so runs on
    a CPU take one thread, whatever they are offered."""
    found = repeats.repeated(tmp_path, ("restart", "threads"))
    assert found["restart"] == [] and found["threads"] == []
    # the control: another seed reaches every file, the split, both models, the metrics and both methods
    files = {line.partition(":")[0] for line in found["another seed"]}
    assert {"split.json", "original.json", "original.pt", "retrain.json", "retrain.pt"} <= files
    assert {name for name in files if name.startswith("oeu_")} and {name for name in files if name.startswith("rl_")}


def test_a_demo_repeats_in_another_process_and_with_more_threads(tmp_path):
    assert repeats.repeated_demo(tmp_path) == []


def test_without_one_thread_the_bits_would_depend_on_the_threads():
    """The control of the two tests above: a sum, in four parts or in one."""
    x = torch.rand(1_000_000, generator=stream(0, "a sum"))
    before, sums = torch.get_num_threads(), set()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        sums.add((x.sum().item(), (x * x).sum().item(), x.norm().item()))
    torch.set_num_threads(before)
    assert len(sums) == 2


@pytest.mark.parametrize("kind", ["demo", "table"])
def test_no_global_generator_is_touched_by_a_run(tmp_path, kind):
    command = ["demo", "--quick", "--seeds", "1", "--out", str(tmp_path / "out")]
    if kind == "table":
        command = runs.table(runs.make_data(tmp_path / "data"), tmp_path / "out")
    assert repeats.global_generators_touched(command) == []


def test_a_touched_generator_is_seen(monkeypatch):
    """The control."""
    import random

    import numpy as np

    def draw(command):
        random.random(), np.random.rand(), torch.rand(1)

    monkeypatch.setattr(repeats, "main", draw)
    assert repeats.global_generators_touched([]) == ["random", "numpy.random", "torch"]


def test_streams_are_functions_of_seed_and_name_and_share_nothing():
    first = {}
    for seed in (*range(50), 2**32, 2**64):
        for name in ("a", "b", "aa", "ab", "split", "forget", "forget batches"):
            first[seed, name] = tuple(torch.randint(2**62, (2,), generator=stream(seed, name)).tolist())
    assert len(set(first.values())) == len(first)
    again = tuple(torch.randint(2**62, (2,), generator=stream(3, "ab")).tolist())
    assert again == first[3, "ab"]


# The list of random sources, and the source text


def names_of_streams(tree):
    """Names handed to `stream`, placeholders of f-strings as <>."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "stream":
            name = node.args[1]
            if isinstance(name, ast.JoinedStr):
                yield "".join("<>" if isinstance(part, ast.FormattedValue) else part.value for part in name.values)
            else:
                assert isinstance(name, ast.Constant), f"line {node.lineno}: a name that cannot be listed"
                yield name.value


def test_every_stream_is_in_the_list_and_the_list_has_no_other():
    listed = set(re.findall(r'"([^"]+)"', samples.__doc__))
    used = {name for tree in SOURCES.values() for name in names_of_streams(tree)}
    # "original weights" and "retrain batches" are among "<> weights" and "<> batches"
    exact = {name for name in used if not re.fullmatch(r"(original|retrain) (weights|batches)", name)}
    assert exact == listed


# generators that are made on the spot, and the one place that borrows the global one, each with its reason
GENERATORS = {
    "data/samples.py": "`stream` itself",
    "lab/training.py": "`build` borrows PyTorch's global generator, seeded, and puts it back",
    "lab/attacks.py": "the run's seed",
    "bench/": "fixed seeds: what is measured is time",
    "lab/export.py": "fixed: images on which two networks are compared",
    "own/sources.py": "not drawn from: a DataLoader that does not shuffle takes a number all the same",
    "audit/likelihood_ratio.py": "its argument seed: which blocks of models an interval draws",
    "audit/relearn_views.py": "fixed: which seeds an interval draws",
    "lab/training_reference.py": "its argument seed, in NumPy alone",
    "reference/network.py": "its argument seed; without torch there is no `stream`",
    "judging/cases.py": "cases of the laws, from Hypothesis' seeds",
    "optional/": "the same",
    "conformance/": "the same",
    "observe/networks.py": "the case's seed",
    "vectors/": "fixed seeds: the cases are the same for everybody",
}
MADE = re.compile(
    r"(np|numpy)\.random\.(default_rng|RandomState|Generator)|random\.Random|torch\.(Generator|manual_seed)"
)
GLOBAL = re.compile(
    r"(np|numpy)\.random\.(?!(default_rng|RandomState|Generator|SeedSequence|get_state|set_state)$)\w+"
    r"|random\.(?!(Random|getstate|setstate)$)\w+|torch\.seed|torch\.random\.seed"
)
NEEDS_GENERATOR = re.compile(
    r"torch\.(rand|randn|randint|randperm|bernoulli|multinomial|normal|rand_like|randn_like|poisson)"
    r"|.*\.(normal_|uniform_|random_|bernoulli_|exponential_|cauchy_|log_normal_|geometric_)"
)


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return getattr(node, "id", "")


def draws(tree):
    """(line, call, "made" or "global") for each call that makes a generator or draws from a global one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if MADE.fullmatch(name):
                yield node.lineno, name, "made"
            elif GLOBAL.fullmatch(name):
                yield node.lineno, name, "global"
            elif NEEDS_GENERATOR.fullmatch(name) and "generator" not in [word.arg for word in node.keywords]:
                yield node.lineno, name, "global"


@pytest.mark.parametrize("file", SOURCES)
def test_random_numbers_come_from_listed_places_alone(file):
    found = list(draws(SOURCES[file]))
    assert [draw for draw in found if draw[2] == "global"] == []
    assert file.startswith(tuple(GENERATORS)) or found == []


@pytest.mark.parametrize(
    "line, kind",
    [
        *(("np.random.rand(3)", "global"), ("random.shuffle(x)", "global"), ("torch.randn(3)", "global")),
        *(("np.random.seed(0)", "global"), ("x.normal_()", "global"), ("torch.randperm(4)", "global")),
        *(("np.random.default_rng()", "made"), ("torch.Generator()", "made"), ("torch.manual_seed(0)", "made")),
    ],
)
def test_the_search_finds_each_kind(line, kind):
    """The control of the test above."""
    assert [found for _, _, found in draws(ast.parse(line))] == [kind]


# CUDA


def flags():
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn, torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "device, word, expected",
    [
        ("cuda", "warn", (True, True, False)),
        ("cuda:1", "error", (True, False, False)),
        ("cuda", "off", (False, False, True)),
        ("cpu", "error", (False, False, True)),
    ],
)
def test_determinism_is_asked_for_on_cuda_and_taken_back(monkeypatch, device, word, expected):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with jobs.deterministic(device, word):
        assert flags() == expected
    assert flags() == (False, False, True)
    with pytest.raises(KeyError), jobs.deterministic(device, word):
        raise KeyError
    assert flags() == (False, False, True)


def test_an_operation_without_a_deterministic_variant_is_an_error_where_it_is_asked_for(monkeypatch):
    """Seen on a CPU, where PyTorch has such operations too."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x, at = torch.zeros(3), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="determinism must be 'warn' or 'off' for this experiment: put_"):
        with jobs.deterministic("cuda", "error"):
            x.put_(at, torch.ones(2))
    with pytest.warns(UserWarning, match="put_"), jobs.deterministic("cuda", "warn"):
        x.put_(at, torch.ones(2))
    with pytest.raises(RuntimeError, match="something else"), jobs.deterministic("cuda", "error"):
        raise RuntimeError("something else")
    with pytest.raises(ValueError, match="determinism must be one of 'warn', 'error', 'off', got 'yes'"):
        with jobs.deterministic("cpu", "yes"):
            pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_operation_of_a_table_lacks_a_deterministic_variant_on_cuda(tmp_path):
    """Under "error" a table runs to its end."""
    from ..test_experiments import SETTINGS, TINY

    source = {"data_root": str(runs.make_data(tmp_path / "data")), "cache_dir": None, "download": False}
    wanted = [cells.Cell(1, name, SETTINGS, 3) for name in ("oeu", "ft", "ga", "rl", "salun", "qmul", "l1")]
    jobs.run_cells(cells.Runner(tmp_path, source, "cuda", progress=False, determinism="error"), TINY, wanted)
