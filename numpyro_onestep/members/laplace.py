"""Coordinates in which members are whitened by the Laplace approximation of their density given the rest.

    x = m(θ) + L(θ)⁻ᵀ u,    m(θ) ≈ argmax_x log γ(θ, x),    L Lᵀ = −∇²ₓ log γ(θ, m),

with x the members, θ the rest, and v = (θ, u) the new coordinates. For each θ the map is linear in u, so it is
injective, and log|det ∂(θ, x)/∂(θ, u)| = −Σ log L_ii is exact however near m is to the mode. Where γ is normal in x
given θ, u is standard normal and independent of θ, through every neck (cf. Rue, Martino and Chopin 2009, where θ is
integrated over a grid). Since members depend on near ones alone, L is banded, and all costs are linear in their number.

Every function is of one point. A `log_density` is a pytree that maps flat vectors (D,) to log γ.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from numpyro_onestep.members import banded

__all__ = [
    "NEAR",
    "FlatDensity",
    "Members",
    "apply",
    "conditional",
    "derivatives",
    "factor_of",
    "inverse",
    "marginal",
    "marginal_and_mode",
    "newton",
    "same_members",
    "shortened",
]

_FLOOR = 2e-5  # of pivots, relative to the diagonal
_LEAST = 1e-12  # the same, relative to the diagonal at the start
_FARTHEST = 2.0  # of one of Newton's steps, in standard deviations
NEAR = 1e-6  # squared distance from the mode, in standard deviations, all members together
_MAX_STEPS = 15

FlatDensity = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Members:
    """Which coordinates are members, and where their modes are looked for.

    Attributes:
        rest: indices of θ, shape (p,).
        members: indices of x, shape (n,).
        theta: near the mode of log ∫ γ(θ, x) dx, as far as Laplace's approximation tells, shape (p,).
        start: m(θ) there, from which Newton's steps towards all other modes set out, shape (n,).
        precision: diagonal of −∇²ₓ log γ there, shape (n,).
        bandwidth: of −∇²ₓ log γ.
        quadratic: whether log γ is quadratic in x, so that one of Newton's steps leads to the mode.
    """

    rest: Array
    members: Array
    theta: Array
    start: Array
    precision: Array
    bandwidth: int = field(metadata={"static": True})
    quadratic: bool = field(metadata={"static": True})

    @property
    def cost(self) -> int:
        """Of a log density on v in evaluations of that on the flat vector, about."""
        return 1 + (1 if self.quadratic else 5) * (3 + 4 * (2 * self.bandwidth + 1))

    def join(self, theta: Array, x: Array) -> Array:
        """The flat point."""
        flat = jnp.zeros(len(theta) + len(x), x.dtype)
        return flat.at[self.rest].set(theta).at[self.members].set(x)


def same_members(one: Members | None, other: Members | None) -> bool:
    """Whether the same coordinates are whitened in the same order, wherever their modes are looked for."""
    if one is None or other is None:
        return one is other
    indices = ((one.rest, other.rest), (one.members, other.members))
    return one.bandwidth == other.bandwidth and all(np.array_equal(a, b) for a, b in indices)


def apply(log_density: FlatDensity, members: Members, v: Array) -> tuple[Array, Array]:
    """The flat point of the coordinates v, shape (D,), and log|det| of the map there."""
    theta, u = jnp.split(v, [len(members.rest)])
    mode, factor = conditional(log_density, members, theta)
    return members.join(theta, mode + banded.solve_transposed(factor, u)), -jnp.sum(jnp.log(factor[:, 0]))


def inverse(log_density: FlatDensity, members: Members, z: Array) -> Array:
    """The coordinates v of a flat point, shape (D,)."""
    theta = z[members.rest]
    mode, factor = conditional(log_density, members, theta)
    return jnp.concatenate([theta, banded.times_transposed(factor, z[members.members] - mode)])


def marginal(log_density: FlatDensity, members: Members, theta: Array) -> Array:
    """Laplace's approximation of log ∫ γ(θ, x) dx."""
    return marginal_and_mode(log_density, members, theta)[0] + 0.5 * len(members.start) * np.log(2 * np.pi)


