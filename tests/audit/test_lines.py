import numpy as np
import pytest

from numpyro_onestep.audit import lines

DIM, NUM = 10, 128
RNG = np.random.default_rng(0)


def measured(log_density, flow, draws, dim=DIM):
    """The audit's lines for a density against a flow's, both functions of one coordinate, log Z = 0."""

    def values(points):
        return log_density(points).sum(axis=1)

    def gaps(points):
        return values(points) - flow(points).sum(axis=1)

    return lines.measure(values, gaps, draws, np.ones(dim), 5.0, NUM)


def normal(x):
    return -0.5 * x**2 - 0.5 * np.log(2 * np.pi)


def student(x):
    return -1.5 * np.log1p(x**2 / 2) - 1.5 * np.log(2)  # two degrees of freedom


def test_the_flow_is_hardly_asked_where_nothing_is_long():
    found = measured(normal, normal, np.random.default_rng(1).normal(size=(128, DIM)))
    assert found.num_gaps < 0.01 * NUM * lines.NUM_POINTS


def test_a_density_that_the_flow_fits_has_no_tails():
    draws = RNG.normal(size=(128, DIM))
    assert measured(normal, normal, draws).share == 0
    assert measured(student, student, RNG.standard_t(2, size=(128, DIM))).share == 0
    # nor has one that is wide in all of the flow's reach, without being long
    assert measured(lambda x: normal(x / 1.5) - np.log(1.5), normal, draws).share < 0.001


@pytest.mark.parametrize("dim", [DIM, 3 * NUM])
def test_the_mass_of_long_tails_adds_up(dim):
    draws = np.clip(RNG.standard_t(2, size=(128, dim)), -2, 2)  # of particles that saw none of them
    found = measured(student, normal, draws, dim)
    # beyond eight times what holds half of the mass, each holds a hundredth or two
    assert 0.005 * dim / (1 + 0.005 * dim) < found.share < 0.05 * dim / (1 + 0.05 * dim)
    assert np.max(np.abs(found.point)) > 3


def test_places_without_density_do_not_matter():
    draws = np.abs(RNG.normal(size=(128, DIM)))
    assert measured(lambda x: np.where(x < 0, -np.inf, normal(x)), normal, draws).share == 0
    assert measured(lambda x: np.where(x < 0, np.nan, normal(x)), normal, draws).share == 0


def test_another_mode_is_no_tail():
    draws = RNG.normal(size=(128, DIM))

    def both(x):
        return np.logaddexp(normal(x), normal(x - 61.44)) - np.log(2)  # a point of each line is at the other mode

    assert measured(both, normal, draws).share == 0
