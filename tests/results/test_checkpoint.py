"""Files of runs: what is damaged, foreign or of another model is told by name."""

import os

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models import TINY, regression
from results.damage import damages, outcome

from numpyro_onestep import OneStep, OneStepSampler


@pytest.fixture
def path(small_run, tmp_path):
    small_run.save(tmp_path / "run")
    return tmp_path / "run"


def load(path, model=regression):
    return OneStepSampler.load(path, OneStep(model, **TINY))


def test_a_damaged_file_is_told(path, small_run):
    whole = path.read_bytes()
    for name, damaged in damages(whole):
        assert outcome(damaged, path, load)[0] == "told", name
    assert "CODE_WAS_RUN" not in os.environ
    path.write_bytes(whole)
    assert np.array_equal(load(path).get_samples()["beta"], small_run.get_samples()["beta"])


def of_another_site(x, y):
    numpyro.sample("other", dist.Normal(0, 2).expand([3]))


def of_more_sites(x, y):
    numpyro.sample("beta", dist.Normal(0, 2).expand([3]))
    numpyro.sample("other", dist.Normal())


def of_another_shape(x, y):
    numpyro.sample("beta", dist.Normal(0, 2).expand([2]))


def of_another_prior(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 3).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ beta, 1), obs=y)


def of_no_arguments():
    numpyro.sample("beta", dist.Normal(0, 2).expand([3]))


def that_fails(x, y):
    raise RuntimeError("no such table")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (of_another_site, r"lacks the sites \['other'\]"),
        (of_more_sites, r"lacks the sites \['other'\]"),
        (of_another_shape, "site 'beta'"),
        (of_another_prior, "made with another model: its log density"),
        (of_no_arguments, "takes 0 positional arguments"),
        (that_fails, "no such table"),
    ],
)
def test_another_model_is_told(path, model, said):
    with pytest.raises(ValueError, match=said) as raised:
        load(path, model)
    assert str(path) in str(raised.value)


def test_a_potential_function_does_not_take_a_models_file(path):
    with pytest.raises(ValueError, match="does not fit this model"):
        OneStepSampler.load(path, OneStep(potential_fn=lambda z: jnp.sum(z**2), **TINY))
