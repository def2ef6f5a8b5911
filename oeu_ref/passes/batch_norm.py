"""BatchNorm's running statistics after unlearning: they lag behind the network, and are estimated anew here."""

import torch

from ..boundary import FUNCTION_OR_NONE, Integer, Samples, taking
from .forward import MODEL, in_mode
from .undo import undone

takes = taking(torch)


@takes(model=MODEL, retain_inputs=Samples(), batch_size=Integer(1), share=FUNCTION_OR_NONE)
@torch.no_grad()
def recalibrate_batchnorm(model, retain_inputs, batch_size=256, share=None):
    """Estimate the running statistics of every BatchNorm layer anew, as plain averages over batches of retain inputs.

    model: any `nn.Module`; retain_inputs: (N, ...) tensor, N >= 1, what the model takes; batch_size >= 1: samples of a
    batch, which are as equal in size as N allows; share: what this process passes of a batch, where several normalize
    together (`oeu_ref.distributed.shard`), None: all. The passes are made in the modes of a step of `OEU`: of a
    model in train mode, layers frozen in eval mode keep their statistics. All else stays as it is. InstanceNorm that
    tracks statistics counts as BatchNorm.  Returns the model.
    A running average with momentum 0.1 weighs the last twenty batches or so, most of them of a network that a short
    unlearning run has left behind: in eval mode the network then computes something that no step has looked at.
    Raises TypeError or ValueError for no module, no samples or a batch size below 1.
    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018, section 3.2.
    """
    with undone(model), in_mode(model, True):
        norms = [m for m in model.modules() if getattr(m, "track_running_stats", False) and m.training]
        momenta = [norm.momentum for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
            for i, batch in enumerate(retain_inputs.tensor_split(-(-len(retain_inputs) // batch_size)), 1):
                for norm in norms:
                    norm.momentum = 1 / i
                batch = batch.clone()  # which a model may overwrite
                model(batch if share is None else share(batch))
            found = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        finally:
            for norm, momentum in zip(norms, momenta):
                norm.momentum = momentum
    for buffer, value in found:
        buffer.copy_(value)
    return model
