"""The identities behind the theorems, proved with SymPy: for all values, not on samples. Each formula that is proved is
then evaluated at one point and compared with the reference, so that it is the code's formula."""

import numpy as np
import pytest
import sympy

from oeu_ref.reference import entropy_loss, kl_to_uniform, oeu_direction, project

rng = np.random.default_rng(0)

# Gradients as combinations of g_f and g_r: a pair of coefficients. Inner products need |g_f|^2, <g_f, g_r>, |g_r|^2,
# whatever the number of parameters is, so that what is proved here holds in every dimension.
FF, RR, ALPHA, BETA = sympy.symbols("ff rr alpha beta", positive=True)
FR = sympy.symbols("fr", real=True)
G_F, G_R = sympy.Matrix([1, 0]), sympy.Matrix([0, 1])
C = ALPHA * FR / RR
G_PERP = G_F - C * G_R
D = G_R + BETA * G_PERP


def inner(u, v):
    """Inner product of two combinations."""
    return (u.T * sympy.Matrix([[FF, FR], [FR, RR]]) * v)[0]


def is_zero(expression):
    """Whether an expression, or each of a matrix, vanishes for all values of its symbols."""
    return sympy.simplify(expression) == 0 * expression


def at_a_point(expression, alpha=0.6, beta=0.7):
    """(value of the expression, g_f, g_r) for two random gradients."""
    f, r = rng.normal(size=(2, 7))
    return float(expression.subs({FF: f @ f, FR: f @ r, RR: r @ r, ALPHA: alpha, BETA: beta})), f, r


def prediction(classes):
    """(x, p, log p): softmax of logits z = log x, so that p is a fraction and d/dz = x d/dx."""
    x = sympy.symbols(f"x:{classes}", positive=True)
    total = sum(x)
    return x, [xi / total for xi in x], [sympy.log(xi) - sympy.log(total) for xi in x]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_gradient_of_the_entropy_loss(classes):
    """d(-H)/dz_k = p_k (log p_k + H), which is zero at the uniform prediction and sums to zero (Theorem 4.2)."""
    x, p, log_p = prediction(classes)
    h = -sum(pi * li for pi, li in zip(p, log_p))
    gradient = [pk * (lk + h) for pk, lk in zip(p, log_p)]
    for xk, formula in zip(x, gradient):
        assert is_zero(xk * sympy.diff(-h, xk) - formula)
        assert is_zero(formula.subs({xi: 1 for xi in x}))
    assert is_zero(sum(gradient))
    logits = rng.normal(size=classes)
    values = [float(g.subs(dict(zip(x, np.exp(logits))))) for g in gradient]
    np.testing.assert_allclose(entropy_loss(logits[None])[1][0], values, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_divergence_from_uniform_is_log_k_minus_entropy(classes):
    """KL(p || U) = log K - H(p), for every prediction."""
    x, p, log_p = prediction(classes)
    divergence = sum(pi * (li - sympy.log(sympy.Rational(1, classes))) for pi, li in zip(p, log_p))
    assert is_zero(divergence - (sympy.log(classes) + sum(pi * li for pi, li in zip(p, log_p))))
    logits = rng.normal(size=classes)
    value = float(divergence.subs(dict(zip(x, np.exp(logits)))))
    assert kl_to_uniform(logits[None])[0] == pytest.approx(value, abs=1e-14)


def test_theorem_4_3_alpha_is_the_share_that_is_removed():
    """<g_perp, g_r> = (1 - alpha) <g_f, g_r>: zero for alpha = 1."""
    assert is_zero(inner(G_PERP, G_R) - (1 - ALPHA) * FR)
    value, f, r = at_a_point(inner(G_PERP, G_R))
    assert project([f], [r], 0.6)[0] @ r == pytest.approx(value, abs=1e-13)


def test_theorem_4_4_the_projected_gradient_descends():
    """<g_f, g_perp> = |g_f|^2 (1 - alpha cos^2 phi); for alpha = 1 it equals |g_perp|^2."""
    cosine = FR / sympy.sqrt(FF * RR)
    assert is_zero(inner(G_F, G_PERP) - FF * (1 - ALPHA * cosine**2))
    assert is_zero((inner(G_F, G_PERP) - inner(G_PERP, G_PERP)).subs(ALPHA, 1))
    value, f, r = at_a_point(inner(G_F, G_PERP))
    assert f @ project([f], [r], 0.6)[0] == pytest.approx(value, abs=1e-13)


def test_the_direction_is_a_weighted_sum_whose_weights_follow_the_angle():
    """d = (1 - beta c) g_r + beta g_f with c = alpha <g_f, g_r> / |g_r|^2; <d, g_r> = |g_r|^2 for alpha = 1."""
    assert is_zero(D - ((1 - BETA * C) * G_R + BETA * G_F))
    assert is_zero(inner(D, G_R).subs(ALPHA, 1) - RR)
    value, f, r = at_a_point(C)
    np.testing.assert_allclose(oeu_direction([f], [r], 0.6, 0.7)[0], (1 - 0.7 * value) * r + 0.7 * f, atol=1e-14)


def test_the_weight_of_the_forget_gradient_has_a_ceiling_under_conflict():
    """Per unit of g_r, g_f weighs beta / (1 - beta c), which for c < 0 rises with beta to -1 / c: the fixed weight at
    which, for alpha = 1, the retain loss stops falling."""
    c = sympy.symbols("c", negative=True)
    weight = BETA / (1 - BETA * c)
    assert sympy.limit(weight, BETA, sympy.oo) == -1 / c
    assert is_zero(sympy.diff(weight, BETA) - 1 / (1 - BETA * c) ** 2)
    ceiling = -RR / FR  # -1 / c
    assert is_zero(inner(G_R + ceiling * G_F, G_R))


def test_the_forget_loss_can_rise_for_a_small_beta():
    """<d, g_f> = <g_f, g_r> + beta |g_f|^2 (1 - cos^2 phi) for alpha = 1: negative under conflict until beta outweighs
    it; for equal lengths at a cosine of -1/2 until beta = 2/3."""
    fall = inner(D, G_F).subs(ALPHA, 1)
    assert is_zero(fall - (FR + BETA * (FF - FR**2 / RR)))
    half = sympy.Rational(1, 2)
    assert sympy.solve(fall.subs({FF: 1, RR: 1, FR: -half}), BETA) == [sympy.Rational(2, 3)]


def test_normalization_changes_nothing_under_undo():
    """With unit vectors and |g_f| multiplied back, the projection is the plain one."""
    unit_f, unit_r = G_F / sympy.sqrt(FF), G_R / sympy.sqrt(RR)
    normalized = sympy.sqrt(FF) * (unit_f - ALPHA * inner(unit_f, unit_r) * unit_r)
    assert is_zero(normalized - G_PERP)
