"""Hierarchical models: batting averages, college admissions, Neal's funnel, and a covariance with an LKJ prior."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

__all__ = ["ADMISSIONS", "HITS", "admissions", "baseball", "correlated_data", "covariance", "funnel"]

# hits of 18 players in their first 45 at-bats of 1970: Efron and Morris (1975), "Data analysis using Stein's
# estimator and its generalizations", table 1
HITS = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])
AT_BATS = 45

# department, male, admitted, applied; the six largest departments of Berkeley, 1973: Bickel, Hammel and O'Connell
# (1975), "Sex bias in graduate admissions", as tabulated by Freedman, Pisani and Purves
ADMISSIONS = np.array(
    [
        [0, 1, 512, 825],
        [0, 0, 89, 108],
        [1, 1, 353, 560],
        [1, 0, 17, 25],
        [2, 1, 120, 325],
        [2, 0, 202, 593],
        [3, 1, 138, 417],
        [3, 0, 131, 375],
        [4, 1, 53, 191],
        [4, 0, 94, 393],
        [5, 1, 22, 373],
        [5, 0, 24, 341],
    ]
)


def baseball(hits: np.ndarray) -> None:
    """Partial pooling: the players' true averages are Beta-distributed around a common mean."""
    mean: Any = numpyro.sample("mean", dist.Uniform(0, 1))
    concentration: Any = numpyro.sample("concentration", dist.Pareto(1, 1.5))
    numpyro.deterministic("log_concentration", jnp.log(concentration))
    with numpyro.plate("player", len(hits)):
        average: Any = numpyro.sample("average", dist.Beta(mean * concentration, (1 - mean) * concentration))
        numpyro.sample("hits", dist.Binomial(AT_BATS, average), obs=hits)


def admissions(table: np.ndarray) -> None:
    """Logit of admission with an intercept and an effect of being male that vary together between departments."""
    department, male, admitted, applied = table.T
    center: Any = numpyro.sample("center", dist.Normal(0, jnp.array([4.0, 1.0])).to_event(1))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
    factor: Any = numpyro.sample("factor", dist.LKJCholesky(2, concentration=2))
    numpyro.deterministic("correlation", factor[1, 0])
    with numpyro.plate("department", department.max() + 1):
        z: Any = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    effect: Any = numpyro.deterministic("effect", center + z @ (scale[:, None] * factor).T)
    logits = effect[department, 0] + effect[department, 1] * male
    numpyro.sample("admitted", dist.Binomial(applied, logits=logits), obs=admitted)


def funnel(dim: int = 10) -> None:
    """Neal's funnel, centered: the first coordinate is the log variance of all others."""
    y: Any = numpyro.sample("y", dist.Normal(0, 3))
    with numpyro.plate("others", dim - 1):
        x: Any = numpyro.sample("x", dist.Normal(0, jnp.exp(y / 2)))
    numpyro.deterministic("log_abs_x", jnp.log(jnp.abs(x)))


def correlated_data(num_rows: int = 100, dim: int = 5) -> np.ndarray:
    """Normal rows whose coordinates have scales from .2 to 5 and a random correlation, shape (num_rows, dim)."""
    rng = np.random.default_rng(8)
    factor = rng.normal(size=(dim, dim + 2))
    correlation = np.corrcoef(factor)
    return rng.multivariate_normal(np.zeros(dim), correlation, num_rows) * np.geomspace(0.2, 5, dim)


def covariance(y: np.ndarray) -> None:
    """Mean, scales and correlation of multivariate normal rows."""
    dim = y.shape[1]
    mean: Any = numpyro.sample("mean", dist.Normal(0, 5).expand([dim]).to_event(1))
    scale: Any = numpyro.sample("scale", dist.HalfCauchy(1).expand([dim]).to_event(1))
    factor: Any = numpyro.sample("factor", dist.LKJCholesky(dim, concentration=1))
    numpyro.deterministic("correlation", (factor @ factor.T)[np.tril_indices(dim, -1)])
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(mean, scale_tril=scale[:, None] * factor), obs=y)
