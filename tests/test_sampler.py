import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import (
    FEATURES,
    SKEWED_LOG_Z,
    TARGETS,
    TINY,
    banana_potential,
    regression,
    regression_log_z,
    regression_posterior,
    skewed,
)
from numpyro.infer import MCMC, NUTS

from numpyro_onestep import OneStep, OneStepSampler, evidence
from numpyro_onestep.draws.proposal import propose
from numpyro_onestep.draws.weights import log_mean_weight, pareto_k, unseen_error
from numpyro_onestep.run import run_of
from numpyro_onestep.trust.estimate import estimate

FAST = {"num_warmup": 30, "num_samples": 300, "progress_bar": False}


@pytest.fixture(scope="module")
def fitted():
    sampler = OneStepSampler(OneStep(regression), **FAST)
    sampler.run(random.key(0), FEATURES, y=TARGETS, extra_fields=("potential_energy", "accept_prob", "z.beta"))
    return sampler


def test_is_an_mcmc_with_its_accessors(fitted, capsys):
    assert isinstance(fitted, MCMC)
    assert fitted.get_samples()["beta"].shape == (1200, 3)
    assert fitted.get_samples(group_by_chain=True)["beta"].shape == (4, 300, 3)
    fields = fitted.get_extra_fields()
    assert set(fields) == {"diverging", "potential_energy", "accept_prob", "z.beta"}
    assert np.allclose(fields["z.beta"], fitted.get_samples()["beta"])
    fitted.print_summary()
    table, estimate, verdict, _ = capsys.readouterr().out.rsplit("\n", 3)
    assert "beta[2]" in table
    assert "Number of divergences: 0" in table
    assert f"{estimate}\n{verdict}" == fitted.evidence.summary()
    assert verdict == "reliable: yes"


def test_moments(fitted):
    mean, cov = regression_posterior()
    draws = fitted.get_samples()["beta"]
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / 600))


def test_evidence_against_closed_form(fitted):
    e = fitted.evidence
    error = abs(e.log_z - regression_log_z())
    assert error < 5 * e.std_error + 1e-4
    assert error < 0.05
    assert e.reliable
    assert e.warnings == ()
    assert e.fold_fraction == 0
    assert e.elbo <= regression_log_z() + 3 * e.std_error + 1e-4
    assert regression_log_z() - 3 * e.std_error - 1e-3 <= e.eubo < e.elbo + 0.05
    assert e is fitted.evidence
    assert abs(evidence(fitted, random.key(9)).log_z - e.log_z) < 0.05


def test_evidence_of_a_constrained_site():
    sampler = OneStepSampler(OneStep(skewed, **TINY), **FAST)
    sampler.run(random.key(0))
    e = sampler.evidence
    assert abs(e.log_z - SKEWED_LOG_Z) < min(5 * e.std_error + 1e-4, 0.05)
    assert np.all(sampler.get_samples()["rate"] > 0)
    # the weights are exact for budgets that were never trained, too
    one, four = (sampler.draw(random.key(1), 20000, num_steps=n) for n in (1, 4))
    assert not np.array_equal(one.samples["rate"], four.samples["rate"])
    log_w = np.asarray(four.log_weights, np.float64)
    w = np.exp(log_w - SKEWED_LOG_Z)
    assert abs(w.mean() - 1) < 5 * w.std() / np.sqrt(len(w))


def test_stock_mcmc_gives_the_same_answer(fitted):
    mcmc = MCMC(OneStep(regression, **TINY), num_chains=1, **FAST)
    mcmc.run(random.key(0), FEATURES, TARGETS)
    assert abs(evidence(mcmc, random.key(1)).log_z - fitted.evidence.log_z) < 0.01
    _, cov = regression_posterior()
    gap = mcmc.get_samples()["beta"].mean(0) - fitted.get_samples()["beta"].mean(0)
    assert np.all(np.abs(gap) < 5 * np.sqrt(np.diag(cov) / 100))


