"""Where the posterior's modes are: dispersed starts, first-order ascent, then damped Newton.

Every step is a compiled program, which base search and audit share where shapes are the same.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random
from scipy.linalg import solve_triangular

from numpyro_onestep.compilation import in_transformation, jit_once
from numpyro_onestep.gaussians.factors import Factor
from numpyro_onestep.gaussians.fit import narrow
from numpyro_onestep.model.target import COSTLY_DIM, HEAVY_WORK, LARGE_DIM, LogDensity

__all__ = [
    "FEW_MODES",
    "MAX_MODES",
    "MORE_STARTS",
    "NUM_ASCENTS",
    "Modes",
    "ascend",
    "climb",
    "disperse",
    "joined",
    "num_drawn",
    "num_polished",
    "num_starts",
    "polish",
    "seen_once",
    "select",
    "takes_hessians",
]

NUM_ASCENTS = 140  # steps of first-order ascent from each start
MORE_STARTS = 3  # times as many where there is more than one mode
MAX_MODES = 64
FEW_MODES = 8
_DRAWN_IN = 0.8  # of its distance is left to a start without density at each step


class Modes(NamedTuple):
    """Stationary points of log γ and their Laplace approximations.

    Attributes:
        points: shape (M, D).
        log_density: log γ there, shape (M,).
        scale_trils: factors of the inverse negative Hessians, as in `Mixture`; identity where not valid.
        distinct: whether Newton converged to a point with a positive definite negative Hessian, apart from the higher
            ones, shape (M,).
        valid: those whose Laplace mass is within e^-10 of the largest, shape (M,).
        num_gradients: target gradients that it took to find them, a Hessian counted as D.
    """

    points: Array
    log_density: Array
    scale_trils: Factor
    distinct: Array
    valid: Array
    num_gradients: Array


@jit_once
def disperse(rng_key: Array, center: Array, spreads: Array) -> Array:
    """Starts around `center`, spread by `spreads`, the first of them the center itself; all of shape (N, D)."""
    noise = random.normal(rng_key, (len(spreads) - 1, len(center)), center.dtype)
    return jnp.concatenate([center[None], center + spreads[1:] * noise])


def climb(target: LogDensity, starts: Array, spreads: Array) -> tuple[Array, Array]:
    """The highest points of `ascend` and their log densities."""
    points, log_density, _ = ascend(target, starts, spreads)
    return points, log_density


@jit_once
def ascend(target: LogDensity, starts: Array, spreads: Array) -> tuple[Array, Array, Array]:
    """Adam ascent of log γ from starts (N, D) in steps of .1 `spreads` (N, D), which keeps its highest point.

    A density may end at a hard edge, beyond which it is zero and has no gradient. An ascent that steps over it goes
    back to its highest point and on in steps half as long. A start without density is drawn towards the first start,
    which by custom is a valid one, until it has some.

    Returns:
        The highest points, their log densities, and the first point of each ascent at which there was a density.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1 * spreads, NUM_ASCENTS, 0.01), b2=0.9)

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
        x, best, height, first, length, state = carry
        value, grad = jax.vmap(target.value_and_grad)(x)
        value = value[:, None]
        first = jnp.where(height > -jnp.inf, first, x)
        best, height = jnp.where(value > height, x, best), jnp.maximum(value, height)
        updates, state = optimizer.update(-grad, state)
        outside = value == -jnp.inf
        length = jnp.where(outside, 0.5 * length, jnp.minimum(1.0, 1.2 * length))
        back: Array = jnp.where(height > -jnp.inf, best, starts[0] + _DRAWN_IN * (x - starts[0]))  # type: ignore[assignment]
        moved = x + length * updates  # type: ignore[operator]
        return (jnp.where(outside, back, moved), best, height, first, length, state), None

    nowhere = jnp.full((len(starts), 1), -jnp.inf, starts.dtype)
    init = (starts, starts, nowhere, starts, jnp.ones_like(nowhere), optimizer.init(starts))
    # the last step is not taken, and only looks at where the one before it has led
    (_, best, height, first, _, _), _ = lax.scan(body, init, None, length=NUM_ASCENTS + 1)
    return best, height[:, 0], first


