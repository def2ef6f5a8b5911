"""Models that people bring: their modes, data and gradients stay theirs, whatever asks them; all kinds of layers,
outputs, wrappers and devices; and what is refused names its remedy."""

import contextlib
import copy
import functools
import io
import itertools
import pathlib
import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import oeu_ref
from oeu_ref.beyond import curvature
from oeu_ref.beyond.curvature import BoundedOEU
from oeu_ref.beyond.monitor import Monitored
from oeu_ref.beyond.subspace import SubspaceOEU
from oeu_ref.beyond.updates import OrthogonalUpdates, ProtectedOEU
from oeu_ref.core import OEU, EntropyStop, QuantConv2d, QuantLinear, QuantMLP, quantize_model
from oeu_ref.core.network import left_in_float
from oeu_ref.core.stop_rule import mean_entropy
from oeu_ref.core.unlearner import NonFiniteError, layers_of
from oeu_ref.data.samples import Samples, stream
from oeu_ref.lab.attacks import SupportVectorAttack
from oeu_ref.lab.images import augment, channel_statistics
from oeu_ref.lab.models import quantized_layers
from oeu_ref.lab.training import TrainConfig, UnlearnConfig, probabilities, train, unlearn
from oeu_ref.methods.baselines import similar_labels
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import JointOEU
from oeu_ref.passes import recalibrate_batchnorm

from .test_bad_input import ruled, valid_call


def sgd(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def batches(seed=0, count=8):
    """(forget inputs, retain inputs, retain labels), 6 features and 3 classes."""
    generator = torch.Generator().manual_seed(seed)
    forget, retain = torch.randn(count, 6, generator=generator) * 3 + 2, torch.randn(16, 6, generator=generator)
    return forget, retain, torch.randint(0, 3, (16,), generator=generator)


FORGET, RETAIN, LABELS = batches()
FORGET_LABELS = torch.arange(8) % 3
EVALUATIONS = {
    "mean_entropy": lambda model, f, x, y: mean_entropy(model, f, 3),
    "EntropyStop": lambda model, f, x, y: EntropyStop(model, f, x, 5).reached(),
    "probabilities": lambda model, f, x, y: probabilities(model, x, 5),
    "similar_labels": lambda model, f, x, y: similar_labels(model, Samples(x, y), 5),
    "saliency": lambda model, f, x, y: METHODS["salun"].make(
        model, Samples(f, FORGET_LABELS), Settings(0.01), stream(1, "m")
    ),
}
STEPS = {
    "OEU": lambda model, f, x, y: OEU(model, sgd(model)).step(f, x, y),
    "OEU keep": lambda model, f, x, y: OEU(model, sgd(model), mode="keep").step(f, x, y),
    "joint": lambda model, f, x, y: JointOEU(model, sgd(model)).step(f, x, y),
    "monitored": lambda model, f, x, y: Monitored(OEU(model, sgd(model))).step(f, x, y),
    "bounded": lambda model, f, x, y: BoundedOEU(model, sgd(model), max_retain_increase=0.1).step(f, x, y),
    "subspace": lambda model, f, x, y: SubspaceOEU(model, sgd(model), memory=2).step(f, x, y),
    "protected": lambda model, f, x, y: ProtectedOEU(model, OrthogonalUpdates(sgd(model))).step(f, x, y),
}


def method_step(name):
    def act(model, f, x, y):
        forget = Samples(f, FORGET_LABELS[: len(f)])
        method = METHODS[name].make(model, forget, Settings(0.01), stream(1, "method"))
        return method.step(method.relabel(forget), Samples(x, y))

    return act


STEPS.update({name: method_step(name) for name in METHODS})
ACTS = {**EVALUATIONS, **STEPS}


# --- whose modes ---------------------------------------------------------------------------------------------------


def frozen_net():
    """In train mode, but for a BatchNorm layer that its owner froze."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    model[1].running_mean.normal_()
    model[1].eval()
    return model


@pytest.mark.parametrize("name", ACTS)
def test_frozen_layers_stay_frozen_and_every_module_keeps_its_mode(name):
    """Whatever asks a model or steps it: frozen statistics of BatchNorm stay, and each module's mode is as before."""
    model = frozen_net()
    modes, statistics = [m.training for m in model.modules()], copy.deepcopy(dict(model[1].named_buffers()))
    ACTS[name](model, FORGET, RETAIN, LABELS)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, statistics[key]) for key, value in model[1].named_buffers())


