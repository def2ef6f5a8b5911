"""What a direction d is, from both gradients at the same weights: OEU's, or what else.

g_f and g_r are computed on a copy of the model; then alpha, beta, layers, rescaling and BatchNorm's mode are looked for
with which d = g_r + beta g_perp, or a known mistake.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

COLLINEAR = 1e-8  # sin^2 below which the share of each gradient in a layer's d cannot be told


@dataclass(frozen=True)
class Finding:
    """What one step was.

    oeu: whether it is OEU's; words: which, or what it is instead; alpha, beta: recovered, NaN where they could not be;
    cosines: layer -> (of g_f and g_r, of d - g_r and g_r), the second 0 for alpha = 1.
    """

    oeu: bool
    words: str
    alpha: float
    beta: float
    cosines: dict

    def __str__(self):
        return self.words if self.oeu else f"no OEU step: {self.words}"


def entropy_loss(z):
    """Minus the mean entropy of logits (N, K), in nats."""
    return (z.softmax(1) * z.log_softmax(1)).sum(1).mean()


def gradients(model, forget, retain, training=True, forget_loss=entropy_loss, joint=False):
    """(g_f, g_r): dicts name -> tensor, of a copy of the model, zero where a loss does not depend on a parameter.

    model: left as it is; forget (inputs, ...), retain (inputs, labels); training: mode of its forward passes;
    forget_loss: of logits; joint: whether both batches pass the model as one.
    """
    twin = copy.deepcopy(model).train(training)
    named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    place = next(iter(named.values())).device
    (x_f, x_r), labels = (batch[0].to(place) for batch in (forget, retain)), retain[1].to(place)
    with torch.enable_grad():
        if joint:
            z_f, z_r = twin(torch.cat([x_f, x_r])).split([len(x_f), len(x_r)])
        else:
            z_f, z_r = twin(x_f), twin(x_r)
        losses = forget_loss(z_f), functional.cross_entropy(z_r, labels)
        options = {"retain_graph": True, "allow_unused": True}
        found = [torch.autograd.grad(loss, list(named.values()), **options) for loss in losses]
    return [{n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), grads)} for grads in found]


def _sources(model, forget, retain):
    """(words, how the two gradients may have been computed): first the right way."""
    yield "", {}
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        yield "BatchNorm in eval mode", {"training": False}
        yield "both batches in one forward pass of BatchNorm", {"joint": True}
    if len(forget) > 1 and isinstance(forget[1], torch.Tensor) and not forget[1].is_floating_point():
        yield (
            "gradient ascent on the forget labels in place of entropy",
            {"forget_loss": lambda z: -functional.cross_entropy(z, forget[1].to(z.device))},
        )
    yield (
        "uniform labels in place of entropy (KL the wrong way round)",
        {"forget_loss": lambda z: -z.log_softmax(1).mean()},
    )
    yield "softmax applied twice", {"forget_loss": lambda z: entropy_loss(z.softmax(1))}
    for name, batch in (("forget", forget), ("retain", retain)):
        n, other = len(batch[0]), len((retain if name == "forget" else forget)[0])
        for count in sorted({other, n // 2, n - 1, *(2**i for i in range(3, 12))}):
            if 1 < count < n:
                part = tuple(b[:count] if isinstance(b, torch.Tensor) else b for b in batch)
                yield f"only the first {count} of {n} {name} samples", {name: part}


class _Products:
    """Inner products of d, g_f and g_r, of layers that consist of some tensors each."""

    def __init__(self, tensors, groups):
        self.names = list(groups)
        pairs = {"dd": (0, 0), "df": (0, 1), "dr": (0, 2), "ff": (1, 1), "fr": (1, 2), "rr": (2, 2)}
        for pair, (i, j) in pairs.items():
            sums = {n: float((t[i].double() * t[j].double()).sum()) for n, t in tensors.items()}
            setattr(self, pair, np.array([sum(sums[n] for n in group) for group in groups.values()]))
        self.apart = np.clip(1 - self.fr**2 / np.maximum(self.ff * self.rr, 1e-300), 0, 1)  # sin^2
        self.c = self.fr / np.maximum(self.rr, 1e-300)
        determinant = np.maximum(self.ff * self.rr * self.apart, 1e-300)
        self.known = self.apart > COLLINEAR
        # d = a g_r + b g_f + the rest
        self.a = (self.dr * self.ff - self.df * self.fr) / determinant
        self.b = (self.df * self.rr - self.dr * self.fr) / determinant

    def cosines(self):
        """Layer -> (cosine of g_f and g_r, cosine of d - g_r and g_r)."""
        before = self.fr / np.sqrt(np.maximum(self.ff * self.rr, 1e-300))
        rest = np.maximum((self.dd - 2 * self.dr + self.rr) * self.rr, 1e-300)
        return dict(zip(self.names, zip(before.tolist(), ((self.dr - self.rr) / np.sqrt(rest)).tolist())))

    def error(self, a, b, where=slice(None)):
        """|d - a g_r - b g_f| / |d|, over all layers."""
        rest = self.dd - 2 * (a * self.dr + b * self.df) + a * a * self.rr + 2 * a * b * self.fr + b * b * self.ff
        return math.sqrt(max(float(np.broadcast_to(rest, self.dd.shape)[where].sum()), 0) / (self.dd[where].sum() or 1))

    def oeu(self, rescale, scaled=False):
        """(a, b, alpha, beta, factor) of OEU's step that comes nearest; scaled: of d times a factor."""
        weight, bc = self.rr * self.apart * self.known, self.b * self.c
        factor = 1.0
        if scaled:
            root = np.sqrt(weight)
            factor = float(np.linalg.lstsq(np.stack([root, root * bc], 1), root * self.a, rcond=None)[0][0])
        below = (weight * bc * bc).sum()
        alpha = float((weight * bc * (factor - self.a)).sum() / below) if below else 1.0
        left = np.maximum(1 - alpha * (2 - alpha) * (1 - self.apart), 0)  # |g_perp|^2 / |g_f|^2
        stretch = 1 / np.sqrt(np.where(left > 1e-20, left, 1)) * (left > 1e-20) if rescale == "match" else 1 + 0 * left
        weight = self.ff * self.known
        beta = float((weight * stretch * self.b).sum() / ((weight * stretch**2).sum() or 1))
        return factor - alpha * beta * stretch * self.c, beta * stretch, alpha, beta / (factor or 1), factor

    def mistakes(self):
        """(words, a, b) of other ways to put the two gradients together, weights fitted."""
        back, one = self.fr / np.maximum(self.ff, 1e-300), np.ones_like(self.c)

        def fitted(a0, b0, a1, b1):  # d = (a0, b0) + w (a1, b1)
            dot = lambda a, b, c, d: (a * c * self.rr + (a * d + b * c) * self.fr + b * d * self.ff).sum()
            along = (a1 * self.dr + b1 * self.df).sum() - dot(a0, b0, a1, b1)
            w = along / (dot(a1, b1, a1, b1) or 1)
            return a0 + w * a1, b0 + w * b1

        conflict = self.fr < 0
        yield "projected only where the gradients conflict", *fitted(one, 0 * one, -self.c * conflict, one)
        yield "the retain gradient projected, in place of the forget gradient", *fitted(one, -back, 0 * one, one)
        yield "both gradients projected off each other", *fitted(one, -back, -self.c, one)
        yield "the part along the retain gradient kept, in place of the rest", *fitted(one, 0 * one, self.c, 0 * one)
        yield "the projected forget gradient alone", *fitted(0 * one, 0 * one, -self.c, one)
        yield "the forget gradient alone", *fitted(0 * one, 0 * one, 0 * one, one)


