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
    flat, unravel = ravel_pytree(StepNetwork(DIM, num_blocks=2, width=8, num_levels=7, rng_key=getkey()))
    return unravel(flat + 0.3 * random.normal(getkey(), flat.shape))


@jax.jit
def push(network, x):
    """Two steps, at which the conditioning has an effect."""
    blocks = flow.blocks_of(network, 2)
    return jax.vmap(lambda x: flow.forward_and_log_det(blocks, x))(x)


@pytest.mark.parametrize(("num_steps", "tolerance"), [(1, 1e-5), (4, 2e-4)])
def test_identity(getkey, num_steps, tolerance):
    # a block at rest, of a finer budget, is the identity up to ridges and bumps of height e^-14
    blocks = flow.blocks_of(
        StepNetwork(DIM, num_blocks=2, width=8, num_levels=7, rng_key=getkey(), identity=True), num_steps
    )
    x = 3 * random.normal(getkey(), (64, DIM))
    y, log_det = jax.jit(jax.vmap(lambda x: flow.forward_and_log_det(blocks, x)))(x)
    np.testing.assert_allclose(y, x, atol=tolerance)
    np.testing.assert_allclose(log_det, 0.0, atol=tolerance)


@pytest.mark.parametrize(("dim", "num_blocks"), [(2, 3), (10, 3), (50, 2)])
def test_default_is_near_the_identity(getkey, dim, num_blocks):
    @jax.jit
    def mean_slopes(key_network, key_draws):
        blocks = flow.blocks_of(StepNetwork(dim, num_blocks=num_blocks, width=128, rng_key=key_network), 1)
        jacobian = jax.vmap(jax.jacfwd(lambda x: flow.forward(blocks, x)))(random.normal(key_draws, (64, dim)))
        return jnp.mean(jnp.diagonal(jacobian, axis1=1, axis2=2), axis=0)

    np.testing.assert_allclose(mean_slopes(getkey(), getkey()), 1.0, atol=0.25)


step = jax.jit(lambda network, t, d: network.step(t, d)._asdict())


def test_corrections_vanish_at_one_step_only(network):
    arrays = network.arrays()
    zeros = {name: np.zeros_like(value) for name, value in arrays.items() if name.endswith("_corrections")}
    plain = StepNetwork.from_arrays(arrays | zeros)
    jax.tree.map(np.testing.assert_array_equal, step(network, 1.0, 1.0), step(plain, 1.0, 1.0))
    corrected, plainly = (np.concatenate([np.ravel(p) for p in step(n, 0.5, 0.5).values()]) for n in (network, plain))
    assert np.max(np.abs(corrected - plainly)) > 0.05
    late, early, finer = step(network, 0.5, 0.5), step(network, 1.0, 0.5), step(network, 1.0, 0.25)
    for name in set(late) - {"directions"}:
        assert np.max(np.abs(late[name] - early[name])) > 0.01, name
        assert np.max(np.abs(finer[name] - early[name])) > 0.01, name


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_without_corrections_every_budget_is_the_same_map(getkey, num_blocks):
    network = StepNetwork(DIM, num_blocks=num_blocks, width=128, rng_key=getkey())
    x = random.normal(getkey(), (64, DIM))
    forward = jax.jit(
        lambda num_steps: jax.vmap(lambda x: flow.forward(flow.blocks_of(network, num_steps), x))(x), static_argnums=0
    )
    expected = forward(1)
    assert np.max(np.abs(expected - x)) > 0.1
    for num_steps in (2, 8, 128):
        np.testing.assert_allclose(forward(num_steps), expected, atol=2e-4)


def test_levels_do_not_disturb_one_another(network):
    mask = network.only_corrections().arrays()
    assert all(np.all(np.asarray(v) == name.endswith("_corrections")) for name, v in mask.items())
    arrays = network.arrays()
    moved = {name: np.asarray(v).copy() for name, v in arrays.items()}
    for name in moved:
        if name.endswith("_corrections"):
            moved[name][1] += 0.5  # the level of four steps
    moved = StepNetwork.from_arrays(moved)
    for t, d, same in ((1.0, 1.0, True), (0.5, 0.5, True), (0.75, 0.25, False), (0.25, 0.125, True)):
        a, b = step(network, t, d), step(moved, t, d)
        assert all(np.array_equal(a[name], b[name]) for name in a) == same


def test_arrays_round_trip(getkey, network):
    restored = StepNetwork.from_arrays({name: np.asarray(value) for name, value in network.arrays().items()})
    assert jax.tree.structure(restored) == jax.tree.structure(network)
    x = random.normal(getkey(), (64, DIM))
    for value, expected in zip(push(restored, x), push(network, x), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_is_a_plain_pytree(getkey, network):
    x = random.normal(getkey(), (64, DIM))
    networks = network, jax.tree.map(lambda leaf: 0.5 * leaf, network)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    forward = jax.vmap(lambda network, x: flow.forward(flow.blocks_of(network, 2), x), in_axes=(None, 0))
    together = jax.jit(jax.vmap(forward, in_axes=(0, None)))(stacked, x)
    for one, expected in zip(together, networks, strict=True):
        np.testing.assert_allclose(one, push(expected, x)[0], rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(together[0] - together[1])) > 0.1
    grads = jax.jit(jax.grad(lambda network: jnp.sum(forward(network, x) ** 2)))(network)
    assert isinstance(grads, StepNetwork)
    assert all(np.any(np.asarray(grad) != 0) for grad in grads.arrays().values())
