import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.paper import log_det

DIM = 5


@pytest.fixture
def step(getkey):
    """A step far from the identity and not a gradient: its Jacobian is not symmetric."""
    inner, outer = random.normal(getkey(), (2, DIM, DIM)) / DIM**0.5
    return lambda x: 1.7 * x + outer @ jnp.tanh(inner @ x)


def test_exact_is_the_determinant_of_a_linear_map(getkey):
    matrix = random.normal(getkey(), (DIM, DIM))
    value = log_det.exact(lambda x: matrix @ x, jnp.zeros(DIM))
    assert float(value) == pytest.approx(np.linalg.slogdet(np.asarray(matrix))[1], abs=1e-5)


@pytest.mark.parametrize("num_probes", [1, 8])
def test_estimate_is_unbiased(getkey, step, num_probes):
    x = random.normal(getkey(), (DIM,))
    estimates = jax.jit(jax.vmap(lambda key: log_det.estimate(step, x, key, num_probes)))(random.split(getkey(), 8000))
    error = np.mean(estimates) - log_det.exact(step, x)
    assert abs(error) < 4 * np.std(estimates) / 8000**0.5
    assert np.std(estimates) < 1.5 / num_probes**0.5


def test_gradient_of_the_estimate_is_unbiased(getkey, step):
    x = random.normal(getkey(), (DIM,))
    scaled = lambda a: lambda x: x + a * (step(x) - x)  # noqa: E731
    exact = jax.grad(lambda a: log_det.exact(scaled(a), x))(0.5)
    slope = jax.jit(jax.vmap(jax.grad(lambda a, key: log_det.estimate(scaled(a), x, key, 4)), in_axes=(None, 0)))
    slopes = slope(0.5, random.split(getkey(), 4000))
    assert abs(np.mean(slopes) - exact) < 4 * np.std(slopes) / 4000**0.5
    assert np.std(slopes) < 2 * abs(exact)
