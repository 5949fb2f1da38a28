"""The audit of trained flows, for `Evidence`: mass that they do not reach, in words, and the upper bound of log Z."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array, random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.audit import coverage
from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.density import Flow

__all__ = ["audit", "describe"]


def audit(
    rng_key: Array,
    flows: Sequence[Flow],
    num_steps: int,
    init_scale: float,
    log_z: Sequence[float],
    drawn: np.ndarray | None = None,
) -> Audit:
    """Look for mass that the flows do not reach; of several the one which misses most, with the log ratios of all.

    `log_z` is that of each flow, to about a nat; `drawn` are draws of the prior, as in `coverage.audit`.
    """
    audits = []
    for flow, known, key in zip(
        flows, log_z, (rng_key,) if len(flows) == 1 else random.split(rng_key, len(flows)), strict=True
    ):
        blocks = steps.compiled_blocks_of(flow.network, num_steps)
        audits.append(coverage.audit(flow.problem.density, init_scale, key, flow.problem.base, blocks, known, drawn))
    worst = max(
        audits, key=lambda found: (len(found.missing) > 0, len(found.doubtful) > 0, found.countless, found.share)
    )
    return worst._replace(
        log_ratios=np.concatenate([found.log_ratios for found in audits]),
        families=np.concatenate([len(f.families) * i + f.families for i, f in enumerate(audits)]),
        num_gradients=sum(found.num_gradients for found in audits),
    )


def describe(found: Audit, constrain: Callable[[Array], Any], improper: bool = False) -> list[str]:
    """Where there is mass that the flow does not reach, or may be, by the constrained values of a flat point.

    With `improper` priors that may be since there is no end of it.
    """

    def at(point: Any) -> str:
        point = constrain(point)
        sites = point if isinstance(point, dict) else {"parameters": ravel_pytree(point)[0]}
        return ", ".join(f"{name} = {_short(np.ravel(value))}" for name, value in list(sites.items())[:4])

    def around(regions: np.ndarray) -> str:
        return "; ".join(at(found.regions.means[i]) for i in regions)

    what_to_do = (
        "Spread the starts with a larger `init_scale` (3 by default, unconstrained); `init_params` and `init_strategy` "
        "move the point that they are spread around."
    )
    if improper:
        what_to_do = (
            "If the improper priors leave the posterior without a finite integral, nothing mends it but proper priors."
        )
    said = []
    if len(found.missing):
        said.append(
            f"At least {100 * found.share:.3g} % of the posterior's mass is out of the flow's reach, around "
            f"{around(found.missing)}: log_z is too low and the draws lack it. {what_to_do}"
        )
    elif len(found.doubtful):
        said.append(
            f"The flow does not reach places of high density around {around(found.doubtful)}. Perhaps "
            f"{100 * np.sum(found.shares):.3g} % of the posterior's mass lies there; too few draws hit them to tell. "
            f"{what_to_do}"
        )
    if found.long_tails:
        said.append(
            f"At least {100 * found.tails.share:.3g} % of the posterior's mass lies in tails of single coordinates "
            f"that are too long for the flow, for instance at {at(found.tails.point)}: log_z is too low and the draws "
            "lack it. Priors with lighter tails mend that, or a parametrisation in which the tails are shorter."
        )
    if found.countless:
        said.append(
            "There are more modes out of the flow's reach than can be counted. Each of them holds next to nothing, but "
            "all together may hold most of the posterior's mass: log_z is then too low, and the draws lack it."
        )
    return said


def _short(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values[:3])
    return shown if len(values) == 1 else f"({shown}{', …' if len(values) > 3 else ''})"
