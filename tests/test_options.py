import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from inputs.anything import ANYTHING, each, examples
from inputs.attempt import attempt
from jax import random

from numpyro_onestep import OneStep, OneStepSampler, options


def model():
    raise AssertionError("the model is not run to check options")


NOT_COUNTS = [1.5, math.nan, math.inf, "x", "2", (2,), 1e300, np.float32(2), jnp.array(2.0), np.array([1, 2]), 1j]
NO_NUMBERS = ["x", "2", (1.0,), {}, 1j, jnp.zeros(2), print]
COUNTS = ("width", "num_blocks", "batch_size", "steps_per_iteration", "num_replicates")


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    for value in NOT_COUNTS:
        with pytest.raises(TypeError, match=f"`{name}` must be an integer"):
            OneStep(model, **{name: value})
    for value in (0, -1, 10**6, 10**30):
        with pytest.raises(ValueError, match=f"`{name}` must be at (least|most)"):
            OneStep(model, **{name: value})
    plans = [OneStep(model, **{name: value}).plan(3) for value in (2, np.int64(2), jnp.array(2))]
    assert len(set(plans)) == 1  # a part of what is compiled


RANGES = {
    "init_scale": ([1, 1e-3], [0, -1, math.nan, math.inf, 1e300]),
    "learning_rate": ([1, 1e-3], [0, -1, math.nan, math.inf]),
    "target_ess": ([1, 0.5], [0, -1, 1.1, math.nan]),
    "state_consistency": ([0, 1.5], [-1, math.nan, math.inf]),
    "volume_consistency": ([0, 1.5], [-1, math.nan, math.inf]),
}


@pytest.mark.parametrize("name", RANGES)
def test_numbers(name):
    good, bad = RANGES[name]
    for value in good:
        OneStep(model, budgets=(2, 4), **{name: value})
        OneStep(model, budgets=(2, 4), **{name: jnp.asarray(value)})
    for value in bad:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            OneStep(model, **{name: value})
    for value in NO_NUMBERS:
        with pytest.raises(TypeError, match=f"`{name}` must be"):
            OneStep(model, **{name: value})


@pytest.mark.parametrize("name", ["correction", "bridge"])
def test_words(name):
    for value in ("x", "", 0, True, ["none"], np.array(["none", "x"])):
        with pytest.raises(ValueError, match=f"`{name}` must be one of"):
            OneStep(model, **{name: value})


def test_functions():
    for arguments in ({"model": 3}, {"potential_fn": "x"}, {"model": model, "init_strategy": 3}):
        with pytest.raises(TypeError, match=f"`{list(arguments)[-1]}` must be a function"):
            OneStep(**arguments)
    with pytest.raises(TypeError, match="`postprocess_fn` must be a function"):
        OneStepSampler(OneStep(model), postprocess_fn=3)


def test_budgets():
    assert OneStep(model, budgets=np.array([4, 2])).plan(3) == OneStep(model, budgets=(2, 4)).plan(3)
    for budgets in (None, 2, jnp.array(2)):
        with pytest.raises(TypeError, match="`budgets` must be several"):
            OneStep(model, budgets=budgets)
    for budgets in ("2", (2, "x"), (0,), (2.0,), (256,)):
        with pytest.raises(ValueError, match="each of `budgets` must be a power of two"):
            OneStep(model, budgets=budgets)


def test_chains():
    for value in (None, *NOT_COUNTS):
        with pytest.raises(TypeError, match="`num_chains` must be an integer"):
            OneStepSampler(OneStep(model), num_chains=value)
    for value in (0, -1, 10**30):
        with pytest.raises(ValueError, match="`num_chains` must be at"):
            OneStepSampler(OneStep(model), num_chains=value)


KEYS = [random.key(0), random.PRNGKey(0), np.zeros(2, np.uint32), random.key(0, impl="rbg")]
NO_KEYS = [None, 0, "x", np.int64(3), [random.key(0)], jnp.zeros(2), jnp.zeros(2, int), jnp.zeros(3, jnp.uint32), {}]


def test_keys():
    for key in KEYS:
        options.check_key(key)
        options.check_key(key, 3)
        jax.jit(options.check_key)(key)
    for several in (random.split(random.key(0), 3), random.split(random.PRNGKey(0), 3)):
        options.check_key(several, 3)
        for num in (None, 2):
            with pytest.raises(ValueError, match=r"`rng_key` must be one key.* not keys of shape \(3,\)"):
                options.check_key(several, num)
    with pytest.raises(ValueError, match="must be one key"):
        options.check_key(random.split(random.key(0), 0), 0)
    for value in NO_KEYS:
        with pytest.raises(TypeError, match="`rng_key` must be a key of JAX"):
            options.check_key(value)


def test_more_draws_than_there_is_memory_for():
    options.check_room(10**6, 12)
    with pytest.raises(ValueError, match="2,000,000,000 draws take 2,000 GB at least"):
        options.check_room(2 * 10**9, 1000)


OPTIONS = list(inspect.signature(OneStep).parameters)[2:]


@examples(200, 3000)
def test_any_options(profile):
    def check(given):
        said = attempt(lambda: [OneStep(model, **given).plan(dim) for dim in (1, 20, 100)])
        assert said == "a result" or any(f"`{name}`" in said for name in given), said

    each(profile, st.dictionaries(st.sampled_from(OPTIONS), ANYTHING, min_size=1, max_size=2), check)


@examples(100, 1000)
def test_any_counts(profile):
    names = ["num_warmup", "num_samples", "num_chains", "thinning", "chain_method", "postprocess_fn"]
    given = st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=2)
    each(profile, given, lambda given: attempt(lambda: OneStepSampler(OneStep(model), **given)))
