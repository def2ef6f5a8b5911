"""An attack that knows the sample: U-LiRA, and what else models that forgot a sample and never saw it say of it.

Notation: M models in blocks of two, rows 2b and 2b + 1; N samples. members (M, N) bool: whether a model forgot a
sample; otherwise it never saw it. Two models of a block share out the samples, so that of each block exactly one
forgot a given sample. confidences (M, N) float: what each model says of each sample, `logit_confidence`.

Why blocks. A score must not be fitted on the model that it judges. If only that one were left out, its own side of the
fit would lack it: on chance memberships, of two models, the one that forgot is measured against a mean that moved away
from it, and the AUC of a sample falls below 50. With its whole block left out both models of the block are judged by
one and the same fit of models that are neither, and swapping their memberships swaps their scores: chance is exact.

Sources: U-LiRA, Hayes et al., arXiv 2403.01218. What is computed here is stated here, and may differ from theirs.
"""

import numpy as np

FLOOR = 0.1  # least variance of a sample, as a share of the mean over samples: few models may agree by chance
WIDTH, BINS = 0.5, 13  # bins of epsilon, for the forgetting quality


def logit_confidence(probabilities, labels):
    """log p_y - log of the sum over k != y of p_k, in nats: the logit of the label's probability, KLOM's margin.

    probabilities: (N, K) float, rows sum to 1; labels: (N,) integers.  Returns (N,), finite: the sum of the other
    classes, and not 1 - p_y, keeps its digits where p_y rounds to 1; what underflows counts as the smallest number.
    """
    p = np.array(probabilities, dtype=np.float64)
    rows = np.arange(len(labels))
    own = p[rows, labels]
    p[rows, labels] = 0.0
    least = np.finfo(np.float64).tiny
    return np.log(np.maximum(own, least)) - np.log(np.maximum(p.sum(axis=1), least))


def gaussians(values, chosen, floor=FLOOR):
    """Mean and variance of the chosen values of each sample: ((N,), (N,)).

    values: (M, N); chosen: (M, N) bool, at least two in each column. The variance is the unbiased one, and at least
    `floor` times its mean over the samples.
    """
    count = chosen.sum(axis=0)
    mean = np.where(chosen, values, 0.0).sum(axis=0) / count
    variance = np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0) / (count - 1)
    return mean, np.maximum(variance, max(floor * variance.mean(), np.finfo(np.float64).tiny))


def likelihood_ratios(confidences, members, floor=FLOOR):
    """How much likelier each confidence is under the models that forgot the sample than under those that never saw it.

    confidences, members: as above, M >= 6.  Returns (M, N): log density of N(mean, variance) of the models that forgot
    the sample, less that of the models that never saw it, both fitted by `gaussians` to all models but those of the
    block that is judged.  Raises ValueError for other shapes, or blocks that do not share out the samples.
    """
    confidences, members = checked(confidences, members, 6)
    scores = np.empty_like(confidences)
    for first in range(0, len(scores), 2):
        others = np.delete(np.arange(len(scores)), (first, first + 1))
        fits = (gaussians(confidences[others], side[others], floor) for side in (members, ~members))
        forgot, unseen = (_log_density(confidences[first : first + 2], *fit) for fit in fits)
        scores[first : first + 2] = forgot - unseen
    return scores


