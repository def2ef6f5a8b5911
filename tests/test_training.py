"""Data, training, the unlearning loop and evaluation."""

import math

import numpy as np
import pytest
import torch

from oeu_ref.core.network import QuantMLP
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import (
    Batches,
    Samples,
    class_indices,
    digits,
    forget_split,
    other_labels,
    split_at,
    stream,
    with_label_noise,
)
from oeu_ref.lab.training import TrainConfig, UnlearnConfig, as_left, build, predictions, probabilities, train, unlearn


def small_model(seed=0):
    return build(lambda: QuantMLP((64, 16, 10), batch_norm=True), seed)


def numbered(count):
    """Samples whose input and label is their own number: what becomes of each can be followed."""
    return Samples(torch.arange(float(count))[:, None], torch.arange(count))


def test_digits_splits_are_disjoint_and_cover_the_data_set_once():
    """Forget, retain, validation and test together are the 1,797 images, each once."""
    from sklearn.datasets import load_digits

    splits = digits(3)
    parts = [splits.forget, splits.retain, splits.validation, splits.test]
    assert [len(part) for part in parts] == [126, 1131, 180, 360]
    together = np.concatenate([part.inputs.numpy() for part in parts])
    everything = (load_digits().data / 16).astype(np.float32)
    assert np.array_equal(together[np.lexsort(together.T)], everything[np.lexsort(everything.T)])


def test_digits_forget_and_retain_are_the_training_samples_at_the_indices_given():
    splits = digits(3)
    kept = np.setdiff1d(np.arange(len(splits.train)), splits.forget_indices)
    for part, indices in ((splits.forget, splits.forget_indices), (splits.retain, torch.as_tensor(kept))):
        assert torch.equal(part.inputs, splits.train.inputs[indices])
        assert torch.equal(part.labels, splits.train.labels[indices])


def test_digits_label_noise_is_in_the_training_labels_alone():
    """The noise changes its share of the training labels, exactly, and nothing else."""
    noisy, clean = digits(3, label_noise=0.2), digits(3, label_noise=0)
    assert (noisy.train.labels != clean.train.labels).sum() == round(0.2 * len(noisy.train))
    for part in ("validation", "test"):
        assert torch.equal(getattr(noisy, part).labels, getattr(clean, part).labels)
    assert torch.equal(noisy.forget_indices, clean.forget_indices)


def test_digits_are_a_function_of_the_seed():
    first, again, other = digits(3), digits(3), digits(4)
    for part in ("train", "forget", "retain", "validation", "test"):
        assert torch.equal(getattr(first, part).inputs, getattr(again, part).inputs)
        assert torch.equal(getattr(first, part).labels, getattr(again, part).labels)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_forget_samples_are_drawn_from_everywhere():
    """Over 400 splits each of 10 samples is forgotten as often as any other: 120 times, five standard deviations."""
    drawn = torch.cat([forget_split(numbered(10), 0.3, stream(seed, "forget"))[2] for seed in range(400)])
    assert ((torch.bincount(drawn, minlength=10) - 120).abs() < 5 * (400 * 0.3 * 0.7) ** 0.5).all()


def test_split_at_forgets_what_it_is_told_in_any_order():
    forget, retain, indices = split_at(numbered(6), torch.tensor([4, 1]))
    assert forget.labels.tolist() == indices.tolist() == [1, 4]
    assert retain.labels.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(
    "indices, message",
    [
        ([6], r"lie in \[0, 6\).*got 6"),
        ([-1], "got -1"),
        ([2, 3, 2], "got 2 more than once"),
        (range(6), "got all 6"),
    ],
)
def test_split_at_refuses_indices_that_are_none(indices, message):
    with pytest.raises(ValueError, match=message):
        split_at(numbered(6), torch.tensor(list(indices)))


@pytest.mark.parametrize("indices", [[], [[1]], [1.0], [True, False]])
def test_split_at_refuses_what_are_no_indices(indices):
    with pytest.raises(TypeError, match="indices must be integers"):
        split_at(numbered(6), torch.tensor(indices))


def test_class_indices_find_every_sample_of_the_classes():
    labels = torch.tensor([2, 0, 1, 2, 0])
    assert class_indices(labels, [0, 2]).tolist() == [0, 1, 3, 4]
    for wrong in ([3], [], [0, 0]):
        with pytest.raises(ValueError, match="classes must"):
            class_indices(labels, wrong)
    with pytest.raises(TypeError, match="classes"):
        class_indices(labels, ["0"])


def test_label_noise_is_uniform_over_the_other_classes():
    """Each wrong class is hit equally often: 9,000 draws, 1,000 expected for each, five standard deviations allowed."""
    labels = torch.full((9000,), 3)
    counts = torch.bincount(with_label_noise(labels, 1.0, 10, stream(0, "noise")), minlength=10)
    assert counts[3] == 0
    others = counts[torch.arange(10) != 3]
    assert ((others - 1000).abs() < 5 * (9000 * (1 / 9) * (8 / 9)) ** 0.5).all()


