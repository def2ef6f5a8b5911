"""Large tensors a stretch at a time: to the bit what the quantizer's plain functions compute, and where they are used.

The laws judge them on small tensors: `oeu_ref.core.contract:fast_float64` and `:fast_float32` are among `OURS` in
conftest.py.
"""

import warnings

import pytest
import torch

from oeu_ref.core.quantizer import Quantizer
from oeu_ref.tensors import stretches

LAYOUTS = {
    "contiguous": lambda t: t,
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "with gaps": lambda t: torch.stack([t, t], dim=-1)[..., 0],
}


@pytest.fixture
def taken(monkeypatch):
    """Names of the functions that were called, in order; every tensor counts as large, and stretches are short."""
    names = []
    for name in ("fake_quantized", "fake_quantize_backward"):
        function = getattr(stretches, name)
        monkeypatch.setattr(stretches, name, lambda *args, f=function, n=name: names.append(n) or f(*args))
    monkeypatch.setattr(stretches, "LARGE", 0)
    monkeypatch.setattr(stretches, "STRETCH", 7)
    return names


def values(dtype=torch.float32, shape=(4, 3, 2, 5), seed=0):
    """Values around the range of three bits at a step of 0.5: on the grid, at its ties, at and beyond its ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-14, 14, shape, generator=generator).to(dtype) / 4
    return torch.where(torch.rand(shape, generator=generator) < 0.5, x, x + torch.randn(shape, generator=generator) / 9)


def results(quantizer, x, grad_out):
    """x_hat and both gradients."""
    x = x.detach().requires_grad_()
    x_hat = quantizer(x)
    return x_hat.detach(), *torch.autograd.grad(x_hat, (x, quantizer.step), grad_out)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask", ["clip", "round"])
@pytest.mark.parametrize(("bits", "signed"), [(3, True), (4, False), ("ternary", True), (1, False)])
def test_values_are_those_of_the_plain_functions_to_the_bit(taken, monkeypatch, bits, signed, mask, dtype, layout):
    """x_hat, the gradient that passes and their memory format; the step's gradient to the rounding of its sum."""
    x = values(dtype).to(dtype)
    x[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    grad_out = values(dtype, seed=1).to(dtype)
    grad_out[0, 0, 1, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    finite = torch.ones_like(x, dtype=torch.bool)
    finite[0, 0] = False
    x, grad_out = LAYOUTS[layout](x), LAYOUTS[layout](grad_out)
    mine = Quantizer(bits, signed, mask).to(dtype)
    mine.set(0.5, signed)
    found = results(mine, x, grad_out)
    assert taken == ([] if layout == "with gaps" else ["fake_quantized", "fake_quantize_backward"])
    of_finite = results(mine, x.where(finite, 0), grad_out.where(finite, 0))
    monkeypatch.setattr(stretches, "worthwhile", lambda x: False)
    expected = results(mine, x, grad_out)
    for one, other in zip(found[:2], expected[:2]):
        assert one.dtype == other.dtype and one.stride() == other.stride()
        assert torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
        assert torch.equal(one.signbit(), other.signbit())
    assert found[2].isnan() and expected[2].isnan()
    other = results(mine, x.where(finite, 0), grad_out.where(finite, 0))[2]
    torch.testing.assert_close(of_finite[2], other, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def test_a_gradient_in_another_memory_order_belongs_to_the_same_values(taken, monkeypatch):
    """Contiguous, or expanded as that of a sum, for channels-last inputs."""
    x = values().contiguous(memory_format=torch.channels_last)
    mine = Quantizer(3)
    mine.set(0.5, True)
    for grad_out in (values(seed=1), torch.ones(()).expand(x.shape)):
        found = results(mine, x, grad_out)
        with monkeypatch.context() as patch:
            patch.setattr(stretches, "worthwhile", lambda x: False)
            expected = results(mine, x, grad_out)
        assert torch.equal(found[1], expected[1])
        torch.testing.assert_close(found[2], expected[2])
    assert len(taken) == 4


def test_large_tensors_are_computed_in_stretches_and_others_are_not(taken, monkeypatch):
    """Small ones, halves, signs, and whatever is traced or transformed take the plain way."""
    monkeypatch.setattr(stretches, "LARGE", 8)
    mine = Quantizer(3)
    mine.set(0.5, True)
    x = torch.linspace(-2, 2, 9)
    for other in (x[:8], x.bfloat16(), x.half(), x.to("meta"), torch.empty(0)):
        mine(other)
    signs = Quantizer("binary")
    signs.set(0.5, True)
    results(signs, x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.vmap(mine)(torch.stack([x, x]))
        traced = torch.jit.trace(mine, x, check_trace=False)  # a check calls it untraced
    assert not taken
    assert torch.equal(traced(torch.linspace(-2, 2, 20)), mine(torch.linspace(-2, 2, 20)))
    assert torch.equal(torch.compile(mine, backend="eager", fullgraph=True)(x), mine(x))
    assert taken == ["fake_quantized"] * 2


@pytest.mark.parametrize("mask", ["clip", "round"])
def test_a_gradient_is_differentiated_again_as_the_plain_one_is(taken, monkeypatch, mask):
    """Which is made of operations that autograd follows, for either mask."""
    x, mine = values(torch.float64).requires_grad_(), Quantizer(3, mask=mask).double()
    mine.set(0.5, True)

    def second():
        first = torch.autograd.grad((mine(x) ** 3).sum(), (x, mine.step), create_graph=True)
        assert "fake_quantize_backward" not in taken
        return torch.autograd.grad(sum((g * g).sum() for g in first), (x, mine.step))

    found = second()
    assert taken == ["fake_quantized", "fake_quantize_backward"]
    taken.clear()
    monkeypatch.setattr(stretches, "worthwhile", lambda x: False)
    for one, other in zip(found, second()):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_the_step_gradient_of_a_large_tensor_is_exact_to_rounding(constant):
    """Of three million equal values, which a sum in order would lose, and of random ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((3_000_000,), 0.37) if constant else torch.randn(3_000_000, generator=generator)
    grad_out = torch.full_like(x, 0.3) if constant else torch.randn(3_000_000, generator=generator)
    found, expected = (
        stretches.fake_quantize_backward(
            grad_out.to(dtype), x.to(dtype), torch.tensor(0.5, dtype=dtype), -4, 3, 1.0, "clip"
        )
        for dtype in (torch.float32, torch.float64)
    )
    size = (0.5 if constant else 1.0) * grad_out.double().abs().sum()
    assert abs(found[1] - expected[1]) <= 30 * torch.finfo(torch.float32).eps * size * (1 if constant else 1e-2)


def test_a_stretch_is_computed_in_memory_that_is_there(taken, monkeypatch):
    """All that a pass there and back holds of a large tensor are the two results."""
    made, empty_like = [], torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, **kw: made.append(t.numel()) or empty_like(t, **kw))
    mine = Quantizer(3)
    mine.set(0.5, True)
    results(mine, values(), values(seed=1))
    assert made == [120, 120]


def test_what_new_tensors_are_made_on_by_default_does_not_matter():
    """`torch.set_default_device` is for a program's own tensors; large gradients on a CPU are summed there."""
    first, second = torch.ones(2, 3), torch.full((2, 3), 2.0)
    with torch.device("meta"):
        found = stretches.products([first], [second], [0], 1)
    assert found.tolist() == [[6.0], [24.0], [12.0]]
