"""The scores of draws carried through the map, at a cost per draw that is linear in its dimension.

`block.push_score` factorises the Jacobian J of every draw. Here only one matrix a block is factorised, the mean J̄ of
many draws: conjugate gradients preconditioned with J̄⁻¹ solve with each draw's own J, and what ∇log|det J| needs of J⁻¹,
its diagonal and its quadratic forms along the ridge directions, is

    J⁻¹ ≈ M + (J⁻¹ − M) e eᵀ,    M = J̄⁻¹ − J̄⁻¹Vᵀ δG V J̄⁻¹ − c δA c,

with δG and δA the ridge and diagonal parts of J − J̄, c the diagonal of J̄⁻¹, and e a vector of random signs (Hutchinson
1990). Since E eeᵀ = I the scores have no bias, whatever M is; and as M is J⁻¹ to first order they have little noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.sparse.linalg import cg

from numpyro_onestep.flow import block
from numpyro_onestep.flow.block import BlockParams, InverseJacobian, Parts

__all__ = ["EXACT_DIM", "Reference", "log_det_grad", "push_scores", "reference"]

EXACT_DIM = 16  # up to it factorisations cost no more
_TOLERANCE = 1e-3  # of a solution's residual, relative to the right-hand side
_MAX_ITERATIONS = 30


class Mean(NamedTuple):
    """J̄ of a batch: its parts, inverse C, and the squares that first-order changes of C are made of.

    Attributes:
        parts: mean of the draws' `alpha` and `g`.
        inverse: C = J̄⁻¹.
        diagonal: of C, (D,).
        forms: vᵀCv of all directions, (h,).
        forms_squared: (v_jᵀCv_k)², (h, h).
        products_squared: (Cv_j)_i², (h, D).
    """

    parts: Parts
    inverse: InverseJacobian
    diagonal: Array
    forms: Array
    forms_squared: Array
    products_squared: Array


class Reference(NamedTuple):
    """For each block, leaves with a leading axis of them: J̄ of draws near which others are expected, and signs (D,)."""

    means: Mean
    signs: Array


def reference(blocks: BlockParams, rng_key: Array, x: Array) -> Reference:
    """That of base points (N, D)."""

    def body(x: Array, p: BlockParams) -> tuple[Array, Mean]:
        return jax.vmap(lambda x: block.apply(p, x))(x), _mean_of(p, jax.vmap(lambda x: block.parts_at(p, x))(x))

    _, means = lax.scan(body, x, blocks)
    return Reference(means, random.rademacher(rng_key, blocks.scale.shape, x.dtype))


def push_scores(blocks: BlockParams, rng_key: Array, x: Array, score: Array) -> tuple[Array, Array]:
    """x_T and unbiased ∇log q(x_T) of base points (N, D), from their ∇log p0 (N, D)."""

    def body(carry: tuple[Array, Array], at: tuple[BlockParams, Array]) -> tuple[tuple[Array, Array], None]:
        p, key = at
        return _push(p, key, *carry), None

    keys = random.split(rng_key, len(blocks.scale))
    return lax.scan(body, (x, score), (blocks, keys))[0]


def _push(p: BlockParams, rng_key: Array, x: Array, score: Array) -> tuple[Array, Array]:
    parts = jax.vmap(lambda x: block.parts_at(p, x))(x)
    mean = _mean_of(p, parts)
    signs = random.rademacher(rng_key, x.shape, x.dtype)
    gain = jax.vmap(lambda parts, e: log_det_grad(p, mean, parts, e))(parts, signs)
    pushed = jax.vmap(lambda parts, b: _solve(p, mean, parts, b))(parts, score - gain)
    return jax.vmap(lambda x: block.apply(p, x))(x), pushed


def _mean_of(p: BlockParams, parts: Parts) -> Mean:
    parts = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), parts)
    inverse = block.factorize(p, parts)
    products = jax.vmap(inverse.solve)(p.directions)
    forms = products @ p.directions.T
    return Mean(parts, inverse, inverse.diagonal, jnp.diagonal(forms), forms**2, products**2)


def _solve(p: BlockParams, mean: Mean, parts: Parts, b: Array) -> Array:
    """J⁻¹b."""
    v = p.directions
    product = lambda w: parts.alpha * w + v.T @ (parts.g * (v @ w))  # noqa: E731
    return cg(product, b, tol=_TOLERANCE, maxiter=_MAX_ITERATIONS, M=mean.inverse.solve)[0]


def log_det_grad(p: BlockParams, mean: Mean, parts: Parts, e: Array) -> Array:
    """∇log|det J| at a point of these `parts`, near enough to the `mean`, with random signs `e`; shape (D,)."""
    v, c = p.directions, mean.inverse.solve
    d_alpha = mean.diagonal**2 * (parts.alpha - mean.parts.alpha)
    d_g = parts.g - mean.parts.g
    first = c(e)
    rest = _solve(p, mean, parts, e) - (first - c(v.T @ (d_g * (v @ first))) - d_alpha * e)  # (J⁻¹ − M)e
    forms = mean.forms - mean.forms_squared @ d_g - v**2 @ d_alpha + (v @ rest) * (v @ e)
    diagonal = mean.diagonal - mean.products_squared.T @ d_g - d_alpha + rest * e
    return diagonal * parts.alpha_grad + v.T @ (parts.g_grad * forms)
