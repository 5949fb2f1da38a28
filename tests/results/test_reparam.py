import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

from numpyro_onestep import FlowReparam, OneStep, OneStepSampler

EFFECTS = jnp.array([2.5, -1.5, 0.5])


def hierarchical(y):
    """A positive site, a plate and an observed site, in three dimensions more than one."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("groups", 3):
        effect = numpyro.sample("effect", dist.Normal(0.0, scale))
        numpyro.sample("y", dist.Normal(effect, 0.5), obs=y)


@pytest.fixture(scope="module")
def sampler():
    kernel = OneStep(hierarchical, width=32, num_blocks=2, coverage_audit=False)
    sampler = OneStepSampler(kernel, num_warmup=300, num_samples=4000, num_chains=1, progress_bar=False)
    sampler.run(random.key(0), EFFECTS)
    return sampler


def test_the_density_in_the_flows_space_is_that_of_the_model_and_the_jacobian(sampler):
    reparam = FlowReparam(sampler)
    latent = jnp.array([0.3, -0.4, 0.8, 0.1])
    value, _ = log_density(reparam.reparam(hierarchical), (EFFECTS,), {}, {"onestep_latent": latent})
    flat = reparam.transform(latent)
    target = sampler.setup.target((EFFECTS,), {})
    assert np.isclose(value, target.value(flat) + reparam.transform.log_abs_det_jacobian(latent, flat), atol=1e-3)


def test_handlers_within_the_model_do_not_touch_the_flow(sampler):
    latent = jnp.array([0.3, -0.4, 0.8, 0.1])

    def value(power):
        model = FlowReparam(sampler).reparam(numpyro.handlers.scale(hierarchical, scale=power))
        return log_density(model, (EFFECTS,), {}, {"onestep_latent": latent})[0]

    # the model's own density is scaled, log|det| is not: the value is linear in the power, and log|det| at power zero
    reparam = FlowReparam(sampler)
    log_det = reparam.transform.log_abs_det_jacobian(latent, latent)
    assert np.isclose(2 * value(0.5) - value(1.0), log_det, atol=1e-3)


def test_sites_out_of_reach_are_named(sampler):
    def other(y):
        numpyro.sample("scale", dist.LogNormal(0.0, 1.0))

    with pytest.raises(ValueError, match="does not reach the sites effect"):
        log_density(FlowReparam(sampler).reparam(other), (EFFECTS,), {}, {"onestep_latent": jnp.zeros(4)})


def test_nuts_in_the_flows_space_agrees_and_mixes(sampler):
    reparam = FlowReparam(sampler)
    mcmc = MCMC(NUTS(reparam.reparam(hierarchical)), num_warmup=200, num_samples=500, progress_bar=False)
    mcmc.run(random.key(1), EFFECTS)
    draws, exact = mcmc.get_samples(), sampler.get_samples()
    assert set(draws) == {"onestep_latent", "scale", "effect"}
    effects = np.asarray(draws["effect"])
    ess = effective_sample_size(effects[None])
    assert np.all(ess > 150)
    spread = np.std(exact["effect"], axis=0)
    assert np.all(np.abs(effects.mean(0) - np.mean(exact["effect"], axis=0)) < 5 * spread / np.sqrt(150))
    again = reparam.transform_sample(draws["onestep_latent"])
    assert np.allclose(again["effect"], effects, atol=1e-4)


def test_a_potential_function_has_no_sites():
    kernel = OneStep(potential_fn=lambda x: 0.5 * jnp.sum(x**2), width=32, num_blocks=2, coverage_audit=False)
    sampler = OneStepSampler(kernel, num_warmup=20, num_samples=10, num_chains=1, progress_bar=False)
    sampler.run(random.key(0), init_params=jnp.zeros(2))
    with pytest.raises(TypeError, match="has no sites"):
        FlowReparam(sampler)
