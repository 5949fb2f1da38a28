"""How often the guards cry wolf on posteriors that are as they should be: fifty runs, each with data of its own."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

from numpyro_onestep import OneStep, OneStepSampler

NUM_RUNS = 10  # of each model


def logistic(x, y):
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([6]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)


def logistic_data(rng):
    x = rng.normal(size=(80, 6))
    return x, (rng.random(80) < 1 / (1 + np.exp(-x @ rng.normal(size=6)))).astype(int)


def counts(y):
    with numpyro.plate("unit", len(y)):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def counts_data(rng):
    return (rng.poisson(rng.gamma(2.0, 2.0, size=8)),)


def curve(x, y):
    height = numpyro.sample("height", dist.LogNormal(1, 1))
    half = numpyro.sample("half", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(height * x / (half + x), noise), obs=y)


def curve_data(rng):
    x = rng.uniform(0.1, 5, size=30)
    return x, rng.uniform(2, 5) * x / (rng.uniform(0.5, 2) + x) + 0.3 * rng.normal(size=30)


def groups(y):
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfNormal(5))
    with numpyro.plate("group", len(y)):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mean + spread * effect, 2.0), obs=y)


def groups_data(rng):
    return (rng.normal(3, np.sqrt(9 + 4), size=8),)


def robust(x, y):
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    scale = numpyro.sample("scale", dist.HalfCauchy(2))
    numpyro.sample("y", dist.StudentT(4.0, slope * x, scale), obs=y)


def robust_data(rng):
    x = rng.normal(size=40)
    return x, 2 * x + rng.standard_t(4, size=40)


MODELS = {
    "logistic": (logistic, logistic_data),
    "counts": (counts, counts_data),
    "curve": (curve, curve_data),
    "groups": (groups, groups_data),
    "robust": (robust, robust_data),
}


@pytest.mark.slow
def test_guards_cry_wolf_in_no_more_than_one_of_fifty_runs():
    alarms = []
    for name, (model, simulate) in MODELS.items():
        sampler = OneStepSampler(OneStep(model), progress_bar=False)
        before = len(alarms)
        for seed in range(NUM_RUNS):
            data = [jnp.asarray(part) for part in simulate(np.random.default_rng(seed))]
            sampler.run(random.key(seed), *data)
            if not sampler.evidence.reliable:
                alarms.append((name, seed, sampler.evidence))
                print(f"{name}, seed {seed}: {sampler.evidence.warnings}", flush=True)
        print(f"{name}: {len(alarms) - before} of {NUM_RUNS} flagged", flush=True)
    assert len(alarms) <= 1, alarms
