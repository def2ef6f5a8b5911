"""Checkpoints: what was saved comes back, what is not ours is named and left alone, and no code is ever run."""

import os
import pickle

import pytest
import torch

from oeu_ref.core.network import QuantMLP
from oeu_ref.core.stop_rule import EntropyStop
from oeu_ref.data.samples import Batches, Samples, digits, stream
from oeu_ref.lab.checkpoints import Checkpoint
from oeu_ref.lab.training import TrainConfig, UnlearnConfig, build, train, unlearn
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Settings


class Interrupted(Exception):
    pass


class Never(EntropyStop):
    """Measures, and goes on whatever it finds."""

    def reached(self):
        super().reached()
        return False


def small_model():
    return build(lambda: QuantMLP((64, 16, 10), batch_norm=True), 0)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_state_plain_data_and_notes_come_back(tmp_path):
    saved = Checkpoint(tmp_path / "a.pt", {"seed": 1})
    saved.notes = {"curve": [1.5, None]}
    model = small_model()
    saved.save(model=model, losses=[0.5])
    other = build(lambda: QuantMLP((64, 16, 10), batch_norm=True), 1)
    found = Checkpoint(tmp_path / "a.pt", {"seed": 1})
    assert found.restore(model=other) == {"losses": [0.5]}
    assert found.notes == {"curve": [1.5, None]}
    assert same(weights(other), weights(model))


