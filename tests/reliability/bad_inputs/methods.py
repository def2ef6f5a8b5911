"""Bad input to what changes a model: OEU, its monitor and memory, its rivals, and training."""

import math
from functools import partial

import torch
from torch import nn

from oeu_ref import core
from oeu_ref.beyond import subspace
from oeu_ref.beyond.curvature import BoundedOEU
from oeu_ref.beyond.monitor import Monitor, Monitored
from oeu_ref.beyond.signatures import Thresholds
from oeu_ref.beyond.subspace import SubspaceOEU
from oeu_ref.beyond.updates import OrthogonalUpdates, ProtectedOEU
from oeu_ref.core.stop_rule import mean_entropy
from oeu_ref.data.samples import Samples
from oeu_ref.lab import training
from oeu_ref.methods import by_name
from oeu_ref.methods.baselines import FineTuning, SalUn
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import JointOEU, OrthogonalEntropy

from .row import rows
from .world import with_first

NAN, INF, HUGE = math.nan, math.inf, 10**12


def _oeu(w, **bad):
    return core.OEU(**{"model": w.model, "optimizer": w.optimizer, **bad})


def _first(name, value):
    """A named tensor of the world with another value in its first place."""
    return lambda w: with_first(getattr(w, name), value)


def _step(unlearner, **batches):
    """`OEU.step` on the world's batches; unlearner: makes one."""
    return lambda w, **bad: unlearner(w).step(
        **{"forget_inputs": w.forget, "retain_inputs": w.retain, "retain_labels": w.labels, **bad}
    )


def _made(kind, w, **options):
    return kind(**{"model": w.model, "optimizer": w.optimizer, **options})


def _another_plan(w):
    monitored = Monitored(w.oeu)
    monitored.plan(w.forget, w.retain, w.labels)
    return monitored


class _Answers(nn.Module):
    """A model whose outputs are not logits."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, inputs):
        return self.change(self.model(inputs))


def _answering(change):
    return lambda w: core.OEU(_Answers(w.model, change), w.optimizer)


def _foreign(w):
    return torch.optim.SGD([*w.model.parameters(), nn.Parameter(torch.zeros(1))], 0.1)


def _method_step(name):
    return lambda w, **bad: w.methods[name].step(**{"forget": w.forget_samples, "retain": w.retain_samples, **bad})


def _samples(part, inputs=lambda x: x, labels=lambda y: y):
    """The world's forget or retain samples, changed."""

    def make(w):
        samples = getattr(w, f"{part}_samples")
        return Samples(inputs(samples.inputs), labels(samples.labels))

    return make


STEPS = [
    row
    for name in by_name.METHODS
    for row in rows(
        f"{name}.step",
        _method_step(name),
        *(
            ("forget", kind, _samples("forget", partial(with_first, value=value)), core.NonFiniteError, got, "finite")
            for kind, value, got in (("NaN", NAN, "NaN"), ("infinity", INF, "infinity"))
            if name not in ("ft", "l1")  # which do not look at it
        ),
        *(
            ("retain", kind, _samples("retain", partial(with_first, value=value)), core.NonFiniteError, got, "finite")
            for kind, value, got in (("NaN", NAN, "NaN"), ("infinity", INF, "infinity"))
            if name != "ga"
        ),
    )
]

