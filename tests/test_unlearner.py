"""The OEU step on models of all kinds: what it changes, what it leaves alone, and what it refuses."""

import copy
import inspect
import math
import pathlib

import pytest
import torch
from torch import nn

from oeu_ref import core
from oeu_ref.core import OEU, EntropyStop, NonFiniteError, QuantLinear, QuantMLP, quantize_model
from oeu_ref.core.projection import projected
from oeu_ref.core.stop_rule import mean_entropy
from oeu_ref.methods.orthogonal import JointOEU
from oeu_ref.passes import State, undone


def batches(features=6, classes=4, seed=0):
    """(forget_inputs, retain_inputs, retain_labels) of a small problem."""
    generator = torch.Generator().manual_seed(seed)
    forget, retain = (torch.rand(n, features, generator=generator) for n in (7, 12))
    return forget, retain, torch.randint(0, classes, (12,), generator=generator)


def small_net(batch_norm=True, seed=0):
    """A 4-bit multilayer perceptron."""
    torch.manual_seed(seed)
    return QuantMLP((6, 16, 12, 4), batch_norm=batch_norm)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, **options})


def snapshot(model):
    """Everything that a model holds, copied."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_needs_no_forget_labels():
    """The step's arguments are the forget inputs, the retain inputs and the retain labels, nothing else."""
    assert list(inspect.signature(OEU.step).parameters)[1:] == ["forget_inputs", "retain_inputs", "retain_labels"]


def test_steps_raise_the_forget_entropy_and_keep_the_retain_loss_down():
    """Over many steps on a trained net the forget entropy rises while the retain loss stays low."""
    model, (forget, retain, labels) = small_net(), batches()
    optimizer = sgd(model, lr=0.1, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(retain), labels).backward()
        optimizer.step()
    unlearner = OEU(model, sgd(model, lr=0.05), beta=5.0)
    reports = [unlearner.step(forget, retain, labels) for _ in range(200)]
    assert 1.5 * reports[0].forget_entropy < reports[-1].forget_entropy <= math.log(4)
    assert reports[-1].retain_loss < 0.3


def test_the_report_describes_the_state_before_the_step():
    """Losses are those of the model as it was, in train mode; the projected gradient has no retain component left."""
    model, (forget, retain, labels) = small_net(), batches()
    model(retain)  # sets the activation steps
    before = copy.deepcopy(model).train()
    plan = OEU(model, sgd(model)).plan(forget, retain, labels)
    report = plan.report
    log_p = before(forget).log_softmax(1)
    assert report.forget_loss == pytest.approx((log_p.exp() * log_p).sum(1).mean().item(), abs=1e-6)
    assert report.retain_loss == pytest.approx(nn.functional.cross_entropy(before(retain), labels).item(), abs=1e-6)
    assert report.forget_entropy == -report.forget_loss
    assert set(report.layer_cosines) == {"layers.0", "layers.1", "layers.2", "norms.0", "norms.1"}
    assert max(map(abs, report.layer_cosines.values())) > 0.01
    assert set(plan.layer_residuals) == set(report.layer_cosines)
    assert max(map(abs, plan.layer_residuals.values())) < 1e-5
    assert abs(plan.residual) < 1e-5


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_any_optimizer_gets_the_direction_as_gradient(optimizer_class):
    """The optimizer finds g_r + beta g_perp in every parameter's grad and takes exactly one step of its own."""
    model, data = small_net(batch_norm=False), batches()
    model(data[1])
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = (optimizer_class(m.parameters(), lr=0.01) for m in (model, twin))
    OEU(model, optimizer, beta=0.5).step(*data)
    for p, q in zip(model.parameters(), twin.parameters()):
        q.grad = p.grad.clone()
    twin_optimizer.step()
    assert same(model.state_dict(), twin.state_dict())


