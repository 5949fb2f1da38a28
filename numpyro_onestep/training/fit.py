"""From a problem, a plan and a key to a trained flow: compiled training of one flow or of several at once.

Several have a leading axis of flows in `TrainState`.
"""

import itertools
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.util import is_prng_key
from tqdm.auto import tqdm

from numpyro_onestep.base.problem import Problem
from numpyro_onestep.compilation import compile_ahead, jit, jit_once, shapes_of
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.training import loop
from numpyro_onestep.training.evaluation import describe
from numpyro_onestep.training.plan import FIRST_ROUND, Plan
from numpyro_onestep.training.state import TrainState

__all__ = ["advance", "expect", "fit", "resume", "start"]

_NUM_BLOCKS = 20  # progress updates of one training; the host reads the state only between them
_LONGEST_BLOCK = 15.0  # seconds, from which the next one has half as many iterations


def start(rng_key: Array, problem: Problem, plan: Plan, num_iterations: int) -> TrainState:
    """The untrained flow on the problem's base, or as many as the plan has replicates."""
    keys = random.split(rng_key, plan.num_replicates) if plan.num_replicates > 1 else rng_key
    return _init(keys, problem, plan, num_iterations)


def expect(rng_key: Array, problem: Problem, plan: Plan, num_iterations: int) -> Callable[[], StepNetwork]:
    """Compile `start` and `fit` in a second thread for a problem of these shapes; returns what tells a network's."""
    keys = random.split(rng_key, plan.num_replicates) if plan.num_replicates > 1 else rng_key
    start = keys, problem, plan, num_iterations
    state = lambda: shapes_of(_init, *start)  # noqa: E731
    compile_ahead(_init, lambda: start)
    compile_ahead(advance, lambda: (state(), problem, plan, _block(num_iterations)))
    drop = int(plan.num_replicates > 1)
    return lambda: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[drop:], leaf.dtype), state().best)


def fit(
    trained: TrainState,
    problem: Problem,
    plan: Plan,
    progress_bar: bool,
    before: StepNetwork | None = None,
    watch: Callable[[TrainState], None] | None = None,
) -> TrainState:
    """All iterations of `trained`; the host only looks between blocks of them, and shows `watch` what it sees.

    With the networks `before` of a fit to other data they are trained on where they fit better than the base.

    Raises:
        ValueError: if these have other shapes.
    """
    if before is not None:
        _check_same_shapes(before, trained.best)
        trained = resume(trained, before, problem, plan)
    num_iterations = int(np.ravel(trained.num_iterations)[0])
    block = _block(num_iterations)
    done = int(np.max(np.asarray(trained.iteration)))
    with tqdm(total=num_iterations, initial=done, desc="training", disable=not progress_bar) as bar:
        while not np.all(np.asarray(trained.done) | (np.asarray(trained.iteration) >= num_iterations)):
            begin = time.monotonic()
            trained = advance(trained, problem, plan, _until_next_look(trained, block))
            bar.set_postfix_str(describe(trained), refresh=False)
            bar.update(int(np.max(np.asarray(trained.iteration))) - bar.n)
            if watch is not None:
                watch(trained)
            if time.monotonic() - begin > _LONGEST_BLOCK:
                block = -(-block // 2)
    return trained


def _check_same_shapes(before: StepNetwork, network: StepNetwork) -> None:
    if list(map(np.shape, jax.tree.leaves(before))) != list(map(np.shape, jax.tree.leaves(network))):
        raise ValueError(
            "The earlier flow was trained with another `width`, `num_blocks`, `budgets` or `num_replicates` than this "
            "kernel has: a warm start needs the same. Train without `warm_start`."
        )


def _block(num_iterations: int) -> int:
    return -(-num_iterations // _NUM_BLOCKS)


def _until_next_look(trained: TrainState, block: int) -> int:
    """Iterations until the end of a block or of a round, where there is an evaluation to be seen."""
    iteration = int(np.max(np.asarray(trained.iteration)))
    ends = (FIRST_ROUND * (2**number - 1) for number in itertools.count(1))
    return min((iteration // block + 1) * block, next(end for end in ends if end > iteration)) - iteration


@partial(jit, static_argnames=("plan",))
def advance(state: TrainState, problem: Problem, plan: Plan, num_iterations: int | Array) -> TrainState:
    """Up to `num_iterations` further iterations of every flow."""
    step = partial(loop.advance, problem=problem, plan=plan, num_iterations=num_iterations)
    return step(state) if jnp.ndim(state.iteration) == 0 else jax.vmap(step)(state)


@partial(jit_once, static_argnames=("plan", "num_iterations"))
def _init(keys: Array, problem: Problem, plan: Plan, num_iterations: int) -> TrainState:
    init = lambda key: loop.init(key, problem, plan, num_iterations)  # noqa: E731
    return init(keys) if is_prng_key(keys) else jax.vmap(init)(keys)


@partial(jit, static_argnames=("plan",))
def resume(state: TrainState, network: StepNetwork, problem: Problem, plan: Plan) -> TrainState:
    """Untrained flows that go on with the networks of another target's training, where these fit better."""
    step = partial(loop.resume, problem=problem, plan=plan)
    return step(state, network) if jnp.ndim(state.iteration) == 0 else jax.vmap(step)(state, network)
