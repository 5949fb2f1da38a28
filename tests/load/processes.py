"""Runs in worker processes. `python tests/load/processes.py spawn` (or fork, or loky, which is joblib's own way).

Prints whether the workers' results are those of this process, or that they did not come in time. A process forked from
one in which JAX has computed has JAX's locks, but not the threads that hold them.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_onestep import OneStep, OneStepSampler

OPTIONS = {"width": 16, "num_blocks": 1, "batch_size": 32, "coverage_audit": False}


def model(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, 1), obs=y)


def result(seed):
    """Log Z and draws of a small run."""
    sampler = OneStepSampler(OneStep(model, **OPTIONS), num_warmup=20, num_samples=50, progress_bar=False)
    sampler.run(jax.random.key(seed), np.arange(4) / 2 - seed)
    return sampler.evidence.log_z, np.asarray(sampler.get_samples()["loc"])


def workers(method, num, timeout):
    """The results of so many seeds from two workers; None if they did not come in time."""
    if method == "loky":
        from joblib import Parallel, delayed

        return Parallel(n_jobs=2, timeout=timeout)(delayed(result)(seed) for seed in range(num))
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))
    futures = [pool.submit(result, seed) for seed in range(num)]
    try:
        return [future.result(timeout) for future in futures]
    except TimeoutError:
        for process in pool._processes.values():
            process.kill()
        return None


def main():
    """Compare the workers' results with those of this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=["spawn", "fork", "forkserver", "loky"])
    parser.add_argument("--first", action="store_true", help="start the workers before JAX computes here")
    parser.add_argument("--num", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=300.0)
    arguments = parser.parse_args()
    here = None if arguments.first else [result(seed) for seed in range(arguments.num)]
    began = time.monotonic()
    there = workers(arguments.method, arguments.num, arguments.timeout)
    took = time.monotonic() - began
    here = here or [result(seed) for seed in range(arguments.num)]
    if there is None:
        print(f"{arguments.method}: no result within {arguments.timeout:.0f} s")
        raise SystemExit(1)
    same = all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(here, there, strict=True))
    print(f"{arguments.method}: {'the same' if same else 'other'} results, {took:.0f} s")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
