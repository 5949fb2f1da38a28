import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.draws import metropolis

run = jax.jit(jax.vmap(metropolis.chain))
NUM_CHAINS, LENGTH = 200, 1000
TARGET = np.array([0.1, 0.2, 0.3, 0.4])  # on four states, proposed uniformly


def test_target_is_invariant(getkey):
    states = np.asarray(random.randint(getkey(), (NUM_CHAINS, LENGTH), 0, 4))
    held, accept_prob = run(random.split(getkey(), NUM_CHAINS), jnp.log(TARGET)[states] + 1e3)
    chains = np.take_along_axis(states, np.asarray(held), axis=1)
    frequencies = np.mean(chains[..., None] == np.arange(4), axis=1)
    std_error = np.std(frequencies, axis=0, ddof=1) / np.sqrt(NUM_CHAINS)
    assert np.all(std_error < 0.005)
    assert np.all(np.abs(np.mean(frequencies, axis=0) - TARGET) < 5 * std_error)
    # without the correction the same proposals are 30 standard errors away
    uncorrected = np.mean(states[..., None] == np.arange(4), axis=(0, 1))
    assert np.max(np.abs(uncorrected - TARGET) / std_error) > 30
    # Σ_ij π_i min(1, π_j/π_i) / 4
    expected = np.sum(np.minimum(TARGET[:, None], TARGET)) / 4
    assert np.mean(accept_prob) == pytest.approx(expected, abs=0.01)


def test_a_chain_holds_its_newest_accepted_proposal(getkey):
    held, _ = run(random.split(getkey(), NUM_CHAINS), random.normal(getkey(), (NUM_CHAINS, LENGTH)))
    chains, moves = np.nonzero(np.diff(held, axis=1))
    assert len(moves) > 0.3 * NUM_CHAINS * LENGTH
    np.testing.assert_array_equal(np.asarray(held)[chains, moves + 1], moves + 1)


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
def test_proposals_without_density_are_never_accepted(getkey, bad):
    good = np.arange(LENGTH) % 4 == 0
    held, accept_prob = run(
        random.split(getkey(), NUM_CHAINS), jnp.full((NUM_CHAINS, LENGTH), jnp.where(good, 0.0, bad))
    )
    assert np.all(good[np.asarray(held)])
    assert set(np.ravel(held)) == set(np.flatnonzero(good))
    np.testing.assert_array_equal(accept_prob, np.tile(good.astype(float), (NUM_CHAINS, 1)))


@pytest.mark.parametrize(
    ("log_weight", "proposed", "expected"),
    [
        (0.0, 1.0, 1.0),
        (0.0, np.log(0.25), 0.25),
        (1e4, 1e4 + np.log(0.5), 0.5),
        (-jnp.inf, -300.0, 1.0),
        (jnp.nan, -300.0, 1.0),
        (0.0, -jnp.inf, 0.0),
        (0.0, jnp.nan, 0.0),
        (-jnp.inf, -jnp.inf, 0.0),
        (jnp.nan, jnp.nan, 0.0),
    ],
)
def test_acceptance_probability(getkey, log_weight, proposed, expected):
    weights = jnp.full((2, 2000), jnp.array([log_weight, proposed])[:, None])
    moved, accept_prob = jax.vmap(metropolis.accept)(random.split(getkey(), 2000), *weights)
    assert float(accept_prob[0]) == pytest.approx(expected, rel=2e-3)
    assert abs(np.mean(moved) - expected) <= 5 * np.sqrt(expected * (1 - expected) / 2000)


def test_accepts_plain_numbers(getkey):
    moved, accept_prob = metropolis.accept(getkey(), 800.0, 0.0)
    assert not moved
    assert accept_prob == 0
