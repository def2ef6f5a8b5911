"""`unlearn` on one's own network and data: the tables' loop, what ends it, and that no wreck is called forgotten."""

import copy
import os
import signal
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from oeu_ref import OEU, EntropyStop, GuardedStop, Watch, evaluate, unlearn
from oeu_ref.core.entropy import entropy
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab import engine, measures, training
from oeu_ref.lab.experiment import Digits
from oeu_ref.methods.baselines import RandomLabels, SimilarLabels
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import OrthogonalEntropy
from oeu_ref.own import sources
from oeu_ref.own.stop import class_shares, weighted_auc
from oeu_ref.own.unlearning import interruptible
from oeu_ref.passes import recalibrate_batchnorm
from oeu_ref.reference import metrics

from .test_own import FORMS, PARTS, network

FORGET, RETAIN, UNSEEN = PARTS["forget"], PARTS["retain"], PARTS["unseen"]
QUIET = {"progress": False}


def oeu(model, lr=0.1, momentum=0.0, **options):
    return OEU(model, torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum), **options)


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_it_is_the_loop_of_the_tables():
    """The same seed, batches and settings lead to the same weights, bit for bit, and the same reports."""
    ours, theirs = network(), network()
    run = unlearn(oeu(ours, beta=0.5), FORGET, RETAIN, 6, forget_batch=8, retain_batch=16, seed=3, **QUIET)
    method = OrthogonalEntropy(theirs, FORGET, Settings(0.1, 0.5, 0.0, 0.0), stream(3, "method"))
    orders = (stream(3, "forget batches"), stream(3, "retain batches"))
    reports = training.unlearn(method, FORGET, RETAIN, 6, training.UnlearnConfig(8, 16), orders)
    assert torch.equal(weights(ours), weights(theirs)) and run.reports == reports and not ours.training


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch takes its leave of torch.jit
def test_a_network_of_torch_jit_is_refused_before_anything_moves():
    """Its modules cannot be looked through as Python's are, so that no step could be taken back."""
    traced = torch.jit.trace(network().eval(), FORGET.inputs)
    before = weights(traced)
    with pytest.raises(TypeError, match="^unlearner must have a network written in Python, got one of torch.jit"):
        unlearn(oeu(traced), FORGET, RETAIN, 2, unseen=UNSEEN, **QUIET)
    assert torch.equal(weights(traced), before)


def test_batches_of_several_lengths_are_for_evaluate_alone_and_dicts_for_none():
    """Texts that are padded batch by batch: it passes each batch by itself, while looks on the way join them."""
    taken = nn.Sequential(nn.Embedding(9, 4), nn.AdaptiveMaxPool2d((1, 4)), nn.Flatten(), nn.Linear(4, 4))
    labels = torch.arange(4)
    ragged = [(torch.ones(4, length, dtype=torch.long), labels) for length in (3, 5)]
    assert evaluate(taken, ragged, ragged, [(torch.ones(4, 7, dtype=torch.long), labels)]).samples["forget"] == 8
    with pytest.raises(ValueError, match="^forget must give inputs of one shape in all batches"):
        unlearn(oeu(taken), ragged, ragged, 2, **QUIET)
    named = [{"input_ids": inputs, "labels": labels} for inputs, labels in ragged]
    for call in (lambda: evaluate(taken, named, named, named), lambda: unlearn(oeu(taken), named, named, 2, **QUIET)):
        with pytest.raises(TypeError, match=r"^forget must give batches \(inputs, labels\) of tensors, got dict"):
            call()


