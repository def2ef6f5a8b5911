"""The study of orthogonality after the optimizer: what it writes."""

import json

from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.lab.study import run as run_study
from oeu_ref.studies import STUDIES, updates


def test_the_study_writes_what_it_measured(tmp_path):
    """A quick run: both tables with every variant, and they are a function of the JSON alone."""
    written = run_study(updates, tmp_path, seeds=(1, 2), quick=True, progress=False)
    data = json.loads(written["json"].read_text())
    assert "updates" in STUDIES and written["picture"].stat().st_size > 10_000
    assert updates.markdown(data) == written["table"]
    assert all(len(runs) == 2 and all(run["AG"] >= 0 for run in runs) for runs in data["runs"].values())
    # with a plain optimizer the change follows the gradient; momentum turns it back, once it has a past
    angles = {name: of["32"]["layers max"]["max"] for name, of in data["alone"].items()}
    assert angles["SGD | all"] < 1e-3 < 0.02 < angles["momentum | all"]


def test_a_run_that_diverges_is_counted_not_hidden(tmp_path, monkeypatch):
    """A diverged run is null in the JSON, and the table says how many there were."""
    unlearn, calls = updates._unlearn, []

    def sometimes(case, optimizer, word, *rest):
        calls.append(word)
        if case.seed == 2 and word == "descent":
            raise NonFiniteError("diverged")
        return unlearn(case, optimizer, word, *rest)

    monkeypatch.setattr(updates, "_unlearn", sometimes)
    written = run_study(updates, tmp_path, seeds=(1, 2), quick=True, progress=False)
    assert json.loads(written["json"].read_text())["runs"]["momentum | descent"][1] is None
    assert "(1 diverged)" in written["table"]
