"""Which measure of wood density predicts the strength of radiata pine? Two regressions and their Bayes factor.

    python examples/radiata_pine.py

42 specimens: strength parallel to the grain, density, density adjusted for resin content (Williams 1959, "Regression
Analysis", table 5.1), with the normal-gamma priors of Friel and Pettitt (2008), under which the answer is known in
closed form.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.special import gammaln

from numpyro_onestep import OneStep, OneStepSampler, compare

STRENGTH, DENSITY, ADJUSTED = np.fromstring(
    """
    3040 2470 3610 3480 3810 2330 1800 3110 3670 2310 4360 1880 3670 1740 2250 2650 4970 2620 2900 1670 2540
    3840 3800 4600 1900 2530 2920 4990 1670 3310 3450 3600 2850 1590 3770 3850 2480 3570 2620 1890 3030 3030
    29.2 24.7 32.3 31.3 31.5 24.5 19.9 27.3 32.3 24.0 33.8 21.5 32.2 22.5 27.5 25.6 34.5 26.2 26.7 21.1 24.1
    30.7 32.7 32.6 22.1 25.3 30.8 38.9 22.1 29.2 30.1 31.4 26.7 22.1 30.3 32.0 23.2 30.3 29.9 20.8 33.2 28.2
    25.4 22.2 32.2 31 30.9 23.9 19.2 27.2 29 23.9 33.2 21.0 29.0 22.0 23.8 25.3 34.2 25.7 26.4 20.0 23.9
    30.7 32.6 32.5 20.8 23.1 29.8 38.1 21.3 28.5 29.2 31.4 25.9 21.4 29.8 30.6 22.6 30.3 23.8 18.4 29.4 28.2
    """,
    sep=" ",
).reshape(3, 42)
MEAN, PRECISION = np.array([3000.0, 185.0]), np.array([0.06, 6.0])  # of the coefficients, in units of the noise
SHAPE, RATE = 3.0, 180_000.0  # of the noise precision


def regression(x: Array, strength: Array) -> None:
    """Strength against one centered measure of density."""
    noise_precision = numpyro.sample("noise_precision", dist.Gamma(SHAPE, RATE))
    scale = 1 / jnp.sqrt(PRECISION * noise_precision)
    coefficients = numpyro.sample("coefficients", dist.Normal(MEAN, scale).to_event(1))
    mean = coefficients[0] + coefficients[1] * (x - jnp.mean(x))
    numpyro.sample("strength", dist.Normal(mean, 1 / jnp.sqrt(noise_precision)), obs=strength)


def exact_log_z(x: np.ndarray, y: np.ndarray) -> float:
    """The log evidence in closed form."""
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    posterior = np.diag(PRECISION) + design.T @ design
    mean = np.linalg.solve(posterior, PRECISION * MEAN + design.T @ y)
    shape, n = SHAPE + len(y) / 2, len(y)
    rate = RATE + 0.5 * (y @ y + MEAN @ (PRECISION * MEAN) - mean @ posterior @ mean)
    log_dets = np.sum(np.log(PRECISION)) - np.linalg.slogdet(posterior)[1]
    gammas = SHAPE * np.log(RATE) - shape * np.log(rate) + gammaln(shape) - gammaln(SHAPE)
    return float(-n / 2 * np.log(2 * np.pi) + 0.5 * log_dets + gammas)


def main() -> None:
    """Train both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-warmup", type=int, default=1000)
    options = parser.parse_args()
    models = {}
    for seed, (name, x) in enumerate({"density": DENSITY, "adjusted density": ADJUSTED}.items()):
        models[name] = OneStepSampler(OneStep(regression), num_warmup=options.num_warmup, progress_bar=False)
        models[name].run(jax.random.key(seed), x, STRENGTH)
    table = compare(models)
    print(table.drop(columns="warnings").to_string(float_format="%.4f"))
    exact = {name: exact_log_z(x, STRENGTH) for name, x in (("density", DENSITY), ("adjusted density", ADJUSTED))}
    print("\nin closed form: " + ", ".join(f"{name} {value:.4f}" for name, value in exact.items()))
    print(f"log Bayes factor {exact['adjusted density'] - exact['density']:.5f}")
    for name in table.index[table["warnings"] != ""]:
        print(f"{name}: {table.loc[name, 'warnings']}")


if __name__ == "__main__":
    main()
