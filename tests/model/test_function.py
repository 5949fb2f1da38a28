import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.model.function import NONE, bind, plain, trace
from numpyro_onestep.traces.fingerprint import fingerprint
from numpyro_onestep.traces.work import work

POINT = jnp.array([0.5])


class Counter:
    """A function of arguments and a point that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, args, kwargs, x):
        self.traces += 1
        y, power = args
        return jnp.sum(kwargs.get("scale", 1.0) * (jnp.asarray(y) - x) ** power)


@jax.jit
def call(function, x):
    return function(x)


def test_new_arrays_of_the_same_shape_are_not_traced_again():
    count = Counter()
    for y in (np.array([1.0, 2.0], np.float32), jnp.array([3.0, 5.0])):
        value = call(bind(count, count, (y, 2), {}), POINT)
        assert np.isclose(value, np.sum((np.asarray(y) - 0.5) ** 2))
    assert count.traces == 1


@pytest.mark.parametrize(
    "other",
    [
        (None, (np.ones(2), 3), {}),
        (None, (np.ones(2), 2.0), {}),
        (None, (np.ones(3), 2), {}),
        (None, (np.ones(2), 2), {"scale": 2.0}),
        ("other", (np.ones(2), 2), {}),
    ],
    ids=["number", "type", "shape", "keyword", "identity"],
)
def test_what_is_not_an_array_is_compared_by_value(other):
    count = Counter()
    call(bind(count, count, (np.ones(2), 2), {}), POINT)
    call(bind(count, count, (np.zeros(2), 2), {}), POINT)
    assert count.traces == 1
    identity, args, kwargs = other
    call(bind(identity or count, count, args, kwargs), POINT)
    assert count.traces == 2


def test_constants_are_seen_by_value_and_compared_by_it():
    def odd(args, kwargs, x):
        return x if bool(np.any(args[0] > 1)) else -x  # fails on an array that cannot be seen

    with pytest.raises(jax.errors.TracerBoolConversionError):
        call(bind("odd", lambda args, kwargs, x: x if args[0][0] > 1 else -x, (jnp.ones(2),), {}), POINT)
    assert call(bind("odd", odd, (np.full(2, 2.0),), {}, abstract=NONE), POINT) == 0.5
    assert call(bind("odd", odd, (np.ones(2),), {}, abstract=NONE), POINT) == -0.5
    assert hash(bind("odd", odd, (np.ones(2),), {}, NONE).code) == hash(bind("odd", odd, (np.ones(2),), {}, NONE).code)


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="float64 holds it")
def test_an_array_that_float32_would_blur_stays_what_it_is():
    seconds = 1.7e9 + np.arange(3.0)

    def span(args, kwargs, x):
        return (args[0] - args[0].mean()).max() * x

    blurred, sharp = bind("span", span, (seconds,), {}), bind("span", span, (seconds - 1.7e9,), {})
    assert blurred.arrays == ()
    assert len(sharp.arrays) == 1
    assert call(blurred, POINT) == call(sharp, POINT) == 0.5


def test_keys_and_unknown_objects_are_arguments_too():
    class Unknown:
        size = 2

    unknown = Unknown()

    def noisy(args, kwargs, x):
        return random.normal(args[0], (args[1].size,)) + x

    a, b = (call(bind("noisy", noisy, (random.key(i), unknown), {}), POINT) for i in range(2))
    assert a.shape == (2,)
    assert not np.array_equal(a, b)


def test_a_plain_function_equals_itself_alone():
    square = lambda x: x**2  # noqa: E731
    assert plain(square) == plain(square)
    assert plain(square) != plain(lambda x: x**2)


def test_a_fingerprint_tells_what_a_function_closes_over():
    def make(data, function=lambda data, x: jnp.sum(data * x)):
        return fingerprint(trace(bind("f", lambda args, kwargs, x: function(data, x), (), {}), POINT))

    numbers = np.arange(3.0)
    assert make(numbers) == make(numbers.copy())
    assert make(numbers) != make(numbers + 1)
    assert make(2.0) != make(3.0)
    # constants within a function of their own, and rules of differentiation, whose addresses differ at each trace
    nested = lambda data, x: jax.jit(lambda x: jax.nn.relu(x) * jnp.asarray(data))(x)  # noqa: E731
    assert make(numbers, nested) == make(numbers, nested)
    assert make(numbers, nested) != make(numbers + 1, nested)


def test_what_a_trace_cannot_tell_is_never_the_same():
    def callback(args, kwargs, x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    function = bind("f", callback, (), {})
    assert fingerprint(trace(function, POINT)) != fingerprint(trace(function, POINT))


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="int64 holds it")
def test_integers_whose_powers_overflow_stay_what_they_are():
    def square(args, kwargs, x):
        return (args[0] ** 2 / 1e9).sum() * x

    large, small = (bind("square", square, (np.array(n),), {}) for n in ([70_000, 90_000], [7, 9]))
    assert large.arrays == ()
    assert len(small.arrays) == 1
    assert np.isclose(call(large, POINT)[0], 6.5)


def test_work_counts_what_an_evaluation_computes():
    matrix = jnp.ones((50, len(POINT)))

    def count(function):
        return work(trace(bind("f", lambda args, kwargs, x: function(x), (), {}), POINT))

    assert count(lambda x: jnp.sum(x)) == 1
    assert count(lambda x: jnp.sum(jnp.exp(x))) == len(POINT) + 1
    assert count(lambda x: matrix @ x) == 50 + matrix.size + len(POINT)
    looped = lambda x: jax.lax.fori_loop(0, 7, lambda i, x: jnp.exp(x), x)  # noqa: E731
    assert 7 * len(POINT) <= count(looped) <= 7 * (len(POINT) + 2)
