"""BatchNorm's running statistics after unlearning: they lag behind the network, and are estimated anew here."""

import torch
from torch.optim import swa_utils

from ..boundary import FUNCTION_OR_NONE, Integer, Samples, taking
from .stop_rule import MODEL
from .undo import in_mode

takes = taking(torch)


@takes(model=MODEL, retain_inputs=Samples(), batch_size=Integer(1), share=FUNCTION_OR_NONE)
def recalibrate_batchnorm(model, retain_inputs, batch_size=256, share=None):
    """Estimate the running statistics of every BatchNorm layer anew, as plain averages over batches of retain inputs.

    model: any `nn.Module`; retain_inputs: (N, ...) tensor, N >= 1, what the model takes; batch_size >= 1: samples of a
    batch, which are as equal in size as N allows; share: what this process passes of a batch, where several normalize
    together (`oeu_ref.beyond.distributed.shard`), None: all. Weights, modes, momenta and layers without running
    statistics stay as they are; in the passes all layers are in train mode, as in training.  Returns the model.
    A running average with momentum 0.1 weighs the last twenty batches or so, most of them of a network that a short
    unlearning run has left behind: in eval mode the network then computes something that no step has looked at.
    Raises TypeError or ValueError for no module, no samples or a batch size below 1.
    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018, section 3.2.
    """
    batches = retain_inputs.tensor_split(-(-len(retain_inputs) // batch_size))
    with in_mode(model, None):
        batches = (batch.clone() for batch in batches)  # which a model may overwrite
        swa_utils.update_bn(batches if share is None else map(share, batches), model)
    return model