def test_frozen_unused_and_shared_parameters_work():
    """Frozen and unused parameters stay as they are; a shared one is moved once, by the sum of its gradients."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.frozen, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.again = self.first
            self.last = nn.Linear(6, 4)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.last(self.again(torch.tanh(self.frozen(torch.tanh(self.first(x))))))

    torch.manual_seed(0)
    model = Odd()
    before, data = snapshot(model), batches()
    report = OEU(model, sgd(model, weight_decay=0.1, momentum=0.9)).step(*data)
    after = model.state_dict()
    for name in before:
        moved = not torch.equal(before[name], after[name])
        assert moved == name.startswith(("first", "again", "last")), name
    assert set(report.layer_cosines) == {"first", "last"}


def test_a_parameter_that_only_one_loss_reaches_gets_that_gradient():
    """A parameter unused by the forget batch follows its retain gradient alone."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.extra = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            return self.main(x) + (self.extra(x) if len(x) == 12 else 0)

    torch.manual_seed(0)
    model, (forget, retain, labels) = Gate(), batches()
    expected = torch.autograd.grad(nn.functional.cross_entropy(model(retain), labels), model.extra.weight)[0]
    OEU(model, sgd(model)).step(forget, retain, labels)
    torch.testing.assert_close(model.extra.weight.grad, expected)


def test_gradients_of_before_move_nothing():
    """A parameter that neither loss reaches stays, whatever your own loop left in its grad, momentum or decay."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(6, 4), "unused": nn.Linear(6, 4)})
    model.forward = lambda x: model["used"](x)
    optimizer = sgd(model, momentum=0.9, weight_decay=0.1)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    before = snapshot(model)
    OEU(model, optimizer).step(*batches())
    moved = {name.partition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"used"} and all(p.grad is None for p in model["unused"].parameters())


def test_only_what_the_optimizer_holds_is_changed():
    """Parameters that the optimizer does not hold stay, although they require a gradient."""
    model, data = small_net(), batches()
    model(data[1])
    before = snapshot(model)
    OEU(model, torch.optim.SGD(model.layers[-1].parameters(), lr=0.1)).step(*data)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(name.startswith("layers.2.") for name in moved)


def test_a_foreign_parameter_in_the_optimizer_is_refused():
    """An optimizer over somebody else's parameters would step on stale gradients: ValueError."""
    model = small_net()
    with pytest.raises(ValueError, match="optimizer must hold only parameters of the model"):
        OEU(model, torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.1))


def test_what_counts_as_a_layer_decides_whether_step_sizes_are_unlearned():
    """A step size that is a layer of its own is collinear with itself and gets no forget gradient; in its module it
    does, also under "match", which must not blow the rounding noise of the former up."""
    data = batches()
    for rescale in ("undo", "match"):
        forget_parts = {}
        for layer in ("module", "tensor"):
            model = small_net(batch_norm=False)
            model(data[1])
            directions = []
            for beta in (1.0, 0.0):
                clone = copy.deepcopy(model)
                OEU(clone, sgd(clone), beta=beta, rescale=rescale, layer=layer).step(*data)
                directions.append({name: p.grad for name, p in clone.named_parameters()})
            forget_parts[layer] = {name: (directions[0][name] - g).abs().max() for name, g in directions[1].items()}
        steps = [name for name in forget_parts["module"] if name.endswith(".step")]
        assert len(steps) == 6
        assert all(forget_parts["tensor"][name] == 0 for name in steps)
        assert all(forget_parts["module"][name] > 0 for name in steps)


def test_batch_norm_sees_both_batches_in_train_mode_and_modes_are_put_back():
    """Even if the model was left in eval mode, the step's forward passes are in train mode; afterwards it is in eval
    mode again. With mode="keep" frozen statistics stay frozen."""
    model, data = small_net(), batches()
    model(data[1])
    model.eval()
    tracked = model.norms[0].num_batches_tracked.clone()
    OEU(model, sgd(model)).step(*data)
    assert model.norms[0].num_batches_tracked == tracked + 2
    assert not any(module.training for module in model.modules())
    OEU(model, sgd(model), mode="keep").step(*data)
    assert model.norms[0].num_batches_tracked == tracked + 2


def test_joint_forward_is_the_same_step_where_samples_do_not_meet():
    """Without BatchNorm one joint forward gives the very step of two separate ones; with it, another."""
    for batch_norm in (False, True):
        model, data = (
            small_net(batch_norm).double(),
            tuple(t.double() if t.is_floating_point() else t for t in batches()),
        )
        model(data[1])
        twin = copy.deepcopy(model)
        OEU(model, sgd(model)).step(*data)
        JointOEU(twin, sgd(twin)).step(*data)
        difference = max((p - q).abs().max().item() for p, q in zip(model.parameters(), twin.parameters()))
        assert (difference < 1e-12) != batch_norm


