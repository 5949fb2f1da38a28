"""Rogues that are posteriors of NumPyro models."""

import math
from itertools import permutations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm
from rogue import Rogue, quadrature_1d


def horseshoe() -> Rogue:
    """Normal means under a horseshoe prior, centered: every mean has its own half-Cauchy scale."""
    data = np.array([0.0, 0.5, 2.0, 6.0])

    def model() -> None:
        scale = numpyro.sample("scale", dist.HalfCauchy(1).expand([4]).to_event(1))
        theta = numpyro.sample("theta", dist.Normal(0, scale).to_event(1))
        numpyro.sample("y", dist.Normal(theta, 1).to_event(1), obs=jnp.asarray(data))

    t = np.linspace(-25, 25, 400_001)  # log scale
    scale = np.exp(t)
    log_z, means = 0.0, {}
    for i, y in enumerate(data):
        variance = 1 + scale**2
        log_f = np.log(2 / np.pi) - np.log1p(scale**2) + t - 0.5 * np.log(2 * np.pi * variance) - 0.5 * y**2 / variance
        w = np.exp(log_f - log_f.max())
        log_z += float(np.log(w.sum()) + log_f.max() + np.log(t[1] - t[0]))
        w /= w.sum()
        shrink = scale**2 / variance
        mean, square = np.sum(w * shrink * y), np.sum(w * (shrink + (shrink * y) ** 2))
        get = lambda z, i=i: np.asarray(z["theta"])[:, i]  # noqa: E731
        means[f"theta{i}"] = (get, float(mean), float(np.sqrt(square - mean**2)))
    return Rogue(log_z, model, means=means)


def label_switching(num_components: int) -> Rogue:
    """A mixture of K components whose labels can be exchanged: K! equal modes; well separated data, closed form."""
    rng = np.random.default_rng(3)
    centers = 8.0 * (np.arange(num_components) - (num_components - 1) / 2)
    data = centers[:, None] + 0.7 * rng.normal(size=(num_components, 6))
    prior_sd = 10.0

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0, prior_sd).expand([num_components]).to_event(1))
        mixing = dist.Categorical(probs=jnp.ones(num_components) / num_components)
        component = dist.Normal(mu, 1)
        numpyro.sample("y", dist.MixtureSameFamily(mixing, component).expand([data.size]).to_event(1), obs=data.ravel())

    log_z = math.lgamma(num_components + 1) - data.size * math.log(num_components)
    for group in data:
        cov = np.eye(6) + prior_sd**2
        log_z -= 0.5 * (group @ np.linalg.solve(cov, group) + np.linalg.slogdet(2 * np.pi * cov)[1])
    orders = list(permutations(range(num_components)))
    weights = {
        f"order {order}": (
            lambda z, order=order: np.all(np.argsort(np.asarray(z["mu"]), axis=1) == order, axis=1),
            1 / len(orders),
        )
        for order in orders
    }
    return Rogue(float(log_z), model, weights=weights)


def pile_at_zero() -> Rogue:
    """A rate whose posterior is Exponential(51), piled up at its constraint."""

    def model() -> None:
        rate = numpyro.sample("rate", dist.Exponential(1.0))
        numpyro.sample("count", dist.Poisson(50 * rate), obs=0)

    return Rogue(-math.log(51), model, means={"rate": (lambda z: np.asarray(z["rate"]), 1 / 51, 1 / 51)})


def pile_at_both_ends() -> Rogue:
    """Beta(.2, .3): a fifth of the mass within a thousandth of either end."""

    def model() -> None:
        numpyro.sample("p", dist.Beta(0.2, 0.3))

    draws = np.random.default_rng(0).beta(0.2, 0.3, 4_000_000)
    get = lambda z: np.asarray(z["p"])  # noqa: E731
    return Rogue(
        0.0,
        model,
        means={"p": (get, 0.4, float(draws.std()))},
        weights={"p < 1e-3": (lambda z: get(z) < 1e-3, float(np.mean(draws < 1e-3)))},
    )


def near_improper() -> Rogue:
    """Two effects of which only the sum is seen, both Normal(0, 1000)."""

    def model() -> None:
        a = numpyro.sample("a", dist.Normal(0, 1000))
        b = numpyro.sample("b", dist.Normal(0, 1000))
        numpyro.sample("y", dist.Normal(a + b, 1), obs=1.0)

    variance = 1 + 2e6
    share = 1e6 / variance
    sd = math.sqrt(1e6 - 1e12 / variance)
    log_z = -0.5 * math.log(2 * math.pi * variance) - 0.5 / variance
    return Rogue(log_z, model, means={"a": (lambda z: np.asarray(z["a"]), share, sd)})


