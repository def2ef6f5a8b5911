"""OEU over several processes, `ParallelOEU`: each passes a shard of every batch, all take the same step.

Started by `torchrun`, or by `torch.distributed.init_process_group` in your own code; without either, everything here
does nothing. The mean of projections is not the projection of the means: gradients are averaged over the processes
first, and what follows from them (projection, optimizer) each process computes for itself, with the same result.
"""

import contextlib
import itertools
import os

import torch
from torch import distributed, nn

from .core import OEU, Quantizer
from .passes import grad_of

BUCKET = 1 << 20  # elements that are sent together, about: small ones alone would be all latency


def size():
    """Number of processes; 1 without `torch.distributed`."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank():
    """This process's number, 0 <= rank < size()."""
    return distributed.get_rank() if size() > 1 else 0


@contextlib.contextmanager
def started(device):
    """Join the processes that `torchrun` started, for as long as the context lasts; nothing where there are none.

    device: "cpu" (gloo) or "cuda" (NCCL); yields the device of this process, "cuda:<local rank>" for the latter.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or distributed.is_initialized():
        yield device
        return
    if str(device).startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if str(device).startswith("cuda") else "gloo")
    try:
        yield device
        # a process that leaves while others still talk to it can end them, or be ended, without a word
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def barrier():
    """Wait until all processes are here."""
    if size() > 1:
        distributed.barrier()


def shard(batch):
    """This process's part of a batch that all processes hold: every size()-th sample, from the rank-th on.

    batch: `Samples` or a tensor (N, ...), N >= size().  Raises ValueError for a smaller one.
    """
    if size() == 1:
        return batch
    if len(batch) < size():
        raise ValueError(f"batch must hold a sample for each of the {size()} processes, got {len(batch)}")
    return batch[rank() :: size()]


def total(tensor):
    """Sum of a tensor over the processes, a new tensor on each; the tensor itself where there is one process."""
    if size() == 1:
        return tensor
    result = tensor.detach().clone()
    distributed.all_reduce(result)
    return result


def part(loss, count, whole=None):
    """What this process's mean loss contributes to the mean over all processes' samples: a share of it.

    loss: scalar, mean over `count` samples; whole: samples of all processes, None: ask them.  The sum of the parts over
    the processes is the mean over all samples.  Where there is one process it is the loss itself.
    """
    if size() == 1:
        return loss
    if whole is None:
        whole = total(torch.tensor(float(count), device=loss.device)).item()
    return loss * (count / whole)


def gradients(loss, parameters, keep_graph=False):
    """Gradient of the sum of all processes' losses; None for parameters that the loss of none of them depends on.

    loss: scalar, this process's part; parameters: list of leaves, the same on all processes.
    The sums are sent while the backward pass still computes the gradients of earlier layers, in buckets, as
    `torch.nn.parallel.DistributedDataParallel` does.  Dense, shapes and dtypes of parameters.
    """
    grads = [None] * len(parameters)
    sums = _Sums(parameters) if size() > 1 else None
    with sums or contextlib.nullcontext():
        if loss.requires_grad:
            grads = grad_of(loss, parameters, retain_graph=keep_graph)
    grads = [g if g is None else g.to_dense() for g in grads]
    return sums.of(grads) if sums else grads


class ParallelOEU(OEU):
    """OEU over several processes: each passes its own shard of both batches, all take the step of the whole batches.

    Arguments as `OEU`; the model is one that `synchronized` went over.  Where there is one process it is `OEU`.
    """

    # a loss counts as this process's part of all, and its gradient is that of the sum of all parts
    part, differentiate = staticmethod(part), staticmethod(gradients)

    def over_all(self, finite, losses):
        """Inputs are finite where they are so on all processes; losses are sums of the parts."""
        return total(finite.float()) == size(), total(losses)


class _Sums:
    """Sums over the processes of the gradients of one backward pass, sent while it runs.

    Buckets are sent in one fixed order, last parameters first, since all processes have to send the same things.
    """

    def __init__(self, parameters):
        self.parameters, self.there, self.sent = parameters, {}, []
        order = list(reversed(range(len(parameters))))
        ends = dict(zip(order, itertools.accumulate(parameters[i].numel() for i in order)))
        self.buckets = [list(bucket) for _, bucket in itertools.groupby(order, lambda i: ends[i] // BUCKET)]

    def __enter__(self):
        self.hooks = [p.register_hook(lambda grad, i=i: self._arrived(i, grad)) for i, p in enumerate(self.parameters)]

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _arrived(self, i, grad):
        self.there[i] = grad.to_dense()
        self._send()

    def _send(self):
        for bucket in self.buckets[len(self.sent) :]:
            if not all(i in self.there for i in bucket):
                return
            grads = [self.there[i] for i in bucket]
            used = torch.tensor([float(g is not None) for g in grads], device=self.parameters[0].device)
            parts = [torch.zeros_like(self.parameters[i]) if g is None else g for i, g in zip(bucket, grads)]
            flat = torch.cat([*(part.reshape(-1) for part in parts), used])  # of halves in float32, as `used` is
            self.sent.append((flat, distributed.all_reduce(flat, async_op=True)))

    def of(self, grads):
        """The sums, of all that arrived and of `grads`, None for a parameter that this process does not use."""
        self.there = dict(enumerate(grads)) | self.there
        self._send()
        result = [None] * len(grads)
        for bucket, (flat, work) in zip(self.buckets, self.sent):
            work.wait()
            *sums, used = flat.split([*(self.parameters[i].numel() for i in bucket), len(bucket)])
            # whether another process uses it is read only where this one does not: reading waits for the device
            used = used.tolist() if any(grads[i] is None for i in bucket) else [1.0] * len(bucket)
            for i, values, processes in zip(bucket, sums, used):
                if processes:
                    result[i] = values.view(self.parameters[i].shape).to(self.parameters[i].dtype)
        return result


def backward(loss, parameters):
    """`loss.backward()` with the sum of all processes' losses: fills `grad` of the parameters, which are leaves."""
    if size() == 1:
        loss.backward()
        return
    for parameter, grad in zip(parameters, gradients(loss, parameters)):
        parameter.grad = grad


