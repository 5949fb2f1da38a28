"""Posteriors with several modes: a sparse wave, a faint line, mirror images, two lines."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from entry import Draws
from scipy.special import logsumexp

__all__ = [
    "faint_line",
    "line_exactly",
    "mirror",
    "spectrum",
    "two_lines",
    "two_lines_data",
    "velocities",
    "wave",
    "wave_exactly",
]

_SHORTEST, _LONGEST, _NOISE = np.log(2.0), np.log(30.0), 1.5


def velocities() -> tuple[np.ndarray, np.ndarray]:
    """Twelve velocities of a star and their times: seven periods agree with them."""
    rng = np.random.default_rng(7)
    time = np.sort(rng.uniform(0, 40, 12))
    return time, 3 * np.sin(2 * np.pi * time / 6.3 + 1) + 1 + rng.normal(0, _NOISE, 12)


def wave(time: np.ndarray, velocity: np.ndarray) -> None:
    """A sine of unknown period."""
    log_period: Any = numpyro.sample("log_period", dist.Uniform(_SHORTEST, _LONGEST))
    sine, cosine = (numpyro.sample(name, dist.Normal(0, 4)) for name in ("sine", "cosine"))
    level = numpyro.sample("level", dist.Normal(0, 5))
    phase = 2 * jnp.pi * time * jnp.exp(-log_period)
    mean: Any = level + sine * jnp.sin(phase) + cosine * jnp.cos(phase)
    numpyro.sample("velocity", dist.Normal(mean, _NOISE), obs=velocity)


def wave_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """Given its period the model is a linear regression; the periods on a grid."""
    time, velocity = velocities()
    width = (_LONGEST - _SHORTEST) / 8000
    grid = _SHORTEST + width * (np.arange(8000) + 0.5)
    phase = 2 * np.pi * time * np.exp(-grid)[:, None]
    design = np.stack([np.sin(phase), np.cos(phase), np.ones_like(phase)], axis=-1)
    log_mass, mean, root = _linear(design, velocity, np.array([4.0, 4.0, 5.0]), _NOISE)
    log_mass = log_mass - np.log(len(grid))
    which = rng.choice(len(grid), num, p=np.exp(log_mass - logsumexp(log_mass)))
    beta = mean[which] + np.einsum("nij,nj->ni", root[which], rng.normal(size=(num, 3)))
    draws = {"log_period": grid[which] + width * (rng.random(num) - 0.5)}
    return draws | dict(zip(("sine", "cosine", "level"), beta.T, strict=True)), float(logsumexp(log_mass))


def _linear(design: np.ndarray, y: np.ndarray, prior_sd: np.ndarray, noise: float) -> tuple[np.ndarray, ...]:
    """Log Z, means and square roots of covariances of linear regressions, one for each leading index of the design."""
    cov = np.linalg.inv(np.swapaxes(design, -1, -2) @ design / noise**2 + np.diag(prior_sd**-2.0))
    mean = np.einsum("...ij,...kj,k->...i", cov, design, y) / noise**2
    log_z = -0.5 * (y @ y / noise**2 - np.einsum("...kj,...j,k->...", design, mean, y) / noise**2)
    log_z += 0.5 * np.linalg.slogdet(cov)[1] - np.sum(np.log(prior_sd))
    return log_z - len(y) * (0.5 * np.log(2 * np.pi) + np.log(noise)), mean, np.linalg.cholesky(cov)


_LINE_NOISE, _NARROWEST, _WIDEST = 0.5, np.log(0.1), np.log(1.0)


def spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Eighty places on a sloping continuum, and what is seen there: a faint line at 6.4."""
    rng = np.random.default_rng(33)
    place = np.linspace(0, 10, 80)
    line = 0.75 * np.exp(-0.5 * ((place - 6.4) / 0.25) ** 2)
    return place, 2 + 0.1 * place + line + rng.normal(0, _LINE_NOISE, 80)


