"""Unlearning of one's own network, on one's own data, in one call: `unlearn`, around the loop that all tables use."""

import contextlib
import dataclasses
import functools
import signal
import sys
import threading

from .. import boundary
from ..data.requests import whole_classes
from ..data.samples import stream
from ..lab import figures, training
from ..lab.engine import STOP_SAMPLES, progress_bar
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
):
    """Let a method change its network until the stop rule has a verdict, at most `max_steps` steps.

    unlearner: an `OEU`, or a method of `oeu_ref.lab.baselines`, with the network and the optimizer that it has; forget,
    retain, unseen: in any form that `oeu_ref.own.sources` names, the shorter begins anew at its end; batches go to the
    network's device. OEU needs no forget labels; with them FA counts in the verdict. unseen: neither trained on nor
    used for testing; with it, and without `stop`, `GuardedStop` ends the run. stop: a `GuardedStop`, or a function
    without arguments asked before each step, such as `EntropyStop(...).reached`, None: see there.
    schedule: "constant", "linear", "cosine", as in `oeu_ref.lab.training.UnlearnConfig`, or a scheduler of PyTorch's
    own, which steps after each step; recalibrated: whether BatchNorm's statistics are estimated anew on retain samples
    at the end, and for each look; every >= 1: steps between two looks; forget_batch, retain_batch >= 1: of tensors and
    data sets, which come without batches; seed: of their order; progress: a bar on stderr, if that is a terminal.
    Ctrl-C ends the run after the step that it falls into, a second one at once.
    Returns a `Run`. The network is left in eval mode.
    Raises TypeError or ValueError, naming the argument, for anything else, and what the unlearner raises:
    `NonFiniteError` (a ValueError) where it diverges.
    """
    method = _method(unlearner)
    max_steps = boundary.integer("max_steps", max_steps, 0)
    scheduler = schedule if hasattr(schedule, "step") else None
    config = training.UnlearnConfig(forget_batch, retain_batch, "constant" if scheduler else schedule, recalibrated)
    orders = [stream(seed, f"{name} batches") for name in ("forget", "retain")]
    device, parts = device_of(method.model), {}
    forget, parts["forget"] = split_off("forget", forget, device, STOP_SAMPLES)
    retain, parts["retain"] = split_off("retain", retain, device, STOP_SAMPLES)
    labelled("retain", parts["retain"])
    if unseen is not None:
        parts["unseen"] = some("unseen", unseen, device, STOP_SAMPLES)
    if method is unlearner:  # one that teaches labels may have its own for each sample, in this order
        forget = some("forget", forget, device, sys.maxsize)
    sources = [source("forget", forget, device, forget_batch, orders[0])]
    sources.append(source("retain", retain, device, retain_batch, orders[1]))
    if isinstance(sources[1], Repeated):
        sources[1].inputs = parts["retain"].inputs
    before = _before(method.model, parts)
    watch = _watch(method.model, parts, sources, stop, every, max_steps)
    watch.left = functools.partial(training.as_left, method.model, parts["retain"], config)
    own_stop = stop if watch is not stop and stop is not None else lambda: False
    with interruptible() as interrupted, progress_bar(max_steps, progress) as bar:

        def ended():
            return bool(interrupted) or watch.ended() or bool(own_stop())

        def on_step(done, report):
            if scheduler:
                scheduler.step()
            bar.update()

        reports = training.unlearn(method, *sources, max_steps, config, orders, ended, on_step)
        if watch.calls == len(reports) and not interrupted:
            watch.ended()  # what the last step led to
    done = len(reports)
    if not watch.looks or watch.looks[-1]["step"] < done:
        watch.look(done)
    status = "interrupted" if interrupted else watch.status or ("stopped" if done < max_steps else "budget spent")
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


class Steps:
    """An `OEU`, or what steps as it does, as the loop wants a method: batches are `Samples`."""

    def __init__(self, unlearner):
        self.unlearner, self.model, self.optimizer = unlearner, unlearner.model, unlearner.optimizer

    def relabel(self, forget):
        """Forget samples as they are: their labels are not used."""
        return forget

    def step(self, forget, retain):
        """One step of the unlearner; its report."""
        return self.unlearner.step(forget.inputs, retain.inputs, retain.labels)


def _method(unlearner):
    if hasattr(unlearner, "relabel") and hasattr(unlearner, "step"):
        return unlearner
    if not all(hasattr(unlearner, name) for name in ("model", "optimizer", "step")):
        raise TypeError(
            f"unlearner must be an OEU or a method of oeu_ref.lab.baselines, got {type(unlearner).__name__}"
        )
    return Steps(unlearner)


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
