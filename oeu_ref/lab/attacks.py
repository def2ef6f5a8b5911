"""Membership attacks that need more than NumPy, for `oeu_ref.reference.metrics.membership_inference`."""

import numpy as np

from .. import boundary
from ..reference.entropy import entropy_of_probabilities
from ..reference.metrics import confidence, modified_entropy, threshold_attack

MOST = 50.0  # nats, above every finite modified entropy of float32 probabilities but for certain ones


class SupportVectorAttack:
    """SalUn's membership attack: a support vector classifier that tells members from non-members by their confidence.

    seed: of the subsampling, integer >= 0.  Called with (members (A,), non_members (B,), targets (C,)), all confidences
    in [0, 1]; the larger of members and non-members is subsampled, without replacement, to the size of the other: SalUn
    balances so where members are more, and a classifier of few among many others would call everything unseen.
    Returns (C,) bool, True where a target is called a non-member.  Two calls with the same arrays agree.
    Raises TypeError for what are no numbers, ValueError for an empty or non-finite array or another rank, ImportError
    without scikit-learn.
    Source: SalUn (Fan et al., ICLR 2024), SVC(C=3, gamma="auto", kernel="rbf") on the confidence feature.
    """

    name = "support vector classifier on confidence (SalUn)"

    def __init__(self, seed=0):
        self.seed = boundary.integer("seed", seed, 0)

    def judged(self, members, non_members, targets):
        """What a call answers, also for features (A, D), (B, D), (C, D)."""
        try:
            from sklearn.svm import SVC  # a second to import: only for those who attack
        except ImportError:
            raise ImportError("SupportVectorAttack must have scikit-learn: pip install scikit-learn") from None
        members, non_members, targets = (x.reshape(len(x), -1) for x in (members, non_members, targets))
        sides = [members, non_members]
        larger = int(len(members) < len(non_members))
        if (size := min(map(len, sides))) < len(sides[larger]):
            sides[larger] = sides[larger][np.random.default_rng(self.seed).permutation(len(sides[larger]))[:size]]
        members, non_members = sides
        is_member = np.repeat([1, 0], [len(members), len(non_members)])
        # unused here, but without it scikit-learn draws from NumPy's global generator
        classifier = SVC(C=3, gamma="auto", kernel="rbf", random_state=0)
        classifier.fit(np.concatenate([members, non_members]), is_member)
        return classifier.predict(targets) == 0

    __call__ = boundary.taking(np)(**threshold_attack.rules)(judged)


FEATURES = {
    "correctness": lambda p, labels: (p.argmax(axis=1) == labels).astype(float),
    "confidence": confidence,
    "entropy": lambda p, labels: entropy_of_probabilities(p),
    # infinite where the label has probability 0
    "modified entropy": lambda p, labels: np.minimum(modified_entropy(p, labels), MOST),
    "probability": lambda p, labels: p,
}


def by_feature(retain, test, forget, seed=0):
    """MIA by each of the five features of SalUn's protocol: {feature: percent of forget samples called non-members}.

    retain, test, forget: pairs (probabilities (N, K), labels (N,)), as in `membership_inference`; seed: as in
    `SupportVectorAttack`, whose classifier gets the feature in the confidence's place ("probability": all K).
    Source: SalUn (Fan et al., ICLR 2024), evaluation/SVC_MIA.py; the modified entropy as Song and Mittal define it.
    """
    attack = SupportVectorAttack(seed)
    features = {name: [of(*pair) for pair in (retain, test, forget)] for name, of in FEATURES.items()}
    return {name: float(100 * attack.judged(*found).mean()) for name, found in features.items()}
