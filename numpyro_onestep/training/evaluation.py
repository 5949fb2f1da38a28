"""How good a network is: its weights on held-out draws, the best network so far, and whether training may stop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.flow.density import log_weights
from numpyro_onestep.training.plan import Plan, Stage
from numpyro_onestep.training.state import TrainState

__all__ = ["SEEN", "describe", "evaluate", "held_out_weights", "judge"]

SEEN = ("elbo", "ess_fraction", "fold_fraction")  # of the last evaluation
_CHUNK = 512  # held-out draws weighed at once
_DEPTH = 10.0  # nats below the mean weight at which a held-out weight no longer counts for less


def held_out_weights(state: TrainState, problem: Problem, plan: Plan, weigh: Callable[[Array], Array]) -> Array:
    """Log weights of base draws that training never sees, and after them of as many stretched ones, into the tails.

    In chunks, one after the other, to bound the memory.
    """
    num_chunks = plan.num_held_out // _CHUNK
    keys = random.split(random.fold_in(state.rng_key, 2**31 - 1), 2 * num_chunks)
    inflate = jnp.repeat(jnp.array([1.0, 1 + problem.base.dim**-0.5]), num_chunks)
    chunk = lambda inputs: weigh(base_.sample(problem.base, inputs[0], _CHUNK, inputs[1]))  # noqa: E731
    return lax.map(chunk, (keys, inflate)).ravel()


def evaluate(state: TrainState, problem: Problem, plan: Plan, stage: Stage, counts: Array | bool) -> TrainState:
    """Judge the averaged network on held-out draws; finer budgets have their own turn even if a coarse one fits."""
    weigh = lambda x0: log_weights(state.average, problem, x0, stage.num_steps)[1]  # noqa: E731
    log_w = held_out_weights(state, problem, plan, weigh)
    judged = judge(state, log_w, plan.num_held_out, jnp.asarray(counts))
    return judged if stage is plan.stages[0] else judged._replace(done=state.done)


def judge(state: TrainState, log_w: Array, num_held_out: int, counts: Array) -> TrainState:
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


def describe(trained: TrainState) -> str:
    """The last evaluation, in a line for a progress bar; the mean over replicates."""
    elbo, ess, folds = (float(jnp.mean(x)) for x in (trained.elbo, trained.ess_fraction, trained.fold_fraction))
    return f"elbo={elbo:.3f} ess={100 * ess:.0f}% folds={folds:.3f}"
