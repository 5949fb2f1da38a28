"""Rogues that are potential functions of a flat vector."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from rogue import Rogue, coordinate, from_draws, quadrature_1d


def gaussians(means: Any, weights: list[float], sds: list[float]) -> Rogue:
    """A normalised mixture of spherical Gaussians; a draw belongs to its most probable component."""
    centers, w, s = np.asarray(means, float), np.asarray(weights), np.asarray(sds)
    dim = centers.shape[1]

    def potential_fn(z: jax.Array) -> jax.Array:
        log_kernel = -0.5 * jnp.sum((z - centers) ** 2, axis=1) / s**2 - dim * jnp.log(s)
        return -logsumexp(jnp.log(w) + log_kernel) + 0.5 * dim * math.log(2 * math.pi)

    def owner(z: np.ndarray) -> np.ndarray:
        square = ((z[:, None] - centers) ** 2).sum(2) / s**2
        return np.argmax(np.log(w) - 0.5 * square - dim * np.log(s), axis=1)

    mean = w @ centers
    sd = np.sqrt(w @ (s[:, None] ** 2 + (centers - mean) ** 2))
    return Rogue(
        0.0,
        potential_fn=potential_fn,
        dim=dim,
        means={f"z{i}": (coordinate(i), float(mean[i]), float(sd[i])) for i in range(dim)},
        weights={f"mode {k}": (lambda z, k=k: owner(z) == k, float(w[k])) for k in range(len(w))},
    )


def apart(distance: float, weight: float = 0.5, sd: float = 1.0) -> Rogue:
    """Two equally wide Gaussians in 4-d, `distance` standard deviations apart."""
    second = [distance * sd, 0.0, 0.0, 0.0]
    return gaussians([[0.0] * 4, second], [weight, 1 - weight], [sd, sd])


def ring() -> Rogue:
    """A ring of radius 5 and width .3."""

    def potential_fn(z: jax.Array) -> jax.Array:
        return 0.5 * ((jnp.sqrt(jnp.sum(z**2) + 1e-12) - 5) / 0.3) ** 2

    r = np.linspace(0, 10, 100_001)
    log_z, _, _ = quadrature_1d(lambda r: np.log(2 * np.pi * np.maximum(r, 1e-300)) - 0.5 * ((r - 5) / 0.3) ** 2, r)
    radius = quadrature_1d(lambda r: np.log(np.maximum(r, 1e-300)) - 0.5 * ((r - 5) / 0.3) ** 2, r)
    norm_of = lambda z: np.linalg.norm(z, axis=1)  # noqa: E731
    spread = float(np.sqrt((radius[2] ** 2 + radius[1] ** 2) / 2))
    means = {"x": (coordinate(0), 0.0, spread), "y": (coordinate(1), 0.0, spread), "r": (norm_of, *radius[1:])}
    quadrants = {
        f"quadrant {a}{b}": (lambda z, a=a, b=b: (z[:, 0] * a > 0) & (z[:, 1] * b > 0), 0.25)
        for a in (1, -1)
        for b in (1, -1)
    }
    return Rogue(log_z, potential_fn=potential_fn, dim=2, means=means, weights=quadrants)


def banana_chain() -> Rogue:
    """x₁ ~ N(0, 1), then each x normal with mean (x_before² − 1)/2 and sd ½: bananas bent by bananas."""

    def potential_fn(z: jax.Array) -> jax.Array:
        before = (z[:-1] ** 2 - 1) / 2
        return -norm.logpdf(z[0]) - jnp.sum(norm.logpdf(z[1:], before, 0.5))

    rng = np.random.default_rng(0)
    z = [rng.normal(size=2_000_000)]
    for _ in range(3):
        z.append((z[-1] ** 2 - 1) / 2 + 0.5 * rng.normal(size=z[0].shape))
    draws = np.stack(z, axis=1)
    names = {f"x{i}": coordinate(i) for i in range(4)}
    return Rogue(0.0, potential_fn=potential_fn, dim=4, means=from_draws(draws, names))


def funnel() -> Rogue:
    """Neal's funnel in 10-d."""

    def potential_fn(z: jax.Array) -> jax.Array:
        return -norm.logpdf(z[0], 0, 3) - jnp.sum(norm.logpdf(z[1:], 0, jnp.exp(z[0] / 2)))

    weights = {"v < -6": (lambda z: z[:, 0] < -6, float(norm.cdf(-2.0)))}
    return Rogue(0.0, potential_fn=potential_fn, dim=10, means={"v": (coordinate(0), 0.0, 3.0)}, weights=weights)


def student(df: float) -> Rogue:
    """A multivariate t in 3-d; its first coordinate's probabilities stand for the moments that it may not have."""

    def potential_fn(z: jax.Array) -> jax.Array:
        log_norm = math.lgamma((df + 3) / 2) - math.lgamma(df / 2) - 1.5 * math.log(df * math.pi)
        return -log_norm + 0.5 * (df + 3) * jnp.log1p(jnp.sum(z**2) / df)

    z = np.random.default_rng(0).standard_t(df, 4_000_000)
    weights = {
        f"z0 in {low}..{high}": (
            lambda z, low=low, high=high: (z[:, 0] > low) & (z[:, 0] < high),
            float(np.mean((z > low) & (z < high))),
        )
        for low, high in ((-1e9, -3), (-1, 1), (3, 1e9))
    }
    return Rogue(0.0, potential_fn=potential_fn, dim=3, weights=weights)


def discontinuous() -> Rogue:
    """A standard normal in 2-d whose density falls to a fifth beyond x = ½."""

    def potential_fn(z: jax.Array) -> jax.Array:
        return -jnp.sum(norm.logpdf(z)) - jnp.where(z[0] > 0.5, jnp.log(0.2), 0.0)

    low, high = float(norm.cdf(0.5)), 0.2 * (1 - float(norm.cdf(0.5)))
    weights = {"x > 1/2": (lambda z: z[:, 0] > 0.5, high / (low + high))}
    return Rogue(math.log(low + high), potential_fn=potential_fn, dim=2, weights=weights)


def nan_island() -> Rogue:
    """A standard normal in 2-d whose potential is nan within a disc of radius ½ around (1, 0)."""

    def potential_fn(z: jax.Array) -> jax.Array:
        inside = (z[0] - 1) ** 2 + z[1] ** 2 < 0.25
        return jnp.where(inside, jnp.nan, -jnp.sum(norm.logpdf(z)))

    rng = np.random.default_rng(0)
    z = rng.normal(size=(4_000_000, 2))
    z = z[(z[:, 0] - 1) ** 2 + z[:, 1] ** 2 >= 0.25]
    means = from_draws(z, {"x": coordinate(0), "y": coordinate(1)})
    return Rogue(math.log(len(z) / 4_000_000), potential_fn=potential_fn, dim=2, means=means)
