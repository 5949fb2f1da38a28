"""What NumPyro's language offers: each construct is a part of its own in one of a few models, with a known answer."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from jax import random
from kernels import KERNELS, both, check_moments, sampled
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.contrib.module import flax_module, random_flax_module, random_nnx_module
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.reparam import (
    DiscreteCosineReparam,
    ExplicitReparam,
    HaarReparam,
    LocScaleReparam,
    NeuTraReparam,
    ProjectedNormalReparam,
    TransformReparam,
)
from scipy.stats import multivariate_normal

from numpyro_onestep import OneStep, OneStepSampler, evidence

CELLS = np.array([[1.0, -2.0], [0.5, 3.0]])


def statements(data, flavour, *, options):
    """Statements of the language; each part is independent of the others."""
    with numpyro.plate("row", 2, dim=-2), numpyro.plate("column", 2, dim=-1):
        cell = numpyro.sample("cell", dist.Normal(0, 1))
        numpyro.sample("cell_obs", dist.Normal(cell, 1), obs=data["cells"])
    numpyro.deterministic("double", 2 * cell)
    numpyro.factor("tilt", numpyro.sample("tilted", dist.Normal(0, 1)))
    unseen = numpyro.sample("unseen", dist.Normal(0, 1))
    with handlers.mask(mask=False):
        numpyro.sample("masked_obs", dist.Normal(unseen, 0.1), obs=5.0)
    bound = numpyro.sample("bound", dist.Gamma(8.0, 4.0))
    numpyro.sample("below_bound", dist.Uniform(0.0, bound))
    scaled = numpyro.sample("scaled", dist.Normal(0, 1))
    with handlers.scale(scale=4.0):
        numpyro.sample("scaled_obs", dist.Normal(scaled, 1), obs=2.0)
    if flavour == "mixture" and options["enumerate"]:
        loc = numpyro.sample("loc", dist.Normal(0, 1))
        k = numpyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("mixed", dist.Normal(loc + 3 * k, 1), obs=2.0)


# p(loc | mixed) is a mixture of two Gaussians of variance 1/2
_odds = np.array([0.7, 0.3]) * np.exp(-((2.0 - np.array([0.0, 3.0])) ** 2) / 4)
_odds /= _odds.sum()
_locs = np.array([1.0, -0.5])
_LOC = float(_odds @ _locs)

STATEMENTS = {
    "plates": ("cell", CELLS / 2, 0.5),
    "deterministic": ("double", CELLS, 2.0),
    "factor": ("tilted", 1.0, 1.0),
    "mask": ("unseen", 0.0, 1.0),
    "dynamic support": ("below_bound", 1.0, (8 * 9 / 16) / 3 - 1),
    "scale": ("scaled", 8 / 5, 1 / 5),
    "enumerated": ("loc", _LOC, float(_odds @ (_locs - _LOC) ** 2 + 0.5)),
}


class Affine(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1)(x)


NNX_AFFINE = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
SERIES = np.array([1.0, 2.0])


def programs():
    """Control flow, reparametrisations, networks and handlers; again independent parts."""

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(0.5 * x, 1))
        numpyro.sample("series", dist.Normal(x, 1), obs=y)
        return x, None

    scan(transition, 0.0, SERIES)
    numpyro.sample("many", dist.Normal(1, 2), sample_shape=(2,))
    numpyro.sample("none", dist.Normal(0, 1), sample_shape=(0,))
    with handlers.scope(prefix="scoped", divider="/"):
        numpyro.sample("inner", dist.Normal(-1, 1))

    def low(_):
        numpyro.sample("branch", dist.Normal(3.0, 1.0))

    def high(_):
        numpyro.sample("branch", dist.Normal(-3.0, 1.0))

    cond(jnp.array(True), low, high, None)

    centre = numpyro.sample("centre", dist.Normal(0, 1))
    affine = dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(1.0, 2.0))
    with handlers.reparam(config={"effect": LocScaleReparam(0), "moved": TransformReparam()}):
        effect = numpyro.sample("effect", dist.Normal(centre, 1))
        numpyro.sample("moved", affine)
    numpyro.sample("effect_obs", dist.Normal(effect, 1), obs=1.0)

    for name, net in (
        ("linen", random_flax_module("linen", Affine(), dist.Normal(0, 1), input_shape=(1,))),
        ("nnx", random_nnx_module("nnx", NNX_AFFINE, dist.Normal(0, 1))),
    ):
        output = numpyro.deterministic(f"{name}_output", net(jnp.ones(1))[0])
        numpyro.sample(f"{name}_obs", dist.Normal(output, 1), obs=1.0)

    numpyro.sample("child_of_lifted", dist.Normal(numpyro.param("lifted", 0.0), 1))
    for name in ("conditioned", "done"):
        parent = numpyro.sample(name, dist.Normal(0, 1))
        numpyro.sample(f"child_of_{name}", dist.Normal(parent, 1))


def coordinates():
    """The other reparametrisations, and a network whose weights are not sampled."""
    config = {
        "explicit": ExplicitReparam(dist.transforms.AffineTransform(1.0, 2.0)),
        "haar": HaarReparam(dim=-1),
        "direction": ProjectedNormalReparam(),
    }
    with handlers.reparam(config=config):
        numpyro.sample("explicit", dist.Normal(1, 2))
        numpyro.sample("haar", dist.Normal(jnp.arange(4.0), 2).to_event(1))
        numpyro.sample("direction", dist.ProjectedNormal(jnp.zeros(2)))
    net = flax_module("net", linen.Dense(1, kernel_init=linen.initializers.ones), input_shape=(1,))
    numpyro.sample("around_net", dist.Normal(net(3 * jnp.ones(1))[0], 1))


COORDINATES = {
    "ExplicitReparam": ("explicit", 1.0, 4.0),
    "HaarReparam": ("haar", np.arange(4), 4.0),
    "ProjectedNormalReparam": ("direction", 0.0, 0.5),
    "flax_module": ("around_net", 3.0, 1.0),
}

# precision of (x1, x2): prior x1 ~ N(0, 1), x2 ~ N(x1/2, 1), and one unit-noise observation of each
_precision = np.array([[2.25, -0.5], [-0.5, 2.0]])

PROGRAMS = {
    "sample_shape": ("many", 1.0, 4.0),
    "scope": ("scoped/inner", -1.0, 1.0),
    "scan": ("x", np.linalg.solve(_precision, SERIES), np.diag(np.linalg.inv(_precision))),
    "cond": ("branch", 3.0, 1.0),
    "LocScaleReparam": ("effect", 2 / 3, 2 / 3),
    "TransformReparam": ("moved", 1.0, 4.0),
    "random_flax_module": ("linen_output", 2 / 3, 2 / 3),
    "random_nnx_module": ("nnx_output", 2 / 3, 2 / 3),
    "lift": ("child_of_lifted", 2.0, 2.0),
    "condition": ("child_of_conditioned", 3.0, 1.0),
    "do": ("child_of_done", -2.0, 1.0),
}

handled = handlers.lift(programs, prior={"lifted": dist.Normal(2, 1)})
handled = handlers.condition(handlers.do(handled, data={"done": -2.0}), data={"conditioned": 3.0})
MODELS = {
    "statements": (statements, ({"cells": CELLS}, "mixture"), {"options": {"enumerate": True}}, STATEMENTS),
    "programs": (handled, (), {}, PROGRAMS),
    "coordinates": (coordinates, (), {}, COORDINATES),
}


@pytest.fixture(scope="module")
def runs():
    """One run for each kernel and model, made when it is first asked for."""
    made = {}

    def run(kernel, name):
        if (kernel, name) not in made:
            model, args, kwargs, _ = MODELS[name]
            more = {"num_chains": 2, "chain_method": "vectorized", "num_samples": 800, "num_warmup": 80}
            made[kernel, name] = sampled(KERNELS[kernel](model), *args, model_kwargs=kwargs, **more)
        return made[kernel, name]

    return run


@pytest.mark.parametrize(("model", "part"), [(model, part) for model in MODELS for part in MODELS[model][-1]])
@pytest.mark.parametrize("kernel", KERNELS)
def test_part(runs, kernel, model, part):
    site, mean, variance = MODELS[model][-1][part]
    samples = runs(kernel, model).get_samples(group_by_chain=True)
    draws = samples[site]
    mean, variance = (np.broadcast_to(value, draws.shape[2:]) for value in (mean, variance))
    check_moments(draws, mean, variance)


@pytest.mark.slow
def test_a_module_of_hundreds_of_weights():
    def model(x, y):
        net = random_nnx_module("net", nnx.Linear(400, 1, use_bias=False, rngs=nnx.Rngs(0)), dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(net(x)[..., 0], 0.5), obs=y)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 400)) / 20
    y = x @ rng.normal(size=400) + 0.5 * rng.normal(size=100)
    sampler = OneStepSampler(OneStep(model), num_samples=500, progress_bar=False)
    sampler.run(random.key(0), x, y)
    precision = np.eye(400) + 4 * x.T @ x
    weights = sampler.get_samples(group_by_chain=True)["net/kernel"][..., 0]
    check_moments(weights, np.linalg.solve(precision, 4 * x.T @ y), np.diag(np.linalg.inv(precision)))
    log_z = multivariate_normal(np.zeros(100), x @ x.T + 0.25 * np.eye(100)).logpdf(y)
    assert abs(sampler.evidence.log_z - log_z) < max(0.05, 3 * sampler.evidence.std_error)
    assert sampler.evidence.reliable


@both
def test_a_cosine_transform(kernel):
    def model():
        with handlers.reparam(config={"x": DiscreteCosineReparam(dim=-1)}):
            numpyro.sample("x", dist.Normal(jnp.arange(4.0), 2).to_event(1))

    mcmc = sampled(kernel(model), num_samples=1000, num_warmup=80)
    check_moments(mcmc.get_samples(group_by_chain=True)["x"], np.arange(4), 4.0)


@both
def test_the_space_of_a_guide(kernel):
    def model():
        numpyro.sample("x", dist.Normal(2, 3))

    guide = AutoDiagonalNormal(model, init_scale=1.0)
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    params = svi.get_params(svi.init(random.key(0)))
    mcmc = sampled(kernel(NeuTraReparam(guide, params).reparam(model)), num_samples=1000, num_warmup=80)
    check_moments(mcmc.get_samples(group_by_chain=True)["x"], 2.0, 9.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_names_and_shapes(runs, kernel):
    samples = runs(kernel, "statements").get_samples()
    assert np.all(samples["below_bound"] < samples["bound"])
    assert "k" not in samples
    samples = runs(kernel, "programs").get_samples()
    assert samples["none"].shape == (1600, 0)
    assert samples["x"].shape == (1600, 2)
    assert {"effect", "effect_decentered", "moved", "moved_base", "lifted", "nnx/kernel"} <= set(samples)
    assert "conditioned" not in samples


@pytest.mark.parametrize("kernel", KERNELS)
def test_discrete_sites_are_inferred_afterwards(runs, kernel):
    model, args, kwargs, _ = MODELS["statements"]
    predict = Predictive(model, runs(kernel, "statements").get_samples(), infer_discrete=True, parallel=True)
    k = np.asarray(predict(random.key(1), *args, **kwargs)["k"], float)
    assert abs(k.mean() - _odds[1]) < 5 * np.sqrt(_odds[0] * _odds[1] / 400)


def test_the_evidence_says_what_it_is_not(runs):
    result = evidence(runs("OneStep", "statements"), random.key(1))
    assert np.isnan(result.log_z)
    assert not result.reliable
    assert any("scaled_obs" in warning and "handlers.scale" in warning for warning in result.warnings)
    assert any("tilt" in warning for warning in result.warnings)
