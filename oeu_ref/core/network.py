"""Networks: a small quantized perceptron, and quantized layers for any classifier."""

import copy

import torch
from torch import nn

from ..boundary import FLAG, MASK, Bits, Instance, Sizes, taking
from ..reference.network import QuantizedMLP
from .quantizer import QuantConv2d, Quantizer, QuantLinear

takes = taking()
BITS = {"weight_bits": Bits(), "activation_bits": Bits(), "first_last_bits": Bits()}


class QuantMLP(nn.Module):
    """Multilayer perceptron with quantized weights and activations. Twin of the reference's `QuantizedMLP`.

    sizes: widths from inputs to classes, at least two; weight_bits, activation_bits: 1 to 8, "ternary", "binary", or 32
    for no quantization; first_last_bits: the width for first and last layer where quantized; batch_norm: whether a
    BatchNorm stands before each ReLU (the reference has none).
    forward: (N, in) float -> logits (N, K).  Raises TypeError or ValueError for sizes below 1, fewer than two sizes,
    or unknown bit widths.
    """

    @takes(sizes=Sizes(), **BITS, batch_norm=FLAG)
    def __init__(self, sizes, weight_bits=4, activation_bits=4, first_last_bits=8, batch_norm=False):
        super().__init__()
        last = len(sizes) - 2
        self.layers = nn.ModuleList()
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
            bits = _bits(weight_bits, activation_bits, first_last_bits if i in (0, last) else None)
            self.layers.append(QuantLinear(fan_in, fan_out, **bits))
        norms = (nn.BatchNorm1d(width) if batch_norm else nn.Identity() for width in sizes[1:-1])
        self.norms = nn.ModuleList(norms)

    def forward(self, inputs):
        for layer, norm in zip(self.layers, self.norms):
            inputs = torch.relu(norm(layer(inputs)))
        return self.layers[-1](inputs)

    @takes(network=Instance(QuantizedMLP))
    def load_reference(self, network):
        """Take over weights, steps and input range of a reference `QuantizedMLP` of the same shape; returns self."""
        arrays = {name: torch.as_tensor(value) for name, value in network.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(arrays[name])
        for name, module in self.named_modules():
            if isinstance(module, Quantizer):
                weight = name.endswith("weight_quantizer")
                module.set(arrays[f"{name}.step"], weight or (name.startswith("layers.0.") and network.signed_inputs))
        return self


@takes(model=Instance(nn.Module, "torch.nn.Module"), **BITS, mask=MASK)
def quantize_model(model, weight_bits=4, activation_bits=4, first_last_bits=8, mask="clip"):
    """Copy of a float classifier whose Conv2d and Linear layers are quantized; all else, shortcuts too, stays.

    model: any `nn.Module`; weight_bits, activation_bits: 1 to 8, "ternary", "binary", or 32 for no quantization;
    first_last_bits: the width for the first and the last of these layers, in the order of `model.modules()`, where they
    are quantized at all; mask as in `oeu_ref.core.quantizer.Quantizer`.
    Returns a new module; weights are copied.  Raises TypeError for no module, ValueError for a model without Conv2d or
    Linear layers or unknown bits or mask.
    Source: 8 bits at both ends is the practice of the field (LSQ, ICLR 2020, section 3).
    """
    model = copy.deepcopy(model)
    kinds = {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}
    found = [name for name, module in model.named_modules() if type(module) in kinds]
    if not found:
        raise ValueError("model must have at least one Conv2d or Linear layer to quantize")
    if found == [""]:
        return _quantized_copy(model, kinds, _bits(weight_bits, activation_bits, first_last_bits), mask)
    for name in found:
        bits = _bits(weight_bits, activation_bits, first_last_bits if name in (found[0], found[-1]) else None)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, _quantized_copy(model.get_submodule(name), kinds, bits, mask))
    return model


def _bits(weight_bits, activation_bits, override):
    """Bit widths of one layer; override: that of first and last layers where quantized, None for the others."""
    bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    for name, value in bits.items():
        if value != 32 and override is not None:
            bits[name] = override
    return bits


def _quantized_copy(layer, kinds, bits, mask):
    # the float layer's own object changes class, so that all its settings, hooks and weights stay
    layer.__class__ = kinds[type(layer)]
    layer._add_quantizers(**bits, mask=mask)
    return layer
