"""Fresh draws of trained flows with their importance weights."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.compilation import jit, jit_once, split
from numpyro_onestep.draws import folds
from numpyro_onestep.flow import density
from numpyro_onestep.flow.density import Flow

__all__ = ["Proposals", "pool", "propose", "propose_once"]

_CHUNK = 1024


class Proposals(NamedTuple):
    """Fresh draws of the flow: unconstrained flat points (N, D), their log weights, −log γ and folds, each (N,)."""

    points: Array
    log_weights: Array
    potential_energy: Array
    folded: Array


def propose_once(trained: Flow, rng_key: Array, num_draws: int, num_steps: int) -> Proposals:
    """Draw from the flow, all at once."""
    network, problem = trained
    x0 = base_.sample(problem.base, rng_key, num_draws)
    y, log_w = density.log_weights(network, problem, x0, num_steps)
    energy = jax.vmap(lambda u: base_.whitening_log_det(problem.base, u) - problem.target.value(u))(y)
    return Proposals(jax.vmap(lambda u: base_.unwhiten(problem.base, u))(y), log_w, energy, jnp.isnan(log_w))


def propose(trained: Flow, rng_key: Array, num_draws: int, num_steps: int, check_folds: bool = False) -> Proposals:
    """The same in chunks of fixed size, one after the other, to bound the memory.

    With `check_folds` every draw is also carried back through the inverse; a draw is folded where a Jacobian is not
    positive definite or the way back misses the base draw by more than 1e-3 (in units of the base).
    """
    size = min(_CHUNK, num_draws)
    num_chunks = -(-num_draws // size)
    drawn = _propose(trained, rng_key, num_chunks, size, num_steps)
    if check_folds:
        drawn = drawn._replace(folded=folds.folded(trained, rng_key, num_chunks, size, num_steps))
    return drawn if num_chunks * size == num_draws else first(drawn, num_draws)


@partial(jit, static_argnames=("num_chunks", "size", "num_steps"))
def _propose(trained: Flow, rng_key: Array, num_chunks: int, size: int, num_steps: int) -> Proposals:
    chunk = lambda key: propose_once(trained, key, size, num_steps)  # noqa: E731
    chunks = lax.map(chunk, random.split(rng_key, num_chunks))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), chunks)


@partial(jit_once, static_argnames=("num_draws",))
def first(proposals: Proposals, num_draws: int) -> Proposals:
    """The first of them."""
    return jax.tree.map(lambda leaf: leaf[:num_draws], proposals)


def pool(flows: Sequence[Flow], rng_key: Array, num_draws: int, num_steps: int) -> Proposals:
    """As many draws of each flow, in turn; every one has the weight of its own flow, so together they are exact too."""
    if len(flows) == 1:
        return propose(flows[0], split(rng_key)[0], num_draws, num_steps)
    share = -(-num_draws // len(flows))
    parts = [propose(f, k, share, num_steps) for f, k in zip(flows, random.split(rng_key, len(flows)), strict=True)]
    return jax.tree.map(lambda *ls: jnp.stack(ls, axis=1).reshape(-1, *ls[0].shape[1:])[:num_draws], *parts)
