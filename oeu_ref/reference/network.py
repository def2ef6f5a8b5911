"""A quantized multilayer perceptron differentiated by hand, and one whole OEU step that can be looked at.

Every layer is x -> fake_quantize(x) @ fake_quantize(W).T + b, with a ReLU between layers and no BatchNorm. Parameters
carry the names that `oeu_ref.core.network.QuantMLP` gives them, so that weights travel between the two by name.
"""

from dataclasses import dataclass

import numpy as np

from .. import boundary
from ._checks import array
from .entropy import checked_labels, cross_entropy, entropy, entropy_loss, softmax
from .projection import cosines, oeu_direction, project
from .quantizer import (
    binarize,
    binarize_backward,
    fake_quantize,
    fake_quantize_backward,
    initial_binary_step,
    initial_step,
    integer_range,
    step_gradient_scale,
)


class QuantizedMLP:
    """Multilayer perceptron with quantized weights and activations, float64.

    sizes: widths from inputs to classes, at least two, e.g. (64, 128, 10); weight_bits, activation_bits: 1 to 8,
    "ternary", "binary", or 32 for no quantization; first_last_bits: the width for first and last layer where quantized
    (8 in the field's practice; with two sizes the only layer is both); seed: of weights (He-normal) and biases.

    parameters: dict name -> float64 array, in the order of the layers; for layer i "layers.i.weight" (out, in),
    "layers.i.bias" (out,), "layers.i.weight_quantizer.step" () and "layers.i.activation_quantizer.step" ().
    Raises TypeError or ValueError for sizes below 1, fewer than two sizes, or unknown bit widths.
    Source: the quantized networks of arXiv 2602.00567, at a size that can be read; steps as in LSQ (ICLR 2020).
    """

    def __init__(self, sizes, weight_bits=4, activation_bits=4, first_last_bits=8, seed=0):
        sizes = boundary.sequence("sizes", sizes, "integers")
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least input and output width, got {sizes}")
        sizes = [boundary.integer(f"sizes[{i}]", size, 1) for i, size in enumerate(sizes)]
        boundary.size("sizes", max(a * b for a, b in zip(sizes, sizes[1:])), "weights in a layer")
        last = len(sizes) - 2
        first_last_bits = boundary.bits("first_last_bits", first_last_bits)
        self.weight_bits, self.activation_bits = (
            [first_last_bits if bits != 32 and i in (0, last) else bits for i in range(last + 1)]
            for bits in (boundary.bits("weight_bits", weight_bits), boundary.bits("activation_bits", activation_bits))
        )
        self.signed_inputs = None  # whether the first layer's inputs take both signs: `calibrate` finds out
        rng = np.random.default_rng(boundary.integer("seed", seed, 0))
        self.parameters = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
            weight = rng.normal(0, np.sqrt(2 / fan_in), (fan_out, fan_in))
            self.parameters[f"layers.{i}.weight"] = weight
            # no zeros: without a bias an integer accumulator can be exactly 0, where rounding decides the ReLU's slope
            self.parameters[f"layers.{i}.bias"] = rng.uniform(-1, 1, fan_out) / np.sqrt(fan_in)
            if self.weight_bits[i] != 32:
                self.parameters[f"layers.{i}.weight_quantizer.step"] = _first_step(weight, self.weight_bits[i], True)
            if self.activation_bits[i] != 32:
                self.parameters[f"layers.{i}.activation_quantizer.step"] = np.array(np.nan)

    @property
    def num_layers(self):
        """Number of linear layers."""
        return len(self.weight_bits)

    @property
    def num_classes(self):
        """K, the width of the last layer."""
        return len(self.parameters[f"layers.{self.num_layers - 1}.bias"])

    @property
    def layer_ids(self):
        """Layer label of each parameter, in their order: "layers.i", a layer owning its weight, bias and steps."""
        return [".".join(name.split(".")[:2]) for name in self.parameters]

    def calibrate(self, inputs):
        """Set the activation steps from one batch, layer after layer, as LSQ starts them.

        inputs: (N, in) float.  Changes the network in place and returns it; the first layer's range becomes signed if
        any input is negative.  Raises TypeError or ValueError for bad inputs.
        """
        values = self._checked_inputs(inputs)
        self.signed_inputs = bool((values < 0).any())
        for i in range(self.num_layers):
            if self.activation_bits[i] != 32:
                step = _first_step(values, self.activation_bits[i], self._signed(i))
                self.parameters[f"layers.{i}.activation_quantizer.step"] = step
            values = np.maximum(self._layer_forward(i, values)["outputs"], 0)
        return self

    def forward(self, inputs):
        """Logits of a batch, and all that the backward pass needs.

        inputs: (N, in) float.  Returns (logits (N, K), cache): cache is a list with a dict for each layer: inputs,
        quantized_inputs, quantized_weight, outputs.
        Raises TypeError or ValueError for bad inputs, ValueError before `calibrate` where activations are quantized.
        """
        values = self._checked_inputs(inputs)
        if self.signed_inputs is None:
            if any(bits != 32 for bits in self.activation_bits):
                raise ValueError("the network must know its activation steps: call calibrate(inputs) first")
            self.signed_inputs = True
        cache = []
        for i in range(self.num_layers):
            cache.append(self._layer_forward(i, values))
            values = np.maximum(cache[-1]["outputs"], 0)
        return cache[-1]["outputs"], cache

    def backward(self, cache, grad_logits):
        """Gradient of every parameter, by the chain rule from the last layer to the first.

        cache: of `forward`; grad_logits: (N, K), dL/dz, finite.  Returns dict name -> float64 array, as `parameters`.
        Raises ValueError for a grad_logits of another shape or a non-finite one.
        Source: straight-through estimator for the quantizers, LSQ gradient for their steps.
        """
        grads = {}
        grad_outputs, shape = array("grad_logits", grad_logits), cache[-1]["outputs"].shape
        if grad_outputs.shape != shape:
            raise ValueError(f"grad_logits must have the shape of the logits, {shape}, got {grad_outputs.shape}")
        if not np.isfinite(grad_outputs).all():
            raise ValueError(f"grad_logits must be finite, got {grad_outputs[~np.isfinite(grad_outputs)][0]}")
        for i in reversed(range(self.num_layers)):
            saved = cache[i]
            grads[f"layers.{i}.weight"], grads[f"layers.{i}.weight_quantizer.step"] = self._quantizer_backward(
                f"layers.{i}.weight_quantizer.step",
                grad_outputs.T @ saved["quantized_inputs"],
                self.parameters[f"layers.{i}.weight"],
                self.weight_bits[i],
                signed=True,
                count=self.parameters[f"layers.{i}.weight"].size,
            )
            grads[f"layers.{i}.bias"] = grad_outputs.sum(axis=0)
            grad_inputs, grads[f"layers.{i}.activation_quantizer.step"] = self._quantizer_backward(
                f"layers.{i}.activation_quantizer.step",
                grad_outputs @ saved["quantized_weight"],
                saved["inputs"],
                self.activation_bits[i],
                signed=self._signed(i),
                count=saved["inputs"].shape[1],
            )
            if i > 0:
                grad_outputs = grad_inputs * (cache[i - 1]["outputs"] > 0)  # derivative of the ReLU in between
        return {name: grads[name] for name in self.parameters}

    def probabilities(self, inputs):
        """Predicted probabilities of a batch.  inputs: (N, in) float.  Returns (N, K).  Raises as `forward`."""
        return softmax(self.forward(inputs)[0])

    def _layer_forward(self, i, values):
        weight, bias = self.parameters[f"layers.{i}.weight"], self.parameters[f"layers.{i}.bias"]
        activation_step, weight_step = (f"layers.{i}.{kind}_quantizer.step" for kind in ("activation", "weight"))
        quantized_inputs = self._quantize(activation_step, values, self.activation_bits[i], self._signed(i))
        quantized_weight = self._quantize(weight_step, weight, self.weight_bits[i], signed=True)
        return {
            "inputs": values,
            "quantized_inputs": quantized_inputs,
            "quantized_weight": quantized_weight,
            "outputs": quantized_inputs @ quantized_weight.T + bias,
        }

    def _quantize(self, step_name, x, bits, signed):
        if bits == 32:
            return x
        if bits == "binary" and signed:
            return binarize(x, self._step(step_name))
        return fake_quantize(x, self._step(step_name), *integer_range(bits, signed))

    def _quantizer_backward(self, step_name, grad_out, x, bits, signed, count):
        if bits == 32:
            return grad_out, None
        q_min, q_max = integer_range(bits, signed)
        step, scale = self._step(step_name), step_gradient_scale(count, q_max)
        if bits == "binary" and signed:
            grad_x, grad_step = binarize_backward(grad_out, x, step, scale)
        else:
            grad_x, grad_step = fake_quantize_backward(grad_out, x, step, q_min, q_max, scale)
        return grad_x, np.array(grad_step * np.sign(self.parameters[step_name]))

    def _signed(self, i):
        """Whether the codes of a layer's inputs take both signs; after a ReLU they do not."""
        return i == 0 and bool(self.signed_inputs)

    def _step(self, name):
        # a step that training pushed below zero counts by its magnitude; at zero it must stay a divisor
        return max(abs(float(self.parameters[name])), np.finfo(np.float64).tiny)

    def _checked_inputs(self, inputs):
        inputs = array("inputs", inputs)
        width = self.parameters["layers.0.weight"].shape[1]
        if not np.issubdtype(inputs.dtype, np.floating):
            raise TypeError(f"inputs must be floating point, got dtype {inputs.dtype}")
        if inputs.ndim != 2 or inputs.shape[0] < 1 or inputs.shape[1] != width:
            raise ValueError(f"inputs must have shape (N, {width}) with N >= 1, got {inputs.shape}")
        if not np.isfinite(inputs).all():
            raise ValueError(f"inputs must be finite, got {inputs[~np.isfinite(inputs)][0]}")
        return inputs.astype(np.float64)


