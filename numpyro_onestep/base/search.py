"""How the base is found: dispersed starts, their modes, and the Gaussian or mixture that fits best.

Three outcomes: one Gaussian fitted by natural-gradient variational inference, with conditional scales where they help
(one mode, or modes that are not where the mass is, as in hierarchical models); a mixture at 2–63 modes; or, with more
modes than that, one broad Gaussian over all of them, from which training anneals. The first two get Student-t tails
where the target's call for them. Above `LARGE_DIM`, where no Hessian tells modes apart, it is always one Gaussian.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random
from jax.core import Tracer

from numpyro_onestep.base import conditional_scale, modes
from numpyro_onestep.base.broad import NUM_HESSIANS, spread_over
from numpyro_onestep.base.conditional_scale import Whitening
from numpyro_onestep.base.distribution import Base, as_mixture, beside, whiten
from numpyro_onestep.base.modes import FEW_MODES, MAX_MODES, MORE_STARTS, NUM_ASCENTS, Modes
from numpyro_onestep.base.problem import log_affinity
from numpyro_onestep.base.tails import cap, fit_tails, with_tails
from numpyro_onestep.compilation import compile_ahead, in_transformation, jit, jit_once, split
from numpyro_onestep.gaussians import fit as fits
from numpyro_onestep.gaussians.factors import Affine
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.target import DENSE_DIM, LARGE_DIM, Target

__all__ = ["extend", "extends", "num_drawn", "search", "search_model"]

_MIN_INFLUENCE = 0.38  # of a coordinate on the log scales of others; hyperparameters have .4 to 4, regressions below .2
_MIN_TAIL = 0.1  # of a coordinate; exponential tails have .15 to 1.5, regressions below .08
_NUM_REFINED = 120  # iterations of the last fit
_GOOD_SHARE = 0.85  # of effective draws of the base, above which conditional scales are not tried


def search(
    target: Target,
    init_scale: float,
    rng_key: Array,
    center: Array,
    spent: list[int] | None = None,
    expect: Callable[[Base], None] | None = None,
    drawn: np.ndarray | None = None,
) -> Base:
    """The base for `target`, from starts spread by `init_scale` around `center`, and from those `drawn` of the prior.

    The latter, of shape (`num_drawn`, D) or with further coordinates after the D, are where a random walk, or a path of
    differential equations, hangs together: from starts spread at random it is hardly ever found.

    As soon as it is likely to be a single Gaussian, `expect` is called with the shapes of such a base.

    What it costs in target gradients is appended to `spent`; a plain evaluation counts as one.

    Under a JAX transformation of the key or the center no decision can be taken on values, and a fixed mixture of one
    Gaussian and the best eight modes is fitted, unused components without weight; neither conditional scales nor
    Student-t tails are tried.

    Raises (outside of transformations):
        ValueError: if the density is finite at none of the starts.
    """
    key_ascend, key_one, key_many, key_scales, key_tails, *_ = split(rng_key)
    dim, spent = len(center), [] if spent is None else spent
    radius = 0.1 * dim**0.5
    each: Any = [None] * (1 + MORE_STARTS) if drawn is None else np.split(drawn[:, :dim], 1 + MORE_STARTS)
    starts, spreads = _starts(key_ascend, target, center, init_scale, each[0])
    if not in_transformation(key_ascend, center):
        _expect_fits(target, key_one, center)
    # as raw starts of the fits those points count that have a density
    ends, log_density, starts = modes.ascend(target, starts, spreads)
    picked, num_distinct = modes.select(ends, log_density, radius, MAX_MODES)
    if isinstance(num_distinct, Tracer):
        found = modes.polish(target, ends[picked[:FEW_MODES]])
        return _search_traced(target, init_scale, key_one, key_many, found, starts)
    climbing = len(spreads) * (NUM_ASCENTS + 1)
    found = modes.polish(target, _rows(ends, picked[:FEW_MODES])) if int(num_distinct) > 0 else None
    spent.append(climbing + (0 if found is None else int(found.num_gradients)))
    # no mode seen yet, or several that matter, or too many to be negligible each: many more starts
    if found is None or np.sum(found.valid) > 1 or (int(num_distinct) == MAX_MODES and np.all(found.distinct)):
        keys = split(key_many)[:MORE_STARTS]
        further = [_starts(k, target, center, init_scale, points) for k, points in zip(keys, each[1:], strict=True)]
        more = [modes.climb(target, *more) for more in further]
        ends, log_density = (_joined(parts) for parts in zip((ends, log_density), *more, strict=True))
        picked, num_distinct = modes.select(ends, log_density, radius, MAX_MODES)
        if int(num_distinct) == 0:
            raise ValueError(
                f"The log density is not finite at any of {len(ends)} starting points (spread init_scale={init_scale}"
                " around the initial point). Check the model or potential for nan, or set `init_strategy`/`init_params`"
                " to a valid point and a smaller `init_scale`."
            )
        found = modes.polish(target, _rows(ends, picked[: modes.num_polished(target, int(num_distinct), dim)]))
        spent.append(MORE_STARTS * climbing + int(found.num_gradients))
    if expect is not None and int(np.sum(found.valid)) <= 1:
        expect(_expect_single(target, key_tails, center))
    # the ascents ended in more places than are looked at, and most of those are modes that hold mass, or were seen once
    if int(num_distinct) == MAX_MODES and (
        max(np.sum(found.valid), np.sum(modes.seen_once(found, np.asarray(ends)))) > MAX_MODES // 2
    ):
        spent.append(dim * NUM_HESSIANS)
        return spread_over(target, random.fold_in(key_one, 1), starts, ends, found)
    short = fits.num_candidates(dim, target.work) * (fits.NUM_SHORT * fits.num_draws(dim) + 512)
    spent.append(short + _refining(dim, 1))
    single, single_elbo = _fit_one(target, init_scale, key_one, found, starts)
    if np.sum(found.valid) > 1:
        at_modes = np.flatnonzero(found.valid)
        mixture, mixture_elbo = _refine(target, key_many, _at_modes(found, at_modes))
        spent.append(_refining(dim, len(at_modes)))
        if float(mixture_elbo) > float(single_elbo):
            base, _, gap = with_tails(target, key_tails, mixture, spent)
            return cap(base, gap)
    base, share, gap = with_tails(target, key_tails, single, spent)
    if float(share) > _GOOD_SHARE or dim > LARGE_DIM:
        return cap(base, gap)
    base, num_iterations = _fit_scales(target, key_scales, base)
    spent.append(int(num_iterations) * conditional_scale.BATCH_SIZE + 2 * 512)
    return cap(base, gap)


def search_model(
    setup: ModelSetup,
    given: tuple[tuple, dict[str, Any]],
    init_scale: float,
    rng_key: Array,
    drawn: np.ndarray | None = None,
    spent: list[int] | None = None,
    expect: Callable[[Base], None] | None = None,
) -> Base:
    """`search` with a model's members integrated out; they are standard normal beside the base that is found.

    `given` are the model's positional and keyword arguments; the others are those of `search`.
    """
    base = search(setup.marginal(*given), init_scale, rng_key, setup.start, spent, expect, drawn)
    return beside(base, setup.dim - base.dim)


def num_drawn(work: int) -> int:
    """Draws of the prior that a search takes, of a target whose evaluation computes `work` numbers."""
    return (1 + MORE_STARTS) * modes.num_drawn(work)


def _starts(rng_key: Array, target: Target, center: Array, scale: float, drawn: np.ndarray | None) -> tuple[Any, Any]:
    """Starts around `center`, and those `drawn`, with the spread of each by which to climb."""
    spreads: Any = np.full((modes.num_starts(target.work), len(center)), scale, center.dtype)
    return modes.joined(modes.disperse(rng_key, center, spreads), spreads, drawn, scale)


def _expect_fits(target: Target, rng_key: Array, center: Array) -> None:
    """Compile the fits of a single Gaussian, which every search makes, while modes are looked for."""
    num = fits.num_candidates(len(center), target.work)
    candidates, elbos = fits.shapes(num, len(center), center.dtype), jax.ShapeDtypeStruct((num,), center.dtype)
    compile_ahead(fits.fit_each, lambda: (target, rng_key, rng_key, candidates))
    compile_ahead(_refine_best, lambda: (target, rng_key, candidates, elbos))


def _expect_single(target: Target, rng_key: Array, center: Array) -> Base:
    """Compile what comes after these fits; the shapes of a base of one Gaussian."""
    single = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), fits.shapes(1, len(center), center.dtype)
    )
    base = jax.eval_shape(lambda single: whiten(single), single)  # JAX keeps each call as long as its function lives
    compile_ahead(fit_tails, lambda: (target, rng_key, base))
    return base


def _refining(dim: int, num_components: int) -> int:
    """What `_refine` costs in target gradients."""
    return _NUM_REFINED * fits.num_draws(dim) * num_components + 512


def _rows(points: Array, picked: Array) -> Any:
    return np.asarray(points)[np.asarray(picked)]


def _joined(parts: tuple[Array, ...]) -> Any:
    return np.concatenate([np.asarray(part) for part in parts])


def extends(base: Base) -> bool:
    """Whether `extend` can keep what `base` has: no mixture has conditional scales, and it needs matrices."""
    if isinstance(base.whitening, Affine):
        return base.dim <= DENSE_DIM
    return not bool(base.annealed) and not np.any(
        conditional_scale.influence(jax.tree.map(np.asarray, base.whitening)) > 0
    )


def extend(target: Target, rng_key: Array, base: Base, regions: Mixture, spent: list[int]) -> Base:
    """The mixture of what `base` holds, as Gaussians, and further `regions`, refitted together; as yet untrained."""
    q = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), as_mixture(base), regions)
    # every component gets its chance: weights follow the mass within the fit
    q = q._replace(log_weights=jnp.full_like(q.log_weights, -jnp.log(len(q.log_weights))))
    key_refine, key_tails, *_ = split(rng_key)
    spent.append(_refining(base.dim, len(q.log_weights)))
    base, _, gap = with_tails(target, key_tails, _refine(target, key_refine, q)[0], spent)
    return cap(base, gap)


@jit_once
def _refine(target: Target, rng_key: Array, q: Mixture) -> tuple[Mixture, Array]:
    key_fit, key_elbo = random.split(rng_key)
    q = fits.fit(target, key_fit, q, num_iterations=_NUM_REFINED, first_rate=0.3, last_rate=0.02)
    return q, fits.elbo(target, key_elbo, q)


def _fit_one(target: Target, init_scale: float, rng_key: Array, found: Modes, starts: Array) -> tuple[Mixture, Array]:
    """The best single Gaussian: short fits from the highest modes and from raw starts, the winner refined.

    The raw starts matter where modes mislead: in a funnel or a centered hierarchical model the density has a pole or a
    needle far from the mass.
    """
    key_fit, key_elbo, key_refine, *_ = split(rng_key)
    fitted, elbos = fits.fit_each(target, key_fit, key_elbo, _candidates(init_scale, found, starts, target.work))
    return _refine_best(target, key_refine, fitted, elbos)


@partial(jit_once, static_argnames=("work",))
def _candidates(init_scale: float, found: Modes, starts: Array, work: int) -> Mixture:
    dim = starts.shape[1]
    num = fits.num_candidates(dim, work)
    half = num // 2  # from the modes; the others are raw starts
    top = jnp.argsort(-jnp.where(found.valid, found.log_density, -jnp.inf))[:half]
    at_modes = Mixture(
        jnp.zeros((half, 1)), found.points[top][:, None], jax.tree.map(lambda a: a[top][:, None], found.scale_trils)
    )
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), at_modes, fits.narrow(starts[:half], 0.15 * init_scale)
    )


@jit_once
def _refine_best(target: Target, rng_key: Array, fitted: Mixture, elbos: Array) -> tuple[Mixture, Array]:
    best = jnp.argmax(jnp.where(jnp.isnan(elbos), -jnp.inf, elbos))
    return _refine(target, rng_key, jax.tree.map(lambda leaf: leaf[best], fitted))


@jit
def _fit_scales(target: Target, rng_key: Array, base: Base) -> tuple[Base, Array]:
    """Let the conditional scales vary where a coordinate rules those of others, and it betters the fit beyond noise.

    Where none does, coordinates get tails up to exponential ones where they have such: the flow is linear far out, and
    cannot make them. That matters most where there are many, each of which hides a little mass.

    The skewness of a regression's posterior is spread thinly over all pairs of coordinates. A triangular map gains some
    of it too, but the flow then ends lower than from the affine map: such detail is the blocks' work. Elliptical tails
    look like scales that one coordinate rules for another, but are held far better by Student-t tails.
    """
    key_fit, key_score = random.split(rng_key)
    fitted, num = conditional_scale.fit(
        target, key_fit, cast(Whitening, base.whitening), least_influence=_MIN_INFLUENCE, least_tail=_MIN_TAIL
    )
    other = base._replace(whitening=fitted, heavy_shares=jnp.zeros_like(base.heavy_shares))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), base, other)
    old, new = lax.map(lambda b: log_affinity(target, key_score, b), both)
    light = jnp.all(base.heavy_shares == 0)  # heavier tails hold exponential ones too
    tailed = (jnp.max(fitted.tails) >= _MIN_TAIL) & light
    keep = (conditional_scale.rules(fitted, _MIN_INFLUENCE) | tailed) & (new - old > 0.01)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), other, base), num


def _at_modes(found: Modes, which: Any) -> Mixture:
    return Mixture(
        jnp.full(len(which), -jnp.log(len(which)), found.points.dtype), found.points[which], found.scale_trils[which]
    )


def _search_traced(
    target: Target, init_scale: float, key_one: Array, key_many: Array, found: Modes, starts: Array
) -> Base:
    single, _ = _fit_one(target, init_scale, key_one, found, starts)
    many = _at_modes(found, jnp.arange(FEW_MODES))
    several = jnp.sum(found.valid) > 1
    log_weights = jnp.concatenate([jnp.zeros(1), jnp.where(found.valid & several, 0.0, -jnp.inf)])
    q = Mixture(
        jax.nn.log_softmax(jnp.where(log_weights > -jnp.inf, log_weights, -1e30)),
        jnp.concatenate([single.means, many.means]),
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), single.scale_trils, many.scale_trils),
    )
    mixture, _ = _refine(target, key_many, q)
    return whiten(mixture)
