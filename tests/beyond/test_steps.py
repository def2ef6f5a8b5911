"""What an OEU step does beyond the paper: a memory of retain gradients, and a bound on the rise of the retain loss."""

import copy

import pytest
import torch
from torch import nn

from oeu_ref.beyond.curvature import BoundedOEU
from oeu_ref.beyond.curvature_reference import largest_learning_rate
from oeu_ref.beyond.subspace import SubspaceOEU
from oeu_ref.core import OEU, NonFiniteError, QuantMLP


def smooth_net():
    """An unquantized tanh network in float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def quantized_net():
    """A 4-bit network with BatchNorm in float64, whose quantizers have seen a batch."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4), batch_norm=True).double()
    model(batches(0)[1])
    return model


def batches(step):
    """(forget_inputs, retain_inputs, retain_labels) of one step, float64."""
    generator = torch.Generator().manual_seed(step)
    forget, retain = (torch.rand(n, 6, generator=generator, dtype=torch.float64) for n in (7, 12))
    return forget, retain, torch.randint(0, 4, (12,), generator=generator)


def unlearner(model, learning_rate=0.1, momentum=0.0, **options):
    """The plain class, or the one that an option belongs to."""
    kinds = {("memory",): SubspaceOEU, ("max_retain_increase",): BoundedOEU, (): OEU}
    kind = kinds.get(tuple(name for name in ("memory", "max_retain_increase") if name in options), BoundedSubspaceOEU)
    return kind(model, torch.optim.SGD(model.parameters(), learning_rate, momentum), **options)


class BoundedSubspaceOEU(BoundedOEU, SubspaceOEU):
    """Both at once."""


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def retain_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[1]), batch[2])


def directions(memory):
    """g_perp and g_r, in one vector a layer, of three steps of a run with the given memory."""
    model, found = smooth_net(), []
    oeu = unlearner(model, memory=memory)
    for step in range(3):
        g_r = torch.autograd.grad(retain_loss(model, batches(step)), list(model.parameters()))
        oeu.step(*batches(step))
        g_perp = [p.grad - g for p, g in zip(model.parameters(), g_r)]
        found.append([[torch.cat([a.flatten(), b.flatten()]) for a, b in (g[:2], g[2:])] for g in (g_perp, g_r)])
    return found


@pytest.mark.parametrize(("memory", "protected"), [(1, [2]), (2, [1, 2]), (3, [0, 1, 2])])
def test_theorem_4_3_a_memory_of_m_protects_the_last_m_retain_gradients(memory, protected):
    """The third step's g_perp has no component along the retain gradients of the last m steps, and one along others."""
    steps = directions(memory)
    g_perp = steps[2][0]
    for step, (_, g_r) in enumerate(steps):
        for p, r in zip(g_perp, g_r):
            cosine = abs((p @ r) / (p.norm() * r.norm()))
            assert (cosine < 1e-12) if step in protected else (cosine > 1e-4)


def test_a_step_that_raises_is_not_remembered():
    """A batch that is refused leaves no gradient in the memory."""
    oeu = unlearner(quantized_net(), memory=3)
    oeu.step(*batches(0))
    forget, retain, labels = batches(1)
    with pytest.raises(NonFiniteError):
        oeu.step(forget, retain / 0, labels)
    assert len(oeu.remembered.gradients) == 1


