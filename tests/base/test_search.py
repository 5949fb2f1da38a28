import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY
from scipy.stats import norm

from numpyro_onestep import OneStep, OneStepSampler

_BOUND = 4.0
_COSTS = np.array([1.2, 0.8, 2.0, 1.5])
_SEEN = np.array([1.1, 0.9, 1.3, 1.2])


def cut():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("limit", jnp.where(x < -0.5, 0.0, -jnp.inf))


def amounts():
    n = numpyro.sample("n", dist.Gamma(2.0, 1.0).expand([4]).to_event(1))
    numpyro.factor("limit", jnp.where(jnp.sum(n * _COSTS) < _BOUND, 0.0, -jnp.inf))
    numpyro.sample("y", dist.Normal(n, 0.6).to_event(1), obs=_SEEN)


def cut_moments():
    """Log Z, mean and variance of a standard normal below −.5."""
    ratio = norm.pdf(-0.5) / norm.cdf(-0.5)
    return norm.logcdf(-0.5), -ratio, 1 + 0.5 * ratio - ratio**2


@pytest.mark.parametrize("init_scale", [3.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_a_density_that_ends_at_an_edge(init_scale):
    sampler = OneStepSampler(
        OneStep(cut, init_scale=init_scale, **TINY), num_warmup=200, num_samples=1000, progress_bar=False
    )
    sampler.run(random.key(0))
    e = sampler.evidence
    log_z, mean, variance = cut_moments()
    assert abs(e.log_z - log_z) < 3 * e.std_error
    assert e.ess > 0.8 * e.num_proposals
    draws = np.asarray(sampler.get_samples()["x"])
    assert np.all(draws < -0.5)
    num = 0.5 * len(draws)  # half of the draws count as independent
    assert abs(np.mean(draws) - mean) < 5 * (variance / num) ** 0.5
    assert abs(np.var(draws) - variance) < 5 * np.std((draws - mean) ** 2) / num**0.5


def amounts_log_z():
    """By exact draws of each amount given its own observation, and its error."""
    grid = np.linspace(1e-4, 8, 40_001)
    log_z, total, rng = 0.0, np.zeros(400_000), np.random.default_rng(0)
    for cost, seen in zip(_COSTS, _SEEN, strict=True):
        weight = grid * np.exp(-grid) * norm.pdf(seen, grid, 0.6)
        log_z += np.log(np.sum(weight) * (grid[1] - grid[0]))
        total += cost * np.interp(rng.random(len(total)), np.cumsum(weight) / np.sum(weight), grid)
    share = np.mean(total < _BOUND)
    return log_z + np.log(share), ((1 - share) / share / len(total)) ** 0.5


@pytest.mark.slow
def test_an_edge_across_several_coordinates():
    sampler = OneStepSampler(OneStep(amounts, **TINY), num_warmup=300, num_samples=1000, progress_bar=False)
    sampler.run(random.key(0))
    draws = sampler.draw(random.key(1), 40_000)
    weights = np.exp(np.asarray(draws.log_weights, float))
    error = np.std(weights) / np.mean(weights) / len(weights) ** 0.5
    log_z, truth_error = amounts_log_z()
    assert abs(np.log(np.mean(weights)) - log_z) < 5 * np.hypot(error, truth_error)
    assert error < 0.1
    assert np.all(np.asarray(sampler.get_samples()["n"]) @ _COSTS < _BOUND)
