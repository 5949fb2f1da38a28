"""Many dimensions: no Hessians above `LARGE_DIM`, no matrices above `DENSE_DIM`, fewer fits, narrower blocks."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.scipy.special import logsumexp

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.audit import coverage
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.base.search import search
from numpyro_onestep.flow import steps as flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.model.target import DENSE_DIM, LARGE_DIM, Target, safe_log_density
from numpyro_onestep.training.fit import start

DIM = LARGE_DIM + 4
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch):
    """A default run of one of the large targets of the examples, by name: the target and the sampler."""
    for folder in ("gallery", "benchmarks"):
        monkeypatch.syspath_prepend(EXAMPLES / folder)
    monkeypatch.delitem(sys.modules, "models", raising=False)  # that of the tests
    from large_targets import LARGE_TARGETS

    def with_defaults(name, **arguments):
        target = LARGE_TARGETS[name](**arguments)
        kernel = OneStep(target.model, potential_fn=target.potential_fn, **target.options)
        sampler = OneStepSampler(kernel, num_samples=1000, num_chains=4, progress_bar=False)
        sampler.run(random.key(0), *target.args, init_params=None if target.model else jnp.zeros(50))
        return target, sampler

    return with_defaults


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "counts, 1000",  # no matrix of D×D numbers
        "Lorenz",  # a path that no start at random finds: NUTS ends 1300 nats below in every chain
        "wells",  # 2^25 modes, the highest of which is the one that the centre leads to
        "group means",
        "Student-t mixture",  # with p0's tails too light, or alike in all directions, a third of the mass is missed
    ],
)
def test_log_z_of_large_targets(run, name):
    target, sampler = run(name)
    found = sampler.evidence
    assert found.reliable
    assert abs(found.log_z - target.log_z) < max(0.05, 3 * found.std_error)


@pytest.mark.slow
def test_tails_too_long_for_the_flow_are_told(run):
    _, sampler = run("Student-t mixture", df=1.0)  # longer than the longest of p0, in 50 coordinates
    assert not sampler.evidence.reliable
    assert any("lies in tails of single coordinates" in warning for warning in sampler.evidence.warnings)


@pytest.mark.slow
def test_search_and_audit_take_no_hessians(getkey, monkeypatch):
    def refuse(self, x):
        raise AssertionError("a Hessian was asked for")

    monkeypatch.setattr(Target, "derivatives", refuse)
    log_z, shift = 7.0, 3.0
    scales = jnp.logspace(-1.5, 0.5, DIM)
    loadings = jnp.asarray(np.random.default_rng(0).normal(size=(DIM, 2)), jnp.float32) / DIM**0.5
    tril = jnp.linalg.cholesky(jnp.eye(DIM) + 9 * loadings @ loadings.T) * scales[:, None]
    whiten = jnp.linalg.inv(tril)
    constant = log_z - 0.5 * DIM * jnp.log(2 * jnp.pi) - jnp.sum(jnp.log(jnp.diagonal(tril)))
    target = safe_log_density(lambda z: constant - 0.5 * jnp.sum((whiten @ (z - shift)) ** 2))
    base = search(target, 3.0, getkey(), jnp.zeros(DIM))
    assert base.mixture.means.shape == (1, DIM)
    white = np.asarray(whiten @ base.whitening.factor)
    np.testing.assert_allclose(white @ white.T, np.eye(DIM), atol=0.02)
    np.testing.assert_allclose(whiten @ (base.whitening.shift - shift), 0.0, atol=0.02)

    identity = StepNetwork(DIM, num_blocks=1, width=8, rng_key=getkey(), identity=True)
    blocks = flow.blocks_of(identity, 1)
    found = coverage.audit(target, 3.0, getkey(), base, blocks, log_z)
    assert float(found.share) == 0.0
    np.testing.assert_allclose(np.mean(found.log_ratios), log_z, atol=0.05)
    # the same flow moved away by five of its own standard deviations along a hundred axes no longer covers it
    away = base._replace(whitening=base.whitening._replace(shift=base.whitening.shift + 5 * tril[:, :100].sum(1)))
    missed = coverage.audit(target, 3.0, getkey(), away, blocks, log_z)
    assert float(missed.share) > 0.1
    assert len(missed.missing)


@pytest.mark.slow
def test_two_modes_are_found_or_the_evidence_says_so():
    def potential_fn(z):
        log_modes = jnp.stack([-0.5 * jnp.sum((z[:2] - m) ** 2) for m in (-6.0, 6.0)])
        return 0.5 * jnp.sum(z[2:] ** 2) - logsumexp(log_modes) + jnp.log(2)

    sampler = OneStepSampler(OneStep(potential_fn=potential_fn), num_warmup=50, num_samples=100, progress_bar=False)
    sampler.run(random.key(0), init_params=jnp.zeros((4, DIM)))
    found = abs(sampler.evidence.log_z - 0.5 * DIM * jnp.log(2 * jnp.pi)) < 0.1
    assert found or not sampler.evidence.reliable


@pytest.mark.slow
def test_files_hold_flows_without_matrices(tmp_path):
    def model():
        numpyro.sample("x", dist.Normal(jnp.arange(DENSE_DIM + 8.0), 2.0).to_event(1))

    def sampler():
        return OneStepSampler(OneStep(model), num_warmup=3, num_samples=100, progress_bar=False)

    whole = sampler()
    whole.run(random.key(0), checkpoint=tmp_path / "training")
    base = whole.last_state.base
    assert sum(leaf.size for leaf in jax.tree.leaves(base)) < 100 * base.dim
    again = sampler()
    again.run(random.key(0), checkpoint=tmp_path / "training")  # nothing is left to train
    whole.save(tmp_path / "run")
    loaded = OneStepSampler.load(tmp_path / "run", OneStep(model))
    for other in (again, loaded):
        np.testing.assert_array_equal(other.draw(random.key(1), 64)[0]["x"], whole.draw(random.key(1), 64)[0]["x"])
        assert other.evidence.log_z == whole.evidence.log_z
    assert abs(whole.evidence.log_z) < max(0.05, 3 * whole.evidence.std_error)


def test_blocks_are_wide_in_few_dimensions_and_narrow_in_many():
    for dim, width in ((64, 128), (65, 32), (DIM, 32)):
        kernel = OneStep(potential_fn=lambda z: 0.5 * jnp.sum(z**2))
        zero = jnp.zeros(dim)
        target = kernel.look(random.key(0), zero, (), {}).target((), {})
        base = base_.whiten(base_.Mixture(jnp.zeros(1), zero[None], jnp.eye(dim)[None]))
        trained = start(random.key(0), Problem(base, target), kernel.plan(dim), 1)
        assert trained.network.arrays()["directions"].shape == (3, width, dim)