def explain(model, direction, forget, retain, old=None):
    """What a direction is, found from both gradients at the model's parameters.

    model: as it was before the step, left as it is; direction: dict name -> tensor or None, what lay in `.grad`;
    forget (inputs, ...), retain (inputs, labels, ...); old: what lay in `.grad` before, dict name -> tensor or None.
    Returns a `Finding`.
    """
    right = gradients(model, forget, retain)
    missing = [name for name, d in direction.items() if d is None]
    present = {name: d for name, d in direction.items() if d is not None}
    for name, d in present.items():
        if not d.isfinite().all():
            zero = [kind for kind, g in zip(("forget", "retain"), right) if not g[name].any()]
            why = f", where the {' and '.join(zero)} gradient is zero" if zero else ""
            with torch.no_grad():
                if (copy.deepcopy(model)(forget[0]).softmax(1) == 0).any():
                    why += "; some forget samples have a probability of 0, whose logarithm is not finite"
            return Finding(False, f"d is not finite in {name}{why}", math.nan, math.nan, {})
    if not present:
        return Finding(False, "no parameter has a gradient", math.nan, math.nan, {})
    tolerance = 1e-6 if next(iter(present.values())).dtype == torch.float64 else 2e-3
    candidates = [(words, present, options) for words, options in _sources(model, forget, retain)]
    if old and all(old.get(name) is not None for name in present):
        less = {name: d - old[name] for name, d in present.items()}
        candidates.insert(1, ("added to an old .grad", less, {}))
    for words, d, options in candidates:
        grads = gradients(model, **{"forget": forget, "retain": retain, **options})
        found = _recognized({n: (d[n], grads[0][n], grads[1][n]) for n in d}, tolerance)
        if found:
            oeu, more, alpha, beta, products = found
            batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
            mode = ", BatchNorm in train mode" if batch_norm and not words else ""
            lacking = f", and no gradient for {', '.join(missing)}" if missing else ""
            is_right = oeu and not missing and words in ("", "BatchNorm in eval mode")
            text = f"{more}{mode}{', ' * bool(words)}{words}{lacking}"
            return Finding(is_right, text, alpha, beta, products.cosines())
    again = gradients(model, forget, retain)
    random = any(not torch.equal(g[n], a[n]) for g, a in zip(right, again) for n in g)
    why = ", which cannot be computed again: the model draws random numbers (dropout?)" if random else ""
    return Finding(False, f"d is no known combination of the two gradients{why}", math.nan, math.nan, {})


