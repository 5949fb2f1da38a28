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
from models import TINY, banana_potential, bananas, skewed
from numpyro.infer import MCMC

from numpyro_onestep import OneStep, evidence
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.draws.proposal import propose
from numpyro_onestep.flow import steps
from numpyro_onestep.state import flows_of

FAST = {"num_warmup": 30, "progress_bar": False}


def run(kernel, key=None, extra_fields=(), init_params=None, args=(), **options):
    mcmc = MCMC(kernel, **{**FAST, "num_samples": 200, **options})
    mcmc.run(random.key(0) if key is None else key, *args, extra_fields=extra_fields, init_params=init_params)
    return mcmc


def run_script(script):
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def enumerated():
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    k = numpyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    numpyro.sample("y", dist.Normal(mu + 3 * k, 1), obs=2.0)


@pytest.mark.slow
def test_chains_train_their_own_flow_and_are_replicates():
    mcmc = run(OneStep(enumerated, **TINY), num_chains=2, num_samples=400, chain_method=jax.vmap)
    # marginally y ~ .7 N(0, √2) + .3 N(3, √2), and mu is then a mixture of N(1, √.5) and N(−.5, √.5)
    parts = np.array([0.7, 0.3]) * np.exp(-((2.0 - np.array([0.0, 3.0])) ** 2) / 4) / np.sqrt(4 * np.pi)
    mu = np.asarray(mcmc.get_samples(group_by_chain=True)["mu"])
    assert mu.shape == (2, 400)
    assert not np.array_equal(mu[0], mu[1])
    assert np.all(np.abs(mu.mean(1) - parts @ [1.0, -0.5] / parts.sum()) < 5 / np.sqrt(200))
    result = evidence(mcmc, random.key(1))
    assert result.num_replicates == 2
    assert abs(result.log_z - np.log(parts.sum())) < min(5 * result.std_error + 1e-3, 0.05)


FIELDS = ("potential_energy", "accept_prob", "num_steps", "log_weight", "i")


@pytest.fixture(scope="module")
def two_chains():
    return run(OneStep(skewed, **TINY), extra_fields=FIELDS, num_chains=2, chain_method="vectorized")


def test_same_key_same_draws(two_chains):
    first = two_chains.get_samples()["rate"]
    again = run(OneStep(skewed, **TINY), extra_fields=FIELDS, num_chains=2, chain_method="vectorized")
    assert np.array_equal(first, again.get_samples()["rate"])
    again.run(random.key(1), extra_fields=FIELDS)
    assert not np.array_equal(first, again.get_samples()["rate"])


def test_collected_fields(two_chains):
    fields = two_chains.get_extra_fields(group_by_chain=True)
    assert {k: v.shape for k, v in fields.items()} == dict.fromkeys(("diverging", *FIELDS), (2, 200))
    assert np.all(fields["num_steps"] == 1)
    assert not np.any(fields["diverging"])
    rate = np.asarray(two_chains.get_samples(group_by_chain=True)["rate"])
    # −log(Gamma(2,1) prior · Poisson(3) likelihood · d rate / d log rate)
    expected = -(np.log(rate) - rate + 3 * np.log(rate) - rate - np.log(6) + np.log(rate))
    assert np.allclose(fields["potential_energy"], expected, atol=1e-4)


def test_resuming_does_not_train_again(two_chains):
    first, flow = two_chains.get_samples()["rate"], two_chains.last_state.train.best
    two_chains.post_warmup_state = two_chains.last_state
    two_chains.run(random.key(7))
    assert not np.array_equal(first, two_chains.get_samples()["rate"])
    assert jax.tree.all(jax.tree.map(np.array_equal, flow, two_chains.last_state.train.best))
    assert int(np.ravel(two_chains.last_state.i)[0]) == 30 + 200 + 200


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["resample", "none"])
def test_other_corrections(correction):
    rate = np.asarray(run(OneStep(skewed, **TINY, correction=correction), num_samples=1000).get_samples()["rate"])
    assert abs(rate.mean() - 2.5) < 0.25


