"""The coverage audit: an independent look for posterior mass that the flow does not reach.

A flow that lost a mode looks perfect to itself, since every one of its checks is made on its own draws. Here points of
high density are looked for from starts spread far wider than those of the base search, and the flow's density at each
is computed through the inverse map. Where the target exceeds it e³-fold, Gaussians fitted to these places measure, by
importance sampling, how much mass lies where the flow has next to none. Mass that no start leads to stays unseen.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.linalg import solve_triangular

from numpyro_onestep import base as base_
from numpyro_onestep import flow, mixture_vi, modes
from numpyro_onestep.base import Base
from numpyro_onestep.block import BlockParams
from numpyro_onestep.mixture_vi import Mixture
from numpyro_onestep.target import LogDensity

__all__ = ["Audit", "auditor", "log_prob"]

_SPREADS = (1.0, 4.0, 16.0)  # of the starts, times `init_scale`
_NUM_STARTS = 128  # at each spread
_NUM_REGIONS = 8
_NUM_DRAWS = 256  # for each region
_UNCOVERED = 3.0  # nats by which the target exceeds the flow there
_NEGLIGIBLE = 0.003  # share of all mass


class Audit(NamedTuple):
    """What the flow does not cover.

    Attributes:
        shares: of each region found, the share of all mass that lies in it and out of the flow's reach, at least (two
            standard errors below the estimate), shape (M,); zero for none.
        regions: Gaussians fitted to these regions, in unconstrained space.
    """

    shares: Array
    regions: Mixture

    @property
    def missing(self) -> Array:
        """Indices of the regions that matter, the largest first."""
        order = jnp.argsort(-self.shares)
        return order[self.shares[order] > _NEGLIGIBLE]


def log_prob(base: Base, blocks: BlockParams, z: Array) -> Array:
    """Log density of the flow at one unconstrained point, by its exact inverse."""
    u = base_.whiten_point(base, z)
    x = flow.inverse(blocks, u)
    _, log_det = flow.forward_and_log_det(blocks, x)
    return base_.log_prob(base, x) - log_det - base_.whitening_log_det(base, u)


def auditor(target: LogDensity, init_scale: float) -> Callable[[Array, Array, Base, BlockParams, Array], Audit]:
    """A function (rng_key, center, base, blocks, log_z) → audit for `target`, with its stages compiled once."""
    search = jax.jit(lambda key, center: _search(target, init_scale, key, center))
    gaps = jax.jit(lambda z, base, blocks: jax.vmap(lambda z: _gap(target, base, blocks, z))(z))
    fit = jax.jit(lambda key, starts: _fit(target, init_scale, key, starts))
    measure = jax.jit(lambda *args: _measure(target, *args))

    def audit(rng_key: Array, center: Array, base: Base, blocks: BlockParams, log_z: Array) -> Audit:
        key_search, key_fit, key_measure = random.split(rng_key, 3)
        points, log_density = search(key_search, center)
        uncovered = gaps(points, base, blocks) - log_z > _UNCOVERED
        radius = 0.1 * center.shape[0] ** 0.5
        picked, num_distinct = modes.select(points, jnp.where(uncovered, log_density, -jnp.inf), radius, _NUM_REGIONS)
        if int(num_distinct) == 0:
            return Audit(jnp.zeros(_NUM_REGIONS), Mixture(*(jnp.zeros(()),) * 3))
        regions = fit(key_fit, points[picked])
        return Audit(measure(key_measure, base, blocks, log_z, regions), regions)

    return audit


def _search(target: LogDensity, init_scale: float, rng_key: Array, center: Array) -> tuple[Array, Array]:
    """Points of high density and their log densities, from starts of all spreads."""
    ends = []
    for spread, key in zip(_SPREADS, random.split(rng_key, len(_SPREADS)), strict=True):
        starts = modes.disperse(key, center, spread * init_scale, _NUM_STARTS)
        ends.append(modes.climb(target, starts, spread * init_scale)[0])
    return modes.climb(target, jnp.concatenate(ends), 0.1 * init_scale)


def _gap(target: LogDensity, base: Base, blocks: BlockParams, z: Array) -> Array:
    """Log γ − log q at one point; infinite where the way back through the flow fails, as it does far outside."""
    gap = target.value(z) - log_prob(base, blocks, z)
    return jnp.where(jnp.isnan(gap), jnp.where(target.value(z) > -jnp.inf, jnp.inf, -jnp.inf), gap)


def _fit(target: LogDensity, init_scale: float, rng_key: Array, starts: Array) -> Mixture:
    """A Gaussian fitted to each start's surroundings; equal weights, but none for those where another is already."""
    found = modes.polish(target, starts)
    dim = starts.shape[1]
    small = 0.15 * init_scale * jnp.eye(dim, dtype=starts.dtype)
    good = found.distinct[:, None]
    means = jnp.where(good, found.points, starts)
    trils = jnp.where(good[:, None], found.scale_trils, small)

    def one(mean: Array, tril: Array) -> Mixture:
        q = Mixture(jnp.zeros(1, starts.dtype), mean[None], tril[None])
        return mixture_vi.fit(target, rng_key, q, num_iterations=60, first_rate=0.5, last_rate=0.1)

    fitted = jax.vmap(one)(means, trils)
    means, trils = fitted.means[:, 0], fitted.scale_trils[:, 0]

    def keep(kept: Array, i: Array) -> tuple[Array, None]:
        offsets = jax.vmap(lambda m, tril: solve_triangular(tril, means[i] - m, lower=True))(means, trils)
        return kept.at[i].set(~jnp.any(kept & (jnp.linalg.norm(offsets, axis=1) < 1.0))), None

    order = jnp.argsort(-jax.vmap(target.value)(means))
    kept, _ = lax.scan(keep, jnp.zeros(len(means), bool), order)
    return Mixture(jnp.where(kept, -jnp.log(jnp.sum(kept)), -jnp.inf), means, trils)


def _measure(
    target: LogDensity, rng_key: Array, base: Base, blocks: BlockParams, log_z: Array, regions: Mixture
) -> Array:
    """Share of all mass, by region, where the flow lacks it: importance sampling from the mixture of the regions."""
    num_regions = len(regions.log_weights)
    wide = regions._replace(scale_trils=1.2 * regions.scale_trils)
    z = mixture_vi.sample(wide, rng_key, num_regions * _NUM_DRAWS)
    log_q = jax.vmap(lambda z: mixture_vi.log_prob(wide, z))(z)
    gap = jax.vmap(lambda z: _gap(target, base, blocks, z))(z) - log_z
    log_w = jnp.where(gap > _UNCOVERED, jax.vmap(target.value)(z) - log_z - log_q, -jnp.inf)
    scale = jnp.max(log_w)
    weights = jnp.where(scale > -jnp.inf, jnp.exp(log_w - scale), 0.0)
    nearest = jax.vmap(lambda z: mixture_vi.responsibilities(wide, z))(z)
    by_region = weights[:, None] * nearest
    mean = jnp.mean(by_region, axis=0)
    lower = jnp.maximum(mean - 2 * jnp.std(by_region, axis=0) / len(z) ** 0.5, 0.0)
    # in logs, since the mass missed may be far more than that found
    log_total = jnp.logaddexp(0.0, scale + jnp.log(jnp.sum(mean)))
    return jnp.where(jnp.isfinite(scale), jnp.exp(scale + jnp.log(lower) - log_total), 0.0)
