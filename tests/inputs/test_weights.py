"""Weights of every kind end in a number or in words: not a number, infinite, zero, equal, a single one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep import Evidence, compare
from numpyro_onestep.bridge.clouds import Clouds
from numpyro_onestep.bridge.crossing import Crossing
from numpyro_onestep.bridge.hamiltonian import Point
from numpyro_onestep.draws import metropolis, weights
from numpyro_onestep.draws.chains import collect
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.trust import checks
from numpyro_onestep.trust.bridged import estimate_bridged
from numpyro_onestep.trust.estimate import estimate

INF, NAN = np.inf, np.nan
NORMAL = np.random.default_rng(0).normal(size=400)
SPECIAL = {"nan": NAN, "inf": INF, "zero": -INF, "huge": 1e300, "tiny": -1e300, "float32": 3e38}
WEIGHTS = {
    **{f"one {name}": np.append(NORMAL, value) for name, value in SPECIAL.items()},
    **{f"all {name}": np.full(400, value) for name, value in SPECIAL.items()},
    **{f"half {name}": np.where(np.arange(400) % 2, value, NORMAL) for name, value in SPECIAL.items()},
    **{f"all but one {name}": np.append(np.full(400, value), 0.0) for name, value in SPECIAL.items()},
    **{f"a single {name}": np.array([value]) for name, value in SPECIAL.items()},
    "all kinds": np.array([*SPECIAL.values(), 0.0]),
    "equal": np.full(400, -5.0),
    "nearly equal": -5.0 + 1e-7 * NORMAL,
    "a single one": np.array([-5.0]),
    "two": np.array([0.0, 1.0]),
    "normal": NORMAL,
}


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, on its way to nan


def of(log_w):
    none = np.zeros((len(log_w), 1))
    return Proposals(none, log_w, none[:, 0], none[:, 0] > 0, none)


def is_sound(e):
    """Fields that are numbers, or nan and infinite only where words say why; it can be shown."""
    assert isinstance(e, Evidence)
    assert all(isinstance(value, int | float | bool | tuple) for value in e)
    assert e.reliable == (not [said for said in e.warnings if not said.startswith("note")])
    if not (np.isfinite(e.log_z) and np.isfinite(e.std_error)):
        assert not e.reliable
    assert str(e)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_weights(name, dtype):
    with np.errstate(over="ignore"):
        log_w = WEIGHTS[name].astype(dtype)
    num = len(log_w)
    assert 0 <= weights.effective_sample_size(log_w) <= num * (1 + 1e-9)
    log_z, error = weights.log_mean_weight(log_w)
    assert not np.isnan(log_z)
    assert error >= 0
    k = weights.pareto_k(log_w)
    assert not np.isnan(k)
    assert weights.tail_error(log_w, k) >= 0
    assert weights.unseen_error(log_w, k) >= 0
    assert checks.rounding(log_w) >= 0
    for replicates in ([of(log_w)], [of(log_w), of(log_w[::-1])], [of(log_w), of(np.zeros(num))]):
        is_sound(estimate(replicates))
    is_sound(estimate([of(log_w)], log_ratios=log_w, families=np.zeros(num)))
    is_sound(estimate([of(NORMAL)], log_ratios=log_w))
    is_sound(estimate([of(log_w)], of_map=NORMAL, num_evaluations=8))
    is_sound(estimate([of(NORMAL)], of_map=log_w, num_evaluations=8))


def crossing(log_w):
    """A bridge each of whose weights are these."""
    rows = np.tile(log_w, (8, 1))
    zero = np.zeros_like(rows)
    clouds = Clouds(
        at=Point(zero, rows, zero, zero, zero),
        log_z=np.resize(log_w, 8),
        ancestors=np.tile(np.arange(len(log_w)), (8, 1)),
        annealing=np.array(1.0),
        log_angle=np.array(-1.0),
        accept_prob=np.array(0.8),
        num_rounds=np.array(3),
        temperatures=np.ones(60),
        log_angles=np.zeros(60),
        first_weights=rows,
        log_weights=np.tile(log_w, (60, 8, 1)),
        log_ratios=np.tile(np.resize(log_w, 8), (60, 1)),
    )
    return Crossing(clouds, np.resize(log_w, 8))


@pytest.mark.parametrize("name", WEIGHTS)
def test_any_weights_of_a_bridge(name):
    for alone in (NORMAL, WEIGHTS[name]):
        is_sound(estimate_bridged([crossing(WEIGHTS[name])], estimate([of(alone)])))
    is_sound(
        estimate_bridged([crossing(WEIGHTS[name]), crossing(np.zeros_like(WEIGHTS[name]))], estimate([of(NORMAL)]))
    )


@pytest.mark.parametrize("size", [1, 7, 400])
def test_any_weights_of_a_chain(size):
    run = jax.jit(metropolis.chain)
    for name, values in WEIGHTS.items():
        log_w = jnp.asarray(np.resize(values, size), jnp.float32)
        held, accept_prob = map(np.asarray, run(random.key(0), log_w))
        assert np.all((held >= 0) & (held < size)), name
        assert np.all((accept_prob >= 0) & (accept_prob <= 1)), name
        picked = np.asarray(weights.resample(random.key(0), log_w, 20))
        assert np.all((picked >= 0) & (picked < size)), name


@pytest.mark.parametrize("correction", ["metropolis", "resample", "none"])
def test_any_weights_of_draws(correction):
    for name, values in WEIGHTS.items():
        log_w = jnp.asarray(np.resize(values, 80), jnp.float32)
        shape = (2, 20) if correction == "resample" else (2, 40)
        drawn = collect(random.key(0), of(log_w), correction, shape, 1, 1, 1, 0, 0, np.zeros(2))
        assert drawn.points.shape == (*shape, 1), name
        assert np.all(np.isfinite(drawn.fields["mean_accept_prob"])), name


def test_any_evidence_is_compared():
    sound = estimate([of(NORMAL)])
    table = compare({"normal": sound} | {name: estimate([of(values)]) for name, values in WEIGHTS.items()})
    assert len(table) == len(WEIGHTS)
    assert repr(table)
    undefined = sound._replace(log_z=NAN, std_error=NAN, reliable=False)
    for others in ({}, {"sound": sound}, {"other": undefined}, {"zero": sound._replace(log_z=-INF, std_error=INF)}):
        table = compare({"undefined": undefined, **others})
        assert repr(table)
        assert np.isnan(table["probability"]["undefined"])