def unidentified_regression() -> Rogue:
    """Four coefficients, two columns the same and one the sum of others."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2))
    x = np.stack([x[:, 0], x[:, 0], x[:, 1], x[:, 0] + x[:, 1]], axis=1)
    y = x @ np.array([1.0, 0.5, -1.0, 0.0]) + 0.1 * rng.normal(size=30)

    def model() -> None:
        beta = numpyro.sample("beta", dist.Normal(0, 5).expand([4]).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.asarray(x) @ beta, 0.1).to_event(1), obs=jnp.asarray(y))

    precision = x.T @ x / 0.01 + np.eye(4) / 25
    mean, sd = np.linalg.solve(precision, x.T @ y / 0.01), np.sqrt(np.diag(np.linalg.inv(precision)))
    cov = 0.01 * np.eye(30) + 25 * x @ x.T
    log_z = -0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(2 * np.pi * cov)[1])
    get = lambda i: lambda z: np.asarray(z["beta"])[:, i]  # noqa: E731
    return Rogue(float(log_z), model, means={f"beta{i}": (get(i), float(mean[i]), float(sd[i])) for i in range(4)})


def product() -> Rogue:
    """Only a·b is seen: two hyperbolas."""

    def model() -> None:
        a, b = numpyro.sample("a", dist.Normal(0, 1)), numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a * b, 0.2), obs=1.0)

    grid = np.linspace(-6, 6, 3001)
    a, b = np.meshgrid(grid, grid)
    log_f = -0.5 * (a**2 + b**2) - 0.5 * ((1 - a * b) / 0.2) ** 2 - np.log((2 * np.pi) ** 1.5 * 0.2)
    f = np.exp(log_f)
    sd = float(np.sqrt(np.sum(f * a**2) / f.sum()))
    log_z = math.log(f.sum() * (grid[1] - grid[0]) ** 2)
    get = lambda z: np.asarray(z["a"])  # noqa: E731
    return Rogue(log_z, model, means={"a": (get, 0.0, sd)}, weights={"a > 0": (lambda z: get(z) > 0, 0.5)})


def spike_and_slab() -> Rogue:
    """Three normal means under ½ N(0, .05) + ½ N(0, 3)."""
    data = np.array([0.1, 1.5, 3.0])

    def model() -> None:
        theta = numpyro.sample("theta", dist.Uniform(-30, 30).expand([3]).to_event(1))
        spike, slab = norm.logpdf(theta, 0, 0.05), norm.logpdf(theta, 0, 3)
        numpyro.factor("prior", jnp.sum(jnp.logaddexp(spike, slab) - math.log(2) + math.log(60)))
        numpyro.sample("y", dist.Normal(theta, 1).to_event(1), obs=jnp.asarray(data))

    grid = np.linspace(-30, 30, 1_200_001)
    log_z, means, weights = 0.0, {}, {}
    for i, y in enumerate(data):
        spike, slab = (
            np.asarray(0.5 * np.exp(-0.5 * (grid / s) ** 2) / (s * math.sqrt(2 * math.pi))) for s in (0.05, 3)
        )
        f = (spike + slab) * np.exp(-0.5 * (y - grid) ** 2) / math.sqrt(2 * math.pi)
        log_z += math.log(f.sum() * (grid[1] - grid[0]))
        mean = np.sum(f * grid) / f.sum()
        get = lambda z, i=i: np.asarray(z["theta"])[:, i]  # noqa: E731
        means[f"theta{i}"] = (get, float(mean), float(np.sqrt(np.sum(f * (grid - mean) ** 2) / f.sum())))
        share = float(np.sum(f * (np.abs(grid) < 0.15)) / f.sum())
        weights[f"spike {i}"] = (lambda z, get=get: np.abs(get(z)) < 0.15, share)
    return Rogue(log_z, model, means=means, weights=weights)


def enumerated() -> Rogue:
    """A mixing probability with the labels summed out by NumPyro."""
    rng = np.random.default_rng(5)
    data = np.concatenate([rng.normal(-2, 1, 12), rng.normal(2, 1, 8)])

    def model() -> None:
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("data", len(data)):
            label = numpyro.sample("label", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(4.0 * label - 2.0, 1.0), obs=jnp.asarray(data))

    kernel = lambda c: np.exp(-0.5 * (data - c) ** 2) / math.sqrt(2 * math.pi)  # noqa: E731
    grid = (np.arange(20_000) + 0.5) / 20_000
    log_f = lambda p: np.sum(np.log(p[:, None] * kernel(2.0) + (1 - p[:, None]) * kernel(-2.0)), axis=1)  # noqa: E731
    log_z, mean, sd = quadrature_1d(log_f, grid)
    return Rogue(log_z, model, means={"p": (lambda z: np.asarray(z["p"]), mean, sd)})


def two_cauchys() -> Rogue:
    """A location seen through two Cauchy observations 20 apart: two modes with long tails."""

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 30))
        numpyro.sample("y", dist.Cauchy(mu, 1), obs=jnp.array([-8.0, 12.0]))

    def log_f(mu: np.ndarray) -> np.ndarray:
        prior = -0.5 * (mu / 30) ** 2 - math.log(30 * math.sqrt(2 * math.pi))
        return prior - sum(np.log(np.pi * (1 + (y - mu) ** 2)) for y in (-8.0, 12.0))

    grid = np.linspace(-300, 300, 1_200_001)
    log_z, mean, sd = quadrature_1d(log_f, grid)
    f = np.exp(log_f(grid))
    right = float(f[grid > 2].sum() / f.sum())
    get = lambda z: np.asarray(z["mu"])  # noqa: E731
    return Rogue(log_z, model, means={"mu": (get, mean, sd)}, weights={"mu > 2": (lambda z: get(z) > 2, right)})
