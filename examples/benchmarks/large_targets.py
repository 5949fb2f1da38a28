"""Models of 50 to 1600 dimensions, with log Z where it is known in closed form, by quadrature or a particle filter."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from answer_targets import LOG_Z, autoregression, crossed, item_response
from numpyro.contrib.control_flow import scan
from problems import PROBLEMS, double_wells
from scipy.special import gammaln, logsumexp
from scipy.stats import halfcauchy, nbinom, norm

__all__ = ["LARGE_TARGETS", "LargeTarget"]


class LargeTarget(NamedTuple):
    """A model with its arguments, or a potential function of 50 numbers; log Z is nan where it is not known.

    `options` of `OneStep` are part of the problem's statement.
    """

    model: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    log_z: float = float("nan")
    potential_fn: Callable[[Any], Any] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012


def counts_model(count: np.ndarray) -> None:
    """A Gamma(3, 1) rate for each count."""
    with numpyro.plate("unit", len(count)):
        rate: Any = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
        numpyro.sample("count", dist.Poisson(rate), obs=count)


def counts(num: int) -> LargeTarget:
    """Independent Poisson counts; negative binomial each."""
    rng = np.random.default_rng(4)
    count = rng.poisson(rng.gamma(3.0, size=num))
    return LargeTarget(counts_model, (count,), float(nbinom(3, 0.5).logpmf(count).sum()))


def regression_model(x: np.ndarray, y: np.ndarray) -> None:
    """Linear regression with the conjugate prior: coefficients in units of the noise."""
    variance: Any = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    scale = jnp.sqrt(variance)
    beta: Any = numpyro.sample("beta", dist.Normal(0, scale).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, scale), obs=y)


def regression(num_rows: int = 800, num_features: int = 499) -> LargeTarget:
    """800 rows; y is a multivariate t."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(num_rows, num_features)) / num_features**0.5
    y = x @ rng.normal(size=num_features) + rng.normal(size=num_rows)
    cov = np.eye(num_rows) + x @ x.T
    square, log_det = y @ np.linalg.solve(cov, y), np.linalg.slogdet(cov)[1]
    a, b, half = 3.0, 2.0, num_rows / 2
    log_z = gammaln(a + half) - gammaln(a) + a * np.log(b) - (a + half) * np.log(b + square / 2)
    return LargeTarget(regression_model, (x, y), float(log_z - half * np.log(2 * np.pi) - log_det / 2))


def groups_model(error: np.ndarray, seen: np.ndarray) -> None:
    """Centered group means of unknown scale, as in the eight schools."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 5))
    scale: Any = numpyro.sample("scale", dist.HalfCauchy(1))
    with numpyro.plate("group", len(seen)):
        effect: Any = numpyro.sample("effect", dist.Normal(mean, scale))
        numpyro.sample("seen", dist.Normal(effect, error), obs=seen)


def groups(num: int = 200) -> LargeTarget:
    """200 groups whose scale may be nought; the mean is integrated out and the scale is on a grid."""
    rng = np.random.default_rng(5)
    error = rng.uniform(0.5, 1.5, num)
    seen = rng.normal(1, 0.3, num) + error * rng.normal(size=num)
    scale = np.exp(np.linspace(-14, 4, 4001))
    var = scale[:, None] ** 2 + error**2
    precision = 1 / 25 + np.sum(1 / var, axis=1)
    mean = np.sum(seen / var, axis=1) / precision
    log_p = np.sum(norm.logpdf(seen, 0, np.sqrt(var)), axis=1) + 0.5 * precision * mean**2
    log_p += halfcauchy.logpdf(scale) + np.log(scale) - 0.5 * np.log(25 * precision)
    return LargeTarget(groups_model, (error, seen), float(logsumexp(log_p) + np.log(np.log(scale[1] / scale[0]))))


def radon_model(county: np.ndarray, floor: np.ndarray, y: np.ndarray, num_counties: int) -> None:
    """An intercept and a slope for each county, centered (Gelman and Hill 2007, chapter 13, without correlation)."""
    means = [numpyro.sample(f"mean_{i}", dist.Normal(0, 5)) for i in range(2)]
    scales = [numpyro.sample(f"scale_{i}", dist.HalfNormal(1)) for i in range(2)]
    noise: Any = numpyro.sample("noise", dist.HalfNormal(2))
    with numpyro.plate("county", num_counties):
        intercept, slope = (
            numpyro.sample(name, dist.Normal(means[i], scales[i])) for i, name in enumerate(("intercept", "slope"))
        )
    numpyro.sample("y", dist.Normal(intercept[county] + slope[county] * floor, noise), obs=y)


def radon(num_counties: int = 85) -> LargeTarget:
    """919 homes in 85 counties, generated: few in most of the counties, and a scale of the slopes near nought."""
    rng = np.random.default_rng(9)
    county = rng.choice(num_counties, 919, p=rng.dirichlet(np.full(num_counties, 0.7)))
    floor = (rng.uniform(size=919) < 0.17).astype(float)
    intercept, slope = rng.normal(1.45, 0.32, num_counties), rng.normal(-0.67, 0.1, num_counties)
    y = intercept[county] + slope[county] * floor + rng.normal(0, 0.75, 919)
    return LargeTarget(
        radon_model, (county, floor, y, num_counties), -1117.780
    )  # of the next model, by OneStep, ± .001


def radon_alone_model(county: np.ndarray, floor: np.ndarray, y: np.ndarray, num_counties: int) -> None:
    """The same with the counties' intercepts and slopes integrated out."""
    means = [numpyro.sample(f"mean_{i}", dist.Normal(0, 5)) for i in range(2)]
    scales = [numpyro.sample(f"scale_{i}", dist.HalfNormal(1)) for i in range(2)]
    noise: Any = numpyro.sample("noise", dist.HalfNormal(2))
    rest: Any = (y - means[0] - means[1] * floor) / noise
    one, two = scales[0] / noise, scales[1] / noise

    def total(values: Any) -> Any:
        return jnp.zeros(num_counties).at[county].add(values)

    # of each county a 2 × 2 precision of its standardised effects, and what the data add to their mean
    a, b, c = 1 + one**2 * total(jnp.ones(len(y))), one * two * total(floor), 1 + two**2 * total(floor)
    g, h = one * total(rest), two * total(rest * floor)
    det = a * c - b**2
    explained = jnp.sum((c * g**2 - 2 * b * g * h + a * h**2) / det - jnp.log(det))
    numpyro.factor("y", 0.5 * explained + jnp.sum(dist.Normal(0, 1).log_prob(rest) - jnp.log(noise)))


