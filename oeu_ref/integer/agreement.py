"""Does the integer network compute what PyTorch computes, and which integer codes did unlearning change?"""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from .. import boundary
from ..core.network import QuantConv2d, QuantLinear
from .export import takes_images
from .network import IntegerNetwork, walk

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
LAYERS = (QuantConv2d, QuantLinear)


@dataclass(frozen=True)
class Agreement:
    """What `compare` found.

    codes, codes_differing: dict layer -> number of its input codes over all samples, and of those that differ;
    weights_differing: dict layer -> number of weight codes that differ; samples, predictions_differing: numbers of
    samples; logit_difference: largest absolute difference of a logit, in nats.
    """

    codes: dict
    codes_differing: dict
    weights_differing: dict
    samples: int
    predictions_differing: int
    logit_difference: float

    @property
    def identical(self):
        """Whether all weight codes, all input codes of all layers and all predictions are the same."""
        differing = [*self.codes_differing.values(), *self.weights_differing.values(), self.predictions_differing]
        return not any(differing)

    def __str__(self):
        codes, differing = (sum(counts.values()) for counts in (self.codes, self.codes_differing))
        return (
            f"{differing:,} of {codes:,} input codes in {len(self.codes)} layers differ, "
            f"{sum(self.weights_differing.values()):,} weight codes, "
            f"{self.predictions_differing:,} of {self.samples:,} predictions; "
            f"largest difference of a logit {self.logit_difference:.1e} nats"
        )


@torch.no_grad()
def compare(model, network, inputs, precision="float64", batch_size=16):
    """Run a fake-quantized PyTorch network and its integer network side by side: an `Agreement`.

    model: as `oeu_ref.integer.export.export` takes it, left as it is; network: `IntegerNetwork`; inputs: (N, ...)
    integers, array or tensor; precision: of PyTorch's forward, on weights that stand exactly on their grid. "float64"
    is exact for the purpose; with "float32" sums of products are themselves rounded, and values that close to a tie go
    either way; batch_size >= 1.
    Raises ValueError for an unknown precision or a network of another model, TypeError or ValueError for bad inputs.
    """
    dtype = PRECISIONS[boundary.one_of("precision", precision, tuple(PRECISIONS))]
    batch_size = boundary.integer("batch_size", batch_size, 1)
    if not isinstance(network, IntegerNetwork):
        raise TypeError(f"network must be an IntegerNetwork, got {type(network).__name__}")
    weights_differing = _weights_differing(model, network)
    twin, inputs = _twin(model, dtype), np.asarray(inputs)
    seen = {}
    for name, layer in _layers(twin).items():  # the twin's own hooks, which go with it
        layer.activation_quantizer.register_forward_hook(
            lambda quantizer, arguments, _, name=name: seen.update({f"{name}.input": quantizer.codes(arguments[0])})
        )
    total, differing, predictions, worst = {}, {}, 0, 0.0
    for batch in (inputs[i : i + batch_size] for i in range(0, len(inputs), batch_size)):
        logits = _logits(twin, network, batch, dtype)
        for name, integers in walk(network, batch):
            if name in seen:
                layer = name.removesuffix(".input")
                total[layer] = total.get(layer, 0) + integers.size
                unequal = int((integers != seen[name].numpy()).sum())
                differing[layer] = differing.get(layer, 0) + unequal
        predictions += int((integers.argmax(1) != logits.argmax(1)).sum())
        worst = max(worst, float(np.abs(integers * network.logit_scale - logits).max()))
    return Agreement(total, differing, weights_differing, len(inputs), predictions, worst)


