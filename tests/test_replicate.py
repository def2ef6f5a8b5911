"""The protocol in turns, and the command that makes its table within a budget of minutes."""

import dataclasses
import json
import math
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from oeu_ref.__main__ import main
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab import attacks, jobs, replicate, tables
from oeu_ref.lab.cells import Cell, Runner
from oeu_ref.lab.experiment import Replication
from oeu_ref.lab.training import Mixed, UnlearnConfig, unlearn
from oeu_ref.methods import names, protocol
from oeu_ref.methods.method import Settings
from oeu_ref.methods.protocol import ROWS
from oeu_ref.reference import metrics
from oeu_ref.report import report_figures
from oeu_ref.report.report import tug_of_war

from .test_experiments import tiny_arrays
from .test_training import Recorder, numbered

TINY = Replication(
    dataset="tiny", validation_size=40, width=4, epochs=2, batch_size=64, forget_batch=8, retain_batch=64
)
SHUFFLED = dataclasses.replace(TINY, dataset="cifar100")
PASSES = (17, 158, 175)
FEW = ("oeu", "rl")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "tiny.npz", **tiny_arrays())
    return {"data_root": str(folder), "cache_dir": None, "download": False}


@pytest.fixture(scope="module")
def few_points():
    """Two points a row instead of four, and an epoch instead of ten."""
    before = dict(ROWS)
    for name, row in before.items():
        ROWS[name] = dataclasses.replace(row, points=row.points[1:3], epochs=1)
    yield
    ROWS.update(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory, source, few_points):
    """(folder, contents of replicate.json) of a table of two rows on one seed."""
    out = tmp_path_factory.mktemp("made")
    path, finished = replicate.replicate(Runner(out, source, progress=False), TINY, (1,), rows=FEW)
    assert finished
    return out, json.loads(path.read_text())


def without_times(data):
    """The document but for what depends on the clock."""
    if isinstance(data, dict):
        return {key: without_times(value) for key, value in data.items() if key not in ("seconds", "time", "jobs")}
    return [without_times(value) for value in data] if isinstance(data, list) else data


# The protocol


@pytest.mark.parametrize(
    ("name", "steps"),
    [("oeu", 1580), ("oeu_short", 170), ("qmul", 1750), ("rl", 1750), ("ft", 1580), ("l1", 1580), ("ga", 85)],
)
def test_steps_are_epochs_of_what_a_row_reads(name, steps):
    """With CIFAR-10's 17 forget and 158 retain batches of 256."""
    assert TINY.row(name).steps(*PASSES) == steps


def test_the_joint_protocol_has_pairs_in_place_of_turns():
    for experiment in (TINY, SHUFFLED):
        joint = dataclasses.replace(experiment, protocol="joint")
        assert (joint.row("rl").reads, joint.row("rl").steps(*PASSES)) == ("pairs", 1580)
        assert (joint.row("ga").reads, joint.row("ga").steps(*PASSES)) == ("forget", 85)


@pytest.mark.parametrize("dataset", ["cifar100", "tinyimagenet"])
def test_where_the_field_shuffles_both_sets_an_epoch_is_one_pass_over_them(dataset):
    """Of 13,500 and 31,500 images: 52 and 123 batches of 256, and 175 of both; a rest of each can make one more."""
    experiment = dataclasses.replace(TINY, dataset=dataset, forget_batch=256, retain_batch=256)
    shuffled = [name for name in ROWS if experiment.row(name).reads == "shuffled"]
    assert shuffled == ["qmul", "rl", "salun", "uniform", "scrub", "lotus"]
    assert not any(experiment.row(name) != ROWS[name] for name in set(ROWS) - set(shuffled))
    sets = SimpleNamespace(forget=range(13500), retain=range(31500))
    assert experiment.passes(sets) == (52, 123, 175) and experiment.row("rl").steps(52, 123, 175) == 1750
    assert experiment.passes(SimpleNamespace(forget=range(500), retain=range(300))) == (1, 1, 3)
    assert experiment.row("rl").steps(1, 1, 3) == 30


