"""One's own network and data: what data may be, and the verdict."""

import copy
import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import oeu_ref
from oeu_ref import evaluate
from oeu_ref.bench import peers
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab import measures
from oeu_ref.lab.training import build
from oeu_ref.own import evaluation, sources
from oeu_ref.reference import metrics
from oeu_ref.report.report import tug_of_war

from . import test_layout


def network(seed=0):
    """A classifier of 3 features into 4 classes, far from uniform."""
    return build(lambda: nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)), seed)


def drawn(count, name, labels=(0, 1, 2, 3)):
    """Samples of random inputs, labels in turn."""
    inputs = torch.randn(count, 3, generator=stream(0, name))
    return Samples(inputs, torch.tensor(labels)[torch.arange(count) % len(labels)])


SIZES = {"forget": 20, "retain": 60, "test": 30, "unseen": 24}
PARTS = {name: drawn(count, name) for name, count in SIZES.items()}


class Streamed(IterableDataset):
    """A data set without a length."""

    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return zip(self.samples.inputs, self.samples.labels)


FORMS = {
    "Samples": lambda s: s,
    "pair": lambda s: (s.inputs, s.labels),
    "arrays": lambda s: [s.inputs.numpy(), s.labels.numpy().astype(np.int32)],
    "data set": lambda s: TensorDataset(s.inputs, s.labels),
    "data set without a length": Streamed,
    "loader": lambda s: DataLoader(TensorDataset(s.inputs, s.labels), batch_size=7),
    "list of batches": lambda s: [(s.inputs[:9], s.labels[:9]), s[torch.arange(9, len(s))]],
    "generator": lambda s: iter([(s.inputs[:9], s.labels[:9]), (s.inputs[9:], s.labels[9:])]),
}


