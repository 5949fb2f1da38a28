"""One iteration of all chains of a stock `MCMC` with the flow as it is: proposals, local moves, the new state."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge.ladder import find_angle, path_of
from numpyro_onestep.draws.move import move
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.state import OneStepState
from numpyro_onestep.training.state import TrainState

__all__ = ["iterate"]


def iterate(
    state: OneStepState,
    trained: TrainState,
    problem: Problem,
    unravel: ModelFunction,
    out: ModelFunction | None,
    *,
    num_steps: int,
    finest: int,
    correction: str,
    bridge: str,
) -> OneStepState:
    """The state after a proposal to each chain, and a local move with `bridge="always"`.

    Args:
        state: before it.
        trained: the flow, trained on since.
        problem: base and target.
        unravel: from the sampler's flat vector to the values of the state.
        out: the volume of that vector, see `ModelSetup.out_of_coordinates`.
        num_steps: evaluations per draw.
        finest: the finest budget that the map was refined for.
        correction: as in `OneStep`.
        bridge: as in `OneStep`.
    """
    num_warmup = jnp.ravel(trained.num_iterations)[0]
    ladder_angle, local = state.ladder_angle, False
    if num_steps > finest:
        ladder_angle = _ladder_angle(state, trained, problem, num_steps)
    elif num_steps == 1 and bridge == "always" and correction != "none":
        local = True
    propose = partial(
        move,
        networks=trained.best,
        problem=problem,
        num_steps=num_steps,
        angle=ladder_angle,
        correction=correction,
        local=local,
        always=jnp.ravel(state.i)[0] <= num_warmup,
        several=jnp.ndim(trained.iteration) > 0,
    )

    def one(chain: OneStepState) -> OneStepState:
        new = propose(chain.rng_key, chain.log_weight, chain.x, chain.flow, chain.log_angle)
        keep = lambda a, b: jnp.where(new.moved, a, b)  # noqa: E731
        energy = new.potential_energy if out is None else new.potential_energy + out(new.point)[1]
        n = jnp.maximum(1, chain.i + 1 - num_warmup)
        mean = chain.mean_accept_prob + (new.accept_prob - chain.mean_accept_prob) / n
        return chain._replace(
            i=chain.i + 1,
            z=jax.tree.map(keep, unravel(new.point), chain.z),
            potential_energy=keep(energy, chain.potential_energy),
            log_weight=new.log_weight,
            x=new.x,
            flow=new.flow,
            log_angle=new.log_angle,
            accept_prob=new.accept_prob,
            mean_accept_prob=jnp.where(chain.i <= num_warmup, new.accept_prob, mean),
            diverging=new.diverging,
            rng_key=new.rng_key,
        )

    own = state._replace(base=None, train=None, ladder_angle=None, members=None)  # type: ignore[arg-type]
    moved = one(own) if jnp.ndim(state.i) == 0 else jax.vmap(one)(own)
    return moved._replace(base=state.base, train=trained, ladder_angle=ladder_angle, members=state.members)


def _ladder_angle(state: OneStepState, trained: TrainState, problem: Problem, num_steps: int) -> Array:
    """The angle of the Hamiltonian steps of each flow, found once, when the last iteration of warmup has trained."""

    def find(networks: StepNetwork) -> Array:
        return find_angle(path_of(Flow(networks, problem), 1), num_steps)

    several = jnp.ndim(trained.iteration) > 0
    ends = jnp.ravel(state.i)[0] == jnp.ravel(trained.num_iterations)[0] - 1
    found = lambda *_: (jax.vmap(find) if several else find)(trained.best)  # noqa: E731
    return lax.fori_loop(0, jnp.where(ends, 1, 0), found, state.ladder_angle)
