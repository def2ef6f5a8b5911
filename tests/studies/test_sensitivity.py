"""Beta and learning rate: the study."""

import copy
import dataclasses

from oeu_ref import suggest
from oeu_ref.lab import engine
from oeu_ref.lab.study import run
from oeu_ref.lab.training import TrainConfig
from oeu_ref.methods.method import Settings
from oeu_ref.report import results
from oeu_ref.studies import sensitivity


def test_the_table_and_the_picture_are_made_of_the_json_alone(tmp_path):
    written = run(sensitivity, tmp_path, seeds=(1,), quick=True, progress=False)
    data = results.read_json(written["json"])
    assert sensitivity.markdown(data) == written["table"]
    assert all(len(points) == 8 for points in data["gaps"].values()) and len(sensitivity.figure(data).axes) == 4
    points = [[0.1, 0.3, 5, 9.0, 4.0], [0.1, 1.0, 5, 7.0, 6.0], [0.1, 3.0, 5, None, None]]
    data = copy.deepcopy(data) | {"gaps": dict.fromkeys(data["gaps"], points)}
    rows = {
        row.split("|")[1].strip(): row.split("|")[2:4] for row in sensitivity.markdown(data).splitlines() if "|" in row
    }
    assert [float(rows[name][0]) for name in ("best of beta 0.3", "best of all", "chosen by the proxy")] == [9, 7, 9]
    assert rows["best of beta 3"][0].strip() == "–"


def test_the_proxy_is_what_suggest_goes_by():
    """On the same network and data, as many as `suggest` reads."""
    with engine.one_thread():
        case = engine.prepare(1, sensitivity.Images(train=TrainConfig(epochs=3)))
        s = dataclasses.replace(case.splits, retain=case.splits.retain[:900])
        gaps = sensitivity._along(case, Settings(0.1, 0.3), (1, 2))
        given = {"learning_rates": (0.1,), "betas": (0.3,), "steps": (1,), "progress": False}
        found = suggest(case.original, s.forget, s.retain, s.validation, seed=1, **given)
    assert found.start == sensitivity._both(dataclasses.replace(case, splits=s))(case.original)[1]
    assert set(gaps) == {1, 2} and all(gap[0] > 0 for gap in gaps.values())
