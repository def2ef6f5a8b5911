"""Sequential requests: who sees what at which stage, where each stage starts, and what the study makes of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import Samples, Splits, stream
from oeu_ref.lab import engine, experiment
from oeu_ref.lab.experiment import described
from oeu_ref.lab.study import run as run_study
from oeu_ref.lab.training import TrainConfig, predictions
from oeu_ref.methods import by_name
from oeu_ref.methods.method import Losses, Settings
from oeu_ref.reference import metrics
from oeu_ref.report import figures
from oeu_ref.studies import sequences, sequential

TINY = sequences.SequenceConfig(
    experiment.Digits(hidden=(16,), train=TrainConfig(epochs=1), forget_batch=16, max_steps=2), 3, 10, 100.0
)
STEPS = Settings(0.1, 0.3), 2


def numbered(count):
    """Samples whose input is their own number."""
    return Samples(torch.arange(count, dtype=torch.float32)[:, None], torch.zeros(count, dtype=torch.int64))


def numbers(samples):
    return samples.inputs.flatten().int().tolist()


def images(samples):
    """The set of a digits part's images: no two of the training images are alike."""
    inputs = samples.inputs if isinstance(samples, Samples) else samples
    return {row.numpy().tobytes() for row in inputs}


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.fixture(scope="module")
def sequence():
    return sequences.prepare(3, TINY)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return run_study(sequential, tmp_path_factory.mktemp("sequential"), seeds=(1, 2), quick=True, progress=False)


@pytest.fixture(scope="module")
def data(quick):
    return json.loads(quick["json"].read_text())


@pytest.mark.parametrize("count, size", [(1, 1), (5, 50), (3, 33), (99, 1)])
def test_requests_are_disjoint(count, size):
    """No sample is requested twice, and each request has its size."""
    train = numbered(max(100, count * size + 1))
    requests = sequences.draw_requests(train, count, size, stream(1, "requests"))
    assert requests.shape == (count, size) and requests.dtype == torch.int64
    assert len(requests.unique()) == count * size
    assert 0 <= requests.min() and requests.max() < len(train)


def test_control_requests_drawn_apart_from_each_other_overlap():
    """The disjointness is of the draw's making: single draws from the same samples share some."""
    apart = [sequences.draw_requests(numbered(100), 1, 40, stream(1, name))[0] for name in ("a", "b")]
    assert len(torch.cat(apart).unique()) < 80


def test_the_retain_set_shrinks_by_exactly_the_requests():
    """Each stage's training samples are what the stage before kept; a request is in one stage alone."""
    train, held = numbered(50), numbered(3)
    splits = Splits(train, train[:1], train[1:], held, held, torch.zeros(1, dtype=torch.int64))
    requests = sequences.draw_requests(train, 4, 6, stream(2, "requests"))
    found = sequences.stage_splits(splits, requests)
    left = set(range(50))
    for parts, request in zip(found, requests.tolist()):
        assert numbers(parts.train) == sorted(left)
        assert numbers(parts.forget) == sorted(request) == numbers(parts.train[parts.forget_indices])
        left -= set(request)
        assert numbers(parts.retain) == sorted(left)
        assert parts.validation is held and parts.test is held
    assert len(found) == 4 and len(left) == 50 - 24


def test_each_retrain_sees_no_request_so_far_and_all_the_rest(monkeypatch):
    """Retrain j, and the second Retrain of the stage, learn the training samples without requests 1 to j."""
    learned = []

    def note(model, samples, *rest):
        learned.append(images(samples))
        return [0.0]

    monkeypatch.setattr(engine, "train", note)
    sequence = sequences.prepare(3, TINY)
    everything, *retrains = learned
    requested = set()
    assert len(everything) == 1257 and len(retrains) == 2 * TINY.requests
    for j, case in enumerate(sequence.cases):
        requested |= images(case.splits.forget)
        assert requested <= everything  # the original, the control, has seen them all
        for seen in retrains[2 * j : 2 * j + 2]:
            assert seen == everything - requested


