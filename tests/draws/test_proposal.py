import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.draws import proposal
from numpyro_onestep.draws.proposal import pool, propose, stream
from numpyro_onestep.flow import block
from numpyro_onestep.flow import steps as flow
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))
PROBLEM = Problem(BASE, safe_log_density(lambda u: -0.5 * u @ u))


def make(key):
    return Flow(StepNetwork(2, num_blocks=2, width=16, rng_key=key), PROBLEM)


@pytest.mark.parametrize("factor", [1.0, -1.5])
def test_the_certificate_counts_the_draws_that_fold(monkeypatch, getkey, factor):
    # with ridges of negative sign a block is no longer monotone everywhere
    step = StepNetwork.step
    monkeypatch.setattr(
        StepNetwork, "step", lambda self, t, d: (p := step(self, t, d))._replace(ridge=factor * p.ridge)
    )
    jax.clear_caches()  # the programs know nothing of it
    trained, key = make(getkey()), getkey()
    monkeypatch.setattr(proposal, "_CHUNK", 2000)  # the draws are those of one key
    fresh = propose(trained, key, 2000, 1, check_folds=True)
    key = random.split(key, 1)[0]
    blocks = flow.blocks_of(trained.network, 1)

    @jax.vmap
    def indefinite(x):
        def lowest(x, p):
            return block.apply(p, x), jnp.linalg.eigvalsh(jax.jacfwd(lambda x: block.apply(p, x))(x))[0]

        return jnp.any(jax.lax.scan(lowest, x, blocks)[1] <= 0)

    expected = indefinite(base_.sample(BASE, key, 2000))
    if factor > 0:
        assert not np.any(expected)
        assert not np.any(fresh.folded)
    else:
        assert 0.02 < np.mean(expected) < 0.98
        # every indefinite Jacobian counts, whatever the sign of its determinant
        assert np.all(fresh.folded[expected])
        assert np.all(np.isnan(fresh.log_weights[expected]))


def test_pooled_draws_alternate_and_keep_their_own_weights(getkey):
    flows = [make(getkey()), make(getkey())]
    key = getkey()
    together = pool(flows, key, 7, 1)
    first, second = (propose(f, k, 4, 1) for f, k in zip(flows, random.split(key), strict=True))
    np.testing.assert_array_equal(together.points[::2], first.points)
    np.testing.assert_array_equal(together.points[1::2], second.points[:3])
    np.testing.assert_array_equal(together.log_weights[1::2], second.log_weights[:3])


@pytest.mark.parametrize("num_flows", [1, 2])
def test_a_stream_is_the_pool_in_parts_and_the_first_draws_of_a_longer_one(monkeypatch, getkey, num_flows):
    monkeypatch.setattr(proposal, "_CHUNK", 8)
    flows, key = [make(getkey()) for _ in range(num_flows)], getkey()
    parts = list(stream(flows, key, 100, 1, at_once=40))
    assert {len(part.points) for part in parts} == {40 if num_flows == 1 else 32}
    together, longer = pool(flows, key, 100, 1), pool(flows, key, 200, 1)
    np.testing.assert_array_equal(np.concatenate([part.points for part in parts])[:100], together.points)
    np.testing.assert_array_equal(longer.log_weights[:100], together.log_weights)


def test_the_certificate_counts_the_draws_whose_way_back_misses(monkeypatch, getkey):
    inverse = flow.inverse
    monkeypatch.setattr(flow, "inverse", lambda blocks, y: inverse(blocks, y) + jnp.where(y[0] > 0, 0.01, 0.0))
    fresh = propose(make(getkey()), getkey(), 500, 1, check_folds=True)
    assert np.all(np.isfinite(fresh.log_weights))
    np.testing.assert_array_equal(fresh.folded, fresh.points[:, 0] > 0)
    assert 0.2 < np.mean(fresh.folded) < 0.8
