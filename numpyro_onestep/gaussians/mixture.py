"""A mixture of Gaussians: density, score and exact draws."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.scipy.special import logsumexp

from numpyro_onestep.gaussians import factors
from numpyro_onestep.gaussians.factors import Factor, LowRank

__all__ = [
    "Mixture",
    "log_prob",
    "lower_factor",
    "mean_within",
    "responsibilities",
    "sample",
    "score",
    "standard",
    "standardize",
]


class Mixture(NamedTuple):
    """Σ_k exp(log_weights_k) N(means_k, L_k L_kᵀ): shapes (K,), (K, D), and (K, D, D) or a `LowRank` of K factors."""

    log_weights: Array
    means: Array
    scale_trils: Factor


def standard(dim: int, dtype: Any) -> Mixture:
    """A standard normal, without a matrix."""
    ones = jnp.ones((1, dim), dtype)
    return Mixture(jnp.zeros(1, dtype), 0 * ones, factors.diagonal(ones, 0))


def standardize(q: Mixture, x: Array) -> tuple[Array, Array]:
    """The point as each component sees it, L_k⁻¹(x − mean_k), shape (K, D), and log(weight_k) − log det L_k, (K,)."""
    white = jax.vmap(lambda m, tril: factors.solve(tril, x - m))(q.means, q.scale_trils)
    return white, q.log_weights - factors.log_det(q.scale_trils)


def _component_log_probs(q: Mixture, x: Array) -> tuple[Array, Array]:
    """Weighted component log densities at one point, shape (K,), and the point as each component sees it, (K, D)."""
    white, log_scale = standardize(q, x)
    return log_scale - 0.5 * jnp.sum(white**2, axis=1) - 0.5 * x.shape[0] * jnp.log(2 * jnp.pi), white


def log_prob(q: Mixture, x: Array) -> Array:
    """Log q at one point of shape (D,)."""
    return logsumexp(_component_log_probs(q, x)[0])


def responsibilities(q: Mixture, x: Array) -> Array:
    """Probability of each component at one point, shape (K,)."""
    return jax.nn.softmax(_component_log_probs(q, x)[0])


def score(q: Mixture, x: Array) -> Array:
    """∇log q at one point of shape (D,)."""
    log_probs, white = _component_log_probs(q, x)
    scores = -jax.vmap(factors.solve_transposed)(q.scale_trils, white)
    return jax.nn.softmax(log_probs) @ scores


def sample(q: Mixture, rng_key: Array, num_draws: int, inflate: float | Array = 1.0) -> Array:
    """Exact draws, shape (num_draws, D).

    `inflate` stretches the components: a number, or one for each draw, (N, 1), or for each of its coordinates, (N, D).
    The noise is that of a single normal with the same key, so that components without weight change nothing.
    """
    k = random.categorical(random.fold_in(rng_key, 2), q.log_weights, shape=(num_draws,))
    eps = inflate * random.normal(rng_key, (num_draws, q.means.shape[1]), q.means.dtype)
    if isinstance(q.scale_trils, LowRank):
        # of each component in turn: a draw's own directions would be D times their number for each
        parts = jax.vmap(lambda tril: jax.vmap(lambda v: factors.times(tril, v))(eps))(q.scale_trils)
        return q.means[k] + parts[k, jnp.arange(num_draws)]
    return q.means[k] + jnp.einsum("nij,nj->ni", q.scale_trils[k], eps)


def lower_factor(trils: Array) -> Array:
    """Lower triangular factors, diagonals not negative, with the same products F Fᵀ; shape (..., D, D)."""
    r = jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(trils, -1, -2), mode="r"), -1, -2)
    return r * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]


def mean_within(log_weights: Array, within: Array) -> Array:
    """The ELBO of a density whose draws are thrown away where the target has none; −∞ where nothing is left.

    Since γ is zero there this is a bound of log Z too, E[log w | within] + log q(within), and the plain mean where
    every draw is within.
    """
    num = jnp.sum(within)
    mean = jnp.sum(jnp.where(within, log_weights, 0.0)) / jnp.maximum(num, 1)
    return jnp.where(num > 0, mean + jnp.log(num / len(log_weights)), -jnp.inf)
