"""When to stop: the study of rules."""

import copy

import pytest

from oeu_ref.core.stop_rule import EntropyStop
from oeu_ref.lab import engine
from oeu_ref.lab.experiment import Digits
from oeu_ref.lab.study import Work, run
from oeu_ref.lab.training import TrainConfig
from oeu_ref.methods.method import Settings
from oeu_ref.own.stop import GuardedStop
from oeu_ref.report import results
from oeu_ref.studies import stop


def test_the_table_is_made_of_the_json_alone(tmp_path):
    written = run(stop, tmp_path, seeds=(1,), quick=True, progress=False)
    data = results.read_json(written["json"])
    assert stop.markdown(data) == written["table"] and stop.figure(data) is not None
    assert list(data["stops"]) == list(stop.SETTINGS)
    data["stops"]["0.1, beta 1"]["auc"] = [None]
    row = next(r for r in stop.markdown(data).splitlines() if "| 0.1, beta 1 " in r and "AUC at least" in r)
    assert "1 never" in row and "–" in row


@pytest.fixture(scope="module")
def memorized():
    """A network that memorized."""
    with engine.one_thread():
        return engine.prepare(2, Digits(train=TrainConfig(epochs=60)))


def test_a_rule_ends_where_it_would_end_a_run_of_its_own(memorized):
    """Followed along one run that nobody stops, each rule ends at the step at which it would stop its own."""
    setting = Settings(0.1, 0.3, 0.9, 0.0)
    ends, s = stop._ends(memorized, setting, 25), memorized.splits
    for rule, make in (
        ("entropy", lambda m: EntropyStop(m, s.forget.inputs, s.validation.inputs).reached),
        ("guarded", lambda m: GuardedStop(m, s.forget, s.retain, s.validation, max_steps=25).ended),
    ):
        asked, found = {}, []

        def look(model, step, report, asked=asked, found=found, make=make):
            if not asked:
                asked["rule"] = make(copy.deepcopy(memorized.original))
            owner = asked["rule"].__self__
            owner.model = model
            owner.calls = step if rule == "guarded" else owner.calls
            if not found and asked["rule"]():
                found.append(step)

        engine.forget(memorized, "oeu", setting, 25, look)
        assert found == [ends[rule]["step"]] and ends[rule]["step"] > 1
    gaps = []
    engine.forget(memorized, "oeu", setting, 25, lambda model, *_: gaps.append(memorized.gap(model)))
    assert ends["hindsight"]["AG"] == min(gaps) == gaps[ends["hindsight"]["step"] - 1]


def test_on_images_every_fifth_step_is_looked_at_and_a_part_that_is_kept_is_read(tmp_path, tiny, monkeypatch):
    """Each rule ends at a look; the networks of a seed, and what is finished, are made once."""
    experiment, runner = tiny(tmp_path)
    monkeypatch.setattr(stop, "IMAGE_SETTINGS", {"0.03, beta 1": (Settings(0.03, 1.0), 12)})
    seen, made = [], stop._ends
    monkeypatch.setattr(
        engine.Case, "judged", lambda case, model, judged=engine.Case.judged: seen.append(1) or judged(case, model)
    )
    how = {"seeds": (1, 2), "progress": False, "experiment": experiment, "runner": runner}
    first = run(stop, tmp_path, **how)
    data, text = results.read_json(first["json"]), first["table"]
    assert len(seen) == 2 * 4 and "Every 5 steps are looked at" in text and "minutes of one core" in text
    ends = [end for by_rule in data["stops"].values() for ends in by_rule.values() for end in ends if end]
    assert {end["step"] for end in ends} <= {0, 5, 10, 12} and [
        len(v) for v in data["stops"]["0.03, beta 1"].values()
    ] == [2] * 5
    case = Work(experiment, None, runner).case(2)
    assert data["retrain"][1] == case.target
    guarded = data["stops"]["0.03, beta 1"]["guarded"][1]
    assert guarded["FA"] == case.metrics(engine.forget(case, "oeu", Settings(0.03, 1.0), guarded["step"])[0])["FA"]
    (tmp_path / "stop" / "seed-2-0.03-beta-1.json").unlink()
    monkeypatch.setattr(engine, "trained", lambda *_, **__: pytest.fail("a network was trained again"))
    monkeypatch.setattr(
        stop, "_ends", lambda case, *given: made(case, *given) if case.seed == 2 else pytest.fail("again")
    )
    assert results.read_json(run(stop, tmp_path, **how)["json"])["stops"] == data["stops"]
