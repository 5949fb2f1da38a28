"""The second thread does what it is told, silently, and leaves nothing to wait for; BLAS gets its threads back."""

import os
import threading

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from numpyro_onestep import OneStep, OneStepSampler, threads
from numpyro_onestep.compilation import compile_ahead, jit, jit_once, shapes_of


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 2)  # the suite's processes have one each


@pytest.fixture
def gate():
    """An event for which a first task waits, so that the next ones stay in the queue."""
    event, begun = threading.Event(), threading.Event()
    threads.begin("gate", lambda: (begun.set(), event.wait(60)))
    begun.wait(60)
    yield event
    event.set()
    threads.wait("gate")


def test_waits_for_what_is_at_work():
    done, begun, may_end = [], threading.Event(), threading.Event()
    threads.begin("this", lambda: (begun.set(), may_end.wait(60), done.append(threading.current_thread())))
    begun.wait(60)
    threading.Timer(0.2, may_end.set).start()
    threads.wait("this")
    assert done != [threading.current_thread()]


def test_what_has_not_begun_is_given_up(gate):
    done = []
    threads.begin("this", lambda: done.append("this"))
    threads.begin("other", lambda: done.append("other"))
    threads.wait("this")
    gate.set()
    threads.wait("gate")
    threads.begin("last", lambda: done.append("last"))
    while "last" not in done:
        threads.wait("nothing")
    assert done == ["other", "last"]


def test_who_waits_does_what_else_is_to_be_done(gate):
    done = []
    threads.begin("other", lambda: (done.append(threading.current_thread()), gate.set()))
    threads.wait("gate")
    assert done == [threading.current_thread()]


def test_a_failure_is_silent(capfd):
    begun = threading.Event()
    threads.begin("fails", lambda: (begun.set(), 1 / 0))
    begun.wait(60)
    threads.wait("fails")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def compiled():
    """The names of the programs compiled from now on."""
    names = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, fun_name=None, **rest: names.append(fun_name) if "backend_compile" in event else None
    )
    return names


def test_nothing_is_done_ahead_on_one_core(monkeypatch):
    monkeypatch.setattr(threads, "num_cores", lambda: 1)
    threads.begin("never", lambda: pytest.fail("done on one core"))
    assert not threads._queue
    assert not threads._at_work


def schools(error, effect):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(theta, error).to_event(1), obs=effect)


@pytest.mark.slow
def test_a_run_compiles_the_same_programs_ahead_and_draws_the_same(compiled, monkeypatch):
    def run():
        jax.clear_caches()
        compiled.clear()
        kernel = OneStep(schools, width=8, num_blocks=1, batch_size=32, bridge="always")
        sampler = OneStepSampler(kernel, num_warmup=20, num_samples=60, num_chains=2, progress_bar=False)
        sampler.run(jax.random.key(0), np.array([15.0, 10.0, 16.0]), np.array([28.0, 8.0, -3.0]))
        theta, log_z = sampler.get_samples()["theta"], sampler.evidence.log_z
        return np.asarray(theta), log_z, sorted(name for name in compiled if name != "jit(<lambda>)")

    ahead = run()
    monkeypatch.setattr(threads, "num_cores", lambda: 1)
    plain = run()
    np.testing.assert_array_equal(ahead[0], plain[0])
    assert ahead[1] == plain[1]
    assert ahead[2] == plain[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_waits_for_nothing(gate):
    child = os.fork()
    if child == 0:
        threads.wait("gate")
        os._exit(0)
    timer = threading.Timer(30, os.kill, (child, 9))
    timer.start()
    status = os.waitpid(child, 0)[1]
    timer.cancel()
    assert status == 0


@pytest.mark.parametrize("decorator", [jit, jit_once])
def test_what_is_compiled_ahead_is_not_compiled_again(decorator, compiled):
    @decorator
    def gram(x, y):
        return x @ x.T + y

    x, y = np.ones((3, 2), np.float32), np.ones((), np.float32)
    shape = jax.ShapeDtypeStruct((3, 2), np.float32)
    assert shapes_of(gram, shape, y).shape == (3, 3)
    begun = threading.Event()
    compile_ahead(gram, lambda: (begun.set(), (shape, jax.ShapeDtypeStruct((), np.float32)))[1])
    begun.wait(60)
    threads.wait(gram)
    assert [name for name in compiled if "gram" in name] == ["jit(gram)"]
    np.testing.assert_array_equal(gram(x, y), x @ x.T + 1)
    np.testing.assert_array_equal(jax.jit(lambda x: gram(x, y))(x), x @ x.T + 1)
    assert [name for name in compiled if "gram" in name] == ["jit(gram)"]


def test_the_second_thread_has_the_precision_of_the_first():
    @jit_once
    def wide(x):
        return x + 1

    seen = []
    with jax.enable_x64(True):
        compile_ahead(wide, lambda: (seen.append(jnp.zeros(2).dtype), (jax.ShapeDtypeStruct((2,), np.float64),))[1])
        while not seen:
            threads.wait("nothing")
        assert wide(np.zeros(2)).dtype == np.float64
    assert seen == [np.float64]


def num_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_within_and_its_own_again_after():
    with threadpool_limits(2, "blas"):
        assert set(num_threads()) == {2}
        with threads.one_blas_thread():
            assert set(num_threads()) == {1}
            with threads.one_blas_thread():
                pass
            assert set(num_threads()) == {1}
        assert set(num_threads()) == {2}
        with pytest.raises(ZeroDivisionError), threads.one_blas_thread():
            1 / 0  # noqa: B018
        assert set(num_threads()) == {2}


@pytest.mark.slow
def test_runs_have_one_blas_thread():
    def model():
        seen.append(num_threads())
        numpyro.sample("x", dist.Normal(0, 1))

    seen = []
    sampler = OneStepSampler(OneStep(model, width=8), num_warmup=10, num_samples=20, progress_bar=False)
    with threadpool_limits(2, "blas"):
        sampler.run(jax.random.key(0))
        assert seen
        assert {number for numbers in seen for number in numbers} == {1}
        assert set(num_threads()) == {2}
