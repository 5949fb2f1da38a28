"""Draws in chunks on the host: the same draws, in bounded memory."""

import subprocess
import sys

import numpy as np
import pytest

from numpyro_onestep.results import stream
from numpyro_onestep.results.stream import Draws

MANY = """
import jax, numpyro, numpyro.distributions as dist, resource, numpy as np
from numpyro_onestep import OneStep, OneStepSampler

def schools():
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfCauchy(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, 12).to_event(1), obs=np.array([28.0, 8, -3, 7, -1, 1, 18, 12]))

kernel = OneStep(schools, width=8, num_blocks=1, coverage_audit=False)
sampler = OneStepSampler(kernel, num_warmup=1, progress_bar=False)
sampler.run(jax.random.key(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
draws = sampler.draw(jax.random.key(1), 10_000_000)
assert draws.samples["theta"].shape == (10_000_000, 8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


@pytest.mark.parametrize("chunk", [1, 5, 7, 12, 30])
def test_cuts_are_of_one_length_and_lose_nothing(chunk):
    values = np.arange(24)
    parts = [Draws({"x": values[i : i + 6, None]}, values[i : i + 6]) for i in range(0, 24, 6)]
    cut = list(stream._cut(parts, 20, chunk))
    assert [len(draws.log_weights) for draws in cut] == [min(chunk, 20 - i) for i in range(0, 20, chunk)]
    np.testing.assert_array_equal(np.concatenate([draws.log_weights for draws in cut]), values[:20])
    np.testing.assert_array_equal(np.concatenate([draws.samples["x"] for draws in cut]), values[:20, None])
    assert len({id(draws.log_weights.base) for draws in cut}) <= 1  # none of them a view that keeps a part alive


@pytest.mark.slow
def test_ten_million_draws_of_eight_schools_need_less_than_2_gb():
    done = subprocess.run([sys.executable, "-c", MANY], check=True, capture_output=True, text=True)
    assert 0.3 < float(done.stdout) < 1.0  # the result takes .44 of these gigabytes
