import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.bridge import hamiltonian, ladder
from numpyro_onestep.bridge.hamiltonian import Path
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM = 3
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))
BANANA = Path(safe_log_density(lambda x: -0.5 * jnp.sum(x**2) - 2 * (x[1] - x[0] ** 2) ** 2), BASE)
NARROW = jnp.array([[0.3, 0.0, 0.0], [0.2, 0.8, 0.0], [-0.1, 0.1, 0.5]])


def leap(path, x, p, annealing=0.6, angle=0.4):
    at = hamiltonian.look(path, x)
    at, p = hamiltonian.leapfrog(path, at, p, jnp.asarray(annealing), jnp.asarray(angle))
    return at.x, p


@pytest.mark.parametrize("scale", [1.0, 30.0])  # far out the force is held within bounds
@pytest.mark.parametrize("path", [BANANA, BANANA._replace(scale=NARROW)], ids=["plain", "preconditioned"])
def test_a_leapfrog_goes_back_and_keeps_volume(getkey, path, scale):
    @jax.jit
    @jax.vmap
    def run(x, p):
        end, momentum = leap(path, x, p)
        back, reversed_ = leap(path, end, -momentum)
        jacobian = jax.jacfwd(lambda xp: jnp.concatenate(leap(path, xp[:DIM], xp[DIM:])))(jnp.concatenate([x, p]))
        return end, back, reversed_, jacobian

    x, p = scale * random.normal(getkey(), (64, DIM)), random.normal(getkey(), (64, DIM))
    end, back, reversed_, jacobian = run(x, p)
    assert np.median(np.abs(end - x)) > 0.1
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(-reversed_, p, rtol=1e-3, atol=1e-3 * scale)
    np.testing.assert_allclose(np.linalg.slogdet(np.asarray(jacobian, np.float64))[1], 0, atol=1e-3)


def test_where_the_flow_fits_a_step_of_any_angle_is_exact(getkey):
    path = Path(safe_log_density(lambda x: -0.5 * jnp.sum(x**2)), BASE)
    x, p = random.normal(getkey(), (64, DIM)), random.normal(getkey(), (64, DIM))
    end, momentum = jax.vmap(lambda x, p: leap(path, x, p, angle=1.3))(x, p)
    np.testing.assert_allclose(np.sum(end**2 + momentum**2, 1), np.sum(x**2 + p**2, 1), rtol=1e-4)


def test_moves_leave_the_target_as_it_is(getkey):
    scale, num = jnp.array([0.5, 1.0, 2.0]), 4000
    path = Path(safe_log_density(lambda x: -0.5 * jnp.sum((x / scale) ** 2)), BASE)

    @jax.jit
    def run(key):
        key_start, key_move = random.split(key)
        at = jax.vmap(lambda x: hamiltonian.look(path, x))(scale * random.normal(key_start, (num, DIM)))

        def body(i, carry):
            at, _ = carry
            return hamiltonian.move(path, random.fold_in(key_move, i), at, jnp.array(1.0), jnp.log(0.7))

        return jax.lax.fori_loop(0, 20, body, (at, jnp.zeros(num)))

    at, accept_prob = run(getkey())
    assert 0.3 < np.mean(accept_prob) < 0.99  # the correction has something to do
    np.testing.assert_allclose(np.std(at.x, axis=0), scale, rtol=5 / np.sqrt(2 * num))
    assert np.all(np.abs(np.mean(at.x, axis=0)) < 5 * scale / np.sqrt(num))


def test_a_point_that_is_not_known_does_not_move(getkey):
    at = jax.vmap(lambda x: hamiltonian.look(BANANA, x))(jnp.full((4, DIM), jnp.nan))
    moved, accept_prob = hamiltonian.move(BANANA, getkey(), at, jnp.array(1.0), jnp.log(0.5))
    assert np.all(np.isnan(moved.x))
    assert np.all(accept_prob == 0)


def test_the_turn_is_exact_in_each_of_several_narrow_components(getkey):
    tril = jnp.linalg.cholesky(jnp.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 0.04]]))
    means = jnp.array([[8.0, 0.0, 0.0], [-8.0, 0.0, 0.0]])
    base = base_.whiten(Mixture(jnp.log(jnp.full(2, 0.5)), means, jnp.stack([tril, tril])))
    path = Path(safe_log_density(lambda x: base_.log_prob(base, x)), base, ladder.scale_of(base))
    start = jax.vmap(lambda x: hamiltonian.look(path, x))(base_.sample(base, getkey(), 256))
    _, accept_prob = hamiltonian.move(path, getkey(), start, jnp.ones(()), jnp.log(1.0))
    assert np.mean(accept_prob) > 0.98
    _, accept_prob = hamiltonian.move(path._replace(scale=None), getkey(), start, jnp.ones(()), jnp.log(1.0))
    assert np.mean(accept_prob) < 0.5
