"""Numerics under stress: halves, subnormals, huge and mixed scales, odd layouts, 1e8 elements, infinite gradients.

Each result is compared with one in float64 arithmetic on the very same numbers, and must be right to rounding: of the
arithmetic (float32 for halves) and of the dtype in which it is returned.
"""

import copy
import math
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from oeu_ref import core, reference
from oeu_ref.beyond.monitor import Monitored
from oeu_ref.beyond.subspace import SubspaceOEU
from oeu_ref.core import entropy, fast, projection
from oeu_ref.data.samples import Samples, stream
from oeu_ref.methods.by_name import METHODS
from oeu_ref.methods.method import Settings
from oeu_ref.methods.orthogonal import JointOEU
from oeu_ref.reference import entropy as reference_entropy
from oeu_ref.reference import projection as reference_projection
from oeu_ref.tensors import Layers, stretches

HALVES = (torch.float16, torch.bfloat16)
GIB = 2**30


def available():
    """Bytes of memory that are free for use, infinite where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":") for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return math.inf


large = pytest.mark.skipif(available() < 8 * GIB, reason="takes 4 GB of memory, and wants 8 GB to be free")


def double(tensors):
    return [np.asarray(t.detach().double().contiguous().numpy()) for t in tensors]


def pair(shapes, dtype=torch.float32, scales=(1.0, 1.0), seed=0):
    """Two lists of gradients with a cosine of about 0.6 in each tensor; scales: of the two."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    retain = [draw(shape) for shape in shapes]
    forget = [0.75 * g + draw(shape) for g, shape in zip(retain, shapes)]
    return [(scales[0] * g).to(dtype) for g in forget], [(scales[1] * g).to(dtype) for g in retain]


def wrong(found, expected, forget, dtype, layer_ids=None, smallest=0.0):
    """Largest error of a layer, in units of eps |g_f|: of float32 arithmetic, and of rounding to a half in the end."""
    ids = list(range(len(forget))) if layer_ids is None else layer_ids
    eps = torch.finfo(dtype).eps
    worst = 0.0
    for layer in set(ids):
        members = [i for i, owner in enumerate(ids) if owner == layer]
        size = max((np.abs(expected[i]).max(initial=0) for i in members), default=0)
        size = max(size, *(np.abs(double([forget[i]])[0]).max(initial=0) for i in members))
        error = max(np.abs(double([found[i]])[0] - expected[i]).max(initial=0) for i in members)
        allowed = eps * size + smallest
        worst = max(worst, error / allowed if allowed else float(error > 0) * math.inf)
    return worst


def ways(forget, retain, layer_ids=None, granularity="layer", **options):
    """The projection by each of the core's ways, and the expected one, in float64."""
    expected = reference.project(
        double(forget), double(retain), layer_ids=layer_ids, granularity=granularity, **options
    )
    layers = Layers(layer_ids, forget, granularity)
    yield projection.project(forget, retain, layer_ids=layer_ids, granularity=granularity, **options), expected
    yield fast.projected(forget, retain, layers, small=0, **options), expected


SHAPES = [(16, 8), (16,), (), (3, 2, 2, 2)]


@pytest.mark.parametrize("rescale", ["undo", "match"])
@pytest.mark.parametrize("granularity", ["layer", "global"])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_projected_in_float32_and_rounded_once(dtype, granularity, rescale):
    """The result is that of float64 arithmetic on the halves' values, rounded to halves."""
    forget, retain = pair(SHAPES[:2] + SHAPES[3:], dtype)
    for found, expected in ways(forget, retain, granularity=granularity, rescale=rescale):
        assert all(g.dtype == dtype for g in found)
        assert wrong(found, expected, forget, dtype) <= 1