@torch.no_grad()
def changed_codes(before, after):
    """How far unlearning reached the integers that a device stores: layer by layer.

    before, after: two states of one architecture, with quantized layers that know their steps.
    Returns dict layer -> {"weights": how many there are, "bits": of a code, "latent": whose latent weight changed,
    "codes": whose integer code changed, "crossed": whose code would have changed with the step held at that of before,
    "step": whose latent weight after has another code under its own step than under that of before, "steps": magnitude
    of the step before and after}.  Raises ValueError, naming the layer, for networks that do not match.
    """
    first, second = _layers(before), _layers(after)
    if list(first) != list(second):
        raise ValueError(f"before and after must have the same quantized layers, got {list(first)}, {list(second)}")
    found = {}
    for name, old in first.items():
        new = second[name]
        if old.weight_quantizer is None or old.weight.shape != new.weight.shape:
            raise ValueError(f"{name} must have quantized weights of one shape before and after")
        codes = {
            "before": old.weight_quantizer.codes(old.weight),
            "held": old.weight_quantizer.codes(new.weight),
            "after": new.weight_quantizer.codes(new.weight),
        }
        found[name] = {
            "weights": old.weight.numel(),
            "bits": old.weight_quantizer.bits,
            "latent": _differing(old.weight, new.weight),
            "codes": _differing(codes["before"], codes["after"]),
            "crossed": _differing(codes["before"], codes["held"]),
            "step": _differing(codes["held"], codes["after"]),
            "steps": [layer.weight_quantizer.magnitude.item() for layer in (old, new)],
        }
    return found


@torch.no_grad()
def with_codes(model, donor, steps="own"):
    """Copy of a model with the weight codes of another: a hybrid that tells which of the two parts does what.

    model, donor: two states of one architecture; steps: "own", the donor's codes under the model's steps of the
    weights, or "donor", with the donor's steps too: its quantized weights as real numbers. Input steps, biases and
    BatchNorm stay the model's own.  Raises ValueError for another word, and as `changed_codes`.
    """
    boundary.one_of("steps", steps, ("own", "donor"))
    changed_codes(model, donor)
    mixed = copy.deepcopy(model)
    for layer, other in zip(_layers(mixed).values(), _layers(donor).values()):
        if steps == "donor":
            layer.weight_quantizer.step.copy_(other.weight_quantizer.step)
        layer.weight.copy_(layer.weight_quantizer.magnitude * other.weight_quantizer.codes(other.weight))
    return mixed


def _layers(model):
    network = model.network if takes_images(model) else model
    return {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}


def _differing(first, second):
    return int((first != second).sum())


def _twin(model, dtype):
    """Copy in another precision, whose weights stand on their grid."""
    # a weight may be a tie in one precision and none in the other: what is multiplied must be the codes of the original
    codes = {name: layer.weight_quantizer.codes(layer.weight) for name, layer in _layers(model).items()}
    twin = copy.deepcopy(model).cpu().to(dtype).eval()
    for name, layer in _layers(twin).items():
        layer.weight.copy_(layer.weight_quantizer.magnitude * codes[name].cpu())
    if takes_images(twin):
        twin.precision, twin.compiled = "float32", False  # no autocast: the twin's own precision
    return twin


def _logits(twin, network, integers, dtype):
    """The twin's logits in its own precision, float64."""
    if not takes_images(twin):
        inputs = torch.as_tensor(integers, dtype=torch.float64) * network.input.scale + network.input.offset
        return twin(inputs.to(dtype)).double().numpy()
    seen = {}
    # the classifier itself returns float32
    hook = twin.network.register_forward_hook(lambda _, __, logits: seen.update(logits=logits))
    twin(torch.as_tensor(integers, dtype=torch.uint8))
    hook.remove()
    return seen["logits"].double().numpy()


def _weights_differing(model, network):
    stored = {node.name: node.arrays["weight"] for node in network.nodes if "weight" in node.arrays}
    layers = _layers(model)
    if {name: tuple(layer.weight.shape) for name, layer in layers.items()} != {n: w.shape for n, w in stored.items()}:
        raise ValueError(f"network must be an export of this model, its layers are {', '.join(stored)}")
    return {
        name: int((layer.weight_quantizer.codes(layer.weight).cpu().numpy() != stored[name]).sum())
        for name, layer in layers.items()
    }
