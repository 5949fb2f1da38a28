"""What is being sampled, as the base sees it: the target as a density on whitened coordinates."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.devices import shard
from numpyro_onestep.model.target import LogDensity, Target, derivatives

__all__ = ["Problem", "WhitenedTarget", "effective_share", "held_out", "log_affinity", "tail_of"]

_CHUNK = 512  # held-out draws weighed at once


class WhitenedTarget(NamedTuple):
    """Log γ as a density on u: log γ(z(u)) + log|det ∂z/∂u|; a `LogDensity`."""

    base: Base
    target: LogDensity

    def value(self, u: Array) -> Array:
        """The log density at one point."""
        return self.target.value(base_.unwhiten(self.base, u)) + base_.whitening_log_det(self.base, u)

    def value_and_grad(self, u: Array) -> tuple[Array, Array]:
        """The log density at one point and its gradient."""
        z, pull_back = jax.vjp(lambda u: base_.unwhiten(self.base, u), u)
        density, grad = self.target.value_and_grad(z)
        log_det, log_det_grad = jax.value_and_grad(lambda u: base_.whitening_log_det(self.base, u))(u)
        return density + log_det, pull_back(grad)[0] + log_det_grad

    def derivatives(self, u: Array) -> tuple[Array, Array, Array]:
        """The log density at one point, its gradient and its Hessian."""
        return derivatives(self, u)


class Problem(NamedTuple):
    """What is being sampled: the base, and the target as a density on the unconstrained space."""

    base: Base
    density: Target

    @property
    def target(self) -> WhitenedTarget:
        """The target in the base's whitened coordinates."""
        return WhitenedTarget(self.base, self.density)


def held_out(rng_key: Array, base: Base, weigh: Callable[[Array], Array], num_draws: int) -> tuple[Array, Array]:
    """Log weights of draws of the base and after them of as many stretched ones, by 1 + 1/√D, which reach its tails.

    In chunks, one after the other, to bound the memory.

    Args:
        rng_key: random key.
        base: p0.
        weigh: from base draws, shape (N, D), to their log weights, (N,).
        num_draws: draws of each kind, a multiple of 512.

    Returns:
        Log weights, and log p0 − log q of the same draws with q the even mixture of both kinds, each (2·num_draws,).
    """
    wide = 1 + base.dim**-0.5
    num_chunks = num_draws // _CHUNK

    def chunk(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x = shard(base_.sample(base, inputs[0], _CHUNK, inputs[1]))
        log_p, log_wide = (jax.vmap(lambda x, s=s: base_.log_prob(base, x, s))(x) for s in (1.0, wide))
        return weigh(x), log_p - jnp.logaddexp(log_p, log_wide) + jnp.log(2.0)

    inflate = jnp.repeat(jnp.array([1.0, wide]), num_chunks)
    log_w, log_ratio = lax.map(chunk, (random.split(rng_key, 2 * num_chunks), inflate))
    return log_w.ravel(), log_ratio.ravel()


def effective_share(log_weights: Array, log_ratios: Array) -> tuple[Array, Array]:
    """Share of effective draws, (E w)²/E w² over p0, from draws of another density, and its relative standard error.

    The draws that carry E w² lie in the tails, which `held_out` draws reach far more often than those of p0.
    """
    log_w = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    log_w = log_w - jnp.max(log_w)
    ratio = jnp.exp(log_ratios)
    square = ratio * jnp.exp(2 * log_w)
    share = jnp.sum(ratio * jnp.exp(log_w)) ** 2 / (jnp.sum(square) * jnp.sum(ratio))
    error = jnp.std(square) / jnp.mean(square) / len(log_w) ** 0.5
    known = jnp.isfinite(share) & jnp.isfinite(error)
    return jnp.where(known, share, 0.0), jnp.where(known, error, jnp.inf)  # type: ignore[return-value]


def tail_of(log_weights: Array) -> tuple[Array, Array]:
    """The tail of the weights, their 3√N largest: its generalised Pareto shape k, and its share of all weight.

    The shape is by probability-weighted moments (Hosking and Wallis 1987): near Pareto k̂ as ArviZ computes it below .8,
    and this one can be compiled; −inf for constant weights. The share counts the excess over the next largest weight.
    """
    size = int(3 * len(log_weights) ** 0.5)
    w = jnp.sort(jnp.exp(log_weights - jnp.max(log_weights)))
    excess = w[-size:] - w[-size - 1]
    beyond = 1 - (jnp.arange(1, size + 1) - 0.35) / size
    mean, weighted = jnp.mean(excess), jnp.mean(beyond * excess)
    shape = 2 - mean / (mean - 2 * weighted)
    return jnp.where(jnp.isfinite(shape), shape, -jnp.inf), jnp.sum(excess) / jnp.sum(w)


def log_affinity(target: LogDensity, rng_key: Array, base: Base, num_draws: int = 512) -> Array:
    """2 log E[√w] ≤ log Z of draws of the base, weighed against the unconstrained target: a score of its fit, in nats.

    Unlike the ELBO it does not mind the few draws of a long tail that end where the target has no mass: those waste a
    proposal each, no more.
    """
    whitened = WhitenedTarget(base, target)
    log_w = jax.vmap(lambda u: whitened.value(u) - base_.log_prob(base, u))(base_.sample(base, rng_key, num_draws))
    return 2 * (logsumexp(0.5 * jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)) - jnp.log(num_draws))
