"""Several threads, several processes, and many runs in one process."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from load import data_sets, many_runs
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


@pytest.mark.slow
@pytest.mark.parametrize("method", [["spawn"], ["loky"], ["fork", "--first"]], ids="-".join)
def test_worker_processes_give_the_same_results(method):
    # forked once JAX has computed they may wait for ever, for locks whose holders were not forked
    script = Path(__file__).parent / "load" / "processes.py"
    done = subprocess.run([sys.executable, script, *method], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_many_runs_leave_neither_memory_nor_maps_behind():
    rows = list(many_runs.rows(100, every=20))
    (_, _, memory, maps), (_, _, memory_after, maps_after) = rows[1], rows[-1]
    assert memory_after - memory < 10
    assert maps_after <= maps + 20


@pytest.mark.slow
def test_many_data_sets_under_vmap():
    _, _, largest, spread = data_sets.row(100)
    assert largest < 5
    assert 0.7 < spread < 1.3
