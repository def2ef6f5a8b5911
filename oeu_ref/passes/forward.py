"""A batch through somebody else's model: in which mode, on a copy of the inputs, and where its logits are."""

import contextlib

import torch
from torch import nn

from ..arrays import floats
from ..boundary import Instance

MODEL = Instance(nn.Module, "torch.nn.Module")  # the rule of an argument that is one


@contextlib.contextmanager
def in_mode(model, training=False):
    """The model in train or in eval mode; each module's own mode is put back afterwards.

    model: any `nn.Module`; training: False: all of it in eval mode; True: in train mode, where a model that is in it
    already keeps its modules as they are, such as BatchNorm layers frozen on purpose; None: nothing is switched.
    """
    modes = {module: module.training for module in model.modules()}
    if training is not None and not (training and model.training):
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def logits_of(model, inputs, given=None):
    """What a model makes of a batch, (N, K), which it gets a copy of: it may overwrite what it is given.

    model: in the mode as it is; inputs: (N, ...) tensor; given: parameters and buffers in place of its own, by name.
    The output is a tensor, or has one under the name "logits", as Hugging Face's models have it. One sample alone has
    no statistics: BatchNorm normalizes it with its running ones.
    """
    norms = [m for m in model.modules() if type(m).forward is nn.BatchNorm1d.forward] if len(inputs) == 1 else []
    with contextlib.ExitStack() as modes:
        for norm in norms:
            modes.enter_context(in_mode(norm, False))
        args = (inputs.clone(),)
        output = model(*args) if given is None else torch.func.functional_call(model, given, args)
    return output.get("logits", output) if isinstance(output, dict) else getattr(output, "logits", output)


def class_logits(model, inputs):
    """`logits_of` of a classifier; raise TypeError or ValueError unless they are floats of shape (N, K)."""
    logits = floats("the model's logits", logits_of(model, inputs), torch, "N", "K", check_finite=False)
    if len(logits) != len(inputs):
        raise ValueError(f"the model's logits must have a row for each of {len(inputs)} inputs, got {len(logits)}")
    return logits
