"""One run of `MCMC`, and everything that users do with it afterwards."""

import os
import pickle

import arviz as az
import numpy as np
import pytest
from jax import random
from kernels import KERNELS, all_equal, both, check_moments, one_step, sampled
from models import FEATURES, TARGETS, regression, regression_posterior
from numpyro.infer import MCMC, NUTS, Predictive, log_likelihood
from numpyro.infer.inspect import get_model_relations
from numpyro.infer.util import log_density

from numpyro_onestep import OneStepSampler

DATA = (FEATURES, TARGETS)
FIELDS = ("potential_energy", "accept_prob", "mean_accept_prob", "num_steps", "i", "z.beta")
MEAN, COV = regression_posterior()
RELATIONS = get_model_relations(regression, DATA)  # what `numpyro.render_model` draws


@pytest.fixture(scope="module", params=KERNELS.values(), ids=KERNELS)
def mcmc(request):
    """The same run for all tests of this file that only read it."""
    return sampled(request.param(regression), *DATA, num_samples=300, extra_fields=FIELDS)


def test_posterior(mcmc):
    check_moments(mcmc.get_samples(group_by_chain=True)["beta"], MEAN, np.diag(COV))


def test_the_model_renders_as_before_the_run(mcmc):
    assert get_model_relations(mcmc.sampler.model, DATA) == RELATIONS


def test_samples_have_the_sites_of_the_model(mcmc):
    samples = mcmc.get_samples()
    assert set(samples) == {"beta", "norm"}
    assert {name: value.shape for name, value in samples.items()} == {"beta": (300, 3), "norm": (300,)}
    assert np.allclose(samples["norm"], np.linalg.norm(samples["beta"], axis=1), atol=1e-5)


def test_group_by_chain(mcmc):
    for get in (mcmc.get_samples, mcmc.get_extra_fields):
        grouped, flat = get(group_by_chain=True), get()
        assert set(grouped) == set(flat)
        assert all(np.array_equal(grouped[name][0], flat[name]) for name in flat)


def test_extra_fields_mean_what_they_mean_in_nuts(mcmc):
    fields, samples = mcmc.get_extra_fields(), mcmc.get_samples()
    assert set(fields) == {"diverging", *FIELDS}
    assert np.array_equal(fields["z.beta"], samples["beta"])
    energy = [-log_density(regression, DATA, {}, {"beta": beta})[0] for beta in samples["beta"][:3]]
    assert np.allclose(fields["potential_energy"][:3], energy, rtol=1e-4)
    assert np.all((fields["accept_prob"] >= 0) & (fields["accept_prob"] <= 1))
    assert fields["mean_accept_prob"][-1] > 0.5
    assert np.all(fields["num_steps"] >= 1)
    assert np.array_equal(fields["i"], 40 + 1 + np.arange(300))
    assert fields["diverging"].dtype == bool
    assert not np.any(fields["diverging"])


def test_last_state(mcmc):
    state = mcmc.last_state
    assert np.array_equal(state.z["beta"], mcmc.get_samples()["beta"][-1])
    assert float(state.potential_energy) == float(mcmc.get_extra_fields()["potential_energy"][-1])
    assert {
        "i",
        "z",
        "potential_energy",
        "num_steps",
        "accept_prob",
        "mean_accept_prob",
        "diverging",
        "rng_key",
    } <= set(state._fields)


def test_summary_leaves_deterministic_sites_out_unless_asked(mcmc, capsys):
    mcmc.print_summary()
    text = capsys.readouterr().out
    assert "beta[2]" in text
    assert "n_eff" in text
    assert "norm" not in text
    assert "Number of divergences: 0" in text
    mcmc.print_summary(prob=0.5, exclude_deterministic=False)
    text = capsys.readouterr().out
    assert "norm" in text
    assert "25.0%" in text


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(mcmc, parallel):
    predict = Predictive(regression, mcmc.get_samples(), parallel=parallel)
    y = predict(random.key(1), FEATURES, None)["y"]
    assert y.shape == (300, 20)
    spread = np.sqrt(1 + np.einsum("ni,ij,nj->n", FEATURES, COV, FEATURES))
    assert np.all(np.abs(y.mean(0) - FEATURES @ MEAN) < 5 * spread / np.sqrt(100))


def test_predictive_of_new_features_with_chains_kept(mcmc):
    predict = Predictive(regression, mcmc.get_samples(group_by_chain=True), batch_ndims=2)
    assert predict(random.key(1), FEATURES[:4], None)["y"].shape == (1, 300, 4)


def test_log_likelihood(mcmc):
    samples = mcmc.get_samples()
    values = log_likelihood(regression, samples, *DATA)
    assert set(values) == {"y"}
    expected = -0.5 * (TARGETS - samples["beta"] @ FEATURES.T) ** 2 - 0.5 * np.log(2 * np.pi)
    assert np.allclose(values["y"], expected, atol=1e-3)


