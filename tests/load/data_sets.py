"""Runs on many data sets at once, by `jax.vmap` around a whole run of NumPyro's `MCMC`: time, memory and errors.

`python tests/load/data_sets.py 1 10 100 1000`. The model is conjugate, so the posterior means are known.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC

from numpyro_onestep import OneStep

OPTIONS = {"width": 16, "num_blocks": 1, "batch_size": 32, "coverage_audit": False}
SIZE = 5


def model(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, 1).expand([SIZE]).to_event(1), obs=y)


def draws(key, y):
    mcmc = MCMC(OneStep(model, **OPTIONS), num_warmup=50, num_samples=200, progress_bar=False)
    mcmc.run(key, y)
    return mcmc.get_samples()["loc"]


def row(num):
    """Seconds, peak memory of the process in MB, and the largest error of a mean in standard errors."""
    y = np.random.default_rng(0).normal(1, 1, (num, SIZE)).astype(np.float32)
    began = time.monotonic()
    found = np.asarray(jax.jit(jax.vmap(draws))(jax.random.split(jax.random.key(0), num), jnp.asarray(y)))
    took = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    sd = (1 + SIZE) ** -0.5
    z = (found.mean(1) - y.sum(1) / (1 + SIZE)) / (sd / found.shape[1] ** 0.5)
    return took, peak, np.abs(z).max(), z.std()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nums", type=int, nargs="*", default=[1, 10, 100, 1000])
    print("data sets  seconds  peak memory, MB  largest error of a mean, standard errors  their sd")
    for num in parser.parse_args().nums:
        print("{:9d}  {:7.1f}  {:15.0f}  {:41.1f}  {:8.2f}".format(num, *row(num)), flush=True)
