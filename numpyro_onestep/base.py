"""The base distribution p0: a whitening Gaussian or a mixture, sampled exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random
from jax.scipy.linalg import solve_triangular

from numpyro_onestep import mixture_vi
from numpyro_onestep.mixture_vi import Mixture
from numpyro_onestep.target import LogDensity

__all__ = ["Base", "log_prob", "sample", "score", "unwhiten", "whiten", "whiten_target"]


class Base(NamedTuple):
    """p0 in whitened coordinates u, and the affine map z = shift + scale_tril·u to the unconstrained space.

    Attributes:
        mixture: p0 on u; with one component it is exactly the standard normal.
        shift: shape (D,).
        scale_tril: lower triangular, shape (D, D).
        annealed: whether p0 only spans the target's modes, so that training must anneal from p0 to the target.
    """

    mixture: Mixture
    shift: Array
    scale_tril: Array
    annealed: Array


def sample(base: Base, rng_key: Array, num_draws: int, inflate: float = 1.0) -> Array:
    """Exact draws of u, never clipped, shape (num_draws, D); `inflate` > 1 stretches the components, for checks."""
    if base.mixture.means.shape[0] == 1:
        return inflate * random.normal(rng_key, (num_draws, base.shift.shape[0]), base.shift.dtype)
    return mixture_vi.sample(base.mixture, rng_key, num_draws, inflate)


def log_prob(base: Base, u: Array) -> Array:
    """log p0(u) of one point, every constant included."""
    if base.mixture.means.shape[0] == 1:
        return -0.5 * (u @ u) - 0.5 * u.shape[0] * jnp.log(2 * jnp.pi)
    return mixture_vi.log_prob(base.mixture, u)


def score(base: Base, u: Array) -> Array:
    """∇log p0(u) of one point."""
    return -u if base.mixture.means.shape[0] == 1 else mixture_vi.score(base.mixture, u)


def unwhiten(base: Base, u: Array) -> Array:
    """z = shift + scale_tril·u of one point."""
    return base.shift + base.scale_tril @ u


def whiten_target(base: Base, target: LogDensity) -> LogDensity:
    """log γ as a density on u: log γ(z(u)) + log|det scale_tril|."""
    log_det = jnp.sum(jnp.log(jnp.diagonal(base.scale_tril)))

    def value_and_grad(u: Array) -> tuple[Array, Array]:
        value, grad = target.value_and_grad(unwhiten(base, u))
        return value + log_det, base.scale_tril.T @ grad

    return LogDensity(
        value=lambda u: target.value(unwhiten(base, u)) + log_det,
        value_and_grad=value_and_grad,
        hessian=lambda u: base.scale_tril.T @ target.hessian(unwhiten(base, u)) @ base.scale_tril,
    )


def whiten(q: Mixture, annealed: bool | Array = False) -> Base:
    """The base with the density `q` on z, in coordinates in which it has mean zero and unit covariance."""
    weights = jnp.exp(q.log_weights)
    shift = weights @ q.means
    centered = q.means - shift
    cov = jnp.einsum("k,kij,klj->il", weights, q.scale_trils, q.scale_trils)
    tril = q.scale_trils[0] if len(weights) == 1 else jnp.linalg.cholesky(cov + (centered.T * weights) @ centered)
    means = solve_triangular(tril, centered.T, lower=True).T
    trils = jax.vmap(lambda component: solve_triangular(tril, component, lower=True))(q.scale_trils)
    return Base(Mixture(q.log_weights, means, trils), shift, tril, jnp.array(annealed))
