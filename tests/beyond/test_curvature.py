"""Beyond first order: the second-order prediction, the step that it allows, Hessian-vector products, and the study."""

import functools
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from oeu_ref import core
from oeu_ref.beyond import curvature as core_curvature
from oeu_ref.beyond import curvature_reference as reference
from oeu_ref.conformance.smooth import SmoothNet
from oeu_ref.core import QuantLinear, QuantMLP, entropy_loss
from oeu_ref.reference.entropy import cross_entropy, softmax
from oeu_ref.reference.projection import project

EPS = Fraction(2) ** -52
# magnitudes whose squares overflow or underflow, beside ordinary ones
MAGNITUDES = st.one_of(
    st.just(0.0), st.floats(1e-3, 1e3), st.sampled_from([1e-290, 1e-200, 1e-30, 1e-8, 1e8, 1e30, 1e200, 1e300])
)
SIGNED = st.builds(lambda size, sign: size * sign, MAGNITUDES, st.sampled_from([-1, 1]))
CASES = {"learning_rate": MAGNITUDES, "slope": SIGNED, "curvature": SIGNED, "max_increase": MAGNITUDES}


def exact(eta, slope, curvature):
    """(prediction, size of its terms) without rounding."""
    eta, slope, curvature = map(Fraction, (eta, slope, curvature))
    first, second = -eta * slope, eta**2 / 2 * curvature
    return first + second, abs(first) + abs(second)


@given(learning_rate=MAGNITUDES, slope=SIGNED, curvature=SIGNED)
@settings(deadline=None)
def test_the_prediction_is_taylors_polynomial(learning_rate, slope, curvature):
    """-eta slope + eta^2 / 2 curvature, to rounding, wherever the terms themselves are ordinary numbers."""
    value, size = exact(learning_rate, slope, curvature)
    if size < Fraction(1e300) and (size == 0 or size > Fraction(1e-300)):
        with np.errstate(all="ignore"):
            found = float(reference.loss_change(learning_rate, slope, curvature))
        assert abs(Fraction(found) - value) <= 4 * EPS * size + Fraction(5e-324)


@given(**CASES)
@settings(deadline=None, max_examples=300)
@example(learning_rate=10.0, slope=-1.0, curvature=-1.0, max_increase=0.1)  # the far side of the hill obeys again
@example(learning_rate=1.0, slope=0.0, curvature=5e-324, max_increase=0.0)  # 1 / curvature is infinite
@example(learning_rate=1.0, slope=1e8, curvature=1e8, max_increase=1e-8)
@example(learning_rate=1.0, slope=-1e8, curvature=1.0, max_increase=1e-8)  # the textbook formula cancels here
@example(learning_rate=1.0, slope=1e200, curvature=1e200, max_increase=1e200)  # and overflows here
def test_the_longest_step_obeys_all_the_way_and_none_beyond_does(learning_rate, slope, curvature, max_increase):
    """Up to the returned eta the exact prediction stays within the bound, to rounding; just beyond, it does not."""
    eta = float(reference.largest_learning_rate(learning_rate, slope, curvature, max_increase))
    assert 0 <= eta <= learning_rate
    most = Fraction(max_increase)
    # on the way the prediction is largest at the end, or on top of the hill
    places = [Fraction(eta)]
    if curvature < 0 and slope < 0 and Fraction(slope) / Fraction(curvature) < Fraction(eta):
        places.append(Fraction(slope) / Fraction(curvature))
    for place in places:
        value, size = exact(place, slope, curvature)
        assert value <= most + 16 * EPS * (size + most), place
    if 1e-280 < eta < learning_rate or eta == 0 < learning_rate:
        beyond = Fraction(eta) * (1 + Fraction(10) ** -9) if eta else Fraction(learning_rate) / 10**6
        if curvature < 0:  # not beyond the hill: the two roots lie around its top
            top = Fraction(slope) / Fraction(curvature)
            beyond = min(beyond, (Fraction(eta) + top) / 2) if eta < top else top
        assert exact(beyond, slope, curvature)[0] > most * (1 - 16 * EPS)