@pytest.mark.parametrize("where", ["forget inputs", "retain inputs", "forget loss", "forget gradient"])
def test_a_non_finite_loss_or_gradient_changes_nothing(where):
    """NonFiniteError before the optimizer is called: weights, statistics, momentum and modes are as before."""
    model, (forget, retain, labels) = small_net(), batches()
    optimizer = sgd(model, momentum=0.9)
    unlearner = OEU(model, optimizer)
    unlearner.step(forget, retain, labels)
    forget, retain = forget.clone(), retain.clone()
    if where == "forget inputs":
        forget[0, 0] = math.nan
    elif where == "retain inputs":
        retain[3] = math.inf
    elif where == "forget loss":
        with torch.no_grad():
            model.layers[1].bias[0] = math.inf
    else:
        model.layers[2].weight.register_hook(lambda g: g * math.nan)
    model.eval()
    before, state = snapshot(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(NonFiniteError, match=f"{where[:6]}.*must be finite.*nothing was changed"):
        unlearner.step(forget, retain, labels)
    assert same(before, model.state_dict())
    for key, value in state["state"].items():
        assert torch.equal(value["momentum_buffer"], optimizer.state_dict()["state"][key]["momentum_buffer"])
    assert not model.training


def test_a_refused_first_step_leaves_fresh_quantizers_fresh():
    """A quantizer that a failing step would have initialized is as fresh as before, so that the next batch decides."""
    model, (forget, retain, labels) = small_net(), batches()
    before = snapshot(model)
    with pytest.raises(ValueError, match="retain_labels must lie in"):
        OEU(model, sgd(model)).step(forget, retain, labels + 10)
    assert same(before, model.state_dict())
    assert model.layers[0].activation_quantizer.range is None
    OEU(model, sgd(model)).step(forget, retain, labels)
    assert model.layers[0].activation_quantizer.range == (0, 255)


class Counting(core.Quantizer):
    """A quantizer that counts its batches in a buffer of its own."""

    def __init__(self):
        super().__init__(4)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        self.seen += 1
        return super().forward(x)


def test_what_a_batch_may_change_in_a_quantizer_is_kept_and_nothing_else():
    """Before the first batch all its buffers; once one has passed none, but those of a subclass are still put back."""
    plain, counting = core.Quantizer(4), Counting()
    model = nn.Sequential(plain, counting)
    assert [module for module, *_ in State(model).buffers] == [plain] * 2 + [counting] * 3
    model(torch.rand(3, 2))
    assert [module for module, *_ in State(model).buffers] == [counting] * 3
    with undone(model):
        model(torch.rand(3, 2))
        assert counting.seen == 2
    assert counting.seen == 1 and plain.range == counting.range == (-8, 7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"forget_inputs": torch.zeros(0, 6)}, ValueError, "forget_inputs must hold at least one sample"),
        ({"retain_inputs": [[1.0]]}, TypeError, "retain_inputs must be a tensor"),
        ({"retain_labels": torch.zeros(12)}, TypeError, "retain_labels must be integers"),
        ({"retain_labels": torch.zeros(11, dtype=torch.int64)}, ValueError, r"retain_labels must have shape \(12,\)"),
        ({"retain_labels": torch.full((12,), 4)}, ValueError, r"retain_labels must lie in \[0, 4\)"),
        ({"retain_labels": None}, TypeError, "retain_labels must be integers"),
    ],
)
def test_bad_batches_are_named(change, error, message):
    """A bad batch raises an error that names it, and changes nothing."""
    model = small_net()
    model(batches()[1])
    before = snapshot(model)
    arguments = dict(zip(("forget_inputs", "retain_inputs", "retain_labels"), batches())) | change
    with pytest.raises(error, match=message):
        OEU(model, sgd(model)).step(**arguments)
    assert same(before, model.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 1.5}, ValueError, r"alpha must lie in \[0, 1\]"),
        ({"beta": -1}, ValueError, "beta must be finite and at least 0"),
        ({"beta": True}, TypeError, "beta must be a number"),
        ({"granularity": "layers"}, ValueError, "granularity must be one of 'layer', 'global'"),
        ({"rescale": "none"}, ValueError, "rescale must be one of 'undo', 'match'"),
        ({"layer": "block"}, ValueError, "layer must be one of 'module', 'tensor'"),
        ({"mode": "eval"}, ValueError, "mode must be one of 'train', 'keep'"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    """A setting outside its range raises an error that names it and says what would be right."""
    model = small_net()
    with pytest.raises(error, match=message):
        OEU(model, sgd(model), **options)


def test_models_and_optimizers_are_told_apart():
    """Another object in the place of model or optimizer is a TypeError."""
    model = small_net()
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        OEU(lambda x: x, sgd(model))
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer"):
        OEU(model, 0.1)


def test_an_optimizer_that_maximizes_is_refused():
    """In any of its groups, or by the time of a step: it would climb where the direction descends."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "maximize": True}]
    with pytest.raises(ValueError, match="optimizer must minimize.*got maximize=True"):
        OEU(model, torch.optim.SGD(groups, 0.1))
    unlearner = OEU(model, torch.optim.Adam(model.parameters()))
    unlearner.optimizer.param_groups[0]["maximize"] = True
    with pytest.raises(ValueError, match="optimizer must minimize"):
        unlearner.step(torch.rand(3, 6), torch.rand(3, 6), torch.zeros(3, dtype=torch.int64))


def test_an_optimizer_whose_step_evaluates_the_model_again_is_refused_by_name():
    """LBFGS wants a closure; optimizers that may be given one, but need none, are welcome."""
    model = small_net()
    with pytest.raises(TypeError, match="optimizer must step without a closure, got LBFGS"):
        OEU(model, torch.optim.LBFGS(model.parameters()))
    OEU(model, torch.optim.Rprop(model.parameters()))


@pytest.mark.parametrize("step", [lambda self, loss: None, lambda self, *, loss: None, lambda self, loss, /: None])
def test_an_optimizer_whose_step_wants_anything_else_is_refused_by_name(step):
    """Whatever its step cannot go without; what it merely may be given is welcome."""
    kind = type("Own", (torch.optim.SGD,), {"step": step})
    model = small_net()
    with pytest.raises(TypeError, match="optimizer must step without a loss, got Own"):
        OEU(model, kind(model.parameters()))
    kind.step = lambda self, *rest, loss=None, **options: None
    OEU(model, kind(model.parameters()))


def readme_classes(**names):
    """The classes that core/README shows, each made of the names given."""
    text = (pathlib.Path(core.__file__).parent / "README.md").read_text(encoding="utf-8")
    block = next(b for b in text.split("```") if "class Weighted" in b).removeprefix("python\n")
    names = {"torch": torch, "OEU": OEU, **names}
    exec(block, names)
    return names


def test_class_weights_and_label_smoothing_are_a_method():
    """The retain gradient is that of the weighted, smoothed cross-entropy, and no longer the plain one's."""
    model, x, labels = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    weights = torch.tensor([1.0, 2.0, 5.0])
    unlearner = readme_classes(class_weights=weights)["Weighted"](model, torch.optim.SGD(model.parameters(), 0.1))
    found = unlearner.plan(x[:2], x, labels).retain_grads["weight"]
    log_p = model(x).log_softmax(1)
    # of each sample, its own class weighs w_y 0.9, and each class w_k 0.1 / K; over the sum of the labels' weights
    own, all_classes = weights[labels] * log_p[range(6), labels], (weights * log_p).sum(1)
    loss = -(0.9 * own + 0.1 / 3 * all_classes).sum() / weights[labels].sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, model.weight)[0])
    plain = OEU(model, torch.optim.SGD(model.parameters(), 0.1)).plan(x[:2], x, labels).retain_grads["weight"]
    assert not torch.allclose(found, plain)


