"""Factors L of covariances L Lᵀ: lower triangular arrays (D, D), or diagonal ones that stretch a few directions.

The second kind costs no more than D times its number of directions, in memory as in time. Functions are of one point.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

__all__ = [
    "Affine",
    "Factor",
    "LowRank",
    "diagonal",
    "log_det",
    "solve",
    "solve_transposed",
    "stretched",
    "times",
    "widened",
]


class LowRank(NamedTuple):
    """L = diag(scale)(I + V diag(stretch − 1) Vᵀ).

    Attributes:
        scale: positive, shape (..., D).
        directions: V, with orthonormal columns, shape (..., D, r).
        stretch: positive, shape (..., r).
    """

    scale: Array
    directions: Array
    stretch: Array


Factor = Array | LowRank


class Affine(NamedTuple):
    """The map u ↦ shift + L u, with `factor` L."""

    shift: Array
    factor: Factor


def diagonal(scale: Array, rank: int) -> LowRank:
    """The diagonal factor of a `scale` (..., D), with room for `rank` directions."""
    some = jnp.eye(scale.shape[-1], rank, dtype=scale.dtype)
    return LowRank(
        scale, jnp.broadcast_to(some, (*scale.shape, rank)), jnp.ones((*scale.shape[:-1], rank), scale.dtype)
    )


def stretched(f: LowRank, u: Array, stretch: Array) -> Array:
    """U with its part along each direction multiplied by `stretch`."""
    return u + f.directions @ ((stretch - 1) * (f.directions.T @ u))


def times(factor: Factor, u: Array) -> Array:
    """L u."""
    if isinstance(factor, LowRank):
        return factor.scale * stretched(factor, u, factor.stretch)
    return factor @ u


def solve(factor: Factor, x: Array) -> Array:
    """L⁻¹ x."""
    if isinstance(factor, LowRank):
        return stretched(factor, x / factor.scale, 1 / factor.stretch)
    return solve_triangular(factor, x, lower=True)


def solve_transposed(factor: Factor, u: Array) -> Array:
    """L⁻ᵀ u."""
    if isinstance(factor, LowRank):
        return stretched(factor, u, 1 / factor.stretch) / factor.scale
    return solve_triangular(factor, u, lower=True, trans=1)


def log_det(factor: Factor) -> Array:
    """Log det L of each of the leading axes."""
    if isinstance(factor, LowRank):
        return jnp.sum(jnp.log(factor.scale), axis=-1) + jnp.sum(jnp.log(factor.stretch), axis=-1)
    return jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


def widened(factor: Factor, by: float) -> Factor:
    """The factor `by` times as wide."""
    return factor._replace(scale=by * factor.scale) if isinstance(factor, LowRank) else by * factor
