"""Laws of entropy-guided unlearning: Theorems 4.1 and 4.2 of arXiv 2602.00567, and the definitions behind them."""

import numpy as np

from ..judging.cases import logits
from ..judging.implementation import Imprecise, Violation
from ..judging.law import about, assume, require
from ..reference import entropy as reference

EGU = "EGU"  # the definition, without a theorem's number
law = about("entropy_loss")


def _perturbation(implementation, logits):
    """What rounding of the logits alone does to log p, row by row (N, 1): a backward stable code does no better.

    The factor is 8 for the handful of roundings on the way, plus one for each summand of the sums over classes and of
    the mean over samples, in whatever order they run.
    """
    largest = np.abs(logits).max(axis=1, keepdims=True)
    return (8 + sum(logits.shape)) * implementation.eps * (1 + largest)


def _value_tolerance(implementation, logits):
    """Bound on the rounding error of H and KL, row by row (N,): entropy moves by at most about log K + 1 per unit."""
    return _perturbation(implementation, logits)[:, 0] * (3 + np.log(logits.shape[1]))


def _gradient_tolerance(implementation, logits):
    """Bound on the rounding error of the gradient, entry by entry (N, K): proportional to p, as the gradient is."""
    log_p = reference.log_softmax(logits)
    slope = 3 + np.abs(log_p) + np.log(logits.shape[1])
    smallest = np.finfo(implementation.dtype).tiny * logits.shape[1]  # some compilers make subnormal numbers zero
    return (_perturbation(implementation, logits) * np.exp(log_p) + smallest) * slope / len(logits)


def _within(error, allowed, what=""):
    """Raise `Violation` unless all errors are within rounding, `Imprecise` if within that of each row's largest."""
    at = np.unravel_index(np.argmax(error / allowed), np.shape(error))
    message = f"{what}off by {error[at]:.3g} at {list(map(int, at))}, rounding allows {allowed[at]:.3g}"
    small = error.ndim == 2 and (error <= allowed.max(axis=1, keepdims=True)).all()
    require((error <= allowed).all(), message, Imprecise if small else Violation)


@law(EGU, logits())
def entropy_loss_is_the_negative_mean_entropy(implementation, case):
    """The forget loss is minus the mean over the batch of H(p) = -sum p log p, in nats.

    The loss is -(1/N) sum_n H(p_n): check sign, natural logarithms, mean over samples, the softmax's axis."""
    z = case.array(implementation)
    expected = -reference.entropy(z).mean()
    loss, _ = implementation.entropy_loss(z)
    tolerance = _value_tolerance(implementation, z).mean()
    message = f"loss {loss:.9g}, expected {expected:.9g}: off by {loss - expected:.3g}, rounding allows {tolerance:.1e}"
    require(abs(loss - expected) <= tolerance, message)


@law(EGU, logits())
def entropy_gradient_is_the_derivative_by_hand(implementation, case):
    """The gradient of the forget loss with respect to the logits is p (log p + H) / N.

    dL/dz = p (log p + H) / N: check the sign, the term H, the factor p and the 1/N."""
    z = case.array(implementation)
    _, grad = implementation.entropy_loss(z)
    _within(np.abs(grad - reference.entropy_loss(z)[1]), _gradient_tolerance(implementation, z))


@law(EGU, logits("typical", "near_uniform", max_classes=10), weight=0.5)
def entropy_gradient_matches_finite_differences_of_its_own_loss(implementation, case):
    """The gradient is the slope of the very loss that is returned with it, along any direction.

    Loss and gradient contradict each other: one of them has a factor, sign or term that the other lacks."""
    z = case.array(implementation)
    direction = np.random.default_rng(case.seed).normal(size=z.shape)
    # the best step of a central difference: error h^2 from the third derivative, eps / h from rounding of the loss
    h = implementation.eps ** (1 / 3)
    up, down = implementation.cast(z + h * direction), implementation.cast(z - h * direction)
    rise = implementation.entropy_loss(up)[0] - implementation.entropy_loss(down)[0]
    slope = (implementation.entropy_loss(z)[1] * (up - down)).sum()
    # rounding, and the curvature's third order
    allowed = 2 * _value_tolerance(implementation, z).mean() + 20 * h**3 * np.abs(direction).max() ** 3
    message = f"loss rises by {rise:.6g} where the gradient promises {slope:.6g} (allowed: {allowed:.1e})"
    require(abs(rise - slope) <= allowed, message)


