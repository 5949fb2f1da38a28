"""The flow as a density: exact log weights of its draws, and log q at any point by the exact inverse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.flow.scores import Reference

__all__ = ["Flow", "PulledBack", "log_prob", "log_weights"]


class Flow(NamedTuple):
    """A trained map: the network, and the base and target that it goes between."""

    network: StepNetwork
    problem: Problem


class PulledBack(NamedTuple):
    """The target on the base's coordinates, π̃(x) = γ(T(x)) |det ∂T/∂x|: as near to p0 as the flow is to the target.

    A density like any other, with the same log Z, and the flatter against p0 the better the flow.

    Attributes:
        blocks: of the map.
        problem: base and target.
        near: draws near which the gradient is to be had for less, and not quite exact; None where it is.
    """

    blocks: BlockParams
    problem: Problem
    near: Reference | None = None

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Log π̃(x) of one point and its gradient; −inf and zero where they are not finite."""
        value, grad = steps.pull_back(self.blocks, x, self.problem.target.value_and_grad, self.near)
        ok = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf), jnp.where(ok, grad, 0.0)

    def carry(self, x: Array, log_target: Array) -> tuple[Array, Array]:
        """The unconstrained point of `x`, shape (D,), and −log γ there, from log π̃(x)."""
        base = self.problem.base
        y, log_det = steps.forward_and_log_det(self.blocks, x)
        return base_.unwhiten(base, y), log_det + base_.whitening_log_det(base, y) - log_target


def log_weights(network: StepNetwork, problem: Problem, x0: Array, num_steps: int) -> tuple[Array, Array]:
    """Deterministic-flow log weights of base draws (arXiv 2512.05251), with exact log-determinants.

    log w = log γ(x_T) − log p0(x_0) + Σ log|det ∂x'/∂x|, constants included, so that log mean w estimates log Z.

    Args:
        network: the network.
        problem: base and target.
        x0: base draws in whitened coordinates, shape (N, D).
        num_steps: the budget.

    Returns:
        End points in whitened coordinates (N, D) and log weights (N,); nan where a step is not injective, −inf where
        the target has no density.
    """
    blocks = steps.blocks_of(network, num_steps)

    def one(x: Array) -> tuple[Array, Array]:
        y, log_det = steps.forward_and_log_det(blocks, x)
        return y, problem.target.value(y) - base_.log_prob(problem.base, x) + log_det

    return jax.vmap(one)(x0)


def log_prob(base: Base, blocks: BlockParams, z: Array) -> Array:
    """Log density of the flow at one unconstrained point, by its exact inverse; nan where that does not return."""
    u = base_.whiten_point(base, z)
    x = steps.inverse(blocks, u)
    back, log_det = steps.forward_and_log_det(blocks, x)
    returned = jnp.max(jnp.abs(back - u)) < 1e-3 * (1 + jnp.max(jnp.abs(u)))
    return jnp.where(returned, base_.log_prob(base, x) - log_det - base_.whitening_log_det(base, u), jnp.nan)
