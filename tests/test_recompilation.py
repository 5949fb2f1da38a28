"""A second run on data of the same shape compiles nothing, whichever kernel object it uses."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random

from numpyro_onestep import FlowDistribution, OneStep, OneStepSampler, compilation
from numpyro_onestep.training import fit

COMPILED: list[str] = []
TRACED: list[int] = []
OPTIONS = {"width": 16, "num_blocks": 1, "batch_size": 32, "steps_per_iteration": 2}
COUNTS = {"num_warmup": 40, "num_samples": 50, "num_chains": 2, "progress_bar": False}


@pytest.fixture(scope="module", autouse=True)
def listener():
    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            COMPILED.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)


def regression(x, y):
    TRACED.append(1)
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([1]))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x[:, None] @ slope, noise), obs=y)


def data(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=12)
    return x, x + rng.normal(size=12)


def everything(sampler, seed):
    """All that a user does with a run: the number of compilations, and of traces of the model."""
    COMPILED.clear()
    TRACED.clear()
    sampler.run(random.key(seed), *data(seed))
    log_z = sampler.evidence.log_z
    sampler.draw(random.key(seed + 100), 30)
    sampler.get_samples()
    return len(COMPILED), len(TRACED), log_z


def test_a_second_run_compiles_nothing():
    # which of the two needs a bridge, after so short a training, is another question
    sampler = OneStepSampler(OneStep(regression, bridge="never", **OPTIONS), **COUNTS)
    first, traced_first, log_z = everything(sampler, 0)
    second, traced_second, other_log_z = everything(sampler, 1)
    assert first > 10
    assert second == 0
    # NumPyro's look at the model, and ours for what it does with arrays that it cannot see
    assert traced_second <= 6 < traced_first
    assert log_z != other_log_z
    # nor with another kernel object around the same model
    third, _, again = everything(OneStepSampler(OneStep(regression, bridge="never", **OPTIONS), **COUNTS), 1)
    assert third == 0
    assert again == other_log_z


def test_training_looks_at_the_device_between_blocks_only(monkeypatch):
    looks = []
    advance = fit.advance
    monkeypatch.setattr(fit, "advance", lambda *args: looks.append(1) or advance(*args))
    OneStepSampler(OneStep(regression, **OPTIONS, coverage_audit=False), **COUNTS).run(random.key(0), *data(0))
    assert 0 < len(looks) <= fit._NUM_BLOCKS


class Products(list):
    """The precision of every matrix product of floats that is traced or computed meanwhile."""

    def __init__(self, monkeypatch):
        bind = lax.dot_general_p.bind

        def recorded(x, y, **params):
            if jnp.issubdtype(x.dtype, jnp.floating):
                self.append(params["precision"])
            return bind(x, y, **params)

        monkeypatch.setattr(lax.dot_general_p, "bind", recorded)


@pytest.fixture
def products(monkeypatch):
    return Products(monkeypatch)


FULL = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


@pytest.mark.slow
def test_no_tracer_leaks_and_all_matrix_products_are_of_full_precision(products):
    kernel = OneStep(regression, **OPTIONS)
    sampler = OneStepSampler(kernel, **{**COUNTS, "num_warmup": 2})
    jax.clear_caches()  # what is compiled already would not be traced again
    with jax.checking_leaks():
        sampler.run(random.key(0), *data(0))
    assert np.all(np.isfinite(sampler.get_samples()["slope"]))
    posterior = FlowDistribution(sampler)
    posterior.log_prob(posterior.sample(random.key(1), (3,)))
    sampler.evidence  # noqa: B018
    assert len(products) > 100
    assert set(products) == {FULL}


def test_stock_run_has_matrix_products_of_full_precision_or_of_the_users_choice(products):
    kernel = OneStep(regression, **OPTIONS)
    state = kernel.init(random.key(0), 2, None, data(0))
    products.clear()
    jax.clear_caches()
    for chosen, expected in ((None, FULL), ("bfloat16", (lax.Precision.DEFAULT,) * 2)):
        with jax.default_matmul_precision(chosen):
            jax.eval_shape(lambda state: kernel.sample(state, data(0), {}), state)
        assert set(products) == {expected}
        products.clear()


@pytest.fixture
def double(monkeypatch):
    """A compiled function of the package, the only one, and its traces."""
    traces = []
    monkeypatch.setattr(compilation, "_traces", [])
    monkeypatch.setattr(compilation, "_functions", [])
    return compilation.jit(lambda x: traces.append(1) or 2 * x), traces


@pytest.mark.parametrize(("limit", "kept"), [(10, False), (10**9, True)])
def test_programs_are_given_up_where_memory_maps_run_out(monkeypatch, tmp_path, double, limit, kept):
    # each program holds hundreds of them
    function, traces = double
    (tmp_path / "max_map_count").write_text(f"{limit}\n")
    monkeypatch.setattr(compilation, "_MAX_MAPS", tmp_path / "max_map_count")
    other = []
    foreign = jax.jit(lambda x: other.append(1) or x)
    foreign(np.zeros(0))
    for size in range(compilation._MAX_PROGRAMS + 1):
        function(np.zeros(size))
    compilation.make_room()
    function(np.zeros(0))
    foreign(np.zeros(0))
    assert len(traces) == compilation._MAX_PROGRAMS + 1 + (not kept)
    assert len(other) == 1 + (not kept)


def test_not_too_many_programs_are_kept_where_memory_maps_cannot_be_counted(monkeypatch, tmp_path, double):
    function, traces = double
    monkeypatch.setattr(compilation, "_MAPS", tmp_path / "none")
    for size in range(compilation._MAX_PROGRAMS):
        function(np.zeros(size))
    compilation.make_room()
    function(np.zeros(0))
    assert len(traces) == compilation._MAX_PROGRAMS
    function(np.zeros(compilation._MAX_PROGRAMS))
    compilation.make_room()
    function(np.zeros(0))
    assert len(traces) == compilation._MAX_PROGRAMS + 2


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    known = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(compilation, "_FAST_COMPILATION", known | {"xla_option_of_another_version": True})
    given = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda *args, **kwargs: given.append(kwargs) or jit(*args, **kwargs))
    assert compilation.jit_once(lambda x: 2 * x)(3.0) == 6.0
    assert given[-1]["compiler_options"] == known


def test_within_another_transformation_a_compiled_function_has_no_options_of_its_own():
    function = compilation.jit_once(lambda x: x**2)
    assert jax.jit(lambda x: function(x) + function(2.0))(3.0) == 13.0
    assert jax.grad(function)(3.0) == 6.0
