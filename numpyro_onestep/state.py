"""The state of the `OneStep` kernel: the chain and everything learnt."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.util import is_prng_key

from numpyro_onestep.base.distribution import Base
from numpyro_onestep.training.loop import TrainState

__all__ = ["OneStepState", "check_dim", "first_state", "same_leaves", "trained_flows"]


class OneStepState(NamedTuple):
    """The state of `OneStep`. Names are those of NumPyro's `HMCState` where the meaning is the same.

    With vectorized chains the fields down to `rng_key` have a leading axis of chains; the flow is shared. With
    replicates the fields of `train` have a leading axis of flows.

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


def first_state(rng_key: Array, z: Any, num_steps: int, base: Base | None, trained: TrainState | None) -> OneStepState:
    """The state before the first iteration, every chain at `z`; one chain for each key."""
    chains = () if is_prng_key(rng_key) else (len(rng_key),)
    zero = jnp.zeros(chains, jnp.result_type(float))
    return OneStepState(
        i=jnp.zeros(chains, int),
        z=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, chains + leaf.shape), z),
        potential_energy=zero,
        log_weight=zero - jnp.inf,
        accept_prob=zero,
        mean_accept_prob=zero,
        num_steps=jnp.full(chains, num_steps),
        diverging=jnp.zeros(chains, bool),
        rng_key=rng_key,
        base=base,
        train=trained,
    )


def check_dim(base: Base, point: Array) -> None:
    """Raise ValueError if a flow trained earlier has another dimension than the model's points."""
    if point.shape != (base.dim,):
        raise ValueError(
            f"The trained flow has {base.dim} dimensions, but the model has {point.shape[0]}: was it trained on "
            "another model, or on data of another shape? Train again."
        )


def trained_flows(state: Any) -> list[OneStepState]:
    """The state's independently trained flows: one, one for each replicate, for each chain that trained its own.

    Raises:
        ValueError: if there is no trained flow.
    """
    if not isinstance(state, OneStepState) or state.train is None or state.base is None:
        raise ValueError("No trained OneStep flow here: call `run` with a `OneStep` kernel and num_warmup ≥ 1 first.")
    if jnp.ndim(state.base.annealed) > 0:
        own = state.base, state.train  # the chains' other fields may be those of fewer or more chains
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i], own) for i in range(len(state.base.annealed))]
        return [flow for base, train in parts for flow in trained_flows(state._replace(base=base, train=train))]
    if jnp.ndim(state.train.iteration) == 0:
        return [state]
    num_flows = len(state.train.iteration)
    return [state._replace(train=jax.tree.map(lambda leaf, i=i: leaf[i], state.train)) for i in range(num_flows)]


def same_leaves(a: Any, b: Any) -> bool:
    """Whether two pytrees hold the very same leaves."""
    leaves_a, tree_a = jax.tree.flatten(a)
    leaves_b, tree_b = jax.tree.flatten(b)
    return tree_a == tree_b and all(x is y for x, y in zip(leaves_a, leaves_b, strict=True))
