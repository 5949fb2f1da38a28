import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import conditional_scale
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import WhitenedTarget
from numpyro_onestep.base.search import search
from numpyro_onestep.draws.weights import effective_sample_size, log_mean_weight, pareto_k
from numpyro_onestep.gaussians import mixture
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

GAUSSIAN = Mixture(jnp.zeros(1), jnp.array([[3.0, -1.0]]), jnp.array([[[2.0, 0.0], [-0.5, 0.3]]]))
PAIR = Mixture(  # two separated modes of unequal weight and shape
    jnp.log(jnp.array([0.3, 0.7])),
    jnp.array([[-4.0, -3.0], [4.0, 3.0]]),
    jnp.array([[[0.7, 0.0], [0.4, 0.5]], [[1.0, 0.0], [-0.5, 0.8]]]),
)
CASES = {"gaussian": GAUSSIAN, "mixture": PAIR}


@pytest.fixture(params=CASES)
def q(request):
    return CASES[request.param]


def moments(q):
    """Mean and covariance in closed form."""
    weights, centered = np.exp(q.log_weights), q.means - np.exp(q.log_weights) @ q.means
    within = np.einsum("k,kij,klj->il", weights, q.scale_trils, q.scale_trils)
    return weights @ q.means, within + np.einsum("k,ki,kj->ij", weights, centered, centered)


def test_whiten_moves_to_mean_zero_and_unit_covariance(q):
    base = base_.whiten(q)
    mean, cov = moments(base.mixture)
    np.testing.assert_allclose(mean, 0.0, atol=1e-5)
    np.testing.assert_allclose(cov, np.eye(2), atol=1e-5)
    mean, cov = moments(q)
    np.testing.assert_allclose(base.whitening.shift, mean, rtol=1e-5)
    np.testing.assert_allclose(base.whitening.scale_tril @ base.whitening.scale_tril.T, cov, rtol=1e-4)
    assert not base.annealed


