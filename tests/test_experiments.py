"""Image experiments on tiny images: splits, cells, restarts, tables, tuning, report, and the command line."""

import collections
import contextvars
import dataclasses
import json
import math
import pathlib
import re
import shutil
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.svm import SVC

from oeu_ref import files, locks
from oeu_ref.__main__ import main
from oeu_ref.bench import bench
from oeu_ref.data.image_sets import load_images
from oeu_ref.data.samples import stream
from oeu_ref.lab import cells, engine, jobs, measures, models, options, tables, tuning
from oeu_ref.lab.cells import Cell, Runner, load_model, run_cell
from oeu_ref.lab.experiment import QUICK, Experiment, described
from oeu_ref.lab.measures import proxy_average_gap
from oeu_ref.methods import by_name, names
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Settings
from oeu_ref.reference import metrics
from oeu_ref.report import report, report_figures

SETTINGS = Settings(0.02, 0.5)
TINY = Experiment(
    dataset="tiny", validation_size=40, width=4, epochs=3, batch_size=64, forget_batch=16, retain_batch=32
)
SMALL = "--dataset tiny --width 4 --epochs 2 --validation-size 40 --device cpu --jobs 1".split()


def tiny_arrays():
    """Three classes of 8 x 8 images: a pattern each, under as much noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (3, 8, 8, 3))
    arrays = {}
    for part, count in (("train", 260), ("test", 60)):
        labels = rng.integers(0, 3, count)
        arrays[f"x_{part}"] = (patterns[labels] + rng.integers(0, 128, (count, 8, 8, 3))).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    return arrays


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "tiny.npz", **tiny_arrays())
    return folder


@pytest.fixture(scope="module")
def source(root):
    return {"data_root": str(root), "cache_dir": None, "download": False}


@pytest.fixture(scope="module")
def data(root):
    return load_images("tiny", root)


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """A table of three methods on two seeds, made once by the command line: (folder, what it printed)."""
    out = tmp_path_factory.mktemp("table")
    arguments = ["table", "cifar10-10", *SMALL, "--data-root", str(root), "--out", str(out), "--seeds", "1,2"]
    assert main([*arguments, "--methods", "oeu,ft,ga", "--settings", str(settings_file(out)), "--keep-models"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory, source):
    """A folder with the original model of seed 1, made once."""
    folder = tmp_path_factory.mktemp("trained")
    run_cell(Runner(folder, source), TINY, Cell(1, "original"))
    return folder


@pytest.fixture
def place(tmp_path, trained):
    """A folder of the test's own, with that model in it."""
    shutil.copytree(trained, tmp_path / "place")
    return tmp_path / "place"


def settings_file(folder, steps=6):
    """A tuning.json for all methods, as if searched on another experiment, with steps for a forget set of 22."""
    best = {"best": {"learning_rate": 0.02, "weight": 0.5, "steps": steps, "AG": 1.0}}
    digest = {**best, "best_at_end_of": [], "median_AG": 2.0, "worst_AG": 3.0, "diverged": 0, "points": []}
    content = {
        "experiment": dataclasses.asdict(dataclasses.replace(TINY, forget_batch=128)),
        "forget_size": 22,
        "seeds": [101],
        "grid": {"learning_rate": [0.02], "weight": [0.5], "steps": [steps]},
        "rules": {rule: dict.fromkeys(METHODS, digest) for rule in tuning.RULES},
    }
    path = pathlib.Path(folder) / "settings.json"
    path.write_text(json.dumps(content))
    return path


def without_times(document):
    if isinstance(document, dict):
        return {key: without_times(value) for key, value in document.items() if key not in ("seconds", "time")}
    return [without_times(value) for value in document] if isinstance(document, list) else document


# Splits


def test_no_image_is_in_two_parts_and_the_parts_are_what_was_asked_for(data):
    splits = dataclasses.replace(TINY, train_size=100, test_size=30).split(data, 3)
    assert [len(splits.indices[part]) for part in ("forget", "retain", "validation", "test")] == [10, 90, 40, 30]
    training = torch.cat([splits.indices[part] for part in ("forget", "retain", "validation")])
    assert len(training.unique()) == 140
    for part in ("forget", "retain", "validation"):
        assert torch.equal(getattr(splits, part).inputs, data.train_images[splits.indices[part]])
        assert torch.equal(getattr(splits, part).labels, data.train_labels[splits.indices[part]])
    assert torch.equal(splits.test.inputs, data.test_images[splits.indices["test"]])


def test_the_split_is_a_function_of_the_seed(data):
    first, again, other = (TINY.split(data, seed).indices for seed in (3, 3, 4))
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert not torch.equal(first["forget"], other["forget"])
    assert not torch.equal(first["validation"], other["validation"])


def test_whole_classes_can_be_forgotten(data):
    splits = dataclasses.replace(TINY, forget_ratio=None, forget_classes=(0, 2)).split(data, 3)
    assert set(splits.forget.labels.tolist()) == {0, 2}
    assert set(splits.retain.labels.tolist()) == {1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_size": 230}, "train_size and validation_size must together be at most 260"),
        ({"validation_size": 259}, "train_size and validation_size must together"),
        ({"test_size": 61}, "test_size must be at most 60"),
        ({"forget_ratio": 0.001}, "share must leave samples to forget"),
        ({"forget_ratio": None, "forget_classes": (7,)}, "got 7, of which there is no sample"),
        ({"forget_ratio": None, "forget_classes": (0, 1, 2)}, "must leave samples to keep"),
        ({"forget_ratio": None, "forget_classes": (1, 1)}, "none twice"),
        ({"forget_ratio": None, "forget_file": "/no/such/file"}, "forget_file must be a text file"),
    ],
)
def test_a_split_that_the_data_cannot_give_is_explained(data, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dataclasses.replace(TINY, **changes).split(data, 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"forget_ratio": 0}, "forget_ratio must lie strictly between 0 and 1"),
        ({"forget_ratio": 1}, "forget_ratio must lie strictly between 0 and 1"),
        ({"forget_ratio": 1.5}, "forget_ratio must lie in"),
        ({"forget_ratio": None}, "must be given, got none"),
        ({"forget_classes": (1,)}, "must be given, got forget_ratio, forget_classes"),
        ({"arch": "vgg"}, "arch must be one of 'resnet18', 'mobilenet_v2'"),
        ({"weight_bits": 9}, "weight_bits must be 1 to 8, or 32"),
        ({"activation_bits": 0}, "activation_bits must be 1 to 8, or 32"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
        ({"validation_size": 3}, "validation_size must be at least 4"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"forget_batch": 0}, "forget_batch"),
    ],
)
def test_an_experiment_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


