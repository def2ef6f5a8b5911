"""What studies share: what is finished is kept and read, networks are a table's, and the command that runs them."""

import dataclasses
import inspect

import pytest

from oeu_ref.__main__ import main
from oeu_ref.commands.studies import ON_IMAGES, STUDIES, load
from oeu_ref.lab import engine, tables
from oeu_ref.lab.cells import Cell
from oeu_ref.lab.experiment import QUICK, described
from oeu_ref.lab.jobs import run_cells
from oeu_ref.lab.study import Work, run
from oeu_ref.methods.method import Settings
from oeu_ref.report import results
from oeu_ref.studies import bits, stop


def test_a_part_is_made_once_and_read_afterwards_and_one_about_something_else_is_refused(tmp_path, capsys):
    """Time and memory are printed once, and counted each time; without a folder it is made each time."""
    made = []
    make = lambda: made.append(1) or {"value": (1, 2)}
    for count in (1, 1, 1):
        work = Work(QUICK, tmp_path / "kept")
        assert work.part("one", {"seed": 1}, make) == {"value": [1, 2]} and len(made) == count
        assert work.seconds >= 0 and work.mib > 100
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "one.json: 0 s, " in said and "MiB at most" in said
    with pytest.raises(ValueError, match=r"one.json must be of this run, it is of another \(seed is 1, expected 2\)"):
        work.part("one", {"seed": 2}, make)
    with pytest.raises(ValueError, match="one.json must be of this run.*bits is 4, expected 2"):
        Work(type(QUICK)(bits=2, train=QUICK.train, max_steps=4), tmp_path / "kept").part("one", {"seed": 1}, make)
    assert [Work(QUICK).part("one", {}, make) for _ in range(2)] and len(made) == 3


def test_networks_of_images_are_those_of_a_table_in_the_same_folder(tmp_path, tiny, monkeypatch):
    """A table's original and Retrain are read, to the same figures as in its cells; another Retrain is kept beside."""
    experiment, runner = tiny(tmp_path)
    cells = run_cells(runner, experiment, [Cell(3, "retrain")])
    again = Work(experiment, None, runner).network(3, "retrain again")
    monkeypatch.setattr(engine, "trained", lambda *_, **__: pytest.fail("a network was trained again"))
    work = Work(experiment, None, runner)
    assert work.case(3).target == pytest.approx(cells[Cell(3, "retrain")]["metrics"]) and work.case(3) is work.case(3)
    same, retrain = (work.network(3, name).state_dict() for name in ("retrain again", "retrain"))
    name = "network.fc.weight"
    assert (same[name] == again.state_dict()[name]).all() and (same[name] != retrain[name]).any()


def test_settings_of_images_are_the_tables_and_their_steps_pass_over_the_forget_set_as_often(tmp_path, tiny):
    """On the preset itself as they stand; of 12 images in place of 1000 to forget, in batches of 128, a hundredth."""
    tuning = results.read_json(tables.SETTINGS_FILE)
    best = tuning["rules"]["true"]["oeu"]["best"]
    expected = Settings(best["learning_rate"], best["weight"])
    experiment, runner = tiny(tmp_path, forget_batch=1, train_size=100)
    steps = round(best["steps"] * 10 / (tuning["forget_size"] / 128))
    assert steps > 10 and Work(experiment, None, runner).tuned(("oeu",)) == {"oeu": (expected, steps)}
    assert Work(experiment, None, runner).tuned(("oeu",), 7) == {"oeu": (expected, 7)}


def test_a_study_that_is_stopped_goes_on_where_it_was_also_on_the_digits(tmp_path, monkeypatch):
    """Ctrl-C in the third part: of the second call only what was missing is made, and the document is that of one."""
    how = {"seeds": (1,), "quick": True, "progress": False}
    whole, made, ends = results.read_json(run(stop, tmp_path / "whole", **how)["json"]), [], stop._ends

    def interrupted(*given):
        made.append(given[1].learning_rate)
        if len(made) == 3:
            raise KeyboardInterrupt
        return ends(*given)

    monkeypatch.setattr(stop, "_ends", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stop, tmp_path / "cut", **how)
    assert not (tmp_path / "cut" / "stop.json").exists()
    cut = results.read_json(run(stop, tmp_path / "cut", **how)["json"])
    assert len(made) == len(stop.SETTINGS) + 1 and made[2] == made[3]
    assert {**cut, "seconds": 0, "mib": 0} == {**whole, "seconds": 0, "mib": 0}


def test_which_studies_there_are_on_images_is_what_their_collect_says():
    """Those of ON_IMAGES, and no others, take `work`, and say which seeds they report there."""
    takes = {name for name in STUDIES if "work" in inspect.signature(load(name).collect).parameters}
    reports = {name for name in STUDIES if len(getattr(load(name), "IMAGE_SEEDS", ())) >= 3}
    assert takes == reports == set(ON_IMAGES)
    with pytest.raises(ValueError, match="study must be one that there is on images"):
        run(bits, "nowhere", experiment=QUICK)


def test_the_command_runs_a_study_on_images_with_the_options_of_a_table(tmp_path, tiny, capsys, monkeypatch):
    """Its table is shown and its files are named; the folder's networks are of the experiment that was asked for."""
    monkeypatch.setattr(stop, "IMAGE_SETTINGS", {"0.03, beta 1": (Settings(0.03, 1.0), 4)})
    experiment, runner = tiny(tmp_path)
    words = ["beyond", "stop", "cifar10-10", "--preset", "cpu", "--dataset", "tiny", "--seeds", "1,2", "--bits", "2"]
    words += ["--data-root", runner.source["data_root"], "--out", str(tmp_path / "out"), "--cache-dir", str(tmp_path)]
    words += ["--train-size", "100", "--validation-size", "40", "--test-size", "40", "--width", "2", "--epochs", "1"]
    assert main(words) == 0
    said, data = capsys.readouterr().out, results.read_json(tmp_path / "out" / "stop.json")
    assert stop.markdown(data) in said and str(tmp_path / "out" / "stop.png") in said
    asked = dataclasses.replace(experiment, weight_bits=2, activation_bits=2)
    assert {name: data["config"][name] for name in described(asked)} == results.plain(described(asked))
    assert (tmp_path / "out" / "seed-2" / "original.pt").is_file()
    assert main([*words[:-2], "--epochs", "2"]) == 2
    assert "of another" in capsys.readouterr().err