def test_predictions_token_by_token_are_a_method():
    """A step on sequences is the step on their tokens, without those whose label is ignored."""
    model, x = nn.Linear(4, 3), torch.randn(5, 7, 4)
    labels = torch.randint(3, (5, 7), generator=torch.Generator().manual_seed(0))
    labels[:, 5:] = -100
    make = lambda kind: kind(model, torch.optim.SGD(model.parameters(), 0.1))
    found = make(readme_classes(class_weights=None)["TokenWise"]).plan(x, x, labels)
    tokens = make(OEU).plan(x.flatten(0, 1), x[:, :5].flatten(0, 1), labels[:, :5].flatten())
    for name in ("forget_grads", "retain_grads"):
        torch.testing.assert_close(getattr(found, name)["weight"], getattr(tokens, name)["weight"])


def test_logits_under_a_name_are_a_wrapper():
    """The step on a network that returns a dict is that on its logits."""

    class Named(nn.Linear):
        def forward(self, inputs):
            return {"scores": super().forward(inputs)}

    model, x, labels = Named(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    twin = nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    wrapped = readme_classes(class_weights=None)["Scores"](model)
    for net in (wrapped, twin):
        OEU(net, torch.optim.SGD(net.parameters(), 0.1)).step(x[:2], x, labels)
    assert torch.equal(model.weight, twin.weight)


def test_complex_parameters_are_refused_by_name():
    """Inner products of complex gradients are not those of the pairs of numbers that the optimizer moves."""
    model = nn.Sequential(nn.Linear(6, 4, dtype=torch.complex64), nn.Linear(6, 4))
    with pytest.raises(TypeError, match="model must have real parameters, got complex 0.weight: .*view_as_real"):
        OEU(model, torch.optim.SGD(model.parameters(), 0.1))
    OEU(model, torch.optim.SGD(model[1].parameters(), 0.1))  # what the optimizer does not hold is no matter


def test_the_first_batch_of_a_lazy_layer_may_be_a_steps():
    """A layer that learns its width from its first batch does so in a step, and is unlearned with the rest."""
    model, (forget, retain, labels) = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4)), batches()
    report = OEU(model, sgd(model)).step(forget, retain, labels)
    assert model[0].weight.shape == (8, 6) and set(report.layer_cosines) == {"0", "2"}


