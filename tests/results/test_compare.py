"""Models side by side by their evidence."""

import pickle

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY

from numpyro_onestep import Evidence, OneStep, OneStepSampler, compare


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


def counts_and_rates(counts, rates):
    level = numpyro.sample("level", dist.Normal(0, 10))
    numpyro.sample("count", dist.Normal(1e7 + level, 1), obs=counts)
    numpyro.sample("rate", dist.Normal(level, 1), obs=rates)


def test_small_values_beside_large_ones_are_told_apart():
    counts, rates = 1e7 + jnp.arange(3.0), jnp.arange(3.0)
    samplers = {}
    for name, shift in (("a", 0.0), ("b", 4.0)):
        samplers[name] = OneStepSampler(
            OneStep(counts_and_rates, **TINY, bridge="never"), num_warmup=20, num_samples=10, progress_bar=False
        )
        samplers[name].run(random.key(0), counts, rates + shift)
    with pytest.raises(ValueError, match="'a' and 'b' have different observed data"):
        compare(samplers)