def order_of(method, experiment=TINY, forget=17, retain=130):
    """ "f", "r" or "b" (both) for each of 8 steps: 2 forget batches of 8 and 2 retain batches of 64 in an epoch."""

    class Sets:
        pass

    sets, recorder = Sets(), Recorder()
    sets.forget, sets.retain = numbered(forget), numbered(retain)
    recorder.relabel = lambda forget: forget
    order = experiment.order(method, sets)
    unlearn(recorder, sets.forget, sets.retain, 8, UnlearnConfig(8, 64), (stream(0, "f"), stream(0, "r")), order=order)
    return "".join("b" if None not in pair else "r" if pair[0] is None else "f" for pair in recorder.seen)


def test_in_turns_all_forget_batches_come_before_all_retain_batches():
    assert order_of("rl") == order_of("salun") == order_of("qmul_released") == "ffrrffrr"
    assert order_of("ft") == order_of("l1_fading") == "r" * 8
    assert order_of("ga") == "f" * 8
    assert order_of("oeu") == order_of("oeu_global") == order_of("oeu_no_projection") == "b" * 8
    assert order_of("rl", dataclasses.replace(TINY, protocol="joint")) == "b" * 8
    for method in ("ft", "ga", "oeu", "ng_plus"):
        assert order_of(method, SHUFFLED) == order_of(method)


def mixed(forget, retain, size, steps, recorder=None):
    """The pairs that a method gets, of `numbered` samples shuffled together; those to forget are taught 100 more."""
    recorder, order = recorder or Recorder(), SHUFFLED.order("rl", None)
    kept = Samples(numbered(retain).inputs + 1000, numbered(retain).labels)
    config, generators = UnlearnConfig(3, size), (stream(0, "f"), stream(0, "r"))
    unlearn(recorder, numbered(forget), kept, steps, config, generators, order=order)
    return recorder.seen


def test_shuffled_together_each_pass_shows_each_sample_of_both_sets_once():
    """Batches of 5 of 6 and 14 samples, four to a pass: each sample with its own set's part and label."""
    pairs, none = mixed(6, 14, 5, 8), torch.zeros(0, dtype=torch.int64)
    for pass_ in (pairs[:4], pairs[4:]):
        seen = [torch.cat([none if pair[side] is None else pair[side].labels for pair in pass_]) for side in (0, 1)]
        assert [sorted(part.tolist()) for part in seen] == [list(range(100, 106)), list(range(14))]
    for pair in pairs:
        assert sum(len(part) for part in pair if part is not None) == 5
        for part, shift in zip(pair, (100, -1000)):
            assert part is None or torch.equal(part.inputs[:, 0].long() + shift, part.labels)
    assert any(a[1].labels.tolist() != b[1].labels.tolist() for a, b in zip(pairs[:4], pairs[4:]))  # anew each pass


def test_a_shuffled_batch_without_forget_samples_has_none():
    assert {pair[0] is None for pair in mixed(1, 11, 3, 4)} == {True, False}
    assert mixed(1, 11, 3, 1, recorder := Recorder()) and recorder.together


def test_shuffled_batches_go_on_where_they_were():
    """What a checkpoint keeps of them gives the same batches."""
    first, again = (Mixed(numbered(6), numbered(14), 5, stream(seed, "r")) for seed in (0, 1))
    next(first)
    again.load_state_dict(first.state_dict())
    for _ in range(5):
        for ours, theirs in zip(next(first), next(again)):
            assert (ours is None and theirs is None) or torch.equal(ours.labels, theirs.labels)


def test_no_other_word_is_an_order_and_batches_of_their_own_are_not_shuffled():
    with pytest.raises(ValueError, match="order must be one of"):
        unlearn(Recorder(), numbered(6), numbered(6), 1, UnlearnConfig(), (stream(0, "f"),) * 2, order="sorted")
    with pytest.raises(TypeError, match="retain must be a Samples, got"):
        unlearn(Recorder(), numbered(6), iter([]), 1, UnlearnConfig(), (stream(0, "f"),) * 2, order="shuffled")


