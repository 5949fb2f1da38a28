"""Whether a draw folds: there and back through the exact inverse."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.compilation import jit
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.density import Flow

__all__ = ["folded"]


@partial(jit, static_argnames=("size", "num_steps"))
def folded(trained: Flow, rng_key: Array, size: int, num_steps: int) -> Array:
    """Which draws of the first of the chunks of `propose` with the same key fold, shape (size,).

    Where a Jacobian is not positive definite, or the way back misses the base draw by more than 1e-3 in its units.
    """
    blocks = steps.blocks_of(trained.network, num_steps)

    def one(x0: Array) -> Array:
        y, log_det = steps.forward_and_log_det(blocks, x0)
        # relative far out, where a Student-t base has draws as well
        allowed = 1e-3 * jnp.maximum(1.0, 0.1 * jnp.max(jnp.abs(x0)))
        return jnp.isnan(log_det) | ~(jnp.max(jnp.abs(steps.inverse(blocks, y) - x0)) < allowed)

    return jax.vmap(one)(base_.sample(trained.problem.base, random.fold_in(rng_key, 0), size))