def volatility_model(y: np.ndarray) -> None:
    """Log variances that follow a first-order autoregression, centered (Kim, Shephard and Chib 1998)."""
    mean: Any = numpyro.sample("mean", dist.Normal(0, 2))
    persistence: Any = numpyro.sample("persistence", dist.Beta(20, 1.5))
    scale: Any = numpyro.sample("scale", dist.HalfNormal(0.5))

    def step(last: Any, seen: Any) -> tuple[Any, None]:
        level: Any = numpyro.sample("level", dist.Normal(mean + persistence * (last - mean), scale))
        numpyro.sample("y", dist.Normal(0, jnp.exp(level / 2)), obs=seen)
        return level, None

    first: Any = numpyro.sample("first", dist.Normal(mean, scale / jnp.sqrt(1 - persistence**2)))
    numpyro.sample("first_y", dist.Normal(0, jnp.exp(first / 2)), obs=y[0])
    scan(step, first, y[1:])


def volatility(num: int = 500) -> LargeTarget:
    """500 days, generated."""
    rng = np.random.default_rng(7)
    level = np.zeros(num)
    level[0] = rng.normal() * 0.2 / np.sqrt(1 - 0.95**2)
    for day in range(1, num):
        level[day] = 0.95 * level[day - 1] + 0.2 * rng.normal()
    # by `particle_filter.py`, ± .06
    return LargeTarget(volatility_model, (np.exp((level - 1) / 2) * rng.normal(size=num),), -348.05)


def one_parameter_model(y: np.ndarray) -> None:
    """Abilities and difficulties (Rasch 1960), as in benchmarks of samplers."""
    mean: Any = numpyro.sample("mean", dist.Normal(0.75, 1))
    ability: Any = numpyro.sample("ability", dist.Normal(0, 1).expand([y.shape[0]]).to_event(1))
    difficulty: Any = numpyro.sample("difficulty", dist.Normal(0, 1).expand([y.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=ability[:, None] - difficulty + mean), obs=y)


def one_parameter(persons: int = 400, items: int = 100) -> LargeTarget:
    """400 persons and 100 items, generated."""
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(persons, 1)) - rng.normal(size=items) + 0.75
    return LargeTarget(
        one_parameter_model, ((rng.uniform(size=(persons, items)) < 1 / (1 + np.exp(-logits))).astype(int),)
    )


def cox_model(count: np.ndarray, factor: np.ndarray) -> None:
    """A log-Gaussian Cox process on a grid, whitened; log Z without the constant log count!."""
    white: Any = numpyro.sample("white", dist.Normal(0, 1).expand([len(count)]).to_event(1))
    level = np.log(126) - 0.5 * 1.91 + factor @ white
    numpyro.factor("count", jnp.sum(count * level - jnp.exp(level) / len(count)))


