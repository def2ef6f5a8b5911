"""`observe`: training scripts that nobody wrote for it, whose steps are told apart, and which run as without it."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from oeu_ref.core import OEU, QuantMLP, entropy_loss, project
from oeu_ref.observe import observe


def network(dropout=0.0, dtype=torch.float32):
    """A small convolutional network with BatchNorm."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 3)]
    return nn.Sequential(*layers).to(dtype)


def loaders(dtype=torch.float32):
    """(forget, retain): DataLoaders that shuffle, the retain set's twice as long."""
    rng = torch.Generator().manual_seed(5)
    sets = [TensorDataset(torch.randn(n, 1, 6, 6, generator=rng, dtype=dtype), torch.arange(n) % 3) for n in (16, 32)]
    return [DataLoader(s, batch_size=b, shuffle=True) for s, b in zip(sets, (4, 8))]


def script(seen, model, optimizer, forget, retain, mode="train", layers="tensor", **settings):
    """A training loop as a stranger writes one; seen: the observer, or None. Returns the losses."""
    if seen:
        forget, retain = seen.forget(itertools.cycle(forget)), seen.retain(retain)
    losses = []
    for (x_f, y_f), (x_r, y_r) in zip(forget, retain):
        model.train(mode == "train")
        loss_f, loss_r = (
            LOSSES[settings.get("loss", "entropy")](model(x_f), y_f),
            functional.cross_entropy(model(x_r), y_r),
        )
        parameters = list(model.parameters())
        g_f, g_r = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (loss_f, loss_r))
        optimizer.zero_grad()
        ids = [name.rpartition(".")[0] for name, _ in model.named_parameters()] if layers == "module" else None
        options = {name: settings[name] for name in ("alpha", "granularity", "rescale") if name in settings}
        g_perp = project(g_f, g_r, **options, layer_ids=ids)
        for p, r, f in zip(parameters, g_r, g_perp):
            p.grad = settings.get("weight", 1.0) * (r + settings.get("beta", 1.0) * f)
        if "hidden" in settings:
            parameters[settings["hidden"]].grad = None
        optimizer.step()
        losses.append((loss_f.item(), loss_r.item()))
    return losses


