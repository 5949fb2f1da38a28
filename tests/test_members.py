"""Runs in coordinates in which members are whitened: all that leaves the sampler is on the model's own space."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC
from numpyro.infer.util import potential_energy, unconstrain_fn
from scipy.special import logsumexp
from scipy.stats import halfcauchy, multivariate_normal, norm, poisson

from numpyro_onestep import FlowDistribution, OneStep, OneStepSampler, compilation, evidence
from numpyro_onestep.model import setup

NUM = 20
ERRORS = np.random.default_rng(5).uniform(0.5, 1.5, NUM)
SEEN = np.random.default_rng(6).normal(1, 0.3, NUM) + ERRORS * np.random.default_rng(7).normal(size=NUM)


def groups(errors, seen):
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.HalfCauchy(1))
    with numpyro.plate("group", len(seen)):
        effect = numpyro.sample("effect", dist.Normal(mean, scale))
        numpyro.sample("seen", dist.Normal(effect, errors), obs=seen)


def exact(errors, seen):
    """Log Z, and the mean and sd of the scale, on a grid, the effects and the mean integrated out."""
    scale = np.exp(np.linspace(-14, 4, 4001))
    var = scale[:, None] ** 2 + errors**2
    precision = 1 / 25 + np.sum(1 / var, axis=1)
    mean = np.sum(seen / var, axis=1) / precision
    log_p = (
        np.sum(norm.logpdf(seen, 0, np.sqrt(var)), axis=1) + 0.5 * precision * mean**2 - 0.5 * np.log(25 * precision)
    )
    log_w = log_p + halfcauchy.logpdf(scale) + np.log(scale) + np.log(np.log(scale[1] / scale[0]))
    weights = np.exp(log_w - logsumexp(log_w))
    center = np.sum(weights * scale)
    return logsumexp(log_w), center, np.sqrt(np.sum(weights * (scale - center) ** 2))


@pytest.fixture(scope="module", autouse=True)
def few_are_enough():
    """Members looked for in few dimensions, so that the runs are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "COSTLY_DIM", 10)
        patch.setattr(setup, "_MEDIUM_DIM", 10)
        yield


@pytest.fixture(scope="module")
def sampler():
    sampler = OneStepSampler(OneStep(groups, coverage_audit=False), num_samples=2000, progress_bar=False)
    sampler.run(random.key(0), ERRORS, SEEN, extra_fields=("potential_energy", "z.scale"))
    return sampler


def test_evidence_and_draws(sampler):
    log_z, mean, sd = exact(ERRORS, SEEN)
    found, draws = sampler.evidence, sampler.get_samples()
    assert sampler.setup.members is not None
    assert len(sampler.setup.members.members) == NUM
    assert found.reliable
    assert found.num_evaluations == 1
    assert found.ess > 0.9 * found.num_proposals
    assert abs(found.log_z - log_z) < max(0.01, 4 * found.std_error)
    scale = np.asarray(draws["scale"])
    assert abs(scale.mean() - mean) < 0.1 * sd
    assert abs(scale.std() / sd - 1) < 0.1
    # the neck: effects as near to their mean as the scale is small
    for near in (scale < 0.05, scale > 0.3):
        ratio = (np.asarray(draws["effect"]) - np.asarray(draws["mean"])[:, None])[near] / scale[near, None]
        assert near.sum() > 50
        assert 0.5 < np.std(ratio) < 1.5


def test_fields_are_those_of_the_model(sampler):
    draws, fields = sampler.get_samples(), sampler.get_extra_fields()
    np.testing.assert_allclose(fields["z.scale"], np.log(draws["scale"]), atol=1e-5)
    for i in range(5):
        z = unconstrain_fn(groups, (ERRORS, SEEN), {}, {name: value[i] for name, value in draws.items()})
        np.testing.assert_allclose(
            fields["potential_energy"][i], potential_energy(groups, (ERRORS, SEEN), {}, z), rtol=1e-4, atol=2e-3
        )
    last = sampler.last_state
    assert set(last.z) == set(draws)
    np.testing.assert_allclose(last.potential_energy[-1], fields["potential_energy"][-1])


