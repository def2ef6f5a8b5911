"""A stop rule that cannot bless a wreck: several targets, a floor, and a verdict in words.

`oeu_ref.core.EntropyStop` is the plain rule, to be read first. It looks at one mean: memorized samples keep their
class under an equal mean, a network that falls apart is uncertain of everything, and a class that is hard to tell is
so from the start. Here the targets are what unseen samples of the same classes show, and retain accuracy has a floor.
"""

import contextlib

import numpy as np
from torch import nn

from .. import boundary
from ..data.requests import whole_classes
from ..data.samples import Samples
from ..reference.entropy import entropy_of_probabilities
from ..reference.metrics import accuracy
from .sources import UNKNOWN, predictions

IDEAL = 50.0  # AUC of sets that nobody can tell apart, as Retrain shows it


class Watch:
    """Looks at a network on its way through unlearning, in eval mode, on some samples; decides nothing.

    model: maps (N, ...) to logits (N, K); forget, retain, unseen: `Samples` on its device, unseen ones None where there
    are none; every >= 1: asks between two looks.
    looks: list of dicts: "step", the number of asks before; "RA", "FA", "UA": accuracy on retain, forget and unseen
    samples; "AUC": how well entropy tells forget from unseen samples; "forget_entropy", "unseen_entropy" in nats; the
    others in percent. What has no labels or samples is left out. Unseen samples count by class as the forget set does.
    left: makes the context in which it looks, such as `oeu_ref.lab.training.as_left`; status, verdict: None.
    Raises TypeError or ValueError, naming the argument, for anything else.
    """

    state = ("calls", "looks", "status", "verdict")

    def __init__(self, model, forget, retain, unseen=None, every=1):
        boundary.instance("model", model, nn.Module, "torch.nn.Module")
        given = {"forget": forget, "retain": retain} | ({} if unseen is None else {"unseen": unseen})
        for name, samples in given.items():
            if not len(boundary.instance(name, samples, Samples, "Samples")):
                raise ValueError(f"{name} must hold at least one sample, got none")
        self.model = model
        self.parts = given
        self.every = boundary.integer("every", every, 1)
        self.shares = None if unseen is None else class_shares(unseen.labels, forget.labels)
        self.calls = 0
        self.looks = []
        self.status = None
        self.verdict = None
        self.left = contextlib.nullcontext

    def ended(self):
        """Ask before each step: looks, on the first call and on every `every`-th after it; True once all is said."""
        if self.calls % self.every == 0:
            self.look(self.calls)
        self.calls += 1
        return False

    def state_dict(self):
        """What asks and looks have changed, for `load_state_dict` of an object that goes on from there."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is."""
        for name in self.state:
            setattr(self, name, state[name])

    def look(self, step):
        """Look at the network as it is now: the new entry of `looks`."""
        with self.left():
            self.looks.append({"step": step, **self.measure()})
        return self.looks[-1]

    def described(self, now):
        """A look's figures in words."""
        names = {"FA": "FA", "RA": "retain accuracy", "UA": "accuracy on unseen samples", "AUC": "AUC"}
        return ", ".join(f"{words} {now[name]:.1f}" for name, words in names.items() if name in now)

    def measure(self):
        """One look, without its step."""
        found = {name: predictions(name, self.model, samples) for name, samples in self.parts.items()}
        known = {name: (samples.labels != UNKNOWN).all() for name, samples in self.parts.items()}
        figures = {short: accuracy(*found[part]) for short, part in (("FA", "forget"), ("RA", "retain")) if known[part]}
        entropies = {part: entropy_of_probabilities(found[part][0]) for part in found if part != "retain"}
        figures["forget_entropy"] = float(entropies["forget"].mean())
        if "unseen" in found:
            if known["unseen"]:
                right = found["unseen"][0].argmax(axis=1) == found["unseen"][1]
                figures["UA"] = float(100 * self.shares @ right)
            figures["unseen_entropy"] = float(self.shares @ entropies["unseen"])
            figures["AUC"] = weighted_auc(entropies["forget"], entropies["unseen"], self.shares)
        return figures


