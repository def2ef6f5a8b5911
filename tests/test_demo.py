"""The demo from end to end, its membership attack, and results files that are written whole or not at all."""

import dataclasses
import inspect
import json
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from oeu_ref import files
from oeu_ref.core.stop_rule import EntropyStop, mean_entropy
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.lab import demo, engine, measures, search
from oeu_ref.lab.attacks import SupportVectorAttack
from oeu_ref.lab.experiment import QUICK, Digits, described
from oeu_ref.methods.method import Settings
from oeu_ref.methods.names import DEMO
from oeu_ref.reference.metrics import average_gap, membership_inference
from oeu_ref.report import figures, results
from oeu_ref.studies import bits, sequences

KINDS = ("FA", "RA", "TA", "MIA", "forget_vs_test_auc")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick demo on two seeds: where it wrote, and what it returned."""
    out = tmp_path_factory.mktemp("demo")
    return demo.run(out, seeds=(1, 2), quick=True, progress=False)


@pytest.fixture(scope="module")
def data(quick):
    return json.loads(quick["json"].read_text())


def without_times(data):
    return {key: value for key, value in data.items() if key != "seconds"}


def test_demo_writes_its_three_files_and_an_empty_lock(quick):
    files = {quick[kind] for kind in ("json", "markdown", "picture")}
    lock = quick["json"].parent / ".lock"
    assert set(quick["json"].parent.iterdir()) == {*files, lock} and not lock.read_bytes()
    assert quick["markdown"].read_text().strip() == quick["table"]


def test_demo_json_holds_everything_a_reader_needs(data):
    """Configuration, settings, seeds, versions, the attack's name, and for each seed and method metrics in percent."""
    assert set(data) == {
        "experiment",
        "config",
        "settings",
        "seeds",
        "search",
        "attack",
        "versions",
        "labels",
        "summary",
        "entropy_bins",
        "runs",
        "seconds",
    }
    assert data["seeds"] == [1, 2] and [run["seed"] for run in data["runs"]] == [1, 2]
    assert set(data["settings"]) == set(DEMO) and set(data["labels"]) == {"original", "retrain", *DEMO}
    assert {"python", "torch", "numpy", "scikit-learn", "oeu_ref"} == set(data["versions"])
    for run in data["runs"]:
        assert set(run["metrics"]) == {"original", "retrain", *DEMO}
        for name, values in run["metrics"].items():
            assert set(values) == {*KINDS, *measures.FA_PARTS, *(() if name == "retrain" else ("AG",))}
            assert all(0 <= value <= 100 for value in values.values())
        for name in DEMO:
            assert run["steps"][name] <= data["settings"][name]["steps"]


def test_forget_accuracy_is_split_by_whether_the_label_is_wrong(data):
    """Each part counts samples of its kind, by scikit-learn's own labels; together they are FA."""
    truth = load_digits(return_X_y=True)[1]
    for run in data["runs"]:
        splits = QUICK.split(None, run["seed"])
        true, taught = truth[splits.indices["forget"]], splits.forget.labels.numpy()
        wrong = taught != true
        assert np.array_equal(QUICK.wrong(splits, run["seed"])[splits.forget_indices], wrong)
        assert 0.1 < wrong.mean() < 0.3
        for values in run["metrics"].values():
            counts = values["FA wrong"] * wrong.sum() / 100, values["FA right"] * (~wrong).sum() / 100
            assert counts == pytest.approx(np.round(counts), abs=1e-9)
            assert values["FA"] == pytest.approx(100 * sum(counts) / len(wrong))
    assert measures.accuracy_by_label((np.eye(10)[true], taught), wrong) == {"FA wrong": 0.0, "FA right": 100.0}