@pytest.mark.parametrize("form", ["loader", "list of batches", "generator", "inputs alone"])
def test_batches_come_as_they_are_and_the_shorter_begins_anew(form):
    """Forget batches of a loader, list or generator are passed in their order, again and again."""
    ours, theirs = network(), network()
    forget = (FORMS | {"inputs alone": lambda s: [s.inputs[:9], s.inputs[9:]]})[form](FORGET)
    unlearn(oeu(ours), forget, [(RETAIN.inputs, RETAIN.labels)], 5, **QUIET)
    size, stepping = 7 if form == "loader" else 9, oeu(theirs)
    parts = [FORGET.inputs[:size], FORGET.inputs[size : 2 * size] if form == "loader" else FORGET.inputs[9:]]
    parts += [FORGET.inputs[14:]] if form == "loader" else []
    for i in range(5):
        stepping.step(parts[i % len(parts)], RETAIN.inputs, RETAIN.labels)
    assert torch.equal(weights(ours), weights(theirs))


def test_a_shuffled_loader_is_shuffled_anew_in_each_pass():
    loader = DataLoader(TensorDataset(FORGET.inputs, FORGET.labels), batch_size=20, shuffle=True)
    repeated = sources.source("forget", loader, torch.device("cpu"), 1, None)
    first, second = next(repeated).inputs, next(repeated).inputs
    assert not torch.equal(first, second) and torch.equal(first.sort(0).values, second.sort(0).values)


def test_a_loader_that_drops_the_same_forget_samples_each_time_is_refused():
    """Whatever is asked to be forgotten is forgotten; retain samples may be dropped, or others in each pass."""
    data = TensorDataset(FORGET.inputs, FORGET.labels)
    dropping = DataLoader(data, batch_size=len(data) - 3, drop_last=True)
    with pytest.raises(ValueError, match="forget must give every sample, its DataLoader drops 3: .*drop_last=False"):
        unlearn(oeu(network()), dropping, RETAIN, 1, **QUIET)
    for options in ({"batch_size": len(data)}, {"batch_size": len(data) - 3, "shuffle": True}):
        unlearn(oeu(network()), DataLoader(data, drop_last=True, **options), RETAIN, 1, **QUIET)
    retain = DataLoader(TensorDataset(RETAIN.inputs, RETAIN.labels), batch_size=len(RETAIN) - 1, drop_last=True)
    unlearn(oeu(network()), FORGET, retain, 1, **QUIET)