@pytest.mark.parametrize("dtype", HALVES)
def test_long_sums_of_halves_do_not_stick(dtype):
    """100,000 elements of one sign: a sum in halves would stop growing at 256 (2,048), and the cosine would be lost."""
    forget, retain = [torch.ones(100_000, dtype=dtype)], [torch.ones(100_000, dtype=dtype)]
    forget[0][0] = 64
    for found, expected in ways(forget, retain):
        assert wrong(found, expected, forget, dtype) <= 1
    assert projection.cosines(forget, retain)[0].item() == pytest.approx(reference_cosine(forget, retain), abs=1e-6)
    stuck = torch.ones(2, dtype=dtype)  # the control: one addition after the other, in halves
    for _ in range(5000):
        stuck += 1
    assert stuck[0] < 4000


def reference_cosine(forget, retain):
    return reference_projection.cosines(double(forget), double(retain))[0]


@pytest.mark.parametrize("rescale", ["undo", "match"])
@pytest.mark.parametrize(
    "scales",
    [
        *((1e30, 1e30), (1e-30, 1e-30), (1e30, 1e-30), (1e-30, 1e30), (3e37, 1.0)),
        *((1e-42, 1.0), (1.0, 1e-42), (1e-42, 1e-42), (3e-22, 3e-22)),  # the last: squares are subnormal
    ],
    ids=str,
)
def test_float32_of_any_scale_comes_out_right(scales, rescale):
    """Squares of 1e30 and of 1e-30 are no float32; subnormals have few digits, and keep those that they have."""
    forget, retain = pair(SHAPES, scales=scales)
    tiny = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    for found, expected in ways(forget, retain, rescale=rescale):
        assert all(g.isfinite().all() for g in found)
        assert wrong(found, expected, forget, torch.float32, smallest=2 * tiny) <= 8


@pytest.mark.parametrize("rescale", ["undo", "match"])
def test_a_norm_beyond_the_largest_number_is_no_obstacle(rescale):
    """Elements of 1e38 are float32, the norm of a hundred of them is not: it is infinite, and the result is right."""
    generator = torch.Generator().manual_seed(0)
    forget = [torch.rand(100, generator=generator) * 1.2e38]
    retain = [torch.where(torch.arange(100) % 2 == 0, forget[0], 1e38 * torch.rand(100, generator=generator))]
    assert forget[0].double().norm() > torch.finfo(torch.float32).max
    for found, expected in ways(forget, retain, rescale=rescale):
        assert wrong(found, expected, forget, torch.float32) <= 8
        cosine = reference_projection.cosines(double(found), double(retain))[0]
        assert abs(cosine) < 1e-6 < 0.5 < reference_cosine(forget, retain)