def in_form(form):
    return {name: FORMS[form](samples) for name, samples in PARTS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_is_the_tables_measure_whatever_form_data_has(form):
    """FA, RA, TA, MIA, AUC of a network are those of a table, and AG is the gap to Retrain's."""
    model, retrain = network(0), network(1)
    found = evaluate(model, **in_form(form), retrain=retrain, seed=3)
    splits = dataclasses.make_dataclass("Splits", [*SIZES, "test_of_forgotten"])(**PARTS, test_of_forgotten=None)
    expected, theirs = (measures.measure(measures.outputs(m, splits), 3)["metrics"] for m in (model, retrain))
    assert found.metrics == expected and found.retrain == theirs
    assert found.AG == metrics.average_gap(expected, theirs) > 0
    assert found.samples == SIZES and found.attack == "support vector classifier on confidence (SalUn)"


def test_evaluate_changes_nothing():
    """Weights, statistics, modes and the global generator are as before."""
    model = network()
    model[1].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    evaluate(model, **in_form("data set"), before=network(1))
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_without_retrain_the_proxy_and_its_targets_are_shown():
    """The proxy gap is the search's own, its targets are what the network before shows of unseen samples."""
    model, before = network(0), network(1)
    found = evaluate(model, **PARTS, before=before)
    near, target = (
        measures.proxy({"validation": found["unseen"], **found}, 0)
        for found in (evaluation.outputs(m, PARTS) for m in (model, before))
    )
    assert found.proxy == near and found.proxy_gap == measures.proxy_average_gap(near, target) > 0
    assert found.proxy_targets["FA"] == target["VA"] and found.proxy_targets["MIA"] == target["MIA_unseen"]
    assert np.mean([abs(near[k] - t) for k, t in found.proxy_targets.items()]) == pytest.approx(found.proxy_gap)
    assert "proxy AG" in str(found) and f"{target['VA']:.1f}" in str(found)
    # what was measured of the network before does as well as the network
    for known in (evaluate(before, **PARTS), evaluate(before, **PARTS).proxy):
        assert evaluate(model, **PARTS, before=known) == found


def test_a_network_compared_with_itself_has_no_gap():
    """AG 0, ToW 1, no divergence, full agreement; the control, another network, has all of them otherwise."""
    same, other = (evaluate(network(), **PARTS, retrain=network(seed)) for seed in (0, 1))
    assert (same.AG, same.ToW, same.agreement["test"]) == (0, 1, 100) and same.divergence["forget"] < 1e-15
    assert other.AG > 1 and other.ToW < 0.99 and other.agreement["test"] < 90 and other.divergence["forget"] > 0.01


def test_divergence_and_tug_of_war_by_hand():
    """JS of two certain, different predictions is log 2; of a half-half one less; ToW multiplies."""
    sure, other, half = (np.array([row]) for row in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]))
    assert evaluation.jensen_shannon(sure, other) == pytest.approx(math.log(2))
    by_hand = (math.log(4 / 3) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert evaluation.jensen_shannon(sure, half) == pytest.approx(by_hand)
    values = {"FA": 60.0, "RA": 90.0, "TA": 80.0}
    assert tug_of_war(values, {"FA": 50.0, "RA": 100.0, "TA": 80.0}) / 100 == pytest.approx(0.9 * 0.9)


def test_classes_that_are_forgotten_whole_are_told_apart():
    """A class with forget samples and no retain sample has accuracies of its own; TA is that of the others."""
    parts = {**PARTS, "forget": drawn(20, "forget", (2, 3)), "retain": drawn(60, "retain", (0, 1, 2))}
    model = network()
    found = evaluate(model, **parts)
    assert list(found.per_class) == [3]
    for name, part in (("FA", "forget"), ("TA", "test")):
        p, labels = evaluation.outputs(model, {**PARTS, part: parts[part]})[part]
        assert found.per_class[3][name] == metrics.accuracy(p[labels == 3], labels[labels == 3])
        assert found.per_class[3][part] == (labels == 3).sum() > 0
    assert found.metrics["TA"] == metrics.accuracy(p[labels != 3], labels[labels != 3])
    assert found.metrics["TA_forgotten"] == found.per_class[3]["TA"]
    assert "class 3" in str(found) and evaluate(model, **PARTS).per_class == {}


def test_an_evaluation_is_a_table_and_json():
    """The table names the attack and says what AG needs where there is none; JSON holds every field."""
    found = evaluate(network(), **PARTS)
    assert "AG: needs retrain=" in str(found) and found.attack in str(found)
    assert json.loads(found.to_json()) == json.loads(json.dumps(dataclasses.asdict(found)))
    assert "AG: needs" not in str(evaluate(network(), **PARTS, retrain=network(1)))


NOT_FINITE = copy.deepcopy(network())
NOT_FINITE[0].weight.data.fill_(math.nan)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"model": None}, TypeError, "model must be a torch.nn.Module, got NoneType"),
        ({"model": NOT_FINITE}, NonFiniteError, "logits must be finite"),
        ({"retrain": "net.pt"}, TypeError, "retrain must be a torch.nn.Module, got str"),
        ({"forget": 3}, TypeError, "forget must be Samples, a pair (inputs, labels), a Dataset, a DataLoader"),
        ({"forget": "loader"}, TypeError, "forget must be Samples, a pair"),
        ({"forget": PARTS["forget"].inputs}, TypeError, "forget must come with labels"),
        ({"retain": []}, ValueError, "retain must hold at least one sample, got none"),
        (
            {"test": [("a", "b")]},
            TypeError,
            "test must give batches (inputs, labels) of tensors, got tuple of str, str",
        ),
        ({"test": (torch.ones(2, 3), torch.ones(2))}, TypeError, "the labels of test must be integers"),
        ({"test": (torch.ones(2, 3), torch.ones(3).long())}, ValueError, "test: labels must have shape (2,)"),
        (
            {"test": [[0] * 9]},
            TypeError,
            "test must give batches (inputs, labels) of tensors, got list of int, int, int, int, …",
        ),
        ({"test": list(zip(*dataclasses.astuple(PARTS["test"])))}, ValueError, "test must give batches, got a single"),
        (
            {"test": (torch.ones(2, 3).double(), torch.tensor([0, 1]))},
            ValueError,
            "test must hold inputs that the model takes, got torch.float64 of shape (2, 3): mat1 and mat2",
        ),
        (
            {"retain": (torch.ones(2, 5), torch.tensor([0, 1]))},
            ValueError,
            "retain must hold inputs that the model takes, got torch.float32 of shape (2, 5): mat1 and mat2",
        ),
        (
            {"model": nn.Sequential(network(), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1))},
            ValueError,
            "a row for each of",
        ),
        ({"retrain": nn.Linear(3, 5)}, ValueError, "retrain must have as many outputs as model, 4, got 5"),
        ({"test": (torch.ones(2, 3), torch.tensor([0, 4]))}, ValueError, "test must have labels in [0, 4)"),
        ({"unseen": (torch.ones(1, 3), torch.tensor([0]))}, ValueError, "unseen must hold at least two samples"),
        (
            {"retain": drawn(9, "x", (0, 1)), "test": drawn(9, "x", (2, 3))},
            ValueError,
            "test must hold samples of classes",
        ),
        ({"before": 3}, TypeError, "before must be the network before unlearning"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_evaluate_names_what_is_wrong(bad, error, words):
    with pytest.raises(error) as caught:
        evaluate(**{"model": network(), **PARTS, **bad})
    assert type(caught.value) is error and words in str(caught.value)


def test_what_is_not_the_datas_fault_keeps_its_name():
    """Memory that runs out and a label of another kind are no inputs that the model does not take."""

    class Full(nn.Module):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match="^no memory"):
        evaluate(Full(), **PARTS)