@pytest.mark.parametrize("what", ["step", "plan", "take", "built"])
def test_inference_mode_is_refused_with_what_to_do(what):
    """Where PyTorch has no gradients at all a step says so, and changes nothing; `torch.no_grad` it does not mind."""
    with torch.inference_mode(what == "built"):
        model = small_net()
    unlearner, (forget, retain, labels) = OEU(model, sgd(model, momentum=0.9)), batches()
    plan = None if what == "built" else unlearner.plan(forget, retain, labels)
    before = snapshot(model)
    with torch.inference_mode(what != "built"):
        with pytest.raises(ValueError, match="^model must be built and unlearned outside torch.inference_mode"):
            unlearner.take(plan) if what == "take" else getattr(unlearner, what, unlearner.step)(forget, retain, labels)
    assert same(snapshot(model), before)
    if what != "built":
        with torch.no_grad():
            unlearner.step(forget, retain, labels)
        assert not same(snapshot(model), before)


def test_a_model_with_one_class_or_wrong_rank_is_refused():
    """Logits of one class, or of another rank than 2, raise a ValueError that says whose they are."""
    for model, message in ((nn.Linear(6, 1), "K >= 2 classes"), (nn.Unflatten(1, (2, 3)), r"shape \(N, K\)")):
        model = nn.Sequential(nn.Linear(6, 6), model)
        with pytest.raises(ValueError, match=message):
            OEU(model, sgd(model)).step(*batches())


