"""How well a network forgot, by the measures of the tables, on one's own network and data: `evaluate`."""

import dataclasses
import json

import numpy as np
from torch import nn

from .. import boundary
from ..data.requests import whole_classes
from ..lab.attacks import SupportVectorAttack
from ..lab.measures import measure, proxy, proxy_average_gap, proxy_targets
from ..reference import metrics
from ..report.report import tug_of_war
from .sources import batches, device_of, labelled, predictions, repeatable

NOTES = {
    "AUC": "forget told from test samples by entropy; 50: not at all",
    "VA": "accuracy on unseen samples",
    "JS": "nats, between both networks' predictions, at most 0.693",
    "agreement": "same class predicted as by Retrain",
    "ToW": "product of 1 - gap over FA, RA, TA; 1 is ideal",
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Percent, gaps in percentage points; `print` shows it as a table, `to_json` writes it.

    metrics: {"FA", "RA", "TA", "MIA", "forget_vs_test_auc"}; where classes are forgotten whole their test samples count
    in "TA_forgotten" alone, as in the tables; attack: the one that MIA is by; samples: {part: how many};
    per_class: {class: {"FA", "TA", "forget", "test"}} of classes that are forgotten whole, accuracies and counts, None
    for an accuracy without a sample;
    retrain: Retrain's metrics; AG: mean gap to them over FA, RA, TA, MIA; ToW: product over FA, RA, TA of
    1 - gap / 100; divergence, agreement: {"forget", "test"}: mean Jensen-Shannon divergence in nats from Retrain's
    predictions, and share of equal predicted classes; all of these None without Retrain;
    proxy: what can be said without it, as `oeu_ref.lab.measures.proxy`, None without unseen samples; proxy_targets,
    proxy_gap: what it should be, by the network before, and the mean gap to that, None without that network.
    """

    metrics: dict
    attack: str
    samples: dict
    per_class: dict
    retrain: dict | None
    AG: float | None
    ToW: float | None
    divergence: dict | None
    agreement: dict | None
    proxy: dict | None
    proxy_targets: dict | None
    proxy_gap: float | None

    def to_json(self):
        """All of it, as a JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def __str__(self):
        lines = [_row("", "value", "Retrain", "gap")]
        for name, value in self.metrics.items():
            there = None if self.retrain is None else self.retrain[name]
            name = "AUC" if name == "forget_vs_test_auc" else name.replace("_", " ")
            lines.append(_row(name, value, there, None if there is None else abs(value - there)))
        if self.AG is not None:
            lines += [_row("AG", None, None, self.AG), _row("ToW", f"{self.ToW:.3f}")]
            for part in ("forget", "test"):
                lines.append(_row(f"JS, {part}", f"{self.divergence[part]:.3f}"))
                lines.append(_row(f"agreement, {part}", self.agreement[part]))
        elif self.proxy_gap is not None:
            lines += ["", _row("without Retrain", "value", "target", "gap")]
            lines += [_row(k, self.proxy[k], t, abs(self.proxy[k] - t)) for k, t in self.proxy_targets.items()]
            lines.append(_row("proxy AG", None, None, self.proxy_gap))
        for label, found in self.per_class.items():
            lines.append(_row(f"class {label}: FA, TA", found["FA"], found["TA"]))
        shown = "\n".join(line.rstrip() for line in lines)
        notes = [f"MIA: {self.attack}"] + [f"{name}: {note}" for name, note in NOTES.items() if f"\n{name}" in shown]
        if self.AG is None and self.proxy_gap is None:
            notes.append("AG: needs retrain=; its proxy needs unseen= and before=")
        return "\n".join([shown, "", *notes])


def _row(name, *columns):
    cells = ("" if c is None else c if isinstance(c, str) else f"{c:.1f}" for c in columns)
    return f"{name:<20}" + "".join(f"{cell:>9}" for cell in cells)


def evaluate(model, forget, retain, test, retrain=None, unseen=None, before=None, seed=0, batch_size=256):
    """Judge an unlearned network: the measures of the tables, against Retrain where there is one, else by a proxy.

    model: maps (N, ...) to logits (N, K), left as it is; forget, retain, test, unseen: labelled data in any form that
    `oeu_ref.own.sources` names; unseen samples: of neither training nor test, at least two (a validation split);
    retrain: the network trained without the forget set; before: the network before unlearning, or what `evaluate` or
    `unlearn` measured of it with unseen samples (an `Evaluation`, `Run.before`); seed: of the attack's choice of
    members, integer >= 0; batch_size: where data comes without batches.
    Returns an `Evaluation`.
    Raises TypeError or ValueError, naming the argument, for other data or a label without an output, `NonFiniteError`
    (a ValueError) for logits that are not finite.
    Source: FA, RA, TA, MIA, AG as in SalUn (ICLR 2024); ToW: Zhao et al., NeurIPS 2024; the proxy is ours.
    """
    seed = boundary.integer("seed", seed, 0)
    parts = {"forget": forget, "retain": retain, "test": test}
    if unseen is not None:
        parts["unseen"] = unseen
    parts = {name: repeatable(data) for name, data in parts.items()}
    found = outputs(model, parts, batch_size)
    values = measure(found, seed)["metrics"]
    retrained = None
    if retrain is not None:
        others = outputs(boundary.instance("retrain", retrain, nn.Module, "torch.nn.Module"), parts, batch_size)
        mine, its = (outs["forget"][0].shape[1] for outs in (found, others))
        if mine != its:
            raise ValueError(f"retrain must have as many outputs as model, {mine}, got {its}")
        retrained = measure(others, seed)["metrics"]
    near = without_retrain(found, seed) if unseen is not None else None
    target = proxy_of(before, parts, seed, batch_size) if near is not None and before is not None else None
    return Evaluation(
        metrics=values,
        attack=SupportVectorAttack.name,
        samples={part: len(labels) for part, (_, labels) in found.items()},
        per_class=_by_class(found),
        retrain=retrained,
        AG=None if retrained is None else metrics.average_gap(values, retrained),
        ToW=None if retrained is None else tug_of_war(values, retrained) / 100,
        divergence=None if retrained is None else _each(jensen_shannon, found, others),
        agreement=None if retrained is None else _each(agreement, found, others),
        proxy=near,
        proxy_targets=None if target is None else proxy_targets(target),
        proxy_gap=None if target is None else proxy_average_gap(near, target),
    )


def outputs(model, parts, batch_size=256):
    """{part: (probabilities (N, K), labels (N,))} of a network in eval mode; parts: {name: labelled data}."""
    boundary.instance("model", model, nn.Module, "torch.nn.Module"), boundary.integer("batch_size", batch_size, 1)
    device, found = device_of(model), {}
    for name, data in parts.items():
        pairs = [predictions(name, model, labelled(name, part)) for part in batches(name, data, device, batch_size)]
        found[name] = tuple(np.concatenate(arrays) for arrays in zip(*pairs))
        labels, classes = found[name][1], found[name][0].shape[1]
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{name} must have labels in [0, {classes}), the outputs, got {labels.min()} to {labels.max()}"
            )
    if "test" in found and (gone := _gone(found)):
        kept = ~np.isin(found["test"][1], gone)
        if not kept.any():
            raise ValueError("test must hold samples of classes that are kept, got those of forgotten ones alone")
        for part, at in (("test_of_forgotten", ~kept), ("test", kept)):
            if at.any():
                found[part] = tuple(array[at] for array in found["test"])
    return found