@pytest.mark.parametrize("normalization", ["exact", "additive"])
def test_float64_beyond_its_largest_number_too(normalization):
    """The reference itself: elements of 1e308, whose norm is infinite; a power of two changes nothing."""
    forget, retain = (double(grads) for grads in pair([(50,)], torch.float64))
    options = {"normalization": normalization, "epsilon": 1e-8}
    plain = reference.project(forget, retain, normalization=normalization, epsilon=1e-300)
    huge = 2.0**1021
    with np.errstate(over="raise", invalid="raise"):
        found = reference.project([g * huge for g in forget], [g * huge for g in retain], **options)
    np.testing.assert_allclose(found[0] / huge, plain[0], rtol=1e-12, atol=1e-14)
    found = core.project(*([torch.tensor(g * huge) for g in grads] for grads in (forget, retain)), **options)
    np.testing.assert_allclose(found[0].numpy() / huge, plain[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_scales_mixed_within_a_layer_and_between_layers(granularity):
    """1e-20 beside 1e20 in one layer, and from layer to layer: right to the rounding of each layer's own size."""
    forget, retain = pair([(8, 8), (8,), (8, 8), (8,)])
    for grads in (forget, retain):
        grads[0][:4] *= 1e20
        grads[0][4:] *= 1e-20
        grads[2] *= 1e18
        grads[3] *= 1e-18
    ids = [0, 0, 1, 2]
    for found, expected in ways(forget, retain, layer_ids=ids, granularity=granularity):
        assert wrong(found, expected, forget, torch.float32, [0] * 4 if granularity == "global" else ids) <= 8


def test_the_power_of_two_loses_no_bit():
    """Where g_r is zero, or alpha, the forget gradient comes back bit for bit, whatever its scale."""
    for scale in (1e-44, 1e-38, 1e-20, 1.0, 1e20, 3e37):
        forget, retain = pair(SHAPES, scales=(scale, 1.0))
        for found in (
            core.project(forget, [torch.zeros_like(g) for g in retain]),
            core.project(forget, retain, alpha=0.0),
        ):
            assert all(torch.equal(a, b) for a, b in zip(found, forget))
            assert all(a.data_ptr() != b.data_ptr() for a, b in zip(found, forget))


def layouts(grads):
    """The same numbers in other places of memory, by name."""
    image = grads[0]
    yield "as they are", list(grads)
    yield "channels last", [image.contiguous(memory_format=torch.channels_last), grads[1]]
    yield "transposed", [image.transpose(1, 3).contiguous().transpose(1, 3), grads[1].T.contiguous().T]
    gaps = torch.zeros(2 * grads[1].shape[0], 3 * grads[1].shape[1])
    gaps[::2, ::3] = grads[1]
    yield "with gaps", [image.flip(0).contiguous().flip(0), gaps[::2, ::3]]


def test_layouts_in_memory_do_not_matter(monkeypatch):
    """Contiguous, channels-last, transposed and with gaps, each beside each: one result, to rounding."""
    monkeypatch.setattr(stretches, "STRETCH", 8)  # so that these are large, and read in stretches
    monkeypatch.setattr("oeu_ref.tensors.layers.PIECE", 8)
    forget, retain = pair([(4, 3, 2, 5), (6, 7)])
    expected = reference.project(double(forget), double(retain))
    for _, first in layouts(forget):
        for name, second in layouts(retain):
            layers = Layers(None, first)
            for found in (core.project(first, second), fast.projected(first, second, layers, small=0)):
                assert wrong(found, expected, forget, torch.float32) <= 8, name
            numbers = fast.cosines_and_norms(first, second, layers, small=0)
            careful = fast.cosines_and_norms(first, second, layers)
            torch.testing.assert_close(numbers, careful.double(), rtol=1e-5, atol=1e-6)


def test_expanded_tensors_are_read_and_never_written():
    """Stride 0: a gradient of a sum is one number seen many times; the result has memory of its own."""
    forget, retain = [torch.tensor(2.0).expand(6, 5)], [torch.arange(5.0).expand(6, 5)]
    for found, expected in ways(forget, retain):
        assert wrong(found, expected, forget, torch.float32) <= 8
        found[0].add_(1)
        assert torch.equal(forget[0], torch.full((6, 5), 2.0))


@pytest.mark.parametrize("granularity", ["layer", "global"])
def test_tensors_of_no_elements_and_of_no_dimension(granularity):
    """Empty tensors stay empty, and alone too; a 0-d tensor is a layer like others, collinear by itself."""
    shapes = [(0,), (3, 0, 2), (), (4,)]
    forget, retain = pair(shapes)
    for found, expected in ways(forget, retain, granularity=granularity):
        assert [g.shape for g in found] == [torch.Size(s) for s in shapes]
        assert wrong(found, expected, forget, torch.float32, [0] * 4 if granularity == "global" else None) <= 8
    for found, _ in ways(forget[:2], retain[:2], granularity=granularity):
        assert [g.numel() for g in found] == [0, 0]
    assert core.project(forget[2:3], retain[2:3])[0].item() == 0
    assert projection.cosines(forget[:2], retain[:2]).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("scale", [1e-44, 1e-8, 1.0, 1e4, 3e38])
def test_entropy_of_logits_of_any_scale(dtype, scale):
    """Loss and gradient agree with the reference's on the same logits; certain predictions have an entropy of 0."""
    generator = torch.Generator().manual_seed(0)
    scale = min(scale, float(torch.finfo(dtype).max))
    logits = (torch.rand(32, 10, generator=generator, dtype=torch.float64) * 2 - 1) * scale
    logits = logits.to(dtype).requires_grad_()
    loss = core.entropy_loss(logits)
    loss.backward()
    expected, grad = reference_entropy.entropy_loss(logits.detach().double().numpy())
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    allowed = 16 * eps * (1 + min(scale, 100.0))  # beyond, the predictions are certain
    assert abs(loss.item() - expected) <= allowed
    rounding = torch.finfo(dtype).eps * np.abs(grad) + torch.finfo(dtype).tiny
    assert (np.abs(logits.grad.double().numpy() - grad) <= allowed / 32 * math.log(10) + rounding).all()


@large
def test_a_hundred_million_elements():
    """float32 sums of 1e8 products: both ways agree with sums in float64, and the result is orthogonal."""
    start, n = time.process_time(), 10**8
    retain = torch.empty(n).uniform_(0, 1, generator=torch.Generator().manual_seed(0))
    forget = retain.flip(0) + 0.5  # all of one sign: a running sum in float32 would be off in the third digit
    stretches = lambda *tensors: zip(*(t.split(10**7) for t in tensors))
    dot = lambda a, b: sum((x.double() * y.double()).sum().item() for x, y in stretches(a, b))
    ff, rr, fr = dot(forget, forget), dot(retain, retain), dot(forget, retain)
    layers, at = Layers(None, [forget]), torch.arange(0, n, 9973)
    expected = forget[at].double() - fr / rr * retain[at].double()
    for projected in (fast.projected, projection.projected):
        found = projected([forget], [retain], layers)[0]
        assert (found[at].double() - expected).abs().max() <= 32 * torch.finfo(torch.float32).eps
        assert abs(dot(found, retain)) <= 1e-6 * math.sqrt(dot(found, found) * rr)
        del found
    cosine, norm_f, norm_r = fast.cosines_and_norms([forget], [retain], layers).flatten().tolist()
    assert cosine == pytest.approx(fr / math.sqrt(ff * rr), rel=1e-6)
    assert [norm_f, norm_r] == pytest.approx([math.sqrt(ff), math.sqrt(rr)], rel=1e-6)
    assert time.process_time() - start < 60  # about ten seconds


@large
def test_the_entropy_of_a_million_predictions_of_a_hundred_classes():
    """The mean over 1e6 rows, and each row's gradient, to rounding."""
    logits = torch.empty(10**6, 100).normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = core.entropy_loss(logits)
    loss.backward()
    expected = 0.0
    for part in logits.detach().split(10**5):
        log_p = part.double().log_softmax(1)
        expected += (log_p.exp() * log_p).sum().item() / 10**6
    assert loss.item() == pytest.approx(expected, rel=2e-6)
    rows = logits.detach()[:1000].double().numpy()
    _, grad = reference_entropy.entropy_loss(rows)
    np.testing.assert_allclose(logits.grad[:1000].numpy() * 1000.0, grad, rtol=1e-4, atol=1e-8)


# models and steps


def batches(features=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    forget, retain = (torch.rand(n, features, generator=generator) for n in (7, 12))
    return forget, retain, torch.randint(0, classes, (12,), generator=generator)


def expected_direction(model, data, parameters, alpha=1.0, beta=1.0):
    """d = g_r + beta g_perp of a model in float64 whose modules are layers, by autograd and the reference."""
    forget, retain, labels = data
    model.train()
    g_f = torch.autograd.grad(core.entropy_loss(model(forget)), parameters, allow_unused=True)
    g_r = torch.autograd.grad(entropy.cross_entropy(model(retain), labels), parameters, allow_unused=True)
    filled = [[torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads)] for grads in (g_f, g_r)]
    lists = [double(grads) for grads in filled]
    names = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    return reference.oeu_direction(*lists, alpha, beta, layer_ids=[names[id(p)] for p in parameters])


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))


