"""Each method's update against its formula, worked out apart from it on a tiny linear model."""

import copy
from types import SimpleNamespace

import pytest
import torch

from oeu_ref.core.network import QuantMLP
from oeu_ref.core.unlearner import NonFiniteError
from oeu_ref.data.samples import Samples, digits, other_labels, stream
from oeu_ref.lab import engine
from oeu_ref.lab.experiment import QUICK
from oeu_ref.lab.training import TrainConfig, UnlearnConfig, build, train, unlearn
from oeu_ref.methods.baselines import (
    FineTuning,
    L1Sparse,
    RandomLabels,
    SalUn,
    SimilarLabels,
    SimilarLabelsByEpoch,
    similar_labels,
)
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Method, Settings
from oeu_ref.methods.orthogonal import OrthogonalEntropy
from oeu_ref.reference.entropy import cross_entropy, entropy_loss
from oeu_ref.reference.projection import project

CLASSES, FEATURES = 4, 3
RATE, WEIGHT, DECAY = 0.1, 0.7, 0.01


@pytest.fixture
def tiny():
    """A linear model without bias, logits = x W', in float64, and two batches: all gradients are x' (dL/dz)."""
    generator = torch.Generator().manual_seed(0)

    def batch(count):
        inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
        return Samples(inputs, torch.randint(CLASSES, (count,), generator=generator))

    model = torch.nn.Linear(FEATURES, CLASSES, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64))
    return SimpleNamespace(model=model, forget=batch(5), retain=batch(8))


def make(kind, tiny, momentum=0.0, decay=DECAY, **options):
    settings = Settings(RATE, WEIGHT, momentum, decay)
    return kind(tiny.model, tiny.forget, settings, stream(0, "method"), **options)


def gradient(model, batch, labels=None):
    """dCE/dW by the reference's hand-derived formula."""
    labels = batch.labels if labels is None else labels
    logits = model.weight.detach().numpy() @ batch.inputs.numpy().T
    return torch.from_numpy(cross_entropy(logits.T.copy(), labels.numpy())[1]).T @ batch.inputs


def stepped(method, tiny):
    """Weights after one step."""
    method.step(tiny.forget, tiny.retain)
    return tiny.model.weight.detach()


def assert_equal(first, second):
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_fine_tuning_follows_the_retain_gradient_with_weighted_decay(tiny):
    """theta - eta (g_r + w lambda theta)."""
    before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
    assert_equal(stepped(make(FineTuning, tiny), tiny), before - RATE * (g_r + WEIGHT * DECAY * before))


def test_l1_sparse_adds_the_sign_of_every_weight(tiny):
    """theta - eta (g_r + w gamma sign(theta) + lambda theta), sign(0) = 0, gamma = 5e-4."""
    with torch.no_grad():
        tiny.model.weight[0, 0] = 0.0
    before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
    expected = before - RATE * (g_r + WEIGHT * 5e-4 * before.sign() + DECAY * before)
    assert_equal(stepped(make(METHODS["l1"].make, tiny), tiny), expected)


def test_l1_sparse_may_fade(tiny):
    """Of `fade` = 2 steps the first has the whole penalty, the second half of it, and the third none; so it goes on."""
    method = make(METHODS["l1"].make, tiny, decay=0.0, fade=2)
    for share in (1.0, 0.5, 0.0):
        before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
        assert_equal(stepped(method, tiny), before - RATE * (g_r + share * WEIGHT * 5e-4 * before.sign()))
        again = make(METHODS["l1"].make, tiny, decay=0.0, fade=2)
        again.load_state_dict(method.state_dict())
        method = again


def test_oeu_with_random_labels_projects_their_gradient(tiny):
    """theta - eta (g_r + w g_perp), g_perp the projected gradient of CE(x_f, y'), y' as random labels draws them."""
    twin = stream(0, "method")
    method = make(METHODS["oeu_random_labels"].make, tiny, decay=0.0)
    for _ in range(2):
        before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
        g_f = gradient(tiny.model, tiny.forget, other_labels(tiny.forget.labels, CLASSES, twin))
        (g_perp,) = project([g_f.numpy()], [g_r.numpy()])
        assert abs((g_f * g_r).sum()) > 0.01  # otherwise nothing would be projected
        assert_equal(stepped(method, tiny), before - RATE * (g_r + WEIGHT * torch.from_numpy(g_perp)))


