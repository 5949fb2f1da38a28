"""Clouds of particles between p0 and the target: sequential Monte Carlo (Del Moral, Doucet and Jasra 2006).

Along π_λ ∝ p0^(1−λ) π̃^λ on the base's coordinates particles drawn from p0 are weighted to the next λ, resampled and
moved by Hamiltonian Monte Carlo. Each λ is as far from the last as the weights allow, and the angle of the moves
follows their acceptance. Several draws set out for each particle that goes on, since they cost one evaluation each. The
clouds share temperatures and angle, and nothing else. The shares of separate modes are those of the particles that p0
sent there, corrected by the weights: right on average, where p0 has mass at every mode.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import tail_of
from numpyro_onestep.bridge import hamiltonian
from numpyro_onestep.bridge.hamiltonian import NUM_LEAPFROG, Path, Point
from numpyro_onestep.devices import shard

__all__ = ["FIRST_ANGLE", "PER_ROUND", "PER_SWEEP", "Clouds", "climb", "descend", "exchange", "move", "together"]

_NUM_MOVES = 2  # in each round
PER_ROUND = NUM_LEAPFROG * _NUM_MOVES  # gradients that each particle takes
PER_SWEEP = PER_ROUND + 1  # the same at the target, with an exchange
_MAX_ROUNDS = 60
_FIRST_ESS = 0.6  # share of effective draws after the first weighing
_LIGHT_SHAPE, _LIGHT_TAIL = 0.5, 0.02  # Pareto shape of a tail that is seen well enough, and nats that may be unseen
_MAX_SHARE = 0.003  # of all weight that one particle may have: tails heavier than that are reached by moves
_MIN_ESS = 0.9  # share of effective particles after each further one
FIRST_ANGLE = 0.5  # of the moves, before their acceptance is known


class Clouds(NamedTuple):
    """Particles on their way.

    Attributes:
        at: the particles, leaves of shape (clouds, particles, …).
        log_z: log of the product of each cloud's mean weights, shape (clouds,).
        ancestors: the first draw that each comes from, shape (clouds, particles).
        annealing: λ.
        log_angle: of the moves.
        accept_prob: of the last moves, their mean.
        num_rounds: rounds of moves done.
        temperatures: λ of each round, shape (rounds,).
        log_angles: of each round.
        first_weights: log weights of the draws that set out, shape (clouds, draws).
        log_weights: those of the particles after each round's moves, shape (rounds, clouds, particles).
        log_ratios: mean of log π̃ − log p0 over the particles after each round's moves, shape (rounds, clouds).
    """

    at: Point
    log_z: Array
    ancestors: Array
    annealing: Array
    log_angle: Array
    accept_prob: Array
    num_rounds: Array
    temperatures: Array
    log_angles: Array
    first_weights: Array
    log_weights: Array
    log_ratios: Array


def climb(path: Path, rng_key: Array, starts: Array, offsets: Array, num_particles: int, num_last: int) -> Clouds:
    """Take particles from p0 to the target; λ is below 1 in the end if they ran out of rounds.

    Args:
        path: p0 and the target.
        rng_key: random key.
        starts: draws, shape (clouds, draws, D).
        offsets: log p0 − log q of these, with q the density that they are draws of, shape (clouds, draws).
        num_particles: of each cloud, that go on.
        num_last: rounds at the target itself.
    """
    shape, dtype = (len(starts), num_particles), starts.dtype
    key_first, rng_key = random.split(rng_key)
    zero = jnp.zeros((), dtype)
    clouds = Clouds(
        at=jax.vmap(jax.vmap(partial(hamiltonian.look, path)))(starts),
        log_z=jnp.zeros(shape[0], dtype),
        ancestors=jnp.broadcast_to(jnp.arange(starts.shape[1]), starts.shape[:2]),
        annealing=zero,
        log_angle=zero + np.log(FIRST_ANGLE),
        accept_prob=zero,
        num_rounds=jnp.array(0),
        temperatures=jnp.zeros(_MAX_ROUNDS, dtype),
        log_angles=jnp.zeros(_MAX_ROUNDS, dtype),
        first_weights=offsets,
        log_weights=jnp.zeros((_MAX_ROUNDS, *shape), dtype),
        log_ratios=jnp.zeros((_MAX_ROUNDS, shape[0]), dtype),
    )
    annealing, log_w = _rise(clouds, offsets, _FIRST_ESS, first=True)
    clouds = _resample(clouds, key_first, log_w, num_particles)
    clouds = clouds._replace(annealing=annealing, first_weights=log_w)

    def cond(carry: tuple[Clouds, Array]) -> Array:
        clouds, last = carry
        return (clouds.num_rounds < _MAX_ROUNDS) & (last < num_last)

    def body(carry: tuple[Clouds, Array]) -> tuple[Clouds, Array]:
        clouds, last = carry
        i = clouds.num_rounds
        arrived = clouds.annealing == 1
        key_move, key_resample = random.split(random.fold_in(rng_key, i))
        clouds = clouds._replace(
            temperatures=clouds.temperatures.at[i].set(clouds.annealing),
            log_angles=clouds.log_angles.at[i].set(clouds.log_angle),
        )
        clouds = move(path, clouds, key_move)
        annealing, log_w = _rise(clouds, jnp.zeros(shape, dtype), _MIN_ESS)
        clouds = _resample(clouds, key_resample, log_w, num_particles)
        return clouds._replace(
            annealing=annealing,
            num_rounds=i + 1,
            log_weights=clouds.log_weights.at[i].set(log_w),
            log_ratios=clouds.log_ratios.at[i].set(jnp.mean(clouds.at.log_target - clouds.at.log_base, axis=1)),
        ), last + arrived

    return lax.while_loop(cond, body, (clouds, jnp.array(0)))[0]


def _rise(clouds: Clouds, offsets: Array, min_ess: float, first: bool = False) -> tuple[Array, Array]:
    """The next λ, and the particles' log weights there; their effective share is the mean over the clouds.

    The first weights also have a light tail, or one that hides little: the mean of a generalised Pareto excess of shape
    k is 1/(1 − k) times its scale. Where p0's tails are too light, moves at that λ reach further.
    """
    ratio = clouds.at.log_target - clouds.at.log_base
    ratio = jnp.where(jnp.isfinite(ratio), ratio, -jnp.inf)
    left = 1 - clouds.annealing

    def weigh(step: Array) -> Array:
        return offsets + jnp.where(step > 0, step * ratio, 0.0)

    def enough(step: Array) -> Array:
        log_w = weigh(step)
        share = jnp.exp(2 * logsumexp(log_w, axis=1) - logsumexp(2 * log_w, axis=1)) / ratio.shape[1]
        largest = jnp.exp(jnp.max(log_w) - logsumexp(log_w))
        fine = (jnp.mean(share) > min_ess) & (largest < _MAX_SHARE + 3 / ratio.size)  # neither holds for nan
        if not first:
            return fine
        shape, held = tail_of(log_w.ravel())
        return fine & ((shape <= _LIGHT_SHAPE) | (held <= _LIGHT_TAIL * (1 - shape)))

    def bisect(i: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.where(i == 0, high, 0.5 * (low + high))  # all that is left, if the weights allow it
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = lax.fori_loop(0, 21, bisect, (jnp.zeros_like(left), left))
    step = jnp.maximum(low, 1e-4 * left)
    # exactly one at the end, so that the loop stops
    return jnp.where(step == left, 1.0, clouds.annealing + step), weigh(step)


def _resample(clouds: Clouds, rng_key: Array, log_weights: Array, num: int) -> Clouds:
    """Weigh each cloud, and resample as many of its particles as are to go on; none where all weigh the same."""
    picked = jax.vmap(partial(_systematic, num=num))(random.split(rng_key, len(log_weights)), log_weights)
    pick = lambda leaf: jax.vmap(lambda rows, i: rows[i])(leaf, picked)  # noqa: E731
    return clouds._replace(
        at=jax.tree.map(pick, clouds.at),
        ancestors=pick(clouds.ancestors),
        log_z=clouds.log_z + logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1]),
    )


def _systematic(rng_key: Array, log_weights: Array, num: int) -> Array:
    """Indices in order, each as often as its share of `num`, within less than one."""
    shares = jnp.cumsum(jax.nn.softmax(log_weights))
    positions = (jnp.arange(num) + random.uniform(rng_key, (), shares.dtype)) / num
    return jnp.clip(jnp.searchsorted(shares, positions), 0, len(log_weights) - 1)


def move(path: Path, clouds: Clouds, rng_key: Array, adapting: bool = True) -> Clouds:
    """The moves of a round, at the clouds' temperature."""
    shape = clouds.ancestors.shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), clouds.at)

    def body(i: Array, carry: tuple[Point, Array, Array]) -> tuple[Point, Array, Array]:
        at, log_angle, total = carry
        at, accept_prob = hamiltonian.move(path, random.fold_in(rng_key, i), at, clouds.annealing, log_angle)
        log_angle = hamiltonian.adapt(log_angle, accept_prob, 1.0) if adapting else log_angle
        return at, log_angle, total + jnp.mean(accept_prob) / _NUM_MOVES

    start = flat, clouds.log_angle, jnp.zeros_like(clouds.accept_prob)
    at, log_angle, accept_prob = lax.fori_loop(0, _NUM_MOVES, body, start)
    at = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), at)
    return clouds._replace(at=at, log_angle=log_angle, accept_prob=accept_prob)


