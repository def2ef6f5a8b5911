"""The fast projection: where it takes its short way, that it is right there on large layers, and what it falls back to.

The laws judge it on small ones: `oeu_ref.core.contract:fast_float64` and `:fast_float32` are among `OURS` in
conftest.py.
"""

import gc
import math

import numpy as np
import pytest
import torch

from oeu_ref.core import fast, projection
from oeu_ref.passes import State, in_mode
from oeu_ref.reference import projection as reference
from oeu_ref.tensors import Layers, stretches


def projected(*args, **kwargs):
    return fast.projected(*args, small=0, **kwargs)


def gradients(shapes, dtype=torch.float32, cosine=0.5, seed=0):
    """A pair of gradients whose cosine is about the one asked for in each tensor."""
    generator = torch.Generator().manual_seed(seed)
    forget = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    retain = [cosine * f + math.sqrt(1 - cosine**2) * n for f, n in zip(forget, noise)]
    return [g.to(dtype) for g in forget], [g.to(dtype) for g in retain]


@pytest.fixture
def carefully(monkeypatch):
    """Numbers of tensors handed to the careful function."""
    handed, projected = [], projection.projected

    def counted(forget, *args, **kwargs):
        handed.append(len(forget))
        return projected(forget, *args, **kwargs)

    monkeypatch.setattr(projection, "projected", counted)
    return handed


@pytest.mark.parametrize("rescale", ["undo", "match"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("ids", [None, [0, 0, 1]])
def test_ordinary_layers_take_the_short_way_and_end_at_the_definition(carefully, ids, alpha, rescale):
    forget, retain = gradients([(64, 3, 3, 3), (64,), (10, 64)], torch.float64)
    found = projected(forget, retain, Layers(ids, forget), alpha, rescale)
    assert not carefully
    expected = reference.project(
        *([g.numpy() for g in grads] for grads in (forget, retain)), alpha, rescale=rescale, layer_ids=ids
    )
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("cosine", [-0.86, 0.0, 0.5, 0.86])
def test_a_layer_of_ten_million_elements_is_orthogonal_to_rounding(carefully, cosine):
    """A plain sum of so many float32 products would leave a cosine of 1e-5 or so behind."""
    forget, retain = gradients([10_000_000], cosine=cosine)
    (g_perp,) = projected(forget, retain, Layers(None, forget))
    assert not carefully
    g_perp, g_r = g_perp.double(), retain[0].double()
    assert abs(g_perp @ g_r / (g_perp.norm() * g_r.norm())) < 4 * torch.finfo(torch.float32).eps


def test_layers_that_are_not_ordinary_are_done_carefully_and_only_they(carefully):
    """Nearly parallel, zero, huge, tiny and not finite ones, among two ordinary ones."""
    forget, retain = gradients([8] * 9)
    retain[1] = forget[1] * (1 + 1e-5 * torch.arange(8))
    retain[2], forget[3] = torch.zeros(8), torch.zeros(8)
    forget[4], retain[5], forget[6] = forget[4] * 1e25, retain[5] * 1e-25, forget[6] * torch.nan
    retain[7] = torch.full((8,), torch.inf)
    found = projected(forget, retain, Layers(None, forget))
    assert carefully == [7]
    expected = projection.projected(forget, retain, Layers(None, forget))
    for i in (1, 2, 3, 4, 5, 6, 7):
        assert torch.equal(found[i].isnan(), expected[i].isnan())
        assert torch.equal(found[i].nan_to_num(), expected[i].nan_to_num())
    for i in (0, 8):
        torch.testing.assert_close(found[i], expected[i], rtol=0, atol=1e-6)


def test_float16_is_computed_in_float32():
    """Squares of these overflow in float16."""
    forget, retain = gradients([1000])
    forget, retain = [300 * forget[0].half()], [300 * retain[0].half()]
    (found,) = projected(forget, retain, Layers(None, forget))
    (expected,) = projection.projected(forget, retain, Layers(None, forget))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0.25)


@pytest.mark.parametrize("stretch", [7, stretches.STRETCH])
def test_any_memory_layout_gives_the_same_result(monkeypatch, stretch):
    """Channels-last, transposed, strided and expanded gradients, in all combinations, in one stretch or in many."""
    monkeypatch.setattr(stretches, "STRETCH", stretch)
    (forget,), (retain,) = gradients([(4, 6, 5, 5)], torch.float64)
    layouts = (
        lambda t: t,
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        lambda t: torch.stack([t, t], dim=-1)[..., 0],
    )
    expected = projection.project([forget], [retain])[0]
    for first in layouts:
        for second in layouts:
            (found,) = projected([first(forget)], [second(retain)], Layers(None, [forget]))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    wide = torch.randn(6, 1, dtype=torch.float64).expand(6, 4)
    (found,) = projected([wide], [retain[0, :, 0, :4]], Layers(None, [wide]))
    torch.testing.assert_close(found, projection.project([wide], [retain[0, :, 0, :4]])[0], rtol=0, atol=1e-13)


def test_products_of_large_layers_share_one_memory(monkeypatch):
    """Memory given back and got anew, page by page, takes five times as long as all else, when the system feels so."""
    used, mul = [], torch.mul
    monkeypatch.setattr(torch, "mul", lambda a, b, out: used.append(out.data_ptr()) or mul(a, b, out=out))
    monkeypatch.setattr(stretches, "STRETCH", 8)
    forget, retain = gradients([(5, 5), (3, 3)])
    stretches.products(forget, retain, [0, 1], 2)
    assert len(used) == 3 * (4 + 2) and len(set(used)) == 1


MANY = 5000
SIDE_WORK = {
    "products": lambda tensors, model: stretches.products(tensors, tensors, [0] * MANY, 1),
    "in_mode": lambda tensors, model: in_mode(model)(lambda: None)(),
    "State": lambda tensors, model: State(model).put_back(),
}


@pytest.mark.parametrize("work", SIDE_WORK)
def test_what_a_step_notes_of_many_tensors_and_modules_does_not_wake_the_garbage_collector(work):
    """It counts tensors and tuples, not numbers; at a thousand layers a full collection takes a sixth of a step."""
    tensors, starts = [torch.ones(2)] * MANY, []
    model = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(MANY)))
    SIDE_WORK[work](tensors, model)  # the first time a module's attributes are looked up, Python makes their dict
    gc.collect()
    noted = lambda phase, info: starts.append(phase) if phase == "start" else None
    gc.callbacks.append(noted)
    try:
        SIDE_WORK[work](tensors, model)
    finally:
        gc.callbacks.remove(noted)
    assert len(starts) * gc.get_threshold()[0] < MANY / 3