def layers_of_two(name, tiny):
    """(plan, {parameter: (g_f, g_r)}, <g_f, g_r> of each layer) of a method's first step on two layers."""
    torch.manual_seed(21)
    first, second = (torch.nn.Linear(FEATURES, n, dtype=torch.float64) for n in (FEATURES, CLASSES))
    tiny.model = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    oeu, retain = make(METHODS[name].make, tiny, decay=0.0).oeu, tiny.retain
    plan = oeu.plan(tiny.forget.inputs, retain.inputs, retain.labels)
    grads = {key: (plan.forget_grads[key], plan.retain_grads[key]) for key in plan.parameters}
    inner = {layer: sum((f * r).sum() for k, (f, r) in grads.items() if k.startswith(layer)) for layer in ("0", "2")}
    return plan, grads, inner


def test_oeu_under_conflict_projects_where_layers_conflict_and_nowhere_else(tiny):
    """d = g_r + w g_f in a layer whose gradients agree, g_r + w g_perp in one where they conflict."""
    plan, grads, inner = layers_of_two("oeu_conflict", tiny)
    assert min(inner.values()) < -0.01 and max(inner.values()) > 0.01  # a layer of each kind
    for key, (g_f, g_r) in grads.items():
        layer = key[0]
        length = sum((r * r).sum() for k, (_, r) in grads.items() if k.startswith(layer))
        taken = min(inner[layer], 0) / length * g_r
        assert_equal(plan.direction[key], g_r + WEIGHT * (g_f - taken))


def test_forget_only_steps_have_no_part_along_the_retain_gradient(tiny):
    """d = w g_perp, at right angles to g_r in each layer, where OEU's own d has <d, g_r> = |g_r|^2."""
    plan, grads, inner = layers_of_two("oeu_forget_only", tiny)
    assert min(abs(value) for value in inner.values()) > 0.01
    for layer in inner:
        keys = [key for key in grads if key.startswith(layer)]
        assert abs(sum((plan.direction[key] * grads[key][1]).sum() for key in keys)) < 1e-14
    for key in grads:
        assert_equal(plan.direction[key], WEIGHT * plan.projected_grads[key])


def test_a_method_that_fades_does_so_over_the_run(monkeypatch):
    """Three steps have the whole penalty, two thirds and one; each number of steps is a run of its own."""
    case, seen = engine.prepare(0, QUICK), []
    direction = L1Sparse.direction
    watched = lambda self, *losses: seen.append((self.fade, self.taken)) or direction(self, *losses)
    monkeypatch.setattr(L1Sparse, "direction", watched)
    for name in ("l1_fading", "l1"):
        engine.forget(case, name, Settings(0.1), 3)
    assert seen == [(3, 0), (3, 1), (3, 2), *[(None, i) for i in range(3)]]
    assert METHODS["l1_fading"].runs(UnlearnConfig(), (2, 4)) == [(2,), (4,)]
    assert METHODS["l1"].runs(UnlearnConfig(), (2, 4)) == [(2, 4)]


def test_saliency_does_not_depend_on_the_batch_size(tiny):
    """The gradient over the whole forget set, however it is cut into batches, the last one smaller."""
    method = make(SalUn, tiny)
    for batch_size in (1, 2, 3, 5):
        assert all(map(torch.equal, method.saliency_masks(tiny.forget, 0.5, batch_size), method.masks))


def test_gradient_ascent_climbs_the_forget_loss(tiny):
    """theta - eta (-w g_f + lambda theta), the retain batch without influence."""
    before, g_f = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.forget)
    assert_equal(stepped(make(METHODS["ga"].make, tiny), tiny), before - RATE * (-WEIGHT * g_f + DECAY * before))


def test_random_labels_teach_another_label_at_each_step(tiny):
    """theta - eta (g_r + w grad CE(x_f, y')), y' as drawn from the method's own generator."""
    twin = stream(0, "method")
    method = make(RandomLabels, tiny, decay=0.0)
    drawn = []
    for _ in range(3):
        drawn.append(other_labels(tiny.forget.labels, CLASSES, twin))
        before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
        g_f = gradient(tiny.model, tiny.forget, drawn[-1])
        assert_equal(stepped(method, tiny), before - RATE * (g_r + WEIGHT * g_f))
        assert (drawn[-1] != tiny.forget.labels).all()
    assert not all(torch.equal(drawn[0], labels) for labels in drawn[1:])


