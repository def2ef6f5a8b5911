"""What the user asks to forget is forgotten, all of it, or an error says which is not."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from oeu_ref.__main__ import main
from oeu_ref.commands import command
from oeu_ref.core import EntropyStop
from oeu_ref.data.image_sets import Images, load_images
from oeu_ref.data.requests import class_numbers, held_out, indices_of_file, like
from oeu_ref.lab import engine, measures
from oeu_ref.lab.cells import load_model
from oeu_ref.lab.experiment import Digits, Experiment, ForgettingCopies
from oeu_ref.lab.tables import experiment_named
from oeu_ref.lab.training import TrainConfig, predictions
from oeu_ref.methods import by_name


def split(data, kind=Experiment, seed=1, **changes):
    """The splits of images of which each is another, but for copies made on purpose."""
    return kind(**{"forget_ratio": None, "validation_size": 30, **changes}).split(data, seed)


def images(train, test, names="abcde", label=lambda i: i % 5):
    """Images that show their own number; train, test: these numbers."""
    x = [
        torch.tensor(part)[:, None, None, None].expand(-1, 3, 2, 2).contiguous().to(torch.uint8)
        for part in (train, test)
    ]
    y = [torch.tensor([label(i) for i in part]) for part in (train, test)]
    return Images(x[0], y[0], x[1], y[1], tuple(names), "t", "0")


DATA = images(range(100), range(200, 230))


def shown(samples):
    return samples.inputs[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("size", [None, 50])
def test_every_index_of_a_forget_file_is_forgotten_whatever_is_drawn(tmp_path, size):
    """None of them serves as an unseen image, and all sizes are as asked for."""
    (tmp_path / "f").write_text("\n".join(map(str, range(0, 80, 2))))
    found = split(DATA, forget_file=str(tmp_path / "f"), train_size=size)
    assert shown(found.forget) == list(range(0, 80, 2)) == found.indices["forget"].tolist()
    assert len(found.validation) == 30 and len(found.train) == (size or 70)
    parts = (found.forget, found.retain, found.validation)
    assert len({i for part in parts for i in shown(part)}) == sum(map(len, parts))


def test_more_indices_than_training_images_are_refused(tmp_path):
    (tmp_path / "f").write_text("\n".join(map(str, range(50))))
    with pytest.raises(ValueError, match="forget_file must leave images to keep, it names 50, and 50 are for training"):
        split(DATA, forget_file=str(tmp_path / "f"), train_size=50)


def test_where_nothing_is_asked_for_the_draws_are_the_first_and_the_next():
    order = torch.tensor([3, 1, 4, 0, 2, 5])
    validation, train = held_out(order, 2, 3)
    assert validation.tolist() == [1, 3] and train.tolist() == [0, 2, 4]
    validation, train = held_out(order, 2, 3, torch.tensor([1, 5]))
    assert validation.tolist() == [3, 4] and train.tolist() == [0, 1, 5]


# --- whole classes -------------------------------------------------------------------------------------------------


def test_test_images_of_whole_classes_are_apart():
    """As in SalUn's protocol: they are in no part but one of their own, all others are where they were."""
    everything = split(DATA, forget_ratio=0.2)
    assert everything.test_of_forgotten is None and len(everything.test) == 30
    found = split(DATA, forget_classes=(1, 3))
    assert set(found.test_of_forgotten.labels.tolist()) == {1, 3} == set(found.forget.labels.tolist())
    assert set(found.test.labels.tolist()) == {0, 2, 4}
    assert sorted(shown(found.test) + shown(found.test_of_forgotten)) == list(range(200, 230))
    assert [200 + i for i in found.indices["test"].tolist()] == shown(found.test)
    assert found.to("cpu").test_of_forgotten.labels.tolist() == found.test_of_forgotten.labels.tolist()


def test_a_class_of_which_something_is_kept_stays_in_the_test_set(tmp_path):
    """Whether it was named by index or by class is all the same."""
    for kept, left in ((1, {0, 1, 2, 3, 4}), (0, {0, 2, 3, 4})):
        (tmp_path / "f").write_text("\n".join(str(i) for i in range(1, 100 - 5 * kept, 5)))
        found = split(DATA, forget_file=str(tmp_path / "f"), validation_size=4)
        if kept and 96 in found.indices["validation"]:
            continue
        assert set(found.test.labels.tolist()) == left


def test_without_a_test_image_of_a_class_that_is_kept_nothing_can_be_said():
    data = dataclasses.replace(DATA, test_images=DATA.test_images[1::5], test_labels=DATA.test_labels[1::5])
    with pytest.raises(ValueError, match="test_size must leave test images of classes that are kept"):
        split(data, forget_classes=(1,))


