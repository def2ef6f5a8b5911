"""Does what was forgotten stay forgotten? The study that trains unlearned networks on."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from oeu_ref.audit import relearn, relearn_views
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab import engine, measures
from oeu_ref.lab.experiment import Digits
from oeu_ref.lab.study import Work, interval, run
from oeu_ref.lab.training import TrainConfig, predictions
from oeu_ref.report import results

LOOKS = (0, 1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def memorized():
    """A network that memorized, and one that never knew."""
    with engine.one_thread():
        return engine.prepare(2, Digits(train=TrainConfig(epochs=60)))


def hiding(model):
    """A copy of a network that says "0" far more often: of what it knows nothing is lost."""
    hidden = copy.deepcopy(model)
    with torch.no_grad():
        hidden.layers[-1].bias[0] += 10
    return hidden


def test_a_network_that_merely_hides_relearns_at_once_and_retrain_does_not(memorized):
    """Only one bias of the first is changed: the retain set brings its samples back, wrong labels too."""
    look, splits = relearn.Look(memorized), memorized.splits
    original, hidden = look(memorized.original), hiding(memorized.original)
    assert look(hidden)["FA"] < 75 and original["FA"] > 95 and original["FA wrong"] > 90
    hides, never = (
        relearn.relearned(memorized, model, splits.retain, 0.03, LOOKS, look) for model in (hidden, memorized.retrain)
    )
    steps = [relearn_views.half_way(LOOKS, curve["FA"], original["FA"]) for curve in (hides, never)]
    assert steps[0] is not None and 0 < steps[0] <= 8 and steps[1] is None
    assert max(hides["FA wrong"]) > 50 > 20 > max(never["FA wrong"])


def test_wrong_labels_are_those_that_the_noise_made(memorized):
    """A fifth of the labels, or so; who predicts the truth has all others right and none of them."""
    from sklearn.datasets import load_digits

    look, forget = relearn.Look(memorized), memorized.splits.forget
    assert 0.1 < look.wrong.mean() < 0.3
    truth = load_digits(return_X_y=True)[1]
    at = {tuple(image.flatten().tolist()): label for image, label in zip(load_digits().images / 16, truth)}

    class Knowing(torch.nn.Module):
        def forward(self, inputs):
            labels = [int(at.get(tuple(x.tolist()), 0)) for x in inputs]
            return 9.0 * torch.nn.functional.one_hot(torch.tensor(labels), 10)

    found = look(Knowing())
    assert (found["FA wrong"], found["FA right"]) == (0, 100)
    assert found["FA"] == pytest.approx(100 * (1 - look.wrong.mean())) and len(look.wrong) == len(forget)


@pytest.mark.parametrize(
    "values, original, steps",
    [
        ([60, 70, 79, 80, 90], 100, 3),
        ([60, 60, 60, 60, 79.9], 100, None),
        ([60, 80, 60, 60, 60], 100, 1),
        ([98, 90, 90, 90, 90], 97, 0),
        ([60, 60, 60, 60, 80], 100, 8),
    ],
)
def test_steps_until_half_way_on_curves_made_by_hand(values, original, steps):
    """The first look at the mean of where it began and of the original, reached; 0 where nothing was forgotten."""
    assert relearn_views.half_way((0, 1, 2, 3, 8), values, original) == steps


def test_distances_against_a_direct_count(memorized):
    """Of one network with a weight moved by two steps and a code of the first layer moved, which does not count."""
    other = copy.deepcopy(memorized.original)
    layer, first = other.layers[1], other.layers[0]
    step = layer.weight_quantizer.magnitude.item()
    codes = layer.weight_quantizer.codes(layer.weight)
    i, j = (codes == 0).nonzero()[0].tolist()
    before = layer.weight[i, j].item()
    with torch.no_grad():
        layer.weight[i, j] = 2 * step
        first.weight[0, 0] += 0.5
    found = relearn.distances(memorized.original, other)
    assert found["codes"] == 2
    assert found["latent"] == pytest.approx(np.hypot(2 * step - before, 0.5))
    assert relearn.distances(memorized.original, memorized.original) == {"latent": 0, "codes": 0}
    pairs = [(m.layers[1].weight_quantizer.codes(m.layers[1].weight)) for m in (memorized.original, memorized.retrain)]
    direct = np.sqrt(sum((int(a) - int(b)) ** 2 for a, b in zip(pairs[0].flatten(), pairs[1].flatten())))
    assert relearn.distances(memorized.original, memorized.retrain)["codes"] == pytest.approx(direct)


class Line(torch.nn.Module):
    """Two classes; the first's logit is the weight's square, whatever the input."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(weight)))

    def forward(self, inputs):
        return torch.stack([self.weight**2, torch.tensor(0.0)]).expand(len(inputs), 2)