def test_salun_is_random_labels_on_the_most_salient_parameters(tiny):
    """Where the forget gradient is largest, the step of random labels; elsewhere the original weight, to the bit."""
    plain = copy.deepcopy(tiny)
    original, saliency = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.forget).abs()
    method = make(SalUn, tiny, momentum=0.9, share=0.25)
    (mask,) = method.masks
    assert mask.sum() == round(0.25 * mask.numel())
    assert saliency[mask].min() >= saliency[~mask].max()
    expected = stepped(make(RandomLabels, plain, momentum=0.9), plain)
    assert_equal(stepped(method, tiny)[mask], expected[mask])
    # momentum and weight decay, which would move every weight, must not either
    for _ in range(3):
        method.step(tiny.forget, tiny.retain)
    assert torch.equal(tiny.model.weight[~mask], original[~mask])
    assert (tiny.model.weight[mask] != original[mask]).all()


def test_salun_ranks_all_parameters_of_a_model_together():
    """Half of all parameters, not half of each tensor; BatchNorm's statistics stay while saliency is measured."""
    splits, model = digits(0), build(lambda: QuantMLP((64, 16, 10), batch_norm=True), 0)
    train(model, splits.train, TrainConfig(epochs=2), stream(0, "order"))
    buffers = [b.clone() for b in model.buffers()]
    method = SalUn(model, splits.forget, Settings(0.1), stream(0, "method"))
    counts = [int(mask.sum()) for mask in method.masks]
    sizes = [mask.numel() for mask in method.masks]
    assert sum(counts) == round(0.5 * sum(sizes))
    assert any(count != round(0.5 * size) for count, size in zip(counts, sizes))
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers()))


def test_similar_labels_are_the_most_likely_wrong_classes(tiny):
    """By search over classes, one sample at a time; never the sample's own label."""
    labels = similar_labels(tiny.model, tiny.forget)
    for x, y, similar in zip(tiny.forget.inputs, tiny.forget.labels.tolist(), labels.tolist()):
        logits = (tiny.model.weight @ x).tolist()
        assert similar == max((k for k in range(CLASSES) if k != y), key=logits.__getitem__)


def test_similar_labels_may_be_as_unlikely_as_they_like():
    """Among wrong classes with negative logits the least negative one, not the sample's own label."""
    samples = Samples(torch.tensor([[9.0, -3.0, -2.0], [-5.0, 1.0, -6.0]]), torch.tensor([0, 1]))
    assert similar_labels(torch.nn.Identity(), samples).tolist() == [2, 0]


def test_similar_labels_update_balances_the_norms(tiny):
    """theta - eta 2 (l_r g_r + w l_f g_f), l_f = |g_r| / (|g_f| + |g_r|), on the labels of the original model."""
    before, labels = tiny.model.weight.detach().clone(), similar_labels(tiny.model, tiny.forget)
    method = make(SimilarLabels, tiny, decay=0.0)
    g_f, g_r = gradient(tiny.model, tiny.forget, labels), gradient(tiny.model, tiny.retain)
    relabelled = method.relabel(tiny.forget)
    assert torch.equal(relabelled.labels, labels) and torch.equal(relabelled.inputs, tiny.forget.inputs)
    method.step(relabelled, tiny.retain)
    norm_f, norm_r = g_f.norm(), g_r.norm()
    change = 2 * (norm_f * g_r + WEIGHT * norm_r * g_f) / (norm_f + norm_r)
    assert_equal(tiny.model.weight.detach(), before - RATE * change)


