"""Posterior draws that owe nothing to the flow: tempered particles from the base to the target.

Sequential Monte Carlo (Del Moral, Doucet and Jasra 2006) along p0^(1−λ) γ^λ: particles drawn from p0 are weighted to
the next λ, resampled and moved by Hamiltonian Monte Carlo. Each λ is as far from the last as the weights allow; the
step size follows the acceptance rate. All in whitened coordinates, where the base fits the target's scales.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.model.target import LogDensity

__all__ = ["PER_ROUND", "particles"]

_NUM_LEAPFROG = 8
_NUM_MOVES = 2  # in each round
PER_ROUND = _NUM_LEAPFROG * _NUM_MOVES  # gradients that each particle takes
_NUM_LAST_ROUNDS = 5  # at the target itself
_MAX_ROUNDS = 60
_MIN_ESS = 0.7  # share of effective particles after each weighing
_ACCEPTANCE = 0.8


class _Point(NamedTuple):
    """Particles (N, D) with log γ and log p0 (N,), and their gradients (N, D)."""

    u: Array
    log_target: Array
    log_base: Array
    grad_target: Array
    grad_base: Array


class _Cloud(NamedTuple):
    """Particles at a temperature λ, the log step size of their moves, and the rounds done at λ = 1."""

    at: _Point
    annealing: Array
    log_step: Array
    num_last: Array


def particles(target: LogDensity, base: Base, rng_key: Array, starts: Array) -> tuple[Array, Array, Array]:
    """Approximate draws of γ in whitened coordinates, from draws of p0, both of shape (N, D); the λ reached; rounds.

    λ is 1 unless they ran out of rounds.

    The shares of separate modes are those of the particles that the base sent there, corrected by the weights: right on
    average, where p0 has mass at every mode.
    """

    @jax.vmap
    def look(u: Array) -> _Point:
        log_target, grad = target.value_and_grad(u)
        return _Point(u, log_target, base_.log_prob(base, u), grad, base_.score(base, u))

    # a loop of one turn more, so that `look` is compiled once
    nowhere = jnp.zeros_like(starts)
    start = _Point(starts, nowhere[:, 0], nowhere[:, 0], nowhere, nowhere)
    zero = jnp.zeros((), nowhere.dtype)
    cloud = _Cloud(start, zero, jnp.log(0.5 * base.dim**-0.25) + zero, jnp.array(0))

    def cond(carry: tuple[Array, _Cloud]) -> Array:
        i, cloud = carry
        return (i < _MAX_ROUNDS) & (cloud.num_last < _NUM_LAST_ROUNDS)

    def body(carry: tuple[Array, _Cloud]) -> tuple[Array, _Cloud]:
        i, cloud = carry
        key_resample, key_move = random.split(random.fold_in(rng_key, i))
        arrived = cloud.annealing == 1
        cloud = _weigh_and_resample(cloud, key_resample, i > 0)
        cloud = _move(look, cloud, key_move, i > 0)
        return i + 1, cloud._replace(num_last=cloud.num_last + arrived)

    num_rounds, cloud = lax.while_loop(cond, body, (jnp.array(0), cloud))
    return cloud.at.u, cloud.annealing, num_rounds


def _weigh_and_resample(cloud: _Cloud, rng_key: Array, started: Array) -> _Cloud:
    """Raise λ as far as the effective number of particles allows, by bisection, and resample systematically."""
    num = len(cloud.at.u)
    rise = cloud.at.log_target - cloud.at.log_base
    rise = jnp.where(jnp.isfinite(rise), rise, -jnp.inf)

    def enough(step: Array) -> Array:
        log_w = step * rise
        return 2 * logsumexp(log_w) - logsumexp(2 * log_w) > jnp.log(_MIN_ESS * num)

    def bisect(i: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.where(i == 0, high, 0.5 * (low + high))  # all that is left, if the weights allow it
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    left = 1 - cloud.annealing
    low, _ = lax.fori_loop(0, 21, bisect, (jnp.zeros_like(left), left))
    step = jnp.maximum(low, 1e-4 * left)
    weighing = started & (step > 0)
    shares = jnp.cumsum(jax.nn.softmax(jnp.where(weighing, step * rise, 0.0)))
    positions = (jnp.arange(num) + random.uniform(rng_key, (), shares.dtype)) / num
    picked = jnp.where(weighing, jnp.clip(jnp.searchsorted(shares, positions), 0, num - 1), jnp.arange(num))
    # exactly one at the end, so that the loop stops
    annealing = jnp.where(step == left, 1.0, cloud.annealing + step)
    at = jax.tree.map(lambda leaf: leaf[picked], cloud.at)
    return cloud._replace(at=at, annealing=jnp.where(started, annealing, 0.0))


def _move(look: Callable[[Array], _Point], cloud: _Cloud, rng_key: Array, started: Array) -> _Cloud:
    """Hamiltonian moves that leave p0^(1−λ) γ^λ as it is; before the start only a look at the particles."""
    annealing = cloud.annealing

    def force(at: _Point) -> Array:
        return annealing * at.grad_target + (1 - annealing) * at.grad_base

    def energy(at: _Point, p: Array) -> Array:
        # log γ may be −inf where λ is 0
        pull = jnp.where(annealing > 0, annealing * at.log_target, 0.0)
        return 0.5 * jnp.sum(p**2, axis=1) - pull - (1 - annealing) * at.log_base

    def body(i: Array, cloud: _Cloud) -> _Cloud:
        key_p, key_step, key_accept = random.split(random.fold_in(rng_key, i), 3)
        step = jnp.exp(cloud.log_step) * random.uniform(key_step, (), cloud.log_step.dtype, 0.6, 1.4)
        step = jnp.where(started, step, 0.0)
        start = random.normal(key_p, cloud.at.u.shape, cloud.at.u.dtype)

        def leapfrog(_: Array, state: tuple[_Point, Array]) -> tuple[_Point, Array]:
            at, p = state
            p = p + 0.5 * step * force(at)
            at = look(at.u + step * p)
            return at, p + 0.5 * step * force(at)

        end, p = lax.fori_loop(0, jnp.where(started, _NUM_LEAPFROG, 1), leapfrog, (cloud.at, start))
        change = energy(cloud.at, start) - energy(end, p)
        accept_prob = jnp.where(jnp.isnan(change), 0.0, jnp.exp(jnp.minimum(change, 0.0)))
        accept = (random.uniform(key_accept, accept_prob.shape) < accept_prob) | ~started
        at = jax.tree.map(
            lambda new, old: jnp.where(accept.reshape(-1, *[1] * (new.ndim - 1)), new, old), end, cloud.at
        )
        rise = jnp.where(started, 0.5 * (jnp.mean(accept_prob) - _ACCEPTANCE), 0.0)
        return cloud._replace(at=at, log_step=cloud.log_step + rise)

    return lax.fori_loop(0, jnp.where(started, _NUM_MOVES, 1), body, cloud)
