"""Calls in the wrong order, and with what belongs to another kernel."""

import jax.numpy as jnp
import pytest
from inputs.attempt import attempt
from jax import random
from models import FEATURES, TARGETS, TINY, regression, skewed
from numpyro.infer import MCMC, NUTS

from numpyro_onestep import FlowDistribution, FlowReparam, FlowTransform, OneStep, OneStepSampler, compare, evidence

COUNTS = {"num_warmup": 2, "num_samples": 20, "num_chains": 2, "progress_bar": False}
KEY = random.key(0)


def new(model=regression, **options):
    return OneStepSampler(OneStep(model, **{**TINY, "bridge": "never", **options}), **COUNTS)


BEFORE = {
    "draw": lambda s: s.draw(KEY, 3),
    "evidence": lambda s: s.evidence,
    "evidence()": lambda s: evidence(s, KEY),
    "save": lambda s: s.save("file"),
    "to_inference_data": lambda s: s.to_inference_data(),
    "FlowDistribution": FlowDistribution,
    "FlowReparam": FlowReparam,
    "FlowTransform": FlowTransform,
    "compare": lambda s: compare({"a": s}),
    "warm_start": lambda s: s.run(KEY, FEATURES, TARGETS, warm_start=True),
}


@pytest.mark.parametrize("name", BEFORE)
def test_before_a_run(name):
    assert "No trained OneStep flow here: call `run`" in attempt(lambda: BEFORE[name](new()))


@pytest.mark.parametrize("what", [None, 3, NUTS(skewed), OneStep(skewed), MCMC(NUTS(skewed), **COUNTS)])
def test_of_another_kernel(what):
    assert "TypeError: evidence() needs an MCMC with a OneStep kernel" in attempt(lambda: evidence(what, KEY))
    assert "TypeError: FlowTransform needs" in attempt(lambda: FlowDistribution(what))


@pytest.mark.parametrize("kernel", [None, skewed, NUTS(skewed), OneStep])
def test_load_around_no_kernel(kernel):
    assert "TypeError: load() needs a OneStep kernel" in attempt(lambda: OneStepSampler.load("file", kernel))


@pytest.mark.parametrize("models", [None, {}, [1], {"a": 3}, {"a": None}])
def test_compare_no_models(models):
    assert attempt(lambda: compare(models)).startswith("this package: ")


@pytest.mark.parametrize("state", [3, (), {}, "x", jnp.zeros(3)])
def test_a_state_that_is_none(state):
    sampler = new()
    sampler.post_warmup_state = state
    assert "No trained OneStep flow here" in attempt(lambda: sampler.run(KEY, FEATURES, TARGETS))


def test_a_state_of_another_run(small_run):
    other = new(skewed)
    other.post_warmup_state = small_run.last_state
    assert "The trained flow has 3 dimensions, but the model has 1" in attempt(lambda: other.run(KEY))
    three = MCMC(small_run.sampler, **{**COUNTS, "num_chains": 3}, chain_method="vectorized")
    three.post_warmup_state = small_run.last_state
    assert "The state is one of 2 chains, this run has 3" in attempt(lambda: three.run(KEY, FEATURES, TARGETS))


def test_a_warm_start_from_a_flow_of_another_shape(small_run):
    other = new(width=8)
    other.post_warmup_state = small_run.last_state
    said = attempt(lambda: other.run(KEY, FEATURES, TARGETS, warm_start=True))
    assert "The earlier flow was trained with another `width`" in said


WRONG = {
    "no arguments": (),
    "too few": (FEATURES,),
    "too many": (FEATURES, TARGETS, TARGETS),
    "None": (None, None),
    "numbers": (1.0, 2.0),
    "words": ("x", "y"),
    "other lengths": (FEATURES[:5], TARGETS),
    "one axis": (TARGETS, TARGETS),
    "objects": (FEATURES, [object()] * 20),
    "no features": (FEATURES[:, :0], TARGETS),
    "nan": (FEATURES * float("nan"), TARGETS),
    "infinite": (FEATURES, TARGETS + float("inf")),
    "complex": (FEATURES, TARGETS * 1j),
    "huge": (FEATURES * 1e200, TARGETS),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_of_the_model(small_run, name):
    state = small_run.last_state
    assert attempt(lambda: small_run.run(KEY, *WRONG[name])) != "a result"
    assert small_run.last_state is state
    assert small_run.draw(KEY, 5).samples["beta"].shape == (5, 3)
