"""How members are found: who depends on whom at a few points, then where their density given the rest has its mode.

Nothing here is trusted: whatever is found, the coordinates made of it are exact. It decides how well they serve.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.members import banded
from numpyro_onestep.members.dependence import Parts, dependences, hessian, is_quadratic, part
from numpyro_onestep.members.directions import independent_directions
from numpyro_onestep.members.laplace import (
    FlatDensity,
    Members,
    apply,
    conditional,
    derivatives,
    factor_of,
    marginal_and_mode,
    newton,
)

__all__ = ["find"]

_MAX_BANDWIDTH = 2
_MAX_REST = 0.25  # of all coordinates
_NUM_ASCENTS = 200  # steps of θ
_MAX_VARIANCE = 0.1  # of log weights given the rest, for each member
_MAX_SLOPES = 64  # parameters with which modes are expected to move, where matrices are not wanted
_FARTHEST = 2.0  # of one of Newton's steps, in standard deviations
_NEAR = 1e-6  # squared distance from the mode, in standard deviations, all members together
_NUM_STARTS, _WIDE = 32, 10.0  # from which other modes are looked for, and their spread in standard deviations


def find(log_density: Any, center: Array, quadratic_only: bool = False, dense: bool = True) -> Members | None:
    """The members of a density, from any point where it has some; None if there are none to speak of.

    Args:
        log_density: a pytree, as compiled functions take it.
        center: a valid point, shape (D,).
        quadratic_only: whether to do without those in which log γ is not quadratic.
        dense: whether matrices will do, as for members that are independent in another basis only.
    """
    if not _differentiable(log_density, center):
        return None
    noise = np.random.default_rng(0).normal(size=(4, len(center))).astype(center.dtype)
    one, other, *moved = np.asarray(center) + np.array([[0.1], [0.1], [1.0], [100.0]], noise.dtype) * noise
    hessians: list[np.ndarray] = []
    parts, basis, max_rest = None, None, int(_MAX_REST * len(center))
    for point in (one, other):  # the second may only show more of what depends on what
        found = hessian(log_density, point)
        if found is None:
            return None
        hessians.append(found)
        parts = part(dependences(hessians), _MAX_BANDWIDTH, max_rest)
        if parts is None:
            break
    if parts is None and dense:
        parts, basis = independent_directions(log_density, one, hessians[0], max_rest) or (None, None)
    if parts is None or len(parts.rest) == 0:
        return None
    for point in moved:
        point[parts.rest] = one[parts.rest]
    quadratic = is_quadratic(log_density, hessians[0], one, moved, parts.members)
    if not quadratic and (quadratic_only or basis is not None or not (dense or len(parts.rest) <= _MAX_SLOPES)):
        return None
    there, pivots = _ascend(log_density, _begin(parts, basis, np.asarray(center)))
    if not np.all(np.asarray(pivots) > 0):  # at no mode
        return None
    if quadratic:
        return there
    others, variance = _look_around(log_density, there)
    if np.any(np.asarray(others)) or not float(variance) < _MAX_VARIANCE * len(parts.members):
        return None
    return replace(there, slope=_slope(log_density, there))


def _begin(parts: Parts, basis: np.ndarray | None, center: np.ndarray) -> Members:
    """The members at a point, before anything is known of their mode."""
    theta, x = center[parts.rest], center[parts.members]
    volume = np.zeros((), x.dtype)
    if basis is not None:
        x, volume = np.linalg.solve(basis, x), np.asarray(np.linalg.slogdet(basis)[1], x.dtype)
    known: Any = parts.rest, parts.members, theta, x, np.zeros((len(x), 0), x.dtype), np.ones_like(x)
    return Members(*known, parts.bandwidth, basis, volume)  # type: ignore[arg-type]


def _differentiable(log_density: FlatDensity, center: Array) -> bool:
    """Whether it has the third derivatives of which a gradient on the new coordinates is made."""

    def curvature(z: Array) -> Array:
        return z @ jax.jvp(jax.grad(log_density), (z,), (z,))[1]

    try:
        jax.eval_shape(jax.grad(curvature), center)
    except Exception:  # whatever a function without them raises
        return False
    return True


def _settle(log_density: FlatDensity, there: Members) -> tuple[Members, Array]:
    """At the mode of x given θ, by up to 50 of Newton's steps, and the last of them.

    None is longer than two of the standard deviations that are known (those here where they are larger), nor than half
    of the one before where a member turns around: Newton's method steps over the mode of a logistic likelihood and back
    for ever otherwise.
    """

    def body(carry: tuple) -> tuple:
        there, before, i = carry
        grad, precision = derivatives(log_density, there, there.theta, there.start)
        here = replace(there, precision=_positive(precision))
        factor = factor_of(here, precision)
        step = newton(factor, grad)
        longest = _FARTHEST / jnp.sqrt(jnp.minimum(known, here.precision))
        longest = jnp.where(step * before < 0, 0.5 * jnp.abs(before), longest)
        step = jnp.clip(step, -longest, longest)
        return replace(here, start=here.start + step), step, i + 1

    def cond(carry: tuple) -> Array:
        there, step, i = carry
        return (i == 0) | (i < 50) & (jnp.sum(step**2 * there.precision) > _NEAR)

    known = there.precision
    there, step, _ = lax.while_loop(cond, body, (there, jnp.zeros_like(there.start), 0))
    return there, step


@jit_once
def _ascend(log_density: FlatDensity, there: Members) -> tuple[Members, Array]:
    """θ, with its x, where Laplace's log ∫ γ(θ, x) dx is highest, by Adam; and the pivots of −∇²ₓ log γ there."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, _NUM_ASCENTS, 0.02))
    climb = jax.value_and_grad(lambda theta, there: marginal_and_mode(log_density, there, theta), has_aux=True)

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
        there, best, highest, state = carry
        (value, mode), grad = climb(there.theta, there)
        ok = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad)) & jnp.all(jnp.isfinite(mode))
        here = replace(there, start=mode)
        best = jax.tree.map(lambda a, b: jnp.where(ok & (value > highest), a, b), here, best)
        updates, state = optimizer.update(jnp.where(ok, -grad, 0.0), state)
        on = replace(here, theta=here.theta + updates)
        on = jax.tree.map(lambda a, b: jnp.where(ok, a, b), on, best)
        return (on, best, jnp.where(ok, jnp.maximum(value, highest), highest), state), None

    there, _ = _settle(log_density, there)
    start = there, there, jnp.array(-jnp.inf, there.start.dtype), optimizer.init(there.theta)
    there, _ = _settle(log_density, lax.scan(body, start, None, length=_NUM_ASCENTS)[0][1])
    precision = derivatives(log_density, there, there.theta, there.start)[1]
    return there, banded.cholesky(precision, 0 * there.precision)[1]


