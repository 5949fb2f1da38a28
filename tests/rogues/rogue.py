"""What a rogue is, and how its answers are had."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Rogue:
    """A target and what is known of it.

    Attributes:
        log_z: log evidence, from a closed form or quadrature.
        model: NumPyro model without arguments, or None.
        potential_fn: potential energy of a flat vector, or None.
        dim: its dimension.
        means: name → (function of the draws, mean, standard deviation), exact or from millions of exact draws.
        weights: name → (indicator function of the draws, probability), likewise.
    """

    log_z: float
    model: Callable[[], None] | None = None
    potential_fn: Callable[[jax.Array], jax.Array] | None = None
    dim: int = 0
    means: dict[str, tuple[Callable[[Any], np.ndarray], float, float]] = field(default_factory=dict)
    weights: dict[str, tuple[Callable[[Any], np.ndarray], float]] = field(default_factory=dict)


def coordinate(i: int) -> Callable[[np.ndarray], np.ndarray]:
    """The i-th coordinate of flat draws."""
    return lambda z: z[:, i]


def from_draws(z: np.ndarray, names: dict[str, Callable[[Any], np.ndarray]]) -> dict[str, tuple]:
    """Means and standard deviations of functions, from many exact draws."""
    return {name: (f, float(np.mean(f(z))), float(np.std(f(z)))) for name, f in names.items()}


def quadrature_1d(log_f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> tuple[float, float, float]:
    """Log integral, mean and standard deviation of a density on an even grid."""
    value = log_f(x)
    w = np.exp(value - value.max())
    mean = np.sum(w * x) / w.sum()
    return (
        float(np.log(w.sum()) + value.max() + np.log(x[1] - x[0])),
        float(mean),
        float(np.sqrt(np.sum(w * (x - mean) ** 2) / w.sum())),
    )