def test_draw(fitted):
    draws = fitted.draw(random.key(1), 2500)
    assert draws.samples["beta"].shape == (2500, 3)
    assert draws.samples["norm"].shape == (2500,)
    assert draws.log_weights.shape == (2500,)
    log_z = jax.scipy.special.logsumexp(draws.log_weights) - np.log(2500)
    assert abs(log_z - regression_log_z()) < 0.05
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(draws))
    with pytest.raises(ValueError, match="power of two"):
        fitted.draw(random.key(1), 10, num_steps=3)
    with pytest.raises(ValueError, match="num_draws"):
        fitted.draw(random.key(1), 0)


@pytest.mark.parametrize("chunk", [700, 2048, 9999])
def test_a_stream_is_what_is_drawn_at_once(fitted, chunk):
    whole = fitted.draw(random.key(1), 5000)
    parts = list(fitted.draws(random.key(1), 5000, chunk))
    assert [len(part.log_weights) for part in parts] == [*[chunk] * (5000 // chunk), 5000 % chunk]
    np.testing.assert_array_equal(np.concatenate([part.samples["beta"] for part in parts]), whole.samples["beta"])
    np.testing.assert_array_equal(np.concatenate([part.log_weights for part in parts]), whole.log_weights)
    with pytest.raises(ValueError, match="`chunk` must be at least 1, not 0"):
        fitted.draws(random.key(1), 10, 0)


def test_same_key_same_result_and_one_chain():
    runs = []
    for _ in range(2):
        sampler = OneStepSampler(OneStep(skewed, **TINY), **FAST, num_chains=1, thinning=3)
        sampler.run(random.key(3))
        runs.append(sampler)
    assert runs[0].get_samples()["rate"].shape == (100,)
    assert np.array_equal(runs[0].get_samples()["rate"], runs[1].get_samples()["rate"])
    assert repr(runs[0].evidence) == repr(runs[1].evidence)


def test_resume_and_warmup():
    sampler = OneStepSampler(OneStep(skewed, **TINY), **FAST)
    sampler.warmup(random.key(0))
    trained = sampler.last_state.train.best
    sampler.run(random.key(1))
    first = sampler.get_samples()["rate"]
    sampler.post_warmup_state = sampler.last_state
    sampler.run(random.key(2))
    assert sampler.last_state.train.best is trained
    assert not np.array_equal(first, sampler.get_samples()["rate"])
    with pytest.raises(ValueError, match="collect"):
        sampler.warmup(random.key(0), collect_warmup=True)


@pytest.mark.parametrize("correction", ["resample", "none"])
def test_other_corrections(correction):
    sampler = OneStepSampler(OneStep(skewed, **TINY, correction=correction), **FAST)
    sampler.run(random.key(0))
    assert abs(float(sampler.get_samples()["rate"].mean()) - 2.5) < 5 * 1.118 / np.sqrt(600) + 0.05


def test_a_doubtful_result_says_so():
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)

    def cauchy(z):  # in coordinates in which its tails are those of none
        return jnp.sum(jnp.log1p((rotation @ z / 10) ** 2))

    def evidence_of(bridge):
        kernel = OneStep(potential_fn=cauchy, **TINY, bridge=bridge)
        sampler = OneStepSampler(kernel, num_warmup=1, num_samples=50, num_chains=1)
        sampler.run(random.key(0), init_params=jnp.zeros(5))
        return sampler.evidence

    alone = evidence_of("never")
    assert not alone.reliable
    assert any("Pareto" in w for w in alone.warnings)
    bridged = evidence_of("auto")
    assert abs(bridged.log_z - 5 * np.log(10 * np.pi)) < 3 * bridged.std_error < 0.3
    assert any("1 evaluation a draw would give" in w for w in bridged.warnings)


def test_improper_prior_has_draws_but_no_evidence(capsys):
    def model():
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1), obs=jnp.array([1.0, 2.0, 3.0]))

    sampler = OneStepSampler(OneStep(model, **TINY), **FAST)
    sampler.run(random.key(0))
    assert abs(float(sampler.get_samples()["mu"].mean()) - 2.0) < 0.1
    assert np.isnan(sampler.evidence.log_z)
    assert not sampler.evidence.reliable
    assert "improper prior" in sampler.evidence.warnings[0]
    assert "'mu'" in sampler.evidence.warnings[0]
    sampler.print_summary()
    *_, estimate, verdict = capsys.readouterr().out.splitlines()
    assert estimate.startswith("log evidence: undefined, ESS ")
    assert verdict.startswith("reliable: no, but the draws are. The evidence is undefined: ")


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "flow.msgpack")
    loaded = OneStepSampler.load(tmp_path / "flow.msgpack", OneStep(regression))
    assert repr(loaded.evidence) == repr(fitted.evidence)
    a, b = (s.draw(random.key(4), 50) for s in (loaded, fitted))
    assert np.array_equal(a.samples["beta"], b.samples["beta"])
    assert np.array_equal(a.log_weights, b.log_weights)
    assert np.array_equal(loaded.get_samples()["beta"], fitted.get_samples()["beta"])
    loaded.run(random.key(5), FEATURES, TARGETS)
    assert loaded.get_samples()["beta"].shape == (1200, 3)
    with pytest.raises(ValueError, match="num_steps"):
        OneStepSampler.load(tmp_path / "flow.msgpack", OneStep(regression, num_steps=2))
    (tmp_path / "other").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="not a numpyro-onestep checkpoint"):
        OneStepSampler.load(tmp_path / "other", OneStep(regression))