def faint_line(place: np.ndarray, seen: np.ndarray) -> None:
    """A line of unknown place, width and height: a spike above a plateau, where its height is about nought."""
    continuum: Any = numpyro.sample("continuum", dist.Normal(0, 5).expand([2]).to_event(1))
    center: Any = numpyro.sample("center", dist.Uniform(0, 10))
    log_width: Any = numpyro.sample("log_width", dist.Uniform(_NARROWEST, _WIDEST))
    height: Any = numpyro.sample("height", dist.Normal(0, 2))
    shape = jnp.exp(-0.5 * ((place - center) / jnp.exp(log_width)) ** 2)
    mean = continuum[0] + continuum[1] * (place - 5) / 5 + height * shape
    numpyro.sample("seen", dist.Normal(mean, _LINE_NOISE), obs=seen)


def line_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """Given its place and width the model is a linear regression; those on a grid."""
    place, seen = spectrum()
    steps = np.array([10 / 400, (_WIDEST - _NARROWEST) / 60])
    centers = steps[0] * (np.arange(400) + 0.5)
    log_widths = _NARROWEST + steps[1] * (np.arange(60) + 0.5)
    shape = np.exp(-0.5 * ((place - centers[:, None, None]) / np.exp(log_widths)[:, None]) ** 2).reshape(-1, 80)
    flat = np.broadcast_to(np.stack([np.ones(80), (place - 5) / 5], axis=1), (len(shape), 80, 2))
    log_mass, mean, root = _linear(
        np.concatenate([flat, shape[..., None]], axis=-1), seen, np.array([5.0, 5.0, 2.0]), _LINE_NOISE
    )
    log_mass = log_mass - np.log(len(log_mass))
    which = rng.choice(len(log_mass), num, p=np.exp(log_mass - logsumexp(log_mass)))
    beta = mean[which] + np.einsum("nij,nj->ni", root[which], rng.normal(size=(num, 3)))
    jitter = steps * (rng.random((num, 2)) - 0.5)
    draws = {"center": centers[which // 60] + jitter[:, 0], "log_width": log_widths[which % 60] + jitter[:, 1]}
    return draws | {"continuum": beta[:, :2], "height": beta[:, 2]}, float(logsumexp(log_mass))


def mirror(y: np.ndarray) -> None:
    """Item response with free signs: all slopes and abilities can change theirs at once, so that there are two modes.

    What is compared does not depend on the sign.
    """
    slope: Any = numpyro.sample("slope", dist.Normal(0, 1.5).expand([y.shape[1]]).to_event(1))
    difficulty: Any = numpyro.sample("difficulty", dist.Normal(0, 2).expand([y.shape[1]]).to_event(1))
    with numpyro.plate("person", y.shape[0]):
        ability: Any = numpyro.sample("ability", dist.Normal(0, 1))
    sign = jnp.sign(jnp.sum(slope))
    numpyro.deterministic("signed_slope", sign * slope)
    numpyro.deterministic("signed_ability", sign * ability)
    numpyro.sample("y", dist.Bernoulli(logits=ability[:, None] * slope - difficulty), obs=y)


def two_lines_data(num_rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Three in four rows on one line, the others on another."""
    rng = np.random.default_rng(17)
    x = rng.uniform(-2, 2, num_rows)
    steep = rng.random(num_rows) < 0.75
    return x, np.where(steep, 1.5 * x - 0.5, -0.8 * x + 1.5) + rng.normal(0, 0.5, num_rows)


def two_lines(x: np.ndarray, y: np.ndarray) -> None:
    """A mixture of two regressions without an order between them; compared in that of their slopes."""
    share: Any = numpyro.sample("share", dist.Dirichlet(jnp.full(2, 2.0)))
    slope: Any = numpyro.sample("slope", dist.Normal(0, 2).expand([2]).to_event(1))
    intercept: Any = numpyro.sample("intercept", dist.Normal(0, 2).expand([2]).to_event(1))
    noise: Any = numpyro.sample("noise", dist.HalfNormal(1))
    order = jnp.argsort(slope)
    for name, value in (("share", share), ("slope", slope), ("intercept", intercept)):
        numpyro.deterministic(f"ordered_{name}", value[order])
    lines = dist.Normal(intercept + slope * x[:, None], noise)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(share), lines), obs=y)
