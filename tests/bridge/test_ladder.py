import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import bananas

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge import ladder
from numpyro_onestep.draws.proposal import propose
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM = 4
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))


@pytest.fixture
def untrained(getkey):
    """The base alone, which does not fit."""
    network = StepNetwork(DIM, num_blocks=2, width=8, rng_key=getkey(), identity=True)
    return Flow(network, Problem(BASE, safe_log_density(bananas)))


def test_more_evaluations_draw_better_and_all_weights_are_exact(getkey, untrained):
    key = getkey()
    elbos = []
    for num_steps in (1, 4, 16, 64):
        log_w = np.asarray(propose(untrained, key, 8192, num_steps).log_weights, np.float64)
        error = np.std(np.exp(log_w)) / np.sqrt(len(log_w))
        assert abs(np.mean(np.exp(log_w)) - 1) < 4 * error
        elbos.append(np.mean(log_w))
    assert np.all(np.diff(elbos) > 0)
    assert elbos[-1] > 0.25 * elbos[0]


def test_points_are_where_the_weights_belong(getkey, untrained):
    drawn = propose(untrained, getkey(), 4096, 16)
    log_gamma = jax.vmap(bananas)(drawn.points)
    np.testing.assert_allclose(-drawn.potential_energy, log_gamma, atol=1e-3)
    w = np.exp(np.asarray(drawn.log_weights, np.float64))
    points = np.asarray(drawn.points)
    covariance = w @ ((points[:, 0] ** 2 - 1) * points[:, 2]) / w.sum()  # .3 Var(x²)
    assert covariance == pytest.approx(0.6, abs=0.15)


def test_without_an_angle_the_ladder_is_the_flow_alone(getkey, untrained):
    path = ladder.path_of(untrained, 1)
    ends = ladder.ascend(path, getkey(), 100, 8, jnp.array(0.0))
    at = jax.vmap(path.target.value_and_grad)(ends.x)[0]
    expected = at - jax.vmap(lambda x: base_.log_prob(BASE, x))(ends.x)
    np.testing.assert_allclose(ends.log_weights, expected, atol=1e-3)
