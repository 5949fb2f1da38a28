"""Student-t tails of the base, where the target's own call for them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import logsumexp

from numpyro_onestep.base.distribution import Base, log_prob, parts, sample, whiten
from numpyro_onestep.base.problem import WhitenedTarget, effective_share
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.gaussians.factors import LowRank
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import HEAVY_WORK, Target

__all__ = ["cap", "fit_tails", "with_tails"]

_MIN_HEAVY_SHARE = 0.1
_MAX_HEAVY_SHARE, _MOST = 0.3, 0.95
_NEAR = 0.35  # nats between log Z and the ELBO of a p0 that is near the target


def _num_draws(work: int) -> int:
    """Draws from which the tails are judged, for a target whose evaluation computes `work` numbers."""
    return 1024 if work > HEAVY_WORK else 4096


@jit_once
def fit_tails(target: Target, rng_key: Array, base: Base) -> tuple[Base, Array, Array]:
    """Give p0 the Student-t shares with which the weights' second moment is smallest; none below a tenth in all.

    Estimated from draws of which half are Student-t, which reach the tails. The problem is convex in the shares (He and
    Owen 2014); each update minimises a bound that touches it, a_k ← a_k √g_k up to a factor, with −g the gradient. A
    bent target calls for such shares as well, but loses by it in the ELBO, where the far draws miss it.

    Returns:
        The base, the share of effective draws of it, less two standard errors, and by how much its ELBO is below log Z.
    """
    half = base._replace(heavy_shares=jnp.full_like(base.heavy_shares, 0.25))
    u = sample(half, rng_key, _num_draws(target.work))
    log_parts = jax.vmap(lambda u: parts(base, u))(u)
    value = jax.vmap(WhitenedTarget(base, target).value)(u)
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    log_half = jax.vmap(lambda u: log_prob(half, u))(u)
    log_square = 2 * value - log_half

    def update(shares: Array, _: None) -> tuple[Array, None]:
        log_p = logsumexp(log_parts, axis=1, b=shares)
        log_g = logsumexp(log_square[:, None] + log_parts - 2 * log_p[:, None], axis=0)
        new = shares * jnp.exp(0.5 * (log_g - jnp.max(log_g)))
        return new / jnp.sum(new), None

    def judge(b: Base) -> tuple[Array, Array]:
        """The ELBO, and the share of effective draws, less two standard errors."""
        log_p = jax.vmap(lambda u: log_prob(b, u))(u)
        ratio = jnp.exp(log_p - log_half)  # at most 4
        within = jnp.where(value > -jnp.inf, ratio, 0.0)  # of p0 restricted to where there is a density
        share = jnp.sum(within) / jnp.sum(ratio)
        elbo = jnp.sum(jnp.where(within > 0, within * (value - log_p), 0.0)) / jnp.sum(within) + jnp.log(share)
        effective, error = effective_share(value - log_p, log_p - log_half)
        return elbo, effective * (1 - 2 * error)

    shares, _ = lax.scan(update, jnp.array([0.5, 0.25, 0.25], u.dtype), None, length=100)
    total = jnp.where(1 - shares[0] > _MIN_HEAVY_SHARE, jnp.minimum(1 - shares[0], _MOST), 0.0)
    both = shares[1:] / jnp.maximum(1 - shares[0], _MIN_HEAVY_SHARE)
    tried = total * jnp.concatenate([jnp.zeros((1, 2)), both[None], jnp.eye(2)])
    all_elbos, effective = lax.map(lambda heavy: judge(base._replace(heavy_shares=heavy)), tried)
    elbos: Any = jnp.where(jnp.isnan(all_elbos), -jnp.inf, all_elbos)
    best = jnp.argmax(elbos)
    log_z = logsumexp(value - log_half) - jnp.log(len(u))
    return base._replace(heavy_shares=tried[best]), effective[best], log_z - elbos[best]


def with_tails(target: Target, rng_key: Array, q: Mixture, spent: list[int]) -> tuple[Base, Array, Array]:
    """`fit_tails` of the base that these Gaussians make; the target gradients that it takes are appended to `spent`.

    Where coordinates have long tails of their own, the correlations that a fit has by chance carry each far coordinate
    into all others. So it is tried without any too.
    """
    found = fit_tails(target, rng_key, whiten(q))
    spent.append(_num_draws(target.work))
    if isinstance(q.scale_trils, LowRank) or np.asarray(found[0].heavy_shares)[1] == 0:
        return found
    straight: Any = np.asarray(q.scale_trils) * np.eye(q.means.shape[1], dtype=q.means.dtype)
    alone = fit_tails(target, rng_key, whiten(q._replace(scale_trils=straight)))
    spent.append(_num_draws(target.work))
    return min(found, alone, key=lambda tried: float(tried[2]))


@jit_once
def cap(base: Base, gap: Array) -> Base:
    """The base with Student-t shares of three tenths at most, so that not too many draws are spent on tails.

    Unless its ELBO is near log Z, below it by `gap`: then it has the tails that the target has.
    """
    limit, total = jnp.where(gap < _NEAR, _MOST, _MAX_HEAVY_SHARE), jnp.sum(base.heavy_shares)
    return base._replace(heavy_shares=base.heavy_shares * jnp.minimum(1.0, limit / jnp.maximum(total, limit)))
