"""Composite kernels of NumPyro given a OneStep kernel: they refuse at construction, and say why."""

import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from kernels import sampled
from models import TINY
from numpyro.contrib.stochastic_support.dcc import DCC
from numpyro.infer import HMC, HMCECS, NUTS, CustomGibbs, DiscreteHMCGibbs, Gibbs, HMCGibbs, MixedHMC

from numpyro_onestep import OneStep


def model():
    k = numpyro.sample("k", dist.Bernoulli(0.3))
    x = numpyro.sample("x", dist.Normal(k, 1))
    numpyro.sample("y", dist.Normal(x, 1), obs=0.5)


def update_k(rng_key, gibbs_sites, hmc_sites):
    return {"k": dist.Bernoulli(0.3).sample(rng_key)}


WRAPPERS = {
    "HMCGibbs": (lambda kernel: HMCGibbs(kernel, update_k, ["k"]), NUTS, "HMC or NUTS"),
    "DiscreteHMCGibbs": (DiscreteHMCGibbs, NUTS, "HMC or NUTS"),
    "HMCECS": (HMCECS, NUTS, "HMC or NUTS"),
    "MixedHMC": (MixedHMC, HMC, "must be an HMC"),
    "Gibbs": (lambda kernel: Gibbs([(CustomGibbs(update_k), ["k"]), (kernel, None)]), NUTS, "OneStep.*refresh"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_refuses(name):
    wrap, accepted, message = WRAPPERS[name]
    assert wrap(accepted(model)).sample_field == "z"
    with pytest.raises(ValueError, match=message):
        wrap(OneStep(model))


def branching():
    k = numpyro.sample("k", dist.Bernoulli(0.5), infer={"branching": True})
    loc = numpyro.sample("low", dist.Normal(0, 1)) if k == 0 else numpyro.sample("high", dist.Normal(1, 1))
    numpyro.sample("y", dist.Normal(loc, 1), obs=0.5)


class TinyOneStep(OneStep):
    def __init__(self, model):
        super().__init__(model, **TINY)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS, TinyOneStep], ids=["NUTS", "OneStep"])
def test_branches_of_a_program(kernel):
    options = {"num_warmup": 40, "num_samples": 300, "progress_bar": False}
    result = DCC(branching, options, kernel_cls=kernel, num_slp_samples=50).run(random.key(0))
    # by symmetry both branches are equally likely
    assert sorted(float(weight) for weight in result.slp_weights.values()) == pytest.approx([0.5, 0.5], abs=0.1)
    names = {name for samples in result.samples.values() for name in samples}
    assert {"low", "high"} <= names


def test_unmarked_discrete_sites_are_enumerated_as_by_nuts():
    for kernel in (NUTS(model), OneStep(model, **TINY)):
        with pytest.warns(FutureWarning, match="enumerated sites"):
            kernel.init(random.key(0), 0, None, (), {})


def nothing():
    numpyro.sample("y", dist.Normal(0, 1), obs=0.0)


def test_a_model_with_nothing_to_sample():
    assert sampled(NUTS(nothing), num_warmup=2, num_samples=2).get_samples() == {}
    with pytest.raises(ValueError, match="no continuous latent sites"):
        sampled(OneStep(nothing), num_warmup=2, num_samples=2)
