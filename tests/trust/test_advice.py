"""The advice of a warning, taken on a case that raises it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from numpyro.infer import MCMC

from numpyro_onestep import OneStep, OneStepSampler, evidence

pytestmark = pytest.mark.slow


def failures(e):
    return [warning for warning in e.warnings if not warning.startswith("note:")]


def run(kernel, num_warmup=1000, **given):
    sampler = OneStepSampler(kernel, num_warmup=num_warmup, progress_bar=False)
    sampler.run(random.key(0), **given)
    return sampler.evidence


def test_longer_training_mends_weights_of_a_heavy_tail():
    def rates():
        numpyro.sample("rate", dist.Gamma(0.5, 1.0).expand([60]).to_event(1))

    short = run(OneStep(rates, bridge="never"), num_warmup=1)
    assert not short.reliable
    assert any("Train longer (target_ess=1.0" in warning for warning in failures(short))
    longer = run(OneStep(rates, target_ess=1.0, bridge="never"))
    assert longer.reliable, longer.warnings
    assert abs(longer.log_z) < 0.05


def test_a_larger_init_scale_finds_the_mode_that_was_out_of_reach():
    def potential(x):
        apart = jnp.array([0.0, 30.0])
        return -logsumexp(jnp.sum(norm.logpdf(x[:, None], apart), axis=0)) + np.log(2)

    def with_spread(init_scale):
        kernel = OneStep(potential_fn=potential, init_scale=init_scale)
        mcmc = MCMC(kernel, num_warmup=200, num_samples=100, progress_bar=False)
        mcmc.run(random.key(0), init_params=jnp.zeros(2))
        return evidence(mcmc, random.key(1))

    near = with_spread(0.3)
    assert not near.reliable
    assert any("larger `init_scale`" in warning for warning in failures(near))
    wide = with_spread(20.0)
    assert wide.reliable, wide.warnings
    assert abs(wide.log_z) < 0.05


def test_float64_mends_the_rounding_of_large_log_densities():
    def potential(x):
        return 0.5 * jnp.sum(x**2) + 300_000.0

    rounded = run(OneStep(potential_fn=potential), init_params=jnp.zeros((4, 3)))
    assert not rounded.reliable
    assert any("enable float64" in warning for warning in failures(rounded))
    with jax.enable_x64(True):
        exact = run(OneStep(potential_fn=potential), init_params=jnp.zeros((4, 3)))
    assert exact.reliable, exact.warnings
    assert abs(exact.log_z - 1.5 * np.log(2 * np.pi) + 300_000) < 1e-3