def test_similar_labels_by_epoch_keep_their_weights_for_an_epoch(tiny):
    """theta - eta (w_r g_r + w_f g_f), w_f = G_r / (G_f + G_r): of the first batch, then of the means over the epoch
    before; 5 samples to forget in batches of 2 make an epoch of 3 steps. A run that goes on keeps them."""
    method, norms, weights = make(SimilarLabelsByEpoch, tiny, decay=0.0), [], None
    labels = similar_labels(tiny.model, tiny.forget)
    for step in range(7):
        part = torch.tensor([step, step + 1]) % len(tiny.forget)
        batch = Samples(tiny.forget.inputs[part], labels[part])
        before = tiny.model.weight.detach().clone()
        g_f, g_r = gradient(tiny.model, batch), gradient(tiny.model, tiny.retain)
        norms.append([g_f.norm().item(), g_r.norm().item()])
        if step in (0, 3, 6):
            f, r = torch.tensor(norms[max(0, step - 3) : step] or norms).mean(dim=0).tolist()
            weights = r / (f + r), f / (f + r)
        method.step(batch, tiny.retain)
        torch.testing.assert_close(
            tiny.model.weight.detach(), before - RATE * (weights[0] * g_f + weights[1] * g_r), rtol=1e-6, atol=1e-7
        )
        again = make(SimilarLabelsByEpoch, tiny, decay=0.0)
        again.load_state_dict(method.state_dict())
        method = again


def test_similar_labels_in_turns_weigh_by_the_means_of_the_epoch_before(tiny):
    """theta - eta w_f g_f on forget batches, theta - eta w_r g_r on retain batches: 1/2 each in the first epoch, then
    w_f = G_r / (G_f + G_r), w_r = G_f / (G_f + G_r) of the mean norms before, of 3 forget and 2 retain batches."""
    method, weights, norms = make(SimilarLabelsByEpoch, tiny, decay=0.0), (0.5, 0.5), ([], [])
    labels = similar_labels(tiny.model, tiny.forget)
    for step in range(15):
        side, part = (step % 5) // 3, torch.tensor([step, step + 1])
        batch = tiny.retain[part % 8] if side else Samples(tiny.forget.inputs[part % 5], labels[part % 5])
        if step % 5 == 0 and step:
            f, r = (sum(of_set) / len(of_set) for of_set in norms)
            weights, norms = (r / (f + r), f / (f + r)), ([], [])
        before, g = tiny.model.weight.detach().clone(), gradient(tiny.model, batch)
        norms[side].append(g.norm().item())
        method.step(*((None, batch) if side else (batch, None)))
        torch.testing.assert_close(tiny.model.weight.detach(), before - RATE * weights[side] * g, rtol=1e-6, atol=1e-7)
        again = make(SimilarLabelsByEpoch, tiny, decay=0.0)
        again.load_state_dict(method.state_dict())
        method = again
    assert abs(weights[0] - 0.5) > 0.01


@pytest.mark.parametrize("kind", [FineTuning, RandomLabels, METHODS["ga"].make, SalUn])
def test_with_one_batch_a_step_follows_its_part_alone(tiny, kind):
    """theta - eta w g_f with a forget batch alone, theta - eta g_r with a retain batch alone; ascent has -w g_f; with
    nothing that a method learns from it refuses."""
    options = {"share": 1.0} if kind is SalUn else {}
    method, twin = make(kind, tiny, decay=0.0, **options), stream(0, "method")
    labels = None if kind is METHODS["ga"].make else other_labels(tiny.forget.labels, CLASSES, twin)
    sign = -1 if labels is None else 1
    if kind is FineTuning:
        with pytest.raises(ValueError, match="FineTuning learns from"):
            method.step(tiny.forget, None)
    else:
        before, g_f = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.forget, labels)
        assert method.step(tiny.forget, None).retain_loss is None
        assert_equal(tiny.model.weight.detach(), before - RATE * sign * WEIGHT * g_f)
    before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
    if sign == -1:
        with pytest.raises(ValueError, match="GradientAscent learns from"):
            method.step(None, tiny.retain)
    else:
        assert method.step(None, tiny.retain).forget_loss is None
        assert_equal(tiny.model.weight.detach(), before - RATE * g_r)


