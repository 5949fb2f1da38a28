import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.scipy.stats import norm

from numpyro_onestep.base import conditional_scale
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.conditional_scale import Whitening
from numpyro_onestep.base.problem import log_affinity
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM = 5


@pytest.fixture
def whitening(getkey):
    square = [0.5 * random.normal(getkey(), (DIM, DIM)) for _ in range(4)]
    tril = jnp.tril(square[0]) + 2 * jnp.eye(DIM)
    tails = random.uniform(getkey(), (2, DIM))
    return Whitening(random.normal(getkey(), (DIM,)), tril, *square[1:], random.normal(getkey(), (DIM,)), tails)


def test_log_det_and_score_are_those_of_the_map(getkey, whitening):
    @jax.jit
    @jax.vmap
    def compare(u):
        jacobian = jax.jacfwd(lambda u: conditional_scale.apply(whitening, u))(u)
        log_det_grad = jax.grad(lambda u: conditional_scale.log_det(whitening, u))(u)
        score = jnp.linalg.solve(jacobian.T, -u - log_det_grad)
        actual = conditional_scale.log_det(whitening, u), conditional_scale.push_score(whitening, u, -u)
        return actual, (jnp.linalg.slogdet(jacobian)[1], score), jnp.max(jnp.abs(jnp.triu(jacobian, 1)))

    actual, expected, above = compare(random.normal(getkey(), (50, DIM)))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-3)
    assert np.max(above) == 0.0


def test_inverse_round_trip(getkey, whitening):
    u = random.normal(getkey(), (200, DIM))
    back = jax.jit(jax.vmap(lambda u: conditional_scale.inverse(whitening, conditional_scale.apply(whitening, u))))(u)
    np.testing.assert_allclose(back, u, rtol=2e-3, atol=2e-3)


def test_an_exact_affine_start_stays(getkey):
    start = conditional_scale.affine(jnp.array([3.0, -1.0]), jnp.array([[2.0, 0.0], [-0.5, 0.3]]))
    inverse = jnp.linalg.inv(start.scale_tril)
    target = safe_log_density(lambda z: jnp.sum(norm.logpdf(inverse @ (z - start.shift))))
    fitted, _ = conditional_scale.fit(target, getkey(), start, num_iterations=200)
    for a, e in zip(fitted, start, strict=True):
        np.testing.assert_allclose(a, e, atol=5e-3)


def test_fits_group_effects_down_to_small_scales(getkey):
    # log τ has an exponential tail; the effects' scale and their pull towards the data depend on it
    data, noise = jnp.array([4.0, -1.0, 1.0]), jnp.array([2.0, 1.0, 1.5])

    def log_density(z):
        mu, log_tau, effects = z[0], z[1], z[2:]
        prior = norm.logpdf(mu, 0, 3) - 0.5 * jnp.exp(log_tau) + log_tau
        likelihood = jnp.sum(norm.logpdf(data, effects, noise))
        return prior + jnp.sum(norm.logpdf(effects, mu, jnp.exp(log_tau))) + likelihood

    target = safe_log_density(log_density)
    start = conditional_scale.affine(jnp.array([1.0, 0.0, 1.0, 1.0, 1.0]), jnp.eye(5))
    fitted, num = jax.jit(lambda key: conditional_scale.fit(target, key, start, least_influence=0.38))(getkey())
    assert num == conditional_scale.NUM_ITERATIONS
    affine = fitted._replace(scale_slopes=0 * start.scale_slopes, scale_bends=0 * start.scale_bends)
    key = getkey()
    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 5)), jnp.eye(5)[None]))
    full, poor = (log_affinity(target, key, base._replace(whitening=f), 20_000) for f in (fitted, affine))

    # the marginal likelihood on a grid of τ, given which everything is Gaussian
    log_tau = jnp.linspace(-12.0, 5.0, 4001)
    var = jnp.exp(2 * log_tau)[:, None] + noise**2
    cov = jax.vmap(jnp.diag)(var) + 9.0
    log_lik = jax.vmap(lambda c: jax.scipy.stats.multivariate_normal.logpdf(data, jnp.zeros(3), c))(cov)
    log_marginal = log_lik + log_tau - 0.5 * jnp.exp(log_tau) + jnp.log(17 / 4000)
    log_z = jax.scipy.special.logsumexp(log_marginal)
    neck = jnp.sum(jnp.where(log_tau < -3, jnp.exp(log_marginal - log_z), 0.0))

    assert log_z - 0.1 < full < log_z + 0.02
    assert poor < full - 0.3
    assert fitted.tails[0, 1] > 0.05
    u = random.normal(getkey(), (20_000, 5))
    z = jax.vmap(lambda u: conditional_scale.apply(fitted, u))(u)
    assert np.mean(z[:, 1] < -3) > 0.1 * neck


def test_a_fit_without_hyperparameters_is_given_up(getkey):
    rates = jnp.array([0.5, 1.0, 2.0, 4.0])
    target = safe_log_density(lambda z: jnp.sum(rates * z - jnp.exp(z)))
    start = conditional_scale.affine(jnp.log(rates), jnp.diag(rates**-0.5))
    _, num = conditional_scale.fit(target, getkey(), start, least_influence=0.38)
    assert num == conditional_scale.NUM_ITERATIONS // 10


def test_tails_alone_are_fitted_where_nothing_rules(getkey):
    shape, dim = 0.5, 24
    target = safe_log_density(lambda z: jnp.sum(shape * z - jnp.exp(z)))
    start = conditional_scale.affine(jnp.full(dim, -1.96), 2.22 * jnp.eye(dim))
    least = {"least_influence": 0.38, "least_tail": 0.1}
    fitted, num = conditional_scale.fit(target, getkey(), start, **least)
    assert num == conditional_scale.NUM_ITERATIONS
    assert not np.any(conditional_scale.influence(fitted))
    assert np.all(fitted.tails[0] > 0.4)
    assert np.all(fitted.tails[1] < 0.1)