def test_saved_resumed_and_drawn_again(sampler, tmp_path):
    sampler.save(tmp_path / "flow")
    again = OneStepSampler.load(tmp_path / "flow", OneStep(groups, coverage_audit=False))
    one, other = (s.draw(random.key(3), 500) for s in (sampler, again))
    np.testing.assert_array_equal(one.samples["effect"], other.samples["effect"])
    np.testing.assert_array_equal(one.log_weights, other.log_weights)
    resumed = OneStepSampler(OneStep(groups, coverage_audit=False), num_samples=500, progress_bar=False)
    resumed.post_warmup_state = sampler.last_state
    resumed.run(random.key(4), ERRORS, SEEN)
    assert resumed.setup.members is not None
    found = resumed.evidence
    assert abs(found.log_z - sampler.evidence.log_z) < 3 * (found.std_error + sampler.evidence.std_error)


def test_the_flow_is_a_density_on_the_models_space(sampler):
    flow = FlowDistribution(sampler)
    z = flow.sample(random.key(5), (200,))
    sites = flow.constrain(z)
    gaps = [
        -potential_energy(groups, (ERRORS, SEEN), {}, unconstrain_fn(groups, (ERRORS, SEEN), {}, point)) - log_q
        for point, log_q in zip(
            ({name: value[i] for name, value in sites.items()} for i in range(20)), flow.log_prob(z[:20]), strict=True
        )
    ]
    assert np.std(gaps) < 0.3
    assert abs(np.mean(gaps) - exact(ERRORS, SEEN)[0]) < 0.2


@pytest.mark.slow
def test_stock_mcmc_with_vectorized_chains():
    how = {"num_warmup": 100, "num_samples": 500, "num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(OneStep(groups, coverage_audit=False), **how)
    mcmc.run(random.key(1), ERRORS, SEEN, extra_fields=("potential_energy",))
    assert mcmc.last_state.members is not None
    draws = mcmc.get_samples()
    point = {name: value[-1] for name, value in draws.items()}
    z = unconstrain_fn(groups, (ERRORS, SEEN), {}, point)
    energy = mcmc.get_extra_fields()["potential_energy"][-1]
    np.testing.assert_allclose(energy, potential_energy(groups, (ERRORS, SEEN), {}, z), rtol=1e-4, atol=2e-3)
    _, mean, sd = exact(ERRORS, SEEN)
    assert abs(np.mean(draws["scale"]) - mean) < 0.2 * sd
    assert abs(evidence(mcmc, random.key(2)).log_z - exact(ERRORS, SEEN)[0]) < 0.05


def test_new_data_compile_nothing(sampler):
    """The members' start is an argument, as data are."""
    sampler.run(random.key(6), ERRORS, SEEN + 0.5)
    before = len(compilation._traces)
    sampler.run(random.key(7), ERRORS, SEEN + 0.7)
    assert len(compilation._traces) == before
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.all(jnp.isfinite(leaf))), sampler.get_samples()))


def test_postprocessing_follows_the_data():
    """The way out of the members' coordinates depends on the data, and so do programs that take it."""
    kernel = OneStep(groups, coverage_audit=False, bridge="never")
    sampler = OneStepSampler(
        kernel,
        num_warmup=20,
        num_samples=200,
        progress_bar=False,
        postprocess_fn=lambda sites: {"mean of effects": jnp.mean(sites["effect"])},
    )
    for seed, shift in enumerate((0.0, 10.0)):
        sampler.run(random.key(seed), ERRORS, SEEN + shift)
        found = np.mean(sampler.get_samples()["mean of effects"])
        assert abs(found - np.mean(SEEN) - shift) < 1


def counted(seen):
    """Groups of counts, in whose log rates the density is not quadratic."""
    mean = numpyro.sample("mean", dist.Normal(0, 2))
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("group", len(seen)):
        rate = numpyro.sample("rate", dist.Normal(mean, scale))
        numpyro.sample("seen", dist.Poisson(jnp.exp(rate)), obs=seen)