def _first_step(x, bits, signed):
    two_signs = bits == "binary" and signed
    return np.array(initial_binary_step(x) if two_signs else initial_step(x, integer_range(bits, signed)[1]))


@dataclass(frozen=True)
class OEUStep:
    """Everything that one OEU step computes, by name, in the order in which it is computed.

    forget_logits, retain_logits (N, K); forget_probabilities, retain_probabilities (N, K); forget_entropy (N,) in nats;
    forget_loss, retain_loss: floats, in nats; forget_grads, retain_grads, projected_grads, direction: dict parameter
    name -> array; cosines: dict layer -> cosine between g_f and g_r; residuals: dict layer -> cosine between g_perp and
    g_r (0 up to rounding for alpha = 1); parameters: dict name -> array, after the step; velocity: the optimizer's
    buffers, to be handed to the next step.
    """

    forget_logits: np.ndarray
    retain_logits: np.ndarray
    forget_probabilities: np.ndarray
    retain_probabilities: np.ndarray
    forget_entropy: np.ndarray
    forget_loss: float
    retain_loss: float
    forget_grads: dict
    retain_grads: dict
    cosines: dict
    projected_grads: dict
    residuals: dict
    direction: dict
    parameters: dict
    velocity: dict


def oeu_step(
    network,
    forget_inputs,
    retain_inputs,
    retain_labels,
    learning_rate,
    alpha=1.0,
    beta=1.0,
    granularity="layer",
    rescale="undo",
    layer="module",
    momentum=0.0,
    weight_decay=0.0,
    velocity=None,
):
    """One OEU step: two gradients, projection, one SGD step. The network itself is left as it is.

    network: a `QuantizedMLP`; forget_inputs (N_f, in), retain_inputs (N_r, in) float; retain_labels (N_r,) integers.
    No forget labels are needed.  learning_rate > 0; alpha, beta, granularity, rescale as in `oeu_direction`; layer:
    "module" (a layer owns its weight, bias and steps) or "tensor" (each array is a layer); momentum, weight_decay,
    velocity as in `sgd_step`.
    Returns an `OEUStep`; `network.parameters = step.parameters` takes the step.
    Raises TypeError or ValueError, naming the argument.
    Source: the OEU algorithm of arXiv 2602.00567: d = g_r + beta g_perp.
    """
    boundary.one_of("layer", layer, boundary.LAYERS)
    boundary.instance("network", network, QuantizedMLP)
    forget_logits, forget_cache = network.forward(forget_inputs)
    retain_logits, retain_cache = network.forward(retain_inputs)
    retain_labels = checked_labels("retain_labels", retain_labels, *retain_logits.shape)
    forget_loss, grad_forget_logits = entropy_loss(forget_logits)
    retain_loss, grad_retain_logits = cross_entropy(retain_logits, retain_labels)
    forget_grads = network.backward(forget_cache, grad_forget_logits)
    retain_grads = network.backward(retain_cache, grad_retain_logits)

    names = list(network.parameters)
    g_f, g_r = list(forget_grads.values()), list(retain_grads.values())
    ids = network.layer_ids if layer == "module" else names
    options = {"granularity": granularity, "layer_ids": ids}
    g_perp = project(g_f, g_r, alpha, rescale=rescale, **options)
    direction = dict(zip(names, oeu_direction(g_f, g_r, alpha, beta, rescale=rescale, **options)))
    layers = list(dict.fromkeys(ids)) if granularity == "layer" else ["global"]
    parameters, velocity = sgd_step(network.parameters, direction, learning_rate, momentum, weight_decay, velocity)
    return OEUStep(
        forget_logits=forget_logits,
        retain_logits=retain_logits,
        forget_probabilities=softmax(forget_logits),
        retain_probabilities=softmax(retain_logits),
        forget_entropy=entropy(forget_logits),
        forget_loss=forget_loss,
        retain_loss=retain_loss,
        forget_grads=forget_grads,
        retain_grads=retain_grads,
        cosines=dict(zip(layers, cosines(g_f, g_r, **options))),
        projected_grads=dict(zip(names, g_perp)),
        residuals=dict(zip(layers, cosines(g_perp, g_r, **options))),
        direction=direction,
        parameters=parameters,
        velocity=velocity,
    )


