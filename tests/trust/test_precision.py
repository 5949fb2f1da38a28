"""What single precision takes from log Z."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.scipy.special import gammaln

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.trust.precision import lost_digits

NUM_ROWS = 100_000
COUNTS = np.random.default_rng(0).poisson(3.0, NUM_ROWS)


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate).expand([len(y)]), obs=y)


def log_z_of_counts(y):
    """Gamma–Poisson in closed form."""
    with jax.enable_x64(True):
        total, num = float(y.sum()), len(y)
        ends = gammaln(2.0 + total) - (2.0 + total) * np.log(1.0 + num)
        return float(ends - np.sum(gammaln(np.asarray(y, np.float64) + 1.0)))


def look(model, *args):
    kernel = OneStep(model)
    return kernel.look(random.key(0), None, args, {})


def drawn(points):
    num = len(points)
    return Proposals(points, np.zeros(num), np.zeros(num), np.zeros(num, bool), points)


def test_equal_errors_of_all_terms_are_measured():
    setup = look(counts, COUNTS)
    assert setup.long_sums
    points = np.log(3.0) + 0.005 * np.random.default_rng(1).normal(size=(100, 1)).astype(np.float32)
    found = lost_digits(setup, (COUNTS,), {}, drawn(points))
    assert found is not None
    with jax.enable_x64(True):
        exact = float(dist.Poisson(3.0).log_prob(COUNTS).sum())
    with_float32 = np.sum(np.asarray(dist.Poisson(3.0).log_prob(COUNTS), np.float64))
    assert abs(found.log_z - (exact - with_float32)) < 0.005
    assert abs(found.log_z) > 5 * found.std_error


def test_nothing_is_measured_with_few_rows_in_double_precision_or_where_no_weight_is_finite():
    few = COUNTS[:100]
    assert lost_digits(look(counts, few), (few,), {}, drawn(np.ones((9, 1)))) is None
    setup = look(counts, COUNTS)
    lost = drawn(np.ones((9, 1)))._replace(log_weights=np.full(9, -np.inf))
    assert lost_digits(setup, (COUNTS,), {}, lost) is None
    with jax.enable_x64(True):
        assert lost_digits(look(counts, COUNTS), (COUNTS,), {}, drawn(np.ones((9, 1)))) is None


def test_a_model_for_single_precision_alone_has_its_last_digit_as_error():
    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        if jnp.result_type(float) != jnp.float32:
            raise TypeError("single precision only")
        numpyro.factor("rows", jnp.sum(-((y - x) ** 2)))

    y = np.ones(5000, np.float32)
    assert lost_digits(look(model, y), (y,), {}, drawn(np.ones((9, 1), np.float32))) is None


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_reliable_in_single_precision():
    sampler = OneStepSampler(OneStep(counts), progress_bar=False)
    sampler.run(random.key(0), COUNTS)
    evidence = sampler.evidence
    assert evidence.reliable, evidence.warnings
    assert evidence.std_error < 0.01
    assert abs(evidence.log_z - log_z_of_counts(COUNTS)) < 0.01
