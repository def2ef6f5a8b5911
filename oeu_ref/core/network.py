"""Quantized layers, a small perceptron of them, and any classifier with them in place of its own."""

import copy
import warnings

import torch
from torch import nn
from torch.nn import functional

from ..boundary import FLAG, MASK, Bits, Instance, Sizes, taking
from ..passes import MODEL, owner
from ..reference.network import QuantizedMLP
from .quantizer import Quantizer

takes = taking()
BITS = {"weight_bits": Bits(), "activation_bits": Bits(), "first_last_bits": Bits()}


class QuantizedLayer:
    """What `QuantLinear` and `QuantConv2d` share: their two quantizers, either absent at 32 bits."""

    @takes(weight_bits=Bits(), activation_bits=Bits(), mask=MASK)
    def __init__(self, *args, weight_bits=4, activation_bits=4, mask="clip", **kwargs):
        super().__init__(*args, **kwargs)
        self._add_quantizers(weight_bits, activation_bits, mask)

    def _add_quantizers(self, weight_bits, activation_bits, mask):
        self.weight_quantizer = self.activation_quantizer = None
        if weight_bits != 32:
            self.weight_quantizer = Quantizer(weight_bits, True, mask).to(self.weight)
        if activation_bits != 32:
            self.activation_quantizer = Quantizer(activation_bits, None, mask, per_sample=True).to(self.weight)

    def quantized(self, inputs):
        """(quantized inputs, quantized weight), the two tensors that the layer multiplies."""
        inputs = self.activation_quantizer(inputs) if self.activation_quantizer is not None else inputs
        weight = self.weight_quantizer(self.weight) if self.weight_quantizer is not None else self.weight
        return inputs, weight


class QuantLinear(QuantizedLayer, nn.Linear):
    """`nn.Linear` whose weight and inputs are fake-quantized with learned steps; the bias stays as it is.

    weight_bits, activation_bits: as in `Quantizer`, or 32 for no quantization; mask as in `Quantizer`; all
    else as `nn.Linear`.  forward: (N, ..., in) float -> (N, ..., out).  Raises ValueError for unknown bits or mask.
    """

    def forward(self, inputs):
        inputs, weight = self.quantized(inputs)
        return functional.linear(inputs, weight, self.bias)


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """`nn.Conv2d`, quantized as `QuantLinear` is.  forward: (N, C, H, W) float -> (N, C', H', W')."""

    def forward(self, inputs):
        inputs, weight = self.quantized(inputs)
        return self._conv_forward(inputs, weight, self.bias)


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
        bits = _bits(len(sizes) - 1, weight_bits, activation_bits, first_last_bits)
        self.layers = nn.ModuleList(QuantLinear(*ends, **widths) for *ends, widths in zip(sizes, sizes[1:], bits))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if batch_norm else nn.Identity() for width in sizes[1:-1])

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


@takes(model=MODEL, **BITS, mask=MASK)
def quantize_model(model, weight_bits=4, activation_bits=4, first_last_bits=8, mask="clip"):
    """Copy of a float classifier whose Conv2d and Linear layers are quantized; all else, shortcuts too, stays.

    model: any `nn.Module`; weight_bits, activation_bits: 1 to 8, "ternary", "binary", or 32 for no quantization;
    first_last_bits: the width for the first and the last of these layers, in the order of `model.modules()`, where they
    are quantized at all; mask as in `Quantizer`. Subclasses are quantized where forward is that
    of Conv2d or Linear, weights of `torch.nn.utils.parametrizations` as they are computed.
    Returns a new module; weights are copied. A warning names the matrices and kernels that stay in float, if any do:
    other kinds of layers, or attention, which reads its weights past its layers. PyTorch's fast path for transformers
    would do so in eval mode: it is switched off.
    Raises TypeError for no module, ValueError for a model without Conv2d or Linear layers or unknown bits or mask, or
    with lazy layers that have no weights yet.
    Source: 8 bits at both ends is the practice of the field (LSQ, ICLR 2020, section 3).
    """
    if any(isinstance(module, nn.modules.lazy.LazyModuleMixin) for module in model.modules()):
        raise ValueError("model must have all its weights: pass a batch first, from which lazy layers take their sizes")
    try:
        model = copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            "model must be one that can be copied (the old torch.nn.utils.weight_norm cannot, "
            f"torch.nn.utils.parametrizations.weight_norm can): {error}"
        ) from None
    found = [name for name, module in model.named_modules() if quantizable(model, name)]
    if not found:
        raise ValueError("model must have at least one Conv2d or Linear layer to quantize")
    for name, widths in zip(found, _bits(len(found), weight_bits, activation_bits, first_last_bits)):
        layer = model.get_submodule(name)
        layer.__class__ = _quantized_class(type(layer))  # the same object: its settings, hooks and weights stay
        layer._add_quantizers(**widths, mask=mask)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    if weight_bits != 32 and (left := left_in_float(model)):
        share = sum(model.get_parameter(n).numel() for n in left) / sum(p.numel() for p in model.parameters())
        listed = ", ".join(f"{name} ({kind})" for name, kind in left.items())
        warnings.warn(f"{share:.0%} of the parameters stay in float: {listed}", stacklevel=3)
    return model


KINDS = {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}


def quantizable(model, name):
    """Whether `quantize_model` quantizes the module of that name: Conv2d, Linear, or one with the forward of either."""
    module, parent = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
    if hasattr(module, "weight_quantizer") or isinstance(parent, nn.MultiheadAttention):
        return False
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in KINDS)


def left_in_float(model):
    """{parameter name: its module's class}: matrices and kernels that no quantizer of ours is for."""
    modules = {name: model.get_submodule(owner(model, name)) for name, p in model.named_parameters() if p.ndim > 1}
    return {n: type(m).__name__ for n, m in modules.items() if getattr(m, "weight_quantizer", None) is None}


def _quantized_class(kind):
    for plain, quantized in KINDS.items():
        if kind is plain:
            return quantized
        if issubclass(kind, plain):  # forward is the quantized one's, all else its own
            return type(f"Quant{kind.__name__}", (quantized, kind), {"__module__": kind.__module__})


def _bits(count, weight_bits, activation_bits, first_last_bits):
    """Bit widths of each of `count` layers; the first and the last have their own where they are quantized at all."""
    for i in range(count):
        bits = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        yield {name: first_last_bits if i in (0, count - 1) and b != 32 else b for name, b in bits.items()}
