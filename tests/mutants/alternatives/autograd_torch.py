"""Right, another way: PyTorch's autograd finds every gradient, and the projection solves for its coefficient."""

import torch

DTYPE = "float64"
QUANTIZER_MASK = "clip"
KIND = torch.float64


def tensor(array):
    """A copy as tensor."""
    return torch.tensor(array, dtype=KIND)


def entropy_loss(logits):
    z = tensor(logits).requires_grad_()
    loss = -torch.distributions.Categorical(logits=z).entropy().mean()
    (grad,) = torch.autograd.grad(loss, z)
    return loss.item(), grad.numpy()


def kl_to_uniform(logits):
    z = tensor(logits)
    uniform = torch.full_like(z, 1 / z.shape[1])
    return torch.nn.functional.kl_div(uniform.log(), z.log_softmax(1), reduction="none", log_target=True).sum(1).numpy()


def surrogate(x, step, q_min, q_max):
    """The quantizer with the straight-through estimator written as a detached difference."""
    ratio = x / step
    # torch.clamp itself stops the gradient at the exact ends in recent versions
    v = torch.where((ratio >= q_min) & (ratio <= q_max), ratio, ratio.detach().clamp(q_min, q_max))
    return (v + (torch.round(v) - v).detach()) * step


def fake_quantize(x, step, q_min, q_max):
    return surrogate(tensor(x), tensor(step), q_min, q_max).numpy()


def fake_quantize_backward(grad_out, x, step, q_min, q_max, grad_scale=1.0):
    x, step = tensor(x).requires_grad_(), tensor(step).requires_grad_()
    grads = torch.autograd.grad(surrogate(x, step, q_min, q_max), (x, step), tensor(grad_out))
    return grads[0].numpy(), grads[1].item() * grad_scale


def project_vector(f, r, alpha, rescale):
    if not r.any() or not f.any():
        return f.clone()
    r = r / torch.linalg.vector_norm(r)
    part = torch.dot(f, r)
    rest = f - part * r
    rest = rest - torch.dot(rest, r) * r
    result = rest + (1 - alpha) * part * r
    size, original = torch.linalg.vector_norm(result), torch.linalg.vector_norm(f)
    if size < (1e-12 if KIND == torch.float64 else 1e-6) * original:
        return torch.zeros_like(f)
    return result * original / size if rescale == "match" else result


def project(forget_grads, retain_grads, alpha=1.0, granularity="layer", rescale="undo"):
    forget, retain = [tensor(g) for g in forget_grads], [tensor(g) for g in retain_grads]
    if granularity == "global":
        vector = torch.nn.utils.parameters_to_vector
        whole = project_vector(vector(forget), vector(retain), alpha, rescale)
        parts = whole.split([g.numel() for g in forget])
    else:
        parts = [project_vector(f.flatten(), r.flatten(), alpha, rescale) for f, r in zip(forget, retain)]
    return [p.clone().reshape(f.shape).numpy() for p, f in zip(parts, forget)]


def oeu_direction(forget_grads, retain_grads, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
    parts = project(forget_grads, retain_grads, alpha, granularity, rescale)
    return [(tensor(r) + beta * tensor(p)).numpy() for p, r in zip(parts, retain_grads)]


class OEU:
    """The step through `.backward()`, tensor by tensor, as most gradient-surgery code is written."""

    def __init__(self, model, optimizer, alpha=1.0, beta=1.0, granularity="layer", rescale="undo"):
        self.model, self.optimizer = model, optimizer
        self.beta, self.options = beta, (alpha, granularity, rescale)

    def gradients(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        return [p.grad.numpy().copy() for p in self.parameters]

    def step(self, forget_inputs, retain_inputs, retain_labels):
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        forget = self.gradients(-torch.distributions.Categorical(logits=self.model(forget_inputs)).entropy().mean())
        retain = self.gradients(torch.nn.functional.cross_entropy(self.model(retain_inputs), retain_labels))
        alpha, granularity, rescale = self.options
        for p, d in zip(self.parameters, oeu_direction(forget, retain, alpha, self.beta, granularity, rescale)):
            p.grad = torch.from_numpy(d)
        self.optimizer.step()
