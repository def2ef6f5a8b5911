"""Laws of gradient orthogonal projection: Theorems 4.3 and 4.4 of arXiv 2602.00567, and the algebra of a projection."""

import itertools
import math

import numpy as np

from ..judging import expected
from ..judging.cases import GRADIENT_KINDS, GradientCase, gradients
from ..judging.law import about, assume, require
from ..judging.rounding import inner, norm, rounding, threshold, tolerance, vectors
from ..reference import projection as reference

GOP = "GOP"  # the definition and its algebra, without a theorem's number
COLLINEAR = ("parallel", "antiparallel", "below_threshold")
WIDE = tuple(kind for kind in GRADIENT_KINDS if "parallel" not in kind and kind not in COLLINEAR)  # or with zeros
CLOSE = ("nearly_parallel", "nearly_antiparallel")
ZEROS = ("zero_retain", "zero_forget", "both_zero", "one_layer_zero")
# of the paper's projection: whether or not gradients conflict, with unit vectors of exact length
law = about("project", NORMALIZATION="exact", PROJECT_WHEN="always")


def _each(implementation, case, alphas=(1.0,), granularities=None, rescales=("undo",)):
    """(options, words, (g_perp, g_f, g_r)) for each vector of a case's projection with each combination of options.

    alphas, granularities, rescales: to combine, None: those that are supported; words: options and layer, to be read.
    """
    forget, retain = case.arrays(implementation)
    granularities = granularities or implementation.declared["GRANULARITIES"]
    for granularity, rescale, alpha in itertools.product(granularities, rescales, alphas):
        options = {"alpha": alpha, "granularity": granularity, "rescale": rescale}
        words = ", ".join(f"{name}={value!r}" for name, value in options.items())
        g_perp = implementation.project(forget, retain, **options)
        for i, layer in enumerate(vectors(granularity, g_perp, forget, retain)):
            yield options, f"{words}, layer {i}", layer


def _orthogonal(implementation, case, granularities, sharp):
    """With alpha = 1 the result is orthogonal to the retain gradient, under every rescaling.

    sharp: relative to the result's own length, which takes two passes when it is short; otherwise to that of g_f.
    """
    rescales = implementation.declared["RESCALES"]
    for _, words, (p, g_f, g_r) in _each(implementation, case, granularities=granularities, rescales=rescales):
        if norm(p) <= threshold(implementation) * norm(g_f):
            continue
        plain = norm(reference.project_vector(g_f.ravel(), g_r.ravel()))
        allowed = rounding(implementation, p.size) * (1.0 if sharp else norm(g_f) / plain if plain else 1e300)
        cosine = abs(inner(p, g_r)) / (norm(p) * norm(g_r) or 1.0)
        message = f"{words}: cosine {cosine:.3g} with the retain gradient, rounding allows {allowed:.1e}"
        require(cosine <= allowed, message)


@law("4.3", gradients(*WIDE, extra=[GradientCase("typical", ((40, 30), (64,)))]), GRANULARITIES="layer", ALPHAS=1.0)
def projected_gradient_is_orthogonal_to_the_retain_gradient_of_every_layer(implementation, case):
    """With alpha = 1 no layer of the projected forget gradient has a component along the retain gradient.

    With alpha = 1 each layer's result is orthogonal to that layer's retain gradient: off it, not onto it;
    normalized by |g_r|^2 (or both unit vectors); whether or not the gradients conflict; layer by layer."""
    _orthogonal(implementation, case, ("layer",), sharp=False)


NEARLY = [GradientCase(kind, ((40, 30), (64,)), seed=seed) for kind in CLOSE for seed in range(4)]


@law("4.3", gradients(*CLOSE, extra=NEARLY), ALPHAS=1.0)
def orthogonality_holds_to_rounding_when_gradients_are_nearly_parallel(implementation, case):
    """Orthogonality holds relative to the projected gradient's own length, however short it is.

    One pass leaves about eps |g_f| of the retain direction behind, much next to a short result: project that again."""
    _orthogonal(implementation, case, implementation.declared["GRANULARITIES"], sharp=True)


@law("4.3", gradients(*WIDE), GRANULARITIES="global", ALPHAS=1.0)
def global_projection_is_orthogonal_over_all_layers_together(implementation, case):
    """With granularity "global" and alpha = 1 the concatenated result is orthogonal to the concatenated gradient.

    granularity="global" treats all layers as one vector: one inner product and one norm over all of them."""
    _orthogonal(implementation, case, ("global",), sharp=False)


