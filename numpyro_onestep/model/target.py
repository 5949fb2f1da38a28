"""The target: log γ on a flat unconstrained vector, guarded against values that are not finite."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.function import ModelFunction, plain

__all__ = [
    "COSTLY_DIM",
    "DENSE_DIM",
    "HEAVY_WORK",
    "LARGE_DIM",
    "LogDensity",
    "Target",
    "derivatives",
    "safe_log_density",
    "values",
]

HEAVY_WORK = 300_000  # numbers that an evaluation computes, from which every gradient is thought of twice
COSTLY_DIM = 64  # above it a matrix of D×D numbers for each draw or start is thought of twice
DENSE_DIM = 512  # above it there is no matrix of D×D numbers at all
LARGE_DIM = 256  # above it Hessians, several Gaussian fits at once and wide networks cost too much


class LogDensity(Protocol):
    """log γ on R^D and its derivatives, for one point of shape (D,).

    A non-finite density is reported as −inf and its gradient as zero, so that an overflow costs a draw its weight and
    training one sample, never the run.
    """

    def value(self, x: Array, /) -> Array:
        """Log γ(x)."""
        ...

    def value_and_grad(self, x: Array, /) -> tuple[Array, Array]:
        """Log γ(x) and its gradient."""
        ...

    def derivatives(self, x: Array, /) -> tuple[Array, Array, Array]:
        """Log γ(x), its gradient and its Hessian."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Target:
    """A `LogDensity` on the unconstrained space, and a pytree, so that compiled functions take it as an argument."""

    log_density: ModelFunction
    forward_mode: bool = field(default=False, metadata={"static": True})
    reverse_only: bool = field(default=False, metadata={"static": True})
    work: int = field(default=0, metadata={"static": True})  # about how many numbers one evaluation computes
    hessians: bool = field(default=True, metadata={"static": True})  # whether they can be had at a reasonable cost

    def value(self, x: Array) -> Array:
        """Log γ(x)."""
        v: Array = self.log_density(x)
        return jnp.where(jnp.isfinite(v), v, -jnp.inf)

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Log γ(x) and its gradient, by forward mode where reverse mode is impossible."""
        v: Array
        g: Array
        if self.forward_mode:
            v, g = self.log_density(x), jax.jacfwd(self.log_density)(x)
        else:
            v, g = jax.value_and_grad(self.log_density)(x)
        ok = jnp.isfinite(v) & jnp.all(jnp.isfinite(g))
        return jnp.where(jnp.isfinite(v), v, -jnp.inf), jnp.where(ok, g, 0.0)

    def derivatives(self, x: Array) -> tuple[Array, Array, Array]:
        """Log γ(x), its gradient and its Hessian; that by reverse mode too where forward mode fails, as in `odeint`."""
        return derivatives(self, x, jax.jacrev if self.reverse_only else jax.jacfwd)


@jit_once
def values(target: Target, x: Array) -> Array:
    """Log γ at points of shape (N, D)."""
    return jax.vmap(target.value)(x)


def derivatives(density: LogDensity, x: Array, jacobian: Callable = jax.jacfwd) -> tuple[Array, Array, Array]:
    """Value, gradient and Hessian of a density at one point, from one pass through its gradient."""

    def grad(x: Array) -> tuple[Array, tuple[Array, Array]]:
        value, grad = density.value_and_grad(x)
        return grad, (value, grad)

    hessian, (value, grad_there) = jacobian(grad, has_aux=True)(x)
    return value, grad_there, hessian


def safe_log_density(log_density: Callable[[Array], Array], forward_mode: bool = False) -> Target:
    """Guard `log_density` against non-finite values; differentiate by forward mode where reverse mode is impossible."""
    known = isinstance(log_density, ModelFunction)
    return Target(log_density if known else plain(log_density), forward_mode)
