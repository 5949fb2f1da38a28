"""All that a run does after its warmup: proposals, a bridge where they are not enough, and corrected chains."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, random
from tqdm.auto import tqdm

from numpyro_onestep import threads
from numpyro_onestep.bridge import clouds as clouds_
from numpyro_onestep.bridge import crossing as crossing_
from numpyro_onestep.bridge.crossing import NUM_CLOUDS, Crossing, cross, is_crossed, sweep
from numpyro_onestep.compilation import compile_ahead, split
from numpyro_onestep.draws import chains, proposal, weights
from numpyro_onestep.draws.chains import Chains
from numpyro_onestep.draws.proposal import pool, want_bridge
from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.steps import own_steps
from numpyro_onestep.trust.bridged import log_z_of

__all__ = ["bridges_of", "chains_of", "expect"]

_MIN_CLOUDS = 2  # of each flow
_LARGE_ERROR = 0.05  # of log Z in nats, for which bridges are crossed again
_MAX_TIMES = 4
_AGAIN = 1000  # from here on numbers of keys, beyond those of flows
_SURELY_ENOUGH = 0.75  # share of effective draws from which on few runs need a bridge for anything else


def bridges_of(flows: Sequence[Flow], rng_key: Array, num_steps: int, progress_bar: bool = False) -> list[Crossing]:
    """A bridge from each flow to the target, eight clouds in all, and the same again where log Z has a large error.

    Further bridges, of all flows in turn, lessen what is due to chance, not what all clouds miss. One that does not
    come to the target ends them, and does not count.

    Args:
        flows: independently trained.
        rng_key: random key.
        num_steps: the budget; of a refined one the map's steps are as many.
        progress_bar: whether to show progress.
    """
    num_clouds = max(_MIN_CLOUDS, NUM_CLOUDS // len(flows))
    crossings: list[Crossing] = []
    with tqdm(total=len(flows), desc="bridge", disable=not progress_bar) as bar:
        for time in range(_MAX_TIMES):
            this = random.fold_in(rng_key, _AGAIN + time) if time > 0 else rng_key
            keys = split(this)[:1] if len(flows) == 1 else random.split(this, len(flows))
            further = []
            for flow, key in zip(flows, keys, strict=True):
                crossing = cross(flow, key, own_steps(flow.network, num_steps), num_clouds)
                further.append(jax.block_until_ready(crossing))
                bar.update()
            arrived = all(map(is_crossed, further))
            if time == 0 or arrived:
                crossings += further
            if not (arrived and log_z_of([crossing.clouds for crossing in crossings])[1] > _LARGE_ERROR):
                break
            bar.total += len(flows)
    return crossings


def expect(
    rng_key: Array,
    correction: str,
    bridge: str,
    shape: tuple[int, int],
    num_steps: int,
    thinning: int,
    flow: Callable[[], Flow],
    share: float,
) -> None:
    """Compile and import in a second thread what draws and evidence will need.

    Args:
        rng_key: any key.
        correction: as in `OneStep`.
        bridge: as in `OneStep`.
        shape: numbers of chains and draws.
        num_steps: the budget.
        thinning: keep every so many draws.
        flow: returns a flow, or the shapes of one.
        share: of effective draws, as far as is known.
    """
    num_draws = _num_proposals(correction, shape)
    proposals = proposal.expect(flow, rng_key, num_draws, num_steps)

    def collecting() -> tuple:
        acceptance = jax.ShapeDtypeStruct(shape[:1], flow().problem.base.dtype)
        return rng_key, proposals(), correction, shape, num_steps, thinning, 1, np.int_(0), np.int_(0), acceptance

    if correction != "none" and want_bridge(bridge, share, fine=share > _SURELY_ENOUGH):
        crossing_.expect(flow, rng_key, shape[0] * shape[1], num_steps)
    else:
        compile_ahead(chains.collect, collecting)
    threads.begin(weights.prepare, weights.prepare)


def _num_proposals(correction: str, shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * (2 if correction == "resample" else 1)


def chains_of(
    rng_key: Array,
    flows: Sequence[Flow],
    correction: str,
    bridge: str,
    shape: tuple[int, int],
    num_steps: int,
    thinning: int,
    before: tuple[Any, Any, Any],
    progress_bar: bool,
) -> tuple[Chains, list[Crossing] | None]:
    """Chains of draws, and the bridges that they come from where there are any, if their particles move at all.

    Args:
        rng_key: random key.
        flows: independently trained, which take turns.
        correction: as in `OneStep`.
        bridge: as in `OneStep`; without correction there is none.
        shape: numbers of chains and draws.
        num_steps: evaluations per draw.
        thinning: keep every so many draws.
        before: iterations done, those of them that were draws, and the mean acceptance of these.
        progress_bar: whether to show progress.
    """
    key_propose, key_correct, key_bridge, *_ = split(rng_key)
    proposals = pool(flows, key_propose, _num_proposals(correction, shape), num_steps)
    how = correction, shape, num_steps, thinning, len(flows)
    collect = lambda: chains.collect(key_correct, proposals, *how, *before)  # noqa: E731
    if correction == "none" or bridge == "never":
        return collect(), None
    log_w = np.asarray(proposals.log_weights)
    enough = not want_bridge(bridge, effective_sample_size(log_w) / len(log_w), fine=True)
    collected = collect() if enough else None
    if collected is not None and chains.mix(np.asarray(collected.points)):
        return collected, None
    crossings = bridges_of(flows, key_bridge, num_steps, progress_bar)
    if not all(map(is_crossed, crossings)):
        return collect() if collected is None else collected, crossings
    num_sweeps = -(-shape[0] * shape[1] // sum(crossing.clouds.ancestors.size for crossing in crossings))
    keys = split(key_correct)[:1] if len(flows) == 1 else random.split(key_correct, len(flows))
    clouds = [clouds_.together([c.clouds for c in crossings[i :: len(flows)]]) for i in range(len(flows))]
    swept = [
        sweep(flow, key, of_flow, num_sweeps, own_steps(flow.network, num_steps))
        for flow, key, of_flow in zip(flows, keys, clouds, strict=True)
    ]
    angles = [of_flow.log_angle for of_flow in clouds]
    return chains.collect_sweeps(swept, angles, shape, thinning, *before), crossings