METHODS = [
    *rows(
        "OEU",
        _oeu,
        ("optimizer", "of another model", _foreign, ValueError, "1 of something else", "only parameters of the model"),
    ),
    *rows(
        "SubspaceOEU",
        partial(_made, SubspaceOEU),
        ("memory", "zero", 0, ValueError, "0", "at least 1"),
        ("memory", "half", 1.5, TypeError, "1.5", "an integer"),
        ("memory", "a boolean", True, TypeError, "True", "an integer"),
        ("memory", "text", "2", TypeError, "'2'", "an integer"),
    ),
    *rows(
        "BoundedOEU",
        partial(_made, BoundedOEU),
        ("max_retain_increase", "negative", -0.1, ValueError, "-0.1", "at least 0"),
        ("max_retain_increase", "NaN", NAN, ValueError, "nan", "finite"),
        ("max_retain_increase", "text", "0.1", TypeError, "str", "a number"),
    ),
    *rows(
        "ProtectedOEU",
        partial(_made, ProtectedOEU),
        ("optimizer", "a plain one", lambda w: w.optimizer, TypeError, "SGD", "an OrthogonalUpdates"),
    ),
    *rows(
        "Monitored",
        lambda w, **bad: Monitored(**{"unlearner": w.oeu, **bad}),
        ("unlearner", "a model", lambda w: w.model, TypeError, "QuantMLP", "an OEU"),
        ("monitor", "text", "yes", TypeError, "str", "a Monitor"),
        ("monitor", "a number", 1, TypeError, "int", "a Monitor"),
        ("monitor", "a boolean", True, TypeError, "bool", "a Monitor"),
    ),
    *rows(
        "Monitored.take",
        lambda w, plan: _another_plan(w).take(plan),
        ("plan", "an earlier one", lambda w: w.oeu.plan(w.forget, w.retain, w.labels), ValueError, "", "made last"),
    ),
    *rows(
        "OEU.step",
        _step(lambda w: w.oeu),
        ("forget_inputs", "a list", [[1.0]], TypeError, "list", "a tensor"),
        ("forget_inputs", "none at all", lambda w: w.forget[:0], ValueError, "(0, 6)", "at least one sample"),
        ("forget_inputs", "a number", torch.tensor(1.0), ValueError, "()", "at least one sample"),
        ("forget_inputs", "NaN", _first("forget", NAN), core.NonFiniteError, "NaN", "finite"),
        ("forget_inputs", "infinity", _first("forget", INF), core.NonFiniteError, "infinity", "finite"),
        ("retain_inputs", "an array", lambda w: w.retain.numpy(), TypeError, "ndarray", "a tensor"),
        ("retain_inputs", "none at all", lambda w: w.retain[:0], ValueError, "(0, 6)", "at least one sample"),
        ("retain_inputs", "NaN", _first("retain", NAN), core.NonFiniteError, "NaN", "finite"),
        ("retain_inputs", "infinity", _first("retain", -INF), core.NonFiniteError, "infinity", "finite"),
        ("retain_labels", "floats", lambda w: w.labels.float(), TypeError, "float32", "integers"),
        ("retain_labels", "a list", lambda w: w.labels.tolist(), TypeError, "list", "a tensor of dtype int64"),
        ("retain_labels", "too few", lambda w: w.labels[:-1], ValueError, "(6,)", "shape (7,)"),
        ("retain_labels", "one-hot", lambda w: torch.eye(3)[w.labels].long(), ValueError, "(7, 3)", "shape (7,)"),
        ("retain_labels", "too large", _first("labels", 3), ValueError, "3", "[0, 3)"),
        ("retain_labels", "negative", _first("labels", -1), ValueError, "-1", "[0, 3)"),
        ("retain_labels", "on meta", lambda w: w.labels.to("meta"), ValueError, "meta", "hold numbers"),
    ),
    *rows(
        "OEU.step, with options",
        _step(lambda w: Monitored(_made(SubspaceOEU, w, memory=3, rescale="match"))),
        ("forget_inputs", "NaN", _first("forget", NAN), core.NonFiniteError, "NaN", "finite"),
        ("retain_inputs", "infinity", _first("retain", INF), core.NonFiniteError, "infinity", "finite"),
        ("retain_labels", "too large", _first("labels", 3), ValueError, "3", "[0, 3)"),
    ),
    *rows(
        "OEU.step, joint",
        _step(partial(_made, JointOEU)),
        ("forget_inputs", "another width", torch.zeros(5, 4), ValueError, "(4,)", "(6,)"),
        ("forget_inputs", "NaN", _first("forget", NAN), core.NonFiniteError, "NaN", "finite"),
    ),
    *rows(
        "OEU.step, bounded",
        _step(partial(_made, BoundedOEU, max_retain_increase=0.1)),
        ("retain_inputs", "NaN", _first("retain", NAN), core.NonFiniteError, "NaN", "finite"),
    ),
    *rows(
        "OEU.step of a model with outputs (N,)",
        _step(_answering(lambda z: z[:, 0])),
        ("forget_inputs", "their logits", lambda w: w.forget, ValueError, "(5,)", "(N, K)"),
    ),
    *rows(
        "OEU.step of a model with one class",
        _step(_answering(lambda z: z[:, :1])),
        ("forget_inputs", "their logits", lambda w: w.forget, ValueError, "(5, 1)", "K >= 2 classes"),
    ),
    *rows(
        "OEU.step of a model with two outputs",
        _step(_answering(lambda z: (z, z))),
        ("forget_inputs", "their logits", lambda w: w.forget, TypeError, "tuple", "a tensor"),
    ),
    *rows(
        "mean_entropy",
        lambda w, logits: mean_entropy(w.model, logits),
        ("logits", "NaN", _first("retain", NAN), ValueError, "NaN", "finite"),
    ),
    *rows(
        "Monitor",
        lambda w, **bad: Monitor(**bad),
        ("target_entropy", "zero", 0, ValueError, "0", "greater than 0"),
        ("thresholds", "a dict", {"window": 3}, TypeError, "dict", "a Thresholds"),
        ("every", "zero", 0, ValueError, "0", "at least 1"),
        ("max_records", "one", 1, ValueError, "1", "at least 16"),
    ),
    *rows(
        "Thresholds",
        lambda w, **bad: Thresholds(**bad),
        ("window", "zero", 0, ValueError, "0", "at least 1"),
        ("patience", "below window", 2, ValueError, "2", "at least 5"),
        ("uniform", "percent", 70, ValueError, "70", "[0, 1]"),
        ("step_factor", "below 1", 0.5, ValueError, "0.5", "at least 1"),
    ),
    *rows(
        "OrthogonalUpdates",
        lambda w, **bad: OrthogonalUpdates(**{"optimizer": w.optimizer, **bad}),
        ("optimizer", "a model", lambda w: w.model, TypeError, "QuantMLP", "torch.optim.Optimizer"),
        ("component", "word", "half", ValueError, "'half'", "'none', 'descent', 'given', 'all'"),
    ),
    *rows(
        "OrthogonalUpdates.protect",
        lambda w, **bad: OrthogonalUpdates(w.optimizer).protect(
            **{"parameters": list(w.model.parameters()), "retain_grads": list(w.model.parameters()), **bad}
        ),
        ("parameters", "not held", lambda w: [p.detach() for p in w.model.parameters()], ValueError, "hold", "each"),
        (
            "retain_grads",
            "NaN",
            lambda w: [p.detach() * NAN for p in w.model.parameters()],
            ValueError,
            "NaN",
            "finite",
        ),
    ),
    *rows(
        "RetainMemory",
        lambda w, size: subspace.RetainMemory(size),
        ("size", "negative", -1, ValueError, "-1", "at least 0"),
        ("size", "text", "2", TypeError, "'2'", "an integer"),
    ),
    *rows(
        "RetainMemory.push",
        lambda w, gradients: w.memory.push(gradients),
        ("gradients", "a list", lambda w: w.grads, TypeError, "a dict", "parameter name"),
        ("gradients", "arrays", lambda w: {"a": w.arrays[0]}, TypeError, "of tensors", "parameter name"),
    ),
    *rows(
        "RetainMemory.history",
        lambda w, parameters: w.memory.history(parameters),
        ("parameters", "shape", {"layers.0.bias": torch.zeros(9)}, ValueError, "(9,)", "(8,)"),
    ),
    *rows(
        "Settings",
        lambda w, **bad: Settings(**{"learning_rate": 0.1, **bad}),
        ("learning_rate", "zero", 0, ValueError, "0", "greater than 0"),
        ("learning_rate", "text", "0.1", TypeError, "str", "a number"),
        ("learning_rate", "NaN", NAN, ValueError, "nan", "finite"),
        ("weight", "negative", -1, ValueError, "-1", "at least 0"),
        ("momentum", "above 1", 1.1, ValueError, "1.1", "[0, 1]"),
        ("weight_decay", "negative", -1e-4, ValueError, "-0.0001", "at least 0"),
    ),
    *rows(
        "TrainConfig",
        lambda w, **bad: training.TrainConfig(**bad),
        ("epochs", "zero", 0, ValueError, "0", "at least 1"),
        ("epochs", "half", 0.5, TypeError, "0.5", "an integer"),
        ("batch_size", "negative", -1, ValueError, "-1", "at least 1"),
        ("learning_rate", "infinity", INF, ValueError, "inf", "finite"),
        ("momentum", "none", None, TypeError, "NoneType", "a number"),
        ("weight_decay", "a tensor", torch.tensor([1.0]), TypeError, "Tensor", "a number"),
    ),
    *rows(
        "FineTuning",
        lambda w, **bad: FineTuning(
            **{
                "model": w.model,
                "forget": w.forget_samples,
                "settings": w.settings,
                "generator": w.generator,
                **bad,
            }
        ),
        ("model", "text", "resnet18", TypeError, "str", "torch.nn.Module"),
        ("model", "without parameters", lambda w: nn.ReLU(), ValueError, "parameter", "at least one"),
        ("forget", "a tensor", lambda w: w.forget, TypeError, "Tensor", "Samples"),
        ("settings", "a dict", {"learning_rate": 0.1}, TypeError, "dict", "Settings"),
        ("generator", "a seed", 1, TypeError, "int", "torch.Generator"),
    ),
    *rows(
        "SalUn",
        lambda w, share: SalUn(w.model, w.forget_samples, w.settings, w.generator, share),
        ("share", "zero", 0, ValueError, "0", "greater than 0"),
        ("share", "above 1", 1.5, ValueError, "1.5", "[0, 1]"),
        ("share", "text", "half", TypeError, "str", "a number"),
    ),
    *rows(
        "OrthogonalEntropy",
        lambda w, alpha: OrthogonalEntropy(w.model, w.forget_samples, w.settings, w.generator, alpha=alpha),
        ("alpha", "negative", -1, ValueError, "-1", "[0, 1]"),
    ),
    *STEPS,
    *rows(
        "ft.step",
        lambda w, labels: w.methods["ft"].step(w.forget_samples, Samples(w.retain, labels)),
        ("labels", "too large", lambda w: w.labels + 1, ValueError, "3", "[0, 3)"),
        ("labels", "negative", lambda w: w.labels - 1, ValueError, "-1", "[0, 3)"),
    ),
    *rows(
        "train",
        lambda w, **bad: training.train(
            **{
                "model": w.model,
                "samples": w.retain_samples,
                "config": training.TrainConfig(1, 4),
                "generator": w.generator,
                **bad,
            }
        ),
        ("model", "text", "resnet18", TypeError, "str", "torch.nn.Module"),
        ("model", "frozen", lambda w: nn.ReLU(), ValueError, "parameter", "at least one"),
        ("samples", "a tensor", lambda w: w.retain, TypeError, "Tensor", "Samples"),
        ("samples", "none", lambda w: w.retain_samples[:0], ValueError, "none", "at least one"),
        ("samples", "NaN", _samples("retain", partial(with_first, value=NAN)), core.NonFiniteError, "NaN", "finite"),
        ("samples", "labels too large", _samples("retain", labels=lambda y: y + 1), ValueError, "3", "below 3"),
        ("samples", "labels negative", _samples("retain", labels=lambda y: y - 1), ValueError, "-1", "at least 0"),
        ("config", "a dict", {"epochs": 1}, TypeError, "dict", "TrainConfig"),
        ("generator", "none", None, TypeError, "NoneType", "torch.Generator"),
        ("on_epoch", "text", "print", TypeError, "str", "a function"),
        ("augment", "a boolean", True, TypeError, "bool", "a function"),
        ("checkpoint", "a path", "run.pt", TypeError, "str", "Checkpoint"),
    ),
    *rows(
        "UnlearnConfig",
        lambda w, **bad: training.UnlearnConfig(**bad),
        ("forget_batch", "zero", 0, ValueError, "0", "at least 1"),
        ("retain_batch", "text", "8", TypeError, "'8'", "an integer"),
        ("schedule", "unknown", "step", ValueError, "'step'", "'constant', 'linear', 'cosine'"),
        ("recalibrated", "text", "yes", TypeError, "str", "bool"),
    ),
    *rows(
        "build",
        lambda w, seed: training.build(lambda: nn.Linear(1, 1), seed),
        ("seed", "negative", -1, ValueError, "-1", "at least 0"),
    ),
    *rows(
        "unlearn",
        lambda w, **bad: training.unlearn(
            **{
                "method": w.methods["oeu"],
                "forget": w.forget_samples,
                "retain": w.retain_samples,
                "steps": 1,
                "config": training.UnlearnConfig(4, 4),
                "generators": w.generators,
                **bad,
            }
        ),
        ("method", "text", "oeu", TypeError, "str", "relabel and step"),
        ("forget", "a tensor", lambda w: w.forget, TypeError, "Tensor", "Samples"),
        ("retain", "none", None, TypeError, "NoneType", "Samples"),
        ("steps", "negative", -1, ValueError, "-1", "at least 0"),
        ("steps", "half", 0.5, TypeError, "0.5", "an integer"),
        ("config", "a number", 4, TypeError, "int", "UnlearnConfig"),
        ("generators", "one", lambda w: w.generators[:1], ValueError, "1", "two"),
        ("generators", "seeds", [1, 2], TypeError, "int", "torch.Generator"),
        ("stop", "an EntropyStop", lambda w: w.stop, TypeError, "EntropyStop", "a function"),
        ("on_step", "text", "print", TypeError, "str", "a function"),
        ("augment", "a boolean", True, TypeError, "bool", "a function"),
        ("checkpoint", "a path", "run.pt", TypeError, "str", "Checkpoint"),
        ("save_every", "zero", 0, ValueError, "0", "at least 1"),
    ),
    *rows(
        "probabilities",
        lambda w, **bad: training.probabilities(**{"model": w.model, "inputs": w.retain, **bad}),
        ("inputs", "a list", [1.0], TypeError, "list", "a tensor"),
        ("inputs", "none at all", lambda w: w.retain[:0], ValueError, "(0, 6)", "at least one sample"),
        ("batch_size", "zero", 0, ValueError, "0", "at least 1"),
    ),
    *rows(
        "probabilities of a broken model",
        lambda w, logits: training.probabilities(w.model, logits),
        ("logits", "NaN", lambda w: w.retain * NAN, core.NonFiniteError, "its weights or inputs", "finite"),
    ),
]