def test_no_file_is_no_error(tmp_path):
    assert Checkpoint(tmp_path / "a.pt", {}).restore() is None
    Checkpoint(tmp_path / "a.pt", {}).discard()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "cannot be read"),
        (b"not a checkpoint", "cannot be read"),
        (pickle.dumps(Evil(), protocol=2), "cannot be read"),
        (lambda whole: whole[: len(whole) // 2], "cannot be read"),
        (lambda whole: whole[:-5], "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_left_alone(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    checkpoint = Checkpoint(path, {})
    checkpoint.save(model=small_model())
    content = content(path.read_bytes()) if callable(content) else content
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.pt must be a checkpoint of this run; it is left as it is.*{reason}"):
        checkpoint.restore(model=small_model())
    assert path.read_bytes() == content
    assert not (tmp_path / "evil-was-here").exists()


def test_a_pickle_inside_a_real_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "oeu_ref checkpoint 1", "identity": {}, "notes": Evil(), "state": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        Checkpoint(tmp_path / "a.pt", {}).restore()
    assert not (tmp_path / "evil-was-here").exists()


def test_a_foreign_checkpoint_is_refused_with_the_difference(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it is no 'oeu_ref checkpoint 1'"):
        Checkpoint(tmp_path / "a.pt", {}).restore()
    Checkpoint(tmp_path / "b.pt", {"seed": 1, "method": "oeu"}).save(model=small_model())
    with pytest.raises(ValueError, match=r"belongs to another run \(seed is 1, expected 2\)"):
        Checkpoint(tmp_path / "b.pt", {"seed": 2, "method": "oeu"}).restore(model=small_model())
    with pytest.raises(ValueError, match="it lacks optimizer"):
        Checkpoint(tmp_path / "b.pt", {"seed": 1, "method": "oeu"}).restore(optimizer=None)
    with pytest.raises(ValueError, match="its model does not fit"):
        Checkpoint(tmp_path / "b.pt", {"seed": 1, "method": "oeu"}).restore(model=QuantMLP((64, 10)))


def test_a_save_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "a.pt", {})
    checkpoint.save(losses=[1.0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(losses=[1.0, 0.5])
    assert checkpoint.restore() == {"losses": [1.0]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("done", range(1, 11))
def test_batches_go_on_where_they_stood(done):
    samples = Samples(torch.arange(7)[:, None], torch.arange(7))

    def noise(inputs, generator):
        return inputs + torch.rand(inputs.shape, generator=generator)

    whole = Batches(samples, 3, stream(0, "order"), noise)
    for _ in range(done):
        next(whole)
    again = Batches(samples, 3, stream(9, "another"), noise)
    again.load_state_dict(whole.state_dict())
    for _ in range(5):
        first, second = next(whole), next(again)
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_training_that_was_interrupted_ends_with_the_same_bits(tmp_path, epoch):
    samples, config = digits(0).train[:300], TrainConfig(epochs=4, batch_size=64)
    model = small_model()
    losses = train(model, samples, config, stream(0, "order"))

    def stop(done, loss):
        if done == epoch + 1:
            raise Interrupted

    first = small_model()
    with pytest.raises(Interrupted):
        train(first, samples, config, stream(0, "order"), stop, checkpoint=Checkpoint(tmp_path / "a.pt", {}))
    resumed, seen = small_model(), []
    found = train(
        resumed,
        samples,
        config,
        stream(0, "order"),
        lambda done, loss: seen.append(done),
        checkpoint=Checkpoint(tmp_path / "a.pt", {}),
    )
    assert seen == list(range(epoch + 1, 5))
    assert found == losses
    assert same(weights(resumed), weights(model))


@pytest.mark.parametrize("name", [*METHODS, "oeu with stop"])
def test_unlearning_that_was_interrupted_ends_with_the_same_bits(tmp_path, name):
    """Every method, stopped after 5 of 9 steps and gone on with from the checkpoint of step 4."""
    splits = digits(0)
    original = small_model()
    train(original, splits.train[:300], TrainConfig(epochs=2), stream(0, "order"))

    def run(checkpoint=None, on_step=None):
        model = small_model()
        model.load_state_dict(original.state_dict())
        method = METHODS[name.removesuffix(" with stop")].make(
            model, splits.forget, Settings(0.1, 0.5), stream(0, "method")
        )
        stop = None
        if name.endswith("stop"):
            stop = Never(model, splits.forget.inputs, splits.test.inputs, every=3)
        generators = stream(0, "forget"), stream(0, "retain")
        reports = unlearn(
            method,
            splits.forget,
            splits.retain,
            9,
            UnlearnConfig(32, 32, "cosine", True),
            generators,
            None if stop is None else stop.reached,
            on_step,
            checkpoint=checkpoint,
            save_every=2,
        )
        return reports, weights(model)

    def interrupt(done, report):
        if done == 5:
            raise Interrupted

    expected = run()
    with pytest.raises(Interrupted):
        run(Checkpoint(tmp_path / "a.pt", {}), interrupt)
    seen = []
    found = run(Checkpoint(tmp_path / "a.pt", {}), lambda done, report: seen.append(done))
    assert seen == [5, 6, 7, 8, 9]
    assert found[0] == expected[0]
    assert same(found[1], expected[1])


def test_the_state_is_saved_after_each_save_every_steps_and_at_no_other(tmp_path):
    """A checkpoint of a large network takes longer than a step."""

    class Noting(Checkpoint):
        def save(self, **parts):
            super().save(**parts)
            saved.append(len(parts["reports"]))

    splits = digits(0)
    for every, expected in ((3, [3, 6]), (7, [7]), (8, []), (1, [1, 2, 3, 4, 5, 6, 7])):
        saved, model = [], small_model()
        method = METHODS["ft"].make(model, splits.forget, Settings(0.1), stream(0, "method"))
        generators, checkpoint = (stream(0, "forget"), stream(0, "retain")), Noting(tmp_path / f"{every}.pt", {})
        data, config = (splits.forget, splits.retain), UnlearnConfig(8, 8)
        unlearn(method, *data, 7, config, generators, checkpoint=checkpoint, save_every=every)
        assert saved == expected


def test_the_stop_rule_goes_on_counting(tmp_path):
    model, splits = small_model(), digits(0)
    whole = EntropyStop(model, splits.forget.inputs, splits.test.inputs, every=3)
    for _ in range(4):
        whole.reached()
    assert len(whole.history) == 2
    again = EntropyStop(model, splits.forget.inputs, splits.test.inputs, every=3)
    again.load_state_dict(whole.state_dict())
    assert again.history == whole.history
    again.reached(), again.reached()
    assert len(again.history) == 2
    again.reached()
    assert len(again.history) == 3
