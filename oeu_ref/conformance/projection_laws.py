"""Laws of gradient orthogonal projection: Theorems 4.3 and 4.4 of arXiv 2602.00567, and the algebra of a projection."""

import math

import numpy as np
from hypothesis import assume

from ..reference import projection as reference
from .cases import GRADIENT_KINDS, GradientCase, gradients
from .law import about, require

GOP = "GOP"  # the definition and its algebra, without a theorem's number
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRANULARITIES = ("layer", "global")
RESCALES = ("undo", "match")
COLLINEAR = ("parallel", "antiparallel", "below_threshold")
WIDE = tuple(kind for kind in GRADIENT_KINDS if "parallel" not in kind and kind not in COLLINEAR)  # or with zeros
CLOSE = ("nearly_parallel", "nearly_antiparallel")
law = about("project")


def inner(first, second):
    """Inner product of two arrays, each product rounded once and their sum exact."""
    return math.fsum((first * second).ravel())


def norm(grad):
    """Euclidean norm of an array, as a float."""
    return reference.norm(np.ravel(grad))


def rounding(implementation, size):
    """Relative error allowed to a sum of `size` products: a handful of roundings, and those of the sum."""
    return (16 + math.sqrt(size)) * implementation.eps


def vectors(granularity, *lists):
    """The vectors that a projection works on: the layers themselves, or all of them as one."""
    if granularity == "layer":
        return list(zip(*lists))
    return [tuple(np.concatenate([np.ravel(g) for g in grads]) for grads in lists)]


def threshold(implementation):
    """Share of |g_f| below which what a projection leaves is noise of collinear gradients: zero, or anything as small."""
    return 1e-12 if implementation.dtype == np.float64 else 1e-6


def tolerance(implementation, g_f, expected, plain):
    """Length of the error allowed to a projection: rounding of g_f, stretched as much as "match" stretches the result.

    expected: the right one; plain: the same under "undo".
    """
    if not plain.any():
        return threshold(implementation) * norm(g_f)
    return rounding(implementation, plain.size) * norm(g_f) * norm(expected) / norm(plain)


def _is_collinear(g_f, g_r):
    """Whether a right projection of g_f off g_r is zero: a reference result of exactly zero says so."""
    return norm(g_f) > 0 and not reference.project_vector(np.ravel(g_f), np.ravel(g_r)).any()


def _orthogonal(implementation, case, granularity, sharp):
    """With alpha = 1 the result is orthogonal to the retain gradient, under every rescaling.

    sharp: relative to the result's own length, which takes two passes when it is short; otherwise to that of g_f.
    """
    forget, retain = case.arrays(implementation)
    plain = reference.project(forget, retain, 1.0, granularity)
    for rescale in RESCALES:
        g_perp = implementation.project(forget, retain, alpha=1.0, granularity=granularity, rescale=rescale)
        for i, (p, g_f, g_r, e) in enumerate(vectors(granularity, g_perp, forget, retain, plain)):
            if norm(p) <= threshold(implementation) * norm(g_f):
                continue
            allowed = rounding(implementation, p.size) * (1.0 if sharp else norm(g_f) / norm(e) if e.any() else 1e300)
            cosine = abs(inner(p, g_r)) / (norm(p) * norm(g_r) or 1.0)
            require(
                cosine <= allowed,
                lambda: (
                    f"{granularity} {i}, rescale {rescale!r}: cosine {cosine:.3g} with the retain gradient, rounding "
                    f"allows {allowed:.1e}"
                ),
            )


@law("4.3", gradients(*WIDE, extra=[GradientCase("typical", ((1000,), (40, 30)))]))
def projected_gradient_is_orthogonal_to_the_retain_gradient_of_every_layer(implementation, case):
    """With alpha = 1 no layer of the projected forget gradient has a component along the retain gradient.

    With alpha = 1 each layer's result is orthogonal to that layer's retain gradient: off it, not onto it;
    normalized by |g_r|^2 (or both unit vectors); whether or not the gradients conflict; layer by layer."""
    _orthogonal(implementation, case, "layer", sharp=False)


