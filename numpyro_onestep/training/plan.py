"""The training plan: which objectives, for how long and how fast, by dimension and step budgets."""

import math
from collections.abc import Sequence

from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.model.target import LARGE_DIM
from numpyro_onestep.training.loop import Stage, TrainConfig
from numpyro_onestep.training.losses import Consistency, Loss, PathGradient

__all__ = ["default_width", "finer_budgets", "plan"]

_SMALL_DIM = 16  # up to here more steps and larger batches are cheap
_REFINEMENT = 0.5  # time spent on a finer budget, relative to the one-step map's
_REFINEMENT_RATE = 0.01  # peak learning rate of the corrections


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


def plan(
    dim: int,
    budgets: tuple[int, ...],
    *,
    batch_size: int | None,
    steps_per_iteration: int | None,
    learning_rate: float,
    consistency: tuple[float, float],
) -> TrainConfig:
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
    return TrainConfig((stage(1, 1.0, learning_rate), *finer))
