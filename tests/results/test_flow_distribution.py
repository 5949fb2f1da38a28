import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from numpyro_onestep import FlowDistribution, FlowTransform, OneStep, OneStepSampler

FIRST, SECOND = jnp.array([2.0, 3.0, 1.0, 4.0]), jnp.array([1.0, 0.0, 2.0])


def counts(y):
    """Conjugate: Gamma(2 + Σy, 1 + n)."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.deterministic("double", 2 * rate)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.fixture(scope="module")
def sampler():
    kernel = OneStep(counts, width=32, num_blocks=2, coverage_audit=False, target_ess=1.0)
    sampler = OneStepSampler(kernel, num_warmup=300, num_samples=100, num_chains=1, progress_bar=False)
    sampler.run(random.key(0), FIRST)
    return sampler


def test_the_transform_is_a_bijection_with_its_log_det(sampler):
    transform = FlowTransform(sampler)
    x = jnp.linspace(-3, 3, 12).reshape(3, 4, 1)
    y = transform(x)
    assert y.shape == (3, 4, 1)
    assert np.allclose(transform.inv(y), x, atol=1e-4)
    slope = jax.vmap(jax.grad(lambda x: transform(x[None])[0]))(x.ravel())
    assert np.allclose(transform.log_abs_det_jacobian(x, y).ravel(), np.log(slope), atol=1e-4)
    moved = jax.tree.unflatten(jax.tree.structure(transform), jax.tree.leaves(transform))
    assert np.array_equal(moved(x), y)


def test_the_inverse_has_derivatives_of_first_and_second_order(sampler):
    transform = FlowTransform(sampler)
    x = jnp.array([0.7])
    y = transform(x)
    first, second = jax.jacobian(transform)(x), jax.hessian(lambda x: transform(x)[0])(x)
    assert np.allclose(jax.jacrev(transform.inv)(y), 1 / first, rtol=1e-3)
    assert np.allclose(jax.jacfwd(transform.inv)(y), 1 / first, rtol=1e-3)
    assert np.allclose(jax.hessian(lambda y: transform.inv(y)[0])(y), -second / first**3, rtol=1e-2, atol=1e-4)


def test_the_distribution_is_the_posterior(sampler):
    posterior = FlowDistribution(sampler)
    exact = dist.Gamma(2.0 + FIRST.sum(), 1.0 + len(FIRST))
    draws = posterior.sample(random.key(1), (2000, 2))
    sites = posterior.constrain(draws)
    assert draws.shape == (2000, 2, 1)
    assert sites["rate"].shape == (2000, 2)
    assert np.allclose(sites["double"], 2 * sites["rate"])
    assert abs(np.mean(sites["rate"]) - exact.mean) < 5 * np.sqrt(exact.variance / 4000)
    # the flow's law is that of the log of a Gamma variable to within what training leaves
    known = exact.log_prob(sites["rate"]) + jnp.log(sites["rate"])
    assert np.mean(np.abs(posterior.log_prob(draws) - known)) < 0.02


def test_yesterdays_posterior_is_todays_prior(sampler):
    posterior = FlowDistribution(sampler)

    def today(y):
        rate = posterior.constrain(numpyro.sample("flat", posterior))["rate"]
        numpyro.deterministic("rate", rate)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    mcmc = MCMC(NUTS(today), num_warmup=200, num_samples=1000, progress_bar=False)
    mcmc.run(random.key(2), SECOND)
    exact = dist.Gamma(2.0 + FIRST.sum() + SECOND.sum(), 1.0 + len(FIRST) + len(SECOND))
    draws = mcmc.get_samples()["rate"]
    ess = numpyro.diagnostics.effective_sample_size(np.asarray(draws)[None])
    assert ess > 150
    assert abs(np.mean(draws) - exact.mean) < 5 * np.sqrt(exact.variance / ess)


def test_outside_of_the_inverse_s_reach_the_density_is_nan_not_a_number_that_is_wrong(sampler):
    assert np.isnan(FlowDistribution(sampler).log_prob(jnp.array([1e30])))


def test_what_is_not_a_trained_onestep_is_refused(sampler):
    with pytest.raises(TypeError, match="OneStep kernel, not NUTS"):
        FlowTransform(MCMC(NUTS(counts), num_warmup=1, num_samples=1))
    with pytest.raises(ValueError, match="No trained OneStep flow"):
        FlowDistribution(OneStepSampler(OneStep(counts)))