@law(EGU, logits())
def entropy_gradient_sums_to_zero_over_classes(implementation, case):
    """For each sample the gradient's entries add up to zero.

    Probabilities do not change when all logits of a sample rise alike: check the softmax and the term H."""
    z = case.array(implementation)
    sums = np.abs(implementation.entropy_loss(z)[1].sum(axis=1))
    allowed = _gradient_tolerance(implementation, z).sum(axis=1)
    _within(sums, allowed, "row sums ")


@law(EGU, logits("typical", "confident", "near_uniform", shapes=((5, 3), (1, 3))))
def entropy_loss_is_a_mean_over_the_batch(implementation, case):
    """Saying every sample twice leaves the loss as it is and halves the gradient of each; a sample said once more
    counts once more.

    The loss is a mean over samples, not a sum, and its gradient carries the 1/N; equal samples count each."""
    z = case.array(implementation)
    loss, grad = implementation.entropy_loss(z)
    loss_twice, grad_twice = implementation.entropy_loss(np.concatenate([z, z]))
    tolerance = 2 * _value_tolerance(implementation, z).mean()
    require(abs(loss - loss_twice) <= tolerance, f"loss {loss:.9g} once and {loss_twice:.9g} twice")
    _within(np.abs(2 * grad_twice[: len(z)] - grad), 2 * _gradient_tolerance(implementation, z), "gradient ")
    (first, _), (more, _) = (implementation.entropy_loss(np.concatenate(part)) for part in ([z[:1]], [z, z[:1]]))
    right, tolerance = (len(z) * loss + first) / (len(z) + 1), 3 * _value_tolerance(implementation, z).max()
    require(abs(more - right) <= tolerance, f"loss {more:.9g} with the first sample once more, expected {right:.9g}")


@law(EGU, logits("typical", "confident"))
def entropy_treats_samples_and_classes_alike(implementation, case):
    """Reordering samples and classes reorders the gradient and leaves the loss.

    Softmax or a sum runs over the wrong axis, or one sample's entropy is used for another."""
    z = case.array(implementation)
    rng = np.random.default_rng(case.seed)
    rows, columns = rng.permutation(z.shape[0]), rng.permutation(z.shape[1])
    loss, grad = implementation.entropy_loss(z)
    loss_p, grad_p = implementation.entropy_loss(z[rows][:, columns])
    require(abs(loss - loss_p) <= 2 * _value_tolerance(implementation, z).mean(), f"loss {loss} became {loss_p}")
    allowed = 2 * _gradient_tolerance(implementation, z)[rows][:, columns]
    _within(np.abs(grad[rows][:, columns] - grad_p), allowed, "gradient ")


law = about("kl_to_uniform")


@law("4.1", logits())
def kl_to_uniform_is_log_k_minus_entropy(implementation, case):
    """KL(p || U) is log K - H(p) for each sample.

    KL(p || U) = log K - H(p), in nats, one value a sample: check direction, log K, the softmax's axis."""
    z = case.array(implementation)
    error = np.abs(implementation.kl_to_uniform(z) - reference.kl_to_uniform(z))
    _within(error, _value_tolerance(implementation, z))


@law("4.1", logits("one_hot"))
def one_hot_prediction_has_kl_log_k(implementation, case):
    """At the optimum of label manipulation, a one-hot prediction, KL(p* || U) = log K.

    At a one-hot p the KL to uniform is log K: check 0 log 0 = 0 and logits of 1e4."""
    z = case.array(implementation)
    kl = implementation.kl_to_uniform(z)
    error = np.abs(kl - np.log(case.k))
    require((error <= 8 * implementation.eps * np.log(case.k)).all(), f"KL {kl}, expected log {case.k} each")


@law("4.1", logits())
def nothing_is_further_from_uniform_than_one_hot(implementation, case):
    """No prediction has a KL to uniform above log K, and none below 0.

    KL(p || U) lies between 0 and log K; the reversed KL(U || p) does not."""
    z = case.array(implementation)
    kl, slack = implementation.kl_to_uniform(z), _value_tolerance(implementation, z)
    require((kl <= np.log(case.k) + slack).all(), f"largest KL {kl.max():.9g} above log {case.k}")
    require((kl >= -slack).all(), f"smallest KL {kl.min():.3g} below 0")