@law(
    "4.3",
    gradients(*CLOSE, extra=[GradientCase(kind, ((17,), (64,)), seed=seed) for kind in CLOSE for seed in range(4)]),
)
def orthogonality_holds_to_rounding_when_gradients_are_nearly_parallel(implementation, case):
    """Orthogonality holds relative to the projected gradient's own length, however short it is.

    One pass leaves about eps |g_f| of the retain direction behind, which is much next to a short result: project
    the result once more."""
    for granularity in GRANULARITIES:
        _orthogonal(implementation, case, granularity, sharp=True)


@law("4.3", gradients(*WIDE))
def global_projection_is_orthogonal_over_all_layers_together(implementation, case):
    """With granularity "global" and alpha = 1 the concatenated result is orthogonal to the concatenated gradient.

    granularity="global" treats all layers as one vector: one inner product and one norm over all of them."""
    _orthogonal(implementation, case, "global", sharp=False)


@law("4.3", gradients())
def alpha_removes_that_share_of_the_retain_component(implementation, case):
    """Under "undo" the inner product with the retain gradient is (1 - alpha) times what it was.

    alpha is the share of the retain component that goes: <g_alpha, g_r> = (1 - alpha) <g_f, g_r>."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        for alpha in (*ALPHAS, case.seed / 999):
            result = implementation.project(forget, retain, alpha=alpha, granularity=granularity)
            for p, g_f, g_r in vectors(granularity, result, forget, retain):
                expected = (1 - alpha) * inner(g_f, g_r)
                allowed = rounding(implementation, p.size) * norm(g_f) * norm(g_r)
                require(
                    abs(inner(p, g_r) - expected) <= allowed,
                    lambda: (
                        f"alpha = {alpha:g}, {granularity}: <g, g_r> = {inner(p, g_r):.6g}, expected {expected:.6g}"
                    ),
                )


@law("4.4", gradients())
def projected_gradient_is_a_descent_direction(implementation, case):
    """The inner product with the forget gradient is |g_f|^2 (1 - alpha cos^2 phi), hence never negative.

    <g_f, g_perp> = |g_f|^2 (1 - alpha cos^2) under undo, which is never negative: check the sign and the norms."""
    forget, retain = case.arrays(implementation)
    for alpha in ALPHAS:
        result = implementation.project(forget, retain, alpha=alpha)
        for p, g_f, g_r in zip(result, forget, retain):
            cosine = inner(reference.unit(g_f.ravel())[0], reference.unit(g_r.ravel())[0])
            expected = norm(g_f) ** 2 * (1 - alpha * cosine**2)
            allowed = rounding(implementation, p.size) * norm(g_f) ** 2
            require(
                abs(inner(g_f, p) - expected) <= allowed,
                lambda: f"alpha = {alpha:g}: <g_f, g> = {inner(g_f, p):.6g}, expected {expected:.6g}",
            )


@law("4.4", gradients())
def full_projection_meets_its_gradient_in_its_own_length(implementation, case):
    """For alpha = 1 under "undo", <g_f, g_perp> = |g_perp|^2.

    For alpha = 1 a projection's result has the same inner product with g_f as with itself."""
    forget, retain = case.arrays(implementation)
    for p, g_f in zip(implementation.project(forget, retain), forget):
        allowed = rounding(implementation, p.size) * norm(g_f) ** 2
        require(
            abs(inner(g_f, p) - inner(p, p)) <= allowed,
            lambda: f"<g_f, g_perp> = {inner(g_f, p):.6g}, |g_perp|^2 = {inner(p, p):.6g}",
        )


