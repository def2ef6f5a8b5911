"""Orthogonality after the optimizer: what the parameters really do, for optimizers of all kinds."""

import copy
import math

import pytest
import torch
from torch import nn

from oeu_ref.beyond.updates import COMPONENTS, OrthogonalUpdates, ProtectedOEU
from oeu_ref.core import QuantMLP, project
from oeu_ref.tensors import Layers

SGD, ADAM = torch.optim.SGD, torch.optim.Adam
OPTIMIZERS = {
    "SGD with weight decay": lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "Adam": lambda p: ADAM(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}
# the largest |cos| of a layer's update and its retain gradient over six steps without the wrapper
WORST = {
    "SGD with weight decay": 0.024,
    "momentum": 0.139,
    "Nesterov": 0.099,
    "Adam": 0.120,
    "AdamW": 0.150,
    "RMSprop": 0.093,
}
SHAPES = [(12, 6), (12,), (4, 12), (4,)]
LABELS = ["first", "first", "last", "last"]


def parameters(dtype=torch.float32, seed=0):
    """Four parameters of two layers."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradient(step, dtype=torch.float32, scale=1.0):
    """The gradient of one batch: noise, and from step 100 on, where retain gradients stand, a part common to all."""
    generator = torch.Generator().manual_seed(1000 + step)
    common = [(step >= 100) * p.detach() for p in parameters(torch.float64, seed=1)]
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [(scale * (c + n)).to(dtype) for c, n in zip(common, noise)]


def forget_only_step(optimizer, tensors, step, retain_scale=1.0):
    """A step along -g_perp; returns the parameters before and after it, and g_r."""
    g_f, g_r = gradient(step, tensors[0].dtype), gradient(100 + step, tensors[0].dtype, retain_scale)
    for p, g in zip(tensors, project(g_f, g_r, layer_ids=LABELS)):
        p.grad = g
    before = [p.detach().clone() for p in tensors]
    if isinstance(optimizer, OrthogonalUpdates):
        optimizer.protect(tensors, g_r, LABELS)
    optimizer.step()
    return before, [p.detach().clone() for p in tensors], g_r


def along(before, after, g_r):
    """For each layer (<change, r>, |change|, bound by rounding), r = g_r / |g_r|, measured in float64.

    Bound: each parameter is rounded once when it is written, by at most eps / 2 of itself, and the update is computed
    and projected with relative errors of a few eps of |change|.
    """
    eps = torch.finfo(after[0].dtype).eps
    wide_eps = torch.finfo(torch.float32).eps if eps > 1e-6 else eps
    found = []
    for label in dict.fromkeys(LABELS):
        at = [i for i, owner in enumerate(LABELS) if owner == label]
        change, start, end, r = (
            torch.cat([tensors[i].detach().double().flatten() for i in at])
            for tensors in ([a.double() - b.double() for a, b in zip(after, before)], before, after, g_r)
        )
        r = r / r.norm()
        rounding = eps / 2 * (torch.maximum(start.abs(), end.abs()) @ r.abs())
        found.append((float(change @ r), float(change.norm()), float(rounding + 8 * wide_eps * change.norm())))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_theorem_4_3_holds_for_the_update_itself(name, dtype):
    """With "none" no layer's parameters move along its retain gradient, beyond the rounding of the parameters."""
    tensors = parameters(dtype)
    optimizer = OrthogonalUpdates(OPTIMIZERS[name](tensors), "none")
    for step in range(6):
        for component, length, rounding in along(*forget_only_step(optimizer, tensors, step)):
            assert length > 1e-3
            assert abs(component) <= rounding


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_theorem_nothing_but_the_component_along_the_retain_gradient_is_taken_away(name):
    """With "none" a layer's update differs from the plain optimizer's by a multiple of its retain gradient."""
    tensors = parameters(torch.float64)
    optimizer = OrthogonalUpdates(OPTIMIZERS[name](tensors), "none")
    for step in range(6):
        twins, plain = copy.deepcopy((tensors, optimizer.optimizer))
        _, mine, g_r = forget_only_step(optimizer, tensors, step)
        _, theirs, _ = forget_only_step(plain, twins, step)
        for component, length, rounding in along(theirs, mine, g_r):
            # squares: a part at right angles counts from the root of the rounding on
            assert length**2 - component**2 <= 1e-8 * length**2 + rounding**2
            assert length > 1e-6 or step == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_control_without_the_wrapper_every_optimizer_moves_along_the_retain_gradient(name):
    """The same steps, unprotected: the largest cosine of a layer, although each gradient is orthogonal; "all" changes
    no bit of them and measures the same."""
    tensors, twins = parameters(), parameters()
    plain, watched = OPTIMIZERS[name](tensors), OrthogonalUpdates(OPTIMIZERS[name](twins), "all")
    worst = 0.0
    for step in range(6):
        first, second = (forget_only_step(*pair, step) for pair in ((plain, tensors), (watched, twins)))
        assert all(torch.equal(a, b) for a, b in zip(first[1], second[1]))
        found = along(*first)
        assert all(abs(component) > 3 * rounding for component, _, rounding in found) or step == 0
        cosines = [component / length for component, length, _ in found]
        assert watched.cosines.tolist() == pytest.approx(cosines, abs=1e-5)
        worst = max(worst, *map(abs, cosines))
    assert worst == pytest.approx(WORST[name], abs=0.002)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_theorem_descent_removes_what_climbs_and_keeps_what_descends_bit_for_bit(name):
    """With "descent" <update, g_r> <= 0 in each layer; a layer that descends anyway moves as without the wrapper."""
    tensors, seen = parameters(), set()
    optimizer = OrthogonalUpdates(OPTIMIZERS[name](tensors), "descent")
    for step in range(8):
        twins, plain = copy.deepcopy((tensors, optimizer.optimizer))
        mine, theirs = forget_only_step(optimizer, tensors, step), forget_only_step(plain, twins, step)
        for i, ((component, _, rounding), (wanted, _, _)) in enumerate(zip(along(*mine), along(*theirs))):
            seen.add(wanted > 0)
            assert component <= rounding
            if wanted < 0:
                layer = slice(2 * i, 2 * i + 2)
                assert all(torch.equal(a, b) for a, b in zip(mine[1][layer], theirs[1][layer]))
    assert seen == {True, False}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_given_turns_the_update_to_the_directions_own_angle(name):
    """With "given" the update's component along g_r is that of the direction, for the length of the plain update."""
    tensors = parameters()
    optimizer = OrthogonalUpdates(OPTIMIZERS[name](tensors), "given")
    for step in range(6):
        twins, plain = copy.deepcopy((tensors, optimizer.optimizer))
        g_r = gradient(100 + step)
        direction = [r + 0.5 * g for r, g in zip(g_r, project(gradient(step), g_r, layer_ids=LABELS))]
        before = [p.detach().clone() for p in tensors]
        for p, q, d in zip(tensors, twins, direction):
            p.grad, q.grad = d.clone(), d.clone()
        optimizer.protect(tensors, g_r, LABELS)
        optimizer.step()
        plain.step()
        zero = [torch.zeros_like(d) for d in direction]
        mine, theirs, given = (along(b, a, g_r) for b, a in ((before, tensors), (before, twins), (direction, zero)))
        for (component, _, rounding), (_, length, _), (wanted, norm, _) in zip(mine, theirs, given):
            assert component == pytest.approx(length * wanted / norm, abs=2 * rounding)
            assert wanted < 0


@pytest.mark.parametrize("component", ["descent", "given", "all"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 3.0])
def test_plain_sgd_takes_oeus_own_step(component, beta):
    """On OEU's direction plain SGD needs no correction: "descent" and "all" leave each bit, "given" all but rounding;
    "none", the control, takes the repair of the retain loss away."""
    for word, same in ((component, True), ("none", False)):
        tensors, twins = parameters(), parameters()
        # one layer, two learning rates: the angle is that of what plain SGD does with them
        groups = [[{"params": p[:3], "lr": 0.1}, {"params": p[3:], "lr": 0.01}] for p in (tensors, twins)]
        optimizer, plain = OrthogonalUpdates(SGD(groups[0]), word), SGD(groups[1])
        g_r = gradient(100)
        for p, q, r, g in zip(tensors, twins, g_r, project(gradient(0), g_r, layer_ids=LABELS)):
            p.grad, q.grad = r + beta * g, r + beta * g
        optimizer.protect(tensors, g_r, LABELS)
        optimizer.step()
        plain.step()
        difference = max(float((p - q).detach().abs().max()) for p, q in zip(tensors, twins))
        assert (difference <= (1e-6 if word == "given" else 0.0)) == same


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_retain_gradient_does_not_matter(scale):
    """Only its direction counts, down to and up to where squares would leave float32."""
    found = []
    for factor in (1.0, scale):
        tensors = parameters()
        optimizer = OrthogonalUpdates(OPTIMIZERS["momentum"](tensors), "none")
        found.append([forget_only_step(optimizer, tensors, step, factor) for step in range(4)][-1][1])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("component", COMPONENTS)
def test_where_there_is_nothing_to_protect_the_optimizers_bits_stay(component):
    """A zero retain gradient, and parameters that `protect` does not name or that have no gradient."""
    tensors, twins = parameters(), parameters()
    optimizer, plain = OrthogonalUpdates(OPTIMIZERS["Nesterov"](tensors), component), OPTIMIZERS["Nesterov"](twins)
    for step in range(3):
        for p, q, g in zip(tensors[:3], twins, gradient(step)):
            p.grad, q.grad = g.clone(), g.clone()
        optimizer.protect(tensors[1:], [torch.zeros_like(p) for p in tensors[1:]])
        optimizer.step()
        plain.step()
    assert all(torch.equal(p, q) for p, q in zip(tensors, twins))


@pytest.mark.parametrize(
    ("component", "sign", "moves"),
    [("none", 1, False), ("none", -1, False), ("descent", -1, False), ("descent", 1, True), ("given", -1, True)],
)
def test_an_update_along_the_retain_gradient_alone_leaves_no_noise(component, sign, moves):
    """Collinear up to rounding: nothing is left of such an update where it may not stay, and all of it where it may."""
    tensor = nn.Parameter(torch.tensor([1.7, -0.3, 0.2]))
    before, g_r = tensor.detach().clone(), torch.tensor([3.0, -2.0, 7.0])
    tensor.grad = sign * 0.1 * g_r
    optimizer = OrthogonalUpdates(SGD([tensor], lr=0.1), component)
    optimizer.protect([tensor], [g_r])
    optimizer.step()
    change = (tensor - before).detach()
    if moves:
        torch.testing.assert_close(change, -sign * 0.01 * g_r, rtol=1e-4, atol=1e-6)
    else:
        assert not change.any()


def test_a_direction_serves_one_step_and_only_where_it_was_measured():
    """No step without a direction, with a used one, or with one that the parameters or the gradient have left."""
    tensors = parameters()
    optimizer = OrthogonalUpdates(SGD(tensors, lr=0.1, momentum=0.9))
    before = [p.detach().clone() for p in tensors]

    def refuses(message):
        for p, g in zip(tensors, gradient(0)):
            p.grad = g
        start = [p.detach().clone() for p in tensors]
        with pytest.raises(RuntimeError, match=message):
            optimizer.step()
        assert all(torch.equal(p, b) for p, b in zip(tensors, start))

    refuses("protect.*must be called before each step")
    forget_only_step(optimizer, tensors, 0)
    assert not torch.equal(tensors[0], before[0])
    refuses("protect.*must be called before each step")
    g_r = gradient(0)
    optimizer.protect(tensors, g_r)
    with torch.no_grad():
        tensors[1].add_(1.0)
    refuses("parameters or retain gradients have changed since")
    optimizer.protect(tensors, g_r)
    g_r[2].zero_()  # as zero_grad(set_to_none=False) does to gradients that were taken from .grad
    refuses("parameters or retain gradients have changed since")
    optimizer.protect(tensors, gradient(0))
    optimizer.load_state_dict(optimizer.state_dict())
    refuses("protect.*must be called before each step")
    optimizer.protect(tensors, gradient(0))
    copied = copy.deepcopy(optimizer)
    with pytest.raises(RuntimeError, match="protect.*must be called before each step"):
        copied.step()
    optimizer.step()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parameters": []}, ValueError, "parameters must be a list of at least 1"),
        ({"parameters": "all"}, TypeError, "parameters must be a list"),
        ({"retain_grads": gradient(0)[:3]}, ValueError, "got 4 and 3"),
        ({"retain_grads": gradient(0)[::-1]}, ValueError, r"retain_grads\[0\] must have the shape of parameters\[0\]"),
        ({"retain_grads": [math.nan * g for g in gradient(0)]}, ValueError, "retain_grads must be finite"),
        ({"parameters": parameters()}, ValueError, "parameters must be tensors that the optimizer holds, each once"),
        ({"layers": ["first", "last"]}, ValueError, "4 tensors, 2 labels"),
        ({"layers": Layers(None, gradient(0)[:2])}, ValueError, "layers must be of 4 tensors like parameters, got 2"),
    ],
)
def test_bad_directions_are_named_and_not_kept(change, error, message):
    tensors = parameters()
    optimizer = OrthogonalUpdates(SGD(tensors, lr=0.1))
    optimizer.protect(tensors, gradient(0))
    with pytest.raises(error, match=message):
        optimizer.protect(**{"parameters": tensors, "retain_grads": gradient(0), "layers": LABELS, **change})
    with pytest.raises(RuntimeError):
        optimizer.step()


