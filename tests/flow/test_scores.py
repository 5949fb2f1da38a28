import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.flow import steps
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.flow.scores import push_scores

NUM = 64


def blocks_of(getkey, dim, width):
    """A map far from the identity, and of another Jacobian at every point."""
    network = StepNetwork(dim, num_blocks=3, width=width, rng_key=getkey())
    raw = {name: network.arrays()[name] for name in ("ridge", "bump")}
    moved = {name: array + random.normal(getkey(), array.shape) for name, array in raw.items()}
    return steps.blocks_of(StepNetwork.from_arrays(network.arrays() | moved), 1)


@pytest.mark.parametrize(("dim", "width"), [(20, 64), (40, 8)], ids=["ridges", "few ridges"])
def test_scores_are_right_in_the_mean_and_nearly_so_each_time(getkey, dim, width):
    blocks = blocks_of(getkey, dim, width)
    x = random.normal(getkey(), (NUM, dim))
    y, score, _ = jax.jit(jax.vmap(lambda x: steps.push_score(blocks, x, -x)))(x)
    pushed = jax.jit(lambda key: push_scores(blocks, key, x, -x))
    ends, scores = zip(*map(pushed, random.split(getkey(), 100)), strict=True)
    np.testing.assert_allclose(ends[0], y, rtol=1e-5, atol=1e-5)
    scores = np.stack(scores).astype(float)
    deviation = np.linalg.norm(scores - np.asarray(score), axis=-1)
    length = np.linalg.norm(score, axis=-1)
    assert np.median(deviation / length) < 0.2
    # all draws together, along their own scores; what conjugate gradients leave is within a thousandth
    along = np.mean(np.sum((scores - np.asarray(score)) * np.asarray(score), axis=-1) / length**2, axis=1)
    assert abs(np.mean(along)) < 5 * np.std(along) / 10 + 2e-3


def test_an_affine_map_has_scores_without_noise(getkey):
    blocks = steps.blocks_of(StepNetwork(20, num_blocks=2, width=32, rng_key=getkey(), identity=True), 1)
    x = random.normal(getkey(), (NUM, 20))
    np.testing.assert_allclose(push_scores(blocks, getkey(), x, -x)[1], -x, atol=1e-4)


def test_one_draw_that_overflows_leaves_the_others_as_they_are(getkey):
    blocks = blocks_of(getkey, 20, 32)
    x = random.normal(getkey(), (NUM, 20))
    key = getkey()
    clean = push_scores(blocks, key, x, -x)[1]
    score = (-x).at[0].set(jnp.inf)
    scores = push_scores(blocks, key, x, score)[1]
    np.testing.assert_allclose(scores[1:], clean[1:], rtol=1e-3, atol=1e-3)