def test_samples_to_forget_that_are_kept_too_are_counted():
    """Who passes all training samples as retain is told so; of samples apart nothing is said."""
    both = Samples(torch.cat([RETAIN.inputs, FORGET.inputs]), torch.cat([RETAIN.labels, FORGET.labels]))
    with pytest.warns(UserWarning, match=f"retain holds samples that are to be forgotten, {len(FORGET)} at least"):
        unlearn(oeu(network()), FORGET, both, 1, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn(oeu(network()), FORGET, RETAIN, 1, **QUIET)
        half = lambda samples: Samples(samples.inputs.bfloat16(), samples.labels)
        unlearn(oeu(network().bfloat16()), half(FORGET), half(RETAIN), 1, **QUIET)


@pytest.mark.parametrize("form", FORMS)
def test_batches_go_to_the_networks_device(form):
    found = sources.source("forget", FORMS[form](FORGET), torch.device("meta"), 4, torch.Generator())
    part = found if isinstance(found, Samples) else next(found)
    assert part.inputs.device.type == part.labels.device.type == "meta"


def test_any_method_of_the_tables_unlearns():
    """Methods that teach labels keep each sample's own, whatever form the data has."""
    for make in (RandomLabels, SimilarLabels):
        ours, theirs = network(), network()
        for model, forget in ((ours, FORMS["loader"](FORGET)), (theirs, FORGET)):
            method = make(model, FORGET, Settings(0.1), stream(0, "method"))
            run = unlearn(method, forget, RETAIN, 3, forget_batch=8, **QUIET)
            assert len(run.reports) == 3 and run.status == "budget spent"
        assert torch.equal(weights(ours), weights(theirs))


def test_learning_rate_and_statistics_follow_what_is_asked():
    """Rates by name are the tables', a scheduler of PyTorch's steps after each step, statistics are estimated anew."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    unlearn(OEU(model, optimizer), FORGET, RETAIN, 3, schedule=scheduler, **QUIET)
    assert optimizer.param_groups[0]["lr"] == 0.1 / 8
    constant, linear = network(), network()
    for net, schedule in ((constant, "constant"), (linear, "linear")):
        unlearn(oeu(net), FORGET, RETAIN, 3, schedule=schedule, **QUIET)
    assert not torch.equal(weights(constant), weights(linear))
    plain, anew = network(), network()
    runs = [unlearn(oeu(net), FORGET, RETAIN, 3, recalibrated=net is anew, every=1, **QUIET) for net in (plain, anew)]
    assert not torch.equal(plain[1].running_mean, anew[1].running_mean)
    assert torch.equal(recalibrate_batchnorm(plain, RETAIN.inputs)[1].running_var, anew[1].running_var)
    looks = [run.looks[2]["forget_entropy"] for run in runs]  # each look is at the network as it would be left
    assert looks[0] != looks[1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (schedulers.ReduceLROnPlateau, TypeError, "schedule must step without arguments, Reduce.* asks for metrics"),
        (
            lambda optimizer: schedulers.OneCycleLR(optimizer, 0.1, total_steps=2),
            ValueError,
            "schedule must last for max_steps = 3 steps, OneCycleLR ends after 2",
        ),
        (
            lambda optimizer: schedulers.StepLR(torch.optim.SGD(network().parameters(), 0.1), 1),
            ValueError,
            "schedule must be made of the unlearner's own optimizer, got one of another",
        ),
        (lambda optimizer: schedulers.StepLR, TypeError, "schedule must be a scheduler, got the class StepLR"),
    ],
)
def test_a_scheduler_that_is_sure_to_raise_or_to_do_nothing_is_refused_before_any_step(make, error, message):
    """One that asks for more than it gets, ends too soon, or is another optimizer's; one that just lasts is right."""
    model = network()
    optimizer, before = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), weights(model)
    with pytest.raises(error, match=message):
        unlearn(OEU(model, optimizer), FORGET, RETAIN, 3, schedule=make(optimizer), **QUIET)
    assert torch.equal(weights(model), before)
    lasting = schedulers.OneCycleLR(optimizer, 0.1, total_steps=3)
    assert len(unlearn(OEU(model, optimizer), FORGET, RETAIN, 3, schedule=lasting, **QUIET).reports) == 3


def test_a_scheduler_that_raises_stands_as_before_its_step():
    """The network has taken the step that the optimizer took; schedule and rates are whole, and the error says so."""

    def factor(step):
        if step == 2:
            raise KeyError("no rate for 2")
        return 0.5**step

    model, other = network(), network()
    optimizer, alike = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (model, other))
    parts = [schedulers.StepLR(optimizer, 1, gamma=0.1), schedulers.LambdaLR(optimizer, factor)]
    with pytest.raises(ValueError, match="^schedule must step when the network has done so, it is as before, KeyError"):
        unlearn(OEU(model, optimizer), FORGET, RETAIN, 3, schedule=schedulers.ChainedScheduler(parts), **QUIET)
    assert optimizer.param_groups[0]["lr"] == 0.05 and [part.last_epoch for part in parts] == [1, 1]
    unlearn(OEU(other, alike), FORGET, RETAIN, 2, schedule=schedulers.StepLR(alike, 1, gamma=0.5), **QUIET)
    assert torch.equal(weights(model), weights(other))


