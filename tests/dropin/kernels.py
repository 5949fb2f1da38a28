"""NUTS and OneStep under one signature, so that each test reads the same for both; NUTS proves the test."""

import jax
import numpy as np
import pytest
from jax import random
from models import TINY
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

from numpyro_onestep import OneStep


def one_step(model=None, **options):
    return OneStep(model, **{**TINY, **options})


KERNELS = {"NUTS": NUTS, "OneStep": one_step}
both = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def sampled(kernel, *args, key=0, extra_fields=(), init_params=None, model_kwargs=None, **options):
    """A finished run of NumPyro's own MCMC; `kernel` is a kernel object."""
    mcmc = MCMC(kernel, **{"num_warmup": 40, "num_samples": 200, "progress_bar": False, **options})
    key = random.key(key) if isinstance(key, int) else key
    mcmc.run(key, *args, extra_fields=extra_fields, init_params=init_params, **(model_kwargs or {}))
    return mcmc


def check_mean(draws, truth, truth_error=0.0, min_ess=50):
    """Means over (chains, draws) within 5 standard errors of the truth, once there are enough effective draws."""
    draws = np.asarray(draws, np.float64)
    draws = draws.reshape(*draws.shape[:2], -1)
    truth, truth_error = (np.broadcast_to(np.ravel(value), draws.shape[2:]) for value in (truth, truth_error))
    fixed = np.ptp(draws, axis=(0, 1)) < 1e-6  # the diagonal of a correlation matrix, say
    np.testing.assert_allclose(draws[0, 0, fixed], truth[fixed], atol=1e-5)
    free = draws[..., ~fixed]
    ess = effective_sample_size(free)
    assert np.all(ess > min_ess), ess
    standard_error = np.sqrt(free.var(axis=(0, 1)) / ess + truth_error[~fixed] ** 2)
    z_scores = (free.mean(axis=(0, 1)) - truth[~fixed]) / standard_error
    assert np.all(np.abs(z_scores) < 5), z_scores


def check_moments(draws, mean, variance, **options):
    """First and second moments, by `check_mean`."""
    draws, mean = np.asarray(draws, np.float64), np.asarray(mean)
    check_mean(draws, mean, **options)
    check_mean((draws - mean) ** 2, variance, **options)


def all_equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b))
