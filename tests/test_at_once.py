"""Several threads, several processes, and many runs in one process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY
from numpyro import handlers

from numpyro_onestep import OneStep, OneStepSampler, threads
from numpyro_onestep.model.function import bind, trace

COUNTS = {"num_warmup": 20, "num_samples": 50, "num_chains": 2, "progress_bar": False}


def first(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, 1), obs=y)


def second(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def result(i):
    """Log Z, draws and fresh draws of the i-th of several runs."""
    model, y = (first, second)[i % 2], np.arange(3 + i % 2) / 2 - i
    sampler = OneStepSampler(OneStep(model, **TINY), **COUNTS)
    sampler.run(random.key(i), y)
    fresh = sampler.draw(random.key(i + 10), 7)
    return sampler.evidence.log_z, np.asarray(sampler.get_samples()["loc"]), np.asarray(fresh.log_weights)


def test_threads_do_not_meet_in_numpyro():
    # its effect handlers are one list for all threads
    seen = {}

    def sites(args, kwargs, x):
        def model():
            for i in range(5):
                numpyro.deterministic(f"{args[0]}{i}", x)
                time.sleep(0.01)

        seen[args[0]] = list(handlers.trace(model).get_trace())
        return x

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: trace(bind(None, sites, (name,), {}), np.zeros(())), "abcd"))
    assert seen == {name: [f"{name}{i}" for i in range(5)] for name in "abcd"}


def test_who_is_in_numpyro_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 2)
    begun, may_end = threading.Event(), threading.Event()
    threads.begin("this", lambda: (begun.set(), may_end.wait(60)))
    begun.wait(60)
    with threads.alone_in_numpyro():
        threads.wait("this")
    assert threads._at_work
    may_end.set()
    threads.wait("this")


@pytest.mark.slow
def test_runs_in_four_threads_are_those_one_after_the_other():
    alone = [result(i) for i in range(8)]
    jax.clear_caches()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(result, range(8)))
    for a, b in zip(alone, together, strict=True):
        assert a[0] == b[0]
        assert np.array_equal(a[1], b[1])
        assert np.array_equal(a[2], b[2])
