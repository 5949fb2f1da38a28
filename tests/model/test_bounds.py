import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from models import TINY
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.infer import MCMC, init_to_uniform, init_to_value

from numpyro_onestep import FlowDistribution, OneStep, OneStepSampler
from numpyro_onestep.model.bounds import bounds_move
from numpyro_onestep.model.initialize import setup_model


def below(a):
    return numpyro.sample("b", dist.Uniform(0, 1 - a).expand([2]).to_event(1))


def above(a):
    return numpyro.sample("b", dist.TruncatedNormal(0.0, 1.0, low=a).expand([2]).to_event(1))


def one_sided(a):
    return numpyro.sample("b", dist.TruncatedNormal(jnp.zeros(2), 1.0, high=1 - a).to_event(1))


def improper(a):
    return numpyro.sample("b", dist.ImproperUniform(constraints.interval(0, 1 - a), (), (2,)))


def in_a_plate(a):
    with numpyro.plate("two", 2):
        return numpyro.sample("b", dist.Uniform(0, 1 - a))


def in_a_scan(a):
    def step(last, _):
        b = numpyro.sample("b", dist.Uniform(0, last).expand([1]).to_event(1))[0]
        return b, b

    return scan(step, 1 - a, None, length=2)[1][:, None]


def masked(a):
    return numpyro.sample("b", dist.Uniform(0, 1 - a).expand([2]).mask(jnp.array([True, True])).to_event(1))


MOVING = [below, above, one_sided, improper, in_a_plate, in_a_scan, masked]


def of(bounded):
    def model():
        bounded(numpyro.sample("a", dist.Uniform(0, 1)))

    return model


def setup_of(model, strategy=init_to_uniform):
    return setup_model(random.key(0), model, (), {}, init_strategy=strategy)


@pytest.mark.parametrize("bounded", MOVING)
@pytest.mark.parametrize("strategy", [init_to_uniform, init_to_value(values={"a": 0.5})], ids=["uniform", "value"])
def test_constrained_values_keep_to_bounds_that_move(bounded, strategy):
    setup = setup_of(of(bounded), strategy)
    for z in 2 * np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32):
        sites = jax.jit(setup.constrain((), {}))(z)
        a, rest = jax.nn.sigmoid(z[0]), z[1:]
        share = jax.nn.sigmoid(rest)
        expected = {
            above: a + jnp.exp(rest),
            one_sided: 1 - a - jnp.exp(rest),
            in_a_scan: (1 - a) * jnp.cumprod(share),
        }.get(bounded, (1 - a) * share)
        np.testing.assert_allclose(sites["a"], a, rtol=1e-5)
        np.testing.assert_allclose(np.ravel(sites["b"]), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("bounded", [below, in_a_scan])
def test_the_density_has_the_same_bounds(bounded):
    setup = setup_of(of(bounded))
    z = jnp.array([1.0, -0.5, 2.0])
    # uniform below its bound wherever that is: the logistic density of each coordinate
    expected = jnp.sum(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z))
    assert float(setup.log_density((), {})(z)) == pytest.approx(float(expected), abs=1e-4)


def fixed():
    numpyro.sample("a", dist.Uniform(0, 1))
    numpyro.sample("b", dist.TruncatedNormal(0.0, 1.0, low=0.5).expand([2]).to_event(1))
    numpyro.sample("c", dist.Uniform(0, np.array([1.0, 2.0])).to_event(1))
    numpyro.sample("d", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("e", dist.LKJCholesky(2, 1.0))


def test_only_bounds_that_move_are_computed_anew():
    def moves(model, values):
        trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()
        potential = lambda values: numpyro.infer.util.potential_energy(model, (), {}, values)  # noqa: E731
        return bounds_move(trace, potential, values)

    unconstrained = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    assert moves(of(below), unconstrained)
    more = {"c": jnp.zeros(2), "d": jnp.zeros(2), "e": jnp.zeros(1)}
    assert not moves(fixed, unconstrained | more)


@pytest.mark.parametrize("stock", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["OneStepSampler", "MCMC"])
def test_draws_keep_to_bounds_that_move(stock):
    options = {"num_warmup": 60, "num_samples": 2000, "num_chains": 1, "progress_bar": False}
    sampler = (MCMC if stock else OneStepSampler)(OneStep(of(below), **TINY), **options)
    sampler.run(random.key(0))
    flow = FlowDistribution(sampler)
    draws = sampler.get_samples()
    # E b = E (1 − a) / 2; half of the draws count as independent
    assert abs(np.mean(draws["b"]) - 0.25) < 5 * np.std(np.mean(draws["b"], axis=1)) / np.sqrt(1000)
    for found in (draws, flow.constrain(flow.sample(random.key(1), (2000,)))):
        assert np.all(np.asarray(found["b"]) <= 1 - np.asarray(found["a"])[:, None])
    if not stock:
        e = sampler.evidence
        assert abs(e.log_z) < 5 * e.std_error + 1e-4
