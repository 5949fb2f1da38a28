"""A natural-gradient step of a mixture of full-rank Gaussians.

The steps are affine invariant: seen from a component, a location of 1000 with a scale of .01 is a standard normal. A
start must still be within some tens of its own scales of the mass.
"""

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.scipy.linalg import solve_triangular

from numpyro_onestep.gaussians.mixture import Mixture, log_prob, lower_factor, score
from numpyro_onestep.model.target import LogDensity

__all__ = ["num_draws", "step"]


def num_draws(dim: int) -> int:
    """Draws of each component in one step."""
    return max(64, 2 * dim + 2)


def _standardized_normal(rng_key: Array, num: int, dim: int, dtype: jnp.dtype) -> Array:
    """Normal draws moved to mean zero and identity covariance exactly, so that a Gaussian target is fitted exactly."""
    eps = random.normal(rng_key, (num, dim), dtype)
    eps = eps - jnp.mean(eps, axis=0)
    chol = jnp.linalg.cholesky(eps.T @ eps / num)
    return solve_triangular(chol, eps.T, lower=True).T


def step(target: LogDensity, q: Mixture, rng_key: Array, rate: Array) -> Mixture:
    """One natural-gradient step of every component and of the weights."""
    dim = q.means.shape[1]
    eps = _standardized_normal(rng_key, num_draws(dim), dim, q.means.dtype)

    def update(k: Array) -> tuple[Array, Array, Array]:
        mean, tril = q.means[k], q.scale_trils[k]
        z = mean + eps @ tril.T
        value, grad = jax.vmap(target.value_and_grad)(z)
        log_q, score_q = jax.vmap(lambda x: (log_prob(q, x), score(q, x)))(z)
        # where the density vanishes or overflows there is no gradient: pull the component in
        g = jnp.where(value[:, None] > -jnp.inf, (grad - score_q) @ tril, -eps)
        norms = jnp.linalg.norm(g, axis=1)
        g = g * jnp.minimum(1.0, 20 * jnp.median(norms) / (norms + 1e-30))[:, None]
        # whitened precision of the component's share of the target: I − E[g εᵀ] (Stein), exact for a Gaussian
        cross = g.T @ eps / eps.shape[0]
        a, rotation = jnp.linalg.eigh(jnp.eye(eps.shape[1], dtype=eps.dtype) - 0.5 * (cross + cross.T))
        move = rotation @ jnp.clip((rotation.T @ jnp.mean(g, axis=0)) / jnp.maximum(a, 0.25), -2.0, 2.0)
        new_tril = tril @ (rotation * jnp.clip(a, 0.25, 4.0) ** (-0.5 * rate)) @ rotation.T
        gap = jnp.mean(jnp.maximum(jnp.where(value > -jnp.inf, value, -1e30) - log_q, -1e30))
        return mean + rate * tril @ move, lower_factor(new_tril), gap

    means, trils, gaps = jax.vmap(update)(jnp.arange(q.means.shape[0]))
    logits = q.log_weights + rate * jnp.clip(gaps - jnp.max(gaps), -5.0, 0.0)
    new = Mixture(jax.nn.log_softmax(logits), means, trils)
    ok = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), new))
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, q)
