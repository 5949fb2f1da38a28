"""Outcomes that are graded, seen with error, or now and then far off."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

__all__ = ["grades", "measured", "measurement_error", "measurement_error_alone", "ordinal", "outliers", "robust"]


def grades(num_rows: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Eight grades of 150 rows, the outer ones rare."""
    rng = np.random.default_rng(23)
    x = rng.normal(size=(num_rows, 3))
    latent = x @ [1.2, -0.7, 0] + rng.logistic(size=num_rows)
    return x, np.sum(latent[:, None] > [-3.5, -2, -1.8, 0, 0.1, 2.5, 4.5], axis=1)


def ordinal(x: np.ndarray, y: np.ndarray) -> None:
    """Ordered logit whose cut points have no prior of their own, but one by `factor`."""
    beta: Any = numpyro.sample("beta", dist.Normal(0, 2).expand([3]).to_event(1))
    spread: Any = numpyro.sample("spread", dist.Exponential(1))
    cuts: Any = numpyro.sample("cuts", dist.ImproperUniform(constraints.ordered_vector, (), (7,)))
    numpyro.factor("prior of cuts", jnp.sum(dist.Normal(0, 10 * spread + 1).log_prob(cuts)))
    numpyro.sample("y", dist.OrderedLogistic(x @ beta, cuts), obs=y)


def measured(num_rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A covariate seen with an error as large as half its spread, and an outcome."""
    rng = np.random.default_rng(61)
    x = rng.normal(2, 1, num_rows)
    return x + rng.normal(0, 0.5, num_rows), 1 + 1.5 * x + rng.normal(0, 0.4, num_rows)


def measurement_error(x: np.ndarray, y: np.ndarray) -> None:
    """Regression on what the covariate really was, a site for each row, centered."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 5))
    scale, noise = (numpyro.sample(name, dist.HalfNormal(2)) for name in ("scale", "noise"))
    intercept, slope = (numpyro.sample(name, dist.Normal(0, 3)) for name in ("intercept", "slope"))
    with numpyro.plate("row", len(x)):
        true: Any = numpyro.sample("true", dist.Normal(mean, scale))
        numpyro.sample("x", dist.Normal(true, 0.5), obs=x)
        numpyro.sample("y", dist.Normal(intercept + slope * true, noise), obs=y)


def measurement_error_alone(x: np.ndarray, y: np.ndarray) -> None:
    """The same with the true covariates integrated out: both columns are normal together."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 5))
    scale, noise = (numpyro.sample(name, dist.HalfNormal(2)) for name in ("scale", "noise"))
    intercept, slope = (numpyro.sample(name, dist.Normal(0, 3)) for name in ("intercept", "slope"))
    shared = slope * scale**2
    cov = jnp.array([[scale**2 + 0.25, shared], [shared, slope * shared + noise**2]])
    centers = jnp.stack([mean, intercept + slope * mean])
    numpyro.factor("rows", jnp.sum(dist.MultivariateNormal(centers, cov).log_prob(jnp.stack([x, y], axis=1))))


def outliers(num_rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A line with five rows far off."""
    rng = np.random.default_rng(62)
    x = rng.normal(size=num_rows)
    y = 0.5 + 1.2 * x + rng.normal(0, 0.3, num_rows)
    y[:5] += rng.normal(0, 6, 5)
    return x, y


def robust(x: np.ndarray, y: np.ndarray) -> None:
    """Student-t regression with unknown degrees of freedom."""
    intercept, slope = (numpyro.sample(name, dist.Normal(0, 5)) for name in ("intercept", "slope"))
    noise: Any = numpyro.sample("noise", dist.HalfNormal(2))
    df: Any = numpyro.sample("df", dist.Gamma(2, 0.1))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.StudentT(df, intercept + slope * x, noise), obs=y)
