"""Whole chains of corrected draws: from a batch of fresh proposals, or from the particles of a bridge."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro.diagnostics import effective_sample_size

from numpyro_onestep.bridge.clouds import PER_SWEEP
from numpyro_onestep.bridge.crossing import Sweeps
from numpyro_onestep.compilation import jit
from numpyro_onestep.draws import metropolis
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.draws.weights import resample

__all__ = ["Chains", "collect", "collect_sweeps", "mix"]

_ENOUGH = 0.25  # share of effective draws of each coordinate
_PLENTY = 4096  # effective draws: a bridge has at most as many particles
_FEWEST = 100  # draws of a chain that tell


class Chains(NamedTuple):
    """Corrected draws: kept points (chains, kept, D) and fields of the state for each, and the last of each chain."""

    points: Array
    fields: dict[str, Array]
    last_points: Array
    last_fields: dict[str, Array]


@partial(jit, static_argnames=("correction", "shape", "num_steps", "thinning", "num_flows"))
def collect(
    rng_key: Array,
    proposals: Proposals,
    correction: str,
    shape: tuple[int, int],
    num_steps: int,
    thinning: int,
    num_flows: int,
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
        num_flows: flows that took turns in the proposals.
        num_before: iterations before the first draw.
        num_counted: those of them that were draws.
        mean_before: mean acceptance probability of these, shape (chains,).
    """
    held, accept_prob = _correct(correction, rng_key, proposals.log_weights, shape)
    proposed = proposals.log_weights[: shape[0] * shape[1]].reshape(shape)
    fields = {
        "potential_energy": proposals.potential_energy[held],
        "log_weight": proposals.log_weights[held],
        "accept_prob": accept_prob,
        "diverging": ~(proposed > -jnp.inf),
        "num_steps": jnp.full(shape, num_steps),
    }
    last = {"x": proposals.x[held[:, -1]], "flow": held[:, -1] % num_flows}
    return _thinned(proposals.points[held], fields, last, thinning, num_before, num_counted, mean_before)


@partial(jit, static_argnames=("shape", "thinning"))
def collect_sweeps(
    sweeps: Sequence[Sweeps],
    log_angles: Sequence[Array],
    shape: tuple[int, int],
    thinning: int,
    num_before: Array,
    num_counted: Array,
    mean_before: Array,
) -> Chains:
    """The draws of bridges as chains: the sweeps of each particle one after the other, cloud by cloud.

    So chains are of different clouds where there are enough of these, and what draws of one chain have in common shows
    as autocorrelation: successive states of a particle, and particles of one ancestor, stand side by side.

    Args:
        sweeps: of each flow's bridge, equal in shape and together at least as many draws.
        log_angles: of the moves of each.
        shape: as in `collect`, and so the other arguments.
        thinning: keep every so many draws.
        num_before: iterations before the first draw.
        num_counted: those of them that were draws.
        mean_before: mean acceptance probability of these, shape (chains,).
    """
    flow = [jnp.full(s.log_weights.shape, i) for i, s in enumerate(sweeps)]
    angle = [jnp.broadcast_to(a, s.log_weights.shape) for s, a in zip(sweeps, log_angles, strict=True)]
    all_, flow, angle = jax.tree.map(lambda *ls: jnp.concatenate(ls), *zip(sweeps, flow, angle, strict=True))
    num_clouds, num_particles, num_sweeps = flow.shape
    each = -(-shape[0] * shape[1] // (num_clouds * num_sweeps))  # particles of each cloud that are enough
    few = np.arange(each) * num_particles // each

    def chains(leaf: Array) -> Array:
        flat = leaf[:, few].reshape(-1, *leaf.shape[3:])
        return flat[: shape[0] * shape[1]].reshape(*shape, *leaf.shape[3:])

    all_, flow, angle = jax.tree.map(chains, (all_, flow, angle))
    fields = {
        "potential_energy": all_.potential_energy,
        "log_weight": all_.log_weights,
        "accept_prob": all_.accept_prob,
        "diverging": jnp.zeros(shape, bool),
        "num_steps": jnp.full(shape, PER_SWEEP),
    }
    last = {"x": all_.x[:, -1], "flow": flow[:, -1], "log_angle": angle[:, -1]}
    return _thinned(all_.points, fields, last, thinning, num_before, num_counted, mean_before)


def _thinned(
    points: Array,
    fields: dict[str, Array],
    last: dict[str, Array],
    thinning: int,
    num_before: Array,
    num_counted: Array,
    mean_before: Array,
) -> Chains:
    """The draws to keep, and the last ones; with the iterations' numbers and the running mean of acceptance."""
    shape = points.shape[:2]
    iterations = jnp.arange(shape[1])
    fields = fields | {
        "i": jnp.broadcast_to(num_before + 1 + iterations, shape),
        "mean_accept_prob": (num_counted * mean_before[:, None] + jnp.cumsum(fields["accept_prob"], axis=1))
        / (num_counted + 1 + iterations),
    }
    kept = np.arange(shape[1] % thinning + thinning - 1, shape[1], thinning)
    kept_fields = {name: value[:, kept] for name, value in fields.items()}
    last_fields = {name: value[:, -1] for name, value in fields.items()} | last
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


def mix(points: np.ndarray) -> bool:
    """Whether each coordinate of chains (chains, draws, D) has enough effective draws, as their autocorrelation tells.

    Chains of weighted draws may stay at one of them for long, be ever so many of these effective. Where there are more
    effective draws than a bridge has particles they are enough, and so are chains too short to tell.
    """
    num_chains, num_draws, _ = points.shape
    if num_draws < _FEWEST:
        return True
    with np.errstate(invalid="ignore", divide="ignore"):  # nan where a coordinate does not move
        each = [effective_sample_size(points[:, :, i].astype(np.float64)) for i in range(points.shape[2])]
    return bool(np.min(each) >= min(_ENOUGH * num_chains * num_draws, _PLENTY))
