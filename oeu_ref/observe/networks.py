"""Small networks and batches on which whole steps are tried, each with what can go wrong in a step."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIZES = (6, 9, 7, 4)


class QuantizedLinear(nn.Linear):
    """A weight of 4 bits with a learned step, straight through inside."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step = nn.Parameter(torch.tensor(0.171, dtype=torch.float64))

    def forward(self, x):
        v = self.weight / self.step
        v = torch.where((v >= -8) & (v <= 7), v, v.detach().clamp(-8, 7))
        return functional.linear(x, self.step * (v + (v.round() - v).detach()), self.bias)


class Gain(nn.Module):
    """Multiplies by one number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.3], dtype=torch.float64))

    def forward(self, x):
        return self.weight * x


def model_and_batches(kind, sizes, seed):
    """(model, float64, (forget inputs, retain inputs, retain labels)).

    kind: as in `StepCase` of the laws of whole steps; sizes: of the two batches.
    """
    rng = np.random.default_rng(seed)
    large = 1e4 if kind == "steep" else 1  # inputs and first gradients are as large, the outputs are not
    modules, widths = [], (*SIZES[:-1], 2 if kind == "parallel" else SIZES[-1])
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        linear = (QuantizedLinear if kind == "quantized" else nn.Linear)(fan_in, fan_out, dtype=torch.float64)
        dead = 99 * (kind == "one_layer_zero" and i == 0)
        scale = np.sqrt(2 / fan_in) / (large if i == 0 else 1)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(rng.normal(0, scale, (fan_out, fan_in))))
            linear.bias.copy_(torch.tensor(rng.uniform(-1, 1, fan_out)) - dead)
        modules += [linear, *([nn.BatchNorm1d(fan_out, dtype=torch.float64)] if kind == "batch_norm" else [])]
        modules += [Gain()] * (kind == "one_element" and i == 0) + [nn.ReLU()]
    model = nn.Sequential(*modules[: -2 if kind == "batch_norm" else -1])
    forget, retain = (large * rng.normal(size=(n, SIZES[0])) for n in sizes)
    # certain: a softmax that is 0 and 1 to the last bit
    forget[:: 2 if kind == "one_hot" else 1] *= 1e6 if kind in ("one_hot", "zero_forget") else 1
    retain *= 1e6 if kind == "zero_retain" else 1
    forget, retain, labels = map(torch.tensor, (forget, retain, rng.integers(0, widths[-1], len(retain))))
    return model, [forget, retain, model(retain).argmax(1) if kind == "zero_retain" else labels]


def optimizer(model, groups=1, momentum=0.0, weight_decay=0.0):
    """SGD over the model's trainable parameters, in so many groups with a learning rate each."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    cut = [len(trainable) * i // groups for i in range(groups + 1)]
    groups = [{"params": trainable[a:b], "lr": 0.05 / (i + 1)} for i, (a, b) in enumerate(zip(cut, cut[1:]))]
    return torch.optim.SGD(groups, lr=0.05, momentum=momentum, weight_decay=weight_decay)
