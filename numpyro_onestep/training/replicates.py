"""Compiled training of one flow, or of several at once on a leading axis of `TrainState`."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.util import is_prng_key

from numpyro_onestep.compilation import jit, jit_once
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.training import loop as train
from numpyro_onestep.training.loop import TrainConfig, TrainState
from numpyro_onestep.training.losses import Problem

__all__ = ["advance", "init", "resume"]


@partial(jit_once, static_argnames=("config", "num_iterations", "num_blocks", "width"))
def init(
    keys: Array, problem: Problem, config: TrainConfig, num_iterations: int, num_blocks: int, width: int
) -> TrainState:
    """`train.init` of one key, or of several."""
    start = lambda key: train.init(key, problem, config, num_iterations, num_blocks, width)  # noqa: E731
    return start(keys) if is_prng_key(keys) else jax.vmap(start)(keys)


@partial(jit, static_argnames=("config",))
def resume(state: TrainState, network: StepNetwork, problem: Problem, config: TrainConfig) -> TrainState:
    """`train.resume` of every flow from its own network."""
    step = partial(train.resume, problem=problem, config=config)
    return step(state, network) if jnp.ndim(state.iteration) == 0 else jax.vmap(step)(state, network)


@partial(jit, static_argnames=("config",))
def advance(state: TrainState, problem: Problem, config: TrainConfig, num_iterations: int | Array) -> TrainState:
    """`train.advance` of every flow."""
    step = partial(train.advance, problem=problem, config=config, num_iterations=num_iterations)
    return step(state) if jnp.ndim(state.iteration) == 0 else jax.vmap(step)(state)