@pytest.mark.parametrize(
    "loss",
    [lambda z: z.logsumexp(1), lambda z: z.sum().item(), lambda z: torch.tensor(1.0), lambda z: z.detach().sum()],
    ids=["a vector", "a number", "a constant", "detached"],
)
def test_a_forget_loss_that_teaches_nothing_is_refused(loss):
    """It must be a 0-d tensor that depends on the logits; nothing is changed."""
    model = small_net()
    before = snapshot(model)
    with pytest.raises(TypeError, match="forget_loss must return a 0-d tensor that depends on the logits"):
        OEU(model, sgd(model), forget_loss=loss).step(*batches())
    assert same(before, model.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_classifiers_unlearn(name):
    """OEU takes a step on a 4-bit torchvision network: every layer moves, the forget entropy rises."""
    import torchvision

    torch.manual_seed(0)
    model = quantize_model(getattr(torchvision.models, name)(num_classes=5))
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(0, 5, (8,))
    before = copy.deepcopy(model)
    unlearner = OEU(model, sgd(model))
    plan = unlearner.plan(images[:4], images, labels)
    report = unlearner.take(plan)
    assert 0 < report.forget_entropy <= math.log(5) and abs(plan.residual) < 1e-4
    quantized = [n for n, m in model.named_modules() if hasattr(m, "weight_quantizer")]
    assert len(quantized) > 20
    for layer in quantized:
        assert not torch.equal(model.get_submodule(layer).weight, before.get_submodule(layer).weight)


def test_bfloat16_models_unlearn():
    """Half precision parameters get a direction of their own dtype, computed in float32."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).bfloat16()
    forget, retain, labels = batches()
    unlearner = OEU(model, sgd(model))
    plan = unlearner.plan(forget.bfloat16(), retain.bfloat16(), labels)
    unlearner.take(plan)
    assert model[0].weight.grad.dtype == torch.bfloat16
    assert abs(plan.residual) < 1e-2  # the direction itself is rounded to bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_losses_of_halves_are_computed_in_float32(dtype):
    """Losses, entropy and gradients are those of the same logits in float32."""
    torch.manual_seed(0)
    model, (forget, retain, labels) = nn.Linear(6, 4).to(dtype), batches()
    unlearner = OEU(model, sgd(model))
    plan = unlearner.plan(forget.to(dtype), retain.to(dtype), labels)
    log_p = model(forget.to(dtype)).float().log_softmax(1)
    entropy, loss = (
        -(log_p.exp() * log_p).sum(1).mean(),
        nn.functional.cross_entropy(model(retain.to(dtype)).float(), labels),
    )
    assert plan.report.forget_entropy == pytest.approx(entropy.item(), rel=1e-6)
    assert plan.report.retain_loss == pytest.approx(loss.item(), rel=1e-6)
    for found, expected in ((plan.forget_grads, -entropy), (plan.retain_grads, loss)):
        torch.testing.assert_close(found["weight"], torch.autograd.grad(expected, model.weight)[0])


def test_a_gradient_of_zeros_has_cosine_zero():
    """With every layer, and with all together; the step is then plain descent on the retain loss."""
    model, data = small_net(batch_norm=False), batches()
    plan = OEU(model, sgd(model), forget_loss=lambda logits: 0 * logits.sum()).plan(*data)
    assert plan.report.cosine == plan.residual == 0
    assert {*plan.report.layer_cosines.values(), *plan.layer_residuals.values()} == {0}
    for name, d in plan.direction.items():
        assert torch.equal(d, plan.retain_grads[name])


class Additive(OEU):
    """OEU with the additive normalization: what a subclass that projects otherwise looks like."""

    def project(self, parameters, g_f, g_r, layers, angles):
        return projected(g_f, g_r, layers, self.alpha, self.rescale, "additive", 1e-2)


def test_the_additive_normalization_leaves_a_residual():
    """g / (|g| + epsilon) leaves a cosine that the exact form does not."""
    residuals = {}
    for kind in (OEU, Additive):
        model, data = small_net(batch_norm=False).double(), batches()
        plan = kind(model, sgd(model)).plan(data[0].double(), data[1].double(), data[2])
        residuals[kind] = max(map(abs, plan.layer_residuals.values()))
    assert residuals[OEU] < 1e-12 < 1e-5 < residuals[Additive]


@pytest.mark.parametrize("seen", [True, False])
def test_a_plan_changes_nothing_and_a_step_is_a_plan_that_is_taken(seen):
    """After `plan` weights, statistics, quantizers, momentum and modes are as before; taken, it is the step."""
    model, data = small_net(), batches()
    model.norms[0].eval()
    if seen:
        model(data[1])
    optimizer = sgd(model, momentum=0.9)
    twin = copy.deepcopy(model)
    before, ranges = snapshot(model), [q.range for q in quantizers(model)]
    unlearner = OEU(model, optimizer)
    unlearner.plan(*data)
    plan = unlearner.plan(*data)
    assert same(before, model.state_dict()) and not optimizer.state and all(p.grad is None for p in model.parameters())
    assert [q.range for q in quantizers(model)] == ranges
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    report = OEU(twin, sgd(twin, momentum=0.9)).step(*data)
    assert unlearner.take(plan) == plan.report == report
    assert same(twin.state_dict(), model.state_dict()) and not same(before, model.state_dict())
    assert [q.range for q in quantizers(model)] == [q.range for q in quantizers(twin)]
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters()))


def quantizers(model):
    return [module for module in model.modules() if hasattr(module, "reread")]


def test_a_plan_holds_what_the_step_is_made_of():
    """d = g_r + beta g_perp by parameter name, and the report's residual is that of g_perp."""
    model, data = small_net().double(), batches()
    plan = OEU(model, sgd(model), beta=0.7).plan(data[0].double(), data[1].double(), data[2])
    assert list(plan.direction) == [name for name, _ in model.named_parameters()] == list(plan.parameters)
    for name, d in plan.direction.items():
        torch.testing.assert_close(d, plan.retain_grads[name] + 0.7 * plan.projected_grads[name])
    inner = sum((plan.projected_grads[name] * g).sum() for name, g in plan.retain_grads.items())
    assert abs(inner) < 1e-12 < abs(sum((plan.forget_grads[name] * g).sum() for name, g in plan.retain_grads.items()))


def test_a_step_that_is_refused_leaves_the_gradients_of_before():
    """Whatever lies in `.grad`, it is replaced by a step that succeeds alone."""
    model, (forget, retain, labels) = small_net(), batches()
    unlearner = OEU(model, sgd(model))
    unlearner.step(forget, retain, labels)
    before = [p.grad.clone() for p in model.parameters()]
    for wrong in (forget.tolist(), forget * float("nan")):
        with pytest.raises((TypeError, ValueError), match="forget_inputs"):
            unlearner.step(wrong, retain, labels)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before))