def _check_definition(implementation, case, granularity, rescale):
    forget, retain = case.arrays(implementation)
    for alpha in (*ALPHAS, case.seed / 999):
        result = implementation.project(forget, retain, alpha=alpha, granularity=granularity, rescale=rescale)
        expected = reference.project(forget, retain, alpha, granularity, rescale)
        plain = reference.project(forget, retain, alpha, granularity)
        for p, e, shortest, g_f in vectors(granularity, result, expected, plain, forget):
            allowed, size = tolerance(implementation, g_f, e, shortest), norm(g_f) or 1.0
            require(
                norm(p - e) <= allowed,
                lambda: f"alpha = {alpha:g}: off by {norm(p - e) / size:.3g} of |g_f|, allowed {allowed / size:.1e}",
            )


@law(GOP, gradients())
def layer_projection_under_undo_is_its_definition(implementation, case):
    """Per layer and under "undo" the result is g_f - alpha <g_f, g_r> g_r / |g_r|^2.

    Per layer: g_f - alpha <g_f, g_r> g_r / |g_r|^2, each layer with its own inner product and norm."""
    _check_definition(implementation, case, "layer", "undo")


@law(GOP, gradients())
def layer_projection_under_match_is_its_definition(implementation, case):
    """Per layer and under "match" the result is that of "undo", stretched to the length |g_f|.

    Per layer under "match": the direction of the projected gradient with the length |g_f|."""
    _check_definition(implementation, case, "layer", "match")


@law(GOP, gradients())
def global_projection_is_its_definition(implementation, case):
    """With granularity "global" the result is the projection of the concatenated gradients, cut into layers again.

    Granularity="global": one inner product and one norm over all layers."""
    for rescale in RESCALES:
        _check_definition(implementation, case, "global", rescale)


@law(GOP, gradients(*WIDE, *CLOSE))
def match_keeps_the_length_of_the_forget_gradient(implementation, case):
    """Under "match" every layer that is not collinear keeps the length of its forget gradient.

    "match" gives the length of the forget gradient, not of the retain gradient, 1, or the shortened length."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        for alpha in (0.5, 1.0):
            result = implementation.project(forget, retain, alpha=alpha, granularity=granularity, rescale="match")
            for p, g_f, g_r in vectors(granularity, result, forget, retain):
                if alpha == 1.0 and _is_collinear(g_f, g_r):
                    continue
                require(
                    abs(norm(p) - norm(g_f)) <= rounding(implementation, p.size) * norm(g_f),
                    lambda: f"length {norm(p):.9g}, forget gradient {norm(g_f):.9g} ({granularity}, alpha {alpha:g})",
                )


@law(GOP, gradients(*WIDE))
def undo_never_lengthens(implementation, case):
    """Under "undo" no layer is longer than its forget gradient (a projection is non-expansive).

    "undo" never lengthens: its result is at most as long as the forget gradient."""
    forget, retain = case.arrays(implementation)
    for alpha in ALPHAS:
        for p, g_f in zip(implementation.project(forget, retain, alpha=alpha, rescale="undo"), forget):
            require(
                norm(p) <= norm(g_f) * (1 + rounding(implementation, p.size)),
                lambda: f"alpha = {alpha:g}: length {norm(p):.6g} from {norm(g_f):.6g}",
            )


@law(GOP, gradients("zero_retain", "zero_forget", "both_zero", "one_layer_zero"))
def zero_gradients_are_harmless(implementation, case):
    """A zero retain gradient leaves the forget gradient as it is; a zero forget gradient gives zero.

    0 / 0: a zero retain gradient leaves g_f as it is, a zero forget gradient gives zero."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        for rescale in RESCALES:
            result = implementation.project(forget, retain, granularity=granularity, rescale=rescale)
            for p, g_f, g_r in vectors(granularity, result, forget, retain):
                if not g_f.any():
                    require(not p.any(), f"zero forget gradient gave length {norm(p):.3g} ({granularity}, {rescale})")
                elif not g_r.any():
                    require(
                        norm(p - g_f) <= rounding(implementation, p.size) * norm(g_f),
                        f"zero retain gradient changed the forget gradient by {norm(p - g_f) / norm(g_f):.3g} of its "
                        f"length ({granularity}, {rescale})",
                    )


