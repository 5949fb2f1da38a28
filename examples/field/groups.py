"""Many members of a group: survival, choices, shares, learning, excess zeros, detections."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.nn import log_sigmoid

__all__ = [
    "accelerated",
    "catches",
    "choices",
    "clinics",
    "detections",
    "excess_zeros",
    "learning",
    "lifetimes",
    "occupancy",
    "plays",
    "preferences",
    "shares",
    "survival",
    "votes",
]

_CLINICS = 200


def clinics() -> tuple[np.ndarray, ...]:
    """Lifetimes of 600 patients in 200 clinics, two in five of them cut off at the end of the study."""
    rng = np.random.default_rng(41)
    clinic, treated = np.repeat(np.arange(_CLINICS), 3), rng.integers(0, 2, 3 * _CLINICS).astype(float)
    effect = rng.normal(0, 0.6, _CLINICS)
    time = rng.weibull(1.4, len(clinic)) * np.exp(1.0 + 0.4 * treated + effect[clinic])
    return clinic, treated, np.minimum(time, 3.5), time < 3.5


def survival(clinic: np.ndarray, treated: np.ndarray, time: np.ndarray, died: np.ndarray) -> None:
    """Weibull lifetimes with an effect of each clinic, centered; those still alive lived on."""
    shape: Any = numpyro.sample("shape", dist.LogNormal(0, 0.5))
    treatment: Any = numpyro.sample("treatment", dist.Normal(0, 1))
    mean: Any = numpyro.sample("mean", dist.Normal(0, 2))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("clinics", _CLINICS):
        effect: Any = numpyro.sample("effect", dist.Normal(mean, scale))
    log_time = shape * (jnp.log(time) - effect[clinic] - treatment * treated)
    hazard = jnp.where(died, jnp.log(shape) + log_time - jnp.log(time), 0.0)
    numpyro.factor("lifetimes", jnp.sum(hazard - jnp.exp(log_time)))


def lifetimes(num: int = 90) -> tuple[np.ndarray, ...]:
    """Lifetimes of two groups, cut off at different times."""
    rng = np.random.default_rng(42)
    x = np.stack([rng.integers(0, 2, num), rng.normal(size=num)], axis=1)
    time, end = rng.gumbel(size=num), rng.uniform(1.0, 6.0, num)
    time = np.exp(1.2 + x @ [0.7, -0.4] - 0.6 * time)
    return x, np.minimum(time, end), time < end


def accelerated(x: np.ndarray, time: np.ndarray, died: np.ndarray) -> None:
    """Accelerated failure: Weibull lifetimes by regression, some of them cut off."""
    intercept: Any = numpyro.sample("intercept", dist.Normal(0, 3))
    slopes: Any = numpyro.sample("slopes", dist.Normal(0, 1).expand([2]).to_event(1))
    spread: Any = numpyro.sample("spread", dist.HalfNormal(1))
    z = (jnp.log(time) - intercept - x @ slopes) / spread
    numpyro.factor("lifetimes", jnp.sum(jnp.where(died, z - jnp.log(spread) - jnp.log(time), 0.0) - jnp.exp(z)))


def preferences(num_people: int = 40, num_tasks: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Three features of three things to choose from, and what each person chose in each task."""
    rng = np.random.default_rng(43)
    features = rng.normal(size=(num_people, num_tasks, 3, 3))
    taste = np.array([1.0, -0.6, 0.3]) + rng.normal(size=(num_people, 3)) * [0.8, 0.4, 0.2]
    utility = np.einsum("ptcf,pf->ptc", features, taste) + rng.gumbel(size=(num_people, num_tasks, 3))
    return features, np.argmax(utility, axis=-1)


