"""The state of the `OneStep` kernel: the chain and everything learnt."""

from typing import Any, NamedTuple

from jax import Array

from numpyro_onestep.base import Base
from numpyro_onestep.train import TrainState

__all__ = ["OneStepState"]


class OneStepState(NamedTuple):
    """The state of `OneStep`. Names are those of NumPyro's `HMCState` where the meaning is the same.

    With vectorized chains the fields down to `rng_key` have a leading axis of chains; the flow is shared.

    Attributes:
        i: iteration, counting warmup.
        z: unconstrained values.
        potential_energy: −log γ(z).
        log_weight: deterministic-flow log weight of z.
        accept_prob: acceptance probability of the last proposal.
        mean_accept_prob: its mean since the end of warmup.
        num_steps: network evaluations per draw.
        diverging: whether the last proposal had no finite weight.
        rng_key: key of the chain.
        base: the base distribution.
        train: the flow and its training state; None if it was never trained.
    """

    i: Array
    z: Any
    potential_energy: Array
    log_weight: Array
    accept_prob: Array
    mean_accept_prob: Array
    num_steps: Array
    diverging: Array
    rng_key: Array
    base: Base | None
    train: TrainState | None
