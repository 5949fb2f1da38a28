"""Student-t tails of the base, where the target's own call for them."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import logsumexp

from numpyro_onestep.base.distribution import Base, log_prob, parts, sample
from numpyro_onestep.base.problem import WhitenedTarget, effective_share
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.target import HEAVY_WORK, Target

__all__ = ["cap", "fit_tails", "num_tail_draws"]

_MIN_HEAVY_SHARE = 0.1
_MAX_HEAVY_SHARE = 0.3


def num_tail_draws(work: int) -> int:
    """Draws from which the tails are judged, for a target whose evaluation computes `work` numbers."""
    return 1024 if work > HEAVY_WORK else 4096


@jit_once
def fit_tails(target: Target, rng_key: Array, base: Base) -> tuple[Base, Array]:
    """Give p0 the Student-t share with which the weights' second moment is smallest; none if that is below a tenth.

    Estimated from draws that are half Student-t, which reach the tails. The problem is convex in the share (He and Owen
    2014); each update minimises a bound that touches it, a_k ← a_k √g_k up to a factor, with −g the gradient. A bent
    target calls for such a share as well, but loses by it in the ELBO, where the far draws miss it.

    Returns:
        The base, and the share of effective draws of it, less two standard errors.
    """
    half = base._replace(heavy_share=jnp.full_like(base.heavy_share, 0.5))
    u = sample(half, rng_key, num_tail_draws(target.work))
    log_parts = jnp.stack(jax.vmap(lambda u: parts(base, u))(u), axis=1)
    value = jax.vmap(WhitenedTarget(base, target).value)(u)
    log_square = 2 * jnp.where(jnp.isnan(value), -jnp.inf, value) - jax.vmap(lambda u: log_prob(half, u))(u)

    def update(shares: Array, _: None) -> tuple[Array, None]:
        log_p = logsumexp(log_parts, axis=1, b=shares)
        log_g = logsumexp(log_square[:, None] + log_parts - 2 * log_p[:, None], axis=0)
        new = shares * jnp.exp(0.5 * (log_g - jnp.max(log_g)))
        return new / jnp.sum(new), None

    shares, _ = lax.scan(update, jnp.full(2, 0.5, u.dtype), None, length=100)
    heavy = base._replace(heavy_share=jnp.minimum(shares[1], 0.95))

    def elbo(b: Base) -> Array:
        log_p = jax.vmap(lambda u: log_prob(b, u))(u)
        ratio = jnp.exp(log_p - jax.vmap(lambda u: log_prob(half, u))(u))  # at most 2
        within = jnp.where(value > -jnp.inf, ratio, 0.0)  # of p0 restricted to where there is a density
        share = jnp.sum(within) / jnp.sum(ratio)
        return jnp.sum(jnp.where(within > 0, within * (value - log_p), 0.0)) / jnp.sum(within) + jnp.log(share)

    keep = (shares[1] > _MIN_HEAVY_SHARE) & (elbo(heavy) > elbo(base))
    fitted = base._replace(heavy_share=jnp.where(keep, heavy.heavy_share, 0.0))
    log_p, log_half = (jax.vmap(lambda u, b=b: log_prob(b, u))(u) for b in (fitted, half))
    share, error = effective_share(value - log_p, log_p - log_half)
    return fitted, share * (1 - 2 * error)


@jit_once
def cap(base: Base) -> Base:
    """The base with a Student-t share of three tenths at most, so that not too many draws are spent on tails."""
    return base._replace(heavy_share=jnp.minimum(base.heavy_share, _MAX_HEAVY_SHARE))
