"""One injective block: the gradient of a strongly convex potential, with all its derivatives in closed form.

Everything here works on one point; batch it with `jax.vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import sigmoid, softplus
from jax.scipy.linalg import solve_triangular

__all__ = [
    "BlockParams",
    "InverseJacobian",
    "Parts",
    "Slopes",
    "apply",
    "factorize",
    "inverse",
    "jacobian",
    "log_det",
    "look",
    "parts_at",
    "pull_score",
    "push_score",
]


class BlockParams(NamedTuple):
    """The parameters of one block, already conditioned on (t, d) and scaled by the step length d.

    The map is x ↦ scale∘x + shift + Vᵀ(c∘act(Vx + a)) + Σ_k s_k∘tanh(w_k∘(x − m_k)), where the first half of
    `act` is softplus and the second tanh. `scale`, `c`, `s` and `w` are positive, hence the Jacobian is symmetric
    positive definite at every x and the map is injective on all of R^D.
    """

    scale: Array  # (D,)
    shift: Array  # (D,)
    directions: Array  # V, (h, D)
    offsets: Array  # a, (h,)
    ridge: Array  # c, (h,)
    bump: Array  # s, (D, k)
    sharpness: Array  # w, (D, k)
    centers: Array  # m, (D, k)


class Parts(NamedTuple):
    """Diagonal and ridge parts of J = diag(alpha) + Vᵀ diag(g) V, with their derivatives along x_i and (Vx)_j."""

    alpha: Array
    alpha_grad: Array
    g: Array
    g_grad: Array


def _ridge_split(p: BlockParams) -> int:
    return p.offsets.shape[0] // 2


def apply(p: BlockParams, x: Array) -> Array:
    """The value of the block at `x`, shape (D,)."""
    n = _ridge_split(p)
    u = p.directions @ x + p.offsets
    act = jnp.concatenate([softplus(u[:n]), jnp.tanh(u[n:])])
    bumps = jnp.sum(p.bump * jnp.tanh(p.sharpness * (x[:, None] - p.centers)), axis=1)
    return p.scale * x + p.shift + p.directions.T @ (p.ridge * act) + bumps


def parts_at(p: BlockParams, x: Array) -> Parts:
    """Of the Jacobian at `x`."""
    n = _ridge_split(p)
    u = p.directions @ x + p.offsets
    sig, th = sigmoid(u[:n]), jnp.tanh(u[n:])
    sech2 = 1 - th**2
    g = p.ridge * jnp.concatenate([sig, sech2])
    g_grad = p.ridge * jnp.concatenate([sig * (1 - sig), -2 * th * sech2])
    th_x = jnp.tanh(p.sharpness * (x[:, None] - p.centers))
    slope = p.bump * p.sharpness * (1 - th_x**2)
    alpha = p.scale + jnp.sum(slope, axis=1)
    alpha_grad = jnp.sum(-2 * p.sharpness * th_x * slope, axis=1)
    return Parts(alpha, alpha_grad, g, g_grad)


def jacobian(p: BlockParams, x: Array) -> Array:
    """The symmetric positive definite Jacobian at `x`, shape (D, D)."""
    return _jacobian(p, parts_at(p, x))


def _squares(p: BlockParams) -> Array:
    """Outer products v vᵀ of all directions, shape (h, D²): one large matrix product under `vmap`."""
    return (p.directions[:, :, None] * p.directions[:, None, :]).reshape(len(p.directions), -1)


def _jacobian(p: BlockParams, parts: Parts) -> Array:
    dim = p.directions.shape[1]
    return jnp.diag(parts.alpha) + (parts.g @ _squares(p)).reshape(dim, dim)


class InverseJacobian(NamedTuple):
    """J⁻¹ = diag(base) + sign·FᵀF, and log|det J|: exact, from one Cholesky factor of the smaller side."""

    base: Array
    factor: Array
    sign: float
    log_det: Array

    def solve(self, b: Array) -> Array:
        """J⁻¹b for `b` of shape (D,)."""
        return self.base * b + self.sign * (self.factor.T @ (self.factor @ b))

    @property
    def diagonal(self) -> Array:
        """The diagonal of J⁻¹, shape (D,)."""
        return self.base + self.sign * jnp.sum(self.factor**2, axis=0)


def _cholesky(p: BlockParams, parts: Parts) -> tuple[Array, Array, Array]:
    """Cholesky factor of J (D ≤ h) or of I + G^½ V A⁻¹ Vᵀ G^½ (h < D), log|det J|, and the right-hand side of F."""
    h, dim = p.directions.shape
    if dim <= h:
        chol = jnp.linalg.cholesky(_jacobian(p, parts))
        return chol, 2 * jnp.sum(jnp.log(jnp.diagonal(chol))), jnp.eye(dim, dtype=chol.dtype)
    scaled = jnp.sqrt(parts.g)[:, None] * p.directions
    chol = jnp.linalg.cholesky(jnp.eye(h, dtype=scaled.dtype) + (scaled / parts.alpha) @ scaled.T)
    log_det = jnp.sum(jnp.log(parts.alpha)) + 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
    return chol, log_det, scaled / parts.alpha


def factorize(p: BlockParams, parts: Parts) -> InverseJacobian:
    """The inverse Jacobian in factored form; det(I_D + AB) = det(I_h + BA) where the width is below the dimension."""
    h, dim = p.directions.shape
    chol, log_det, rhs = _cholesky(p, parts)
    factor = solve_triangular(chol, rhs, lower=True)
    if dim <= h:
        return InverseJacobian(jnp.zeros_like(parts.alpha), factor, 1.0, log_det)
    return InverseJacobian(1 / parts.alpha, factor, -1.0, log_det)


def log_det(p: BlockParams, x: Array) -> Array:
    """log|det ∂T/∂x| at `x`, exact, every term included; nan where the Jacobian is not positive definite."""
    return _cholesky(p, parts_at(p, x))[1]


class Slopes(NamedTuple):
    """First derivatives at a point: J = diag(alpha) + Vᵀ diag(g) V, log|det J| and its gradient along x."""

    alpha: Array
    g: Array
    log_det: Array
    log_det_grad: Array


def look(p: BlockParams, x: Array) -> tuple[Slopes, InverseJacobian]:
    """The derivatives at `x`, and J⁻¹, all in closed form: ∇log|det J| = Σ over alpha and g of tr(J⁻¹ ∂J)."""
    parts = parts_at(p, x)
    inv = factorize(p, parts)
    inv_ridge = _inverse_quadratic(p, inv)
    log_det_grad = inv.diagonal * parts.alpha_grad + p.directions.T @ (parts.g_grad * inv_ridge)
    return Slopes(parts.alpha, parts.g, inv.log_det, log_det_grad), inv


def push_score(p: BlockParams, x: Array, score: Array) -> tuple[Array, Array, Array]:
    """Carry a sample and the score of its density through the block.

    With y = T(x) and q the pushed density, ∇log q(y) = J⁻ᵀ(∇log p(x) − ∇ₓ log|det J(x)|).

    Returns:
        y, its score (both (D,)), and log|det J(x)|.
    """
    slopes, inv = look(p, x)
    return apply(p, x), inv.solve(score - slopes.log_det_grad), slopes.log_det


def pull_score(p: BlockParams, slopes: Slopes, score: Array) -> Array:
    """Carry the score of a density at y = T(x) back to x: ∇ₓ[log π(T(x)) + log|det J(x)|] = J∇log π(y) + ∇log|det J|.

    The counterpart of `push_score`; J is symmetric.
    """
    along = p.directions.T @ (slopes.g * (p.directions @ score))
    return slopes.alpha * score + along + slopes.log_det_grad


def _inverse_quadratic(p: BlockParams, inv: InverseJacobian) -> Array:
    """Quadratic forms vᵀJ⁻¹v of all directions, shape (h,)."""
    h, dim = p.directions.shape
    if dim <= h:
        return _squares(p) @ (inv.factor.T @ inv.factor).ravel()
    projected = inv.factor @ p.directions.T
    return (p.directions**2) @ inv.base - jnp.sum(projected**2, axis=0)


def inverse(p: BlockParams, y: Array, max_iterations: int = 60) -> Array:
    """Solve T(x) = y by damped Newton: a strongly convex problem with one solution for every y.

    Args:
        p: the block.
        y: the value, shape (D,).
        max_iterations: Newton steps at most; each tries eight step lengths and keeps the best residual.
    """
    tol = 8 * jnp.finfo(y.dtype).eps
    lengths = 0.5 ** jnp.arange(8, dtype=y.dtype)

    def residual(x: Array) -> Array:
        return jnp.sum((y - apply(p, x)) ** 2)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, error, i = carry
        step = factorize(p, parts_at(p, x)).solve(y - apply(p, x))
        trials = x + lengths[:, None] * step
        errors = jax.vmap(residual)(trials)
        best = jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))
        better = errors[best] < error
        x = jnp.where(better, trials[best], x)
        return x, jnp.where(better, errors[best], error), jnp.where(better, i + 1, max_iterations)

    def cond(carry: tuple[Array, Array, Array]) -> Array:
        _, error, i = carry
        return (i < max_iterations) & (error > (tol * (1 + jnp.linalg.norm(y))) ** 2)

    start = (y - p.shift) / jnp.sqrt(p.scale)
    x, _, _ = lax.while_loop(cond, body, (start, residual(start), jnp.array(0)))
    return x
