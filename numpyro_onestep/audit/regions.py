"""Regions that the flow may not reach: Gaussians fitted to them, and the mass in them by importance sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_onestep.base import modes
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.modes import num_starts
from numpyro_onestep.compilation import jit_once, split
from numpyro_onestep.flow import density
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.gaussians import factors, mixture
from numpyro_onestep.gaussians import fit as fits
from numpyro_onestep.gaussians.factors import LowRank
from numpyro_onestep.gaussians.fit import num_candidates
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import Target

__all__ = ["NUM_CHUNKS", "UNCOVERED", "fit", "measure", "values_and_gaps"]

NUM_CHUNKS = 8  # of draws from the mixture of the regions, each as many as there are starts
UNCOVERED = 5.0  # nats by which the target exceeds the flow there


@jit_once
def values_and_gaps(target: Target, base: Base, blocks: BlockParams, z: Array) -> tuple[Array, Array]:
    """Log γ and log γ − log q at points (N, D); the latter infinite where the inverse fails, as it does far outside."""

    def one(z: Array) -> tuple[Array, Array]:
        value = target.value(z)
        gap = value - density.log_prob(base, blocks, z)
        return value, jnp.where(jnp.isnan(gap), jnp.where(value > -jnp.inf, jnp.inf, -jnp.inf), gap)

    return jax.vmap(one)(z)


def fit(
    target: Target, scales: np.ndarray, rng_key: Array, starts: Array, num_usable: int, ends: np.ndarray
) -> tuple[Mixture, int, int]:
    """Gaussians fitted to the surroundings of the first starts; equal weights, none where another is already.

    Proper modes come first, by their Laplace mass: the pole of a hierarchical density, higher than any of them, must
    not take their place.

    Returns:
        The Gaussians, how many proper modes one of all `ends` alone has led to, and the target gradients that it took
        to polish them.
    """
    found = modes.polish(target, starts)
    usable = np.arange(len(starts)) < num_usable
    num = num_candidates(starts.shape[1], target.work)
    if isinstance(found.scale_trils, LowRank):  # no modes are told apart
        order = np.arange(min(num, len(starts)))
        singles, proper = _narrow(jnp.asarray(starts[order]), 0.15 * scales), found.distinct
    else:
        log_mass = found.log_density + np.log(np.diagonal(found.scale_trils, axis1=1, axis2=2)).sum(1)
        proper = found.distinct & usable & np.isfinite(log_mass)
        order = np.argsort(np.where(proper, -log_mass, np.where(usable, 1e30, np.inf)), kind="stable")[:num]
        small = np.diag(0.15 * scales)
        means = np.where(proper[order, None], found.points[order], np.asarray(starts)[order])
        trils = np.where(proper[order, None, None], found.scale_trils[order], small)
        singles = Mixture(*map(jnp.asarray, (np.zeros_like(means[:, :1]), means[:, None], trils[:, None])))
    fitted, _ = fits.fit_each(target, rng_key, rng_key, singles)  # the second key is that of the ELBO, not used
    means, trils = jax.tree.map(lambda leaf: np.asarray(leaf[:, 0]), (fitted.means, fitted.scale_trils))
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], trils) for i in range(len(means))]
    kept: list[int] = []
    for i in range(int(np.sum(usable[order]))):
        if _is_wide(each[i]) and not any(np.linalg.norm(_solve(each[j], means[i] - means[j])) < 1 for j in kept):
            kept.append(i)
    log_weights = np.full(len(means), -np.inf, means.dtype)
    log_weights[kept] = -np.log(max(len(kept), 1))
    regions = Mixture(*jax.tree.map(jnp.asarray, (log_weights, means, trils)))
    return regions, int(np.sum(proper & modes.seen_once(found, ends))), int(found.num_gradients)


_narrow = jit_once(fits.narrow)


def _is_wide(factor: Any) -> bool:
    """Whether a Gaussian has a width; without a proper posterior the density may not fall off, and leave it none."""
    widths = [factor.scale, factor.stretch] if isinstance(factor, LowRank) else [np.diagonal(factor)]
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(factor)) and all(np.all(w > 0) for w in widths)


def _solve(factor: Any, x: Any) -> np.ndarray:
    """L⁻¹ x on the host."""
    return np.asarray(factors.solve(factor, x)) if isinstance(factor, LowRank) else np.linalg.solve(factor, x)


@partial(jit_once, static_argnames=("num",))
def _draw(regions: Mixture, rng_key: Array, num: int) -> tuple[Array, Array, Array]:
    """Draws of the mixture, stretched a little, with their log densities and each region's responsibility for them."""
    # wide enough for tails, not so wide that the weights of many dimensions vary
    dim = regions.means.shape[1]
    wide = regions._replace(scale_trils=factors.widened(regions.scale_trils, 1 + min(0.2, dim**-0.5)))
    z = mixture.sample(wide, rng_key, num)
    log_q, nearest = jax.vmap(lambda z: (mixture.log_prob(wide, z), mixture.responsibilities(wide, z)))(z)
    return z, log_q, nearest


def measure(
    target: Target, rng_key: Array, base: Base, blocks: BlockParams, log_z: float, regions: Mixture
) -> tuple[float, np.ndarray]:
    """`share` and `shares`: importance sampling of the mass out of reach from the mixture of the regions."""
    parts = []
    for key in split(rng_key)[:NUM_CHUNKS]:
        z, log_q, nearest = _draw(regions, key, num_starts(target.work))
        parts.append((*values_and_gaps(target, base, blocks, z), log_q, nearest))
    value, gap, log_q, nearest = (np.concatenate(part).astype(float) for part in zip(*parts, strict=True))
    log_w = np.where(gap - log_z > UNCOVERED, value - log_z - log_q, -np.inf)
    log_w = np.where(np.isnan(log_w), -np.inf, log_w)
    if not np.any(log_w > -np.inf):
        return 0.0, np.zeros(len(regions.means))
    top = np.max(log_w)
    weights = np.exp(log_w - top)
    lower = max(np.mean(weights) - 2 * np.std(weights) / len(weights) ** 0.5, 0.0)
    # in logs, since the mass missed may be far more than that found
    log_total = np.logaddexp(0.0, top + np.log(np.mean(weights)))
    shares = np.exp(top - log_total) * np.mean(weights[:, None] * nearest, axis=0)
    return float(np.exp(top - log_total) * lower), shares