def pair(labels, right):
    """(probabilities, labels) of five classes, where those of the classes `right` are predicted and the others not."""
    labels = np.asarray(labels)
    return np.eye(5)[np.where(np.isin(labels, right), labels, (labels + 1) % 5)] * 0.9 + 0.02, labels


def test_a_perfect_forgetter_of_a_class_loses_no_accuracy_by_it():
    """TA, attack and AUC are of the other classes' images; the accuracy on the class's own is a figure of its own."""
    kept = [0, 2, 3, 4]
    found = {
        "retain": pair(kept * 10, kept),
        "test": pair(kept * 5, kept),
        "forget": pair([1] * 10, kept),
        "test_of_forgotten": pair([1, 1, 1, 1], kept),
    }
    values = measures.measure(found, 0)["metrics"]
    assert (values["TA"], values["FA"], values["TA_forgotten"]) == (100, 0, 0)
    without = {part: value for part, value in found.items() if part != "test_of_forgotten"}
    again = measures.measure(without, 0)["metrics"]
    assert again == {key: value for key, value in values.items() if key != "TA_forgotten"}
    proxy = measures.proxy({**without, "validation": pair([0, 1, 2, 3, 4] * 4, kept)}, 0)
    assert proxy["VA"] == 100
    some_kept = {**without, "retain": pair([0, 1, 2, 3, 4] * 10, kept)}
    assert measures.proxy({**some_kept, "validation": pair([0, 1, 2, 3, 4] * 4, kept)}, 0)["VA"] == 80


def test_the_proxys_targets_for_a_whole_class_are_what_retrain_shows():
    """Digits, class 3 and a few others: Retrain never predicts a class that it never saw, and the attack calls it
    unseen; beside that share FA and MIA are to be as those of unseen samples."""
    experiment = Digits(label_noise=0.0, train=TrainConfig(epochs=15))
    splits = experiment.split(None, 1)
    chosen = splits.train.labels == 3
    chosen[:100] = True
    splits = dataclasses.replace(splits, forget=splits.train[chosen], retain=splits.train[~chosen])
    with engine.one_thread():
        models = [engine.trained(experiment, splits, 1, name)[0] for name in ("original", "retrain")]
    parts = ("forget", "retain", "validation")
    original, retrain = (measures.proxy(measures.outputs(model, splits, parts), 1) for model in models)
    probabilities, labels = predictions(models[1], splits.forget)
    assert not (probabilities.argmax(axis=1) == 3).any()
    share = float((splits.forget.labels == 3).double().mean())
    targets = measures.proxy_targets(original)
    assert targets["FA"] == pytest.approx((1 - share) * original["VA"]) and 0.5 < share < 0.8
    assert retrain["FA"] == pytest.approx(targets["FA"], abs=2) and retrain["MIA"] == pytest.approx(
        targets["MIA"], abs=3
    )
    assert measures.proxy_average_gap(retrain, original) < 2 < 20 < measures.proxy_average_gap(original, original)


def test_unseen_samples_are_taken_in_the_classes_and_shares_of_what_is_to_be_forgotten():
    """As many as the scarcest class allows, and at least one of each."""
    unseen = torch.arange(50) % 5
    assert like(torch.tensor([3]), unseen).tolist() == list(range(3, 50, 5))
    chosen = like(torch.tensor([3, 1, 3, 3]), unseen)
    assert unseen[chosen].bincount(minlength=5).tolist() == [0, 3, 0, 10, 0] and chosen.tolist() == sorted(chosen)
    chosen = like(torch.tensor([0] * 99 + [4]), unseen)
    assert unseen[chosen].bincount(minlength=5).tolist() == [10, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="validation_size must leave an image of each class to forget.*class 7"):
        like(torch.tensor([1, 7]), unseen)


@pytest.mark.parametrize("request_", [{"forget_classes": (3,)}, {"forget_ratio": 0.2}])
def test_the_stop_rule_of_a_request_asks_unseen_samples_of_its_classes(request_, monkeypatch):
    """And of one by chance, as before, the first of all."""
    asked = []

    class Asked(EntropyStop):
        def __init__(self, model, forget_inputs, unseen_inputs, **options):
            asked.append(unseen_inputs)
            super().__init__(model, forget_inputs, unseen_inputs, **options)

    monkeypatch.setattr(engine, "EntropyStop", Asked)
    monkeypatch.setattr(engine, "unlearn", lambda *args, **others: [])
    info = dataclasses.replace(by_name.METHODS["oeu_stop"], make=lambda *args, **options: None)
    monkeypatch.setitem(by_name.METHODS, "oeu_stop", info)
    experiment = Experiment(**{"forget_ratio": None, "validation_size": 30, **request_})
    splits = experiment.split(DATA, 1)
    engine.unlearned(experiment, splits, 1, torch.nn.Identity(), "oeu_stop", None, 1)
    wanted = splits.validation.labels == 3 if "forget_classes" in request_ else slice(None)
    assert torch.equal(asked[0], splits.validation.inputs[wanted])