def sgd_step(parameters, grads, learning_rate, momentum=0.0, weight_decay=0.0, velocity=None):
    """One step of stochastic gradient descent, as PyTorch defines it.

    parameters, grads: dicts name -> array; learning_rate > 0; momentum in [0, 1); weight_decay >= 0; velocity: the dict
    that the previous step returned, None at first.
    Returns (parameters, velocity), new dicts:  v <- momentum v + (g + weight_decay w),  w <- w - learning_rate v.
    Raises TypeError or ValueError for a setting outside its range, or gradients that do not match the parameters.
    """
    _check_settings(learning_rate, momentum, weight_decay)
    _check_alike("grads", grads, parameters)
    if velocity:
        _check_alike("velocity", velocity, parameters)
    velocity = velocity or {name: np.zeros_like(value) for name, value in parameters.items()}
    velocity = {
        name: momentum * velocity[name] + grads[name] + weight_decay * value for name, value in parameters.items()
    }
    return {name: np.asarray(value - learning_rate * velocity[name]) for name, value in parameters.items()}, velocity


def _check_settings(learning_rate, momentum, weight_decay):
    boundary.positive("learning_rate", learning_rate)
    boundary.number("momentum", momentum, 0, 1)
    boundary.number("weight_decay", weight_decay, 0)