def test_other_labels_never_are_the_labels():
    labels = torch.arange(1000) % 2
    assert torch.equal(other_labels(labels, 2, stream(0, "x")), 1 - labels)


def test_streams_differ_by_name_and_by_seed_and_repeat():
    draws = [torch.rand(4, generator=stream(*key)) for key in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_a_pass_of_batches_shows_no_sample_twice_and_passes_differ():
    source = Batches(numbered(10), 3, stream(0, "order"))
    first, second = ([next(source).labels for _ in range(3)] for _ in range(2))
    for one_pass in (first, second):
        assert [len(batch) for batch in one_pass] == [3, 3, 3]
        assert len(set(torch.cat(one_pass).tolist())) == 9
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_training_lowers_the_loss_and_is_reproducible_to_the_bit():
    """The same seeds give the same weights, whatever the global generator holds, which is left as it was."""
    samples = digits(0).train
    weights, losses = [], []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = small_model()
        losses.append(train(model, samples, TrainConfig(epochs=3), stream(0, "order")))
        weights.append([p.detach() for p in model.parameters()])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights))


def test_training_is_nesterov_sgd_with_a_one_cycle_rate_and_one_momentum():
    """Worked out apart from it on a linear model: the rate climbs along a cosine from 1/25 of its peak over the first
    three tenths of the steps and falls to 1/10,000 of where it began, momentum stays, weights decay; an epoch's loss is
    the mean over its steps."""
    config = TrainConfig(epochs=7, batch_size=8, learning_rate=0.4, momentum=0.8, weight_decay=0.05)
    samples = Samples(torch.rand(8, 3, generator=stream(0, "x")).double(), torch.arange(8) % 4)
    model = build(lambda: torch.nn.Linear(3, 4), 0).double()
    weights, velocity = [p.detach().clone() for p in model.parameters()], [0.0, 0.0]
    losses = train(model, samples, config, stream(0, "order"))
    peak, first, last, turn = 0.4, 0.4 / 25, 0.4 / 25 / 1e4, 0.3 * 7 - 1
    for step in range(7):
        start, end, share = (first, peak, step / turn) if step <= turn else (peak, last, (step - turn) / (6 - turn))
        rate = end + (start - end) / 2 * (1 + math.cos(math.pi * share))
        weights = [w.requires_grad_() for w in weights]
        loss = torch.nn.functional.cross_entropy(samples.inputs @ weights[0].T + weights[1], samples.labels)
        assert losses[step] == pytest.approx(loss.item(), rel=1e-12)
        grads = [g + 0.05 * w.detach() for g, w in zip(torch.autograd.grad(loss, weights), weights)]
        velocity = [0.8 * v + g for v, g in zip(velocity, grads)]
        weights = [w.detach() - rate * (g + 0.8 * v) for w, g, v in zip(weights, grads, velocity)]
    for found, expected in zip(model.parameters(), weights):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-12)


def test_an_epochs_loss_is_the_mean_over_its_steps():
    """At a rate that moves nothing it is the loss on all samples, in however many batches of one size they come."""
    samples, model = digits(0).train[:96], build(lambda: torch.nn.Linear(64, 10), 0)
    expected = torch.nn.functional.cross_entropy(model(samples.inputs), samples.labels).item()
    for size in (96, 32, 8):
        config = TrainConfig(epochs=2, batch_size=size, learning_rate=1e-12, weight_decay=0.0)
        assert train(model, samples, config, stream(0, "order")) == pytest.approx([expected] * 2, rel=1e-5)


def test_training_works_with_fewer_samples_than_a_batch():
    model = small_model()
    assert len(train(model, digits(0).train[:20], TrainConfig(epochs=2), stream(0, "order"))) == 2
    assert not model.training


def test_training_stops_at_a_loss_that_is_not_finite():
    model = small_model()
    with torch.no_grad():
        model.layers[-1].bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="training loss"):
        train(model, digits(0).train[:40], TrainConfig(epochs=2), stream(0, "order"))


def test_probabilities_are_those_of_eval_mode_and_leave_the_model_alone():
    """One row a sample, whatever the batch size; BatchNorm's statistics and the mode stay."""
    samples = digits(0).test
    model = small_model()
    train(model, digits(0).train, TrainConfig(epochs=1), stream(0, "order"))
    with torch.no_grad():
        expected = model(samples.inputs).double().softmax(1).numpy()
    model.train()
    buffers = [b.clone() for b in model.buffers()]
    values, labels = predictions(model, samples, batch_size=7)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert values.dtype == np.float64 and np.array_equal(labels, samples.labels.numpy())
    assert model.training and all(torch.equal(a, b) for a, b in zip(buffers, model.buffers()))


def test_probabilities_name_logits_that_are_not_finite():
    with pytest.raises(NonFiniteError, match="logits"):
        probabilities(torch.nn.Linear(2, 2), torch.full((1, 2), torch.inf))


class Recorder:
    """A method that does nothing but note what it is given."""

    def __init__(self):
        self.model, self.seen = torch.nn.Linear(1, 2), []

    def relabel(self, forget):
        return Samples(forget.inputs, forget.labels + 100)

    def step(self, forget, retain):
        self.seen.append((forget, retain))
        return len(self.seen)


