"""The benchmark problems: a model or a potential function, its data, and what is known of its answer."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.scipy.special import logsumexp
from scipy.stats import nbinom

__all__ = ["ABLATED", "PROBLEMS", "Problem"]

ABLATED = ("funnel", "double_wells_32", "ionosphere")  # on which `ablation.py` compares


@dataclass(frozen=True)
class Problem:
    """A target with its known log evidence.

    Attributes:
        log_z: log evidence in nats, from a closed form or quadrature unless `log_z_error` is not zero; nan if unknown.
        model: NumPyro model without arguments, or None.
        potential_fn: potential energy on a flat vector, or None.
        init_params: example parameters of the potential function.
        moments: exact mean and standard deviation of each (flattened, sorted by site) coordinate, or None.
        modes: centres, exact probabilities and standard deviation of the components of a mixture, or None.
        draws: exact draws on the flat space of the potential, (rng_key, number) → (number, D), or None.
        log_z_error: standard error of `log_z`, nats.
        options: options of `OneStep` that are part of the problem's statement.
    """

    log_z: float
    model: Callable[[], None] | None = None
    potential_fn: Callable[[Any], jax.Array] | None = None
    init_params: Any = None
    moments: tuple[np.ndarray, np.ndarray] | None = None
    modes: tuple[np.ndarray, np.ndarray, float] | None = None
    draws: Callable[[jax.Array, int], jax.Array] | None = None
    log_z_error: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


SCHOOLS_EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # Rubin (1981)
SCHOOLS_ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> Problem:
    """Centered eight schools with a half-Cauchy scale; evidence by quadrature over tau."""

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("school", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, SCHOOLS_ERROR), obs=SCHOOLS_EFFECT)

    return Problem(log_z=-31.3113, model=model)


def logistic(features: np.ndarray, labels: np.ndarray, prior_sd: float, log_z: float, log_z_error: float) -> Problem:
    """Logistic regression with an intercept (the first weight) and Normal(0, prior_sd) weights."""
    x = jnp.asarray(np.concatenate([np.ones((len(features), 1)), features], axis=1))

    def model() -> None:
        beta = numpyro.sample("beta", dist.Normal(0, prior_sd).expand([x.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=labels)

    return Problem(log_z, model, log_z_error=log_z_error)


def breast_cancer(prior_sd: float = 1.0) -> Problem:
    """Scikit-learn's breast cancer data, 31-d; evidence by adaptive t importance sampling.

    With Normal(0, 1) weights the features are standardised; with Normal(0, 10) weights they are only divided by their
    standard deviations, as is usual for this target, whose classes are nearly separable.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    sd = data.data.std(0)
    if prior_sd == 1.0:
        return logistic((data.data - data.data.mean(0)) / sd, data.target, 1.0, -55.222, 0.003)
    return logistic(data.data / sd, 1 - data.target, prior_sd, -77.58, 0.015)


def read_csv(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of `name`.csv: a header, then the label (0 or 1) and the raw features in each row.

    The files are looked for in the folder that the environment variable ONESTEP_DATA names. They are made from
    https://archive.ics.uci.edu: "Ionosphere", "Connectionist Bench (Sonar, Mines vs. Rocks)" and the numeric version of
    "Statlog (German Credit Data)".
    """
    path = Path(os.environ.get("ONESTEP_DATA", "data")) / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: set ONESTEP_DATA to the folder that holds it. {read_csv.__doc__}")
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, 1:], table[:, 0].astype(int)


def standardised(name: str, log_z: float, log_z_error: float) -> Problem:
    """Logistic regression, standardised features, Normal(0, 1) weights; evidence by adaptive t importance sampling."""
    x, y = read_csv(name)
    sd = x.std(0)
    return logistic((x - x.mean(0)) / np.where(sd == 0, 1.0, sd), y, 1.0, log_z, log_z_error)


def german_credit() -> Problem:
    """German credit, 25-d, features divided by their sd, Normal(0, 10) weights; evidence as above."""
    x, y = read_csv("german_credit")
    return logistic(x / x.std(0), y, 10.0, -585.091, 0.004)


def conjugate_regression() -> Problem:
    """Linear regression, 20 coefficients, feature scales from .1 to 100, closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 20)) * np.logspace(-1, 2, 20)
    y = x @ (rng.normal(size=20) / np.logspace(-1, 2, 20)) + rng.normal(size=100)
    prior_sd = 2.0
    precision = x.T @ x + np.eye(20) / prior_sd**2
    mean = np.linalg.solve(precision, x.T @ y)
    cov_y = np.eye(100) + prior_sd**2 * x @ x.T
    log_z = -0.5 * (y @ np.linalg.solve(cov_y, y) + np.linalg.slogdet(2 * np.pi * cov_y)[1])

    def model() -> None:
        beta = numpyro.sample("beta", dist.Normal(0, prior_sd).expand([20]).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.asarray(x) @ beta, 1), obs=jnp.asarray(y))

    return Problem(float(log_z), model, moments=(mean, np.sqrt(np.diag(np.linalg.inv(precision)))))