@pytest.mark.parametrize("name", STEPS)
def test_a_model_in_eval_mode_is_stepped_in_train_mode_and_left_in_eval_mode(name):
    """The control: BatchNorm that nobody froze sees the step's batches, unless "keep" says that it must not."""
    model = frozen_net().eval()
    before = model[1].running_mean.clone()
    STEPS[name](model, FORGET, RETAIN, LABELS)
    assert not any(m.training for m in model.modules())
    assert torch.equal(model[1].running_mean, before) == (name == "OEU keep")


def test_a_module_with_a_method_of_our_quantizers_is_none_of_ours():
    """A module that rereads a file of its own, say: it is stepped as any other."""

    class Rereading(nn.Linear):
        reread = lambda self: "mine"

    model = nn.Sequential(Rereading(4, 5), nn.ReLU(), nn.Linear(5, 3))
    step = OEU(model, torch.optim.SGD(model.parameters(), 0.1)).step
    report = step(torch.rand(6, 4), torch.rand(6, 4), torch.arange(6) % 3)
    assert set(report.layer_cosines) == {"0", "2"} and model[0].reread() == "mine"


def test_training_leaves_frozen_statistics_as_they_are():
    """`train` too goes on with the modes that a model in train mode has."""
    model = frozen_net()
    before = model[1].running_mean.clone()
    train(model, Samples(RETAIN, LABELS), TrainConfig(1, 8), stream(1, "b"))
    assert torch.equal(model[1].running_mean, before)
    train(model, Samples(RETAIN, LABELS), TrainConfig(1, 8), stream(1, "b"))  # now in eval mode as a whole
    assert not torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_asking_a_model_leaves_flags_gradients_and_random_numbers_alone(name):
    """Grad mode, requires_grad, `grad` and PyTorch's global generator are as before."""
    model = frozen_net()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    state = torch.get_rng_state()
    EVALUATIONS[name](model, FORGET, RETAIN, LABELS)
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert [p.requires_grad for p in model.parameters()] == [False] + 5 * [True]
    assert [p.grad is not None for p in model.parameters()] == [False] * 4 + [True, False]
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))


# --- whose data ----------------------------------------------------------------------------------------------------


class InPlace(nn.Module):
    """A model that normalizes what it is given in place."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        x -= 0.5
        x *= 2
        return self.layer(self.norm(x))


def joined(model, f, x, y):
    """Training and the loop of all methods, over samples."""
    train(model, Samples(x, y), TrainConfig(1, 16), stream(1, "b"))
    forget = Samples(f, FORGET_LABELS)
    method = METHODS["oeu"].make(model, forget, Settings(0.01), stream(1, "method"))
    unlearn(method, forget, Samples(x, y), 2, UnlearnConfig(8, 16), (stream(1, "f"), stream(1, "r")))
    recalibrate_batchnorm(model, x)


@pytest.mark.parametrize("name", [*ACTS, "loops"])
def test_a_model_that_works_in_place_never_writes_to_its_owners_data(name):
    """Inputs are the same to the bit afterwards, views of them included."""
    torch.manual_seed(0)
    f, x = FORGET.clone(), RETAIN.clone()
    ({**ACTS, "loops": joined}[name])(InPlace(), f, x, LABELS)
    assert torch.equal(f, FORGET) and torch.equal(x, RETAIN)


def test_a_model_that_works_in_place_takes_the_step_of_its_twin_that_does_not():
    """Each pass gets what the batch was, also the monitor's after the update."""

    class Outside(InPlace):
        def forward(self, x):
            return self.layer(self.norm((x - 0.5) * 2))

    torch.manual_seed(0)
    one = InPlace()
    other = Outside()
    other.load_state_dict(one.state_dict())
    monitored = [Monitored(OEU(model, sgd(model))) for model in (one, other)]
    reports = [m.step(FORGET, RETAIN, LABELS) for m in monitored]
    assert reports[0] == reports[1] and monitored[0].monitor.records == monitored[1].monitor.records