class Words(nn.Module):
    """A bag of words: the embedding's gradient is sparse."""

    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.EmbeddingBag(20, 6, mode="mean", sparse=sparse), nn.Linear(6, 4)

    def forward(self, words):
        return self.last(self.embedding(words))


def test_sparse_gradients_are_projected_like_dense_ones():
    """An embedding with sparse=True takes the very step of its dense twin; words of neither batch stay."""
    generator = torch.Generator().manual_seed(1)
    forget, retain = (torch.randint(0, k, (n, 3), generator=generator) for k, n in ((10, 7), (12, 12)))
    labels = torch.arange(12) % 4
    models = [Words(sparse).double() for sparse in (True, False)]
    before = models[0].embedding.weight.detach().clone()
    twin = copy.deepcopy(models[1])
    wanted = expected_direction(twin, (forget, retain, labels), list(twin.parameters()))
    for model in models:
        core.OEU(model, torch.optim.SGD(model.parameters(), lr=0.1)).step(forget, retain, labels)
    for p, q in zip(*(m.parameters() for m in models)):
        assert torch.equal(p, q)
    after = models[0].embedding.weight
    assert torch.equal(after[12:], before[12:]) and not torch.equal(after, before)
    for p, d in zip(models[0].parameters(), wanted):
        np.testing.assert_allclose(p.grad.numpy(), d, atol=1e-14)


