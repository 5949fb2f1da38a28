"""What an estimate makes of its weights, sound ones and all sorts of broken ones."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.draws.proposal import Proposals, propose, undefined_share
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.trust.estimate import estimate

INF, NAN = np.inf, np.nan


def weighed(log_w):
    """Proposals of which nothing matters but the weights."""
    num = len(log_w)
    return Proposals(np.zeros((num, 1)), np.asarray(log_w), np.zeros(num), np.zeros(num, bool), np.zeros((num, 1)))


def test_a_flow_below_the_upper_bound_is_told():
    proposals = weighed(np.random.default_rng(0).normal(0, 0.1, 4096))
    around = np.random.default_rng(1).normal(0.02, 0.1, 384)
    fine = estimate([proposals], log_ratios=around)
    assert fine.reliable
    assert fine.elbo < fine.log_z < fine.eubo
    lost = estimate([proposals], log_ratios=np.where(np.arange(384) < 20, 30.0, around))
    assert not lost.reliable
    assert "upper bound" in lost.warnings[0]
    # one flow whose tempering did not arrive does not hide what another one's tells
    both = estimate([proposals], log_ratios=np.concatenate([np.full(384, np.nan), around + 20]))
    assert not both.reliable
    # draws of one family, all in the same mode of many, count as one draw
    one = {"log_ratios": around + 0.4, "families": np.zeros(384)}
    assert not estimate([proposals], log_ratios=one["log_ratios"]).reliable
    assert estimate([proposals], **one).reliable
    assert not estimate([proposals], **one | {"log_ratios": around + 5}).reliable
    unknown = estimate([proposals], log_ratios=np.full(384, np.nan))
    assert np.isnan(unknown.eubo)
    assert unknown.warnings[0].startswith("note: there is no upper bound")
    beyond = estimate([proposals], log_ratios=np.where(np.arange(384) < 20, np.inf, around))
    assert not beyond.reliable
    assert "carried back" in beyond.warnings[0]
    assert np.isfinite(beyond.eubo)


def test_a_heavy_tail_passes_only_under_an_upper_bound():
    # a tenth of the mass in a Gaussian four times as wide, in ten dimensions, seen from the narrow one
    dim, mass, scale = 10, 0.1, 4.0
    rng = np.random.default_rng(3)

    def log_ratio(x):
        wide = -0.5 * np.sum(x**2, axis=1) / scale**2 - dim * np.log(scale)
        narrow = -0.5 * np.sum(x**2, axis=1)
        return np.logaddexp(np.log1p(-mass) + narrow, np.log(mass) + wide) - narrow

    missed = weighed(log_ratio(rng.normal(size=(4096, dim))))
    draws = rng.normal(size=(384, dim)) * np.where(rng.uniform(size=(384, 1)) < mass, scale, 1.0)
    for ratios in (None, np.full(384, np.nan), log_ratio(draws)):
        result = estimate([missed], log_ratios=ratios)
        assert result.pareto_k > 0.7
        assert not result.reliable

    # a tail of the same shape that holds next to nothing, which the other draws confirm
    negligible = weighed(1e-4 * (1 - rng.uniform(size=4096)) ** -0.9)
    bound = rng.normal(float(np.mean(negligible.log_weights)), 0.01, 384)
    result = estimate([negligible], log_ratios=bound)
    assert result.pareto_k > 0.7
    assert result.reliable
    assert result.warnings[0].startswith("note: Pareto k")
    # but not draws of a few families
    assert not estimate([negligible], log_ratios=bound, families=np.arange(384) % 12).reliable
    assert result.std_error > 10 * estimate([weighed(np.zeros(4096))]).std_error + 1e-3
    assert not estimate([negligible]).reliable


def test_one_far_draw_does_not_count_as_lost_digits():
    log_w = np.random.default_rng(0).normal(0, 0.1, 4096)
    log_w[0] = -1.5e5
    assert estimate([weighed(log_w)]).reliable
    assert "rounding" in estimate([weighed(log_w + 3e5)]).warnings[-1]


def with_one(value):
    log_w = np.random.default_rng(0).normal(0, 0.1, 4096)
    log_w[7] = value
    return log_w


def test_one_weight_that_is_nan_is_a_point_where_the_map_is_not_invertible():
    e = estimate([weighed(with_one(NAN))])
    assert e.log_z == pytest.approx(0.005, abs=0.01)
    assert not e.reliable
    assert e.fold_fraction == 1 / 4096
    assert "not invertible at 0.02 %" in e.warnings[0]


@pytest.mark.parametrize(
    ("log_w", "log_z"),
    [
        (with_one(INF), INF),
        (np.full(4096, NAN), -INF),
        (np.full(4096, -INF), -INF),
        (np.full(4096, INF), INF),
        (np.where(np.arange(4096) == 7, 0.0, -INF), -np.log(4096)),
        (np.where(np.arange(4096) == 7, 0.0, NAN), -np.log(4096)),
        (np.where(np.arange(4096) % 2, NAN, INF), INF),
        (np.zeros(1), 0.0),
        (np.full(1, NAN), -INF),
    ],
    ids=["one inf", "nan", "-inf", "inf", "one finite", "one not nan", "nan and inf", "a single one", "a single nan"],
)
def test_weights_that_say_nothing_are_refused_in_words(log_w, log_z):
    e = estimate([weighed(log_w)], log_ratios=np.zeros(10))
    assert e.log_z == pytest.approx(log_z)
    assert not e.reliable
    assert e.warnings


@pytest.mark.parametrize("log_w", [with_one(-INF), np.full(4096, 3.0), np.full(4096, -1e-3)])
def test_sound_weights_are_believed(log_w):
    e = estimate([weighed(log_w)])
    assert e.reliable, e.warnings
    assert e.log_z == pytest.approx(np.mean(log_w[np.isfinite(log_w)]), abs=0.01)
    assert np.isfinite(e.elbo)


@pytest.mark.parametrize("beyond", [-INF, NAN, INF])
def test_a_density_of_zero_costs_draws_and_one_that_is_unknown_belief(beyond):
    def log_density(x):
        return jnp.where(x[0] < 1.5, -0.5 * jnp.sum(x**2), beyond)

    base = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))
    network = StepNetwork(2, num_blocks=1, width=4, rng_key=random.key(0), identity=True)
    flow = Flow(network, Problem(base, safe_log_density(log_density)))
    proposals = propose(flow, random.key(1), 4096, 1)
    undefined = undefined_share(flow, proposals)
    e = estimate([proposals], undefined=undefined)
    # Φ(1.5) = .9332
    assert abs(e.log_z - np.log(2 * np.pi * 0.93319)) < 5 * e.std_error
    lost = np.mean(~np.isfinite(np.asarray(proposals.log_weights)))
    assert lost == pytest.approx(0.0668, abs=0.02)
    assert e.reliable == (beyond == -INF)
    if e.reliable:
        assert undefined == 0
        assert e.warnings[0].startswith(f"note: {100 * lost:.1f} % of the proposals end where the density is zero")
        assert e.elbo == pytest.approx(np.log(2 * np.pi * 0.93319), abs=0.03)
    else:
        assert undefined == lost
        assert "the density cannot be computed" in e.warnings[0]