def test_an_epoch_in_turns_shows_each_sample_once():
    recorder, retain = Recorder(), numbered(12)
    recorder.relabel = lambda forget: forget
    order = lambda step: (step % 5 < 2, step % 5 >= 2)
    unlearn(recorder, numbered(6), retain, 5, UnlearnConfig(3, 4), (stream(0, "f"), stream(0, "r")), order=order)
    seen = [torch.cat([pair[side].labels for pair in recorder.seen if pair[side] is not None]) for side in (0, 1)]
    assert [sorted(part.tolist()) for part in seen] == [list(range(6)), list(range(12))]


def test_the_words_of_the_help_are_the_rows():
    assert tuple(ROWS) == names.REPLICATED


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="protocol must be one of"):
        dataclasses.replace(TINY, protocol="ours")


# The plan


def a_cell(gap, original=10.0):
    """Contents of a finished cell whose gaps to Retrain and to the proxy's aim are as given."""
    found = dict.fromkeys(("FA", "RA", "TA", "MIA"), 50.0 + gap)
    proxy = dict.fromkeys(("FA", "RA", "VA", "MIA", "MIA_unseen"), 50.0 + original - gap)
    return {
        "diverged": False,
        "curve": [{"steps": 1, "metrics": found, "proxy": proxy}],
        "metrics": found,
        "proxy": proxy,
    }


def test_what_is_worth_most_comes_first_and_a_row_waits_for_its_search():
    plan = replicate.Plan(TINY, PASSES, (1, 2), ("oeu", "ga"))
    first = plan({})
    assert [(c.seed, c.name) for c in first[:5]] == [
        (1, "original"),
        (1, "retrain"),
        (1, "retrain again"),
        (101, "original"),
        (101, "retrain"),
    ]
    assert {c.seed for c in first if not c.trains} == {101}  # nothing is reported before it is searched for
    models = [Cell(101, name, folder="tuning") for name in ("original", "retrain")]
    done = {cell: a_cell(0.0) for cell in models}
    for cell, gap in zip(plan.search("oeu")[2:], (3.0, 2.0, 1.0, 4.0)):
        done[cell] = a_cell(gap)
    runs = [cell for cell in plan(done) if not cell.trains and cell.seed != 101]
    # true AG is least at the third point; the proxy's, whose aim is the original's 60, at the third as well
    assert [(c.seed, c.name) for c in runs] == [(1, "oeu"), (2, "oeu")]
    assert (runs[0].settings.learning_rate, runs[0].settings.weight) == ROWS["oeu"].points[2]
    order = plan(done)
    assert order.index(runs[0]) < order.index(plan.search("ga")[2]) < order.index(Cell(2, "original"))


def test_a_point_that_diverged_is_not_chosen_and_a_row_of_such_points_is_left_out():
    plan = replicate.Plan(TINY, PASSES, (1,), ("ga",))
    lost = {"diverged": True, "curve": [], "seconds": 1.0}
    done = {Cell(101, name, folder="tuning"): a_cell(0.0) for name in ("original", "retrain")}
    done |= {cell: lost for cell in plan.search("ga")[2:]}
    assert plan.chosen("ga", done) == {} and plan.gaps("ga", done)["true"] == [math.inf] * 4
    done[plan.search("ga")[3]] = a_cell(5.0)
    assert plan.chosen("ga", done) == dict.fromkeys(("true", "proxy"), ROWS["ga"].points[1])


def test_runs_of_sets_shuffled_together_have_files_of_their_own():
    """Those of before, which took turns, are not taken for them."""
    names = [replicate.Plan(e, PASSES, (1,)).cell("rl", (0.01, 1.0), 1).path("out") for e in (TINY, SHUFFLED)]
    assert [path.name for path in names] == ["rl_lr0.01_w1_s1750.json", "rl_lr0.01_w1_s1750_shuffled.json"]


# Going on from an earlier result

STORED = pathlib.Path(__file__).parents[1] / "notebooks/stored/replicate-cifar10-10-cpu.json"
OF_STORED = tables.experiment_named("cifar10-10", "cpu", protocol="authors", epochs=60)


