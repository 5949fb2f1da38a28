"""Every support that NUTS can sample: moments against direct draws, and the prior's evidence, which is 1.

A normalised prior without observations is its own posterior. Sites are batched into three models.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from kernels import KERNELS, check_moments, one_step, sampled
from numpyro.distributions import transforms
from numpyro.infer import NUTS
from numpyro.infer.reparam import ProjectedNormalReparam

from numpyro_onestep import OneStep, evidence


def normal(dim, *parts):
    return dist.TransformedDistribution(dist.Normal(0, 0.5).expand([dim]).to_event(1), list(parts))


SCALARS = {
    "real": dist.StudentT(10, 1.0, 2.0),
    "positive": dist.Gamma(3.0, 2.0),
    "softplus_positive": dist.TransformedDistribution(dist.Normal(0, 1), transforms.SoftplusTransform()),
    "unit_interval": dist.Beta(2.0, 3.0),
    "interval": dist.Uniform(-1.0, 2.0),
    "truncated to an interval": dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0),
    "greater_than": dist.TruncatedNormal(0.0, 1.0, low=1.0),
    "less_than": dist.TruncatedNormal(0.0, 1.0, high=-1.0),
    "greater_than, Pareto": dist.Pareto(2.0, 12.0),
    "circular": dist.VonMises(0.5, 4.0),
    "independent": dist.Uniform(jnp.zeros(2), jnp.array([1.0, 9.0])).to_event(1),
}
VECTORS = {
    "real_vector": dist.MultivariateNormal(jnp.ones(2), jnp.array([[2.0, 1.0], [1.0, 1.0]])),
    "simplex": dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])),
    "simplex of one": dist.Dirichlet(jnp.ones(1)),
    "ordered_vector": normal(2, transforms.OrderedTransform()),
    "positive_ordered_vector": normal(2, transforms.OrderedTransform(), transforms.ExpTransform()),
    "l1_ball": normal(2, transforms.L1BallTransform()),
    "zero_sum": dist.ZeroSumNormal(1.0, (3,)),
    "cat": normal(3, transforms.CatTransform([transforms.ExpTransform(), transforms.IdentityTransform()], -1, (1, 2))),
}
MATRICES = {
    "real_matrix": dist.MatrixNormal(jnp.ones((2, 1)), jnp.eye(2), jnp.eye(1)),
    "corr_cholesky": dist.LKJCholesky(2, 2.0),
    "corr_matrix": dist.LKJ(2, 2.0),
    "lower_cholesky": dist.WishartCholesky(8.0, scale_tril=0.3 * jnp.eye(2)),
    "positive_definite": dist.Wishart(8.0, scale_tril=0.3 * jnp.eye(2)),
    "scaled_unit_lower_cholesky": normal(3, transforms.ScaledUnitLowerCholeskyTransform()),
    "softplus_lower_cholesky": normal(3, transforms.SoftplusLowerCholeskyTransform()),
}
GROUPS = {"scalars": SCALARS, "vectors": VECTORS, "matrices": MATRICES}


def priors(group):
    for name, prior in GROUPS[group].items():
        numpyro.sample(name, prior)


@pytest.fixture(scope="module")
def runs():
    """One run for each kernel and group, made when it is first asked for."""
    made = {}

    def run(kernel, group):
        if (kernel, group) not in made:
            options = {"width": 32, "batch_size": 64} if kernel == "OneStep" else {}
            more = {"num_chains": 2, "chain_method": "vectorized", "num_samples": 800, "num_warmup": 80}
            made[kernel, group] = sampled(KERNELS[kernel](priors, **options), group, **more)
        return made[kernel, group]

    return run


def slow_if_long(group, *more):
    return pytest.param(group, *more, marks=[pytest.mark.slow] * (group != "scalars"))


@pytest.mark.parametrize(("group", "name"), [slow_if_long(group, name) for group in GROUPS for name in GROUPS[group]])
@pytest.mark.parametrize("kernel", KERNELS)
def test_support(runs, kernel, group, name):
    prior = GROUPS[group][name]
    draws = runs(kernel, group).get_samples(group_by_chain=True)[name]
    assert draws.shape == (2, 800, *prior.shape())
    assert np.all(prior.support(draws))
    direct = np.asarray(prior.sample(random.key(7), (40_000,)), np.float64)
    error = np.std((direct - direct.mean(0)) ** 2, axis=0).max() / np.sqrt(40_000)
    check_moments(draws, direct.mean(0), direct.var(0), truth_error=error)


@pytest.mark.parametrize("group", [slow_if_long(group) for group in GROUPS])
def test_a_prior_has_evidence_one(runs, group):
    result = evidence(runs("OneStep", group), random.key(1))
    assert abs(result.log_z) < 5 * result.std_error + 1e-3
    assert result.std_error < 0.05
    assert result.ess > 0.2 * result.num_proposals


def on_the_sphere(reparam):
    config = {"x": ProjectedNormalReparam()} if reparam else {}
    with numpyro.handlers.reparam(config=config):
        x = numpyro.sample("x", dist.ProjectedNormal(jnp.array([1.0, 1.0])))
    numpyro.sample("y", dist.Normal(x[0], 1.0), obs=0.5)


def test_the_sphere_needs_a_reparametrisation():
    for kernel in (NUTS(on_the_sphere), OneStep(on_the_sphere)):
        with pytest.raises((NotImplementedError, ValueError), match="spherical sample site"):
            sampled(kernel, False, num_warmup=2, num_samples=2)


def test_a_reparametrised_sphere_is_initialised():
    for kernel in (NUTS(on_the_sphere), one_step(on_the_sphere)):
        state = kernel.init(random.key(0), 0, None, (True,), {})
        assert np.shape(state.z["x_normal"]) == (2,)
        draw = kernel.postprocess_fn((True,), {})(state.z)["x"]
        assert np.linalg.norm(draw) == pytest.approx(1.0, abs=1e-5)
