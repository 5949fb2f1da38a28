"""What a run is given: potential functions, starting points, data of every kind, precision, transformations."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from kernels import both, check_mean, check_moments, sampled
from models import FEATURES, TARGETS, banana_potential, regression, regression_posterior
from numpyro.infer import (
    NUTS,
    init_to_feasible,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)

from numpyro_onestep import OneStep

DATA = (FEATURES, TARGETS)
MEAN, COV = regression_posterior()


@both
def test_potential_function(kernel):
    # any pytree of parameters, with a leading axis of chains
    init = {"x": jnp.zeros(2), "y": jnp.ones(2)}
    options = {"num_warmup": 100, "num_samples": 1000, "num_chains": 2, "chain_method": "vectorized"}
    mcmc = sampled(kernel(potential_fn=banana_potential), init_params=init, **options)
    samples = mcmc.get_samples(group_by_chain=True)
    assert {name: value.shape for name, value in samples.items()} == {"x": (2, 1000), "y": (2, 1000)}
    check_moments(samples["x"], 0.0, 1.0, min_ess=20)
    check_mean(samples["y"], 1.0, min_ess=20)


@both
def test_potential_function_and_model_exclude_each_other(kernel):
    for arguments in ({}, {"model": regression, "potential_fn": banana_potential}):
        with pytest.raises(ValueError, match="model"):
            kernel(**arguments)


@pytest.mark.parametrize(
    "option", ["step_size", "adapt_mass_matrix", "dense_mass", "target_accept_prob", "max_tree_depth"]
)
def test_options_of_a_trajectory_are_refused_by_name(option):
    NUTS(regression, **{option: 0.5})
    with pytest.raises(TypeError, match=option):
        OneStep(regression, **{option: 0.5})


@both
def test_potential_function_needs_init_params(kernel):
    with pytest.raises(ValueError, match="init_params"):
        sampled(kernel(potential_fn=banana_potential), num_warmup=2, num_samples=2)


STRATEGIES = {
    "feasible": init_to_feasible,
    "mean": init_to_mean(),
    "median": init_to_median(num_samples=5),
    "sample": init_to_sample(),
    "uniform": init_to_uniform(radius=0.1),
    "value": init_to_value(values={"beta": jnp.array([1.0, 2.0, 3.0])}),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kernel", [NUTS, OneStep])
def test_init_strategies(kernel, name):
    z = kernel(regression, init_strategy=STRATEGIES[name]).init(random.key(0), 0, None, DATA, {}).z["beta"]
    assert z.shape == (3,)
    if name in ("feasible", "mean"):
        assert np.allclose(z, 0.0, atol=1e-6)
    if name == "value":
        assert np.allclose(z, [1.0, 2.0, 3.0])
    if name == "uniform":
        assert np.all(np.abs(z) < 0.1)
    if name in ("median", "sample"):
        assert np.all(np.abs(z) < 10)
        assert np.all(z != 0)


@pytest.mark.parametrize("kernel", [NUTS, OneStep])
def test_init_params_win_over_the_strategy(kernel):
    strategy = init_to_value(values={"beta": jnp.ones(3)})
    state = kernel(regression, init_strategy=strategy).init(random.key(0), 0, {"beta": jnp.full(3, 0.5)}, DATA, {})
    assert np.allclose(state.z["beta"], 0.5)


@both
def test_jit_model_args_takes_new_data(kernel):
    mcmc = sampled(kernel(regression), *DATA, jit_model_args=True)
    for y, mean in ((TARGETS, MEAN), (-TARGETS, -MEAN)):
        mcmc.run(random.key(1), FEATURES, y)
        check_moments(mcmc.get_samples(group_by_chain=True)["beta"], mean, np.diag(COV))


def given(data, settings, name="", *, scale=None):
    """Arguments of all kinds, some of which decide what the model is."""
    assert name == "used"
    if settings["flat"]:
        raise AssertionError("a static argument was traced")
    loc = numpyro.sample("loc", dist.Normal(0, 1 if scale is None else scale))
    numpyro.sample("y", dist.Normal(loc, 1), obs=data["y"][0])


@both
def test_arguments_of_any_kind(kernel):
    data = {"y": [np.array([1.0, 2.0, 3.0])]}
    mcmc = sampled(kernel(given), data, {"flat": False}, "used", model_kwargs={"scale": None})
    check_moments(mcmc.get_samples(group_by_chain=True)["loc"], 6 / 4, 1 / 4)


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(jax.vmap, id="vmap"),
        pytest.param(lambda f: jax.jit(jax.vmap(f)), id="jit of vmap", marks=pytest.mark.slow),
    ],
)
@both
def test_whole_runs_over_data_sets(kernel, transform):
    def draws(key, y):
        mcmc = sampled(kernel(regression), FEATURES, y, key=key)
        return mcmc.get_samples(group_by_chain=True)["beta"]

    both_ways = transform(draws)(random.split(random.key(0), 2), jnp.stack([TARGETS, -TARGETS]))
    for found, mean in zip(both_ways, (MEAN, -MEAN), strict=True):
        check_moments(found, mean, np.diag(COV))


def test_double_precision():
    # in a process of its own, since the switch is global and comes first
    script = """
import sys; sys.path.append("..")
import numpyro; numpyro.enable_x64()
import numpy as np
from jax import random
from kernels import KERNELS, check_moments, sampled
from models import FEATURES, TARGETS, regression, regression_log_z, regression_posterior
from numpyro_onestep import OneStep, evidence
mean, cov = regression_posterior()
for kernel in KERNELS.values():
    mcmc = sampled(kernel(regression), FEATURES, TARGETS, extra_fields=("potential_energy", "accept_prob"))
    draws = mcmc.get_samples(group_by_chain=True)["beta"]
    fields = mcmc.get_extra_fields()
    assert draws.dtype == fields["potential_energy"].dtype == fields["accept_prob"].dtype == np.float64
    check_moments(draws, mean, np.diag(cov))
result = evidence(mcmc, random.key(1))
assert isinstance(mcmc.sampler, OneStep) and result.reliable
assert abs(result.log_z - regression_log_z()) < 1e-3
"""
    command = [sys.executable, "-c", script]
    folder = Path(__file__).parent
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
