"""Mistakes that are recognised by their numbers: known slips, and what they answer to a test vector."""

import math

import numpy as np

from ..reference import projection as reference
from ..reference.entropy import log_softmax

EPSILONS = tuple(10.0**-n for n in (5, 6, 7, 8, 9, 10, 12, 15, 16))
NAN = {
    "entropy_loss": "0 log 0, perhaps of a where() in autograd, which hands on the NaN of the branch not taken: mask "
    "what the logarithm gets, not what it gives, or use log_softmax",
    "kl_to_uniform": "0 log 0: take log p from log_softmax, not from p",
    "project": "0 / 0 for a zero gradient: leave g_f as it is where g_r is zero, and give zero where g_f is",
}
NAN["oeu_direction"] = NAN["project"]


def recognise(operation, inputs, wrong, right, precision):
    """The known mistake that gives these wrong outputs, in words; "" where none does.

    inputs: {name: float, word, array or list of arrays} of a test vector; wrong, right: {output: list of arrays}; only
    outputs that differ are compared, to a precision relative to the largest element.
    """

    def near(a, b):
        return a.shape == b.shape and np.abs(a - b).max(initial=0) <= precision * np.abs(b).max(initial=0)

    wrong, right = ({name: _flat(value) for name, value in outputs.items()} for outputs in (wrong, right))
    if not all(np.isfinite(v).all() for v in wrong.values()):
        return NAN.get(operation, "")
    if not any(value.any() for value in wrong.values()):
        return ""  # zeros come of many mistakes
    differs = [name for name in right if not near(wrong[name], right[name])]
    for words, factor in _factors(operation, inputs):
        if factor != 1 and differs and all(near(wrong[name], factor * right[name]) for name in differs):
            return words
    for words, name, value in _variants(operation, inputs):
        value = _flat(value)
        if name in differs and not near(value, right[name]) and near(wrong[name], value):
            return words
    return ""


def _flat(value):
    return np.concatenate([np.ravel(a) for a in (value if isinstance(value, list) else [value])])


def _factors(operation, inputs):
    yield "the sign is the wrong way round", -1.0
    if "logits" in inputs:
        n, k = inputs["logits"].shape
        yield f"N = {n} times too large: a sum over samples where a mean is meant", n
        yield f"N = {n} times too small: divided by N once too often", 1 / n
        yield f"K = {k} times too small: a mean over classes where a sum is meant", 1 / k
        yield f"N K = {n * k} times too small: a mean over samples and classes", 1 / (n * k)
        yield f"N / K = {n}/{k}: divided by the number of classes, not of samples", n / k
        yield "1 / log 2 times too large: bits where nats are meant", 1 / math.log(2)
        yield "divided by log K: normalized", 1 / math.log(k)
    elif "x" in inputs:
        n, scale, q_max = inputs["x"].size, inputs.get("grad_scale", 1.0), max(inputs["q_max"], 1)
        yield f"N = {n} times too small: a mean over elements where a sum is meant", 1 / (n or 1)
        yield "divided by sqrt(N q_max) beside grad_scale: LSQ's scale is built in", 1 / math.sqrt((n or 1) * q_max)
        yield "divided by the step: codes, not values", 1 / inputs["step"]
        yield "times the step once too often", inputs["step"]
        yield "grad_scale is left out", 1 / scale
        yield "grad_scale counts twice", scale
    for factor in (2.0, 0.5):
        yield f"{factor:g} times what is right", factor


def _variants(operation, inputs):
    if operation in ("entropy_loss", "kl_to_uniform"):
        z = inputs["logits"]
        log_p, log_k = log_softmax(z), math.log(z.shape[1])
        p = np.exp(log_p)
        if operation == "kl_to_uniform":
            yield "KL(U || p), the wrong way round: KL(p || U) is meant", "kl", -log_k - log_p.mean(axis=1)
            yield "the entropy, where log K minus it is meant", "kl", -(p * log_p).sum(axis=1)
            kls = log_k + (p * log_p).sum(axis=1)
            yield "one value for the whole batch, where each sample has its own", "kl", 0 * kls + kls.mean()
            yield "log K is missing", "kl", (p * log_p).sum(axis=1)
        else:
            yield "KL to uniform, where minus the entropy is meant", "loss", log_k + (p * log_p).sum(axis=1).mean()
            yield "the term H of the gradient is missing", "grad", p * log_p / len(z)
            yield "log p + 1 for log p + H: the gradient by p, not by the logits", "grad", p * (log_p + 1) / len(z)
        for eps in EPSILONS:
            for how, inside in (("p + {:g}", p + eps), ("max(p, {:g})", np.maximum(p, eps))):
                h = -(p * np.log(inside)).sum(axis=1)
                words = f"log({how.format(eps)}): an epsilon inside the logarithm, where log_softmax needs none"
                yield words, *(("kl", log_k - h) if operation == "kl_to_uniform" else ("loss", -h.mean()))
    elif "forget_grads" in inputs:
        forget, retain, beta = inputs["forget_grads"], inputs["retain_grads"], inputs.get("beta")
        options = {name: inputs[name] for name in ("alpha", "granularity", "rescale")}
        other = {"layer": "global", "global": "layer", "undo": "match", "match": "undo"}

        def project(forget=forget, retain=retain, **more):
            g_perp = reference.project(forget, retain, **{**options, **more})
            return [p if beta is None else r + beta * p for p, r in zip(g_perp, inputs["retain_grads"])]

        for name in ("granularity", "rescale"):
            value = other[options[name]]
            yield f'{name} = "{options[name]}" is computed as "{value}"', "result", project(**{name: value})
        yield "alpha is not used: a full projection", "result", project(alpha=1.0)
        yield "the two gradients are swapped", "result", project(retain, forget)
        for eps in EPSILONS:
            words = f"an epsilon of {eps:g} in a norm"
            yield f"{words}: |g| + {eps:g}", "result", project(normalization="additive", epsilon=eps)
            if beta is not None or options["granularity"] == "global":
                continue
            # one side alone: |r|^2 + eps, and |r| + eps, the same as a weaker projection of each layer
            for what, share in (("|g_r|^2", lambda n: n**2 / (n**2 + eps)), ("|g_r|", lambda n: (n / (n + eps)) ** 2)):
                alphas = [options["alpha"] * share(reference.norm(r.ravel())) for r in retain]
                parts = (project([f], [r], alpha=weaker)[0] for f, r, weaker in zip(forget, retain, alphas))
                yield f"{words}: {what} + {eps:g}", "result", list(parts)