@law(
    GOP,
    gradients(
        *COLLINEAR,
        extra=[GradientCase("parallel", shapes, seed=seed) for shapes in (((64,),), ((), (1,))) for seed in range(4)],
    ),
)
def collinear_gradients_give_zero(implementation, case):
    """With alpha = 1 gradients that are collinear up to rounding give zero, under "undo" and under "match".

    Collinear gradients leave rounding noise, which must become zero (below 1e-12 of |g_f| in float64, 1e-6 in
    float32), above all before "match" blows it up to full length."""
    forget, retain = case.arrays(implementation)
    for rescale in RESCALES:
        for p, g_f in zip(implementation.project(forget, retain, rescale=rescale), forget):
            require(
                norm(p) <= threshold(implementation) * norm(g_f),
                lambda: f"rescale {rescale!r}: {norm(p) / norm(g_f):.3g} of |g_f| is left, noise of rounding only",
            )


@law(GOP, gradients())
def projection_is_idempotent(implementation, case):
    """With alpha = 1 under "undo", projecting twice is projecting once.

    Projecting what is projected already changes nothing."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        once = implementation.project(forget, retain, granularity=granularity)
        twice = implementation.project(once, retain, granularity=granularity)
        for p, q, g_f in vectors(granularity, once, twice, forget):
            # once more below the collinear threshold what is left may be taken for noise
            allowed = rounding(implementation, p.size) * norm(g_f)
            require(norm(p - q) <= allowed, lambda: f"{granularity}: changes by {norm(p - q) / norm(g_f):.3g} of |g_f|")


@law(GOP, gradients(*WIDE))
def projection_is_linear_in_the_forget_gradient(implementation, case):
    """Under "undo", projecting 2 g_f - h is 2 times projecting g_f, minus projecting h.

    A projection is linear in the forget gradient: nothing in it may depend on a sign or a condition."""
    forget, retain = case.arrays(implementation)
    rng = np.random.default_rng(case.seed + 1)
    other = [implementation.cast(norm(g) * rng.normal(size=g.shape)) for g in forget]
    mixed = [implementation.cast(2 * f - h) for f, h in zip(forget, other)]
    for alpha in (0.5, 1.0):
        results = (implementation.project(grads, retain, alpha=alpha) for grads in (mixed, forget, other))
        for m, p, q, g_f, h in zip(*results, forget, other):
            error, allowed = norm(m - (2 * p - q)), 4 * rounding(implementation, m.size) * (norm(g_f) + norm(h))
            require(error <= allowed, lambda: f"alpha = {alpha:g}: off by {error:.3g}, rounding allows {allowed:.3g}")


@law(GOP, gradients(*WIDE, *CLOSE))
def projection_is_blind_to_length_and_sign_of_the_retain_gradient(implementation, case):
    """A longer, shorter or reversed retain gradient gives the same result.

    Only the retain gradient's direction counts: an epsilon beside its norm, a missing normalization or a test of
    the cosine's sign breaks this."""
    forget, retain = case.arrays(implementation)
    for granularity in GRANULARITIES:
        expected = implementation.project(forget, retain, granularity=granularity)
        for factor in (-1.0, case.other_length(case.retain_scale)):  # powers of two: no rounding of their own
            scaled = implementation.project(forget, [factor * g for g in retain], granularity=granularity)
            for p, q, g_f in vectors(granularity, expected, scaled, forget):
                require(
                    norm(p - q) <= 2 * rounding(implementation, p.size) * norm(g_f),
                    lambda: (
                        f"{granularity}, retain gradient times {factor:g}: moves by "
                        f"{norm(p - q) / norm(g_f):.3g} of |g_f|"
                    ),
                )


