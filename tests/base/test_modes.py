import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import modes
from numpyro_onestep.gaussians import mixture
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

FOUR = Mixture(
    np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32)),
    np.array([[-5.0, -5.0], [-5.0, 5.0], [5.0, -5.0], [5.0, 5.0]], np.float32),
    np.array([[[1, 0], [0.5, 0.5]], [[0.3, 0], [0, 0.9]], [[1, 0], [0, 1]], [[0.5, 0], [-0.4, 0.4]]], np.float32),
)


def log_four(x):
    return mixture.log_prob(jax.tree.map(jnp.asarray, FOUR), x)


def assert_finds_four(found):
    assert int(np.sum(found.valid)) == 4
    points, trils = np.asarray(found.points)[found.valid], np.asarray(found.scale_trils)[found.valid]
    order = np.argmin(np.linalg.norm(points[:, None] - FOUR.means, axis=2), axis=0)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(points[order], FOUR.means, atol=1e-2)
    expected = FOUR.scale_trils @ np.swapaxes(FOUR.scale_trils, 1, 2)
    np.testing.assert_allclose(trils[order] @ np.swapaxes(trils[order], 1, 2), expected, atol=1e-2)


def test_finds_the_modes_of_a_mixture_and_their_covariances(getkey):
    target = safe_log_density(log_four)

    @jax.jit
    def find(key):
        spreads = jnp.full((128, 2), 4.0)
        starts = modes.disperse(key, jnp.zeros(2), spreads)
        ends, log_density = modes.climb(target, starts, spreads)
        picked, num_distinct = modes.select(ends, log_density, 0.5, 8)
        return modes.polish(target, ends[picked]), num_distinct

    found, num_distinct = find(getkey())
    assert num_distinct == 4
    assert_finds_four(found)
    np.testing.assert_allclose(found.log_density, jax.vmap(log_four)(found.points), rtol=1e-5)


def test_polish_marks_duplicates(getkey):
    # two starts at each mode
    starts = jnp.repeat(jnp.asarray(FOUR.means), 2, axis=0) + 0.1 * random.normal(getkey(), (8, 2))
    found = jax.jit(lambda starts: modes.polish(safe_log_density(log_four), starts))(starts)
    assert_finds_four(found)
    assert np.all(np.sum(np.asarray(found.valid).reshape(4, 2), axis=1) == 1)
    np.testing.assert_allclose(found.points, np.repeat(FOUR.means, 2, axis=0), atol=1e-2)


def test_modes_that_one_ascent_alone_has_led_to():
    found = modes.polish(safe_log_density(log_four), jnp.asarray(FOUR.means))
    ends = np.concatenate([np.repeat(FOUR.means[:2], 3, axis=0), FOUR.means[2:3], FOUR.means[3:] + 5])
    np.testing.assert_array_equal(modes.seen_once(found, ends), [False, False, True, True])
    none = found._replace(distinct=np.zeros(4, bool))
    assert not np.any(modes.seen_once(none, ends))
    with warnings.catch_warnings(action="error"):  # an ascent without end is far from all of them, and no overflow
        far = np.concatenate([ends, np.full((1, ends.shape[1]), 1e30)]).astype(np.float32)
        np.testing.assert_array_equal(modes.seen_once(found, far), [False, False, True, True])


def test_polish_drops_modes_without_mass():
    log_heights = jnp.array([0.0, -8.0, -12.0])
    centers = jnp.array([-20.0, 0.0, 20.0])
    target = safe_log_density(lambda x: jax.nn.logsumexp(log_heights - 0.5 * (x[0] - centers) ** 2))
    found = jax.jit(lambda starts: modes.polish(target, starts))(centers[:, None] + 0.1)
    np.testing.assert_array_equal(found.distinct, [True, True, True])
    np.testing.assert_array_equal(found.valid, [True, True, False])


