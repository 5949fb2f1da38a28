"""Neighbours in space and time: a spatial random effect, seasons, a class that changes along a line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import cholesky
from numpyro.contrib.control_flow import scan

__all__ = ["autoregression_alone", "cases", "classes", "classification", "disease", "sales", "seasons"]

_SIDE = 8
_CELLS = np.arange(_SIDE**2).reshape(_SIDE, _SIDE)
_EDGES = np.concatenate(
    [np.stack(pair, axis=-1).reshape(-1, 2) for pair in ((_CELLS[:-1], _CELLS[1:]), (_CELLS[:, :-1], _CELLS[:, 1:]))]
)


def _typical_variance() -> float:
    """Geometric mean of the variances that the neighbours' prior gives the cells, which its scale is measured in."""
    incidence = np.zeros((len(_EDGES), _SIDE**2))
    rows = np.arange(len(_EDGES))
    incidence[rows, _EDGES[:, 0]], incidence[rows, _EDGES[:, 1]] = 1.0, -1.0
    return float(np.exp(np.mean(np.log(np.diagonal(np.linalg.pinv(incidence.T @ incidence))))))


_VARIANCE = _typical_variance()


def cases() -> tuple[np.ndarray, np.ndarray]:
    """Cases of a disease in 64 districts of a square, and how many were expected."""
    rng = np.random.default_rng(51)
    row, column = np.divmod(np.arange(_SIDE**2), _SIDE)
    risk = 0.5 * np.sin(row / 2.0) + 0.4 * np.cos(column / 2.5) + rng.normal(0, 0.2, _SIDE**2)
    expected = rng.uniform(3, 20, _SIDE**2)
    return expected, rng.poisson(expected * np.exp(risk))


def disease(expected: np.ndarray, seen: np.ndarray) -> None:
    """BYM2: a share of the log risk's variance is of neighbours alike, the rest is each district's own."""
    intercept: Any = numpyro.sample("intercept", dist.Normal(0, 1))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1))
    shared: Any = numpyro.sample("shared", dist.Beta(0.5, 0.5))
    own: Any = numpyro.sample("own", dist.Normal(0, 1).expand([len(seen)]).to_event(1))
    alike: Any = numpyro.sample("alike", dist.Normal(0, 3).expand([len(seen)]).to_event(1))
    numpyro.factor("neighbours", -0.5 * jnp.sum((alike[_EDGES[:, 0]] - alike[_EDGES[:, 1]]) ** 2))
    numpyro.factor("sum to zero", dist.Normal(0, 0.001 * len(seen)).log_prob(jnp.sum(alike)))
    effect = scale * (jnp.sqrt(1 - shared) * own + jnp.sqrt(shared / _VARIANCE) * alike)
    numpyro.deterministic("risk", intercept + effect)
    numpyro.sample("cases", dist.Poisson(expected * jnp.exp(intercept + effect)), obs=seen)


def sales(num_quarters: int = 48) -> np.ndarray:
    """Quarterly sales: a level that wanders and a season that changes slowly."""
    rng = np.random.default_rng(52)
    level = 5 + np.cumsum(rng.normal(0.02, 0.15, num_quarters))
    return level + np.tile([0.8, -0.3, -0.9, 0.4], num_quarters // 4) + rng.normal(0, 0.3, num_quarters)


def seasons(y: np.ndarray) -> None:
    """A local level and a season of four quarters, by `scan`; their steps are sites of their own."""
    level_scale, season_scale, noise = (
        numpyro.sample(name, dist.HalfNormal(0.5)) for name in ("level_scale", "season_scale", "noise")
    )
    first: Any = numpyro.sample("first_level", dist.Normal(5, 2))
    season: Any = numpyro.sample("first_season", dist.Normal(0, 1).expand([3]).to_event(1))

    def quarter(state: tuple[Any, Any], seen: Any) -> tuple[tuple[Any, Any], None]:
        level, past = state
        level = numpyro.sample("level", dist.Normal(level, level_scale))
        now: Any = numpyro.sample("season", dist.Normal(-jnp.sum(past), season_scale))
        numpyro.sample("y", dist.Normal(level + now, noise), obs=seen)
        return (level, jnp.concatenate([now[None], past[:-1]])), None

    scan(quarter, (first, season), y)


def classes(num_points: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Yes and no along a line."""
    rng = np.random.default_rng(53)
    x = np.sort(rng.uniform(-3, 3, num_points))
    return x, (rng.random(num_points) < 1 / (1 + np.exp(-3 * np.sin(1.5 * x)))).astype(int)


def classification(x: np.ndarray, y: np.ndarray) -> None:
    """Gaussian-process classification, whitened."""
    log_scale, log_length = (numpyro.sample(f"log_{name}", dist.Normal(0, 0.7)) for name in ("scale", "length"))
    scale, length = jnp.exp(log_scale), jnp.exp(log_length)
    white: Any = numpyro.sample("white", dist.Normal(0, 1).expand([len(x)]).to_event(1))
    kernel = jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-4 * jnp.eye(len(x))
    latent = numpyro.deterministic("latent", scale * (cholesky(kernel, lower=True) @ white))
    numpyro.sample("y", dist.Bernoulli(logits=latent), obs=y)


def autoregression_alone(y: np.ndarray) -> None:
    """The benchmark's latent autoregression with its path integrated out, by a Kalman filter."""
    weights: Any = numpyro.sample("weights", dist.Normal(0, 1).expand([2]).to_event(1))
    scale, noise = (numpyro.sample(name, dist.HalfCauchy(1)) for name in ("scale", "noise"))
    advance = jnp.stack([weights, jnp.array([1.0, 0.0])])

    def step(carry: tuple[Any, Any], seen: Any) -> tuple[tuple[Any, Any], Any]:
        mean, cov = carry
        mean, cov = advance @ mean, (advance @ cov @ advance.T).at[0, 0].add(scale**2)
        var = cov[0, 0] + noise**2
        gain = cov[:, 0] / var
        log_prob = dist.Normal(mean[0], jnp.sqrt(var)).log_prob(seen)
        return (mean + gain * (seen - mean[0]), cov - jnp.outer(gain, cov[0])), log_prob

    _, log_prob = jax.lax.scan(step, (jnp.zeros(2), jnp.eye(2)), y)
    numpyro.factor("y", jnp.sum(log_prob))
