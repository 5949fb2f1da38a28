import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.scipy.special import logsumexp
from models import TINY
from numpyro.infer import MCMC

from numpyro_onestep import OneStep, OneStepSampler, compilation, evidence
from numpyro_onestep.audit import coverage, regions
from numpyro_onestep.audit.report import describe
from numpyro_onestep.base import conditional_scale, modes
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base import search as base_search
from numpyro_onestep.flow import density, steps
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

AUDITED = {**TINY, "coverage_audit": True}
DIM = 2
FAR = 30.0
WEIGHTS = jnp.array([0.7, 0.3])
LOG_FIRST = float(np.log(0.7))
MEANS = jnp.array([[0.0, 0.0], [FAR, 0.0]])


def log_density(z):
    """Two unit Gaussians so far apart that the usual starts see one; normalised."""
    return logsumexp(jnp.log(WEIGHTS) - 0.5 * jnp.sum((z - MEANS) ** 2, axis=1)) - jnp.log(2 * jnp.pi)


def potential_fn(z):
    return -log_density(z)


@pytest.fixture
def identity(getkey):
    """Blocks that leave every point where it is."""
    network = StepNetwork(DIM, num_blocks=1, width=8, rng_key=getkey(), identity=True)
    return steps.blocks_of(network, 1)


def base_on(which):
    weights = jnp.log(WEIGHTS[which] / jnp.sum(WEIGHTS[which]))
    return base_.whiten(Mixture(weights, MEANS[which], jnp.broadcast_to(jnp.eye(DIM), (len(which), DIM, DIM))))


def test_log_prob_is_the_density_of_the_draws(getkey):
    base = base_on(jnp.array([0, 1]))
    network = StepNetwork(DIM, num_blocks=2, width=8, rng_key=getkey())
    blocks = steps.blocks_of(network, 1)

    def both(x):
        u, log_det = steps.forward_and_log_det(blocks, x)
        pushed = base_.log_prob(base, x) - log_det - base_.whitening_log_det(base, u)
        return pushed, density.log_prob(base, blocks, base_.unwhiten(base, u))

    pushed, by_inverse = jax.jit(jax.vmap(both))(base_.sample(base, getkey(), 200))
    np.testing.assert_allclose(by_inverse, pushed, atol=2e-3)


def test_a_lost_mode_is_found_and_weighed(getkey, identity):
    base = base_on(jnp.array([0]))
    audit = coverage.audit(safe_log_density(log_density), 3.0, getkey(), base, identity, LOG_FIRST)
    assert len(audit.missing) >= 1
    np.testing.assert_allclose(audit.regions.means[audit.missing[0]], MEANS[1], atol=0.5)
    assert 0.2 < float(audit.share) < 0.3
    assert 0.25 < float(jnp.sum(audit.shares)) < 0.35


def test_mass_that_cannot_be_measured_is_not_passed_over():
    kernel = OneStep(potential_fn=lambda z: 0.5 * jnp.sum(z**2))
    constrain = kernel.look(random.key(0), jnp.zeros(DIM), (), {}).constrain((), {})
    places = Mixture(jnp.zeros(2), jnp.array([jnp.full(DIM, 7.0), jnp.zeros(DIM)]), jnp.ones((2, DIM, DIM)))
    found = coverage.Audit(0.0, np.array([0.4, 0.01]), places, np.zeros(0), np.zeros(0))
    (warning,) = describe(found, constrain)
    assert "around parameters = (7, 7" in warning
    assert "Perhaps 41 % " in warning
    assert describe(found._replace(shares=np.array([0.01, 0.0])), constrain) == []
    (warning,) = describe(found._replace(share=0.3), constrain)
    assert "At least 30 % " in warning
    assert "larger `init_scale`" in warning
    (warning,) = describe(found._replace(share=0.3), constrain, improper=True)
    assert "nothing mends it but proper priors" in warning


def test_regions_without_a_width_are_left_out(monkeypatch):
    means = jnp.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
    trils = jnp.eye(DIM) * jnp.array([0.0, jnp.inf, 1.0])[:, None, None]
    fitted = Mixture(jnp.zeros((3, 1)), means[:, None], trils[:, None])
    monkeypatch.setattr(regions.fits, "fit_each", lambda *_: (fitted, None))
    flat = safe_log_density(lambda z: -0.5 * (z[0] + z[1]) ** 2)  # along one direction it does not fall off
    found, *_ = regions.fit(flat, np.ones(DIM), random.key(0), means, 3, np.asarray(means))
    np.testing.assert_array_equal(found.log_weights, [-np.inf, -np.inf, 0])


def test_modes_out_of_reach_are_counted_where_one_ascent_alone_has_led_to_them(getkey):
    centers = jnp.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    three = safe_log_density(lambda z: logsumexp(-0.5 * jnp.sum((z - centers) ** 2, axis=1)))
    for times, expected in ((1, 3), (2, 0)):
        _, num_once, _ = regions.fit(three, np.ones(DIM), getkey(), centers, 3, np.repeat(centers, times, axis=0))
        assert num_once == expected


