"""Independence Metropolis-Hastings over (proposal, log weight): exact whatever the flow's quality (Tierney 1994)."""

import jax.numpy as jnp
from jax import Array, lax, random

__all__ = ["accept", "chain"]


def accept(rng_key: Array, log_weight: Array, proposed: Array) -> tuple[Array, Array]:
    """Whether to move from weight `log_weight` to `proposed`, with probability min(1, w'/w), and that probability.

    A proposal without density (nan or −inf) is never accepted, a state without density is always left, and a weight of
    +inf is no better than another.
    """
    proposed = jnp.where(jnp.isnan(proposed), -jnp.inf, proposed)
    stuck = jnp.logical_not(log_weight > -jnp.inf)
    ratio = jnp.where(stuck | (proposed == jnp.inf), jnp.inf, proposed - log_weight)
    accept_prob = jnp.where(proposed > -jnp.inf, jnp.exp(jnp.minimum(ratio, 0.0)), 0.0)
    return random.uniform(rng_key, (), accept_prob.dtype) < accept_prob, accept_prob


def chain(rng_key: Array, log_weights: Array) -> tuple[Array, Array]:
    """Run the chain over proposals in the order given.

    Args:
        rng_key: random key.
        log_weights: shape (N,).

    Returns:
        For each iteration the index of the proposal that the chain holds, and the acceptance probability, both (N,).
        The first state is drawn from all proposals by weight, so that the chain starts near stationarity.
    """
    key_first, key_scan = random.split(rng_key)
    start = random.categorical(key_first, jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights))

    def body(held: Array, inputs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        i, key = inputs
        moved, accept_prob = accept(key, log_weights[held], log_weights[i])
        held = jnp.where(moved, i, held)
        return held, (held, accept_prob)

    indices = jnp.arange(log_weights.shape[0])
    _, result = lax.scan(body, start, (indices, random.split(key_scan, log_weights.shape[0])))
    return result