def test_a_plans_direction_can_be_clipped_before_it_is_taken():
    """What is written into `plan.direction` is what the optimizer is handed."""
    model, data = small_net(batch_norm=False), batches()
    before, unlearner = snapshot(model), OEU(model, sgd(model, lr=0.5))
    plan = unlearner.plan(*data)
    norm = torch.stack([d.norm() for d in plan.direction.values()]).norm()
    for d in plan.direction.values():
        d.mul_(0.01 / norm)
    unlearner.take(plan)
    start = {name: before[name] for name in plan.parameters}
    for name in plan.parameters:
        if name.endswith(".step"):
            start[name] = plan.parameters[name].detach() + 0.5 * plan.direction[name]  # set by this first batch
    moved = torch.stack([(p - start[name]).norm() for name, p in plan.parameters.items()]).norm()
    assert moved.item() == pytest.approx(0.005, rel=1e-4)


class Holding(nn.Module):
    """A linear network with a BatchNorm that holds a buffer of some kind."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear, self.norm = kind, nn.Linear(6, 4), nn.BatchNorm1d(4)
        whole = torch.ones(12)
        with torch.inference_mode(kind == "inference"):
            buffer = {
                "expanded": lambda: torch.ones(1).expand(6),
                "sparse": lambda: torch.eye(6).to_sparse(),
                "compressed": lambda: torch.eye(6).to_sparse_csr(),
                "view": lambda: whole[:6],
                "meta": lambda: torch.empty(6, device="meta"),
                "with gradient": lambda: torch.ones(6, requires_grad=True),
                "none": lambda: None,
            }.get(kind, lambda: torch.ones(6))()
        self.register_buffer("held", buffer)

    def forward(self, inputs):
        if self.kind == "replaced":
            self.held = inputs.detach()[:3]
        if self.kind == "resized":
            self.held.resize_(3).fill_(2.0)
        return self.norm(self.linear(inputs))


@pytest.mark.parametrize(
    "kind",
    ["expanded", "sparse", "compressed", "view", "meta", "with gradient", "none", "inference", "replaced", "resized"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_buffers_of_every_kind_survive_a_step_and_are_put_back_by_a_failing_one(kind):
    """What the model holds besides statistics neither stops a step nor hides the error of one."""
    torch.manual_seed(0)
    model, (forget, retain, labels) = Holding(kind), batches()
    unlearner = OEU(model, sgd(model))
    unlearner.step(forget, retain, labels)
    held, before = model.held, model.norm.running_mean.clone()
    shape = None if held is None else held.shape
    with pytest.raises(NonFiniteError, match="retain_inputs must be finite"):
        unlearner.step(forget, retain / 0, labels)
    assert torch.equal(model.norm.running_mean, before) and model.held is held
    assert held is None or model.held.shape == shape


def test_the_stop_rule_stops_at_the_entropy_of_unseen_data():
    """EntropyStop compares mean entropies in eval mode, keeps a history, and leaves the model's mode alone."""
    model, (forget, retain, labels) = small_net(), batches()
    optimizer = sgd(model, lr=0.1, momentum=0.9)
    everything = torch.cat([forget, retain])
    memorised = torch.cat([torch.arange(7) % 4, labels])
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(everything), memorised).backward()
        optimizer.step()
    unseen = batches(seed=1)[1]
    stop = EntropyStop(model, forget, unseen, batch_size=5)
    assert not stop.reached()
    unlearner, steps = OEU(model, sgd(model, lr=0.05)), 0
    while not stop.reached():
        assert (steps := steps + 1) <= 200
        unlearner.step(forget, retain, labels)
    assert steps > 0 and model.training
    assert stop.history[-1][0] >= stop.history[-1][1] and stop.history[-2][0] < stop.history[-2][1]
    model.eval()
    p = model(forget).softmax(1)
    assert stop.history[-1][0] == pytest.approx(-(p * p.log()).sum(1).mean().item(), abs=1e-6)