# --- which layers --------------------------------------------------------------------------------------------------


class MyLinear(nn.Linear):
    """A subclass with the forward of its base."""


class MyConv(nn.Conv2d):
    """A subclass that pads in a way of its own."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(functional.pad(x, (1, 1, 0, 0)), weight, bias)


class Scaled(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Last(nn.Module):
    """The last output of a module that gives several."""

    def __init__(self, module, *more):
        super().__init__()
        self.module, self.more = module, more

    def forward(self, x):
        out = self.module(x, *[x] * len(self.more))
        return out[0] if isinstance(out, tuple) else out


def encoder(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)


class Padded(nn.Module):
    """A transformer whose sequences are padded, which PyTorch packs into nested tensors in eval mode."""

    def __init__(self):
        super().__init__()
        self.stack = nn.TransformerEncoder(encoder(), 2)

    def forward(self, x):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[::2, -2:] = True
        return self.stack(x, src_key_padding_mask=mask)[:, :3]


SEQUENCE, IMAGE = (4, 5, 8), (4, 8, 6, 6)
LAYERS = {
    "Linear": (lambda: nn.Linear(8, 8), SEQUENCE),
    "subclass of Linear": (lambda: MyLinear(8, 8), SEQUENCE),
    "Linear with its own forward": (lambda: Scaled(8, 8), SEQUENCE),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), SEQUENCE),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), IMAGE),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(8, 8)), SEQUENCE),
    "Conv2d": (lambda: nn.Conv2d(8, 8, 3, groups=2), IMAGE),
    "subclass of Conv2d": (lambda: MyConv(8, 8, 3), IMAGE),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 8, 3), IMAGE),
    "Conv1d": (lambda: nn.Conv1d(5, 5, 3), SEQUENCE),
    "LSTM": (lambda: Last(nn.LSTM(8, 8, batch_first=True)), SEQUENCE),
    "GRU": (lambda: Last(nn.GRU(8, 8, batch_first=True)), SEQUENCE),
    "MultiheadAttention": (lambda: Last(nn.MultiheadAttention(8, 2, batch_first=True), 1, 2), SEQUENCE),
    "TransformerEncoderLayer": (encoder, SEQUENCE),
    "TransformerEncoderLayer, GELU": (lambda: encoder(activation="gelu"), SEQUENCE),
    "TransformerEncoderLayer, norm first": (lambda: encoder(norm_first=True), SEQUENCE),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(encoder(), 2), SEQUENCE),
    "TransformerEncoder, padded": (Padded, SEQUENCE),
    "TransformerDecoderLayer": (
        lambda: Last(nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 1),
        SEQUENCE,
    ),
    "Transformer": (lambda: Last(nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True), 1), SEQUENCE),
    "VisionTransformer": (
        lambda: torchvision.models.VisionTransformer(6, 3, 1, 2, 8, 16, num_classes=3),
        (4, 3, 6, 6),
    ),
}


class Classifier(nn.Module):
    """A layer between two others, and classes."""

    def __init__(self, layer, shape):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(shape[-1], shape[-1]), layer, nn.LazyLinear(3)

    def forward(self, x):
        return self.last(self.layer(self.first(x)).flatten(1))


def quantized_classifier(name, bits=2):
    """(quantized `Classifier` around that layer, in train mode, its steps set; inputs)."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = Classifier(make(), shape), torch.randn(shape)
    model(x)  # LazyLinear learns its size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantize_model(model, bits, bits, first_last_bits=8)
    model.train()(x)
    return model, x


