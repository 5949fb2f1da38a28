"""The models of twelve posteriors of the posteriordb database: functions of their data.

All scales have normalised half distributions and all ordered pairs their normalising constant, so that log Z is a
model's evidence. The two differential equations are solved by Runge-Kutta steps of order 4 on a fixed grid, which
differentiate and batch well. At the reference draws the solutions are within 1e-4 of those with a four times finer
grid.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints
from scipy.stats import norm

__all__ = ["POSTERIORS", "Data"]

Data = dict[str, Any]


class OrderedNormals(dist.Distribution):
    """Two independent normals given that they rise and, where `support` says so, are positive."""

    support: constraints.Constraint = constraints.dependent

    def __init__(self, loc: tuple[float, float], scale: float, support: constraints.Constraint):
        self.normals, self.support = dist.Normal(jnp.array(loc), scale), support
        low = 0.0 if support is constraints.positive_ordered_vector else loc[0] - 8 * scale
        first = np.linspace(low, loc[0] + 8 * scale, 10_001)
        density = norm.pdf(first, loc[0], scale) * norm.sf(first, loc[1], scale)
        self.log_mass = np.log(np.trapezoid(density, first))
        super().__init__(batch_shape=(), event_shape=(2,))

    def log_prob(self, value: Any) -> Array:
        """Log density, with its normalising constant."""
        return jnp.sum(self.normals.log_prob(value), axis=-1) - self.log_mass


def forward_algorithm(log_emission: Array, transition: Array) -> Array:
    """Log likelihood of a hidden Markov model that starts in any state alike.

    Args:
        log_emission: log density of each observation in each state, shape (N, K).
        transition: rows of probabilities from each state to the others, shape (K, K).
    """
    log_transition = jnp.log(transition)

    def step(log_alpha: Array, log_density: Array) -> tuple[Array, None]:
        return logsumexp(log_alpha[:, None] + log_transition, axis=0) + log_density, None

    start = log_emission[0] - jnp.log(log_emission.shape[1])
    return logsumexp(jax.lax.scan(step, start, log_emission[1:])[0])


def runge_kutta(slope: Callable[[Array, Array], Array], start: Array, times: np.ndarray) -> Array:
    """The solution of dz/dt = slope(t, z) from `start` at the first of `times`, at each of the others."""

    def step(z: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        t, h = at
        k1 = slope(t, z)
        k2 = slope(t + h / 2, z + h / 2 * k1)
        k3 = slope(t + h / 2, z + h / 2 * k2)
        k4 = slope(t + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    return jax.lax.scan(step, start, (jnp.asarray(times[:-1]), jnp.asarray(np.diff(times))))[1]


def squared_exponential(x: np.ndarray, length: Any, scale: Any, noise_variance: Any) -> Array:
    """Cholesky factor of the covariance of a Gaussian process at `x`; nan where rounding makes it indefinite."""
    correlation = jnp.exp(-0.5 * (np.subtract.outer(x, x) / length) ** 2)
    return jnp.linalg.cholesky(scale**2 * correlation + noise_variance * jnp.eye(len(x)))


def autoregression(data: Data) -> None:
    """A time series on its last K values, given the first K."""
    order, y = data["K"], data["y"]
    lags = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)
    alpha = numpyro.sample("alpha", dist.Normal(0, 10))
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([order]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    numpyro.sample("y", dist.Normal(alpha + jnp.asarray(lags) @ beta, sigma), obs=jnp.asarray(y[order:]))


def basketball_drive(data: Data) -> None:
    """Hidden Markov model of two states with two exponential emissions each, their rates in rising order."""
    rates = OrderedNormals((0.0, 3.0), 1.0, constraints.positive_ordered_vector)
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.asarray(data["alpha"][0], float)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.asarray(data["alpha"][1], float)))
    of_speed = dist.Exponential(numpyro.sample("phi", rates)).log_prob(data["u"][:, None])
    of_distance = dist.Exponential(numpyro.sample("lambda", rates)).log_prob(data["v"][:, None])
    numpyro.factor("log_likelihood", forward_algorithm(of_speed + of_distance, jnp.stack([theta1, theta2])))


def diamonds(data: Data) -> None:
    """Linear regression of log prices on 24 features, centred and strongly correlated."""
    features = data["X"][:, 1:] - data["X"][:, 1:].mean(0)
    b = numpyro.sample("b", dist.Normal(0, 1).expand([features.shape[1]]).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3, 8, 10))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3, 0, 10)))
    numpyro.sample("Y", dist.Normal(intercept + jnp.asarray(features) @ b, sigma), obs=jnp.asarray(data["Y"]))


def eight_schools(data: Data) -> None:
    """Eight schools, not centered."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    offset = numpyro.sample("offset", dist.Normal(0, 1).expand([data["J"]]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * offset)
    numpyro.sample("y", dist.Normal(theta, jnp.asarray(data["sigma"])), obs=jnp.asarray(data["y"]))


def poisson_process(data: Data) -> None:
    """Counts, their log rate a Gaussian process.

    A little is added to the variance to keep the covariance definite: as in posteriordb in float64, more in float32.
    """
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha: Any = numpyro.sample("alpha", dist.HalfNormal(2))
    offset = numpyro.sample("offset", dist.Normal(0, 1).expand([data["N"]]).to_event(1))
    jitter = 1e-10 if jax.config.jax_enable_x64 else 2e-6 * alpha**2  # type: ignore[attr-defined]
    f = numpyro.deterministic("f", squared_exponential(data["x"], rho, alpha, jitter) @ offset)
    numpyro.sample("k", dist.Poisson(jnp.exp(f)), obs=jnp.asarray(data["k"]))


