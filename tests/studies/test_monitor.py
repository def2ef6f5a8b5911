"""The study of the monitor: what it writes and draws."""

import json

import pytest

from tests.beyond.test_monitor import linear, run


def test_the_study_writes_its_files_and_the_figure_takes_anybodys_records(tmp_path):
    """`quick` goes all the way; the picture of a run needs its records alone, after a trip through JSON."""
    from oeu_ref.lab.study import run as run_study
    from oeu_ref.studies import monitor as study

    done = run_study(study, tmp_path, seeds=(5,), quick=True, progress=False)
    assert [done[kind].name for kind in ("json", "markdown", "picture")] == [
        "monitor.json",
        "monitor.md",
        "monitor.png",
    ]
    assert all(name in done["table"] for name in study.RUNS)
    unlearner = run(linear(False), 2, True)
    records = json.loads(json.dumps(unlearner.monitor.records))
    study.monitor_figure(records).savefig(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="take a step first"):
        study.monitor_figure([])
