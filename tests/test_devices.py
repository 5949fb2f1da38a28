"""Several devices give the result of one: the CPU taken as several, and several processes on the loopback address."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from numpyro_onestep import OneStep

HERE = Path(__file__).parent

CUT = """
import jax, numpy as np
from jax import random
from jax.sharding import Mesh
from numpyro_onestep import compilation, devices

cuts = []

@compilation.jit
def total(key, scale):
    draws = devices.shard(scale * random.normal(key, (8, 3)))
    jax.debug.inspect_array_sharding(draws, callback=lambda cut: cuts.append(str(cut)))
    return draws.sum(0)

mesh = devices.row(None)
key, scale = random.key(0), np.float32(2)
one = total(key, scale)
all_ = total(key, devices.on_all(mesh, scale))
assert mesh.size == 2 and devices.row(Mesh(jax.devices()[:1], "x")) is None
assert devices.row(None, work=1e5) is None and devices.row(mesh, work=1e5) == devices.row(None, work=1e7) == mesh
assert len(one.devices()) == 1 and len(all_.devices()) == 2 and all_.is_fully_replicated
assert len(devices.on_one(all_).devices()) == 1
np.testing.assert_allclose(one, all_, rtol=1e-5)
assert len(cuts) == 2 and "onestep_draws" in cuts[1] and "onestep_draws" not in cuts[0], cuts

# what the user has cut himself stays as it is
mine = Mesh(np.array(jax.devices()), ("mine",))
data = jax.device_put(np.arange(4.0), jax.sharding.NamedSharding(mine, jax.sharding.PartitionSpec("mine")))
assert devices.mesh_of(data) is None and devices.on_all(mesh, data) is data
"""

RUN = """
import json, sys
import jax, numpy as np
if len(sys.argv) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpyro, numpyro.distributions as dist
from numpyro_onestep import OneStep, OneStepSampler, devices

def schools(effect):
    mu, tau = numpyro.sample("mu", dist.Normal(0, 5)), numpyro.sample("tau", dist.HalfNormal(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, 12).to_event(1), obs=effect)

mesh = jax.sharding.Mesh(np.array(jax.devices()), "all")  # for training too, for which this model is small
kernel = OneStep(schools, width=32, num_blocks=2, bridge="always", num_replicates=2, mesh=mesh)
sampler = OneStepSampler(kernel, num_warmup=60, progress_bar=False)
sampler.run(jax.random.key(0), np.array([28.0, 8, -3, 7, -1, 1, 18, 12]))
draws = sampler.draw(jax.random.key(1), 5000)
samples = np.column_stack([sampler.get_samples()["theta"], draws.samples["theta"][:4000], draws.log_weights[:4000]])
assert devices.mesh_of(sampler.get_samples(), sampler.last_state) is None
seen = {"devices": jax.device_count(), "log_z": sampler.evidence.log_z, "error": sampler.evidence.std_error}
print(json.dumps(seen | {"means": samples.mean(0).tolist(), "sds": samples.std(0).tolist()}))
"""


def start(script, num_devices, *arguments):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)


def finish(process):
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1]) if out else None


def test_a_program_shares_its_draws_out_and_what_it_returns_is_everywhere():
    finish(start(CUT, 2))


def test_what_is_no_mesh_is_refused():
    with pytest.raises(TypeError, match=r"`mesh` must be a `jax.sharding.Mesh` or None, not list"):
        OneStep(lambda: None, mesh=jax.devices())


def agree(one, other):
    assert abs(one["log_z"] - other["log_z"]) < 1e-3
    assert one["error"] == pytest.approx(other["error"], rel=0.05)
    apart = np.abs(np.subtract(one["means"], other["means"])) / one["sds"]
    assert np.max(apart) < 1e-3


@pytest.mark.slow
def test_one_two_and_four_devices_give_the_same_result():
    one, *others = (finish(start(RUN, num)) for num in (1, 2, 4))
    assert [one["devices"], *(other["devices"] for other in others)] == [1, 2, 4]
    for other in others:
        agree(one, other)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [start(RUN, 1, address, str(i)) for i in range(2)]
    first, second = map(finish, both)
    one = finish(start(RUN, 1))
    assert first == second
    assert first["devices"] == 2
    agree(one, first)
