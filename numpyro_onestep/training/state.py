"""Everything that training carries from one iteration to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_onestep.flow.network import StepNetwork

__all__ = ["TrainState", "separate"]


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
        num_gradients: target gradients that training has taken, a plain evaluation counted as one.
        stop: why it has ended, an index of `evaluation.STOPS`.
        done: whether training has ended before all iterations were done.
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
    num_gradients: Array
    stop: Array
    done: Array


def separate(trained: TrainState) -> list[TrainState]:
    """The state of each of several flows, whose leaves have a leading axis; of a single one itself."""
    if jnp.ndim(trained.iteration) == 0:
        return [trained]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(len(trained.iteration))]
