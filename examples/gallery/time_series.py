"""Models of time series: stochastic volatility, a hidden Markov chain, and predators with their prey."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.contrib.control_flow import scan

__all__ = ["HARE_LYNX", "hidden_markov", "predator_prey", "regimes", "returns", "stochastic_volatility"]

# pelts of hares and lynxes, thousands, 1900 to 1920: Hudson's Bay Company, in Howard (2009), "Modeling basics"
HARE_LYNX = np.array(
    [
        [30.0, 4.0],
        [47.2, 6.1],
        [70.2, 9.8],
        [77.4, 35.2],
        [36.3, 59.4],
        [20.6, 41.7],
        [18.1, 19.0],
        [21.4, 13.0],
        [22.0, 8.3],
        [25.4, 9.1],
        [27.1, 7.4],
        [40.3, 8.0],
        [57.0, 12.3],
        [76.6, 19.5],
        [52.3, 45.7],
        [19.5, 51.1],
        [11.2, 29.7],
        [7.6, 15.8],
        [14.6, 9.7],
        [16.2, 10.1],
        [24.7, 8.6],
    ]
)


def returns(num_days: int = 80) -> np.ndarray:
    """Daily returns whose log volatility is a random walk with steps of .2."""
    rng = np.random.default_rng(9)
    return np.exp(np.cumsum(0.2 * rng.normal(size=num_days))) * rng.standard_t(8, num_days)


def stochastic_volatility(y: np.ndarray) -> None:
    """Student-t returns; their log scale is a Gaussian random walk of unknown step."""
    step: Any = numpyro.sample("step", dist.Exponential(5))
    log_scale: Any = numpyro.sample("log_scale", dist.GaussianRandomWalk(step, num_steps=len(y)))
    df: Any = numpyro.sample("df", dist.Exponential(0.1))
    numpyro.sample("y", dist.StudentT(df, 0, jnp.exp(log_scale)), obs=y)


def regimes(num_steps: int = 100) -> np.ndarray:
    """Observations around one of two levels, which persist for about ten steps."""
    rng = np.random.default_rng(10)
    state = np.cumsum(rng.uniform(size=num_steps) < 0.1) % 2
    return np.where(state == 0, -1.0, 1.0) + 0.8 * rng.normal(size=num_steps)


def hidden_markov(y: np.ndarray) -> None:
    """Two hidden states, summed out by NumPyro, with normal emissions; the levels rise, so the states have names."""
    transition: Any = numpyro.sample("transition", dist.Dirichlet(jnp.array([[9.0, 1.0], [1.0, 9.0]])).to_event(1))
    start = dist.Normal(0, 1.5).expand([2]).to_event(1)
    rising: Any = dist.TransformedDistribution(start, dist.transforms.OrderedTransform())
    level: Any = numpyro.sample("level", rising)
    noise: Any = numpyro.sample("noise", dist.HalfNormal(1))

    def step(state: Any, y: Array) -> tuple[Array, None]:
        state = numpyro.sample("state", dist.CategoricalProbs(transition[state]), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(level[state], noise), obs=y)
        return state, None

    scan(step, 0, jnp.asarray(y))


def predator_prey(pelts: np.ndarray, steps_per_year: int = 10) -> None:
    """The Lotka-Volterra equations through 20 years, each count with an error of some per cent.

    They are solved for the logs of both populations by Runge-Kutta steps of order 4 on a fixed grid: far out, where the
    search for modes starts, the equations are stiff, and a solver that adapts its step would take very long.
    """
    start: Any = numpyro.sample("start", dist.LogNormal(jnp.log(10.0), 1).expand([2]).to_event(1))
    center, spread = jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05])
    rate: Any = numpyro.sample("rate", dist.TruncatedNormal(center, spread, low=0.0).to_event(1))
    error: Any = numpyro.sample("error", dist.LogNormal(-1, 1).expand([2]).to_event(1))
    h = 1 / steps_per_year

    def slope(log_z: Array) -> Array:
        prey, predators = jnp.exp(log_z)
        return jnp.stack([rate[0] - rate[1] * predators, rate[3] * prey - rate[2]])

    def step(log_z: Array, _: None) -> tuple[Array, Array]:
        k1 = slope(log_z)
        k2 = slope(log_z + h / 2 * k1)
        k3 = slope(log_z + h / 2 * k2)
        k4 = slope(log_z + h * k3)
        log_z = log_z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return log_z, log_z

    _, path = jax.lax.scan(step, jnp.log(start), length=steps_per_year * (len(pelts) - 1))
    log_z = jnp.concatenate([jnp.log(start)[None], path[steps_per_year - 1 :: steps_per_year]])
    numpyro.sample("pelts", dist.LogNormal(log_z, error), obs=pelts)
