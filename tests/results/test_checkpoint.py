"""Files of runs: what is damaged, foreign or of another model is told by name."""

import os

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY, skewed
from results.damage import damages, outcome

from numpyro_onestep import OneStep, OneStepSampler


@pytest.fixture(scope="module")
def fitted():
    sampler = OneStepSampler(OneStep(skewed, **TINY), num_warmup=30, num_samples=20, num_chains=1, progress_bar=False)
    sampler.run(random.key(0))
    return sampler


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    return tmp_path / "run"


def load(path):
    return OneStepSampler.load(path, OneStep(skewed, **TINY))


def test_a_damaged_file_is_told(path):
    whole = path.read_bytes()
    for name, damaged in damages(whole):
        assert outcome(damaged, path, load)[0] == "told", name
    assert "CODE_WAS_RUN" not in os.environ
    path.write_bytes(whole)
    load(path)


def of_another_site():
    numpyro.sample("other", dist.Gamma(2.0, 1.0))


def of_more_sites():
    numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.sample("other", dist.Normal())


def of_another_shape():
    numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]))


def of_another_prior():
    rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    numpyro.sample("count", dist.Poisson(rate), obs=3)


def of_arguments(y):
    numpyro.sample("rate", dist.Gamma(2.0, y))


def that_fails():
    raise RuntimeError("no such table")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (of_another_site, r"lacks the sites \['other'\]"),
        (of_more_sites, r"lacks the sites \['other'\]"),
        (of_another_shape, "site 'rate'"),
        (of_another_prior, "made with another model: its log density"),
        (of_arguments, "missing 1 required positional argument"),
        (that_fails, "no such table"),
    ],
)
def test_another_model_is_told(path, model, said):
    with pytest.raises(ValueError, match=said) as raised:
        OneStepSampler.load(path, OneStep(model, **TINY))
    assert str(path) in str(raised.value)


def test_a_potential_function_does_not_take_a_models_file(path):
    with pytest.raises(ValueError, match="does not fit this model"):
        OneStepSampler.load(path, OneStep(potential_fn=lambda z: jnp.sum(z**2), **TINY))
