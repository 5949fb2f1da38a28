"""What speaks against a bridge, on made-up ones."""

import numpy as np
import pytest

from numpyro_onestep.audit.coverage import Audit
from numpyro_onestep.bridge.clouds import Clouds
from numpyro_onestep.bridge.crossing import Crossing
from numpyro_onestep.bridge.hamiltonian import Point
from numpyro_onestep.draws.proposal import Proposals
from numpyro_onestep.trust.bridged import estimate_bridged
from numpyro_onestep.trust.estimate import estimate

NUM_CLOUDS, NUM, ROUNDS = 8, 128, 60


def crossing(rng, log_z=-5.0, upper=None, **changes):
    """A bridge of three rounds whose clouds say −5 within a few hundredths."""
    clouds = {
        "at": Point(*(rng.normal(0, 0.3, (NUM_CLOUDS, NUM)) + shift for shift in (0.0, -4.9, 0.0, 0.0, 0.0))),
        "log_z": log_z + rng.normal(0, 0.03, NUM_CLOUDS),
        "ancestors": np.tile(np.arange(NUM), (NUM_CLOUDS, 1)),
        "annealing": np.array(1.0),
        "log_angle": np.array(-1.0),
        "accept_prob": np.array(0.8),
        "num_rounds": np.array(3),
        "temperatures": np.repeat([0.5, 1.0], (1, ROUNDS - 1)),
        "log_angles": np.zeros(ROUNDS),
        "first_weights": rng.normal(0, 0.5, (NUM_CLOUDS, 4 * NUM)),
        "log_weights": rng.normal(0, 0.2, (ROUNDS, NUM_CLOUDS, NUM)),
        "log_ratios": rng.normal(0, 0.05, (ROUNDS, NUM_CLOUDS)),
    }
    back = -5.0 + rng.normal(0, 0.03, NUM_CLOUDS) if upper is None else upper
    return Crossing(Clouds(**(clouds | changes)), back)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def alone(rng):
    log_w = rng.normal(-6, 1.5, 4096)
    none = np.zeros((4096, 1))
    return estimate([Proposals(none, log_w, none[:, 0], none[:, 0] > 0, none)])


def test_a_sound_bridge_is_believed(rng, alone):
    e = estimate_bridged([crossing(rng)], alone)
    assert e.reliable
    assert e.log_z == pytest.approx(-5, abs=3 * e.std_error)
    assert 0.005 < e.std_error < 0.05
    assert e.num_evaluations == 4 + 3 * 8
    assert e.num_proposals == NUM_CLOUDS * NUM
    assert e.ess == pytest.approx(e.num_proposals / (1 + e.num_proposals * e.std_error**2))
    assert e.warnings[-1].startswith("note: 1 evaluation a draw would give log_z")


def test_what_the_flow_says_counts_where_much_of_it_is_effective(rng):
    def both(log_z, spread):
        none, log_w = np.zeros((4096, 1)), rng.normal(log_z - 0.5 * spread**2, spread, 4096)
        alone = estimate([Proposals(none, log_w, none[:, 0], none[:, 0] > 0, none)])
        return alone, estimate_bridged([crossing(rng)], alone)

    # apart by many errors: in between, with an error that holds both
    alone, e = both(-4.8, 0.8)
    assert -4.95 < e.log_z < -4.85
    assert 0.06 < e.std_error < 0.12
    assert e.reliable
    assert e.elbo <= e.log_z <= e.eubo
    # the same by draws that something speaks against: the bridge's, with the difference as its error
    e = estimate_bridged([crossing(rng)], alone._replace(reliable=False))
    assert abs(e.log_z + 5) < 0.05
    assert e.std_error == pytest.approx(abs(e.log_z - alone.log_z), rel=0.1)
    # too far apart to be both right
    _, e = both(-4.6, 0.5)
    assert not e.reliable
    assert any("one of them misses mass" in failure for failure in e.failures)
    # hardly an effective draw: the bridge alone
    alone, e = both(-4.0, 1.5)
    assert alone.ess < 0.25 * alone.num_proposals
    assert abs(e.log_z + 5) < 3 * e.std_error < 0.1


def test_flows_that_differ_widen_the_error_however_many_clouds_they_have(rng, alone):
    two = alone._replace(num_replicates=2)
    often = [crossing(rng, log_z=log_z, upper=np.full(NUM_CLOUDS, -5.0)) for log_z in (-5.1, -4.9) * 4]
    assert estimate_bridged(often, two).std_error == pytest.approx(0.1, rel=0.2)
    assert estimate_bridged(often, alone).std_error < 0.04


def test_proposals_without_a_density_are_told_of_the_bridge_too(rng, alone):
    e = estimate_bridged([crossing(rng)], alone, undefined=0.05)
    assert not e.reliable
    assert "5.0 % of the proposals" in e.warnings[0]


CASES = {
    "ended at temperature": {"annealing": np.array(0.3)},
    "moves are refused": {"accept_prob": np.array(0.01)},
    "on the way back": {"upper": np.full(NUM_CLOUDS, -4.0)},
    "of those that set out": {"ancestors": np.tile(np.arange(NUM) % 5, (NUM_CLOUDS, 1))},
    "still on their way": {"log_ratios": np.linspace(0, 60, ROUNDS)[:, None] + np.zeros((ROUNDS, NUM_CLOUDS))},
    "first weights": {"first_weights": np.random.default_rng(1).standard_cauchy((NUM_CLOUDS, 4 * NUM))},
    "standard error": {"log_z": np.linspace(-8, -2, NUM_CLOUDS)},
}


@pytest.mark.parametrize("words", CASES)
def test_what_speaks_against_it_is_said(rng, alone, words):
    e = estimate_bridged([crossing(rng, **CASES[words])], alone)
    assert not e.reliable
    assert any(words in warning for warning in e.warnings if not warning.startswith("note:"))


def audit(share, log_ratios):
    shares = np.array([share])
    return Audit(share, shares, None, log_ratios, np.arange(len(log_ratios)))  # type: ignore[arg-type]


def test_mass_beyond_the_flow_counts_only_where_the_bridge_does_not_reach_it(rng, alone):
    around = rng.normal(4.9, 0.4, 128) - 9.8
    where = lambda: ["some mass is missing"]  # noqa: E731
    missed = estimate_bridged([crossing(rng)], alone, 0.0, audit(0.02, around), where)
    assert not missed.reliable
    assert "some mass is missing" in missed.warnings
    there = crossing(rng)
    point = there.clouds.at
    far = np.where(np.arange(NUM) < 4, 2.0, point.log_target)  # 3 % of the particles weigh e^7 times the mean
    reached = there._replace(clouds=there.clouds._replace(at=point._replace(log_target=far)))
    found = estimate_bridged([reached], alone, 0.0, audit(0.02, around), where)
    assert "some mass is missing" not in found.warnings
    # of more mass, a part that is large enough but for what is left
    for share, is_told in ((0.045, False), (0.08, True)):
        part = estimate_bridged([reached], alone, 0.0, audit(share, around), where)
        assert ("some mass is missing" in part.warnings) == is_told
        assert (part.std_error > found.std_error) == (not is_told)
