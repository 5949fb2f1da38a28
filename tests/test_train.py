import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep import base as base_
from numpyro_onestep import train
from numpyro_onestep.losses import PathGradient, Problem
from numpyro_onestep.mixture_vi import Mixture
from numpyro_onestep.target import safe_log_density
from numpyro_onestep.train import TrainConfig
from numpyro_onestep.weights import log_mean_weight

LOG_Z = 5.0
NUM_ITERATIONS = 20
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))
CONFIG = TrainConfig((PathGradient(batch_size=64),), num_steps=1, steps_per_iteration=5, learning_rate=0.03)


def log_banana(x):
    return LOG_Z - 0.5 * x[0] ** 2 - 2 * (x[1] - 0.5 * x[0] ** 2 + 0.5) ** 2 + jnp.log(2.0) - jnp.log(2 * jnp.pi)


BANANA = Problem(BASE, safe_log_density(log_banana))


def init(key, problem=BANANA, config=CONFIG):
    return jax.jit(lambda key: train.init(key, problem, config, NUM_ITERATIONS, num_blocks=1, width=8))(key)


@pytest.fixture(scope="module")
def start():
    return init(random.key(1))


advance = jax.jit(lambda state, num_iterations: train.advance(state, BANANA, CONFIG, num_iterations))


def flat(tree):
    """All numbers of a pytree of arrays and keys in one vector."""
    leaves = [random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)]
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def test_a_base_that_fits_is_done_at_init():
    problem = Problem(BASE, safe_log_density(lambda x: LOG_Z - 0.5 * x @ x - jnp.log(2 * jnp.pi)))
    state = init(random.key(0), problem)
    assert bool(state.done)
    assert float(state.best_elbo) == pytest.approx(LOG_Z, abs=1e-4)
    assert float(state.ess_fraction) == pytest.approx(1.0, abs=1e-3)
    after = jax.jit(lambda state: train.advance(state, problem, CONFIG, 3))(state)
    np.testing.assert_array_equal(flat(after), flat(state))


def test_best_elbo_never_falls_and_beats_the_base(start):
    assert not bool(start.done)
    state, elbos = start, [float(start.best_elbo)]
    for i in range(4):
        state = advance(state, 5)
        elbos.append(float(state.best_elbo))
        assert int(state.iteration) == 5 * (i + 1)
        assert float(state.best_elbo) >= float(state.elbo)
    assert np.all(np.diff(elbos) >= 0)
    assert elbos[0] + 0.2 < elbos[-1] < LOG_Z
    assert np.any(flat(state.best) != flat(start.best))
    assert not np.array_equal(flat(state.network), flat(state.average))
    # complete: nothing more happens
    np.testing.assert_array_equal(flat(advance(state, 5)), flat(state))


def test_pieces_equal_the_whole_bitwise(start):
    whole = advance(start, NUM_ITERATIONS)
    np.testing.assert_array_equal(flat(advance(advance(start, 7), NUM_ITERATIONS)), flat(whole))
    np.testing.assert_array_equal(flat(advance(init(random.key(1)), NUM_ITERATIONS)), flat(whole))
    other = advance(start._replace(rng_key=random.key(2)), NUM_ITERATIONS)
    assert np.any(flat(other.network) != flat(whole.network))


def test_a_gradient_of_nan_changes_no_parameter(start):
    config = TrainConfig((lambda network, *_: jnp.nan * jnp.sum(network.shift[...]),), 1, 5, 0.03)
    state = jax.jit(lambda state: train.advance(state, BANANA, config, 3))(start)
    assert int(state.iteration) == 3
    for name in ("network", "best", "optimizer_state"):
        after = flat(getattr(state, name))
        assert np.all(np.isfinite(after))
        np.testing.assert_array_equal(after, flat(getattr(start, name)))
    # averaging equal numbers rounds
    np.testing.assert_allclose(flat(state.average), flat(start.average), rtol=1e-6, atol=1e-7)


def test_annealed_training_keeps_the_base_until_the_target_is_reached(start):
    problem = BANANA._replace(base=BASE._replace(annealed=jnp.array(True)))
    step = jax.jit(lambda state: train.advance(state, problem, CONFIG, 9))
    early = step(start)
    assert float(early.best_elbo) == float(start.best_elbo)
    assert float(early.elbo) != float(start.elbo)
    assert float(step(step(early)).best_elbo) > float(start.best_elbo)


def test_weights_of_any_flow_average_to_the_evidence(getkey, start):
    # importance weights are unbiased for every injective map: here an untrained one with moved parameters
    numbers, unravel = ravel_pytree(start.network)
    network = unravel(numbers + 0.05 * random.normal(getkey(), numbers.shape))
    x0 = base_.sample(BASE, getkey(), 50_000)
    y, log_w = jax.jit(lambda network, x0: train.log_weights(network, BANANA, x0, 2))(network, x0)
    log_z, std_error = log_mean_weight(log_w)
    assert np.mean(np.abs(y - x0)) > 0.05
    assert abs(log_z - LOG_Z) < 5 * std_error
    assert std_error < 0.05
