"""A quantized multilayer perceptron differentiated by hand, and a step of SGD for it.

Every layer is x -> fake_quantize(x) @ fake_quantize(W).T + b, with a ReLU between layers and no BatchNorm. Parameters
carry the names that `oeu_ref.core.network.QuantMLP` gives them, so that weights travel between the two by name.

inputs: (N, in) float, finite. What is none of these, or a setting outside its range, raises TypeError or ValueError,
naming the argument.
"""

import numpy as np

from ..boundary import Bits, Floats, ForEach, Instance, Integer, Like, Number, Positive, Sizes, of, taking
from . import quantizer
from .entropy import softmax
from .quantizer import integer_range

takes = taking(np)
OWN_INPUTS, INPUTS = (Floats("N", of(network, "num_inputs")) for network in ("self", "network"))
SGD = {"learning_rate": Positive(), "momentum": Number(0, 1), "weight_decay": Number(0)}


class QuantizedMLP:
    """Multilayer perceptron with quantized weights and activations, float64.

    sizes: widths from inputs to classes, at least two, e.g. (64, 128, 10); weight_bits, activation_bits: 1 to 8,
    "ternary", "binary", or 32 for no quantization; first_last_bits: the width for first and last layer where quantized
    (8 in the field's practice; with two sizes the only layer is both); seed: of weights (He-normal) and biases.

    parameters: dict name -> float64 array, in the order of the layers; for layer i "layers.i.weight" (out, in),
    "layers.i.bias" (out,), "layers.i.weight_quantizer.step" () and "layers.i.activation_quantizer.step" ().
    num_layers, num_inputs, num_classes: of linear layers, the width of the first one's inputs, and K of the last.
    Source: the quantized networks of arXiv 2602.00567, at a size that can be read; steps as in LSQ (ICLR 2020).
    """

    @takes(sizes=Sizes(), weight_bits=Bits(), activation_bits=Bits(), first_last_bits=Bits(), seed=Integer(0))
    def __init__(self, sizes, weight_bits=4, activation_bits=4, first_last_bits=8, seed=0):
        last = len(sizes) - 2
        self.num_layers, self.num_inputs, self.num_classes = last + 1, sizes[0], sizes[-1]
        self.weight_bits, self.activation_bits = (
            [first_last_bits if bits != 32 and i in (0, last) else bits for i in range(last + 1)]
            for bits in (weight_bits, activation_bits)
        )
        self.signed_inputs = None  # whether the first layer's inputs take both signs: `calibrate` finds out
        rng = np.random.default_rng(seed)
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
    def layer_ids(self):
        """Layer label of each parameter, in their order: "layers.i", a layer owning its weight, bias and steps."""
        return [".".join(name.split(".")[:2]) for name in self.parameters]

    @takes(inputs=OWN_INPUTS)
    def calibrate(self, inputs):
        """Set the activation steps from one batch, layer after layer, as LSQ starts them.

        Changes the network in place and returns it; the first layer's range becomes signed if any input is negative.
        """
        self.signed_inputs = bool((inputs < 0).any())
        for i in range(self.num_layers):
            bits, signed, name = self._quantizer(i, "activation")
            if bits != 32:
                self.parameters[name] = _first_step(inputs, bits, signed)
            inputs = np.maximum(self._layer_forward(i, inputs)["outputs"], 0)
        return self

    @takes(inputs=OWN_INPUTS)
    def forward(self, inputs):
        """Logits of a batch, and all that the backward pass needs.

        Returns (logits (N, K), cache): cache is a list with a dict for each layer: inputs, quantized_inputs,
        quantized_weight, outputs.  Raises ValueError before `calibrate` where activations are quantized.
        """
        if self.signed_inputs is None:
            if any(bits != 32 for bits in self.activation_bits):
                raise ValueError("the network must know its activation steps: call calibrate(inputs) first")
            self.signed_inputs = True
        cache = []
        for i in range(self.num_layers):
            cache.append(self._layer_forward(i, inputs))
            inputs = np.maximum(cache[-1]["outputs"], 0)
        return cache[-1]["outputs"], cache

    @takes(cache=Instance(list), grad_logits=Like(of("cache", lambda cache: cache[-1]["outputs"]), "the logits"))
    def backward(self, cache, grad_logits):
        """Gradient of every parameter, by the chain rule from the last layer to the first.

        cache: of `forward`; grad_logits: (N, K), dL/dz, finite.  Returns dict name -> float64 array, as `parameters`.
        Source: straight-through estimator for the quantizers, LSQ gradient for their steps.
        """
        grads, grad_outputs = {}, grad_logits
        for i in reversed(range(self.num_layers)):
            saved, weight = cache[i], self.parameters[f"layers.{i}.weight"]
            grad_weight = grad_outputs.T @ saved["quantized_inputs"]
            grad_inputs = grad_outputs @ saved["quantized_weight"]
            grads[f"layers.{i}.bias"] = grad_outputs.sum(axis=0)
            grads[f"layers.{i}.weight"] = self._quantizer_backward(i, "weight", grad_weight, weight, grads)
            grad_inputs = self._quantizer_backward(i, "activation", grad_inputs, saved["inputs"], grads)
            if i > 0:
                grad_outputs = grad_inputs * (cache[i - 1]["outputs"] > 0)  # derivative of the ReLU in between
        return {name: grads[name] for name in self.parameters}

    @takes(inputs=OWN_INPUTS)
    def probabilities(self, inputs):
        """Predicted probabilities of a batch, (N, K).  Raises as `forward`."""
        return softmax(self.forward(inputs)[0])

    def _layer_forward(self, i, values):
        weight, bias = self.parameters[f"layers.{i}.weight"], self.parameters[f"layers.{i}.bias"]
        inputs, weight = self._quantize(i, "activation", values), self._quantize(i, "weight", weight)
        outputs = inputs @ weight.T + bias
        return {"inputs": values, "quantized_inputs": inputs, "quantized_weight": weight, "outputs": outputs}

    def _quantize(self, i, kind, x):
        bits, signed, name = self._quantizer(i, kind)
        if bits == 32:
            return x
        if bits == "binary" and signed:
            return quantizer.binarize(x, self._step(name))
        return quantizer.fake_quantize(x, self._step(name), *integer_range(bits, signed))

    def _quantizer_backward(self, i, kind, grad_out, x, grads):
        """Gradient of what entered a quantizer; that of its step goes to grads."""
        bits, signed, name = self._quantizer(i, kind)
        if bits == 32:
            return grad_out
        q_min, q_max = integer_range(bits, signed)
        scale = quantizer.step_gradient_scale(x.size if kind == "weight" else x.shape[1], q_max)
        if bits == "binary" and signed:
            grad_x, grad_step = quantizer.binarize_backward(grad_out, x, self._step(name), scale)
        else:
            grad_x, grad_step = quantizer.fake_quantize_backward(grad_out, x, self._step(name), q_min, q_max, scale)
        grads[name] = np.array(grad_step * np.sign(self.parameters[name]))
        return grad_x

    def _quantizer(self, i, kind):
        """(bits, whether codes take both signs, name of the step) of a layer's "weight" or "activation" quantizer."""
        bits = self.weight_bits if kind == "weight" else self.activation_bits
        # after a ReLU no value is negative
        signed = kind == "weight" or (i == 0 and bool(self.signed_inputs))
        return bits[i], signed, f"layers.{i}.{kind}_quantizer.step"

    def _step(self, name):
        # a step that training pushed below zero counts by its magnitude; at zero it must stay a divisor
        return max(abs(float(self.parameters[name])), np.finfo(np.float64).tiny)


def _first_step(x, bits, signed):
    two_signs = bits == "binary" and signed
    step = quantizer.initial_binary_step(x) if two_signs else quantizer.initial_step(x, integer_range(bits, signed)[1])
    return np.array(step)


@takes(
    parameters=Instance(dict),
    grads=ForEach(of("parameters")),
    velocity=ForEach(of("parameters"), optional=True),
    **SGD,
)
def sgd_step(parameters, grads, learning_rate, momentum=0.0, weight_decay=0.0, velocity=None):
    """One step of stochastic gradient descent, as PyTorch defines it.

    parameters, grads: dicts name -> array; learning_rate > 0; momentum in [0, 1); weight_decay >= 0; velocity: the dict
    that the previous step returned, None at first.
    Returns (parameters, velocity), new dicts:  v <- momentum v + (g + weight_decay w),  w <- w - learning_rate v.
    """
    velocity = velocity or {name: np.zeros_like(value) for name, value in parameters.items()}
    velocity = {name: momentum * velocity[name] + grads[name] + weight_decay * w for name, w in parameters.items()}
    return {name: np.asarray(w - learning_rate * velocity[name]) for name, w in parameters.items()}, velocity
