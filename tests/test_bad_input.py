"""Bad input: the same argument, the same exception type, the same remedy, made from the rules of every function.

Rows come from the rules that `boundary.taking` attaches: a new function has its own as soon as VALID has a call of it.
By hand stands only what a rule cannot say.
"""

import copy
import dataclasses
import importlib
import inspect
import pathlib
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import oeu_ref
from oeu_ref import arrays, boundary, core, reference
from oeu_ref.conformance import adapters
from oeu_ref.core.network import quantize_model
from oeu_ref.integer import packing
from oeu_ref.reference import metrics, network
from oeu_ref.tensors import layers

from . import bad_values

A = np.array
Z = A([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
P = A([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]])
Y = A([0, 2])
X = A([0.5, -1.5, 3.0])
F, G = [A([1.0, 2.0]), A([[1.0, 0.5]])], [A([0.5, -1.0]), A([[2.0, 1.0]])]
INPUTS = A([[0.5, 0.25, 1.0, 0.0], [0.125, 1.0, 0.0, 0.5]])
MLP = network.QuantizedMLP((4, 3)).calibrate(INPUTS)
SGD = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
GAPS = dict.fromkeys(metrics.METRICS, 50.0)
CODES = {"x": X, "step": 0.5, "q_min": -8, "q_max": 7}
BITS = {"weight_bits": 4, "activation_bits": 4, "first_last_bits": 8}
OEU_OPTIONS = {"alpha": 1.0, "beta": 1.0, "granularity": "layer", "rescale": "undo", "layer": "module"}
PROJECT = {"forget_grads": F, "retain_grads": G, "alpha": 1.0, "granularity": "layer", "rescale": "undo"}
PROJECT |= {"normalization": "additive", "epsilon": 1e-8, "layer_ids": ["a", "b"]}


def _projected():
    given = {name: PROJECT[name] for name in ("forget_grads", "retain_grads", "alpha", "rescale")}
    return {**given, "layers": layers.Layers(None, tensors(F))}


def model():
    """A model in PyTorch."""
    return core.QuantMLP((4, 3)).double()


def optimizer(net):
    return torch.optim.SGD(net.parameters(), 0.1)


# one right call of each function, its arrays as NumPy's: what bad values are put into; a function makes it anew
VALID = {
    **{f"entropy.{f}": {"logits": Z} for f in ("log_softmax", "softmax", "entropy", "entropy_loss", "kl_to_uniform")},
    "entropy.cross_entropy": {"logits": Z, "labels": Y},
    "entropy.label_manipulation_optimum": {"num_classes": 3, "wrong_labels": Y},
    "entropy.entropy_of_probabilities": {"probabilities": P},
    "quantizer.integer_range": {"bits": 4, "signed": True},
    "quantizer.fake_quantize": {**CODES, "grad_scale": 1.0, "mask": "clip"},
    "quantizer.fake_quantize_backward": {"grad_out": X, **CODES, "grad_scale": 1.0, "mask": "clip"},
    "quantizer.integer_codes": CODES,
    "quantizer.dequantize": {"codes": Y, "step": 0.5},
    "quantizer.binarize": {"x": X, "step": 0.5, "grad_scale": 1.0},
    "quantizer.binarize_backward": {"grad_out": X, "x": X, "step": 0.5, "grad_scale": 1.0},
    "quantizer.binary_codes": {"x": X},
    "quantizer.initial_step": {"x": X, "q_max": 7},
    "quantizer.initial_binary_step": {"x": X},
    "quantizer.step_gradient_scale": {"count": 4, "q_max": 7},
    "quantizer.Quantizer.__init__": lambda: {
        "self": core.Quantizer.__new__(core.Quantizer),
        **{"bits": 4, "signed": None, "mask": "clip", "per_sample": True},
    },
    "network.QuantizedLayer.__init__": lambda: _layer(core.QuantLinear, in_features=4, out_features=3),
    "projection.project": PROJECT,
    "projection.oeu_direction": {**PROJECT, "beta": 1.0},
    "projection.projected": lambda: {**_projected(), "normalization": "exact", "epsilon": 1e-8},
    "fast.projected": lambda: {**_projected(), "angles": None, "overwrite": False, "small": 0},
    "projection.cosines": {"first_grads": F, "second_grads": G, "granularity": "layer", "layer_ids": None},
    "layers.Layers.__init__": lambda: {
        "self": layers.Layers.__new__(layers.Layers),
        **{"layer_ids": [0, 1], "tensors": tensors(F), "granularity": "layer"},
    },
    "network.QuantizedMLP.__init__": lambda: {"self": copy.deepcopy(MLP), "sizes": (4, 3), **BITS, "seed": 0},
    "network.QuantizedMLP.calibrate": lambda: {"self": copy.deepcopy(MLP), "inputs": INPUTS},
    "network.QuantizedMLP.forward": {"self": MLP, "inputs": INPUTS},
    "network.QuantizedMLP.probabilities": {"self": MLP, "inputs": INPUTS},
    "network.QuantizedMLP.backward": {"self": MLP, "cache": MLP.forward(INPUTS)[1], "grad_logits": Z},
    "network.sgd_step": {"parameters": MLP.parameters, "grads": MLP.parameters, **SGD, "velocity": None},
    "training_reference.train": lambda: {
        **{"network": copy.deepcopy(MLP), "inputs": INPUTS, "labels": Y, "epochs": 1, "batch_size": 2},
        **{**SGD, "seed": 0},
    },
    "network.QuantMLP.__init__": lambda: {
        "self": core.QuantMLP.__new__(core.QuantMLP),
        **{"sizes": (4, 3), **BITS, "batch_norm": True},
    },
    "network.QuantMLP.load_reference": lambda: {"self": model(), "network": MLP},
    "network.quantize_model": lambda: {"model": nn.Linear(4, 3), **BITS, "mask": "clip"},
    "unlearner.oeu_step": {
        **{"network": MLP, "forget_inputs": INPUTS, "retain_inputs": INPUTS, "retain_labels": Y},
        **{**OEU_OPTIONS, **SGD, "velocity": None},
    },
    "unlearner.OEU.__init__": lambda: {
        "self": core.OEU.__new__(core.OEU),
        **(lambda net: {"model": net, "optimizer": optimizer(net)})(model()),
        **{**OEU_OPTIONS, "mode": "train", "forget_loss": None},
    },
    "unlearner.OEU.plan": lambda: {
        "self": (lambda net: core.OEU(net, optimizer(net)))(model()),
        **{"forget_inputs": INPUTS, "retain_inputs": INPUTS, "retain_labels": Y},
    },
    "stop_rule.EntropyStop.__init__": lambda: {
        "self": core.EntropyStop.__new__(core.EntropyStop),
        **{"model": model(), "forget_inputs": INPUTS, "unseen_inputs": INPUTS, "batch_size": 2, "every": 1},
    },
    "batch_norm.recalibrate_batchnorm": lambda: {
        **{"model": model(), "retain_inputs": INPUTS, "batch_size": 2, "share": None},
    },
    "stop_rule.mean_entropy": lambda: {"model": model(), "inputs": INPUTS, "batch_size": 2},
    **{f"metrics.{f}": {"probabilities": P, "labels": Y} for f in ("accuracy", "confidence", "modified_entropy")},
    "metrics.threshold_attack": {"members": [0.5], "non_members": [0.25], "targets": [0.5, 0.75]},
    "metrics.membership_inference": {
        "retain": (P, Y),
        "test": (P, Y),
        "forget": (P, Y),
        "attack": metrics.threshold_attack,
    },
    "metrics.unlearning_metrics": {
        "retain": (P, Y),
        "test": (P, Y),
        "forget": (P, Y),
        "attack": metrics.threshold_attack,
    },
    "metrics.average_gap": {"metrics": GAPS, "retrain_metrics": GAPS},
    "metrics.forget_vs_test_auc": {"forget_probabilities": P, "test_probabilities": P},
    "metrics.auc": {"positives": [0.5], "negatives": [0.25, 0.5]},
    "packing.pack_codes": {"codes": Y, "bits": 4, "signed": True},
    "packing.unpack_codes": {"packed": A([255], np.uint8), "bits": 4, "shape": (2,), "signed": False},
    **{
        f"{file}.project_subspace": {
            **{name: PROJECT[name] for name in ("forget_grads", "alpha", "granularity", "rescale", "layer_ids")},
            "retain_history": [G, F],
        }
        for file in ("subspace", "subspace_reference")
    },
    "subspace.projected": lambda: {
        **{"forget_grads": F, "retain_history": [G], "layers": layers.Layers(None, tensors(F))},
        **{"alpha": 1.0, "rescale": "undo"},
    },
    "subspace.RetainMemory.__init__": lambda: {"self": object.__new__(_memory()), "size": 2},
    "curvature_reference.loss_change": {"learning_rate": 0.1, "slope": 1.0, "curvature": 1.0},
    "curvature_reference.largest_learning_rate": {
        **{"learning_rate": 0.1, "slope": 1.0, "curvature": 1.0, "max_increase": 0.1},
    },
    "curvature.hessian_vector_product": lambda: _second_order("vector"),
    "curvature.curvature": lambda: {**_second_order("direction"), "granularity": "global", "layer_ids": None},
    "adapters.Library.quantizer": {"self": adapters.Library(), "f": abs},
    "adapters.Library.entropy": {"self": adapters.Library(), "f": abs, "kl": abs},
    "adapters.Library.projection": {"self": adapters.Library(), "f": abs, "takes": "vectors"},
    "torch.module": {"cls": nn.BatchNorm1d(2), "step": "bias", "bits": 4, "signed": True, "scale": None},
    "observer.observe": lambda: (lambda net: {"model": net, "optimizer": optimizer(net)})(model()),
    "attacks.SupportVectorAttack.__call__": lambda: {
        "self": importlib.import_module("oeu_ref.lab.attacks").SupportVectorAttack(),
        **{"members": [0.5, 0.75], "non_members": [0.25], "targets": [0.5, 0.75]},
    },
}
# the ends of what an argument may be, by hand, since rows made from a wrong rule would pass: (right ones, wrong ones)
LIMITS = {
    "alpha": ((0, 1), (-1e-9, 1 + 1e-9)),
    "beta": ((0, 1e9), (-1e-9, INFINITE := float("inf"))),
    **{name: ((1, 10**6), (0,)) for name in ("batch_size", "count", "epochs", "every")},
    "num_classes": ((2,), (1,)),
    **{name: ((0,), (-1,)) for name in ("seed", "size")},
    "epsilon": ((1e-300, 1e300), (0, INFINITE)),
    "learning_rate": ((1e-300, 1.0), (-1e-9, INFINITE)),
    "momentum": ((0, 1), (-1e-9, 1 + 1e-9)),
    **{name: ((0, 1e9), (-1e-9, INFINITE)) for name in ("weight_decay", "grad_scale")},
    "bits": ((1, 8, "binary", "ternary"), (0, 9, 32)),
    "bits of torch.module": ((1, 8), (0, 9)),
    **{name: ((1, 8, 32, "binary"), (0, 9, 31)) for name in ("weight_bits", "activation_bits", "first_last_bits")},
    "q_min": ((-128, 0, 3.0), (0.5,)),
    "q_max": ((0, 255), (-8, -9)),
    **{f"q_max of quantizer.{f}": ((0, 255), (-1,)) for f in ("initial_step", "step_gradient_scale")},
    "logits": ((Z[:1], Z[:, :2]), (Z[:0], Z[:, :1], Z[0])),
    "probabilities": ((P[:1], A([[1.0, 0.0]]), P + 3e-4), (P[:0], A([[1.0]]), P + 5e-4)),
    "labels": ((A([0, 1]), A([2, 2], np.uint8)), (A([0, 3]), A([-1, 0]), A([0]))),
    "wrong_labels": ((A([0, 2]), A([2])), (A([3]), A([-1]))),
    "members": (([0.5], [1, 0], [True]), ([], [[0.5]])),
    "x": ((A(0.5), X[:1], X[None]), (A([np.nan]),)),
}
# arguments without a rule, and why
UNRULED = {
    "layers": "a `Layers`, made by the caller for these tensors",
    "tensors": "for their number, device and dtype",
    "self": "the object",
    "angles": "of the gradients that come with them",
    "overwrite": "saves memory",
    "small": "saves time",
    "forget_grads of fast.projected": "without the checks that wait for the device",
    "retain_grads of fast.projected": "without the checks that wait for the device",
    "forget_grads of projection.projected": "without the checks that wait for the device",
    "retain_grads of projection.projected": "without the checks that wait for the device",
    "forget_grads of subspace.projected": "without the checks of tensors",
    "retain_history of subspace.projected": "without the checks of tensors",
    "shape of packing.unpack_codes": "held against the bytes: rows by hand below",
    "retain_labels of unlearner.OEU.plan": "held against the logits, once there are any: rows by hand",
    "gradient of curvature.hessian_vector_product": "held against its graph: rows by hand",
    "gradient of curvature.curvature": "held against its graph: rows by hand",
}
# public functions with arguments but without rules, and why
UNCHECKED = {
    "reference.projection.project_vector": "one layer of `project`, which checks",
    "reference.projection.unit": "plain arithmetic on vectors",
    "reference.projection.norm": "plain arithmetic on vectors",
    "reference.projection.layer_numbers": "of labels that have been checked",
    "reference.projection.by_layer": "the same, and of their gradients",
    "tensors.layers.Layers": "sums over lists that the boundary has passed",
    "core.network.QuantizedLayer.quantized": "a part of the layer's forward",
    "core.quantizer.Quantizer": "in a model's forward nothing may wait; what it can tell is in rows by hand",
    "core.fast": "the arithmetic of `projection`, whose checks it calls",
    "core.contract": "the contract: what it calls checks",
    "passes.forward": "passes on what it is given, whatever that is",
    "passes.modules": "asks a model, or a module of it",
    "passes.undo": "puts back what a model was, whatever that is",
    "tensors.layers.paired": "itself a check",
    "tensors.layers.wide": "plain arithmetic",
    "tensors.stretches": "the arithmetic of the quantizer and the projection, which check",
    "core.network.quantizable": "asks a model",
    "core.network.left_in_float": "asks a model",
    "passes.backward": "PyTorch's own, with remedies in what it says",
    "core.unlearner.layers_of": "of a model and its own parameters",
    "core.unlearner.OEU": "parts of `plan`, which checks; `take` takes what it made",
    "core.stop_rule.EntropyStop.load_state_dict": "the state of another object",
}


def tensors(value):
    """NumPy's arrays as tensors, also in lists."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    return [tensors(item) for item in value] if isinstance(value, list) else value


def _layer(kind, **shape):
    return {"self": kind.__new__(kind), **shape, "weight_bits": 4, "activation_bits": 4, "mask": "clip"}


def _memory():
    return importlib.import_module("oeu_ref.beyond.subspace").RetainMemory


def _second_order(last):
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(p.pow(3).sum(), [p], create_graph=True)
    return {"gradient": list(gradient), "parameters": [p], last: [torch.ones(3, dtype=torch.float64)]}


def modules(room=""):
    """All modules of the package, or of one room."""
    package = pathlib.Path(oeu_ref.__file__).parent
    for path in sorted((package / room).rglob("*.py")):
        if path.stem not in ("__main__", "__init__"):
            yield importlib.import_module(".".join(["oeu_ref", *path.relative_to(package).with_suffix("").parts]))


def functions(module):
    """(name in the module, function) of all that a module defines in public: functions, and methods of classes."""
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and not dataclasses.is_dataclass(value):  # which hold results
            for method, function in list(vars(value).items()):
                if inspect.isfunction(function) and (method in ("__init__", "__call__") or not method.startswith("_")):
                    yield f"{name}.{method}", function


def ruled():
    """(key in VALID, function, library is torch) of every function with rules."""
    for module in modules():
        torch_side = "torch" in vars(module)
        for name, function in functions(module):
            key = f"{module.__name__.rpartition('.')[2]}.{name}"
            if hasattr(function, "rules") and key in VALID:
                yield key, function, torch_side


def valid_call(key, function, torch_side):
    """The right call of a function, with arrays of its library."""
    call = VALID[key]() if callable(VALID[key]) else dict(VALID[key])
    names = inspect.signature(function).parameters
    call = {name: value for name, value in call.items() if name in names or "kwargs" in names or "options" in names}
    return {name: tensors(value) if torch_side else value for name, value in call.items()}


@dataclasses.dataclass(frozen=True)
class Row:
    """One bad value of one argument, made from its rule.  key: in VALID; words: what the message must hold."""

    name: str
    key: str
    function: object
    torch_side: bool
    argument: str
    bad: object
    error: type
    words: tuple


def rows():
    """Every bad input that the rules tell of."""
    for key, function, torch_side in ruled():
        where, given = function.__module__.removeprefix("oeu_ref."), valid_call(key, function, torch_side)
        for argument, rule in function.rules.items():
            for kind, *row in bad_values.bad_values(argument, rule, given[argument], given):
                name = f"{where}.{function.__qualname__}/{argument}: {kind}"
                yield Row(name, key, function, torch_side, argument, *row)


ROWS = list(rows())


def state(call):
    """Everything that a call was given, as bytes."""
    return pickle.dumps({name: _plain(value) for name, value in call.items()})


def _plain(value):
    if isinstance(value, torch.Tensor):
        return _plain(value.detach().numpy())
    if isinstance(value, nn.Module):
        return [(name, _plain(t)) for name, t in value.state_dict().items()] if hasattr(value, "_parameters") else None
    if isinstance(value, network.QuantizedMLP) or type(value).__module__.startswith("oeu_ref."):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, torch.optim.Optimizer):
        return _plain(value.state_dict())
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def wrong_with(function, call, argument, bad, error, words):
    """What is wrong with the answer to one bad input, "" if nothing is."""
    before = state(call)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**{**call, argument: bad})
        return "nothing was raised"
    except Exception as caught:
        if type(caught) is not error:
            return f"{type(caught).__name__} in place of {error.__name__}: {caught}"
        missing = [word for word in words if word not in str(caught)]
        if missing:
            return f"{missing} not named: {caught}"
    return "" if state(call) == before else "the arguments were changed"


def judge_generated(row):
    """Try one row: "" if all is as it must be, else what is not."""
    call = valid_call(row.key, row.function, row.torch_side)
    return wrong_with(row.function, call, row.argument, row.bad, row.error, row.words)


@pytest.mark.parametrize("key", sorted({(key, torch_side) for key, _, torch_side in ruled()}), ids=str)
def test_a_right_call_is_accepted(key):
    """Else its bad ones would be refused for something else."""
    for name, function, torch_side in ruled():
        if (name, torch_side) == key:
            function(**valid_call(name, function, torch_side))


def test_what_is_documented_as_a_float_is_pythons():
    """Not an array or number of NumPy's, which JSON and a comparison by `is` take otherwise."""
    found = {}
    for key, function, torch_side in ruled():
        if re.search(r"Returns (a|an|the \w+ as a) float\b", function.__doc__ or ""):
            found[key] = type(function(**valid_call(key, function, torch_side)))
    assert set(found.values()) == {float} and len(found) >= 8


@pytest.mark.parametrize("where", sorted({row.name.partition("/")[0] for row in ROWS}))
def test_bad_input_names_argument_and_remedy(where):
    """Exact type; argument, value and remedy in the message; nothing changed."""
    found = {row.name: judge_generated(row) for row in ROWS if row.name.partition("/")[0] == where}
    assert not any(found.values()), "\n".join(f"{name}: {wrong}" for name, wrong in found.items() if wrong)


@pytest.mark.parametrize("argument", [name for name in LIMITS if " of " not in name])
def test_the_ends_of_what_an_argument_may_be(argument):
    """The last right value passes and the first wrong one does not, whatever function asks."""
    tried = 0
    for key, function, torch_side in ruled():
        if argument in function.rules:
            given, library = valid_call(key, function, torch_side), torch if torch_side else np
            check = function.rules[argument].check_of(argument, library)
            limits = LIMITS.get(f"{argument} of {key}", LIMITS[argument])
            right, wrong = ([tensors(v) if torch_side else v for v in values] for values in limits)
            for value in right:
                check(value, given)
            for value in wrong:
                with pytest.raises((TypeError, ValueError), match=argument):
                    check(value, given)
            tried += 1
    assert tried


def test_every_argument_that_is_a_number_has_its_ends_in_the_table():
    numbers = {boundary.number, boundary.positive, boundary.integer, boundary.whole, boundary.width, boundary.bits}
    assert {a for _, f, _ in ruled() for a, rule in f.rules.items() if rule.accept in numbers} <= set(LIMITS)


def test_one_sample_is_enough_whatever_a_sample_is():
    """A batch may hold one sample, and a sample may be a number: tokens (N,), say."""
    for key, function, torch_side in ruled():
        given = valid_call(key, function, torch_side)
        for argument, rule in function.rules.items():
            if rule.accept is arrays.samples:
                check = rule.check_of(argument, torch)
                for right in (
                    torch.ones(1),
                    torch.ones(1, 4),
                    torch.zeros(3, dtype=torch.int64),
                    torch.ones(2, 1, 8, 8),
                ):
                    assert check(right, given) is right


def test_no_public_function_of_the_front_lacks_rules():
    """Each has rules for all its arguments, or a reason."""
    lacking, used = [], set()
    for room in ("reference", "core", "passes", "tensors"):
        for module in modules(room):
            for name, function in functions(module):
                where = f"{module.__name__.removeprefix('oeu_ref.')}.{name}"
                reason = next((key for key in UNCHECKED if where == key or where.startswith(f"{key}.")), None)
                arguments = [p for p in inspect.signature(function).parameters if p != "self"]
                if not hasattr(function, "rules") and arguments and name.split(".")[-1] != "forward":
                    used.add(reason)
                    lacking += [] if reason else [where]
    assert not lacking
    assert not set(UNCHECKED) - used, "these have rules now"


def test_every_function_with_rules_has_a_right_call():
    """Without one it has no rows: VALID must hold it."""
    ruled_ones = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules()
        for name, function in functions(module)
        if hasattr(function, "rules")
    }
    assert ruled_ones == set(VALID)


