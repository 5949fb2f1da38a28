"""Regressions: logistic, horseshoe, Gaussian process and a Bayesian neural network, all on generated data."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

__all__ = [
    "curve",
    "gaussian_process",
    "horseshoe",
    "labelled_features",
    "logistic",
    "neural_network",
    "sparse_features",
    "wave",
]


def labelled_features(num_rows: int = 1000, num_features: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unit variance with a column of ones, and labels: shapes (N, D + 1) and (N,)."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(num_rows, num_features)) @ rng.normal(size=(num_features, num_features))
    features = (features - features.mean(0)) / features.std(0)
    features = np.column_stack([features, np.ones(num_rows)])
    logits = features @ rng.normal(0, 0.5, num_features + 1)
    return features, (rng.uniform(size=num_rows) < 1 / (1 + np.exp(-logits))).astype(int)


def logistic(features: np.ndarray, labels: np.ndarray) -> None:
    """Logistic regression with standard normal coefficients."""
    beta: Any = numpyro.sample("beta", dist.Normal(0, 1).expand([features.shape[1]]).to_event(1))
    numpyro.sample("label", dist.Bernoulli(logits=features @ beta), obs=labels)


def sparse_features(num_rows: int = 60, num_features: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Independent features of which only the first three count, and the response."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(num_rows, num_features))
    return features, features[:, :3] @ np.array([2.0, -1.0, 0.5]) + 0.5 * rng.normal(size=num_rows)


def horseshoe(features: np.ndarray, y: np.ndarray) -> None:
    """Linear regression whose coefficients each have a half-Cauchy scale of their own and one in common."""
    num_features = features.shape[1]
    local_scale: Any = numpyro.sample("local_scale", dist.HalfCauchy(1).expand([num_features]).to_event(1))
    global_scale: Any = numpyro.sample("global_scale", dist.HalfCauchy(1))
    z: Any = numpyro.sample("z", dist.Normal(0, 1).expand([num_features]).to_event(1))
    beta: Any = numpyro.deterministic("beta", global_scale * local_scale * z)
    numpyro.deterministic("log_global_scale", jnp.log(global_scale))
    precision: Any = numpyro.sample("precision", dist.Gamma(3, 1))
    numpyro.sample("y", dist.Normal(features @ beta, precision**-0.5), obs=y)


def wave(num_points: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function with noise of sd .15 on [−1, 1]."""
    rng = np.random.default_rng(5)
    x = np.linspace(-1, 1, num_points)
    return x, x + np.sin(4 * x) * np.exp(0.5 * x) + 0.15 * rng.normal(size=num_points)


def gaussian_process(x: np.ndarray, y: np.ndarray) -> None:
    """Variance, length and noise variance of a squared-exponential process that is integrated out; very wide priors."""
    log_hyper = {name: numpyro.sample(name, dist.Normal(0, 10)) for name in ("log_variance", "log_length", "log_noise")}
    variance, length, noise = (jnp.exp(value) for value in log_hyper.values())
    square = ((x[:, None] - x) / length) ** 2
    # the small constant keeps the covariance definite in float32
    cov = variance * jnp.exp(-0.5 * square) + (noise + 1e-6) * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(0, cov), obs=y)


def curve(num_points: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """A bent line with noise, both coordinates of about unit scale."""
    rng = np.random.default_rng(6)
    x = np.linspace(-1.5, 1.5, num_points)
    return x, np.tanh(3 * x) - 0.5 * x + 0.2 * rng.normal(size=num_points)


def neural_network(x: np.ndarray, y: np.ndarray, num_hidden: int = 5) -> None:
    """One hidden layer of tanh units, standard normal weights.

    Units can be exchanged and each unit's signs flipped, so the posterior has 5!·2⁵ = 3840 equal modes, and the weights
    mean nothing one by one; the predictions do.
    """
    slope: Any = numpyro.sample("slope", dist.Normal(0, 1).expand([num_hidden]).to_event(1))
    shift: Any = numpyro.sample("shift", dist.Normal(0, 1).expand([num_hidden]).to_event(1))
    output: Any = numpyro.sample("output", dist.Normal(0, 1).expand([num_hidden]).to_event(1))
    precision: Any = numpyro.sample("precision", dist.Gamma(3, 1))

    def network(x: np.ndarray) -> Array:
        return jnp.tanh(x[:, None] * slope + shift) @ output

    numpyro.deterministic("prediction", network(np.array([-2.0, -1.0, -0.3, 0.3, 1.0, 2.0])))
    numpyro.sample("y", dist.Normal(network(x), precision**-0.5), obs=y)