@law("4.3", gradients(), RESCALES="undo")
def alpha_removes_that_share_of_the_retain_component(implementation, case):
    """Under "undo" the inner product with the retain gradient is (1 - alpha) times what it was.

    alpha is the share of the retain component that goes: <g_alpha, g_r> = (1 - alpha) <g_f, g_r>."""
    for options, words, (p, g_f, g_r) in _each(implementation, case, alphas=implementation.alphas(case.seed / 999)):
        right, found = (1 - options["alpha"]) * inner(g_f, g_r), inner(p, g_r)
        allowed = rounding(implementation, p.size) * norm(g_f) * norm(g_r)
        require(abs(found - right) <= allowed, f"{words}: <g, g_r> = {found:.6g}, expected {right:.6g}")


@law("4.4", gradients(), RESCALES="undo")
def projected_gradient_is_a_descent_direction(implementation, case):
    """The inner product with the forget gradient is |g_f|^2 (1 - alpha cos^2 phi), hence never negative.

    <g_f, g_perp> = |g_f|^2 (1 - alpha cos^2) under undo, which is never negative: check the sign and the norms."""
    for options, words, (p, g_f, g_r) in _each(implementation, case, alphas=implementation.alphas()):
        cosine = inner(reference.unit(g_f.ravel())[0], reference.unit(g_r.ravel())[0])
        right, found = norm(g_f) ** 2 * (1 - options["alpha"] * cosine**2), inner(g_f, p)
        allowed = rounding(implementation, p.size) * norm(g_f) ** 2
        require(abs(found - right) <= allowed, f"{words}: <g_f, g> = {found:.6g}, expected {right:.6g}")


@law("4.4", gradients(), RESCALES="undo", ALPHAS=1.0)
def full_projection_meets_its_gradient_in_its_own_length(implementation, case):
    """For alpha = 1 under "undo", <g_f, g_perp> = |g_perp|^2.

    For alpha = 1 a projection's result has the same inner product with g_f as with itself."""
    for _, words, (p, g_f, _) in _each(implementation, case):
        allowed = rounding(implementation, p.size) * norm(g_f) ** 2
        message = f"{words}: <g_f, g_perp> = {inner(g_f, p):.6g}, |g_perp|^2 = {inner(p, p):.6g}"
        require(abs(inner(g_f, p) - inner(p, p)) <= allowed, message)


SAME = [GradientCase("itself", ((8,), (3, 4))), *(GradientCase("parallel", ((64,),), seed=seed) for seed in range(4))]


@law(GOP, gradients(*COLLINEAR, extra=SAME), ALPHAS=1.0)
def collinear_gradients_give_zero(implementation, case):
    """With alpha = 1 gradients that are collinear up to rounding give zero, under "undo" and under "match".

    Collinear gradients leave rounding noise, which must become zero (below 1e-12 of |g_f| in float64, 1e-6 in
    float32), above all before "match" blows it up to full length."""
    assume("layer" in implementation.declared["GRANULARITIES"])
    rescales = implementation.declared["RESCALES"]
    for _, words, (p, g_f, _) in _each(implementation, case, granularities=("layer",), rescales=rescales):
        message = f"{words}: {norm(p) / (norm(g_f) or 1):.3g} of |g_f| is left, noise of rounding only"
        require(norm(p) <= threshold(implementation) * norm(g_f), message)


@law(GOP, gradients(), RESCALES="undo", ALPHAS=1.0)
def projection_is_idempotent(implementation, case):
    """With alpha = 1 under "undo", projecting twice is projecting once.

    Projecting what is projected already changes nothing."""
    forget, retain = case.arrays(implementation)
    for granularity in implementation.declared["GRANULARITIES"]:
        options = {"alpha": 1.0, "granularity": granularity, "rescale": "undo"}
        once = implementation.project(forget, retain, **options)
        twice = implementation.project(once, retain, **options)
        for p, q, g_f in vectors(granularity, once, twice, forget):
            # once more below the collinear threshold what is left may be taken for noise
            allowed = rounding(implementation, p.size) * norm(g_f)
            require(norm(p - q) <= allowed, lambda: f"{granularity}: changes by {norm(p - q) / norm(g_f):.3g} of |g_f|")