def logistic_300() -> Problem:
    """Logistic regression on 299 made features and an intercept, 600 observations, Normal(0, 1) weights."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(600, 299)) * 2 / math.sqrt(300)
    logits = features @ rng.normal(size=299)
    labels = (rng.uniform(size=600) < 1 / (1 + np.exp(-logits))).astype(int)
    return logistic(features, labels, 1.0, float("nan"), 0.0)


def counts_400() -> Problem:
    """400 Poisson counts, each with a Gamma(3, 1) rate of its own; closed form."""
    rng = np.random.default_rng(4)
    counts = rng.poisson(rng.gamma(3.0, size=400))

    def model() -> None:
        with numpyro.plate("unit", 400):
            rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
            numpyro.sample("count", dist.Poisson(rate), obs=counts)

    log_z = float(nbinom(3, 0.5).logpmf(counts).sum())
    return Problem(log_z, model, moments=((3 + counts) / 2, np.sqrt(3 + counts) / 2))


def gaussian_100() -> Problem:
    """A normalised Gaussian in 100 dimensions, location 1000, rotated, condition number 1e4."""
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    sd = np.logspace(-2, 0, 100)
    cov = rotation @ np.diag(sd**2) @ rotation.T
    whiten = np.diag(1 / sd) @ rotation.T

    def potential_fn(z: jax.Array) -> jax.Array:
        r = jnp.asarray(whiten) @ (z - 1000.0)
        return 0.5 * jnp.sum(r**2) + float(np.log(sd).sum()) + 50 * math.log(2 * math.pi)

    moments = (np.full(100, 1000.0), np.sqrt(np.diag(cov)))
    return Problem(0.0, potential_fn=potential_fn, init_params=jnp.zeros(100), moments=moments)


def funnel() -> Problem:
    """Neal's funnel: v ~ Normal(0, 3), x_i ~ Normal(0, exp(v/2)), i = 1..9."""

    def potential_fn(z: jax.Array) -> jax.Array:
        v, x = z[0], z[1:]
        log_p = -0.5 * (v / 3) ** 2 - math.log(3) - 0.5 * jnp.sum(x**2) * jnp.exp(-v) - 4.5 * v
        return -(log_p - 5 * math.log(2 * math.pi))

    def draws(rng_key: jax.Array, num: int) -> jax.Array:
        z = random.normal(rng_key, (num, 10))
        v = 3 * z[:, :1]
        return jnp.concatenate([v, z[:, 1:] * jnp.exp(v / 2)], axis=1)

    sd = np.concatenate([[3.0], np.full(9, np.exp(9 / 4))])
    zero = jnp.zeros(10)
    return Problem(0.0, potential_fn=potential_fn, init_params=zero, moments=(np.zeros(10), sd), draws=draws)


# Inference Gym, "Brownian motion, unknown scales, missing middle observations" (Sountsov, Radul et al. 2020)
BROWNIAN_EARLY = [0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845]
BROWNIAN_EARLY += [-0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782]
BROWNIAN_LATE = [-0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566]
BROWNIAN_LATE += [-0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789]


def brownian() -> Problem:
    """A Brownian motion of 30 steps seen with noise at 20 of them, both scales LogNormal(0, 2): 32-d.

    Evidence by quadrature over the two scales, given which all is Gaussian.
    """
    seen = np.r_[0:10, 20:30]
    data = np.array(BROWNIAN_EARLY + BROWNIAN_LATE)
    kernel = 1.0 + np.minimum.outer(seen, seen)
    values, vectors = np.linalg.eigh(kernel)
    log_scale = np.linspace(-12, 8, 801)
    variance = np.exp(2 * log_scale)[:, None, None] * values + np.exp(2 * log_scale)[:, None]
    log_lik = -0.5 * np.sum((vectors.T @ data) ** 2 / variance + np.log(2 * np.pi * variance), axis=-1)
    log_prior = -0.5 * (log_scale / 2) ** 2 - math.log(2 * math.sqrt(2 * math.pi))
    log_z = logsumexp(log_lik + log_prior[:, None] + log_prior) + 2 * math.log(log_scale[1] - log_scale[0])

    def model() -> None:
        innovation = numpyro.sample("innovation", dist.LogNormal(0, 2))
        noise = numpyro.sample("noise", dist.LogNormal(0, 2))
        path = numpyro.sample("path", dist.GaussianRandomWalk(innovation, 30))
        numpyro.sample("y", dist.Normal(path[seen], noise), obs=jnp.asarray(data))

    return Problem(float(log_z), model)