def counted_exactly(seen):
    """Its log Z: each log rate by Gauss–Hermite quadrature, mean and log scale on a grid."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    mean, log_scale = np.meshgrid(np.linspace(-2, 3, 201), np.linspace(-7, 2, 201), indexing="ij")
    scale = np.exp(log_scale)
    rate = mean[..., None] + scale[..., None] * nodes
    total = norm.logpdf(mean, 0, 2) + norm.logpdf(scale) + np.log(2) + log_scale
    for count, num in zip(*np.unique(seen, return_counts=True), strict=True):
        total += num * logsumexp(poisson.logpmf(count, np.exp(rate)) + np.log(weights / weights.sum()), axis=-1)
    return logsumexp(total) + np.log(5 / 200 * 9 / 200)


def walked(seen):
    """A random walk of unknown step, whose squares' logs are not normal."""
    step = numpyro.sample("step", dist.HalfNormal(1))
    path = numpyro.sample("path", dist.GaussianRandomWalk(step, len(seen)))
    numpyro.sample("seen", dist.Normal(path, 0.5), obs=seen)


def walked_exactly(seen):
    """Its log Z: the path integrated out, the step on a grid."""
    log_step = np.linspace(-10, 3, 1001)
    in_common = np.minimum.outer(np.arange(len(seen)), np.arange(len(seen))) + 1.0
    densities = [
        multivariate_normal.logpdf(seen, np.zeros(len(seen)), np.exp(2 * s) * in_common + 0.25 * np.eye(len(seen)))
        for s in log_step
    ]
    prior = norm.logpdf(np.exp(log_step)) + np.log(2) + log_step
    return logsumexp(np.array(densities) + prior) + np.log(13 / 1000)


def regressed(x, y):
    """Coefficients of which each depends on each, with unknown noise."""
    noise = numpyro.sample("noise", dist.LogNormal(0, 1))
    coefficients = numpyro.sample("coefficients", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ coefficients, noise), obs=y)


def regressed_exactly(x, y):
    """Its log Z: the coefficients integrated out, the noise on a grid."""
    log_noise = np.linspace(-4, 4, 1001)
    densities = [multivariate_normal.logpdf(y, cov=x @ x.T + np.exp(2 * s) * np.eye(len(y))) for s in log_noise]
    return logsumexp(np.array(densities) + norm.logpdf(log_noise)) + np.log(8 / 1000)


RNG = np.random.default_rng(11)
COUNTS = RNG.poisson(np.exp(0.5 + 0.4 * RNG.normal(size=NUM)))
WALK = np.cumsum(0.3 * RNG.normal(size=30)) + 0.5 * RNG.normal(size=30)
FEATURES = RNG.normal(size=(40, 15))
REGRESSION = FEATURES, FEATURES @ RNG.normal(size=15) + 0.7 * RNG.normal(size=40)
KINDS = {
    "not quadratic": (counted, (COUNTS,), counted_exactly),
    "in a row": (walked, (WALK,), walked_exactly),
    "in another basis": (regressed, REGRESSION, regressed_exactly),
}


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_member_from_the_search_to_the_way_back(kind, wide):
    model, args, exactly = KINDS[kind]
    with jax.enable_x64(wide):
        sampler = OneStepSampler(OneStep(model), num_samples=1000, progress_bar=False)
        sampler.run(random.key(0), *args)
        found, members = sampler.evidence, sampler.setup.members
        assert len(members.members) >= 15
        assert found.reliable, found.warnings
        assert found.ess > 0.8 * found.num_proposals
        assert abs(found.log_z - exactly(*args)) < max(0.01, 3 * found.std_error)
        flow = FlowDistribution(sampler)
        z = flow.sample(random.key(1), (5,))
        assert np.all(np.isfinite(flow.log_prob(z)))
        sampler.run(random.key(2), *(a + 0 for a in args), warm_start=True)  # new data of the same shape
        again = sampler.evidence
        assert abs(again.log_z - found.log_z) < 3 * np.hypot(again.std_error, found.std_error)