@law("4.1", logits("typical", "near_uniform", max_classes=20))
def fitting_a_wrong_label_ends_at_the_largest_kl(implementation, case):
    """Along descent on cross-entropy to any wrong label, from uniform on, KL to uniform only rises, up to log K.

    Fitting a wrong label must drive the prediction away from uniform: check the sign and direction of KL."""
    label = case.seed % case.k
    # what that descent does, in closed form: the label's logit outgrows the rest
    gaps = np.append(0.0, np.geomspace(0.5, 1000, 9))[np.linspace(9, 0, case.n).astype(int)[::-1]]
    z = implementation.cast(gaps[:, None] * (np.arange(case.k) == label))
    kl, slack = implementation.kl_to_uniform(z), _value_tolerance(implementation, z)
    require((np.diff(kl) >= -slack[1:]).all(), f"KL falls along the way: {kl}")
    require(abs(kl[-1] - np.log(case.k)) <= slack[-1], f"KL ends at {kl[-1]:.9g}, expected log {case.k}")


@law("4.2", logits("uniform"))
def uniform_prediction_has_kl_zero(implementation, case):
    """Where all logits of a sample are equal, KL(p || U) = 0.

    A uniform prediction has KL 0: is the log K there, and in nats?"""
    z = case.array(implementation)
    kl, slack = implementation.kl_to_uniform(z), _value_tolerance(implementation, z)
    require((np.abs(kl) <= slack).all(), f"KL {kl}, expected 0 each")


law = about("entropy_loss")


@law("4.2", logits("uniform"))
def uniform_prediction_is_stationary(implementation, case):
    """Where all logits of a sample are equal, the forget loss is -log K and its gradient zero.

    At the uniform prediction the loss is -log K and nothing pulls: check the term H of the gradient."""
    z = case.array(implementation)
    loss, grad = implementation.entropy_loss(z)
    off, message = abs(loss + np.log(case.k)), f"loss {loss:.9g}, expected -log {case.k} = {-np.log(case.k):.9g}"
    require(off <= _value_tolerance(implementation, z).mean(), message)
    _within(np.abs(grad), _gradient_tolerance(implementation, z), "gradient ")


@law("4.2", logits())
def uniform_prediction_is_the_global_minimum(implementation, case):
    """No logits have a forget loss below -log K, the uniform prediction's, and none above 0.

    The forget loss lies between -log K (uniform) and 0 (certain): check its sign and the logarithm's base."""
    z = case.array(implementation)
    loss, slack = implementation.entropy_loss(z)[0], _value_tolerance(implementation, z).mean()
    require(-np.log(case.k) - slack <= loss <= slack, f"loss {loss:.9g} outside [-log {case.k}, 0]")


@law("4.2", logits("typical", max_classes=6), weight=0.2)
def descent_reaches_the_uniform_prediction(implementation, case):
    """Gradient descent on the forget loss from logits that differ by about 1 ends at the uniform prediction.

    Descent on the forget loss must flatten the prediction: check the sign of the gradient."""
    z = implementation.cast(case.array(implementation) / 2)  # from further away the first steps are short
    for _ in range(40):
        # near uniform the Hessian's eigenvalues are 1 / (N K), so that this step size contracts by half
        z = z - 0.5 * case.n * case.k * implementation.entropy_loss(z)[1]
    spread = np.ptp(z, axis=1).max()
    require(spread <= 1e-3, f"after 40 steps logits of a sample still differ by {spread:.3g}")


@law("4.2", logits("typical", "confident", max_classes=20))
def a_small_step_lowers_the_forget_loss(implementation, case):
    """A small step against its gradient lowers the forget loss, by the step times the squared gradient.

    A small step against the gradient must lower the forget loss: check the gradient's sign."""
    z = case.array(implementation)
    loss, grad = implementation.entropy_loss(z)
    step = 0.3 * case.n  # far enough for float32 to see it, near enough for the second order to stay below a tenth
    promised = step * (grad**2).sum()
    rounding = 2 * _value_tolerance(implementation, z).mean()
    assume(promised > 10 * rounding)
    fall = loss - implementation.entropy_loss(implementation.cast(z - step * grad))[0]
    require(0.8 * promised <= fall + rounding, f"loss falls by {fall:.3g} where {promised:.3g} was promised")
    require(fall - rounding <= 1.2 * promised, f"loss falls by {fall:.3g} where {promised:.3g} was promised")


law = about("entropy_loss", "kl_to_uniform")


@law(EGU, logits())
def kl_and_loss_tell_the_same(implementation, case):
    """The mean KL to uniform is log K plus the forget loss.

    Loss and KL disagree: one of them has another base of logarithm, sign or mean."""
    z = case.array(implementation)
    kl, loss = implementation.kl_to_uniform(z).mean(), implementation.entropy_loss(z)[0]
    slack = 2 * _value_tolerance(implementation, z).mean()
    require(abs(kl - np.log(case.k) - loss) <= slack, f"mean KL {kl:.9g}, log K + loss {np.log(case.k) + loss:.9g}")
