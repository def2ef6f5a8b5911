"""The core behind the NumPy contract for cross-checking, so that it is judged by the laws that judge everybody."""

import types

import numpy as np
import torch

from . import entropy, fast, projection, quantizer, unlearner


class NumPyContract:
    """The six operations of the contract, NumPy in and out, computed by the core.

    dtype: "float64" or "float32"; device: a torch device; mask: the STE mask that it claims, "clip" or "round".
    Each method takes and returns what its namesake in `oeu_ref.reference` does, in arrays of `dtype`.
    """

    OEU = unlearner.OEU

    def __init__(self, dtype="float64", device="cpu", mask="clip"):
        self.DTYPE, self.QUANTIZER_MASK, self.device = dtype, mask, torch.device(device)

    def entropy_loss(self, logits):
        """(loss, grad): a float and (N, K).  logits: (N, K)."""
        logits = self._tensor(logits).requires_grad_()
        loss = entropy.entropy_loss(logits)
        return loss.item(), self._array(torch.autograd.grad(loss, logits)[0])

    def kl_to_uniform(self, logits):
        """(N,) in nats.  logits: (N, K)."""
        return self._array(entropy.kl_to_uniform(self._tensor(logits)))

    def fake_quantize(self, x, step, q_min, q_max):
        """x_hat, the shape of x."""
        return self._array(quantizer.fake_quantize(self._tensor(x), step, q_min, q_max))

    def fake_quantize_backward(self, grad_out, x, step, q_min, q_max, grad_scale=1.0):
        """(grad_x, grad_step), through autograd: the shape of x and a float."""
        x, step = self._tensor(x).requires_grad_(), self._tensor(step).requires_grad_()
        x_hat = quantizer.fake_quantize(x, step, q_min, q_max, grad_scale, self.QUANTIZER_MASK)
        grad_x, grad_step = torch.autograd.grad(x_hat, (x, step), self._tensor(grad_out))
        return self._array(grad_x), grad_step.item()

    def project(self, forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
        """List of arrays, shapes of forget_grads."""
        forget, retain = self.tensors(forget_grads), self.tensors(retain_grads)
        return [self._array(g) for g in projection.project(forget, retain, alpha, granularity, rescale)]

    def oeu_direction(self, forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
        """List of arrays, shapes of forget_grads."""
        forget, retain = self.tensors(forget_grads), self.tensors(retain_grads)
        return [self._array(d) for d in projection.oeu_direction(forget, retain, alpha, beta, granularity, rescale)]

    def _tensor(self, array):
        # as NumPy copies it: many small arrays come here, which torch.tensor takes ten times as long for
        return torch.from_numpy(np.array(array, dtype=self.DTYPE)).to(self.device)

    def tensors(self, arrays):
        """Tensors of `dtype` on the device, copies of a list of arrays."""
        return [self._tensor(a) for a in arrays]

    def _array(self, tensor):
        return tensor.detach().cpu().numpy()


class _FastContract(NumPyContract):
    """With the projection of `oeu_ref.core.fast`, which has to obey the laws that `projection.py` obeys."""

    def project(self, forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
        forget, retain = self.tensors(forget_grads), self.tensors(retain_grads)
        layers = projection.Layers(None, forget, granularity)
        return [self._array(g) for g in fast.projected(forget, retain, layers, alpha, rescale, small=0)]


def only(implementation, *names):
    """These of an implementation's attributes: what is as in another one is judged there."""
    return types.SimpleNamespace(**{name: getattr(implementation, name) for name in names})


float64 = NumPyContract("float64")
float32 = NumPyContract("float32")
float64_round = only(NumPyContract(mask="round"), "QUANTIZER_MASK", "fake_quantize_backward")
fast_float64 = only(_FastContract("float64"), "DTYPE", "project")
fast_float32 = only(_FastContract("float32"), "DTYPE", "project")


def __getattr__(name):
    # made only when asked for: machines without a GPU can import this file
    if name in ("cuda", "cuda_float64"):
        return NumPyContract("float64" if name.endswith("64") else "float32", "cuda")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