def normal_potential(z):
    return 0.5 * z @ z + 2 * jnp.log(2 * jnp.pi)


@pytest.mark.parametrize(
    ("potential_fn", "point", "dim"),
    [
        (banana_potential, {"x": jnp.zeros(()), "y": jnp.ones(())}, 2),
        (banana_potential, {"x": jnp.zeros(4), "y": jnp.ones(4)}, 2),
        (normal_potential, jnp.ones(4), 4),  # as many numbers as there are chains
        (normal_potential, jnp.ones((4, 3)), 3),
    ],
    ids=["one point", "one for each chain", "one of as many numbers", "several of them"],
)
def test_four_chains_take_one_point_or_four(potential_fn, point, dim):
    sampler = OneStepSampler(
        OneStep(potential_fn=potential_fn, **TINY), num_warmup=40, num_samples=50, progress_bar=False
    )
    sampler.run(random.key(0), init_params=point)
    assert sampler.setup.center.shape == (dim,)
    leaves = jax.tree.leaves(sampler.get_samples(group_by_chain=True))
    assert all(leaf.shape[:2] == (4, 50) for leaf in leaves)
    if dim == 4:
        assert abs(sampler.evidence.log_z) < 5 * max(sampler.evidence.std_error, 1e-5)


def test_errors():
    with pytest.raises(TypeError, match="OneStep kernel"):
        OneStepSampler(NUTS(skewed))
    with pytest.raises(ValueError, match="num_warmup=0"):
        OneStepSampler(OneStep(skewed), num_warmup=0).run(random.key(0))
    with pytest.raises(ValueError, match="No trained"):
        OneStepSampler(OneStep(skewed)).draw(random.key(0), 3)
    with pytest.raises(AttributeError, match="no_such"):
        OneStepSampler(OneStep(skewed)).run(random.key(0), extra_fields=("no_such",))
    sampler = OneStepSampler(OneStep(potential_fn=banana_potential))
    with pytest.raises(ValueError, match="leading dimension"):
        sampler.run(random.key(0), init_params={"x": jnp.zeros(3), "y": jnp.zeros(3)})
    with pytest.raises(ValueError, match="leading dimension"):
        OneStepSampler(OneStep(skewed)).run(random.key(0), init_params={"rate": jnp.zeros(3)})


def test_budgets_are_refined_and_drawn_from():
    kernel = OneStep(skewed, **TINY, budgets=(2,))
    sampler = OneStepSampler(kernel, num_warmup=60, num_samples=100, progress_bar=False)
    sampler.run(random.key(0))
    elbos = [float(sampler.draw(random.key(1), 20_000, num_steps=n).log_weights.mean()) for n in (1, 2, 4)]
    # a network is kept only where it is better; the last one tells what was trained
    corrections = sampler.last_state.train.network.arrays()["shift_corrections"]
    assert np.any(corrections[0] != 0)
    assert np.all(corrections[1:] == 0)
    assert elbos[1] > elbos[0] - 0.01
    assert elbos[2] > elbos[0] - 0.01
    with pytest.raises(ValueError, match="power of two"):
        OneStep(skewed, budgets=(2, 6))


