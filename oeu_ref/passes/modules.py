"""The modules of somebody else's model: which are fake quantizers, and which one owns a parameter."""

import re


def is_quantizer(module):
    """Whether a module is a fake quantizer, ours or one of PyTorch's own, whose scale may be learned."""
    # PyTorch's are known by their switch: an import of them may fail one day
    return is_ours(module) or hasattr(module, "fake_quant_enabled")


def is_ours(module):
    """Whether a module is a `Quantizer`, known by what it says of its first batch, which sets step and range."""
    return all(hasattr(type(module), name) for name in ("reread", "unread", "volatile"))


def owner(model, parameter_name):
    """Name of the module that a parameter belongs to; a step, or what a weight is made of, to the layer it serves."""
    module = re.split(r"(?:^|\.)parametrizations\.", parameter_name.rpartition(".")[0])[0]
    return module.rpartition(".")[0] if is_quantizer(model.get_submodule(module)) else module
