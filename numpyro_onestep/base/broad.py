"""One broad Gaussian over more modes than can be counted, from which training anneals."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.base.distribution import Base, whiten
from numpyro_onestep.base.modes import Modes
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import Target

__all__ = ["NUM_HESSIANS", "spread_over"]

NUM_HESSIANS = 64


def spread_over(target: Target, rng_key: Array, starts: Array, ends: Array, found: Modes) -> Base:
    """The base with the moments of all modes, on axes along which the target is nearly a product.

    Args:
        target: the target.
        rng_key: random key.
        starts: points at some of which Hessians are taken, (N, D).
        ends: where the ascents ended, (N, D).
        found: the modes among these that were polished.
    """
    axes = _common_axes(target, rng_key, starts[:NUM_HESSIANS])
    trils: Any = found.scale_trils
    return whiten(_broad(ends @ axes, axes.T @ trils), annealed=True, rotation=axes)


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
