"""How well a model forgot, in the field's terms, on plain arrays of probabilities and labels. All in percent.

Protocol: SalUn (Fan et al., ICLR 2024), which the tables of arXiv 2602.00567 follow. probabilities: (N, K) float, rows
sum to 1; labels: (N,) integers in [0, K); scores: (N,) real numbers, finite; N >= 1. What is none of these raises
TypeError or ValueError, naming the argument.
"""

import numpy as np

from ..boundary import FUNCTION, Labels, Pair, Percents, Probabilities, Scores, of, taking
from .entropy import entropy_of_probabilities

METRICS = ("FA", "RA", "TA", "MIA")


takes = taking(np)
LABELLED = {"probabilities": Probabilities(), "labels": Labels(of("probabilities"))}
ATTACKED = {"retain": Pair(), "test": Pair(), "forget": Pair(), "attack": FUNCTION}


@takes(**LABELLED)
def accuracy(probabilities, labels):
    """Share of samples whose most likely class is their label: FA, RA or TA, by the set that is passed.

    Returns a float in [0, 100] (percent).
    """
    return float(100 * (probabilities.argmax(axis=1) == labels).mean())


@takes(**LABELLED)
def confidence(probabilities, labels):
    """Probability given to the label, the feature of the membership attack.  Returns (N,) in [0, 1]."""
    return probabilities[np.arange(len(labels)), labels]


@takes(**LABELLED)
def modified_entropy(probabilities, labels):
    """Entropy that knows the label, another feature for the membership attack: 0 for a sure and right prediction.

    Returns (N,) >= 0, in nats: -(1 - p_y) log p_y - sum over k != y of p_k log(1 - p_k); infinite where p_y = 0 or
    another class has p_k = 1.
    Source: Song and Mittal, USENIX Security 2021, equation 9. (SalUn's code, and what was copied from it, takes log p_k
    where log(1 - p_k) belongs, and replaces the true class's column for all rows at once.)
    """
    p = probabilities
    rows = np.arange(len(p))
    with np.errstate(divide="ignore", invalid="ignore"):
        others = np.where(p > 0, -p * np.log1p(-p), 0.0)
        own = np.where(p[rows, labels] < 1, -(1 - p[rows, labels]) * np.log(p[rows, labels]), 0.0)
    others[rows, labels] = 0.0
    return own + others.sum(axis=1)


@takes(members=Scores(), non_members=Scores(), targets=Scores())
def threshold_attack(members, non_members, targets):
    """Attack that calls a sample a member when its confidence reaches a threshold.

    members, non_members, targets: (A,), (B,), (C,), scores, such as confidences.
    The threshold is the one with the best balanced accuracy on members against non-members (the lowest of equals).
    Returns (C,) bool, True where a target is called a non-member.
    Source: the confidence attack of Song and Mittal, USENIX Security 2021, with one threshold for all classes.
    """
    # a threshold above every value is a candidate too: the attack may call nobody a member
    candidates = np.append(np.unique(np.concatenate([members, non_members])), np.inf)
    true_positive = 1 - np.searchsorted(np.sort(members), candidates) / len(members)
    true_negative = np.searchsorted(np.sort(non_members), candidates) / len(non_members)
    return targets < candidates[np.argmax(true_positive + true_negative)]


@takes(**ATTACKED)
def membership_inference(retain, test, forget, attack=threshold_attack):
    """MIA: share of forget samples that an attack calls non-members. Higher: better forgotten, up to Retrain's value.

    retain, test, forget: pairs (probabilities, labels); the attack learns on retain (members) against test
    (non-members) and judges forget.
    attack(members, non_members, targets) -> bool array (C,), True for a non-member, all on confidences. The choice
    moves the figure by points, so name it: `threshold_attack` here, the support vector classifier of SalUn in
    `oeu_ref.lab`.
    Returns a float in [0, 100] (percent).  Source: SalUn's MIA on confidence.
    """
    members, non_members, targets = (confidence.unchecked(*labelled) for labelled in (retain, test, forget))
    judged = np.asarray(attack(members, non_members, targets))
    if judged.dtype != bool or judged.shape != targets.shape:
        raise ValueError(
            f"attack must return a boolean for each of {len(targets)} targets, got {judged.dtype}, {judged.shape}"
        )
    return float(100 * judged.mean())


@takes(**ATTACKED)
def unlearning_metrics(retain, test, forget, attack=threshold_attack):
    """The four metrics of the field and the attack that over-forgetting invites.

    retain, test, forget, attack as in `membership_inference`.
    Returns {"FA", "RA", "TA", "MIA", "forget_vs_test_auc"}: floats in percent.
    """
    return {
        "FA": accuracy.unchecked(*forget),
        "RA": accuracy.unchecked(*retain),
        "TA": accuracy.unchecked(*test),
        "MIA": membership_inference.unchecked(retain, test, forget, attack),
        "forget_vs_test_auc": forget_vs_test_auc.unchecked(forget[0], test[0]),
    }


@takes(metrics=Percents(METRICS), retrain_metrics=Percents(METRICS))
def average_gap(metrics, retrain_metrics):
    """AG: mean absolute gap to the retrained model over FA, RA, TA and MIA, in percentage points; lower is better.

    metrics, retrain_metrics: mappings with "FA", "RA", "TA", "MIA" in percent.  Returns a float >= 0.
    """
    return float(np.mean([abs(metrics[key] - retrain_metrics[key]) for key in METRICS]))


@takes(forget_probabilities=Probabilities(), test_probabilities=Probabilities())
def forget_vs_test_auc(forget_probabilities, test_probabilities):
    """How well entropy alone tells forget samples from test samples: area under the ROC curve, in percent.

    forget_probabilities: (N, K); test_probabilities: (M, K).
    Returns a float in [0, 100]: 50 when the two cannot be told apart (what Retrain shows), towards 100 when forget
    samples are the more uncertain ones (over-forgotten), towards 0 when they are the more certain ones (remembered).
    Source: the probability that a forget sample has the higher entropy, ties counted half (Mann-Whitney U).
    """
    return auc(*map(entropy_of_probabilities.unchecked, (forget_probabilities, test_probabilities)))


@takes(positives=Scores(), negatives=Scores())
def auc(positives, negatives):
    """Probability in percent that a random positive scores above a random negative, ties counted half.

    positives: (A,), negatives: (B,), scores.  Returns a float in [0, 100].
    """
    ordered = np.sort(negatives)
    below, up_to = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    return float(100 * (below + up_to).mean() / (2 * len(negatives)))
