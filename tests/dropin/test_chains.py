"""Several chains, by every method, and going on from where a run ended."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from kernels import KERNELS, all_equal, both, check_mean, check_moments, sampled
from models import FEATURES, TARGETS, regression, regression_posterior
from numpyro.infer import MCMC

DATA = (FEATURES, TARGETS)
MEAN, COV = regression_posterior()
methods = pytest.mark.parametrize(
    "chain_method",
    [
        "vectorized",
        "sequential",
        pytest.param("parallel", marks=pytest.mark.slow),  # on one device it is sequential
        pytest.param(jax.vmap, id="vmap", marks=pytest.mark.slow),
    ],
)


@methods
@both
def test_chains(kernel, chain_method):
    # "parallel" falls back to one chain after the other, with a warning, where there is one device
    init = {"beta": jnp.ones((2, 3))}
    mcmc = sampled(kernel(regression), *DATA, num_chains=2, chain_method=chain_method, init_params=init)
    draws = mcmc.get_samples(group_by_chain=True)["beta"]
    assert draws.shape == (2, 200, 3)
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(mcmc.get_samples()["beta"], np.reshape(draws, (400, 3)))
    assert mcmc.get_extra_fields(group_by_chain=True)["diverging"].shape == (2, 200)
    check_moments(draws, MEAN, np.diag(COV))
    assert np.allclose(mcmc.last_state.z["beta"], draws[:, -1])


@pytest.mark.parametrize("chain_method", [pytest.param("sequential", marks=pytest.mark.slow), "vectorized"])
@both
def test_the_first_chain_is_that_of_a_single_run(kernel, chain_method):
    keys = random.split(random.key(3), 2)
    # short, since batched arithmetic differs in the last digits, and NUTS is chaotic
    one = sampled(kernel(regression), *DATA, key=keys[0], num_warmup=5).get_samples()["beta"]
    options = {"num_chains": 2, "chain_method": chain_method, "num_warmup": 5}
    for key in (random.key(3), keys):  # a key is split into one for each chain; or they are given
        two = sampled(kernel(regression), *DATA, key=key, **options).get_samples(group_by_chain=True)["beta"]
        assert np.allclose(two[0, :3], one[:3], atol=0.02)
        assert not np.allclose(two[1, :3], one[:3], atol=0.02)


@pytest.mark.slow
@both
def test_legacy_keys(kernel):
    old, new = (sampled(kernel(regression), *DATA, key=key) for key in (random.PRNGKey(4), random.key(4)))
    assert np.array_equal(old.get_samples()["beta"], new.get_samples()["beta"])
    keys = random.split(random.PRNGKey(4), 2)
    many = sampled(kernel(regression), *DATA, key=keys, num_chains=2, chain_method="vectorized")
    assert many.get_samples()["beta"].shape == (400, 3)


@both
def test_wrong_leading_axis_of_init_params(kernel):
    with pytest.raises(ValueError, match="leading dimension"):
        sampled(kernel(regression), *DATA, num_chains=2, init_params={"beta": jnp.ones((3, 3))})


@pytest.fixture(scope="module", params=KERNELS.values(), ids=KERNELS)
def warmed(request):
    """An MCMC after `warmup(collect_warmup=True)`, its samples, and its state."""
    mcmc = MCMC(request.param(regression), num_warmup=40, num_samples=200, progress_bar=False)
    mcmc.warmup(random.key(0), *DATA, collect_warmup=True, extra_fields=("diverging", "potential_energy"))
    return mcmc, mcmc.get_samples(), mcmc.get_extra_fields(), mcmc.post_warmup_state


def adapted(state):
    """What warmup has learnt."""
    return state.adapt_state._replace(rng_key=None) if hasattr(state, "adapt_state") else (state.base, state.train.best)


def test_warmup_is_collected(warmed):
    mcmc, samples, fields, _ = warmed
    assert samples["beta"].shape == (40, 3)
    assert fields["potential_energy"].shape == fields["diverging"].shape == (40,)
    assert mcmc.post_warmup_state is mcmc.last_state


def test_runs_after_warmup_do_not_adapt_again(warmed):
    mcmc, _, _, state = warmed
    mcmc.post_warmup_state = state
    mcmc.run(random.key(1), *DATA)
    first = mcmc.get_samples(group_by_chain=True)["beta"]
    check_moments(first, MEAN, np.diag(COV))
    assert all_equal(adapted(mcmc.last_state), adapted(state))
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(mcmc.post_warmup_state.rng_key, *DATA)
    assert not np.array_equal(mcmc.get_samples()["beta"], first[0])
    assert all_equal(adapted(mcmc.last_state), adapted(state))
    assert int(mcmc.last_state.i) - int(state.i) == 400


def test_one_long_run_is_two_short_ones(warmed):
    mcmc, _, _, state = warmed
    mcmc.post_warmup_state = state
    mcmc.run(state.rng_key, *DATA)
    long = mcmc.get_samples()["beta"]
    short = MCMC(mcmc.sampler, num_warmup=40, num_samples=100, progress_bar=False)
    short.post_warmup_state = state
    parts = []
    for _ in range(2):
        short.run(short.post_warmup_state.rng_key, *DATA)
        parts.append(short.get_samples()["beta"])
        short.post_warmup_state = short.last_state
    assert np.allclose(np.concatenate(parts), long, atol=1e-4)


def test_a_state_goes_to_a_new_mcmc(warmed):
    mcmc, _, _, state = warmed
    other = MCMC(mcmc.sampler, num_warmup=0, num_samples=50, progress_bar=False)
    other.post_warmup_state = state
    other.run(random.key(2), *DATA)
    assert other.get_samples()["beta"].shape == (50, 3)


def neck(y):
    """Two sites, two modes: how many of them a chain's search finds depends on its key."""
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


@pytest.mark.slow
@both
def test_sequential_chains_whose_searches_differ(kernel):
    mcmc = sampled(kernel(neck), 1.0, num_warmup=100, num_chains=2, chain_method="sequential")
    assert mcmc.get_samples(group_by_chain=True)["loc"].shape == (2, 200)
    check_mean(mcmc.get_samples(group_by_chain=True)["loc"], 0.5, truth_error=0.2, min_ess=5)
