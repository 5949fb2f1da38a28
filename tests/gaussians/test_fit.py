import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.gaussians import fit as fits
from numpyro_onestep.gaussians import mixture
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

PAIR = Mixture(  # in numpy, so that a test in float64 gets it in float64
    np.log(np.array([0.3, 0.7])),
    np.array([[-2.0, 1.0], [1.5, 0.0]]),
    np.array([[[0.6, 0.0], [0.5, 0.9]], [[1.1, 0.0], [-0.4, 0.5]]]),
)


def single(loc, tril):
    return Mixture(jnp.zeros(1), jnp.asarray(loc, float)[None], jnp.asarray(tril, float)[None])


def test_log_prob_integrates_to_one():
    q = jax.tree.map(jnp.asarray, PAIR)
    grid = np.arange(-8.0, 8.0, 0.05)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    log_probs = jax.jit(jax.vmap(lambda x: mixture.log_prob(q, x)))(points)
    assert np.sum(np.exp(log_probs)) * 0.05**2 == pytest.approx(1.0, abs=1e-4)


def test_score_is_the_gradient_of_log_prob(getkey):
    q, x = jax.tree.map(jnp.asarray, PAIR), 3 * random.normal(getkey(), (64, 2))
    score, grad = jax.jit(jax.vmap(lambda x: (mixture.score(q, x), jax.grad(lambda x: mixture.log_prob(q, x))(x))))(x)
    np.testing.assert_allclose(score, grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("inflate", [1.0, 2.0])
def test_moments_of_draws(getkey, inflate):
    num = 20_000
    x = np.asarray(mixture.sample(jax.tree.map(jnp.asarray, PAIR), getkey(), num, inflate), np.float64)
    weights = np.exp(PAIR.log_weights)
    mean = weights @ PAIR.means
    second = np.einsum("k,kij,klj->il", weights, PAIR.scale_trils, PAIR.scale_trils) * inflate**2
    second += np.einsum("k,ki,kj->ij", weights, PAIR.means - mean, PAIR.means - mean)
    outer = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    for draws, expected in ((x, mean), (outer, second)):
        assert np.all(np.abs(np.mean(draws, axis=0) - expected) < 5 * np.std(draws, axis=0) / np.sqrt(num))


def test_fit_recovers_an_ill_conditioned_gaussian(getkey):
    dim = 5
    rotation = np.linalg.qr(np.asarray(random.normal(getkey(), (dim, dim)), np.float64))[0]
    cov = rotation @ np.diag(np.logspace(-2, 0, dim) ** 2) @ rotation.T
    precision, shift = jnp.asarray(np.linalg.inv(cov), jnp.float32), jnp.full(dim, 1000.0)
    target = safe_log_density(lambda x: -0.5 * (x - shift) @ precision @ (x - shift))

    # as far away as the start is wide, which is a hundred standard deviations of the narrowest direction
    start = single(shift + random.normal(getkey(), (dim,)), jnp.eye(dim))
    q = jax.jit(lambda key: fits.fit(target, key, start, 60, first_rate=1.0, last_rate=0.1))(getkey())
    # in units of the target: whitened error of the mean, and of the covariance
    white = np.linalg.inv(np.linalg.cholesky(cov))
    fitted = np.asarray(q.scale_trils[0], np.float64)
    assert np.max(np.abs(white @ (np.asarray(q.means[0], np.float64) - 1000.0))) < 1e-3
    np.testing.assert_allclose(white @ fitted @ fitted.T @ white.T, np.eye(dim), atol=1e-3)


def test_fit_finds_the_weights_of_a_mixture(getkey):
    q = Mixture(jnp.log(jnp.array([0.2, 0.8])), jnp.array([[-4.0, 1.0], [3.0, 0.0]]), jnp.asarray(PAIR.scale_trils))
    target = safe_log_density(lambda x: mixture.log_prob(q, x) + 3.0)
    start = Mixture(jnp.log(jnp.full(2, 0.5)), q.means + 0.5, jnp.stack([jnp.eye(2)] * 2))

    @jax.jit
    def fit(key):
        fitted = fits.fit(target, key, start, 200, first_rate=0.3, last_rate=0.02)
        return fitted, fits.elbo(target, key, fitted)

    fitted, elbo = fit(getkey())
    np.testing.assert_allclose(np.exp(fitted.log_weights), [0.2, 0.8], atol=0.02)
    np.testing.assert_allclose(fitted.means, q.means, atol=0.05)
    assert float(elbo) == pytest.approx(3.0, abs=0.01)


def test_elbo_is_below_log_z_by_the_divergence(getkey):
    log_z, num = 3.0, 20_000
    target = safe_log_density(lambda x: log_z - 0.5 * x @ x - jnp.log(2 * jnp.pi))
    loc, scale = np.array([0.4, -0.2]), np.array([0.7, 1.2])
    divergence = 0.5 * np.sum(scale**2 + loc**2 - 1 - 2 * np.log(scale))
    elbo = jax.jit(lambda key: fits.elbo(target, key, single(loc, np.diag(scale)), num))(getkey())
    gap = float(elbo) - (log_z - divergence)
    spread = np.sqrt(np.sum(0.5 * (1 - scale**2) ** 2 + (loc * scale) ** 2))
    assert abs(gap) < 5 * spread / np.sqrt(num)
    assert divergence > 20 * spread / np.sqrt(num)


def test_elbo_without_density_at_a_draw(getkey):
    @jax.jit
    def elbo(key, bad):
        target = safe_log_density(lambda x: jnp.where(x[0] > 1.0, bad, 0.0))
        return fits.elbo(target, key, single(np.zeros(2), np.eye(2)))

    key = getkey()
    # log P(x < 1) less than of the density that goes on, but for what the draws beyond would have counted
    assert float(elbo(key, -np.inf)) == float(elbo(key, np.nan))
    assert float(elbo(key, -np.inf)) < float(elbo(key, 0.0)) + np.log(0.8413) + 0.1
    nowhere = safe_log_density(lambda x: jnp.full((), -jnp.inf))
    assert jax.jit(lambda key: fits.elbo(nowhere, key, single(np.zeros(2), np.eye(2))))(key) == -np.inf


def test_elbo_within_is_that_of_the_restricted_gaussian(getkey):
    loc, scale, edge, num = -1.0, 0.7, -0.5, 20_000
    target = safe_log_density(lambda x: jnp.where(x[0] < edge, -0.5 * x[0] ** 2, -jnp.inf))
    q = single([loc], [[scale]])
    found, none = jax.jit(
        lambda key: (
            fits.elbo(target, key, q, num),
            fits.elbo(target, key, q._replace(means=q.means + 100), num),
        )
    )(getkey())
    x = np.linspace(loc - 8 * scale, edge, 200_001)
    density = np.exp(-0.5 * ((x - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
    gap, step = -0.5 * x**2 - np.log(density), x[1] - x[0]
    within = np.sum(density) * step
    mean = np.sum(density * gap) * step / within
    variance = np.sum(density * (gap - mean) ** 2) * step / within
    error = np.sqrt((variance / within + (1 - within) / within) / num)
    assert abs(float(found) - mean - np.log(within)) < 5 * error
    assert float(none) == -np.inf
