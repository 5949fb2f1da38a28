"""Noise schedules β(t) of the paper's diffusion, over time in [0, 1]."""

import jax.numpy as jnp
from jax import Array

__all__ = ["NOISE", "cosine_noise", "linear_noise"]


def cosine_noise(t: Array, total: float = 5.0) -> Array:
    """β(t) = 2·total·cos²(π(1 − t)/2): strongest at the base, nothing at the target; ∫β dt = `total`."""
    return 2 * total * jnp.cos(0.5 * jnp.pi * (1 - t)) ** 2


def linear_noise(t: Array, total: float = 5.0) -> Array:
    """β(t) = 2·total·t; ∫β dt = `total`."""
    return 2 * total * t


NOISE = {"cosine": cosine_noise, "linear": linear_noise}
