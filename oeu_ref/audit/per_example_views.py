"""Tables and picture of the study `per-example`, from its JSON file alone."""

import textwrap

import numpy as np

from ..report import figures, results
from ..report.report_figures import LINES

TITLES = {"retrain": "against Retrain", "own": "against the same method, sample never seen"}
SHOWN = ("FA", "RA", "TA", "AG")


def markdown(data):
    """Tables: accuracies; for each reference the attack on all samples; AUC by groups of samples; a caption."""
    attacks, labels = data["attacks"], data["labels"]
    parts = [_accuracies(data)]
    rates = data["config"]["rates"]
    for reference, title in TITLES.items():
        head = [title, *(f"TPR at {100 * rate:g} % FPR" for rate in rates), "AUC of a sample", "KLOM", "F"]
        rows = [head]
        for name, label in labels.items():
            found = attacks[reference][name] and attacks[reference][name]["all"]
            cells = [*found["tpr"][: len(rates)], found["sample auc"], found["klom"], found["F"]] if found else []
            rows.append(
                [label, *(bracketed(c, 2 if i > 2 else 1) for i, c in enumerate(cells))]
                if found
                else _lost(label, head)
            )
        parts.append(results.aligned(rows))
    groups = [name for name in data["groups"] if name != "all"]
    for key, title, digits in (("sample auc", "AUC of a sample", 1), ("shift", "still remembered (above 0)", 2)):
        rows = [[title, *(f"{group}, {reference}" for reference in TITLES for group in groups)]]
        for name, label in labels.items():
            found = [attacks[reference][name] for reference in TITLES]
            cells = [bracketed(one[group][key], digits) for one in found for group in groups] if all(found) else []
            rows.append([label, *cells] if cells else _lost(label, rows[0]))
        parts.append(results.aligned(rows))
    return "\n\n".join([*parts, _caption(data)])


def bracketed(found, digits=1):
    """The text "71.4 [68.2, 74.0]".  found: (value, low, high)."""
    value, low, high = (f"{number:.{digits}f}" for number in found)
    return f"{value} [{low}, {high}]"


def _lost(label, head):
    return [f"{label} (diverged)", *["–"] * (len(head) - 1)]


def _accuracies(data):
    rows = [["mean over models", *SHOWN]]
    for name, label in data["labels"].items():
        left, lost = results.finished(data["metrics"][name])
        means = [f"{np.mean([run[key] for run in left]):.1f}" if left else "–" for key in SHOWN]
        rows.append([label + lost, *means])
    return results.aligned(rows)


def _caption(data):
    models, samples = len(data["members"]), len(data["members"][0])
    groups = ", ".join(f"{len(at)} {name}" for name, at in data["groups"].items() if name != "all")
    never = models * samples // 2
    text = f"""{models} models and {samples} samples ({groups}), each forgotten by half of the models. U-LiRA fits a
        normal distribution to a sample's logit-scaled confidence under the models that forgot it and one under those
        that never saw it, both without the two models that it judges. TPR, in percent: one threshold for all samples;
        of {never} judgements of a sample never seen {never / 1000:.0f} may be wrong at 0.1 % FPR. AUC of a sample, in
        percent: how often, of two models of which one forgot it, that one scores higher; mean over samples. Still
        remembered: mean confidence where forgotten less that where never seen, in standard deviations. KLOM: KL
        divergence of normal fits to the margins, nats. F: forgetting quality, at most 1. In brackets: 95 % intervals
        over models, bootstrap of blocks for TPR and AUC (fits held), jackknife for the others. All models:
        {data["seconds"] / 60:.0f} minutes of one processor, {data["MiB"] or 0:.0f} MiB at most."""
    return textwrap.fill(" ".join(text.split()), 150)


def figure(data):
    """ROC on logarithmic axes for both references, and a sample's AUC by group, the floor in each."""
    drawn = figures.new_figure(12, 4)
    *curves, right = drawn.subplots(1, 3, width_ratios=(1, 1, 1.1))
    config = data["config"]
    skipped = len(data["config"]["rates"])
    resolved = 2 / len(data["members"]) / len(data["members"][0])
    rates = [rate for rate in config["curve"] if rate >= resolved]
    for axes, (reference, title) in zip(curves, TITLES.items()):
        for name, label in data["labels"].items():
            if found := data["attacks"][reference][name]:
                tpr = np.array(found["all"]["tpr"][skipped:])[-len(rates) :]
                if name == "retrain":
                    axes.fill_between(rates, tpr[:, 1] / 100, tpr[:, 2] / 100, color="#BBBBBB", alpha=0.5, linewidth=0)
                axes.plot(rates, tpr[:, 0] / 100, label=label, markevery=5, markersize=4, linewidth=1.2, **_style(name))
        axes.plot(rates, rates, color=figures.FAINT, linewidth=0.7)
        axes.set(
            xscale="log", yscale="log", xlabel="false positive rate", ylabel="true positive rate", ylim=(resolved, 1)
        )
        figures.clean(axes, title, grid="both")
    groups = [name for name in data["groups"] if name != "all"]
    names = list(data["labels"])
    for row, name in enumerate(names):
        for i, group in enumerate(groups):
            for reference, filled in (("retrain", True), ("own", False)):
                if found := data["attacks"][reference][name]:
                    value, low, high = found[group]["sample auc"]
                    y = row + (i - 0.5) * 0.36 + (0.08 if filled else -0.08)
                    color = ("#D55E00", "#0072B2")[i]
                    right.plot([low, high], [y, y], color=color, linewidth=1)
                    label = f"{group}, {'Retrain' if filled else 'own'}" if row == 0 else None
                    face = color if filled else "white"
                    right.plot(value, y, "os"[i], color=color, markerfacecolor=face, markersize=4, label=label)
    right.axvline(50, color=figures.TEXT, linewidth=0.7)
    right.set(
        yticks=range(len(names)), yticklabels=list(data["labels"].values()), xlabel="AUC of a sample (%), 50: chance"
    )
    right.set_ylim(len(names) + 0.4, -0.6)
    figures.clean(right, "By memorization", grid="x")
    right.legend(frameon=False, fontsize=7, loc="lower right", ncols=2)
    curves[0].legend(frameon=False, fontsize=6.5, loc="lower right")
    return drawn


def _style(name):
    if name == "retrain":
        return {"color": figures.STYLES["retrain"]["color"], "linestyle": ":"}
    return LINES.get(name, {"color": figures.TEXT, "linestyle": "-"})