def test_no_argument_lacks_a_rule():
    """Every argument of a function with rules has one, or a reason."""
    lacking, used = [], set()
    for key, function, _ in ruled():
        for name, parameter in inspect.signature(function).parameters.items():
            reason = {name, f"{name} of {key}"} & set(UNRULED)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in function.rules:
                continue
            used |= reason
            lacking += [] if reason else [f"{name} of {key}"]
    assert not lacking
    assert not set(UNRULED) - used, "these have rules now"


def test_there_are_enough_rows():
    """As many as were tried by hand, and more; each with a name of its own."""
    names = [row.name for row in ROWS]
    assert len(names) >= 2500 and len(set(names)) == len(names)
    assert {name.partition(".")[0] for name in names} >= {"reference", "core", "beyond", "integer"}


@pytest.mark.parametrize(
    ("rule", "good", "body", "wrong"),
    [
        (boundary.ALPHA, 1.0, lambda alpha: None, "nothing was raised"),
        (boundary.ALPHA, 1.0, lambda alpha: float(alpha) + None, "TypeError in place of ValueError"),
        (boundary.Floats(), X, lambda alpha: alpha.fill(0), "nothing was raised"),
    ],
)
def test_a_missing_check_is_seen(rule, good, body, wrong):
    """A function that does not check what its rule says."""
    found = [
        wrong_with(body, {"alpha": good}, "alpha", *row[1:]) for row in bad_values.bad_values("alpha", rule, good, {})
    ]
    assert any(wrong in what for what in found)


