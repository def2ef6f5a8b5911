"""The core behind the NumPy contract for cross-checking, so that it is judged by the laws that judge everybody."""

import types

import numpy as np
import torch

from ..tensors import Layers, stretches
from . import entropy, fast, projection, quantizer, unlearner


class NumPyContract:
    """The six operations of the contract, NumPy in and out, computed by the core.

    dtype: "float64" or "float32"; device: a torch device; mask: the STE mask that it claims, "clip" or "round".
    Each method takes and returns what its namesake in `oeu_ref.reference` does, in arrays of `dtype`; gradients are
    autograd's.
    """

    OEU = unlearner.OEU

    def __init__(self, dtype="float64", device="cpu", mask="clip"):
        self.DTYPE, self.QUANTIZER_MASK, self.device = dtype, mask, torch.device(device)

    def entropy_loss(self, logits):
        """(loss, grad): a float and (N, K).  logits: (N, K)."""
        logits = self.tensors(logits).requires_grad_()
        loss = entropy.entropy_loss(logits)
        return loss.item(), self._arrays(*torch.autograd.grad(loss, logits))

    def kl_to_uniform(self, logits):
        """(N,) in nats.  logits: (N, K)."""
        return self._arrays(entropy.kl_to_uniform(self.tensors(logits)))

    def fake_quantize(self, x, step, q_min, q_max):
        """x_hat, the shape of x."""
        return self._arrays(quantizer.fake_quantize(self.tensors(x), step, q_min, q_max))

    def fake_quantize_backward(self, grad_out, x, step, q_min, q_max, grad_scale=1.0):
        """(grad_x, grad_step): the shape of x and a float."""
        x, step = self.tensors(x).requires_grad_(), self.tensors(step).requires_grad_()
        x_hat = quantizer.fake_quantize(x, step, q_min, q_max, grad_scale, self.QUANTIZER_MASK)
        grad_x, grad_step = torch.autograd.grad(x_hat, (x, step), self.tensors(grad_out))
        return self._arrays(grad_x), grad_step.item()

    def project(self, forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
        """List of arrays, shapes of forget_grads."""
        gradients = self.tensors(forget_grads), self.tensors(retain_grads)
        return self._arrays(projection.project(*gradients, alpha, granularity, rescale))

    def oeu_direction(self, forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
        """List of arrays, shapes of forget_grads."""
        gradients = self.tensors(forget_grads), self.tensors(retain_grads)
        return self._arrays(projection.oeu_direction(*gradients, alpha, beta, granularity, rescale))

    def tensors(self, arrays):
        """Tensor of `dtype` on the device, a copy of an array; a list of them of a list."""
        if isinstance(arrays, list):
            return [self.tensors(array) for array in arrays]
        # as NumPy copies it: many small arrays come here, which torch.tensor takes ten times as long for
        return torch.from_numpy(np.array(arrays, dtype=self.DTYPE)).to(self.device)

    def _arrays(self, tensors):
        return [self._arrays(t) for t in tensors] if isinstance(tensors, list) else tensors.detach().cpu().numpy()


class _FastContract(NumPyContract):
    """With `fast.py` and `oeu_ref.tensors.stretches`, which have to obey the laws that the readable files obey."""

    def fake_quantize(self, x, step, q_min, q_max):
        """x_hat, the shape of x."""
        return self._arrays(stretches.fake_quantized(self.tensors(x), self.tensors(step), q_min, q_max))

    def fake_quantize_backward(self, grad_out, x, step, q_min, q_max, grad_scale=1.0):
        """(grad_x, grad_step): the shape of x and a float."""
        inputs = (self.tensors(array) for array in (grad_out, x, step))
        grad_x, grad_step = stretches.fake_quantize_backward(*inputs, q_min, q_max, grad_scale, self.QUANTIZER_MASK)
        return self._arrays(grad_x), grad_step.item()

    def project(self, forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
        forget, retain = self.tensors(forget_grads), self.tensors(retain_grads)
        layers = Layers(None, forget, granularity)
        return self._arrays(fast.projected(forget, retain, layers, alpha, rescale, small=0))


def only(implementation, *names):
    """These of an implementation's attributes: what is as in another one is judged there."""
    return types.SimpleNamespace(**{name: getattr(implementation, name) for name in names})


float64 = NumPyContract("float64")
float32 = NumPyContract("float32")
float64_round = only(NumPyContract(mask="round"), "QUANTIZER_MASK", "fake_quantize_backward")
_OF_FAST = ("DTYPE", "QUANTIZER_MASK", "project", "fake_quantize", "fake_quantize_backward")
fast_float64 = only(_FastContract("float64"), *_OF_FAST)
fast_float32 = only(_FastContract("float32", mask="round"), *_OF_FAST)


def __getattr__(name):
    # made only when asked for: machines without a GPU can import this file
    if name in ("cuda", "cuda_float64"):
        return NumPyContract("float64" if name.endswith("64") else "float32", "cuda")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
