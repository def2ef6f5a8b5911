"""Membership attacks that need more than NumPy, for `oeu_ref.reference.metrics.membership_inference`."""

import numpy as np

from .. import boundary
from ..reference.metrics import threshold_attack


class SupportVectorAttack:
    """SalUn's membership attack: a support vector classifier that tells members from non-members by their confidence.

    seed: of the subsampling, integer >= 0.  Called with (members (A,), non_members (B,), targets (C,)), all confidences
    in [0, 1]; members are subsampled, without replacement, to the number of non-members, as SalUn balances them.
    Returns (C,) bool, True where a target is called a non-member.  Two calls with the same arrays agree.
    Raises TypeError for what are no numbers, ValueError for an empty or non-finite array or another rank, ImportError
    without scikit-learn.
    Source: SalUn (Fan et al., ICLR 2024), SVC(C=3, gamma="auto", kernel="rbf") on the confidence feature.
    """

    name = "support vector classifier on confidence (SalUn)"

    def __init__(self, seed=0):
        self.seed = boundary.integer("seed", seed, 0)

    @boundary.taking(np)(**threshold_attack.rules)
    def __call__(self, members, non_members, targets):
        try:
            from sklearn.svm import SVC  # a second to import: only for those who attack
        except ImportError:
            raise ImportError("SupportVectorAttack must have scikit-learn: pip install scikit-learn") from None
        if len(members) > len(non_members):
            chosen = np.random.default_rng(self.seed).permutation(len(members))[: len(non_members)]
            members = members[chosen]
        is_member = np.repeat([1, 0], [len(members), len(non_members)])
        # unused here, but without it scikit-learn draws from NumPy's global generator
        classifier = SVC(C=3, gamma="auto", kernel="rbf", random_state=0)
        classifier.fit(np.concatenate([members, non_members])[:, None], is_member)
        return classifier.predict(targets[:, None]) == 0
