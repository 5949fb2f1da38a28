import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.flow import steps as flow
from numpyro_onestep.flow.network import StepNetwork

DIM = 3


@pytest.fixture
def network(getkey):
    """A network with every parameter off its initial value, the corrections included."""
    flat, unravel = ravel_pytree(StepNetwork(DIM, num_blocks=2, width=8, rng_key=getkey()))
    return unravel(flat + 0.2 * random.normal(getkey(), flat.shape))


@pytest.mark.parametrize("width", [2, 8])  # below the dimension the determinants are of the width
def test_pulling_back_is_the_gradient_of_the_pulled_back_density(getkey, width):
    network = StepNetwork(DIM, num_blocks=2, width=width, rng_key=getkey())

    def log_p(y):
        return -jnp.sum(jnp.log1p((y - 0.3) ** 2))

    @jax.jit
    @jax.vmap
    def run(x):
        blocks = flow.blocks_of(network, 1)

        def value(x):
            y, log_det = flow.forward_and_log_det(blocks, x)
            return log_p(y) + log_det

        return flow.pull_back(blocks, x, jax.value_and_grad(log_p)), jax.value_and_grad(value)(x)

    (value, grad), (expected, expected_grad) = run(random.normal(getkey(), (64, DIM)))
    np.testing.assert_allclose(value, expected, atol=1e-4)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-3)


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_log_det_score_and_inverse(getkey, network, num_steps):
    def log_p(x):
        return -jnp.sum(jnp.log1p((x - 0.3) ** 2))

    @jax.jit
    def run(network, x):
        blocks = flow.blocks_of(network, num_steps)

        def values(x):
            y, log_det = flow.forward_and_log_det(blocks, x)
            return y, log_p(x) - log_det

        def one(x):
            pushed = flow.push_score(blocks, x, jax.grad(log_p)(x))
            return pushed, flow.forward(blocks, x), flow.inverse(blocks, pushed[0]), values(x), jax.jacfwd(values)(x)

        return jax.vmap(one)(x)

    x = random.normal(getkey(), (64, DIM))
    (y, score, log_det), end, back, (end_too, log_q), (jacobian, grad) = run(network, x)
    assert np.median(np.abs(y - x)) > 0.1
    np.testing.assert_allclose(log_det, np.linalg.slogdet(np.asarray(jacobian, np.float64))[1], atol=1e-4)
    np.testing.assert_allclose(jax.vmap(log_p)(x) - log_q, log_det, atol=1e-4)
    np.testing.assert_allclose(end, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(end_too, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-4)
    # the chain rule: ∇ₓ(log p − log det) = Jᵀ ∇log q
    np.testing.assert_allclose(np.einsum("nij,ni->nj", jacobian, score), grad, atol=1e-3)


def test_steps_follow_falling_time(getkey, network):
    x, times = random.normal(getkey(), (DIM,)), (1.0, 0.75, 0.5, 0.25)
    step = jax.jit(lambda x, t: flow.forward(network.step(t, 0.25), x))
    whole = jax.jit(lambda x: flow.forward(flow.blocks_of(network, 4), x))(x)
    y, backwards = x, x
    for t in times:
        y, backwards = step(y, t), step(backwards, 1.25 - t)
    np.testing.assert_allclose(whole, y, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(y - backwards)) > 1e-2


def test_large_batches_equal_small_ones(getkey):
    # jaxlib 0.10.2 on CPU got the later points of a batch of this size wrong, by order one
    network = StepNetwork(20, num_blocks=2, width=128, rng_key=getkey())

    @jax.jit
    def run(network, x):
        blocks = flow.blocks_of(network, 1)
        return jax.vmap(lambda x: flow.push_score(blocks, x, -x))(x)

    x = random.normal(getkey(), (2048, 20))
    chunks = [run(network, chunk) for chunk in x.reshape(-1, 64, 20)]
    for large, *parts in zip(run(network, x), *chunks, strict=True):
        np.testing.assert_allclose(large, np.concatenate(parts), rtol=1e-3, atol=1e-3)
