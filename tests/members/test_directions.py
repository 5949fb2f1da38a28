"""Members of which each depends on each, independent in another basis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.scipy.stats import norm

from numpyro_onestep.members import laplace
from numpyro_onestep.members.find import find
from numpyro_onestep.model.function import plain

NUM = 12
X = np.random.default_rng(0).normal(size=(40, NUM)).astype(np.float32)
Y = X @ np.random.default_rng(1).normal(size=NUM).astype(np.float32) + 0.7
START = jnp.full(NUM + 2, 0.3)


def regression(z):
    """Coefficients with a prior of unknown scale, seen with unknown noise."""
    log_noise, log_scale, coefficients = z[0], z[NUM + 1], z[1 : NUM + 1]
    prior = norm.logpdf(log_noise) + norm.logpdf(log_scale) + jnp.sum(norm.logpdf(coefficients, 0, jnp.exp(log_scale)))
    return prior + jnp.sum(norm.logpdf(Y, X @ coefficients, jnp.exp(log_noise)))


def logistic(z):
    """The same with labels: not quadratic."""
    prior = norm.logpdf(z[0]) + jnp.sum(norm.logpdf(z[1:], 0, jnp.exp(z[0])))
    return prior + jnp.sum(jax.nn.log_sigmoid((2 * (Y > 0) - 1) * (X @ z[1:])))


def three_scales(z):
    """A quadratic form of three matrices, each with a scale of its own, that have no basis in common."""
    rng = np.random.default_rng(2)
    roots = [rng.normal(size=(NUM, NUM)).astype(np.float32) for _ in range(3)]
    return jnp.sum(norm.logpdf(z)) - sum(jnp.exp(z[i]) * jnp.sum((root @ z[3:]) ** 2) for i, root in enumerate(roots))


def test_they_are_standard_normal_in_the_new_coordinates_whatever_the_scales():
    density = plain(regression)
    members = find(density, START)
    assert sorted(np.asarray(members.rest)) == [0, NUM + 1]
    for theta in random.normal(random.key(0), (4, 2)):
        u = random.normal(random.key(1), (3, NUM))
        z, log_det = jax.vmap(lambda u, t=theta: laplace.apply(density, members, jnp.concatenate([t, u])))(u)
        values = jax.vmap(density)(z) + log_det - jnp.sum(norm.logpdf(u), axis=1)
        np.testing.assert_allclose(values, laplace.marginal(density, members, theta), atol=0.02)


def test_inverse_and_volume():
    density = plain(regression)
    members = find(density, START)
    for v in random.normal(random.key(2), (3, NUM + 2)):
        z, log_det = laplace.apply(density, members, v)
        np.testing.assert_allclose(laplace.inverse(density, members, z), v, atol=1e-3)
        jacobian = jax.jacfwd(lambda v: laplace.apply(density, members, v)[0])(v)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-3)


@pytest.mark.parametrize(("function", "dim"), [(logistic, NUM + 1), (three_scales, NUM + 3)])
def test_none_where_there_is_no_such_basis(function, dim):
    assert find(plain(function), jnp.full(dim, 0.3)) is None


def test_none_where_no_matrix_is_wanted():
    assert find(plain(regression), START, dense=False) is None
