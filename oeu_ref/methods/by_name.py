"""All methods by name, and the options of OEU that are compared."""

import dataclasses
import functools

from . import baselines, names, orthogonal, rivals


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """A method as the tables know it.

    label: what to call it; make(model, forget, settings, generator) -> `Method`; stops: whether the entropy stop rule
    may end it early; fades: whether its steps depend on how many there will be, `fade`; compares: whether it needs
    images that were not trained on, `validation`.
    """

    label: str
    make: object
    stops: bool = False
    fades: bool = False
    compares: bool = False

    def runs(self, config, steps):
        """Numbers of steps by the run that shows them: `UnlearnConfig.runs`, each its own if the method fades."""
        return [(count,) for count in steps] if self.fades else config.runs(steps)


def _oeu(**options):
    return functools.partial(orthogonal.OrthogonalEntropy, **options)


_MAKE = {
    "oeu": orthogonal.OrthogonalEntropy,
    "ft": baselines.FineTuning,
    "ga": baselines.GradientAscent,
    "rl": baselines.RandomLabels,
    "salun": baselines.SalUn,
    "qmul": baselines.SimilarLabels,
    "l1": baselines.L1Sparse,
    "oeu_stop": orthogonal.OrthogonalEntropy,
    "oeu_no_projection": _oeu(alpha=0.0),
    "oeu_global": _oeu(granularity="global"),
    "oeu_random_labels": orthogonal.OrthogonalRandomLabels,
    "l1_fading": baselines.L1Sparse,
    "qmul_released": baselines.SimilarLabelsByEpoch,
    "oeu_conflict": _oeu(form="under conflict"),
    "oeu_forget_only": _oeu(form="forget only"),
    "uniform": rivals.UniformTarget,
    "ng_plus": rivals.NegGradPlus,
    "scrub": rivals.Scrub,
    "lotus": rivals.Lotus,
}
_FURTHER = {"oeu_stop": {"stops": True}, "l1_fading": {"fades": True}, "lotus": {"compares": True}}
METHODS = {name: MethodInfo(label, _MAKE[name], **_FURTHER.get(name, {})) for name, label in names.METHODS.items()}
# OEU with one option changed: what the paper leaves open, and what is left without its parts
VARIANTS = {
    "module, undo": {},
    "module, match": {"rescale": "match"},
    "tensor, undo": {"layer": "tensor"},
    "tensor, match": {"layer": "tensor", "rescale": "match"},
    "global": {"granularity": "global"},
    "joint forward": {"form": "joint"},
    "no projection": {"alpha": 0.0},
    "only under conflict": {"form": "under conflict"},
    "forget-only steps": {"form": "forget only"},
}
