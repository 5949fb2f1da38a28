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
from numpyro_onestep.trust.estimate import estimate, put_right
from numpyro_onestep.trust.precision import Lost, lost_digits

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


def drawn(setup, points, *args, log_w=None):
    """Proposals of equal weight at these points."""
    energy = -np.array([setup.log_density(args, {})(x) for x in points])
    num = len(points)
    return Proposals(points, np.zeros(num) if log_w is None else log_w, energy, np.zeros(num, bool), points)


def near(center, num=40):
    return np.float32(center) + 0.005 * np.random.default_rng(1).normal(size=(num, 1)).astype(np.float32)


def test_equal_errors_of_all_terms_are_measured():
    setup = look(counts, COUNTS)
    assert setup.long_sums
    found = lost_digits(setup, (COUNTS,), {}, drawn(setup, near(np.log(3.0)), COUNTS))
    assert found is not None
    with jax.enable_x64(True):
        exact = float(dist.Poisson(3.0).log_prob(COUNTS).sum())
    with_float32 = np.sum(np.asarray(dist.Poisson(3.0).log_prob(COUNTS), np.float64))
    assert abs(found.log_z - (exact - with_float32)) < 0.005
    assert abs(found.log_z) > 5 * found.std_error


def by_hand(y):
    rate = jnp.exp(numpyro.sample("log_rate", dist.Normal(1, 1)))
    numpyro.factor("y", jnp.sum(y * jnp.log(rate) - rate - gammaln(y + 1)))


def successes(total, y):
    logit = numpyro.sample("logit", dist.Normal(0, 1))
    numpyro.sample("y", dist.Binomial(total, logits=logit).to_event(1), obs=y)


Y = COUNTS.astype(np.float32)


@pytest.mark.parametrize(("model", "args", "center"), [(by_hand, (Y,), 1.1), (successes, (0 * Y + 20, Y), -1.7)])
def test_data_of_single_precision_are_taken_to_double(model, args, center):
    setup, points = look(model, *args), near(center)
    proposals = drawn(setup, points, *args)
    found = lost_digits(setup, args, {}, proposals)
    with jax.enable_x64(True):
        wide = tuple(arg.astype(np.float64) for arg in args)
        density = look(model, *wide).log_density(wide, {})
        exact = np.array([float(density(x)) for x in points.astype(np.float64)])
    assert found is not None
    assert abs(found.log_z - np.mean(exact + proposals.potential_energy)) < 4 * found.std_error


def test_one_heavy_draw_is_not_all_that_is_compared():
    setup = look(counts, COUNTS)
    log_w = np.where(np.arange(40) == 7, 50.0, 0.0)
    found = lost_digits(setup, (COUNTS,), {}, drawn(setup, near(np.log(3.0)), COUNTS, log_w=log_w))
    assert 0 < found.std_error < 0.01


def test_nothing_is_measured_with_few_rows_in_double_precision_or_where_no_weight_is_finite():
    few, points = COUNTS[:100], near(1.0)
    setup = look(counts, few)
    assert lost_digits(setup, (few,), {}, drawn(setup, points, few)) is None
    setup = look(counts, COUNTS)
    lost = drawn(setup, points, COUNTS, log_w=np.full(len(points), -np.inf))
    assert lost_digits(setup, (COUNTS,), {}, lost) is None
    with jax.enable_x64(True):
        setup = look(counts, COUNTS)
        assert lost_digits(setup, (COUNTS,), {}, drawn(setup, points, COUNTS)) is None


def single_only(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    if jnp.result_type(float) != jnp.float32:
        raise TypeError("single precision only")
    numpyro.factor("rows", jnp.sum(-((y - x) ** 2)))


def random_within(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("rows", jnp.sum(-((y + random.normal(random.key(3), y.shape) - x) ** 2)))


def narrow_within(y):
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("rows", jnp.sum(-(((y - x).astype(jnp.float32)) ** 2)))


@pytest.mark.parametrize("model", [single_only, random_within, narrow_within])
def test_nothing_is_measured_in_a_model_that_is_another_one_in_double_precision(model):
    y = np.ones(5000, np.float32)
    setup = look(model, y)
    assert lost_digits(setup, (y,), {}, drawn(setup, near(0.9), y)) is None


def test_log_z_and_its_bounds_are_put_right():
    log_w = np.random.default_rng(0).normal(0, 0.1, 4096) - 2e5
    none = np.zeros((4096, 1))
    proposals = Proposals(none, log_w, none[:, 0], none[:, 0] > 0, none)
    bound = np.full(400, -2e5)
    alone, lost = estimate([proposals], log_ratios=bound), Lost(0.25, 0.002)
    assert not alone.reliable
    known = estimate([proposals], log_ratios=bound, lost=lost)
    assert known.reliable
    assert known.std_error < 0.005
    right = put_right(known, lost)
    assert right.log_z == known.log_z + 0.25
    assert (right.elbo, right.eubo) == (known.elbo + 0.25, known.eubo + 0.25)
    assert "single precision" in right.warnings[-1]
    assert put_right(known, None) == known
    assert put_right(known, Lost(0.001, 0.001)).warnings == known.warnings


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_reliable_in_single_precision():
    sampler = OneStepSampler(OneStep(counts), progress_bar=False)
    sampler.run(random.key(0), COUNTS)
    evidence = sampler.evidence
    assert evidence.reliable, evidence.warnings
    assert evidence.std_error < 0.01
    assert abs(evidence.log_z - log_z_of_counts(COUNTS)) < 0.01
