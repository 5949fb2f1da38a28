import gc
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA logs every program it reads back from the cache

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from numpyro_onestep import compilation

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # gw0, gw1, …
if _WORKER and hasattr(os, "sched_setaffinity"):
    # one core each, before XLA counts them: its threads spin, and would take the other process's turns
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(_WORKER.removeprefix("gw")) % len(cores)]})
    # BLAS has counted them already, and two of its threads on one core wait for one another most of the time
    threadpool_limits(1, "blas")

# tracing makes many objects that live on, and to look through all of them again and again takes a twentieth of the time
gc.set_threshold(50_000, 20, 50)

# many tests run the same small program: it is compiled once; the folder is the first process's, the workers inherit it
_OWN = "ONESTEP_TEST_CACHE" not in os.environ
_CACHE = os.environ.setdefault("ONESTEP_TEST_CACHE", tempfile.mkdtemp(prefix="onestep-test-cache-") if _OWN else "")
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# the compiler's shortest way through a program on one core; a jaxlib that has not all of these does without
_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config):
    # nearly all of the quick tests' time is the compiler's; the slow ones run what a user runs
    if config.option.markexpr == "not slow":
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # in the processes that tests start
        jax.config.update("jax_disable_most_optimizations", True)
        if _OWN and getattr(config.option, "numprocesses", None):
            import arviz  # noqa: F401 - writes a file on its first import of a day, which two workers must not do at once
        if _OWN:  # read when the first program is compiled, and by the workers
            flags = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
            start = [sys.executable, "-c", "import jax; jax.devices()"]
            known = subprocess.run(start, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, check=False)
            if known.returncode == 0:
                os.environ["XLA_FLAGS"] = flags


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # NUTS proves the drop-in tests themselves, which the slow run repeats
    for item in items:
        if "[NUTS" in item.nodeid:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def getkey():
    keys = iter(jax.random.split(jax.random.key(20251205), 1000))
    return lambda: next(keys)


@pytest.fixture(params=["default", "dark_background"])
def ink(request):
    """The colour of the text in a light and a dark style of matplotlib, without a display."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    with plt.style.context(request.param):
        yield plt.rcParams["text.color"]
        plt.close("all")


@pytest.fixture
def finished():
    """A function that draws the figure of some axes as it would be saved, and returns the first of them."""

    def draw(axes):
        first = np.ravel(axes)[0]
        first.figure.canvas.draw()
        return first

    return draw


@pytest.fixture(scope="session")
def small_run():
    """A run of two iterations; tests leave it as it was."""
    from models import FEATURES, TARGETS, TINY, regression

    from numpyro_onestep import OneStep, OneStepSampler

    counts = {"num_warmup": 2, "num_samples": 20, "num_chains": 2, "progress_bar": False}
    sampler = OneStepSampler(OneStep(regression, **TINY, bridge="never"), **counts)
    sampler.run(jax.random.key(0), FEATURES, TARGETS)
    sampler.draw(jax.random.key(1), 5)
    return sampler


@pytest.fixture(autouse=True, scope="module")
def give_up_compiled_programs():
    # each holds hundreds of memory maps, of which a process has 65,530
    yield
    jax.clear_caches()
    compilation._traces.clear()


def pytest_sessionfinish():
    if _OWN:
        shutil.rmtree(_CACHE, ignore_errors=True)
