"""How the base is found: dispersed starts, their modes, and the Gaussian or mixture that fits best.

Three outcomes: one Gaussian fitted by natural-gradient variational inference, with conditional scales where they help
(one mode, or modes that are not where the mass is, as in hierarchical models); a mixture at 2–63 modes; or, with more
modes than that, one broad Gaussian over all of them, from which training anneals. The first two get Student-t tails
where the target's call for them. Above `LARGE_DIM`, where no Hessian tells modes apart, it is always one Gaussian.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random
from jax.core import Tracer

from numpyro_onestep.base import conditional_scale, mixture_vi, modes
from numpyro_onestep.base.distribution import Base, whiten
from numpyro_onestep.base.mixture_vi import Mixture
from numpyro_onestep.base.modes import FEW_MODES, MAX_MODES, MORE_STARTS, NUM_ASCENTS, Modes
from numpyro_onestep.base.problem import log_affinity
from numpyro_onestep.base.tails import cap, fit_tails, num_tail_draws
from numpyro_onestep.compilation import compile_ahead, in_transformation, jit, jit_once, split
from numpyro_onestep.model.target import LARGE_DIM, Target

__all__ = ["extend", "search"]

_MIN_INFLUENCE = 0.38  # of a coordinate on the log scales of others; hyperparameters have .4 to 4, regressions below .2
_MIN_TAIL = 0.1  # of a coordinate; exponential tails have .15 to 1.5, regressions below .08
_NUM_HESSIANS = 64
_NUM_REFINED = 120  # iterations of the last fit
_GOOD_SHARE = 0.85  # of effective draws of the base, above which conditional scales are not tried


def search(
    target: Target,
    init_scale: float,
    rng_key: Array,
    center: Array,
    spent: list[int] | None = None,
    expect: Callable[[Base], None] | None = None,
) -> Base:
    """The base for `target`, from starts spread by `init_scale` around `center`.

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
    spreads: Any = np.full((modes.num_starts(target.work), len(center)), init_scale, center.dtype)
    radius = 0.1 * dim**0.5
    starts = modes.disperse(key_ascend, center, spreads)
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
    if found is None or np.sum(found.valid) > 1:  # no mode seen yet, or more than one: many more starts
        more = [modes.climb(target, modes.disperse(k, center, spreads), spreads) for k in split(key_many)[:MORE_STARTS]]
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
    # the starts ended in more places than are looked at, and most of those are modes: there are many more
    if int(num_distinct) == MAX_MODES and int(np.sum(found.distinct)) > MAX_MODES // 2:
        spent.append(dim * _NUM_HESSIANS)
        axes = _common_axes(target, random.fold_in(key_one, 1), starts[:_NUM_HESSIANS])
        return whiten(_broad(ends @ axes, axes.T @ found.scale_trils), annealed=True, rotation=axes)
    num_tails = num_tail_draws(target.work)
    short = mixture_vi.num_candidates(dim, target.work) * (mixture_vi.NUM_SHORT * mixture_vi.num_draws(dim) + 512)
    spent.append(short + _refining(dim, 1) + num_tails)
    single, single_elbo = _fit_one(target, init_scale, key_one, found, starts)
    if np.sum(found.valid) > 1:
        at_modes = np.flatnonzero(found.valid)
        mixture, mixture_elbo = _refine(target, key_many, _at_modes(found, at_modes))
        spent.append(_refining(dim, len(at_modes)))
        if float(mixture_elbo) > float(single_elbo):
            return cap(fit_tails(target, key_tails, whiten(mixture))[0])
    base, share = fit_tails(target, key_tails, whiten(single))
    if float(share) > _GOOD_SHARE or dim > LARGE_DIM:
        return cap(base)
    base, num_iterations = _fit_scales(target, key_scales, base)
    spent.append(int(num_iterations) * conditional_scale.BATCH_SIZE + 2 * 512)
    return cap(base)


def _expect_fits(target: Target, rng_key: Array, center: Array) -> None:
    """Compile the fits of a single Gaussian, which every search makes, while modes are looked for."""
    num = mixture_vi.num_candidates(len(center), target.work)
    candidates, elbos = mixture_vi.shapes(num, len(center), center.dtype), jax.ShapeDtypeStruct((num,), center.dtype)
    compile_ahead(mixture_vi.fit_each, lambda: (target, rng_key, rng_key, candidates))
    compile_ahead(_refine_best, lambda: (target, rng_key, candidates, elbos))


def _expect_single(target: Target, rng_key: Array, center: Array) -> Base:
    """Compile what comes after these fits; the shapes of a base of one Gaussian."""
    single = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), mixture_vi.shapes(1, len(center), center.dtype)
    )
    base = jax.eval_shape(lambda single: whiten(single), single)  # JAX keeps each call as long as its function lives
    compile_ahead(fit_tails, lambda: (target, rng_key, base))
    return base


def _refining(dim: int, num_components: int) -> int:
    """What `_refine` costs in target gradients."""
    return _NUM_REFINED * mixture_vi.num_draws(dim) * num_components + 512


def _rows(points: Array, picked: Array) -> Any:
    return np.asarray(points)[np.asarray(picked)]


def _joined(parts: tuple[Array, ...]) -> Any:
    return np.concatenate([np.asarray(part) for part in parts])


