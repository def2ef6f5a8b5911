"""How well a model forgot, in the field's terms, on plain arrays of probabilities and labels. All in percent.

Protocol: SalUn (Fan et al., ICLR 2024), which the tables of arXiv 2602.00567 follow.
"""

import numbers
from collections.abc import Callable, Mapping

import numpy as np

from .. import boundary
from ._checks import array
from .entropy import checked_labels, checked_probabilities, entropy_of_probabilities

METRICS = ("FA", "RA", "TA", "MIA")


def accuracy(probabilities, labels):
    """Share of samples whose most likely class is their label: FA, RA or TA, by the set that is passed.

    probabilities: (N, K) float, rows sum to 1; labels: (N,) integers in [0, K).
    Returns a float in [0, 100] (percent).  Raises TypeError or ValueError for anything else.
    """
    p = checked_probabilities("probabilities", probabilities)
    labels = checked_labels("labels", labels, *p.shape)
    return float(100 * (p.argmax(axis=1) == labels).mean())


def confidence(probabilities, labels):
    """Probability given to the label, the feature of the membership attack.

    probabilities: (N, K) float, rows sum to 1; labels: (N,) integers in [0, K).
    Returns (N,) in [0, 1].  Raises TypeError or ValueError for anything else.
    """
    p = checked_probabilities("probabilities", probabilities)
    return p[np.arange(len(p)), checked_labels("labels", labels, *p.shape)]


def modified_entropy(probabilities, labels):
    """Entropy that knows the label, another feature for the membership attack: 0 for a sure and right prediction.

    probabilities: (N, K) float, rows sum to 1; labels: (N,) integers in [0, K).
    Returns (N,) >= 0, in nats: -(1 - p_y) log p_y - sum over k != y of p_k log(1 - p_k); infinite where p_y = 0 or
    another class has p_k = 1.  Raises TypeError or ValueError for anything else.
    Source: Song and Mittal, USENIX Security 2021, equation 9. (SalUn's code, and what was copied from it, takes log p_k
    where log(1 - p_k) belongs, and replaces the true class's column for all rows at once.)
    """
    p = checked_probabilities("probabilities", probabilities)
    labels = checked_labels("labels", labels, *p.shape)
    rows = np.arange(len(p))
    with np.errstate(divide="ignore", invalid="ignore"):
        others = np.where(p > 0, -p * np.log1p(-p), 0.0)
        own = np.where(p[rows, labels] < 1, -(1 - p[rows, labels]) * np.log(p[rows, labels]), 0.0)
    others[rows, labels] = 0.0
    return own + others.sum(axis=1)


def threshold_attack(members, non_members, targets):
    """Attack that calls a sample a member when its confidence reaches a threshold.

    members, non_members, targets: (A,), (B,), (C,) float, confidences; A, B, C >= 1.
    The threshold is the one with the best balanced accuracy on members against non-members (the lowest of equals).
    Returns (C,) bool, True where a target is called a non-member.
    Raises TypeError for what are no numbers, ValueError for an empty or non-finite array or another rank.
    Source: the confidence attack of Song and Mittal, USENIX Security 2021, with one threshold for all classes.
    """
    members, non_members, targets = (
        checked_scores(name, scores)
        for name, scores in (("members", members), ("non_members", non_members), ("targets", targets))
    )
    # a threshold above every value is a candidate too: the attack may call nobody a member
    candidates = np.append(np.unique(np.concatenate([members, non_members])), np.inf)
    true_positive = 1 - np.searchsorted(np.sort(members), candidates) / len(members)
    true_negative = np.searchsorted(np.sort(non_members), candidates) / len(non_members)
    return targets < candidates[np.argmax(true_positive + true_negative)]