def _gone(found):
    return whole_classes(found["forget"][1], found["retain"][1])


def without_retrain(found, seed):
    """As `oeu_ref.lab.measures.proxy`; found: `outputs` of forget, retain and unseen samples, two of these at least."""
    if (~np.isin(found["unseen"][1], _gone(found))).sum() < 2:
        raise ValueError("unseen must hold at least two samples of kept classes: an attack learns on half, judges half")
    return proxy({**{part: found[part] for part in ("forget", "retain")}, "validation": found["unseen"]}, seed)


def proxy_of(before, parts, seed, batch_size=256):
    """The proxy of the network before unlearning, however `evaluate` was given it."""
    if isinstance(before, nn.Module):
        wanted = {part: parts[part] for part in ("forget", "retain", "unseen")}
        return without_retrain(outputs(before, wanted, batch_size), seed)
    before = before.proxy if isinstance(before, Evaluation) else before
    if not isinstance(before, dict) or not {"RA", "VA", "MIA_unseen"} <= set(before):
        raise TypeError(
            "before must be the network before unlearning, or what evaluate or unlearn measured of it with unseen=, "
            f"got {type(before).__name__}"
        )
    return before


def jensen_shannon(p, q):
    """Mean Jensen-Shannon divergence of predictions, p and q (N, K), in nats: in [0, log 2], 0 where they are equal."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(r > 0, r * np.log(r / middle), 0.0) for r in (p, q)]
    return float(max(0.0, sum(terms).sum(axis=1).mean() / 2))


def agreement(p, q):
    """Share of samples, in percent, for which p and q (N, K) have the same most likely class."""
    return float(100 * (p.argmax(axis=1) == q.argmax(axis=1)).mean())


def _each(measure, found, others):
    return {part: measure(found[part][0], others[part][0]) for part in ("forget", "test")}


def _by_class(found):
    """Accuracies of every class that is forgotten whole, as `Evaluation` has them."""
    sets = {"FA": ("forget", found["forget"]), "TA": ("test", found.get("test_of_forgotten", found["test"]))}
    per_class = {label: {} for label in _gone(found)}
    for label, values in per_class.items():
        for name, (part, pair) in sets.items():
            at = pair[1] == label
            values |= {name: _accuracy(pair, at), part: int(at.sum())}
    return per_class


def _accuracy(pair, at):
    return metrics.accuracy(pair[0][at], pair[1][at]) if at.any() else None
