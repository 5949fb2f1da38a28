"""What single precision takes from log Z where the log density is a sum of many terms, measured in double precision.

Sums lose next to nothing (`traces/sums.py`), but each term may be off by the same in every draw: log factorials of a
hundred thousand counts by .06 nats in all. With l and l' the log density in single and in double precision
Z' / Z = E[exp(l' − l)] over the posterior, and l' − l hardly varies, so a few draws tell it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.model.function import ModelFunction, trace
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.traces.work import equations
from numpyro_onestep.trust.checks import rounding

__all__ = ["Lost", "lost_digits"]

_NUM_DRAWS, _FEWEST = 32, 16
_MOST = 30  # times the last digit of a log density that it may be off; sound models are by ten
_MOVES = {  # what only moves numbers about
    *("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice", "gather", "pad", "reshape"),
    *("rev", "select_n", "slice", "squeeze", "stop_gradient", "transpose"),
}


class Lost(NamedTuple):
    """What is missing from log Z, in nats, and the standard error of that."""

    log_z: float
    std_error: float


def lost_digits(setup: ModelSetup, args: tuple, kwargs: dict[str, Any], drawn: Proposals) -> Lost | None:
    """What single precision takes from log Z, by draws of the posterior among the proposals.

    None where that is not asked, with few terms or in double precision, and where it cannot be told: no weight is
    finite, the model draws random numbers, computes something in single precision all the same, or does not run in
    double precision, or the two differ by more than rounding can explain.
    """
    log_w = np.asarray(drawn.log_weights, np.float64)
    if not setup.long_sums or np.sum(np.isfinite(log_w)) < _FEWEST:
        return None
    picked = _posterior_draws(log_w)
    points: Any = np.asarray(drawn.points)[picked]
    here = -np.asarray(drawn.potential_energy, np.float64)[picked]
    leave = setup.out_of_coordinates(args, kwargs)
    if leave is not None:
        moved, log_det = _each(leave, points)
        points, here = np.asarray(moved), here - np.asarray(log_det, np.float64)
    try:
        with jax.enable_x64(True):
            alone = setup.in_coordinates(None)._replace(long_sums=False)
            density = alone.log_density(*jax.tree.map(_widened, (args, kwargs)))
            points = points.astype(np.float64)
            if not _is_wide(trace(density, points[0])):
                return None
            there = np.asarray(_each(density, points))
    except Exception:  # whatever a model raises that is written for single precision alone
        return None
    difference = there - here
    if np.any(np.isnan(difference) | np.isposinf(difference)):
        return None
    lost = Lost(*log_mean_weight(difference))
    return lost if abs(lost.log_z) <= _MOST * rounding(here) else None


def _posterior_draws(log_w: np.ndarray) -> np.ndarray:
    """Indices by weight, evenly spread over its sum; those of the largest weights where few have almost all of it."""
    finite = np.flatnonzero(np.isfinite(log_w))
    weights = np.exp(log_w[finite] - np.max(log_w[finite]))
    at = (np.arange(_NUM_DRAWS) + 0.5) / _NUM_DRAWS
    picked = np.unique(np.searchsorted(np.cumsum(weights) / np.sum(weights), at).clip(max=len(finite) - 1))
    return finite[picked if len(picked) >= _FEWEST else np.argsort(-weights)[:_NUM_DRAWS]]


def _widened(leaf: Any) -> Any:
    """Arrays of single precision in double precision, so that all that is computed of them is."""
    is_narrow = isinstance(leaf, np.ndarray | jax.Array) and leaf.dtype == np.float32
    return np.asarray(leaf, np.float64) if is_narrow else leaf


def _is_wide(closed: ClosedJaxpr) -> bool:
    """Whether nothing is computed in less than double precision, nor drawn at random, which both depend on it."""

    def narrow(equation: Any) -> Iterator[bool]:
        name = equation.primitive.name
        yield name.startswith(("random_", "threefry"))
        for out in equation.outvars:
            dtype = getattr(out.aval, "dtype", None)
            is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
            yield name not in _MOVES and is_float and jnp.finfo(dtype).bits < 64

    return not any(any(narrow(equation)) for equation in equations(closed))


@jit_once
def _each(function: ModelFunction, points: Array) -> Any:
    return jax.lax.map(function, points)
