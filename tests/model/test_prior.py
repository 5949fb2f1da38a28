import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan

from numpyro_onestep import OneStep


def drawn(model, *args, num=500):
    kernel = OneStep(model)
    setup = kernel.look(random.key(0), None, args, {})
    return setup, setup.draw_prior(random.key(1), num, args, {})


def bounded(y):
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("y", dist.Normal(share[0], scale), obs=y)


def test_draws_are_of_the_prior_on_the_unconstrained_vector():
    setup, points = drawn(bounded, np.zeros(4))
    assert points.shape == (500, 3)
    values = [setup.constrain((np.zeros(4),), {})(jnp.asarray(point)) for point in points[:100]]
    assert np.mean([float(v["scale"]) for v in values]) == pytest.approx(2 * np.sqrt(2 / np.pi), abs=0.4)
    assert np.mean([np.asarray(v["share"]) for v in values], axis=0) == pytest.approx(1 / 3, abs=0.1)


def test_a_path_hangs_together():
    def walk(y):
        def step(x, seen):
            x = numpyro.sample("x", dist.Normal(x, 0.01))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=seen)
            return x, None

        scan(step, numpyro.sample("first", dist.Normal(0, 10)), y)

    _, points = drawn(walk, np.zeros(20))
    assert np.std(np.diff(points, axis=1)) == pytest.approx(0.01, rel=0.1)
    assert np.std(points) == pytest.approx(10, rel=0.2)


def test_models_without_a_prior_to_draw_from_have_none():
    def improper(y):
        loc = numpyro.sample("loc", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(loc, 1), obs=y)

    assert drawn(improper, np.zeros(3))[1] is None
    kernel = OneStep(potential_fn=lambda z: 0.5 * jnp.sum(z**2))
    setup = kernel.look(random.key(0), jnp.zeros(2), (), {})
    assert setup.draw_prior(random.key(1), 4, (), {}) is None


def test_draws_that_are_not_finite_are_replaced():
    def overflowing(y):
        size = numpyro.sample("size", dist.Gamma(0.01, 1.0))  # four in ten of the draws underflow
        numpyro.sample("y", dist.Normal(size, 1), obs=y)

    _, points = drawn(overflowing, np.zeros(3))
    assert points.shape == (500, 1)
    assert np.all(np.isfinite(points))
    assert len(np.unique(points)) < 450
