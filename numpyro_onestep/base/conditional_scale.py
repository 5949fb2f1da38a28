"""Whitening for hierarchical posteriors: a triangular map whose conditional scales, shifts and tails fit such models.

    v = u √(1 + a± u²)            elementwise, a₋ for u < 0 and a₊ above: Gaussian tails (a = 0) to exponential ones
    s = A v + C (√(1 + v²) − 1)   log scales, softly bounded, linear far out on either side
    w = e^s (v + e^s (M v + m))   shifts go with the variance, as in the conjugate normal model
    z = shift + L w

A, C and M are strictly and L is lower triangular, so the map is increasing in each coordinate given those before it,
hence injective everywhere with log|det| = Σ log ∂v/∂u + s + log L_ii. With a, A, C, M and m zero it is the affine
whitening. A funnel is matched exactly (C = M = 0). So are, nearly, group effects θ_i ~ N(μ, τ) seen with noise σ_i:
given τ their scale is (1/τ² + 1/σ_i²)^−½, whose log is linear in log τ on either side of a bend, and their shift
towards the data is proportional to that scale's square. A density that does not vanish at τ = 0 gives log τ an
exponential tail.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from numpyro_onestep.model.target import LogDensity

__all__ = [
    "BATCH_SIZE",
    "NUM_ITERATIONS",
    "Whitening",
    "affine",
    "apply",
    "fit",
    "influence",
    "inverse",
    "log_det",
    "push_score",
    "rules",
]

NUM_ITERATIONS, BATCH_SIZE = 2000, 32  # of a fit
_BOUND = 10.0  # of the log scales: a factor of 20,000 each way


class Whitening(NamedTuple):
    """The map from u to z.

    Attributes:
        shift: shape (D,).
        scale_tril: L, lower triangular, shape (D, D).
        scale_slopes: A, shape (D, D); here and below only the strictly lower triangle counts.
        scale_bends: C, shape (D, D).
        mixing: M, shape (D, D).
        offset: m, shape (D,).
        tails: a₋ and a₊, not negative, shape (2, D).
    """

    shift: Array
    scale_tril: Array
    scale_slopes: Array
    scale_bends: Array
    mixing: Array
    offset: Array
    tails: Array


def affine(shift: Array, scale_tril: Array) -> Whitening:
    """Z = shift + scale_tril u."""
    zero = jnp.zeros_like(scale_tril)
    return Whitening(shift, scale_tril, zero, zero, zero, zero[0], jnp.stack([zero[0], zero[0]]))


def _tail(f: Whitening, u: Array) -> tuple[Array, Array, Array]:
    """V, log ∂v/∂u and its derivative."""
    square = jnp.where(u < 0, f.tails[0], f.tails[1]) * u**2
    log_slope = jnp.log1p(2 * square) - 0.5 * jnp.log1p(square)
    change = (4 * square / (1 + 2 * square) - square / (1 + square)) / jnp.where(u == 0, 1.0, u)
    return u * jnp.sqrt(1 + square), log_slope, change


def _log_scales(f: Whitening, v: Array) -> Array:
    return _bounded(jnp.tril(f.scale_slopes, -1) @ v + jnp.tril(f.scale_bends, -1) @ (jnp.sqrt(1 + v**2) - 1))


def _bounded(s: Array) -> Array:
    return s * (1 + (s / _BOUND) ** 4) ** -0.25


def _shifted(f: Whitening, v: Array, scales: Array) -> Array:
    return v + scales * (jnp.tril(f.mixing, -1) @ v + f.offset)


def apply(f: Whitening, u: Array) -> Array:
    """Z of one point u, shape (D,)."""
    v, _, _ = _tail(f, u)
    scales = jnp.exp(_log_scales(f, v))
    return f.shift + f.scale_tril @ (scales * _shifted(f, v, scales))


def inverse(f: Whitening, z: Array) -> Array:
    """The one point u with `apply(f, u)` = z: coordinate by coordinate, each depending on those before it."""
    w = solve_triangular(f.scale_tril, z - f.shift, lower=True)
    slopes, bends, mixing = (jnp.tril(leaf, -1) for leaf in (f.scale_slopes, f.scale_bends, f.mixing))

    def body(i: Array, v: Array) -> Array:
        scale = jnp.exp(_bounded(slopes[i] @ v + bends[i] @ (jnp.sqrt(1 + v**2) - 1)))
        return v.at[i].set(w[i] / scale - scale * (mixing[i] @ v + f.offset[i]))

    v = lax.fori_loop(0, len(w), body, jnp.zeros_like(w))
    tail = jnp.where(v < 0, f.tails[0], f.tails[1])
    square = 2 * v**2 / (1 + jnp.sqrt(1 + 4 * tail * v**2))  # the root of u²(1 + a u²) = v², without cancellation
    return jnp.sign(v) * jnp.sqrt(square)


def log_det(f: Whitening, u: Array) -> Array:
    """log|det ∂z/∂u| at one point."""
    v, log_slope, _ = _tail(f, u)
    return jnp.sum(log_slope + _log_scales(f, v) + jnp.log(jnp.diagonal(f.scale_tril)))


def push_score(f: Whitening, u: Array, score: Array) -> Array:
    """∇log q(z) of the pushed density from ∇log p(u): J⁻ᵀ(∇log p − ∇log|det J|), stage by stage."""
    v, log_slope, change = _tail(f, u)
    s = _log_scales(f, v)
    scales = jnp.exp(s)
    mixing = jnp.tril(f.mixing, -1)
    slopes = jnp.tril(f.scale_slopes, -1) + jnp.tril(f.scale_bends, -1) * (v / jnp.sqrt(1 + v**2))
    slopes = slopes * ((1 - (s / _BOUND) ** 4) ** 1.25)[:, None]  # ∂s/∂v, the soft bound included
    inner = jnp.eye(len(u), dtype=u.dtype) + scales[:, None] * mixing
    jacobian = scales[:, None] * (inner + (2 * _shifted(f, v, scales) - v)[:, None] * slopes)
    v_score = (score - change) * jnp.exp(-log_slope) - jnp.sum(slopes, axis=0)
    return solve_triangular(f.scale_tril, solve_triangular(jacobian, v_score, lower=True, trans=1), lower=True, trans=1)


def influence(f: Whitening) -> Array:
    """How strongly each coordinate acts on the log scales of those after it: a norm over them, shape (D,)."""
    return jnp.sqrt(jnp.sum(jnp.tril(f.scale_slopes, -1) ** 2 + jnp.tril(f.scale_bends, -1) ** 2, axis=0))


def rules(f: Whitening, least: float) -> Array:
    """Whether some coordinates have an influence of at least so much on others, and no more than half of all nearly so.

    Noise spreads evenly: in 60 independent coordinates with long tails all of them seem to have some. With `least` = 0
    any influence will do.
    """
    each = influence(f)
    top = jnp.max(each)
    return (top >= least) & ((least == 0) | (jnp.sum(each > 0.5 * top) <= max(1, len(each) // 2)))


def fit(
    target: LogDensity,
    rng_key: Array,
    start: Whitening,
    num_iterations: int = NUM_ITERATIONS,
    batch_size: int = BATCH_SIZE,
    least_influence: float = 0.0,
    least_tail: float = jnp.inf,
) -> tuple[Whitening, Array]:
    """Minimise the reverse KL by path gradients with Adam, from an affine `start`.

    The path gradient vanishes for every batch where the fit is exact, so an exact affine start stays as it is. Where no
    coordinate has come to a `least_influence` after a tenth of the iterations, the conditional scales and shifts are
    given up and the tails alone are fitted on, if any of them has come to `least_tail`.

    Returns:
        The fitted map, and the number of iterations.
    """
    dim = start.shift.shape[0]
    zero = jnp.zeros_like(start.scale_tril)
    origin = affine(jnp.zeros_like(start.shift), zero)
    params, unravel = ravel_pytree(origin)
    lowest = jax.tree.map(lambda leaf: jnp.full_like(leaf, -jnp.inf), origin)
    lowest, _ = ravel_pytree(lowest._replace(tails=origin.tails))
    every = jax.tree.map(jnp.ones_like, origin)
    elementwise, _ = ravel_pytree(every._replace(scale_slopes=zero, scale_bends=zero, mixing=zero, offset=zero[0]))
    schedule = optax.cosine_decay_schedule(min(0.02, 0.1 / dim**0.5), num_iterations, 0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule, eps=1e-4))

    def loss(params: Array, u: Array) -> Array:
        relative = _relative(unravel(params))
        f = lax.stop_gradient(_resolve(relative, start))
        z = jax.vmap(lambda u: apply(f, u))(u)
        score = jax.vmap(lambda u: push_score(f, u, -u))(u)
        # in the coordinates of the start, so that badly scaled targets are as easy as any
        value, grad = jax.vmap(target.value_and_grad)(z)
        # where the density vanishes or overflows there is no gradient: draw the map in, as in `gaussians/dense.py`
        force = jnp.where(value[:, None] > -jnp.inf, score - grad, -score) @ start.scale_tril
        force = jnp.where(jnp.all(jnp.isfinite(force), axis=1, keepdims=True), force, 0.0)
        length = jnp.linalg.norm(force, axis=1, keepdims=True)
        # a tight cap would let tails grow too long: their far draws are few, and only their forces hold them back
        force = lax.stop_gradient(force * jnp.minimum(1.0, 1000 * jnp.median(length) / (length + 1e-30)))
        moved = jax.vmap(lambda u: apply(relative, u))(u)
        return jnp.mean(jnp.sum(force * moved, axis=1))

    def body(carry: tuple) -> tuple:
        i, params, average, state = carry
        kept = jnp.where((i < first) | rules(unravel(average), least_influence), 1.0, elementwise)
        grads = jax.grad(loss)(params * kept, random.normal(keys[i], (batch_size, dim), params.dtype))
        updates, state = optimizer.update(jnp.where(jnp.isfinite(grads), grads, 0.0), state)
        params = jnp.maximum(params + jnp.asarray(updates), lowest) * kept
        return i + 1, params, (0.98 * average + 0.02 * params) * kept, state

    def cond(carry: tuple) -> Array:
        i, _, average, _ = carry
        f = unravel(average)
        promising = (i < first) | rules(f, least_influence) | (jnp.max(f.tails) >= least_tail)
        return (i < num_iterations) & promising

    first, keys = num_iterations // 10, random.split(rng_key, num_iterations)
    num, _, average, _ = lax.while_loop(cond, body, (jnp.array(0), params, params, optimizer.init(params)))
    return _resolve(_relative(unravel(average)), start), num


def _relative(raw: Whitening) -> Whitening:
    """The map in the coordinates of the start, from free parameters: the diagonal of the factor as its log."""
    diagonal = jnp.diag(jnp.exp(jnp.diagonal(raw.scale_tril)))
    return raw._replace(scale_tril=jnp.tril(raw.scale_tril, -1) + diagonal)


def _resolve(relative: Whitening, start: Whitening) -> Whitening:
    """The same map in the target's coordinates."""
    return relative._replace(
        shift=start.shift + start.scale_tril @ relative.shift, scale_tril=start.scale_tril @ relative.scale_tril
    )