def test_bad_optimizers_and_words_are_named():
    tensors = parameters()
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer, got list"):
        OrthogonalUpdates(tensors)
    with pytest.raises(ValueError, match="component must be one of 'none', 'descent', 'given', 'all', got 'some'"):
        OrthogonalUpdates(SGD(tensors, lr=0.1), "some")
    optimizer = OrthogonalUpdates(SGD(tensors, lr=0.1), "given")
    optimizer.protect(tensors, gradient(0))
    with pytest.raises(ValueError, match="parameters must be tensors that the optimizer holds, each once"):
        optimizer.protect([tensors[0], tensors[0]], [gradient(0)[0]] * 2)
    optimizer.protect(tensors, gradient(0))
    with pytest.raises(ValueError, match='closure must be None for component="given"'):
        optimizer.step(lambda: 0.0)


def test_schedulers_hooks_and_groups_work_on_the_wrapper():
    """A schedule, a step hook, zero_grad and a new group do what they do on the optimizer inside."""
    tensors = parameters()
    optimizer = OrthogonalUpdates(SGD(tensors[:2], lr=0.1, momentum=0.9))
    optimizer.add_param_group({"params": tensors[2:], "lr": 0.2})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "marked": True})
    rates = []
    for step in range(3):
        forget_only_step(optimizer, tensors, step)
        rates.append([group["lr"] for group in optimizer.optimizer.param_groups])
        schedule.step()
    assert rates == [[0.1, 0.2], [0.05, 0.1], [0.025, 0.05]]
    assert calls == 3 * ["before", "after"]
    assert optimizer.state_dict()["marked"]
    optimizer.zero_grad()
    assert all(p.grad is None for p in tensors)
    assert isinstance(optimizer, torch.optim.Optimizer) and "momentum=" not in repr(optimizer).splitlines()[0]
    assert repr(optimizer).startswith("OrthogonalUpdates(component='descent', SGD (")
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=4)  # reads the defaults for momentum
    forget_only_step(optimizer, tensors, 4)
    cycle.step()
    assert optimizer.optimizer.param_groups[0]["momentum"] != 0.9