@law(GOP, gradients(*WIDE))
def projection_scales_with_the_forget_gradient(implementation, case):
    """The forget gradient times a power of two gives the result times that power, under "undo" and "match".

    A longer forget gradient gives a result that is longer by the same factor: an epsilon or a missing
    rescaling."""
    forget, retain = case.arrays(implementation)
    for rescale in RESCALES:
        expected = implementation.project(forget, retain, rescale=rescale)
        factor = case.other_length(case.forget_scale)
        scaled = implementation.project([factor * g for g in forget], retain, rescale=rescale)
        for p, q, g_f in zip(expected, scaled, forget):
            require(
                norm(p - q / factor) <= 2 * rounding(implementation, p.size) * norm(g_f),
                lambda: f"rescale {rescale!r}, times {factor:g}: off by {norm(p - q / factor):.3g} of {norm(p):.3g}",
            )


@law(GOP, gradients(*WIDE))
def layers_are_projected_independently(implementation, case):
    """Per layer, projecting all layers at once gives what projecting each alone gives.

    A layer's result depends on that layer alone: norms or inner products of other layers are used."""
    forget, retain = case.arrays(implementation)
    for rescale in RESCALES:
        together = implementation.project(forget, retain, rescale=rescale)
        for i, (p, g_f, g_r) in enumerate(zip(together, forget, retain)):
            (alone,) = implementation.project([g_f], [g_r], rescale=rescale)
            require(
                norm(p - alone) <= 4 * rounding(implementation, p.size) * norm(g_f),
                lambda: f"layer {i}, {rescale}: {norm(p - alone) / (norm(g_f) or 1):.3g} of |g_f| apart",
            )


@law(GOP, gradients(*WIDE, *CLOSE, layers=1))
def global_projection_of_one_layer_is_layer_projection(implementation, case):
    """With a single layer, granularity "global" gives what "layer" gives.

    With one layer "layer" and "global" are the same thing."""
    forget, retain = case.arrays(implementation)
    (layer,), (whole,) = (implementation.project(forget, retain, granularity=g) for g in GRANULARITIES)
    require(
        norm(layer - whole) <= 2 * rounding(implementation, layer.size) * norm(forget[0]),
        lambda: f"{norm(layer - whole) / norm(forget[0]):.3g} of |g_f| apart",
    )


@law(GOP, gradients("agreeing", "conflicting"))
def global_projection_differs_from_layer_projection(implementation, case):
    """With several layers of different angles, granularity "global" gives something else than "layer".

    With several layers "layer" and "global" differ: the option is ignored."""
    forget, retain = case.arrays(implementation)
    assume(len(forget) > 1 and all(g.size > 1 for g in forget))
    # turn one layer the other way round, so that the angles differ
    retain[0] = -3 * retain[0]
    layer, whole = (implementation.project(forget, retain, granularity=g) for g in GRANULARITIES)
    apart = max(norm(p - q) / norm(g_f) for p, q, g_f in zip(layer, whole, forget))
    require(apart > 1e-3, f"they agree to {apart:.3g} of |g_f|")


@law(GOP, gradients(*WIDE))
def project_has_the_contracts_defaults_and_order(implementation, case):
    """Called with two lists alone, or with its options by position, project does what the contract says.

    The defaults are alpha=1.0, granularity="layer", rescale="undo", in this order."""
    forget, retain = case.arrays(implementation)
    for args in ((), (0.5,), (0.5, "global"), (0.5, "global", "match")):
        result, expected = implementation.project(forget, retain, *args), reference.project(forget, retain, *args)
        for p, e, g_f in zip(result, expected, forget):
            scale = max(norm(g) for g in forget) if "global" in args else norm(g_f)
            # 4: at alpha = 1/2 match stretches by at most 2
            allowed = 4 * rounding(implementation, sum(g.size for g in forget)) * scale * math.sqrt(len(forget))
            require(
                norm(p - e) <= allowed, lambda: f"options {args}: off by {norm(p - e):.3g}, |g_f| is {norm(g_f):.3g}"
            )
