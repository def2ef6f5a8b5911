"""More unlearning methods of the field, in the notation and behind the interface of `method.py`.

Beside it p(x) are the predictions, p_o(x) those of the original model, in eval mode, K classes.
"""

import copy

import torch
from torch.nn import functional

from .. import boundary
from ..core.entropy import log_softmax
from ..data.samples import Samples
from ..passes import class_logits
from .method import Method, all_logits


class NegGradPlus(Method):
    """NG+: climb the loss of the forget samples while training on the rest.

    Update: SGD along g_r - w grad CE(x_f, y_f). In the code of NegGrad+ the loss is a L_r - (1 - a) L_f, which is this
    with w = (1 - a) / a and the learning rate a times as large.
    Source: NegGrad+ of Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, and its public code;
    among the methods that arXiv 2410.01276 compares.
    """

    def loss_of_forget(self, logits, batch):
        return -self.loss_of_retain(logits, batch)


class UniformTarget(Method):
    """PPU with uniform pseudo-probabilities: teach the forget samples the uniform distribution, and train on the rest.

    Update: SGD along g_r + w grad U(x_f), U(x) = -(1/K) sum_k log p_k(x), the cross-entropy to the uniform target, in
    nats; forget labels are not used. U is KL(uniform || p) + log K where the entropy loss of OEU is KL(p || uniform) -
    log K: U grows without bound as a class's probability vanishes, the entropy does not. Our reading: of PPU the
    uniform target alone, without its optimization of the pseudo-probabilities.
    Source: Zhao et al., "Pseudo-Probability Unlearning", arXiv 2411.02622.
    """

    def loss_of_forget(self, logits, batch):
        return -functional.log_softmax(logits, dim=1).mean()


class Taught(Method):
    """What methods with a teacher share: the original model, kept as it was."""

    def __init__(self, model, forget, settings, generator):
        super().__init__(model, forget, settings, generator)
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def teach(self, inputs):
        """The teacher's logits, (N, K)."""
        return class_logits(self.teacher, inputs)

    def divergence(self, logits, batch):
        """Mean KL(p_o || p) in nats of this process's part of a batch, whose logits (N, K) are given."""
        if not len(logits):
            return logits.sum()
        target, found = (log_softmax.unchecked(z) for z in (self.teach(self.mine(batch).inputs), logits))
        return functional.kl_div(found, target, reduction="batchmean", log_target=True)


class Scrub(Taught):
    """SCRUB: leave the original model on the forget samples, stay with it on the rest.

    Update: SGD along grad (L_r + alpha KL(p_o(x_r) || p(x_r))) - w grad KL(p_o(x_f) || p(x_f)), means over the batch.
    alpha >= 0: 0.5 is ours. The code has a temperature besides, which is 1 here, and ends the ascent before the
    descent: with one batch a step, as in `protocol.py`, the parts take turns, to the end.
    Source: Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, and its public code.
    """

    def __init__(self, model, forget, settings, generator, alpha=0.5):
        super().__init__(model, forget, settings, generator)
        self.alpha = boundary.number("alpha", alpha, 0)

    def loss_of_forget(self, logits, batch):
        return -self.divergence(logits, batch)

    def loss_of_retain(self, logits, batch):
        return super().loss_of_retain(logits, batch) + self.alpha * self.divergence(logits, batch)


class Lotus(Taught):
    """LoTUS: teach the forget samples what the original model says of them, at a temperature that falls as they are
    forgotten, and the rest draws from what it says.

    Update: SGD along grad CE(x_r, y') + w grad S(x_f), y' drawn from p_o(x_r), S the cross-entropy to
    softmax((z_o(x_f) + G) / T), z_o the original's logits, G Gumbel noise; T = exp(alpha (A - aim)), A the accuracy on
    the forget set before each epoch, in [0, 1], aim the original's on images that it never saw; labels serve A alone.
    alpha >= 0: 2 is ours. validation: `Samples` for the aim, None: 0. An epoch is as many steps as it takes to draw as
    many samples as there are to forget. The code uses AdamW, and ends where A falls 0.01 below the aim; here both are
    as for all methods.
    Source: Spartalis et al., "LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty", CVPR 2025 (arXiv
    2503.18314), and its public code.
    """

    def __init__(self, model, forget, settings, generator, alpha=2.0, validation=None):
        super().__init__(model, forget, settings, generator)
        self.alpha = boundary.number("alpha", alpha, 0)
        self.forget = forget
        if validation is not None:
            boundary.instance("validation", validation, Samples, "Samples")
        self.aim = 0.0 if validation is None else self.accuracy(validation)
        self.drawn, self.temperature = 0, self.tempered()

    def state_dict(self):
        return {**super().state_dict(), "drawn": self.drawn, "temperature": self.temperature}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.drawn, self.temperature = state["drawn"], state["temperature"]

    def accuracy(self, samples):
        """Share of samples that the model classifies right in eval mode, in [0, 1]."""
        predicted = all_logits(self.model, samples.inputs).argmax(dim=1)
        return (predicted == samples.labels).sum().item() / len(samples)

    def tempered(self):
        """T as the model is now."""
        return torch.tensor(self.alpha * (self.accuracy(self.forget) - self.aim), device="cpu").exp().item()

    def noisy(self, inputs):
        """The teacher's logits with Gumbel noise: their largest is a draw from its predictions, (N, K)."""
        logits = self.teach(inputs)
        uniform = torch.rand(logits.shape, generator=self.generator, device=self.generator.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return logits - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log().to(logits)

    # drawn for the whole batch, also by a process that needs only its part

    def loss_of_forget(self, logits, batch):
        target = (self.noisy(batch.inputs) / self.temperature).softmax(dim=1)
        return functional.cross_entropy(logits, self.mine(target))

    def loss_of_retain(self, logits, batch):
        return functional.cross_entropy(logits, self.mine(self.noisy(batch.inputs).argmax(dim=1)))

    def step(self, forget, retain):
        losses = super().step(forget, retain)
        self.drawn += 0 if forget is None else len(forget)
        if self.drawn >= len(self.forget):
            self.drawn, self.temperature = 0, self.tempered()
        return losses
