"""Reverse-KL fits of Gaussians and mixtures of them, by natural-gradient (Newton-like) steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.gaussians import dense, factors, low_rank
from numpyro_onestep.gaussians.factors import LowRank
from numpyro_onestep.gaussians.mixture import Mixture, log_prob, mean_within, sample
from numpyro_onestep.model.target import COSTLY_DIM, DENSE_DIM, HEAVY_WORK, LogDensity

__all__ = ["NUM_SHORT", "elbo", "fit", "fit_each", "narrow", "num_candidates", "num_draws", "shapes"]

NUM_SHORT = 50  # iterations of a short fit


def narrow(points: Array, scale: Any) -> Mixture:
    """Gaussians at `points` (M, D), one to a mixture, all with this `scale`: a number, or one of each coordinate."""
    num, dim = points.shape
    scale = jnp.broadcast_to(jnp.asarray(scale, points.dtype), (num, 1, dim))
    trils = (
        factors.diagonal(scale, low_rank.RANK)
        if dim > DENSE_DIM
        else scale[..., None] * jnp.eye(dim, dtype=points.dtype)
    )
    return Mixture(jnp.zeros((num, 1), points.dtype), points[:, None], trils)


def shapes(num: int, dim: int, dtype: Any) -> Any:
    """What `num` mixtures of one Gaussian each look like, stacked along a leading axis."""
    return jax.eval_shape(narrow, jax.ShapeDtypeStruct((num, dim), dtype), 1.0)


def fit(
    target: LogDensity, rng_key: Array, q: Mixture, num_iterations: int, first_rate: float, last_rate: float
) -> Mixture:
    """Ascend the ELBO of `q` with a step size that falls geometrically from `first_rate` to `last_rate`."""
    step = low_rank.step if isinstance(q.scale_trils, LowRank) else dense.step
    rates = first_rate * (last_rate / first_rate) ** jnp.linspace(0, 1, num_iterations, dtype=q.means.dtype)

    def body(q: Mixture, inputs: tuple[Array, Array]) -> tuple[Mixture, None]:
        key, rate = inputs
        return step(target, q, key, rate), None

    return lax.scan(body, q, (random.split(rng_key, num_iterations), rates))[0]


def elbo(target: LogDensity, rng_key: Array, q: Mixture, num_draws: int = 512) -> Array:
    """Monte Carlo ELBO of `q`, in nats, restricted to where the target has a density (see `mean_within`).

    Near a hard edge every Gaussian has draws beyond it, and an ELBO of −∞ would tell a good one from a bad one no more.
    """
    z = sample(q, rng_key, num_draws)
    gaps = jax.vmap(lambda x: target.value(x) - log_prob(q, x))(z)
    return mean_within(gaps, gaps > -jnp.inf)


def num_candidates(dim: int, work: int) -> int:
    """How many short fits to make at once: base search and audit share the compiled program."""
    return 2 if dim > COSTLY_DIM or work > HEAVY_WORK else 8


def num_draws(dim: int) -> int:
    """Draws of each component in one step of a fit."""
    return low_rank.NUM_DRAWS if dim > DENSE_DIM else dense.num_draws(dim)


@jit_once
def fit_each(target: LogDensity, key_fit: Array, key_elbo: Array, candidates: Mixture) -> tuple[Mixture, Array]:
    """Short fits of mixtures stacked along a leading axis of length M, same noise for all, and `elbo`, (M,)."""

    def one(q: Mixture) -> tuple[Mixture, Array]:
        q = fit(target, key_fit, q, num_iterations=NUM_SHORT, first_rate=1.0, last_rate=0.1)
        return q, elbo(target, key_elbo, q)

    return jax.vmap(one)(candidates)
