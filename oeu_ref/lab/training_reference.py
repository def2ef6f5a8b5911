"""Training of the reference's perceptron, in NumPy alone: a network that has something to forget.

`oeu_ref.lab.training.train` does it for networks in PyTorch.  inputs: (N, in) float, finite; labels: (N,) integers in
[0, K). What is none of these, or a setting outside its range, raises TypeError or ValueError, naming the argument.
"""

import numpy as np

from ..boundary import Instance, Integer, Labels, of, taking
from ..reference.entropy import cross_entropy
from ..reference.network import INPUTS, SGD, QuantizedMLP, sgd_step

takes = taking(np)


@takes(
    network=Instance(QuantizedMLP),
    inputs=INPUTS,
    labels=Labels(of("inputs"), of("network", "num_classes")),
    epochs=Integer(1),
    batch_size=Integer(1),
    seed=Integer(0),
    **SGD,
)
def train(network, inputs, labels, epochs, batch_size=64, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, seed=0):
    """Train by minibatch SGD on cross-entropy, with a learning rate that falls linearly to zero.

    network: a `QuantizedMLP`, changed in place (and calibrated on the first batch if it is not yet); epochs,
    batch_size >= 1; the rest as in `sgd_step`; seed: of the shuffling.
    Returns the mean loss of each epoch, a list of floats in nats.
    """
    rng = np.random.default_rng(seed)
    batches = -(-len(inputs) // batch_size)
    velocity, losses = None, []
    for epoch in range(epochs):
        order, total = rng.permutation(len(inputs)), 0.0
        for i in range(batches):
            batch = order[i * batch_size : (i + 1) * batch_size]
            if network.signed_inputs is None:
                network.calibrate(inputs[batch])
            logits, cache = network.forward(inputs[batch])
            loss, grad_logits = cross_entropy(logits, labels[batch])
            rate = learning_rate * (1 - (epoch * batches + i) / (epochs * batches))
            network.parameters, velocity = sgd_step(
                network.parameters, network.backward(cache, grad_logits), rate, momentum, weight_decay, velocity
            )
            total += loss * len(batch)
        losses.append(total / len(inputs))
    return losses
