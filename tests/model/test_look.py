import functools

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen
from jax import random
from numpyro import handlers, infer
from numpyro.contrib.module import flax_module
from numpyro.infer.util import initialize_model

from numpyro_onestep.model import look as look_
from numpyro_onestep.model.function import ALL, REAL
from numpyro_onestep.model.initialize import setup_model
from numpyro_onestep.model.look import look

COMPILED: list[str] = []
ERROR = np.array([15.0, 10.1, 16.0])
EFFECT = np.array([28.0, 8.2, -3.0])


@pytest.fixture(scope="module", autouse=True)
def listener():
    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            COMPILED.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)


@pytest.fixture
def by_one_program(monkeypatch):
    """Whether each look from now on was one program."""
    ways = []
    way = look_._by_one_program

    def watched(*args):
        ways.append(False)
        found = way(*args)
        ways[-1] = found is not None
        return found

    monkeypatch.setattr(look_, "_by_one_program", watched)
    return ways


def schools(error, effect):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfNormal(5))
    with numpyro.plate("school", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, error), obs=effect)


def awkward(x, y):
    """A support that depends on a site, a discrete site, and a deterministic one."""
    bound = numpyro.sample("bound", dist.Gamma(8.0, 4.0))
    numpyro.deterministic("twice", 2 * numpyro.sample("below", dist.Uniform(0.0, bound)))
    choice = numpyro.sample("choice", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(x + choice, 1), obs=y)


def choosy(error, effect):
    """Half of the space has no density, so that the first random point may not do."""
    x = numpyro.sample("x", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.factor("corner", jnp.where(jnp.all(x > 0), 0.0, jnp.log(jnp.min(x))))


STRATEGIES = {
    "uniform": infer.init_to_uniform,
    "near": infer.init_to_uniform(radius=0.5),
    "median": infer.init_to_median(num_samples=7),
    "mean": infer.init_to_mean,
    "sample": infer.init_to_sample,
    "feasible": infer.init_to_feasible,
    "value": infer.init_to_value(values={"tau": 0.7, "mu": jnp.array(2.0), "below": np.array(0.4)}),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", [schools, awkward])
def test_the_start_is_that_of_numpyro(by_one_program, model, strategy):
    how = {"init_strategy": STRATEGIES[strategy]}
    expected = initialize_model(random.key(3), model, model_args=(ERROR, EFFECT), dynamic_args=True, **how)
    found = look(random.key(3), model, (ERROR, EFFECT), {}, **how)
    assert by_one_program == [True]
    assert set(found.start) == set(expected.param_info.z)
    assert list(found.sites) == list(expected.model_trace)
    for name, value in expected.param_info.z.items():
        assert np.allclose(found.start[name], value, rtol=1e-5, atol=1e-6), name
    potential = found.potential_fn_gen(ERROR, EFFECT)(found.start)
    assert np.allclose(potential, expected.param_info.potential_energy, rtol=1e-5)
    ours, theirs = (f(ERROR, EFFECT)(found.start) for f in (found.postprocess_gen, expected.postprocess_fn))
    assert jax.tree.all(jax.tree.map(np.allclose, ours, theirs))


def test_a_start_that_is_not_valid_is_not_taken(by_one_program):
    for seed in range(8):
        expected = initialize_model(random.key(seed), choosy, model_args=(ERROR, EFFECT)).param_info.z["x"]
        found = look(random.key(seed), choosy, (ERROR, EFFECT), {}, init_strategy=infer.init_to_uniform)
        assert np.allclose(found.start["x"], expected, rtol=1e-5)
        assert np.all(found.start["x"] > 0)
    assert any(by_one_program)  # NumPyro has something to say of a factor that is nan


def test_a_look_is_one_program_for_all_data_and_values_of_the_same_shape():
    def values(mu):
        return infer.init_to_value(values={"mu": mu, "x": mu})

    def model(error, effect):
        schools(error, effect)
        numpyro.sample("z", dist.Normal(2 * numpyro.sample("x", dist.Normal(0, 1)) * effect, 1), obs=error)

    setup_model(random.key(0), schools, (ERROR, EFFECT), {}, init_strategy=values(0.5))
    COMPILED.clear()
    setup_model(random.key(0), model, (ERROR, EFFECT), {}, init_strategy=values(0.5))
    assert len(COMPILED) <= 1
    COMPILED.clear()
    setup = setup_model(random.key(1), model, (2 * ERROR, EFFECT + 1), {}, init_strategy=values(1.5))
    assert COMPILED == []
    assert setup.center[0] == 1.5
    assert setup.observed[:3].tolist() == (EFFECT + 1).tolist()  # to the last of its 64 bits


def test_what_a_model_reads_elsewhere_is_seen_anew(by_one_program):
    scale = np.array(1.0)

    def model():
        numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(0, jnp.asarray(scale)), obs=scale.copy())

    def observed():
        return float(look(random.key(0), model, (), {}, init_strategy=infer.init_to_uniform).sites["y"]["value"])

    assert observed() == 1.0
    scale[()] = 2.0
    assert observed() == 2.0
    assert by_one_program == [True, True]


def must_see(error, effect):
    schools(error, effect)
    if error[0] > 1:
        numpyro.sample("more", dist.Normal(0, 1))


def with_network(error, effect):
    net = flax_module("net", linen.Dense(1), input_shape=(1,))
    numpyro.sample("x", dist.Normal(net(jnp.ones(1))[0], 1))


class Rising(dist.Distribution):
    """A user's own, which does not say what it is made of and so is not itself any more when put together again."""

    support = dist.constraints.dependent

    def __init__(self, support):
        self.support = support
        super().__init__((), (2,))

    def sample(self, key, sample_shape=()):
        return jnp.sort(random.normal(key, (*sample_shape, 2)))

    def log_prob(self, value):
        return jnp.log(2.0) + jnp.sum(dist.Normal(0, 1).log_prob(value), axis=-1)


def with_a_users_own(error, effect):
    low, high = numpyro.sample("ends", Rising(dist.constraints.ordered_vector))
    numpyro.sample("y", dist.Normal(low + high, error), obs=effect)


@pytest.mark.parametrize("model", [must_see, with_network, with_a_users_own])
def test_what_cannot_be_one_program_goes_numpyros_way(by_one_program, model):
    with jax.checking_leaks():
        found = look(random.key(0), model, (ERROR, EFFECT), {}, init_strategy=infer.init_to_uniform)
    expected = initialize_model(random.key(0), model, model_args=(ERROR, EFFECT))
    assert not any(by_one_program)
    assert found.start.keys() == expected.param_info.z.keys()
    supports = {name: site["fn"].support for name, site in found.sites.items() if site["type"] == "sample"}
    assert all(supports[name] == site["fn"].support for name, site in expected.model_trace.items() if name in supports)


OUTSIDE = dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0)