@pytest.mark.parametrize("name", LAYERS)
def test_with_and_without_gradients_a_quantized_network_computes_the_same(name):
    """In eval mode the logits under no_grad, which metrics and stop rule see, are those of the network that learns."""
    model, x = quantized_classifier(name)
    model.eval()
    with_gradient = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), with_gradient)
    torch.testing.assert_close(torch.tensor(probabilities(model, x)).float(), with_gradient.softmax(1))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_stays_in_float_is_named_and_no_other(name):
    """The warning of `quantize_model` names every matrix without a quantizer; without one there is no warning."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = Classifier(make(), shape)
    model(torch.randn(shape))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantized = quantize_model(model, 4, 4)
    left = list(left_in_float(quantized))
    said = [str(w.message) for w in caught if "stay in float" in str(w.message)]
    assert len(said) == (len(left) > 0) and all(n in said[0] for n in left)
    whole = {
        "Linear",
        "Conv2d",
        "subclass of Linear",
        "subclass of Conv2d",
        "weight_norm",
        "spectral_norm",
        "orthogonal",
    }
    assert (left == []) == (name in whole)
    lines = quantized_layers(quantized).splitlines()[2:]
    assert len(lines) == len({n for n, m in quantized.named_modules() if hasattr(m, "weight_quantizer")}) + len(
        {layer for layer in layers_of(quantized, {n: quantized.get_parameter(n) for n in left}).names} if left else ()
    )


@pytest.mark.parametrize("name", ["subclass of Linear", "subclass of Conv2d", "weight_norm", "spectral_norm"])
def test_subclasses_and_parametrized_layers_multiply_quantized_tensors(name):
    """Few levels of weight reach the product; what is particular to the subclass stays; the float model stays float."""
    model, x = quantized_classifier(name)
    layer = model.layer
    assert isinstance(layer, (QuantLinear, QuantConv2d)) and isinstance(layer, (nn.Linear, nn.Conv2d))
    inputs, weight = layer.quantized(model.first(x))
    assert weight.unique().numel() <= 4 and inputs.unique().numel() <= 4
    plain = functional.linear if isinstance(layer, nn.Linear) else functional.conv2d
    padded = functional.pad(inputs, (1, 1, 0, 0)) if isinstance(layer, MyConv) else inputs
    torch.testing.assert_close(layer(model.first(x)), plain(padded, weight, layer.bias))
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x))
    twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_layer_is_one_layer(name):
    """What a weight is computed from, the bias and both steps are one vector for the projection."""
    model, _ = quantized_classifier(name)
    names = layers_of(model, dict(model.named_parameters())).names
    assert names == ["first", "layer", "last"]


def test_a_model_that_is_one_parametrized_layer_is_one_layer():
    layer = parametrizations.weight_norm(nn.Linear(6, 3))
    assert layers_of(layer, dict(layer.named_parameters())).names == [""]


def test_attention_says_why_it_stays_in_float():
    """`quantized_layers` has bits and reason of each layer."""
    model, _ = quantized_classifier("TransformerEncoderLayer")
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]]
        for row in quantized_layers(model).splitlines()[2:]
    }
    assert rows["layer.self_attn"][2:] == ["32", "32", "neither Conv2d nor Linear"]
    assert rows["layer.self_attn.out_proj"][2:] == ["32", "32", "attention reads its weight past it"]
    assert rows["layer.linear1"] == ["QuantLinear", str(8 * 16 + 16 + 2), "2", "2", ""]
    assert rows["first"][2:] == ["8", "8", ""]
    own = quantized_layers(quantized_classifier("Linear with its own forward")[0])
    assert "a forward of its own" in own and "Scaled" in own


def test_what_cannot_be_quantized_is_refused_with_a_remedy():
    """Lazy layers have no weights yet, and a layer under the old weight_norm cannot be copied."""
    with pytest.raises(ValueError, match="model must have all its weights: pass a batch first"):
        quantize_model(nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="parametrizations.weight_norm can"):
        quantize_model(old)


# --- which outputs and batches -------------------------------------------------------------------------------------


class Named(nn.Module):
    """A model whose output has its logits under a name, as Hugging Face's have them: an attribute, or a dict's key."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kind = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), kind

    def forward(self, x):
        logits = self.layer(x)
        if self.kind == "tensor":
            return logits
        return (
            {"loss": None, "logits": logits}
            if self.kind == "dict"
            else torchvision.models.GoogLeNetOutputs(logits, None, None)
        )


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("kind", ["dict", "attribute"])
def test_logits_are_found_under_their_name(name, kind):
    """A model whose output holds its logits ends with the weights of one that gives them alone."""
    models = [Named(k) for k in ("tensor", kind)]
    for model in models:
        ACTS[name](model, FORGET, RETAIN, LABELS)
    assert all(torch.equal(a, b) for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()))


