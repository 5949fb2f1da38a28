"""The training plan: which objectives, for how long and how fast, by dimension and step budgets."""

from numpyro_onestep.losses import Consistency, Loss, PathGradient
from numpyro_onestep.train import Stage, TrainConfig

__all__ = ["default_num_blocks", "plan"]

_SMALL_DIM = 16  # up to here one more block and more, cheaper steps are worth it
_REFINEMENT = 1.0  # time spent on a finer budget, relative to the one-step map's


def default_num_blocks(dim: int) -> int:
    """Blocks of one step in `dim` dimensions."""
    return 3 if dim <= _SMALL_DIM else 2


def plan(
    dim: int,
    budgets: tuple[int, ...],
    *,
    batch_size: int,
    steps_per_iteration: int | None,
    learning_rate: float | None,
    consistency: tuple[float, float],
) -> TrainConfig:
    """First the one-step map, then the corrections of each finer budget, coarse before fine.

    The one-step map takes as many optimiser steps with finer budgets as without: its iterations are longer then.

    Args:
        dim: dimension D.
        budgets: the finer budgets to refine, in rising order.
        batch_size: base draws per optimiser step.
        steps_per_iteration: optimiser steps of one iteration; by default 10 up to 16 dimensions and 4 above.
        learning_rate: peak learning rate; by default .03 up to 16 dimensions and .06/√D above.
        consistency: weights of state and volume consistency, added to every stage.
    """
    steps = steps_per_iteration or (10 if dim <= _SMALL_DIM else 4)
    rate = learning_rate or (0.03 if dim <= _SMALL_DIM else 0.06 / dim**0.5)
    longer = 1 + _REFINEMENT * len(budgets)

    def stage(num_steps: int, share: float) -> Stage:
        losses: tuple[Loss, ...] = (PathGradient(num_steps, batch_size),)
        if any(consistency):
            losses += (Consistency(*consistency, num_levels=num_steps.bit_length()),)
        return Stage(losses, num_steps, max(1, round(steps * longer / num_steps)), rate, share)

    return TrainConfig((stage(1, 1.0), *(stage(n, _REFINEMENT) for n in budgets)))