def test_an_audit_compiles_nothing_that_the_search_has_compiled(getkey):
    dim = 4  # that of no other test here
    target = safe_log_density(lambda z: -0.5 * jnp.sum((z - 10.0) ** 2))
    base_search.search(target, 3.0, getkey(), jnp.zeros(dim))
    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, dim)), jnp.eye(dim)[None]))
    blocks = steps.blocks_of(StepNetwork(dim, num_blocks=1, width=8, rng_key=getkey(), identity=True), 1)
    before = len(compilation._traces)
    audit = coverage.audit(target, 3.0, getkey(), base, blocks, -np.inf)
    assert len(audit.missing) >= 1
    # tempering, densities along lines, densities by the inverse, draws of the regions
    assert len(compilation._traces) - before == 4


def test_a_mode_whose_scale_got_lost_is_weighed_all_the_same(getkey, identity, monkeypatch):
    polish = modes.polish

    def without_scales(target, starts):
        found = polish(target, starts)
        return found._replace(scale_trils=jnp.full_like(found.scale_trils, jnp.nan))

    monkeypatch.setattr(modes, "polish", without_scales)
    target = safe_log_density(log_density)
    audit = coverage.audit(target, 3.0, getkey(), base_on(jnp.array([0])), identity, LOG_FIRST)
    assert 0.2 < float(audit.share) < 0.3


def test_a_flow_that_covers_everything_passes(getkey, identity):
    base = base_on(jnp.array([0, 1]))
    audit = coverage.audit(safe_log_density(log_density), 3.0, getkey(), base, identity, 0.0)
    assert len(audit.missing) == 0


def test_a_lost_mode_in_many_dimensions(getkey):
    dim = 100
    far = jnp.zeros(dim).at[0].set(FAR)
    unit = -0.5 * dim * jnp.log(2 * jnp.pi)

    def many(z):
        squares = jnp.array([jnp.sum(z**2), jnp.sum((z - far) ** 2)])
        return logsumexp(jnp.log(WEIGHTS) - 0.5 * squares) + unit

    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, dim)), jnp.eye(dim)[None]))
    blocks = steps.blocks_of(StepNetwork(dim, num_blocks=1, width=8, rng_key=getkey(), identity=True), 1)
    audit = coverage.audit(safe_log_density(many), 3.0, getkey(), base, blocks, LOG_FIRST)
    assert 0.15 < float(audit.share) < 0.32


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_a_pole_neither_alarms_nor_hides_a_lost_mode(getkey, lost):
    # a funnel, denser than anything in its neck, which its base fits exactly; and a Gaussian elsewhere
    def density(z):
        v, x = z[0], z[1:]
        neck = -0.5 * (v / 3) ** 2 - jnp.log(3.0) - 0.5 * jnp.sum(x**2) * jnp.exp(-v) - v
        other = -0.5 * jnp.sum((z - jnp.array([0.0, 60.0, 60.0])) ** 2)
        return jnp.logaddexp(jnp.log1p(-lost) + neck, jnp.log(lost) + other) - 1.5 * jnp.log(2 * jnp.pi)

    whitening = conditional_scale.affine(jnp.zeros(3), jnp.diag(jnp.array([3.0, 1.0, 1.0])))
    whitening = whitening._replace(scale_slopes=jnp.zeros((3, 3)).at[1:, 0].set(1.5))
    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 3)), jnp.eye(3)[None]))._replace(whitening=whitening)
    blocks = steps.blocks_of(StepNetwork(3, num_blocks=1, width=8, rng_key=getkey(), identity=True), 1)
    audit = coverage.audit(safe_log_density(density), 3.0, getkey(), base, blocks, np.log1p(-lost))
    if lost:
        assert 0.1 < float(audit.share) < 0.22
        assert np.all(np.abs(audit.regions.means[audit.missing[0]] - jnp.array([0.0, 60.0, 60.0])) < 1)
    else:
        assert len(audit.missing) == 0


def test_a_flow_that_hits_nothing_misses_all(getkey, identity):
    base = base_on(jnp.array([0]))
    moved = safe_log_density(lambda z: log_density(z + FAR))
    audit = coverage.audit(moved, 3.0, getkey(), base, identity, -np.inf)
    assert float(audit.share) > 0.8


@pytest.mark.slow
def test_the_sampler_trains_again_with_what_was_lost(getkey):
    sampler = OneStepSampler(
        OneStep(potential_fn=potential_fn, **AUDITED), num_warmup=100, num_samples=500, progress_bar=False
    )
    sampler.run(getkey(), init_params=jnp.zeros((4, DIM)))
    result = sampler.evidence
    assert result.reliable, result.warnings
    assert abs(result.log_z) < 0.02
    assert float(jnp.mean(sampler.get_samples()[:, 0] > FAR / 2)) == pytest.approx(0.3, abs=0.05)


@pytest.mark.slow
def test_evidence_of_a_stock_run_names_what_was_lost(getkey):
    mcmc = MCMC(OneStep(potential_fn=potential_fn, **AUDITED), num_warmup=50, num_samples=10, progress_bar=False)
    mcmc.run(getkey(), init_params=jnp.zeros(DIM))
    result = evidence(mcmc, random.key(1))
    assert not result.reliable
    assert "out of the flow's reach, around parameters = (" in result.warnings[0]
    assert "(30, " in result.warnings[0] or "(29.9" in result.warnings[0]
    lower = float(result.warnings[0].split(" %")[0].removeprefix("At least "))
    assert 20 < lower < 31
