import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_onestep.gaussians import fit as fits
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import DENSE_DIM, safe_log_density

DIM = DENSE_DIM + 88


def fitted(target, getkey, start=0.0, scale=1.0):
    """The fit of the base search, from one start: short, then refined."""
    first = jax.tree.map(lambda leaf: leaf[0], fits.narrow(jnp.full((1, DIM), start), scale))

    @jax.jit
    def fit(key, q):
        q = fits.fit(target, key, q, fits.NUM_SHORT, first_rate=1.0, last_rate=0.1)
        return fits.fit(target, key, q, 120, first_rate=0.3, last_rate=0.02)

    q = fit(getkey(), first)
    return q, float(fits.elbo(target, getkey(), q, 2048))


def test_a_gaussian_of_few_directions_is_found(getkey):
    # scales from .2 to 5, twenty directions stretched by factors of .1 to 8, and a mean two scales away
    rng = np.random.default_rng(1)
    scale = np.exp(0.5 * rng.normal(size=DIM))
    directions = np.linalg.qr(rng.normal(size=(DIM, 20)))[0]
    stretch = np.exp(rng.normal(size=20))
    mean = 2 * scale * rng.normal(size=DIM)

    def log_density(x):
        y = (x - mean) / scale
        return -0.5 * (jnp.sum(y**2) + jnp.sum((stretch**-2 - 1) * (directions.T @ y) ** 2))

    log_z = 0.5 * DIM * np.log(2 * np.pi) + np.log(scale).sum() + np.log(stretch).sum()
    _, elbo = fitted(safe_log_density(log_density), getkey)
    assert elbo == pytest.approx(log_z, abs=0.1)


def test_skewed_coordinates_end_at_the_best_diagonal_gaussian(getkey):
    # logs of Gamma(a) variables; since E e^x is e^(m + s²/2), the best N(m, s²) has e^m = a e^(−s²/2) and s² = 1/a
    shape = np.random.default_rng(2).uniform(2, 10, DIM)
    best = np.sum(shape * (np.log(shape) - 0.5 / shape) - shape + 0.5 * np.log(2 * np.pi * np.e / shape))
    _, elbo = fitted(safe_log_density(lambda x: jnp.sum(shape * x - jnp.exp(x))), getkey)
    assert elbo == pytest.approx(best, abs=1.0)


def test_a_step_without_a_density_changes_nothing_for_the_worse(getkey):
    # beyond a wall there is no gradient: the Gaussian is drawn in until its draws have a density
    wall = safe_log_density(lambda x: jnp.where(jnp.all(jnp.abs(x) < 5), -0.5 * jnp.sum(x**2), -jnp.inf))
    q, elbo = fitted(wall, getkey, scale=3.0)
    assert isinstance(q, Mixture)
    assert elbo > 0.5 * DIM * np.log(2 * np.pi) - 20