class Other(nn.Module):
    """A model that gives something else than its logits (N, K)."""

    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(6, 3), make

    def forward(self, x):
        return self.make(self.layer(x))


OTHERS = {
    "dict": (lambda z: {"out": z}, TypeError, "must be a tensor, got dict"),
    "tuple": (lambda z: (z, z), TypeError, "must be a tensor, got tuple"),
    "one logit": (lambda z: z[:, 0], ValueError, r"must have shape \(N, K\).*got \([0-9]*,\)"),
    "pixels": (lambda z: z[:, :, None], ValueError, r"must have shape \(N, K\).*got \([0-9]*, 3, 1\)"),
    "codes": (lambda z: z.long(), TypeError, "must be floating point, got dtype torch.int64"),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_outputs_are_refused_by_name(name, kind):
    """Whatever asks a model or steps it says what its output must be, and nothing has changed then."""
    make, error, message = OTHERS[kind]
    model = Other(make)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=f"the model's logits.* {message}"):
        ACTS[name](model, FORGET, RETAIN, LABELS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", STEPS)
def test_a_step_needs_no_gradients_switched_on(name):
    """Under `torch.no_grad` it is the same step, and gradients are off afterwards."""
    models = [Named("tensor") for _ in range(2)]
    STEPS[name](models[0], FORGET, RETAIN, LABELS)
    with torch.no_grad():
        STEPS[name](models[1], FORGET, RETAIN, LABELS)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(a, b) for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()))


def test_inputs_of_several_parts_are_refused_with_the_remedy_which_works():
    """One tensor holds ids and mask; a module around the model takes them apart."""

    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.layer = nn.Embedding(9, 8), nn.Linear(8, 3)

        def forward(self, ids, mask):
            return {"logits": self.layer((self.embedding(ids) * mask[..., None]).mean(1))}

    class Apart(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(ids=x[:, 0], mask=x[:, 1])

    parts = {"ids": torch.arange(40).view(8, 5) % 9, "mask": torch.ones(8, 5, dtype=torch.int64)}
    with pytest.raises(TypeError, match="forget_inputs must be a tensor, got dict: stack its parts into one tensor"):
        text = Text()
        OEU(text, sgd(text)).step(parts, parts, LABELS[:8])
    model, one = Apart(Text()), torch.stack([parts["ids"], parts["mask"]], 1)
    before = model.model.embedding.weight.clone()
    assert OEU(model, sgd(model)).step(one, one, LABELS[:8]).forget_entropy > 0
    assert not torch.equal(model.model.embedding.weight, before)
    assert probabilities(model, one).shape == (8, 3)


@pytest.mark.parametrize("name", [n for n in STEPS if n != "protected"] + ["protected"])
def test_one_sample_can_be_forgotten(name):
    """BatchNorm, which finds no statistics in one sample, normalizes it with its running ones, which stay so."""
    torch.manual_seed(0)
    model = QuantMLP((6, 8, 3), batch_norm=True)
    model(RETAIN)
    twin = copy.deepcopy(model)
    STEPS[name](model, FORGET[:1], RETAIN, LABELS)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_the_gradient_of_one_sample_is_that_of_frozen_statistics():
    """As with the BatchNorm layers in eval mode; the retain batch's statistics alone are followed."""
    models = [copy.deepcopy(Named("tensor").layer) for _ in range(3)]
    plans = [OEU(model, sgd(model)).plan(FORGET[:1], RETAIN, LABELS) for model in models[:2]]
    models[2][1].eval()
    logits = models[2](FORGET[:1])
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    wanted = torch.autograd.grad(-entropy, list(models[2].parameters()))
    for g, w in zip(plans[0].forget_grads.values(), wanted):
        torch.testing.assert_close(g, w)
    report = OEU(models[0], sgd(models[0])).step(FORGET[:1], RETAIN, LABELS)
    assert report.forget_entropy > 0
    expected = 0.9 * models[1][1].running_mean + 0.1 * models[1][0](RETAIN).mean(0)
    torch.testing.assert_close(models[0][1].running_mean, expected)


# --- masked classes ------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """A classifier of five classes, of which one is retired."""

    def __init__(self, value=-torch.inf):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 5)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, 0.0, value]))

    def forward(self, x):
        return self.layer(x) + self.mask