@pytest.mark.parametrize("restored", [True, False])
def test_an_interrupted_run_with_a_memory_goes_on_to_the_same_bits(restored):
    """State saved after two steps and loaded into a new method ends as if nothing had happened; without it, not."""

    def method():
        return unlearner(quantized_net(), momentum=0.9, memory=3)

    def steps(of, numbers):
        for step in numbers:
            of.step(*batches(step))

    straight, before, after = method(), method(), method()
    steps(straight, range(5))
    steps(before, range(2))
    for part in (lambda of: of.model, lambda of: of.optimizer):
        part(after).load_state_dict(copy.deepcopy(part(before).state_dict()))
    if restored:
        after.remembered.gradients.extend(before.remembered.gradients)
    steps(after, range(2, 5))
    same = all(map(torch.equal, straight.model.parameters(), after.model.parameters()))
    assert same == restored


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_theorem_4_3_a_bounded_step_takes_the_share_that_slope_and_curvature_allow(momentum):
    """The update is the unbounded one times the longest share within the bound, where slope and curvature along it are
    measured by PyTorch's own Hessian-vector product; and so, on a smooth loss, the retain loss rises by no more."""
    model, bound, shares = smooth_net(), 1e-2, []
    oeu = unlearner(model, 0.3, momentum, beta=20.0, max_retain_increase=bound)
    for step in range(6):
        model_of_free, state = copy.deepcopy((oeu.model, oeu.optimizer.state_dict()))
        free = unlearner(model_of_free, 0.3, momentum, beta=20.0)
        free.optimizer.load_state_dict(state)
        before, batch = parameters(model), batches(step)
        free.step(*batch)
        update = [new - old for new, old in zip(parameters(free.model), before)]

        def loss(*values):
            hidden = torch.tanh(batch[1] @ values[0].T + values[1])
            return nn.functional.cross_entropy(hidden @ values[2].T + values[3], batch[2])

        product = torch.autograd.functional.hvp(loss, tuple(before), tuple(update))[1]
        gradient = torch.autograd.functional.vjp(loss, tuple(before))[1]
        slope, bend = (sum((a * u).sum() for a, u in zip(found, update)) for found in (gradient, product))
        share = largest_learning_rate(1.0, -slope, bend, bound).item()
        start = loss(*before)
        report = oeu.step(*batch)
        assert report.update_share == pytest.approx(share, rel=1e-9)
        for new, old, u in zip(parameters(model), before, update):
            torch.testing.assert_close(new, old + share * u, rtol=1e-9, atol=1e-12)
        assert (loss(*parameters(model)) - start).item() < bound
        shares.append(share)
    assert sum(share < 1 for share in shares) >= 3


def test_without_the_bound_the_same_run_destroys_what_it_should_keep():
    """With these settings the retain loss rises in some step by more than ten times that bound."""
    model = smooth_net()
    oeu, rises = unlearner(model, 0.3, beta=20.0), []
    for step in range(6):
        before = retain_loss(model, batches(step)).item()
        oeu.step(*batches(step))
        rises.append(retain_loss(model, batches(step)).item() - before)
    assert max(rises) > 0.1


def test_momentum_remembers_the_update_that_was_taken():
    """A shortened update leaves a momentum buffer shortened by the same share."""
    model = smooth_net()
    oeu = unlearner(model, 5.0, 0.9, beta=5.0, max_retain_increase=1e-3)
    before = parameters(model)
    assert oeu.step(*batches(0)).update_share < 1
    for p, old in zip(model.parameters(), before):
        torch.testing.assert_close(oeu.optimizer.state[p]["momentum_buffer"], (old - p.detach()) / 5.0)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
@pytest.mark.parametrize("make", [smooth_net, quantized_net])
def test_an_update_of_infinite_effect_is_taken_back(kind, make):
    """A learning rate whose update has an infinite effect, or is infinite, raises, and all stays where it was:
    weights, BatchNorm's statistics, momentum and moments, quantizers that have seen no batch."""
    for first in (True, False):
        model = make() if make is smooth_net or not first else QuantMLP((6, 16, 4), batch_norm=True).double()
        optimizer = kind(model.parameters(), 1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        oeu = BoundedOEU(model, optimizer, beta=5.0, max_retain_increase=0.1)
        if not first:
            oeu.step(*batches(1))
        optimizer.param_groups[0]["lr"] = 1e308
        before, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
        with pytest.raises(NonFiniteError, match="lower the learning rate; nothing was changed"):
            oeu.step(*batches(0))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        left = optimizer.state_dict()["state"]
        assert {i: {k: torch.as_tensor(v).tolist() for k, v in of.items()} for i, of in left.items()} == {
            i: {k: torch.as_tensor(v).tolist() for k, v in of.items()} for i, of in moments.items()
        }


def test_a_quantized_network_takes_bounded_steps_too():
    """The bound acts on a 4-bit network with BatchNorm and learned steps, from the first batch that it ever sees."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4), batch_norm=True).double()
    oeu = unlearner(model, 1.0, 0.9, beta=5.0, max_retain_increase=1e-3, memory=2)
    shares = [oeu.step(*batches(step)).update_share for step in range(6)]
    assert min(shares) < 1 and all(share >= 0 for share in shares)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"memory": 0}, ValueError, "memory must be at least 1"),
        ({"memory": 1.5}, TypeError, "memory must be an integer"),
        ({"max_retain_increase": -1}, ValueError, "max_retain_increase must be finite and at least 0"),
        ({"max_retain_increase": "0.1"}, TypeError, "max_retain_increase must be a number"),
    ],
)
def test_bad_options_are_named(options, error, message):
    """A setting outside its range raises an error that names it and says what would be right."""
    with pytest.raises(error, match=message):
        unlearner(smooth_net(), **options)
