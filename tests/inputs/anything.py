"""What hypothesis may give: odd values of all kinds; the same ones in each run of the tests."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import random

ODD = [
    True,
    1e300,
    10**30,
    np.int64(2),
    np.float32(2),
    jnp.array(2),
    jnp.ones(2),
    np.array([1, 2]),
    1j,
    b"x",
    {},
    print,
]
NO_INTEGERS = (
    st.sampled_from([1e300, np.float32(2), jnp.ones(2), np.array([1, 2]), 1j, b"x", {}, print])
    | st.none()
    | st.floats()
    | st.sampled_from(["x", "", "auto", "none", "2"])
    | st.lists(st.integers(-1, 4), max_size=2)
)
ANYTHING = NO_INTEGERS | st.sampled_from(ODD) | st.integers(-2, 9)
KEYS = NO_INTEGERS | st.sampled_from(
    [
        random.key(1),
        random.PRNGKey(1),
        random.split(random.key(1), 2),
        random.split(random.PRNGKey(1), 2),
        random.split(random.key(1), 3),
        random.split(random.key(1), 0),
        random.split(random.key(1), (2, 2)),
        [random.key(1), random.key(2)],
        np.array([0, 1], np.uint32),
        jnp.array([0, 1]),
        jnp.zeros(3, jnp.uint32),
    ]
)


def examples(quick, slow=None):
    """So many examples of a test, and more of them among the slow tests."""

    def profile(num, *marks):
        checks = list(HealthCheck)
        how = settings(max_examples=num, derandomize=True, deadline=None, database=None, suppress_health_check=checks)
        return pytest.param(how, id=f"{num}", marks=marks)

    profiles = [profile(quick)] if quick else []
    return pytest.mark.parametrize("profile", profiles + ([profile(slow, pytest.mark.slow)] if slow else []))


def each(profile, strategy, check):
    """Check so many values of a strategy."""

    def run(value):
        check(value)

    profile(given(strategy)(run))()
