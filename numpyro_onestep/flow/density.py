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

__all__ = ["Flow", "log_prob", "log_weights"]


class Flow(NamedTuple):
    """A trained map: the network, and the base and target that it goes between."""

    network: StepNetwork
    problem: Problem


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