def test_the_curve_is_that_of_the_network_in_eval_mode(tmp_path):
    """Looks before the first step, every third one, and after the last; the picture is written."""
    model = network()
    run = unlearn(oeu(model), FORGET, RETAIN, 7, unseen=UNSEEN, stop=lambda: False, every=3, **QUIET)
    assert run.curve("RA")[0] == [0, 3, 6, 7] and run.curve("forget_entropy")[0] == [1, 2, 3, 4, 5, 6, 7]
    last = run.looks[-1]
    found = measures.outputs(model, type("Splits", (), {**PARTS, "test_of_forgotten": None}), ("retain", "forget"))
    assert (last["RA"], last["FA"]) == tuple(metrics.accuracy(*found[part]) for part in ("retain", "forget"))
    assert "budget spent after 7 steps" in str(run) and run.curve("nothing") == ([], [])
    run.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_before_is_what_evaluate_wants():
    """The proxy of the network as it was, from any form of data; none where labels are missing."""
    model = network()
    original = copy.deepcopy(model)
    run = unlearn(oeu(model), FORMS["loader"](FORGET), RETAIN, 2, unseen=UNSEEN, **QUIET)
    assert evaluate(model, **PARTS, before=run.before) == evaluate(model, **PARTS, before=original)
    assert unlearn(oeu(model), [FORGET.inputs], RETAIN, 1, unseen=UNSEEN, **QUIET).before is None


class Interrupting:
    """A step during which Ctrl-C is pressed, at the third."""

    def __init__(self, unlearner):
        self.unlearner, self.model, self.optimizer, self.taken = unlearner, unlearner.model, unlearner.optimizer, 0

    def step(self, *batches):
        self.taken += 1
        if self.taken == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return self.unlearner.step(*batches)


def test_ctrl_c_ends_the_run_after_its_step_and_leaves_a_usable_network():
    ours, theirs = network(), network()
    usual = signal.getsignal(signal.SIGINT)
    run = unlearn(Interrupting(oeu(ours)), FORGET, RETAIN, 9, unseen=UNSEEN, stop=lambda: False, **QUIET)
    unlearn(oeu(theirs), FORGET, RETAIN, 3, **QUIET)
    assert run.status == "interrupted" and len(run.reports) == 3 and run.looks[-1]["step"] == 3
    assert torch.equal(weights(ours), weights(theirs)) and not ours.training
    assert signal.getsignal(signal.SIGINT) is usual
    with pytest.raises(KeyboardInterrupt), interruptible() as pressed:
        os.kill(os.getpid(), signal.SIGINT)
        assert pressed
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual


# --- checkpoints ---------------------------------------------------------------------------------------------------


def with_dropout(seed=0):
    """As `network`, with units left out by the global generator."""
    return training.build(lambda: nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 4)), seed)


def shuffled(samples, generator=None):
    return DataLoader(TensorDataset(samples.inputs, samples.labels), batch_size=7, shuffle=True, generator=generator)


ORDERED = {
    "in memory": lambda s: s,
    "data set": FORMS["data set"],
    "loader": shuffled,
    "loader with a generator": lambda s: shuffled(s, stream(4, "order")),
    "generator": FORMS["generator"],
}