@pytest.mark.parametrize("how", ["state dict", "plain state dict", "deepcopy"])
@pytest.mark.parametrize("name", ["momentum", "Adam"])
def test_a_run_that_goes_on_elsewhere_gives_the_same_bits(name, how):
    """From a state dict, from the one of a plain optimizer, or from a copy."""
    tensors = parameters()
    optimizer = OrthogonalUpdates(OPTIMIZERS[name](tensors), "descent")
    for step in range(3):
        forget_only_step(optimizer, tensors, step)
    if how == "deepcopy":
        twins, other = copy.deepcopy((tensors, optimizer))
        assert other.component == "descent" and other.param_groups[0]["params"][0] is twins[0]
    else:
        twins = [nn.Parameter(p.detach().clone()) for p in tensors]
        other = OrthogonalUpdates(OPTIMIZERS[name](twins), "descent")
        other.load_state_dict(copy.deepcopy((optimizer if how == "state dict" else optimizer.optimizer).state_dict()))
    for step in range(3, 6):
        forget_only_step(optimizer, tensors, step)
        forget_only_step(other, twins, step)
    assert all(torch.equal(p, q) for p, q in zip(tensors, twins))
    assert other.state[twins[0]] is other.optimizer.state[twins[0]]


def test_closures_reach_the_optimizer_inside():
    """L-BFGS evaluates its closure several times; the whole change of the parameters is corrected, and the loss is
    returned."""
    (tensor,) = parameters()[:1]
    optimizer = OrthogonalUpdates(torch.optim.LBFGS([tensor], lr=0.1, max_iter=5), "none")
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (tensor**2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    start, g_r = tensor.detach().clone(), gradient(0)[0]
    optimizer.protect([tensor], [g_r])
    assert optimizer.step(closure).item() == calls[0] and len(calls) > 2
    change = (tensor.detach().double() - start.double()).flatten()
    assert change.norm() > 0.1
    assert abs(change @ g_r.double().flatten()) < 1e-6 * change.norm() * g_r.double().norm()


@pytest.mark.parametrize("options", [{}, {"layer": "tensor"}, {"granularity": "global"}], ids=str)
def test_an_oeu_step_hands_its_own_layers_to_the_wrapper(options):
    """On a 4-bit network with momentum no layer, as the step counts them, climbs along its retain gradient."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 4), batch_norm=True)
    optimizer = OrthogonalUpdates(SGD(model.parameters(), lr=0.05, momentum=0.9))
    unlearner = ProtectedOEU(model, optimizer, beta=30.0, **options)
    climbed = 0
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.rand(20, 6, generator=generator), torch.randint(0, 4, (12,), generator=generator)
        report = unlearner.step(inputs[:8], inputs[8:], labels)
        assert len(optimizer.cosines) == len(report.layer_cosines)
        climbed += int((optimizer.cosines > 0).sum())
    assert climbed > 0
