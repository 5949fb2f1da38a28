from itertools import pairwise
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import FEATURES, TARGETS, regression, regression_log_z

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.training import fit

COUNTS = {"num_warmup": 200, "num_samples": 1000, "num_chains": 1, "progress_bar": False}


def gamma_counts(y):
    """Conjugate, and skewed on the unconstrained scale."""
    with numpyro.plate("rates", len(y)):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def log_z(y):
    """The log evidence in closed form."""
    marginal = dist.GammaPoisson(0.5, 1.0)
    return float(jnp.sum(marginal.log_prob(jnp.asarray(y))))


@pytest.fixture
def trained():
    sampler = OneStepSampler(
        OneStep(gamma_counts, width=32, num_blocks=2, coverage_audit=False, target_ess=1.0), **COUNTS
    )
    sampler.run(random.key(0), np.array([0, 1]))
    return sampler


def iterations(sampler):
    return int(sampler.last_state.train.iteration)


def test_a_warm_start_goes_on_from_the_network_and_is_as_right(trained, monkeypatch):
    assert iterations(trained) == 200
    seen = trained.history.evaluations  # the base's own, and one at the end of each of twenty blocks
    assert [one.iteration for one in seen] == [*range(0, 201, 10)]
    assert seen[-1].elbo == np.asarray(trained.last_state.train.elbo)
    assert all(a.seconds < b.seconds for a, b in pairwise(seen))
    before, resume, networks, starts = trained.last_state.train.best, fit.resume, [], []

    def recorded(state, network, *rest):
        resumed = resume(state, network, *rest)
        networks.append(network)
        starts.append(int(resumed.iteration))
        return resumed

    monkeypatch.setattr(fit, "resume", recorded)
    new = np.array([2, 0])
    trained.run(random.key(1), new, warm_start=True)
    assert len(networks) == 1
    assert networks[0] is before
    assert starts[0] > 0  # the earlier network is used
    assert iterations(trained) == 200
    e = trained.evidence
    assert e.ess > 0.95 * e.num_proposals
    assert abs(e.log_z - log_z(new)) < 0.01 + 3 * e.std_error
    draws = trained.get_samples()["rate"]
    assert np.allclose(np.mean(draws, axis=0), (0.5 + new) / 2, atol=0.15)


def test_the_host_looks_where_blocks_and_rounds_end():
    looks = [0]
    while looks[-1] < 300:
        state = SimpleNamespace(iteration=np.array([looks[-1], 0]))  # of two flows, the second done long ago
        looks.append(looks[-1] + fit._until_next_look(state, fit._block(1000)))
    assert looks == [0, 16, 48, 50, 100, 112, 150, 200, 240, 250, 300]


def test_a_warm_start_where_the_flow_fits_already_trains_no_more():
    sampler = OneStepSampler(OneStep(regression, width=32, num_blocks=2, coverage_audit=False), **COUNTS)
    sampler.run(random.key(2), FEATURES, TARGETS)
    sampler.run(random.key(3), FEATURES, TARGETS + 1, warm_start=True)
    assert bool(sampler.last_state.train.done)
    assert iterations(sampler) == 0  # the base alone fits
    assert abs(sampler.evidence.log_z - regression_log_z(FEATURES, TARGETS + 1)) < 1e-3


def test_a_warm_start_needs_a_flow_of_the_same_dimension(trained):
    fresh = OneStepSampler(OneStep(gamma_counts), **COUNTS)
    with pytest.raises(ValueError, match="No trained OneStep flow"):
        fresh.run(random.key(0), np.array([0, 1]), warm_start=True)

    with pytest.raises(ValueError, match="has 2 dimensions, but the model has 3"):
        trained.run(random.key(0), np.array([0, 1, 2]), warm_start=True)