def resumable(form, path, momentum=0.9, wrap=lambda unlearner: unlearner, **options):
    """One run with all that a checkpoint must hold: momentum, scheduler, Dropout, order, looks.  (network, run)."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = with_dropout()
        unlearner = wrap(oeu(model, momentum=momentum, beta=0.5))
        schedule = torch.optim.lr_scheduler.StepLR(unlearner.optimizer, 2, gamma=0.5)
        given = {"unseen": UNSEEN, "stop": lambda: False, "schedule": schedule, "every": 2, "forget_batch": 8}
        given |= {"retain_batch": 16, "seed": 3, "checkpoint": path, **options}
        return model, unlearn(unlearner, ORDERED[form](FORGET), ORDERED[form](RETAIN), 8, **given, **QUIET)


def at_step(monkeypatch, number, act, owner=OEU):
    """Something happens in the step of that number of whoever steps."""
    step, taken = owner.step, []

    def stepping(self, *batches):
        taken.append(self)
        if len(taken) == number:
            act()
        return step(self, *batches)

    monkeypatch.setattr(owner, "step", stepping)


def press():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise MemoryError


@pytest.mark.parametrize("form", ORDERED)
def test_an_interrupted_run_goes_on_to_the_same_bits(form, tmp_path, monkeypatch):
    """Ctrl-C in the third of eight steps: weights, reports, looks and verdict are those of a run that went through."""
    path = tmp_path / "run.pt"
    whole, expected = resumable(form, None)
    with monkeypatch.context() as patch:
        at_step(patch, 3, press)
        _, run = resumable(form, path)
    assert run.status == "interrupted" and len(run.reports) == 3 and path.exists()
    mine, run = resumable(form, path)
    assert torch.equal(weights(mine), weights(whole)) and run == expected and len(run.reports) == 8
    assert not path.exists()  # it is over


def test_a_run_that_was_killed_goes_on_from_its_last_save(tmp_path, monkeypatch):
    """Failed in step 6, saved after step 4, verdict of the stop rule and a falling rate included."""
    path, options = tmp_path / "run.pt", {"schedule": "linear", "stop": None, "save_every": 2}
    whole, expected = resumable("in memory", None, **options)
    with monkeypatch.context() as patch:
        at_step(patch, 6, fail)
        with pytest.raises(MemoryError):
            resumable("in memory", path, **options)
    counted, step = [], OEU.step
    monkeypatch.setattr(OEU, "step", lambda self, *batches: counted.append(1) or step(self, *batches))
    mine, run = resumable("in memory", path, **options)
    assert torch.equal(weights(mine), weights(whole)) and run == expected
    assert len(counted) == len(run.reports) - 4


def test_a_method_of_the_tables_and_a_rule_with_a_state_go_on(tmp_path, monkeypatch):
    """Random labels are drawn anew by the same generator, an `EntropyStop` has asked as often."""

    def run(path):
        model = network()
        rule = EntropyStop(model, FORGET.inputs, UNSEEN.inputs, every=2)
        method = RandomLabels(model, FORGET, Settings(0.05), stream(0, "method"))
        return (
            model,
            unlearn(method, FORGET, RETAIN, 6, stop=rule.reached, checkpoint=path, save_every=1, **QUIET),
            rule,
        )

    whole, expected, rule = run(None)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        at_step(patch, 3, fail, RandomLabels)
        run(tmp_path / "run.pt")
    mine, resumed, again = run(tmp_path / "run.pt")
    assert torch.equal(weights(mine), weights(whole)) and resumed == expected and again.history == rule.history


def test_a_checkpoint_is_that_of_its_run_or_refused(tmp_path, monkeypatch):
    """Other settings, and an unlearner that may remember what it does not tell."""
    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        at_step(patch, 3, press)
        resumable("in memory", path)
    with pytest.raises(ValueError, match="belongs to another run .*seed is 3, expected 4"):
        resumable("in memory", path, seed=4)
    with pytest.raises(TypeError, match="unlearner must have state_dict and load_state_dict for a checkpoint"):
        resumable("in memory", path, wrap=Interrupting)


# --- the verdict ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A network that memorized wrong labels of digits, and their splits."""
    return engine.prepare(1, Digits())


def on_digits(case, lr, momentum=0.9, beta=1.0, steps=60, **options):
    """(network, run) of OEU on a copy of the original, looked at after each step."""
    model, s = copy.deepcopy(case.original), case.splits
    options = {"unseen": s.validation, "every": 1, **options}
    return model, unlearn(oeu(model, lr, momentum, beta=beta), s.forget, s.retain, steps, **options, **QUIET)


def test_a_run_that_forgets_is_called_so(digits):
    """The verdict is `reached`, and the network then is far closer to Retrain than the original."""
    model, run = on_digits(digits, 0.1, beta=0.3)
    assert run.reached and run.verdict.startswith("reached after ") and 0 < len(run.reports) < 60
    assert digits.gap(model) < digits.gap(digits.original) / 2
    last = run.looks[-1]
    assert last["step"] == len(run.reports) and last["AUC"] >= 50 and last["RA"] >= 95


