"""Schedules: over training progress in [0, 1], and of the noise over time."""

import jax.numpy as jnp
from jax import Array

__all__ = ["NOISE", "annealing", "cosine_noise", "learning_rate", "linear_noise"]


def learning_rate(progress: Array, peak: float | Array, warm_up: float = 0.02, final: float = 0.01) -> Array:
    """Linear warm-up to `peak`, then half a cosine down to `final`·`peak`."""
    rise = jnp.minimum(1.0, progress / warm_up)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - warm_up) / (1 - warm_up), 0.0, 1.0)))
    return peak * rise * (final + (1 - final) * fall)


def annealing(progress: Array, end: float = 0.5) -> Array:
    """λ of the annealed target p0^(1−λ) γ^λ: linear, complete at `end`."""
    return jnp.minimum(1.0, progress / end)


def cosine_noise(t: Array, total: float = 5.0) -> Array:
    """β(t) = 2·total·cos²(π(1 − t)/2): strongest at the base, nothing at the target; ∫β dt = `total`."""
    return 2 * total * jnp.cos(0.5 * jnp.pi * (1 - t)) ** 2


def linear_noise(t: Array, total: float = 5.0) -> Array:
    """β(t) = 2·total·t; ∫β dt = `total`."""
    return 2 * total * t


NOISE = {"cosine": cosine_noise, "linear": linear_noise}
