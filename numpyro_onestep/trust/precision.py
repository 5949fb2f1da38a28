"""What single precision takes from log Z where the log density is a sum of many terms, measured in double precision.

Sums lose next to nothing (`traces/sums.py`), but each term may be off by the same in every draw: log factorials of a
hundred thousand counts by .06 nats in all. With l and l' the log density in single and in double precision
Z' / Z = E[exp(l' − l)] over the posterior, and l' − l hardly varies, so a few draws tell it.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.model.setup import ModelSetup

__all__ = ["Lost", "lost_digits"]

_NUM_DRAWS = 32


class Lost(NamedTuple):
    """What is missing from log Z, in nats, and the standard error of that."""

    log_z: float
    std_error: float


def lost_digits(setup: ModelSetup, args: tuple, kwargs: dict[str, Any], drawn: Proposals) -> Lost | None:
    """What single precision takes from log Z, by draws of the posterior among the proposals.

    None where that is not asked, with few terms or in double precision, and where it cannot be told: no weight is
    finite, or the model does not run in double precision.
    """
    log_w = np.asarray(drawn.log_weights, np.float64)
    if not setup.long_sums or not np.any(np.isfinite(log_w)):
        return None
    points: Any = np.asarray(drawn.points)[_posterior_draws(log_w)]
    leave = setup.out_of_coordinates(args, kwargs)
    if leave is not None:
        points = np.asarray(_each(leave, points)[0])
    narrow = setup.in_coordinates(None)
    here = np.asarray(_each(narrow.log_density(args, kwargs), points), np.float64)
    try:
        with jax.enable_x64(True):
            wide = narrow._replace(long_sums=False).log_density(args, kwargs)
            there = np.asarray(_each(wide, points.astype(np.float64)))
    except Exception:  # whatever a model raises that is written for single precision alone
        return None
    differences = (there - here)[np.isfinite(there) & np.isfinite(here)]
    return Lost(*log_mean_weight(differences)) if len(differences) >= _NUM_DRAWS // 2 else None


def _posterior_draws(log_w: np.ndarray) -> np.ndarray:
    """Indices by weight, evenly spread over its sum."""
    weights = np.exp(np.where(np.isfinite(log_w), log_w, -np.inf) - np.max(log_w[np.isfinite(log_w)]))
    at = (np.arange(_NUM_DRAWS) + 0.5) / _NUM_DRAWS
    return np.minimum(np.searchsorted(np.cumsum(weights) / np.sum(weights), at), len(log_w) - 1)


@jit_once
def _each(function: ModelFunction, points: Array) -> Any:
    return lax.map(function, points)
