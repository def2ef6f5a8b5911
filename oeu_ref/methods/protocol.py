"""The protocol of the field's own code: unlearning runs for epochs over forget and retain set, one batch at a time.

In each of 10 epochs (GA: 5) a method passes all forget batches and then all retain batches of 256, with a constant
learning rate, momentum 0.9 and weight decay 5e-4; FT and l1-sparse read the retain set alone, GA the forget set alone.
Random labels are drawn over all classes. OEU takes its joint step on pairs of batches, for as many steps as 10 passes
over the retain set have, with the forget set cycling; as a second reading, for 10 passes over the forget set.
On CIFAR-100 and Tiny-ImageNet an epoch is one pass over both sets shuffled together, in batches of 256: a batch is
forwarded as one, each sample counts the same, the forget samples in it get the method's target (random labels drawn
anew each epoch, Q-MUL's weights on each sample's loss), the others their own label, and without forget samples it is a
retain batch like any other; FT, l1-sparse and GA read one set there too.
What is ours: the schedule of original and Retrain (one cycle, made for accuracy per minute, where theirs is 182
epochs), the learning rates that are tried, and beta, which is tried on as many points in all; SCRUB, LoTUS and the
uniform target, which that code has not, take turns or are shuffled as its methods are.
Source: the public code of SalUn (Fan et al., ICLR 2024), Classification/unlearn, whose loops the code of the paper's
peers shares; for the weights that of Q-MUL (arXiv 2503.13917), RL_min.py there.
"""

import dataclasses

from . import names

SHUFFLED = "shuffled"  # the order of batches of both sets together
MIXED = ("cifar100", "tinyimagenet")  # data sets on which that code shuffles both sets together
SEARCH_SEED = 101  # never reported
SCHEDULE = {"epochs": 18, "batch_size": 512, "learning_rate": 0.2, "forget_batch": 256, "retain_batch": 256}


@dataclasses.dataclass(frozen=True)
class Row:
    """How one row of the table is made.

    method: a key of METHODS; reads: in each epoch, "pairs" (as many pairs of batches as the retain set has), "forget
    pairs" (as the forget set has), "turns" (forget batches, then retain batches), "shuffled" (both sets together),
    "forget" or "retain" (these alone); epochs >= 1; points: pairs (learning rate, weight) that the search tries;
    options: further arguments of the method.
    """

    method: str
    reads: str
    points: tuple
    epochs: int = 10
    options: tuple = ()
    label: str = ""

    def counts(self, forget, retain, both):
        """(forget batches, retain batches) of an epoch, given those of a pass over each set and over both together;
        pairs: as many of both; shuffled: of the retain batches' size."""
        return {
            SHUFFLED: (0, both),
            "pairs": (retain, retain),
            "forget pairs": (forget, forget),
            "turns": (forget, retain),
            "forget": (forget, 0),
            "retain": (0, retain),
        }[self.reads]

    def steps(self, *passes):
        """Steps in all; passes: as `oeu_ref.lab.experiment.Replication.passes` gives them."""
        first, second = self.counts(*passes)
        return self.epochs * (first if "pairs" in self.reads else first + second)


RATES = tuple((rate, 1.0) for rate in (0.003, 0.01, 0.03, 0.1))
SMALL_RATES = tuple((rate, 1.0) for rate in (1e-4, 3e-4, 1e-3, 3e-3))  # nothing holds GA back
SMALL_WEIGHTS = tuple((rate, 0.05) for rate, _ in RATES)  # ascent without a bound: ours
BETAS = ((0.01, 0.03), (0.01, 0.3), (0.03, 0.03), (0.03, 0.3))
SHORT_BETAS = ((0.01, 0.3), (0.01, 3.0), (0.03, 0.3), (0.03, 3.0))
ANY = (("classes", "all"),)
# in order of worth
ROWS = {
    "oeu": Row("oeu", "pairs", BETAS),
    "qmul": Row("qmul_released", "turns", RATES),
    "oeu_short": Row("oeu", "forget pairs", SHORT_BETAS, label="OEU, 10 passes over the forget set"),
    "oeu_global": Row("oeu_global", "pairs", BETAS),
    "ft": Row("ft", "retain", RATES),
    "rl": Row("rl", "turns", RATES, options=ANY),
    "salun": Row("salun", "turns", RATES, options=ANY),
    "ga": Row("ga", "forget", SMALL_RATES, 5),
    "l1": Row("l1_fading", "retain", RATES),
    "oeu_no_projection": Row("oeu_no_projection", "pairs", BETAS),
    "uniform": Row("uniform", "turns", RATES),
    "ng_plus": Row("ng_plus", "pairs", SMALL_WEIGHTS),
    "scrub": Row("scrub", "turns", RATES),
    "lotus": Row("lotus", "turns", RATES),
}


def label(name):
    """What to call a row."""
    return ROWS[name].label or names.METHODS[ROWS[name].method]
