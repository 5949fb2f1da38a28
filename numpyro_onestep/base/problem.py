"""What is being sampled, as the base sees it: the target as a density on whitened coordinates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.model.target import LogDensity, Target

__all__ = ["Problem", "WhitenedTarget", "log_affinity"]


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

    def hessian(self, u: Array) -> Array:
        """The derivative of that gradient."""
        return jax.jacfwd(lambda u: self.value_and_grad(u)[1])(u)


class Problem(NamedTuple):
    """What is being sampled: the base, and the target as a density on the unconstrained space."""

    base: Base
    density: Target

    @property
    def target(self) -> WhitenedTarget:
        """The target in the base's whitened coordinates."""
        return WhitenedTarget(self.base, self.density)


def log_affinity(target: LogDensity, rng_key: Array, base: Base, num_draws: int = 512) -> Array:
    """2 log E[√w] ≤ log Z of draws of the base, weighed against the unconstrained target: a score of its fit, in nats.

    Unlike the ELBO it does not mind the few draws of a long tail that end where the target has no mass: those waste a
    proposal each, no more.
    """
    whitened = WhitenedTarget(base, target)
    u = base_.sample(base, rng_key, num_draws)
    log_w = jax.vmap(lambda u: whitened.value(u) - base_.log_prob(base, u))(u)
    return 2 * (logsumexp(0.5 * jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)) - jnp.log(num_draws))