def test_what_goes_on_from_a_result_searches_nothing_and_takes_its_settings():
    """The stored result of READMEs: only a new seed is made, at the points of its search; its own seed stays."""
    earlier = json.loads(STORED.read_text())
    rows = ("oeu", "qmul", "rl")
    plan = replicate.Settled(STORED, OF_STORED, PASSES, (9,), rows)
    cells = plan({})
    assert {cell.seed for cell in cells} == {9} and not any(cell.folder for cell in cells)
    of_rule = {rule: [earlier["search"][name]["chosen"][rule] for name in rows] for rule in ("true", "proxy")}
    points = [[c.settings.learning_rate, c.settings.weight] for c in cells if not c.trains]
    assert points[:3] == of_rule["true"] and all(point in points for point in of_rule["proxy"])
    found = json.loads(json.dumps(plan.document({})))
    kept = {key: earlier[key] for key in ("search", "trained", "rows")}
    assert {key: found[key] for key in kept} == kept and found["seeds"] == [*earlier["seeds"], 9]
    own = replicate.Settled(STORED, OF_STORED, PASSES, earlier["seeds"], rows).document({})
    assert own["trained"] == {} and own["rows"] == [] and own["seeds"] == earlier["seeds"]  # they are made anew
    first = replicate.Settled(STORED, OF_STORED, PASSES, earlier["seeds"][:1], rows).document({})
    assert first["seeds"] == earlier["seeds"] and list(first["trained"]) == earlier["seeds"][1:]


def test_a_row_that_the_result_has_not_is_searched_and_no_other(tmp_path):
    found, path = json.loads(STORED.read_text()), tmp_path / "replicate.json"
    del found["search"]["rl"]
    path.write_text(json.dumps(found))
    plan = replicate.Settled(path, OF_STORED, PASSES, (3,), ("oeu", "rl"))
    first = plan({})
    searched = [cell for cell in first if cell.folder]
    assert [cell.name for cell in searched] == ["original", "retrain", *["rl"] * 4]
    assert [cell.name for cell in first if not cell.folder and not cell.trains] == ["oeu"]  # both rules chose one point
    done = {cell: a_cell(0.0) for cell in searched[:2]}
    done |= {cell: a_cell(gap) for cell, gap in zip(searched[2:], (3.0, 1.0, 2.0, 4.0))}
    chosen = {cell.settings for cell in plan(done) if cell.name == "rl" and not cell.folder}
    assert chosen == {Settings(*ROWS["rl"].points[1])}
    search = json.loads(json.dumps(plan.document(done)))["search"]
    assert {name: search[name] for name in found["search"]} == found["search"]
    assert search["rl"]["AG"]["true"] == [3.0, 1.0, 2.0, 4.0] and search["rl"]["judge"] == "retrain"
    # what stood in the earlier result stays as it is, and does not say that a Retrain of now had judged it
    assert "judge" not in search["oeu"]


def test_a_training_that_broke_down_is_told():
    """A network that knows less than half of the retain set that another of its seed knows."""
    sound = {"original": {"RA": 100.0}, "retrain": {"RA": 99.0}, "retrain again": {"RA": 51.0}}
    assert replicate.broken_down(sound) == []
    for name in sound:
        assert replicate.broken_down({**sound, "retrain again": {"RA": 90.0}, name: {"RA": 17.8}}) == [name]
    assert replicate.broken_down({"original": {"RA": 20.0}, "retrain": {"RA": 30.0}}) == []
    hundred = json.loads(STORED.with_name("replicate-cifar100-30-cpu.json").read_text())
    *_, last = replicate.table(hundred).splitlines()
    assert last == "The training of seed 3's original broke down: that seed tells nothing."
    assert "broke down" not in replicate.table(json.loads(STORED.read_text()))


