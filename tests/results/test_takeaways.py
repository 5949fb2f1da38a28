"""ArviZ data, model comparison and plots, from one small run."""

import pickle

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import FEATURES, TARGETS, TINY, regression, regression_posterior
from numpyro.infer import MCMC
from scipy.stats import norm

from numpyro_onestep import Evidence, OneStep, OneStepSampler, compare, plot_draws, plot_weights


@pytest.fixture(scope="module")
def fitted():
    sampler = OneStepSampler(OneStep(regression), num_warmup=20, num_samples=100, num_chains=2, progress_bar=False)
    sampler.run(random.key(0), FEATURES, TARGETS, extra_fields=("potential_energy", "accept_prob", "num_steps"))
    return sampler


def group(data, name):
    return data[name] if hasattr(data, "children") else getattr(data, name)


def test_from_numpyro(fitted):
    data = az.from_numpyro(fitted)
    assert dict(group(data, "posterior")["beta"].sizes) == {"chain": 2, "draw": 100, "beta_dim_0": 3}
    stats = group(data, "sample_stats")
    assert np.all(stats["n_steps"] == 1)
    assert np.allclose(stats["lp"], -fitted.get_extra_fields(group_by_chain=True)["potential_energy"])


def test_to_inference_data_holds_the_evidence_and_can_be_stored(fitted, tmp_path):
    data = fitted.to_inference_data()
    attrs = group(data, "posterior").attrs
    assert attrs["log_z"] == fitted.evidence.log_z
    assert attrs["evidence_reliable"] == "True"
    assert all(isinstance(v, float | str) for k, v in attrs.items() if k in ("log_z", "elbo", "evidence_warnings"))
    assert group(data, "proposals")["log_weight"].shape == (1024,)
    summary = az.summary(data)
    assert "beta[0]" in summary.index
    data.to_netcdf(tmp_path / "fit.nc")
    stored = az.from_netcdf(tmp_path / "fit.nc")
    assert group(stored, "posterior").attrs["log_z"] == pytest.approx(fitted.evidence.log_z)
    assert group(stored, "proposals")["log_weight"].shape == (1024,)


def test_to_inference_data_hands_its_arguments_on(fitted):
    draws = fitted.get_samples()
    coords = {"feature": ["first", "second", "third"], "row": np.arange(20)}
    data = fitted.to_inference_data(
        log_likelihood=True,
        coords=coords,
        dims={"beta": ["feature"], "y": ["row"]},
        prior={"beta": np.zeros((50, 3)), "norm": np.zeros(50)},
    )
    beta = group(data, "posterior")["beta"].sel(feature="second")
    assert np.allclose(np.ravel(beta), draws["beta"][:, 1])
    assert group(data, "prior")["beta"].shape[-1] == 3
    assert group(data, "posterior").attrs["log_z"] == fitted.evidence.log_z
    assert group(data, "proposals")["log_weight"].shape == (1024,)
    loo = az.loo(data)
    found = float(getattr(loo, "elpd" if hasattr(loo, "elpd") else "elpd_loo"))
    residual = TARGETS - np.asarray(draws["beta"], float) @ FEATURES.T
    surprise = np.exp(0.5 * residual**2)  # 1 / p(y_i | beta) up to a factor, the weights of leaving row i out
    influence = np.sum(surprise / surprise.mean(axis=0), axis=1)
    assert abs(found - left_out()) < 5 * np.std(influence) / len(influence) ** 0.5


def left_out():
    """Σ log p(y_i | all other rows), in closed form."""
    total = 0.0
    for i, (x, y) in enumerate(zip(FEATURES, TARGETS, strict=True)):
        mean, cov = regression_posterior(np.delete(FEATURES, i, axis=0), np.delete(TARGETS, i))
        total += norm.logpdf(y, x @ mean, np.sqrt(1 + x @ cov @ x))
    return total


def test_arviz_sees_all_of_the_model_though_it_does_not_compute_it(fitted):
    ours, theirs = fitted.to_inference_data(), az.from_numpyro(fitted)
    for name in ("posterior", "sample_stats", "observed_data", "log_likelihood"):
        if name == "log_likelihood" and not hasattr(theirs, name):  # ArviZ 1 has it on request only
            continue
        assert group(ours, name).equals(group(theirs, name)), name


def make(log_z, std_error=0.01, **fields):
    values = {"elbo": log_z, "eubo": np.nan, "ess": 4000.0, "pareto_k": 0.1, "fold_fraction": 0.0}
    rest = {"num_proposals": 4096, "num_replicates": 1, "reliable": True, "warnings": ()}
    return Evidence(log_z=log_z, std_error=std_error, **{**values, **rest, **fields})


def test_compare():
    table = compare({"worse": make(-3.0), "better": make(-1.0, 0.02)})
    assert list(table.index) == ["better", "worse"]
    assert table.loc["worse", "log_bayes_factor"] == pytest.approx(2.0)
    assert table.loc["worse", "bayes_factor"] == pytest.approx(np.exp(2.0))
    assert table.loc["worse", "log_bayes_factor_se"] == pytest.approx(np.hypot(0.01, 0.02))
    assert table.loc["better", "log_bayes_factor_se"] == 0
    assert table["probability"].sum() == pytest.approx(1)
    assert table.loc["better", "probability"] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_a_comparison_is_read_in_a_narrow_terminal():
    import pandas as pd

    long = "a name of many words, as they are given to the models of a paper's second appendix"
    doubtful = make(-1003.25, 0.3, reliable=False, warnings=("The effective sample size is 12 of 4096 proposals.",))
    table = compare({"plain": make(-1001.23456, 0.0123), long: doubtful, "none": make(np.nan, np.nan)})
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        text = str(table)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in text
    assert "…" not in text
    for column in ("log_z ± se", "log10_bayes_factor", "probability", "reliable"):
        assert column in lines[0]
    assert lines[1].split() == ["plain", "-1001.235", "±", "0.012", "0.00", "0.8824", "True"]
    assert long in " ".join(text.split())  # broken into lines, not cut off
    assert "The effective sample size is 12 of 4096 proposals." in " ".join(text.split())
    again = pickle.loads(pickle.dumps(table))
    assert type(again) is type(table[["log_z"]]) is pd.DataFrame
    assert again.equals(pd.DataFrame(table))


