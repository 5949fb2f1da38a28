"""Reverse-KL fit of a mixture of full-rank Gaussians by natural-gradient (Newton-like) steps.

The steps are affine invariant: seen from a component, a location of 1000 with a scale of .01 is a standard normal. A
start must still be within some tens of its own scales of the mass; `modes` brings it there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.target import COSTLY_DIM, HEAVY_WORK, LogDensity

__all__ = [
    "NUM_SHORT",
    "Mixture",
    "elbo",
    "fit",
    "fit_each",
    "log_prob",
    "lower_factor",
    "mean_within",
    "num_candidates",
    "num_draws",
    "responsibilities",
    "sample",
    "score",
    "shapes",
    "standardize",
]


NUM_SHORT = 50  # iterations of a short fit


class Mixture(NamedTuple):
    """Σ_k exp(log_weights_k) N(means_k, L_k L_kᵀ): shapes (K,), (K, D), (K, D, D) with L_k lower triangular."""

    log_weights: Array
    means: Array
    scale_trils: Array


def standardize(q: Mixture, x: Array) -> tuple[Array, Array]:
    """The point as each component sees it, L_k⁻¹(x − mean_k), shape (K, D), and log(weight_k) − log det L_k, (K,)."""
    white = jax.vmap(lambda m, tril: solve_triangular(tril, x - m, lower=True))(q.means, q.scale_trils)
    return white, q.log_weights - jnp.sum(jnp.log(jnp.diagonal(q.scale_trils, axis1=1, axis2=2)), axis=1)


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
    scores = -jax.vmap(lambda tril, w: solve_triangular(tril, w, lower=True, trans=1))(q.scale_trils, white)
    return jax.nn.softmax(log_probs) @ scores


def sample(q: Mixture, rng_key: Array, num_draws: int, inflate: float | Array = 1.0) -> Array:
    """Exact draws, shape (num_draws, D); `inflate` stretches the components, as in `base.sample`.

    The noise is that of a single normal with the same key, so that components without weight change nothing.
    """
    k = random.categorical(random.fold_in(rng_key, 2), q.log_weights, shape=(num_draws,))
    eps = inflate * random.normal(rng_key, (num_draws, q.means.shape[1]), q.means.dtype)
    return q.means[k] + jnp.einsum("nij,nj->ni", q.scale_trils[k], eps)


def shapes(num: int, dim: int, dtype: Any) -> Any:
    """What `num` mixtures of one Gaussian each look like, stacked along a leading axis."""
    shape: Any = jax.ShapeDtypeStruct
    return Mixture(*(shape((num, 1, *rest), dtype) for rest in ((), (dim,), (dim, dim))))


def lower_factor(factors: Array) -> Array:
    """Lower triangular factors, diagonals not negative, with the same products F Fᵀ; shape (..., D, D)."""
    r = jnp.swapaxes(jnp.linalg.qr(jnp.swapaxes(factors, -1, -2), mode="r"), -1, -2)
    return r * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]


def _standardized_normal(rng_key: Array, num: int, dim: int, dtype: jnp.dtype) -> Array:
    """Normal draws moved to mean zero and identity covariance exactly, so that a Gaussian target is fitted exactly."""
    eps = random.normal(rng_key, (num, dim), dtype)
    eps = eps - jnp.mean(eps, axis=0)
    chol = jnp.linalg.cholesky(eps.T @ eps / num)
    return solve_triangular(chol, eps.T, lower=True).T


def _step(target: LogDensity, q: Mixture, eps: Array, rate: Array) -> Mixture:
    """One natural-gradient step of every component and of the weights."""

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


def fit(
    target: LogDensity, rng_key: Array, q: Mixture, num_iterations: int, first_rate: float, last_rate: float
) -> Mixture:
    """Ascend the ELBO of `q` with a step size that falls geometrically from `first_rate` to `last_rate`."""
    dim = q.means.shape[1]
    num = num_draws(dim)
    rates = first_rate * (last_rate / first_rate) ** jnp.linspace(0, 1, num_iterations, dtype=q.means.dtype)

    def body(q: Mixture, inputs: tuple[Array, Array]) -> tuple[Mixture, None]:
        key, rate = inputs
        return _step(target, q, _standardized_normal(key, num, dim, q.means.dtype), rate), None

    return lax.scan(body, q, (random.split(rng_key, num_iterations), rates))[0]


def elbo(target: LogDensity, rng_key: Array, q: Mixture, num_draws: int = 512) -> Array:
    """Monte Carlo ELBO of `q`, in nats, restricted to where the target has a density (see `mean_within`).

    Near a hard edge every Gaussian has draws beyond it, and an ELBO of −∞ would tell a good one from a bad one no more.
    """
    z = sample(q, rng_key, num_draws)
    gaps = jax.vmap(lambda x: target.value(x) - log_prob(q, x))(z)
    return mean_within(gaps, gaps > -jnp.inf)


def mean_within(log_weights: Array, within: Array) -> Array:
    """The ELBO of a density whose draws are thrown away where the target has none; −∞ where nothing is left.

    Since γ is zero there this is a bound of log Z too, E[log w | within] + log q(within), and the plain mean where
    every draw is within.
    """
    num = jnp.sum(within)
    mean = jnp.sum(jnp.where(within, log_weights, 0.0)) / jnp.maximum(num, 1)
    return jnp.where(num > 0, mean + jnp.log(num / len(log_weights)), -jnp.inf)


def num_candidates(dim: int, work: int) -> int:
    """How many short fits to make at once: base search and audit share the compiled program."""
    return 2 if dim > COSTLY_DIM or work > HEAVY_WORK else 8


def num_draws(dim: int) -> int:
    """Draws of each component in one step of a fit."""
    return max(64, 2 * dim + 2)


@jit_once
def fit_each(target: LogDensity, key_fit: Array, key_elbo: Array, candidates: Mixture) -> tuple[Mixture, Array]:
    """Short fits of mixtures stacked along a leading axis of length M, same noise for all, and `elbo`, (M,)."""

    def one(q: Mixture) -> tuple[Mixture, Array]:
        q = fit(target, key_fit, q, num_iterations=NUM_SHORT, first_rate=1.0, last_rate=0.1)
        return q, elbo(target, key_elbo, q)

    return jax.vmap(one)(candidates)
