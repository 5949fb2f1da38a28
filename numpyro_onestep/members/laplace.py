"""Coordinates in which members are whitened by the Laplace approximation of their density given the rest.

    x = m(θ) + L(θ)⁻ᵀ u,    m(θ) = s + L⁻ᵀL⁻¹ ∇ₓ log γ(θ, s),    L Lᵀ = −∇²ₓ log γ(θ, s),    s = s(θ)

with x the members, θ the rest, and v = (θ, u) the new coordinates: one of Newton's steps towards the mode of x given θ,
from where it is expected, s, which is linear in θ. For each θ the map is linear in u, so it is injective, and
log|det ∂(θ, x)/∂(θ, u)| = −Σ log L_ii is exact however near m is to the mode. Where x are the components of coordinates
in another basis, its log|det| is added. Where γ is normal in x
given θ, u is standard normal and independent of θ, through every neck (cf. Rue, Martino and Chopin 2009, where θ is
integrated over a grid). Since members depend on near ones alone, L is banded, and all costs are linear in their number.

Every function is of one point. A `log_density` is a pytree that maps flat vectors (D,) to log γ.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_onestep.members import banded

__all__ = [
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
]

_FLOOR = 2e-5  # of pivots, relative to the diagonal
_LEAST = 1e-12  # the same, relative to the diagonal at the start
_FARTHEST_START = 2.0  # standard deviations between where a mode is expected and where it is for the θ in the middle

FlatDensity = Callable[[Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Members:
    """Which coordinates are members, and where their modes are looked for.

    Attributes:
        rest: indices of θ, shape (p,).
        members: indices of x, shape (n,).
        theta: near the mode of log ∫ γ(θ, x) dx, as far as Laplace's approximation tells, shape (p,).
        start: the mode of x there, shape (n,).
        slope: by how much it moves with θ there, shape (n, p); (n, 0) where any start will do, log γ being quadratic.
        precision: diagonal of −∇²ₓ log γ there, shape (n,).
        bandwidth: of −∇²ₓ log γ.
        basis: x are the components in this basis of the coordinates `members`, shape (n, n); None for these themselves.
        log_volume: log|det| of the basis.
    """

    rest: Array
    members: Array
    theta: Array
    start: Array
    slope: Array
    precision: Array
    bandwidth: int = field(metadata={"static": True})
    basis: Array | None = None
    log_volume: Array | float = 0.0

    @property
    def cost(self) -> int:
        """Of a log density on v in evaluations of that on the flat vector, about."""
        return 4 + 4 * (2 * self.bandwidth + 1)

    def expected(self, theta: Array) -> Array:
        """Where the mode of x given θ is expected, shape (n,)."""
        farthest = _FARTHEST_START / jnp.sqrt(self.precision)
        moved = self.slope @ (theta - self.theta)[: self.slope.shape[1]]
        return self.start + jnp.clip(moved, -farthest, farthest)

    def join(self, theta: Array, x: Array) -> Array:
        """The flat point."""
        flat = jnp.zeros(len(theta) + len(x), x.dtype)
        return flat.at[self.rest].set(theta).at[self.members].set(x if self.basis is None else self.basis @ x)

    def part(self, z: Array) -> tuple[Array, Array]:
        """θ and x of a flat point."""
        x = z[self.members]
        return z[self.rest], x if self.basis is None else jnp.linalg.solve(self.basis, x)


def same_members(one: Members | None, other: Members | None) -> bool:
    """Whether the same coordinates are whitened in the same order, along axes or not; wherever their modes are."""
    if one is None or other is None:
        return one is other
    indices = ((one.rest, other.rest), (one.members, other.members))
    alike = one.bandwidth == other.bandwidth and (one.basis is None) == (other.basis is None)
    return alike and all(np.array_equal(a, b) for a, b in indices)


def apply(log_density: FlatDensity, members: Members, v: Array) -> tuple[Array, Array]:
    """The flat point of the coordinates v, shape (D,), and log|det| of the map there."""
    theta, u = jnp.split(v, [len(members.rest)])
    mode, factor = conditional(log_density, members, theta)
    log_det = members.log_volume - jnp.sum(jnp.log(factor[:, 0]))
    return members.join(theta, mode + banded.solve_transposed(factor, u)), log_det


def inverse(log_density: FlatDensity, members: Members, z: Array) -> Array:
    """The coordinates v of a flat point, shape (D,)."""
    theta, x = members.part(z)
    mode, factor = conditional(log_density, members, theta)
    return jnp.concatenate([theta, banded.times_transposed(factor, x - mode)])


def marginal(log_density: FlatDensity, members: Members, theta: Array) -> Array:
    """Laplace's approximation of log ∫ γ(θ, x) dx."""
    return marginal_and_mode(log_density, members, theta)[0] + 0.5 * len(members.start) * np.log(2 * np.pi)


def marginal_and_mode(log_density: FlatDensity, members: Members, theta: Array) -> tuple[Array, Array]:
    """The same but for its constant, and m(θ), shape (n,)."""
    mode, factor = conditional(log_density, members, theta)
    return log_density(members.join(theta, mode)) + members.log_volume - jnp.sum(jnp.log(factor[:, 0])), mode


def conditional(log_density: FlatDensity, members: Members, theta: Array) -> tuple[Array, Array]:
    """m(θ), shape (n,), and L(θ), banded."""
    start = members.expected(theta)
    grad, precision = derivatives(log_density, members, theta, start)
    factor = factor_of(members, precision)
    return start + newton(factor, grad), factor


def newton(factor: Array, grad: Array) -> Array:
    """Newton's step, none where it is not finite."""
    step = banded.solve_transposed(factor, banded.solve(factor, grad))
    return jnp.where(jnp.isfinite(step), step, 0.0)


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
