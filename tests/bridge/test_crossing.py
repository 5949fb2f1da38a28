import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import bananas

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge.crossing import cross, sweep
from numpyro_onestep.draws.chains import collect_sweeps
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM = 4
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))


def test_a_bridge_is_exact_where_the_flow_is_not(getkey):
    network = StepNetwork(DIM, num_blocks=2, width=8, rng_key=getkey())  # far from it
    flow = Flow(network, Problem(BASE, safe_log_density(bananas)))
    crossing = cross(flow, getkey())
    clouds = crossing.clouds
    assert float(clouds.annealing) == 1
    each = np.asarray(clouds.log_z, np.float64)
    error = np.std(each, ddof=1) / np.sqrt(len(each))
    assert error < 0.1
    assert abs(np.log(np.mean(np.exp(each)))) < 4 * error
    back = np.asarray(crossing.upper, np.float64)
    assert abs(np.mean(back)) < 4 * np.std(back, ddof=1) / np.sqrt(len(back)) + 0.05
    assert crossing.num_gradients > clouds.ancestors.size * crossing.num_evaluations

    drawn = sweep(flow, getkey(), clouds, 4)
    log_gamma = jax.vmap(bananas)(drawn.points.reshape(-1, DIM)).reshape(8, 128, 4)
    np.testing.assert_allclose(-drawn.potential_energy, log_gamma, atol=1e-3)
    first = np.asarray(drawn.points)[..., 0].ravel()
    assert abs(np.mean(first)) < 5 / np.sqrt(1000)
    assert abs(np.std(first) - 1) < 5 / np.sqrt(2000)

    before = np.array(10), np.array(0), np.zeros(4)
    chains = collect_sweeps([drawn], [clouds.log_angle], (4, 1000), 2, *before)
    assert chains.points.shape == (4, 500, DIM)
    # two clouds for each chain, none of them in two
    x = np.asarray(drawn.points)
    for chain, cloud in ((0, 0), (0, 1), (1, 2), (3, 7)):
        assert np.any(np.all(np.asarray(chains.points)[chain, :, None] == x[cloud].reshape(-1, DIM)[None], axis=2))
    assert chains.last_fields["x"].shape == (4, DIM)


def test_sweeps_bring_separate_modes_to_their_shares(getkey):
    def modes(z):
        return jnp.logaddexp(jnp.log(0.2) - 0.5 * jnp.sum((z + 5) ** 2), jnp.log(0.8) - 0.5 * jnp.sum((z - 5) ** 2))

    centers = jnp.array([[-5.0, -5.0], [5.0, 5.0]])
    base = base_.whiten(Mixture(jnp.log(jnp.array([0.5, 0.5])), centers, jnp.stack([jnp.eye(2)] * 2)))
    flow = Flow(
        StepNetwork(2, num_blocks=1, width=4, rng_key=getkey(), identity=True), Problem(base, safe_log_density(modes))
    )
    clouds = cross(flow, getkey()).clouds
    # all particles at the larger mode, as if the way had lost the other
    lost = clouds._replace(at=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1, -1:], leaf.shape), clouds.at))
    first = sweep(flow, getkey(), lost, 40).points[..., 0]
    share = np.mean(np.asarray(first)[..., 10:] < 0)
    assert share == pytest.approx(0.2, abs=0.02)