@pytest.mark.parametrize(("lr", "beta"), [(1.0, 1.0), (0.1, 3.0)])
def test_a_wreck_is_not_blessed(digits, lr, beta):
    """Steps too large, with momentum: the plain rule is satisfied by a network that lost what it knew; this one no."""
    model, s = copy.deepcopy(digits.original), digits.splits
    plain = EntropyStop(model, s.forget.inputs, s.validation.inputs)
    run = unlearn(oeu(model, lr, 0.9, beta=beta), s.forget, s.retain, 60, stop=plain.reached, **QUIET)
    assert run.status == "stopped" and run.looks[-1]["RA"] < 90
    _, run = on_digits(digits, lr, beta=beta)
    assert run.status == "gave up" and "retain accuracy below the floor" in run.verdict


@pytest.mark.parametrize("wreck", ["uniform", "one class", "noise"])
def test_a_network_that_was_wrecked_at_once_is_not_blessed(digits, wreck):
    """All outputs alike, the same class for all, weights of noise: each meets AUC and FA, and lost what it knew."""
    model, s = copy.deepcopy(digits.original), digits.splits
    stop = GuardedStop(model, s.forget, s.retain, s.validation, max_steps=9, patience=2)
    with torch.no_grad():
        for parameter in model.parameters() if wreck == "noise" else ():
            parameter.copy_(torch.randn(parameter.shape, generator=stream(0, wreck)).abs())
        for name, value in model.named_parameters() if wreck != "noise" else ():
            if value.shape[:1] == (10,):  # of the last layer
                value.zero_()
                value[3] += 9.0 * (wreck == "one class" and name.endswith("bias"))
    while not stop.ended():
        pass
    assert stop.status == "gave up" and "retain accuracy below the floor" in stop.verdict
    assert stop.looks[-1]["FA"] < 50 and 45 < stop.looks[-1]["AUC"] < 60


@pytest.mark.parametrize("bias", [[3.0, -3.0], [0.0, 0.0]], ids=["one class", "uniform"])
def test_a_wreck_that_is_mostly_right_is_not_blessed(bias):
    """Where one class makes up most samples, what names it always loses less accuracy than the floor allows."""
    draw, model = torch.Generator().manual_seed(0), torch.nn.Linear(1, 2)
    labels = (torch.rand(600, generator=draw) < 0.08).long()
    everything = Samples(torch.randn(600, 1, generator=draw) + 3 * labels[:, None], labels)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]])), model.bias.copy_(torch.tensor([2.0, -2.0]))
        guarded = GuardedStop(model, everything[:100], everything[100:400], everything[400:], patience=2)
        model.weight.zero_(), model.bias.copy_(torch.tensor(bias))
    look = guarded.look(0)
    assert look["RA"] > 90 and look["FA"] <= guarded.target + guarded.error and 50 <= look["AUC"] <= 60
    while not guarded.ended():
        pass
    assert guarded.status == "gave up" and "retain accuracy below the floor" in guarded.verdict


def test_a_retain_set_of_one_class_has_the_plain_floor():
    one = RETAIN[RETAIN.labels == RETAIN.labels[0]]
    guarded = GuardedStop(network(), FORGET, one, UNSEEN, gone=[])
    assert guarded.lowest == pytest.approx(max(guarded.measure()["RA"] - 5, guarded.measure()["RA"] / 2))


def test_a_run_that_does_nothing_spends_its_budget(digits):
    _, run = on_digits(digits, 0.001, momentum=0.0, steps=10)
    assert run.status == "budget spent" and run.verdict.startswith("budget spent at FA 100.0 after 10 steps")
    assert len(run.reports) == 10 and not run.reached


