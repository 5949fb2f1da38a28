"""One iteration of a chain: a fresh proposal, and a local move where those are often refused."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge import hamiltonian
from numpyro_onestep.bridge.ladder import path_of
from numpyro_onestep.draws import metropolis
from numpyro_onestep.draws.proposal import propose_once
from numpyro_onestep.draws.weights import resample
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork

__all__ = ["Move", "move"]

_ADAPTATION = 0.1  # of the local moves' angle, of which each iteration sees one
_NUM_RESAMPLED = 32  # proposals of one `correction="resample"` iteration


class Move(NamedTuple):
    """One iteration of a chain: where it is, and what became of the proposal.

    Attributes:
        rng_key: the chain's key for the next one.
        point: flat unconstrained point, shape (D,); that of the proposal, or of the local move after it.
        potential_energy: −log γ there.
        log_weight: log weight there.
        x: the base's point that the flow takes there, shape (D,).
        flow: which flow.
        log_angle: of the local moves.
        moved: whether the chain is elsewhere now.
        accept_prob: acceptance probability of the proposal.
        diverging: whether the proposal has no density.
    """

    rng_key: Array
    point: Array
    potential_energy: Array
    log_weight: Array
    x: Array
    flow: Array
    log_angle: Array
    moved: Array
    accept_prob: Array
    diverging: Array


def move(
    rng_key: Array,
    log_weight: Array,
    x: Array,
    flow: Array,
    log_angle: Array,
    networks: StepNetwork,
    several: bool,
    problem: Problem,
    num_steps: int,
    angle: Array,
    correction: str,
    always: Array,
    local: bool,
) -> Move:
    """A fresh proposal to a chain at a draw of `log_weight`, whether it moves there, and a local move if wanted.

    Args:
        rng_key: random key of the chain.
        log_weight: of the chain's present draw.
        x: the base's point that the flow takes to it; nan where it is not known, and then no local move is accepted.
        flow: which flow does.
        log_angle: of the local moves.
        networks: of the flow, or of `several` on a leading axis, any one of which proposes.
        several: whether there are several.
        problem: base and target.
        num_steps: network evaluations per draw.
        angle: of the Hamiltonian steps of such a budget, or of each flow's.
        correction: as in `OneStep`.
        always: take every proposal that has a density, as while training goes on; then the local moves' angle adapts.
        local: whether to make a local move: one of Hamiltonian Monte Carlo on the base's coordinates.
    """
    rng_key, key_draw, key_pick, key_accept, key_flow = random.split(rng_key, 5)
    which = jnp.zeros_like(flow)
    if several:
        which = random.randint(key_flow, (), 0, len(jax.tree.leaves(networks)[0]), which.dtype)
        angle = angle[which]
    network = _one(networks, which, several)
    num = _NUM_RESAMPLED if correction == "resample" else 1
    fresh = propose_once(Flow(network, problem), key_draw, num, num_steps, angle)
    pick = resample(key_pick, fresh.log_weights, 1)[0]
    proposed = fresh.log_weights[pick]
    moved, accept_prob = metropolis.accept(key_accept, log_weight, proposed)
    finite = proposed > -jnp.inf
    taken = always | (correction != "metropolis")
    accept_prob = jnp.where(taken, finite.astype(fresh.points.dtype), accept_prob)
    moved = (moved | taken) & finite
    end = Move(
        rng_key,
        fresh.points[pick],
        fresh.potential_energy[pick],
        jnp.where(moved, proposed, log_weight),
        jnp.where(moved, fresh.x[pick], x),
        jnp.where(moved, which, flow),
        log_angle,
        moved,
        accept_prob,
        ~finite,
    )
    if not local:
        return end
    return _move_locally(random.fold_in(key_draw, 1), Flow(_one(networks, end.flow, several), problem), end, always)


def _one(networks: StepNetwork, which: Array, several: bool) -> StepNetwork:
    return jax.tree.map(lambda leaf: leaf[which], networks) if several else networks


def _move_locally(rng_key: Array, trained: Flow, end: Move, adapting: Array) -> Move:
    path = path_of(trained, 1, math.inf)
    start = jax.vmap(lambda x: hamiltonian.look(path, x))(end.x[None])
    at, accept_prob = hamiltonian.move(path, rng_key, start, jnp.ones_like(end.log_weight), end.log_angle)
    elsewhere = jnp.any(at.x != start.x) & jnp.all(jnp.isfinite(at.x))  # nan differs from itself
    point, energy = path.target.carry(at.x[0], at.log_target[0])  # type: ignore[attr-defined]
    keep = lambda new, old: jnp.where(elsewhere, new, old)  # noqa: E731
    return end._replace(
        point=keep(point, end.point),
        potential_energy=keep(energy, end.potential_energy),
        log_weight=keep(at.log_target[0] - at.log_base[0], end.log_weight),
        x=at.x[0],
        log_angle=jnp.where(adapting, hamiltonian.adapt(end.log_angle, accept_prob, _ADAPTATION), end.log_angle),
        moved=end.moved | elsewhere,
    )