def marginal_and_mode(log_density: FlatDensity, members: Members, theta: Array) -> tuple[Array, Array]:
    """The same but for its constant, and m(θ), shape (n,)."""
    mode, factor = conditional(log_density, members, theta)
    return log_density(members.join(theta, mode)) - jnp.sum(jnp.log(factor[:, 0])), mode


def conditional(log_density: FlatDensity, members: Members, theta: Array) -> tuple[Array, Array]:
    """m(θ), shape (n,), and L(θ), banded.

    The derivative of m is that of one step at the mode, which is exact there, so nothing else is differentiated.
    """
    if members.quadratic:
        grad, precision = derivatives(log_density, members, theta, members.start)
        factor = factor_of(members, precision)
        return members.start + newton(factor, grad), factor
    still = lax.stop_gradient(theta)

    def body(carry: tuple) -> tuple:
        x, before, _, _, i = carry
        grad, precision = derivatives(log_density, members, still, x)
        factor = factor_of(members, precision)
        step = shortened(members, factor, newton(factor, grad), before)
        return x + step, step, factor, jnp.sum(banded.times_transposed(factor, step) ** 2), i + 1

    def cond(carry: tuple) -> Array:
        return (carry[3] > NEAR) & (carry[4] < _MAX_STEPS)

    unknown = jnp.ones((len(members.start), members.bandwidth + 1), theta.dtype)
    far = jnp.array(jnp.inf, theta.dtype)
    x, _, factor, _, _ = lax.while_loop(cond, body, (members.start, jnp.zeros_like(members.start), unknown, far, 0))
    x, factor = lax.stop_gradient((x, factor))
    grad = jax.grad(lambda x: log_density(members.join(theta, x)))(x)
    mode = x + shortened(members, factor, newton(factor, grad), jnp.zeros_like(x))
    return mode, factor_of(members, derivatives(log_density, members, theta, mode)[1])


def newton(factor: Array, grad: Array) -> Array:
    """Newton's step, none where it is not finite."""
    step = banded.solve_transposed(factor, banded.solve(factor, grad))
    return jnp.where(jnp.isfinite(step), step, 0.0)


def shortened(members: Members, factor: Array, step: Array, before: Array) -> Array:
    """The step, each member's by two standard deviations at most, and by half of the last one where it turns around.

    Of the standard deviations here and at the start the larger one counts.
    """
    sd = jnp.maximum(1 / jnp.sqrt(members.precision), 1 / factor[:, 0])
    longest = jnp.where(step * before < 0, 0.5 * jnp.abs(before), _FARTHEST * sd)
    return jnp.clip(step, -longest, longest)


def factor_of(members: Members, precision: Array) -> Array:
    """The factor of a banded −∇²ₓ log γ, its pivots kept above a share of the diagonal."""
    return banded.cholesky(precision, _FLOOR * jnp.abs(precision[:, 0]) + _LEAST * members.precision)[0]


def derivatives(log_density: FlatDensity, members: Members, theta: Array, x: Array) -> tuple[Array, Array]:
    """∇ₓ log γ, and the banded −∇²ₓ log γ.

    That from its products with 2w + 1 vectors, each the sum of columns that share no row.
    """
    num, width = len(x), members.bandwidth
    colors = np.arange(num) % (2 * width + 1)
    sums = jnp.asarray(colors == np.arange(2 * width + 1)[:, None], x.dtype)
    grad, product = jax.linearize(jax.grad(lambda x: log_density(members.join(theta, x))), x)
    rows = -jax.vmap(product)(sums)
    bands = [rows[np.roll(colors, k), np.arange(num)] for k in range(width + 1)]
    return grad, jnp.stack(bands, axis=1)
