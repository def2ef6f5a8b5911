"""Objectives in place of OEU's: what each one's step follows, and the study that compares them."""

import copy
import functools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from oeu_ref.audit import likelihood_ratio, objective, per_example, relearn
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab import engine, search
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.study import Work, run, under
from oeu_ref.lab.training import predictions
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import OrthogonalEntropy
from oeu_ref.report import results

CLASSES, SETTINGS = 3, Settings(0.1, 0.5, 0.0, 0.0)


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return Samples(inputs, torch.randint(0, CLASSES, (count,), generator=generator))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, CLASSES).double()


def entropies(logits):
    """H of each row, as a sum of -p log p."""
    p = logits.softmax(dim=1)
    return -(p * p.log()).sum(dim=1)


def forget_gradient(make, model, forget):
    """The forget gradient of a method's first step, read off the plan that it takes."""
    method = make(copy.deepcopy(model), forget, SETTINGS, stream(0, "method"))
    plans, take = [], method.oeu.take
    method.oeu.take = lambda plan: (plans.append(plan), take(plan))[1]
    method.step(forget, samples(6, 2))
    return plans[0].forget_grads


def gradient(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))


def test_a_target_is_the_mean_entropy_of_unseen_samples_of_the_class(model):
    """Of class 2 there is no unseen sample: its target is the mean over all of them."""
    unseen = samples(20, 1)
    unseen = unseen[unseen.labels < 2]
    method = objective.AimedEntropy(model, samples(5, 0), SETTINGS, stream(0, "method"), validation=unseen)
    h = entropies(model(unseen.inputs)).detach()
    expected = [h[unseen.labels == 0].mean(), h[unseen.labels == 1].mean(), h.mean()]
    assert method.targets.tolist() == pytest.approx([float(value) for value in expected], rel=1e-12)
    assert len({round(float(value), 6) for value in expected}) == 3


def test_what_is_as_unsure_as_the_unseen_is_left_alone(model):
    """The forget gradient is that of the entropies below their targets, the batch's size dividing; none from others."""
    forget, unseen = samples(12, 0), samples(30, 1)
    h = entropies(model(forget.inputs))
    seen = entropies(model(unseen.inputs)).detach()
    targets = torch.stack([seen[unseen.labels == k].mean() for k in range(CLASSES)])
    below = h < targets[forget.labels]
    assert 0 < below.sum() < len(forget)
    expected = gradient(model, -h[below].sum() / len(forget))
    found = forget_gradient(functools.partial(objective.AimedEntropy, validation=unseen), model, forget)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-10, atol=1e-12)


def test_without_a_limit_the_aimed_entropy_is_oeu(model):
    """With all targets at log K a step of it is OEU's, bit for bit; with targets of 0 it only retains."""
    forget, ends = samples(8, 0), {}
    for name, limit in (("oeu", None), ("all", math.log(CLASSES)), ("none", 0.0)):
        network = copy.deepcopy(model)
        if limit is None:
            method = OrthogonalEntropy(network, forget, SETTINGS, stream(0, "method"))
        else:
            method = objective.AimedEntropy(network, forget, SETTINGS, stream(0, "method"), validation=samples(9, 1))
            method.targets = torch.full((CLASSES,), limit, dtype=torch.float64)
        for _ in range(3):
            report = method.step(forget, samples(6, 2))
        ends[name] = network.weight.detach()
    assert torch.equal(ends["oeu"], ends["all"]) and report.forget_loss == 0
    plain = copy.deepcopy(model)
    optimizer, retain = torch.optim.SGD(plain.parameters(), SETTINGS.learning_rate), samples(6, 2)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(retain.inputs), retain.labels).backward()
        optimizer.step()
    torch.testing.assert_close(ends["none"], plain.weight.detach(), rtol=1e-12, atol=1e-14)


def test_weighted_entropy_follows_the_gradient_of_mean_squared_kl(model):
    """w_n is KL_n over the batch's mean KL, and is not differentiated: half the gradient of mean KL^2 over mean KL."""
    forget = samples(10, 0)
    kl = math.log(CLASSES) - entropies(model(forget.inputs))
    expected = gradient(model, (kl**2).mean() / (2 * kl.mean().detach()))
    found = forget_gradient(objective.WeightedEntropy, model, forget)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-10, atol=1e-12)