@pytest.mark.slow
def test_parallel_chains_on_two_devices():
    # the number of CPU devices is fixed when a process starts
    script = """
import numpyro; numpyro.set_host_device_count(2)
import jax, numpy as np
from models import FEATURES, TARGETS, TINY, regression, regression_log_z, regression_posterior
from numpyro.infer import MCMC
from numpyro_onestep import OneStep, evidence
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.flow import steps
from numpyro_onestep.state import flows_of
options = dict(num_warmup=10, num_samples=200, num_chains=2, progress_bar=False)
mcmc = MCMC(OneStep(regression, **TINY), chain_method="parallel", **options)
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
        run(OneStep(skewed, **TINY), num_warmup=0)
    with pytest.raises(ValueError, match="no continuous latent sites"):
        run(OneStep(lambda: numpyro.sample("y", dist.Normal(0, 1), obs=0.0)))
    with pytest.raises(ValueError, match="not finite at any"):
        run(OneStep(potential_fn=lambda z: z[0] * jnp.nan), init_params=jnp.zeros(2))
    with pytest.raises(TypeError, match="OneStep kernel"):
        evidence(MCMC(numpyro.infer.NUTS(skewed), num_warmup=1, num_samples=1), random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("num_chains", [1, 3])
def test_local_moves_mix_where_proposals_are_refused(num_chains):
    start = jnp.zeros(4) if num_chains == 1 else jnp.zeros((num_chains, 4))

    def run_with(bridge):
        kernel = OneStep(potential_fn=lambda z: -bananas(z), **TINY, bridge=bridge)
        options = {"num_warmup": 1, "num_samples": 1500 // num_chains, "num_chains": num_chains}
        mcmc = run(kernel, None, (), start, chain_method="vectorized", **options)
        return mcmc, np.asarray(mcmc.get_samples(group_by_chain=True))

    mcmc, z = run_with("always")
    _, alone = run_with("never")
    moved, moved_alone = (np.mean(np.any(np.diff(chains, axis=1) != 0, axis=2)) for chains in (z, alone))
    assert moved > 0.9
    assert moved_alone < 0.85
    np.testing.assert_allclose(z.reshape(-1, 4)[:, :2].std(0), 1, rtol=0.15)
    # the weight of a local move's end is that of its point
    state = mcmc.last_state
    flow = flows_of(state, mcmc.sampler.setup.target((), {}))[0]
    blocks = steps.blocks_of(flow.network, 1)
    for x, z, log_weight in zip(
        *map(jnp.atleast_2d, (state.x, state.z)), jnp.atleast_1d(state.log_weight), strict=True
    ):
        y, log_det = steps.forward_and_log_det(blocks, x)
        np.testing.assert_allclose(base_.unwhiten(flow.problem.base, y), z, atol=1e-4)
        expected = flow.problem.target.value(y) + log_det - base_.log_prob(flow.problem.base, x)
        assert float(log_weight) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("num_replicates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_more_evaluations_in_stock_mcmc(num_replicates):
    options = {"num_steps": 8, "correction": "none", "num_replicates": num_replicates}
    kernel = OneStep(potential_fn=lambda z: -bananas(z), **TINY, **options)
    mcmc = run(kernel, None, ("log_weight",), jnp.zeros(4), num_warmup=1, num_samples=400)
    eight = np.asarray(mcmc.get_extra_fields()["log_weight"], np.float64)
    flow = flows_of(mcmc.last_state, kernel.setup.target((), {}))[0]
    one = np.asarray(propose(flow, random.key(1), 1000, 1).log_weights, np.float64)
    angle = mcmc.last_state.ladder_angle
    assert np.all(angle > 0)
    assert np.shape(angle) == (() if num_replicates == 1 else (2,))
    assert abs(np.log(np.mean(np.exp(eight)))) < 0.1
    assert np.mean(eight) > 0.6 * np.mean(one)  # both negative


def test_the_choice_of_a_bridge_is_checked():
    with pytest.raises(ValueError, match="`bridge` must be one of"):
        OneStep(skewed, bridge="sometimes")