@pytest.mark.parametrize("name", ACTS)
def test_masked_classes_are_classes_of_probability_zero(name):
    """With -inf for a class everything is as with a logit so low that its probability is zero."""
    models = [Masked(), Masked(-1e5)]
    if name in ("rl", "salun", "oeu_random_labels", "uniform", "lotus"):  # which teach such a class as any other
        with pytest.raises(NonFiniteError, match="mask(s|ed) with -inf"):
            ACTS[name](models[0], FORGET, RETAIN, LABELS)
        return
    found = [ACTS[name](model, FORGET, RETAIN, LABELS) for model in models]
    if name in ("mean_entropy", "probabilities", "similar_labels"):
        np.testing.assert_allclose(*found, atol=1e-6)
    for a, b in zip(models[0].layer.parameters(), models[1].layer.parameters()):
        torch.testing.assert_close(a, b)
        assert a.isfinite().all()


def test_what_no_mask_explains_is_refused_in_words():
    """A masked label, +inf, NaN, and a sample all of whose classes are masked."""
    model = Masked()
    with pytest.raises(NonFiniteError, match="no label may be of a class masked with -inf"):
        OEU(model, sgd(model)).step(FORGET, RETAIN, torch.full((16,), 4))
    for value in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="-inf for classes that it masks, got NaN or infinity"):
            mean_entropy(Masked(value), FORGET)
        with pytest.raises(NonFiniteError, match="logits must be finite"):
            probabilities(Masked(value), FORGET)


# --- which devices -------------------------------------------------------------------------------------------------


class Device(torch.utils._python_dispatch.TorchDispatchMode):
    """A device without float64, imitated on the CPU: a tensor is on it unless it was copied to the host by `.cpu()`, or
    computed from such tensors alone. Counts the reads that wait for the device: `.cpu()`, `.item()` and the like."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.host, self.reads, original, lists = set(), 0, torch.Tensor.cpu, torch.Tensor.tolist
        self.kept = []

        def to_host(tensor):
            self.reads += id(tensor) not in self.host
            return self.on_host(original(tensor).clone())

        def to_list(tensor):
            self.reads += id(tensor) not in self.host
            return lists(tensor)

        monkeypatch.setattr(torch.Tensor, "cpu", to_host)
        monkeypatch.setattr(torch.Tensor, "tolist", to_list)

    def on_host(self, tensor):
        self.kept.append(tensor)  # ids are of living objects
        self.host.add(id(tensor))
        return tensor

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        result = function(*args, **(kwargs or {}))
        outputs = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        device = [t for t in inputs if id(t) not in self.host]
        if not device or function is torch.ops.aten.lift_fresh.default:  # numbers of Python's
            [self.on_host(t) for t in outputs]
        elif function is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
        elif any(t.dtype == torch.float64 for t in outputs):
            raise TypeError(f"{function}: the device has no float64")
        else:
            self.host -= {id(t) for t in outputs}  # what was made for a device and is now written to
        return result


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "later"])
def test_nothing_asks_a_device_for_float64(name, first, monkeypatch):
    """There are devices without it: numbers become float64 on the host alone."""
    torch.manual_seed(0)
    model = QuantMLP((6, 8, 3), batch_norm=True)
    if not first:
        model(RETAIN)
    with Device(monkeypatch):
        ACTS[name](model, FORGET, RETAIN, LABELS)


def test_a_run_and_its_judgement_ask_no_device_for_float64(monkeypatch):
    """The loop with its stop rule, statistics estimated anew, and the metrics of what it leaves."""
    torch.manual_seed(0)
    model, parts = QuantMLP((6, 8, 3), batch_norm=True), [(FORGET, FORGET_LABELS), (RETAIN, LABELS), (RETAIN, LABELS)]
    with Device(monkeypatch):
        oeu_ref.unlearn(OEU(model, sgd(model)), *parts[:2], 2, unseen=parts[2], recalibrated=True, every=1)
        oeu_ref.evaluate(model, *parts, unseen=parts[2])


@pytest.mark.parametrize("name", [*ACTS, "loops", "augment", "channel_statistics"])
def test_the_default_device_of_new_tensors_may_be_another(name):
    """Whoever set it for tensors of their own: everything is on the model's device, or on the CPU."""
    torch.manual_seed(0)
    images, model = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4), QuantMLP((6, 8, 3), batch_norm=True)
    more = {"loops": joined, "augment": lambda *_: augment(images, stream(1, "a"), 1)}
    more["channel_statistics"] = lambda *_: channel_statistics(images)
    torch.set_default_device("meta")
    try:
        found = {**ACTS, **more}[name](model, FORGET, RETAIN, LABELS)
    finally:
        torch.set_default_device(None)
    tensors = [t for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, torch.Tensor)]
    assert {t.device.type for t in [*tensors, *model.state_dict().values()]} == {"cpu"}


