"""Directions in which the density does not fall off, as where improper priors leave the posterior no finite integral.

The fit of a Gaussian to such a density grows until its iterations end, or the digits do, and everything after it looks
well: on the base's coordinates the density is flat there, and the flow makes a normal density of any. So the base is
asked, before the flow: with its draws x and scores s(x) the mean of −∇²log γ is what the scores ∇log γ(x) have in
common with s(x) (Stein), which is the identity where the fit has ended.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.target import DENSE_DIM

__all__ = ["flatness_failures"]

_LOST = 0.01  # share of the base's draws without a density
_FLAT = 0.1  # mean curvature of a direction, one where the base fits


def flatness_failures(problem: Problem, rng_key: Array) -> list[str]:
    """What speaks against it that the density falls off in every direction; nothing is said above `DENSE_DIM`."""
    if problem.base.dim > DENSE_DIM:
        return []
    least, lost = map(float, _look(problem, rng_key))
    if least > _FLAT and lost < _LOST:  # they may be nan
        return []
    return [
        "In some direction the density hardly falls off as far as the base has come: the improper priors seem to leave "
        "the posterior without a finite integral, and nothing is a draw of it then. Use proper priors."
    ]


@jit_once
def _look(problem: Problem, rng_key: Array) -> tuple[Array, Array]:
    """The smallest eigenvalue of the mean of −∇²log γ on the base's coordinates, relative to that of p0.

    And the share of draws that have come to where numbers overflow.
    """
    dim = problem.base.dim
    x = base_.sample(problem.base, rng_key, max(1024, 4 * dim))
    value, score = jax.vmap(problem.target.value_and_grad)(x)
    of_base = jax.vmap(lambda x: base_.score(problem.base, x))(x)
    own, common = of_base.T @ of_base / len(x), score.T @ of_base / len(x)
    tril = jnp.linalg.cholesky(own + 1e-6 * jnp.eye(dim, dtype=own.dtype))
    half = solve_triangular(tril, 0.5 * (common + common.T), lower=True)
    least = jnp.linalg.eigvalsh(solve_triangular(tril, half.T, lower=True))[0]
    return least, jnp.mean(~jnp.isfinite(value))