def test_models_of_a_stage_differ_in_their_initial_weights(sequence):
    """The second Retrain is another draw of chance, and so is each stage's."""
    models = [sequence.original, *(case.retrain for case in sequence.cases), *sequence.again]
    assert len({weights(model).numpy().tobytes() for model in models}) == len(models)


def test_a_training_that_stumbles_is_repeated_from_other_weights(monkeypatch):
    """A Retrain that did not learn is no aim: it is trained again, and named; one that never learns is given up."""
    started = []

    def stumble(model, samples, *rest):
        started.append(weights(model))
        return [0.2 if len(started) in (2, 3) or len(started) > 5 else 0.05]

    monkeypatch.setattr(engine, "train", stumble)
    config = dataclasses.replace(TINY, requests=2, largest_loss=0.1)
    sequence = sequences.prepare(3, config)
    never = [name for name in ("retrain 2", "retrain 2 again") for _ in range(sequences.TRIALS)]
    assert sequence.repeated == ["retrain 1", "retrain 1", *never]
    assert torch.equal(weights(sequence.cases[0].retrain), started[3])
    assert len({start.numpy().tobytes() for start in started}) == len(started) == 5 + 2 * sequences.TRIALS
    # the control: without a limit each is trained once
    started.clear()
    assert sequences.prepare(3, dataclasses.replace(config, largest_loss=1.0)).repeated == [] and len(started) == 5


@pytest.mark.parametrize("name", ["oeu", "qmul"])
def test_a_stage_starts_from_the_weights_that_the_one_before_left(monkeypatch, sequence, name):
    started, forget = [], engine.forget

    def spy(case, *rest):
        started.append(weights(case.original))
        return forget(case, *rest)

    monkeypatch.setattr(engine, "forget", spy)
    before = weights(sequence.original)
    ended = [weights(model) for model, _ in sequences.follow(sequence, name, *STEPS)]
    assert torch.equal(weights(sequence.original), before)  # a copy unlearned, not the original itself
    assert len(started) == len(ended) == TINY.requests
    for start, expected in zip(started, [before, *ended]):
        assert torch.equal(start, expected)
    # the control: a method that starts from the original each time is equal at the first stage alone
    fresh = [weights(forget(case, name, *STEPS)[0]) for case in sequence.cases]
    assert [torch.equal(a, b) for a, b in zip(fresh, ended)] == [True, False, False]


def test_without_steps_the_original_stays(sequence):
    for model, taken in sequences.follow(sequence, "rl", Settings(0.1), 0):
        assert taken == 0 and torch.equal(weights(model), weights(sequence.original))


def reader(log):
    """A method that notes in a list what it is given, a dict for each time that it is made, and changes nothing."""

    class Reader:
        def __init__(self, model, forget, settings, generator):
            self.model = model
            log.append({"forget": images(forget), "retain": set(), "random": generator.initial_seed()})

        def relabel(self, forget):
            log[-1]["forget"] |= images(forget)
            return forget

        def step(self, forget, retain):
            log[-1]["forget"] |= images(forget)
            log[-1]["retain"] |= images(retain)
            return Losses(None, None)

    return Reader


def test_a_method_never_reads_the_samples_of_earlier_requests(monkeypatch, sequence):
    """A stage's method gets its own request to forget, and as retain samples none that was ever requested so far."""
    log = []
    monkeypatch.setitem(by_name.METHODS, "rl", by_name.MethodInfo("RL", reader(log)))
    assert [taken for _, taken in sequences.follow(sequence, "rl", Settings(0.1), 20)] == [20] * TINY.requests
    earlier = set()
    for read, case in zip(log, sequence.cases):
        assert read["forget"] == images(case.splits.forget)
        assert len(read["retain"]) > 1000 and read["retain"] <= images(case.splits.retain)
        assert not earlier & (read["forget"] | read["retain"] | images(case.splits.train))
        earlier |= read["forget"]
    assert len({read["random"] for read in log}) == TINY.requests  # no two stages draw alike
    # the control: a stage that were handed the whole training set again would read earlier requests
    log.clear()
    case = dataclasses.replace(sequence.cases[-1], splits=dataclasses.replace(case.splits, retain=case.splits.train))
    engine.forget(case, "rl", Settings(0.1), 20)
    assert log[0]["retain"] & earlier