# Cells


@pytest.mark.studies
@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("arch", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.reliability)])
def test_a_cell_leaves_its_configuration_curve_and_metrics(tmp_path, source, arch, bits):
    small = dataclasses.replace(TINY, arch=arch, weight_bits=bits, activation_bits=bits, epochs=2)
    run_cell(Runner(tmp_path, source), small, Cell(1, "original"))
    cell = Cell(1, "oeu", SETTINGS, 4, (2,), attacked=True)
    found = run_cell(Runner(tmp_path, source), small, cell)
    plain = run_cell(Runner(tmp_path, source), small, dataclasses.replace(cell, suffix="_plain", attacked=False))
    assert plain["metrics"] == found["metrics"]
    three = {key: found["curve"][0]["metrics"][key] for key in ("FA", "RA", "TA")}
    assert plain["curve"][0] == {"steps": 2, "metrics": three, "retain_loss": found["curve"][0]["retain_loss"]}
    assert found == json.loads((tmp_path / "seed-1" / "oeu.json").read_text())
    assert found["experiment"] == json.loads(json.dumps(described(small)))
    assert found["plan"]["settings"]["learning_rate"] == 0.02 and found["plan"]["seed"] == 1
    assert found["versions"]["torch"] == torch.__version__ and found["device"] == "cpu"
    assert found["data"]["source"] == "tiny.npz"
    assert [point["steps"] for point in found["curve"]] == [2, 4]
    assert found["curve"][-1]["metrics"] == found["metrics"]
    assert found["curve"][0]["retain_loss"] != found["curve"][1]["retain_loss"] == found["retain_loss"]
    assert len(found["losses"]["retain"]) == found["steps"] == 4
    assert all(len(curve) == 4 for curve in found["cosines"].values())
    assert sum(found["entropy_histograms"]["test"]) == 60
    original = json.loads((tmp_path / "seed-1" / "original.json").read_text())
    assert len(original["losses"]) == 2
    split = json.loads((tmp_path / "seed-1" / "split.json").read_text())
    assert len(split["forget"]) == 22 and len(split["retain"]) == 198


@pytest.mark.studies
def test_the_metrics_are_those_of_independent_code_on_the_same_predictions(made, data):
    """Accuracies by scikit-learn and MIA by scikit-learn's classifier, from the kept models and the saved split."""
    for name in ("original", "retrain", "oeu_lr0.02_w0.5_s6"):
        found = json.loads((made / "seed-2" / f"{name}.json").read_text())["metrics"]
        split = json.loads((made / "seed-2" / "split.json").read_text())
        model = load_model(made / "seed-2" / f"{name}.pt")
        shares, labels = {}, {}
        for part in ("forget", "retain", "test"):
            images, y = (
                (data.test_images, data.test_labels) if part == "test" else (data.train_images, data.train_labels)
            )
            with torch.no_grad():
                shares[part] = model(images[split[part]]).softmax(1).numpy().astype(np.float64)
            labels[part] = y[split[part]].numpy()
        for metric, part in (("FA", "forget"), ("RA", "retain"), ("TA", "test")):
            accuracy = 100 * accuracy_score(labels[part], shares[part].argmax(1))
            assert found[metric] == pytest.approx(accuracy, abs=1e-9), (name, metric)
        confidence = {part: shares[part][np.arange(len(labels[part])), labels[part]] for part in shares}
        members = confidence["retain"][np.random.default_rng(2).permutation(len(confidence["retain"]))[:60]]
        attack = SVC(C=3, gamma="auto", kernel="rbf")
        attack.fit(np.concatenate([members, confidence["test"]])[:, None], np.repeat([1, 0], 60))
        called_unseen = 100 * (attack.predict(confidence["forget"][:, None]) == 0).mean()
        # a sample at the border may fall on either side for the last bit of a softmax
        assert found["MIA"] == pytest.approx(called_unseen, abs=100 / 22 + 1e-9), name


@pytest.mark.studies
def test_a_kept_model_is_the_one_that_was_measured(made):
    model = load_model(made / "seed-1" / "ft_lr0.02_w0.5_s6.pt")
    assert not model.training
    other = load_model(made / "seed-1" / "original.pt")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    with pytest.raises(ValueError, match="no-such.pt must be a checkpoint"):
        load_model(made / "seed-1" / "no-such.pt")


# one method here, each of the others with -m reliability
OTHERS = [pytest.param(name, marks=pytest.mark.reliability) for name in METHODS if name != "oeu_stop"]


