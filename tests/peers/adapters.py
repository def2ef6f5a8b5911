"""Our adapters of other people's code, none of which is copied here: name -> `Peer`.

A peer's `target` imports its package; what is declared is what its authors chose, not what the laws would like.
"""

import types
from dataclasses import dataclass

PEERS = {}
SIGNED = tuple((-(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (2, 4, 8))
WITH_ZERO = (*SIGNED, (0, 15), (-7, 7))


@dataclass(frozen=True)
class Peer:
    """name; packages: that it needs, whose versions count; target: makes what `check` judges; note: what was found."""

    name: str
    packages: tuple
    target: object
    note: str


def peer(*packages, note="right"):
    """Enter a function that makes a target under its own name; packages: as pip calls them."""

    def enter(function):
        PEERS[function.__name__] = Peer(function.__name__, packages, function, note)
        return function

    return enter


@peer("torch", note="right for the mask of rounded values; the scale has no gradient")
def torch_fake_quantize():
    import torch

    from oeu_ref.conformance.torch import quantizer

    fake = lambda x, s, low, high: torch.fake_quantize_per_tensor_affine(x, s.item(), 0, low, high)
    return quantizer(fake, DTYPE="float32", QUANTIZER_MASK="round", RANGES=WITH_ZERO)


@peer("torch", note="right, but for an empty x, where the scale's gradient is not 0")
def torch_fake_quantize_learnable():
    import torch

    from oeu_ref.conformance.torch import quantizer

    def fake(x, s, low, high, grad_scale):
        return torch._fake_quantize_learnable_per_tensor_affine(x, s.view(1), torch.zeros(1), low, high, grad_scale)

    return quantizer(fake, DTYPE="float32", QUANTIZER_MASK="round", RANGES=WITH_ZERO)


@peer("torch")
def torch_categorical_entropy():
    import torch

    from oeu_ref.conformance.torch import entropy

    def kl(z):
        uniform = torch.full_like(z, 1 / z.shape[1])
        return torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=z), torch.distributions.Categorical(probs=uniform)
        )

    return entropy(lambda z: -torch.distributions.Categorical(logits=z).entropy().mean(), kl, DTYPE="float32")


@peer("torch", note="the gradient is NaN where a probability is 0")
def torch_special_entr():
    import torch

    from oeu_ref.conformance.torch import entropy

    return entropy(lambda z: -torch.special.entr(z.softmax(1)).sum(1).mean())


@peer("torch")
def torch_kl_div():
    import torch

    def kl_to_uniform(z):
        z = torch.tensor(z)
        uniform = torch.full_like(z, 1 / z.shape[1])
        return torch.nn.functional.kl_div(uniform.log(), z.softmax(1), reduction="none").sum(1).numpy()

    return types.SimpleNamespace(kl_to_uniform=kl_to_uniform)


@peer("torchao", "torch", note="no gradient passes at the end codes (torch >= 2.14: clamp's subgradient there is 0)")
def torchao_fake_quantize_affine():
    import torch
    from torchao.quantization.quant_primitives import _fake_quantize_affine

    from oeu_ref.conformance.torch import quantizer

    def fake(x, s, low, high):
        zero = torch.zeros_like(s, dtype=torch.int32)
        return _fake_quantize_affine(x, x.shape, s, zero, torch.int32, low, high)

    return quantizer(fake, DTYPE="float32", RANGES=WITH_ZERO)


@peer("brevitas", "torch", note="right for the mask of rounded values")
def brevitas_int_quant():
    return _brevitas("TensorClamp", "round")


@peer(
    "brevitas",
    "torch",
    note="another convention: beyond the range too the step's gradient is code - x / step",
)
def brevitas_int_quant_clamp_ste():
    return _brevitas("TensorClampSte", "none")


def _brevitas(clamp, mask):
    import torch
    from brevitas.core import function_wrapper
    from brevitas.core.quant import IntQuant

    from oeu_ref.conformance.torch import quantizer

    def fake(x, s, low, high):
        quant = IntQuant(False, low < 0, torch.nn.Identity(), tensor_clamp_impl=getattr(function_wrapper, clamp)())
        bits = torch.tensor(float((high - low + 1).bit_length() - 1))
        return quant(s, torch.zeros_like(s), bits, x)

    return quantizer(fake, QUANTIZER_MASK=mask, RANGES=(*SIGNED, (0, 15)))


@peer(
    "nncf",
    "torch",
    note="inside the range the scale's gradient is 2^(b-1) / (2^b - 1) of what the forward pass says, 8/15 at 4 bits",
)
def nncf_symmetric():
    from nncf.torch.quantization.quantize_functions import QuantizeSymmetricTorch

    from oeu_ref.conformance.torch import quantizer

    fake = lambda x, s, low, high: QuantizeSymmetricTorch.apply(x, x.shape, s * -low, low, high, high - low + 1)
    return quantizer(fake, DTYPE="float32", RANGES=SIGNED)


@peer("optimum-quanto", "torch", note="right for no mask; the scale has no gradient")
def quanto_activation():
    from optimum.quanto import qint8
    from optimum.quanto.tensor import ActivationQBytesTensor

    from oeu_ref.conformance.torch import quantizer

    fake = lambda x, s, low, high: ActivationQBytesTensor.quantize(x, qint8, s).dequantize()
    return quantizer(fake, DTYPE="float32", QUANTIZER_MASK="none", RANGES=((-128, 127),))