@law(GOP, gradients(*WIDE), RESCALES="undo", GRANULARITIES="layer")
def projection_is_linear_in_the_forget_gradient(implementation, case):
    """Under "undo", projecting 2 g_f - h is 2 times projecting g_f, minus projecting h.

    A projection is linear in the forget gradient: nothing in it may depend on a sign or a condition."""
    forget, retain = case.arrays(implementation)
    rng = np.random.default_rng(case.seed + 1)
    other = [implementation.cast(norm(g) * rng.normal(size=g.shape)) for g in forget]
    mixed = [implementation.cast(2 * f - h) for f, h in zip(forget, other)]
    for alpha in implementation.declared["ALPHAS"] or (0.5, 1.0):
        options = {"alpha": alpha, "granularity": "layer", "rescale": "undo"}
        results = (implementation.project(grads, retain, **options) for grads in (mixed, forget, other))
        for m, p, q, g_f, h in zip(*results, forget, other):
            error, allowed = norm(m - (2 * p - q)), 4 * rounding(implementation, m.size) * (norm(g_f) + norm(h))
            require(error <= allowed, lambda: f"alpha = {alpha:g}: off by {error:.3g}, rounding allows {allowed:.3g}")


def _moves_alike(implementation, case, forget_factor, retain_factor, rescale):
    """Gradients times powers of two, which round nothing, give the result times that of the forget gradient."""
    forget, retain = case.arrays(implementation)
    scaled = [forget_factor * g for g in forget], [retain_factor * g for g in retain]
    for granularity in implementation.declared["GRANULARITIES"]:
        options = {"alpha": implementation.alphas()[-1], "granularity": granularity, "rescale": rescale}
        once, again = implementation.project(forget, retain, **options), implementation.project(*scaled, **options)
        for p, q, g_f, g_r in vectors(granularity, once, again, forget, retain):
            plain = reference.project_vector(g_f.ravel(), g_r.ravel(), options["alpha"])
            moved, allowed = norm(p - q / forget_factor), 2 * tolerance(implementation, g_f, p, plain)
            factors = f"g_f times {forget_factor:g}, g_r times {retain_factor:g}"
            words = f"{granularity}, rescale {rescale!r}, {factors}"
            require(moved <= allowed, lambda: f"{words}: moves by {moved / (norm(g_f) or 1):.3g} of |g_f|")


@law(GOP, gradients(*WIDE, *CLOSE), RESCALES="undo")
def projection_is_blind_to_length_and_sign_of_the_retain_gradient(implementation, case):
    """A longer, shorter or reversed retain gradient gives the same result.

    Only the retain gradient's direction counts: an epsilon beside its norm, no normalization, a test of the sign."""
    for factor in (-1.0, case.other_length(case.retain_scale)):
        _moves_alike(implementation, case, 1.0, factor, "undo")


@law(GOP, gradients(*WIDE))
def projection_scales_with_the_forget_gradient(implementation, case):
    """The forget gradient times a power of two gives the result times that power, under "undo" and "match".

    A longer forget gradient gives a result that is longer by the same factor: an epsilon or a missing rescaling."""
    for rescale in implementation.declared["RESCALES"]:
        _moves_alike(implementation, case, case.other_length(case.forget_scale), 1.0, rescale)


law = about("project", PROJECT_WHEN="conflict")


@law(GOP, gradients(*WIDE), RESCALES="undo", ALPHAS=1.0)
def projection_under_conflict_never_points_against_the_retain_gradient(implementation, case):
    """With PROJECT_WHEN = "conflict" and alpha = 1, <g, g_r> is never negative, and g_f is left alone where it agrees.

    Conflict is a negative inner product: that of the layer, or under "global" that of all layers together."""
    for _, words, (p, g_f, g_r) in _each(implementation, case):
        # the additive normalization leaves 2 epsilon / |g_r| of what conflicts
        slack = rounding(implementation, p.size)
        if implementation.declared["NORMALIZATION"] == "additive":
            slack += 4 * implementation.declared["EPSILON"] * (1 / (norm(g_f) or 1.0) + 1 / (norm(g_r) or 1.0))
        against = -inner(p, g_r) / (norm(g_f) * norm(g_r) or 1.0)
        require(against <= slack, f"{words}: cosine -{against:.3g} with the retain gradient")
        if inner(g_f, g_r) > rounding(implementation, p.size) * norm(g_f) * norm(g_r):
            require(norm(p - g_f) <= 8 * implementation.eps * norm(g_f), f"{words}: changed, though they agree")


law = about("project")


