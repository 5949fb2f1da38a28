"""The benchmark problems: a model or a potential function, its data, and what is known of its answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.scipy.special import logsumexp

__all__ = ["PROBLEMS", "Problem"]


@dataclass(frozen=True)
class Problem:
    """A target with its known log evidence.

    Attributes:
        log_z: log evidence in nats, from a closed form or quadrature unless the comment beside it says otherwise.
        model: NumPyro model without arguments, or None.
        potential_fn: potential energy on a flat vector, or None.
        init_params: example parameters of the potential function.
        moments: exact mean and standard deviation of each (flattened, sorted by site) coordinate, or None.
        modes: centres, exact probabilities and standard deviation of the components of a mixture, or None.
        options: options of `OneStep` that are part of the problem's statement.
    """

    log_z: float
    model: Callable[[], None] | None = None
    potential_fn: Callable[[Any], jax.Array] | None = None
    init_params: Any = None
    moments: tuple[np.ndarray, np.ndarray] | None = None
    modes: tuple[np.ndarray, np.ndarray, float] | None = None
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


def breast_cancer() -> Problem:
    """Logistic regression, Normal(0, 1) weights, 31-d; evidence by adaptive t importance sampling (se .003)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = np.concatenate([np.ones((len(x), 1)), x], axis=1)

    def model() -> None:
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([31]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=jnp.asarray(x) @ beta), obs=data.target)

    return Problem(log_z=-55.222, model=model)


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

    sd = np.concatenate([[3.0], np.full(9, np.exp(9 / 4))])
    return Problem(0.0, potential_fn=potential_fn, init_params=jnp.zeros(10), moments=(np.zeros(10), sd))


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

    variances = np.tile([sd**2, 1.0], num_wells)
    moments = (rotation @ np.tile([mean, 0.0], num_wells), np.sqrt((rotation**2) @ variances))
    log_z = num_wells * (math.log(mass) + 0.5 * math.log(2 * math.pi))
    return Problem(log_z, potential_fn=potential_fn, init_params=jnp.zeros(2 * num_wells), moments=moments)


def mixture(num_modes: int, half_width: float, sd: float, options: dict[str, Any] | None = None) -> Problem:
    """Equal Gaussians in 2-d with means uniform in [−half_width, half_width]²; normalised."""
    means = np.asarray(random.uniform(random.key(0), (num_modes, 2), minval=-half_width, maxval=half_width))

    def potential_fn(z: jax.Array) -> jax.Array:
        log_kernel = -0.5 * jnp.sum(((z - means) / sd) ** 2, axis=1) - 2 * math.log(sd) - math.log(2 * math.pi)
        return -(logsumexp(log_kernel) - math.log(num_modes))

    moments = (means.mean(0), np.sqrt(means.var(0) + sd**2))
    modes = (means, np.full(num_modes, 1 / num_modes), sd)
    zero = jnp.zeros(2)
    return Problem(
        0.0, potential_fn=potential_fn, init_params=zero, moments=moments, modes=modes, options=options or {}
    )


SEEDS_GERMINATED = np.array([10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3])
SEEDS_TOTAL = np.array([39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7])


def seeds() -> Problem:
    """Random-effects logistic regression of seed germination, 26-d (Crowder 1978; BUGS examples, volume 1).

    Normal(0, 10) coefficients, Gamma(.01, .01) precision of the plates' effects; evidence by tempered SMC (se .03).
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

    return Problem(log_z=-73.39, model=model)


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
}
