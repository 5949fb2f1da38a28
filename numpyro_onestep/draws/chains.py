"""Chains of corrected draws, made from a batch of fresh proposals."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.compilation import jit
from numpyro_onestep.draws import metropolis
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.draws.weights import resample

__all__ = ["collect"]


@partial(jit, static_argnames=("correction", "shape", "num_steps"))
def collect(
    rng_key: Array,
    proposals: Proposals,
    correction: str,
    shape: tuple[int, int],
    num_steps: int,
    num_before: Array,
    num_counted: Array,
    mean_before: Array,
) -> tuple[Array, dict[str, Array]]:
    """The corrected points, shape (chains, draws, D), and the fields of the state that go with them.

    Args:
        rng_key: random key.
        proposals: as many as there are draws, or more with correction "resample".
        correction: as in `OneStep`.
        shape: numbers of chains and draws.
        num_steps: network evaluations per draw.
        num_before: iterations before the first draw.
        num_counted: those of them that were draws.
        mean_before: mean acceptance probability of these, shape (chains,).
    """
    held, accept_prob = _correct(correction, rng_key, proposals.log_weights, shape)
    proposed = proposals.log_weights[: shape[0] * shape[1]].reshape(shape)
    iterations = jnp.arange(shape[1])
    return proposals.points[held], {
        "potential_energy": proposals.potential_energy[held],
        "log_weight": proposals.log_weights[held],
        "accept_prob": accept_prob,
        "diverging": ~(proposed > -jnp.inf),
        "num_steps": jnp.full(shape, num_steps),
        "i": jnp.broadcast_to(num_before + 1 + iterations, shape),
        "mean_accept_prob": (num_counted * mean_before[:, None] + jnp.cumsum(accept_prob, axis=1))
        / (num_counted + 1 + iterations),
    }


def _correct(correction: str, rng_key: Array, log_weights: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Indices of the proposals that each chain holds, and acceptance probabilities, both of shape (chains, draws)."""
    ones = jnp.ones(shape, log_weights.dtype)
    if correction == "resample":
        return resample(rng_key, log_weights, shape[0] * shape[1]).reshape(shape), ones
    indices = jnp.arange(shape[0] * shape[1]).reshape(shape)
    if correction == "none":
        return indices, ones
    held, accept_prob = jax.vmap(metropolis.chain)(random.split(rng_key, shape[0]), log_weights.reshape(shape))
    return jnp.take_along_axis(indices, held, axis=1), accept_prob