def choices(features: np.ndarray, chosen: np.ndarray) -> None:
    """Mixed logit: each person has tastes of their own, centered."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 2).expand([3]).to_event(1))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1).expand([3]).to_event(1))
    with numpyro.plate("person", len(features)):
        taste: Any = numpyro.sample("taste", dist.Normal(mean, scale).to_event(1))
    utility = jnp.einsum("ptcf,pf->ptc", features, taste)
    numpyro.sample("chosen", dist.Categorical(logits=utility).to_event(2), obs=chosen)


def votes(num_districts: int = 30) -> np.ndarray:
    """Votes for four parties in thirty districts."""
    rng = np.random.default_rng(44)
    share = rng.dirichlet(20 * np.array([0.4, 0.3, 0.2, 0.1]), num_districts)
    return np.stack([rng.multinomial(n, p) for n, p in zip(rng.integers(30, 200, num_districts), share, strict=True)])


def shares(counts: np.ndarray) -> None:
    """Dirichlet–multinomial: shares of each district about those of the country."""
    country: Any = numpyro.sample("country", dist.Dirichlet(jnp.ones(counts.shape[1])))
    log_concentration: Any = numpyro.sample("log_concentration", dist.Normal(3, 1))
    with numpyro.plate("district", len(counts)):
        share: Any = numpyro.sample("share", dist.Dirichlet(jnp.exp(log_concentration) * country))
        numpyro.sample("votes", dist.Multinomial(np.sum(counts, axis=1), share), obs=counts)


def plays(num_people: int = 20, num_trials: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Which of two machines each person played, and whether it paid."""
    rng = np.random.default_rng(45)
    rate = 1 / (1 + np.exp(-rng.normal(-0.8, 0.6, num_people)))
    strength = np.exp(rng.normal(1.2, 0.4, num_people))
    value, played, paid = np.zeros((num_people, 2)), [], []
    for _ in range(num_trials):
        choice = (rng.random(num_people) < 1 / (1 + np.exp(-strength * (value[:, 1] - value[:, 0])))).astype(int)
        reward = (rng.random(num_people) < np.where(choice == 1, 0.7, 0.3)).astype(float)
        rows = np.arange(num_people)
        value[rows, choice] += rate * (reward - value[rows, choice])
        played.append(choice)
        paid.append(reward)
    return np.array(played), np.array(paid)


def learning(played: np.ndarray, paid: np.ndarray) -> None:
    """Q-learning: each person has a learning rate and a strength of preference of their own."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 1).expand([2]).to_event(1))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
    with numpyro.plate("person", played.shape[1]):
        person: Any = numpyro.sample("person_effect", dist.Normal(mean, scale).to_event(1))
    rate, strength = jax.nn.sigmoid(person[:, 0]), jnp.exp(person[:, 1])

    def trial(value: jax.Array, seen: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        choice, reward = seen
        prefers = strength * (value[:, 1] - value[:, 0])
        one_hot = jax.nn.one_hot(choice, 2)
        new = value + one_hot * (rate * (reward - jnp.sum(one_hot * value, axis=1)))[:, None]
        return new, log_sigmoid(jnp.where(choice == 1, prefers, -prefers))

    _, log_prob = jax.lax.scan(trial, jnp.zeros((played.shape[1], 2)), (jnp.asarray(played), jnp.asarray(paid)))
    numpyro.factor("plays", jnp.sum(log_prob))


def catches(num_lakes: int = 25, num_visits: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Fish caught by visitors of lakes, of whom many did not fish."""
    rng = np.random.default_rng(46)
    lake = np.repeat(np.arange(num_lakes), num_visits)
    rate = np.exp(rng.normal(0.5, 0.7, num_lakes))
    return lake, np.where(rng.random(len(lake)) < 0.35, 0, rng.poisson(rate[lake]))


def excess_zeros(lake: np.ndarray, caught: np.ndarray) -> None:
    """Zero-inflated Poisson with an effect of each lake, centered."""
    gate: Any = numpyro.sample("gate", dist.Beta(1, 1))
    mean: Any = numpyro.sample("mean", dist.Normal(0, 2))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("lakes", int(np.max(lake)) + 1):
        log_rate: Any = numpyro.sample("log_rate", dist.Normal(mean, scale))
    numpyro.sample("caught", dist.ZeroInflatedPoisson(gate, jnp.exp(log_rate)[lake]), obs=caught)


def detections(num_sites: int = 60, num_visits: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """In how many of four visits a species was seen at each site."""
    rng = np.random.default_rng(47)
    x = rng.normal(size=num_sites)
    there = rng.random(num_sites) < 1 / (1 + np.exp(-(0.3 + 1.1 * x)))
    return x, rng.binomial(num_visits, 0.35 * there)


def occupancy(x: np.ndarray, seen: np.ndarray) -> None:
    """Occupancy: whether the species is at a site is summed over."""
    intercept, slope = (numpyro.sample(name, dist.Normal(0, 1.5)) for name in ("intercept", "slope"))
    detection: Any = numpyro.sample("detection", dist.Beta(1, 1))
    logits: Any = intercept + slope * x
    there = log_sigmoid(logits) + dist.Binomial(4, detection).log_prob(seen)
    numpyro.factor("seen", jnp.sum(jnp.where(seen > 0, there, jnp.logaddexp(there, log_sigmoid(-logits)))))
