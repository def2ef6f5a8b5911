"""Adapters: PyTorch and JAX code as it is becomes an implementation, as right or as wrong as the code is."""

import copy
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from oeu_ref.conformance import Implementation, check
from oeu_ref.conformance import torch as adapters
from oeu_ref.core import projection as core
from oeu_ref.reference.quantizer import step_gradient_scale

ROOT = pathlib.Path(__file__).parents[1]
WITH_ZERO = tuple((-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (2, 4, 8)) + ((0, 15), (-7, 7))


class Straight(torch.autograd.Function):
    """A quantizer written as LSQ's public implementations are, ends inside."""

    @staticmethod
    def forward(ctx, x, s, low, high):
        ctx.save_for_backward(x, s)
        ctx.ends = low, high
        return (x / s).clamp(low, high).round() * s

    @staticmethod
    def inside(v, low, high):
        return (v >= low) & (v <= high)

    @classmethod
    def backward(cls, ctx, grad):
        x, s = ctx.saved_tensors
        v, (low, high) = x / s, ctx.ends
        inside = cls.inside(v, low, high)
        slope = torch.where(inside, v.round() - v, v.clamp(low, high))
        return grad * inside, (grad * slope).sum().reshape(s.shape), None, None


class Open(Straight):
    """The same, ends outside, as in LSQ's equations."""

    @staticmethod
    def inside(v, low, high):
        return (v > low) & (v < high)


class Learned(nn.Module):
    """A module whose step comes from the first batch and whose gradient is scaled, both as in LSQ."""

    def __init__(self, n_bits=8, scaled=True):
        super().__init__()
        self.inner = nn.Module()
        self.inner.step = nn.Parameter(torch.ones(1))
        self.ends, self.scaled, self.started = (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1), scaled, False

    def forward(self, x):
        if not self.started:
            self.started = True
            self.inner.step.data.fill_(2 * x.abs().mean().item() / self.ends[1] ** 0.5 + 1e-9)
        s = self.inner.step
        if self.scaled:
            s = s.detach() + (s - s.detach()) * step_gradient_scale(x.numel(), self.ends[1])
        return Straight.apply(x, s, *self.ends)


def surrogate(x, s, low, high, shift=0.0):
    """Forward only: the gradients are autograd's."""
    v = x / s
    # by comparison: what torch.clamp's own gradient is at the ends depends on the version
    v = torch.where((v >= low) & (v <= high + shift), v, v.detach().clamp(low, high))
    return s * (v + (v.round().clamp(low, high) - v).detach())


def kl(z):
    return (z.shape[1] * z.softmax(1)).log().mul(z.softmax(1)).sum(1)


def removed(f, r):
    """One pass over one tensor, without a case for zeros."""
    return f - (f * r).sum() / (r * r).sum() * r


def own_float32(x, s, low, high):
    return torch.fake_quantize_per_tensor_affine(x, s.item(), 0, low, high)


def own_learnable(x, s, low, high, grad_scale):
    zero = torch.zeros(1, dtype=x.dtype)
    return torch._fake_quantize_learnable_per_tensor_affine(x, s.reshape(1), zero, low, high, grad_scale)


def entropy_of(z):
    return -torch.distributions.Categorical(logits=z).entropy().mean()


ROUND = {"QUANTIZER_MASK": "round", "RANGES": WITH_ZERO}
RIGHT = {
    "a function": lambda: adapters.quantizer(surrogate),
    "a Function of autograd": lambda: adapters.quantizer(Straight),
    "a Function of autograd, open": lambda: adapters.quantizer(Open, QUANTIZER_MASK="open"),
    "PyTorch's own, a float as scale": lambda: adapters.quantizer(own_float32, DTYPE="float32", **ROUND),
    "a module's class": lambda: adapters.module(Learned, "inner.step", 4, scale=step_gradient_scale),
    "a module": lambda: adapters.module(Learned(4, scaled=False), "inner.step"),
    "what makes a module": lambda: adapters.module(lambda: Learned(3, scaled=False), "inner.step", bits=3),
    "an entropy": lambda: adapters.entropy(entropy_of, DTYPE="float32"),
    "a projection of lists": lambda: adapters.projection(
        lambda f, r, alpha=1.0, granularity="layer", rescale="undo": core.project(f, r, alpha, granularity, rescale)
    ),
    "a projection of vectors": lambda: adapters.projection(
        lambda f, r: core.project([f], [r], rescale="match")[0], takes="vectors", RESCALES=("match",)
    ),
}
WRONG = {  # a law that must fail, and words of its message
    "one code too many": (
        lambda: adapters.quantizer(lambda x, s, low, high: surrogate(x, s, low, high, 0.3)),
        "up to half a step beyond the range the mask decides",
        "",
    ),
    "detached": (
        lambda: adapters.quantizer(lambda x, s, low, high: ((x / s).clamp(low, high).round() * s).detach()),
        "straight through gradient passes inside only",
        "detached",
    ),
    "ends outside": (lambda: adapters.quantizer(Open), "the ends of the range pass their gradient", ""),
    "PyTorch's own, undeclared": (
        lambda: adapters.quantizer(own_float32, DTYPE="float32", RANGES=WITH_ZERO),
        "up to half a step beyond the range the mask decides",
        "",
    ),
    "LSQ's scale, undeclared": (lambda: adapters.module(Learned, "inner.step"), "step gradient is lsqs", ""),
    "another width": (
        lambda: adapters.module(lambda: Learned(3, scaled=False), "inner.step", bits=4),
        "every code of the range is used",
        "",
    ),
    "log of softmax": (
        lambda: adapters.entropy(lambda z: (z.softmax(1).log() * z.softmax(1)).sum(1).mean(), kl),
        "entropy gradient is the derivative by hand",
        "nan",
    ),
    "one entropy a sample": (
        lambda: adapters.entropy(lambda z: -torch.distributions.Categorical(logits=z).entropy()),
        "entropy loss is the negative mean entropy",
        "shape ()",
    ),
    "zero over zero": (lambda: adapters.projection(removed, takes="tensors"), "zero gradients are harmless", "nan"),
}


# other ways to hand the same things over, which are tried on all laws with -m reliability
OTHERS = ("a module", "what makes a module", "a projection of lists")
FORMS = [pytest.param(name, marks=pytest.mark.reliability if name in OTHERS else ()) for name in RIGHT]


@pytest.mark.parametrize("name", FORMS)
def test_right_code_holds_all_laws_that_apply(name):
    """The adapter adds no mistake of its own: right code of every form passes."""
    report = check(Implementation(RIGHT[name](), name), cases=1)
    assert report.ok, report.table()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_code_fails_by_its_law(name):
    """The adapter mends nothing: wrong code fails, by the law that its mistake breaks."""
    build, law, words = WRONG[name]
    failed = {r.law: r.message for r in check(Implementation(build(), name), cases=1).failed}
    assert words in failed[law], failed


def test_the_gradients_are_those_that_autograd_finds():
    """grad_x and grad_step of `torch._fake_quantize_learnable_per_tensor_affine` as PyTorch gives them, grad_scale on
    the step alone; elsewhere the adapter multiplies by it; where the step is a float there is none."""
    grad, x = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    leaf, step = torch.tensor(x, requires_grad=True), torch.tensor([0.3], requires_grad=True)
    own_learnable(leaf, step, -8, 7, 0.25).backward(torch.tensor(grad))
    own = adapters.quantizer(own_learnable, DTYPE="float32", **ROUND)
    grad_x, grad_step = own.fake_quantize_backward(grad, x, 0.3, -8, 7, 0.25)
    assert np.array_equal(grad_x, leaf.grad) and grad_step == pytest.approx(float(step.grad), rel=1e-6)
    whole = adapters.quantizer(Straight).fake_quantize_backward(grad, x, 0.3, -8, 7)[1]
    assert adapters.quantizer(Straight).fake_quantize_backward(grad, x, 0.3, -8, 7, 0.25)[1] == 0.25 * whole != 0
    assert adapters.quantizer(own_float32, DTYPE="float32").fake_quantize_backward(grad, x, 0.3, -8, 7)[1] is None


def test_a_buffer_as_step_has_no_gradient_and_a_module_is_left_as_it_is():
    """No optimizer trains a buffer, so grad_step is None; a module that is handed over is copied."""
    made = Learned(4)
    before = copy.deepcopy(made.state_dict())
    target = adapters.module(made, "inner.step")
    target.fake_quantize_backward(np.ones(3), np.ones(3), 0.5, -8, 7)
    assert not made.started and all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    step = made.inner.step.detach()
    del made.inner.step
    made.inner.register_buffer("step", step)
    assert adapters.module(made, "inner.step").fake_quantize_backward(np.ones(3), np.ones(3), 0.5, -8, 7)[1] is None


def test_bad_declarations_and_steps_are_named():
    """A declaration that is not known, and a step that the module lacks."""
    with pytest.raises(TypeError, match="MASK is no declaration: known are DTYPE, QUANTIZER_MASK"):
        adapters.quantizer(surrogate, MASK="round")
    with pytest.raises(ValueError, match="DTYPE must be one of 'float64', 'float32', got 'bfloat16'"):
        adapters.quantizer(surrogate, DTYPE="bfloat16")
    with pytest.raises(ValueError, match="step must name a parameter or a buffer of the module, got 'scale'"):
        adapters.module(Learned, "scale")
    with pytest.raises(TypeError, match="what cls makes must be a torch.nn.Module, got dict"):
        adapters.module(dict)


@pytest.mark.reliability
def test_check_takes_an_adapter_by_name(tmp_path):
    """`python -m oeu_ref check my_check.py:weights`, the form that the adapters' docstring prints."""
    (tmp_path / "my_check.py").write_text(
        "import torch\nfrom oeu_ref.conformance.torch import entropy\n"
        "loss = entropy(lambda z: -torch.distributions.Categorical(logits=z).entropy().mean(), DTYPE='float32')\n"
        "wrong = entropy(lambda z: torch.distributions.Categorical(logits=z).entropy().mean(), DTYPE='float32')\n"
    )
    for name, code in (("loss", 0), ("wrong", 1)):
        command = [sys.executable, "-m", "oeu_ref", "check", f"{tmp_path / 'my_check.py'}:{name}", "--cases", "1"]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == code


def test_jax_code_is_judged_as_it_is():
    """Right JAX functions hold, a wrong one fails, and 64-bit mode is off again afterwards."""
    jax = pytest.importorskip("jax")
    from oeu_ref.conformance import jax as adapters

    def quantize(x, s, low, high):
        v = x / s
        v = jax.numpy.where((v >= low) & (v <= high), v, jax.lax.stop_gradient(v.clip(low, high)))
        return s * (v + jax.lax.stop_gradient(v.round().clip(low, high) - v))

    def loss(z):
        p, log_p = jax.nn.softmax(z), jax.nn.log_softmax(z)
        return jax.numpy.where(p > 0, p * log_p, 0.0).sum(1).mean()

    mode = jax.config.jax_enable_x64
    right = {"quantizer": adapters.quantizer(quantize), "loss": adapters.entropy(loss, DTYPE="float32")}
    for name, target in right.items():
        report = check(Implementation(target, name), cases=1)
        assert report.ok, report.table()
    by_rows = adapters.projection(lambda f, r: f - (f @ r) / (r @ r) * r, takes="vectors")
    failed = {r.law: r.message for r in check(Implementation(by_rows, "projection"), cases=1).failed}
    assert "nan" in failed["zero gradients are harmless"]
    assert "orthogonality holds to rounding when gradients are nearly parallel" in failed
    assert jax.config.jax_enable_x64 == mode