def gaussian_process(data: Data) -> None:
    """Regression by a Gaussian process that is integrated out; `sigma` is the variance of the noise."""
    rho = numpyro.sample("rho", dist.Gamma(25, 4))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    factor = squared_exponential(data["x"], rho, alpha, sigma)
    numpyro.sample("y", dist.MultivariateNormal(scale_tril=factor), obs=jnp.asarray(data["y"]))


def hidden_markov(data: Data) -> None:
    """Hidden Markov model of two states with unit normal emissions, their means in rising order."""
    theta1 = numpyro.sample("theta1", dist.Dirichlet(jnp.ones(2)))
    theta2 = numpyro.sample("theta2", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", OrderedNormals((3.0, 10.0), 1.0, constraints.positive_ordered_vector))
    log_emission = dist.Normal(mu, 1).log_prob(data["y"][:, None])
    numpyro.factor("log_likelihood", forward_algorithm(log_emission, jnp.stack([theta1, theta2])))


def lotka_volterra(data: Data, steps: int = 10) -> None:
    """Prey and predators in 20 years, the equations for the logs of both, solved with `steps` steps a year."""
    center, spread = jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05])
    theta: Any = numpyro.sample("theta", dist.TruncatedNormal(center, spread, low=0.0).to_event(1))
    z_init = numpyro.sample("z_init", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(-1, 1).expand([2]).to_event(1))

    def slope(_: Array, log_z: Array) -> Array:
        prey, predators = jnp.exp(log_z)
        return jnp.stack([theta[0] - theta[1] * predators, theta[3] * prey - theta[2]])

    times = np.linspace(0.0, data["N"], data["N"] * steps + 1)
    log_z = runge_kutta(slope, jnp.log(z_init), times)[steps - 1 :: steps]
    numpyro.sample("y_init", dist.LogNormal(jnp.log(z_init), sigma), obs=jnp.asarray(data["y_init"]))
    numpyro.sample("y", dist.LogNormal(log_z, sigma), obs=jnp.asarray(data["y"]))


def kilpisjarvi(data: Data) -> None:
    """Linear trend of the summer temperature, with a flat prior of the scale."""
    alpha = numpyro.sample("alpha", dist.Normal(data["pmualpha"], data["psalpha"]))
    beta: Any = numpyro.sample("beta", dist.Normal(data["pmubeta"], data["psbeta"]))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(alpha + beta * data["x"], sigma), obs=jnp.asarray(data["y"]))


def gaussian_mixture(data: Data) -> None:
    """Two normals, their means in rising order; `theta` is the share of the first."""
    mu = numpyro.sample("mu", OrderedNormals((0.0, 0.0), 2.0, constraints.ordered_vector))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta: Any = numpyro.sample("theta", dist.Beta(5, 5))
    log_density = dist.Normal(mu, sigma).log_prob(data["y"][:, None]) + jnp.log(jnp.stack([theta, 1 - theta]))
    numpyro.factor("log_likelihood", jnp.sum(logsumexp(log_density, axis=1)))


def michaelis_menten(data: Data, steps: int = 4) -> None:
    """Concentration of a drug that is absorbed at a rate k_a and eliminated at a rate of at most V_m.

    The grid has `steps` steps between observations and finer ones near the start: there elimination sets in as soon as
    the concentration passes K_m, however small.
    """
    k_a: Any = numpyro.sample("k_a", dist.HalfCauchy(1))
    k_m: Any = numpyro.sample("K_m", dist.HalfCauchy(1))
    v_m: Any = numpyro.sample("V_m", dist.HalfCauchy(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1))

    def slope(t: Array, c: Array) -> Array:
        c = jnp.maximum(c, 0.0)
        return (data["D"] * k_a * jnp.exp(-k_a * t) - v_m * c / (k_m + c)) / data["V"]

    seen, first = data["times"], 8 * steps
    later = np.interp(np.arange(1, steps * (len(seen) - 1) + 1) / steps, np.arange(len(seen)), seen)
    times = np.concatenate([seen[0] * np.linspace(0.0, 1.0, first + 1) ** 3, later])
    concentration = runge_kutta(slope, jnp.zeros(()), times)[first - 1 :: steps]
    numpyro.sample("C_hat", dist.LogNormal(jnp.log(concentration), sigma), obs=jnp.asarray(data["C_hat"]))


def linear_regression(data: Data) -> None:
    """Linear regression with five features."""
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([data["D"]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(jnp.asarray(data["X"]) @ beta, sigma), obs=jnp.asarray(data["y"]))


POSTERIORS: dict[str, Callable[[Data], None]] = {
    "arK-arK": autoregression,
    "bball_drive_event_0-hmm_drive_0": basketball_drive,
    "diamonds-diamonds": diamonds,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_pois_regr": poisson_process,
    "gp_pois_regr-gp_regr": gaussian_process,
    "hmm_example-hmm_example": hidden_markov,
    "hudson_lynx_hare-lotka_volterra": lotka_volterra,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": gaussian_mixture,
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": michaelis_menten,
    "sblrc-blr": linear_regression,
}
