import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep import base as base_
from numpyro_onestep import flow
from numpyro_onestep.losses import Consistency, PathGradient, Problem
from numpyro_onestep.mixture_vi import Mixture
from numpyro_onestep.network import StepNetwork
from numpyro_onestep.target import safe_log_density

DIM = 2
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))


def normal_problem(shift=0.0):
    return Problem(BASE, safe_log_density(lambda x: -0.5 * jnp.sum((x - shift) ** 2) + 3.0))


def make_network(key, identity=False):
    return StepNetwork(DIM, num_blocks=2, width=8, rng_key=key, identity=identity)


@pytest.fixture
def network(getkey):
    """A network with every parameter off its initial value, the weights on (t, d) included."""
    flat, unravel = ravel_pytree(make_network(getkey()))
    return unravel(flat + 0.2 * random.normal(getkey(), flat.shape))


def flat_grad(function):
    return jax.jit(lambda network, *args: ravel_pytree(jax.grad(function)(network, *args))[0])


@flat_grad
def single_draw_grad(network, key, shift, annealing):
    return PathGradient(batch_size=1)(network, network, normal_problem(shift), key, annealing)


def test_path_gradient_vanishes_for_every_draw_at_the_optimum(getkey):
    network = make_network(getkey(), identity=True)
    for _ in range(10):
        assert np.max(np.abs(single_draw_grad(network, getkey(), 0.0, 1.0))) < 1e-5
    assert np.max(np.abs(single_draw_grad(network, getkey(), 1.0, 1.0))) > 0.1


def test_path_gradient_is_annealed_from_the_base_to_the_target(getkey):
    network, key = make_network(getkey(), identity=True), getkey()
    none, half, full = (np.asarray(single_draw_grad(network, key, 1.0, annealing)) for annealing in (0.0, 0.5, 1.0))
    assert np.max(np.abs(none)) < 1e-5
    assert np.max(np.abs(full)) > 0.1
    np.testing.assert_allclose(half, 0.5 * full, atol=1e-4)


def test_path_gradient_survives_draws_without_density(getkey, network):
    assert np.all(np.isfinite(single_draw_grad(network, getkey(), jnp.nan, 1.0)))


def test_path_gradient_is_the_gradient_of_the_elbo_in_expectation(getkey, network):
    num_steps, num = 2, 2**15
    problem = normal_problem(jnp.array([1.0, -0.5]))
    path = PathGradient(num_steps, batch_size=num, wide_fraction=0.0)

    @flat_grad
    def path_grad(network, key):
        return path(network, network, problem, key, jnp.array(1.0))

    @flat_grad
    def elbo_grad(network, key):
        blocks = flow.blocks_of(network, num_steps)
        y, log_det = jax.vmap(lambda x: flow.forward_and_log_det(blocks, x))(base_.sample(BASE, key, num))
        return -jnp.mean(jax.vmap(problem.target.value)(y) + log_det)

    actual, expected = np.asarray(path_grad(network, getkey())), np.asarray(elbo_grad(network, getkey()))
    cosine = actual @ expected / np.linalg.norm(actual) / np.linalg.norm(expected)
    assert cosine > 0.99
    assert np.linalg.norm(actual) / np.linalg.norm(expected) == pytest.approx(1.0, abs=0.03)


def test_consistency_vanishes_for_pure_scalings(getkey, network):
    # softplus(-40) is nothing: what is left is x -> exp(d log_scale) x, and two half steps are the whole one
    arrays = {name: jnp.zeros_like(v) if "condition" in name else v for name, v in network.arrays().items()}
    tiny = {name: jnp.full_like(arrays[name], -40.0) for name in ("ridge", "bump")}
    scaling = StepNetwork.from_arrays(arrays | tiny | {"shift": jnp.zeros_like(arrays["shift"])})
    keys = random.split(getkey(), 16)

    @jax.jit
    def losses(network):
        loss = Consistency(state_weight=1.0, volume_weight=1.0, num_levels=3)
        return jax.vmap(lambda key: loss(network, network, normal_problem(), key, 1.0))(keys)

    assert np.max(losses(scaling)) < 1e-9
    assert np.min(losses(network)) > 1e-5


def test_consistency_is_one_step_against_two_of_the_teacher(getkey, network):
    teacher, key = jax.tree.map(lambda leaf: 0.8 * leaf, network), getkey()
    problem = normal_problem()

    @jax.jit
    def compare(network, teacher):
        x = base_.sample(BASE, random.split(key, 3)[0], 64)
        whole, half = flow.blocks_of(network, 1), flow.blocks_of(teacher, 2)
        y, log_det = jax.vmap(lambda x: flow.forward_and_log_det(whole, x))(x)
        z, teacher_log_det = jax.vmap(lambda x: flow.forward_and_log_det(half, x))(x)
        expected = jnp.mean(jnp.sum((y - z) ** 2, axis=1)), jnp.mean((log_det - teacher_log_det) ** 2)
        weights = ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0))
        return [Consistency(*w)(network, teacher, problem, key, 1.0) for w in weights], expected

    (state, volume, both), (expected_state, expected_volume) = compare(network, teacher)
    assert float(state) == pytest.approx(float(expected_state), rel=1e-4)
    assert float(volume) == pytest.approx(float(expected_volume), rel=1e-4)
    assert float(both) == pytest.approx(float(2 * state + 3 * volume), rel=1e-4)
    assert min(float(state), float(volume)) > 1e-3


def test_consistency_does_not_move_the_teacher(getkey, network):
    @jax.jit
    def grads(network, teacher, key):
        loss = Consistency(state_weight=1.0, volume_weight=1.0, num_levels=2)
        return jax.grad(loss, argnums=(0, 1))(network, teacher, normal_problem(), key, 1.0)

    student, teacher = (np.asarray(ravel_pytree(grad)[0]) for grad in grads(network, network, getkey()))
    assert np.max(np.abs(student)) > 1e-3
    assert np.all(teacher == 0)