@pytest.mark.parametrize(
    ("slope", "curvature", "max_increase", "expected"),
    [
        (0, 8, 1, 0.5),  # g_perp: sqrt(2 M / c)
        (0, 8, 0, 0),  # no rise allowed, and any step rises
        (0, 0, 0, 10),
        (0, -3, 0, 10),  # a ridge: downhill on both sides
        (2, 4, 0, 1),  # until the valley's other side is as high as the start: 2 s / c
        (3, 2, 4, 4),  # (3 + sqrt(9 + 16)) / 2
        (2, -4, 0, 10),
        (2, 0, 0, 10),
        (-2, 0, 3, 1.5),  # a straight slope uphill: M / |s|
        (-3, 2, 4, 1),  # 8 / (5 + 3)
        (-5, -2, 4, 1),  # the near side of the hill: 8 / (3 + 5); the far one obeys again from 4 on
        (-4, -2, 4, 10),  # the top is just as high as allowed
        (-2, 0, 0, 0),
        (-2, -2, 0, 0),
    ],
)
def test_the_cases_of_the_longest_step(slope, curvature, max_increase, expected):
    """Roots found by hand, for each sign of slope and curvature."""
    assert reference.largest_learning_rate(10.0, slope, curvature, max_increase) == pytest.approx(expected, rel=1e-15)


@given(longer=st.floats(1, 1e3), **CASES)
@settings(deadline=None)
def test_a_longer_wish_or_a_looser_bound_never_shortens(longer, learning_rate, slope, curvature, max_increase):
    """The step grows with the learning rate and, but for rounding, with the bound."""
    step = functools.partial(reference.largest_learning_rate, slope=slope, curvature=curvature)
    eta = step(learning_rate, max_increase=max_increase)
    assert step(learning_rate * longer, max_increase=max_increase) >= eta
    assert step(learning_rate, max_increase=max_increase * longer) >= eta * (1 - 1e-14)


def test_arrays_and_tensors_are_broadcast():
    """Arrays give what numbers give one by one, and so do tensors, in float64 whatever their dtype."""
    sizes = [0.0, 1e-200, 1e-8, 0.3, 7.0, 1e8, 1e200]
    signed = np.array(sorted({*sizes, *(-size for size in sizes)}))
    arguments = 10.0, signed[:, None, None], signed[:, None], np.array(sizes)
    mine = reference.largest_learning_rate(*arguments)
    assert mine.shape == (13, 13, 7)
    for i, j, k in itertools.product(range(0, 13, 3), range(0, 13, 3), range(0, 7, 2)):
        assert mine[i, j, k] == reference.largest_learning_rate(10.0, signed[i], signed[j], sizes[k])
    tensors = (torch.tensor(a) for a in arguments)
    np.testing.assert_array_equal(reference.largest_learning_rate(*tensors), mine)
    halves = [torch.tensor(value, dtype=torch.float32) for value in (0.5, 0.0, 1e30, 1e30)]
    assert reference.largest_learning_rate(*halves).dtype == np.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be .*at least 0"),
        ({"slope": float("nan")}, ValueError, "slope must be finite"),
        ({"curvature": float("inf")}, ValueError, "curvature must be finite"),
        ({"max_increase": -1e-9}, ValueError, "max_increase must be .*at least 0"),
        ({"slope": "steep"}, TypeError, "slope must be"),
        ({"max_increase": True}, TypeError, "max_increase must be"),
    ],
)
def test_bad_numbers_are_named(change, error, message):
    """What is not a finite number in range is refused by name; as a tensor too."""
    good = {"learning_rate": 0.1, "slope": 1.0, "curvature": 1.0, "max_increase": 0.1}
    with pytest.raises(error, match=message):
        reference.largest_learning_rate(**{**good, **change})
    if error is ValueError:
        with pytest.raises(error, match=message):
            reference.largest_learning_rate(**{**good, **{name: torch.tensor(value) for name, value in change.items()}})