def test_demo_numbers_hang_together(data):
    """AG is the gap to Retrain of the same seed, means and spreads are over seeds, histograms count every sample."""
    for run in data["runs"]:
        for name, values in run["metrics"].items():
            if name != "retrain":
                assert values["AG"] == average_gap(values, run["metrics"]["retrain"])
            histograms = run["entropy_histograms"][name]
            assert {part: sum(counts) for part, counts in histograms.items()} == {
                "forget": 126,
                "retain": 1131,
                "test": 360,
            }
        assert all(-1 <= c <= 1 for values in run["cosines"].values() for c in values)
        assert {len(values) for values in run["cosines"].values()} == {run["steps"]["oeu"]}
    first, second = (run["metrics"]["oeu"]["FA"] for run in data["runs"])
    assert data["summary"]["oeu"]["FA"]["mean"] == pytest.approx((first + second) / 2)
    assert data["summary"]["oeu"]["FA"]["spread"] == pytest.approx(abs(first - second) / 2**0.5)


def test_demo_table_shows_every_method_and_names_the_attack(quick, data):
    for label in data["labels"].values():
        assert any(line.startswith(f"| {label} ") for line in quick["table"].splitlines())
    assert data["attack"] in quick["table"]
    fa = data["summary"]["oeu"]["FA"]
    (row,) = (line for line in quick["table"].splitlines() if line.startswith("| OEU  "))
    assert row.split("|")[2].strip() == f"{fa['mean']:.1f} ± {fa['spread']:.1f}"


@pytest.mark.reliability
def test_demo_repeats_exactly_but_for_the_times(data, tmp_path):
    """The same seeds give the same JSON; a seed's results do not depend on which others are run."""
    again = demo.run(tmp_path / "new" / "place", seeds=(2,), quick=True, progress=False)
    assert json.loads(again["json"].read_text())["runs"][0] == data["runs"][1]
    whole = demo.run(tmp_path, seeds=(1, 2), quick=True, progress=False)
    assert without_times(json.loads(whole["json"].read_text())) == without_times(data)


