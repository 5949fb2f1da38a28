"""Log Z of the stochastic volatility model of `large_targets.py`, by particle filters: a reference of another kind.

    python examples/benchmarks/particle_filter.py       # a minute on a CPU core

Parameters are drawn by adaptive importance sampling from a Student-t distribution. For each of them a bootstrap filter
(Gordon, Salmond and Smith 1993) with systematic resampling gives an unbiased estimate of the likelihood, the states
integrated out, so the mean weight estimates Z without bias. Prints log Z, its standard error, and the effective sample
size of the parameters, after each round.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import beta, multivariate_t, norm

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

from large_targets import volatility

ROUNDS = (100, 500), (150, 1000), (400, 4000)  # numbers of parameters and of particles
CENTER, SD = (
    np.array([-1.0, 2.9, -1.6]),
    np.array([0.3, 0.6, 0.4]),
)  # of mean, logit of persistence, log scale, at first
WIDER = 1.2  # the variance of the proposals than that of the posterior


def log_prior(z: np.ndarray) -> np.ndarray:
    """Of the model's priors, on unconstrained parameters of shape (K, 3)."""
    persistence, scale = expit(z[:, 1]), np.exp(z[:, 2])
    log_slope = np.log(persistence * (1 - persistence)) + z[:, 2]
    return (
        norm.logpdf(z[:, 0], 0, 2)
        + beta.logpdf(persistence, 20, 1.5)
        + np.log(2)
        + norm.logpdf(scale, 0, 0.5)
        + log_slope
    )


def log_likelihood(rng: np.random.Generator, y: np.ndarray, z: np.ndarray, num: int) -> np.ndarray:
    """An estimate for each of K parameters, by as many filters of `num` particles."""
    mean, persistence, scale = z[:, :1], expit(z[:, 1:2]), np.exp(z[:, 2:])
    x = mean + scale / np.sqrt(1 - persistence**2) * rng.normal(size=(len(z), num))
    total = np.zeros(len(z))
    for day, seen in enumerate(y):
        if day > 0:
            x = mean + persistence * (x - mean) + scale * rng.normal(size=x.shape)
        log_w = norm.logpdf(seen, 0, np.exp(x / 2))
        top = np.max(log_w, axis=1, keepdims=True)
        w = np.exp(log_w - top)
        total += top[:, 0] + np.log(np.mean(w, axis=1))
        at = (np.arange(num) + rng.uniform(size=(len(z), 1))) / num
        ends = np.cumsum(w, axis=1) / np.sum(w, axis=1, keepdims=True)
        picked = np.array([np.searchsorted(*pair) for pair in zip(ends, at, strict=True)]).clip(max=num - 1)
        x = np.take_along_axis(x, picked, axis=1)
    return total


def main() -> None:
    """Estimate and print."""
    rng, y = np.random.default_rng(0), np.asarray(volatility().args[0], np.float64)
    center, cov = CENTER, np.diag(SD**2)
    for num_parameters, num_particles in ROUNDS:
        proposal = multivariate_t(center, cov, df=6)
        z = proposal.rvs(num_parameters, random_state=rng)
        log_w = log_likelihood(rng, y, z, num_particles) + log_prior(z) - proposal.logpdf(z)
        w = np.exp(log_w - np.max(log_w))
        log_z = np.max(log_w) + np.log(np.mean(w))
        std_error = np.std(w) / np.mean(w) / num_parameters**0.5
        print(
            f"log Z {log_z:.3f} ± {std_error:.3f}, ESS {np.sum(w) ** 2 / np.sum(w**2):.0f} of {num_parameters}",
            flush=True,
        )
        center = w @ z / np.sum(w)
        cov = WIDER * ((z - center).T * w) @ (z - center) / np.sum(w)


if __name__ == "__main__":
    main()