def in_float32(value):
    """A call's tensors and modules in the precision that every device has."""
    if isinstance(value, (list, tuple)):
        return type(value)(in_float32(item) for item in value)
    for module in (value, getattr(value, "model", None)):
        if isinstance(module, nn.Module):
            module.float()
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.is_leaf:
        return value.detach().float()
    return value


# what makes an object makes it on the CPU
FUNCTIONS = {key: f for key, f, torch_side in ruled() if torch_side and not key.endswith("__init__")}
NOT_FOR_A_DEVICE = {
    "fast.projected",  # small=0 sends a small network its way, which is for a CPU
    *("curvature.curvature", "curvature.hessian_vector_product"),  # the call's graph is of float64
    "network.QuantMLP.load_reference",  # takes NumPy's arrays
}


@pytest.mark.parametrize("key", sorted(FUNCTIONS.keys() - NOT_FOR_A_DEVICE))
def test_no_public_function_asks_a_device_for_float64(key, monkeypatch):
    """A right call of every function with rules, in float32."""
    call = {name: in_float32(value) for name, value in valid_call(key, FUNCTIONS[key], True).items()}
    with Device(monkeypatch):
        FUNCTIONS[key](**call)


def test_the_imitated_device_tells():
    """The control: a conversion on the device is caught, one on the host is not, and reads are counted."""
    with pytest.MonkeyPatch.context() as patch, Device(patch) as device:
        x = torch.nn.Parameter(FORGET).detach()
        assert (x.cpu().double() + 1).dtype == torch.float64 and device.reads == 1
        with pytest.raises(TypeError, match="no float64"):
            x.double()
        with pytest.raises(TypeError, match="no float64"):
            x.sum(dtype=torch.float64)
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(x.shape).copy_(x).double()
        assert x.sum().item() and device.reads == 2


READS = 3  # smallest and largest label, and all that a step reports at once
SAID = "waits for its device three times, however\ndeep the network is"


@pytest.mark.parametrize("depth", [2, 6])
def test_a_step_waits_for_the_device_three_times_however_deep_the_network_is(depth, monkeypatch):
    """Each read of a number would let a GPU run dry."""
    torch.manual_seed(0)
    model = QuantMLP((6, *[8] * depth, 3), batch_norm=True)
    unlearner = OEU(model, sgd(model))
    for _ in range(3):  # the quantizers look at batches 1, 2, 4, ... for negative values: the next step holds none
        unlearner.step(FORGET, RETAIN, LABELS)
    looking = [m for m in model.modules() if getattr(m, "decides_sign", False) and m.range[0] == 0]
    for batches, more in ((4, 0), (7, len(looking))):  # two forwards in a step: batches 5 and 6, or 8 and 9
        for quantizer in looking:
            quantizer._batches = batches
        with Device(monkeypatch) as device:
            unlearner.step(FORGET, RETAIN, LABELS)
        assert device.reads == READS + more and looking
    assert SAID in pathlib.Path(oeu_ref.__file__).with_name("core").joinpath("README.md").read_text(encoding="utf-8")


# --- wrappers ------------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A network that computes its activations anew in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last, self.reentrant = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
            reentrant,
        )

    def forward(self, x):
        return checkpoint(self.last, torch.relu(self.norm(self.first(x))), use_reentrant=self.reentrant)


