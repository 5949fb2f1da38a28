"""A natural-gradient step of a `LowRank` factor, at a cost linear in the dimension.

The steps of `dense.py` need a precision matrix of D² numbers from more draws than D. Here, on coordinates in which the
Gaussian is standard normal, draws ε and the target's scores g(ε) give residuals r = g + ε with E r εᵀ = I − A, A the
target's mean precision (Stein). The residuals of fewer draws span the directions in which I − A is largest (a random
range finder; Halko, Martinsson and Tropp 2011). A is estimated by least squares on these, and each coordinate's own
scale takes a natural-gradient step for what they leave.
"""

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.gaussians import factors
from numpyro_onestep.gaussians.factors import LowRank, stretched
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import LogDensity

__all__ = ["NUM_DRAWS", "RANK", "step"]

RANK = 64  # directions of a factor
NUM_DRAWS = 256  # of a step
_LEAST = 0.01  # precision along a direction that one step believes
_FAR = 1.5  # of the logarithm of a scale


def step(target: LogDensity, q: Mixture, rng_key: Array, rate: Array) -> Mixture:
    """One natural-gradient step of a mixture of one such Gaussian."""
    factor: LowRank = jax.tree.map(lambda leaf: leaf[0], q.scale_trils)  # type: ignore[assignment]
    half = random.normal(rng_key, (NUM_DRAWS // 2, q.means.shape[1]), q.means.dtype)
    eps = jnp.concatenate([half, -half])
    z = q.means[0] + jax.vmap(lambda u: factors.times(factor, u))(eps)
    value, grad = jax.vmap(target.value_and_grad)(z)
    # where the density vanishes or overflows there is no gradient: pull the Gaussian in
    r = jax.vmap(lambda g: stretched(factor, factor.scale * g, factor.stretch))(grad) + eps
    r = jnp.where(value[:, None] > -jnp.inf, r, -eps)
    norms = jnp.linalg.norm(r, axis=1)
    r = r * jnp.minimum(1.0, 20 * jnp.median(norms) / (norms + 1e-30))[:, None]
    # what is linear in ε is odd: the residuals at ε and at −ε tell it apart from the skewness
    there, opposite = jnp.split(r, 2)
    move, new_factor = _moved(factor, half, jnp.mean(r, axis=0), 0.5 * (there - opposite), rate)
    means = q.means + factors.times(factor, move)
    new = Mixture(q.log_weights, means, jax.tree.map(lambda leaf: leaf[None], new_factor))
    ok = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), new))
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, q)


def _moved(f: LowRank, eps: Array, mean: Array, r: Array, rate: Array) -> tuple[Array, LowRank]:
    """From standard normal draws and the odd parts of the residuals there, (N, D), and the mean residual, (D,).

    Returns:
        By how much to move the mean, in the old factor's coordinates, shape (D,), and the new factor.
    """
    far_off = _far_off(f, eps, r)
    near = jnp.where(far_off == 0, r, 0.0)
    basis, a = _stiffness(eps, near)
    # Newton's step along the directions; across them one that is too short rather than too long
    own = jnp.maximum(jnp.std(r, axis=0), 1.0)
    inner = basis.T @ mean
    move = (mean - basis @ inner) / own + basis @ (inner / jnp.maximum(a, 0.25))
    rest = near - (eps @ basis * (1 - a)) @ basis.T
    scale = f.scale * jnp.exp(jnp.where(far_off == 0, rate * _log_scales(f, eps, rest), far_off))
    return rate * jnp.clip(move, -2.0, 2.0), LowRank(scale, *_joined(f, basis, a**-rate))


def _far_off(f: LowRank, eps: Array, r: Array) -> Array:
    """By how much the logarithms of those scales must change that are far from right, (D,); 0 for all others.

    Too wide are those with a large precision in A, far above its noise. Too narrow are those where the scores hardly
    vary: the standard deviations of a normal variable and of its score have a product of one, or more where it depends
    on others. Directions alone would never sort out a thousand scales.
    """
    own, noise = 1 - jnp.mean(r * eps, axis=0), jnp.std(r, axis=0) / len(eps) ** 0.5
    too_wide = (own > jnp.exp(2 * _FAR)) & (own > 5 * noise)
    z, forces = (
        jax.vmap(lambda u: factors.times(f, u))(eps),
        jax.vmap(lambda u: factors.solve_transposed(f, u))(r - eps),
    )
    growth = -0.5 * jnp.log(jnp.std(z, axis=0) * jnp.std(forces, axis=0) + 1e-30)
    change = jnp.where(growth > _FAR, jnp.minimum(growth, 5.0), 0.0)
    return jnp.where(too_wide, -0.5 * jnp.log(jnp.maximum(own, 1.0)), change)


def _stiffness(eps: Array, r: Array) -> tuple[Array, Array]:
    """Directions (D, k) of the largest residuals, and A along them (k,), one where it does not stand out of the noise.

    The largest eigenvalue of a symmetric matrix of noise is √(2k) times the noise of an entry (Wigner's semicircle).
    """
    num = len(eps)
    found = num // 4
    _, sides = jnp.linalg.eigh(r @ r.T / num)
    basis, _ = jnp.linalg.qr(r.T @ sides[:, -found:])
    along, effect = eps @ basis, r @ basis
    small = jnp.linalg.solve(along.T @ along, along.T @ effect)
    noise = jnp.sqrt(jnp.sum((effect - along @ small) ** 2) / (found * (num - found)))
    excess, axes = jnp.linalg.eigh(0.5 * (small + small.T))
    edge = noise * (2 * found / num) ** 0.5
    excess = jnp.sign(excess) * jnp.maximum(jnp.abs(excess) - edge, 0.0)
    return basis @ axes, jnp.maximum(1 - excess, _LEAST)


def _log_scales(f: LowRank, eps: Array, r: Array) -> Array:
    """A natural-gradient step of the logarithms of `f.scale`, with the Fisher information of each one alone."""
    forces = jax.vmap(lambda v: factors.solve_transposed(f, v))(r)
    offsets = jax.vmap(lambda v: factors.times(f, v))(eps)
    squares = f.directions**2
    variance, precision = 1 + squares @ (f.stretch**2 - 1), 1 + squares @ (f.stretch**-2 - 1)
    return jnp.clip(jnp.mean(forces * offsets, axis=0) / (1 + variance * precision), -0.7, 0.7)


def _joined(f: LowRank, basis: Array, squares: Array) -> tuple[Array, Array]:
    """Directions and stretch after another stretch, of these squares, along the columns of `basis`; the strongest."""
    both, _ = jnp.linalg.qr(jnp.concatenate([f.directions, basis], axis=1))
    before = jax.vmap(lambda v: stretched(f, v, f.stretch), 1, 1)(both)
    inner = basis.T @ before
    variances, axes = jnp.linalg.eigh(before.T @ before + inner.T @ ((squares - 1)[:, None] * inner))
    variances = jnp.maximum(variances, 1e-12)
    kept = jnp.argsort(-jnp.abs(jnp.log(variances)))[: len(f.stretch)]
    return both @ axes[:, kept], jnp.sqrt(variances[kept])
