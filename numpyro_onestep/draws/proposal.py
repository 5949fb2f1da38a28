"""Fresh draws of trained flows with their importance weights."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.compilation import jit
from numpyro_onestep.flow import density, steps
from numpyro_onestep.flow.density import Flow

__all__ = ["Proposals", "pool", "propose", "propose_once"]

_CHUNK = 1024


class Proposals(NamedTuple):
    """Fresh draws of the flow: unconstrained flat points (N, D), their log weights, −log γ and folds, each (N,)."""

    points: Array
    log_weights: Array
    potential_energy: Array
    folded: Array


def propose_once(trained: Flow, rng_key: Array, num_draws: int, num_steps: int, check_folds: bool = False) -> Proposals:
    """Draw from the flow, all at once.

    With `check_folds` every draw is also carried back through the inverse; a draw is folded where a Jacobian is not
    positive definite or the way back misses the base draw by more than 1e-3 (in units of the base).
    """
    network, problem = trained
    x0 = base_.sample(problem.base, rng_key, num_draws)
    y, log_w = density.log_weights(network, problem, x0, num_steps)
    energy = jax.vmap(lambda u: base_.whitening_log_det(problem.base, u) - problem.target.value(u))(y)
    folded = jnp.isnan(log_w)
    if check_folds:
        blocks = steps.blocks_of(network, num_steps)
        back = jax.vmap(lambda y: steps.inverse(blocks, y))(y)
        # relative far out, where a Student-t base has draws as well
        folded |= ~(jnp.max(jnp.abs(back - x0), axis=1) < 1e-3 * jnp.maximum(1.0, 0.1 * jnp.max(jnp.abs(x0), axis=1)))
    return Proposals(jax.vmap(lambda u: base_.unwhiten(problem.base, u))(y), log_w, energy, folded)


_propose_once = jit(propose_once, static_argnames=("num_draws", "num_steps", "check_folds"))


def propose(trained: Flow, rng_key: Array, num_draws: int, num_steps: int, check_folds: bool = False) -> Proposals:
    """The same in chunks of fixed size, so that any number compiles once."""
    num_chunks = -(-num_draws // _CHUNK)
    size = min(_CHUNK, num_draws)
    chunks = [_propose_once(trained, key, size, num_steps, check_folds) for key in random.split(rng_key, num_chunks)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_draws], *chunks)


def pool(flows: Sequence[Flow], rng_key: Array, num_draws: int, num_steps: int) -> Proposals:
    """As many draws of each flow, in turn; every one has the weight of its own flow, so together they are exact too."""
    share = -(-num_draws // len(flows))
    parts = [propose(f, k, share, num_steps) for f, k in zip(flows, random.split(rng_key, len(flows)), strict=True)]
    return jax.tree.map(lambda *ls: jnp.stack(ls, axis=1).reshape(-1, *ls[0].shape[1:])[:num_draws], *parts)
