"""What all methods share: the study of falling learning rates and of statistics estimated anew."""

import dataclasses

import pytest

from oeu_ref.lab import engine, search
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.study import run
from oeu_ref.report import results
from oeu_ref.studies import loop


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a quick run on one seed."""
    return run(loop, tmp_path_factory.mktemp("loop"), seeds=(1,), quick=True, progress=False)


def test_each_method_is_run_under_each_way_at_the_settings_of_its_own_search(written):
    """A value is that of one run of its own; a falling rate is searched with runs of as many steps as it has."""
    data = results.read_json(written["json"])
    assert list(data["values"]) == list(loop.WAYS)
    for way in ("constant, as left", "linear, anew"):
        case = engine.prepare(1, dataclasses.replace(QUICK, **loop.WAYS[way]))
        settings = search.setting(data["best"][way]["oeu"])
        found = case.judged(engine.forget(case, "oeu", *settings)[0])
        assert data["values"][way]["oeu"] == [results.plain(found)]
    gaps = [[runs[0]["AG"] for runs in methods.values()] for methods in data["values"].values()]
    assert len({tuple(row) for row in gaps}) == len(loop.WAYS)


def test_the_tables_are_made_of_the_json_alone(written):
    data = results.read_json(written["json"])
    assert loop.markdown(data) == written["table"]
    data["values"]["cosine, anew"]["ga"] = [None]
    assert "– (1 diverged)" in loop.markdown(data) and loop.figure(data) is not None
