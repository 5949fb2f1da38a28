"""Banded symmetric matrices at linear cost: Cholesky factors, and products with them and their inverses.

A matrix of bandwidth w is kept as an array of shape (n, w + 1) whose entry [i, k] is the element (i, i − k); of a
symmetric one this is the lower half. Elements beyond the first column are there, and do not count.
"""

import jax.numpy as jnp
from jax import Array, lax

__all__ = ["cholesky", "solve", "solve_transposed", "times_transposed"]


def cholesky(matrix: Array, floor: Array) -> tuple[Array, Array]:
    """The lower factor of a symmetric matrix whose pivots are kept above zero, and the pivots as they were, (n,).

    Where a pivot is far above its `floor`, of shape (n,), the factor is exact; a negative one is turned around.
    """
    width = matrix.shape[1] - 1

    def root(pivot: Array, least: Array) -> Array:
        return (pivot**2 + least**2) ** 0.25

    def row(above: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """One row of the factor from those above it, the nearest first."""
        entries, least = inputs
        factor = [entries[k] for k in range(width + 1)]
        for k in range(width, 0, -1):
            known = sum(factor[m] * above[k - 1, m - k] for m in range(k + 1, width + 1))
            factor[k] = (factor[k] - known) / above[k - 1, 0]
        pivot = factor[0] - sum(factor[m] ** 2 for m in range(1, width + 1))
        factor[0] = root(pivot, least)
        new = jnp.stack(factor)
        return jnp.concatenate([new[None], above[:-1]]), (new, pivot)

    if width == 0:
        return root(matrix, floor[:, None]), matrix[:, 0]
    above = jnp.zeros((width, width + 1), matrix.dtype).at[:, 0].set(1.0)
    first = jnp.where(jnp.arange(width + 1) > jnp.arange(len(matrix))[:, None], 0.0, matrix)  # nothing before column 0
    return lax.scan(row, above, (first, floor))[1]


def solve(factor: Array, b: Array) -> Array:
    """L⁻¹b."""
    if factor.shape[1] == 1:
        return b / factor[:, 0]

    def row(before: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        entries, b = inputs
        x = (b - entries[1:] @ before) / entries[0]
        return jnp.concatenate([x[None], before[:-1]]), x

    return lax.scan(row, jnp.zeros(factor.shape[1] - 1, b.dtype), (factor, b))[1]


def solve_transposed(factor: Array, b: Array) -> Array:
    """L⁻ᵀb."""
    if factor.shape[1] == 1:
        return b / factor[:, 0]

    def row(after: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        below, diagonal, b = inputs
        x = (b - below @ after) / diagonal
        return jnp.concatenate([x[None], after[:-1]]), x

    inputs = _below(factor), factor[:, 0], b
    return lax.scan(row, jnp.zeros(factor.shape[1] - 1, b.dtype), inputs, reverse=True)[1]


def times_transposed(factor: Array, b: Array) -> Array:
    """Lᵀb."""
    padded = jnp.concatenate([b, jnp.zeros(factor.shape[1] - 1, b.dtype)])
    later = [padded[k : k + len(b)] for k in range(1, factor.shape[1])]
    return factor[:, 0] * b + sum(_below(factor)[:, k] * part for k, part in enumerate(later))


def _below(factor: Array) -> Array:
    """Of each column the elements below the diagonal, shape (n, w)."""
    num, width = factor.shape[0], factor.shape[1] - 1
    columns = [jnp.concatenate([factor[k:, k], jnp.zeros(k, factor.dtype)]) for k in range(1, width + 1)]
    return jnp.stack(columns, axis=1) if columns else jnp.zeros((num, 0), factor.dtype)