def test_the_stop_rule_sees_the_stages_own_request_alone(monkeypatch, sequence):
    seen = []

    class Stop:
        def __init__(self, model, forget_inputs, unseen_inputs, every):
            seen.append(images(forget_inputs))

        def reached(self):
            return True

    monkeypatch.setattr(engine, "EntropyStop", Stop)
    assert [taken for _, taken in sequences.follow(sequence, "oeu_stop", *STEPS)] == [0] * TINY.requests
    assert seen == [images(case.splits.forget) for case in sequence.cases]


def _targets(sequence):
    return [sequences.measure(sequence, j, case.retrain) for j, case in enumerate(sequence.cases)]


def test_measure_takes_all_requests_so_far_and_the_stages_own_retain_set(sequence):
    """FA over equal requests is the mean of theirs; the newest is the last; RA is on what is left."""
    for stage, case in enumerate(sequence.cases):
        found = sequences.measure(sequence, stage, sequence.original)
        forgets = [c.splits.forget for c in sequence.cases[: stage + 1]]
        each = [metrics.accuracy(*predictions(sequence.original, part)) for part in forgets]
        assert found["FA_requests"] == each
        assert found["FA"] == pytest.approx(np.mean(each)) and found["newest"]["FA"] == each[-1]
        assert found["RA"] == metrics.accuracy(*predictions(sequence.original, case.splits.retain))
        assert found["TA"] == metrics.accuracy(*predictions(sequence.original, case.splits.test))
        union = tuple(map(np.concatenate, zip(*(predictions(sequence.original, part) for part in forgets))))
        test = predictions(sequence.original, case.splits.test)
        assert found["forget_vs_test_auc"] == metrics.forget_vs_test_auc(union[0], test[0])


def test_gaps_are_to_the_stages_own_retrain(sequence):
    """Retrain has no gap to itself; a method's gap is over all requested so far, and over the newest beside it."""
    targets = _targets(sequence)
    for target in targets:
        gaps = sequences.with_gaps(target, target)
        assert gaps["AG"] == gaps["newest"]["AG"] == 0 and "AG" not in target and "AG" not in target["newest"]
    stages = sequences.serve(sequence, "rl", *STEPS, targets)
    assert [stage["steps"] for stage in stages] == [2, 2, 2]
    for stage, target in zip(stages, targets):
        assert stage["AG"] == np.mean([abs(stage[key] - target[key]) for key in ("FA", "RA", "TA", "MIA")])
        assert stage["newest"]["AG"] == metrics.average_gap(stage["newest"], target["newest"])


def test_comes_back_counts_what_returns_beyond_retrain():
    """The first request returns from Retrain's 70 to 100, the second falls from 10 above Retrain to it: 30 - 10."""
    retrain = [{"FA_requests": [70.0] * j} for j in (1, 2, 3)]
    forgotten = [{"FA_requests": values} for values in ([70.0], [80.0, 80.0], [100.0, 70.0, 100.0])]
    assert sequential._comes_back(forgotten, retrain) == (30 - 10) / 2
    # where Retrain rises too, nothing came back: its retain sets teach it about such samples
    rising = [{"FA_requests": [70.0]}, {"FA_requests": [80.0, 80.0]}, {"FA_requests": [100.0, 70.0, 70.0]}]
    assert sequential._comes_back(forgotten, rising) == 0