def test_the_barrier_is_the_rise_above_the_chord():
    """Half-way from -2 to 2 lies 0, log 2 against log(1 + exp(-4)); from 2 to -1 the chord slopes; with itself: 0."""
    parts = {"retain": Samples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))}
    loss = lambda weight: np.log1p(np.exp(-(weight**2)))
    assert relearn.barrier(Line(-2), Line(2), parts)["retain"] == pytest.approx(np.log(2) - loss(2), rel=1e-6)
    at = np.linspace(0, 1, 11)
    slanted = max(loss(2 - 3 * at) - (loss(2) + at * (loss(1) - loss(2))))
    assert relearn.barrier(Line(2), Line(-1), parts)["retain"] == pytest.approx(slanted, rel=1e-5)
    assert relearn.barrier(Line(0.3), Line(0.3), parts)["retain"] == pytest.approx(0, abs=1e-12)


def test_the_line_ends_in_both_networks_statistics_and_steps_too(memorized):
    """Two points are its ends: both on the chord, and so no barrier; with itself none on any number of points."""
    parts = {part: getattr(memorized.splits, part) for part in ("retain", "forget")}
    assert relearn.barrier(memorized.original, memorized.retrain, parts, points=2) == {"retain": 0, "forget": 0}
    between = relearn.barrier(memorized.original, memorized.retrain, parts, points=3)
    middle, ends = copy.deepcopy(memorized.original), (memorized.original.state_dict(), memorized.retrain.state_dict())
    halves = {n: (a + b) / 2 if a.is_floating_point() else a for n, a, b in zip(ends[0], *map(dict.values, ends))}
    middle.load_state_dict(halves)
    networks = (memorized.original, middle, memorized.retrain)
    for part, samples in parts.items():
        first, half, last = (measures.mean_loss(*predictions(m, samples)) for m in networks)
        assert between[part] == pytest.approx(half - (first + last) / 2, rel=1e-4) and between[part] > 0.5
    itself = relearn.barrier(memorized.original, memorized.original, parts)
    assert itself == pytest.approx({"retain": 0, "forget": 0}, abs=1e-9)


def test_nothing_happens_to_the_network_handed_in(memorized):
    """Neither trained on, nor quantized anew, nor on a line does it change; the forget set is never drawn from."""
    model, splits = copy.deepcopy(memorized.original), memorized.splits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve = relearn.relearned(memorized, model, splits.retain, 0.1, (0, 2), relearn.Look(memorized))
    assert curve["AUC"][0] != curve["AUC"][1]
    relearn.requantized(model, splits.retain.inputs[:64])
    relearn.barrier(model, memorized.retrain, {"retain": splits.retain})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training and [layer.weight_quantizer.bits for layer in model.layers] == [8, 4, 8]


def test_a_change_of_bits_and_back(memorized):
    """In between 8 bits, afterwards 4 from those 8 alone; the steps are set anew, BatchNorm's statistics stay."""
    model, inputs = memorized.original, memorized.splits.retain.inputs[:128]
    wide, back = relearn.requantized(model, inputs)
    middles = [m.layers[1] for m in (model, wide, back)]
    assert [m.weight_quantizer.bits for m in middles] == [4, 8, 4]
    assert [m.activation_quantizer.bits for m in middles] == [4, 8, 4]
    assert [m.weight_quantizer.range for m in middles[1:]] == [(-128, 127), (-8, 7)]
    on_grid = middles[1].weight_quantizer(middles[1].weight)
    assert torch.equal(middles[2].weight, on_grid) and not torch.equal(middles[0].weight, on_grid)
    step = 2 * on_grid.abs().mean() / 7**0.5  # LSQ's, of the 8-bit values
    assert middles[2].weight_quantizer.magnitude.item() == pytest.approx(step.item(), rel=1e-5)
    for one, other in zip(model.norms, back.norms):
        assert torch.equal(one.running_mean, other.running_mean) and not other.training
    assert back.layers[0].weight_quantizer.magnitude == model.layers[0].weight_quantizer.magnitude