def _recognized(tensors, tolerance):
    """(whether OEU's, words, alpha, beta, `_Products` of the layers) of d, g_f and g_r by name; None if unrelated."""
    owners = {name: name.rpartition(".")[0] for name in tensors}
    # a step, which a quantizer inside of a layer holds, may count to the layer that it serves
    serves = {n: o.rpartition(".")[0] if tensors[n][0].numel() == 1 else o for n, o in owners.items()}
    serves = {n: o if o in owners.values() else owners[n] for n, o in serves.items()}
    notions = {"layer-wise (modules)": owners, "layer-wise (modules, a quantizer's step with its layer)": serves}
    notions |= {"layer-wise (tensors)": {n: n for n in tensors}, "global": dict.fromkeys(tensors, "all")}
    notions = {words: _grouped(ids) for words, ids in notions.items() if ids != owners or words.endswith("(modules)")}
    products = {notion: _Products(tensors, groups) for notion, groups in notions.items()}
    # exactly; where collinear layers hold rounding noise; times a factor
    for scaled, known in ((False, False), (False, True), (True, False)):
        for notion, p in products.items():
            for rescale in ("undo", "match"):
                if scaled and len(p.names) < 2 or known and not p.known.any():
                    continue
                a, b, alpha, beta, factor = p.oeu(rescale, scaled)
                where = p.known if known else slice(None)
                if p.error(a, b, where) < tolerance and -0.01 < alpha < 4 and factor > 1e-3:
                    oeu, words, *values = _named(notion, rescale, alpha, beta, factor, bool((p.fr >= 0).all()))
                    if known:
                        collinear = ", ".join(name for name, apart in zip(p.names, p.known) if not apart)
                        words += f"; but not 0 where both gradients are collinear, in {collinear}"
                    return oeu and not known, words, *values, p
    for notion, p in products.items():
        for words, a, b in p.mistakes():
            if p.error(a, b) < tolerance:
                return False, f"{words}, {notion}", math.nan, math.nan, p
    for notion, p in products.items():
        for words, (a, b) in {"the retain gradient alone": (1, 0), "nothing": (0, 0)}.items():
            plain = np.array([p.error(a, b, [i]) < tolerance for i in range(len(p.names))])
            if plain.any() and not plain.all():
                rest = {n: tensors[n] for name, bad in zip(p.names, plain) if not bad for n in notions[notion][name]}
                found = _recognized(rest, tolerance) if len(rest) < len(tensors) else None
                if found and found[0]:
                    layers = ", ".join(name for name, bad in zip(p.names, plain) if bad)
                    return False, f"{words} in {layers}; elsewhere {found[1]}", *found[2:]
    return None


def _grouped(ids):
    groups = {}
    for name, layer in ids.items():
        groups.setdefault(layer, []).append(name)
    return groups


def _named(notion, rescale, alpha, beta, factor, agree):
    text = f"{notion}, alpha = {_short(alpha)}, beta = {_short(beta)}, {rescale}"
    if factor != 1.0 and abs(beta * factor - 1) < 1e-3:
        text = (
            f"{_short(factor)} weighs the retain gradient and 1 the projected one: beta misplaced, or a sum for a mean?"
        )
    elif factor != 1.0:
        text = f"{_short(factor)} times the step with {text}"
    elif abs(beta) < 1e-6:
        text = "the retain gradient alone"
    elif abs(alpha) < 1e-4:
        text = f"no projection (alpha = 0), beta = {_short(beta)}{', where both gradients agree in all layers' * agree}"
    elif alpha > 1.01:
        text = f"more than all of the retain direction removed: {text}"
    elif beta < 0:
        text = f"the forget gradient has the wrong sign: {text}"
    else:
        return True, text, alpha, beta
    return False, text, alpha, beta


def _short(value):
    return f"{round(value, 3):g}"