def membership_inference(retain, test, forget, attack=threshold_attack):
    """MIA: share of forget samples that an attack calls non-members. Higher: better forgotten, up to Retrain's value.

    retain, test, forget: pairs (probabilities (N, K), labels (N,)); the attack learns on retain (members) against test
    (non-members) and judges forget.
    attack(members, non_members, targets) -> bool array (C,), True for a non-member, all on confidences. The choice
    moves the figure by points, so name it: `threshold_attack` here, the support vector classifier of SalUn in
    `oeu_ref.lab`.
    Returns a float in [0, 100] (percent).  Raises TypeError or ValueError for bad arrays.
    Source: SalUn's MIA on confidence.
    """
    boundary.instance("attack", attack, Callable, "function")
    named = ("retain", retain), ("test", test), ("forget", forget)
    members, non_members, targets = (confidence(*_pair(name, pair)) for name, pair in named)
    judged = np.asarray(attack(members, non_members, targets))
    if judged.dtype != bool or judged.shape != targets.shape:
        raise ValueError(
            f"attack must return a boolean for each of {len(targets)} targets, got {judged.dtype}, {judged.shape}"
        )
    return float(100 * judged.mean())


def unlearning_metrics(retain, test, forget, attack=threshold_attack):
    """The four metrics of the field and the attack that over-forgetting invites.

    retain, test, forget, attack as in `membership_inference`.
    Returns {"FA", "RA", "TA", "MIA", "forget_vs_test_auc"}: floats in percent.  Raises as `membership_inference`.
    """
    return {
        "FA": accuracy(*_pair("forget", forget)),
        "RA": accuracy(*_pair("retain", retain)),
        "TA": accuracy(*_pair("test", test)),
        "MIA": membership_inference(retain, test, forget, attack),
        "forget_vs_test_auc": forget_vs_test_auc(forget[0], test[0]),
    }


def average_gap(metrics, retrain_metrics):
    """AG: mean absolute gap to the retrained model over FA, RA, TA and MIA, in percentage points; lower is better.

    metrics, retrain_metrics: mappings with "FA", "RA", "TA", "MIA" in percent.
    Returns a float >= 0.  Raises TypeError for no mapping, ValueError that names a missing or non-finite metric.
    """
    for name, values in (("metrics", metrics), ("retrain_metrics", retrain_metrics)):
        boundary.instance(name, values, Mapping, "mapping")
        for key in METRICS:
            if not isinstance(values.get(key), numbers.Real) or not np.isfinite(values[key]):
                raise ValueError(f"{name} must hold a finite {key} (percent), got {values.get(key)}")
    return float(np.mean([abs(metrics[key] - retrain_metrics[key]) for key in METRICS]))


def forget_vs_test_auc(forget_probabilities, test_probabilities):
    """How well entropy alone tells forget samples from test samples: area under the ROC curve, in percent.

    forget_probabilities: (N, K), test_probabilities: (M, K), rows sum to 1.
    Returns a float in [0, 100]: 50 when the two cannot be told apart (what Retrain shows), towards 100 when forget
    samples are the more uncertain ones (over-forgotten), towards 0 when they are the more certain ones (remembered).
    Raises TypeError or ValueError for anything else.
    Source: the probability that a forget sample has the higher entropy, ties counted half (Mann-Whitney U).
    """
    return auc(entropy_of_probabilities(forget_probabilities), entropy_of_probabilities(test_probabilities))


def auc(positives, negatives):
    """Probability in percent that a random positive scores above a random negative, ties counted half.

    positives: (A,), negatives: (B,) float, finite, not empty.  Returns a float in [0, 100].
    Raises TypeError or ValueError for anything else.
    """
    positives, negatives = checked_scores("positives", positives), checked_scores("negatives", negatives)
    ordered = np.sort(negatives)
    below, up_to = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    return float(100 * (below + up_to).mean() / (2 * len(negatives)))


def checked_scores(name, scores):
    """Return scores as a float64 array (N,), finite, N >= 1; raise TypeError or ValueError, naming it, otherwise."""
    scores = array(name, scores)
    if scores.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, got dtype {scores.dtype}")
    scores = scores.astype(np.float64)
    wrong = scores[~np.isfinite(scores)]
    if scores.ndim != 1 or scores.size == 0 or wrong.size:
        found = f"{wrong[0]}" if wrong.size else f"shape {scores.shape}"
        raise ValueError(f"{name} must be a finite array of shape (N,) with N >= 1, got {found}")
    return scores


def _pair(name, pair):
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        found = f"{len(pair)} things" if isinstance(pair, (tuple, list)) else type(pair).__name__
        raise TypeError(f"{name} must be a pair (probabilities, labels), got {found}")
    return pair
