"""The state of the `OneStep` kernel: the chain and everything learnt."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from numpyro.util import is_prng_key

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge.clouds import FIRST_ANGLE
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.devices import on_all
from numpyro_onestep.draws.proposal import angle_of
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.members.laplace import Members
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.target import Target
from numpyro_onestep.training.state import TrainState, separate

__all__ = [
    "OneStepState",
    "acceptance",
    "after_draws",
    "check_dim",
    "first_state",
    "first_values",
    "flows_of",
    "trained_flows",
    "trained_state",
]


class OneStepState(NamedTuple):
    """The state of `OneStep`. Names are those of NumPyro's `HMCState` where the meaning is the same.

    With vectorized chains the fields down to `log_angle` have a leading axis of chains; the flow is shared. With
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
        x: the point of the base's coordinates that the flow takes to z, a flat vector; nan where it is not known.
        flow: which of several flows does.
        log_angle: of the local moves, log radians.
        ladder_angle: of the Hamiltonian steps of more than one evaluation a draw, one for each flow.
        base: the base distribution.
        train: the flow and its training state; None if it was never trained.
        members: coordinates that are whitened given the rest before the flow sees them; None if there are none.
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
    x: Array
    flow: Array
    log_angle: Array
    ladder_angle: Array
    base: Base | None
    train: TrainState | None
    members: Members | None = None


def first_state(
    rng_key: Array, setup: ModelSetup, given: Any, num_steps: int, base: Base | None, trained: TrainState | None
) -> OneStepState:
    """The state before the first iteration, every chain at the base's centre; one chain for each key.

    `given` are the positional and the keyword arguments of the model.
    """
    chains = () if is_prng_key(rng_key) else (len(rng_key),)
    zero: Any = np.zeros(chains, jnp.result_type(float))
    none: Any = np.zeros(chains, jnp.result_type(int))
    unknown: Any = np.full((*chains, *setup.center.shape), np.nan, zero.dtype)
    angles: Any = np.zeros(np.shape(trained.iteration) if trained is not None else (), zero.dtype)
    z = setup.unravel(setup.center) if base is None else _center(base, setup.unraveled(*given))
    return OneStepState(
        i=none,
        z=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, chains + leaf.shape), z),
        potential_energy=zero,
        log_weight=zero - np.inf,
        accept_prob=zero,
        mean_accept_prob=zero,
        num_steps=none + num_steps,
        diverging=none > 0,
        rng_key=rng_key,
        x=unknown,
        flow=none,
        log_angle=zero + np.log(FIRST_ANGLE),
        ladder_angle=angles,
        base=base,
        train=trained,
        members=setup.members,
    )


@jit_once
def _center(base: Base, unravel: ModelFunction) -> Any:
    return unravel(base_.unwhiten(base, jnp.zeros(base.dim, base.dtype)))


def trained_state(
    rng_key: Array, setup: ModelSetup, given: Any, num_steps: int, base: Base, trained: TrainState
) -> OneStepState:
    """The state at the end of warmup, with a flow trained elsewhere; `given` are the model's arguments."""
    state = first_state(rng_key, setup, given, num_steps, base, trained)
    state = state._replace(i=state.i + np.ravel(trained.num_iterations)[0])
    if num_steps == 1:
        return state
    angles = [angle_of(flow, num_steps) for flow in flows_of(state, setup.target(*given))]
    return state._replace(ladder_angle=jnp.stack(angles) if len(angles) > 1 else angles[0])


def acceptance(state: OneStepState, num_chains: int) -> tuple[Any, Any, Any]:
    """Iterations done, those of them that were draws, and the mean acceptance of these, shape (num_chains,)."""
    num_before, mean = np.ravel(state.i)[0], np.ravel(state.mean_accept_prob)
    num_counted = num_before - np.ravel(state.train.num_iterations)[0]  # type: ignore[union-attr]
    return num_before, num_counted, mean if len(mean) == num_chains else np.full(num_chains, np.mean(mean))


def first_values(state: OneStepState) -> Any:
    """The unconstrained values of a chain, the first of several."""
    return state.z if jnp.ndim(state.i) == 0 else jax.tree.map(lambda leaf: leaf[0], state.z)


def after_draws(state: OneStepState, keys: Array, z: Any, fields: dict[str, Array]) -> OneStepState:
    """The state after draws, for a run that goes on.

    Args:
        state: that before them.
        keys: of the chains.
        z: unconstrained values of the last draw of each chain, leaves with a leading axis of chains.
        fields: the other fields of the state at these draws, shape (chains,).
    """
    angle = jnp.broadcast_to(jnp.ravel(state.log_angle)[0], keys.shape[:1])
    chains = {"z": z, "rng_key": keys, "log_angle": angle, **fields}
    if len(keys) == 1:  # NumPyro's own single chain has no axis of chains
        chains = jax.tree.map(lambda leaf: leaf[0], chains)
    return state._replace(**chains)


def check_dim(base: Base, dim: int) -> None:
    """Raise ValueError if a flow trained earlier has another dimension than the model's points."""
    if dim != base.dim:
        raise ValueError(
            f"The trained flow has {base.dim} dimensions, but the model has {dim}: was it trained on "
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
    return [state._replace(train=flow) for flow in separate(state.train)]


def flows_of(state: Any, target: Target, mesh: Mesh | None = None) -> list[Flow]:
    """The state's independently trained flows to `target`, on the devices of a mesh; ValueError if there is none."""
    learnt = [on_all(mesh, (s.train.best, s.base)) for s in trained_flows(state)]  # type: ignore[union-attr]
    return [Flow(network, Problem(base, target)) for network, base in learnt]
