from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from models import bananas

from numpyro_onestep import compilation, sampling, threads
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge.crossing import Crossing, is_crossed
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM, NUM_CHAINS = 4, 2
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))
TARGET = safe_log_density(bananas)


@pytest.mark.parametrize(
    ("correction", "bridge", "num_draws"),
    [
        ("metropolis", "never", 30),
        ("resample", "never", 30),
        ("none", "never", 30),
        pytest.param("metropolis", "always", 1024, marks=pytest.mark.slow),
    ],
)
def test_what_is_compiled_ahead_is_what_is_called(correction, bridge, num_draws, monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 2)

    def draw(width, num_draws):
        flow = Flow(StepNetwork(DIM, num_blocks=1, width=width, rng_key=random.key(1)), Problem(BASE, TARGET))
        before = np.int_(0), np.int_(0), np.zeros(NUM_CHAINS, np.float32)
        shape = NUM_CHAINS, num_draws

        def now():
            return sampling.chains_of(random.key(2), [flow], correction, bridge, shape, 1, 1, before, False)

        return flow, shape, now

    draw(8, num_draws + 10)[2]()  # what is the same for all
    flow, shape, now = draw(6, num_draws)
    sampling.expect(random.key(0), correction, bridge, shape, 1, 1, lambda: flow, 1.0)
    threads._thread.join()
    before = len(compilation._traces)
    _, crossings = now()
    assert len(compilation._traces) - before == (bridge == "always")  # how particles become chains is not expected
    assert (bridge == "always") == (crossings is not None and all(map(is_crossed, crossings)))


@pytest.mark.parametrize(
    ("spread", "num_crossed", "times"), [(0.01, 9, 1), (0.3, 9, 2), (9.0, 9, 4), (9.0, 0, 1), (9.0, 2, 2)]
)
def test_bridges_are_crossed_again_while_the_error_is_large(spread, num_crossed, times, monkeypatch):
    keys = []

    def cross(flow, key, *_):
        keys.append(tuple(random.key_data(key).tolist()))
        log_z = spread * np.linspace(-1, 1, 8) / len(keys)
        weights = {"first_weights": np.zeros(64), "log_weights": np.zeros((1, 8, 8)), "num_rounds": 1}
        arrived = {"annealing": len(keys) <= num_crossed, "accept_prob": 0.8}
        return Crossing(SimpleNamespace(log_z=log_z, **weights, **arrived), np.zeros(8))

    monkeypatch.setattr(sampling, "cross", cross)
    flow = Flow(StepNetwork(DIM, num_blocks=1, width=4, rng_key=random.key(0)), Problem(BASE, TARGET))
    assert len(sampling.bridges_of([flow], random.key(0), 1)) == times  # a further one that fails does not count
    assert len(set(keys)) == len(keys) == times + (0 < num_crossed < times + 1)