def test_compare_leaves_undefined_evidence_out(fitted):
    undefined = make(np.nan, reliable=False, warnings=("improper",))
    table = compare({"ours": fitted, "undefined": undefined})
    assert table.loc["ours", "probability"] == pytest.approx(1)
    assert np.isnan(table.loc["undefined", "probability"])
    unknown = "note: its observed data are not known here, so not compared with the others'."
    assert table.loc["undefined", "warnings"] == f"improper; {unknown}"
    with pytest.raises(ValueError, match="at least one"):
        compare({})
    with pytest.raises(TypeError, match="'x'"):
        compare({"x": 3})


def test_compare_takes_whatever_holds_an_evidence(fitted):
    mcmc = MCMC(OneStep(regression, **TINY), num_warmup=20, num_samples=10, progress_bar=False)
    mcmc.run(random.key(0), FEATURES, TARGETS)
    models = {"ours": fitted, "stock": mcmc, "stored": fitted.to_inference_data(), "number": fitted.evidence}
    table = compare(models)
    assert np.allclose(table["log_z"], fitted.evidence.log_z, atol=0.02)
    assert table.loc["stored", "log_z"] == table.loc["number", "log_z"] == table.loc["ours", "log_z"]
    assert np.allclose(table["probability"], 0.25, atol=0.01)
    with pytest.raises(ValueError, match="'plain' holds no evidence"):
        compare({"plain": az.from_numpyro(fitted)})


def test_compare_with_prior_probabilities():
    models = {"worse": make(-3.0), "better": make(-1.0)}
    table = compare(models, prior={"worse": 3.0, "better": 1.0})
    assert table.loc["worse", "prior"] == 0.75
    odds = table.loc["better", "probability"] / table.loc["worse", "probability"]
    assert odds == pytest.approx(np.exp(2.0) / 3)
    assert table.loc["worse", "log10_bayes_factor"] == pytest.approx(2.0 / np.log(10))
    for prior in ({"worse": 1.0}, {"worse": 1.0, "better": -1.0}, {"worse": 1.0, "better": 1.0, "third": 1.0}):
        with pytest.raises(ValueError, match="`prior` needs one positive number"):
            compare(models, prior=prior)


def test_plots(fitted):
    import matplotlib

    matplotlib.use("Agg")
    beta = fitted.get_samples()["beta"]
    draws = {"a": beta[:, 0], "b": beta[:, 1]}
    axes = plot_draws(draws, draws, ("a", "b"))
    assert axes.get_xlabel() == "a"
    assert len(axes.lines) == 2
    axes = plot_weights(fitted, random.key(1), 500)
    assert sum(patch.get_height() for patch in axes.patches) == 500


def test_compare_refuses_different_data(fitted):
    other = OneStepSampler(OneStep(regression, **TINY), num_warmup=20, num_samples=10, progress_bar=False)
    other.run(random.key(0), FEATURES, TARGETS + 1)
    again = OneStepSampler(OneStep(regression, **TINY), num_warmup=20, num_samples=10, progress_bar=False)
    again.warmup(random.key(0), FEATURES, TARGETS)
    again.run(random.key(0), FEATURES, TARGETS + 1)  # the flow is kept, the data are not
    with pytest.raises(ValueError, match="'a' and 'again' have different"):
        compare({"a": fitted, "again": again})
    for same in (fitted, fitted.to_inference_data()):
        with pytest.raises(ValueError, match="'a' and 'b' have different observed data"):
            compare({"a": same, "b": other})
    backwards = OneStepSampler(OneStep(regression, **TINY), num_warmup=20, num_samples=10, progress_bar=False)
    backwards.run(random.key(0), FEATURES[::-1], TARGETS[::-1])
    table = compare({"a": fitted, "b": backwards, "c": make(-3.0)})
    assert "not known here" in table.loc["c", "warnings"]
    assert "another order than in 'a'" in table.loc["b", "warnings"]
    assert "note" not in table.loc["a", "warnings"]


def counts_and_rates(counts, rates):
    level = numpyro.sample("level", dist.Normal(0, 10))
    numpyro.sample("count", dist.Normal(1e7 + level, 1), obs=counts)
    numpyro.sample("rate", dist.Normal(level, 1), obs=rates)


def test_small_values_beside_large_ones_are_told_apart():
    counts, rates = 1e7 + jnp.arange(3.0), jnp.arange(3.0)
    samplers = {}
    for name, shift in (("a", 0.0), ("b", 4.0)):
        samplers[name] = OneStepSampler(
            OneStep(counts_and_rates, **TINY), num_warmup=20, num_samples=10, progress_bar=False
        )
        samplers[name].run(random.key(0), counts, rates + shift)
    with pytest.raises(ValueError, match="'a' and 'b' have different observed data"):
        compare(samplers)