@pytest.mark.parametrize("unlearn", ["oeu", *(name for name in METHODS if name != "oeu")])
def test_frozen_and_unused_parameters_stay_and_do_no_harm(unlearn):
    """A frozen layer and one that no loss reaches keep every bit, by each method, with momentum and weight decay."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.frozen, self.used, self.unused = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(torch.tanh(self.frozen(x)))

    model, (forget, retain, labels) = Odd(), batches()
    before = copy.deepcopy(model.state_dict())
    samples = Samples(forget, torch.arange(7) % 4), Samples(retain, labels)
    method = METHODS[unlearn].make(model, samples[0], Settings(0.1, weight_decay=0.0), stream(0, "method"))
    for _ in range(3):
        method.step(*samples)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    penalized = {"unused.weight", "unused.bias"} if unlearn in ("l1", "l1_fading") else set()
    allowed = {"used.weight", "used.bias"} | penalized
    assert moved <= allowed and "used.weight" in moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_a_model_in_another_precision_follows_that_of_float64(dtype):
    """Direction of a float32 and of a bfloat16 model against float64 on the same weights and inputs."""
    model, (forget, retain, labels) = mlp(), batches()
    model.to(dtype)
    forget, retain = forget.to(dtype), retain.to(dtype)
    exact = copy.deepcopy(model).double()
    wanted = expected_direction(exact, (forget.double(), retain.double(), labels), list(exact.parameters()))
    core.OEU(model, torch.optim.SGD(model.parameters(), lr=0.1)).step(forget, retain, labels)
    size = max(np.abs(w).max() for w in wanted)
    error = max(np.abs(double([p.grad])[0] - w).max() for p, w in zip(model.parameters(), wanted))
    assert all(p.grad.dtype == dtype for p in model.parameters())
    # a pass of the network itself, not the projection, is what rounds: some ten operations deep
    assert error <= 40 * torch.finfo(dtype).eps * size


def test_autocast_to_bfloat16_needs_no_scaler():
    """Under autocast weights, gradients and the projection stay float32; passes of the network are bfloat16."""
    model, data = mlp(), batches()
    exact = copy.deepcopy(model).double()
    wanted = expected_direction(exact, (data[0].double(), data[1].double(), data[2]), list(exact.parameters()))
    unlearner = core.OEU(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.autocast("cpu", torch.bfloat16):
        plan = unlearner.plan(*data)
        unlearner.take(plan)
    size = max(np.abs(w).max() for w in wanted)
    error = max(np.abs(double([p.grad])[0] - w).max() for p, w in zip(model.parameters(), wanted))
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert 1e-6 * size < error <= 40 * torch.finfo(torch.bfloat16).eps * size
    assert abs(plan.residual) < 1e-5  # orthogonal to the gradient as it is, however rounded


class Exploding(nn.Module):
    """A network whose losses are finite, and whose gradients are not where an input's first feature is 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.power = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)))) + _infinite_gradient(x[:, :1] * self.power)


def _infinite_gradient(x):
    """x, with an infinite gradient where x is 0."""
    return torch.where(x == 0, x.abs().sqrt(), x)


