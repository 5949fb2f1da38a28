"""Chains of corrected draws: one move at a time, or all of them from a batch of fresh proposals."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from numpyro_onestep.base.problem import Problem
from numpyro_onestep.compilation import jit
from numpyro_onestep.draws import metropolis
from numpyro_onestep.draws.proposal import Proposals, propose_once
from numpyro_onestep.draws.weights import resample
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork

__all__ = ["Chains", "Move", "collect", "move"]

_NUM_RESAMPLED = 32  # proposals of one `correction="resample"` iteration


class Move(NamedTuple):
    """One proposal to one chain: the flat point (D,), −log γ and log weight of it, and what became of it.

    With the chain's key for the next one.
    """

    rng_key: Array
    point: Array
    potential_energy: Array
    log_weight: Array
    moved: Array
    accept_prob: Array
    diverging: Array


def move(
    rng_key: Array,
    log_weight: Array,
    networks: StepNetwork,
    several: bool,
    problem: Problem,
    num_steps: int,
    correction: str,
    always: Array,
) -> Move:
    """A fresh proposal to a chain at a draw of `log_weight`, and whether it moves there.

    Args:
        rng_key: random key of the chain.
        log_weight: of the chain's present draw.
        networks: of the flow, or of `several` on a leading axis, any one of which proposes.
        several: whether there are several.
        problem: base and target.
        num_steps: network evaluations per draw.
        correction: as in `OneStep`.
        always: take every proposal that has a density, as while training goes on.
    """
    rng_key, key_draw, key_pick, key_accept, key_flow = random.split(rng_key, 5)
    if several:
        which = random.randint(key_flow, (), 0, len(jax.tree.leaves(networks)[0]))
        networks = jax.tree.map(lambda leaf: leaf[which], networks)
    num = _NUM_RESAMPLED if correction == "resample" else 1
    fresh = propose_once(Flow(networks, problem), key_draw, num, num_steps)
    pick = resample(key_pick, fresh.log_weights, 1)[0]
    proposed = fresh.log_weights[pick]
    moved, accept_prob = metropolis.accept(key_accept, log_weight, proposed)
    finite = proposed > -jnp.inf
    taken = always | (correction != "metropolis")
    accept_prob = jnp.where(taken, finite.astype(fresh.points.dtype), accept_prob)
    moved = (moved | taken) & finite
    return Move(rng_key, fresh.points[pick], fresh.potential_energy[pick], proposed, moved, accept_prob, ~finite)


class Chains(NamedTuple):
    """Corrected draws: kept points (chains, kept, D) and fields of the state for each, and the last of each chain."""

    points: Array
    fields: dict[str, Array]
    last_points: Array
    last_fields: dict[str, Array]


@partial(jit, static_argnames=("correction", "shape", "num_steps", "thinning"))
def collect(
    rng_key: Array,
    proposals: Proposals,
    correction: str,
    shape: tuple[int, int],
    num_steps: int,
    thinning: int,
    num_before: Array,
    num_counted: Array,
    mean_before: Array,
) -> Chains:
    """The corrected points and the fields of the state that go with them.

    Args:
        rng_key: random key.
        proposals: as many as there are draws, or more with correction "resample".
        correction: as in `OneStep`.
        shape: numbers of chains and draws.
        num_steps: network evaluations per draw.
        thinning: keep every so many draws, the last among them.
        num_before: iterations before the first draw.
        num_counted: those of them that were draws.
        mean_before: mean acceptance probability of these, shape (chains,).
    """
    held, accept_prob = _correct(correction, rng_key, proposals.log_weights, shape)
    proposed = proposals.log_weights[: shape[0] * shape[1]].reshape(shape)
    iterations = jnp.arange(shape[1])
    points = proposals.points[held]
    fields = {
        "potential_energy": proposals.potential_energy[held],
        "log_weight": proposals.log_weights[held],
        "accept_prob": accept_prob,
        "diverging": ~(proposed > -jnp.inf),
        "num_steps": jnp.full(shape, num_steps),
        "i": jnp.broadcast_to(num_before + 1 + iterations, shape),
        "mean_accept_prob": (num_counted * mean_before[:, None] + jnp.cumsum(accept_prob, axis=1))
        / (num_counted + 1 + iterations),
    }
    kept = np.arange(shape[1] % thinning + thinning - 1, shape[1], thinning)
    kept_fields = {name: value[:, kept] for name, value in fields.items()}
    last_fields = {name: value[:, -1] for name, value in fields.items()}
    return Chains(points[:, kept], kept_fields, points[:, -1], last_fields)


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
