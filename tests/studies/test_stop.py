"""When to stop: the study of rules."""

import copy

import pytest

from oeu_ref.core.stop_rule import EntropyStop
from oeu_ref.lab import engine, results
from oeu_ref.lab.baselines import Settings
from oeu_ref.lab.experiment import Digits
from oeu_ref.lab.training import TrainConfig
from oeu_ref.own.stop import GuardedStop
from oeu_ref.studies import stop
from oeu_ref.studies.study import run


def test_the_table_is_made_of_the_json_alone(tmp_path):
    written = run("stop", tmp_path, seeds=(1,), quick=True, progress=False)
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