def test_what_is_changed_before_it_is_refused_is_seen():
    def clears(x, other):
        other.fill(0)
        raise ValueError("x must be finite, got nan")

    assert wrong_with(clears, {"x": X, "other": X.copy()}, "x", X, ValueError, ["x"]) == "the arguments were changed"


def test_python_refuses_a_wrong_call_in_its_own_words():
    """Arguments that are missing, unknown, given twice or too many are no affair of the rules."""
    call = reference.fake_quantize
    for args, kwargs, message in (
        ((X, 0.5, -8), {}, "missing 1 required positional argument: 'q_max'"),
        ((X, 0.5, -8, 7, 9), {}, "takes 4 positional arguments but 5 were given"),
        ((X, 0.5, -8, 7), {"step": 1.0}, "multiple values for argument 'step'"),
        ((X, 0.5, -8, 7), {"bits": 4}, "unexpected keyword argument 'bits'"),
    ):
        with pytest.raises(TypeError, match=message):
            call(*args, **kwargs)


def test_the_reference_computes_in_float64_and_returns_nothing_of_its_arguments():
    """NumPy arrays are copied and widened at the boundary; tensors pass as they are."""
    single = X.astype(np.float32)
    assert reference.fake_quantize(single, 0.5, -8, 7).dtype == np.float64
    for grad in (reference.project([X], [0 * X])[0], arrays.floats("x", X, np)):
        assert not np.shares_memory(grad, X)
    tensor = torch.tensor(single)
    assert arrays.floats("x", tensor, torch) is tensor