def test_shuffled_pixels_are_the_same_pixels():
    """In one order for all samples, and of images for all channels."""
    flat = Samples(torch.arange(6.0).reshape(2, 3), torch.zeros(2, dtype=torch.int64))
    image = Samples(torch.arange(24).reshape(2, 3, 2, 2), torch.zeros(2, dtype=torch.int64))
    for samples in (flat, image):
        found = relearn.shuffled(samples, stream(1, "pixels")).inputs
        planes = [x.flatten(-2) if x.ndim > 2 else x for x in (samples.inputs, found)]
        order = [
            (planes[0].reshape(-1, planes[0].shape[-1])[0] == v).nonzero().item()
            for v in planes[1].reshape(-1, planes[1].shape[-1])[0]
        ]
        assert order != sorted(order) and torch.equal(planes[1], planes[0][..., order])


def test_rank_correlation_and_interval_on_cases_made_by_hand():
    """Order alone counts, infinity is the largest, equals share a rank; the interval is Student's."""
    assert relearn_views.rank_correlation([1, 2, 30], [5, 6, np.inf]) == pytest.approx(1)
    assert relearn_views.rank_correlation([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert relearn_views.rank_correlation([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(2 / np.sqrt(5))
    assert relearn_views.rank_correlation([1, 2], [3, 3]) is None
    middle, half = interval([1.0, 2.0, 3.0])
    assert middle == 2 and half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick run on two seeds."""
    return run(relearn, tmp_path_factory.mktemp("relearn"), seeds=(1, 2), quick=True, progress=False)


def test_the_tables_are_made_of_the_json_alone(written):
    data = results.read_json(written["json"])
    assert relearn.markdown(data) == written["table"] and written["picture"] is not None
    assert set(data["runs"][0]["rows"]) == set(data["labels"])
    data["runs"][0]["rows"]["ga"] = None
    assert "GA (gradient ascent) (1 diverged)" in relearn.markdown(data) and relearn.figure(data) is not None
    data["runs"][1]["rows"]["ga"] = None
    assert "GA (gradient ascent) (2 diverged) |          – |" in relearn.markdown(data)


def test_on_images_each_network_is_trained_on_and_what_is_finished_is_read(tmp_path, tiny, monkeypatch):
    """What a part holds is what the network shows, looked at before anything is done to it; a part that is missing is
    made anew, to the same figures, and its networks are not."""
    experiment, runner = tiny(tmp_path)
    how = {"seeds": (1,), "quick": True, "progress": False, "experiment": experiment, "runner": runner}
    data = results.read_json(run(relearn, tmp_path, **how)["json"])
    before, parts = data["runs"][0]["rows"], tmp_path / "relearn-quick"
    assert list(before) == [*relearn.TRAINED, *relearn.IMAGE_METHODS] and "FA wrong" not in before["oeu"]["now"]
    assert list(before["oeu"]["curves"]) == list(relearn.IMAGE_WAYS) and data["config"]["looks"] == [0, 4, 16]
    work = Work(dataclasses.replace(experiment, epochs=1), None, runner)
    assert before["retrain"]["now"] == relearn.Look(work.case(1))(work.network(1, "retrain"))
    assert before["again"]["now"] == relearn.Look(work.case(1))(work.network(1, "retrain again"))
    assert before["again"]["latent"] != before["retrain"]["latent"]
    (parts / "seed-1-oeu.json").unlink()
    made = []
    monkeypatch.setattr(engine, "trained", lambda *_, **__: pytest.fail("a network was trained again"))
    monkeypatch.setattr(relearn, "_row", lambda *given, row=relearn._row: made.append(given[2]) or row(*given))
    rows = results.read_json(run(relearn, tmp_path, **how)["json"])["runs"][0]["rows"]
    assert made == ["oeu"] and {**rows["oeu"], "seconds": 0} == {**before["oeu"], "seconds": 0}