def test_empty_and_0_d_tensors_are_part_of_their_layers():
    forget = [torch.zeros(0), torch.tensor(2.0), torch.tensor([1.0, 2.0])]
    retain = [torch.zeros(0), torch.tensor(-1.0), torch.tensor([3.0, 0.5])]
    layers = Layers([0, 0, 0], forget)
    for found, expected in zip(projected(forget, retain, layers), projection.projected(forget, retain, layers)):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


def test_gradients_are_overwritten_on_demand_alone():
    """The result is new memory, or that of the forget gradient; the retain gradient stays."""
    for overwrite in (False, True):
        forget, retain = gradients([(6, 5)])
        before, (expected,) = [forget[0].clone(), retain[0].clone()], projection.project(forget, retain)
        (found,) = projected(forget, retain, Layers(None, forget), overwrite=overwrite)
        torch.testing.assert_close(found, expected)
        assert (found.data_ptr() == forget[0].data_ptr()) == overwrite == (not torch.equal(forget[0], before[0]))
        assert torch.equal(retain[0], before[1])


def test_gradients_nearer_than_the_bound_are_done_carefully(carefully):
    """The bound is a cosine of sqrt(3)/2 = 0.866, of either sign."""
    for cosine in (0.85, 0.88, -0.85, -0.88):
        forget = [torch.tensor([1.0, 0.0])]
        projected(forget, [torch.tensor([cosine, math.sqrt(1 - cosine**2)])], Layers(None, forget))
        assert carefully == [1] * (abs(cosine) > 0.866)
        carefully.clear()


@pytest.mark.parametrize("rescale", ["undo", "match"])
def test_what_was_measured_of_the_gradients_is_not_measured_again(monkeypatch, rescale):
    """With their cosines and norms at hand the result is to the bit the one without, and no product is taken."""
    forget, retain = gradients([(40, 30), (7,), (5, 3)])
    retain[1].zero_()
    layers = Layers([0, 1, 0], forget)
    expected = projected(forget, retain, layers, 0.7, rescale)
    angles = fast.cosines_and_norms(forget, retain, layers, small=0)
    monkeypatch.setattr(stretches, "products", None)
    for found, wanted in zip(projected(forget, retain, layers, 0.7, rescale, angles=angles), expected):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"rescale": "stretch"}])
def test_bad_options_are_refused_as_they_are_by_the_careful_function(options):
    forget, retain = gradients([3])
    with pytest.raises(ValueError, match=next(iter(options))):
        projected(forget, retain, Layers(None, forget), **options)


def test_halves_are_reported_as_in_float32():
    """Squares of these overflow in float16."""
    forget, retain = gradients([(30, 20), (7,)])
    halves = [[300 * g.half() for g in grads] for grads in (forget, retain)]
    layers = Layers(None, forget)
    found = fast.cosines_and_norms(*halves, layers, small=0)
    expected = fast.cosines_and_norms(*([g.float() for g in grads] for grads in halves), layers)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_small_networks_go_the_careful_way(carefully):
    forget, retain = gradients([(3, 5)])
    fast.projected(forget, retain, Layers(None, forget), small=15)
    assert carefully == [1]
    forget, retain = gradients([(3, 5), (1,)])
    fast.projected(forget, retain, Layers([0, 0], forget), small=15)
    assert carefully == [1]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_reported_cosines_and_norms_are_the_careful_ones(dtype):
    """Ordinary, huge, tiny, zero and nearly parallel layers, of several tensors each, out of order."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)
    ids, scales = [2, 0, 1, 0, 3, 4, 1], [1e30 if dtype == torch.float32 else 1e160, 1.0, 1e-30, 1.0, 0.0, 1.0, 1e-30]
    first = [scale * draw(40, 30) for scale in scales]
    second = [scale * draw(40, 30) for scale in scales]
    second[5] = first[5] + 1e-3 * draw(40, 30)
    layers = Layers(ids, first)
    found = fast.cosines_and_norms(first, second, layers, small=0)
    expected = fast.cosines_and_norms(first, second, layers)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance * 1e-25)
    a, b = (torch.cat([g[1].flatten(), g[3].flatten()]).double() for g in (first, second))
    of_layer_0 = found[:, layers.ids[1]]
    assert of_layer_0[0] == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e3 * torch.finfo(dtype).eps)
    assert of_layer_0[1] == pytest.approx(float(a.norm()), rel=1e-6)
    assert found[0, layers.ids[4]] == 0
    first[1][3, 4] = math.inf
    assert not fast.cosines_and_norms(first, second, layers, small=0)[1, layers.ids[1]].isfinite()
