"""Members told from what they have in common, on graphs and on densities."""

import itertools

import jax.numpy as jnp
import numpy as np

from numpyro_onestep.members.dependence import dependences, hessian, is_quadratic, part
from numpyro_onestep.model.function import plain


def graph(num, *edges):
    depends = np.zeros((num, num), bool)
    for i, j in edges:
        depends[i, j] = depends[j, i] = True
    return depends


def test_members_of_a_group():
    star = graph(8, (0, 1), *((i, j) for i in (0, 1) for j in range(2, 8)))
    rest, members, bandwidth = part(star, 2, 4)
    assert (list(rest), list(members), bandwidth) == ([0, 1], [2, 3, 4, 5, 6, 7], 0)


def test_members_of_two_crossed_groups_are_those_of_the_larger():
    crossed = graph(9, *((i, j) for i in range(3) for j in range(3, 9)))
    assert list(part(crossed, 0, 3).rest) == [0, 1, 2]


def test_a_time_series_in_any_order():
    order = np.random.default_rng(0).permutation(np.arange(1, 10))
    chain = graph(10, *itertools.pairwise(order), *((0, i) for i in range(1, 10)))
    rest, members, bandwidth = part(chain, 1, 1)
    assert list(rest) == [0]
    assert bandwidth == 1
    assert list(members) in (list(order), list(order[::-1]))


def test_where_all_depend_on_all_there_are_no_members():
    assert part(~np.eye(12, dtype=bool), 2, 6) is None


def test_where_nothing_depends_on_anything_all_are_members():
    assert len(part(np.zeros((5, 5), bool), 2, 1).members) == 5


def test_dependences_of_a_density():
    density = plain(lambda x: -(x[0] ** 2) * x[1] ** 2 - x[1] * x[2] - jnp.sum(jnp.exp(x)))
    point = jnp.array([0.5, -1.0, 2.0])
    found = dependences([hessian(density, point)])
    np.testing.assert_array_equal(found, graph(3, (0, 1), (1, 2)))


def test_what_is_quadratic():
    density = plain(lambda x: -((x[0] - x[2]) ** 2) * jnp.exp(x[2]) - x[1] ** 4 - x[3] ** 2 - jnp.abs(x[3]))
    there, moved = np.array([0.0, 1.0, 2.0, 1.0]), [np.array([5.0, 1.5, 2.0, -1.0])]
    for i, expected in enumerate([True, False]):
        assert is_quadratic(density, hessian(density, there), there, moved, np.array([i])) == expected
    # a kink, which no Hessian shows
    assert not is_quadratic(density, hessian(density, there), there, moved, np.array([3]))


def test_a_lattice_is_soon_given_up():
    side = 40
    at = np.arange(side**2).reshape(side, side)
    pairs = [
        *zip(at[1:].ravel(), at[:-1].ravel(), strict=True),
        *zip(at[:, 1:].ravel(), at[:, :-1].ravel(), strict=True),
    ]
    assert part(graph(side**2, *pairs), 2, side**2 // 8) is None