def _check_alike(name, arrays, parameters):
    for key, parameter in parameters.items():
        if key not in arrays:
            raise ValueError(f"{name} must hold an array for each parameter, lacks {key}")
        if np.shape(arrays[key]) != np.shape(parameter):
            wanted, found = np.shape(parameter), np.shape(arrays[key])
            raise ValueError(f"{name}[{key!r}] must have the shape of its parameter, {wanted}, got {found}")


def train(network, inputs, labels, epochs, batch_size=64, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, seed=0):
    """Train by minibatch SGD on cross-entropy, with a learning rate that falls linearly to zero.

    network: a `QuantizedMLP`, changed in place (and calibrated on the first batch if it is not yet); inputs (N, in)
    float; labels (N,) integers; epochs, batch_size >= 1; the rest as in `sgd_step`; seed: of the shuffling.
    Returns the mean loss of each epoch, a list of floats in nats.  Raises TypeError or ValueError for bad arguments.
    """
    # all of it before anything moves: a network that stopped in the middle of an epoch is of no use
    boundary.integer("epochs", epochs, 1)
    boundary.integer("batch_size", batch_size, 1)
    _check_settings(learning_rate, momentum, weight_decay)
    inputs = boundary.instance("network", network, QuantizedMLP)._checked_inputs(inputs)
    labels = checked_labels("labels", labels, len(inputs), network.num_classes)
    rng = np.random.default_rng(boundary.integer("seed", seed, 0))
    batches = -(-len(inputs) // batch_size)
    velocity, losses = None, []
    for epoch in range(epochs):
        order = rng.permutation(len(inputs))
        total = 0.0
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
