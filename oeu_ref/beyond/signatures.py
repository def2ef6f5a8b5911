"""What tells a failing unlearning run from a healthy one: thresholds, and a warning for each failure signature.

The signatures are those that practitioners of the method meet: over-forgetting, under-forgetting, a retain loss that
explodes, gradients that are nearly collinear; and ours: an optimizer that turns the update against the projection,
quantizer steps that jump or collapse, BatchNorm's statistics that lag, weight codes that do not move. Each is a
function of a `oeu_ref.beyond.monitor.Monitor` that has just got its latest record, and returns a message, or None.
"""

import math
from dataclasses import dataclass

from .. import boundary


class UnlearningWarning(UserWarning):
    """A run shows the signature of a known failure; the message says which, with numbers and a remedy."""


@dataclass(frozen=True)
class Thresholds:
    """When a `Monitor` warns; entropies are shares of log K.  Where the values come from: `README.md` beside this file.

    Raises TypeError or ValueError, naming the field, for a value out of range.
    Source: ours; chosen on seeds 11 to 13 and 21 to 24 of the digits, `python -m oeu_ref beyond monitor` has others.
    """

    window: int = 5  # >= 1, measured steps that are averaged, since a single batch is noisy
    patience: int = 20  # >= window, measured steps after which something must have moved
    uniform: float = 0.7  # entropy from which predictions are so uniform that they give the forget set away
    beyond_target: float = 0.3  # the same, counted from the target entropy
    stuck: float = 0.02  # rise below which the entropy has not moved within the patience
    retain_rise: float = 3.0  # factor by which the retain loss may grow, once above the floor; nor may it pass log K
    retain_floor: float = 0.5  # share of log K, which keeps a loss that starts at almost nothing from counting
    cosine: float = 0.95  # |cos| from which a layer's gradients are nearly collinear
    climb: float = 0.02  # mean cosine of update and retain gradient, where every update of the window climbs
    step_factor: float = 10.0  # how many times smaller or larger than at the start a quantizer's step may become
    lag: float = 0.1  # share of log K by which the retain loss of eval mode may lie above that of train mode
    still: float = 1e-4  # share of the weight codes that must change within the patience

    def __post_init__(self):
        boundary.integer("window", self.window, 1)
        boundary.integer("patience", self.patience, self.window)
        for name in ("retain_rise", "step_factor"):
            boundary.number(name, getattr(self, name), 1)
        for name in ("uniform", "beyond_target", "stuck", "retain_floor", "cosine", "climb", "lag", "still"):
            boundary.number(name, getattr(self, name), 0, 1)


def _over_forgetting(monitor):
    share, entropy, limits = monitor.mean("entropy_share"), monitor.mean("forget_entropy"), monitor.thresholds
    if share is None:
        return None
    if monitor.retain_loss() is None or monitor.retain_loss() > limits.retain_floor * math.log(monitor.classes):
        return None  # uniform everywhere: a network that is lost gives nothing away
    remedy = "stop earlier (EntropyStop does it), or lower beta"
    if share >= limits.uniform:
        return (
            f"the forget entropy is {share:.0%} of log K: predictions so uniform tell forgotten samples from ones that "
            f"the network has never seen; {remedy}"
        )
    target = monitor.target_entropy
    if target is not None and entropy >= target + limits.beyond_target * math.log(monitor.classes):
        return f"the forget entropy is {entropy:.2f} nats, beyond the target of {target:.2f}: {remedy}"
    return None


def _under_forgetting(monitor):
    limits, now, target = monitor.thresholds, monitor.mean("entropy_share"), monitor.target_entropy
    latest = list(monitor.recent)
    if len(latest) < limits.patience:
        return None
    log_k, start = math.log(monitor.classes), monitor.first["entropy_share"]
    rise = now - (start if target is None else sum(r["entropy_share"] for r in latest[: limits.window]) / limits.window)
    aim = limits.uniform / 2 if target is None else (start + target / log_k) / 2
    if rise >= limits.stuck or now >= aim:
        return None
    return (
        f"the forget entropy is {now * log_k:.2f} nats and rose by {rise * log_k:.3f} in {limits.patience} steps"
        f"{'' if target is None else f', with {target:.2f} as the target'}: raise beta or the learning rate"
    )


