import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import effective_share, held_out
from numpyro_onestep.gaussians.mixture import Mixture

DIM = 2
TWO = Mixture(jnp.log(jnp.array([0.3, 0.7])), jnp.array([[-1.0, 0.0], [2.0, 1.0]]), jnp.stack([jnp.eye(DIM)] * 2))


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_the_effective_share_is_that_of_the_closed_form(getkey, scale):
    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))

    def weigh(x):
        return -0.5 * jnp.sum(x**2, axis=1) * (1 / scale**2 - 1)

    log_w, log_ratios = jax.jit(lambda key: held_out(key, base, weigh, 8192))(getkey())
    share, error = effective_share(log_w, log_ratios)
    exact = (scale * (2 - scale**2) ** 0.5) ** DIM  # (E w)² / E w² of N(0, scale²) seen from N(0, 1)
    assert error < 0.05
    assert abs(share - exact) < 4 * error * exact


def test_weights_that_are_not_numbers_have_no_share():
    for log_w in (jnp.full(8, jnp.nan), jnp.full(8, -jnp.inf)):
        share, error = effective_share(log_w, jnp.zeros(8))
        assert share == 0
        assert error == jnp.inf


def test_the_density_of_stretched_draws_is_normalised(getkey):
    base = base_.whiten(TWO)._replace(heavy_shares=jnp.array([0.2, 0.1]))
    x = 3 * random.normal(getkey(), (200_000, DIM))
    log_q = -0.5 * jnp.sum((x / 3) ** 2, axis=1) - DIM * jnp.log(3 * jnp.sqrt(2 * jnp.pi))
    w = np.exp(np.asarray(jax.vmap(lambda x: base_.log_prob(base, x, 1.5))(x) - log_q, float))
    assert abs(w.mean() - 1) < 0.03  # Student-t tails: a little of the mass is out of reach
