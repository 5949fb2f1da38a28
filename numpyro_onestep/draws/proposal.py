"""Fresh draws of trained flows with their importance weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.bridge import ladder
from numpyro_onestep.compilation import compile_ahead, jit, jit_once, shapes_of, split
from numpyro_onestep.devices import shard
from numpyro_onestep.flow import density, folds, steps
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.model.function import ModelFunction

__all__ = [
    "BRIDGES",
    "ENOUGH_ESS",
    "NUM_PROPOSALS",
    "Proposals",
    "angle_of",
    "expect",
    "pool",
    "propose",
    "propose_once",
    "stream",
    "undefined_share",
    "want_bridge",
]

BRIDGES = ("auto", "always", "never")

_CHUNK = 1024
_MAX_LOOKED_AT = 512
NUM_PROPOSALS = 4096  # of the evidence
ENOUGH_ESS = 0.5  # share of effective draws from which on they need no bridge


class Proposals(NamedTuple):
    """Fresh draws of the flow: unconstrained flat points (N, D), their log weights and −log γ, each (N,).

    And which of the first of them fold, and the points (N, D) of the base's coordinates that the map takes to them.
    """

    points: Array
    log_weights: Array
    potential_energy: Array
    folded: Array
    x: Array


def propose_once(trained: Flow, rng_key: Array, num_draws: int, num_steps: int, angle: Array) -> Proposals:
    """Draw from the flow, all at once; `angle` is that of the Hamiltonian steps, where the map takes fewer steps."""
    network, problem = trained
    own = steps.own_steps(network, num_steps)
    if own < num_steps:
        path = ladder.path_of(trained, own, math.inf if num_draws < _CHUNK else ladder.EXACT_DIM)
        ends = ladder.ascend(path, rng_key, num_draws, num_steps, angle)
        points, energy = jax.vmap(path.target.carry)(ends.x, ends.log_target)  # type: ignore[attr-defined]
        return Proposals(points, ends.log_weights, energy, jnp.isnan(ends.log_weights), ends.x)
    x0 = shard(base_.sample(problem.base, rng_key, num_draws))
    y, log_w = density.log_weights(network, problem, x0, num_steps)
    energy = jax.vmap(lambda u: base_.whitening_log_det(problem.base, u) - problem.target.value(u))(y)
    return Proposals(jax.vmap(lambda u: base_.unwhiten(problem.base, u))(y), log_w, energy, jnp.isnan(log_w), x0)


def angle_of(trained: Flow, num_steps: int) -> Any:
    """The angle of a budget's Hamiltonian steps; 0 where it has none."""
    if steps.own_steps(trained.network, num_steps) == num_steps:
        return np.zeros((), trained.problem.base.dtype)
    return ladder.compiled_angle_of(trained, num_steps)


def propose(trained: Flow, rng_key: Array, num_draws: int, num_steps: int, check_folds: bool = False) -> Proposals:
    """The same in chunks of fixed size, one after the other, to bound the memory.

    With `check_folds` the base draws of the first chunk are also carried there and back through the inverse; a draw is
    folded where a Jacobian is not positive definite or the way back misses it by more than 1e-3 (in units of the base).
    """
    num_chunks, size = _chunks(num_draws)
    drawn = _propose(trained, rng_key, 0, num_chunks, size, num_steps, angle_of(trained, num_steps))
    if check_folds:
        own = steps.own_steps(trained.network, num_steps)
        drawn = drawn._replace(folded=folds.folded(trained, rng_key, size, own))
    return drawn if num_chunks * size == num_draws else first(drawn, num_draws)


def expect(trained: Callable[[], Flow], rng_key: Array, num_draws: int, num_steps: int) -> Callable[[], Proposals]:
    """Compile `propose` in a second thread, for a flow of these shapes, and the fold check of the evidence.

    Returns what gives the shapes of the draws.
    """

    def proposing() -> tuple:
        flow = trained()
        angle = jax.ShapeDtypeStruct((), flow.problem.base.dtype)
        return flow, rng_key, 0, *_chunks(num_draws), num_steps, angle

    def folding() -> tuple:
        flow = trained()
        return flow, rng_key, _chunks(NUM_PROPOSALS)[1], steps.own_steps(flow.network, num_steps)

    def shapes() -> Proposals:
        drawn = shapes_of(_propose, *proposing())
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_draws, *leaf.shape[1:]), leaf.dtype), drawn)

    compile_ahead(_propose, proposing)
    compile_ahead(folds.folded, folding)
    return shapes