class _Total(torch.autograd.Function):
    """`total` that gradients pass through: what every process makes of a sum flows back to each of its terms."""

    @staticmethod
    def forward(ctx, tensor):
        return total(tensor)

    @staticmethod
    def backward(ctx, grad):
        return total(grad)


def synchronized(model):
    """Have every BatchNorm layer and every quantizer see the batches of all processes, in place; returns the model.

    Parameters and buffers keep their names, so that checkpoints fit with and without.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SynchronizedBatchNorm
        elif type(module) is Quantizer:
            module.__class__ = SynchronizedQuantizer
    return model


class SynchronizedQuantizer(Quantizer):
    """Quantizer whose step and sign are set by the first batch of all processes. Arguments as `Quantizer`."""

    def found_in(self, x):
        """Whether any process's batch holds another value than 0, and a negative one."""
        return tuple((total(torch.tensor(super().found_in(x), device=x.device).float()) > 0).tolist())

    def first_step(self, x, q_min, q_max):
        """The mean over all processes' values of what each would take."""
        step = super().first_step(x, q_min, q_max)
        mean = total(part(step * x.any(), x.numel()))  # zeros have a step of 1, which is no mean of anything
        return torch.where(mean > 0, mean, step)


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm with the statistics of all processes' samples, on any device (PyTorch's own wants a GPU).

    Arguments as `nn.BatchNorm2d`.  forward: (N, C, ...) -> the same shape and dtype; statistics of halves in float32.
    """

    def _check_input_dim(self, inputs):
        if inputs.ndim < 2:
            raise ValueError(f"inputs must have shape (N, C, ...), got {tuple(inputs.shape)}")

    def forward(self, inputs):
        if size() == 1 or not (self.training or self.running_mean is None):
            return super().forward(inputs)
        self._check_input_dim(inputs)
        x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *(1 for _ in range(x.ndim - 2)))
        count = total(torch.tensor(x.numel() / x.shape[1], dtype=x.dtype, device=x.device))
        center = _Total.apply(x.sum(axes)) / count
        centered = x - center.view(shape)
        variance = _Total.apply(centered.square().sum(axes)) / count
        if self.training and self.track_running_stats and self.running_mean is not None:
            self._track(center, variance * (count / (count - 1)))
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normalized = normalized * self.weight.view(shape)
        return (normalized if self.bias is None else normalized + self.bias.view(shape)).to(inputs.dtype)

    @torch.no_grad()
    def _track(self, center, variance):
        self.num_batches_tracked.add_(1)
        # without a momentum PyTorch takes the mean over all batches
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        for running, latest in ((self.running_mean, center), (self.running_var, variance)):
            running.copy_(running.to(latest.dtype).lerp(latest, share))