@functools.cache
def grid():
    return jnp.linspace(0.0, 1.0, 3)


def with_things_that_remember(error, effect):
    x = numpyro.sample("x", OUTSIDE)
    numpyro.sample("y", dist.Normal(x * grid(), error), obs=effect)


def test_what_is_made_elsewhere_and_remembers_what_was_computed_is_not_seen_as_changed(by_one_program):
    how = {"init_strategy": infer.init_to_uniform}
    setup = setup_model(random.key(0), with_things_that_remember, (ERROR, EFFECT), {}, **how)
    assert setup.abstract == ALL
    OUTSIDE.log_prob(0.5)
    setup.check_unchanged()
    assert np.allclose(grid(), [0, 0.5, 1])
    again = setup_model(random.key(1), with_things_that_remember, (ERROR, EFFECT), {}, **how)
    assert again.identity == setup.identity
    assert by_one_program == [True, True]


def bounded_by_data(error, effect):
    numpyro.sample("x", dist.TruncatedNormal(0, 1, high=error))


def test_bounds_are_those_of_the_data_at_hand(by_one_program):
    for scale in (1.0, 2.0):
        found = look(random.key(0), bounded_by_data, (scale * ERROR, EFFECT), {}, init_strategy=infer.init_to_uniform)
        sites = found.postprocess_gen(scale * ERROR, EFFECT)({"x": np.full(3, -3.0)})
        assert np.allclose(sites["x"], scale * ERROR - np.exp(-3), rtol=1e-5)
    assert by_one_program == [True, True]