def test_a_label_says_what_is_changed():
    """And all that is changed: a reader of the table sees nothing else."""
    for label, method, way in objective.OBJECTIVES.values():
        said = {"falling": way.get("schedule") == "linear", "recalibrated": way.get("recalibrated", False)}
        said |= {"target": method is objective.AimedEntropy, "weighted": method is objective.WeightedEntropy}
        assert {word: word in label for word in said} == said and set(way) <= {"schedule", "recalibrated"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick run on two seeds."""
    return run(objective, tmp_path_factory.mktemp("objective"), seeds=(1, 2), quick=True, progress=False)


def test_each_objective_is_run_its_own_way_at_the_settings_of_its_own_search(written):
    """A value is that of one run, of the method and the loop that OBJECTIVES names; the floor is a second Retrain's."""
    data, cases = results.read_json(written["json"]), {}
    for name in ("oeu", "weighted", "falling", "recalibrated", "all but weights"):
        _, method, way = objective.OBJECTIVES[name]
        case = cases.setdefault(1, engine.prepare(1, QUICK))
        options = (("validation", case.splits.validation),) if method is objective.AimedEntropy else ()
        settings = search.setting(data["best"][name])
        network = engine.forget(under(case, way), method, *settings, options=options)[0]
        assert data["values"][name][0] == results.plain({**case.judged(network), **came_back(case, network)})
    again = engine.trained(QUICK, case.splits, 1, "retrain again")[0]
    assert data["values"]["again"][0] == results.plain({**case.judged(again), **came_back(case, again)})
    gaps = [runs[0]["AG"] for name, runs in data["values"].items() if name in objective.OBJECTIVES]
    assert len(set(gaps)) > len(objective.OBJECTIVES) // 2


def came_back(case, network):
    """The highest FA of all and of the wrongly labelled over the looks of a quick run, trained by hand on retain."""
    look, found = relearn.Look(case), []
    found.append(look(network))
    for steps in relearn.LOOKS[1:3]:
        rate = 0.1 * case.experiment.training().learning_rate
        curve = relearn.relearned(case, network, case.splits.retain, rate, (0, steps), look)
        found.append({metric: curve[metric][-1] for metric in curve})
    return {f"highest {metric}": max(values[metric] for values in found) for metric in ("FA", "FA wrong")}


@pytest.mark.parametrize("broken", ["forget", "relearned"])
def test_a_network_that_diverges_unlearning_or_trained_on_is_none(monkeypatch, broken):
    """And only that: Retrain and the original are judged as they are."""

    def diverges(*given, **options):
        raise NonFiniteError("the loss is not finite")

    work, best = Work(QUICK), {"oeu": {"learning_rate": 0.1, "weight": 1.0, "steps": 2}}
    owner, stub = (objective, diverges) if broken == "forget" else (relearn, lambda *given: None)
    monkeypatch.setattr(owner, broken, stub)
    assert objective._judged(work, 1, "oeu", best, (0, 1)) is None
    assert (objective._judged(work, 1, "original", best, (0, 1)) is None) == (broken == "relearned")


def test_the_attack_meets_each_objective_run_its_own_way(monkeypatch):
    """At its own settings, as OBJECTIVES says; what is kept of the attack is of what is told."""
    best = {name: {"learning_rate": 0.1, "weight": 1.0 + i, "steps": 2} for i, name in enumerate(objective.OBJECTIVES)}
    runs, judged = {}, {"all": {"klom": 1, "sample auc": 2, "F": 3, "tpr": 4}, "right label": {}}
    monkeypatch.setattr(per_example, "evidence", lambda seeds, work, asked, bar: runs.update(asked) or len(seeds))
    monkeypatch.setattr(per_example, "attacks", lambda found, names: {"own": {n: judged for n in names}, "models": {}})
    found = objective.attacked(Work(QUICK), best, 8, None)
    for i, (name, (_, method, way)) in enumerate(objective.OBJECTIVES.items()):
        made, settings, steps, run_way = runs[name]
        assert (settings, steps, run_way) == (Settings(0.1, 1.0 + i), 2, way)
        assert getattr(made, "func", made) is method
    assert found["own"]["retrain"] == found["own"]["oeu"] == {"all": {"klom": 1, "sample auc": 2, "F": 3}}


def test_a_run_of_the_evidence_may_be_of_another_loop():
    """The fourth part of a run: its networks are those of that loop, and are told apart in the kept files."""
    plain = ("oeu", Settings(0.1, 1.0), 2)
    runs = {"plain": plain, "anew": (*plain, objective.ANEW)}
    with engine.progress_bar(0, False) as bar:
        found = per_example.evidence(range(1, 7), Work(QUICK), runs, bar)["confidences"]
    splits = QUICK.split(QUICK.load(), per_example.DATA_SEED)
    pool, members = per_example.drawn(len(splits.train), 2 * len(splits.forget), 6)
    case = per_example._case(QUICK, splits, 1, pool, members[0])
    for name, way in (("plain", {}), ("anew", objective.ANEW)):
        network = engine.forget(under(case, way), *plain)[0]
        said = likelihood_ratio.logit_confidence(*predictions(network, splits.train[pool]))
        assert found[name][0] == said.round(4).tolist()
    assert found["plain"][0] != found["anew"][0]


def test_differences_are_paired_and_their_interval_is_students():
    """Of seeds on which both finished, as SciPy's paired t-test has it; AUC by its distance to Retrain's."""
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(5, 2, (2, 7)) for name in ("oeu", "aimed", "retrain")}
    values = {n: [{"AG": a, "forget_vs_test_auc": b, "TA": -a} for a, b in zip(*row)] for n, row in rows.items()}
    values["aimed"][3] = None
    kept = np.arange(7) != 3
    aim = rows["retrain"][1]
    for measure, of in (
        ("AG", lambda n: rows[n][0]),
        ("AUC", lambda n: abs(rows[n][1] - aim)),
        ("TA", lambda n: -rows[n][0]),
    ):
        expected = scipy.stats.ttest_rel(of("aimed")[kept], of("oeu")[kept]).confidence_interval(0.95)
        found, low, high = objective.compared({"values": values}, "aimed", measure)
        assert found == pytest.approx((of("aimed") - of("oeu"))[kept])
        assert (low, high) == pytest.approx((expected.low, expected.high))
    one = {"values": {name: runs[:1] for name, runs in values.items()}}
    assert objective.compared(one, "aimed", "AG")[1:] == (None, None)


