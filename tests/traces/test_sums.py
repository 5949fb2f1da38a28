"""Long sums of single precision, added up exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.experimental.ode import odeint

from numpyro_onestep.traces.sums import exact_sums, has_long_sums

EPS = float(jnp.finfo(jnp.float32).eps)
TABLE = np.random.default_rng(0).random((400, 250)) < 0.3
POINT = jnp.array([0.7, 0.4])


def log_density(x):
    """A sum of four parts, two of them long, one of them in a program of its own and over one axis after the other."""
    long = jax.jit(lambda p: jnp.sum(jnp.sum(jnp.where(TABLE, jnp.log(p), jnp.log1p(-p)), axis=1)))(x[0])
    other = jax.jit(lambda p: (p, jnp.sum(jnp.cos(jnp.arange(5000) * p)) / 2))(x[1])[1]
    return -(-long - 2.0 * other) + (0.0 - x[0] ** 2) * 3 + jnp.sum(x)


def true_value(x):
    p, q = np.asarray(x, np.float64)
    long = np.where(TABLE, np.log(p), np.log1p(-p)).sum()
    return long + np.cos(np.arange(5000) * q).sum() - 3 * p**2 + p + q


def test_a_table_of_equal_terms_is_exact_to_the_last_digits():
    exact = jax.jit(lambda x: exact_sums(log_density, x))
    points = 0.1 + 0.8 * random.uniform(random.key(0), (50, 2))
    true = np.array([true_value(x) for x in points])
    ours, plain = jax.vmap(exact)(points), jax.vmap(log_density)(points)
    assert np.max(np.abs(ours - true)) < 2 * EPS * np.max(np.abs(true))
    assert np.std(plain - true) > 20 * np.std(ours - true)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1e3])
def test_terms_of_any_size(size):
    terms = size * np.repeat(np.random.default_rng(0).random(50).astype(np.float32), 100)
    exact = float(exact_sums(lambda x: jnp.sum(x * terms), jnp.ones(())))
    assert abs(exact - terms.sum(dtype=np.float64)) < EPS * exact


def test_sums_that_are_shared_over_and_over():
    def doubled(x):
        total = jnp.sum(x * jnp.ones(2000))
        for _ in range(30):
            total = total + total
        return total

    assert exact_sums(doubled, jnp.ones(())) == 2000 * 2.0**30


def test_derivatives_are_those_of_the_function():
    exact = lambda x: exact_sums(log_density, x)  # noqa: E731
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        ours, plain = jax.jit(derivative(exact))(POINT), jax.jit(derivative(log_density))(POINT)
        np.testing.assert_allclose(ours, plain, rtol=1e-4)
    value, slope = jax.vmap(jax.value_and_grad(exact))(jnp.stack([POINT] * 3))
    assert value.shape == (3,)
    assert slope.shape == (3, 2)


def test_data_that_are_traced_integers_or_keys_are_no_obstacle():
    def of(counts, key, x):
        value = exact_sums(lambda x: jnp.sum(counts * x[0]) + random.normal(key), x)
        return value

    counts = jnp.arange(2000)
    value, slope = jax.jit(jax.value_and_grad(of, argnums=2))(counts, random.key(1), POINT)
    assert value == pytest.approx(float(0.7 * np.sum(np.arange(2000.0)) + random.normal(random.key(1))), rel=2 * EPS)
    assert slope[0] == np.sum(np.arange(2000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_what_it_is(bad):
    terms = np.ones(3000, np.float32)
    terms[7] = bad
    assert np.array_equal(exact_sums(lambda x: jnp.sum(x * terms), jnp.ones(())), bad, equal_nan=True)
    assert np.array_equal(exact_sums(lambda x: x + jnp.sum(jnp.ones(3000)), jnp.array(bad)), bad, equal_nan=True)


def test_zeros_are_zero():
    assert exact_sums(lambda x: jnp.sum(x * jnp.zeros(3000)), jnp.ones(())) == 0


def test_functions_with_rules_for_reverse_mode_alone():
    def density(x):
        path = odeint(lambda y, _, rate: -rate * y, jnp.ones(()), jnp.linspace(0.0, 1.0, 5), x[0])
        return jnp.sum(jnp.log(path[-1]) * jnp.ones(2000))

    slope = jax.grad(lambda x: exact_sums(density, x))(POINT)
    np.testing.assert_allclose(slope, jax.grad(density)(POINT), rtol=1e-5)


def test_only_long_sums_of_single_precision_are_told():
    trace = lambda f: jax.make_jaxpr(f)(POINT)  # noqa: E731
    assert has_long_sums(trace(log_density))
    assert not has_long_sums(trace(lambda x: jnp.sum(x) - jnp.sum(jnp.ones(1000) * x[0])))
    assert not has_long_sums(trace(lambda x: jnp.exp(jnp.sum(jnp.ones(5000) * x[0]))))
    assert not has_long_sums(trace(lambda x: x[0]))
    with jax.enable_x64(True):
        assert not has_long_sums(jax.make_jaxpr(lambda x: jnp.sum(jnp.ones(5000) * x))(np.float64(1)))