def test_a_search_whose_retrain_broke_down_is_judged_by_another():
    """A Retrain with other random numbers; as long as that is not there, nothing is chosen."""
    plan = replicate.Plan(TINY, PASSES, (1,), ("ga",))
    original, retrain, *points = plan.search("ga")
    again = Cell(101, "retrain again", folder="tuning")
    done = {cell: a_cell(gap) for cell, gap in zip(points, (8.0, 6.0, 4.0, 2.0))}
    done |= {original: a_cell(0.0), retrain: a_cell(-26.0)}  # RA 50 and 24
    assert again in plan(done) and plan.chosen("ga", done) == {}
    done[again] = a_cell(1.0)
    assert plan.gaps("ga", done)["true"] == [7.0, 5.0, 3.0, 1.0]
    assert plan.document(done)["search"]["ga"]["judge"] == "retrain again"
    done[retrain] = a_cell(-24.0)
    assert again not in plan(done) and plan.gaps("ga", done)["true"] == [32.0, 30.0, 28.0, 26.0]
    # runs are of that original: another Retrain mends nothing
    done |= {original: a_cell(-30.0), retrain: a_cell(0.0)}
    assert again not in plan(done)


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        (lambda found: found["experiment"].update(epochs=59), ("oeu",), "it is of others .epochs is 59, expected 60"),
        (
            lambda found: found["search"]["oeu"]["points"].pop(),
            ("oeu",),
            "it is of others .points.oeu is .*0.03.*expected",
        ),
        (lambda found: found["search"]["rl"]["points"].pop(), ("oeu",), "it is of others .points.rl is"),
        (lambda found: found["search"].update(new=found["search"]["oeu"]), ("oeu",), "it is damaged: KeyError"),
        (lambda found: found.pop("rows"), ("oeu",), "as `replicate` writes it, lacks rows"),
        (lambda found: found.update(search=[]), ("oeu",), "it is damaged: AttributeError"),
        (lambda found: found.update(trained={"one": {}}), ("oeu",), "it is damaged: ValueError"),
        (lambda found: found["search"]["oeu"]["AG"].pop("proxy"), ("oeu",), "it is damaged: KeyError"),
        (lambda found: found["rows"][0].pop("values"), ("oeu",), "it is damaged: KeyError"),
    ],
)
def test_only_an_undamaged_result_of_the_same_experiment_is_gone_on_from(change, rows, message, tmp_path):
    found, path = json.loads(STORED.read_text()), tmp_path / "replicate.json"
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        replicate.Settled(path, OF_STORED, PASSES, (3,), rows)


@pytest.mark.studies
def test_another_seed_on_another_machine_gives_what_one_run_of_both_gives(made, source, tmp_path):
    shutil.copytree(made[0], tmp_path / "both")
    whole, _ = replicate.replicate(Runner(tmp_path / "both", source, progress=False), TINY, (1, 2), rows=FEW)
    runner = Runner(tmp_path / "other", source, progress=False)
    path, finished = replicate.replicate(runner, TINY, (2,), rows=FEW, earlier=made[0] / "replicate.json")
    both, other = (without_times(json.loads(p.read_text())) for p in (whole, path))
    assert finished and both.pop("cells") > other.pop("cells") and both == other
    assert not (tmp_path / "other/tuning").exists()


@pytest.mark.studies
def test_a_row_more_in_another_folder_gives_what_one_run_of_all_rows_gives(made, source, tmp_path):
    """The seed's models are trained again, to the same bits: rows of both files have one original and one Retrain."""
    shutil.copytree(made[0], tmp_path / "all")
    rows = (*FEW, "uniform")
    whole, _ = replicate.replicate(Runner(tmp_path / "all", source, progress=False), TINY, (1,), rows=rows)
    runner = Runner(tmp_path / "other", source, progress=False)
    path, _ = replicate.replicate(runner, TINY, (1,), rows=rows, earlier=made[0] / "replicate.json")
    all_rows, other = (without_times(json.loads(p.read_text())) for p in (whole, path))
    assert all_rows.pop("cells") > other.pop("cells") and all_rows == other
    assert {p.name[:7] for p in (tmp_path / "other/tuning").rglob("*_lr*.json")} == {"uniform"}


# The command