def likelihood(distribution):
    def model(error, effect):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", distribution(mu, error), obs=effect)

    return model


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (likelihood(lambda mu, error: dist.Normal(mu, error)), ValueError, "Normal distribution got invalid scale"),
        (
            likelihood(lambda mu, error: dist.Normal(mu, error).mask(jnp.ones(3, bool)).to_event(1)),
            ValueError,
            "Normal distribution got invalid scale",
        ),
        (
            likelihood(lambda mu, error: dist.TwoSidedTruncatedDistribution(dist.Normal(0.0, error**0), 0.0, -error)),
            RuntimeError,
            "Cannot find valid initial parameters",
        ),
        (handlers.scale(likelihood(lambda mu, error: dist.Normal(mu, 1)), 1.0), None, ""),
    ],
)
def test_numpyros_checks_of_parameters_are_made(model, error, match):
    def look_at(error):
        return look(random.key(0), model, (error, EFFECT), {}, init_strategy=infer.init_to_uniform)

    if error is None:
        assert np.isfinite(look_at(ERROR).start["mu"])
        return
    with pytest.raises(error, match=match):
        look_at(ERROR * np.array([1.0, -1.0, 1.0]))


def test_numpyros_checks_of_scales_and_observed_values_are_made():
    def scaled(factor, y):
        with handlers.scale(scale=factor):
            numpyro.sample("x", dist.Normal(0, 1))

    def counted(factor, y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate).mask(factor), obs=y)

    how = {"init_strategy": infer.init_to_uniform}
    look(random.key(0), scaled, (np.array(0.5), 0.0), {}, **how)
    with pytest.raises(ValueError, match="should be positive"):
        look(random.key(0), scaled, (np.array(-0.5), 0.0), {}, **how)
    known = np.array([True, False])
    look(random.key(0), counted, (known, np.array([2.0, np.nan])), {}, **how)
    with (
        pytest.warns(UserWarning, match="Site y: Out-of-support"),
        pytest.raises(RuntimeError, match="Cannot find valid initial parameters"),
    ):
        look(random.key(0), counted, (~known, np.array([2.0, -1.0])), {}, **how)


def test_legacy_keys_and_double_use_give_the_same():
    starts = [
        look(key, schools, (ERROR, EFFECT), {}, init_strategy=infer.init_to_uniform).start["theta"]
        for key in (random.key(5), random.key(5), random.PRNGKey(5))
    ]
    assert np.array_equal(starts[0], starts[1])
    assert np.array_equal(starts[0], starts[2])


def test_no_tracer_outlives_the_look(by_one_program):
    with jax.checking_leaks():
        look(random.key(0), awkward, (ERROR, EFFECT), {}, init_strategy=infer.init_to_uniform)
    assert by_one_program == [True]


def grouped(group, x, y):
    mean = numpyro.sample("mean", dist.Normal(0, 1).expand([group.max() + 1]).to_event(1))
    numpyro.sample("y", dist.Normal(mean[group] * x, 1.0), obs=y)


def test_a_model_that_must_see_integers_need_not_see_the_rest(by_one_program):
    how = {"init_strategy": infer.init_to_uniform}
    group = np.array([0, 2, 1])
    setup = setup_model(random.key(0), grouped, (group, ERROR, EFFECT), {}, **how)
    assert by_one_program == [False, True]
    assert setup.abstract == REAL
    COMPILED.clear()
    again = setup_model(random.key(0), grouped, (group, 2 * ERROR, EFFECT), {}, **how)
    assert again.identity == setup.identity
    assert not COMPILED
    point = np.array([1.0, 2.0, 3.0])
    values = [float(s.log_density((group, x, EFFECT), {})(point)) for s, x in ((setup, ERROR), (again, 2 * ERROR))]
    expected = [np.sum(-((EFFECT - point[group] * x) ** 2) / 2) - np.sum(point**2) / 2 for x in (ERROR, 2 * ERROR)]
    assert np.allclose(np.diff(values), np.diff(expected), rtol=1e-5)
    other = setup_model(random.key(0), grouped, (group[::-1].copy(), ERROR, EFFECT), {}, **how)
    assert other.identity != setup.identity