def run_loop(method, steps=5, schedule="constant", recalibrated=False, **options):
    generators, config = (stream(0, "forget"), stream(0, "retain")), UnlearnConfig(3, 5, schedule, recalibrated)
    return unlearn(method, numbered(6), numbered(20), steps, config, generators, **options)


def test_the_loop_hands_relabelled_forget_batches_and_untouched_retain_batches():
    method = Recorder()
    assert run_loop(method) == [1, 2, 3, 4, 5]
    for forget, retain in method.seen:
        assert len(forget) == 3 and torch.equal(forget.labels, forget.inputs[:, 0].long() + 100)
        assert len(retain) == 5 and torch.equal(retain.labels, retain.inputs[:, 0].long())
    assert not method.model.training


def test_the_loop_asks_the_stop_rule_before_each_step():
    """A rule that is fulfilled after two steps ends the loop there; one that is fulfilled at once lets no step pass."""
    method = Recorder()
    assert run_loop(method, stop=lambda: len(method.seen) == 2) == [1, 2]
    assert run_loop(Recorder(), stop=lambda: True) == []


class Rates(Recorder):
    """A method that notes its optimizer's learning rates, of two groups."""

    def __init__(self):
        super().__init__()
        parts = [{"params": [p], "lr": rate} for p, rate in zip(self.model.parameters(), (0.4, 0.2))]
        self.optimizer, self.rates = torch.optim.SGD(parts), []

    def step(self, forget, retain):
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])
        return super().step(forget, retain)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25]), ("cosine", [1, 0.853553, 0.5, 0.146447])],
)
def test_the_learning_rate_follows_its_schedule_and_is_put_back(schedule, factors):
    """In each group the first of four steps has the whole rate, a fifth would have none of one that falls."""
    method = Rates()
    run_loop(method, steps=4, schedule=schedule)
    np.testing.assert_allclose(method.rates, np.outer(factors, (0.4, 0.2)), rtol=1e-5)
    assert [group["lr"] for group in method.optimizer.param_groups] == [0.4, 0.2]


def test_a_rate_that_falls_wants_an_optimizer():
    with pytest.raises(TypeError, match="method must have an optimizer for a learning rate that falls, got Recorder"):
        run_loop(Recorder(), schedule="linear")


def test_the_shorter_runs_are_in_the_longest_one_unless_the_rate_falls():
    assert UnlearnConfig().runs((2, 4)) == [(2, 4)]
    assert UnlearnConfig(schedule="cosine").runs((2, 4)) == [(2,), (4,)]


@pytest.mark.parametrize("recalibrated", [True, False])
def test_statistics_are_estimated_anew_after_the_last_step_where_that_is_asked_for(recalibrated):
    """Of the retain set; a run without a step leaves them, and so does one that is only looked at on its way."""
    method = Recorder()
    method.model, retain = torch.nn.BatchNorm1d(1), numbered(20)
    config = UnlearnConfig(3, 5, recalibrated=recalibrated)
    with as_left(method.model, retain, config):
        assert (method.model.running_mean.item() == pytest.approx(retain.inputs.mean().item())) == recalibrated
    run_loop(method, steps=0, recalibrated=recalibrated)
    assert (method.model.running_mean.item(), method.model.running_var.item()) == (0, 1)
    run_loop(method, steps=1, recalibrated=recalibrated)
    assert (method.model.running_mean.item() == pytest.approx(retain.inputs.mean().item())) == recalibrated
    assert not method.model.training


def test_the_loop_reports_each_step():
    calls = []
    run_loop(Recorder(), steps=2, on_step=lambda *call: calls.append(call))
    assert calls == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: digits(-1), ValueError, "seed"),
        (lambda: digits("1"), TypeError, "seed"),
        (lambda: digits(0, label_noise=1.5), ValueError, "share"),
        (lambda: digits(0, forget_share=0), ValueError, "share"),
        (lambda: digits(0, forget_share=1), ValueError, "share"),
        (lambda: digits(0, test_size=1700), ValueError, "test_size"),
        (lambda: digits(0, validation_size=0), ValueError, "validation_size"),
        (lambda: forget_split(numbered(4), 0.01, stream(0, "x")), ValueError, "share"),
        (lambda: Samples(torch.zeros(2, 1), torch.zeros(3, dtype=torch.int64)), ValueError, "labels"),
        (lambda: Samples(torch.zeros(2, 1), torch.zeros(2)), TypeError, "labels"),
        (lambda: next(Batches(numbered(0), 1, stream(0, "x"))), ValueError, "samples"),
        (lambda: TrainConfig(epochs=0), ValueError, "epochs"),
        (lambda: TrainConfig(learning_rate=0), ValueError, "learning_rate"),
        (lambda: TrainConfig(batch_size=1.5), TypeError, "batch_size"),
        (lambda: run_loop(Recorder(), steps=-1), ValueError, "steps"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
