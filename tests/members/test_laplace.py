"""Coordinates in which members are whitened: exact maps whatever they are of, standard normal where γ is normal."""

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
DATA = np.random.default_rng(3).normal(1, 2, NUM)


def normal_groups(z):
    """Members with a common mean and scale, seen with unit noise."""
    mean, log_scale, x = z[0], z[1], z[2:]
    prior = norm.logpdf(mean, 0, 3) + norm.logpdf(log_scale)
    return prior + jnp.sum(norm.logpdf(x, mean, jnp.exp(log_scale)) + norm.logpdf(DATA, x))


def counts(z):
    """Log rates with a common mean and scale, and counts."""
    mean, log_scale, x = z[0], z[1], z[2:]
    prior = norm.logpdf(mean, 0, 3) + norm.logpdf(log_scale)
    return prior + jnp.sum(norm.logpdf(x, mean, jnp.exp(log_scale)) + np.round(DATA + 5) * x - jnp.exp(x))


def walk(z):
    """A random walk of unknown step, seen with noise."""
    log_scale, x = z[0], z[1:]
    steps = norm.logpdf(jnp.diff(x), 0, jnp.exp(log_scale))
    return norm.logpdf(log_scale) + jnp.sum(steps) + jnp.sum(norm.logpdf(DATA, x, 0.5))


def two_sided(z):
    """Members whose squares are seen."""
    return norm.logpdf(z[0]) + jnp.sum(norm.logpdf(z[1:], z[0], 2) + norm.logpdf(np.abs(DATA) + 3, z[1:] ** 2, 0.5))


DENSITIES = {"normal": (normal_groups, NUM + 2), "counts": (counts, NUM + 2), "walk": (walk, NUM + 1)}


@pytest.fixture(params=DENSITIES)
def case(request):
    """Name, density, and its members."""
    function, dim = DENSITIES[request.param]
    density = plain(function)
    return request.param, density, find(density, jnp.full(dim, 0.3))


def points(members, num, spread=0.7):
    dim = len(members.rest) + len(members.members)
    center = jnp.concatenate([members.theta, jnp.zeros(len(members.members))])
    return center + spread * random.normal(random.key(0), (num, dim))


def test_what_is_found(case):
    name, _, members = case
    assert list(members.rest) == ([0] if name == "walk" else [0, 1])
    assert members.bandwidth == (name == "walk")
    assert members.slope.shape[1] == (2 if name == "counts" else 0)  # any start will do where a step leads to the mode


def test_inverse_and_volume(case):
    _, density, members = case
    for v in points(members, 3):
        z, log_det = laplace.apply(density, members, v)
        np.testing.assert_allclose(laplace.inverse(density, members, z), v, atol=2e-4)
        jacobian = jax.jacfwd(lambda v: laplace.apply(density, members, v)[0])(v)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-3)


def test_gradient(case):
    """Of the density on the new coordinates."""
    _, density, members = case

    def moved(v):
        z, log_det = laplace.apply(density, members, v)
        return density(z) + log_det

    for v, direction in zip(
        points(members, 3), random.normal(random.key(1), (3, len(members.rest) + NUM)), strict=True
    ):
        slope = (moved(v + 0.02 * direction) - moved(v - 0.02 * direction)) / 0.04
        np.testing.assert_allclose(jax.grad(moved)(v) @ direction, slope, rtol=0.02, atol=0.1)


def test_normal_members_become_standard_normal_deep_in_the_neck():
    density, dim = plain(normal_groups), NUM + 2
    members = find(density, jnp.full(dim, 0.3))
    for log_scale in (-7.0, 0.0, 2.0):
        theta = jnp.array([1.5, log_scale])
        for u in random.normal(random.key(2), (3, NUM)):
            z, log_det = laplace.apply(density, members, jnp.concatenate([theta, u]))
            expected = laplace.marginal(density, members, theta) + jnp.sum(norm.logpdf(u))
            np.testing.assert_allclose(density(z) + log_det, expected, rtol=2e-4)


@pytest.mark.parametrize(("theta", "most"), [((2.0, 0.0), 0.1), ((1.0, -0.7), 0.1), ((1.5, -5.0), 0.02)])
def test_one_step_leads_near_the_mode(theta, most):
    """In standard deviations, also deep in the neck."""
    density = plain(counts)
    members = find(density, jnp.full(NUM + 2, 0.3))
    z, _ = laplace.apply(density, members, jnp.concatenate([jnp.array(theta), jnp.zeros(NUM)]))
    slope = jax.grad(density)(z)[2:]
    sd = jnp.abs(jnp.diagonal(jax.hessian(density)(z)))[2:] ** -0.5
    assert jnp.max(jnp.abs(slope * sd)) < most


def test_other_modes_are_not_seen_where_steps_are_short():
    """From far to the right of counts' log rates Newton's steps are one each, many of the standard deviations there."""
    few = plain(lambda z: counts(z) + jnp.sum((np.where(DATA > 0, 1.0, 0.0) - np.round(DATA + 5)) * z[2:]))
    assert find(few, jnp.full(NUM + 2, 0.3)) is not None


def funnel(z):
    """Nothing but a prior: the neck and the wide end are a thousandfold apart in scale."""
    return norm.logpdf(z[0], 0, 3) + jnp.sum(norm.logpdf(z[1:], 0, jnp.exp(z[0] / 2)))


@pytest.mark.parametrize("log_variance", [-9.0, 0.0, 9.0])
def test_a_funnel_is_a_cylinder_at_both_ends(log_variance):
    density = plain(funnel)
    members = find(density, jnp.full(NUM + 1, 0.3))
    x = jnp.exp(log_variance / 2) * random.normal(random.key(3), (NUM,))
    v = laplace.inverse(density, members, jnp.concatenate([jnp.array([log_variance]), x]))
    np.testing.assert_allclose(v[1:], jnp.exp(-log_variance / 2) * x, rtol=1e-3, atol=1e-4)


def test_not_quadratic_with_kinks():
    def kinks(z):
        spikes = -jnp.sum(jnp.abs(z[1:])) * jnp.exp(-z[0]) - NUM * z[0]
        return norm.logpdf(z[0]) + spikes + jnp.sum(norm.logpdf(DATA, z[1:]))

    assert find(plain(kinks), jnp.full(NUM + 1, 0.3), quadratic_only=True) is None


def test_none_where_there_are_no_second_derivatives():
    def first_only(z):
        return norm.logpdf(z[0]) + jnp.sum(jax.scipy.special.gammainc(jnp.exp(z[1:]), jnp.exp(z[0])))

    assert find(plain(first_only), jnp.full(NUM + 1, 0.3)) is None


def test_the_same_members():
    one = find(plain(normal_groups), jnp.full(NUM + 2, 0.3))
    other = find(plain(normal_groups), jnp.full(NUM + 2, 0.5))
    assert laplace.same_members(one, other)
    assert laplace.same_members(None, None)
    assert not laplace.same_members(one, None)
    assert not laplace.same_members(one, find(plain(walk), jnp.full(NUM + 1, 0.3)))


def test_none_where_members_have_two_modes_each():
    assert find(plain(two_sided), jnp.full(NUM + 1, 1.0)) is None


def test_none_where_all_depend_on_all():
    assert find(plain(lambda z: -(jnp.sum(z) ** 2) - jnp.sum(z**4)), jnp.full(8, 0.3)) is None


def test_none_where_only_quadratic_ones_are_wanted():
    assert find(plain(counts), jnp.full(NUM + 2, 0.3), quadratic_only=True) is None