@pytest.mark.parametrize("kind", [RandomLabels, SalUn])
def test_in_one_batch_of_both_sets_each_sample_counts_the_same(tiny, kind):
    """theta - eta (5/13 w g_f + 8/13 g_r) with 5 and 8 samples, g means over each part; theta - eta g_r with none to
    forget, as of any retain batch."""
    method, twin = make(kind, tiny, decay=0.0, **({"share": 1.0} if kind is SalUn else {})), stream(0, "method")
    method.together, before = True, tiny.model.weight.detach().clone()
    g_f = gradient(tiny.model, tiny.forget, other_labels(tiny.forget.labels, CLASSES, twin))
    expected = before - RATE * (5 / 13 * WEIGHT * g_f + 8 / 13 * gradient(tiny.model, tiny.retain))
    assert_equal(stepped(method, tiny), expected)
    expected = tiny.model.weight.detach() - RATE * gradient(tiny.model, tiny.retain)
    assert method.step(None, tiny.retain).forget_loss is None
    assert_equal(tiny.model.weight.detach(), expected)


def test_one_batch_of_both_sets_is_forwarded_as_one():
    """BatchNorm has the whole batch's statistics: the step is SGD on the mean cross-entropy of all samples."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(FEATURES, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, CLASSES)
    model, inputs = torch.nn.Sequential(*layers), torch.randn(9, FEATURES)
    labels, twin = torch.arange(9) % CLASSES, copy.deepcopy(model)
    forget, retain = Samples(inputs[:1], labels[:1]), Samples(inputs[1:], labels[1:])
    method = RandomLabels(model, forget, Settings(RATE, 1.0, 0.0, 0.0), stream(0, "method"))
    method.together = True
    method.step(forget, retain)
    taught = torch.cat([other_labels(labels[:1], CLASSES, stream(0, "method")), labels[1:]])
    torch.nn.functional.cross_entropy(twin(inputs), taught).backward()
    torch.optim.SGD(twin.parameters(), RATE).step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_similar_labels_in_one_batch_of_both_sets_weigh_each_samples_loss(tiny):
    """theta - eta (n_f w_f g_f + n_r w_r g_r) / (n_f + n_r), g and G of each part's mean; a batch without forget
    samples has w_r, 1/2 before there are norms to go by; an epoch ends with as many as there are to forget."""
    method, weights, norms = make(SimilarLabelsByEpoch, tiny, decay=0.0), None, ([], [])
    method.together, labels, drawn = True, similar_labels(tiny.model, tiny.forget), 0
    sizes = [(0, 8), (2, 8), (1, 8), (1, 0), (0, 8), (2, 8), (2, 8), (1, 0), (2, 8), (0, 8)]  # of both parts
    for step, (count, kept) in enumerate(sizes):
        part, before = torch.arange(step, step + count) % 5, tiny.model.weight.detach().clone()
        batch = Samples(tiny.forget.inputs[part], labels[part]) if count else None
        retain = tiny.retain if kept else None
        g = [torch.zeros_like(before) if b is None else gradient(tiny.model, b) for b in (batch, retain)]
        of_step = [part.norm().item() for part in g]
        if weights is None and count:
            weights = of_step[1] / sum(of_step), of_step[0] / sum(of_step)
        w_f, w_r = weights or (0.5, 0.5)
        method.step(batch, retain)
        expected = before - RATE * (count * w_f * g[0] + kept * w_r * g[1]) / (count + kept)
        torch.testing.assert_close(tiny.model.weight.detach(), expected, rtol=1e-6, atol=1e-7)
        for of_set, norm, there in zip(norms, of_step, (count, kept)):
            of_set.extend([norm] * (there > 0))
        if (drawn := drawn + count) >= 5:
            f, r = (sum(of_set) / len(of_set) for of_set in norms)
            weights, norms, drawn = (r / (f + r), f / (f + r)), ([], []), 0
    assert abs(weights[0] - 0.5) > 0.01


def test_random_labels_over_all_classes_hit_the_true_one_as_often_as_any(tiny):
    """12,000 draws over four classes, 3,000 expected of each, five standard deviations allowed; the mask's too."""
    for kind in (RandomLabels, SalUn):
        method = make(kind, tiny, classes="all")
        counts = torch.bincount(method.drawn(torch.full((12000,), 2), 4), minlength=4)
        assert ((counts - 3000).abs() < 5 * (12000 * 0.25 * 0.75) ** 0.5).all()
        assert (make(kind, tiny).drawn(torch.full((100,), 2), 4) != 2).all()
    with pytest.raises(ValueError, match="classes must be one of"):
        make(RandomLabels, tiny, classes="some")


