"""From a trained fake-quantized network to the integer network that a device runs, and to its file.

Each quantized layer becomes integer operations of `oeu_ref.integer.network`: thresholds that make its input codes,
sums of products of codes, and a rescale that carries both steps, the bias, and the BatchNorm that follows. Activations,
residual additions and pools work on values. Source: Jacob et al., CVPR 2018, sections 2 and 3.2.
"""

import io
import operator

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from .. import boundary, files
from ..core.network import QuantConv2d, QuantLinear
from .file import to_arrays
from .fixed_point import Plan, Value
from .network import INPUT, VALUE_TYPES, Input, IntegerNetwork, sides

SUPPORTED = (
    "QuantConv2d and QuantLinear, BatchNorm right after one of them, ReLU, ReLU6, addition, average pooling to 1 x 1, "
    "MaxPool2d, flatten, Identity and Dropout"
)
PIXELS = (0, 255)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# module, function or tensor method -> the method of `_Reader` that reads it, and the settings that a module holds
_MODULES = {
    nn.Identity: ("same", ()),
    nn.Dropout: ("same", ()),
    nn.Dropout2d: ("same", ()),
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.AdaptiveAvgPool2d: ("average", ("output_size",)),
    nn.MaxPool2d: ("maximum", ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")),
    nn.Flatten: ("flatten", ("start_dim", "end_dim")),
}
_CALLED = {
    "relu": (torch.relu, functional.relu, "relu", "relu_"),
    "relu6": (functional.relu6,),
    "add": (operator.add, operator.iadd, torch.add, "add", "add_"),
    "average": (functional.adaptive_avg_pool2d,),
    "flatten": (torch.flatten, "flatten"),
}
_FUNCTIONS = {function: method for method, functions in _CALLED.items() for function in functions}


def export(model, input_shape, input_range=PIXELS, input_scale=None, input_offset=0.0, value_bits=64):
    """The `IntegerNetwork` of a trained network.

    model: in eval mode, one that `takes_images`, or any network that `torch.fx` can trace, whose float inputs are
    input_scale * integers + input_offset (the digits: 1 / 16); its quantized layers must have seen a batch;
    input_shape: of one sample, (C, H, W) or (features,); input_range: smallest and largest integer; value_bits: 64, or
    32 for narrower values and multipliers (`oeu_ref.integer.agreement.compare` shows what that costs).
    Weight codes are those that the model itself computes with, in its own precision.
    Raises TypeError for no module; ValueError, naming the layer, for what an integer network has no operation for,
    layers of 32 bits, quantizers without a step, numbers that are not finite, and sums that could overflow 32 bits.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("model must be in eval mode, in which BatchNorm has fixed statistics: call model.eval()")
    boundary.one_of("value_bits", value_bits, tuple(VALUE_TYPES))
    input_shape = tuple(boundary.integer("input_shape", side, 1) for side in input_shape)
    if len(input_shape) not in (1, 3):
        raise ValueError(f"input_shape must be (C, H, W) or (features,), got {input_shape}")
    network, factor, offset = _front(model, input_shape, input_scale, input_offset)
    raw = Input(input_shape, *input_range, float(input_scale or 1), float(input_offset))
    plan = Plan()
    pixels = np.full(input_shape[0], float(max(map(abs, input_range))))
    first = plan.rescale(f"{INPUT}.value", INPUT, pixels, factor, offset, input_shape)
    reader = _Reader(network, plan, first)
    for node in _trace(network).nodes:
        reader.read(node)
    return IntegerNetwork(plan.nodes(value_bits), raw, value_bits)


def write(path, network):
    """Write an `IntegerNetwork` as one .npz without pickle; `oeu_ref.integer.file.read` is the inverse.

    Returns the path.  The file before stays until the new one is whole.  Raises OSError where it cannot be written.
    """
    return files.write_bytes(path, to_bytes(network))


def to_bytes(network):
    """Content of the file that `write` writes, bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **to_arrays(network))
    return buffer.getvalue()


def takes_images(model):
    """Whether a model takes uint8 images, of which its `network` gets (images / 255 - mean) / std, as it says.

    So does `oeu_ref.lab.images.ImageClassifier`; `mean` and `std` hold a number a channel.
    """
    return all(hasattr(model, name) for name in ("network", "mean", "std"))


