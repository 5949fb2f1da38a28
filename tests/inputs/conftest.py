import pytest
from jax import random
from models import FEATURES, TARGETS, TINY, regression

from numpyro_onestep import OneStep, OneStepSampler


@pytest.fixture(scope="session")
def fitted():
    """A small run; tests leave it as it was."""
    counts = {"num_warmup": 2, "num_samples": 20, "num_chains": 2, "progress_bar": False}
    sampler = OneStepSampler(OneStep(regression, **TINY, bridge="never"), **counts)
    sampler.run(random.key(0), FEATURES, TARGETS)
    sampler.draw(random.key(1), 5)
    return sampler
