"""Unlearning of one's own network, on one's own data, in one call: `unlearn`, around the loop that all tables use."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import os
import pathlib
import signal
import sys
import threading
import warnings

import torch

from .. import boundary, distributed
from ..core.unlearner import OEU, StepReport
from ..data.requests import contents, whole_classes
from ..data.samples import stream
from ..lab import training
from ..lab.checkpoints import Checkpoint
from ..lab.engine import STOP_SAMPLES, progress_bar
from ..report import figures, results
from .evaluation import outputs, without_retrain
from .sources import UNKNOWN, Repeated, device_of, labelled, some, source, split_off
from .stop import GuardedStop, Watch

ACCURACIES = {"RA": "retain", "FA": "forget", "UA": "test"}  # of a look, and the style that each is drawn in


@dataclasses.dataclass(frozen=True)
class Run:
    """What `unlearn` did. `print` shows the verdict, `plot` the curve.

    verdict: in words; status: "reached", "gave up", "budget spent", "stopped" (by a rule of your own) or "interrupted";
    reports: the unlearner's report of each step; looks: as those of `oeu_ref.own.stop.Watch`, the network in eval mode
    on its way, the last after the last step; before: the proxy of the network as it was, for `evaluate`'s argument of
    that name, by at most 1,000 samples of each part, None without labelled unseen and forget samples.
    """

    verdict: str
    status: str
    reports: list
    looks: list
    before: dict | None

    def __str__(self):
        return self.verdict

    @property
    def reached(self):
        """Whether the stop rule found the forget set forgotten, and the network whole."""
        return self.status == "reached"

    def curve(self, name):
        """(steps, values) of a figure: a field of the reports, such as "cosine", or of the looks, such as "RA"."""
        found = [(i + 1, getattr(r, name)) for i, r in enumerate(self.reports) if hasattr(r, name)]
        found = found or [(look["step"], look[name]) for look in self.looks if name in look]
        return tuple(map(list, zip(*found))) if found else ([], [])

    def plot(self, path=None):
        """The curve as a Matplotlib `Figure`: accuracies, entropies, losses, cosine; path: where to write it as PNG."""
        if path is not None:
            figures.picture(path, lambda: self.plot())
        figure = figures.new_figure(9, 3)
        axes = figure.subplots(1, 3)
        for name, style in ACCURACIES.items():
            label = "unseen" if name == "UA" else style
            self._draw(axes[0], name, label, figures.STYLES[style])
        self._draw(axes[0], "AUC", "AUC, 50 is ideal", figures.STYLES["retrain"])
        for name, style in (("forget_entropy", "forget"), ("unseen_entropy", "test")):
            self._draw(axes[1], name, "unseen" if style == "test" else style, figures.STYLES[style])
        for name, style in (("forget_loss", "forget"), ("retain_loss", "retain"), ("cosine", "oeu")):
            self._draw(axes[2], name, name.replace("_", " "), figures.STYLES[style])
        for ax, title in zip(axes, ("Accuracy, eval mode, %", "Entropy, nats", "Losses, nats; cosine")):
            figures.clean(ax, title, grid="y")
            ax.set_xlabel("step")
            if ax.lines:
                ax.legend(frameon=False, fontsize=8)
        return figure

    def _draw(self, ax, name, label, style):
        steps, values = self.curve(name)
        if values and None not in values:
            ax.plot(steps, values, label=label, color=style["color"], linestyle=style["linestyle"])


def unlearn(
    unlearner,
    forget,
    retain,
    max_steps,
    unseen=None,
    stop=None,
    schedule="constant",
    recalibrated=False,
    every=5,
    forget_batch=128,
    retain_batch=128,
    seed=0,
    progress=True,
    checkpoint=None,
    save_every=50,
):
    """Let a method change its network until the stop rule has a verdict, at most `max_steps` steps.

    unlearner: an `OEU`, or a method of `oeu_ref.methods`, with the network and the optimizer that it has; forget,
    retain, unseen: in any form that `oeu_ref.own.sources` names, the shorter begins anew at its end; batches go to the
    network's device. OEU needs no forget labels; with them FA counts in the verdict. unseen: neither trained on nor
    used for testing; with it, and without `stop`, `GuardedStop` ends the run. stop: a `GuardedStop`, or a function
    without arguments asked before each step, such as `EntropyStop(...).reached`, None: see there.
    schedule: "constant", "linear", "cosine", as in `oeu_ref.lab.training.UnlearnConfig`, or a scheduler of PyTorch's
    own, which steps after each step, without a metric, and has to last for max_steps; recalibrated: whether BatchNorm's
    statistics are estimated anew on retain samples at the end, and for each look; every >= 1: steps between two looks;
    forget_batch, retain_batch >= 1: of tensors and data sets, which come without batches; seed: of their order;
    progress: a bar on stderr, if that is a terminal.
    Ctrl-C ends the run after the step that it falls into, a second one at once.
    checkpoint: a path to which the run is saved after each `save_every` >= 1 steps and on Ctrl-C, from which the same
    call goes on, and which is removed once there is a verdict, None: nowhere. It goes on to the same bits, those of
    momentum, scheduler, Dropout and the order of batches included, on the same machine; not where data gives other
    batches when it is passed through again (a generator, workers that draw numbers of their own) or a rule of your own
    has no `state_dict`. An unlearner with a constructor of its own needs `state_dict` and `load_state_dict`.
    Several processes (`oeu_ref.distributed`): each has the same data and a `ParallelOEU` or a method of the
    lab, batches are divided among them, and the first process's Ctrl-C and rule count.
    Returns a `Run`. The network is left in eval mode.
    Raises TypeError or ValueError, naming the argument, for anything else, and what the unlearner raises:
    `NonFiniteError` (a ValueError) where it diverges.
    """
    max_steps = boundary.integer("max_steps", max_steps, 0)
    scheduler = schedule if hasattr(schedule, "step") else None
    method = Steps(unlearner, scheduler)
    _check_schedule(scheduler, method.optimizer, max_steps)
    config = training.UnlearnConfig(forget_batch, retain_batch, "constant" if scheduler else schedule, recalibrated)
    orders = [stream(seed, f"{name} batches") for name in ("forget", "retain")]
    device = device_of(method.model)
    parts = {}
    forget, parts["forget"] = split_off("forget", forget, device, STOP_SAMPLES)
    retain, parts["retain"] = split_off("retain", retain, device, STOP_SAMPLES)
    labelled("retain", parts["retain"])
    if kept := len({*contents(parts["forget"])} & {*contents(parts["retain"])}):
        warnings.warn(f"retain holds samples that are to be forgotten, {kept} at least: leave them out", stacklevel=2)
    if unseen is not None:
        parts["unseen"] = some("unseen", unseen, device, STOP_SAMPLES)
    if method.teaches:  # one that teaches labels may have its own for each sample, in this order
        forget = some("forget", forget, device, sys.maxsize)
    sources = [source("forget", forget, device, forget_batch, orders[0])]
    sources.append(source("retain", retain, device, retain_batch, orders[1]))
    if isinstance(sources[1], Repeated):
        sources[1].inputs = parts["retain"].inputs
    before = _before(method.model, parts)
    watch = _watch(method.model, parts, sources, stop, every, max_steps)
    watch.left = functools.partial(training.as_left, method.model, parts["retain"], config)
    if checkpoint is not None:
        path = boundary.instance("checkpoint", checkpoint, (str, os.PathLike), "path")
        results.output_directory("checkpoint", pathlib.Path(path).parent)
        given = {"max_steps": max_steps, "seed": seed, "every": every, **dataclasses.asdict(config)}
        checkpoint = Checkpoint(checkpoint, {**method.identity(), **given})
        checkpoint.notes = {"before": before}
    with interruptible() as interrupted, progress_bar(max_steps, progress and distributed.rank() == 0) as bar:
        ending = Ending(watch, None if watch is stop else stop, interrupted, checkpoint)

        def on_step(done, report):
            ending.hear()
            bar.update(done - bar.n)

        kept = {"checkpoint": checkpoint, "save_every": save_every}
        reports = training.unlearn(method, *sources, max_steps, config, orders, ending.ended, on_step, **kept)
        if watch.calls == len(reports) and not ending.heard:
            watch.ended()  # what the last step led to
    done = len(reports)
    if not watch.looks or watch.looks[-1]["step"] < done:
        watch.look(done)
    if checkpoint is not None:
        before = checkpoint.notes["before"]
        if not ending.heard:
            checkpoint.discard()
    status = "interrupted" if ending.heard else watch.status or ("stopped" if done < max_steps else "budget spent")
    verdict = (
        watch.verdict if status == watch.status else f"{status} after {done} steps: {watch.described(watch.looks[-1])}"
    )
    return Run(verdict, status, reports, watch.looks, before)


@contextlib.contextmanager
def interruptible():
    """A list that is empty until Ctrl-C is pressed; the second time it interrupts as ever.

    Where signals are not ours to take (outside the main thread) it interrupts as ever the first time.
    """
    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, usual)

    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    usual = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)


class Ending:
    """What ends a run: a watch's verdict, a rule of one's own, Ctrl-C; with what they and chance know so far.

    watch: `Watch`; rule: a function, or None; interrupted: of `interruptible`; checkpoint: which Ctrl-C saves, or None.
    heard: whether Ctrl-C was, which is after a step.
    """

    def __init__(self, watch, rule, interrupted, checkpoint):
        self.watch = watch
        self.rule = rule
        self.interrupted = interrupted
        self.checkpoint = checkpoint
        self.heard = False
        self.device = device_of(watch.model)
        rule = getattr(rule, "__self__", None)  # of a bound method, such as `EntropyStop.reached`
        self.states = {"watch": watch} | ({"rule": rule} if hasattr(rule, "state_dict") else {})

    def hear(self):
        """Ask for Ctrl-C, once a step; a checkpoint is then saved at its end."""
        self.heard = self._first(self.interrupted)
        if self.checkpoint is not None:
            self.checkpoint.asked = self.heard

    def ended(self):
        """Ask before each step."""
        return self.heard or self.watch.ended() or (self.rule is not None and self._first(self.rule()))

    def _first(self, value):
        """Whether the first process has it so."""
        return bool(distributed.total(torch.tensor(float(bool(value) and distributed.rank() == 0), device=self.device)))

    def state_dict(self):
        """The rules' states, and those of PyTorch's global generators, which Dropout draws from."""
        chance = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]
        return {**{name: part.state_dict() for name, part in self.states.items()}, "chance": chance}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is."""
        for name, part in self.states.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["chance"][0])
        if state["chance"][1:]:
            torch.cuda.set_rng_state_all(state["chance"][1:])