@jax.jit
def climb_and_polish(case, starts):
    def log_density(x):
        pole = -0.5 * x[0] ** 2 * jnp.exp(-x[1]) - 0.5 * x[1]  # a funnel: unbounded along x = 0, v → −∞
        saddle = x[0] ** 2 - x[1] ** 2  # stationary, but no mode
        growth = 0.5 * jnp.log1p(x[0] ** 2) - x[1] ** 2  # concave far out, yet without bound
        return jnp.array([pole, saddle, growth, x[0] + x[1], jnp.nan, -0.5 * x @ x])[case]

    target = safe_log_density(log_density)
    # few iterations: a climb without end is to be seen before curvatures underflow
    return modes.polish(target, modes.climb(target, starts, jnp.full_like(starts, 3.0))[0])


@pytest.mark.parametrize(
    ("case", "has_mode"),
    [(0, False), (1, False), (2, False), (3, False), (4, False), (5, True)],
    ids=["pole", "saddle", "growth", "slope", "nan", "normal"],
)
def test_no_mode_where_there_is_none(getkey, case, has_mode):
    starts = jnp.concatenate([jnp.zeros((1, 2)), 2 * random.normal(getkey(), (15, 2))])
    found = climb_and_polish(case, starts)
    assert int(np.sum(found.valid)) == has_mode
    assert np.all(np.isfinite(found.points))


def test_a_plateau_is_no_mode_and_hides_none():
    # far out the density is constant to working precision: gradient and Hessian are zero
    target = safe_log_density(lambda x: jnp.log(jnp.exp(-0.5 * x @ x) + 1e-9))
    found = jax.jit(lambda starts: modes.polish(target, starts))(jnp.array([[30.0, 0.0], [0.5, 0.5], [0.0, 40.0]]))
    np.testing.assert_array_equal(found.valid, [False, True, False])


def test_disperse_keeps_the_center_first(getkey):
    spreads = jnp.repeat(jnp.array([[3.0], [30.0]]), 256, axis=0) * jnp.ones(2)
    starts = modes.disperse(getkey(), jnp.array([1000.0, -1.0]), spreads)
    assert starts.shape == (512, 2)
    np.testing.assert_array_equal(starts[0], [1000.0, -1.0])
    for half, spread in ((starts[:256], 3.0), (starts[256:], 30.0)):
        np.testing.assert_allclose(np.std(half, axis=0), spread, rtol=5 / np.sqrt(2 * 256))


def test_select_prefers_high_and_distant_points():
    points = jnp.array([[0.0], [0.1], [5.0], [5.05], [9.0]])
    picked, num_distinct = modes.select(points, jnp.array([1.0, 2.0, 3.0, 2.5, -jnp.inf]), 0.5, 4)
    assert num_distinct == 2
    np.testing.assert_array_equal(picked[:2], [2, 1])
    assert len(set(picked.tolist())) == 4


def test_select_fills_spare_places_with_the_highest_left():
    points = jnp.array([[0.0], [0.1], [0.2], [5.0]])
    picked, num_distinct = modes.select(points, jnp.array([3.0, 1.0, 2.0, 0.0]), 1.0, 4)
    assert picked.tolist() == [0, 3, 2, 1]
    assert num_distinct == 2


@jax.jit
def ascend_to_an_edge(starts):
    # the density grows up to x = −.5, where it ends, and is highest at y = 2
    target = safe_log_density(lambda x: jnp.where(x[0] < -0.5, x[0] - 0.5 * (x[1] - 2) ** 2, -jnp.inf))
    return modes.ascend(target, starts, jnp.full_like(starts, 3.0))


def test_an_ascent_that_meets_an_edge_keeps_its_highest_point(getkey):
    inside = jnp.array([-1.0, 0.0])
    starts = jnp.concatenate([inside[None], inside + 3 * random.normal(getkey(), (31, 2))])
    assert 5 < np.sum(starts[:, 0] > -0.5) < 27  # without density
    points, log_density, first = ascend_to_an_edge(starts)
    np.testing.assert_allclose(log_density, points[:, 0] - 0.5 * (points[:, 1] - 2) ** 2, atol=1e-4)
    np.testing.assert_allclose(points[:, 0], -0.5, atol=0.05)  # at the edge, though not all at its highest point
    assert np.max(log_density) == pytest.approx(-0.5, abs=0.01)
    valid = np.asarray(starts[:, 0] < -0.5)
    np.testing.assert_array_equal(first[valid], starts[valid])
    assert np.all(first[:, 0] < -0.5)
    assert np.all(points[:, 0] < -0.5)
