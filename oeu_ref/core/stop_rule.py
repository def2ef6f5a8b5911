"""When to stop: a rule that needs no retrained model."""

import math
import warnings

import torch

from ..boundary import Integer, Samples, taking
from ..passes import MODEL, class_logits, in_mode
from .entropy import entropy

takes = taking(torch)


class EntropyStop:
    """Stop rule: the forget set is forgotten when its mean entropy reaches that of data the model has never seen.

    model: as in `OEU`; forget_inputs, unseen_inputs: (N, ...), what the model takes; unseen ones neither trained on nor
    used for testing (a validation split), and of the forget set's classes in its shares: a class harder than the others
    would count as forgotten from the start, of which a warning tells; batch_size: samples for each forward pass; every
    >= 1: `reached` measures on its first call and on each `every`-th after it, the others answer False at once.
    history: list of (forget entropy, unseen entropy), in nats, one pair for each measurement.
    Raises TypeError or ValueError for empty inputs.
    Source: ours; entropy pushed to its end over-forgets, which the forget-vs-test AUC shows. Others stopped, or set a
    target, without Retrain before: LoTUS (CVPR 2025, arXiv 2503.18314) and ReGUn (arXiv 2603.11210).
    """

    @takes(model=MODEL, forget_inputs=Samples(), unseen_inputs=Samples(), batch_size=Integer(1), every=Integer(1))
    def __init__(self, model, forget_inputs, unseen_inputs, batch_size=1024, every=1):
        self.model, self.forget_inputs, self.unseen_inputs = model, forget_inputs, unseen_inputs
        self.batch_size, self.every, self.calls, self.history = batch_size, every, 0, []

    def reached(self):
        """Measure both entropies on the model as it is now; True once the forget set's is at least the unseen one's."""
        self.calls += 1
        if (self.calls - 1) % self.every:
            return False
        pair = tuple(mean_entropy(self.model, x, self.batch_size) for x in (self.forget_inputs, self.unseen_inputs))
        self.history.append(pair)
        if pair[0] >= pair[1] and len(self.history) == 1:
            warnings.warn(
                f"nothing is to be done: the forget set's mean entropy, {pair[0]:.3g} nats, is that of unseen_inputs "
                "from the start; they must be of the same classes in the same shares",
                stacklevel=2,
            )
        return pair[0] >= pair[1]

    def state_dict(self):
        """Calls and measurements so far, for `load_state_dict` of an object that goes on from there."""
        return {"calls": self.calls, "history": [list(pair) for pair in self.history]}

    def load_state_dict(self, state):
        """Go on where the object stood whose `state_dict` this is."""
        self.calls, self.history = state["calls"], [tuple(pair) for pair in state["history"]]


@takes(model=MODEL, inputs=Samples(), batch_size=Integer(1))
@torch.no_grad()
def mean_entropy(model, inputs, batch_size=1024):
    """Mean entropy of the model's predictions, in eval mode; each module's own mode is put back afterwards.

    model: maps (N, ...) to logits (N, K), -inf for classes that it masks; inputs: (N, ...), N >= 1; batch_size >= 1.
    Returns a float in [0, log K], in nats.  Raises ValueError for other logits that are not finite.
    """
    total = 0.0
    with in_mode(model):
        for batch in inputs.split(batch_size):
            total += entropy.unchecked(class_logits(model, batch)).sum().item()
    if not math.isfinite(total):
        raise ValueError("the model's logits must be finite, or -inf for classes that it masks, got NaN or infinity")
    return total / len(inputs)