def exchange(path: Path, clouds: Clouds, rng_key: Array) -> Clouds:
    """Exchange particles at the target for fresh draws of p0, by Metropolis and Hastings' rule.

    So the shares of separate modes, which no local move changes, are in the end those of many more draws than there are
    particles.
    """
    key_draw, key_accept = random.split(rng_key)
    shape = clouds.ancestors.shape
    drawn = shard(base_.sample(path.base, key_draw, clouds.ancestors.size))
    fresh = jax.vmap(partial(hamiltonian.look, path))(drawn)
    fresh = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), fresh)
    ratio, before = (at.log_target - at.log_base for at in (fresh, clouds.at))
    accept = jnp.log(random.uniform(key_accept, shape, ratio.dtype)) < ratio - before  # not where it is nan
    pick = lambda new, old: jnp.where(accept.reshape(*shape, *[1] * (new.ndim - 2)), new, old)  # noqa: E731
    return clouds._replace(at=jax.tree.map(pick, fresh, clouds.at))


def together(each: Sequence[Clouds]) -> Clouds:
    """All clouds of several, at the target; how they came there is that of the first."""
    if len(each) == 1:
        return each[0]
    at, ancestors = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *((c.at, c.ancestors) for c in each))
    return each[0]._replace(at=at, ancestors=ancestors, log_angle=jnp.mean(jnp.stack([c.log_angle for c in each])))


