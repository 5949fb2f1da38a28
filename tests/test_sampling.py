import jax.numpy as jnp
import numpy as np
import pytest
from models import bananas

from numpyro_onestep import compilation, sampling, threads
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density

DIM, NUM_CHAINS = 4, 2
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))


@pytest.mark.parametrize(
    ("correction", "bridge", "not_ahead"),
    [("metropolis", "never", 0), ("resample", "never", 0), ("none", "never", 0), ("metropolis", "always", 1)],
)
def test_what_is_compiled_ahead_is_what_is_called(correction, bridge, not_ahead, getkey, monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    flow = Flow(StepNetwork(DIM, num_blocks=1, width=8, rng_key=getkey()), Problem(BASE, safe_log_density(bananas)))

    def draw(num_draws):
        before = np.int_(0), np.int_(0), np.zeros(NUM_CHAINS, np.float32)
        shape = NUM_CHAINS, num_draws
        return sampling.chains_of(getkey(), [flow], correction, bridge, shape, 1, 1, before, False)

    draw(20)  # what is the same for any number of draws
    sampling.expect(getkey(), correction, bridge, (NUM_CHAINS, 30), 1, 1, lambda: flow, 1.0)
    threads._thread.join()
    before = len(compilation._traces)
    draw(30)
    assert len(compilation._traces) - before == not_ahead  # how the particles of a bridge become chains
