import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.scipy.special import logsumexp

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.bridge import clouds
from numpyro_onestep.bridge.hamiltonian import Path, Point
from numpyro_onestep.draws.weights import pareto_k, tail_error
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

NUM = 512
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))


def run(log_density, key):
    @jax.jit
    def run_compiled(key):
        key_start, key_temper, key_back = random.split(key, 3)
        starts = base_.sample(BASE, key_start, NUM).reshape(4, -1, 2)
        there = clouds.climb(path, key_temper, starts, jnp.zeros(starts.shape[:2]), starts.shape[1], 5)
        return there, clouds.descend(path, key_back, there)

    path = Path(safe_log_density(log_density), BASE)
    there, upper = run_compiled(key)
    return np.asarray(there.at.x).reshape(NUM, 2), float(there.annealing), there, np.asarray(upper)


def test_moments_of_a_target_far_narrower_than_the_base(getkey):
    # the weights of plain importance sampling would leave one particle in a hundred
    u, annealing, *_ = run(lambda u: -0.5 * jnp.sum(((u - 1.5) / jnp.array([0.1, 0.3])) ** 2), getkey())
    assert annealing == 1
    error = np.array([0.1, 0.3]) / np.sqrt(NUM)
    assert np.all(np.abs(u.mean(0) - 1.5) < 4 * error)
    np.testing.assert_allclose(u.std(0), [0.1, 0.3], rtol=4 / np.sqrt(2 * NUM))


def test_shares_of_two_modes(getkey):
    def log_density(u):
        squares = jnp.array([jnp.sum((u - 1.5) ** 2), jnp.sum((u + 1.5) ** 2)])
        return logsumexp(jnp.log(jnp.array([0.2, 0.8])) - 0.5 * squares / 0.2**2)

    u, annealing, *_ = run(log_density, getkey())
    assert annealing == 1
    assert np.mean(u[:, 0] > 0) == pytest.approx(0.2, abs=0.1)
    np.testing.assert_allclose(np.abs(u).mean(0), 1.5, atol=0.05)


def test_a_region_without_density_is_left(getkey):
    u, annealing, *_ = run(lambda u: jnp.where(u[0] > 0, -0.5 * jnp.sum(u**2), -jnp.inf), getkey())
    assert annealing == 1
    assert np.all(u[:, 0] > 0)
    assert np.mean(u[:, 0]) == pytest.approx(np.sqrt(2 / np.pi), abs=0.15)


def test_tails_lighter_than_the_targets_are_reached_by_moves(getkey):
    # half a percent of the mass is out there, with a normal's e^−9 of it; one temperature would do by the other rules
    def log_density(u):
        near = -0.5 * jnp.sum(u**2) - jnp.log(2 * jnp.pi)
        far = -0.5 * jnp.sum((u / 3) ** 2) - jnp.log(2 * jnp.pi * 9)
        return jnp.logaddexp(jnp.log(0.97) + near, jnp.log(0.03) + far)

    path = Path(safe_log_density(log_density), BASE)

    @jax.jit
    def climb(key):
        key_start, key_temper = random.split(key)
        starts = base_.sample(BASE, key_start, 8 * 1024).reshape(8, -1, 2)
        return clouds.climb(path, key_temper, starts, jnp.zeros(starts.shape[:2]), 256, 2)

    def at_once(key):
        starts = base_.sample(BASE, key, 8 * 1024)
        return np.asarray(jax.vmap(lambda u: log_density(u) - base_.log_prob(BASE, u))(starts))

    there = climb(getkey())
    assert float(there.annealing) == 1
    first = np.ravel(there.first_weights)
    assert tail_error(first, pareto_k(first)) < 0.05
    alone = at_once(getkey())
    assert tail_error(first, pareto_k(first)) < 0.5 * tail_error(alone, pareto_k(alone))
    log_z = logsumexp(there.log_z) - np.log(8)
    assert abs(float(log_z)) < 4 * float(jnp.std(there.log_z)) / np.sqrt(8)


def test_says_where_it_did_not_arrive(getkey):
    # density only where no particle comes
    _, annealing, *_ = run(lambda u: jnp.where(u[0] > 50, -u[0], -jnp.inf), getkey())
    assert annealing < 1


def test_log_z_from_both_sides(getkey):
    sd = jnp.array([0.6, 0.8])
    *_, there, upper = run(lambda u: -0.5 * jnp.sum(((u - 0.5) / sd) ** 2), getkey())
    log_z = np.log(2 * np.pi * np.prod(sd))
    lower = np.asarray(there.log_z)
    for each in (lower, upper):
        assert np.std(each) < 0.5
        assert abs(np.mean(each) - log_z) < 4 * np.std(each, ddof=1) / np.sqrt(len(each)) + 0.1


def test_every_cloud_goes_its_own_way(getkey):
    *_, there, _ = run(lambda u: -0.5 * jnp.sum(((u - 1) / 0.3) ** 2), getkey())
    assert len(np.unique(there.log_z)) == 4
    assert np.all(there.ancestors < NUM // 4)
    assert np.all([len(np.unique(row)) > 5 for row in np.asarray(there.ancestors)])


def test_clouds_together_hold_the_particles_of_all():
    def of(number):
        particles = jnp.arange(6.0).reshape(2, 3) + 100 * number
        nothing = dict.fromkeys(clouds.Clouds._fields)
        known = {"at": Point(*[particles] * 5), "ancestors": particles, "log_angle": jnp.array(float(number))}
        return clouds.Clouds(**(nothing | known))

    one = of(1)
    assert clouds.together([one]) is one
    both = clouds.together([one, of(2)])
    np.testing.assert_array_equal(
        both.at.log_target, [[100, 101, 102], [103, 104, 105], [200, 201, 202], [203, 204, 205]]
    )
    assert both.ancestors.size == 12
    assert float(both.log_angle) == 1.5