def _chunks(num_draws: int) -> tuple[int, int]:
    """Number of chunks, and their size."""
    size = min(_CHUNK, num_draws)
    return -(-num_draws // size), size


@partial(jit, static_argnames=("num_chunks", "size", "num_steps"))
def _propose(
    trained: Flow, rng_key: Array, first_chunk: int, num_chunks: int, size: int, num_steps: int, angle: Array
) -> Proposals:
    """Chunks from `first_chunk` on; the draws of each are those of its own fold of the key, whatever comes before."""
    chunk = lambda i: propose_once(trained, random.fold_in(rng_key, i), size, num_steps, angle)  # noqa: E731
    chunks = lax.map(chunk, first_chunk + jnp.arange(num_chunks))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), chunks)


def undefined_share(trained: Flow, proposals: Proposals) -> float:
    """Share of the proposals whose density cannot be computed, being nan or infinite, unlike those where it is zero.

    `Target` reports both as −inf. What they are is seen by computing the densities of up to 512 of them anew.
    """
    lost = ~np.isfinite(np.asarray(proposals.log_weights))
    if not np.any(lost):
        return 0.0
    some = np.flatnonzero(lost)[:_MAX_LOOKED_AT]
    points: Any = np.asarray(proposals.points)[np.resize(some, _MAX_LOOKED_AT)]
    log_density = np.asarray(_log_density(trained.problem.density.log_density, points))[: len(some)]
    return float(np.mean(lost) * np.mean(~np.isneginf(log_density)))


@jit_once
def _log_density(function: ModelFunction, points: Array) -> Array:
    return jax.vmap(function)(points)


def want_bridge(choice: str, share: float, fine: bool) -> bool:
    """Whether draws with this share of effective ones need a bridge.

    `choice` is "always" or "never", or "auto": where less than half of them are effective, or something else is not
    `fine`.
    """
    return choice == "always" or (choice == "auto" and not (share >= ENOUGH_ESS and fine))


@partial(jit_once, static_argnames=("num_draws",))
def first(proposals: Proposals, num_draws: int) -> Proposals:
    """The first of them."""
    return jax.tree.map(lambda leaf: leaf[:num_draws], proposals)


def pool(flows: Sequence[Flow], rng_key: Array, num_draws: int, num_steps: int) -> Proposals:
    """As many draws of each flow, in turn; every one has the weight of its own flow, so together they are exact too."""
    share = -(-num_draws // len(flows))
    parts = [propose(f, k, share, num_steps) for f, k in zip(flows, _keys(flows, rng_key), strict=True)]
    return _in_turn(parts, num_draws)


def stream(flows: Sequence[Flow], rng_key: Array, num_draws: int, num_steps: int, at_once: int) -> Iterator[Proposals]:
    """The draws of `pool`, about `at_once` of them at a time; a few more than `num_draws` in all."""
    keys, angles = _keys(flows, rng_key), [angle_of(flow, num_steps) for flow in flows]
    num_chunks, size = _chunks(-(-num_draws // len(flows)))
    num_parts = -(-num_chunks // max(1, at_once // (size * len(flows))))
    num_each = -(-num_chunks // num_parts)  # all parts of one length, which are one program
    for i in range(0, num_parts * num_each, num_each):
        parts = [_propose(f, k, i, num_each, size, num_steps, a) for f, k, a in zip(flows, keys, angles, strict=True)]
        yield _in_turn(parts, num_each * size * len(flows))


def _keys(flows: Sequence[Flow], rng_key: Array) -> Sequence[Array] | Array:
    return split(rng_key)[:1] if len(flows) == 1 else random.split(rng_key, len(flows))


def _in_turn(parts: Sequence[Proposals], num_draws: int) -> Proposals:
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *ls: jnp.stack(ls, axis=1).reshape(-1, *ls[0].shape[1:])[:num_draws], *parts)
