"""What `OneStep` does beyond what `tests/dropin` asserts of it and of NUTS alike."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import SKEWED_LOG_Z, banana_potential, skewed
from numpyro.infer import MCMC

from numpyro_onestep import OneStep, evidence

FAST = {"num_warmup": 30, "progress_bar": False}


def run(kernel, key=None, extra_fields=(), init_params=None, args=(), **options):
    mcmc = MCMC(kernel, **{**FAST, "num_samples": 200, **options})
    mcmc.run(random.key(0) if key is None else key, *args, extra_fields=extra_fields, init_params=init_params)
    return mcmc


def run_script(script):
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("chain_method", ["sequential", jax.vmap])
def test_chains_train_their_own_flow(chain_method):
    mcmc = run(OneStep(skewed), num_chains=2, num_samples=400, chain_method=chain_method)
    rate = np.asarray(mcmc.get_samples(group_by_chain=True)["rate"])
    assert rate.shape == (2, 400)
    assert not np.array_equal(rate[0], rate[1])
    # the posterior is Gamma(5, 2): mean 2.5, sd 1.118
    assert np.all(np.abs(rate.mean(1) - 2.5) < 5 * 1.118 / np.sqrt(200))
    result = evidence(mcmc, random.key(1))
    assert result.num_replicates == 2
    assert abs(result.log_z - SKEWED_LOG_Z) < min(5 * result.std_error + 1e-4, 0.05)


def test_same_key_same_draws():
    a, b = (run(OneStep(skewed)).get_samples()["rate"] for _ in range(2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, run(OneStep(skewed), key=random.key(1)).get_samples()["rate"])


def test_resuming_does_not_train_again():
    mcmc = run(OneStep(skewed), num_chains=2, chain_method="vectorized")
    first, flow = mcmc.get_samples()["rate"], mcmc.last_state.train.best
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(random.key(7))
    second = mcmc.get_samples()["rate"]
    assert not np.array_equal(first, second)
    assert jax.tree.all(jax.tree.map(np.array_equal, flow, mcmc.last_state.train.best))
    assert int(np.ravel(mcmc.last_state.i)[0]) == 30 + 200 + 200


def test_collected_fields():
    names = ("potential_energy", "accept_prob", "num_steps", "log_weight", "i")
    mcmc = run(OneStep(skewed), extra_fields=names, num_chains=2, chain_method="vectorized")
    fields = mcmc.get_extra_fields(group_by_chain=True)
    assert {k: v.shape for k, v in fields.items()} == dict.fromkeys(("diverging", *names), (2, 200))
    assert np.all(fields["num_steps"] == 1)
    assert not np.any(fields["diverging"])
    rate = np.asarray(mcmc.get_samples(group_by_chain=True)["rate"])
    # −log(Gamma(2,1) prior · Poisson(3) likelihood · d rate / d log rate)
    expected = -(np.log(rate) - rate + 3 * np.log(rate) - rate - np.log(6) + np.log(rate))
    assert np.allclose(fields["potential_energy"], expected, atol=1e-4)
    with pytest.raises((AttributeError, TypeError)):  # NumPyro's own error for any kernel
        run(OneStep(skewed), extra_fields=("no_such_field",))


def test_potential_fn_with_pytree_parameters():
    params = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    mcmc = run(OneStep(potential_fn=banana_potential), init_params=params, num_warmup=200, num_samples=1000)
    draws = mcmc.get_samples()
    assert set(draws) == {"x", "y"}
    assert abs(float(draws["y"].mean()) - 1.0) < 5 * np.sqrt(2.25 / 500)
    result = evidence(mcmc, random.key(1))
    assert abs(result.log_z) < 0.05
    assert any("potential_fn" in w for w in result.warnings)
    with pytest.raises(ValueError, match="init_params"):
        run(OneStep(potential_fn=banana_potential))


@pytest.mark.parametrize("correction", ["resample", "none"])
def test_other_corrections(correction):
    rate = np.asarray(run(OneStep(skewed, correction=correction), num_samples=1000).get_samples()["rate"])
    assert abs(rate.mean() - 2.5) < 0.25


def test_float64():
    # in a process of its own, as a user would: the switch is global
    script = """
