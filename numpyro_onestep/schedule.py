"""Schedules over training progress in [0, 1]."""

import jax.numpy as jnp
from jax import Array

__all__ = ["annealing", "learning_rate"]


def learning_rate(progress: Array, peak: float, warm_up: float = 0.02, final: float = 0.01) -> Array:
    """Linear warm-up to `peak`, then half a cosine down to `final`·`peak`."""
    rise = jnp.minimum(1.0, progress / warm_up)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - warm_up) / (1 - warm_up), 0.0, 1.0)))
    return peak * rise * (final + (1 - final) * fall)


def annealing(progress: Array, end: float = 0.5) -> Array:
    """λ of the annealed target p0^(1−λ) γ^λ: linear, complete at `end`."""
    return jnp.minimum(1.0, progress / end)
