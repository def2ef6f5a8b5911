"""What all networks are judged by: the metrics of the tables, and what can be said of them without Retrain."""

import math

import numpy as np

from ..data.requests import whole_classes
from ..reference import metrics
from ..reference.entropy import entropy_of_probabilities
from .attacks import SupportVectorAttack
from .training import predictions

BINS = 18  # of the entropy histograms, from 0 to log K nats
MEASURED = ("retain", "test", "forget")
FA_PARTS = ("FA wrong", "FA right")


def outputs(model, splits, parts=MEASURED):
    """{part: (probabilities, labels)} of a model, all that is measured of it.  Raises as `predictions`."""
    parts = (*parts, "test_of_forgotten") if splits.test_of_forgotten is not None else parts
    return {part: predictions(model, getattr(splits, part)) for part in parts}


def accuracy_by_label(forget, wrong):
    """FA in two FA_PARTS, in percent: of the samples whose label is wrong, which can only be remembered, and of the
    others, which can be guessed; labels as they were taught.

    forget: (probabilities, labels) as of `outputs`; wrong: (N,) bool array, by `Digits.wrong`, not all of one kind.
    """
    right = forget[0].argmax(1) == forget[1]
    return {metric: float(100 * right[chosen].mean()) for metric, chosen in zip(FA_PARTS, (wrong, ~wrong))}


def mean_loss(probabilities, labels):
    """Mean cross-entropy in nats of `outputs`, those of the network as it predicts, in eval mode."""
    return float(-np.log(np.maximum(metrics.confidence(probabilities, labels), np.finfo(float).tiny)).mean())


def measure(found, seed):
    """{"metrics": as `metrics.unlearning_metrics`, "entropy_histograms": {part: counts in BINS bins up to log K nats}}.

    found: `outputs` of retain, test and forget samples; labels count as they were trained on, noise included; seed: of
    the membership attack's choice of members. Where there are those of "test_of_forgotten", metrics hold "TA_forgotten"
    too, the accuracy on test samples of classes of which none is kept, which count in no other figure.
    """
    of_forgotten = found.get("test_of_forgotten")
    found = {part: found[part] for part in MEASURED}
    limit = math.log(found["test"][0].shape[1])
    histograms = {
        part: np.histogram(entropy_of_probabilities(p).clip(0, limit), BINS, (0, limit))[0].tolist()
        for part, (p, _) in found.items()
    }
    values = metrics.unlearning_metrics(**found, attack=SupportVectorAttack(seed))
    if of_forgotten is not None:
        values["TA_forgotten"] = metrics.accuracy(*of_forgotten)
    return {"metrics": values, "entropy_histograms": histograms}


def proxy(found, seed):
    """What can be said without Retrain and without any test sample: {"FA", "RA", "VA", "MIA", "MIA_unseen"}, percent.

    found: `outputs` of retain, forget and validation samples. VA: accuracy on the validation samples; MIA: by an attack
    that learned on retain against the first half of them; MIA_unseen: what that attack says of the second half.
    Validation samples of classes of which nothing is kept do not count. Of such classes Retrain never saw a label, so
    that it never predicts one, and the attack calls them unseen: where there are any, MIA_unseen has their share at
    100, and "FA_unseen" is VA with their share at 0.
    """
    forget, retain, validation = (found[part] for part in ("forget", "retain", "validation"))
    gone = whole_classes(forget[1], retain[1])
    validation = tuple(array[~np.isin(validation[1], gone)] for array in validation)
    half = len(validation[1]) // 2
    known, unknown = (tuple(array[part] for array in validation) for part in (slice(half), slice(half, None)))
    targets = np.concatenate([metrics.confidence(*part) for part in (forget, unknown)])
    judged = SupportVectorAttack(seed)(metrics.confidence(*retain), metrics.confidence(*known), targets)
    accuracies = {name: metrics.accuracy(*part) for name, part in (("FA", forget), ("RA", retain), ("VA", validation))}
    shares = {"MIA": judged[: len(forget[1])], "MIA_unseen": judged[len(forget[1]) :]}
    values = {**accuracies, **{name: float(100 * np.mean(share)) for name, share in shares.items()}}
    if lost := float(np.isin(forget[1], gone).mean()):
        values["FA_unseen"] = (1 - lost) * values["VA"]
        values["MIA_unseen"] += lost * (100 - values["MIA_unseen"])
    return values


def proxy_average_gap(proxy, original):
    """AG without a retrained model: mean absolute gap to what the original model shows on images that it never saw.

    proxy, original: the `proxy` of the unlearned and of the original model.  Returns a float >= 0, percentage points.
    Source: ours; Retrain is to the forget set what the original is to unseen data.
    """
    return float(np.mean([abs(proxy[key] - target) for key, target in proxy_targets(original).items()]))


def proxy_targets(original):
    """What `proxy` should become, {"FA", "RA", "VA", "MIA"}, by that of the original model: RA and VA what they were,
    FA its accuracy on images that it never saw, MIA the share of these that the attack calls unseen."""
    targets = {"FA": original.get("FA_unseen", original["VA"]), "MIA": original["MIA_unseen"]}
    return {**{key: original[key] for key in ("RA", "VA")}, **targets}