def test_slope_is_the_change_from_one_request_to_the_next():
    assert sequential._slope([3.0, 5.0, 7.0]) == pytest.approx(2)
    assert sequential._slope([4.0, 4.0]) == pytest.approx(0)


def test_run_writes_its_three_files_and_nothing_else(quick):
    files = {quick[kind] for kind in ("json", "markdown", "picture")}
    assert {path.name for path in files} == {"sequential.json", "sequential.md", "sequential.png"}
    assert set(quick["json"].parent.iterdir()) == files
    assert quick["markdown"].read_text() == quick["table"] + "\n"


def test_table_and_picture_can_be_made_again_from_the_json_alone(quick, data, tmp_path):
    assert sequential.markdown(data) == quick["table"]
    again = figures.picture(tmp_path / "again.png", sequential.figure, data)
    assert again.read_bytes() == quick["picture"].read_bytes()
    width, height = (int.from_bytes(again.read_bytes()[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1500, 1050)


def test_json_holds_every_stage_of_every_method(data):
    """Configuration, settings, seeds and versions; for each seed, stage and method the metrics, and gaps to Retrain."""
    assert {"question", "config", "seeds", "versions", "settings", "search", "attack", "labels", "runs"} == set(data)
    stages = data["config"]["requests"]
    for run in data["runs"]:
        assert set(run["sequence"]) == {"retrain", "original", "again", *sequences.METHODS}
        for name, found in run["sequence"].items():
            assert [len(stage["FA_requests"]) for stage in found] == list(range(1, stages + 1))
            for stage, target in zip(found, run["sequence"]["retrain"]):
                if name != "retrain":
                    assert stage["AG"] == metrics.average_gap(stage, target)


def test_each_method_has_its_own_settings(monkeypatch):
    """A method serves the requests at what the search chose for it."""
    asked = []
    monkeypatch.setattr(sequential, "serve", lambda sequence, *given: asked.append(given[:3]) or [])
    chosen = {name: (f"settings of {name}", number) for number, name in enumerate(sequences.METHODS)}
    with engine.progress_bar(1, False) as bar:
        sequential._run_seed(3, TINY, chosen, bar)
    assert asked == [(name, *found) for name, found in chosen.items()]


def test_tables_show_mean_and_spread_of_what_the_json_holds(quick, data):
    first, second = (run["sequence"]["oeu"][1]["AG"] for run in data["runs"])
    row = next(line for line in quick["table"].splitlines() if line.startswith("| OEU  "))
    assert row.split("|")[3].strip() == f"{(first + second) / 2:.1f} ± {abs(first - second) / 2**0.5:.1f}"
    assert all(f"| {label} " in quick["table"] for label in data["labels"].values())
    assert "over seeds 1, 2. " in quick["table"] and data["attack"] in quick["table"]


def test_a_seeds_results_do_not_depend_on_the_others(data, tmp_path):
    again = run_study(sequential, tmp_path / "new" / "place", seeds=(2,), quick=True, progress=False)
    assert json.loads(again["json"].read_text())["runs"][0] == data["runs"][1]
    assert "±" not in again["table"] and "one seed" in again["table"]


def test_methods_that_diverge_are_named_and_averaged_over_the_others(monkeypatch, quick, data):
    """A method that diverges keeps the stages that it reached, and is missing where it has none."""
    forget, target = engine.forget, sequences.prepare(3, TINY)

    def fragile(case, name, *rest):
        if case.splits.forget is target.cases[1].splits.forget:
            raise NonFiniteError("diverged")
        return forget(case, name, *rest)

    monkeypatch.setattr(engine, "forget", fragile)
    assert len(sequences.serve(target, "rl", *STEPS, _targets(target))) == 1
    changed = json.loads(json.dumps(data))
    del changed["runs"][0]["sequence"]["rl"][1:]
    for run in changed["runs"]:
        run["sequence"]["ft"] = []
    text = sequential.markdown(changed)
    assert "RL (random labels) diverged on seed 1 after 1 of 3 stages" in text
    assert "FT (fine-tuning) diverged on seed 2 after 0 of 3 stages" in text
    row = next(line for line in text.splitlines() if line.startswith("| RL "))
    assert "±" in row.split("|")[2] and row.split("|")[3].strip() == f"{data['runs'][1]['sequence']['rl'][1]['AG']:.1f}"
    assert next(line for line in text.splitlines() if line.startswith("| FT ")).split("|")[2].strip() == "–"
    sequential.figure(changed)


def test_search_gives_every_method_the_same_points_and_picks_its_lowest_ag(tmp_path):
    grid = {"learning_rate": (0.05, 0.1), "weight": (0.3,), "steps": (1, 2)}
    path = tmp_path / "s.json"
    found = sequential.search(path, seeds=(7,), grid=grid, methods=("rl", "ft"), config=TINY, progress=False)
    assert json.loads(path.read_text()) == found
    sequence = sequences.prepare(7, TINY)
    targets = _targets(sequence)
    for name in ("rl", "ft"):
        digest = found["methods"][name]
        points = {tuple(point[:3]): point[3] for point in digest["points"]}
        assert set(points) == {(rate, 0.3, steps) for rate in (0.05, 0.1) for steps in (1, 2)}
        for (rate, weight, steps), gap in points.items():
            stages = sequences.serve(sequence, name, Settings(rate, weight), steps, targets)
            assert gap == round(np.mean([stage["AG"] for stage in stages]), 2), name
        assert round(digest["best"]["AG"], 2) == min(points.values())


def test_settings_were_chosen_on_seeds_that_are_not_reported_within_one_budget():
    found = json.loads(sequences.SETTINGS_FILE.read_text())
    assert not set(found["seeds"]) & set(sequential.REPORTED_SEEDS)
    assert found["grid"] == {axis: list(values) for axis, values in sequences.GRID.items()}
    config = sequences.SequenceConfig()
    config = {**dataclasses.asdict(config), "base": described(config.base)}
    assert found["config"] == json.loads(json.dumps(config))
    points = np.prod([len(values) for values in sequences.GRID.values()])
    for name in sequences.METHODS:
        assert len(found["methods"][name]["points"]) == points
    for limit in (1, 30, None):
        chosen = sequences.load_settings(limit)
        assert list(chosen) == list(sequences.METHODS)
        assert all(1 <= steps <= (limit or 80) for _, steps in chosen.values())


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda p: run_study(sequential, p, seeds=()), ValueError, "seeds must be at least one"),
        (lambda p: run_study(sequential, p, seeds=(1, 1)), ValueError, "each different"),
        (lambda p: run_study(sequential, p, seeds="12"), TypeError, "seeds must be a sequence"),
        (lambda p: run_study(sequential, 3), TypeError, "out_dir must be a path"),
        (lambda p: sequential.search(p / "s.json", methods=("ga",)), ValueError, "methods must be one of 'oeu'"),
        (lambda p: sequences.SequenceConfig(requests=1), ValueError, "requests must be at least 2"),
        (lambda p: sequences.SequenceConfig(request_size=0), ValueError, "request_size must be at least 1"),
        (lambda p: sequences.SequenceConfig(largest_loss=0), ValueError, "largest_loss must be greater than 0"),
        (lambda p: sequences.SequenceConfig(requests=2.0), TypeError, "requests must be an integer"),
        (lambda p: sequences.draw_requests(numbered(10), 2, 5, stream(1, "x")), ValueError, "leave samples to keep"),
        (lambda p: sequences.draw_requests(numbered(10), 0, 5, stream(1, "x")), ValueError, "count must be at least 1"),
        (lambda p: sequences.prepare(-1, TINY), ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments_are_named(tmp_path, call, error, words):
    with pytest.raises(error, match=words):
        call(tmp_path)