LOSSES = {
    "entropy": lambda z, y: entropy_loss(z),
    "ascent": lambda z, y: -functional.cross_entropy(z, y),
    "uniform": lambda z, y: -z.log_softmax(1).mean(),
    "twice": lambda z, y: entropy_loss(z.softmax(1)),
    "sum": lambda z, y: entropy_loss(z) * len(z),
    "other": lambda z, y: z.square().mean(),
}
STEPS = [  # settings of the script, and what its report must say
    ({"beta": 0.3}, "layer-wise (tensors), alpha = 1, beta = 0.3, undo, BatchNorm in train mode"),
    ({"mode": "eval"}, "layer-wise (tensors), alpha = 1, beta = 1, undo, BatchNorm in eval mode"),
    ({"layers": "module", "alpha": 0.5}, "layer-wise (modules), alpha = 0.5, beta = 1, undo, BatchNorm in train mode"),
    ({"rescale": "match", "beta": 2.0}, "layer-wise (tensors), alpha = 1, beta = 2, match, BatchNorm in train mode"),
    ({"granularity": "global", "beta": 2.0}, "global, alpha = 1, beta = 2, undo, BatchNorm in train mode"),
    ({"loss": "sum"}, "layer-wise (tensors), alpha = 1, beta = 4, undo, BatchNorm in train mode"),
    ({"alpha": 0.0}, "no OEU step: no projection (alpha = 0), beta = 1"),
    ({"beta": 0.0}, "no OEU step: the retain gradient alone"),
    ({"beta": 0.3, "weight": 0.5}, "no OEU step: 0.5 times the step with layer-wise (tensors), alpha = 1, beta = 0.3"),
    ({"loss": "ascent"}, "gradient ascent on the forget labels in place of entropy"),
    ({"loss": "uniform"}, "uniform labels in place of entropy"),
    ({"loss": "twice"}, "softmax applied twice"),
    ({"loss": "other"}, "no OEU step: d is no known combination of the two gradients"),
    ({"hidden": 1}, "and no gradient for 0.bias"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("settings", "words"), STEPS, ids=lambda value: str(value)[:40])
def test_what_a_script_does_is_said_in_words(settings, words, dtype):
    """Every step of a run is recognized: which OEU step it is, or what it is instead."""
    model = network(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    seen = observe(model, optimizer)
    script(seen, model, optimizer, *loaders(dtype), **settings)
    assert len(seen.findings) == 4 and all(words in str(finding) for finding in seen.findings), seen.report()
    assert seen.report().startswith("4 of 4 steps, first 1: ") or not seen.findings[0].oeu
    for finding in seen.findings:
        assert finding.oeu == (not str(finding).startswith("no OEU step"))
        if (
            finding.oeu
            and "alpha = 1" in finding.words
            and "global" not in finding.words
            and "eval" not in finding.words
        ):
            assert max(abs(after) for _, after in finding.cosines.values()) < (1e-2 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_run_is_the_same_to_the_bit(dropout):
    """Weights, statistics, the optimizer's buffers, losses and random numbers are those of a run without observer."""
    ends = []
    for watched in (False, True):
        model = network(dropout)
        optimizer = torch.optim.Adam(model.parameters())
        torch.manual_seed(11)
        seen = observe(model, optimizer) if watched else None
        losses = script(seen, model, optimizer, *loaders())
        if watched:
            assert all(finding.oeu or "draws random numbers" in finding.words for finding in seen.findings)
            assert seen.findings[0].oeu == (not dropout)
        grads = [p.grad for p in model.parameters()]
        ends.append((losses, model.state_dict(), optimizer.state_dict()["state"], grads, torch.rand(3)))
    for a, b in zip(*map(_leaves, ends)):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _leaves(value):
    if isinstance(value, (dict, list, tuple)):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(item)]
    return [value]


def test_gradients_that_are_added_to_an_old_grad_are_found():
    """`backward` without `zero_grad`: from the second step on, what is added to the first is OEU's step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = observe(model, optimizer)
    forget, retain = loaders()
    for (x_f, _), (x_r, y_r) in zip(seen.forget(forget), seen.retain(retain)):
        parameters = list(model.parameters())
        g_f = torch.autograd.grad(entropy_loss(model(x_f)), parameters)
        g_r = torch.autograd.grad(functional.cross_entropy(model(x_r), y_r), parameters)
        for p, r, f in zip(parameters, g_r, project(g_f, g_r)):
            p.grad = r + f if p.grad is None else p.grad + r + f
        optimizer.step()
    assert seen.findings[0].oeu and not any(finding.oeu for finding in seen.findings[1:])
    assert all("added to an old .grad" in finding.words for finding in seen.findings[1:])


def test_a_quantizers_step_may_belong_to_its_layer():
    """`OEU` counts it to the layer that it quantizes, and that is what is found in a quantized network."""
    model = QuantMLP((6, 5, 3)).double()
    rng = torch.Generator().manual_seed(2)
    x_f, x_r = torch.randn(4, 6, generator=rng).double(), torch.randn(8, 6, generator=rng).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = observe(model, optimizer)
    for layer in ("module", "tensor"):
        unlearner = OEU(model, optimizer, beta=0.3, layer=layer)
        unlearner.step(seen.forget(x_f), *seen.retain((x_r, torch.arange(8) % 3)))
    words = [finding.words for finding in seen.findings]
    assert words[0] == "layer-wise (modules, a quantizer's step with its layer), alpha = 1, beta = 0.3, undo"
    assert words[1] == "layer-wise (tensors), alpha = 1, beta = 0.3, undo"
    assert list(seen.findings[0].cosines) == ["layers.0", "layers.1"]


def test_batches_and_loaders_pass_as_they_are():
    """A batch comes back as the same object, a loader keeps its length and attributes; a step without them says so."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, (forget, retain) = observe(model, optimizer), loaders()
    assert seen.report() == "no step of the optimizer was seen"
    optimizer.step()
    batch = next(iter(retain))
    assert seen.retain(batch) is batch and seen.forget(batch[0]) is batch[0]
    assert len(seen.retain(retain)) == 4 and seen.retain(retain).batch_size == 8 and next(seen.forget(iter(forget)))
    optimizer.step()
    assert [finding.words for finding in seen.findings] == [
        "no forget batch passed through the observer",
        "no parameter has a gradient",
    ]
    seen.stop()
    optimizer.step()
    assert len(seen.findings) == 2


def test_what_is_not_finite_is_named():
    """NaN in `.grad`, with the layer and the reason."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, (forget, retain) = observe(model, optimizer), loaders()
    (x_f, _), (x_r, y_r) = seen.forget(next(iter(forget))), seen.retain(next(iter(retain)))
    with torch.no_grad():
        model[-1].weight *= 1e4
    p = model(x_f).softmax(1)
    ((p * p.log()).sum(1).mean() + functional.cross_entropy(model(x_r), y_r)).backward()
    optimizer.step()
    assert "d is not finite in 0.weight; some forget samples have a probability of 0" in seen.findings[0].words
