"""Optimiser steps of a warm start on new data of the same shape, beside those of a training from nothing.

    python examples/benchmarks/warm_start.py           # three models, three seeds

For each model the flow is trained on one data set, then on another twice: from nothing and with `warm_start=True`.
Steps are those that training took (it stops early where the weights are constant), without the audit; ESS is that of
8,192 fresh draws.
"""

import argparse

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, random

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.weights import effective_sample_size

NUM_DRAWS = 8192


def logistic(x: Array, y: Array) -> None:
    """Logistic regression on 24 columns and an intercept."""
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([25]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ weights[:-1] + weights[-1]), obs=y)


def hierarchical(sigma: Array, y: Array) -> None:
    """Normal group effects, centered, with a funnel at small spreads."""
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfCauchy(5))
    with numpyro.plate("groups", len(y)):
        effect = numpyro.sample("effect", dist.Normal(mean, spread))
        numpyro.sample("y", dist.Normal(effect, sigma), obs=y)


def saturation(x: Array, y: Array) -> None:
    """A saturating curve whose height and half-way point are hard to tell apart."""
    height = numpyro.sample("height", dist.LogNormal(1, 1))
    half = numpyro.sample("half", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(height * x / (half + x), noise), obs=y)


def logistic_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """120 rows; the weights differ from one data set to the next."""
    x = rng.normal(size=(120, 24))
    return x, rng.random(120) < 1 / (1 + np.exp(-x @ rng.normal(size=24)))


def hierarchical_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Eight groups."""
    sigma = rng.uniform(5, 15, size=8)
    return sigma, rng.normal(5, np.sqrt(25 + sigma**2))


def saturation_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Fifteen points, few of them beyond the half-way point."""
    x = rng.uniform(0.1, 3, size=15)
    return x, rng.uniform(2, 5) * x / (rng.uniform(0.5, 2) + x) + 0.3 * rng.normal(size=15)


MODELS = {
    "logistic": (logistic, logistic_data),
    "hierarchical": (hierarchical, hierarchical_data),
    "saturation": (saturation, saturation_data),
}


def measure(sampler: OneStepSampler, key: Array) -> tuple[float, float]:
    """ESS in % of fresh draws, and log Z."""
    log_weights = sampler.draw(key, NUM_DRAWS).log_weights
    return 100 * float(effective_sample_size(log_weights)) / NUM_DRAWS, sampler.evidence.log_z


def iterations(sampler: OneStepSampler, first: int = 0) -> int:
    """Warmup iterations that training took."""
    return int(jnp.max(sampler.last_state.train.iteration)) - first


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-warmup", type=int, default=1000)
    options = parser.parse_args()
    print(f"{'model':14}{'seed':>5}{'cold: iterations':>18}{'ESS, %':>8}{'log Z':>9}", end="")
    print(f"{'warm: iterations':>18}{'ESS, %':>8}{'log Z':>9}{'fewer':>7}", flush=True)
    for name in options.models:
        model, data = MODELS[name]
        for seed in options.seeds:
            rng = np.random.default_rng(seed)
            yesterday, today = data(rng), data(rng)
            counts = {"num_warmup": options.num_warmup, "num_samples": 100, "progress_bar": False}
            cold = OneStepSampler(OneStep(model, coverage_audit=False), **counts)
            cold.run(random.key(seed), *today)
            cold_ess, cold_log_z = measure(cold, random.key(100))
            warm = OneStepSampler(OneStep(model, coverage_audit=False), **counts)
            warm.run(random.key(seed + 10), *yesterday)
            warm.run(random.key(seed + 20), *today, warm_start=True)
            ess, log_z = measure(warm, random.key(100))
            start = int(0.75 * options.num_warmup)
            took = iterations(cold), iterations(warm, start)
            print(f"{name:14}{seed:5}{took[0]:18}{cold_ess:8.1f}{cold_log_z:9.3f}", end="")
            print(f"{took[1]:18}{ess:8.1f}{log_z:9.3f}{took[0] / max(took[1], 1):7.1f}", flush=True)


if __name__ == "__main__":
    main()