def descend(path: Path, rng_key: Array, clouds: Clouds) -> Array:
    """The same way back to p0: log of the inverse of each cloud's mean weights, in expectation above log Z.

    Of every second particle: the bound need not be as exact as log Z.
    """
    num_rounds = clouds.num_rounds
    some = jax.tree.map(lambda leaf: leaf[:, ::2], (clouds.at, clouds.ancestors))
    num_particles = some[1].shape[1]
    back = clouds._replace(log_z=jnp.zeros_like(clouds.log_z), at=some[0], ancestors=some[1])

    def body(i: Array, back: Clouds) -> Clouds:
        key_move, key_resample = random.split(random.fold_in(rng_key, i))
        this = num_rounds - 1 - i
        high = clouds.temperatures[this]
        low = jnp.where(this > 0, clouds.temperatures[jnp.maximum(this - 1, 0)], 0.0)
        here = back._replace(annealing=high, log_angle=clouds.log_angles[this])
        here = move(path, here, key_move, adapting=False)
        fall = here.at.log_base - here.at.log_target
        fall = jnp.where(jnp.isfinite(fall), fall, -jnp.inf)
        return _resample(here, key_resample, jnp.where(high > low, (high - low) * fall, 0.0), num_particles)

    return -lax.fori_loop(0, num_rounds, body, back).log_z