def _retain_loss(monitor):
    limits, log_k = monitor.thresholds, math.log(monitor.classes)
    start, loss = monitor.first["retain_loss"], monitor.retain_loss()
    remedy = "the network is being destroyed: lower the learning rate or beta, and start again from the original model"
    if loss is None:
        return f"the retain loss is no longer a finite number: {remedy}"
    if loss > log_k > start or loss > max(limits.retain_rise * start, limits.retain_floor * log_k):
        return f"the retain loss is {loss:.2f} nats, from {start:.2f} at the start; guessing has {log_k:.2f}: {remedy}"
    return None


def _collinear(monitor):
    limits = monitor.thresholds
    latest = list(monitor.recent)[-limits.window :]
    # a tensor of one element is always collinear
    layers = [n for n, size in monitor.sizes.items() if size > 1 and all(n in r["layers"] for r in latest)]
    if len(latest) < limits.window or not layers:
        return None
    cosines = [sum(abs(r["layers"][name]["cosine"]) for r in latest) / len(latest) for name in layers]
    near = sum(cosine >= limits.cosine for cosine in cosines)
    if near <= len(layers) / 2:
        return None
    left = math.sqrt(1 - min(1.0, sorted(cosines)[len(cosines) // 2]) ** 2)
    return (
        f"forget and retain gradient are nearly collinear in {near} of {len(layers)} layers, and the projection leaves "
        f"about {left:.0%} of the forget gradient's length: are forget samples, or copies of them, in the retain set? "
        "If not, lower alpha, or take larger batches"
    )


def _turned_back(monitor):
    climb, turned, window = monitor.mean("update_cosine"), monitor.mean("turned_back"), monitor.thresholds.window
    # with alpha < 1 the direction itself may climb, and the optimizer is not to blame
    if climb is None or turned is None or min(climb, turned) < monitor.thresholds.climb:
        return None
    if any(record["update_cosine"] <= 0 for record in list(monitor.recent)[-window:]):
        return None
    return (
        f"the optimizer turned the last {window} updates against the projection: {climb:.0%} of their length climbs "
        "the retain loss, where the direction that it was given descends: lower weight decay or momentum, or take "
        "plain SGD"
    )


def _quantizer_step(monitor):
    factor = monitor.thresholds.step_factor
    for name, (before, after) in monitor.last["step_sizes"].items():
        start = abs(monitor.first["step_sizes"].get(name, (before,))[0] or 0.0)
        if after is None or before is None or not start:
            continue
        what = "jumped across zero" if before * after < 0 else "collapsed" if abs(after) * factor < start else None
        what = "exploded" if what is None and abs(after) > factor * start else what
        if what:
            return (
                f"the quantizer step {name} {what}, from {before:.3g} to {after:.3g} ({start:.3g} at the start): its "
                "layer now computes something else; lower the learning rate, or that of the steps in a parameter group "
                "of their own"
            )
    return None


def _lagging(monitor):
    gap, log_k = monitor.last["eval_gap"], math.log(monitor.classes)
    if gap is None or gap < monitor.thresholds.lag * log_k:
        return None
    return (
        f"the retain loss is {gap:.2f} nats higher in eval mode than in train mode: BatchNorm's statistics are those "
        "of a network that is gone; estimate them anew after the last step (recalibrate_batchnorm does it), or lower "
        "the learning rate towards the end"
    )


def _staircase(monitor):
    patience, latest = monitor.thresholds.patience, list(monitor.recent)
    if len(latest) < patience or any(r["codes"] is None for r in latest):
        return None
    changed, codes = sum(r["codes_changed"] for r in latest), latest[-1]["codes"]
    if changed >= monitor.thresholds.still * codes:
        return None
    return (
        f"{changed} of {codes} weight codes changed in {patience} steps: the updates stay below the quantizer's steps, "
        "and a device would run the same weights as before; raise the learning rate"
    )


# in the order in which warnings of one step appear
SIGNATURES = {
    "over-forgetting": _over_forgetting,
    "under-forgetting": _under_forgetting,
    "retain loss": _retain_loss,
    "collinear gradients": _collinear,
    "turned back": _turned_back,
    "quantizer step": _quantizer_step,
    "lagging statistics": _lagging,
    "staircase": _staircase,
}
