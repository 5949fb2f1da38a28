"""ArviZ data, comparison and pictures of one small run."""

from copy import copy

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
from jax import random
from models import FEATURES, TARGETS, TINY, regression, regression_posterior
from numpyro.infer import MCMC
from scipy.stats import norm

from numpyro_onestep import (
    OneStep,
    OneStepSampler,
    compare,
    plot_budgets,
    plot_draws,
    plot_training,
    plot_weights,
)
from numpyro_onestep.training.evaluation import STOPS, History

plt.switch_backend("Agg")


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


def test_compare_leaves_undefined_evidence_out(fitted):
    undefined = fitted.evidence._replace(log_z=np.nan, reliable=False, warnings=("improper",))
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


@pytest.mark.slow
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
    table = compare({"a": fitted, "b": backwards, "c": fitted.evidence._replace(log_z=-3.0)})
    assert "not known here" in table.loc["c", "warnings"]
    assert "another order than in 'a'" in table.loc["b", "warnings"]
    assert "note" not in table.loc["a", "warnings"]


def test_arviz_draws_its_own_plots_of_our_data(fitted):
    data = fitted.to_inference_data()
    trace = az.plot_trace_dist if hasattr(az, "plot_trace_dist") else az.plot_trace  # of ArviZ 1.x and of 0.23
    for plot in (trace, az.plot_forest):
        assert plot(data, var_names=["beta"]) is not None


def test_plots(fitted):
    beta = fitted.get_samples()["beta"]
    draws = {"a": beta[:, 0], "b": beta[:, 1]}
    axes = plot_draws(draws, draws, ("a", "b"))
    assert axes.get_xlabel() == "a"
    assert len(axes.lines) == 2
    axes = plot_weights(fitted, random.key(1), 500)
    assert sum(patch.get_height() for patch in axes.patches) == 500


@pytest.mark.filterwarnings("error")
def test_plot_weights(fitted, ink, finished):
    ax = finished(plot_weights(fitted, num_draws=500))
    assert ax.get_title().startswith("Weights of 500 draws: ESS 100.0 %, Pareto k ")
    assert ax.lines[0].get_color() == ink


def test_plot_weights_by_rank(fitted, ink, finished, monkeypatch):
    share = (np.arange(400) + 0.5) / 400
    pareto = np.log1p((share**-0.5 - 1) / 0.5)  # the quantiles of a generalised Pareto excess over 1, shape .5
    monkeypatch.setattr("numpyro_onestep.plots.weights.fresh_log_weights", lambda *_: pareto)
    given = plt.subplots()[1]
    assert finished(plot_weights(fitted, num_draws=400, kind="tail", ax=given)) is given
    shown, largest, fit = (np.asarray(line.get_ydata()) for line in given.lines)
    assert np.allclose(shown, np.exp(pareto[:200]) / np.mean(np.exp(pareto)))
    assert len(fit) == len(largest) == 60  # 3 √400
    assert np.allclose(fit, largest, rtol=0.1)
    assert given.lines[2].get_color() == ink


def after_rounds(sampler):
    """The same with a training of three evaluations, of which the first is far below."""
    sampler, trained, history = copy(sampler), sampler.last_state.train, History()
    for iteration, elbo, ess in ((0, -1e4, 0.01), (16, -36.0, 0.5), (16, -36.0, 0.5), (48, -35.5, 0.95)):
        scores = {"iteration": np.array(iteration), "elbo": np.array(elbo), "ess_fraction": np.array(ess)}
        trained = trained._replace(**scores, stop=np.array(2), done=np.array(True))
        history.add(trained)
    sampler.history, sampler._last_state = history, sampler.last_state._replace(train=trained)
    return sampler


def test_plot_training(fitted, ink, finished):
    sampler = after_rounds(fitted)
    left, right = plot_training(sampler)
    assert finished(left).get_title().startswith("48 of 20 iterations, ")
    assert list(left.lines[0].get_xdata()) == list(right.lines[0].get_xdata()) == [0, 16, 48]
    assert list(left.lines[0].get_ydata())[1:] == [-36.0, -35.5]
    assert left.lines[2].get_marker() == "v"
    assert list(left.lines[2].get_ydata()) == [-45.5]  # as much below the last as is shown
    assert list(right.lines[0].get_ydata()) == [1.0, 50.0, 95.0]
    assert right.lines[1].get_ydata()[0] == 90  # target_ess
    assert right.lines[1].get_color() == ink
    assert right.get_title() == f"stopped: {STOPS[2]}"
    seconds = finished(plot_training(sampler, over="seconds"))
    assert list(seconds.lines[0].get_xdata()) == [one.seconds for one in sampler.history.evaluations]
    assert len(plot_training(fitted)[0].lines[0].get_xdata()) == 1  # the base alone fits


def test_plot_budgets(fitted, finished):
    axes = plot_budgets(fitted, (1,), 256, ax=plt.subplots(2, 1)[1])
    assert list(finished(axes).lines[0].get_xdata()) == [1]
    assert axes[0].lines[0].get_ydata()[0] == pytest.approx(fitted.evidence.log_z, abs=0.05)
    assert axes[1].lines[0].get_ydata()[0] == pytest.approx(100, abs=1)


def test_what_cannot_be_drawn_is_said(fitted):
    with pytest.raises(ValueError, match="`kind` must be"):
        plot_weights(fitted, kind="pie")
    with pytest.raises(ValueError, match="`over` must be"):
        plot_training(fitted, over="hours")
    with pytest.raises(ValueError, match="`ax` must be 2"):
        plot_training(fitted, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="each of `budgets`"):
        plot_budgets(fitted, (3,))
    for plot in (plot_weights, plot_training, plot_budgets):
        with pytest.raises(ValueError, match="No trained OneStep flow"):
            plot(OneStepSampler(OneStep(regression), progress_bar=False))
        with pytest.raises(TypeError, match="needs an MCMC with a OneStep kernel, not Evidence"):
            plot(fitted.evidence)


def test_a_training_that_was_elsewhere_is_not_drawn(fitted):
    loaded, resumed = copy(fitted), copy(fitted)
    loaded.history = None  # as in every sampler before its own training
    resumed.history = after_rounds(fitted).history
    for sampler in (loaded, resumed):
        with pytest.raises(ValueError, match="files of `save` do not hold them, `post_warmup_state` does not"):
            plot_training(sampler)