def test_the_package_offers_its_names_without_loading_pytorch():
    """`import oeu_ref` loads no third-party package; each public name is there when asked for, and no other."""
    program = "import sys, oeu_ref; print(sorted({'torch', 'numpy', 'sklearn'} & set(sys.modules)), dir(oeu_ref))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("[]") and all(repr(name) in shown for name in oeu_ref.PUBLIC)
    for name, place in oeu_ref.PUBLIC.items():
        value = getattr(oeu_ref, name)
        assert value.__name__ == name and value.__module__.startswith(f"oeu_ref.{place.partition('.')[0]}")
    with pytest.raises(AttributeError, match="no attribute 'OEY'"):
        _ = oeu_ref.OEY


def test_some_samples_are_spread_over_tensors_and_the_first_of_what_comes_in_batches():
    device = torch.device("cpu")
    samples = Samples(torch.arange(10.0)[:, None], torch.arange(10))
    assert sources.some("x", samples, device, 3).labels.tolist() == [0, 4, 8]
    assert sources.some("x", samples, device, 99).labels.tolist() == list(range(10))
    loader = DataLoader(TensorDataset(samples.inputs, samples.labels), batch_size=4)
    assert sources.some("x", loader, device, 6).labels.tolist() == list(range(6))
    assert (sources.some("x", [samples.inputs], device, 6).labels == sources.UNKNOWN).all()


@pytest.mark.parametrize("other", [torch.ones(4, 5), torch.ones(4, 3, 2)], ids=["another length", "another rank"])
def test_batches_of_samples_of_several_shapes_are_refused_by_name_where_they_are_joined(other):
    """Texts that are padded batch by batch, or labels one-hot in floats, which are taken for a batch of inputs."""
    with pytest.raises(
        ValueError, match=r"^retain must give inputs of one shape in all batches, got .*\(3,\) and \(\d, *\d?"
    ):
        sources.some("retain", [torch.ones(4, 3), other], "cpu", 100)


def test_the_package_needs_what_a_checkout_does():
    """What pyproject.toml lists, with the extras of tests and notebooks, is requirements.txt; running wants none."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    root = pathlib.Path(oeu_ref.__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["tests"], *extras["notebooks"]]
    assert sorted(listed) == sorted(line.split()[0] for line in lines if line and line[0] != "#")
    imported = set()
    for path in (root / "oeu_ref").rglob("*.py"):
        imported |= {name.partition(".")[0] for name in test_layout.imported(path)}
    installed = {"scikit-learn": "sklearn"}
    wanted = {installed.get(name, name) for name in (line.partition(">")[0] for line in project["dependencies"])}
    optional = {"jax", "PIL", "scipy"}  # for whoever has a function of it; what we need brings the others
    optional |= {*peers.QUANTIZERS, *peers.STEPS}  # beside which the bench puts ours, if they are there
    assert imported - set(sys.stdlib_module_names) - {"oeu_ref"} - optional == wanted