def smooth_losses(net):
    """(parameters, forget loss, retain loss): the smooth network in PyTorch, the losses as functions of a list."""
    forget, retain = torch.tensor(net.forget_inputs), torch.tensor(net.retain_inputs)
    labels = torch.tensor(net.retain_labels)

    def logits(parameters, inputs):
        w1, b1, w2, b2 = parameters
        return torch.tanh(inputs @ w1.T + b1) @ w2.T + b2

    parameters = [torch.tensor(w, requires_grad=True) for w in net.parameters]
    return (
        parameters,
        lambda parameters: entropy_loss(logits(parameters, forget)),
        lambda parameters: functional.cross_entropy(logits(parameters, retain), labels),
    )


def random_like(arrays, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=np.shape(a)) for a in arrays]


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def difference_product(gradient_of, parameters, vector):
    """Hessian times a vector, from two gradients: (g(theta + h v) - g(theta - h v)) / (2 h); zero for a zero vector.

    h |v| = eps^(1/3) times the larger of 1 and |theta| balances the error of the difference, about h^2, with that of
    rounding, about eps / h.
    """
    length, size = (np.linalg.norm(flat(arrays)) for arrays in (vector, parameters))
    h = np.cbrt(np.finfo(np.float64).eps) * max(1.0, size) / (length or 1.0)
    ahead, behind = (gradient_of([p + sign * h * v for p, v in zip(parameters, vector)]) for sign in (1, -1))
    return [(a - b) / (2 * h) for a, b in zip(ahead, behind)]


def core_product(loss, parameters, vector):
    gradient = torch.autograd.grad(loss(parameters), parameters, create_graph=True)
    vector = [torch.tensor(v) for v in vector]
    return [h.numpy() for h in core_curvature.hessian_vector_product(gradient, parameters, vector)]


def test_hessian_vector_products_are_those_of_softmax_regression():
    """For logits x W' + b the Hessian is known by hand: both twins find it, the core to rounding."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(9, 5)), rng.integers(0, 3, 9)
    parameters, vector = [rng.normal(size=(3, 5)), rng.normal(size=3)], [rng.normal(size=(3, 5)), rng.normal(size=3)]
    # with u = x V' + v_b, the change of the logits, that of their gradient (p - onehot) / N is p (u - <p, u>) / N
    p, u = softmax(x @ parameters[0].T + parameters[1]), x @ vector[0].T + vector[1]
    r = p * (u - (p * u).sum(axis=1, keepdims=True)) / len(x)
    by_hand = flat([r.T @ x, r.sum(axis=0)])

    def gradient_of(parameters):
        grad_logits = cross_entropy(x @ parameters[0].T + parameters[1], labels)[1]
        return [grad_logits.T @ x, grad_logits.sum(axis=0)]

    def loss(parameters):
        return functional.cross_entropy(torch.tensor(x) @ parameters[0].T + parameters[1], torch.tensor(labels))

    leaves = [torch.tensor(a, requires_grad=True) for a in parameters]
    np.testing.assert_allclose(flat(core_product(loss, leaves, vector)), by_hand, atol=1e-14)
    differences = difference_product(gradient_of, parameters, vector)
    np.testing.assert_allclose(flat(differences), by_hand, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_second_backward_pass_agrees_with_differences_of_gradients_by_hand(seed):
    """On a tanh network, for the entropy loss as well as for cross-entropy; the latter's gradients are the
    reference's, the former's PyTorch's."""
    net = SmoothNet(seed)
    parameters, *losses = smooth_losses(net)
    vector = random_like(net.parameters, seed + 100)
    for loss, by_hand in zip(losses, (net.forget_loss, net.retain_loss)):
        expected = difference_product(lambda w: by_hand(w)[1], net.parameters, vector)
        np.testing.assert_allclose(flat(core_product(loss, parameters, vector)), flat(expected), atol=2e-8)


