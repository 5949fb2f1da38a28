"""The first look at a model: what it says, and what it costs to be wrong."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_onestep import Check, OneStep


def regression(x, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    weights = numpyro.sample("weights", dist.Normal().expand([2]).to_event(1))
    share = numpyro.sample("share", dist.Uniform(0.0, 3.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(share + x @ weights, scale), obs=y)


@pytest.fixture(scope="module")
def found():
    return OneStep(regression).check(jnp.ones((5, 2)), jnp.arange(5.0))


def test_sites_plates_and_sizes(found):
    assert isinstance(found, Check)
    assert found.dim == 4
    assert found.latent == {
        "scale": ((), "positive"),
        "weights": ((2,), "real"),
        "share": ((), "interval 0, 3"),
    }
    assert found.plates == {"rows": 5}
    assert found.num_observed == 5
    assert found.remarks == ()
    assert 0 < found.gradient_seconds < found.seconds[0] < found.seconds[1]
    assert found.rounding < 1e-3


def test_it_prints_as_lines_with_names(found):
    names = [line.split("  ")[0] for line in str(found).splitlines()]
    assert names == ["dimensions", "latent sites", "plates", "observed values", "a gradient", "rounding", "a first run"]


def test_doubts_come_first():
    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("limit", -(x**2))

    remarks = OneStep(model).check().remarks
    assert "improper prior" in remarks[0]
    assert any("`factor`" in remark for remark in remarks)


def test_large_log_densities_are_told():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("all", -1e7 - x**2)

    found = OneStep(model).check()
    assert found.rounding > 0.5
    assert any("enable_x64" in remark for remark in found.remarks)


def test_a_potential_function_has_no_sites():
    found = OneStep(potential_fn=lambda x: jnp.sum(x**2)).check(init_params=jnp.zeros(3))
    assert (found.dim, found.latent, found.num_observed) == (3, {}, None)


def test_time_cannot_be_measured_within_a_transformation():
    with pytest.raises(RuntimeError, match="outside of `jit`"):
        jax.jit(lambda y: jnp.asarray(OneStep(regression).check(jnp.ones((5, 2)), y).dim))(jnp.arange(5.0))
