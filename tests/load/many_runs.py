"""Many runs in one process, one after the other: what memory and memory maps it has then.

`python tests/load/many_runs.py 200` runs on new data of the same shape; with `--models` each run has a new function
around the same model, which is compiled anew.
"""

import argparse
import gc
import time
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_onestep import OneStep, OneStepSampler

OPTIONS = {"width": 16, "num_blocks": 1, "batch_size": 32, "coverage_audit": False}


def model(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, 1), obs=y)


def memory():
    """Resident memory in MB, and memory maps, of this process."""
    gc.collect()
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1000, Path("/proc/self/maps").read_bytes().count(b"\n")


def use(model, seed):
    sampler = OneStepSampler(OneStep(model, **OPTIONS), num_warmup=20, num_samples=50, progress_bar=False)
    sampler.run(jax.random.key(seed), np.random.default_rng(seed).normal(size=8))
    sampler.draw(jax.random.key(seed), 10)
    return sampler.evidence


def rows(num, new_models=False, every=20):
    """Run, seconds since the last row, memory and maps, after every so many runs."""
    began = time.monotonic()
    for i in range(1, num + 1):
        use((lambda y: model(y)) if new_models else model, i)
        if i % every == 0 or i == 1:
            yield i, time.monotonic() - began, *memory()
            began = time.monotonic()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("num", type=int, nargs="?", default=200)
    parser.add_argument("--models", action="store_true", help="a new function for each run")
    arguments = parser.parse_args()
    print("run  seconds  memory, MB  maps")
    for row in rows(arguments.num, arguments.models, max(1, arguments.num // 10)):
        print("{:3d}  {:7.1f}  {:10.0f}  {:4d}".format(*row), flush=True)
