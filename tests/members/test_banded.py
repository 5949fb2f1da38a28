"""Banded matrices against dense ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_onestep.members import banded

NUM = 7


def bands(matrix, width):
    return jnp.stack([jnp.pad(jnp.diagonal(matrix, -k), (k, 0)) for k in range(width + 1)], axis=1)


def dense(factor):
    return sum(jnp.diag(factor[k:, k], -k) for k in range(factor.shape[1]))


@pytest.fixture(params=[0, 1, 2])
def lower(request):
    """A lower triangular matrix of some bandwidth, and the bandwidth."""
    rng = np.random.default_rng(request.param)
    full = np.tril(rng.normal(size=(NUM, NUM))) * (np.subtract.outer(range(NUM), range(NUM)) <= request.param)
    return jnp.asarray(full + 3 * np.eye(NUM)), request.param


def test_cholesky(lower):
    matrix, width = lower
    factor, pivots = banded.cholesky(bands(matrix @ matrix.T, width), jnp.full(NUM, 1e-6))
    np.testing.assert_allclose(dense(factor), np.linalg.cholesky(matrix @ matrix.T), atol=1e-4)
    np.testing.assert_allclose(pivots, np.diag(dense(factor)) ** 2, rtol=1e-4)


def test_cholesky_of_a_matrix_that_is_not_positive_definite(lower):
    matrix, width = lower
    indefinite = bands(matrix @ matrix.T - 20 * np.eye(NUM), width)
    factor, pivots = banded.cholesky(indefinite, jnp.full(NUM, 0.1))
    assert jnp.all(jnp.isfinite(factor))
    assert jnp.all(factor[:, 0] > 0)
    assert jnp.any(pivots < 0)


def test_solves_and_product(lower):
    matrix, width = lower
    factor, b = bands(matrix, width), jnp.arange(1.0, NUM + 1)
    np.testing.assert_allclose(banded.solve(factor, b), np.linalg.solve(matrix, b), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(banded.solve_transposed(factor, b), np.linalg.solve(matrix.T, b), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(banded.times_transposed(factor, b), matrix.T @ b, rtol=1e-5)