def _check_definition(implementation, case, granularity, rescale):
    forget, retain = case.arrays(implementation)
    for alpha in implementation.alphas(case.seed / 999):
        options = {"alpha": alpha, "granularity": granularity}
        result = implementation.project(forget, retain, **options, rescale=rescale)
        right = expected.project(implementation, forget, retain, **options, rescale=rescale)
        plain = right if rescale == "undo" else expected.project(implementation, forget, retain, **options)
        for p, e, shortest, g_f in vectors(granularity, result, right, plain, forget):
            size = norm(g_f) or 1.0
            error, allowed = norm(p - e), tolerance(implementation, g_f, e, shortest)
            message = f"alpha = {alpha:g}: off by {error / size:.3g} of |g_f|, rounding allows {allowed / size:.1e}"
            require(error <= allowed, message)


@law(GOP, gradients(), GRANULARITIES="layer", RESCALES="undo")
def layer_projection_under_undo_is_its_definition(implementation, case):
    """Per layer and under "undo" the result is g_f - alpha <g_f, g_r> g_r / |g_r|^2.

    Per layer: g_f - alpha <g_f, g_r> g_r / |g_r|^2, each layer with its own inner product and norm."""
    _check_definition(implementation, case, "layer", "undo")


@law(GOP, gradients(), GRANULARITIES="layer", RESCALES="match")
def layer_projection_under_match_is_its_definition(implementation, case):
    """Per layer and under "match" the result is that of "undo", stretched to the length |g_f|.

    Per layer under "match": the direction of the projected gradient with the length |g_f|."""
    _check_definition(implementation, case, "layer", "match")


@law(GOP, gradients(), GRANULARITIES="global")
def global_projection_is_its_definition(implementation, case):
    """With granularity "global" the result is the projection of the concatenated gradients, cut into layers again.

    granularity="global": one inner product and one norm over all layers."""
    for rescale in implementation.declared["RESCALES"]:
        _check_definition(implementation, case, "global", rescale)


@law(GOP, gradients(*WIDE, *CLOSE), RESCALES="match")
def match_keeps_the_length_of_the_forget_gradient(implementation, case):
    """Under "match" every layer that is not collinear keeps the length of its forget gradient.

    "match" gives the length of the forget gradient, not of the retain gradient, 1, or the shortened length."""
    alphas = implementation.declared["ALPHAS"] or (0.5, 1.0)
    for options, words, (p, g_f, g_r) in _each(implementation, case, alphas=alphas, rescales=("match",)):
        if options["alpha"] < 1.0 or reference.project_vector(np.ravel(g_f), np.ravel(g_r)).any():
            allowed = rounding(implementation, p.size) * norm(g_f)
            message = f"{words}: length {norm(p):.6g}, off by {norm(p) - norm(g_f):.3g} from the forget gradient's"
            require(abs(norm(p) - norm(g_f)) <= allowed, message)


@law(GOP, gradients(*WIDE), RESCALES="undo")
def undo_never_lengthens(implementation, case):
    """Under "undo" no layer is longer than its forget gradient (a projection is non-expansive).

    "undo" never lengthens: its result is at most as long as the forget gradient."""
    for _, words, (p, g_f, _) in _each(implementation, case, alphas=implementation.alphas()):
        message = f"{words}: length {norm(p):.6g}, {norm(p) - norm(g_f):.3g} more than the forget gradient's"
        require(norm(p) <= norm(g_f) * (1 + rounding(implementation, p.size)), message)


@law(GOP, gradients(*ZEROS))
def zero_gradients_are_harmless(implementation, case):
    """A zero retain gradient leaves the forget gradient as it is; a zero forget gradient gives zero.

    0 / 0: a zero retain gradient leaves g_f as it is, a zero forget gradient gives zero."""
    options = {"alphas": implementation.alphas()[-1:], "rescales": implementation.declared["RESCALES"]}
    for _, words, (p, g_f, g_r) in _each(implementation, case, **options):
        if not g_f.any():
            require(not p.any(), f"{words}: a zero forget gradient gave length {norm(p):.3g}")
        elif not g_r.any():
            changed = norm(p - g_f) / norm(g_f)
            # the additive normalization divides g_f by |g_f| + epsilon and gives back |g_f| alone
            slack = 2 * implementation.declared["EPSILON"] / norm(g_f)
            slack *= implementation.declared["NORMALIZATION"] == "additive"
            message = f"{words}: a zero retain gradient changed the forget gradient by {changed:.3g} of its length"
            require(changed <= rounding(implementation, p.size) + slack, message)


