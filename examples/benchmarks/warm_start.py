"""Iterations of a warm start on new data of the same shape, beside those of a training from nothing.

    python examples/benchmarks/warm_start.py           # four models, one seed

For each model the flow is trained on one data set, then with `warm_start=True` on data of which one row, a tenth or all
are others. Trainings from nothing, with 30, 60, 125, 250, 500 and 1000 iterations, tell how many it takes for the same
ESS, that of 8,192 fresh draws, to within .1 %. Without the audit.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, random

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.training import fit
from numpyro_onestep.training.state import TrainState

NUM_DRAWS = 8192
LADDER = (30, 60, 125, 250, 500, 1000)
Data = tuple[np.ndarray, ...]


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


def counts(x: Array, y: Array) -> None:
    """Counts of ten groups, six rows each, with group effects of unknown spread."""
    slopes = numpyro.sample("slopes", dist.Normal(0, 1).expand([4]).to_event(1))
    spread = numpyro.sample("spread", dist.HalfNormal(1))
    with numpyro.plate("groups", 10):
        effect = numpyro.sample("effect", dist.Normal(0, spread))
    numpyro.sample("y", dist.Poisson(jnp.exp(x @ slopes + jnp.repeat(effect, 6))), obs=y)


def saturation(x: Array, y: Array) -> None:
    """A saturating curve whose height and half-way point are hard to tell apart."""
    height = numpyro.sample("height", dist.LogNormal(1, 1))
    half = numpyro.sample("half", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(height * x / (half + x), noise), obs=y)


def logistic_data(rng: np.random.Generator) -> Data:
    """120 rows; the weights differ from one data set to the next."""
    x = rng.normal(size=(120, 24))
    return x, rng.random(120) < 1 / (1 + np.exp(-x @ rng.normal(size=24)))


def hierarchical_data(rng: np.random.Generator) -> Data:
    """Eight groups."""
    sigma = rng.uniform(5, 15, size=8)
    return sigma, rng.normal(5, np.sqrt(25 + sigma**2))


def counts_data(rng: np.random.Generator) -> Data:
    """The effects and the slopes are the same in all data sets."""
    x, effect = rng.normal(size=(60, 4)), np.linspace(-1, 1, 10)
    return x, rng.poisson(np.exp(x @ np.array([0.5, -0.5, 0.2, 0.0]) + np.repeat(effect, 6)))


def saturation_data(rng: np.random.Generator) -> Data:
    """Fifteen points, few of them beyond the half-way point."""
    x = rng.uniform(0.1, 3, size=15)
    return x, rng.uniform(2, 5) * x / (rng.uniform(0.5, 2) + x) + 0.3 * rng.normal(size=15)


MODELS = {
    "logistic": (logistic, logistic_data),
    "hierarchical": (hierarchical, hierarchical_data),
    "counts": (counts, counts_data),
    "saturation": (saturation, saturation_data),
}


@contextmanager
def recorded() -> Iterator[list[int]]:
    """At which iterations of the schedule warm starts go on meanwhile."""
    resumed_at: list[int] = []
    resume = fit.resume

    def recording(*args: Any) -> TrainState:
        state = resume(*args)
        resumed_at.append(int(state.iteration))
        return state

    with mock.patch.object(fit, "resume", recording):
        yield resumed_at


def replaced(old: Data, new: Data, num_rows: int) -> Data:
    """The first rows from `new`, the others from `old`."""
    return tuple(np.concatenate([b[:num_rows], a[num_rows:]]) for a, b in zip(old, new, strict=True))


def ess_percent(sampler: OneStepSampler) -> float:
    """ESS in % of fresh draws."""
    return 100 * float(effective_sample_size(sampler.draw(random.key(100), NUM_DRAWS).log_weights)) / NUM_DRAWS


def from_nothing(name: str, data: Data, key: Array, num_warmup: int) -> tuple[int, float]:
    """The iterations that a training took, fewer where it stops early, and its ESS in %."""
    sampler = untrained(name, num_warmup)
    sampler.warmup(key, *data)
    return int(sampler.last_state.train.iteration), ess_percent(sampler)


def untrained(name: str, num_warmup: int = 1000) -> OneStepSampler:
    """A sampler of one of the models."""
    kernel = OneStep(MODELS[name][0], coverage_audit=False, target_ess=1.0)
    return OneStepSampler(kernel, num_warmup=num_warmup, num_samples=100, progress_bar=False)


def measure(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """One row for each share of new data; `from_nothing` is infinite where the longest training does not suffice."""
    rng = np.random.default_rng(seed)
    simulate = MODELS[name][1]
    yesterday, today = simulate(rng), simulate(rng)
    sampler = untrained(name)
    sampler.warmup(random.key(seed + 10), *yesterday)
    trained, num_rows = sampler.last_state, len(yesterday[0])
    for num_new in sorted({1, math.ceil(num_rows / 10), num_rows}):
        data = replaced(yesterday, today, num_new)
        warm = untrained(name)
        warm.post_warmup_state = trained
        with recorded() as resumed_at:
            warm.run(random.key(seed + 20), *data, warm_start=True)
        reached = ess_percent(warm)
        cold = [from_nothing(name, data, random.key(seed + 20), n) for n in LADDER]
        yield {
            "model": name,
            "seed": seed,
            "new": f"{num_new} of {num_rows}",
            "warm": int(warm.last_state.train.iteration) - resumed_at[0],
            "ess": reached,
            "from_nothing": next((took for took, ess in cold if ess >= reached - 0.1), math.inf),
            "ess_of_full": cold[-1][1],
        }


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    print("| model | seed | new rows | warm: iterations | ESS, % | from nothing: iterations to that | ESS, % at 1000 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.models:
        for seed in options.seeds:
            for row in measure(name, seed):
                if math.isinf(row["from_nothing"]):
                    row["from_nothing"] = f"more than {LADDER[-1]}"
                cells = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values())
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