class Steps:
    """A method of the lab, an `OEU`, or what steps as that does, as the loop wants a method.

    unlearner: any of these; scheduler: of PyTorch, which steps after each step, or None. teaches: whether it may give
    forget samples labels of its own.  Raises TypeError for anything else.
    """

    def __init__(self, unlearner, scheduler=None):
        self.teaches = hasattr(unlearner, "relabel") and hasattr(unlearner, "step")
        if not self.teaches and not all(hasattr(unlearner, name) for name in ("model", "optimizer", "step")):
            raise TypeError(f"unlearner must be an OEU or a method of oeu_ref.methods, got {type(unlearner).__name__}")
        if distributed.size() > 1 and isinstance(unlearner, OEU) and not isinstance(unlearner, distributed.ParallelOEU):
            raise TypeError("unlearner must be an oeu_ref.distributed.ParallelOEU where there are processes")
        self.unlearner = unlearner
        self.model = unlearner.model
        if isinstance(self.model, torch.jit.ScriptModule):
            raise TypeError("unlearner must have a network written in Python, got one of torch.jit: script it later")
        self.scheduler = scheduler
        self.optimizer = unlearner.optimizer
        self.Report = getattr(unlearner, "Report", StepReport)

    def relabel(self, forget):
        """Forget samples with the labels that the method teaches; OEU uses none."""
        return self.unlearner.relabel(forget) if self.teaches else forget

    def step(self, forget, retain):
        """One step of the unlearner, and of the scheduler; its report."""
        if distributed.size() > 1:
            _check_same(forget=forget, retain=retain)
        if self.teaches:
            report = self.unlearner.step(forget, retain)
        else:
            forget, retain = distributed.shard(forget), distributed.shard(retain)
            report = self.unlearner.step(forget.inputs, retain.inputs, retain.labels)
        if self.scheduler is not None:
            self._advance()
        return report

    def _advance(self):
        """Step the scheduler, whole or not at all."""
        rates = [{name: value for name, value in g.items() if name != "params"} for g in self.optimizer.param_groups]
        state = copy.deepcopy(self.scheduler.state_dict()) if hasattr(self.scheduler, "state_dict") else None
        try:
            self.scheduler.step()
        except Exception as error:
            if state is not None:
                self.scheduler.load_state_dict(state)
            for group, before in zip(self.optimizer.param_groups, rates):
                group.update(before)
            why = f"is as before, {type(error).__name__}: {error}"
            raise ValueError(f"schedule must step when the network has done so, it {why}") from error

    def identity(self):
        """What a checkpoint is known by.  Raises TypeError for an unlearner that may remember what it does not tell."""
        if not hasattr(self.unlearner, "state_dict") and type(self.unlearner).__init__ is not OEU.__init__:
            raise TypeError(
                "unlearner must have state_dict and load_state_dict for a checkpoint, since it has a constructor of "
                f"its own, got {type(self.unlearner).__name__}"
            )
        settings = vars(getattr(self.unlearner, "settings", self.unlearner))
        plain = {name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))}
        return {"unlearner": type(self.unlearner).__name__, **plain}

    def _states(self):
        own = hasattr(self.unlearner, "state_dict")
        parts = {"unlearner": self.unlearner} if own else {"model": self.model, "optimizer": self.optimizer}
        return parts if self.scheduler is None else {**parts, "scheduler": self.scheduler}

    def state_dict(self):
        """All that steps change."""
        return {name: part.state_dict() for name, part in self._states().items()}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is."""
        for name, part in self._states().items():
            part.load_state_dict(state[name])


def _check_schedule(scheduler, optimizer, steps):
    """Raise TypeError or ValueError, before any step, for a scheduler of PyTorch's that is sure to raise after one, or
    has no effect."""
    if scheduler is None:
        return
    if isinstance(scheduler, type):
        raise TypeError(f"schedule must be a scheduler, got the class {scheduler.__name__}: make one of the optimizer")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError("schedule must be made of the unlearner's own optimizer, got one of another")
    kind, asked = type(scheduler).__name__, inspect.signature(scheduler.step).parameters.values()
    if needed := [p.name for p in asked if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]:
        raise TypeError(f"schedule must step without arguments, {kind} asks for {needed[0]}")
    if kind == "OneCycleLR" and steps > (left := scheduler.total_steps - scheduler.last_epoch):
        raise ValueError(f"schedule must last for max_steps = {steps} steps, {kind} ends after {left}")


def _check_same(**batches):
    """Raise ValueError, on all processes, unless all of them have the same batches."""
    for name, batch in batches.items():
        mine = batch.inputs.double().sum()
        first = distributed.total(mine if distributed.rank() == 0 else 0 * mine)
        if distributed.total((mine != first).float()):
            raise ValueError(
                f"{name} must give all processes the same batches, which are then divided, got others on process "
                f"{distributed.rank()} or another: no DistributedSampler, and one seed"
            )


def _before(model, parts):
    known = len(parts) == 3 and not any((samples.labels == UNKNOWN).any() for samples in parts.values())
    return without_retrain(outputs(model, parts), 0) if known and len(parts["unseen"]) > 1 else None


def _watch(model, parts, sources, stop, every, max_steps):
    if isinstance(stop, Watch):
        return stop
    if stop is not None or "unseen" not in parts:
        boundary.function("stop", stop)
        return Watch(model, **parts, every=every)
    gone = None
    if not any(isinstance(data, Repeated) for data in sources):
        gone = whole_classes(sources[0].labels, sources[1].labels)
    return GuardedStop(model, **parts, every=every, max_steps=max_steps, gone=gone)