def test_similar_labels_keep_to_the_original_model(tiny):
    """The labels are those of the model at the start, whatever it has become since."""
    method = make(SimilarLabels, tiny)
    before = method.relabel(tiny.forget).labels
    with torch.no_grad():
        tiny.model.weight.mul_(-1)
    assert torch.equal(method.relabel(tiny.forget).labels, before)
    assert not torch.equal(similar_labels(tiny.model, tiny.forget), before)


def test_oeu_is_entropy_and_projection(tiny):
    """theta - eta (g_r + w g_perp + lambda theta), both gradients and the projection by the NumPy reference."""
    before, g_r = tiny.model.weight.detach().clone(), gradient(tiny.model, tiny.retain)
    logits = (tiny.forget.inputs @ before.T).numpy()
    g_f = torch.from_numpy(entropy_loss(logits)[1]).T @ tiny.forget.inputs
    (g_perp,) = project([g_f.numpy()], [g_r.numpy()])
    expected = before - RATE * (g_r + WEIGHT * torch.from_numpy(g_perp) + DECAY * before)
    assert_equal(stepped(make(OrthogonalEntropy, tiny), tiny), expected)


def test_oeu_does_not_look_at_forget_labels(tiny):
    twin = copy.deepcopy(tiny)
    twin.forget = Samples(twin.forget.inputs, (twin.forget.labels + 1) % CLASSES)
    assert torch.equal(stepped(make(OrthogonalEntropy, tiny), tiny), stepped(make(OrthogonalEntropy, twin), twin))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_in_the_one_loop_and_repeats_to_the_bit(name):
    """A quantized net with BatchNorm, five steps: the same seeds give the same weights, and the weights move."""
    splits, make_model = digits(0), lambda: QuantMLP((64, 16, 10), batch_norm=True)
    original = build(make_model, 0)
    train(original, splits.train, TrainConfig(epochs=2), stream(0, "order"))
    weights = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        model = copy.deepcopy(original)
        method = METHODS[name].make(model, splits.forget, Settings(0.05, 0.5), stream(0, "method"))
        generators = stream(0, "forget"), stream(0, "retain")
        reports = unlearn(method, splits.forget, splits.retain, 5, UnlearnConfig(32, 64), generators)
        assert len(reports) == 5
        assert (reports[0].retain_loss is None) == (name == "ga")
        assert (reports[0].forget_loss is None) == (name in ("ft", "l1", "l1_fading"))
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], original.parameters()))


@pytest.mark.parametrize("what", ["step", "masks"])
def test_inference_mode_is_refused_with_what_to_do(tiny, what):
    """Where PyTorch has no gradients at all a method says so, and changes nothing."""
    method, before = make(SalUn, tiny), tiny.model.weight.detach().clone()
    with torch.inference_mode(), pytest.raises(ValueError, match="outside torch.inference_mode"):
        stepped(method, tiny) if what == "step" else method.saliency_masks(tiny.forget, 0.5)
    assert torch.equal(tiny.model.weight, before)


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_not_finite_raises_before_the_weights_move(name, tiny):
    with torch.no_grad():
        tiny.model.weight[0, 0] = torch.inf
    before = tiny.model.weight.detach().clone()
    method = make(METHODS[name].make, tiny)
    with pytest.raises(NonFiniteError, match="finite"):
        method.step(tiny.forget, tiny.retain)
    assert torch.equal(tiny.model.weight, before)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda tiny: Settings(0.0), ValueError, "learning_rate"),
        (lambda tiny: Settings("0.1"), TypeError, "learning_rate"),
        (lambda tiny: Settings(0.1, weight=-1.0), ValueError, "weight"),
        (lambda tiny: Settings(0.1, momentum=2.0), ValueError, "momentum"),
        (lambda tiny: make(SalUn, tiny, share=0.0), ValueError, "share"),
        (lambda tiny: make(SalUn, tiny, share=1.5), ValueError, "share"),
        (lambda tiny: make(OrthogonalEntropy, tiny, rescale="both"), ValueError, "rescale"),
        (lambda tiny: Method(torch.nn.Identity(), tiny.forget, Settings(0.1), None), ValueError, "model"),
    ],
)
def test_bad_input_is_named(call, error, message, tiny):
    with pytest.raises(error, match=message):
        call(tiny)
