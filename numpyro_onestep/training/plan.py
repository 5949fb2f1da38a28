"""The training plan: which objectives, for how long and how fast, by dimension and step budgets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.model.target import LARGE_DIM
from numpyro_onestep.training.losses import Consistency, Loss, PathGradient

__all__ = ["Plan", "Stage", "default_width", "finer_budgets", "make_plan"]

_SMALL_DIM = 16  # up to here more steps and larger batches are cheap
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
        num_held_out: base draws of one evaluation, a multiple of 512.
    """

    stages: tuple[Stage, ...]
    num_blocks: int = 3
    width: int = 128
    num_replicates: int = 1
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


def default_width(dim: int) -> int:
    """Ridge directions of a block: 128 up to 256 dimensions and 32 above, where the time for each goes with D."""
    return 32 if dim > LARGE_DIM else 128


def finer_budgets(num_steps: int, budgets: Sequence[int], consistency: tuple[float, float]) -> tuple[int, ...]:
    """The budgets above one step to refine, the finest first; ValueError where impossible, or none to compare."""
    for budget in (num_steps, *budgets):
        check_num_steps(budget)
    finer = tuple(sorted({num_steps, *budgets} - {1}, reverse=True))
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
) -> Plan:
    """First the one-step map, then the corrections of each finer budget, the finest first.

    The one-step map takes as many optimiser steps with finer budgets as without: its iterations are longer then.
    Consistency distils from fine to coarse: a budget is held to twice as many steps where those are refined before it.
    Elsewhere two half steps are the map as it was, and would only hold the budget back.

    Args:
        dim: dimension D.
        budgets: the finer budgets to refine, the finest first.
        batch_size: base draws per optimiser step; by default 128 up to 16 dimensions and 64 above.
        steps_per_iteration: optimiser steps of one iteration; by default 10 up to 16 dimensions, 7 up to 40, and 280/D
            above, not less than 3.
        learning_rate: peak learning rate of the one-step map.
        consistency: weights of state and volume consistency.
        num_blocks: blocks of one step.
        width: ridge directions of each block; by default by the dimension.
        num_replicates: flows to train at once.
    """
    small = dim <= _SMALL_DIM
    batch = batch_size or (128 if small else 64)
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
    return Plan(stages, num_blocks, width or default_width(dim), num_replicates)
