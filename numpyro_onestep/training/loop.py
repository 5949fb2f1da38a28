"""The training loop of one flow, compiled as a whole: stages, iterations, evaluations, early stop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.training import optimizer
from numpyro_onestep.training.evaluation import SEEN, evaluate, judge
from numpyro_onestep.training.losses import Consistency
from numpyro_onestep.training.plan import Plan, Stage
from numpyro_onestep.training.state import TrainState

__all__ = ["advance", "init", "resume"]

_NUM_EVALUATIONS = 20
_MAX_DONE = 0.97  # share of the first stage that a warm start skips at most


def init(rng_key: Array, problem: Problem, plan: Plan, num_iterations: int) -> TrainState:
    """The untrained state of a run of `num_iterations`; `done` already where the base itself fits the target."""
    dim = problem.base.dim
    key_network, rng_key = random.split(rng_key)
    size: dict[str, Any] = {"num_blocks": plan.num_blocks, "width": plan.width, "num_levels": plan.num_levels}
    network = StepNetwork(dim, **size, rng_key=key_network)
    identity = StepNetwork(dim, **size, rng_key=key_network, identity=True)
    zero = jnp.zeros(())
    state = TrainState(
        network=network,
        average=identity,
        best=identity,
        best_elbo=jnp.asarray(-jnp.inf, zero.dtype),
        best_log_z=jnp.asarray(-jnp.inf, zero.dtype),
        optimizer_state=optimizer.init(network),
        iteration=jnp.array(0),
        num_iterations=jnp.array(num_iterations),
        rng_key=rng_key,
        elbo=zero,
        ess_fraction=zero,
        fold_fraction=zero,
        num_gradients=jnp.array(0),
        stop=jnp.array(0),
        done=jnp.array(False),
    )
    # the identity's weights need no flow, and so nothing of it is compiled here
    weigh = jax.vmap(lambda x: problem.target.value(x) - base_.log_prob(problem.base, x))
    state = judge(state, problem, plan, weigh, jnp.array(True))._replace(average=network)
    # strong types throughout, so that the second iteration does not compile again
    return jax.tree.map(lambda leaf: leaf if _is_key(leaf) else lax.convert_element_type(leaf, leaf.dtype), state)


def resume(state: TrainState, network: StepNetwork, problem: Problem, plan: Plan) -> TrainState:
    """Go on with a `network` trained on another target, from an untrained `state`, as if the schedule had come so far.

    Of the first stage as large a share is taken as done as the square of the network's effective share of draws, up to
    97 %. Where the base alone fits better, training starts from nothing; where the network fits, it is done.
    """
    _, last = plan.bounds(0, state.num_iterations)
    warm = evaluate(state._replace(average=network), problem, plan, plan.stages[0], True)
    helps = warm.best_elbo > state.best_elbo
    share = jnp.where(helps, jnp.minimum(warm.ess_fraction**2, _MAX_DONE), 0.0)
    start = jax.tree.map(lambda new, old: jnp.where(helps, new, old), network, state.network)
    seen = {name: jnp.where(helps, getattr(warm, name), getattr(state, name)) for name in SEEN}
    return warm._replace(
        **seen,
        network=start,
        average=start,
        iteration=jnp.floor(share * last).astype(state.iteration.dtype),
        optimizer_state=optimizer.init(start),
    )


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _begin(state: TrainState, problem: Problem, plan: Plan, stage: Stage) -> TrainState:
    """A later stage starts from the best network so far, judged anew at its own budget."""
    state = state._replace(
        network=state.best,
        average=state.best,
        best_elbo=jnp.full_like(state.best_elbo, -jnp.inf),
        optimizer_state=optimizer.init(state.best),
    )
    return evaluate(state, problem, plan, stage, True)


def _if(condition: Array, function: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
    """`function(state)` where the condition holds: a loop of one turn or none, which costs nothing under `vmap`.

    The barrier keeps the compiler from moving what does not change within the loop, that is all of it, in front of it.
    """

    def body(i: Array, state: TrainState) -> TrainState:
        return function(lax.optimization_barrier((i, state))[1])

    return lax.fori_loop(0, jnp.where(condition, 1, 0), body, state)


def _iterate(state: TrainState, problem: Problem, plan: Plan) -> TrainState:
    """One iteration: a block of optimiser steps, and an evaluation where one is due.

    That is at the end of each round, or twenty times a stage and at its end where training does not go in rounds.
    """
    iteration = state.iteration
    for index, stage in enumerate(plan.stages):
        later = index > 0
        first, last = plan.bounds(index, state.num_iterations)
        here = (iteration >= first) & (iteration < last)
        rng_key = random.fold_in(state.rng_key, 2**31 - 1 - index) if later else state.rng_key
        longer = -(-3 * stage.steps_per_iteration // 2)  # half of it is spent on the way to the target
        anneal = problem.base.annealed & (not later)
        steps = jnp.where(anneal, longer, stage.steps_per_iteration)
        begin, end = first, last
        if plan.in_rounds:
            begin, end = plan.round(iteration, last, problem.base.annealed)
        start, age, total = (iteration - first) * steps, (iteration - begin) * steps, (end - begin) * steps
        if later:
            state = _if(here & (iteration == first), partial(_begin, problem=problem, plan=plan, stage=stage), state)

        def body(
            i: Array,
            state: TrainState,
            start=start,
            age=age,
            total=total,
            anneal=anneal,
            stage=stage,
            rng_key=rng_key,
            later=later,
        ) -> TrainState:
            progress = (age + i) / total
            return optimizer.optimize(state, start + i, age + i, progress, anneal, problem, stage, rng_key, later)

        state = lax.fori_loop(0, jnp.where(here, steps, 0), body, state)
        batch = sum(getattr(loss, "batch_size", 0) for loss in stage.losses if not isinstance(loss, Consistency))
        state = state._replace(num_gradients=state.num_gradients + jnp.where(here, steps, 0) * batch)
        done = (iteration + 1 - begin) / (end - begin)
        counts = ~anneal | (optimizer.annealing(done) == 1.0)
        every = jnp.maximum(1, (last - first) // _NUM_EVALUATIONS)
        due = (
            (iteration + 1 == end)
            if plan.in_rounds
            else ((iteration + 1 - first) % every == 0) | (iteration + 1 == last)
        )
        look = partial(evaluate, problem=problem, plan=plan, stage=stage, counts=counts)
        state = _if(here & due, look, state)
    return state._replace(iteration=iteration + 1)


def advance(state: TrainState, problem: Problem, plan: Plan, num_iterations: int | Array) -> TrainState:
    """Up to `num_iterations` further iterations; none once training is done or complete.

    A loop with a run-time bound instead of a branch: under `vmap` a branch would run both of its sides.
    """
    remaining = jnp.minimum(num_iterations, state.num_iterations - state.iteration)

    def cond(carry: tuple[Array, TrainState]) -> Array:
        i, state = carry
        return (i < remaining) & ~state.done

    def body(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, state = carry
        return i + 1, _iterate(state, problem, plan)

    return lax.while_loop(cond, body, (jnp.array(0), state))[1]
