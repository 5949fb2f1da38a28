"""Whitening for hierarchical posteriors: a Gaussian whose conditional scales depend log-linearly on what came before.

w_i = u_i·exp(s_i), s = B·tanh(Au / B), A strictly lower triangular, then z = shift + scale_tril·w. With A = 0 this is
the affine whitening; a funnel, or a group effect given its scale, is matched by one non-zero entry of A per effect. The
map is triangular and increasing in each coordinate, hence injective everywhere with log|det| = Σ s_i.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from numpyro_onestep.target import LogDensity

__all__ = ["Whitening", "apply", "elbo", "fit", "log_det", "push_score"]

_BOUND = 6.0  # of the log scales: a factor of 400 each way


class Whitening(NamedTuple):
    """The map from u to z: shift (D,), scale_tril (D, D) lower triangular, scale_weights A (D, D)."""

    shift: Array
    scale_tril: Array
    scale_weights: Array


def _log_scales(weights: Array, u: Array) -> Array:
    return _BOUND * jnp.tanh(jnp.tril(weights, -1) @ u / _BOUND)


def apply(f: Whitening, u: Array) -> Array:
    """Z of one point u, shape (D,)."""
    return f.shift + f.scale_tril @ (u * jnp.exp(_log_scales(f.scale_weights, u)))


def log_det(f: Whitening, u: Array) -> Array:
    """log|det ∂z/∂u| at one point."""
    return jnp.sum(_log_scales(f.scale_weights, u)) + jnp.sum(jnp.log(jnp.diagonal(f.scale_tril)))


def push_score(f: Whitening, u: Array, score: Array) -> Array:
    """∇log q(z) of the pushed density from ∇log p(u): J⁻ᵀ(∇log p − ∇log|det J|), J lower triangular."""
    weights = jnp.tril(f.scale_weights, -1)
    s = _log_scales(f.scale_weights, u)
    slope = 1 - (s / _BOUND) ** 2
    jacobian = jnp.exp(s)[:, None] * (jnp.eye(len(u), dtype=u.dtype) + (u * slope)[:, None] * weights)
    w_score = solve_triangular(jacobian, score - weights.T @ slope, lower=True, trans=1)
    return solve_triangular(f.scale_tril, w_score, lower=True, trans=1)


class _Raw(NamedTuple):
    """Unconstrained parameters, relative to the affine start: shift and factor in its coordinates."""

    shift: Array
    log_diagonal: Array
    lower: Array
    scale_weights: Array


def _resolve(raw: _Raw, start: Whitening) -> Whitening:
    factor = jnp.tril(raw.lower, -1) + jnp.diag(jnp.exp(raw.log_diagonal))
    return Whitening(
        start.shift + start.scale_tril @ raw.shift, start.scale_tril @ factor, jnp.tril(raw.scale_weights, -1)
    )


def elbo(target: LogDensity, rng_key: Array, f: Whitening, num_draws: int = 512) -> Array:
    """Monte Carlo ELBO of the pushed standard normal, in nats."""
    u = random.normal(rng_key, (num_draws, f.shift.shape[0]), f.shift.dtype)
    gaps = jax.vmap(lambda u: target.value(apply(f, u)) + log_det(f, u) + 0.5 * u @ u)(u)
    return jnp.mean(gaps) + 0.5 * u.shape[1] * jnp.log(2 * jnp.pi)


def fit(
    target: LogDensity, rng_key: Array, start: Whitening, num_iterations: int = 1000, batch_size: int = 128
) -> Whitening:
    """Minimise the reverse KL by path gradients with Adam, from an affine `start`.

    The path gradient vanishes for every batch where the fit is exact, so an exact affine start stays as it is.
    """
    dim = start.shift.shape[0]
    zero = jnp.zeros((dim, dim), start.shift.dtype)
    params, unravel = ravel_pytree(_Raw(zero[0], zero[0], zero, start.scale_weights))
    schedule = optax.cosine_decay_schedule(min(0.02, 0.1 / dim**0.5), num_iterations, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule))

    def loss(params: Array, u: Array) -> Array:
        f = _resolve(unravel(params), start)
        frozen = lax.stop_gradient(f)
        z = jax.vmap(lambda u: apply(frozen, u))(u)
        score = jax.vmap(lambda u: push_score(frozen, u, -u))(u)
        # in the coordinates of the start, so that badly scaled targets are as easy as any
        force = (score - jax.vmap(target.value_and_grad)(z)[1]) @ start.scale_tril
        force = jnp.where(jnp.all(jnp.isfinite(force), axis=1, keepdims=True), force, 0.0)
        length = jnp.linalg.norm(force, axis=1, keepdims=True)
        force = lax.stop_gradient(force * jnp.minimum(1.0, 20 * jnp.median(length) / (length + 1e-30)))
        moved = jax.vmap(lambda u: apply(_relative(f, unravel(params)), u))(u)
        return jnp.mean(jnp.sum(force * moved, axis=1))

    def body(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, average, state = carry
        grads = jax.grad(loss)(params, random.normal(key, (batch_size, dim), params.dtype))
        updates, state = optimizer.update(jnp.where(jnp.isfinite(grads), grads, 0.0), state)
        params = params + jnp.asarray(updates)
        return (params, 0.98 * average + 0.02 * params, state), None

    keys = random.split(rng_key, num_iterations)
    (_, average, _), _ = lax.scan(body, (params, params, optimizer.init(params)), keys)
    return _resolve(unravel(average), start)


def _relative(f: Whitening, raw: _Raw) -> Whitening:
    """The same map in the coordinates of the start."""
    factor = jnp.tril(raw.lower, -1) + jnp.diag(jnp.exp(raw.log_diagonal))
    return Whitening(raw.shift, factor, f.scale_weights)
