"""The training plan: which objectives, for how long and how fast, by dimension and step budgets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.model.target import COSTLY_DIM, HEAVY_WORK
from numpyro_onestep.training.losses import Consistency, Loss, PathGradient

__all__ = ["FIRST_ROUND", "Plan", "Stage", "default_width", "finer_budgets", "make_plan"]


_SMALL_DIM = 16  # up to here more steps and larger batches are cheap
FIRST_ROUND = 16  # iterations
_REFINEMENT = 0.5  # time spent on a finer budget, relative to the one-step map's
_REFINEMENT_RATE = 0.01  # peak learning rate of the corrections


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
class Plan:
    """How to train: what, for how long, how large a network and how many of them.

    Attributes:
        stages: what is done one after the other.
        num_blocks: blocks of one step.
        width: ridge directions of each block.
        num_replicates: flows trained at once from the same base.
        target_ess: share of effective draws that is enough; with 1 training is in one round over all iterations.
        num_held_out: base draws of one evaluation, a multiple of 512.
    """

    stages: tuple[Stage, ...]
    num_blocks: int = 3
    width: int = 128
    num_replicates: int = 1
    target_ess: float = 1.0
    num_held_out: int = 2048

    @property
    def num_levels(self) -> int:
        """How many of the budgets 2, 4, 8, … have corrections of their own."""
        return max(stage.num_steps for stage in self.stages).bit_length() - 1

    def bounds(self, index: int, num_iterations: Array) -> tuple[Array, Array]:
        """The first iteration of a stage and that after its last, out of `num_iterations`."""
        shares = [stage.share for stage in self.stages]
        ends = [sum(shares[:i]) / sum(shares) for i in (index, index + 1)]
        first, last = (jnp.ceil(end * num_iterations - 1e-3).astype(int) for end in ends)
        return first, last

    @property
    def in_rounds(self) -> bool:
        """Whether training is in rounds of growing length; the refinement of finer budgets needs the best map first."""
        return self.target_ess < 1 and len(self.stages) == 1

    @property
    def num_iterations_at_least(self) -> int:
        """Iterations before training may end for want of gain."""
        return 7 * FIRST_ROUND

    def round(self, iteration: Array, num_iterations: Array, annealed: Array) -> tuple[Array, Array]:
        """The first iteration of the round that `iteration` is in, and that after its last.

        Each round is twice as long as the one before it, the last at least as long. In each the learning rate falls to
        next to nothing, so that every round ends with a network that may be the last. Where training anneals from a
        broad base there is one round: rounds that follow the annealing gain far less than a long annealing does.
        """
        shortest = jnp.where(annealed, num_iterations, FIRST_ROUND)
        number = jnp.floor(jnp.log2(iteration / shortest + 1.0) + 1e-4).astype(int)
        length = shortest * 2**number
        first = length - shortest
        # what is left after this round is too little for another
        short, before = num_iterations - first - length < length, num_iterations - first < length // 2
        last = jnp.where(short, num_iterations, first + length)
        first = jnp.where(before & (number > 0), first - length // 2, first)
        return first, last


def default_width(dim: int) -> int:
    """Ridge directions of a block: 128 up to 64 dimensions and 32 above.

    Up to the width the determinants are of D×D matrices, whose cost goes with D³; above they are of width × width.
    """
    return 32 if dim > COSTLY_DIM else 128


def finer_budgets(budgets: Sequence[int], consistency: tuple[float, float]) -> tuple[int, ...]:
    """The budgets above one step to refine, the finest first; ValueError where impossible, or none to compare."""
    try:
        budgets = tuple(budgets)
    except TypeError:
        raise TypeError(f"`budgets` must be several numbers of steps, such as (2, 4), not {budgets!r}.") from None
    whole = {check_num_steps(budget, "each of `budgets`") for budget in budgets}
    finer = tuple(sorted(whole - {1}, reverse=True))
    if any(consistency) and not any(2 * budget in finer for budget in finer):
        raise ValueError(
            "`state_consistency` and `volume_consistency` hold a budget to twice as many steps, refined before it: "
            "name two such `budgets`, for example budgets=(2, 4)."
        )
    return finer


def make_plan(
    dim: int,
    budgets: tuple[int, ...],
    *,
    batch_size: int | None,
    steps_per_iteration: int | None,
    learning_rate: float,
    consistency: tuple[float, float],
    num_blocks: int,
    width: int | None,
    num_replicates: int,
    target_ess: float,
    work: int = 0,
) -> Plan:
    """First the one-step map, then the corrections of each finer budget, the finest first.

    The one-step map takes as many optimiser steps with finer budgets as without: its iterations are longer then.
    Consistency distils from fine to coarse: a budget is held to twice as many steps where those are refined before it.
    Elsewhere two half steps are the map as it was, and would only hold the budget back.

    Args:
        dim: dimension D.
        budgets: the finer budgets to refine, the finest first.
        batch_size: base draws per optimiser step; by default 64, and 128 up to 16 dimensions where training is in full.
        steps_per_iteration: optimiser steps of one iteration; by default 10 up to 16 dimensions, 7 up to 40, and 280/D
            above, not less than 3.
        learning_rate: peak learning rate of the one-step map.
        consistency: weights of state and volume consistency.
        num_blocks: blocks of one step.
        width: ridge directions of each block; by default by the dimension.
        num_replicates: flows to train at once.
        target_ess: share of effective draws that is enough.
        work: numbers that one evaluation of the target computes, by which the number of held-out draws is chosen.
    """
    small = dim <= _SMALL_DIM
    batch = batch_size or (128 if small and target_ess == 1 else 64)
    steps = steps_per_iteration or (10 if small else max(3, min(7, 280 // dim)))
    longer = 1 + _REFINEMENT * len(budgets)

    def stage(num_steps: int, share: float, rate: float) -> Stage:
        losses: tuple[Loss, ...] = (PathGradient(num_steps, batch),)
        if any(consistency) and 2 * num_steps in budgets and num_steps > 1:
            losses += (Consistency(*consistency, levels=(num_steps.bit_length() - 1,)),)
        each = math.ceil(steps * longer) if num_steps == 1 else max(1, round(steps * longer / num_steps))
        return Stage(losses, num_steps, each, rate, share)

    finer = (stage(n, _REFINEMENT, _REFINEMENT_RATE) for n in budgets)
    stages = (stage(1, 1.0, learning_rate), *finer)
    return Plan(
        stages, num_blocks, width or default_width(dim), num_replicates, target_ess, 512 if work > HEAVY_WORK else 2048
    )