import numpyro; numpyro.enable_x64()
import jax
from models import FEATURES, TARGETS, regression, regression_log_z
from numpyro_onestep import OneStep, OneStepSampler
sampler = OneStepSampler(OneStep(regression), num_warmup=20, num_samples=50, progress_bar=False)
sampler.run(jax.random.key(0), FEATURES, TARGETS)
assert sampler.get_samples()["beta"].dtype == "float64"
assert sampler.evidence.reliable
assert abs(sampler.evidence.log_z - regression_log_z()) < 1e-3
"""
    run_script(script)


def test_parallel_chains_on_two_devices():
    # the number of CPU devices is fixed when a process starts
    script = """
import numpyro; numpyro.set_host_device_count(2)
import jax, numpy as np
from models import FEATURES, TARGETS, regression, regression_log_z, regression_posterior
from numpyro.infer import MCMC
from numpyro_onestep import OneStep, evidence
options = dict(num_warmup=10, num_samples=200, num_chains=2, progress_bar=False)
mcmc = MCMC(OneStep(regression), chain_method="parallel", **options)
for i in range(2):
    mcmc.run(jax.random.key(i), FEATURES, TARGETS)
    beta = np.asarray(mcmc.get_samples(group_by_chain=True)["beta"])
    assert beta.shape == (2, 200, 3) and not np.array_equal(beta[0], beta[1])
    assert np.allclose(beta.mean(1), regression_posterior()[0], atol=0.15)
    mcmc.post_warmup_state = mcmc.last_state
result = evidence(mcmc, jax.random.key(2))
assert result.num_replicates == 2
assert abs(result.log_z - regression_log_z()) < 1e-3
"""
    run_script(script)


def test_enumerated_discrete_site():
    def mixture():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        k = numpyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(mu + 3 * k, 1), obs=2.0)

    mcmc = run(OneStep(mixture))
    # marginally y ~ .7 N(0, √2) + .3 N(3, √2)
    density = np.array([0.7, 0.3]) * np.exp(-((2.0 - np.array([0.0, 3.0])) ** 2) / 4) / np.sqrt(4 * np.pi)
    assert abs(evidence(mcmc, random.key(1)).log_z - np.log(density.sum())) < 0.05


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match="model"):
        OneStep()
    with pytest.raises(ValueError, match="model"):
        OneStep(skewed, potential_fn=banana_potential)
    with pytest.raises(ValueError, match="correction"):
        OneStep(skewed, correction="magic")
    with pytest.raises(ValueError, match="power of two"):
        OneStep(skewed, num_steps=3)
    with pytest.raises(ValueError, match="num_warmup=0"):
        run(OneStep(skewed), num_warmup=0)
    with pytest.raises(ValueError, match="no continuous latent sites"):
        run(OneStep(lambda: numpyro.sample("y", dist.Normal(0, 1), obs=0.0)))
    with pytest.raises(ValueError, match="not finite at any"):
        run(OneStep(potential_fn=lambda z: z[0] * jnp.nan), init_params=jnp.zeros(2))
    with pytest.raises(TypeError, match="OneStep kernel"):
        evidence(MCMC(numpyro.infer.NUTS(skewed), num_warmup=1, num_samples=1), random.key(0))


def test_num_warmup_zero_works_from_a_trained_state():
    trained = run(OneStep(skewed))
    mcmc = MCMC(OneStep(skewed), num_warmup=0, num_samples=50, progress_bar=False)
    mcmc.post_warmup_state = trained.last_state
    mcmc.run(random.key(5))
    assert mcmc.get_samples()["rate"].shape == (50,)