def cox(side: int = 40) -> LargeTarget:
    """126 Finnish pines (Penttinen, Stoyan and Henttonen 1992) on 40 × 40 cells, as in Møller et al. (1998).

    Variance 1.91 and a correlation that falls by e in 1/33 of the side. The points are read from `pines.csv` in the
    folder that ONESTEP_DATA names: two columns after the first, from 0 to 1.
    """
    path = Path(os.environ.get("ONESTEP_DATA", "data")) / "pines.csv"
    points = np.genfromtxt(path, delimiter=",", skip_header=1)[:, 1:3]
    count, _, _ = np.histogram2d(*points.T, bins=side, range=[[0, 1], [0, 1]])
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2) / side
    distance = np.linalg.norm(cells[:, None] - cells, axis=-1)
    factor = np.linalg.cholesky(1.91 * np.exp(-33 * distance))
    return LargeTarget(cox_model, (count.ravel(), factor), 501.78)  # by tempering from the prior, ± .1


def lorenz_model(y: np.ndarray) -> None:
    """The Lorenz equations with noise in each of 30 Euler steps, the first coordinate seen at both ends of the path.

    "Convection Lorenz bridge" of the Inference Gym (Sountsov, Radul et al. 2020).
    """

    def moved(x: Any) -> Any:
        change = jnp.stack([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])
        return x + 0.02 * change

    def step(x: Any, seen: Any) -> tuple[Any, None]:
        x = numpyro.sample("x", dist.Normal(moved(x), 0.02**0.5 * 0.1).to_event(1))
        with numpyro.handlers.mask(mask=~jnp.isnan(seen)):
            numpyro.sample("y", dist.Normal(x[0], 1.0), obs=jnp.nan_to_num(seen))
        return x, None

    first: Any = numpyro.sample("first", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("first_y", dist.Normal(first[0], 1.0), obs=y[0])
    scan(step, first, y[1:])


def lorenz() -> LargeTarget:
    """Thirty steps, ten of them unseen, generated."""
    rng = np.random.default_rng(11)
    x, path = rng.normal(size=3), []
    for _ in range(30):
        path.append(x[0])
        change = np.array([10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])
        x = x + 0.02 * change + 0.02**0.5 * 0.1 * rng.normal(size=3)
    y = np.array(path) + rng.normal(size=30)
    y[10:20] = np.nan
    return LargeTarget(lorenz_model, (y,), -30.98)  # by a bootstrap particle filter, ± .01


def mixture_model(components: Any) -> Callable[[], None]:
    """A mixture with equal weights as the prior of a model without data: log Z is nought."""

    def model() -> None:
        weights = dist.CategoricalProbs(np.full(len(components.mean), 1 / len(components.mean)))
        numpyro.sample("x", dist.MixtureSameFamily(weights, components))

    return model


def modes(num: int = 40, dim: int = 50) -> LargeTarget:
    """Gaussians with unit variances and means uniform in [−40, 40]^50, as in the paper's code."""
    means = np.random.default_rng(12).uniform(-40, 40, (num, dim))
    model = mixture_model(dist.Normal(means, np.log1p(np.e)).to_event(1))
    return LargeTarget(model, (), 0.0, options={"init_scale": 25.0})


def student(num: int = 10, dim: int = 50, df: float = 2.0) -> LargeTarget:
    """Products of t densities with two degrees of freedom, their centres uniform in [−10, 10]^50, as in the paper's."""
    centers = np.random.default_rng(13).uniform(-10, 10, (num, dim))
    return LargeTarget(mixture_model(dist.StudentT(df, centers, 1.0).to_event(1)), (), 0.0, options={"init_scale": 6.0})


def wells() -> LargeTarget:
    """25 double wells."""
    problem = double_wells(25)
    return LargeTarget(None, (), problem.log_z, problem.potential_fn)


LARGE_TARGETS: dict[str, Callable[[], LargeTarget]] = {
    "counts": lambda: counts(400),
    "counts, 1000": lambda: counts(1000),
    "linear regression": regression,
    "group means": groups,
    "crossed effects": lambda: LargeTarget(*crossed(0)),
    "item response": lambda: LargeTarget(*item_response(280, 10)(0)),
    "item response, one parameter": one_parameter,
    "autoregression": lambda: LargeTarget(*autoregression(0), LOG_Z["autoregression"]),
    "radon": radon,
    "radon, counties integrated out": lambda: radon()._replace(model=radon_alone_model),
    "stochastic volatility": volatility,
    "logistic regression": lambda: LargeTarget(PROBLEMS["logistic_300"]().model),
    "Lorenz": lorenz,
    "Cox process": cox,
    "wells": wells,
    "modes": modes,
    "Student-t mixture": student,
}