def _front(model, input_shape, input_scale, input_offset):
    """(traceable network, factor, offset): how raw integers become the network's inputs, channel by channel."""
    if takes_images(model):
        if input_scale is not None or input_offset != 0:
            raise ValueError("input_scale must be None for a model with mean and std, which normalizes images itself")
        mean, std = (_numbers(name, getattr(model, name).flatten()) for name in ("mean", "std"))
        if (len(input_shape), input_shape[0]) != (3, len(mean)):
            raise ValueError(f"input_shape must be ({len(mean)}, H, W) for this model, got {input_shape}")
        return model.network, 1 / (255 * std), -mean / std
    if input_scale is None:
        raise ValueError("input_scale must say what an integer input of 1 stands for, e.g. 1 / 16, got None")
    scale, offset = boundary.positive("input_scale", input_scale), boundary.number("input_offset", input_offset)
    return model, np.full(input_shape[0], scale), np.full(input_shape[0], offset)


class _Tracer(fx.Tracer):
    """Quantized layers are leaves, like PyTorch's own."""

    def is_leaf_module(self, module, name):
        return isinstance(module, (QuantConv2d, QuantLinear)) or super().is_leaf_module(module, name)


def _trace(network):
    try:
        return _Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"model must be one that torch.fx can trace: {str(error).splitlines()[0]}") from None