@pytest.mark.studies
def test_the_document_holds_each_row_of_each_seed_with_its_scale(made):
    """AG against Retrain of the same seed, the share of the original's, ToW, five attacks; Retrain's own AG is 0."""
    out, data = made
    assert [(row["row"], row["seed"]) for row in data["rows"] if "true" in row["rules"]] == [(name, 1) for name in FEW]
    for row in data["rows"]:
        assert row["rules"] and set(row["values"]["features"]) == set(attacks.FEATURES)
        models = data["trained"][str(row["seed"])]
        gap = np.mean([abs(row["values"][key] - models["retrain"][key]) for key in ("FA", "RA", "TA", "MIA")])
        assert row["values"]["AG"] == pytest.approx(gap)
        assert row["values"]["share_of_original"] == pytest.approx(gap / models["original"]["AG"])
        assert row["values"]["features"]["confidence"] == row["values"]["MIA"]
        best = data["search"][row["row"]]
        for rule in row["rules"]:
            point = best["points"][int(np.argmin(best["AG"][rule]))]
            assert point == [row["learning_rate"], row["weight"]] == best["chosen"][rule]
    assert set(models) == {"original", "retrain", "retrain again"} and models["retrain"]["AG"] == 0
    assert models["retrain"]["tug_of_war"] == 100
    assert "OEU" in replicate.table(data)


@pytest.mark.studies
def test_a_second_retrain_has_other_random_numbers(made):
    out, _ = made
    first, again = (json.loads((out / f"seed-1/{name}.json").read_text()) for name in ("retrain", "retrain_again"))
    assert first["losses"] != again["losses"]


@pytest.mark.reliability
def test_whose_time_is_over_goes_on_to_the_same_figures(made, source, tmp_path, monkeypatch):
    """Killed by the clock again and again, on the way through cells too, it ends with what one run gives."""
    clock, run_cell = [0.0], jobs.run_cell

    def timed(runner, experiment, cell, look):
        def tick(count):
            clock[0] += count  # an image a second
            look(count)

        return run_cell(runner, experiment, cell, tick)

    monkeypatch.setattr(jobs, "run_cell", timed)
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    finished, calls = False, 0
    while not finished:
        path, finished = replicate.replicate(Runner(tmp_path, source, progress=False), TINY, (1,), 12, FEW)
        calls += 1
    assert calls > 5
    assert without_times(json.loads(path.read_text())) == without_times(made[1])


@pytest.mark.reliability
def test_side_by_side_the_figures_are_the_same(made, source, tmp_path):
    """Two processes, which have the rows as they are in the package: all cells are there already but one."""
    out = made[0]
    shutil.copytree(out, tmp_path / "made", dirs_exist_ok=True)
    for path in (tmp_path / "made/seed-1").glob("rl_*.json"):
        path.unlink()
    runner = Runner(tmp_path / "made", source, jobs=2, progress=False)
    path, finished = replicate.replicate(runner, TINY, (1,), rows=FEW)
    assert finished and without_times(json.loads(path.read_text())) == without_times(made[1])


@pytest.mark.studies
def test_results_without_models_go_on_where_they_were(made, source, tmp_path):
    """On another machine Retrain is not trained again; the original is, to the same bits, for methods start from it."""
    place = tmp_path / "made"
    shutil.copytree(made[0], place, ignore=shutil.ignore_patterns("*.pt"))
    before = (place / "seed-1/retrain.json").stat().st_mtime_ns
    path, finished = replicate.replicate(Runner(place, source, progress=False), TINY, (1,), rows=FEW)
    assert finished and without_times(json.loads(path.read_text())) == without_times(made[1])
    assert (place / "seed-1/retrain.json").stat().st_mtime_ns == before
    assert (place / "seed-1/original.pt").is_file() and not (place / "seed-1/retrain.pt").exists()


