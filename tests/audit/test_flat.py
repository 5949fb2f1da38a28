import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.audit.flat import flatness_failures
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

REAL, POSITIVE = dist.constraints.real, dist.constraints.positive
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("scale", "flat"), [(1.0, False), (1.5, False), (30.0, True), (1e6, True)])
def test_a_base_far_wider_than_the_density_falls_off_is_told(getkey, scale, flat):
    # along one direction the base is so many times as wide as it would be had its fit ended
    tril = jnp.eye(3).at[1, 1].set(1 / scale)
    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 3)), jnp.eye(3)[None]))
    target = safe_log_density(lambda z: -0.5 * jnp.sum((tril @ z) ** 2))
    assert bool(flatness_failures(Problem(base, target), getkey())) == flat


def location(y):
    loc = numpyro.sample("loc", dist.ImproperUniform(REAL, (), ()))
    scale = numpyro.sample("scale", dist.ImproperUniform(POSITIVE, (), ()))
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def two_locations(y):
    a, b = (numpyro.sample(name, dist.ImproperUniform(REAL, (), ())) for name in "ab")
    numpyro.sample("y", dist.Normal(a + b, 1), obs=y)


def scale_of_one(y):
    scale = numpyro.sample("scale", dist.ImproperUniform(POSITIVE, (), ()))  # 1/scale at infinity, not integrable
    numpyro.sample("y", dist.Normal(0, scale), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "num", "proper"),
    [(location, 20, True), (location, 3, True), (two_locations, 20, False), (scale_of_one, 1, False)],
)
def test_draws_of_no_posterior_are_not_called_reliable(model, num, proper):
    sampler = OneStepSampler(OneStep(model), num_samples=100, progress_bar=False)
    sampler.run(random.key(0), RNG.normal(1, 1, num))
    assert not sampler.evidence.reliable
    assert sampler.evidence.draws_reliable == proper
    assert any("hardly falls off" in warning for warning in sampler.evidence.warnings) != proper
