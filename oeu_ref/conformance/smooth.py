"""A smooth network (tanh, no quantizer), on which "first order" has a meaning: losses and gradients by hand."""

import numpy as np

from ..reference.entropy import cross_entropy, entropy_loss


class SmoothNet:
    """A tanh network with one hidden layer, a forget batch and a retain batch, all drawn from `seed`.

    parameters: list of float64 arrays W1 (8, 6), b1 (8,), W2 (4, 8), b2 (4,).
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.forget_inputs, self.retain_inputs = rng.normal(size=(6, 6)), rng.normal(size=(12, 6))
        self.retain_labels = rng.integers(0, 4, 12)
        self.parameters = [rng.normal(size=shape) for shape in ((8, 6), (8,), (4, 8), (4,))]

    def forget_loss(self, parameters):
        """(loss, gradients) of the forget batch's entropy loss."""
        return self._loss(parameters, self.forget_inputs, entropy_loss)

    def retain_loss(self, parameters):
        """(loss, gradients) of the retain batch's cross-entropy."""
        return self._loss(parameters, self.retain_inputs, lambda z: cross_entropy(z, self.retain_labels))

    def moved(self, direction, distance):
        """Parameters a `distance` along minus `direction`, measured in units of the direction's length."""
        length = np.sqrt(sum((d**2).sum() for d in direction))
        return [w - distance / length * d for w, d in zip(self.parameters, direction)]

    @staticmethod
    def _loss(parameters, inputs, loss_of_logits):
        w1, b1, w2, b2 = parameters
        hidden = np.tanh(inputs @ w1.T + b1)
        loss, grad_logits = loss_of_logits(hidden @ w2.T + b2)
        grad_hidden = grad_logits @ w2 * (1 - hidden**2)
        return loss, [grad_hidden.T @ inputs, grad_hidden.sum(axis=0), grad_logits.T @ hidden, grad_logits.sum(axis=0)]