@pytest.mark.studies
def test_the_command_prints_the_table_and_where_it_is(made, source, capsys):
    words = "replicate cifar10-10 --dataset tiny --width 4 --epochs 2 --validation-size 40 --device cpu --jobs 1"
    where = ["--data-root", source["data_root"], "--out", str(made[0].parent / "command")]
    assert main([*words.split(), *where, "--rows", "ga", "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "GA (gradient ascent)" in printed and printed.rstrip().endswith("replicate.json")
    pictures = {path.name for path in (made[0].parent / "command").glob("*.png")}
    assert pictures == {f"replicate_{name}.png" for name in ("scale", "search", "attacks")}
    assert all(name in printed for name in pictures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1,101"], "--seeds must not hold 101"),
        (["--rows", "oeu,nothing"], "--rows must be one of"),
        (["--minutes", "0"], "--minutes must be greater than 0"),
        (["--protocol", "ours"], "--protocol must be one of"),
        (["--earlier", "nothing.json"], "nothing.json"),
    ],
)
def test_bad_options_are_named(words, message, source, tmp_path, capsys):
    small = ["--dataset", "tiny", "--validation-size", "40", "--device", "cpu", "--data-root", source["data_root"]]
    assert main(["replicate", *small, "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.studies
def test_an_estimate_counts_every_image_that_is_read(source, few_points, tmp_path, data_sizes, monkeypatch):
    """Two epochs of five networks, and an epoch of 2 forget and 3 retain batches for three runs a row: by hand."""
    runner, plan = Runner(tmp_path, source, jobs=3, progress=False), replicate.Plan(TINY, (2, 3, 6), (1,), FEW)
    train, forget, retain = data_sizes
    networks = 2 * (train + retain + retain) + 2 * (train + train)
    pairs, turns = 3 * 3 * (8 + 64), 3 * (2 * 8 + 3 * 64)
    splits = TINY.split(TINY.load(source), 1)
    assert plan.images(splits) == networks + pairs + turns
    together = replicate.Plan(SHUFFLED, (2, 3, 6), (1,), FEW)
    assert together.images(splits) == networks + pairs + 3 * 6 * 64
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(replicate.time, "perf_counter", lambda: next(clock))
    experiment, said = replicate.fitted(runner, TINY, (1,), rows=FEW)
    assert f"at {64 / 2 * 3:.0f} a second, 3 processes" in said  # a batch, since a tenth of the images is less than one
    assert experiment == TINY


@pytest.mark.parametrize(
    ("share", "least", "size", "told"),
    [
        (2.0, 1, None, "take less."),
        (0.7, 1, 128, "Cut to 128 of 220 training images, for"),
        (0.1, 2, 128, "fewer are not taken, and they need"),
        (0.1, 10, None, "take less."),
    ],
)
def test_the_size_is_cut_to_what_fits_and_stays_what_it_was(share, least, size, told, source, tmp_path, monkeypatch):
    """Whole batches of 64 of the 220 images, at least so many, all of them where that is more. After a cut a later call
    with other minutes measures nothing and has the same; a size that was asked for, or a table that was begun whole, is
    left alone."""
    rate, whole = 50.0, TINY.split(TINY.load(source), 1)
    images = lambda e, s: replicate.Plan(e, e.passes(s), (1,), FEW).images(s)
    minutes = share * images(TINY, whole) / rate / 60
    monkeypatch.setattr(replicate, "LEAST_STEPS", least)
    monkeypatch.setattr(replicate, "speed", lambda *_: rate)
    runner = Runner(tmp_path / "out", source, progress=False)
    experiment, said = replicate.fitted(runner, TINY, (1,), minutes, FEW)
    assert experiment == dataclasses.replace(TINY, train_size=size) and told in said
    cut = experiment.split(experiment.load(source), 1)
    assert len(cut.train) == (size or 220)
    needed = images(experiment, cut) / rate / 60
    assert (needed <= minutes) == (share > 0.1)
    if "they need" in said:
        assert float(said.split("they need ")[1].rstrip(".")) == pytest.approx(needed, abs=0.51)
    assert (tmp_path / "out/size.json").is_file() == (size is not None)
    if size is not None:
        monkeypatch.setattr(replicate, "speed", None)
        assert replicate.fitted(runner, TINY, (1,), 1e-6, FEW) == (experiment, said)
        monkeypatch.setattr(replicate, "speed", lambda *_: rate)
    own = dataclasses.replace(TINY, train_size=200)
    for folder in ("own", "out"):
        assert replicate.fitted(Runner(tmp_path / folder, source), own, (1,), minutes, FEW)[0] == own
    (tmp_path / "begun/seed-1").mkdir(parents=True)
    begun = replicate.fitted(Runner(tmp_path / "begun", source), TINY, (1,), minutes, FEW)
    assert begun[0] == TINY and ("was begun with all 220" in begun[1]) == (size is not None)


@pytest.mark.studies
def test_the_long_preset_says_what_it_cut_and_makes_that(source, tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(replicate, "speed", lambda *_: 1.0)
    monkeypatch.setattr(replicate, "LEAST_STEPS", 1)
    monkeypatch.setitem(protocol.SCHEDULE, "batch_size", 64)
    monkeypatch.setattr(replicate, "replicate", lambda *given: made.append(given) or (tmp_path / "none.json", False))
    words = "replicate cifar10-10 --preset long --dataset tiny --width 4 --validation-size 40 --device cpu --minutes 5"
    where = ["--data-root", source["data_root"], "--out", str(tmp_path)]
    assert main([*words.split(), *where, "--rows", "ga", "--seeds", "1"]) == 0
    assert "Cut to 64 of 220 training images" in capsys.readouterr().out
    assert made[0][1].train_size == 64 and made[0][3] == 5


@pytest.fixture
def data_sizes(source):
    """Images to train on, to forget and to retain."""
    splits = TINY.split(TINY.load(source), 1)
    return len(splits.train), len(splits.forget), len(splits.retain)


@pytest.mark.studies
def test_the_pictures_show_what_the_document_holds(made):
    """A bar for each row and a panel for each search; nothing without rows."""
    scale, search = (draw(made[1]) for draw in (report_figures.scale_figure, report_figures.search_figure))
    labels = [text.get_text() for text in scale.axes[0].get_yticklabels()]
    assert labels == [protocol.label(name) for name in FEW]
    assert [bar.get_width() for bar in scale.axes[0].patches] == [
        row["values"]["AG"] for row in made[1]["rows"] if "true" in row["rules"]
    ]
    panels = [ax for ax in search.axes if ax.get_visible()]
    for ax, found in zip(panels, made[1]["search"].values(), strict=True):
        marks = dict(zip(("true", "proxy"), ax.collections, strict=True))
        for rule, drawn in marks.items():
            shown = [(i, gap) for i, gap in enumerate(found["AG"][rule]) if gap is not None]
            assert [tuple(mark) for mark in drawn.get_offsets().tolist()] == shown, rule
    assert report_figures.scale_figure({**made[1], "rows": []}) is None
    assert report_figures.attacks_figure({**made[1], "trained": {}}) is None
    assert report_figures.search_figure({**made[1], "search": {}}) is None


# The scale


def test_tug_of_war_is_the_product_of_what_is_left_of_each_accuracy():
    """0.9 * 0.8 * 1 = 72 %; Retrain itself has 100."""
    retrain = {"FA": 60.0, "RA": 90.0, "TA": 50.0}
    assert tug_of_war({"FA": 70.0, "RA": 70.0, "TA": 50.0}, retrain) == pytest.approx(72)
    assert tug_of_war(retrain, retrain) == 100


def test_each_feature_is_attacked_by_the_same_classifier():
    """Confidence gives the tables' MIA; a sure and wrong forget set looks unseen by correctness, not by entropy."""
    rng = np.random.default_rng(0)
    labels = {part: rng.integers(0, 3, 60) for part in ("retain", "test", "forget")}

    def sure(labels, right):
        p = np.full((60, 3), 0.01)
        p[np.arange(60), (labels + ~right) % 3] = 0.98
        return p

    right = np.arange(60) % 2 == 0
    retain = sure(labels["retain"], np.ones(60, bool)), labels["retain"]
    test = sure(labels["test"], right), labels["test"]
    test[0][~right] = 1 / 3
    forget = sure(labels["forget"], np.zeros(60, bool)), labels["forget"]
    found = attacks.by_feature(retain, test, forget, 0)
    attack = attacks.SupportVectorAttack(0)
    assert found["confidence"] == metrics.membership_inference(retain, test, forget, attack)
    assert found["correctness"] == 100 and found["entropy"] == 0
    certain = np.eye(3)[[0]], np.array([1])
    assert attacks.FEATURES["modified entropy"](*certain) == attacks.MOST
