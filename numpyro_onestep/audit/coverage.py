"""The coverage audit: an independent look for posterior mass that the flow does not reach.

A flow that lost a mode looks perfect to itself, since every one of its checks is made on its own draws. Here points of
high density are looked for from starts spread far wider than those of the base search, and the flow's density at each
is computed through the inverse map. Where the target exceeds it e⁵-fold, Gaussians fitted to these places measure, by
importance sampling, how much mass lies where the flow has next to none. Mass that no start leads to stays unseen.

Posterior draws made without the flow, by tempered particles from the base, give the upper bound of log Z.

Compilation is nearly all of the cost. So shapes are those of the base search, whose programs serve here too, and what
is not heavy is left to NumPy.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from numpyro_onestep.audit import lines
from numpyro_onestep.audit import regions as regions_
from numpyro_onestep.audit.lines import NO_TAILS, NUM_POINTS, Tails
from numpyro_onestep.audit.regions import UNCOVERED, values_and_gaps
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base import modes
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.modes import MAX_MODES, NUM_ASCENTS, num_starts
from numpyro_onestep.base.problem import WhitenedTarget
from numpyro_onestep.bridge import clouds as clouds_
from numpyro_onestep.bridge.hamiltonian import Path
from numpyro_onestep.compilation import compile_ahead, jit_once, shapes_of, split
from numpyro_onestep.devices import on_one, shard
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians import fit as fits
from numpyro_onestep.gaussians.fit import num_candidates
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import Target, values

__all__ = ["Audit", "audit", "expect"]

_SPREADS = (1.0, 4.0, 16.0, 16.0)  # of a quarter of the starts each, in coordinates' scales: most room is far out
_NEGLIGIBLE = 0.003  # share of all mass
_NUM_LAST = 5  # rounds of the tempered particles at the target itself
_LONG = 0.02  # share of all mass in tails that would move log Z by no more than its usual tolerance
_DOUBTFUL = 0.03  # estimated share that is not passed over even where its error is as large


class Audit(NamedTuple):
    """What the flow does not cover.

    Attributes:
        share: of all mass, that out of the flow's reach, at least (two standard errors below the estimate).
        shares: estimates of what each region contributes to it, shape (M,).
        regions: Gaussians fitted to these regions, in unconstrained space; without weight where there is none.
        log_ratios: log γ − log q at posterior draws that were made without the flow, shape (N,), nats: their mean is
            the DF-EUBO, an upper bound of log Z. Infinite where the way back through the flow fails; nan if there are
            no such draws, where the tempering did not arrive.
        families: which of these draws come from the same start, labels of shape (N,).
        tails: of single coordinates, out of the flow's reach.
        num_gradients: target gradients that it took, a plain evaluation counted as one.
        countless: whether there are so many modes out of the flow's reach, seen once each, that all of them together
            may matter, where each alone does not.
    """

    share: float
    shares: np.ndarray
    regions: Mixture
    log_ratios: np.ndarray
    families: np.ndarray
    tails: Tails = NO_TAILS
    num_gradients: int = 0
    countless: bool = False

    @property
    def long_tails(self) -> bool:
        """Whether single coordinates' tails out of the flow's reach matter."""
        return self.tails.share > _LONG

    @property
    def missing(self) -> np.ndarray:
        """Indices of the regions that matter, the largest first; none if all of it is negligible."""
        return self._largest if self.share > _NEGLIGIBLE else self._largest[:0]

    @property
    def doubtful(self) -> np.ndarray:
        """The same where much may be missing, but the draws are too few or too far to tell."""
        unclear = self.share <= _NEGLIGIBLE and np.sum(self.shares) > _DOUBTFUL
        return self._largest if unclear else self._largest[:0]

    @property
    def _largest(self) -> np.ndarray:
        order = np.argsort(-self.shares)
        return order[self.shares[order] > 0.1 * np.sum(self.shares)]


def audit(
    target: Target,
    init_scale: float,
    rng_key: Array,
    base: Base,
    blocks: BlockParams,
    log_z: float,
    drawn: np.ndarray | None = None,
) -> Audit:
    """Audit the flow made of `base` and `blocks`, whose log Z is `log_z` to about a nat.

    A `log_z` that is not finite, of a flow that hit nothing, counts as no mass at all. Draws of the prior, where there
    are any, are further starts: `drawn`, shape (`num_drawn`, D).
    """
    key_search, key_fit, key_measure, key_temper, *_ = split(rng_key)
    log_z = float(log_z) if np.isfinite(log_z) else -1e6
    num = num_starts(target.work)
    tempered, families, of_base, center, num_rounds = _particles(target, key_temper, base, num)
    tempered, log_ratios = map(np.asarray, (tempered, values_and_gaps(target, base, blocks, tempered)[1]))
    log_ratios = np.where(np.isnan(tempered).any(axis=1), np.nan, log_ratios)
    families = np.asarray(families)
    num_ascents = num + (0 if drawn is None else len(drawn))
    spent = len(log_ratios) * (1 + int(num_rounds) * clouds_.PER_ROUND) + num_ascents * (2 * NUM_ASCENTS + 3)
    spread = _spread(np.asarray(of_base))
    scales = np.maximum(spread.dtype.type(init_scale), spread)
    densities = partial(_in_parts, partial(values, target), num)
    gaps = partial(_in_parts, lambda z: values_and_gaps(target, base, blocks, z)[1], num)
    tails = NO_TAILS
    if np.all(np.isfinite(tempered)):
        own_scales = np.maximum(_spread(tempered), spread)
        tails = lines.measure(densities, gaps, tempered, own_scales, log_z + UNCOVERED, num)
        spent += num * NUM_POINTS + -(-tails.num_gaps // num) * num
    points, log_density = _search(target, key_search, on_one(center), scales, num, drawn)
    uncovered = gaps(np.asarray(points)) - log_z > UNCOVERED
    log_density = jnp.asarray(np.where(uncovered, log_density, -np.inf))
    picked, num_distinct = modes.select(points, log_density, 0.1 * base.dim**0.5, MAX_MODES)
    if int(num_distinct) == 0:
        nothing = np.zeros(num_candidates(base.dim, target.work), center.dtype)
        shapes = fits.shapes(len(nothing), base.dim, center.dtype)
        nowhere = jax.tree.map(lambda leaf: np.zeros((len(nothing), *leaf.shape[2:]), leaf.dtype), shapes)
        nowhere = nowhere._replace(log_weights=nothing - np.inf)
        return Audit(0.0, nothing, nowhere, log_ratios, families, tails, spent)
    starts = points[picked[: modes.num_polished(target, int(num_distinct), base.dim)]]
    regions, num_once, polishing = regions_.fit(target, scales, key_fit, starts, int(num_distinct), np.asarray(points))
    fitting = len(regions.means) * fits.NUM_SHORT * fits.num_draws(base.dim)
    spent += polishing + fitting + regions_.NUM_CHUNKS * num
    share, shares = regions_.measure(target, key_measure, base, blocks, log_z, regions)
    countless = num_once > MAX_MODES // 2 and not bool(base.annealed)
    return Audit(share, shares, regions, log_ratios, families, tails, spent, countless)


def _in_parts(function: Callable[[Any], Array], num: int, points: np.ndarray) -> np.ndarray:
    """A function of `num` points at a time, of any number of them."""
    whole = np.resize(points, (-(-len(points) // num) * num, points.shape[1]))
    return np.concatenate([function(rows) for rows in np.split(whole, len(whole) // num)])[: len(points)]


def expect(target: Target, rng_key: Array, base: Base, network: Callable[[], StepNetwork], num_steps: int) -> None:
    """Compile what an audit needs in a second thread, for a base and a network of these shapes."""
    num = num_starts(target.work)
    points = jax.ShapeDtypeStruct((num, base.dim), base.dtype)
    blocks = lambda: shapes_of(steps.compiled_blocks_of, network(), num_steps)  # noqa: E731
    compile_ahead(_particles, lambda: (target, rng_key, base, num))
    compile_ahead(values_and_gaps, lambda: (target, base, blocks(), points))
    compile_ahead(values, lambda: (target, points))


@partial(jit_once, static_argnames=("num",))
def _particles(target: Target, rng_key: Array, base: Base, num: int) -> tuple[Array, Array, Array, Array, Array]:
    """Draws of the target by tempered particles, and the base draw that each is of; base draws; their center; rounds.

    All points are unconstrained; the particles are nan if they did not reach the target.
    """
    key_start, key_temper = random.split(rng_key)
    start = shard(base_.sample(base, key_start, num))
    path = Path(WhitenedTarget(base, target), base)
    cloud = clouds_.climb(path, key_temper, start[None], jnp.zeros((1, num), start.dtype), num, _NUM_LAST)
    points = jnp.concatenate([start, cloud.at.x[0], jnp.zeros((1, base.dim), start.dtype)])
    points = jax.vmap(lambda u: base_.unwhiten(base, u))(points)
    of_base, tempered, center = points[:num], points[num:-1], points[-1]
    return jnp.where(cloud.annealing == 1, tempered, jnp.nan), cloud.ancestors[0], of_base, center, cloud.num_rounds


def _spread(draws: np.ndarray) -> np.ndarray:
    """Each coordinate's half distance between the 16 % and 84 % quantiles, a standard deviation where there is one."""
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    return ((high - low) / 2).astype(draws.dtype)


def _search(
    target: Target, rng_key: Array, center: Array, scales: np.ndarray, num: int, drawn: np.ndarray | None
) -> tuple[Array, Array]:
    """Points of high density and their log densities, from starts of all spreads around the base, and those drawn."""
    spreads: Any = np.repeat(_SPREADS, num // len(_SPREADS)).astype(scales.dtype)[:, None] * scales
    starts, spreads = modes.joined(modes.disperse(rng_key, center, spreads), spreads, drawn, scales)
    ends, _ = modes.climb(target, starts, spreads)
    return modes.climb(target, ends, np.broadcast_to(0.1 * scales, spreads.shape))  # type: ignore[arg-type]