KINDS = {
    "separate": core.OEU,
    "joint": JointOEU,
    "memory": partial(SubspaceOEU, memory=3),
    "monitored": lambda *args: Monitored(core.OEU(*args)),
    "tensor": partial(core.OEU, layer="tensor"),
    "global": partial(core.OEU, granularity="global"),
    "match": partial(core.OEU, rescale="match"),
}


def everything(model, optimizer):
    """All that a step could change, copied: parameters, buffers, gradients, modes, the optimizer's state."""
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    return copy.deepcopy([model.state_dict(), optimizer.state_dict(), gradients, modes])


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("place", ["forget", "retain"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_with_an_infinite_gradient_is_skipped_and_the_loop_goes_on(kind, place, optimizer_class):
    """`NonFiniteError`; nothing has changed; later steps are bit for bit those of a run without the bad batch."""
    model, data = Exploding(), batches()
    extra = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
    optimizer = optimizer_class(model.parameters(), lr=0.01, **extra)
    unlearner = kind(model, optimizer)
    unlearner.step(*data)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    twin_unlearner = kind(twin, twin_optimizer)
    if isinstance(unlearner, SubspaceOEU):
        twin_unlearner.remembered.gradients.extend(unlearner.remembered.gradients)
    bad = [tensor.clone() for tensor in data]
    bad[("forget", "retain").index(place)][2, 0] = 0.0
    before = everything(model, optimizer)
    with pytest.raises(core.NonFiniteError, match="gradient must be finite"):
        unlearner.step(*bad)
    assert same(everything(model, optimizer), before)
    for step in range(3):
        unlearner.step(*batches(seed=step + 5))
        twin_unlearner.step(*batches(seed=step + 5))
    assert same(model.state_dict(), twin.state_dict())


def test_a_scaled_loss_that_overflows_is_skipped_and_the_scale_halved():
    """What a gradient scaler does, with a forget loss of your own: skip, halve, go on; the model never sees it."""
    model, data = mlp(), batches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scale, skipped, taken = 2.0**130, 0, 0

    def scaled(logits):
        return core.entropy_loss(logits) * scale

    # with alpha = 1 and "undo" the result is linear in the forget gradient: beta divides by the scale
    while taken < 3:
        unlearner = core.OEU(model, optimizer, beta=1 / scale, forget_loss=scaled)
        before = everything(model, optimizer)
        try:
            unlearner.step(*data)
            taken += 1
        except core.NonFiniteError:
            assert same(everything(model, optimizer), before)
            scale, skipped = scale / 2, skipped + 1
    assert skipped >= 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_scaled_loss_gives_the_step_of_the_plain_one():
    """Scaled by a power of two and divided again, the step is the plain one to rounding."""
    data, weights = batches(), []
    for scale in (1.0, 2.0**60, 2.0**-60):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = lambda logits, scale=scale: core.entropy_loss(logits) * scale
        core.OEU(model, optimizer, beta=1 / scale, forget_loss=loss).step(*data)
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert (weights[0] - weights[1]).abs().max() < 1e-6 and (weights[0] - weights[2]).abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name in METHODS if name != "oeu"])
def test_rivals_skip_such_steps_too(name):
    """Every method raises for an infinite gradient, and leaves model, optimizer and generator as they were."""
    if name == "ga":
        pytest.skip("its loss of the forget samples alone is the same test as for the retain samples")
    model, (forget, retain, labels) = Exploding(), batches()
    good = Samples(forget, torch.arange(7) % 4), Samples(retain, labels)
    method = METHODS[name].make(model, good[0], Settings(0.01), stream(0, "method"))
    method.step(*good)
    bad = retain.clone()
    bad[2, 0] = 0.0
    before, state = everything(model, method.optimizer), method.generator.get_state()
    with pytest.raises(core.NonFiniteError, match="gradient must be finite"):
        method.step(good[0], Samples(bad, labels))
    assert same(everything(model, method.optimizer), before)
    assert torch.equal(method.generator.get_state(), state)
    method.step(*good)
