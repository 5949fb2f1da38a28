"""Densities with edges and jumps: a limit by `factor`, a bound that is a site, a change point, an unknown total."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from entry import Draws
from scipy.special import gammaln, logsumexp
from scipy.stats import norm, truncnorm

__all__ = [
    "AMOUNTS",
    "SERIALS",
    "amounts",
    "amounts_exactly",
    "change_point",
    "change_point_exactly",
    "counts",
    "edge",
    "edge_exactly",
    "fractions",
    "total",
    "total_exactly",
]

_EDGE = -0.5


def edge() -> None:
    """A standard normal below an edge, cut off by hand."""
    x: Any = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("limit", jnp.where(x < _EDGE, 0.0, -jnp.inf))


def edge_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """Exact draws and log Z."""
    return {"x": truncnorm.rvs(-np.inf, _EDGE, size=num, random_state=rng)}, float(norm.logcdf(_EDGE))


AMOUNTS = np.array([1.1, 0.9, 1.3, 1.2])
_WEIGHT, _MOST, _AMOUNT_ERROR = np.array([1.2, 0.8, 2.0, 1.5]), 4.0, 0.6


def amounts(seen: np.ndarray) -> None:
    """Amounts of four things in a bag, seen with errors, whose weight is below a limit."""
    amount: Any = numpyro.sample("amount", dist.Gamma(2.0, 1.0).expand([4]).to_event(1))
    numpyro.factor("limit", jnp.where(amount @ _WEIGHT < _MOST, 0.0, -jnp.inf))
    numpyro.sample("seen", dist.Normal(amount, _AMOUNT_ERROR).to_event(1), obs=seen)


def amounts_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """Draws of the prior that keep the limit, resampled by the likelihood: log Z ± .002."""
    amount = rng.gamma(2.0, 1.0, (4_000_000, 4))
    kept = amount[amount @ _WEIGHT < _MOST]
    log_weight = norm.logpdf(AMOUNTS, kept, _AMOUNT_ERROR).sum(1)
    weight = np.exp(log_weight - logsumexp(log_weight))
    return {"amount": rng.choice(kept, num, p=weight)}, float(logsumexp(log_weight) - np.log(len(amount)))


SERIALS = np.array([47.0, 112.0, 174.0, 188.0, 213.0])
_MOST_IN_ALL = 2000.0


def total(serials: np.ndarray) -> None:
    """How many there are, from serial numbers of a few: none is above the total, all below are as likely."""
    number: Any = numpyro.sample("number", dist.Uniform(1.0, _MOST_IN_ALL))
    inside = number >= jnp.max(serials)
    numpyro.factor("serials", jnp.where(inside, -len(serials) * jnp.log(number), -jnp.inf))


def total_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """A power law between the largest serial number and the most."""
    power, low, high = len(SERIALS) - 1, np.max(SERIALS), _MOST_IN_ALL
    mass = low**-power - high**-power
    draws = (low**-power - rng.random(num) * mass) ** (-1 / power)
    return {"number": draws}, float(np.log(mass / power) - np.log(high - 1.0))


def fractions() -> None:
    """Two fractions of what a first one leaves: their bound is another site."""
    first: Any = numpyro.sample("first", dist.Uniform(0, 1))
    numpyro.sample("others", dist.Uniform(0, 1 - first).expand([2]).to_event(1))


_STEPS = 60


def counts() -> np.ndarray:
    """Sixty counts whose rate falls from 3 to 1.8 after 35."""
    return np.random.default_rng(21).poisson(np.where(np.arange(_STEPS) < 35, 3.0, 1.8))


def change_point(seen: np.ndarray) -> None:
    """Two rates and the time of the change; the likelihood is a step function of the time."""
    before, after = (numpyro.sample(name, dist.Gamma(2.0, 1.0)) for name in ("before", "after"))
    time: Any = numpyro.sample("time", dist.Uniform(0, len(seen)))
    numpyro.sample("counts", dist.Poisson(jnp.where(jnp.arange(len(seen)) < time, before, after)), obs=seen)


def change_point_exactly(num: int, rng: np.random.Generator) -> tuple[Draws, float]:
    """By enumeration of the intervals that the time may lie in; given one, the rates are Gamma distributed."""
    seen = counts()
    first = np.arange(1, _STEPS + 1)  # counts before the change
    shape = 2.0 + np.stack([np.cumsum(seen), np.sum(seen) - np.cumsum(seen)])
    rate = 1.0 + np.stack([first, _STEPS - first])
    log_mass = np.sum(gammaln(shape) - shape * np.log(rate), axis=0) - np.sum(gammaln(seen + 1)) - np.log(_STEPS)
    which = rng.choice(_STEPS, num, p=np.exp(log_mass - logsumexp(log_mass)))
    before, after = rng.gamma(shape[:, which]) / rate[:, which]
    return {"before": before, "after": after, "time": which + rng.random(num)}, float(logsumexp(log_mass))