@pytest.mark.parametrize("name", ["original", "retrain", "oeu_stop", *OTHERS])
def test_a_cell_that_was_interrupted_ends_with_the_same_bits(tmp_path, source, trained, monkeypatch, name):
    """Interrupted twice, once in the middle of training or unlearning and once while the result is being written."""
    monkeypatch.setattr(engine, "max", lambda *_: 3, raising=False)  # a checkpoint after each third step
    rule = engine.EntropyStop.reached
    monkeypatch.setattr(engine.EntropyStop, "reached", lambda self: rule(self) and False)  # all eight steps
    cell = Cell(1, name) if name in ("original", "retrain") else Cell(1, name, SETTINGS, 8, (2, 5), keep=True)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        shutil.copytree(trained, out)
    expected = run_cell(Runner(whole, source, redo=True), TINY, cell)
    calls = []

    def interrupt(count):
        calls.append(count)
        if len(calls) == (2 if cell.settings is None else 6):
            raise KeyboardInterrupt

    if name == "original":
        (broken / "seed-1" / "original.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_cell(Runner(broken, source), TINY, cell, on_images=interrupt)
    partial = cell.path(broken).with_suffix(".partial.pt")
    assert partial.is_file() and not cell.path(broken).is_file()
    write = cells.results.write_json
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(cells.results, "write_json", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        run_cell(Runner(broken, source), TINY, cell)
    monkeypatch.setattr(cells.results, "write_json", write)
    seen = []
    found = run_cell(Runner(broken, source), TINY, cell, on_images=seen.append)
    assert without_times(found) == without_times(expected)
    assert len(seen) < (3 if cell.settings is None else 9)
    assert not partial.exists()
    models = [torch.load(cell.path(out).with_suffix(".pt"))["state"]["model"] for out in (whole, broken)]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_cells_of_the_digits_are_the_demo_s_own_runs(tmp_path):
    """One engine: on disk or in memory, a seed and method give the same figures to the bit."""
    case, settings = engine.prepare(1, QUICK), Settings(0.1, 0.3)
    expected = {"original": case.original, "retrain": case.retrain}
    cells_of = {name: Cell(1, name) for name in expected} | {"oeu_stop": Cell(1, "oeu_stop", settings, 4)}
    expected["oeu_stop"] = engine.forget(case, "oeu_stop", settings, 4)[0]
    for name, cell in cells_of.items():
        found = run_cell(Runner(tmp_path), QUICK, cell)
        shown = measures.measure(measures.outputs(expected[name], case.splits), 1)
        assert {key: found[key] for key in shown} == shown
        assert found["data"]["source"] == "digits"


def test_a_finished_cell_is_not_made_again_unless_asked(tmp_path, source, monkeypatch):
    cell = Cell(1, "original")
    first = run_cell(Runner(tmp_path, source), TINY, cell)
    train, trained = engine.train, []
    monkeypatch.setattr(engine, "train", lambda *args: trained.append(1) or train(*args))
    assert run_cell(Runner(tmp_path, source), TINY, cell) == first
    assert not trained
    assert without_times(run_cell(Runner(tmp_path, source, redo=True), TINY, cell)) == without_times(first)
    assert trained


def test_a_finished_cell_of_another_plan_is_named_not_overwritten(place, source):
    first = run_cell(Runner(place, source), TINY, Cell(1, "ft", SETTINGS, 2))
    with pytest.raises(ValueError, match=r"ft.json must be of this plan.*--redo"):
        run_cell(Runner(place, source), TINY, Cell(1, "ft", SETTINGS, 3))
    with pytest.raises(ValueError, match="of another .*: choose another --out$"):  # of a command that has no --redo
        run_cell(Runner(place, source, redo=None), TINY, Cell(1, "ft", SETTINGS, 3))
    assert json.loads((place / "seed-1" / "ft.json").read_text()) == first


def test_an_original_of_another_experiment_is_refused(place, source):
    other = dataclasses.replace(TINY, epochs=2)
    with pytest.raises(ValueError, match=r"original.pt must be a checkpoint of this run.*belongs to another run"):
        run_cell(Runner(place, source), other, Cell(1, "ft", SETTINGS, 2))


def test_a_run_that_diverges_is_reported_as_such(place, source):
    found = run_cell(Runner(place, source), TINY, Cell(1, "ga", Settings(1e30), 9, (1,)))
    assert found["diverged"] and "finite" in found["reason"] and "metrics" not in found


@pytest.mark.studies
def test_every_method_goes_its_own_way(place, data):
    """No two methods end at the same weights."""
    ends, splits = {}, TINY.split(data, 1)
    for name in METHODS:
        model = cells.load_original(place, TINY, data, splits, Cell(1, name), "cpu")
        engine.unlearned(TINY, splits, 1, model, name, SETTINGS, 3)
        ends[name] = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    assert not [(a, b) for a in ends for b in ends if a < b and torch.equal(ends[a], ends[b])]


@pytest.mark.studies
def test_the_seed_reaches_the_order_of_both_batches_and_the_method(tmp_path, source, monkeypatch):
    unlearn, seen = engine.unlearn, []

    def watched(method, forget, retain, steps, config, generators, **others):
        seen.append([generator.initial_seed() for generator in (*generators, method.generator)])
        return unlearn(method, forget, retain, steps, config, generators, **others)

    monkeypatch.setattr(engine, "unlearn", watched)
    for seed in (1, 2):
        run_cell(Runner(tmp_path, source), TINY, Cell(seed, "original"))
        run_cell(Runner(tmp_path, source), TINY, Cell(seed, "rl", SETTINGS, 1))
        words = ("forget batches", "retain batches", "method")
        assert seen[-1] == [stream(seed, word).initial_seed() for word in words]


def test_retrain_never_sees_what_is_to_be_forgotten(tmp_path, source, monkeypatch, data):
    """Neither in training nor in what inputs are normalized by; nor does it start from the original's weights."""
    train, seen = engine.train, {}

    def watched(model, samples, *rest):
        seen[len(seen)] = (samples, model.mean.flatten(), model.network.fc.weight.detach().clone())
        return train(model, samples, *rest)

    monkeypatch.setattr(engine, "train", watched)
    for name in ("original", "retrain"):
        run_cell(Runner(tmp_path, source), TINY, Cell(1, name))
    splits = TINY.split(data, 1)
    assert torch.equal(seen[0][0].inputs, splits.train.inputs)
    assert torch.equal(seen[1][0].inputs, splits.retain.inputs) and torch.equal(seen[1][0].labels, splits.retain.labels)
    mean = splits.retain.inputs.double().mean(dim=(0, 2, 3)) / 255
    for _, found, _ in seen.values():
        torch.testing.assert_close(found.double(), mean, rtol=0, atol=1e-6)
    assert not torch.equal(seen[0][2], seen[1][2])


def test_measuring_along_a_run_is_not_counted_as_unlearning(place, source, monkeypatch):
    """Each measurement turns the clock on by an hour; three steps take less."""
    accuracies, clock, hours = cells.accuracies, time.perf_counter, []
    monkeypatch.setattr(cells, "accuracies", lambda *args: hours.append(3600) or accuracies(*args))
    monkeypatch.setattr(cells.time, "perf_counter", lambda: clock() + sum(hours))
    found = run_cell(Runner(place, source), TINY, Cell(1, "ft", SETTINGS, 3, (1, 2)))
    assert len(found["curve"]) == 3 and hours and found["seconds"] < 3600


def test_the_stop_rule_ends_a_run_early(place, source, monkeypatch):
    monkeypatch.setattr(Experiment, "stop_every", 2)
    asked = iter([False, False, True])
    monkeypatch.setattr(engine.EntropyStop, "reached", lambda self: next(asked))
    found = run_cell(Runner(place, source), TINY, Cell(1, "oeu_stop", SETTINGS, 9))
    assert found["steps"] == 2 and found["curve"][-1]["steps"] == 2


def test_the_stop_rule_sees_validation_images_never_test_images(place, source, monkeypatch, data):
    seen = []
    rule = engine.EntropyStop
    monkeypatch.setattr(engine, "EntropyStop", lambda *args, **options: seen.append(args) or rule(*args, **options))
    run_cell(Runner(place, source), TINY, Cell(1, "oeu_stop", SETTINGS, 2))
    splits = TINY.split(data, 1)
    assert torch.equal(seen[0][1], splits.forget.inputs) and torch.equal(seen[0][2], splits.validation.inputs)


# The proxy


def test_proxy_gap_is_zero_for_what_looks_like_the_original_on_unseen_images():
    original = {"FA": 99.0, "RA": 98.0, "VA": 60.0, "MIA": 5.0, "MIA_unseen": 70.0}
    assert proxy_average_gap({"FA": 60.0, "RA": 98.0, "VA": 60.0, "MIA": 70.0}, original) == 0
    assert proxy_average_gap({"FA": 64.0, "RA": 96.0, "VA": 61.0, "MIA": 69.0}, original) == 2.0
    assert proxy_average_gap(original, original) == pytest.approx((39 + 65) / 4)


def test_the_proxy_does_not_depend_on_test_images_or_retrain(place, source, data, monkeypatch):
    """With all test images replaced, everything in "proxy" stays what it was, and the metrics do not."""
    splits, model = TINY.split(data, 1), load_model(place / "seed-1" / "original.pt")
    first = cells.measure(model, splits, 1)
    noise = torch.randint(0, 256, splits.test.inputs.shape, dtype=torch.uint8, generator=stream(0, "noise"))
    other = dataclasses.replace(splits, test=dataclasses.replace(splits.test, inputs=noise))
    second = cells.measure(model, other, 1)
    assert second["proxy"] == first["proxy"]
    assert second["metrics"]["TA"] != first["metrics"]["TA"]


def test_the_proxy_attack_learns_on_one_half_of_the_validation_images_and_judges_the_other(data):
    splits = TINY.split(data, 1)
    model = engine.new_model(TINY, splits, 1, "original")
    calls = []

    class Attack(measures.SupportVectorAttack):
        def __call__(self, *scores):
            calls.append([len(part) for part in scores])
            return super().__call__(*scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "SupportVectorAttack", Attack)
        cells.measure(model, splits, 1)
    assert calls == [[198, 60, 22], [198, 20, 22 + 20]]


# Many cells


@pytest.mark.reliability
def test_cells_made_side_by_side_are_those_made_one_after_another(tmp_path, source):
    wanted = [Cell(seed, "rl", SETTINGS, 3) for seed in (1, 2)] + [Cell(1, "retrain")]
    alone = jobs.run_cells(Runner(tmp_path / "a", source, jobs=1, progress=False), TINY, wanted)
    together = jobs.run_cells(Runner(tmp_path / "b", source, jobs=2, progress=False), TINY, wanted)
    assert alone.keys() == together.keys() and len(alone) == 5
    for cell in alone:
        assert without_times(alone[cell]) == without_times(together[cell])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_cells_repeat_to_the_same_bits(tmp_path, source, precision):
    fast = dataclasses.replace(TINY, precision=precision)
    wanted = [Cell(1, "retrain"), Cell(1, "oeu", SETTINGS, 4, keep=True)]
    for name in ("a", "b"):
        jobs.run_cells(Runner(tmp_path / name, source, "cuda", progress=False), fast, wanted)
    for cell in [Cell(1, "original"), *wanted]:
        first, second = (json.loads(cell.path(tmp_path / name).read_text()) for name in ("a", "b"))
        assert without_times(first) == without_times(second)
        weights = [torch.load(cell.path(tmp_path / name).with_suffix(".pt"))["state"]["model"] for name in ("a", "b")]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_redo_makes_the_wanted_cells_again_and_no_others(tmp_path, source, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "run_cell", lambda runner, _, cell, *rest: asked.append((cell.name, runner.redo)) or {})
    jobs.run_cells(Runner(tmp_path, source, redo=True, progress=False), TINY, [Cell(1, "ft", SETTINGS, 2)])
    assert asked == [("original", False), ("ft", True)]


@pytest.mark.reliability
def test_an_error_in_a_worker_is_raised_here(place, source):
    (place / "seed-1" / "original.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="original.pt must be a checkpoint"):
        jobs.run_cells(Runner(place, source, jobs=2, progress=False), TINY, [Cell(1, "ft", SETTINGS, 2)])
    assert (place / "seed-1" / "original.pt").read_bytes() == b"damaged"


def test_two_runs_in_one_folder_are_refused(tmp_path, source):
    arguments = Runner(tmp_path, source, progress=False), TINY, [Cell(1, "original")]
    with locks.alone(tmp_path), pytest.raises(ValueError, match="another run is at work in"):
        # in a context of its own, as another process would be; in this one the folder is ours
        contextvars.Context().run(jobs.run_cells, *arguments)


def test_halves_of_files_are_cleared_away(tmp_path, source):
    (tmp_path / "seed-1").mkdir()
    half = tmp_path / "seed-1" / f".original.json.abc{files.HALF}"
    half.write_text("{")
    jobs.run_cells(Runner(tmp_path, source, progress=False), TINY, [Cell(1, "original")])
    assert not half.exists()


# Tables and their settings


def test_the_paper_s_experiments_are_those_of_the_paper():
    for name, dataset, ratio in (
        ("cifar10-10", "cifar10", 0.1),
        ("cifar100-30", "cifar100", 0.3),
        ("svhn-10", "svhn", 0.1),
        ("tinyimagenet-10", "tinyimagenet", 0.1),
    ):
        found = tables.experiment_named(name)
        assert (found.dataset, found.forget_ratio, found.weight_bits, found.arch) == (dataset, ratio, 4, "resnet18")
        assert found.train_size is None and found.augmented


def test_the_words_of_the_help_are_those_of_the_code():
    """What --help lists without PyTorch is what there is."""
    assert tuple(bench.FIGURES) == options.BENCH
    assert tuple(models.ARCHITECTURES) == tuple(options.STANDARD_WIDTHS)
    assert tuple(by_name._MAKE) == tuple(names.METHODS)
    assert {*names.BASELINES, *names.ABLATIONS, *names.PROJECTIONS, *names.RELEASED, *names.RIVALS} == set(METHODS)
    assert not set(tables.REPORTED_SEEDS) & set(tuning.TUNING_SEEDS)


def test_the_package_brings_settings_for_every_method_of_table_and_ablation_by_both_rules():
    found = json.loads(tables.SETTINGS_FILE.read_text())
    for rule in tuning.RULES:
        for name in {*names.BASELINES, *names.ABLATIONS}:
            settings, steps = tuning.chosen(found, rule, name)
            assert settings.learning_rate > 0 and steps >= 1
    assert found["experiment"] == json.loads(json.dumps(described(tables.experiment_named("cifar10-10", "cpu"))))
    assert not set(found["seeds"]) & set(tables.REPORTED_SEEDS)


@pytest.mark.studies
def test_a_table_has_a_row_for_each_method_and_rule_and_its_cells(made):
    document = json.loads((made / "table.json").read_text())
    assert [(row["rule"], row["method"]) for row in document["rows"]] == [
        (rule, name) for rule in ("true", "proxy") for name in ("oeu", "ft", "ga")
    ]
    assert all((made / file).is_file() for row in document["rows"] for file in row["files"])
    # settings that both rules chose are run once
    assert document["rows"][0]["files"] == document["rows"][3]["files"]


def test_steps_of_another_experiment_are_scaled_to_as_many_passes(tmp_path, source):
    """6 steps of 64 for 22 forget images are 17.5 passes; with batches of 16 that takes 24 steps."""
    found = json.loads(settings_file(tmp_path).read_text())
    found["experiment"]["forget_batch"] = 64
    assert round(6 * tables.steps_scale(found, TINY, source)) == 24


def test_settings_that_were_chosen_on_a_reported_seed_are_refused(tmp_path, source):
    found = json.loads(settings_file(tmp_path).read_text())
    found["experiment"] = json.loads(json.dumps(described(TINY)))
    with pytest.raises(ValueError, match="seeds must not be those that the settings were chosen on, got 101"):
        tables.make("table", Runner(tmp_path, source), TINY, ["oeu"], seeds=(1, 101), settings=found)


def test_settings_that_are_no_tuning_are_explained(tmp_path, source):
    with pytest.raises(
        ValueError, match="settings must be the contents of a tuning.json, lacks experiment, forget_size"
    ):
        tables.make("table", Runner(tmp_path, source), TINY, ["oeu"], settings={"seeds": [1], "rules": {}})
    found = json.loads(settings_file(tmp_path).read_text())
    del found["rules"]["proxy"]["oeu"]
    with pytest.raises(ValueError, match="settings must hold those of oeu under the rule 'proxy'"):
        tables.make("table", Runner(tmp_path, source), TINY, ["oeu"], settings=found)


@pytest.mark.studies
def test_a_sweep_hands_alpha_on(tmp_path, root):
    arguments = ["sweep", "cifar10-10", *SMALL, "--data-root", str(root), "--out", str(tmp_path), "--seeds", "1"]
    assert main([*arguments, "--alpha", "0,1", "--rules", "true", "--settings", str(settings_file(tmp_path))]) == 0
    first, second = (json.loads((tmp_path / "seed-1" / f"oeu_lr0.02_w0.5_s6_alpha{a}.json").read_text()) for a in "01")
    assert first["plan"]["options"] == {"alpha": 0.0} and second["plan"]["options"] == {"alpha": 1.0}
    assert first["losses"]["retain"][0] == second["losses"]["retain"][0]
    assert first["losses"] != second["losses"]
    assert (tmp_path / "sweep_alpha.png").is_file()


# Tuning


def found_cell(gap, steps=(2, 4), diverged=False, **more):
    """A cell whose AG against a Retrain of zeros, and proxy AG against an original of zeros, is the gap."""
    four = dict.fromkeys(("FA", "RA", "TA", "MIA"), gap)
    point = {"metrics": four, "proxy": {**four, "VA": gap, "MIA_unseen": gap}}
    return {"curve": [{"steps": s, **point} for s in steps], "diverged": diverged, **point, **more}


def fake_run_cells(gap_of):
    """A stand-in for `run_cells` that knows every cell's AG beforehand."""
    asked = []

    def run(runner, experiment, wanted):
        asked.append(wanted)
        done = {}
        for cell in wanted:
            extra = {"data": {}, "device": "cpu"}
            zero = found_cell(0.0, **extra)
            done[cell.original()] = zero
            done[cell] = zero if cell.settings is None else gap_of(cell)
        return done

    return run, asked


GRID = {"learning_rate": (0.1, 1.0), "weight": (0.3, 1.0, 3.0), "steps": (2, 4)}


def test_every_method_is_tried_on_every_point_of_one_grid(tmp_path, source, monkeypatch):
    run, asked = fake_run_cells(lambda cell: found_cell(1.0))
    monkeypatch.setattr(tuning, "run_cells", run)
    tuning.tune(Runner(tmp_path, source), TINY, seeds=(101, 102), grid=GRID, widen=0)
    points = collections.defaultdict(set)
    for cell in asked[0]:
        if cell.settings is not None:
            points[cell.name, cell.seed].add((cell.settings.learning_rate, cell.settings.weight, cell.steps))
            # where steps depend on how many there will be, each number of steps is a run of its own
            assert cell.attacked and cell.evaluate_at == (() if cell.name == "l1_fading" else (2,))
    assert len(points) == 2 * len(METHODS)
    shorter = {(rate, weight, 2) for rate, weight, _ in points["oeu", 101]}
    for (name, _), found in points.items():
        assert found - shorter == points["oeu", 101] and len(found) == (12 if name == "l1_fading" else 6)


def test_a_rate_that_falls_makes_a_run_for_each_number_of_steps(tmp_path, source, monkeypatch):
    """One after two of four steps is not where a run of two steps ends; each run is read for its own number alone."""
    run, asked = fake_run_cells(lambda cell: found_cell(float(cell.steps), steps=(cell.steps,)))
    monkeypatch.setattr(tuning, "run_cells", run)
    falling = dataclasses.replace(TINY, schedule="linear")
    found = tuning.tune(Runner(tmp_path, source), falling, ["ft"], (101,), GRID, widen=0)
    runs = [cell for cell in asked[0] if cell.settings is not None]
    assert len({cell.path("") for cell in runs}) == len(runs) == 2 * 3 * 2 and not any(c.evaluate_at for c in runs)
    assert all(gap == steps for *_, steps, gap in found["rules"]["true"]["ft"]["points"])
    assert "falling linearly to zero" in report.tuning_table(found)


@pytest.mark.studies
@pytest.mark.parametrize("recalibrated", [False, True])
def test_a_curve_shows_the_network_as_the_loop_would_leave_it(tmp_path, source, recalibrated):
    """The point after two of four steps is the end of a run of two; a run that was looked at ends as another."""
    how = dataclasses.replace(TINY, recalibrated=recalibrated)
    run_cell(Runner(tmp_path, source), how, Cell(1, "original"))
    cells = [Cell(1, "oeu", SETTINGS, 4, (2,)), Cell(1, "oeu", SETTINGS, 2, suffix="_short")]
    looked, short = (run_cell(Runner(tmp_path, source), how, cell) for cell in cells)
    assert looked["curve"][0]["retain_loss"] == short["retain_loss"]
    alone = run_cell(Runner(tmp_path, source), how, Cell(1, "oeu", SETTINGS, 4, suffix="_alone"))
    assert alone["retain_loss"] == looked["retain_loss"] != short["retain_loss"]


def test_the_mean_loss_is_that_of_cross_entropy_also_where_a_probability_is_zero():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert measures.mean_loss(probabilities, np.array([0, 1])) == pytest.approx(-math.log(0.5 * 0.75) / 2)
    assert math.isfinite(measures.mean_loss(np.array([[1.0, 0.0]]), np.array([1])))


def test_the_point_with_the_lowest_mean_gap_is_chosen_and_a_wrong_one_is_priced(tmp_path, source, monkeypatch):
    def gap_of(cell):
        if cell.settings.weight == 3.0:
            return found_cell(9.0, steps=(2,), diverged=True)
        return found_cell(abs(cell.settings.weight - 1) + cell.settings.learning_rate + cell.seed - 101)

    monkeypatch.setattr(tuning, "run_cells", fake_run_cells(gap_of)[0])
    found = tuning.tune(Runner(tmp_path, source), TINY, ["ft"], (101, 102), GRID, widen=0)
    for rule in tuning.RULES:
        digest = found["rules"][rule]["ft"]
        assert digest["best"]["learning_rate"] == 0.1 and digest["best"]["weight"] == 1.0
        assert digest["best"]["AG"] == pytest.approx(0.1 + 0.5)
        assert digest["best_at_end_of"] == ["learning_rate", "steps"]
        # 12 points: diverged at step 4 only, and there the gap of step 2 stands
        assert digest["diverged"] == 2 and digest["worst_AG"] == 9.0
    assert json.loads((tmp_path / "tuning.json").read_text()) == found
    assert tuning.chosen(found, "proxy", "ft")[0] == Settings(0.1, 1.0)


def test_a_run_that_stopped_early_counts_as_where_it_stopped_for_all_larger_numbers_of_steps():
    short = found_cell(0.0)
    short["curve"] = [found_cell(7.0, steps=(2,))["curve"][0], found_cell(5.0, steps=(3,))["curve"][0]]
    zero = found_cell(0.0)
    assert tuning.gaps_of(short, 2, zero, zero) == {"true": 7.0, "proxy": 7.0}
    short["curve"][0]["proxy"] = found_cell(6.0)["proxy"]
    assert tuning.gaps_of(short, 2, zero, zero) == {"true": 7.0, "proxy": 6.0}
    assert tuning.gaps_of(short, 4, zero, zero) == tuning.gaps_of(short, 80, zero, zero) == {"true": 5.0, "proxy": 5.0}


def test_the_grid_is_widened_for_all_where_one_method_picks_its_end(tmp_path, source, monkeypatch):
    """GA alone wants smaller weights and learning rates; every method gets them, once."""

    def gap_of(cell):
        own = (0.3, 1.0) if cell.name == "ft" else (1e-9, 1e-9)
        return found_cell(
            sum(abs(math.log(a / b)) for a, b in zip((cell.settings.learning_rate, cell.settings.weight), own))
        )

    run, asked = fake_run_cells(gap_of)
    monkeypatch.setattr(tuning, "run_cells", run)
    grid = {"learning_rate": (0.1, 0.3, 1.0), "weight": (0.3, 1.0, 3.0), "steps": (2, 4)}
    found = tuning.tune(Runner(tmp_path, source), TINY, ["ft", "ga"], (101,), grid, widen=1)
    assert len(asked) == 2
    assert found["grid"] == {"learning_rate": [0.03, 0.1, 0.3, 1.0], "weight": [0.1, 0.3, 1.0, 3.0], "steps": [2, 4]}
    for name in ("ft", "ga"):
        assert len(found["rules"]["true"][name]["points"]) == 4 * 4 * 2
    assert found["rules"]["true"]["ga"]["best_at_end_of"] == ["learning_rate", "weight", "steps"]
    assert "learning_rate" not in found["rules"]["true"]["ft"]["best_at_end_of"]


def test_the_grid_is_widened_upwards_as_well_and_only_on_the_axis_that_needs_it(tmp_path, source, monkeypatch):
    run, _ = fake_run_cells(lambda cell: found_cell(abs(cell.settings.learning_rate - 0.3) + 9 / cell.settings.weight))
    monkeypatch.setattr(tuning, "run_cells", run)
    grid = {"learning_rate": (0.1, 0.3, 1.0), "weight": (0.3, 1.0, 3.0), "steps": (2, 4)}
    found = tuning.tune(Runner(tmp_path, source), TINY, ["ft"], (101,), grid, widen=1)
    assert found["grid"] == {"learning_rate": [0.1, 0.3, 1.0], "weight": [0.3, 1.0, 3.0, 10.0], "steps": [2, 4]}


def test_neighbours_of_a_grid_are_about_a_factor_of_three_away():
    values = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert [tuning._neighbour(v, 1) for v in values[:-1]] == values[1:]
    assert [tuning._neighbour(v, -1) for v in values[1:]] == values[:-1]


# Report


@pytest.mark.studies
def test_the_report_s_figures_are_those_of_the_cells(made):
    """AG ± spread of each method, computed here from the cells' JSON, stands in the method's row."""
    text = (made / "report.md").read_text()
    for label, name in (("OEU", "oeu"), ("FT (fine-tuning)", "ft"), ("GA (gradient ascent)", "ga")):
        gaps = []
        for seed in (1, 2):
            one, retrain = (
                json.loads((made / f"seed-{seed}" / f"{file}.json").read_text())["metrics"]
                for file in (f"{name}_lr0.02_w0.5_s6", "retrain")
            )
            gaps.append(np.mean([abs(one[key] - retrain[key]) for key in ("FA", "RA", "TA", "MIA")]))
        row = next(line for line in text.splitlines() if line.startswith(f"| {label} "))
        assert f"{np.mean(gaps):.1f} ± {np.std(gaps, ddof=1):.1f}" in row
    assert next(line for line in text.splitlines() if line.startswith("| Retrain ")).count(" – ") == 3
    assert "seeds 1, 2" in text and "not searched anew" in text


@pytest.mark.studies
def test_the_report_s_json_holds_what_the_tables_and_pictures_show(made):
    short = json.loads((made / "report.json").read_text())["table"]
    document = report.load(made, "table")
    assert [row["label"] for row in short["rows"]] == [row["label"] for row in document["rows"]]
    row, cells_of_row = short["rows"][0], document["rows"][0]["cells"]
    assert row["values"] == document["rows"][0]["values"]
    assert sum(row["entropy_histograms"]["forget"]) == 2 * 22
    assert row["curve"][-1]["FA"] == pytest.approx(np.mean([cell["metrics"]["FA"] for cell in cells_of_row]))
    layer = list(row["cosines"])[5]
    assert row["cosines"][layer][2] == pytest.approx(np.mean([c["cosines"][layer][2] for c in cells_of_row]), abs=6e-4)


@pytest.mark.studies
def test_a_report_can_be_made_again_from_the_files_alone(made, capsys):
    before = (made / "report.md").read_text()
    pictures = {path: path.read_bytes() for path in made.glob("*.png")}
    assert {path.name for path in pictures} == {
        f"table_{kind}.png" for kind in ("methods", "tradeoff", "entropies", "cosines")
    }
    (made / "report.md").unlink()
    assert main(["report", str(made)]) == 0
    assert (made / "report.md").read_text() == before
    assert all(path.read_bytes() == content for path, content in pictures.items())
    assert capsys.readouterr().out.splitlines()[-1] == str(made / "report.md")


@pytest.mark.studies
def test_the_report_names_what_diverged_and_counts_the_others(made):
    document = report.load(made, "table")
    row = document["rows"][1]
    row["values"][0] = None
    row["cells"][0]["diverged"] = True
    assert report._remarks([row]) == ["FT (fine-tuning) diverged on 1 of 2 seeds and is averaged over the others."]
    line = next(line for line in report.table(document, [row]).splitlines() if "FT" in line)
    assert f"{row['values'][1]['AG']:.1f} " in line and "±" not in line
    row["values"][1], row["cells"][1]["diverged"] = None, True
    assert next(line for line in report.table(document, [row]).splitlines() if "FT" in line).count("–") == 9
    assert "FT (fine-tuning)" not in [r["label"] for r in report_figures.rows_of(document)]


def test_a_gap_stands_beside_its_share_of_the_original_s_and_tug_of_war():
    """By hand: gaps of 10, 0, 20 and 10 are 10 on average, a half of the original's 20; 0.9 * 1 * 0.8 is 72 percent.
    Where the original is as Retrain is, there is no share, and a table of such says nothing there."""

    def cell(fa, ra, ta, mia):
        return {"metrics": {"FA": fa, "RA": ra, "TA": ta, "MIA": mia}, "seconds": 2.0, "diverged": False}

    retrain, original, found = cell(70.0, 99.0, 80.0, 40.0), cell(100.0, 99.0, 90.0, 0.0), cell(80.0, 99.0, 60.0, 50.0)
    values = report.values(found, retrain, original)
    assert (values["AG"], values["share_of_original"], values["time"]) == (10.0, 0.5, 1.0)
    assert values["tug_of_war"] == pytest.approx(72)
    alike = report.values(found, retrain, retrain)
    assert alike["share_of_original"] is None and alike["AG"] == 10
    assert "share_of_original" not in report._summary([values, alike]) and "AG" in report._summary([alike])
    assert report.values({**found, "diverged": True}, retrain, original) is None


@pytest.mark.studies
def test_the_paper_s_figure_stands_beside_ours_where_the_paper_gives_one(made):
    document = report.load(made, "table")
    document["name"] = "svhn-10"
    assert "AG in the paper" not in report.table(document, document["rows"])
    document["name"] = "cifar100-30"
    lines = report.table(document, document["rows"][:3]).splitlines()
    assert "AG in the paper" in lines[0]
    assert next(line for line in lines if "OEU" in line).rstrip(" |").endswith("1.98")
    assert next(line for line in lines if "FT" in line).rstrip(" |").endswith("–")
    assert "arXiv 2602.00567" in report.about(document)


@pytest.mark.studies
def test_the_pictures_show_what_they_say(made):
    document = report.load(made, "table")
    figure = report_figures.methods_figure(document)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["OEU", "FT (fine-tuning)", "GA (gradient ascent)"]
    dots = figure.axes[4].collections[0].get_offsets()
    assert dots[:, 0].tolist() == pytest.approx([v["AG"] for v in document["rows"][0]["values"]])
    lines = report_figures.tradeoff_figure(document).axes[0].get_lines()
    last = [np.mean([cell["metrics"][key] for cell in document["rows"][0]["cells"]]) for key in ("FA", "RA")]
    assert lines[0].get_xydata()[-1].tolist() == pytest.approx(last)
    first = [np.mean([cell["metrics"][key] for cell in document["original"]]) for key in ("FA", "RA")]
    assert lines[0].get_xydata()[0].tolist() == pytest.approx(first)
    picture = report_figures.cosines_figure(document).axes[0].images[0].get_array()
    layers = list(document["rows"][0]["cells"][0]["cosines"])
    assert picture.shape == (len(layers), 6)
    mean = np.mean([cell["cosines"][layers[3]][0] for cell in document["rows"][0]["cells"]])
    assert picture[3, 0] == pytest.approx(mean)


def test_a_run_that_ended_early_stays_where_it_is_in_the_mean_curve():
    long, short = (
        {"curve": [{"steps": s, "metrics": dict.fromkeys(("FA", "RA", "TA"), value)} for s, value in points]}
        for points in ([(2, 90.0), (4, 80.0), (6, 70.0)], [(2, 90.0), (3, 60.0)])
    )
    found = report_figures.mean_curve([long, short])
    assert [(point["steps"], point["FA"]) for point in found] == [(2, 90.0), (3.5, 70.0), (4.5, 65.0)]


def test_bits_of_weights_and_activations_can_be_set_apart(tmp_path, root, monkeypatch):
    made, short = [], ["run", *SMALL, "--method", "oeu", "--data-root", str(root), "--out", str(tmp_path)]
    monkeypatch.setattr(tables, "make", lambda kind, runner, experiment, **_: made.append(experiment))
    monkeypatch.setattr(report, "report", lambda out: ("", [""]))
    for given in ([], ["--bits", "3"], ["--bits", "3", "--weight-bits", "2"], ["--activation-bits", "32"]):
        assert main([*short, *given]) == 0
    assert [(e.weight_bits, e.activation_bits) for e in made] == [(4, 4), (3, 3), (2, 3), (4, 32)]


# Bad input at the command line: one line, exit code 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["table", "cifar11"], "NAME must be one of 'cifar10-10'"),
        (["table", "cifar10-10", "--data-root", "/no/such/folder"], "cifar10.npz"),
        (["table", *SMALL, "--methods", "oeu,magic"], "--methods must be one of 'oeu', 'ft'"),
        (["run", *SMALL, "--method", "magic"], "--method must be one of"),
        (["run", *SMALL, "--method", "oeu", "--learning-rate", "0.1"], "must be given together"),
        (
            ["run", *SMALL, "--method", "oeu", "--learning-rate", "0", "--weight", "1", "--steps", "1"],
            "--learning-rate must be greater than 0",
        ),
        (
            ["run", *SMALL, "--method", "oeu", "--learning-rate", "1", "--weight", "1", "--steps", "0"],
            "--steps must be at least 1",
        ),
        (["table", *SMALL, "--seeds", "1,x"], "--seeds must be whole numbers"),
        (["table", *SMALL, "--seeds", "1,1"], "--seeds must be"),
        (["table", *SMALL, "--seeds", "-1"], "--seeds must be at least 0"),
        (["table", *SMALL, "--forget-ratio", "0"], "--forget-ratio must lie strictly between"),
        (["table", *SMALL, "--forget-ratio", "1"], "--forget-ratio must lie strictly between"),
        (["table", *SMALL, "--forget-classes", "a"], "--forget-classes must be names or numbers of classes, got 'a'"),
        (["table", *SMALL, "--forget-classes", "9"], "of which there is no sample"),
        (["table", *SMALL, "--bits", "9"], "--bits must be 1 to 8"),
        (["table", *SMALL, "--arch", "vgg"], "--arch must be one of"),
        (["table", *SMALL, "--rules", "best"], "--rules must be one of 'true', 'proxy'"),
        (["table", *SMALL, "--settings", "/no/such/file"], "/no/such/file"),
        (["table", *SMALL, "--settings", __file__], "must be a JSON file"),
        (["table", "--device", "warp"], "--device must be a device of this machine"),
        (["table", *SMALL, "--jobs", "0"], "--jobs must be at least 1"),
        (["sweep", *SMALL, "--alpha", "0,2"], "--alpha must lie in"),
        (["sweep", *SMALL, "--alpha", "high"], "--alpha must be numbers"),
        (["tune", *SMALL, "--widen", "-1"], "--widen must be at least 0"),
        (["report", "/no/such/folder"], "OUT_DIR must be a folder with one of table.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, root, capsys, arguments, message):
    if arguments[0] != "report" and "--data-root" not in arguments:
        arguments = [*arguments, "--data-root", str(root)]
    if arguments[0] != "report":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(rf"oeu_ref {arguments[0]}: .+\n", captured.err)
    assert message in captured.err
    assert not list(tmp_path.rglob("*.json"))


def test_more_classes_than_outputs_are_refused():
    from oeu_ref.core.network import QuantMLP
    from oeu_ref.data.samples import Samples
    from oeu_ref.lab.training import TrainConfig, train

    samples = Samples(torch.rand(8, 4), torch.tensor([0, 1, 2, 3] * 2))
    with pytest.raises(ValueError, match="labels below 3, the model's outputs, got 3"):
        train(QuantMLP((4, 3)), samples, TrainConfig(epochs=1), stream(0, "order"))


@pytest.mark.studies
def test_gap_and_time_are_against_retrain_of_the_same_seed(made):
    document = report.load(made, "table")
    for i, seed in enumerate((1, 2)):
        retrain = json.loads((made / f"seed-{seed}" / "retrain.json").read_text())
        cell = json.loads((made / document["rows"][0]["files"][i]).read_text())
        found = document["rows"][0]["values"][i]
        assert found["AG"] == metrics.average_gap(cell["metrics"], retrain["metrics"])
        assert found["time"] == cell["seconds"] / retrain["seconds"]
        assert found["retain_loss"] == cell["retain_loss"]


def test_a_method_without_settings_leaves_no_folder(tmp_path, source):
    runner = Runner(tmp_path / "out", source, progress=False)
    with pytest.raises(ValueError, match="settings must hold those of scrub"):
        tables.make("table", runner, TINY, ("scrub",), (1,), ("true",))
    assert not (tmp_path / "out").exists()
