"""Training: one optimiser step, blocks of steps, the averaged network, the best one by held-out DF-ELBO, stopping."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax, random
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.flow import steps as flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.training import schedule
from numpyro_onestep.training.losses import Loss, Problem

__all__ = ["Stage", "TrainConfig", "TrainState", "advance", "describe", "init", "log_weights", "resume"]


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    The first stage trains everything. Each later one starts from the best network so far and moves only the
    corrections of finer budgets, so that what came before stays as it is.

    Attributes:
        losses: the objectives, summed.
        num_steps: the budget whose held-out DF-ELBO decides which network is kept.
        steps_per_iteration: optimiser steps of one iteration; half as many again where training anneals.
        learning_rate: peak learning rate; above 4 dimensions 2/√D of it where training anneals from a broad base.
        share: of all iterations, relative to the other stages'.
    """

    losses: tuple[Loss, ...]
    num_steps: int
    steps_per_iteration: int
    learning_rate: float
    share: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        stages: what is done one after the other.
        num_held_out: base draws of one evaluation, a multiple of 512.
    """

    stages: tuple[Stage, ...]
    num_held_out: int = 2048

    def bounds(self, index: int, num_iterations: Array) -> tuple[Array, Array]:
        """The first iteration of a stage and that after its last, out of `num_iterations`."""
        shares = [stage.share for stage in self.stages]
        ends = [sum(shares[:i]) / sum(shares) for i in (index, index + 1)]
        first, last = (jnp.ceil(end * num_iterations - 1e-3).astype(int) for end in ends)
        return first, last


class TrainState(NamedTuple):
    """Everything that training carries; a pytree of arrays.

    Attributes:
        network: the network being optimised.
        average: exponential moving average of it, the teacher and the candidate for `best`.
        best: the average with the highest held-out DF-ELBO so far, less its standard error; the identity (the base
            itself) before training.
        best_elbo: that DF-ELBO less its standard error, nats, no weight taken for less than e^-10 of the mean.
        best_log_z: log of the mean weight in the same evaluation.
        optimizer_state: of Adam.
        iteration: iterations done.
        num_iterations: iterations in all.
        rng_key: key of the run; step i uses its own fold of it.
        elbo: DF-ELBO of the last evaluation, nats.
        ess_fraction: its effective sample size as a share of the draws.
        fold_fraction: its share of draws at which a Jacobian was not positive definite.
        done: whether training has stopped early because the weights are constant to within 1 %.
    """

    network: StepNetwork
    average: StepNetwork
    best: StepNetwork
    best_elbo: Array
    best_log_z: Array
    optimizer_state: Any
    iteration: Array
    num_iterations: Array
    rng_key: Array
    elbo: Array
    ess_fraction: Array
    fold_fraction: Array
    done: Array


_NUM_EVALUATIONS = 20
_SEEN = ("elbo", "ess_fraction", "fold_fraction")  # of the last evaluation
_MAX_DONE = 0.95  # share of the first stage that a warm start skips at most
_CHUNK = 512  # held-out draws weighed at once
_DEPTH = 10.0  # nats below the mean weight at which a held-out weight no longer counts for less
_optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())


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
    blocks = flow.blocks_of(network, num_steps)

    def one(x: Array) -> tuple[Array, Array]:
        y, log_det = flow.forward_and_log_det(blocks, x)
        return y, problem.target.value(y) - base_.log_prob(problem.base, x) + log_det

    return jax.vmap(one)(x0)


def init(
    rng_key: Array, problem: Problem, config: TrainConfig, num_iterations: int, num_blocks: int, width: int
) -> TrainState:
    """The untrained state of a run of `num_iterations`; `done` already where the base itself fits the target."""
    dim = problem.base.dim
    key_network, rng_key = random.split(rng_key)
    network = StepNetwork(dim, num_blocks=num_blocks, width=width, rng_key=key_network)
    identity = StepNetwork(dim, num_blocks=num_blocks, width=width, rng_key=key_network, identity=True)
    zero = jnp.zeros(())
    state = TrainState(
        network=network,
        average=identity,
        best=identity,
        best_elbo=jnp.asarray(-jnp.inf, zero.dtype),
        best_log_z=jnp.asarray(-jnp.inf, zero.dtype),
        optimizer_state=_optimizer.init(ravel_pytree(network)[0]),
        iteration=jnp.array(0),
        num_iterations=jnp.array(num_iterations),
        rng_key=rng_key,
        elbo=zero,
        ess_fraction=zero,
        fold_fraction=zero,
        done=jnp.array(False),
    )
    # the identity's weights need no flow, and so nothing of it is compiled here
    log_w = _held_out_weights(
        state, problem, config, jax.vmap(lambda x: problem.target.value(x) - base_.log_prob(problem.base, x))
    )
    state = _judge(state, log_w, config.num_held_out, jnp.array(True))._replace(average=network)
    # strong types throughout, so that the second iteration does not compile again
    return jax.tree.map(lambda leaf: leaf if _is_key(leaf) else lax.convert_element_type(leaf, leaf.dtype), state)


def resume(state: TrainState, network: StepNetwork, problem: Problem, config: TrainConfig) -> TrainState:
    """Go on with a `network` trained on another target, from an untrained `state`, as if the schedule had come so far.

    Of the first stage as large a share is taken as done as the square of the network's effective share of draws, up to
    95 %. Where the base alone fits better, training starts from nothing; where the network fits, it is done.
    """
    _, last = config.bounds(0, state.num_iterations)
    warm = _evaluate(state._replace(average=network), problem, config, config.stages[0], True)
    helps = warm.best_elbo > state.best_elbo
    share = jnp.where(helps, jnp.minimum(warm.ess_fraction**2, _MAX_DONE), 0.0)
    start = jax.tree.map(lambda new, old: jnp.where(helps, new, old), network, state.network)
    seen = {name: jnp.where(helps, getattr(warm, name), getattr(state, name)) for name in _SEEN}
    return warm._replace(
        **seen,
        network=start,
        average=start,
        iteration=jnp.floor(share * last).astype(state.iteration.dtype),
        optimizer_state=_optimizer.init(ravel_pytree(start)[0]),
    )


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _held_out_weights(
    state: TrainState, problem: Problem, config: TrainConfig, weigh: Callable[[Array], Array]
) -> Array:
    """Log weights of base draws that training never sees, and after them of as many stretched ones, into the tails.

    In chunks, one after the other, to bound the memory.
    """
    num_chunks = config.num_held_out // _CHUNK
    keys = random.split(random.fold_in(state.rng_key, 2**31 - 1), 2 * num_chunks)
    inflate = jnp.repeat(jnp.array([1.0, 1 + problem.base.dim**-0.5]), num_chunks)
    chunk = lambda inputs: weigh(base_.sample(problem.base, inputs[0], _CHUNK, inputs[1]))  # noqa: E731
    return lax.map(chunk, (keys, inflate)).ravel()


def _evaluate(
    state: TrainState, problem: Problem, config: TrainConfig, stage: Stage, counts: Array | bool
) -> TrainState:
    """Judge the averaged network on held-out draws; finer budgets have their own turn even if a coarse one fits."""
    weigh = lambda x0: log_weights(state.average, problem, x0, stage.num_steps)[1]  # noqa: E731
    log_w = _held_out_weights(state, problem, config, weigh)
    judged = _judge(state, log_w, config.num_held_out, jnp.asarray(counts))
    return judged if stage is config.stages[0] else judged._replace(done=state.done)


def _judge(state: TrainState, log_w: Array, num_held_out: int, counts: Array) -> TrainState:
    """Record what the averaged network's log weights tell; keep it if it `counts` and is the best so far.

    The best has the highest ELBO less one standard error, since the highest of many noisy ones is a lucky one; a draw
    that ends where the target has no density costs it 10 nats, not everything. Training is done only where the weights
    are constant in the tails too: few of the plain draws lie there.
    """
    constant = jnp.std(log_w) < 0.01
    log_w = log_w[:num_held_out]
    folded = jnp.isnan(log_w)
    elbo = jnp.mean(jnp.where(folded, -jnp.inf, log_w))
    log_mean = logsumexp(jnp.where(folded, -jnp.inf, log_w)) - jnp.log(num_held_out)
    bounded = jnp.where(folded, -jnp.inf, jnp.maximum(log_w, log_mean - _DEPTH))
    lower = jnp.mean(bounded) - jnp.std(bounded) / num_held_out**0.5
    better = counts & (lower > state.best_elbo)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.average, state.best)
    return state._replace(
        best=best,
        best_elbo=jnp.where(better, lower, state.best_elbo),
        best_log_z=jnp.where(better, log_mean, state.best_log_z),
        elbo=elbo,
        ess_fraction=effective_sample_size(log_w) / len(log_w),
        fold_fraction=jnp.mean(folded),
        done=state.done | (counts & constant),
    )


def _optimize(
    state: TrainState, step: Array, progress: Array, problem: Problem, stage: Stage, rng_key: Array, later: bool
) -> TrainState:
    """One optimiser step, number `step` of its stage; skipped where the gradient is not finite."""
    anneal = problem.base.annealed & (not later)
    annealing = jnp.where(anneal, schedule.annealing(progress), 1.0)
    keys = random.split(random.fold_in(rng_key, step), len(stage.losses))

    def total(network: StepNetwork) -> Array:
        terms = [f(network, state.average, problem, k, annealing) for f, k in zip(stage.losses, keys, strict=True)]
        return sum(terms, start=jnp.zeros(()))

    grads = ravel_pytree(jax.grad(total)(state.network))[0]
    finite = jnp.all(jnp.isfinite(grads))
    if later:
        grads = grads * ravel_pytree(state.network.only_corrections())[0]
    updates, optimizer_state = _optimizer.update(jnp.where(finite, grads, 0.0), state.optimizer_state)
    optimizer_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), optimizer_state, state.optimizer_state)
    # one flat vector: far less to compile and to dispatch than twenty leaves
    params, unravel = ravel_pytree(state.network)
    # towards many modes at once, smaller steps end higher
    peak = stage.learning_rate * jnp.where(anneal, min(1.0, 2 / problem.base.dim**0.5), 1.0)
    rate = jnp.where(finite, schedule.learning_rate(progress, peak), 0.0)
    params = params - rate * jnp.asarray(updates)
    decay = jnp.where(finite, jnp.minimum(0.998, (1 + step) / (10 + step)), 1.0)
    average = ravel_pytree(state.average)[0]
    average = average + (1 - decay) * (params - average)  # exact where both are equal
    return state._replace(network=unravel(params), average=unravel(average), optimizer_state=optimizer_state)


def _begin(state: TrainState, problem: Problem, config: TrainConfig, stage: Stage) -> TrainState:
    """A later stage starts from the best network so far, judged anew at its own budget."""
    state = state._replace(
        network=state.best,
        average=state.best,
        best_elbo=jnp.full_like(state.best_elbo, -jnp.inf),
        optimizer_state=_optimizer.init(ravel_pytree(state.best)[0]),
    )
    return _evaluate(state, problem, config, stage, True)


def _if(condition: Array, function: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
    """`function(state)` where the condition holds: a loop of one turn or none, which costs nothing under `vmap`.

    The barrier keeps the compiler from moving what does not change within the loop, that is all of it, in front of it.
    """

    def body(i: Array, state: TrainState) -> TrainState:
        return function(lax.optimization_barrier((i, state))[1])

    return lax.fori_loop(0, jnp.where(condition, 1, 0), body, state)


def _iterate(state: TrainState, problem: Problem, config: TrainConfig) -> TrainState:
    """One iteration: a block of optimiser steps, and an evaluation twenty times a stage and at its end."""
    iteration = state.iteration
    for index, stage in enumerate(config.stages):
        later = index > 0
        first, last = config.bounds(index, state.num_iterations)
        here = (iteration >= first) & (iteration < last)
        rng_key = random.fold_in(state.rng_key, 2**31 - 1 - index) if later else state.rng_key
        longer = -(-3 * stage.steps_per_iteration // 2)  # half of it is spent on the way to the target
        steps = jnp.where(problem.base.annealed & (not later), longer, stage.steps_per_iteration)
        start, total = (iteration - first) * steps, (last - first) * steps
        if later:
            state = _if(
                here & (iteration == first), partial(_begin, problem=problem, config=config, stage=stage), state
            )

        def body(
            i: Array, state: TrainState, start=start, total=total, stage=stage, rng_key=rng_key, later=later
        ) -> TrainState:
            return _optimize(state, start + i, (start + i) / total, problem, stage, rng_key, later)

        state = lax.fori_loop(0, jnp.where(here, steps, 0), body, state)
        done = (iteration + 1 - first) / (last - first)
        counts = later | ~problem.base.annealed | (schedule.annealing(done) == 1.0)
        every = jnp.maximum(1, (last - first) // _NUM_EVALUATIONS)
        due = ((iteration + 1 - first) % every == 0) | (iteration + 1 == last)
        evaluate = partial(_evaluate, problem=problem, config=config, stage=stage, counts=counts)
        state = _if(here & due, evaluate, state)
    return state._replace(iteration=iteration + 1)


def advance(state: TrainState, problem: Problem, config: TrainConfig, num_iterations: int | Array) -> TrainState:
    """Up to `num_iterations` further iterations; none once training is done or complete.

    A loop with a run-time bound instead of a branch: under `vmap` a branch would run both of its sides.
    """
    remaining = jnp.minimum(num_iterations, state.num_iterations - state.iteration)

    def cond(carry: tuple[Array, TrainState]) -> Array:
        i, state = carry
        return (i < remaining) & ~state.done

    def body(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, state = carry
        return i + 1, _iterate(state, problem, config)

    return lax.while_loop(cond, body, (jnp.array(0), state))[1]


def describe(trained: TrainState) -> str:
    """The last evaluation, in a line for a progress bar; the mean over replicates."""
    elbo, ess, folds = (float(jnp.mean(x)) for x in (trained.elbo, trained.ess_fraction, trained.fold_fraction))
    return f"elbo={elbo:.3f} ess={100 * ess:.0f}% folds={folds:.3f}"
