"""The bridge: where one evaluation of the flow is not enough, particles go from p0 to the target in several.

On the base's coordinates, with the target pulled back through the flow: the better the flow, the shorter the way. The
spread of independent clouds is the error of log Z. The same way back, from the target's particles to p0, estimates 1/Z
and so bounds log Z from above (Grosse, Ghahramani and Adams 2015).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.bridge import clouds as clouds_
from numpyro_onestep.bridge.clouds import Clouds
from numpyro_onestep.bridge.ladder import path_of
from numpyro_onestep.compilation import compile_ahead, jit, shapes_of
from numpyro_onestep.devices import shard
from numpyro_onestep.flow.density import Flow, PulledBack
from numpyro_onestep.flow.scores import EXACT_DIM
from numpyro_onestep.flow.steps import own_steps

__all__ = ["MIN_ACCEPTANCE", "NUM_CLOUDS", "NUM_LAST", "Crossing", "Sweeps", "cross", "expect", "is_crossed", "sweep"]

NUM_CLOUDS = 8  # in all
_NUM_PARTICLES = 128  # of each cloud
_DRAWS_EACH = 4  # that set out for one particle to go on
MIN_ACCEPTANCE = 0.2  # share of the last moves
NUM_LAST = 2  # rounds at the target itself


class Crossing(NamedTuple):
    """A bridge that was crossed; see `Clouds`.

    Attributes:
        clouds: at the target, or as far as they came.
        upper: log of the inverse of each cloud's estimate of 1/Z on the way back, shape (clouds,), nats.
    """

    clouds: Clouds
    upper: Array

    @property
    def num_evaluations(self) -> int:
        """Target gradients of each particle on its way to the target."""
        return _DRAWS_EACH + int(self.clouds.num_rounds) * clouds_.PER_ROUND

    @property
    def num_gradients(self) -> int:
        """Target gradients of all particles, the way back included."""
        on_the_way_back = (self.num_evaluations - _DRAWS_EACH) // 2  # of every second particle
        return self.clouds.ancestors.size * (self.num_evaluations + on_the_way_back)


def is_crossed(crossing: Crossing) -> bool:
    """Whether the particles have come to the target, and move there."""
    return float(crossing.clouds.annealing) == 1 and float(crossing.clouds.accept_prob) > MIN_ACCEPTANCE


def cross(trained: Flow, rng_key: Array, num_steps: int = 1, num_clouds: int = NUM_CLOUDS) -> Crossing:
    """Cross from p0 to the target and back, in clouds of 128 particles each.

    Args:
        trained: the flow.
        rng_key: random key.
        num_steps: steps of its map.
        num_clouds: clouds.
    """
    clouds = _there(trained, rng_key, num_steps, num_clouds)
    return Crossing(clouds, _back(trained, rng_key, clouds, num_steps))


@partial(jit, static_argnames=("num_steps", "num_clouds"))
def _there(trained: Flow, rng_key: Array, num_steps: int, num_clouds: int) -> Clouds:
    """The way to the target.

    Half of the draws that set out are stretched, by 1 + 1/√D, and weighted for it: they reach p0's tails more often.
    """
    path = path_of(trained, num_steps, EXACT_DIM)
    key_start, key_climb, _ = random.split(rng_key, 3)
    num, wide = num_clouds * _NUM_PARTICLES * _DRAWS_EACH, 1 + path.base.dim**-0.5
    stretched = (jnp.arange(num) % 2 == 0)[:, None]
    inflate: Any = jnp.where(stretched, wide, 1.0)
    starts = shard(base_.sample(path.base, key_start, num, inflate))
    log_p, log_wide = (jax.vmap(lambda x, s=s: base_.log_prob(path.base, x, s))(starts) for s in (1.0, wide))
    offsets = log_p - jnp.logaddexp(log_p, log_wide) + np.log(2.0)
    starts, offsets = starts.reshape(num_clouds, -1, path.base.dim), offsets.reshape(num_clouds, -1)
    return clouds_.climb(path, key_climb, starts, offsets, _NUM_PARTICLES, NUM_LAST)


@partial(jit, static_argnames=("num_steps",))
def _back(trained: Flow, rng_key: Array, clouds: Clouds, num_steps: int) -> Array:
    """The upper bounds from the way back; a program of its own, which another thread compiles meanwhile."""
    return clouds_.descend(path_of(trained, num_steps, EXACT_DIM), random.split(rng_key, 3)[2], _cut(clouds))


def _cut(clouds: Clouds) -> Clouds:
    """The clouds, shared out among devices."""
    return clouds._replace(at=jax.tree.map(shard, clouds.at), ancestors=shard(clouds.ancestors))


class Sweeps(NamedTuple):
    """Draws of particles that go on at the target; leaves of shape (clouds, particles, sweeps, …).

    Flat unconstrained points, −log γ, log π̃ − log p0, mean acceptance probability of each sweep, and base points.
    """

    points: Array
    potential_energy: Array
    log_weights: Array
    accept_prob: Array
    x: Array


def expect(trained: Callable[[], Flow], rng_key: Array, num_draws: int, num_steps: int) -> None:
    """Compile in a second thread what a bridge of a flow of these shapes takes, and as many draws of its particles."""

    def there() -> tuple:
        flow = trained()
        return flow, rng_key, own_steps(flow.network, num_steps), NUM_CLOUDS

    def back() -> tuple:
        flow, _, own, _ = there()
        return flow, rng_key, shapes_of(_there, *there()), own

    def sweeping() -> tuple:
        flow, _, clouds, own = back()
        return flow, rng_key, clouds, -(-num_draws // clouds.ancestors.size), own

    compile_ahead(_there, there)
    compile_ahead(_back, back)
    compile_ahead(sweep, sweeping)


@partial(jit, static_argnames=("num_sweeps", "num_steps"))
def sweep(trained: Flow, rng_key: Array, clouds: Clouds, num_sweeps: int, num_steps: int = 1) -> Sweeps:
    """Move the particles of a bridge on, or exchange them for fresh draws, and keep all of them after each sweep."""
    path = path_of(trained, num_steps, EXACT_DIM)
    target: PulledBack = path.target  # type: ignore[assignment]

    def body(clouds: Clouds, key: Array) -> tuple[Clouds, Sweeps]:
        key_exchange, key_move = random.split(key)
        clouds = clouds_.exchange(path, clouds, key_exchange)
        clouds = clouds_.move(path, clouds, key_move, adapting=False)
        points, energy = jax.vmap(jax.vmap(target.carry))(clouds.at.x, clouds.at.log_target)
        log_w = clouds.at.log_target - clouds.at.log_base
        accept_prob = jnp.broadcast_to(clouds.accept_prob, log_w.shape)
        return clouds, Sweeps(points, energy, log_w, accept_prob, clouds.at.x)

    _, drawn = lax.scan(body, _cut(clouds), random.split(rng_key, num_sweeps))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), drawn)