def test_equal_entropies_are_enough_to_stop():
    """Forgotten is what is as uncertain as unseen data, which needs not be more uncertain."""
    model, (forget, *_) = small_net(), batches()
    model(forget)
    assert EntropyStop(model, forget, forget.clone()).reached()


def test_measuring_entropy_keeps_no_graph():
    """Activations of a thousand images would stay in memory otherwise, in the middle of unlearning."""
    seen = []
    model = nn.Linear(6, 4)
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    EntropyStop(model, torch.rand(2, 6), torch.rand(3, 6), batch_size=2).reached()
    assert seen == [False] * 3


def test_the_stop_rule_names_bad_inputs():
    """Empty or non-float inputs raise an error that names them."""
    model = small_net()
    with pytest.raises(ValueError, match="unseen_inputs must hold at least one sample"):
        EntropyStop(model, torch.rand(2, 6), torch.rand(0, 6))
    with pytest.raises(TypeError, match="forget_inputs must be a tensor"):
        EntropyStop(model, [1.0], torch.rand(2, 6))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        EntropyStop(model, torch.rand(2, 6), torch.rand(2, 6), batch_size=0)


def test_mean_entropy_does_not_depend_on_the_batch_size():
    """The mean over all samples is the same however they are cut into batches."""
    model, (_, retain, _) = small_net(), batches()
    model(retain)
    assert mean_entropy(model, retain, 5) == pytest.approx(mean_entropy(model, retain, 100), abs=1e-6)


def test_sparse_gradients_are_taken_as_dense():
    """An embedding with sparse gradients takes part like any other parameter."""
    model = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Flatten(), nn.Linear(18, 4))
    tokens = torch.randint(0, 9, (10, 3), generator=torch.Generator().manual_seed(0))
    report = OEU(model, sgd(model)).step(tokens[:4], tokens[4:], torch.arange(6) % 4)
    assert set(report.layer_cosines) == {"0", "2"} and not model[0].weight.grad.is_sparse


def test_a_quantized_layer_alone_is_a_model():
    """The smallest model, one quantized layer, works too."""
    torch.manual_seed(0)
    model = QuantLinear(6, 4)
    report = OEU(model, sgd(model)).step(*batches())
    assert list(report.layer_cosines) == [""]


def test_another_forget_loss_takes_entropys_place_and_entropy_is_still_reported():
    """forget_loss=f: f's gradient is projected and followed; the report's loss is f's, its entropy the model's own."""
    forget, retain, labels = batches()
    plain, other = small_net(batch_norm=False), small_net(batch_norm=False)
    first = OEU(plain, sgd(plain)).step(forget, retain, labels)
    half = OEU(
        other,
        sgd(other),
        beta=0.5,
        forget_loss=lambda z: 2 * -torch.distributions.Categorical(logits=z).entropy().mean(),
    )
    second = half.step(forget, retain, labels)
    assert second.forget_loss == pytest.approx(2 * first.forget_loss, rel=1e-5)
    assert second.forget_entropy == pytest.approx(first.forget_entropy, rel=1e-5)
    for a, b in zip(plain.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_stop_rule_measures_at_its_first_call_and_at_each_so_many_after_it(every):
    """The calls between answer False at once."""
    torch.manual_seed(0)
    model, lower, measured = torch.nn.Linear(4, 3), torch.randn(5, 4), []
    stop = EntropyStop(model, 9 * lower, lower, every=every)  # sure of what it is to forget: not reached
    for call in range(7):
        before = len(stop.history)
        assert stop.reached() is False
        measured += [call] * (len(stop.history) - before)
    assert measured == list(range(0, 7, every))
