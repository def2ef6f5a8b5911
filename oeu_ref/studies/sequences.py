"""Forget requests one after another on the digits: the stages, how a method serves them, and how that is measured.

Stage j starts from the model that stage j-1 left, forgets request j, and keeps what no request has named so far.
Retrain j is trained from scratch on that. The study of this is `sequential.py`; `search` chose the methods' settings.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from .. import boundary
from ..core.network import QuantMLP
from ..core.unlearner import NonFiniteError
from ..data.samples import split_at, stream
from ..lab import engine, measures
from ..lab import search as searches
from ..lab.engine import Case, checked_seeds, one_thread, progress_bar
from ..lab.experiment import QUICK, Digits
from ..lab.training import predictions
from ..methods.method import Settings
from ..reference import metrics
from ..report import results

METHODS = ("oeu", "oeu_stop", "ft", "rl", "qmul")
SETTINGS_FILE = Path(__file__).with_name("sequential_settings.json")
# around what was best for one request, for every method; at most 80 steps a request, the demo's budget
GRID = {"learning_rate": (0.1, 0.3), "weight": (0.03, 0.1, 0.3), "steps": (20, 40, 80)}
SEARCH_SEEDS = (101, 102)


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """The experiment: requests >= 2, of request_size >= 1 samples each; base, the demo's, without its forget_share.

    largest_loss > 0: a training whose last epoch has a larger mean loss, in nats, has stumbled and is repeated from
    other weights, TRIALS times at most. About one in twenty stumbles, some down to chance (10 %): no aim for anybody.
    Raises TypeError or ValueError, naming the field, for a value out of range.
    """

    base: Digits = Digits()
    requests: int = 5
    request_size: int = 50
    largest_loss: float = 0.1  # those that did not stumble end below 0.02

    def __post_init__(self):
        boundary.integer("requests", self.requests, 2)
        boundary.integer("request_size", self.request_size, 1)
        boundary.positive("largest_loss", self.largest_loss)


QUICK_CONFIG = SequenceConfig(QUICK, requests=3, request_size=20, largest_loss=100.0)
TRIALS = 5


@dataclasses.dataclass(frozen=True)
class Sequence:
    """What all methods of one seed start from.

    original: the model of before the first request; cases: an `engine.Case` a stage, whose `original` is that model and
    whose `retrain` is the stage's own; again: a second Retrain a stage, from other initial weights: the gap that chance
    alone leaves; repeated: names of the trainings that stumbled and were repeated, each as often as it was.
    """

    original: QuantMLP
    cases: list
    again: list
    repeated: list


def draw_requests(train, count, size, generator):
    """Positions in the training samples of requests that share no sample.

    train: `Samples`, N of them; count, size >= 1: requests, and samples in each; generator: a `torch.Generator`.
    Returns (count, size) int64, all different, in [0, N).
    Raises TypeError or ValueError for a count or size below 1, or requests that leave nothing to keep.
    """
    count, size = boundary.integer("count", count, 1), boundary.integer("size", size, 1)
    if count * size >= len(train):
        raise ValueError(
            f"count and size must leave samples to keep, got {count} requests of {size} from {len(train)} samples"
        )
    return torch.randperm(len(train), generator=generator)[: count * size].view(count, size)


def stage_splits(splits, requests):
    """What each stage may see: its own request and what no request has named so far. Earlier requests are gone.

    splits: `Splits`, of which train, validation and test are used; requests: as `draw_requests` returns.
    Returns a list of `Splits`, one a stage: `train` is what the stage before left, `forget` the request, `retain` the
    rest; forget_indices are positions in that `train`.
    """
    left = splits.train
    positions = torch.arange(len(splits.train))
    found = []
    for request in requests:
        chosen = torch.isin(positions, request)
        part, retain, indices = split_at(left, chosen.nonzero().flatten())
        found.append(dataclasses.replace(splits, train=left, forget=part, retain=retain, forget_indices=indices))
        left, positions = retain, positions[~chosen]
    return found


def prepare(seed, config, on_step=None):
    """Load the data, draw the requests, train the original and two Retrains a stage: a `Sequence`.

    seed: integer >= 0; config: `SequenceConfig`; on_step: called after each epoch.
    """
    base = config.base
    splits = base.split(None, seed)
    requests = draw_requests(splits.train, config.requests, config.request_size, stream(seed, "requests"))
    repeated = []

    def trained(parts, name):
        for trial in range(1, TRIALS + 1):
            draw = name if trial == 1 else f"{name}, trial {trial}"
            model, losses = engine.trained(base, parts, seed, draw, on_step)
            if losses[-1] <= config.largest_loss:
                break
            repeated.append(name)
        return model

    original = trained(splits, "original")
    cases = []
    again = []
    for j, parts in enumerate(stage_splits(splits, requests), 1):
        # a seed of its own, so that no two stages draw the same batches or labels
        stage_seed = stream(seed, f"stage {j}").initial_seed()
        cases.append(Case(stage_seed, base, parts, original, trained(parts, f"retrain {j}"), {}))
        again.append(trained(parts, f"retrain {j} again"))
    return Sequence(original, cases, again, repeated)


def follow(sequence, name, settings, steps, on_step=None):
    """Let one method serve the requests in order, each stage from the weights that the one before left.

    sequence: `Sequence`; name, settings, on_step: as in `engine.forget`; steps: at most so many for each request.
    Yields (model, steps taken) a stage; each model is a copy of its own.  Raises `NonFiniteError` where it diverges.
    """
    model = sequence.original
    for case in sequence.cases:
        model, reports, _ = engine.forget(dataclasses.replace(case, original=model), name, settings, steps, on_step)
        yield model, len(reports)


def measure(sequence, stage, model):
    """Metrics of a model at a stage, against the stage's retain set, in percent.

    stage: index from 0.  Returns `reference.metrics.unlearning_metrics` for all samples requested so far as one forget
    set, the same for the newest request alone under "newest", and under "FA_requests" the accuracy on each request.
    Raises `NonFiniteError` for a model whose logits are not finite.
    """
    cases = sequence.cases[: stage + 1]
    requests = [predictions(model, case.splits.forget) for case in cases]
    retain, test = (predictions(model, part) for part in (cases[-1].splits.retain, cases[-1].splits.test))

    def measured(asked):
        return measures.measure({"retain": retain, "test": test, "forget": asked}, cases[-1].seed)["metrics"]

    return {
        **measured(tuple(np.concatenate(parts) for parts in zip(*requests))),
        "newest": measured(requests[-1]),
        "FA_requests": [metrics.accuracy(*request) for request in requests],
    }


def with_gaps(values, target):
    """Measured values with "AG" beside them, for all samples requested so far and for the newest request.

    values, target: as `measure` returns, target that of the stage's Retrain.  Returns a new dict.
    """
    newest = {**values["newest"], "AG": metrics.average_gap(values["newest"], target["newest"])}
    return {**values, "AG": metrics.average_gap(values, target), "newest": newest}


def serve(sequence, name, settings, steps, targets):
    """Metrics of one method at each stage: a list as long as the number of stages that it reached before it diverged.

    sequence, name, settings, steps: as in `follow`; targets: what `measure` says of each stage's Retrain.
    Returns dicts as `with_gaps` does, and the "steps" that were taken.
    """
    stages = []
    try:
        for j, (model, taken) in enumerate(follow(sequence, name, settings, steps)):
            stages.append({**with_gaps(measure(sequence, j, model), targets[j]), "steps": taken})
    except NonFiniteError:
        pass
    return stages


def load_settings(max_steps=None, path=SETTINGS_FILE):
    """What `search` chose: {method: (`Settings`, steps for each request, cut at max_steps)}."""
    found = results.read_json(path)["methods"]
    return {name: searches.setting(found[name]["best"], max_steps) for name in METHODS}


def search(path, seeds=SEARCH_SEEDS, grid=None, methods=METHODS, config=None, progress=True):
    """Choose every method's settings for the whole sequence: the grid point with the lowest AG, mean over its stages.

    path: the JSON file to write; seeds: distinct integers >= 0, not those reported; grid: {"learning_rate", "weight",
    "steps"}, steps for each request, None: GRID; methods: names among METHODS; config: `SequenceConfig`, None: the
    default; progress: show a bar.
    Returns the JSON's contents: "methods" -> method -> `search.digest`.  Raises TypeError or ValueError, naming the
    argument.
    """
    seeds = checked_seeds(seeds)
    methods = [boundary.one_of("methods", name, METHODS) for name in methods]
    results.output_directory("path", Path(path).parent)
    grid, config = GRID if grid is None else grid, SequenceConfig() if config is None else config

    def attempt(prepared, name, rate, weight):
        sequence, targets = prepared
        found = {n: serve(sequence, name, Settings(rate, weight), n, targets) for n in grid["steps"]}
        whole = {n: len(stages) == len(targets) for n, stages in found.items()}
        return {n: np.mean([stage["AG"] for stage in found[n]]) if whole[n] else math.inf for n in found}

    def cases():
        for seed in seeds:
            sequence = prepare(seed, config)
            yield sequence, [measure(sequence, j, case.retrain) for j, case in enumerate(sequence.cases)]

    total = len(seeds) * len(methods) * len(grid["learning_rate"]) * len(grid["weight"])
    with one_thread(), progress_bar(total, progress, "runs") as bar:
        found = searches.searched(methods, cases(), grid, attempt, bar)
    title = "sequential requests on the digits: search for settings by true AG"
    return searches.write(path, title, config, seeds, grid, methods=found)