def test_a_longer_vector_gives_a_longer_product_and_zero_gives_zero():
    """Both twins are linear in the vector, whatever its length: the distance of the differences is the same."""
    net = SmoothNet(0)
    parameters, _, retain_loss = smooth_losses(net)
    vector = random_like(net.parameters, 1)
    for product in (
        functools.partial(difference_product, lambda w: net.retain_loss(w)[1], net.parameters),
        functools.partial(core_product, retain_loss, parameters),
    ):
        once = flat(product(vector))
        np.testing.assert_allclose(flat(product([1e9 * v for v in vector])), 1e9 * once, rtol=1e-7, atol=1)
        assert not flat(product([0 * v for v in vector])).any()


def test_unused_parameters_have_a_zero_product():
    """A parameter that the loss does not use, whose gradient is None, and one that it is linear in."""
    used, unused, linear = (torch.tensor([2.0], requires_grad=True) for _ in range(3))
    parameters, loss = [used, unused, linear], (used**3 + linear).sum()
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    found = core_curvature.hessian_vector_product(gradient, parameters, [torch.ones(1)] * 3)
    assert [h.item() for h in found] == [12, 0, 0]  # (x^3)'' = 6 x


def test_a_gradient_without_its_graph_is_refused():
    """A gradient taken without create_graph, a list of another length, a vector of another shape."""
    w = torch.ones(2, requires_grad=True)
    plain = torch.autograd.grad((w**3).sum(), [w])
    with pytest.raises(ValueError, match="create_graph=True"):
        core_curvature.hessian_vector_product(plain, [w], [torch.ones(2)])
    graph = torch.autograd.grad((w**3).sum(), [w], create_graph=True)
    with pytest.raises(ValueError, match="gradient must be a list of 1"):
        core_curvature.hessian_vector_product([*graph, None], [w], [torch.ones(2)])
    with pytest.raises(ValueError, match=r"vector\[0\] must have the shape"):
        core_curvature.hessian_vector_product(graph, [w], [torch.ones(3)])
    with pytest.raises(ValueError, match="granularity must be one of"):
        core_curvature.curvature(graph, [w], [torch.ones(2)], "tensor")


def test_contributions_of_layers_add_up_to_the_curvature():
    """d'Hd of the whole is the sum over layers, and that of all products by hand."""
    net = SmoothNet(3)
    parameters, _, retain_loss = smooth_losses(net)
    d = [torch.tensor(v) for v in random_like(net.parameters, 5)]
    gradient = torch.autograd.grad(retain_loss(parameters), parameters, create_graph=True)
    whole = core_curvature.curvature(gradient, parameters, d)
    layers = core_curvature.curvature(gradient, parameters, d, "layer", ["one", "one", "two", "two"])
    product = core_curvature.hessian_vector_product(gradient, parameters, d)
    assert whole.shape == (1,) and layers.shape == (2,)
    assert layers.sum().item() == pytest.approx(whole.item(), rel=1e-12)
    assert layers[0].item() == pytest.approx(sum((a * b).sum().item() for a, b in zip(d[:2], product[:2])), rel=1e-12)


def order(distances, values):
    return np.polyfit(np.log(distances), np.log(np.abs(values) + 1e-300), 1)[0]


