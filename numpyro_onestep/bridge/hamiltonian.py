"""Hamiltonian steps on the base's coordinates, between p0 and the target: one gradient each, and no change of volume.

Between two kicks a point and its momentum turn by an angle θ, x' = x cos θ + p sin θ and p' = p cos θ − x sin θ: the
exact motion in a standard normal, which p0 is or is near, and so is the target where the flow fits it. The kicks do
the rest, ∇log π_λ(x) + x with log π_λ = (1 − λ) log p0 + λ log π̃ (Shahbaba et al. 2014, split Hamiltonian Monte
Carlo). Any force whatever leaves the steps invertible and volume-preserving, hence all weights exact; so the force of
the flow's misfit is held within bounds, and no point is thrown far out by a steep place.

Where p0 has several components each is narrower than all of them, which have unit covariance. There x is L y, with L Lᵀ
the components' mean covariance, and the steps are made on y: the turn with its kicks is exact in N(m, I) for any m.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.linalg import solve_triangular

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base

__all__ = ["NUM_LEAPFROG", "Path", "Point", "adapt", "leapfrog", "log_density", "look", "move"]

NUM_LEAPFROG = 4  # of one move
_MAX_FORCE = 1.0  # of the misfit, root mean square over the coordinates
_ACCEPTANCE = 0.8
_ANGLES = 0.002, 1.5


class Density(Protocol):
    """Log π̃ and its gradient at one point of the base's coordinates; −inf and zero where they are not finite."""

    def value_and_grad(self, x: Array, /) -> tuple[Array, Array]:
        """Log π̃(x) and ∇log π̃(x)."""
        ...


class Path(NamedTuple):
    """What the steps lead between: p0, and the target on the same coordinates.

    `scale` is L, shape (D, D), lower triangular; None for the identity.
    """

    target: Density
    base: Base
    scale: Array | None = None


class Point(NamedTuple):
    """A point (D,) of the base's coordinates with log π̃ and log p0 and their gradients."""

    x: Array
    log_target: Array
    log_base: Array
    grad_target: Array
    grad_base: Array


def look(path: Path, x: Array) -> Point:
    """Evaluate both densities at one point."""
    log_target, grad_target = path.target.value_and_grad(x)
    log_base, grad_base = jax.value_and_grad(lambda x: base_.log_prob(path.base, x))(x)
    return Point(x, log_target, log_base, grad_target, grad_base)


def log_density(at: Point, annealing: Array) -> Array:
    """Log π_λ at a point, or at many."""
    # log π̃ may be −inf where λ is 0
    return jnp.where(annealing > 0, annealing * at.log_target, 0.0) + (1 - annealing) * at.log_base


def _force(path: Path, y: Array, at: Point, annealing: Array) -> Array:
    misfit, of_base = at.grad_target - at.grad_base, at.grad_base
    if path.scale is not None:
        misfit, of_base = path.scale.T @ misfit, path.scale.T @ of_base
    misfit = misfit / jnp.sqrt(1 + jnp.mean((misfit / _MAX_FORCE) ** 2))
    return annealing * misfit + of_base + y


def leapfrog(path: Path, at: Point, momentum: Array, annealing: Array, angle: Array) -> tuple[Point, Array]:
    """Half a kick, a turn by `angle`, and half a kick, of one point and its momentum."""
    kick = jnp.tan(angle / 2)
    y = at.x if path.scale is None else solve_triangular(path.scale, at.x, lower=True)
    momentum = momentum + kick * _force(path, y, at, annealing)
    y, momentum = jnp.cos(angle) * y + jnp.sin(angle) * momentum, jnp.cos(angle) * momentum - jnp.sin(angle) * y
    at = look(path, y if path.scale is None else path.scale @ y)
    return at, momentum + kick * _force(path, y, at, annealing)


def move(path: Path, rng_key: Array, at: Point, annealing: Array, log_angle: Array) -> tuple[Point, Array]:
    """A move of Hamiltonian Monte Carlo, which leaves π_λ as it is.

    Args:
        path: p0 and the target.
        rng_key: random key.
        at: points, leaves with one leading axis.
        annealing: λ.
        log_angle: log of the angle of a leapfrog step, in radians; up to a fifth is added or taken off at random.

    Returns:
        The points after it, and the probability with which each was accepted; zero where a density is not finite.
    """
    key_momentum, key_angle, key_accept = random.split(rng_key, 3)
    angle = jnp.exp(log_angle) * random.uniform(key_angle, (), at.x.dtype, 0.8, 1.2)
    start = random.normal(key_momentum, at.x.shape, at.x.dtype)
    step = jax.vmap(lambda at, momentum: leapfrog(path, at, momentum, annealing, angle))
    end, momentum = lax.fori_loop(0, NUM_LEAPFROG, lambda _, state: step(*state), (at, start))
    change = log_density(end, annealing) - log_density(at, annealing)
    change = change + 0.5 * jnp.sum(start**2, axis=1) - 0.5 * jnp.sum(momentum**2, axis=1)
    accept_prob = jnp.where(jnp.isnan(change), 0.0, jnp.exp(jnp.minimum(change, 0.0)))
    accept = random.uniform(key_accept, accept_prob.shape, at.x.dtype) < accept_prob
    moved = jax.tree.map(lambda new, old: jnp.where(accept.reshape(-1, *[1] * (new.ndim - 1)), new, old), end, at)
    return moved, accept_prob


def adapt(log_angle: Array, accept_prob: Array, rate: float) -> Array:
    """The angle for the next move, so that four in five are accepted (Robbins and Monro 1951)."""
    wanted = log_angle + rate * (jnp.mean(accept_prob) - _ACCEPTANCE)
    return jnp.clip(wanted, *map(jnp.log, _ANGLES))