@partial(jit_once, static_argnames=("num_modes",))
def select(points: Array, log_density: Array, radius: float, num_modes: int) -> tuple[Array, Array]:
    """Pick up to `num_modes` high points, each further than `radius` from those before it.

    Returns:
        The picked indices, shape (num_modes,), and how many of them are distinct; once every point is within `radius`
        of a picked one, the highest of those left fill the rest.
    """

    def body(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        covered, taken = carry
        free = ~covered & (log_density > -jnp.inf)
        i = jnp.argmax(jnp.where(jnp.where(jnp.any(free), free, ~taken), log_density, -jnp.inf))
        near = jnp.linalg.norm(points - points[i], axis=1) < radius
        return (covered | near, taken.at[i].set(True)), (i, ~covered[i] & (log_density[i] > -jnp.inf))

    nothing = jnp.zeros(points.shape[0], bool)
    _, (picked, new) = lax.scan(body, (nothing, nothing), None, length=num_modes)
    return picked, jnp.sum(new)


def num_starts(work: int) -> int:
    """How many starts to climb from at a time, for a target whose evaluation computes `work` numbers."""
    return 32 if work > HEAVY_WORK else 128


def num_drawn(work: int) -> int:
    """How many draws of the prior to climb from besides."""
    return num_starts(work) // 8


def joined(starts: Array, spreads: Any, drawn: np.ndarray | None, scale: Any) -> tuple[Any, Any]:
    """Starts with their spreads, and the points `drawn` after them, to climb from in steps a tenth as long.

    A longer step would tear a path apart.
    """
    if drawn is None:
        return starts, spreads
    short = np.broadcast_to(np.asarray(0.1 * scale, spreads.dtype), drawn.shape)
    return np.concatenate([np.asarray(starts), drawn.astype(spreads.dtype)]), np.concatenate([spreads, short])


def takes_hessians(target: LogDensity, dim: int) -> bool:
    """Whether modes are polished and told apart by Hessians."""
    return dim <= LARGE_DIM and getattr(target, "hessians", True)


def num_polished(target: LogDensity, num_distinct: int, dim: int) -> int:
    """How many of the picked points to polish, of two numbers for which there are compiled programs."""
    return FEW_MODES if num_distinct < FEW_MODES or not takes_hessians(target, dim) else MAX_MODES


class _Peaks(NamedTuple):
    """Where Newton's ascents ended, with the derivatives of log γ there, whether they converged, and their lengths."""

    points: Array
    log_density: Array
    hessians: Array
    converged: Array
    num_iterations: Array


def _newton(target: LogDensity, start: Array, max_iterations: int) -> _Peaks:
    """Levenberg-Marquardt ascent from one start."""
    dim = start.shape[0]
    eye = jnp.eye(dim, dtype=start.dtype)

    def body(carry: tuple[_Peaks, Array, Array]) -> tuple[_Peaks, Array, Array]:
        at, grad, damping = carry
        chol = jnp.linalg.cholesky(damping * eye - at.hessians)
        step = jax.scipy.linalg.cho_solve((chol, True), grad)
        value, new_grad, hessian = target.derivatives(at.points + step)
        slack = 100 * jnp.finfo(start.dtype).eps * (1 + jnp.abs(at.log_density))
        decrement = step @ grad
        better = jnp.isfinite(decrement) & (value > at.log_density - slack)
        first = at.num_iterations == 0
        done = better & ~first & (decrement < 1e-3 * dim + slack) & (damping < 1e-2)
        shrunk = jnp.where(first, damping, jnp.where(damping > 1e-8, damping * 0.1, 0.0))
        grown = jnp.where(damping > 0, damping * 10, 1e-6)
        new = _Peaks(at.points + step, value, hessian, done, at.num_iterations)
        new, new_grad = jax.tree.map(lambda a, b: jnp.where(better, a, b), (new, new_grad), (at, grad))
        return new._replace(num_iterations=at.num_iterations + 1), new_grad, jnp.where(better, shrunk, grown)

    def cond(carry: tuple[_Peaks, Array, Array]) -> Array:
        return ~carry[0].converged & (carry[0].num_iterations <= max_iterations)

    # the first step is none at all, and only looks at the start
    nowhere = jnp.array(-jnp.inf, start.dtype)
    at = _Peaks(start, nowhere, -eye, jnp.array(False), jnp.array(0))
    return lax.while_loop(cond, body, (at, jnp.zeros_like(start), jnp.asarray(1e-3, start.dtype)))[0]


@jit_once
def _climb_on(target: LogDensity, starts: Array) -> _Peaks:
    """Newton from every start."""
    return jax.vmap(lambda x: _newton(target, x, 20 if starts.shape[1] > COSTLY_DIM else 60))(starts)


@jit_once
def _as_they_are(target: LogDensity, starts: Array) -> Modes:
    num, none = len(starts), jnp.zeros(len(starts), bool)
    trils = jax.tree.map(lambda leaf: leaf[:, 0], narrow(starts, 1.0).scale_trils)
    return Modes(starts, jax.vmap(target.value)(starts), trils, none, none, jnp.array(num))


def polish(target: LogDensity, starts: Array) -> Modes:
    """Newton from every start, then the Laplace approximation at each distinct non-degenerate end point.

    Eight starts at a time, by one program for any number of them; the results are NumPy's. Under a JAX transformation
    all at once. Where no Hessians are taken the starts stay as they are, none of them valid.
    """
    if in_transformation(starts):
        hessians = takes_hessians(target, starts.shape[1])
        return _laplace(_climb_on(target, starts)) if hessians else _as_they_are(target, starts)
    rows: Any = np.asarray(starts)
    if not takes_hessians(target, rows.shape[1]):
        return jax.tree.map(np.asarray, _as_they_are(target, rows))
    parts = [_climb_on(target, rows[i : i + FEW_MODES]) for i in range(0, len(rows), FEW_MODES)]
    peaks = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return jax.tree.map(np.asarray, _laplace(peaks))


@jit_once
def _laplace(peaks: _Peaks) -> Modes:
    points, log_density, hessians, converged, num_iterations = peaks
    dim = points.shape[1]
    chol: Array = jnp.linalg.cholesky(-hessians)
    ok = converged & jnp.all(jnp.isfinite(chol), axis=(1, 2)) & jnp.isfinite(log_density)
    chol = jnp.where(ok[:, None, None], chol, jnp.eye(dim, dtype=chol.dtype))
    log_mass = log_density - jnp.sum(jnp.log(jnp.diagonal(chol, axis1=1, axis2=2)), axis=1)
    heavy = log_mass > jnp.max(jnp.where(ok, log_mass, -jnp.inf)) - 10

    def keep(kept: Array, i: Array) -> tuple[Array, None]:
        offset = jnp.einsum("ji,mj->mi", chol[i], points - points[i])
        duplicate = jnp.any(kept & (jnp.linalg.norm(offset, axis=1) < 0.5))
        return kept.at[i].set(ok[i] & ~duplicate), None

    distinct, _ = lax.scan(keep, jnp.zeros(len(points), bool), jnp.argsort(-jnp.where(ok, log_density, -jnp.inf)))
    inverse = jax.vmap(lambda c: jax.scipy.linalg.solve_triangular(c, jnp.eye(dim, dtype=c.dtype), lower=True))(chol)
    scale_trils = jnp.linalg.cholesky(jnp.einsum("mji,mjk->mik", inverse, inverse))
    num_gradients = (1 + dim) * jnp.sum(num_iterations) + jnp.sum(num_iterations == 0)
    return Modes(points, log_density, scale_trils, distinct, distinct & heavy, num_gradients)


def seen_once(found: Modes, ends: np.ndarray) -> np.ndarray:
    """Which of the distinct modes no more than one ascent has led to, shape (M,).

    Where that are many, there are many more that none has led to (Good 1953); where each is reached over and over,
    hardly any.

    Args:
        found: the modes.
        ends: where the ascents ended, (N, D); one belongs to a mode if it is within a standard deviation.
    """
    once = np.array(found.distinct)
    trils: Any = found.scale_trils
    for i in np.flatnonzero(once):
        apart = (ends - found.points[i]).T.astype(np.float64)  # whose squares overflow less soon
        offsets = solve_triangular(trils[i], apart, lower=True, check_finite=False)
        once[i] = np.sum(np.linalg.norm(offsets, axis=0) < 1) <= 1
    return once
