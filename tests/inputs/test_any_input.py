"""Whatever a run or a draw is given ends in a result or in words, and leaves the sampler as it was."""

import math

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from inputs.anything import ANYTHING, KEYS, NO_INTEGERS, each, examples
from inputs.attempt import attempt
from jax import random
from models import FEATURES, TARGETS

from numpyro_onestep import evidence

NUMBERS = NO_INTEGERS | st.sampled_from([5, 0, -1, 2**31, 10**12])
BUDGETS = NO_INTEGERS | st.sampled_from([1, 0, 3, 256, -2, True])
ARRAYS = [
    0.0,
    1,
    True,
    jnp.zeros(3),
    jnp.zeros((2, 3)),
    np.zeros((5, 3)),
    np.zeros(3, int),
    jnp.zeros(2),
    np.full(3, 1e300),
]
NONE = ["x", None, math.nan, np.full(3, math.inf), np.full(3, None), 1j, [0.0] * 3, {}, random.key(0)]
LEAVES = st.sampled_from(ARRAYS) | st.sampled_from(NONE)
POINTS = LEAVES | st.dictionaries(st.sampled_from(["beta", "norm", "y", "other"]), LEAVES, max_size=3)
FIELDS = st.sampled_from(["z", "x", "train", "no", "", "z.beta", "~z.beta", "z.no", "z."])
CALLS = st.fixed_dictionaries(
    {"rng_key": st.just(random.key(3)) | KEYS},
    optional={
        "init_params": POINTS,
        "extra_fields": st.lists(FIELDS, max_size=2) | ANYTHING,
        "warm_start": st.booleans(),
        "other": ANYTHING,
    },
)


@examples(60, 500)
def test_draw(small_run, profile):
    each(profile, st.tuples(KEYS, NUMBERS, BUDGETS), lambda given: attempt(lambda: small_run.draw(*given)))


@examples(30, 300)
def test_evidence(small_run, profile):
    each(profile, st.tuples(NO_INTEGERS, NUMBERS), lambda given: attempt(lambda: evidence(small_run, *given)))


@examples(25, 300)
def test_run(small_run, profile):
    before = dict(small_run.__dict__)

    def results():
        return small_run.get_samples()["beta"], small_run.draw(random.key(1), 5).samples["beta"]

    kept = results()

    def check(given):
        said = attempt(lambda: small_run.run(given.pop("rng_key"), FEATURES, TARGETS, **given))
        if said == "a result":
            assert results()[1].shape == (5, 3)
            small_run.__dict__.update(before)
        assert small_run.last_state is before["_last_state"], said
        assert all(map(np.array_equal, results(), kept)), said

    each(profile, CALLS, check)