@pytest.mark.parametrize("by", ["reference", "core"])
@pytest.mark.parametrize("seed", range(4))
def test_theorem_4_3_second_order_term_is_half_eta_squared_times_the_curvature(seed, by):
    """Along g_perp the retain loss changes by eta^2 / 2 g_perp' H g_perp: what is left falls as eta^3. The control:
    along the raw gradient that term alone leaves an error that falls as eta, with the slope one that falls as eta^3."""
    net, distances = SmoothNet(seed), np.geomspace(1e-3, 1e-2, 6)
    parameters, _, retain_loss = smooth_losses(net)
    g_f, g_r = (loss(net.parameters)[1] for loss in (net.forget_loss, net.retain_loss))
    start = net.retain_loss(net.parameters)[0]
    orders = {}
    for name, d in (("projected", project(g_f, g_r)), ("raw", g_f)):
        if by == "core":
            product = core_product(retain_loss, parameters, d)
        else:
            product = difference_product(lambda w: net.retain_loss(w)[1], net.parameters, d)
        changes = np.array([net.retain_loss(net.moved(d, distance))[0] - start for distance in distances])
        etas, slope, bend = distances / np.linalg.norm(flat(d)), flat(g_r) @ flat(d), flat(d) @ flat(product)
        for used in (0.0, slope):
            predicted = [float(reference.loss_change(float(eta), float(used), float(bend))) for eta in etas]
            orders[name, bool(used == 0)] = order(distances, changes - predicted)
    assert orders["projected", True] >= 2.8
    assert orders["raw", True] <= 1.2
    assert orders["raw", False] >= 2.8


def quantized_layer(mask="clip"):
    """(layer, inputs, labels): one 3-bit layer in float64 on unquantized inputs, some of its weights clipped."""
    torch.manual_seed(0)
    layer = QuantLinear(6, 4, weight_bits=3, activation_bits=32, mask=mask).double()
    layer.weight_quantizer.set(0.06, True)
    return layer, torch.randn(10, 6, dtype=torch.float64), torch.randint(0, 4, (10,))


def products(loss, parameters, *vectors):
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    return [core_curvature.hessian_vector_product(gradient, parameters, list(v)) for v in vectors]


def test_through_a_quantizer_the_product_is_that_of_the_quantized_values():
    """Over the weights: the Hessian of the loss in the quantized weights, of what the mask lets pass on both sides."""
    layer, x, labels = quantized_layer()
    v = torch.randn_like(layer.weight)
    ((found,),) = products(functional.cross_entropy(layer(x), labels), [layer.weight], [v])
    quantizer, w = layer.weight_quantizer, layer.weight.detach()
    passes = ((w / quantizer.magnitude).abs() <= 3) | ((w / quantizer.magnitude >= -4) & (w < 0))
    assert 0 < passes.sum() < passes.numel()
    rounded = quantizer(w).detach().requires_grad_()
    loss = functional.cross_entropy(x @ rounded.T + layer.bias.detach(), labels)
    ((expected,),) = products(loss, [rounded], [v * passes])
    torch.testing.assert_close(found, expected * passes, rtol=0, atol=1e-14)


def test_the_product_is_symmetric_but_for_learned_steps():
    """u'Hv = v'Hu over weights and biases of a quantized network; with the steps the surrogate is no Hessian."""
    torch.manual_seed(0)
    model = QuantMLP((6, 16, 12, 4), batch_norm=True).double()
    for module in model.modules():
        if isinstance(module, core.Quantizer):
            module.mask = "round"
    x, labels = torch.rand(12, 6, dtype=torch.float64), torch.randint(0, 4, (12,))
    model(x)
    named = dict(model.named_parameters())
    gaps = {}
    for steps in (False, True):
        chosen = [p for name, p in named.items() if steps or not name.endswith(".step")]
        u, v = ([torch.randn_like(p) for p in chosen] for _ in range(2))
        hu, hv = products(functional.cross_entropy(model(x), labels), chosen, u, v)
        one, other = (sum((a * b).sum().item() for a, b in zip(*pair)) for pair in ((u, hv), (v, hu)))
        gaps[steps] = abs(one - other) / abs(one)
    assert gaps[False] <= 1e-12
    assert gaps[True] > 1e-3
