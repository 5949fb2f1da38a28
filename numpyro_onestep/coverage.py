"""The coverage audit: an independent look for posterior mass that the flow does not reach.

A flow that lost a mode looks perfect to itself, since every one of its checks is made on its own draws. Here points of
high density are looked for from starts spread far wider than those of the base search, and the flow's density at each
is computed through the inverse map. Where the target exceeds it e⁵-fold, Gaussians fitted to these places measure, by
importance sampling, how much mass lies where the flow has next to none. Mass that no start leads to stays unseen.

Posterior draws made without the flow, by tempered particles from the base, give the upper bound of log Z.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.linalg import solve_triangular

from numpyro_onestep import base as base_
from numpyro_onestep import flow, mixture_vi, modes, tempering
from numpyro_onestep.base import Base, WhitenedTarget
from numpyro_onestep.block import BlockParams
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.mixture_vi import Mixture
from numpyro_onestep.target import Target

__all__ = ["Audit", "audit", "log_prob"]

_SPREADS = (1.0, 4.0, 16.0)  # of the starts, times `init_scale`
_NUM_STARTS = 128  # at each spread
_NUM_CANDIDATES = 32
_NUM_REGIONS = 8
_NUM_DRAWS = 256  # for each region, a divisor of the chunk
_CHUNK = 512
_UNCOVERED = 5.0  # nats by which the target exceeds the flow there
_NEGLIGIBLE = 0.003  # share of all mass

_select = jit_once(modes.select, static_argnames=("num_modes",))


class Audit(NamedTuple):
    """What the flow does not cover.

    Attributes:
        share: of all mass, that out of the flow's reach, at least (two standard errors below the estimate).
        shares: estimates of what each region contributes to it, shape (M,).
        regions: Gaussians fitted to these regions, in unconstrained space; without weight where there is none.
        log_ratios: log γ − log q at posterior draws that were made without the flow, shape (N,), nats: their mean is
            the DF-EUBO, an upper bound of log Z. Infinite where the way back through the flow fails; nan if there are
            no such draws, where the tempering did not arrive.
    """

    share: Array
    shares: Array
    regions: Mixture
    log_ratios: Array

    @property
    def missing(self) -> Array:
        """Indices of the regions that matter, the largest first; none if all of it is negligible."""
        order = jnp.argsort(-self.shares)
        large = self.shares[order] > 0.1 * jnp.sum(self.shares)
        return order[large & (self.share > _NEGLIGIBLE)]


def log_prob(base: Base, blocks: BlockParams, z: Array) -> Array:
    """Log density of the flow at one unconstrained point, by its exact inverse; nan where that does not return."""
    u = base_.whiten_point(base, z)
    x = flow.inverse(blocks, u)
    back, log_det = flow.forward_and_log_det(blocks, x)
    returned = jnp.max(jnp.abs(back - u)) < 1e-3 * (1 + jnp.max(jnp.abs(u)))
    return jnp.where(returned, base_.log_prob(base, x) - log_det - base_.whitening_log_det(base, u), jnp.nan)


def audit(target: Target, init_scale: float, rng_key: Array, base: Base, blocks: BlockParams, log_z: Array) -> Audit:
    """Audit the flow made of `base` and `blocks`, whose log Z is `log_z` to about a nat.

    A `log_z` that is not finite, of a flow that hit nothing, counts as no mass at all.
    """
    key_search, key_fit, key_measure, key_temper = random.split(rng_key, 4)
    center = base_.unwhiten(base, jnp.zeros_like(base.whitening.shift))
    log_z = jnp.where(jnp.isfinite(log_z), log_z, -1e6)
    points, log_density = _search(target, init_scale, key_search, center)
    uncovered = _gaps(target, base, blocks, points) - log_z > _UNCOVERED
    log_density = jnp.where(uncovered, log_density, -jnp.inf)
    draws = _temper(target, key_temper, base)
    log_ratios = jnp.where(jnp.any(jnp.isnan(draws), axis=1), jnp.nan, _gaps(target, base, blocks, draws))
    picked, num_distinct = _select(points, log_density, 0.1 * base.dim**0.5, _NUM_CANDIDATES)
    if int(num_distinct) == 0:
        nothing = jnp.zeros(_NUM_REGIONS, points.dtype)
        at = jnp.zeros((_NUM_REGIONS, base.dim), points.dtype)
        nowhere = Mixture(nothing - jnp.inf, at, jnp.zeros((*at.shape, base.dim), at.dtype))
        return Audit(nothing[0], nothing, nowhere, log_ratios)
    regions = _fit(target, init_scale, key_fit, points[picked], jnp.arange(_NUM_CANDIDATES) < num_distinct)
    share, shares = _measure(target, key_measure, base, blocks, log_z, regions)
    return Audit(share, shares, regions, log_ratios)


@jit_once
def _temper(target: Target, rng_key: Array, base: Base) -> Array:
    """Draws of the target by tempered particles, unconstrained; nan if they did not reach it."""
    u, annealing = tempering.particles(WhitenedTarget(base, target), base, rng_key, len(_SPREADS) * _NUM_STARTS)
    return jnp.where(annealing == 1, jax.vmap(lambda u: base_.unwhiten(base, u))(u), jnp.nan)


@partial(jit_once, static_argnames=("init_scale",))
def _search(target: Target, init_scale: float, rng_key: Array, center: Array) -> tuple[Array, Array]:
    """Points of high density and their log densities, from starts of all spreads."""
    ends = []
    for spread, key in zip(_SPREADS, random.split(rng_key, len(_SPREADS)), strict=True):
        starts = modes.disperse(key, center, spread * init_scale, _NUM_STARTS)
        ends.append(modes.climb(target, starts, spread * init_scale)[0])
    return modes.climb(target, jnp.concatenate(ends), 0.1 * init_scale)


@jit_once
def _gaps(target: Target, base: Base, blocks: BlockParams, z: Array) -> Array:
    return jax.vmap(lambda z: _gap(target, base, blocks, z))(z)


def _gap(target: Target, base: Base, blocks: BlockParams, z: Array) -> Array:
    """Log γ − log q at one point; infinite where the way back through the flow fails, as it does far outside."""
    value = target.value(z)
    gap = value - log_prob(base, blocks, z)
    return jnp.where(jnp.isnan(gap), jnp.where(value > -jnp.inf, jnp.inf, -jnp.inf), gap)


@partial(jit_once, static_argnames=("init_scale",))
def _fit(target: Target, init_scale: float, rng_key: Array, starts: Array, usable: Array) -> Mixture:
    """Gaussians fitted to the surroundings of the starts; equal weights, none where another is already.

    Proper modes come first, by their Laplace mass: the pole of a hierarchical density, higher than any of them, must
    not take their place.
    """
    dim = starts.shape[1]
    found = modes.polish(target, starts)
    proper = found.distinct & usable
    log_mass = found.log_density + jnp.sum(jnp.log(jnp.diagonal(found.scale_trils, axis1=1, axis2=2)), axis=1)
    order = jnp.argsort(jnp.where(proper, -log_mass, jnp.where(usable, 1e30, jnp.inf)))[:_NUM_REGIONS]
    small = 0.15 * init_scale * jnp.eye(dim, dtype=starts.dtype)
    means = jnp.where(proper[order, None], found.points[order], starts[order])
    trils = jnp.where(proper[order, None, None], found.scale_trils[order], small)

    def one(mean: Array, tril: Array) -> Mixture:
        q = Mixture(jnp.zeros(1, starts.dtype), mean[None], tril[None])
        return mixture_vi.fit(target, rng_key, q, num_iterations=60, first_rate=0.5, last_rate=0.1)

    fitted = jax.vmap(one)(means, trils)
    means, trils = fitted.means[:, 0], fitted.scale_trils[:, 0]

    def keep(kept: Array, i: Array) -> tuple[Array, None]:
        offsets = jax.vmap(lambda m, tril: solve_triangular(tril, means[i] - m, lower=True))(means, trils)
        near = jnp.any(kept & (jnp.linalg.norm(offsets, axis=1) < 1.0))
        return kept.at[i].set(usable[order[i]] & ~near), None

    kept, _ = lax.scan(keep, jnp.zeros(_NUM_REGIONS, bool), jnp.arange(_NUM_REGIONS))
    return Mixture(jnp.where(kept, -jnp.log(jnp.sum(kept)), -jnp.inf), means, trils)


@jit_once
def _measure(
    target: Target, rng_key: Array, base: Base, blocks: BlockParams, log_z: Array, regions: Mixture
) -> tuple[Array, Array]:
    """`share` and `shares`: importance sampling of the mass out of reach from the mixture of the regions."""
    # wide enough for tails, not so wide that the weights of many dimensions vary
    wide = regions._replace(scale_trils=(1 + min(0.2, base.dim**-0.5)) * regions.scale_trils)

    def weigh(key: Array) -> tuple[Array, Array]:
        z = mixture_vi.sample(wide, key, _CHUNK)
        log_q = jax.vmap(lambda z: mixture_vi.log_prob(wide, z))(z)
        value = jax.vmap(target.value)(z)
        gap = jax.vmap(lambda z: _gap(target, base, blocks, z))(z) - log_z
        log_w = jnp.where(gap > _UNCOVERED, value - log_z - log_q, -jnp.inf)
        return jnp.where(jnp.isnan(log_w), -jnp.inf, log_w), jax.vmap(lambda z: mixture_vi.responsibilities(wide, z))(z)

    num_draws = _NUM_REGIONS * _NUM_DRAWS
    log_w, nearest = lax.map(weigh, random.split(rng_key, num_draws // _CHUNK))
    log_w, nearest = log_w.ravel(), nearest.reshape(num_draws, -1)
    top = jnp.max(log_w)
    scale = jnp.where(top > -jnp.inf, top, 0.0)
    weights = jnp.exp(log_w - scale)
    mean = jnp.mean(weights)
    lower = jnp.maximum(mean - 2 * jnp.std(weights) / num_draws**0.5, 0.0)
    # in logs, since the mass missed may be far more than that found
    log_total = jnp.logaddexp(0.0, scale + jnp.log(mean))
    share_of = lambda w: jnp.exp(scale + jnp.log(w) - log_total)  # noqa: E731
    return share_of(lower), share_of(jnp.mean(weights[:, None] * nearest, axis=0))
