"""Which coordinates depend on which, given all others, and which of them are members.

Two coordinates are independent given the rest where their entry of the Hessian of log γ vanishes everywhere. Members,
as the effects of groups or the states of a time series, depend on few other members; what they have in common, their
hyperparameters and what is crossed with them, depends on many.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from numpyro_onestep.compilation import jit_once

__all__ = ["Parts", "dependences", "hessian", "is_quadratic", "part"]

_CHUNK = 64  # columns of a Hessian at once
_NOTHING = 1e-6  # of a Hessian's entry, relative to its row's and column's diagonals
_LINEAR = 1e-3  # of a gradient's change
_NO_CHANGE = 1e-5  # the same for the change of one, which rounding alone may make


class Parts(NamedTuple):
    """Indices of the members, in an order in which each depends on near ones alone, and of the rest.

    `bandwidth` says how near: 0 where members are independent given the rest.
    """

    rest: np.ndarray
    members: np.ndarray
    bandwidth: int


@jit_once
def _hessian(log_density: Any, point: Any) -> Array:
    grad = jax.grad(log_density)
    columns = jnp.eye(len(point), dtype=point.dtype)
    return lax.map(lambda e: jax.jvp(grad, (point,), (e,))[1], columns, batch_size=_CHUNK)


def hessian(log_density: Any, point: Any) -> np.ndarray | None:
    """∇² log γ at one point, shape (D, D), by 64 columns at a time; None where it is a value of a transformation."""
    found = _hessian(log_density, point)
    return None if isinstance(found, Tracer) else np.asarray(found)


@jit_once
def _grad(log_density: Any, point: Any) -> Array:
    return jax.grad(log_density)(point)


def dependences(hessians: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each pair of coordinates depends on one another at one of the points, shape (D, D)."""
    found = np.zeros(hessians[0].shape, bool)
    for each in np.abs(hessians):
        scale = np.sqrt(np.diag(each))
        found |= ~(each <= _NOTHING * scale * scale[:, None])  # what is not a number depends
    found |= found.T
    np.fill_diagonal(found, False)
    return found


def is_quadratic(
    log_density: Any, hessian_there: np.ndarray, there: np.ndarray, moved: Sequence[np.ndarray], members: np.ndarray
) -> bool:
    """Whether the density is quadratic in the members, as far as points tell in which only these were moved.

    Hessians alone do not see a kink: the gradients have to change by what the Hessian says.
    """
    of_members = np.ix_(members, members)
    one, other = hessian_there[of_members], np.asarray(_hessian(log_density, moved[0]))[of_members]
    if not np.all(np.abs(one - other) < _NO_CHANGE * np.abs(np.diag(one))):
        return False
    before = np.asarray(_grad(log_density, there))[members]
    for point in moved:
        step = (point - there)[members]
        change, size = np.asarray(_grad(log_density, point))[members] - before, np.abs(one) @ np.abs(step)
        if not np.all(np.abs(change - one @ step) < _LINEAR * (size + np.abs(before))):
            return False
    return True


def part(depends: np.ndarray, max_bandwidth: int, max_rest: int) -> Parts | None:
    """Take coordinates that depend on most others away until the rest are members; None where that takes too many."""
    kept, degrees, at_once = np.ones(len(depends), bool), depends.sum(axis=1), 1
    while np.sum(~kept) <= max_rest:
        if np.max(degrees[kept]) <= 2 * max_bandwidth:
            members = np.flatnonzero(kept)
            within = depends[np.ix_(members, members)]
            order = reverse_cuthill_mckee(csr_array(within), symmetric_mode=True)
            i, j = np.nonzero(within[np.ix_(order, order)])
            bandwidth = int(np.max(np.abs(i - j), initial=0))
            if bandwidth <= max_bandwidth:
                return Parts(np.flatnonzero(~kept), members[order] if bandwidth else members, bandwidth)
            at_once = max(1, len(depends) // 64)  # the order takes long on a lattice
        for _ in range(at_once):
            worst = int(np.argmax(np.where(kept, degrees, -1)))
            kept[worst] = False
            degrees = degrees - depends[worst]
    return None