def test_too_much_is_not_called_forgotten(digits):
    """Where the forget set is far more uncertain than unseen samples, it can be told by that."""
    s = digits.splits
    guarded = GuardedStop(digits.original, s.forget, s.retain, s.validation, patience=2, excess=10)
    look = {"step": 0, "FA": 40.0, "RA": 100.0, "AUC": 61.0}
    guarded.judge(look, last=False)
    assert guarded.status is None
    guarded.judge(look, last=False)
    assert guarded.status == "gave up" and "more uncertain than unseen" in guarded.verdict


@pytest.mark.parametrize("missed", [None, "FA", "AUC low", "AUC high", "RA"])
def test_each_target_counts(digits, missed):
    """FA within a standard error of the target, AUC in [50, 60], RA at its floor of 95: all three, or no end."""
    s = digits.splits
    guarded = GuardedStop(digits.original, s.forget, s.retain, s.validation)
    assert 50 < guarded.target < 95 and 2 < guarded.error < 8 and guarded.lowest == 95
    beyond = {"FA": {"FA": guarded.target + guarded.error + 0.1}, "RA": {"RA": 94.9}}
    beyond |= {"AUC low": {"AUC": 49.9}, "AUC high": {"AUC": 60.1}}
    ends = {"FA": guarded.target + guarded.error - 0.1, "RA": 96.0, "AUC": 55.0}
    guarded.judge({"step": 1, **ends, **beyond.get(missed, {})}, last=False)
    assert guarded.status == (None if missed else "reached")


def test_a_whole_hard_class_is_not_forgotten_from_the_start(digits):
    """All unseen samples are surer than those of the hardest class: the plain rule is met at once, this one not."""
    s, labels = digits.splits, digits.splits.validation.labels
    unsure = entropy(digits.original(s.validation.inputs))
    hard = max(range(10), key=lambda label: unsure[labels == label].mean())
    forget = s.validation[labels == hard]
    retain = s.retain[s.retain.labels != hard]
    with pytest.warns(UserWarning, match="nothing is to be done"):
        assert EntropyStop(digits.original, forget.inputs, s.validation.inputs).reached()
    guarded = GuardedStop(digits.original, forget, retain, s.validation, max_steps=0)
    assert guarded.target == 0 and not guarded.reached() and guarded.status == "budget spent"
    assert guarded.looks[0]["unseen_entropy"] == pytest.approx(guarded.looks[0]["forget_entropy"])


def test_the_target_of_a_kept_class_is_what_unseen_samples_of_it_show(digits):
    s = digits.splits
    p, labels = training.predictions(digits.original, s.validation)
    forget = s.forget[s.forget.labels == 3]
    guarded = GuardedStop(digits.original, forget, s.retain, s.validation)
    share = (p.argmax(axis=1) == labels)[labels == 3].mean()
    assert guarded.target == pytest.approx(100 * share)
    error = np.sqrt(share * (1 - share) * (1 / len(forget) + 1 / (labels == 3).sum()))
    assert guarded.error == pytest.approx(100 * error)
    assert GuardedStop(digits.original, forget, s.retain, s.validation, gone=[3]).target == 0


def test_weights_by_class_and_the_auc_that_they_weigh():
    """Equal weights give the AUC of the metrics; a weight of two counts as two samples."""
    positives, negatives = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0.2, 0.4, 0.8])
    assert weighted_auc(positives, negatives, np.full(3, 1 / 3)) == pytest.approx(metrics.auc(positives, negatives))
    doubled = metrics.auc(positives, np.array([0.2, 0.4, 0.4, 0.8]))
    assert weighted_auc(positives, negatives, np.array([0.25, 0.5, 0.25])) == pytest.approx(doubled)
    shares = class_shares(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1]))
    assert shares.tolist() == [0.125, 0.125, 0.75, 0]
    assert class_shares(torch.tensor([0, -1]), torch.tensor([1])).tolist() == [0.5, 0.5]