@jit_once
def _slope(log_density: FlatDensity, there: Members) -> Array:
    """By how much the mode of x moves with each of θ, shape (n, p)."""
    mode = lambda theta: conditional(log_density, there, theta)[0]  # noqa: E731
    move = lambda direction: jax.jvp(mode, (there.theta,), (direction,))[1]  # noqa: E731
    return lax.map(move, jnp.eye(len(there.theta), dtype=there.theta.dtype)).T


@jit_once
def _look_around(log_density: FlatDensity, there: Members) -> tuple[Array, Array]:
    """Whether each of 32 starts leads to another mode of x, given θ, and the variance of the log weights of 32 draws.

    Of other modes there may be two for each member. The draws are those of the Laplace approximation.
    """

    def is_other(noise: Array) -> Array:
        x, step = _settle(log_density, replace(there, start=there.start + noise))
        apart = jnp.abs(x.start - there.start) * jnp.sqrt(there.precision)
        arrived = jnp.sum(step**2 * there.precision) < 0.01  # false where it is not a number
        return arrived & (jnp.max(apart) > 1)

    noise = random.normal(random.key(0), (_NUM_STARTS, len(there.start)), there.start.dtype)
    apply_at = lambda u: apply(log_density, there, jnp.concatenate([there.theta, u]))[0]  # noqa: E731
    log_w = jax.vmap(lambda u: log_density(apply_at(u)) + 0.5 * u @ u)(noise)
    return jax.vmap(is_other)(_WIDE * noise / jnp.sqrt(there.precision)), jnp.var(log_w)


def _positive(precision: Array) -> Array:
    return jnp.abs(precision[:, 0]) + 1e-6
