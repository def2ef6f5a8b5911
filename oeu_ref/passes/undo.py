"""What forward passes change in a model besides its output, and how that is put back."""

import contextlib

import torch

from .modules import is_ours, is_quantizer


class State:
    """What forward passes may change: buffers, each module's mode, steps of quantizers that have not seen a batch.

    model: any `nn.Module`, BatchNorm's statistics and observers' ranges are among its buffers; generators:
    `torch.Generator`s, whose draws count too. Parameters are the caller's own affair, but for those first steps.
    """

    def __init__(self, model, *generators):
        modules = list(model.modules())
        self.modes = {module: module.training for module in modules}
        self.generators = [(generator, generator.get_state()) for generator in generators]
        self.unread = [(module, None) for module in modules if is_ours(module) and module.unread]
        # two of three buffers of a network are those of our quantizers, which know what may change in them
        named = [(m, name) for m in modules for name in (m.volatile if is_ours(m) else m._buffers)]
        # PyTorch's own quantizers do not say whether they have seen a batch
        foreign = [m for m in modules if is_quantizer(m) and not is_ours(m)]
        self._keep(named, [q.step for q, _ in self.unread] + [p for m in foreign for p in m.parameters(recurse=False)])

    def _keep(self, named, steps):
        buffers = [module._buffers[name] for module, name in named]
        self.buffers = [(*where, *both) for where, *both in zip(named, buffers, copies_of(buffers))]
        self.steps = [(step, step.detach().clone()) for step in steps]

    def now(self):
        """The same model's state at this moment, for `put_back` after this one has been put back."""
        later = object.__new__(State)
        later.modes, later.generators = {}, []
        later.unread = [(quantizer, quantizer.range) for quantizer, _ in self.unread]
        later._keep([where for *where, _, _ in self.buffers], [step for step, _ in self.steps])
        return later

    @torch.no_grad()
    def put_back(self):
        """Make the model as it was when this was taken."""
        for step, value in self.steps:
            step.copy_(value)
        for module, name, buffer, value in self.buffers:
            module._buffers[name] = buffer
            if value is not None and buffer.shape != value.shape:
                # an observer of PyTorch's gives its buffers another shape when the first batch passes
                buffer.resize_(value.shape)
        _copy([(buffer, value) for *_, buffer, value in self.buffers if value is not None])
        for quantizer, codes in self.unread:
            quantizer.reread(codes)
        for module, training in self.modes.items():
            module.training = training
        for generator, state in self.generators:
            generator.set_state(state)


def copies_of(buffers):
    """Copies of buffers to write back, None for one that cannot be written in place: it is only ever replaced."""
    copies = [torch.empty_like(buffer, requires_grad=False) if _is_writable(buffer) else None for buffer in buffers]
    _copy([(copy, buffer.detach()) for copy, buffer in zip(copies, buffers) if copy is not None])
    return copies


def _is_writable(buffer):
    if buffer is None or buffer.layout != torch.strided or buffer.is_inference() or buffer.is_meta:
        return False
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape))


def _copy(pairs):
    """Write the second of each pair of tensors over the first, many at once: a GPU would wait for each by itself."""
    alike = {}
    for target, source in pairs:
        alike.setdefault((target.dtype, target.device), []).append((target, source))
    for group in alike.values():
        torch._foreach_copy_(*map(list, zip(*group)))


@contextlib.contextmanager
def undone_on_error(model, *generators):
    """Put back what forward passes changed, as `State` has it, if anything is raised inside."""
    before = State(model, *generators)
    try:
        yield
    except BaseException:
        before.put_back()
        raise


@contextlib.contextmanager
def undone(model):
    """Put back what forward passes changed, whatever happens inside; yields the `State` before."""
    before = State(model)
    try:
        yield before
    finally:
        before.put_back()