def test_arviz(mcmc):
    data = az.from_numpyro(mcmc)
    assert data.posterior["beta"].shape == (1, 300, 3)
    assert data.sample_stats["diverging"].shape == (1, 300)
    assert data.log_likelihood["y"].shape == (1, 300, 20)
    assert np.allclose(data.observed_data["y"], TARGETS)


def test_pickling_after_the_run(mcmc):
    again = pickle.loads(pickle.dumps(mcmc))
    assert all_equal(again.get_samples(), mcmc.get_samples())
    assert all_equal(again.get_extra_fields(), mcmc.get_extra_fields())
    again.post_warmup_state = again.last_state
    again.run(random.key(5), *DATA)
    assert again.get_samples()["beta"].shape == (300, 3)


def test_states_are_moved_to_the_host(mcmc):
    mcmc = pickle.loads(pickle.dumps(mcmc))
    before = mcmc.get_samples()["beta"]
    mcmc.transfer_states_to_host()
    for group_by_chain in (False, True):
        after = mcmc.get_samples(group_by_chain=group_by_chain)["beta"]
        assert type(after) is np.ndarray
        assert np.array_equal(np.reshape(after, before.shape), before)


@both
def test_pickling_before_the_run(kernel):
    draws = [
        sampled(k, *DATA).get_samples()["beta"]
        for k in (kernel(regression), pickle.loads(pickle.dumps(kernel(regression))))
    ]
    assert np.array_equal(*draws)


@both
def test_a_kernel_and_an_mcmc_are_used_again(kernel):
    shared = kernel(regression)
    first = sampled(shared, *DATA)
    before = np.asarray(first.get_samples()["beta"])
    # the same MCMC on other data, then a new MCMC with the kernel, which must not remember that data
    first.run(random.key(0), FEATURES, -TARGETS)
    check_moments(first.get_samples(group_by_chain=True)["beta"], -MEAN, np.diag(COV))
    assert np.array_equal(sampled(shared, *DATA).get_samples()["beta"], before)


@both
def test_thinning_keeps_every_third(kernel):
    full, thin = (sampled(kernel(regression), *DATA, num_samples=99, thinning=n).get_samples()["beta"] for n in (1, 3))
    assert thin.shape == (33, 3)
    assert np.array_equal(thin, full[2::3])


@both
def test_sites_are_left_out_on_request(kernel):
    mcmc = sampled(kernel(regression), *DATA, extra_fields=("~z.beta",))
    assert set(mcmc.get_samples()) == {"norm"}


def test_sites_are_left_out_by_the_sampler():
    sampler = OneStepSampler(one_step(regression), num_warmup=20, num_samples=50, progress_bar=False)
    sampler.run(random.key(0), *DATA, extra_fields=("~z.beta",))
    assert set(sampler.get_samples()) == {"norm"}


@both
def test_missing_fields_are_refused(kernel):
    with pytest.raises((AttributeError, TypeError)):  # NumPyro's own, for any kernel whose state is a namedtuple
        sampled(kernel(regression), *DATA, num_warmup=1, num_samples=2, extra_fields=("no_such_field",))


def test_fields_of_hmc_alone_are_refused_by_name():
    fields = ("energy", "r", "trajectory_length", "adapt_state.step_size", "z_grad")
    nuts = sampled(NUTS(regression), *DATA, num_warmup=1, num_samples=2, extra_fields=fields)
    assert set(fields) <= set(nuts.get_extra_fields())
    for field in fields:
        with pytest.raises(AttributeError, match=field.split(".")[0]):
            OneStepSampler(one_step(regression)).run(random.key(0), *DATA, extra_fields=(field,))


@both
def test_progress_bar_changes_nothing_but_the_screen(kernel, monkeypatch, capsys):
    for name in ("CI", "PYTEST_XDIST_WORKER"):  # where NumPyro hides it
        monkeypatch.delenv(name, raising=False)
    assert "PYTEST_XDIST_WORKER" not in os.environ
    options = {"num_warmup": 10, "num_samples": 30}
    quiet = sampled(kernel(regression), *DATA, **options)
    assert capsys.readouterr().err == ""
    shown = sampled(kernel(regression), *DATA, progress_bar=True, **options)
    text = capsys.readouterr().err
    assert "sample: 100%" in text
    assert "acc. prob=" in text
    # the loop is compiled differently, so the last digits may differ
    assert np.allclose(quiet.get_samples()["beta"][:5], shown.get_samples()["beta"][:5], atol=0.02)


@both
def test_custom_postprocessing(kernel):
    mcmc = sampled(
        kernel(regression), *DATA, postprocess_fn=lambda z: {"sum": z["beta"].sum()}, extra_fields=("z.beta",)
    )
    assert set(mcmc.get_samples()) == {"sum"}
    assert np.allclose(mcmc.get_samples()["sum"], mcmc.get_extra_fields()["z.beta"].sum(1), atol=1e-5)


@both
def test_samples_before_the_run(kernel):
    with pytest.raises((AssertionError, TypeError, AttributeError)):
        MCMC(kernel(regression), num_warmup=1, num_samples=1).get_samples()
