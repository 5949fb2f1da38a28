import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from numpyro_onestep.flow import block
from numpyro_onestep.flow.block import BlockParams

CASES = {"dense": (3, 8), "woodbury": (7, 4)}  # name -> (dimension, width)


@pytest.fixture(params=CASES)
def shape(request):
    return CASES[request.param]


def random_block(key, dim, width):
    shapes = {"scale": (dim,), "shift": (dim,), "directions": (width, dim), "offsets": (width,), "ridge": (width,)}
    shapes |= dict.fromkeys(("bump", "sharpness", "centers"), (dim, 3))
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    parts = np.split(np.asarray(random.normal(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
    noise = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    positive = {name: np.exp(0.5 * noise[name]) for name in ("scale", "ridge", "bump", "sharpness")}
    return BlockParams(**noise | positive)


def points(key, dim):
    """Half at the scale of the base, half ten times as far out."""
    x = np.array(random.normal(key, (32, dim)))
    x[16:] *= 10
    return x


def autodiff_jacobian(params, x):
    return jax.jacfwd(lambda x: block.apply(params, x))(x)


@pytest.mark.parametrize(("x64", "tol"), [(False, 1e-4), (True, 1e-11)])
def test_log_det_and_jacobian_match_autodiff(getkey, shape, x64, tol):
    @jax.jit
    @jax.vmap
    def compare(x):
        jacobian = autodiff_jacobian(params, x)
        return block.jacobian(params, x), jacobian, block.log_det(params, x)

    with jax.enable_x64(x64):
        params, x = random_block(getkey(), *shape), points(getkey(), shape[0])
        jacobian, expected, log_det = compare(x)
        sign, expected_log_det = np.linalg.slogdet(expected)
        assert log_det.dtype == x.dtype == ("float64" if x64 else "float32")
        np.testing.assert_allclose(jacobian, expected, rtol=tol, atol=tol)
        assert np.all(sign == 1)
        np.testing.assert_allclose(log_det, expected_log_det, rtol=tol, atol=tol)


def test_jacobian_is_symmetric_and_above_its_linear_part(getkey, shape):
    params, x = random_block(getkey(), *shape), points(getkey(), shape[0])
    jacobian = jax.jit(jax.vmap(lambda x: autodiff_jacobian(params, x)))(x)
    np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, 1, 2), atol=1e-5)
    assert np.min(np.linalg.eigvalsh(jacobian)) > 0.999 * np.min(params.scale)


def test_inverse_round_trip(getkey, shape):
    params, x = random_block(getkey(), *shape), points(getkey(), shape[0])
    y = jax.jit(jax.vmap(lambda x: block.apply(params, x)))(x)
    back = jax.jit(jax.vmap(lambda y: block.inverse(params, y)))(y)
    assert np.min(np.max(np.abs(y - x), axis=1)) > 0.1
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-4)


def test_push_score_is_the_score_of_the_pushed_density(getkey, shape):
    def log_p(x):
        return -jnp.sum(jnp.log1p((x - 0.3) ** 2))

    def log_q_at_image(x):
        return log_p(x) - jnp.linalg.slogdet(autodiff_jacobian(params, x))[1]

    @jax.jit
    @jax.vmap
    def compare(x):
        # the chain rule: the gradient in x is Jᵀ times the gradient in y
        y, score, log_det = block.push_score(params, x, jax.grad(log_p)(x))
        value, grad = jax.value_and_grad(log_q_at_image)(x)
        gaps = y - block.apply(params, x), autodiff_jacobian(params, x).T @ score - grad, log_p(x) - log_det - value
        return gaps, jnp.linalg.norm(grad)

    with jax.enable_x64(True):
        params, x = random_block(getkey(), *shape), points(getkey(), shape[0])
        gaps, norm = compare(x)
        assert np.median(norm) > 0.1
        for gap in gaps:
            assert np.max(np.abs(gap)) < 1e-9


def test_fold_gives_nan(getkey, shape):
    params, x = random_block(getkey(), *shape), points(getkey(), shape[0])
    folded = params._replace(ridge=-100 * params.ridge)

    @jax.jit
    @jax.vmap
    def check(x):
        lowest = jnp.linalg.eigvalsh(autodiff_jacobian(folded, x))[0]
        return lowest < 0, block.log_det(folded, x), block.push_score(folded, x, x)[2]

    indefinite, log_det, pushed_log_det = check(x)
    assert np.sum(indefinite) > 16
    assert np.all(np.isnan(log_det[indefinite]))
    assert np.all(np.isnan(pushed_log_det[indefinite]))
