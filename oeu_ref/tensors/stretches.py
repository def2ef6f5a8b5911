"""Large tensors on a CPU, a stretch at a time, so that what lies between operations stays in the cache.

Memory is what large tensors wait for: as Linux comes, pages given back and got anew cost more than all arithmetic.
`products` serves `core/fast.py`. `fake_quantized` and `fake_quantize_backward` stand in for what `core/quantizer.py`
has, the file to read: the same values to the bit, but for the order in which the step's gradient is summed.
"""

import torch

STRETCH = 1 << 18  # elements of a stretch
LARGE = 1 << 17  # elements up to which a tensor stays in the cache by itself


def stretches(*tensors):
    """Tensors of one shape as vectors with elements in the order of the first's memory, cut into stretches.

    Yields a tuple for each stretch; where all have that order, no copy is made.
    """
    axes = _axes(tensors[0])
    return zip(*(t.permute(axes).reshape(-1).split(STRETCH) for t in tensors))


def products(first, second, ids, count):
    """|first|^2, |second|^2 and <first, second> of each layer: (3, count), float64.

    first, second: lists of tensors of pairwise the same shape; ids: the number of each one's layer, below count.
    """
    sums, owners = [], []
    held = first[0].new_empty(STRETCH)
    for layer, a, b in zip(ids, first, second):
        large = a.numel() > STRETCH
        for x, y in stretches(a, b) if large else [(a, b)]:
            z = held[: len(x)] if large else None
            # PyTorch sums pairwise: exact on large tensors too, as its norms and inner products are not
            for p, q in ((x, x), (y, y), (x, y)):
                sums.append(torch.mul(p, q, out=z).sum().item())
            owners.append(layer)
    values = torch.tensor(sums, dtype=torch.float64, device=held.device).view(-1, 3)
    return values.new_zeros(count, 3).index_add_(0, torch.tensor(owners, device=values.device), values).T


def worthwhile(x):
    """Whether a tensor is large, in the CPU's memory without gaps, and there to be computed with, not to be traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    plain = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"
    if not plain or x.dtype not in (torch.float32, torch.float64) or x.numel() <= LARGE:
        return False
    return x.permute(_axes(x)).is_contiguous()


def fake_quantized(x, step, q_min, q_max):
    """x_hat, in the memory format of x.  x: as `worthwhile` says; step: 0-d tensor; q_min, q_max: integers."""
    x_hat = torch.empty_like(x)
    for values, result in stretches(x, x_hat):
        torch.div(values, step, out=result).clamp_(q_min, q_max).round_().mul_(step)
    return x_hat


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale, mask):
    """(grad_x, grad_step), the first in the memory format of x.

    grad_out: the shape and dtype of x; grad_scale: a number; mask: "clip" or "round"; all else as above.
    """
    grad_x, sums = torch.empty_like(x), []
    held = x.new_empty(3, min(STRETCH, x.numel()))
    for values, grad, result in stretches(x, grad_out, grad_x):
        v, code, inside = held[:, : len(values)]
        torch.div(values, step, out=v)
        tested = torch.round(v, out=inside) if mask == "round" else v
        torch.clamp(tested, q_min, q_max, out=code)
        torch.eq(tested, code, out=inside)  # 1.0 or 0.0: operations on bools take five times as long
        code.round_().sub_(_where(inside, v, out=v))  # the step's slope
        sums.append(code.mul_(grad).sum())
        _where(inside, grad, out=result)
    return grad_x, (grad_scale * torch.stack(sums).sum()).to(step.dtype)


def _where(inside, values, out):
    """The values where inside is 1, and 0 where it is 0, whatever they are there."""
    return torch.ops.aten.threshold_backward.grad_input(values, inside, 0.5, grad_input=out)


def _axes(x):
    return sorted(range(x.ndim), key=x.stride, reverse=True)  # channels-last, for instance
