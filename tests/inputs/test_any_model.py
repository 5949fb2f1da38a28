"""Models and data of every kind end in a result or in words; the sampler can be used afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import strategies as st
from inputs.anything import each, examples
from inputs.attempt import attempt
from jax import random
from models import TINY
from numpyro import deterministic, factor, sample

from numpyro_onestep import OneStep, OneStepSampler

COUNTS = {"num_warmup": 2, "num_samples": 20, "num_chains": 2, "progress_bar": False}
NORMAL = dist.Normal(0, 1)


def new(model):
    return OneStepSampler(OneStep(model, **TINY, bridge="never"), **COUNTS)


def use(sampler, *args):
    sampler.run(random.key(1), *args)
    return sampler.evidence, sampler.draw(random.key(2), 5), sampler.get_samples()


def branching():
    factor("f", 1.0 if sample("x", NORMAL) > 0 else 2.0)


def looping():
    x = sample("x", NORMAL)
    factor("f", jax.lax.while_loop(lambda v: v[0] < 3, lambda v: (v[0] + 1, v[1] * x), (0, x))[1])


def called_back():
    x = sample("x", NORMAL)
    factor("f", jax.pure_callback(lambda v: np.asarray(v) ** 2, jax.ShapeDtypeStruct((), jnp.float32), x))


def subsampling():
    x = sample("x", NORMAL)
    with numpyro.plate("rows", 10, subsample_size=3):
        sample("y", dist.Normal(x), obs=jnp.zeros(3))


MODELS = {
    "nothing": lambda: None,
    "observed only": lambda: sample("y", NORMAL, obs=1.0),
    "deterministic only": lambda: deterministic("y", 1.0),
    "discrete only": lambda: sample("c", dist.Bernoulli(0.5)),
    "fails": lambda: 1 / 0,
    "fails once traced": lambda: float(sample("x", NORMAL)),
    "branches": branching,
    "loops": looping,
    "calls back": called_back,
    "subsamples": subsampling,
    "a name twice": lambda: (sample("x", NORMAL), sample("x", NORMAL)),
    "no distribution": lambda: sample("x", 3.0),
    "invalid scale": lambda: sample("x", dist.Normal(0, -1.0)),
    "scale nan": lambda: sample("x", dist.Normal(0, jnp.nan)),
    "factor nan": lambda: (sample("x", NORMAL), factor("f", jnp.nan)),
    "factor inf": lambda: (sample("x", NORMAL), factor("f", jnp.inf)),
    "factor zero": lambda: (sample("x", NORMAL), factor("f", -jnp.inf)),
    "outside of the support": lambda: sample("y", dist.Poisson(jnp.exp(sample("x", NORMAL))), obs=-1),
    "a word observed": lambda: sample("y", dist.Normal(sample("x", NORMAL)), obs="x"),
    "improper": lambda: sample("x", dist.ImproperUniform(dist.constraints.real, (), ())),
    "a point": lambda: sample("x", dist.Delta(1.0)),
    "no entries": lambda: sample("x", NORMAL.expand([0])),
    "some without entries": lambda: (sample("x", NORMAL.expand([0])), sample("z", NORMAL)),
    "a needle": lambda: sample("x", dist.Normal(0, 1e-30)),
    "a plain": lambda: sample("x", dist.Normal(0, 1e30)),
    "a random density": lambda: (sample("x", NORMAL), factor("f", np.random.default_rng().normal())),
    "a sphere": lambda: sample("x", dist.ProjectedNormal(jnp.ones(3))),
    "a simplex of one": lambda: sample("x", dist.Dirichlet(jnp.ones(1))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_any_model(name):
    attempt(lambda: use(new(MODELS[name])))


def regression(x, y):
    slope, noise = sample("slope", NORMAL), sample("noise", dist.HalfNormal(1.0))
    sample("y", dist.Normal(slope * x, noise), obs=y)


TYPES = [np.float32, np.float64, np.float16, np.int32, np.uint8, bool, complex, str, object, "M8[s]", "f4,f4"]
SHAPES = [(), (0,), (1,), (3,), (3, 1), (2, 3)]
VALUES = [0.0, 1.0, np.nan, np.inf, -np.inf, 1e30, 1e300]
DATA = st.tuples(st.sampled_from(TYPES), st.sampled_from(SHAPES), st.sampled_from(VALUES), st.booleans())
OTHER = st.sampled_from([None, "x", [1.0, 2.0], {}, 3, 1e300, np.ma.masked_array(np.ones(3), [0, 1, 0]), object()])


def array(kind, shape, value, all_equal):
    """Three numbers, one of them or all the value given, in this shape and type; numbers where that cannot be."""
    numbers = np.resize([value, 0.5, -1.0] if not all_equal else [value], shape)
    try:
        return numbers.astype(kind)
    except (TypeError, ValueError, OverflowError):
        return numbers


@examples(None, 60)
@pytest.mark.filterwarnings("ignore")
def test_any_data(profile):
    x, y = np.array([-1.0, 0.0, 1.0]), np.array([-2.0, 0.3, 1.8])
    sampler = new(regression)
    kept = use(sampler, x, y)

    def check(given):
        data = [part if not isinstance(part, tuple) else array(*part) for part in given]
        if attempt(lambda: use(sampler, *data)) != "a result":
            assert sampler.draw(random.key(2), 5).log_weights.shape == (5,)

    each(profile, st.tuples(DATA | OTHER, DATA), check)
    assert np.array_equal(use(sampler, x, y)[1].log_weights, kept[1].log_weights)