def _log_density(values, mean, variance):
    return -0.5 * ((values - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def checked(confidences, members, least=4):
    """The two as arrays of float64 and bool; ValueError, naming the argument, for what is not as above, M >= least."""
    confidences, members = np.asarray(confidences, dtype=np.float64), np.asarray(members)
    if confidences.ndim != 2 or len(confidences) < least or len(confidences) % 2:
        raise ValueError(f"confidences must have shape (M, N), M even and at least {least}, got {confidences.shape}")
    if not np.isfinite(confidences).all():
        raise ValueError("confidences must be finite, got NaN or infinity")
    if members.dtype != bool or members.shape != confidences.shape:
        raise ValueError(f"members must be bool {confidences.shape}, got {members.dtype} {members.shape}")
    if (members[::2] == members[1::2]).any():
        raise ValueError("members must have each sample in exactly one of the models 2b and 2b + 1 of every block")
    return confidences, members


def true_positive_rates(scores, members, false_positive_rates):
    """Share of the forgotten that one threshold for all samples finds, at the most false positives that are allowed.

    scores: (M, N), higher for the forgotten; members: (M, N) bool; false_positive_rates: (R,) in [0, 1).
    Returns (R,) in percent. Of F scores of samples never seen, floor(rate F) may lie above the threshold, which is the
    next of them; a score counts if it lies strictly above it. Rates below 1 / F are those of none.
    """
    unseen, found = np.sort(scores[~members])[::-1], np.sort(scores[members])
    allowed = np.floor(np.asarray(false_positive_rates) * len(unseen) * (1 + 1e-12)).astype(int)
    return 100 * (1 - np.searchsorted(found, unseen[allowed], side="right") / len(found))


def wins(scores, members):
    """Whether the model of a block that forgot a sample has the higher score: (M / 2, N), 1, 0, or 0.5 of equals.

    The mean over blocks is a sample's AUC, as a share: the probability that the attack tells the two models apart.
    """
    gap = np.where(members[::2], scores[::2] - scores[1::2], scores[1::2] - scores[::2])
    return (1 + np.sign(gap)) / 2


def klom(confidences, members, floor=FLOOR):
    """KL divergence of margins, in nats: (N,), KL(N of the models that forgot || N of those that never saw).

    Each side is a normal distribution with the mean and variance of `gaussians`; log(s / t) + (t^2 + (m - n)^2) / 2 s^2
    - 1/2 for N(m, t^2) against N(n, s^2). With few models it is above 0 though both are alike: look at the floor.
    Source: KLOM, the KL divergence of margins, is Georgiev et al.'s, arXiv 2410.23232; the normal fit is ours.
    """
    confidences, members = checked(confidences, members)
    (m, t), (n, s) = (gaussians(confidences, side, floor) for side in (members, ~members))
    return 0.5 * (np.log(s / t) + (t + (m - n) ** 2) / s - 1)


def shift(confidences, members, floor=FLOOR):
    """How far a sample's mean confidence lies higher where it was forgotten than where it was never seen: (N,).

    In standard deviations, the root of the mean variance of both sides, by `gaussians`. Above 0: still remembered,
    below 0: forgotten more than what nobody saw. The attack finds either; a mean over both kinds hides them.
    """
    confidences, members = checked(confidences, members)
    (m, t), (n, s) = (gaussians(confidences, side, floor) for side in (members, ~members))
    return (m - n) / np.sqrt((t + s) / 2)


def epsilon(confidences, members):
    """How well the best threshold on a sample's confidence tells models that forgot it from those that never saw it.

    Returns (N,): for each threshold at a confidence that occurs, on either side, FPR is the share of the models that
    never saw the sample which it takes for forgotten, FNR the share of the others which it misses; epsilon is the
    largest |log((1 - FNR) / FPR)| or |log((1 - FPR) / FNR)| of all thresholds at which none of the four is 0, infinite
    where a threshold tells all models apart, 0 where no threshold counts. Best on the models it is chosen on: with few
    of them it is large by chance, and no larger than log(M / 2 - 1) or infinite.
    Source: the per-sample epsilon of the NeurIPS 2023 challenge on unlearning, as we understand it, with delta 0.
    """
    confidences, members = checked(confidences, members)
    order = np.argsort(confidences, axis=0, kind="stable")
    ordered, forgot = (np.take_along_axis(array, order, axis=0) for array in (confidences, members))
    half = len(members) / 2
    # above the threshold that lies just below each value; among equals only the first has a threshold
    tpr = 1 - (np.cumsum(forgot, axis=0) - forgot) / half
    fpr = 1 - (np.cumsum(~forgot, axis=0) - ~forgot) / half
    real = np.vstack([np.ones(ordered.shape[1], dtype=bool), ordered[1:] > ordered[:-1]])
    counts = real & (tpr > 0) & (tpr < 1) & (fpr > 0) & (fpr < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.maximum(np.abs(np.log(tpr / fpr)), np.abs(np.log((1 - tpr) / (1 - fpr))))
    apart = (real & (np.abs(tpr - fpr) == 1)).any(axis=0)
    return np.where(apart, np.inf, np.where(counts, found, 0.0).max(axis=0))


def forgetting_quality(epsilons):
    """F: mean over samples of 2 / 2^n, n the number of the bin of epsilon, from 1: 1 if all are below 0.5, at most.

    epsilons: (N,) >= 0. Bins are WIDTH wide, [0, 0.5) is the first; what lies above the last, infinity too, is in it.
    Source: the forgetting quality of the NeurIPS 2023 challenge on unlearning, as we understand it.
    """
    epsilons = np.asarray(epsilons, dtype=np.float64)
    if np.isnan(epsilons).any() or (epsilons < 0).any():
        raise ValueError("epsilons must be at least 0, got a negative one or NaN")
    number = np.minimum(np.floor(np.minimum(epsilons, WIDTH * BINS) / WIDTH) + 1, BINS)
    return float((2 / 2**number).mean())


def bootstrap(statistic, blocks, draws=500, seed=0):
    """Interval of a statistic over blocks drawn anew with replacement: (2.5 %, 97.5 %) of it, each as it returns.

    statistic: function of (B,) integers, the blocks that count; blocks: B; draws, seed: how many, and of the draws.
    Scores stay as they were fitted: an interval says what other models to be judged would change, not other fits.
    """
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(blocks, size=blocks)) for _ in range(draws)]
    return np.percentile(found, [2.5, 97.5], axis=0)


def jackknife(statistic, blocks):
    """Interval of a statistic that is computed anew without each block: mean ± 1.96 standard errors, (low, high).

    For what is fitted to all models or is a maximum over them, where blocks drawn twice would count as evidence.
    """
    everyone = np.arange(blocks)
    left_out = np.array([statistic(np.delete(everyone, block)) for block in everyone])
    error = np.sqrt((blocks - 1) * left_out.var(axis=0))
    value = statistic(everyone)
    return value - 1.96 * error, value + 1.96 * error


def rows(blocks):
    """Rows of the models of some blocks, (2 B,)."""
    return (2 * np.asarray(blocks)[:, None] + np.arange(2)).ravel()


def judged(confidences, members, rates, groups, draws=500):
    """All measures of one method on each group of samples, with intervals over blocks of models.

    rates: false positive rates, (R,); groups: {name: (N,) bool}.  Returns {group: {"tpr", "sample auc" (percent),
    "shift", "klom" (nats), "F": [value, low, high], "tpr" a list of R of them; "aucs", a sample's each, percent}}.
    """
    scores = likelihood_ratios(confidences, members)
    found = {}
    blocks = len(scores) // 2
    for name, group in groups.items():
        s, y, c = scores[:, group], members[:, group], confidences[:, group]
        won = wins(s, y)
        low_high = lambda statistic, how=bootstrap: [statistic(np.arange(blocks)), *how(statistic, blocks)]
        tpr = lambda at, s=s, y=y: true_positive_rates(s[rows(at)], y[rows(at)], rates)
        values = {
            "tpr": np.transpose([tpr(np.arange(blocks)), *bootstrap(tpr, blocks, draws)]),
            "sample auc": low_high(lambda at, won=won: 100 * won[at].mean()),
            "shift": low_high(lambda at, c=c, y=y: shift(c[rows(at)], y[rows(at)]).mean(), jackknife),
            "klom": low_high(lambda at, c=c, y=y: klom(c[rows(at)], y[rows(at)]).mean(), jackknife),
            "F": low_high(lambda at, c=c, y=y: forgetting_quality(epsilon(c[rows(at)], y[rows(at)])), jackknife),
        }
        found[name] = {key: np.asarray(value, dtype=float).tolist() for key, value in values.items()}
        found[name]["aucs"] = (100 * won.mean(axis=0)).tolist()
    return found