@pytest.mark.parametrize("name", ["OEU", "joint", "ga", "rl"])
def test_reentrant_checkpoints_are_refused_with_the_remedy(name):
    """Nothing has changed then, and with use_reentrant=False the step is taken."""
    model = Checkpointed(True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="use_reentrant=False"):
        STEPS[name](model, FORGET, RETAIN, LABELS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    STEPS[name](Checkpointed(False), FORGET, RETAIN, LABELS)


def compiled_and_plain():
    """The same bounded unlearner of a compiled network and of the network, with the optimizers' momentum."""
    for wrap in (functools.partial(torch.compile, backend="aot_eager"), lambda model: model):
        model = Named("tensor").layer
        model.insert(1, nn.GELU())
        optimizer = torch.optim.SGD(model.parameters(), 3.0, momentum=0.9)
        yield BoundedOEU(wrap(model), optimizer, max_retain_increase=1e-3), model


@pytest.mark.reliability
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="PyTorch before 2.6")
def test_a_bounded_step_of_a_compiled_network_is_that_of_the_network():
    """Curvature wants a second backward pass, for which a compiled network is passed as it was before."""
    (compiled, one), (plain, other) = compiled_and_plain()
    for _ in range(2):
        reports = [unlearner.step(FORGET, RETAIN, LABELS) for unlearner in (compiled, plain)]
        shares = [report.update_share for report in reports]
        assert shares[0] == pytest.approx(shares[1], rel=1e-4) and shares[1] < 1
    torch._dynamo.reset()
    for a, b in zip(one.state_dict().values(), other.state_dict().values()):
        torch.testing.assert_close(a, b)


@pytest.mark.reliability
def test_where_a_compiled_network_cannot_be_passed_otherwise_the_remedy_is_named(monkeypatch):
    """Older versions of PyTorch cannot: nothing has changed then."""
    monkeypatch.setattr(curvature, "EAGER", contextlib.nullcontext)
    bounded, model = next(compiled_and_plain())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="not be compiled.*pass the module that torch.compile was given"):
        bounded.step(FORGET, RETAIN, LABELS)
    torch._dynamo.reset()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(bounded.optimizer.state.values())


def settled():
    """A quantized network in eval mode, its steps set."""
    torch.manual_seed(0)
    model = quantize_model(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 4, 4)
    model(RETAIN)
    return model.eval()


def test_a_trace_computes_what_the_network_does_and_can_be_saved():
    """`torch.jit.trace` holds PyTorch's own operations alone."""
    model, file = settled(), io.BytesIO()
    torch.jit.save(torch.jit.trace(model, RETAIN[:4]), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(RETAIN), model(RETAIN))


def test_an_exported_network_computes_what_the_network_does():
    """`torch.export`, from which ONNX files are made."""
    model = settled()
    assert torch.equal(torch.export.export(model, (RETAIN,)).module()(RETAIN), model(RETAIN))


def test_per_sample_gradients_by_torch_func_are_those_of_one_sample_after_the_other():
    """grad and vmap pass through the quantizers."""
    model = settled()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return functional.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, RETAIN, LABELS)
    for i in range(len(RETAIN)):
        one = torch.autograd.grad(
            functional.cross_entropy(model(RETAIN[i : i + 1]), LABELS[i : i + 1]), list(model.parameters())
        )
        for (name, g), w in zip(found.items(), one):
            torch.testing.assert_close(g[i], w, msg=name)


# --- few members ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "others"), list(itertools.product((60, 1200), (60, 1200))))
def test_the_attack_is_balanced_whichever_side_is_larger(members, others):
    """Where members and others look alike nobody is called unseen for being fewer; clear members are called members."""
    r = np.random.default_rng(0)
    same = SupportVectorAttack(0)(r.beta(4, 2, members), r.beta(4, 2, others), r.beta(4, 2, 500)).mean()
    assert 0.02 < same < 0.98
    clear = SupportVectorAttack(0)(r.beta(30, 1, members), r.beta(4, 2, others), r.beta(30, 1, 500)).mean()
    assert clear < 0.3
