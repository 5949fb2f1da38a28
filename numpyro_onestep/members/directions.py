"""Directions along which members are independent given the rest, where as coordinates each depends on each.

So do the coefficients of a regression with unknown noise: their −∇² log γ is A/σ² + B, and two symmetric matrices, one
of them positive definite, are diagonal in a basis that they have in common (generalised eigenvectors). Then it serves
for every σ, and the members are those of a hierarchical model.
"""

from typing import Any

import jax
import numpy as np
import scipy.linalg
from jax import Array

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.members.dependence import Parts, hessian

__all__ = ["independent_directions"]

_MAX_REST = 8
_NUM_PROBES = 4
_NO_INFLUENCE = 1e-5  # of a coordinate on the curvature, in standard deviations, relative to it
_NUM_POINTS, _LEAST_MOVE = 3, 0.4  # that are compared, and how far the rest is moved there, 1 at most
_DEPENDENT = 1e-3  # of an element beside the diagonal, relative to those on it


@jit_once
def _influence(log_density: Any, point: Any, probes: Any) -> Array:
    """By how much vᵀ∇² log γ v of each probe changes with each coordinate, shape (probes, D)."""
    curvature = lambda z, v: v @ jax.jvp(jax.grad(log_density), (z,), (v,))[1]  # noqa: E731
    return jax.vmap(jax.grad(curvature), (None, 0))(point, probes)


def independent_directions(
    log_density: Any, point: np.ndarray, hessian_there: np.ndarray, max_rest: int
) -> tuple[Parts, np.ndarray] | None:
    """Rest and members, and the directions of these as columns, shape (n, n); None where there are none.

    Those coordinates are taken away, one after the other, that change the curvature of all others most, until none
    does: they are the rest.

    Args:
        log_density: a pytree, as compiled functions take it.
        point: any, shape (D,).
        hessian_there: ∇² log γ at that point.
        max_rest: how many may be taken away, 8 at most.
    """
    rng, diagonal = np.random.default_rng(0), np.abs(np.diag(hessian_there))
    if not np.all(np.isfinite(hessian_there)) or np.min(diagonal) == 0:
        return None
    sd, kept, rest = diagonal**-0.5, np.ones(len(point), bool), []
    while True:
        signs = rng.choice([-1.0, 1.0], size=(_NUM_PROBES, len(point)))
        probes = (signs * sd * kept).astype(point.dtype)
        influence = np.max(np.abs(np.asarray(_influence(log_density, point, probes))), axis=0) * sd / np.sum(kept)
        if not np.all(np.isfinite(influence)):
            return None
        if np.max(influence[kept]) < _NO_INFLUENCE:
            break
        if len(rest) >= min(max_rest, _MAX_REST):
            return None
        rest.append(int(np.argmax(np.where(kept, influence, 0.0))))
        kept[rest] = False
    basis = _common_basis(log_density, point, np.array(rest, int), np.flatnonzero(kept), rng) if rest else None
    return None if basis is None else (Parts(np.array(rest, int), np.flatnonzero(kept), 0), basis)


def _common_basis(
    log_density: Any, point: np.ndarray, rest: np.ndarray, members: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """In which the Hessians of the members are diagonal at three values of the rest; None where there is none."""
    precisions = []
    for _ in range(_NUM_POINTS):
        there = point.copy()
        there[rest] += rng.choice([-1.0, 1.0], size=len(rest)) * rng.uniform(_LEAST_MOVE, 1.0, len(rest))
        found = hessian(log_density, there)
        if found is None or not np.all(np.isfinite(found)):
            return None
        precision = -found[np.ix_(members, members)].astype(np.float64)
        precisions.append((precision + precision.T) / 2)
    one, other, third = precisions
    try:
        basis = scipy.linalg.eigh(other, one)[1]
    except np.linalg.LinAlgError:  # not positive definite
        return None
    turned = basis.T @ third @ basis
    scale = np.sqrt(np.abs(np.diag(turned)))
    turned = turned / (scale * scale[:, None])
    np.fill_diagonal(turned, 0.0)
    return basis.astype(point.dtype) if np.max(np.abs(turned)) < _DEPENDENT else None
