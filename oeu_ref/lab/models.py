"""Two standard image networks, at the sizes that small images want, and what is quantized in a network."""

import functools

from torch import nn

from .. import boundary
from ..passes import is_quantizer, owner
from ..report.results import aligned


def resnet18(num_classes, width=64, stem_stride=1):
    """torchvision's ResNet-18 with the CIFAR stem: one 3 x 3 convolution, no pooling.

    num_classes >= 2; width >= 1: channels of the first stage (64 is the standard; the others have 2, 4, 8 times as
    many); stem_stride: 1, or 2 to halve the image at once, at a quarter of the cost.
    forward: (N, 3, H, W) float -> (N, K), a float network.  Raises TypeError or ValueError for values out of range.
    Source: He et al., CVPR 2016; the stem is the practice of the field for images of 32 x 32 pixels.
    """
    num_classes, width, stem_stride = _image_network(num_classes, width, stem_stride)
    kind, block = _resnet_of(width)
    network = kind(block, [2, 2, 2, 2], num_classes)
    network.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.bn1, network.maxpool = nn.BatchNorm2d(width), nn.Identity()
    network.fc = nn.Linear(8 * width, num_classes)
    return network


@functools.cache  # one class for all networks of a width: code that is compiled for one serves them all
def _resnet_of(width):
    """(torchvision's ResNet with this width, its block)."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class WidthResNet(ResNet):
        """torchvision's constructor knows one width: every stage passes through here, the first with 64 planes."""

        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            self.inplanes = width if planes == 64 else self.inplanes
            return super()._make_layer(block, planes * width // 64, blocks, stride, dilate)

    return WidthResNet, BasicBlock


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
    stages = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
    # no dropout: it would draw from PyTorch's global generator, and small images have no need of it
    network = MobileNetV2(num_classes, width / 32, stages, dropout=0.0)
    network.features[0][0].stride = (stem_stride, stem_stride)
    return network


ARCHITECTURES = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}


def quantized_layers(model):
    """What is quantized in a model and what is not, for `print`: Markdown, a row a layer with matrices or kernels.

    model: any `nn.Module`, such as `oeu_ref.core.network.quantize_model` gives.  A row holds the layer's name and
    class, the number of its parameters, the bits of weights and inputs, 32 for float, and, where the weights are in
    float, why.  Returns a string.  Raises TypeError for no module.
    """
    boundary.instance("model", model, nn.Module, "torch.nn.Module")
    sizes = {}
    for name, parameter in model.named_parameters():
        sizes.setdefault(owner(model, name), []).append(parameter)
    rows = [["layer", "kind", "parameters", "weight bits", "input bits", "why in float"]]
    for name, parameters in sizes.items():
        layer = model.get_submodule(name)
        if all(p.ndim < 2 for p in parameters) or is_quantizer(layer):
            continue
        quantizers = [getattr(layer, f"{what}_quantizer", None) for what in ("weight", "activation")]
        bits = [str(q.bits) if q is not None else "32" for q in quantizers]
        why = "" if quantizers[0] is not None else _why_in_float(model, name, layer)
        rows.append([name, type(layer).__name__, str(sum(p.numel() for p in parameters)), *bits, why])
    return aligned(rows, left=2)


def _why_in_float(model, name, layer):
    if hasattr(layer, "weight_quantizer"):
        return "as asked for"
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        return "neither Conv2d nor Linear"
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        return "attention reads its weight past it"
    plain = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    return "a forward of its own" if type(layer).forward is not plain.forward else "not asked for"


def _image_network(num_classes, width, stem_stride):
    num_classes, width = boundary.integer("num_classes", num_classes, 2), boundary.integer("width", width, 1)
    boundary.size("width", 2000 * width**2, "weights")  # of both networks, roughly
    return num_classes, width, boundary.integer("stem_stride", stem_stride, 1, 2)
