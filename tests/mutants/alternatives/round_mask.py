"""Right, with the other convention: the straight-through gradient tests the rounded value, as PyTorch's own do."""

import torch

QUANTIZER_MASK = "round"


def fake_quantize(x, step, q_min, q_max):
    # rounded before it is clipped, which is the same; torch.fake_quantize_per_tensor_affine would round the step to
    # float32 whatever the dtype of x
    return (torch.round(torch.tensor(x) / step).clamp(q_min, q_max) * step).numpy()


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    v = torch.tensor(x) / step
    codes = torch.round(v)
    inside = (codes >= q_min) & (codes <= q_max)
    slope = torch.where(inside, codes - v, codes.clamp(q_min, q_max))
    grad_out = torch.tensor(grad_out)
    return (grad_out * inside).numpy(), (grad_out * slope).sum().item() * grad_scale
