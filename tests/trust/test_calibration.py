"""Ranks of the truth among posterior draws, and coverage of the error bars of log Z, over many runs at once."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, Predictive
from scipy import stats

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.draws.proposal import Proposals, propose_once
from numpyro_onestep.state import flows_of
from numpyro_onestep.trust.estimate import estimate

NUM_DATASETS = 200
NUM_RANKS = 100  # 99 draws leave a rank from 0 to 99
NUM_BINS = 10
NUM_SEEDS = 100
SMALL = {"width": 32, "num_blocks": 2, "batch_size": 64}


def conjugate(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    log_sigma = numpyro.sample("log_sigma", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, jnp.exp(log_sigma)).expand([8]).to_event(1), obs=y)


def counts(y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Poisson(rate).expand([3, 2]).to_event(2), obs=y)


def groups(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([4]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, 0.7).to_event(1), obs=y)


def logistic(y=None):
    x = jnp.linspace(-1, 1, 20)
    weights = numpyro.sample("weights", dist.Normal(0, 2).expand([2]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=weights[0] + weights[1] * x).to_event(1), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("model", [conjugate, counts, groups, logistic])
def test_ranks_of_the_truth_are_uniform(model):
    # simulation-based calibration (Talts et al. 2018)
    truth = Predictive(model, num_samples=NUM_DATASETS)(random.key(1))

    def run(key, y):
        kernel = OneStep(model, coverage_audit=False, **SMALL)
        mcmc = MCMC(kernel, num_warmup=100, num_samples=NUM_RANKS - 1, progress_bar=False)
        mcmc.run(key, y)
        return mcmc.get_samples()

    draws = jax.jit(jax.vmap(run))(random.split(random.key(2), NUM_DATASETS), truth["y"])
    p_values = {}
    for name in (name for name in draws if name != "y"):
        below = np.sum(np.asarray(draws[name]) < np.asarray(truth[name])[:, None], axis=1)
        for i, ranks in enumerate(below.reshape(NUM_DATASETS, -1).T):
            histogram = np.bincount(ranks * NUM_BINS // NUM_RANKS, minlength=NUM_BINS)
            p_values[f"{name}[{i}]"] = float(stats.chisquare(histogram).pvalue)
    print(model.__name__, {name: round(p, 3) for name, p in p_values.items()})
    assert min(p_values.values()) > 0.01
    assert len(p_values) >= 2


def coins():
    # ∫ Binomial(k; n, p) dp = 1/(n + 1)
    p = numpyro.sample("p", dist.Uniform(0, 1).expand([3]).to_event(1))
    numpyro.sample("k", dist.Binomial(jnp.array([4, 9, 14]), p).to_event(1), obs=jnp.array([0, 3, 12]))


def rates():
    # ∫ Gamma(r; 2, 1) Poisson(k; r) dr = (k + 1) / 2^(k + 2)
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("k", dist.Poisson(rate).to_event(1), obs=jnp.array([0, 5]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "log_z"),
    [(coins, -np.log(5 * 10 * 15)), (rates, np.log(1 / 4) + np.log(6 / 128))],
)
def test_error_bars_of_log_z_cover_the_truth(model, log_z):
    kernel = OneStep(model, coverage_audit=False, **SMALL)

    def run(key):
        mcmc = MCMC(kernel, num_warmup=20, num_samples=1, progress_bar=False)
        mcmc.run(key)
        state = mcmc.last_state
        flow = flows_of(state, kernel.setup.target((), {}))[0]
        return propose_once(flow, random.fold_in(key, 1), 4096, 1, jnp.zeros(()))  # no Hamiltonian steps

    batch = jax.jit(jax.vmap(run))(random.split(random.key(0), NUM_SEEDS))
    results = [estimate([Proposals(*(np.asarray(leaf[i]) for leaf in batch))]) for i in range(NUM_SEEDS)]
    error = np.array([e.log_z - log_z for e in results])
    std_error = np.array([e.std_error for e in results])
    covered = np.mean(np.abs(error) <= 2 * std_error)
    ratio = np.median(std_error) / np.std(error)
    print(f"{model.__name__}: covered {covered:.2f}, median se {np.median(std_error):.5f}, {ratio:.2f} of the spread")
    assert np.mean([e.fold_fraction for e in results]) == 0
    assert np.median(std_error) > 1e-4  # well above rounding
    assert covered >= 0.88
    assert ratio <= 2


COUNTS = np.array([0, 1, 2, 3, 5, 8] * 5)


def many_rates():
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([30]).to_event(1))
    numpyro.sample("k", dist.Poisson(rate).to_event(1), obs=COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "log_z"),
    [
        (coins, -np.log(5 * 10 * 15)),
        (rates, np.log(1 / 4) + np.log(6 / 128)),
        (many_rates, np.sum(np.log(COUNTS + 1) - (COUNTS + 2) * np.log(2))),
    ],
)
def test_error_bars_of_bridges_cover_the_truth(model, log_z):
    # hardly trained, so that the bridge has something to do
    kernel = OneStep(model, bridge="always", **SMALL)
    sampler = OneStepSampler(kernel, num_warmup=1, num_samples=50, num_chains=2, progress_bar=False)
    results = []
    for seed in range(NUM_SEEDS):
        sampler.run(random.key(seed))
        results.append(sampler.evidence)
    error = np.array([e.log_z - log_z for e in results])
    std_error = np.array([e.std_error for e in results])
    covered = np.mean(np.abs(error) <= 2 * std_error)
    ratio = np.median(std_error) / np.std(error)
    sure = np.mean([e.reliable for e in results])
    print(f"{model.__name__}: covered {covered:.2f}, median se {np.median(std_error):.5f}, {ratio:.2f} of the spread")
    print(f"{100 * sure:.0f} % reliable")
    assert min(e.num_evaluations for e in results) > 10  # all are bridged
    assert covered >= 0.88
    assert ratio <= 2
    assert sure >= 0.8  # hardly trained flows may be refused