def test_demo_picture_can_be_redrawn_from_the_json_alone(quick, tmp_path):
    picture = demo.redraw(quick["json"], tmp_path / "again.png")
    assert picture.read_bytes() == quick["picture"].read_bytes()
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(picture.read_bytes()[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1500, 900)


def test_demo_picture_shows_one_seed_too(quick, tmp_path):
    """Without a second seed there is no spread to draw."""
    single = demo.run(tmp_path, seeds=(1,), quick=True, progress=False)
    assert json.loads(single["json"].read_text())["summary"]["oeu"]["AG"]["spread"] is None
    assert "±" not in single["table"]


def test_demo_survives_methods_that_diverge(monkeypatch, tmp_path):
    """Whoever diverges is named, averaged over its other seeds, and missing where it has none; the rest is unharmed."""
    forget = engine.forget

    def fragile(case, name, *rest):
        if name == "ft" or (name, case.seed) in (("oeu", 1), ("ga", 2)):
            raise NonFiniteError("diverged")
        return forget(case, name, *rest)

    monkeypatch.setattr(engine, "forget", fragile)
    written = demo.run(tmp_path, seeds=(1, 2), quick=True, progress=False)
    data = json.loads(written["json"].read_text())
    assert [run["diverged"] for run in data["runs"]] == [["oeu", "ft"], ["ft", "ga"]]
    assert data["summary"]["ga"]["AG"] == {"mean": data["runs"][0]["metrics"]["ga"]["AG"], "spread": None}
    assert "ft" not in data["summary"] and "FT (fine-tuning) |" not in written["table"]
    assert "GA (gradient ascent) diverged on seed 2" in written["table"]
    assert written["picture"].stat().st_size > 10_000


def test_every_set_has_its_own_colour_and_line(data):
    """In grey as in colour: no two of forget, retain, test and Retrain look alike."""
    parts = [figures.STYLES[part] for part in ("forget", "retain", "test", "retrain")]
    for key in ("color", "linestyle", "hatch"):
        assert len({style[key] for style in parts}) == len(parts)


def test_search_gives_every_method_the_same_grid_and_picks_its_lowest_ag(tmp_path):
    grid = {"learning_rate": (0.05, 0.1), "weight": (0.3,), "steps": (1, 3)}
    names = ("oeu", "oeu_stop", "ga")
    found = demo.search(tmp_path / "s.json", seeds=(7,), grid=grid, methods=names, config=QUICK, progress=False)
    assert json.loads((tmp_path / "s.json").read_text()) == found
    for digest in found["methods"].values():
        points = {tuple(point[:3]): point[3] for point in digest["points"]}
        assert set(points) == {(rate, 0.3, steps) for rate in (0.05, 0.1) for steps in (1, 3)}
        best = digest["best"]
        assert round(best["AG"], 2) == min(points.values())
        assert points[best["learning_rate"], best["weight"], best["steps"]] == round(best["AG"], 2)
        assert round(digest["worst_AG"], 2) == max(points.values())
        assert digest["median_AG"] == pytest.approx(np.median(list(points.values())), abs=0.01)
    settings, steps = search.load_settings(path=_with_all_methods(tmp_path, found))["ga"]
    assert (settings.learning_rate, settings.weight, steps) == tuple(
        found["methods"]["ga"]["best"][key] for key in ("learning_rate", "weight", "steps")
    )


def _with_all_methods(tmp_path, found):
    methods = {name: found["methods"].get(name, found["methods"]["ga"]) for name in DEMO}
    return results.write_json(tmp_path / "all.json", {"methods": methods})


def test_a_search_writes_where_results_go_and_never_into_the_package(tmp_path, monkeypatch):
    """The demo keeps what it found in its own folder and takes that; no search has a path of the package by default."""
    committed, written = search.SETTINGS_FILE.read_bytes(), []
    monkeypatch.setattr(demo, "search", lambda path, config: written.append(path) or path.write_bytes(committed))
    demo.run(tmp_path, seeds=(1,), quick=True, anew=True, progress=False)
    assert written == [tmp_path / "settings.json"] and search.SETTINGS_FILE.read_bytes() == committed
    for searching in (search.search, bits.search, sequences.search):
        assert inspect.signature(searching).parameters["path"].default is inspect.Parameter.empty


def test_search_prefers_more_steps_among_equals():
    """With a stop rule steps are a maximum, and one that was not reached is no reason to choose a smaller one."""
    grid = {"learning_rate": (0.1,), "weight": (1.0,), "steps": (5, 10, 20)}
    points = {(0.1, 1.0, 5): [9.0, 9.0], (0.1, 1.0, 10): [4.0, 6.0], (0.1, 1.0, 20): [6.0, 4.0]}
    digest = search.digest(points, grid)
    assert (digest["best"]["steps"], digest["best"]["AG"], digest["median_AG"], digest["worst_AG"]) == (20, 5, 5, 9)
    points[0.1, 1.0, 20] = [1.0, float("inf")]  # diverged on one seed
    digest = search.digest(points, grid)
    assert (digest["best"]["steps"], digest["diverged"], digest["points"][2][3]) == (10, 1, None)


def test_the_stop_rule_sees_forget_and_validation_inputs_and_ends_the_run(monkeypatch):
    case, seen = engine.prepare(3, QUICK), []

    class Stop:
        def __init__(self, model, forget_inputs, unseen_inputs, every):
            seen.append((forget_inputs, unseen_inputs))

        def reached(self):
            return True

    monkeypatch.setattr(engine, "EntropyStop", Stop)
    assert len(engine.forget(case, "oeu_stop", Settings(0.1), 3)[1]) == 0
    assert len(engine.forget(case, "oeu", Settings(0.1), 3)[1]) == 3
    ((forget_inputs, unseen_inputs),) = seen
    assert torch.equal(forget_inputs, case.splits.forget.inputs)
    assert torch.equal(unseen_inputs, case.splits.validation.inputs)


def test_settings_are_cut_at_max_steps_and_never_lengthened():
    full = search.load_settings()
    for limit in (1, 30, 10_000):
        for name, (settings, steps) in search.load_settings(limit).items():
            assert (settings, steps) == (full[name][0], min(full[name][1], limit))


def test_the_number_of_threads_is_put_back_even_after_an_error():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), engine.one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("how", [{}, {"recalibrated": True}, {"schedule": "cosine"}], ids=str)
def test_the_search_has_the_gap_of_a_run_of_so_many_steps(how):
    """AG after few steps is read off the run with many where that is the same; where the rate falls, it is not."""
    case = engine.prepare(3, dataclasses.replace(QUICK, **how))
    for name in ("oeu", "rl"):
        found = search.gaps_of(case, name, Settings(0.1, 0.3), (2, 4))
        gaps = [case.judged(engine.forget(case, name, Settings(0.1, 0.3), steps)[0])["AG"] for steps in (2, 4)]
        assert [found[2], found[4]] == gaps and gaps[0] != gaps[1]