@peer("aqtp", "jax")
def aqt_int_symmetric():
    import jax
    from aqt.jax.v2.numerics.int_numerics import IntSymmetric

    from oeu_ref.conformance.jax import quantizer

    options = {"preserve_zero": True, "preserve_max_val": True, "clip": True, "clip_gradient": True, "round": True}

    def fake(x, s, low, high):
        numerics = IntSymmetric(bits=high.bit_length() + 1, noise_fn=None, **options)
        codes = jax.custom_vjp(lambda v: numerics.vjp_fwd(v, None)[0])
        codes.defvjp(lambda v: numerics.vjp_fwd(v, None), lambda kept, grad: numerics.vjp_bwd(kept, grad)[:1])
        return s * codes(x / s)

    return quantizer(fake, RANGES=((-7, 7), (-127, 127)))


@peer("optax", "jax")
def optax_losses():
    import jax
    import optax

    from oeu_ref.conformance.jax import entropy

    def loss(z):
        return -optax.losses.softmax_cross_entropy(z, jax.nn.softmax(z)).mean()

    def kl(z):
        return optax.losses.kl_divergence(jax.numpy.full_like(z, -jax.numpy.log(z.shape[1])), jax.nn.softmax(z))

    return entropy(loss, kl)


@peer("scipy")
def scipy_stats_entropy():
    import numpy as np
    from scipy import special, stats

    def kl_to_uniform(z):
        return stats.entropy(special.softmax(z, axis=1), np.full(z.shape, 1 / z.shape[1]), axis=1)

    return types.SimpleNamespace(kl_to_uniform=kl_to_uniform)


@peer("tensorflow-probability", "jax")
def tfp_categorical_entropy():
    from tensorflow_probability.substrates import jax as tfp

    from oeu_ref.conformance.jax import entropy

    try:
        getattr(tfp, "distributions")  # noqa: B009
    except AttributeError as error:
        raise ImportError(f"TensorFlow Probability does not import with this JAX: {error}") from error

    def kl(z):
        uniform = tfp.distributions.Categorical(logits=0 * z)
        return tfp.distributions.Categorical(logits=z).kl_divergence(uniform)

    return entropy(lambda z: -tfp.distributions.Categorical(logits=z).entropy().mean(), kl)


@peer(
    "fairlearn",
    "torch",
    note="the inner product is summed over pairs of rows, so that matrices of more than one row are not projected",
)
def fairlearn_adversarial():
    import torch
    from fairlearn.adversarial import _pytorch_engine

    from oeu_ref.conformance.torch import projection

    _pytorch_engine.torch = torch  # as the engine's own constructor does, which wants data and models that learn

    class Weights(torch.nn.Module):
        """A model whose output is its weights, so that a linear loss has the gradient that we want."""

        def __init__(self, grads):
            super().__init__()
            self.all = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros_like(g)) for g in grads])

        def forward(self, _):
            return torch.cat([w.reshape(-1) for w in self.all])

    def project(forget, retain):
        engine = object.__new__(_pytorch_engine.PytorchEngine)
        f, r = (torch.cat([g.reshape(-1) for g in grads]) for grads in (forget, retain))
        engine.base = types.SimpleNamespace(pass_y_=False, alpha=0.0)
        engine.predictor_model, engine.adversary_model = Weights(forget), torch.nn.Identity()
        engine.predictor_loss, engine.adversary_loss = (lambda y, _: y @ f), (lambda a, _: a @ r)
        engine.predictor_optimizer = engine.adversary_optimizer = torch.optim.SGD(
            engine.predictor_model.parameters(), 0.0
        )
        engine.train_step(None, None, None)
        return [w.grad for w in engine.predictor_model.all]

    return projection(project)


@peer("torchjd", "torch", note="right, read off its weights; for conflicts alone")
def torchjd_pcgrad():
    import torch
    from torchjd.aggregation import PCGradWeighting

    from oeu_ref.conformance.torch import projection

    def project(forget, retain):
        # of unit length, since a weight near 1 has no digits left for what is much smaller
        length = forget.norm()
        both = torch.nn.functional.normalize(torch.stack([forget, retain]), eps=1e-300)
        # PCGrad adds up both gradients, each off the other: the second one's weight is 1 and what the first gives it
        return length * (both[0] + (PCGradWeighting()(both @ both.T)[1] - 1) * both[1])

    return projection(project, takes="vectors", PROJECT_WHEN="conflict")


@peer(
    "pytorch_optimizer",
    "torch",
    note="one pass, and a threshold of 4 eps: collinear up to 3e-13, noise is stretched to the gradient's length",
)
def pytorch_optimizer_orthograd():
    return _orthograd(False)


@peer("pytorch_optimizer", "torch", note="as the other path")
def pytorch_optimizer_orthograd_foreach():
    return _orthograd(True)


def _orthograd(foreach):
    import torch
    from pytorch_optimizer import OrthoGrad

    from oeu_ref.conformance.torch import projection

    def project(forget, retain):
        weights = [torch.nn.Parameter(r) for r in retain]
        for weight, f in zip(weights, forget):
            weight.grad = f.clone()
        OrthoGrad(torch.optim.SGD(weights, 0.1), foreach=foreach).apply_orthogonal_gradients(weights)
        return [weight.grad for weight in weights]

    return projection(project, RESCALES=("match",))
