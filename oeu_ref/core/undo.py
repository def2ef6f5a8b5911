"""A step that fails leaves no trace: buffers, modes, quantizers and generators as they were before it."""

import contextlib

import torch

from .quantizer import Quantizer


def is_quantizer(module):
    """Whether a module is a fake quantizer, ours or one of PyTorch's own, whose scale may be learned."""
    # PyTorch's are known by their switch: an import of them may fail one day
    return isinstance(module, Quantizer) or hasattr(module, "fake_quant_enabled")


@contextlib.contextmanager
def undone_on_error(model, *generators):
    """Put back what forward passes change, if anything is raised inside; parameters are the caller's own affair.

    model: any `nn.Module`: its buffers (BatchNorm's statistics, observers' ranges), each module's mode, the steps of
    quantizers that had not seen a batch; generators: `torch.Generator`s, whose draws are taken back.
    """
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    buffers = [(m, name, b, b.clone()) for m in modules for name, b in m._buffers.items() if b is not None]
    quantizers = [module for module in modules if isinstance(module, Quantizer)]
    steps = [q.step for q in quantizers if q.unread]
    steps += [p for m in modules if is_quantizer(m) and m not in quantizers for p in m.parameters(recurse=False)]
    steps = [(step, step.detach().clone()) for step in steps]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for step, value in steps:
                step.copy_(value)
            for module, name, buffer, value in buffers:
                # an observer of PyTorch's gives its buffers another shape when the first batch passes
                module._buffers[name] = buffer.resize_(value.shape).copy_(value)
        for quantizer in quantizers:
            quantizer.reread()
        for module, training in modes:
            module.training = training
        for generator, state in zip(generators, states):
            generator.set_state(state)
        raise
