"""Other people's code beside ours, by turns in one run: what of it is installed, and LSQ as textbooks write it.

Quantizers differ in what passes where (`conformance/PEERS.md`). Steps are of PCGrad, which takes out of both gradients
what is in conflict, over all layers as one vector: other mathematics, of the same two passes.
"""

import contextlib
from importlib.metadata import version

import torch
from torch.nn import functional

from ..core.entropy import entropy_loss
from ..core.quantizer import integer_range, step_gradient_scale
from .machine import ROUNDS, image_case, row
from .parts import quantizer_case
from .steps import _step


def peer_figures(machine):
    """A row for each peer: our fake quantizer ÷ its, forward and backward; our step ÷ its."""
    x, quantizer, out, ours = quantizer_case(machine)
    step = quantizer.step.detach().clone().requires_grad_()
    limits = integer_range(4, False)
    with x.device:  # what a peer keeps is made there once, so that no pass pays for moving it
        quantizers = _installed(QUANTIZERS, step_gradient_scale(x[0].numel(), limits[1]), *limits)
    passes = [lambda f=f: torch.autograd.grad(f(x, step), (x, step), out) for f in quantizers.values()]
    name = f"forward and backward, {x.numel() / 1e6:.1f} M values, eager"
    rows = _rows("fake quantizer", name, quantizers, machine.by_turns(ours, *passes))
    model, *data = image_case(machine, 32, batch=32)  # pytorch_optimizer takes no tensor of one number, as steps are
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    steps = _installed(STEPS, model, optimizer, *data)
    if steps:
        times = machine.by_turns(_step(model, optimizer, *data), *steps.values(), rounds=2 * ROUNDS)
        rows += _rows("OEU step", "float ResNet-18, batch 32", steps, times)
    return rows


def _installed(makers, *arguments):
    """{name and version: what its maker makes of the arguments}, without those whose package is missing."""
    found = {}
    for package, make in makers.items():
        with contextlib.suppress(ImportError):
            found[package if package == TEXTBOOK else f"{package} {version(package)}"] = make(*arguments)
    return found


def _rows(what, name, peers, times):
    return [row(f"{what} ÷ {peer}, {name}", times[0], other) for peer, other in zip(peers, times[1:])]


# --- fake quantizers: maps (x, step), of a factor of the step's gradient and the range ------------------------------


def _textbook(factor, q_min, q_max):
    """LSQ (Esser et al. 2020) as its authors' pseudocode has it: rounding and scaling by way of `detach`."""

    def quantized(x, step):
        step = (step - step * factor).detach() + step * factor
        v = (x / step).clamp(q_min, q_max)
        return ((v.round() - v).detach() + v) * step

    return quantized


def _torchao(factor, q_min, q_max):
    from torchao.quantization.quant_primitives import _fake_quantize_affine

    zero = torch.zeros((), dtype=torch.int32)
    return lambda x, step: _fake_quantize_affine(x, x.shape, step, zero, torch.int32, q_min, q_max)


def _brevitas(factor, q_min, q_max):
    from brevitas.core.function_wrapper import TensorClamp
    from brevitas.core.quant import IntQuant

    quant = IntQuant(False, False, torch.nn.Identity(), tensor_clamp_impl=TensorClamp())
    zero, bits = torch.tensor(0.0), torch.tensor(float((q_max + 1).bit_length() - 1))
    return lambda x, step: quant(step, zero, bits, x)


# --- steps: functions of nothing, of a model, its optimizer and both batches ----------------------------------------


def _losses(model, forget, retain):
    return [entropy_loss(model(forget.inputs)), functional.cross_entropy(model(retain.inputs), retain.labels)]


def _torchjd(model, optimizer, *data):
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import backward, jac_to_grad

    def step():
        optimizer.zero_grad(set_to_none=True)
        backward(_losses(model, *data), parallel_chunk_size=1)
        jac_to_grad(model.parameters(), PCGrad())
        optimizer.step()

    return step


def _pytorch_optimizer(model, optimizer, *data):
    from pytorch_optimizer import PCGrad

    surgeon = PCGrad(optimizer)

    def step():
        surgeon.pc_backward(_losses(model, *data))
        surgeon.step()

    return step


TEXTBOOK = "textbook LSQ"
QUANTIZERS = {TEXTBOOK: _textbook, "torchao": _torchao, "brevitas": _brevitas}
STEPS = {"torchjd": _torchjd, "pytorch_optimizer": _pytorch_optimizer}