def extend(target: Target, rng_key: Array, base: Base, regions: Mixture, spent: list[int]) -> Base:
    """The mixture of what `base` holds, as Gaussians, and further `regions`, refitted together; as yet untrained."""
    shift, tril = base.whitening.shift, base.whitening.scale_tril
    held = base.mixture._replace(
        means=(shift + base.mixture.means @ tril.T) @ base.rotation.T,
        scale_trils=mixture_vi.lower_factor(base.rotation @ tril @ base.mixture.scale_trils),
    )
    q = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), held, regions)
    # every component gets its chance: weights follow the mass within the fit
    q = q._replace(log_weights=jnp.full_like(q.log_weights, -jnp.log(len(q.log_weights))))
    key_refine, key_tails, *_ = split(rng_key)
    spent.append(_refining(base.dim, len(q.log_weights)) + num_tail_draws(target.work))
    refined = whiten(_refine(target, key_refine, q)[0])
    return cap(fit_tails(target, key_tails, refined)[0])


@jit_once
def _refine(target: Target, rng_key: Array, q: Mixture) -> tuple[Mixture, Array]:
    key_fit, key_elbo = random.split(rng_key)
    q = mixture_vi.fit(target, key_fit, q, num_iterations=_NUM_REFINED, first_rate=0.3, last_rate=0.02)
    return q, mixture_vi.elbo(target, key_elbo, q)


def _fit_one(target: Target, init_scale: float, rng_key: Array, found: Modes, starts: Array) -> tuple[Mixture, Array]:
    """The best single Gaussian: short fits from the highest modes and from raw starts, the winner refined.

    The raw starts matter where modes mislead: in a funnel or a centered hierarchical model the density has a pole or a
    needle far from the mass.
    """
    key_fit, key_elbo, key_refine, *_ = split(rng_key)
    fitted, elbos = mixture_vi.fit_each(target, key_fit, key_elbo, _candidates(init_scale, found, starts, target.work))
    return _refine_best(target, key_refine, fitted, elbos)


@partial(jit_once, static_argnames=("work",))
def _candidates(init_scale: float, found: Modes, starts: Array, work: int) -> Mixture:
    dim = starts.shape[1]
    num = mixture_vi.num_candidates(dim, work)
    half = num // 2  # from the modes; the others are raw starts
    eye = jnp.eye(dim, dtype=starts.dtype)
    top = jnp.argsort(-jnp.where(found.valid, found.log_density, -jnp.inf))[:half]
    small = jnp.broadcast_to(0.15 * init_scale * eye, (half, *eye.shape))
    return Mixture(
        jnp.zeros((num, 1), starts.dtype),
        jnp.concatenate([found.points[top], starts[:half]])[:, None],
        jnp.concatenate([found.scale_trils[top], small])[:, None],
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
        target, key_fit, base.whitening, least_influence=_MIN_INFLUENCE, least_tail=_MIN_TAIL
    )
    other = base._replace(whitening=fitted, heavy_share=jnp.zeros_like(base.heavy_share))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), base, other)
    old, new = lax.map(lambda b: log_affinity(target, key_score, b), both)
    tailed = (jnp.max(fitted.tails) >= _MIN_TAIL) & (base.heavy_share == 0)  # heavier ones hold exponential tails too
    keep = (conditional_scale.rules(fitted, _MIN_INFLUENCE) | tailed) & (new - old > 0.01)
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), other, base), num


def _at_modes(found: Modes, which: Any) -> Mixture:
    return Mixture(
        jnp.full(len(which), -jnp.log(len(which)), found.points.dtype), found.points[which], found.scale_trils[which]
    )


def _broad(ends: Array, scale_trils: Array) -> Mixture:
    """One diagonal Gaussian with the moments of the modes reached from all starts, each as wide as its Laplace fit."""
    within = jnp.mean(jnp.sum(scale_trils**2, axis=2), axis=0)
    scale = jnp.sqrt(jnp.var(ends, axis=0) + within)
    return Mixture(jnp.zeros(1, ends.dtype), jnp.mean(ends, axis=0)[None], jnp.diag(scale)[None])


@jit_once
def _common_axes(target: Target, rng_key: Array, points: Array) -> Array:
    """Axes, as columns, along which the target is nearly a product of one-dimensional densities, where there are any.

    The Hessians of a product are diagonal everywhere, those of a rotated one commute: the eigenvectors of one random
    combination then make all of them diagonal. The axes stay as they are unless more than a hundredth of the Hessians'
    squared norm is off the diagonals, and the eigenvectors leave less than half of that there, and less than a tenth.
    """
    hessians = jax.vmap(target.derivatives)(points)[2]
    hessians = jnp.where(jnp.all(jnp.isfinite(hessians), axis=(1, 2), keepdims=True), hessians, 0.0)
    hessians = hessians / (jnp.linalg.norm(hessians, axis=(1, 2), keepdims=True) + 1e-30)
    combination = jnp.tensordot(random.normal(rng_key, (len(points),), points.dtype), hessians, axes=1)
    rotated = jnp.linalg.eigh(combination)[1]
    still = jnp.eye(points.shape[1], dtype=points.dtype)

    def share_off_diagonal(axes: Array) -> Array:
        diagonals = jnp.einsum("ia,kij,ja->ka", axes, hessians, axes)
        return 1 - jnp.sum(diagonals**2) / jnp.sum(hessians**2)

    before, after = share_off_diagonal(still), share_off_diagonal(rotated)
    return jnp.where((before > 0.01) & (after < 0.5 * before) & (after < 0.1), rotated, still)  # type: ignore[return-value]


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
        jnp.concatenate([single.scale_trils, many.scale_trils]),
    )
    mixture, _ = _refine(target, key_many, q)
    return whiten(mixture)