def test_a_stop_rule_that_has_nothing_to_do_says_so():
    """Once, at the first question; a run that reaches its end later says nothing."""
    model = torch.nn.Linear(2, 3)
    sure, unsure = torch.full((4, 2), 50.0), torch.zeros(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
        model.bias.zero_()
    with pytest.warns(UserWarning, match="nothing is to be done.*the same classes in the same shares"):
        assert EntropyStop(model, unsure, sure).reached()
    stop = EntropyStop(model, sure, unsure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not stop.reached()
        with torch.no_grad():
            model.weight.zero_()
        assert stop.reached()
        again = EntropyStop(model, unsure, sure)
        again.load_state_dict(stop.state_dict())
        assert again.reached()


FILES = {
    "plain": b"1\n2\n3\n",
    "Windows": b"\xef\xbb\xbf1\r\n2\r\n3\r\n",
    "PowerShell": "1\r\n2\r\n3\r\n".encode("utf-16"),
    "big-endian": b"\xfe\xff" + "1\n2\n3".encode("utf-16-be"),
    "without a mark": "1\n2\n3".encode("utf-16-le"),
    "commas": b"1,2, 3",
    "comments": b"# mine\n1 # the cat\n2\n\n03\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_forget_file_is_read_as_people_save_it(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert indices_of_file(tmp_path / "f", 100).tolist() == [1, 2, 3]


@pytest.mark.parametrize("word", ["100", "-1", "1.0", "1e1", "\u0661", "\u00b2", "9" * 5000, "[1]", ""])
def test_a_word_that_is_no_index_is_named(tmp_path, word):
    (tmp_path / "f").write_text(word, encoding="utf-8")
    with pytest.raises(ValueError, match="indices of training images, 0 to 99.*holds '") as caught:
        indices_of_file(tmp_path / "f", 100)
    assert (word or "none")[:40] in str(caught.value) and len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe1", b"\x80\x81"])
def test_a_forget_file_that_is_no_text_is_named(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match="forget_file must be a text file"):
        indices_of_file(tmp_path / "f", 100)


@pytest.mark.parametrize(
    "asked, names, numbers",
    [
        (("dog", "cat"), ("cat", "dog"), [1, 0]),
        ((1,), ("cat", "dog"), [1]),
        (("1",), ("cat", "dog"), [1]),
        ((2,), ("1", "2", "10"), [1]),
        (("10",), ("1", "2", "10"), [2]),
        ((0,), ("1", "2", "10"), [0]),
        (("02",), ("01", "02"), [1]),
    ],
)
def test_classes_go_by_name_and_else_by_number(asked, names, numbers):
    assert class_numbers(asked, names) == numbers


@pytest.mark.parametrize("word", ["horse", "-1", "", "1.5", "9" * 20])
def test_a_word_that_is_no_class_is_named_with_those_that_are(word):
    with pytest.raises(ValueError, match=f"names or numbers of classes, got {word!r}; there are 'cat', 'dog'"):
        class_numbers((word,), ("cat", "dog"))


@pytest.mark.parametrize("first", [0, 1])
def test_a_folder_of_a_numbered_class_is_the_one_that_is_forgotten(tmp_path, first):
    for part, count in (("train", 8), ("test", 2)):
        for c in range(first, 12):
            (tmp_path / "mine" / part / str(c)).mkdir(parents=True)
            for i in range(count):
                image = np.full((4, 4, 3), 20 * c + i, np.uint8)
                Image.fromarray(image).save(tmp_path / "mine" / part / str(c) / f"{i}.png")
    data = load_images("mine", tmp_path, cache_dir=tmp_path / "cache")
    for asked in (2, "2", 10):
        found = split(data, forget_classes=(asked,), validation_size=11)
        assert {i // 20 for i in shown(found.forget)} == {int(asked)}


# Exact copies

TWICE = images([*range(100), *range(100)], [*range(0, 10), *range(200, 230)])


def test_exact_copies_of_what_is_to_be_forgotten_are_counted():
    with pytest.warns(UserWarning, match="exact copies of what is to be forgotten are not: ") as caught:
        found = split(TWICE, forget_ratio=0.2)
    asked = set(shown(found.forget))
    counts = [sum(i in asked for i in shown(part)) for part in (found.retain, found.validation, found.test)]
    assert min(counts) > 0
    assert "{} in retain, {} in validation, {} in test".format(*counts) in str(caught[0].message)


def test_copies_are_forgotten_too_if_asked_for():
    with pytest.warns(UserWarning, match="exact copies"):
        plain = split(TWICE, seed=2, forget_ratio=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = split(TWICE, ForgettingCopies, seed=2, forget_ratio=0.2)
    asked = set(shown(found.forget))
    assert asked == set(shown(plain.forget)) and len(found.forget) > len(plain.forget)
    assert len(found.train) == len(plain.train) == len(found.forget) + len(found.retain)
    for part in ("retain", "validation", "test"):
        assert shown(getattr(found, part)) == [i for i in shown(getattr(plain, part)) if i not in asked]
        at = found.indices[part]
        assert (TWICE.test_images if part == "test" else TWICE.train_images)[at][:, 0, 0, 0].tolist() == shown(
            getattr(found, part)
        )


def test_without_copies_nothing_is_said_and_nothing_changes(recwarn):
    plain, found = split(DATA, forget_ratio=0.2), split(DATA, ForgettingCopies, forget_ratio=0.2)
    assert not recwarn.list
    assert all(torch.equal(plain.indices[part], found.indices[part]) for part in plain.indices)


def test_a_part_of_copies_alone_is_refused():
    data = images([*range(100)] * 2, [3, 3], label=lambda i: int(i == 3))
    with pytest.raises(ValueError, match="forget_copies must leave images for test"):
        split(dataclasses.replace(data, classes=("a", "b")), ForgettingCopies, forget_classes=(1,))


def test_a_plain_experiment_is_recorded_as_before():
    """Results of before there were copies to forget are still of this experiment."""
    assert "forget_copies" not in dataclasses.asdict(experiment_named("cifar10-10"))
    assert dataclasses.asdict(experiment_named("cifar10-10", forget_copies=True))["forget_copies"] is True


# The command line

SMALL = "run cifar10-10 --method ft --dataset mine --preset cpu --train-size 120 --validation-size 40 --test-size 30 "
SMALL += "--width 2 --epochs 1 --seeds 1 --jobs 1 --learning-rate 0.01 --weight 1 --steps 2"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with data in it, which is the working folder too."""
    rng, labels = np.random.default_rng(0), np.arange(240) % 3
    pixels = rng.integers(0, 256, (240, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels[:30], "y_test": labels[:30]}
    np.savez(tmp_path / "data" / "mine.npz", **arrays, classes=["cat", "dog", "cow"])
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.studies
def test_a_request_is_said_by_name_and_count_and_copies_can_go_too(home, capsys):
    command = [*SMALL.split(), "--forget-classes", "dog", "--data-root=~/data", "--out=~/results", "--forget-copies"]
    assert main(command) == 0
    said = capsys.readouterr().out
    document = json.loads((home / "results" / "run.json").read_text())
    count = len(json.loads((home / "results" / "seed-1" / "split.json").read_text())["forget"])
    assert f"to be forgotten: {count} of 120 training images, {count} of class 'dog' (1)" in said
    assert document["experiment"]["forget_classes"] == ["dog"] and document["experiment"]["forget_copies"] is True
    assert not (home / "~").exists()
    row = json.loads((home / "results" / document["rows"][0]["files"][0]).read_text())
    assert row["data"]["test_of_forgotten"] > 0 and 0 <= row["metrics"]["TA_forgotten"] <= 100
    table = (home / "results" / "report.md").read_text()
    assert "TA forgotten" in table and "Test images of forgotten classes are in no figure" in table
    assert main(command) == 0  # the cells are found again
    assert load_model(home / "results" / "seed-1" / "original.pt").training is False


@pytest.mark.reliability
def test_results_that_windows_wrote_are_read_elsewhere(home, capsys):
    assert main([*SMALL.split(), "--out", "out"]) == 0
    path = home / "out" / "run.json"
    document = json.loads(path.read_text())
    files = [*document["original"], *document["retrain"], *(file for row in document["rows"] for file in row["files"])]
    assert all("/" in file and "\\" not in file for file in files)

    def as_windows(value):
        if isinstance(value, list):
            return [as_windows(item) for item in value]
        return value.replace("/", "\\") if value in files else value

    document |= {key: as_windows(document[key]) for key in ("original", "retrain")}
    document["rows"] = [{**row, "files": as_windows(row["files"])} for row in document["rows"]]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert main(["report", "out"]) == 0


def test_numbers_of_classes_are_recorded_as_numbers():
    """As in results of before classes had names; 03 can only be a name."""
    assert [command._number_or_word(word, int | str) for word in ("3", "03", "cat", "\u0663")] == [
        3,
        "03",
        "cat",
        "\u0663",
    ]