def test_the_stop_rule_asks_about_the_network_as_the_loop_would_leave_it():
    """Before the third step: at the entropies of a run of two, statistics estimated anew; the run is as without it."""
    case, made = engine.prepare(3, dataclasses.replace(QUICK, recalibrated=True)), []

    class Never(EntropyStop):
        def reached(self):
            made.append(self)
            return super().reached() and False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "EntropyStop", Never)
        patch.setattr(engine, "STOP_SAMPLES", 10_000)
        stopped, reports, _ = engine.forget(case, "oeu_stop", Settings(0.01), 3)
    two, three = (engine.forget(case, "oeu", Settings(0.01), steps)[0] for steps in (2, 3))
    assert len(reports) == 3 and made[0].history[2][0] == mean_entropy(two, case.splits.forget.inputs)
    assert all(torch.equal(a, b) for a, b in zip(stopped.state_dict().values(), three.state_dict().values()))


def test_a_table_says_how_all_its_methods_unlearned():
    """Also for a result of before there was a choice."""
    data = results.read_json(demo.__file__.replace(".py", ".json"))
    assert "learning rate constant; BatchNorm's statistics as the steps left them." in demo.markdown(data)
    data["config"] |= {"schedule": "linear", "recalibrated": True}
    falls = "learning rate falling linearly to zero; BatchNorm's statistics estimated anew on the retain set."
    assert falls in demo.markdown(data)


def test_a_field_that_came_later_is_written_where_it_is_not_what_it_was_before():
    assert {"schedule", "recalibrated"}.isdisjoint(described(QUICK))
    assert described(dataclasses.replace(QUICK, schedule="linear"))["schedule"] == "linear"
    assert described(dataclasses.replace(QUICK, recalibrated=True))["recalibrated"] is True


def test_committed_settings_come_from_the_present_grid_and_from_seeds_that_are_not_reported():
    """The settings file is what `search` would write: same grid, same configuration, every method's best point."""
    found = results.read_json(search.SETTINGS_FILE)
    assert not set(found["seeds"]) & set(demo.REPORTED_SEEDS)
    assert found["grid"] == {axis: list(values) for axis, values in search.GRID.items()}
    assert found["config"] == json.loads(json.dumps(described(Digits())))
    for name in DEMO:
        digest = found["methods"][name]
        assert len(digest["points"]) == np.prod([len(values) for values in found["grid"].values()])
        assert round(digest["best"]["AG"], 2) == min(point[3] for point in digest["points"] if point[3] is not None)


def plain_support_vector_attack(members, non_members, targets, seed):
    """The attack again: balance, fit, and the decision function evaluated by hand from the support vectors."""
    from sklearn.svm import SVC

    members = np.asarray(members)[np.random.default_rng(seed).permutation(len(members))[: len(non_members)]]
    x = np.r_[members, non_members].reshape(-1, 1)
    y = np.r_[np.ones(len(members)), np.zeros(len(non_members))]
    fitted = SVC(C=3, gamma=1.0, kernel="rbf").fit(x, y)  # "auto" is 1 / features, and there is one
    kernel = np.exp(-((np.asarray(targets)[:, None] - fitted.support_vectors_.T) ** 2))
    return kernel @ fitted.dual_coef_[0] + fitted.intercept_[0] <= 0