def test_replicates_widen_the_error_by_their_spread():
    sampler = OneStepSampler(
        OneStep(skewed, **TINY, num_replicates=3), num_warmup=5, num_samples=100, progress_bar=False
    )
    sampler.run(random.key(0))
    assert sampler.last_state.train.iteration.shape == (3,)
    e = sampler.evidence
    assert e.num_replicates == 3
    assert e.num_proposals >= 4096
    assert abs(e.log_z - SKEWED_LOG_Z) < 5 * e.std_error + 1e-3
    parts = replicates_of(sampler)
    each = [estimate([part]).log_z for part in parts]
    log_w = np.concatenate([part.log_weights for part in parts])
    within = np.hypot(log_mean_weight(log_w)[1], unseen_error(log_w, pareto_k(log_w)))
    together = estimate(parts).std_error
    assert together == pytest.approx(np.hypot(within, np.std(each, ddof=1) / np.sqrt(3)), rel=1e-4)
    assert sampler.draw(random.key(2), 50).samples["rate"].shape == (50,)
    with pytest.raises(ValueError, match="num_replicates"):
        OneStep(skewed, num_replicates=0)


def replicates_of(sampler):
    flows = run_of(sampler, "this test").flows()
    return [propose(flow, random.key(5), 1024, 1) for flow in flows]


def test_replicates_are_saved_and_work_in_stock_mcmc(tmp_path):
    kernel = OneStep(skewed, **TINY, num_replicates=2)
    mcmc = MCMC(kernel, num_warmup=20, num_samples=400, num_chains=2, chain_method="vectorized", progress_bar=False)
    mcmc.run(random.key(0))
    assert evidence(mcmc, random.key(1)).num_replicates == 2
    assert float(mcmc.get_samples()["rate"].mean()) == pytest.approx(5 / 2, abs=0.3)  # Gamma(5, 2)
    sampler = OneStepSampler(kernel, num_warmup=20, num_samples=10, progress_bar=False)
    sampler.run(random.key(0))
    sampler.save(tmp_path / "two")
    loaded = OneStepSampler.load(tmp_path / "two", OneStep(skewed, **TINY, num_replicates=2))
    both = [s.draw(random.key(3), 20).samples["rate"] for s in (sampler, loaded)]
    np.testing.assert_allclose(*both, rtol=1e-5)
    with pytest.raises(ValueError, match="num_replicates=2"):
        OneStepSampler.load(tmp_path / "two", OneStep(skewed, **TINY))


def test_a_single_chain_is_resumed_by_stock_mcmc():
    sampler = OneStepSampler(OneStep(skewed, **TINY), num_warmup=20, num_samples=50, num_chains=1, progress_bar=False)
    sampler.run(random.key(0))
    mcmc = MCMC(sampler.sampler, num_warmup=20, num_samples=400, progress_bar=False)
    mcmc.post_warmup_state = sampler.last_state
    mcmc.run(random.key(1))
    assert float(mcmc.get_samples()["rate"].mean()) == pytest.approx(2.5, abs=0.3)


def test_a_kept_flow_refuses_data_of_another_shape():
    sampler = OneStepSampler(OneStep(regression, **TINY), **FAST)
    sampler.warmup(random.key(0), FEATURES, TARGETS)
    with pytest.raises(ValueError, match="has 3 dimensions, but the model has 2"):
        sampler.run(random.key(0), FEATURES[:, :2], TARGETS)


@pytest.mark.slow
def test_more_modes_than_are_kept_apart_are_told():
    grid = 8.0 * jnp.stack(jnp.meshgrid(*[jnp.arange(9.0) - 4.0] * 2), axis=-1).reshape(-1, 2)

    def potential_fn(z):
        return -jax.scipy.special.logsumexp(-0.5 * jnp.sum((z - grid) ** 2, axis=1))

    kernel = OneStep(potential_fn=potential_fn, **TINY, init_scale=30.0)
    sampler = OneStepSampler(kernel, **FAST, num_chains=1)
    sampler.run(random.key(0), init_params=jnp.zeros(2))
    assert any("more than 63 modes" in warning for warning in sampler.evidence.warnings)
