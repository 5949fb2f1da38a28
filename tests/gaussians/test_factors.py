import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_onestep.gaussians import factors, mixture
from numpyro_onestep.gaussians.factors import LowRank
from numpyro_onestep.gaussians.mixture import Mixture

RNG = np.random.default_rng(0)
DIM, RANK = 7, 3


def low_rank():
    directions = np.linalg.qr(RNG.normal(size=(DIM, RANK)))[0]
    return LowRank(RNG.uniform(0.1, 3, DIM), directions, RNG.uniform(0.2, 5, RANK))


def matrix_of(factor):
    if not isinstance(factor, LowRank):
        return factor
    stretch = np.eye(DIM) + factor.directions @ np.diag(factor.stretch - 1) @ factor.directions.T
    return np.diag(factor.scale) @ stretch


LOWER = np.tril(RNG.normal(size=(DIM, DIM)), -1) + np.diag(RNG.uniform(0.2, 2, DIM))


@pytest.mark.parametrize("factor", [LOWER, low_rank()], ids=["lower", "low rank"])
def test_factors_are_their_matrices(factor):
    matrix, v = matrix_of(factor), RNG.normal(size=DIM)
    close = {"rtol": 1e-4, "atol": 1e-4}
    factor = jax.tree.map(jnp.asarray, factor)
    np.testing.assert_allclose(factors.times(factor, v), matrix @ v, **close)
    np.testing.assert_allclose(factors.solve(factor, v), np.linalg.solve(matrix, v), **close)
    np.testing.assert_allclose(factors.solve_transposed(factor, v), np.linalg.solve(matrix.T, v), **close)
    np.testing.assert_allclose(factors.log_det(factor), np.linalg.slogdet(matrix)[1], **close)
    np.testing.assert_allclose(factors.times(factors.widened(factor, 1.5), v), 1.5 * matrix @ v, **close)


def test_a_mixture_of_low_rank_factors_is_that_of_their_matrices(getkey):
    both = [low_rank(), low_rank()]
    weights, means = np.log([0.3, 0.7]), RNG.normal(size=(2, DIM))
    q = Mixture(weights, means, jax.tree.map(lambda *leaves: np.stack(leaves), *both))
    covs = [matrix_of(f) @ matrix_of(f).T for f in both]
    dense = Mixture(weights, means, np.linalg.cholesky(covs))
    q, dense = jax.tree.map(jnp.asarray, (q, dense))
    x = jnp.asarray(RNG.normal(size=(50, DIM)))
    for function in (mixture.log_prob, mixture.score, mixture.responsibilities):
        ours, theirs = (jax.vmap(lambda x, q=q, function=function: function(q, x))(x) for q in (q, dense))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    draws = np.asarray(mixture.sample(q, getkey(), 50_000), np.float64)
    mean = np.exp(weights) @ means
    cov = sum(w * (c + np.outer(m - mean, m - mean)) for w, c, m in zip(np.exp(weights), covs, means, strict=True))
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(np.diag(cov).max() / 50_000))
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.05 * np.diag(cov).max())


def test_a_standard_normal_has_no_matrix():
    q = mixture.standard(10_000, jnp.float32)
    assert sum(leaf.size for leaf in jax.tree.leaves(q)) < 30_000
    assert mixture.log_prob(q, jnp.zeros(10_000)) == pytest.approx(-5000 * np.log(2 * np.pi), rel=1e-5)