def test_support_vector_attack_agrees_with_its_decision_function_by_hand():
    rng = np.random.default_rng(0)
    members, non_members, targets = rng.beta(8, 1, 300), rng.beta(2, 2, 100), np.linspace(0, 1, 100_001)
    called = SupportVectorAttack(5)(members, non_members, targets)
    assert called.dtype == bool and 0 < called.sum() < len(targets)
    assert np.array_equal(called, plain_support_vector_attack(members, non_members, targets, 5))


def test_support_vector_attack_calls_the_unsure_non_members():
    """Members at 0.9 and more, non-members at 0.3 and less: True is a non-member; unbalanced sets change nothing."""
    called = SupportVectorAttack()(np.linspace(0.9, 1, 500), np.linspace(0, 0.3, 50), np.array([0.1, 0.95]))
    assert called.tolist() == [True, False]
    one_hot = np.eye(2)[[0, 0, 0]]
    mia = membership_inference(
        (one_hot, np.array([0, 0, 0])),
        (one_hot, np.array([1, 1, 1])),
        (one_hot, np.array([0, 1, 1])),
        SupportVectorAttack(),
    )
    assert mia == pytest.approx(200 / 3)


def test_support_vector_attack_repeats_and_depends_on_its_seed():
    rng = np.random.default_rng(1)
    members, non_members, targets = rng.beta(2, 1, 400), rng.beta(1, 1, 20), rng.uniform(size=400)
    first, again, other = (SupportVectorAttack(seed)(members, non_members, targets) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = results.write_json(tmp_path / "x.json", {"a": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.write_json(path, {"a": 2})
    assert results.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_complete_before_it_gets_its_name(tmp_path, monkeypatch):
    contents = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (contents.append(open(a, "rb").read()), rename(a, b)))
    files.write_bytes(tmp_path / "x", b"whole")
    assert contents == [b"whole"] and (tmp_path / "x").read_bytes() == b"whole"


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda tmp: demo.run(tmp, seeds=()), ValueError, "seeds"),
        (lambda tmp: demo.run(tmp, seeds=(1, 1)), ValueError, "seeds"),
        (lambda tmp: demo.run(tmp, seeds=(-1,)), ValueError, "seeds"),
        (lambda tmp: demo.run(tmp, seeds=1), TypeError, "seeds"),
        (lambda tmp: demo.run(tmp, seeds="12"), TypeError, "seeds"),
        (lambda tmp: demo.run(tmp, seeds=(1.0,)), TypeError, "seeds"),
        (lambda tmp: demo.run(None), TypeError, "out_dir"),
        (lambda tmp: demo.run(tmp / "file"), ValueError, "out_dir"),
        (lambda tmp: demo.run(tmp / "file" / "below"), ValueError, "out_dir"),
        (lambda tmp: demo.run("/proc/nowhere"), ValueError, "out_dir"),
        (lambda tmp: demo.redraw(tmp / "file", tmp / "x.png"), ValueError, "JSON"),
        (lambda tmp: demo.redraw(tmp / "missing", tmp / "x.png"), ValueError, "missing"),
        (lambda tmp: results.write_json(tmp / "x", {"a": float("nan")}), ValueError, "JSON"),
        (lambda tmp: SupportVectorAttack(-1), ValueError, "seed"),
        (lambda tmp: SupportVectorAttack()([], [0.1], [0.1]), ValueError, "members"),
        (lambda tmp: SupportVectorAttack()([0.1], [0.1], [np.nan]), ValueError, "targets"),
        (lambda tmp: SupportVectorAttack()([[0.1]], [0.1], [0.1]), ValueError, "members"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_behind(call, error, message, tmp_path):
    (tmp_path / "file").write_text("not json")
    with pytest.raises(error, match=message):
        call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
