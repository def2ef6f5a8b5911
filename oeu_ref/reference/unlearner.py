"""One whole step of OEU that can be looked at: everything is computed, and nothing is changed."""

from dataclasses import dataclass

import numpy as np

from ..boundary import ALPHA, BETA, GRANULARITY, LAYER, RESCALE, ForEach, Instance, Labels, of, taking
from .entropy import cross_entropy, entropy, entropy_loss, softmax
from .network import INPUTS, SGD, QuantizedMLP, sgd_step
from .projection import cosines, oeu_direction, project

takes = taking(np)
STEP = {"alpha": ALPHA, "beta": BETA, "granularity": GRANULARITY, "rescale": RESCALE, "layer": LAYER}


@dataclass(frozen=True)
class OEUStep:
    """Everything that one OEU step computes, in the order in which it is computed; losses and entropies in nats."""

    forget_logits: np.ndarray  # (N_f, K)
    retain_logits: np.ndarray  # (N_r, K)
    forget_probabilities: np.ndarray  # (N_f, K)
    retain_probabilities: np.ndarray  # (N_r, K)
    forget_entropy: np.ndarray  # (N_f,)
    forget_loss: float
    retain_loss: float
    forget_grads: dict  # parameter name -> array, as all gradients
    retain_grads: dict
    cosines: dict  # layer -> cosine between g_f and g_r
    projected_grads: dict
    residuals: dict  # layer -> cosine between g_perp and g_r, 0 up to rounding for alpha = 1
    direction: dict
    parameters: dict  # name -> array, after the step
    velocity: dict  # the optimizer's buffers, to be handed to the next step


@takes(
    network=Instance(QuantizedMLP),
    forget_inputs=INPUTS,
    retain_inputs=INPUTS,
    retain_labels=Labels(of("retain_inputs"), of("network", "num_classes")),
    **STEP,
    velocity=ForEach(of("network", "parameters"), optional=True),
    **SGD,
)
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
    Returns an `OEUStep`; `network.parameters = step.parameters` takes the step.  Raises TypeError or ValueError.
    Source: the OEU algorithm of arXiv 2602.00567: d = g_r + beta g_perp.
    """
    forget_logits, forget_cache = network.forward(forget_inputs)
    retain_logits, retain_cache = network.forward(retain_inputs)
    forget_loss, grad_forget_logits = entropy_loss(forget_logits)
    retain_loss, grad_retain_logits = cross_entropy(retain_logits, retain_labels)
    forget_grads = network.backward(forget_cache, grad_forget_logits)
    retain_grads = network.backward(retain_cache, grad_retain_logits)
    names, g_f, g_r = list(network.parameters), list(forget_grads.values()), list(retain_grads.values())
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
