"""The n-step map: value, exact log-determinant (nan at a fold), score and inverse."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.flow import block, scores
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.flow.scores import Reference

__all__ = [
    "blocks_of",
    "check_num_steps",
    "compiled_blocks_of",
    "forward",
    "forward_and_log_det",
    "inverse",
    "own_steps",
    "pull_back",
    "push_score",
]


def blocks_of(network: StepNetwork, num_steps: int) -> BlockParams:
    """The blocks of a budget of `num_steps` evaluations, d = 1/num_steps, stacked in the order of application."""
    d = jnp.asarray(1.0 / num_steps)
    times = 1.0 - d * jnp.arange(num_steps)
    stacked = jax.vmap(network.step, in_axes=(0, None))(times, d)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stacked)


def own_steps(network: StepNetwork, num_steps: int) -> int:
    """Of a budget of evaluations those that the map itself takes: all where it was refined for so many, else one."""
    return num_steps if num_steps <= 2**network.num_levels else 1


@partial(jit_once, static_argnames=("num_steps",))
def compiled_blocks_of(network: StepNetwork, num_steps: int) -> BlockParams:
    """The blocks of the map itself in a budget of evaluations, for callers that are not compiled themselves."""
    return blocks_of(network, own_steps(network, num_steps))


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


def pull_back(
    blocks: BlockParams,
    x: Array,
    value_and_grad: Callable[[Array], tuple[Array, Array]],
    near: Reference | None = None,
) -> tuple[Array, Array]:
    """Log π(T(x)) + log|det ∂T/∂x| of one base point and its gradient, with one evaluation of log π and ∇log π.

    The value is exact; the gradient too, unless `near` says near which draws: it is a function of the point, close to
    the gradient, and costs less.
    """

    def forward(x: Array, at: tuple[BlockParams, Reference | None]) -> tuple[Array, block.Slopes]:
        p, near = at
        if near is None:
            return block.apply(p, x), block.look(p, x)[0]
        parts = block.parts_at(p, x)
        grad = scores.log_det_grad(p, near.means, parts, near.signs)
        return block.apply(p, x), block.Slopes(parts.alpha, parts.g, block.log_det(p, x), grad)

    def back(score: Array, at: tuple[BlockParams, block.Slopes]) -> tuple[Array, None]:
        return block.pull_score(*at, score), None

    y, slopes = lax.scan(forward, x, (blocks, near))
    value, score = value_and_grad(y)
    score, _ = lax.scan(back, score, (blocks, slopes), reverse=True)
    return value + jnp.sum(slopes.log_det), score


def inverse(blocks: BlockParams, y: Array) -> Array:
    """The base point whose x_T is `y`, by damped Newton block by block."""
    return lax.scan(lambda y, p: (block.inverse(p, y), None), y, blocks, reverse=True)[0]


def check_num_steps(num_steps: Any, name: str = "`num_steps`") -> int:
    """`num_steps` as an integer; ValueError unless it is a power of two up to 128."""
    try:
        number = operator.index(num_steps)
    except TypeError:
        number = 0
    if number not in {2**k for k in range(8)}:
        raise ValueError(f"{name} must be a power of two from 1 to 128 (1, 2, 4, 8, …), not {num_steps!r}.")
    return number
