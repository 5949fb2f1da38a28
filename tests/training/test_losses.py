import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow import steps as flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.training.losses import Consistency, PathGradient, _base_draws

DIM = 2
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))


def normal_problem(shift=0.0):
    return Problem(BASE, safe_log_density(lambda x: 3.0 - 0.5 * jnp.sum((x - shift * jnp.array([1.0, -0.5])) ** 2)))


@pytest.fixture
def identity(getkey):
    _, unravel = ravel_pytree(StepNetwork(DIM, num_blocks=2, width=8, num_levels=7, rng_key=getkey()))
    return unravel(
        ravel_pytree(StepNetwork(DIM, num_blocks=2, width=8, num_levels=7, rng_key=getkey(), identity=True))[0]
    )


@pytest.fixture
def network(getkey):
    """A network with every parameter off its initial value, the corrections included."""
    flat, unravel = ravel_pytree(StepNetwork(DIM, num_blocks=2, width=8, num_levels=7, rng_key=getkey()))
    return unravel(flat + 0.2 * random.normal(getkey(), flat.shape))


def flat_grad(function):
    return jax.jit(lambda network, *args: ravel_pytree(jax.grad(function)(network, *args))[0])


@flat_grad
def path_grad(network, key, shift, annealing):
    path = PathGradient(batch_size=256, wide_fraction=0.0)
    return path(network, network, normal_problem(shift), key, annealing)


def test_path_gradient_vanishes_for_all_draws_at_the_optimum(getkey, identity):
    for _ in range(10):
        assert np.max(np.abs(path_grad(identity, getkey(), 0.0, 1.0))) < 1e-5
    assert np.max(np.abs(path_grad(identity, getkey(), 1.0, 1.0))) > 0.1


def test_path_gradient_is_annealed_from_the_base_to_the_target(getkey, identity):
    key = getkey()
    none, half, full = (np.asarray(path_grad(identity, key, 1.0, annealing)) for annealing in (0.0, 0.5, 1.0))
    assert np.max(np.abs(none)) < 1e-5
    assert np.max(np.abs(full)) > 0.1
    np.testing.assert_allclose(half, 0.5 * full, atol=1e-4)


def test_path_gradient_survives_draws_without_density(getkey, network):
    assert np.all(np.isfinite(path_grad(network, getkey(), jnp.nan, 1.0)))


def test_path_gradient_is_the_gradient_of_the_elbo_in_expectation(getkey, network):
    shift = 1.0

    @flat_grad
    def elbo_grad(network, key):
        blocks = flow.blocks_of(network, 1)
        y, log_det = jax.vmap(lambda x: flow.forward_and_log_det(blocks, x))(base_.sample(BASE, key, 2**14))
        return -jnp.mean(jax.vmap(normal_problem(shift).target.value)(y) + log_det)

    actual = np.mean([path_grad(network, getkey(), shift, 1.0) for _ in range(64)], axis=0)
    expected = np.asarray(elbo_grad(network, getkey()))
    cosine = actual @ expected / np.linalg.norm(actual) / np.linalg.norm(expected)
    assert cosine > 0.99
    assert np.linalg.norm(actual) / np.linalg.norm(expected) == pytest.approx(1.0, abs=0.03)


def test_a_share_of_the_base_draws_is_wide(getkey):
    x = np.asarray(_base_draws(BASE, getkey(), 20_000, 0.25))
    for draws, scale in ((x[:5000], 1 + 2**-0.5), (x[5000:], 1.0)):
        np.testing.assert_allclose(np.mean(draws**2, axis=0), scale**2, rtol=5 * np.sqrt(2 / len(draws)))


@jax.jit
def consistency(network, teacher, key):
    """Value, and the gradients in the student's and in the teacher's parameters."""
    loss = Consistency(state_weight=1.0, volume_weight=1.0, levels=(0, 1, 2))
    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(network, teacher, normal_problem(), key, 1.0)
    return value, *(ravel_pytree(grad)[0] for grad in grads)


def test_consistency_vanishes_for_pure_scalings(getkey, network):
    # softplus(-40) is nothing: what is left is x -> exp(d log_scale) x, and two half steps are the whole one
    arrays = {name: jnp.zeros_like(v) if "corrections" in name else v for name, v in network.arrays().items()}
    tiny = {name: jnp.full_like(arrays[name], -40.0) for name in ("ridge", "bump")}
    scaling = StepNetwork.from_arrays(arrays | tiny | {"shift": jnp.zeros_like(arrays["shift"])})
    assert np.max(np.abs(scaling.step(jnp.ones(()), jnp.ones(())).scale - 1)) > 0.1
    for _ in range(10):
        key = getkey()
        assert float(consistency(scaling, scaling, key)[0]) < 1e-9
        assert float(consistency(network, network, key)[0]) > 1e-4


def test_consistency_does_not_move_the_teacher(getkey, network):
    _, student, teacher = consistency(network, network, getkey())
    assert np.max(np.abs(student)) > 1e-3
    assert np.all(np.asarray(teacher) == 0)


@pytest.mark.parametrize("level", [0, 1])
def test_consistency_is_one_step_against_two_of_the_teacher(getkey, network, level):
    teacher, key, d = jax.tree.map(lambda leaf: 0.8 * leaf, network), getkey(), 0.5**level

    def move(network, x, t, d):
        blocks = network.step(jnp.asarray(t), jnp.asarray(d))
        return jax.vmap(lambda x: flow.forward_and_log_det(blocks, x))(x)

    @jax.jit
    def compare(network, teacher):
        x, expected = base_.sample(BASE, random.split(key, 3)[0], 64), []
        for t in 1 - d * np.arange(2**level):  # the times that may have been chosen
            y, log_det = move(network, x, t, d)
            middle, first = move(teacher, x, t, d / 2)
            z, second = move(teacher, middle, t - d / 2, d / 2)
            expected.append((jnp.mean(jnp.sum((y - z) ** 2, axis=1)), jnp.mean((log_det - first - second) ** 2)))
            x, _ = move(teacher, x, t, d)
        losses = Consistency(levels=(level,)), Consistency(state_weight=2.0, volume_weight=3.0, levels=(level,))
        return [loss(network, teacher, normal_problem(), key, 1.0) for loss in losses], expected

    (state, both), expected = compare(network, teacher)
    assert np.min(expected) > 1e-3
    states = [float(s) for s, _ in expected]
    chosen = int(np.argmin(np.abs(np.array(states) - float(state))))
    assert float(state) == pytest.approx(states[chosen], rel=1e-4)
    assert float(both) == pytest.approx(float(2 * expected[chosen][0] + 3 * expected[chosen][1]), rel=1e-4)