class _Reader:
    """Reads a traced graph node by node into a `Plan`; `values` maps each node to the `Value` that it gives."""

    def __init__(self, network, plan, first):
        self.network, self.plan, self.first = network, plan, first
        self.values, self.folded, self.layers = {}, set(), set()

    def read(self, node):
        """Plan what one node does.  Raises ValueError, naming it, for what has no integer form."""
        if node.op == "placeholder":
            if self.values:
                raise ValueError("model must have one input")
            self.values[node] = self.first
        elif node.op == "output":
            if node.args[0] is not list(self.values)[-1]:
                raise ValueError("model must return its logits alone, made by its last operation")
        elif node.op == "call_module":
            self._module(node, node.target, self.network.get_submodule(node.target))
        else:
            self._function(node, node.target)

    def _module(self, node, name, module):
        if isinstance(module, (QuantConv2d, QuantLinear)):
            self._layer(node, name, module)
        elif isinstance(module, _NORMS):
            if node not in self.folded:
                raise ValueError(f"{name} must directly follow a quantized layer that nothing else reads, to fold into")
            self.values[node] = self.values[node.args[0]]
        elif type(module) in _MODULES:
            method, settings = _MODULES[type(module)]
            if getattr(module, "inplace", False):
                _alone(node, name)
            self._call(node, method, {key: getattr(module, key) for key in settings})
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            raise ValueError(f"{name} must be a quantized layer, it is a plain {type(module).__name__}")
        else:
            raise ValueError(f"{name} ({type(module).__name__}) has no integer form; supported are {SUPPORTED}")

    def _function(self, node, function):
        called = function if isinstance(function, str) else function.__name__
        if function not in _FUNCTIONS:
            raise ValueError(f"{node.name} ({called}) has no integer form; supported are {SUPPORTED}")
        settings = dict(node.kwargs)
        if settings.pop("inplace", False) or function is operator.iadd or called.endswith("_"):
            _alone(node, node.name)
        self._call(node, _FUNCTIONS[function], settings)

    def _call(self, node, method, settings):
        read = [self.values[a] if isinstance(a, fx.Node) else a for a in node.args]
        try:
            # by the traced node's name: a module without numbers, such as a ReLU, may be called at several places
            self.values[node] = getattr(self, f"_{method}")(node.name, *read, **settings)
        except TypeError as error:
            raise ValueError(f"{node.name} has no integer form: {error}") from None

    def _layer(self, node, name, layer):
        if name in self.layers:
            raise ValueError(f"{name} must be called once: its input codes belong to one place of the network")
        self.layers.add(name)
        value, norm = self.values[node.args[0]], self._norm_after(node)
        is_conv = isinstance(layer, QuantConv2d)
        _fits(name, layer, value.shape)
        weight, step = _weight(name, layer)
        quantizer = _initialized(name, "inputs", layer.activation_quantizer)
        input_step, (q_min, q_max) = quantizer.magnitude.item(), quantizer.range
        factor, offset = _affine(name, layer, step * input_step, norm)
        sums = np.abs(weight.reshape(len(weight), -1).astype(np.float64)).sum(axis=1) * max(-q_min, q_max)
        gap = 2 if quantizer.bits == "binary" and q_min < 0 else 1
        self.plan.quantize(f"{name}.input", value, input_step, q_min, q_max, gap, quantizer.bits)
        attributes, shape = _geometry(name, layer, value.shape) if is_conv else ({}, (len(weight),))
        about = {"bits": layer.weight_quantizer.bits, "step": step}
        self.plan.sums(name, "conv" if is_conv else "linear", weight, attributes, about)
        self.values[node] = self.plan.rescale(f"{name}.value", name, sums, factor, offset, shape)

    def _norm_after(self, node):
        """The BatchNorm that alone reads a layer's outputs, or None."""
        readers = list(node.users)
        if len(readers) != 1 or readers[0].op != "call_module":
            return None
        module = self.network.get_submodule(readers[0].target)
        if not isinstance(module, _NORMS):
            return None
        self.folded.add(readers[0])
        return module

    def _same(self, name, value):
        return value

    def _relu(self, name, value):
        return self.plan.clip(name, value, None)

    def _relu6(self, name, value):
        return self.plan.clip(name, value, 6)

    def _add(self, name, first, second):
        if not (isinstance(first, Value) and isinstance(second, Value)):
            raise ValueError(f"{name} must add two values, got a constant")
        return self.plan.add(name, first, second)

    def _average(self, name, value, output_size):
        if output_size not in (1, (1, 1)) or len(value.shape) != 3:
            raise ValueError(f"{name} must pool (C, H, W) to 1 x 1, got {value.shape} to {output_size}")
        return self.plan.average(name, value)

    def _maximum(self, name, value, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
        if ceil_mode or return_indices or _pair(dilation) != (1, 1) or len(value.shape) != 3:
            raise ValueError(f"{name} must be a plain maximum over (C, H, W), without ceil_mode, indices or dilation")
        return self.plan.maximum(name, value, _pair(kernel_size), _pair(stride), _pair(padding))

    def _flatten(self, name, value, start_dim=0, end_dim=-1):
        if (start_dim, end_dim) != (1, -1):
            raise ValueError(f"{name} must flatten all but the batch, got dimensions {start_dim} to {end_dim}")
        return self.plan.flatten(name, value)


def _initialized(name, what, quantizer):
    if quantizer is None:
        raise ValueError(f"{name} must have quantized {what} (1 to 8 bits), its {what} have 32")
    if quantizer.range is None:
        raise ValueError(f"{name} must know the step of its {what}: pass a batch first")
    boundary.positive(f"the step of {name}'s {what}", quantizer.magnitude.item())
    return quantizer


def _weight(name, layer):
    """(int8 codes, step) of a layer's weight."""
    quantizer = _initialized(name, "weights", layer.weight_quantizer)
    _numbers(f"{name}.weight", layer.weight)
    return quantizer.codes(layer.weight).cpu().numpy().astype(np.int8), quantizer.magnitude.item()


def _affine(name, layer, step, norm):
    """(factor, offset) of each channel, between integer sums and real values, BatchNorm folded in:

    gamma (step * sum + bias - mean) / sqrt(variance + eps) + beta.
    """
    factor = np.full(len(layer.weight), step)
    offset = np.zeros_like(factor) if layer.bias is None else _numbers(f"{name}.bias", layer.bias)
    if norm is None:
        return factor, offset
    owner = f"the BatchNorm after {name}"
    if norm.running_mean is None:
        raise ValueError(f"{owner} must have running statistics")
    scale = 1 / np.sqrt(_numbers(owner, norm.running_var) + norm.eps)
    scale = scale * _numbers(owner, norm.weight) if norm.affine else scale
    shift = _numbers(owner, norm.bias) if norm.affine else 0.0
    return factor * scale, (offset - _numbers(owner, norm.running_mean)) * scale + shift


def _fits(name, layer, shape):
    wanted, rank = (layer.in_channels, 3) if isinstance(layer, QuantConv2d) else (layer.in_features, 1)
    if len(shape) != rank or shape[0] != wanted:
        raise ValueError(f"{name} must get inputs of {rank} dimensions, the first {wanted}, got shape {shape}")


def _geometry(name, layer, shape):
    """(attributes of the integer convolution, shape of its outputs)."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"{name} must pad with zeros, by numbers, got {layer.padding_mode!r}, {layer.padding!r}")
    pairs = {key: tuple(getattr(layer, key)) for key in ("stride", "padding", "dilation")}
    return {**pairs, "groups": layer.groups}, (layer.out_channels, *sides(shape[1:], layer.kernel_size, **pairs))


def _alone(node, name):
    """An operation in place is only the same as one that is not if nothing else reads what it overwrites."""
    if len(node.args[0].users) > 1:
        raise ValueError(f"{name} overwrites its input, which something else reads: make it not in place")


def _numbers(name, tensor):
    numbers = tensor.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, got {numbers[~np.isfinite(numbers)][0]}")
    return numbers


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)
