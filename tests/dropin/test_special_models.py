"""Models with an answer of their own: missing data, improper priors, differential equations, sites that come and go."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from jax.experimental.ode import odeint
from kernels import both, check_mean, check_moments, one_step, sampled
from numpyro import handlers
from numpyro.infer import NUTS
from numpyro.infer.reparam import CircularReparam

from numpyro_onestep import OneStepSampler, evidence


def imputed():
    shared = numpyro.sample("shared", dist.Normal(0, 1))
    with numpyro.plate("data", 4):
        known = jnp.array([True, True, False, False])
        numpyro.sample("y", dist.Normal(shared, 1), obs=jnp.array([2.0, 2.0, 0.0, 0.0]), obs_mask=known)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["NUTS", "OneStep"])
def test_obs_mask_imputes_the_missing(how):
    options = {"num_chains": 2, "chain_method": "vectorized", "num_samples": 800, "num_warmup": 80}
    if how == "NUTS":
        mcmc = sampled(NUTS(imputed), **options)
    else:  # in stock MCMC the entries without density stay so: which they are may change from run to run
        mcmc = OneStepSampler(one_step(imputed), progress_bar=False, **options)
        mcmc.run(random.key(0))
        assert mcmc.evidence.reliable
    samples = mcmc.get_samples(group_by_chain=True)
    assert np.all(samples["y"][..., :2] == 2.0)
    check_moments(samples["shared"], 4 / 3, 1 / 3)
    check_moments(samples["y"][..., 2:], np.full(2, 4 / 3), np.full(2, 4 / 3))


def improper(y):
    loc = numpyro.sample("loc", dist.Normal(0, 1).mask(False))
    scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)
    with handlers.reparam(config={"angle": CircularReparam()}):
        angle = numpyro.sample("angle", dist.VonMises(3.0, 4.0))
    numpyro.sample("x", dist.Normal(jnp.cos(angle), 1.0), obs=-1.0)


@pytest.mark.slow
@both
def test_improper_priors_and_unwrapped_angles_have_draws_but_no_evidence(kernel):
    y = 1.0 + 2.0 * np.random.default_rng(0).normal(size=30)
    mcmc = sampled(kernel(improper), y, num_warmup=80, num_samples=1000)
    samples = mcmc.get_samples(group_by_chain=True)
    check_mean(samples["loc"], y.mean())
    # with a flat prior on loc and scale, 1 / scale² is a Gamma of (n − 2) / 2
    check_mean(samples["scale"] ** -2.0, (len(y) - 2) / np.sum((y - y.mean()) ** 2))
    grid = np.linspace(-np.pi, np.pi, 20_001)
    weight = np.exp(4 * np.cos(grid - 3.0) - 0.5 * (np.cos(grid) + 1) ** 2)
    assert np.all(np.abs(samples["angle"]) <= np.pi + 1e-5)
    for wave in (np.cos, np.sin):
        check_mean(wave(samples["angle"]), np.average(wave(grid), weights=weight))
    if kernel is not NUTS:
        result = evidence(mcmc, random.key(1))
        assert np.isnan(result.log_z)
        assert not result.reliable
        assert result.warnings[0].startswith("The evidence is undefined: ")
        for words in ("'loc' is masked", "'scale' has an improper prior", "CircularReparam"):
            assert any(words in warning for warning in result.warnings), words


def with_while_loop():
    """Euler steps until time 1; reverse mode cannot go through the loop."""
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))
    step = 1 / 64
    _, y = lax.while_loop(lambda c: c[0] < 1.0, lambda c: (c[0] + step, c[1] * (1 - step * rate)), (0.0, 1.0))
    numpyro.sample("y", dist.Normal(y, 0.1), obs=0.5)


def with_odeint():
    """`jax.experimental.ode.odeint` has a reverse mode of its own, and no forward mode."""
    rate = numpyro.sample("rate", dist.HalfNormal(1.0))
    y = odeint(lambda y, t, rate: -rate * y, jnp.array(1.0), jnp.array([0.0, 1.0]), rate)[-1]
    numpyro.sample("y", dist.Normal(y, 0.1), obs=0.5)


def rate_moments():
    grid = np.linspace(1e-6, 6, 100_001)
    weight = np.exp(-0.5 * grid**2 - 0.5 * ((np.exp(-grid) - 0.5) / 0.1) ** 2)
    mean = np.average(grid, weights=weight)
    return mean, np.average((grid - mean) ** 2, weights=weight)


@pytest.mark.parametrize(
    ("kernel", "model", "options"),
    [
        pytest.param(NUTS, with_while_loop, {"forward_mode_differentiation": True}, id="NUTS-while_loop"),
        pytest.param(one_step, with_while_loop, {"forward_mode_differentiation": True}, id="OneStep-while_loop"),
        pytest.param(NUTS, with_odeint, {}, id="NUTS-odeint", marks=pytest.mark.slow),
        pytest.param(one_step, with_odeint, {}, id="OneStep-odeint", marks=pytest.mark.slow),
    ],
)
def test_differential_equations(kernel, model, options):
    mcmc = sampled(kernel(model, **options), num_warmup=80, num_samples=1000)
    mean, variance = rate_moments()
    # Euler's steps are a little off
    check_moments(mcmc.get_samples(group_by_chain=True)["rate"], mean, variance, truth_error=0.01)


def two_paths(a=None, b=None):
    """Its sites depend on which arguments are given."""
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    if a is not None:
        loc += a * numpyro.sample("slope", dist.HalfNormal(0.5))
    numpyro.sample("y", dist.Normal(loc, 1), obs=b)


@pytest.mark.slow
@both
def test_sites_may_depend_on_the_arguments(kernel):
    mcmc = sampled(kernel(two_paths), model_kwargs={"b": jnp.zeros(3)})
    assert set(mcmc.get_samples()) == {"loc"}
    mcmc.run(random.key(1), a=jnp.ones(3), b=jnp.zeros(3))
    assert set(mcmc.get_samples()) == {"loc", "slope"}


@pytest.mark.parametrize("wrap", [partial, lambda model: handlers.seed(model, 0)], ids=["partial", "seed"])
@both
def test_wrapped_models_are_initialised(kernel, wrap):
    model = wrap(two_paths)
    state = kernel(model).init(random.key(0), 0, None, (), {"b": jnp.zeros(3)})
    assert set(state.z) == {"loc"}


def badly_plated():
    loc = numpyro.sample("loc", dist.Normal(0, 1))
    with numpyro.plate("data", 10):
        numpyro.sample("y", dist.Normal(loc, 1), obs=jnp.ones((5, 10)))


@both
def test_numpyros_own_warnings_are_heard(kernel):
    with pytest.warns(UserWarning, match="Missing a plate statement"):
        kernel(badly_plated).init(random.key(0), 0, None, (), {})
    with pytest.warns(UserWarning, match="skipping initialization"):
        kernel(handlers.substitute(two_paths, data={"loc": 1.0})).init(random.key(0), 0, None, (), {"b": jnp.zeros(3)})
