"""Targets of the benchmarks: functions of a seed that give a model and its data, other seeds other data.

`TARGETS` are those of `answer_time.py`, `LARGE` those of several hundred dimensions.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from models import GALLERY
from numpyro.contrib.control_flow import scan
from problems import SCHOOLS_EFFECT, SCHOOLS_ERROR, read_csv

__all__ = ["LARGE", "LOG_Z", "TARGETS"]

Target = Callable[[int], tuple[Callable[..., None], tuple[Any, ...]]]


def schools_model(error: np.ndarray, effect: np.ndarray) -> None:
    """Centered eight schools."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, error), obs=effect)


def schools(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Rubin's data (1981), all effects moved by `seed`."""
    return schools_model, (SCHOOLS_ERROR, SCHOOLS_EFFECT + seed)


def logistic_model(prior_sd: float) -> Callable[..., None]:
    """Logistic regression; the first column of the features is the intercept's."""

    def model(x: np.ndarray, y: np.ndarray) -> None:
        beta = numpyro.sample("beta", dist.Normal(0, prior_sd).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)

    return model


NARROW, WIDE = logistic_model(1.0), logistic_model(10.0)


def from_csv(name: str, model: Callable[..., None], centered: bool) -> Target:
    """Logistic regression on a file of `problems.read_csv`; with another seed one label in fifty is turned over."""

    def make(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
        x, y = read_csv(name)
        sd = x.std(0)
        x = (x - x.mean(0) * centered) / np.where(sd == 0, 1.0, sd)
        turned = np.random.default_rng(seed).random(len(y)) < 0.02 * seed
        return model, (np.column_stack([np.ones(len(x)), x]).astype(np.float32), np.where(turned, 1 - y, y))

    return make


def from_gallery(name: str) -> Target:
    """A model of the gallery; with another seed its data of real numbers are scaled by a hundredth more."""

    def make(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
        entry = GALLERY[name]
        real = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in entry.args]
        return entry.model, tuple(a * (1 + 0.01 * seed) if r else a for a, r in zip(entry.args, real, strict=True))

    return make


def item_response_model(y: np.ndarray) -> None:
    """Two parameters an item, discriminations positive, and an ability for each person."""
    persons, items = y.shape
    slope = numpyro.sample("slope", dist.LogNormal(0, 1.0).expand([items]).to_event(1))
    difficulty = numpyro.sample("difficulty", dist.Normal(0, 2).expand([items]).to_event(1))
    with numpyro.plate("person", persons):
        ability = numpyro.sample("ability", dist.Normal(0, 1))
    numpyro.sample("y", dist.Bernoulli(logits=ability[:, None] * slope - difficulty), obs=y)


def item_response(persons: int, items: int) -> Target:
    """As many dimensions as persons and twice the items."""

    def make(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
        rng = np.random.default_rng(3 + seed)
        ability, slope, difficulty = rng.normal(size=persons), rng.lognormal(0.2, 0.3, items), rng.normal(0, 1, items)
        y = rng.random((persons, items)) < 1 / (1 + np.exp(-(slope * ability[:, None] - difficulty)))
        return item_response_model, (y.astype(np.float32),)

    return make


RESPONDENT, QUESTION = (part.ravel() for part in np.meshgrid(np.arange(100), np.arange(27), indexing="ij"))


def crossed_model(covariate: np.ndarray, y: np.ndarray) -> None:
    """Two crossed groups of effects, centered, with wide half-normal scales."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 5))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    scales = [numpyro.sample(f"{name}_scale", dist.HalfNormal(3)) for name in ("respondent", "question")]
    with numpyro.plate("respondents", 100):
        respondent = numpyro.sample("respondent", dist.Normal(0, scales[0]))
    with numpyro.plate("questions", 27):
        question = numpyro.sample("question", dist.Normal(0, scales[1]))
    logits = intercept + slope * covariate + respondent[RESPONDENT] + question[QUESTION]
    numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def crossed(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """100 respondents and 27 questions: 131 dimensions."""
    rng = np.random.default_rng(8 + seed)
    covariate = rng.integers(0, 2, 2700) - 0.5
    logits = -0.5 + 0.1 * covariate + rng.normal(0, 1.3, 100)[RESPONDENT] + rng.normal(0, 2.2, 27)[QUESTION]
    y = rng.random(2700) < 1 / (1 + np.exp(-logits))
    return crossed_model, (covariate.astype(np.float32), y.astype(np.float32))


def imputation_model(x1: np.ndarray, x2: np.ndarray, seen: np.ndarray, y: np.ndarray) -> None:
    """Regression on two correlated covariates, of which the second is missing at places."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 2))
    slopes = numpyro.sample("slopes", dist.Normal(0, 2).expand([2]).to_event(1))
    mean, link = numpyro.sample("mean", dist.Normal(0, 1)), numpyro.sample("link", dist.Normal(0, 1))
    scale, noise = numpyro.sample("scale", dist.HalfNormal(1)), numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        filled = numpyro.sample("x2", dist.Normal(mean + link * x1, scale), obs=x2, obs_mask=seen)
        numpyro.sample("y", dist.Normal(intercept + slopes[0] * x1 + slopes[1] * filled, noise), obs=y)


def imputation(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """150 rows, three in ten without the second covariate: 157 dimensions, those of the seen entries idle."""
    rng = np.random.default_rng(12 + seed)
    x = rng.multivariate_normal([0, 0], [[1.0, 0.6], [0.6, 1.0]], 150)
    y = 1 + 0.8 * x[:, 0] - 1.2 * x[:, 1] + rng.normal(0, 0.7, 150)
    seen = np.random.default_rng(12).random(150) >= 0.3
    x1, x2, y = (part.astype(np.float32) for part in (x[:, 0], np.where(seen, x[:, 1], 0.0), y))
    return imputation_model, (x1, x2, seen, y)


def regression_model(x: np.ndarray, y: np.ndarray) -> None:
    """Linear regression with unknown noise."""
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ beta, noise), obs=y)


def regression_50k(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """50,000 rows, 19 coefficients and the noise."""
    rng = np.random.default_rng(20 + seed)
    x = rng.normal(size=(50_000, 19)).astype(np.float32)
    y = x @ rng.normal(size=19) + 0.8 * rng.normal(size=50_000)
    return regression_model, (x, y.astype(np.float32))


def groups_model(group: jnp.ndarray, x: jnp.ndarray, y: jnp.ndarray) -> None:
    """Logistic regression with an intercept for each of 48 groups."""
    center, scale = numpyro.sample("center", dist.Normal(0, 1.5)), numpyro.sample("scale", dist.HalfNormal(1))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("groups", 48):
        intercept = numpyro.sample("intercept", dist.Normal(center, scale))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=intercept[group] + slope * x), obs=y)


def groups_50k(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """50,000 rows in 48 groups: 51 dimensions."""
    rng = np.random.default_rng(5 + seed)
    group, x = rng.integers(0, 48, 50_000), rng.normal(size=50_000)
    logits = rng.normal(-1, 0.5, 48)[group] + 0.4 * x
    y = rng.random(50_000) < 1 / (1 + np.exp(-logits))
    return groups_model, (jnp.asarray(group), jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def autoregression_model(y: np.ndarray) -> None:
    """A latent second-order autoregression, seen with noise; the neck of its scale is as long as the series."""
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([2]).to_event(1))
    scale, noise = numpyro.sample("scale", dist.HalfCauchy(1)), numpyro.sample("noise", dist.HalfCauchy(1))
    first = numpyro.sample("first", dist.Normal(0, 1).expand([2]).to_event(1))

    def step(last: tuple[Any, Any], seen: Any) -> tuple[tuple[Any, Any], None]:
        state = numpyro.sample("state", dist.Normal(weights[0] * last[1] + weights[1] * last[0], scale))
        numpyro.sample("y", dist.Normal(state, noise), obs=seen)
        return (last[1], state), None

    scan(step, (first[0], first[1]), y)


def autoregression(seed: int) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """250 steps: 256 dimensions."""
    rng = np.random.default_rng(4 + seed)
    state = np.zeros(252)
    for i in range(2, 252):
        state[i] = 1.2 * state[i - 1] - 0.4 * state[i - 2] + rng.normal(0, 0.6)
    return autoregression_model, (jnp.asarray(state[2:] + rng.normal(0, 0.5, 250), jnp.float32),)


LARGE: dict[str, Target] = {"item response, 280 persons": item_response(280, 10), "autoregression": autoregression}
TARGETS: dict[str, Target] = {
    "eight schools": schools,
    **{name: from_gallery(name) for name in GALLERY},
    "german credit": from_csv("german_credit", WIDE, centered=False),
    "ionosphere": from_csv("ionosphere", NARROW, centered=True),
    "sonar": from_csv("sonar", NARROW, centered=True),
    "item response": item_response(80, 12),
    "crossed effects": crossed,
    "imputation": imputation,
    "regression, 50k rows": regression_50k,
    "groups, 50k rows": groups_50k,
}
# as in `problems.py`; item response by bridges of 1024 particles, ± .02 and .06; the autoregression with its path
# integrated out, `autoregression_alone` of the field cases, by OneStep, ± .0014
LOG_Z = {"eight schools": -31.3113, "german credit": -585.091, "ionosphere": -111.61, "sonar": -108.379}
LOG_Z |= {"item response": -593.375, "item response, 280 persons": -1577.70, "autoregression": -338.665}