def double_wells(num_wells: int, rotated: bool = False) -> Problem:
    """Pairs (x1, x2) with log density −x1⁴ + 6x1² + x1/2 − x2²/2; evidence and moments by quadrature.

    `rotated` turns all of space by a random rotation, so that no well lies along an axis.
    """
    rotation = np.eye(2 * num_wells)
    if rotated:
        rotation = np.linalg.qr(np.random.default_rng(2).normal(size=rotation.shape))[0]
    grid = np.linspace(-6, 6, 200_001)
    density = np.exp(-(grid**4) + 6 * grid**2 + grid / 2)
    mass = np.trapezoid(density, grid)
    mean = np.trapezoid(grid * density, grid) / mass
    sd = np.sqrt(np.trapezoid((grid - mean) ** 2 * density, grid) / mass)

    def potential_fn(z: jax.Array) -> jax.Array:
        x = jnp.asarray(rotation).T @ z if rotated else z
        a, b = x[0::2], x[1::2]
        return jnp.sum(a**4 - 6 * a**2 - a / 2 + b**2 / 2)

    def draws(rng_key: jax.Array, num: int) -> jax.Array:
        key_well, key_rest = random.split(rng_key)
        uniform = random.uniform(key_well, (num, num_wells))
        wells = jnp.interp(uniform, jnp.asarray(np.cumsum(density) / density.sum()), jnp.asarray(grid))
        x = jnp.stack([wells, random.normal(key_rest, (num, num_wells))], axis=2).reshape(num, -1)
        return x @ jnp.asarray(rotation).T

    variances = np.tile([sd**2, 1.0], num_wells)
    moments = (rotation @ np.tile([mean, 0.0], num_wells), np.sqrt((rotation**2) @ variances))
    log_z = num_wells * (math.log(mass) + 0.5 * math.log(2 * math.pi))
    zero = jnp.zeros(2 * num_wells)
    return Problem(log_z, potential_fn=potential_fn, init_params=zero, moments=moments, draws=draws)


def mixture(num_modes: int, half_width: float, sd: float, options: dict[str, Any] | None = None) -> Problem:
    """Equal Gaussians in 2-d with means uniform in [−half_width, half_width]²; normalised."""
    # the same in either precision, which decides the random bits
    means = random.uniform(random.key(0), (num_modes, 2), jnp.float32, -half_width, half_width)
    means = np.asarray(means, float)

    def potential_fn(z: jax.Array) -> jax.Array:
        log_kernel = -0.5 * jnp.sum(((z - means) / sd) ** 2, axis=1) - 2 * math.log(sd) - math.log(2 * math.pi)
        return -(logsumexp(log_kernel) - math.log(num_modes))

    def draws(rng_key: jax.Array, num: int) -> jax.Array:
        key_mode, key_noise = random.split(rng_key)
        return jnp.asarray(means)[random.randint(key_mode, (num,), 0, num_modes)] + sd * random.normal(
            key_noise, (num, 2)
        )

    return Problem(
        0.0,
        potential_fn=potential_fn,
        init_params=jnp.zeros(2),
        moments=(means.mean(0), np.sqrt(means.var(0) + sd**2)),
        modes=(means, np.full(num_modes, 1 / num_modes), sd),
        draws=draws,
        options=options or {},
    )


SEEDS_GERMINATED = np.array([10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3])
SEEDS_TOTAL = np.array([39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7])


def seeds() -> Problem:
    """Random-effects logistic regression of seed germination, 26-d (Crowder 1978; BUGS examples, volume 1).

    Normal(0, 10) coefficients, Gamma(.01, .01) precision of the plates' effects; evidence by tempered SMC.
    """
    seed_type, extract = np.repeat([0, 1], [11, 10]), np.repeat([0, 1, 0, 1], [5, 6, 5, 5])
    features = np.stack([np.ones(21), seed_type, extract, seed_type * extract], axis=1)

    def model() -> None:
        tau = numpyro.sample("tau", dist.Gamma(0.01, 0.01))
        alpha = numpyro.sample("alpha", dist.Normal(0, 10).expand([4]).to_event(1))
        with numpyro.plate("plate", 21):
            b = numpyro.sample("b", dist.Normal(0, tau**-0.5))
            logits = jnp.asarray(features) @ alpha + b
            numpyro.sample("r", dist.Binomial(SEEDS_TOTAL, logits=logits), obs=SEEDS_GERMINATED)

    return Problem(log_z=-73.39, model=model, log_z_error=0.03)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "eight_schools": eight_schools,
    "breast_cancer": breast_cancer,
    "conjugate_regression": conjugate_regression,
    "gaussian_100": gaussian_100,
    "funnel": funnel,
    "double_wells_4": lambda: double_wells(2),
    "double_wells_32": lambda: double_wells(16),
    "double_wells_32_rotated": lambda: double_wells(16, rotated=True),
    "mixture_8": lambda: mixture(8, 4.0, 0.3),
    "mixture_40": lambda: mixture(40, 40.0, math.log1p(math.e), {"init_scale": 25.0}),
    "seeds": seeds,
    "brownian": brownian,
    "german_credit": german_credit,
    "ionosphere": lambda: standardised("ionosphere", -111.61, 0.004),
    "sonar": lambda: standardised("sonar", -108.379, 0.005),
    "breast_cancer_wide": lambda: breast_cancer(10.0),
    "logistic_300": logistic_300,
    "counts_400": counts_400,
}
