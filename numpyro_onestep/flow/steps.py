"""The n-step map: value, exact log-determinant (nan at a fold), score and inverse."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.flow import block
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.network import StepNetwork

__all__ = [
    "blocks_of",
    "check_num_steps",
    "compiled_blocks_of",
    "forward",
    "forward_and_log_det",
    "inverse",
    "push_score",
]


def blocks_of(network: StepNetwork, num_steps: int) -> BlockParams:
    """The blocks of a budget of `num_steps` evaluations, d = 1/num_steps, stacked in the order of application."""
    d = jnp.asarray(1.0 / num_steps)
    times = 1.0 - d * jnp.arange(num_steps)
    stacked = jax.vmap(network.step, in_axes=(0, None))(times, d)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)


compiled_blocks_of = jit_once(blocks_of, static_argnames=("num_steps",))  # for callers that are not compiled themselves


def forward(blocks: BlockParams, x: Array) -> Array:
    """x_T of one base point `x`, shape (D,)."""
    return lax.scan(lambda x, p: (block.apply(p, x), None), x, blocks)[0]


def forward_and_log_det(blocks: BlockParams, x: Array) -> tuple[Array, Array]:
    """x_T of one base point and Σ log|det ∂x'/∂x| over its steps (nan if a Jacobian is not positive definite)."""

    def body(x: Array, p: BlockParams) -> tuple[Array, Array]:
        return block.apply(p, x), block.log_det(p, x)

    y, log_dets = lax.scan(body, x, blocks)
    return y, jnp.sum(log_dets)


def push_score(blocks: BlockParams, x: Array, score: Array) -> tuple[Array, Array, Array]:
    """x_T, ∇log q(x_T) and the log-determinant, from a base point and ∇log p0 there."""

    def body(carry: tuple[Array, Array], p: BlockParams) -> tuple[tuple[Array, Array], Array]:
        x, score, log_det = block.push_score(p, *carry)
        return (x, score), log_det

    (y, score), log_dets = lax.scan(body, (x, score), blocks)
    return y, score, jnp.sum(log_dets)


def inverse(blocks: BlockParams, y: Array) -> Array:
    """The base point whose x_T is `y`, by damped Newton block by block."""
    return lax.scan(lambda y, p: (block.inverse(p, y), None), y, blocks, reverse=True)[0]


def check_num_steps(num_steps: int) -> None:
    """Raise ValueError unless `num_steps` is a power of two up to 128."""
    if not isinstance(num_steps, int) or num_steps not in {2**k for k in range(8)}:
        raise ValueError(f"`num_steps` must be a power of two from 1 to 128 (1, 2, 4, 8, …), not {num_steps!r}.")