def test_draws_density_and_score_agree(getkey, q):
    base, num = base_.whiten(q), 20_000
    u = base_.sample(base, getkey(), num)

    @jax.jit
    @jax.vmap
    def evaluate(u):
        z, log_det = base_.unwhiten(base, u), base_.whitening_log_det(base, u)
        grad = jax.grad(lambda u: base_.log_prob(base, u))(u)
        # the mean of r(u)/p0(u) over draws is one for any density r, here narrower than the last component
        tril = 0.4 * base.mixture.scale_trils[-1]
        log_r = jax.scipy.stats.multivariate_normal.logpdf(u, base.mixture.means[-1] + 0.04, tril @ tril.T)
        log_p = base_.log_prob(base, u)
        return log_p, mixture.log_prob(q, z) + log_det, base_.score(base, u), grad, jnp.exp(log_r - log_p)

    log_p, expected, score, grad, ratio = (np.asarray(value) for value in evaluate(u))
    np.testing.assert_allclose(log_p, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(score, grad, rtol=1e-3, atol=1e-3)
    for draws, value in ((u, 0.0), (np.square(u), 1.0), (ratio, 1.0)):
        assert np.all(np.abs(np.mean(draws, axis=0) - value) < 5 * np.std(draws, axis=0) / np.sqrt(num))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("inflate", [1.0, 1.3])
def test_draws_with_all_parts_have_the_density_they_claim(getkey, q, padded, inflate):
    base, num = base_.whiten(q)._replace(heavy_shares=jnp.array([0.2, 0.5])), 40_000
    base = base_.pad(base) if padded else base_.beside(base, 3)
    u = base_.sample(base, getkey(), num, inflate)
    assert u.shape == (num, base.dim)
    log_p = jax.vmap(lambda u: base_.log_prob(base, u, inflate))(u)
    for scale in (0.7, 1.5):  # the mean of r/p0 over draws is one for any density r
        log_r = jnp.sum(jax.scipy.stats.norm.logpdf(u, scale=scale), axis=1)
        ratio = np.exp(log_r - log_p)
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(num)


@pytest.mark.parametrize("shares", [(0.4, 0.0), (0.0, 0.4), (0.3, 0.3)])
def test_heavy_draws_have_the_density_they_claim(getkey, q, shares):
    base, num = base_.whiten(q)._replace(heavy_shares=jnp.array(shares)), 40_000
    u = base_.sample(base, getkey(), num)
    # E[r/p] over draws of p is one for any density r; here one that lives in the tails
    log_r = -3.0 * jnp.log1p(jnp.sum(u**2, axis=1) / 4) - jnp.log(2 * jnp.pi)  # Student-t with 4 degrees of freedom
    ratio = np.exp(log_r - jax.vmap(lambda u: base_.log_prob(base, u))(u))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(num)
    if len(q.means) == 1 and shares[1] == 0:
        assert ratio.max() < 10
        # P(|u| > 6) of the t in two dimensions is (1 + 6²/2)⁻¹
        far = np.mean(np.linalg.norm(u, axis=1) > 6)
        assert far == pytest.approx(0.4 / 19, abs=5 * np.sqrt(0.4 / 19 / num))


def test_inflated_draws_are_wider(getkey):
    num = 20_000
    inflate = jnp.repeat(jnp.array([1.5, 1.0]), num // 2)[:, None]
    draws = base_.sample(base_.whiten(GAUSSIAN), getkey(), num, inflate)
    for half, scale in ((draws[: num // 2], 1.5), (draws[num // 2 :], 1.0)):
        np.testing.assert_allclose(np.mean(np.square(half), axis=0), scale**2, rtol=5 * np.sqrt(4 / num))


@pytest.mark.parametrize("scale_slope", [0.0, 0.7])
def test_whitened_target_is_the_change_of_variables(getkey, scale_slope):
    base = base_.whiten(PAIR)
    base = base._replace(whitening=base.whitening._replace(scale_slopes=scale_slope * jnp.eye(2, k=-1)))
    target = safe_log_density(log_tails := lambda z: -jnp.sum(jnp.log1p((z - 0.3) ** 2)) + 0.1 * z[0] * z[1])

    def expected(u):
        jacobian = jax.jacfwd(lambda u: base_.unwhiten(base, u))(u)
        return log_tails(base_.unwhiten(base, u)) + jnp.log(jnp.abs(jnp.linalg.det(jacobian)))

    @jax.jit
    def compare(u):
        whitened = WhitenedTarget(base, target)
        actual = whitened.value(u), *whitened.value_and_grad(u), whitened.derivatives(u)[2]
        return actual, (expected(u), expected(u), jax.grad(expected)(u), jax.hessian(expected)(u))

    for actual, value in zip(*compare(random.normal(getkey(), (2,))), strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-3, atol=1e-4)


def test_search_fits_a_correlated_gaussian_far_away(getkey):
    log_z, shift = 7.0, jnp.array([1000.0, -1000.0, 0.0])
    tril = np.array([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [-0.01, 0.02, 0.05]])
    cov = tril @ tril.T
    precision = jnp.asarray(np.linalg.inv(cov), jnp.float32)
    constant = float(log_z - 1.5 * np.log(2 * np.pi) - np.sum(np.log(np.diagonal(tril))))
    target = safe_log_density(lambda z: constant - 0.5 * (z - shift) @ precision @ (z - shift))
    base = search(target, 3.0, getkey(), jnp.zeros(3))
    assert base.mixture.means.shape == (1, 3)
    whitened = WhitenedTarget(base, target)
    gaps = jax.vmap(lambda u: whitened.value(u) - base_.log_prob(base, u))(base_.sample(base, getkey(), 2000))
    assert abs(np.mean(gaps) - log_z) < 1e-2
    white = np.linalg.inv(tril) @ np.asarray(base.whitening.scale_tril, np.float64)
    np.testing.assert_allclose(white @ white.T, np.eye(3), atol=0.02)


def test_search_finds_the_axes_of_a_rotated_product(getkey):
    dim = 6
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0].astype(np.float32)
    potential = lambda x: jnp.sum(x**4 - 6 * x**2)  # noqa: E731
    many_modes = safe_log_density(lambda z: -potential(rotation.T @ z))
    base = search(many_modes, 3.0, getkey(), jnp.zeros(dim))
    assert bool(base.annealed)
    # the axes found are those of the product up to order and sign
    match = np.abs(base.rotation.T @ rotation)
    np.testing.assert_allclose(np.sort(match, axis=1)[:, -1], 1.0, atol=0.02)
    u = random.normal(getkey(), (100, dim))
    back = jax.vmap(lambda u: base_.whiten_point(base, base_.unwhiten(base, u)))(u)
    np.testing.assert_allclose(back, u, atol=1e-3)
    straight = search(safe_log_density(lambda z: -potential(z)), 3.0, getkey(), jnp.zeros(dim))
    np.testing.assert_array_equal(straight.rotation, np.eye(dim))


def weight_per_mode(base):
    """The weight of the components centred within one unit of each of PAIR's modes, for one base."""
    means = base.whitening.shift + base.mixture.means @ base.whitening.scale_tril.T
    near = jnp.linalg.norm(means[:, None] - PAIR.means, axis=2) < 1.0
    return jnp.exp(base.mixture.log_weights) @ near


PAIR_TARGET = safe_log_density(lambda z: mixture.log_prob(PAIR, z) + 2.0)


def weights_of(base, target, key, num=4096):
    whitened = WhitenedTarget(base, target)
    u = base_.sample(base, key, num)
    return np.asarray(jax.vmap(lambda u: whitened.value(u) - base_.log_prob(base, u))(u))


def test_search_gives_heavy_tails_where_the_target_has_them(getkey):
    def student(z):  # 1.5 degrees of freedom, in three dimensions
        return -2.25 * jnp.log1p(jnp.sum((z - 1) ** 2) / 1.5)

    target, key = safe_log_density(student), getkey()
    base = search(target, 3.0, getkey(), jnp.zeros(3))
    assert jnp.sum(base.heavy_shares) > 0.2
    assert not np.any(conditional_scale.influence(base.whitening))
    before = pareto_k(weights_of(base._replace(heavy_shares=jnp.zeros(2)), target, key))
    after = pareto_k(weights_of(base, target, key))
    assert before > 0.7 > after


def test_search_gives_heavy_tails_to_each_coordinate(getkey):
    dim = 8

    def student(z):  # independent coordinates with two degrees of freedom, of two scales
        return -1.5 * jnp.sum(jnp.log1p((z / jnp.where(jnp.arange(dim) < 4, 1.0, 3.0)) ** 2 / 2))

    target, key = safe_log_density(student), getkey()
    base = search(target, 3.0, getkey(), jnp.zeros(dim))
    joint, apart = base.heavy_shares
    assert joint == 0
    assert apart > 0.9
    log_w = weights_of(base, target, key)
    assert effective_sample_size(log_w) > 0.9 * len(log_w)
    log_z = dim * (1.5 * np.log(2)) + 4 * np.log(3.0)
    assert log_mean_weight(log_w)[0] == pytest.approx(log_z, abs=0.05)


def test_search_leaves_gaussian_tails_alone(getkey):
    base = search(safe_log_density(lambda z: -0.5 * jnp.sum((z / 2) ** 2)), 3.0, getkey(), jnp.zeros(3))
    assert not jnp.any(base.heavy_shares)


def test_search_fits_two_modes(getkey):
    base = search(PAIR_TARGET, 4.0, getkey(), jnp.zeros(2))
    assert base.mixture.means.shape == (2, 2)
    np.testing.assert_allclose(np.sort(np.exp(base.mixture.log_weights)), [0.3, 0.7], rtol=0.1)
    np.testing.assert_allclose(weight_per_mode(base), [0.3, 0.7], rtol=0.1)


def test_search_fits_two_modes_under_vmap(getkey):
    # no decision can be taken on values: the components are of a fixed number, some of them without weight
    bases = jax.jit(jax.vmap(lambda key: search(PAIR_TARGET, 4.0, key, jnp.zeros(2))))(random.split(getkey(), 2))
    assert np.any(bases.mixture.means[0] != bases.mixture.means[1])
    np.testing.assert_allclose(jax.vmap(weight_per_mode)(bases), [[0.3, 0.7]] * 2, rtol=0.1)


def test_search_spans_many_modes_with_an_annealed_base(getkey):
    # some hundred modes on a grid
    target = safe_log_density(lambda z: -jnp.sum(0.5 * (z / 12) ** 2 - 5 * jnp.cos(2 * jnp.pi * z / 3)))
    base = search(target, 8.0, getkey(), jnp.zeros(2))
    assert bool(base.annealed)
    assert base.mixture.means.shape == (1, 2)
    assert np.all(np.abs(base.whitening.shift) < 5)
    assert np.all(np.diagonal(base.whitening.scale_tril) > 4)


def test_search_refuses_a_density_that_is_nan_everywhere(getkey):
    with pytest.raises(ValueError, match="not finite at any of"):
        search(safe_log_density(lambda z: jnp.nan * z[0]), 3.0, getkey(), jnp.zeros(2))


def test_padding_adds_no_mass(getkey):
    base = search(PAIR_TARGET, 4.0, getkey(), jnp.zeros(2))
    padded = base_.pad(base, sizes=(2, 9))
    assert padded.mixture.means.shape == (2, 2)
    padded = base_.pad(base, sizes=(9, 64))
    assert padded.mixture.means.shape == (9, 2)
    u = random.normal(getkey(), (50, 2))
    for f in (base_.log_prob, base_.score):
        over_points = jax.vmap(f, in_axes=(None, 0))
        assert np.allclose(over_points(padded, u), over_points(base, u), atol=1e-5)
    key = getkey()
    draws = base_.sample(padded, key, 4000)
    assert np.allclose(np.cov(draws.T), np.eye(2), atol=0.1)
    # the draws of a single normal stay what they are
    normal = base_.whiten(Mixture(jnp.zeros(1), jnp.ones((1, 2)), jnp.eye(2)[None]))
    assert np.allclose(base_.sample(base_.pad(normal), key, 50), base_.sample(normal, key, 50), atol=1e-5)


def test_a_base_beside_standard_normal_coordinates(getkey):
    q = Mixture(
        jnp.log(jnp.array([0.3, 0.7])), random.normal(getkey(), (2, 3)), jnp.stack([jnp.eye(3), 0.5 * jnp.eye(3)])
    )
    own = base_.whiten(q)
    wider = base_.beside(own, 4)
    u = random.normal(getkey(), (7,))
    expected = base_.log_prob(own, u[:3]) + jnp.sum(jax.scipy.stats.norm.logpdf(u[3:]))
    np.testing.assert_allclose(base_.log_prob(wider, u), expected, rtol=1e-5)
    np.testing.assert_allclose(base_.unwhiten(wider, u)[:3], base_.unwhiten(own, u[:3]), rtol=1e-5)
    np.testing.assert_allclose(base_.unwhiten(wider, u)[3:], u[3:], rtol=1e-5)
    assert base_.beside(own, 0) is own
