"""Networks: a small quantized perceptron, two standard image networks, and quantized layers for any classifier."""

import copy

import torch
from torch import nn

from .. import checks
from .quantizer import QuantConv2d, Quantizer, QuantLinear


class QuantMLP(nn.Module):
    """Multilayer perceptron with quantized weights and activations. Twin of the reference's `QuantizedMLP`.

    sizes: widths from inputs to classes, at least two; weight_bits, activation_bits: 1 to 8, "ternary", "binary", or 32
    for no quantization; first_last_bits: the width for first and last layer where quantized; batch_norm: whether a
    BatchNorm stands before each ReLU (the reference has none).
    forward: (N, in) float -> logits (N, K).  Raises TypeError or ValueError for sizes below 1, fewer than two sizes,
    or unknown bit widths.
    """

    def __init__(self, sizes, weight_bits=4, activation_bits=4, first_last_bits=8, batch_norm=False):
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least input and output width, got {tuple(sizes)}")
        sizes = [checks.integer(f"sizes[{i}]", size, 1) for i, size in enumerate(sizes)]
        checks.size("sizes", sum(fan_in * fan_out for fan_in, fan_out in zip(sizes, sizes[1:])), "weights")
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


def resnet18(num_classes, width=64, stem_stride=1):
    """torchvision's ResNet-18 with the CIFAR stem: one 3 x 3 convolution, no pooling.

    num_classes >= 2; width >= 1: channels of the first stage (64 is the standard; the others have 2, 4, 8 times as
    many); stem_stride: 1, or 2 to halve the image at once, at a quarter of the cost.
    forward: (N, 3, H, W) float -> (N, K), a float network.  Raises TypeError or ValueError for values out of range.
    Source: He et al., CVPR 2016; the stem is the practice of the field for images of 32 x 32 pixels.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    num_classes, width, stem_stride = _image_network(num_classes, width, stem_stride)

    class WidthResNet(ResNet):
        """torchvision's constructor knows one width: every stage passes through here, the first with 64 planes."""

        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            self.inplanes = width if planes == 64 else self.inplanes
            return super()._make_layer(block, planes * width // 64, blocks, stride, dilate)

    network = WidthResNet(BasicBlock, [2, 2, 2, 2], num_classes)
    network.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.bn1, network.maxpool = nn.BatchNorm2d(width), nn.Identity()
    network.fc = nn.Linear(8 * width, num_classes)
    return network


def mobilenet_v2(num_classes, width=32, stem_stride=1):
    """torchvision's MobileNetV2 for small images: the first two of its five halvings left out.

    num_classes >= 2; width >= 1: channels of the stem (32 is the standard; all others scale with it, rounded to
    multiples of 8); stem_stride: 1, or 2 to halve the image at once.
    forward: (N, 3, H, W) float -> (N, K), a float network.  Raises TypeError or ValueError for values out of range.
    Source: Sandler et al., CVPR 2018, table 2; the strides are the practice of the field for 32 x 32 pixels.
    """
    from torchvision.models.mobilenetv2 import MobileNetV2

    num_classes, width, stem_stride = _image_network(num_classes, width, stem_stride)
    # expansion, channels, blocks, stride: as in the paper but for the second row's stride
    stages = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    # no dropout: it would draw from PyTorch's global generator, and small images have no need of it
    network = MobileNetV2(num_classes, width / 32, stages, dropout=0.0)
    network.features[0][0].stride = (stem_stride, stem_stride)
    return network


ARCHITECTURES = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}
STANDARD_WIDTHS = {"resnet18": 64, "mobilenet_v2": 32}


def _image_network(num_classes, width, stem_stride):
    num_classes, width = checks.integer("num_classes", num_classes, 2), checks.integer("width", width, 1)
    checks.size("width", 2000 * width**2, "weights")  # of both networks, roughly
    return num_classes, width, checks.integer("stem_stride", stem_stride, 1, 2)


def quantize_model(model, weight_bits=4, activation_bits=4, first_last_bits=8, mask="clip"):
    """Copy of a float classifier whose Conv2d and Linear layers are quantized; all else, shortcuts too, stays.

    model: any `nn.Module`; weight_bits, activation_bits: 1 to 8, "ternary", "binary", or 32 for no quantization;
    first_last_bits: the width for the first and the last of these layers, in the order of `model.modules()`, where they
    are quantized at all; mask as in `oeu_ref.core.quantizer.Quantizer`.
    Returns a new module; weights are copied.  Raises TypeError for no module, ValueError for a model without Conv2d or
    Linear layers or unknown bits or mask.
    Source: 8 bits at both ends is the practice of the field (LSQ, ICLR 2020, section 3).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
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
        if checks.bits(name, value) != 32 and override is not None:
            bits[name] = checks.bits("first_last_bits", override)
    return bits


def _quantized_copy(layer, kinds, bits, mask):
    # the float layer's own object changes class, so that all its settings, hooks and weights stay
    layer.__class__ = kinds[type(layer)]
    layer._add_quantizers(**bits, mask=mask)
    return layer
