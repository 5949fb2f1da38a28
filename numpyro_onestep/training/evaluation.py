"""How good a network is: its weights on held-out draws, the best network so far, and whether training may stop."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.scipy.special import logsumexp

from numpyro_onestep.base.problem import Problem, effective_share, held_out, tail_of
from numpyro_onestep.flow.density import log_weights
from numpyro_onestep.gaussians.mixture import mean_within
from numpyro_onestep.training.plan import FIRST_ROUND, Plan, Stage
from numpyro_onestep.training.state import TrainState

__all__ = ["SEEN", "STOPS", "Evaluation", "History", "describe", "evaluate", "judge", "stops_of"]

SEEN = ("elbo", "ess_fraction", "fold_fraction")  # of the last evaluation
GOES_ON, CONSTANT, ENOUGH, NO_GAIN = range(4)
STOPS = ("all iterations done", "weights constant", "enough effective draws", "more training no longer pays")
_MAX_TAIL_SHAPE = 0.65
_GAIN = 0.1  # share of the ELBO's gap that a round must take away for the next one to pay
_GAIN_FOR_TARGET = 0.4  # nats that it must, for each part of the draws that need not be effective; a quarter more
# where iterations take longer, from 50 dimensions on, and more in proportion where the next round is a long one and the
# target far
_LONG = 128  # iterations
_NEAR = 0.9  # of the target
_DEPTH = 10.0  # nats below the mean weight at which a held-out weight no longer counts for less


def evaluate(state: TrainState, problem: Problem, plan: Plan, stage: Stage, counts: Array | bool) -> TrainState:
    """Judge the averaged network on held-out draws; finer budgets have their own turn even if a coarse one fits."""
    weigh = lambda x0: log_weights(state.average, problem, x0, stage.num_steps)[1]  # noqa: E731
    judged = judge(state, problem, plan, weigh, jnp.asarray(counts))
    return judged if stage is plan.stages[0] else judged._replace(done=state.done)


def judge(
    state: TrainState, problem: Problem, plan: Plan, weigh: Callable[[Array], Array], counts: Array
) -> TrainState:
    """Record what the averaged network's log weights tell; keep it if it `counts` and is the best so far.

    The weights are those of draws that training never sees. The best has the highest ELBO less one standard error,
    since the highest of many noisy ones is a lucky one; a draw that folds costs it 10 nats, not everything. A draw that
    ends where the target has no density costs what it is worth, as one proposal lost: the bound is that of the flow
    restricted to where there is density, E[log w | within] + log q(within).

    Training is done where the weights are constant, in the tails too. Where it goes in rounds it is also done when the
    share of effective draws, less a standard error, reaches the target and the weights' tail is not heavy, or when the
    last round raised the ELBO by less than a tenth of what separates it from log Z, or by little (.04 nats for a target
    of .9, and while that is far the more the longer the next one is): the next one would cost twice as much.
    """
    key = random.fold_in(state.rng_key, 2**31 - 1)
    log_w, log_ratios = held_out(key, problem.base, weigh, plan.num_held_out)
    constant = jnp.std(log_w) < 0.01
    share, error = effective_share(log_w, log_ratios)
    log_w = log_w[: plan.num_held_out]
    folded, within = jnp.isnan(log_w), ~jnp.isneginf(log_w)
    elbo = jnp.mean(jnp.where(folded, -jnp.inf, log_w))
    log_mean = logsumexp(jnp.where(folded, -jnp.inf, log_w)) - jnp.log(plan.num_held_out)
    bounded = jnp.where(folded, -jnp.inf, jnp.maximum(log_w, log_mean - _DEPTH))
    lower = mean_within(bounded, within) - jnp.std(bounded, where=within) / plan.num_held_out**0.5
    better = counts & (lower > state.best_elbo)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), state.average, state.best)
    stop = jnp.where(constant, CONSTANT, GOES_ON)
    if plan.in_rounds:
        enough = (share * (1 - error) >= plan.target_ess) & (tail_of(log_w)[0] <= _MAX_TAIL_SHAPE) & better
        stop = jnp.where(enough & ~constant, ENOUGH, stop)
        gap, before = log_mean - elbo, log_mean - state.elbo
        length = state.iteration + 1 + FIRST_ROUND  # of the next round
        longer = jnp.where(share < _NEAR * plan.target_ess, jnp.maximum(1.0, length / _LONG), 1.0)
        dear = min(max(1.0, problem.base.dim / 50), 1.25) * longer
        worthwhile = jnp.maximum(_GAIN * before, _GAIN_FOR_TARGET * dear * (1 - plan.target_ess))
        early = state.iteration + 1 < plan.num_iterations_at_least
        pays = (before - gap >= worthwhile) | early | jnp.isneginf(elbo)  # at a hard edge the ELBO cannot tell
        stop = jnp.where((stop == GOES_ON) & ~pays, NO_GAIN, stop)
    stop = jnp.where(counts, stop, GOES_ON)
    return state._replace(
        best=best,
        best_elbo=jnp.where(better, lower, state.best_elbo),
        best_log_z=jnp.where(better, log_mean, state.best_log_z),
        elbo=elbo,
        ess_fraction=effective_share(log_w, jnp.zeros_like(log_w))[0],
        fold_fraction=jnp.mean(folded),
        num_gradients=state.num_gradients + 2 * plan.num_held_out,
        stop=jnp.where(state.done, state.stop, stop),
        done=state.done | (stop != GOES_ON),
    )


class Evaluation(NamedTuple):
    """One evaluation on held-out draws, as the host saw it.

    Attributes:
        iteration: iterations done by then.
        seconds: since the training began, compilation included.
        elbo: DF-ELBO of each flow, nats, shape (flows,).
        ess_fraction: effective sample size of each flow as a share of the draws, shape (flows,).
    """

    iteration: int
    seconds: float
    elbo: np.ndarray
    ess_fraction: np.ndarray


class History:
    """The evaluations of one training, from that of the base itself on; made when the training begins or goes on."""

    def __init__(self, evaluations: Sequence[Evaluation] = ()):
        self.evaluations = list(evaluations)
        self._begin = time.perf_counter() - (evaluations[-1].seconds if evaluations else 0.0)

    def add(self, trained: TrainState) -> None:
        """Keep what `trained` was found to be, unless it has not been evaluated since."""
        seen = [np.array(getattr(trained, name), ndmin=1) for name in SEEN[:2]]
        if self.evaluations and all(map(_same, self.evaluations[-1][2:], seen)):
            return
        iteration = int(np.max(np.asarray(trained.iteration)))
        self.evaluations.append(Evaluation(iteration, time.perf_counter() - self._begin, *seen))

    def is_of(self, trained: TrainState) -> bool:
        """Whether this is the training that ended as `trained`."""
        return _same(self.evaluations[-1].elbo, np.array(trained.elbo, ndmin=1))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def stops_of(trained: TrainState) -> list[str]:
    """Why training has ended, in words: one reason, or those of several flows."""
    return sorted({STOPS[int(stop)] for stop in np.ravel(trained.stop)})


def describe(trained: TrainState) -> str:
    """The last evaluation, the mean over replicates, and why training has ended, in a line for a progress bar."""
    seen = map(np.asarray, (trained.elbo, trained.ess_fraction, trained.fold_fraction))
    elbo, ess, folds = (float(np.mean(x)) for x in seen)
    reasons = stops_of(trained) if np.all(np.asarray(trained.done)) else []
    return f"elbo={elbo:.3f} ess={100 * ess:.0f}% folds={folds:.3f}" + "".join(f" ({reason})" for reason in reasons)