def test_the_tables_are_made_of_the_json_alone(written):
    data = results.read_json(written["json"])
    assert objective.markdown(data) == written["table"] and written["picture"].stat().st_size > 10_000
    data["values"]["aimed"], data["attacks"]["own"]["aimed"] = [None, None], None
    text = objective.markdown(data)
    assert "entropy up to a target (2 diverged)" in text and objective.figure(data) is not None


def test_a_search_goes_on_where_it_was_and_is_of_this_grid(tmp_path, tiny, monkeypatch, capsys):
    """On images: a kept part is read, a missing one is made to the same figures; a diverged point is null in it."""
    experiment, runner = tiny(tmp_path)
    how = {"seeds": (1, 2), "quick": True, "progress": False, "experiment": experiment, "runner": runner}
    first = run(objective, tmp_path, **how)
    assert "minutes of one core" in first["table"] and "search-101-falling.json: " in capsys.readouterr().out
    parts, before = tmp_path / "objective-quick", results.read_json(first["json"])
    gaps = results.read_json(parts / "search-101-falling.json")["found"]
    case = under(Work(experiment, None, runner).case(101), objective.FALLING)
    network = objective.forget(case, "falling", Settings(0.1, 1.0), 2)
    assert gaps[1][0] == pytest.approx(case.gap(network)) and np.shape(gaps) == (2, 2)
    for name in ("search-101-falling", "seed-2-again", "model-4"):
        (parts / f"{name}.json").unlink()
    monkeypatch.setattr(engine, "forget", lambda *given, kept=engine.forget: _only_falling_or_of_a_model(kept, *given))
    again = results.read_json(run(objective, tmp_path, **how)["json"])
    assert {**again, "seconds": 0, "mib": 0} == {**before, "seconds": 0, "mib": 0}
    with pytest.raises(ValueError, match="search-101-oeu.json must be of this run"):
        monkeypatch.setattr(objective, "QUICK_GRID", {**objective.QUICK_GRID, "weight": (0.3, 2.0)})
        run(objective, tmp_path, **how)


def _only_falling_or_of_a_model(kept, case, *given):
    """`engine.forget`; what is not asked for again is not run again: of seed 101 all but one objective."""
    assert case.seed == 5 or case.experiment.schedule == "linear" and not case.experiment.recalibrated
    return kept(case, *given)