class GuardedStop(Watch):
    """Stop rule: forgotten, once the forget set looks like unseen samples, and the network is still what it was.

    `ended` is asked before each step and True once there is a verdict; `reached` likewise, but True for success alone.
    Made before the first step, since it measures the network as it is then. Reached: AUC at least 50, FA at most its
    target and the target's standard error, retain accuracy no lower than the floor, and AUC no higher than 50 + excess.
    FA's target is the share of unseen samples, of the forget set's classes in its shares, that the network got right
    before the first step; of a class that is forgotten whole it is 0, which Retrain shows. Without forget or unseen
    labels AUC and the floor have to do.

    model, forget, retain, unseen, every: as in `Watch`; retain with labels; max_steps: asks after which the budget is
    spent, None: endless; floor, excess >= 0: percentage points that retain accuracy may lose, of what it has above
    always naming retain's most frequent class half at most, and by which AUC may exceed 50; patience >= 1: looks in a
    row beyond either of them after which it gives up; gone: classes that are forgotten whole, None: those of forget
    without a sample in retain, where unseen lets at least five be expected.
    status: None, "reached", "gave up" or "budget spent"; verdict: a sentence, None before.
    Source: ours. LoTUS (CVPR 2025, arXiv 2503.18314) and ReGUn (arXiv 2603.11210) took targets without Retrain before.
    """

    state = (*Watch.state, "beyond", "lowest", "target", "error")

    def __init__(
        self, model, forget, retain, unseen, every=1, max_steps=None, floor=5.0, excess=10.0, patience=5, gone=None
    ):
        boundary.instance("unseen", unseen, Samples, "Samples")
        super().__init__(model, forget, retain, unseen, every)
        self.max_steps = max_steps if max_steps is None else boundary.integer("max_steps", max_steps, 0)
        self.floor, self.excess = boundary.number("floor", floor, 0, 100), boundary.number("excess", excess, 0, 50)
        self.patience = boundary.integer("patience", patience, 1)
        self.beyond = 0
        if (retain.labels == UNKNOWN).any():
            raise TypeError("retain must come with labels: its accuracy has a floor")
        start = self.measure()
        # what always names retain's most frequent class may be right as often as the floor allows: such are wrecks too
        counts = retain.labels.unique(return_counts=True)[1]
        constant = 100 * float(counts.max()) / len(retain) if len(counts) > 1 else 0.0
        self.lowest = max(start["RA"] - self.floor, constant + abs(start["RA"] - constant) / 2)
        self.target, self.error = None, 0.0
        if "FA" in start and "UA" in start:
            self.target, self.error = self._target(self._gone() if gone is None else list(gone))

    def _gone(self):
        """Classes of forget that retain has no sample of, though at least five were to be expected."""
        forget, retain, unseen = (self.parts[part].labels.cpu() for part in ("forget", "retain", "unseen"))
        gone = whole_classes(forget, retain)
        return [label for label in gone if len(retain) * (unseen == label).double().mean() >= 5]

    def _target(self, gone):
        """(what FA is to come down to, its standard error), percent."""
        p, labels = predictions("unseen", self.model, self.parts["unseen"])
        share = float(self.shares @ ((p.argmax(axis=1) == labels) & ~np.isin(labels, gone)))
        # classes that no unseen sample has got no weight there: the others stand for them, unless they are to vanish
        mine = self.parts["forget"].labels.cpu().numpy()
        missing = np.isin(mine, gone) & ~np.isin(mine, labels)
        share *= 1 - float(missing.mean())
        counts = 1 / len(mine) + (self.shares**2).sum()
        return 100 * share, 100 * float(np.sqrt(share * (1 - share) * counts))

    def reached(self):
        """As `ended`, but True for success alone; it stays so."""
        return self.ended() and self.status == "reached"

    def ended(self):
        """Ask before each step: True once there is a verdict."""
        if self.status is not None:
            return True
        last = self.max_steps is not None and self.calls >= self.max_steps
        if last or self.calls % self.every == 0:
            self.judge(self.look(self.calls), last)
        self.calls += 1
        return self.status is not None

    def judge(self, now, last):
        """Draw the verdict from a look, if it allows one; last: whether it is the last one."""
        low, over = now["RA"] < self.lowest, now["AUC"] > IDEAL + self.excess
        self.beyond = self.beyond + 1 if low or over else 0
        forgotten = now["AUC"] >= IDEAL and (self.target is None or now["FA"] <= self.target + self.error)
        after, figures = f"after {now['step']} steps", self.described(now)
        if forgotten and not (low or over):
            self.status, self.verdict = "reached", f"reached {after}: {figures}"
        elif self.beyond >= self.patience:
            reason = "retain accuracy below the floor" if low else "forget samples more uncertain than unseen ones"
            self.status, self.verdict = "gave up", f"gave up {after}: {reason}: {figures}"
        elif last:
            at = f" at FA {now['FA']:.1f}" if "FA" in now else ""
            self.status, self.verdict = "budget spent", f"budget spent{at} {after}: {figures}"

    def described(self, now):
        """A look's figures beside what they should be, in words."""
        parts = [f"AUC {now['AUC']:.1f} (50 to {IDEAL + self.excess:.0f})"]
        if self.target is not None:
            parts.insert(0, f"FA {now['FA']:.1f} (at most {self.target:.1f} ± {self.error:.1f})")
        return ", ".join([*parts, f"retain accuracy {now['RA']:.1f} (at least {self.lowest:.1f})"])


def class_shares(labels, wanted):
    """Weights (N,) that sum to 1 and give labels the classes of `wanted` in their shares; equal ones without labels.

    labels (N,), wanted (M,): integers, UNKNOWN where there is none.  Raises ValueError where no class is in both.
    """
    labels, wanted = labels.cpu().numpy(), wanted.cpu().numpy()
    if (labels == UNKNOWN).any() or (wanted == UNKNOWN).any():
        return np.full(len(labels), 1 / len(labels))
    shares = np.array([(wanted == label).mean() / (labels == label).sum() for label in labels])
    if not shares.sum():
        raise ValueError(
            f"unseen must hold samples of the forget set's classes, {sorted({*wanted.tolist()})}, got none"
        )
    return shares / shares.sum()


def weighted_auc(positives, negatives, shares):
    """Probability in percent that a random positive scores above a negative drawn by its share, ties counted half.

    positives: (A,), negatives, shares: (B,) float, the shares sum to 1.  Returns a float in [0, 100].
    """
    order = np.argsort(negatives)
    ordered, below = negatives[order], np.concatenate([[0.0], np.cumsum(shares[order])])
    sides = [below[np.searchsorted(ordered, positives, side)] for side in ("left", "right")]
    return float(100 * np.mean(sides))
