"""The gradient of a loss of somebody else's model, and why there is none where PyTorch refuses."""

import torch
from torch import nn

# what PyTorch says where a model's gradient cannot be taken by `torch.autograd.grad`, or not twice
UNCOMPILED = "not be compiled, for a second backward pass: pass the module that torch.compile was given"
CHECKPOINTED = "checkpoint its activations with use_reentrant=False, for torch.autograd.grad to pass"
REMEDIES = {"use_reentrant": CHECKPOINTED, "double backward": UNCOMPILED, "donated buffers": UNCOMPILED}


def check_differentiable(model):
    """Raise ValueError where PyTorch has no gradients of a model, whatever is enabled: in inference mode."""
    made = (p for p in model.parameters() if not nn.parameter.is_lazy(p))
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in made):
        raise ValueError("model must be built and unlearned outside torch.inference_mode(); nothing was changed")


def grad_of(loss, parameters, **options):
    """`torch.autograd.grad`, None for a parameter that is not used; ValueError with a remedy where it is forbidden."""
    try:
        return torch.autograd.grad(loss, parameters, allow_unused=True, **options)
    except RuntimeError as error:
        for cause, remedy in REMEDIES.items():
            if cause in str(error):
                raise ValueError(f"model must {remedy}; nothing was changed") from error
        raise