@law(GOP, gradients(*WIDE), GRANULARITIES="layer")
def layers_are_projected_independently(implementation, case):
    """Per layer, a layer's result stays as it is when every other layer's gradients change.

    A layer's result depends on that layer alone: norms or inner products of other layers are used."""
    forget, retain = case.arrays(implementation)
    for rescale in implementation.declared["RESCALES"]:
        options = {"alpha": implementation.alphas()[-1], "granularity": "layer", "rescale": rescale}
        together = implementation.project(forget, retain, **options)
        for kept in (0, 1):  # every second layer
            other = [[g if i % 2 == kept else -3 * g for i, g in enumerate(grads)] for grads in (forget, retain)]
            other[1] = [g if i % 2 == kept else g[::-1] if g.ndim else g for i, g in enumerate(other[1])]
            results = list(zip(together, implementation.project(*other, **options), forget))[kept::2]
            for i, (p, alone, g_f) in enumerate(results):
                apart, allowed = norm(p - alone), 4 * rounding(implementation, p.size) * norm(g_f)
                message = f"{rescale!r}, layer {kept + 2 * i}: {apart / (norm(g_f) or 1):.3g} of |g_f| apart"
                require(apart <= allowed, message)


def _layer_and_global(implementation, forget, retain):
    options = {"alpha": implementation.alphas()[-1], "rescale": implementation.declared["RESCALES"][0]}
    return (implementation.project(forget, retain, granularity=g, **options) for g in ("layer", "global"))


@law(GOP, gradients(*WIDE, *CLOSE, layers=1), GRANULARITIES="global")
def global_projection_of_one_layer_is_layer_projection(implementation, case):
    """With a single layer, granularity "global" gives what "layer" gives.

    With one layer "layer" and "global" are the same thing."""
    assume("layer" in implementation.declared["GRANULARITIES"])
    forget, retain = case.arrays(implementation)
    (layer,), (whole,) = _layer_and_global(implementation, forget, retain)
    apart, allowed = norm(layer - whole), 2 * rounding(implementation, layer.size) * norm(forget[0])
    require(apart <= allowed, lambda: f"{apart / norm(forget[0]):.3g} of |g_f| apart")


@law(GOP, gradients("agreeing", "conflicting"), GRANULARITIES="global")
def global_projection_differs_from_layer_projection(implementation, case):
    """With several layers of different angles, granularity "global" gives something else than "layer".

    With several layers "layer" and "global" differ: the option is ignored."""
    forget, retain = case.arrays(implementation)
    assume("layer" in implementation.declared["GRANULARITIES"] and len(forget) > 1 and all(g.size > 1 for g in forget))
    # turn one layer the other way round, so that the angles differ
    retain[0] = -3 * retain[0]
    layer, whole = _layer_and_global(implementation, forget, retain)
    apart = max(norm(p - q) / norm(g_f) for p, q, g_f in zip(layer, whole, forget))
    require(apart > 1e-3, f"they agree to {apart:.3g} of |g_f|")


@law(GOP, gradients(*WIDE))
def project_has_the_contracts_defaults_and_order(implementation, case):
    """Called with two lists alone, or with its options by position, project gives what the same options by name give.

    The defaults are alpha=1.0, granularity="layer", rescale="undo", in this order."""
    assume(implementation.takes_all_options)
    forget, retain = case.arrays(implementation)
    for args in ((), (0.5,), (0.5, "global"), (0.5, "global", "match"), (1, "layer", "undo")):
        alpha, *words = (*args, *(1.0, "layer", "undo")[len(args) :])  # float: 1 is the same strength as 1.0
        named = dict(zip(("alpha", "granularity", "rescale"), (float(alpha), *words)))
        result, right = implementation.project(forget, retain, *args), implementation.project(forget, retain, **named)
        for p, e, g_f in zip(result, right, forget):
            scale = max(norm(g) for g in forget) if "global" in args else norm(g_f)
            # 4: at alpha = 1/2 match stretches by at most 2
            allowed = 4 * rounding(implementation, sum(g.size for g in forget)) * scale * math.sqrt(len(forget))
            message = f"called with {args}: off by {norm(p - e):.3g} from what {named} gives, |g_f| is {norm(g_f):.3g}"
            require(norm(p - e) <= allowed, message)