def test_a_rule_of_ones_own_ends_the_run():
    asked = []
    run = unlearn(oeu(network()), FORGET, RETAIN, 9, stop=lambda: asked.append(0) or len(asked) > 4, **QUIET)
    assert run.status == "stopped" and len(run.reports) == 4 and "stopped after 4 steps: FA" in run.verdict
    model = network()
    rule = GuardedStop(model, FORGET, RETAIN, UNSEEN, floor=100, excess=50, patience=1, max_steps=2)
    run = unlearn(oeu(model), FORGET, RETAIN, 9, stop=rule, **QUIET)
    assert run.verdict == rule.verdict and len(run.reports) <= 2


NOT_FINITE = Samples(torch.full((4, 3), float("nan")), torch.arange(4))


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"unlearner": nn.Linear(3, 4)}, TypeError, "unlearner must be an OEU or a method of oeu_ref.methods"),
        ({"forget": 1}, TypeError, "forget must be Samples, a pair"),
        ({"forget": []}, ValueError, "forget must hold at least one sample, got none"),
        ({"forget": NOT_FINITE}, NonFiniteError, "finite"),
        ({"retain": RETAIN.inputs}, TypeError, "retain must come with labels"),
        ({"unseen": []}, ValueError, "unseen must hold at least one sample"),
        ({"max_steps": -1}, ValueError, "max_steps must be at least 0"),
        ({"max_steps": None}, TypeError, "max_steps must be an integer"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"schedule": "cosin"}, ValueError, "schedule must be one of 'constant', 'linear', 'cosine'"),
        ({"forget_batch": 0}, ValueError, "forget_batch must be at least 1"),
        ({"recalibrated": 1}, TypeError, "recalibrated must be a bool"),
        ({"stop": 3}, TypeError, "stop must be a function"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path"),
        ({"checkpoint": f"{__file__}/run.pt"}, ValueError, "checkpoint must be a directory that can be written to"),
        ({"save_every": 0}, ValueError, "save_every must be at least 1"),
    ],
)
def test_unlearn_names_what_is_wrong_and_changes_nothing(bad, error, words):
    model = network()
    before = weights(model)
    given = {"unlearner": oeu(model), "forget": FORGET, "retain": RETAIN, "unseen": UNSEEN, "max_steps": 3, **bad}
    with pytest.raises(error) as caught:
        unlearn(**given, **QUIET)
    assert type(caught.value) is error and words in str(caught.value) and torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"model": None}, TypeError, "model must be a torch.nn.Module"),
        ({"forget": FORGET.inputs}, TypeError, "forget must be a Samples"),
        ({"retain": RETAIN[torch.arange(0)]}, ValueError, "retain must hold at least one sample"),
        ({"retain": sources.batch("retain", RETAIN.inputs)}, TypeError, "retain must come with labels"),
        ({"unseen": None}, TypeError, "unseen must be a Samples"),
        ({"unseen": Samples(UNSEEN.inputs, UNSEEN.labels + 9)}, ValueError, "unseen must hold samples of the forget"),
        ({"floor": 101}, ValueError, "floor must lie in [0, 100]"),
        ({"excess": -1}, ValueError, "excess must lie in [0, 50]"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"max_steps": 0.5}, TypeError, "max_steps must be an integer"),
        ({"every": 0}, ValueError, "every must be at least 1"),
    ],
)
def test_the_stop_rule_names_what_is_wrong(bad, error, words):
    with pytest.raises(error) as caught:
        GuardedStop(**{"model": network(), "forget": FORGET, "retain": RETAIN, "unseen": UNSEEN, **bad})
    assert type(caught.value) is error and words in str(caught.value)


def test_a_watch_decides_nothing():
    watch = Watch(network(), FORGET, RETAIN, every=2)
    assert [watch.ended() for _ in range(3)] == [False] * 3 and watch.verdict is None
    assert [look["step"] for look in watch.looks] == [0, 2] and "AUC" not in watch.looks[0]
