"""Small models with closed-form answers, shared by the tests of the upper layers."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

# options of OneStep that compile and train fast
TINY = {"width": 16, "num_blocks": 1, "batch_size": 32, "coverage_audit": False}

_rng = np.random.default_rng(0)
FEATURES = _rng.normal(size=(20, 3))
TARGETS = FEATURES @ np.array([1.0, -2.0, 0.5]) + _rng.normal(size=20)


def regression(x, y):
    """Conjugate: Normal(0, 2) weights, unit noise."""
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    numpyro.deterministic("norm", jnp.linalg.norm(beta))
    numpyro.sample("y", dist.Normal(x @ beta, 1), obs=y)


def regression_log_z(x=FEATURES, y=TARGETS):
    cov = np.eye(len(y)) + 4 * x @ x.T
    return float(-0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(2 * np.pi * cov)[1]))


def regression_posterior(x=FEATURES, y=TARGETS):
    precision = x.T @ x + np.eye(x.shape[1]) / 4
    return np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)


def skewed():
    """Constrained and not Gaussian on the unconstrained scale; the evidence is a Gamma-Poisson closed form."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("count", dist.Poisson(rate), obs=3)


# ∫ Gamma(rate; 2, 1) Poisson(3; rate) = Γ(5) / (Γ(2) 3! 2^5)
SKEWED_LOG_Z = float(np.log(24 / 6 / 2**5))


def banana_potential(z):
    """A normalised 2-d banana: x ~ N(0, 1), y | x ~ N(x², .5²)."""
    x, y = z["x"], z["y"]
    return 0.5 * x**2 + 0.5 * ((y - x**2) / 0.5) ** 2 + jnp.log(0.5) + jnp.log(2 * jnp.pi)


def bananas(x):
    """The normalised log density of two halves of a vector: x ~ N(0, 1), y | x ~ N(.3 (x² − 1), .8²)."""
    first, second = jnp.split(x, 2)
    bend = (second - 0.3 * (first**2 - 1)) / 0.8
    return -0.5 * jnp.sum(first**2 + bend**2) - len(first) * (jnp.log(2 * jnp.pi) + jnp.log(0.8))
