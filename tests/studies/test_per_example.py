"""An attack that knows the sample: the attack itself, on planted cases and written a second time, and the study."""

import copy
import math
import statistics

import numpy as np
import pytest
import torch

from oeu_ref.audit import likelihood_ratio, per_example
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.lab import engine, search
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.study import Work, run
from oeu_ref.report import results

EVERYONE = {"all": np.ones(60, dtype=bool)}


def memberships(generator, models=32, samples=60):
    """Halves of the samples, drawn for each block."""
    first = np.stack([generator.permutation(samples) < samples // 2 for _ in range(models // 2)])
    return np.stack([first, ~first], axis=1).reshape(models, samples)


def values(generator, models=32, samples=60):
    """Confidences that know nothing of membership, each sample with a mean and spread, each model with a whim."""
    spread, whim = generator.gamma(2.0, 1.0, samples), generator.normal(size=(models, 1))
    return 3 * generator.normal(size=samples) + spread * (generator.standard_t(4, (models, samples)) + whim)


def test_where_membership_is_random_the_attack_gives_chance():
    """Over many draws each measure is right on average and its interval mostly holds it; with no more than the judged
    model left out of the fits, as one would do first, the AUC of a sample falls below chance."""
    generator, found, naive = np.random.default_rng(0), [], []
    for _ in range(40):
        members, confidences = memberships(generator), values(generator)
        found.append(likelihood_ratio.judged(confidences, members, (0.05,), EVERYONE, draws=200)["all"])
        alone = np.stack([_only_left_out(confidences, members, m) for m in range(len(members))])
        naive.append(100 * likelihood_ratio.wins(alone, members).mean())
    for key, chance in (("sample auc", 50), ("tpr", 5)):
        measured = np.array([np.ravel(one[key]) for one in found])
        assert abs(measured[:, 0].mean() - chance) < 4 * measured[:, 0].std() / len(measured) ** 0.5
        covered = (measured[:, 1] <= chance) & (chance <= measured[:, 2])
        assert covered.sum() >= 31  # 35 is what nine in ten would be; fewer than 31 has a probability of 1 %
    assert np.mean(naive) < 45


def _only_left_out(confidences, members, m):
    others = np.delete(np.arange(len(members)), m)
    (a, b), (c, d) = (likelihood_ratio.gaussians(confidences[others], s[others]) for s in (members, ~members))
    return (confidences[m] - c) ** 2 / d + np.log(d) - (confidences[m] - a) ** 2 / b - np.log(b)


def test_a_planted_memorizer_is_found_and_the_other_samples_are_not():
    """Six of sixty samples keep a higher confidence where they were forgotten: few false positives, and by name."""
    generator = np.random.default_rng(1)
    members, planted = memberships(generator, 64), np.arange(60) < 6
    confidences = generator.normal(size=members.shape) + 5 * (planted & members)
    groups = {**EVERYONE, "planted": planted, "others": ~planted}
    found = likelihood_ratio.judged(confidences, members, (0.01,), groups, draws=200)
    assert found["planted"]["sample auc"][0] > 97 and found["planted"]["sample auc"][1] > 95
    assert found["others"]["sample auc"][1] < 50 < found["others"]["sample auc"][2]
    assert 8 < found["all"]["tpr"][0][0] < 13  # a tenth of the forgotten, and next to none of the others
    assert found["planted"]["shift"][1] > 3 and found["others"]["shift"][1] < 0 < found["others"]["shift"][2]
    assert found["planted"]["klom"][0] > 10 * found["others"]["klom"][0] and found["planted"]["F"][0] < 0.1
    assert np.mean(found["planted"]["aucs"]) == pytest.approx(found["planted"]["sample auc"][0])


def test_the_attack_agrees_with_the_same_thing_written_in_loops_from_stored_logits():
    """Confidences, scores, TPR and AUC of a sample, with Python's own normal distribution."""
    generator = np.random.default_rng(2)
    members, labels = memberships(generator, 8, 10), generator.integers(0, 4, 10)
    logits = generator.normal(size=(8, 10, 4)) + members[:, :, None] * generator.normal(size=(10, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    confidences = np.stack([likelihood_ratio.logit_confidence(one, labels) for one in p])
    expected = np.empty((8, 10))
    for m in range(8):
        for n in range(10):
            phi = [math.log(p[k, n, labels[n]] / (1 - p[k, n, labels[n]])) for k in range(8)]
            assert confidences[m, n] == pytest.approx(phi[m])
            sides = [[phi[k] for k in range(8) if k // 2 != m // 2 and members[k, n] == side] for side in (True, False)]
            forgot, unseen = (statistics.NormalDist.from_samples(side) for side in sides)
            logs = [-(fit.zscore(phi[m]) ** 2) / 2 - math.log(fit.stdev) for fit in (forgot, unseen)]
            expected[m, n] = logs[0] - logs[1]
    scores = likelihood_ratio.likelihood_ratios(confidences, members, floor=0)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    never = sorted((expected[m, n] for m in range(8) for n in range(10) if not members[m, n]), reverse=True)
    forgotten = [expected[m, n] for m in range(8) for n in range(10) if members[m, n]]
    for rate, threshold in ((0.1, never[4]), (0.024, never[0]), (0.5, never[20])):
        share = 100 * sum(score > threshold for score in forgotten) / len(forgotten)
        assert likelihood_ratio.true_positive_rates(scores, members, (rate,)) == pytest.approx(share)
    auc = []
    for n in range(10):
        forgot = [2 * b + (not members[2 * b, n]) for b in range(4)]  # the model of each block, the other is m ^ 1
        auc.append(sum(float(expected[m, n] > expected[m ^ 1, n]) for m in forgot) / 4)
    np.testing.assert_allclose(likelihood_ratio.wins(scores, members).mean(axis=0), auc)


def test_confidence_keeps_its_digits_where_the_probability_rounds_to_one():
    """log p_y - log sum of the others is z_y - log sum exp of the others, also 100 nats apart."""
    z = torch.tensor([[100.0, 0.0, 1.0], [-400.0, 500.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = likelihood_ratio.logit_confidence(z.softmax(dim=1).numpy(), np.array([0, 0, 2]))
    others = torch.stack([z[0, 1:].logsumexp(0), torch.tensor(500.0), z[2, :2].logsumexp(0)])
    np.testing.assert_allclose(found[[0, 2]], (z[[0, 0, 2], [0, 0, 2]] - others).numpy()[[0, 2]], rtol=1e-12)
    assert found[1] == pytest.approx(math.log(np.finfo(float).tiny))  # not minus infinity


def test_equal_scores_are_half_a_win_and_no_true_positive():
    members = np.array([[True], [False]] * 3)
    assert (likelihood_ratio.wins(np.ones((6, 1)), members) == 0.5).all()
    assert likelihood_ratio.true_positive_rates(np.ones((6, 1)), members, (0.1, 0.9)).tolist() == [0, 0]


def test_klom_is_the_divergence_of_two_normal_distributions():
    """Closed form, of samples with exactly these means and variances; a narrow side is no narrower than the floor."""
    members = np.array([[True, True], [False, False]] * 3)
    side = np.array([-1.0, 0.0, 1.0])  # mean 0, variance 1
    confidences = np.empty((6, 2))
    confidences[::2, 0], confidences[1::2, 0] = 3 + 2 * side, 1 + side
    confidences[::2, 1], confidences[1::2, 1] = side, side
    expected = [math.log(1 / 2) + (4 + (3 - 1) ** 2) / 2 - 1 / 2, 0.0]
    np.testing.assert_allclose(likelihood_ratio.klom(confidences, members), expected, atol=1e-12)
    np.testing.assert_allclose(likelihood_ratio.shift(confidences, members), [(3 - 1) / 2.5**0.5, 0.0], atol=1e-12)
    confidences[:, 1] = 5.0  # all models agree: the floor, a tenth of the mean over samples, on both sides
    narrow = math.log((0.1 * 0.5 / (0.1 * 2)) ** 0.5) + 0.1 * 2 / (2 * 0.1 * 0.5) - 1 / 2
    assert likelihood_ratio.klom(confidences, members)[1] == pytest.approx(narrow)


def test_epsilon_and_forgetting_quality_on_cases_by_hand():
    """Four models a side. Told apart: infinite; alike: 0; one of four mixed up: the log of 3/4 over 1/4."""
    members = np.array([[True] * 5, [False] * 5] * 4)
    confidences = np.empty((8, 5))
    confidences[::2, 0], confidences[1::2, 0] = (5, 6, 7, 8), (1, 2, 3, 4)
    confidences[::2, 1], confidences[1::2, 1] = (1, 2, 3, 4), (5, 6, 7, 8)  # lower tells as well
    confidences[:, 2] = 1.0
    # thresholds from below: (TPR, FPR) = (1, 3/4), (3/4, 3/4), (3/4, 1/2), (3/4, 1/4) and, above all never seen, 0
    confidences[::2, 3], confidences[1::2, 3] = (1.5, 5, 6, 7), (1, 2, 3, 4)
    # (1, 1), (3/4, 1), (3/4, 3/4), (3/4, 1/2): of the missed the ratio is 2, of the found 3/2
    confidences[::2, 4], confidences[1::2, 4] = (1, 5, 5, 5), (2, 3, 5, 5)
    found = likelihood_ratio.epsilon(confidences, members)
    assert found[:3].tolist() == [math.inf, math.inf, 0.0]
    np.testing.assert_allclose(found[3:], [math.log(3), math.log(2)])
    assert likelihood_ratio.forgetting_quality([0, 0.49]) == 1.0
    assert likelihood_ratio.forgetting_quality([0.5, 1.2]) == (1 / 2 + 1 / 4) / 2
    assert likelihood_ratio.forgetting_quality([math.inf, 6.1, 100]) == 2 / 2**13
    with pytest.raises(ValueError, match="epsilons must be at least 0"):
        likelihood_ratio.forgetting_quality([-0.1])


@pytest.mark.parametrize(
    ("confidences", "members", "words"),
    [
        (np.zeros((4, 2)), np.zeros((4, 2), dtype=bool), "even and at least 6"),
        (np.zeros((7, 2)), np.zeros((7, 2), dtype=bool), r"got \(7, 2\)"),
        (np.full((6, 2), np.nan), np.zeros((6, 2), dtype=bool), "confidences must be finite"),
        (np.zeros((6, 2)), np.zeros((6, 2)), "members must be bool"),
        (np.zeros((6, 2)), np.zeros((6, 2), dtype=bool), "exactly one of the models"),
    ],
)
def test_what_is_no_design_of_blocks_is_named(confidences, members, words):
    with pytest.raises(ValueError, match=words):
        likelihood_ratio.likelihood_ratios(confidences, members)


SEEDS = (1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick run of six models."""
    return run(per_example, tmp_path_factory.mktemp("per-example"), seeds=SEEDS, quick=True, progress=False)


def test_the_tables_are_made_of_the_json_alone(written):
    data = results.read_json(written["json"])
    assert per_example.markdown(data) == written["table"] and per_example.figure(data) is not None
    data["metrics"]["ft"][0] = data["attacks"]["retrain"]["ft"] = data["attacks"]["own"]["ft"] = None
    assert "(diverged) " in per_example.markdown(data) and per_example.figure(data) is not None


def test_a_model_learned_one_half_of_the_pool_and_forgot_it_and_never_saw_the_other(written):
    """The fifth model, made by hand: its sets, and what it says of the pool after OEU."""
    data = results.read_json(written["json"])
    members = np.array(data["members"], dtype=bool)
    assert (members[::2] != members[1::2]).all() and (members.sum(axis=1) == 126).all()
    splits = QUICK.split(None, per_example.DATA_SEED)
    pool, drawn = per_example.drawn(len(splits.train), 252, 6)
    assert (drawn == members).all()
    with engine.one_thread():
        case = per_example._case(QUICK, splits, 5, pool, members[4])
        rows = {
            part: {tuple(row.tolist()) for row in getattr(case.splits, part).inputs}
            for part in ("forget", "retain", "train")
        }
        half = {tuple(row.tolist()) for row in splits.train.inputs[pool[members[4]]]}
        other = {tuple(row.tolist()) for row in splits.train.inputs[pool[~members[4]]]}
        assert rows["forget"] == half and rows["train"] == half | rows["retain"]
        assert (
            not rows["train"] & other and not rows["retain"] & half and len(rows["retain"]) == len(splits.train) - 252
        )
        model = engine.forget(case, "oeu", *search.load_settings(QUICK.max_steps)["oeu"])[0]
        z = model(splits.train.inputs[pool]).double().detach()
        own = torch.nn.functional.one_hot(splits.train.labels[pool], 10).bool()
        expected = z[own] - z.masked_fill(own, -math.inf).logsumexp(dim=1)
    np.testing.assert_allclose(data["confidences"]["oeu"][4], expected, atol=1e-4)
    wrong = splits.train.labels != QUICK.__class__(label_noise=0.0).split(None, per_example.DATA_SEED).train.labels
    assert data["groups"]["wrong label"] == wrong[pool].nonzero().flatten().tolist() and 30 < sum(wrong[pool]) < 70


def test_against_retrain_only_those_that_never_saw_the_sample_are_retrains(written):
    data = results.read_json(written["json"])
    changed = copy.deepcopy(data)
    members = np.array(data["members"], dtype=bool)
    others = np.where(members, data["confidences"]["oeu"], np.random.default_rng(3).normal(size=members.shape))
    changed["confidences"]["oeu"] = others.tolist()  # of samples that the model never saw: not asked for
    old, new = (per_example.attacks(one, ["oeu"]) for one in (data, changed))
    assert new["retrain"] == old["retrain"] and new["own"] != old["own"]
    assert data["attacks"]["retrain"]["retrain"] == data["attacks"]["own"]["retrain"]


def test_what_is_made_is_read_and_what_is_of_other_settings_is_refused(tmp_path, monkeypatch, capsys):
    """A stopped run goes on with the models that it has; a run that diverges is None and nothing is said of it."""
    bar, settings = engine.progress_bar(0, False), search.load_settings(2)
    runs = {"ft": ("ft", *settings["ft"])}

    def diverges(*_):
        raise NonFiniteError("the loss must be finite")

    made = per_example._model
    with monkeypatch.context() as patch, engine.one_thread():
        patch.setattr(engine, "forget", diverges)
        first = per_example.evidence(SEEDS, Work(QUICK, tmp_path), runs, bar)
    assert "model-0.json: " in capsys.readouterr().out
    assert first["confidences"]["ft"] == [None] * 6 and per_example.attacks(first, ["ft"])["own"]["ft"] is None
    (tmp_path / "model-3.json").unlink()
    count = []
    monkeypatch.setattr(per_example, "_model", lambda *given: count.append(1) or made(*given))
    with engine.one_thread():
        second = per_example.evidence(SEEDS, Work(QUICK, tmp_path), runs, bar)
    assert (
        len(count) == 1
        and [found is None for found in second["confidences"]["ft"]] == [True] * 3 + [False] + [True] * 2
    )
    assert second["confidences"]["original"] == first["confidences"]["original"]
    with pytest.raises(ValueError, match=r"model-0.json must be of this run, .*runs"):
        per_example.evidence(SEEDS, Work(QUICK, tmp_path), {"ft": ("ft", settings["ft"][0], 3)}, bar)
    for seeds in ((1, 2), (1, 2, 3, 4, 5, 6, 7)):
        with pytest.raises(ValueError, match="seeds must be an even number"):
            per_example.evidence(seeds, Work(QUICK), runs, bar)


def test_images_are_split_by_what_a_network_loses_that_did_not_see_them(tmp_path, tiny):
    """On images nobody said which labels are wrong: memorization is estimated from the originals, of labels drawn at
    random here; the document is made again from the files of the models alone."""
    experiment, runner = tiny(tmp_path, width=4, epochs=8, batch_size=32, train_size=120)
    bar = engine.progress_bar(0, False)
    with engine.one_thread():
        config, found = per_example.collect(SEEDS, experiment, False, bar, Work(experiment, tmp_path, runner))
        again = per_example.collect(SEEDS, experiment, False, bar, Work(experiment, tmp_path, runner))
    assert (config, found) == again and set(found["labels"]) == {"original", "oeu", "qmul", "rl", "retrain"}
    models = [results.read_json(tmp_path / f"model-{number}.json")["found"] for number in range(6)]
    members = np.array(found["members"], dtype=bool)
    # 40 steps for 1000 images to forget, of which 128 make a batch, are a step for 12
    assert members.shape == (6, 24) and config["settings"]["oeu"][1] == 1
    for n, estimate in enumerate(found["memorization"]):
        seen = [models[m]["right"][n] for m in range(6) if members[m, n]]
        unseen = [models[m]["right"][n] for m in range(6) if not members[m, n]]
        assert estimate == pytest.approx(sum(seen) / 3 - sum(unseen) / 3, abs=1e-4)
        assert (n in found["groups"]["memorized"]) == (estimate >= per_example.MEMORIZED)
        assert (n in found["groups"]["not memorized"]) == (estimate < per_example.MEMORIZED)