def test_a_decorated_function_is_itself_to_those_who_look():
    """Signature, docstring and pickle are the function's; the mathematics behind it checks nothing."""
    assert list(inspect.signature(core.project).parameters)[:2] == ["forget_grads", "retain_grads"]
    assert core.project.__doc__.startswith("Take the retain direction out")
    assert pickle.loads(pickle.dumps(core.project)) is core.project
    assert np.isnan(reference.kl_to_uniform.unchecked(A([[np.nan, 0.0]]))).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: packing.pack_codes(A([8]), 4), ValueError, "codes must lie in [-8, 7]"),
        (lambda: packing.unpack_codes(A([1, 2], np.uint8), 4, (5,)), ValueError, "packed must hold 3 bytes"),
        (lambda: packing.unpack_codes(A([1, 2]), 4, (4,)), TypeError, "packed must be uint8"),
        (lambda: network.QuantizedMLP((4, 3)).forward(np.ones((2, 4))), ValueError, "call calibrate(inputs) first"),
        (lambda: core.Quantizer("binary", mask="round"), ValueError, "mask must be 'clip' for binary codes"),
        (lambda: core.Quantizer(4).codes(torch.ones(2)), ValueError, "pass a batch first"),
        (lambda: quantize_model(torch.nn.ReLU()), ValueError, "at least one Conv2d or Linear layer"),
        (lambda: core.fake_quantize(torch.ones(2), torch.ones(2), 0, 1), ValueError, "a 0-d tensor"),
        (lambda: core.fake_quantize(torch.ones(2), torch.tensor(0.0), 0, 1), ValueError, "step must be greater than 0"),
        (lambda: core.project(tensors(F), [g.float() for g in tensors(G)]), TypeError, "have one dtype"),
        (
            lambda: reference.entropy.label_manipulation_optimum([0, 1], 10**12),
            ValueError,
            "num_classes must give fewer than",
        ),
    ],
)
def test_what_no_rule_can_say_is_named_too(call, error, message):
    """What depends on several arguments, or on the state of an object."""
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_the_names_of_the_contract_are_those_of_the_reference():
    """The reference module itself is an implementation of the contract."""
    from oeu_ref.conformance import SIGNATURES

    assert set(SIGNATURES) == set(reference.__all__)
