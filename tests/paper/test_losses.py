import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.draws.weights import log_mean_weight
from numpyro_onestep.gaussians.mixture import Mixture
from numpyro_onestep.model.target import safe_log_density
from numpyro_onestep.paper import sde
from numpyro_onestep.paper.control import ControlNetwork
from numpyro_onestep.paper.losses import LogVariance, PathConsistency, PathKL, control_of
from numpyro_onestep.paper.noise import NOISE

DIM = 2
LOG_Z = 3.0
BASE = base_.whiten(Mixture(jnp.zeros(1), jnp.zeros((1, DIM)), jnp.eye(DIM)[None]))
TARGET = safe_log_density(lambda x: LOG_Z - 0.5 * jnp.sum((x - 0.7) ** 2) - jnp.log(2 * jnp.pi))
PROBLEM = Problem(BASE, TARGET)


@pytest.fixture
def network(getkey):
    """A network with every parameter off its initial value."""
    flat, unravel = ravel_pytree(ControlNetwork(DIM, width=16, rng_key=getkey()))
    return unravel(flat + 0.1 * random.normal(getkey(), flat.shape))


@pytest.mark.parametrize("noise", sorted(NOISE))
def test_noise_integrates_to_its_total(noise):
    t = jnp.linspace(0, 1, 2001)
    assert np.trapezoid(NOISE[noise](t, 5.0), t) == pytest.approx(5.0, rel=1e-3)
    assert np.all(np.diff(NOISE[noise](t)) > 0)


@pytest.mark.parametrize("num_steps", [2, 16])
@pytest.mark.parametrize("noise", sorted(NOISE))
def test_path_weights_average_to_the_evidence(getkey, network, noise, num_steps):
    loss = PathKL(num_steps=num_steps, batch_size=20_000, noise=noise)
    log_w = jax.jit(lambda network, key: loss.log_weights(network, PROBLEM, loss.paths(network, PROBLEM, key)))(
        network, getkey()
    )
    log_z, std_error = log_mean_weight(np.asarray(log_w))
    assert abs(log_z - LOG_Z) < 5 * std_error
    assert std_error < 0.3


@pytest.mark.parametrize("num_steps", [1, 4])
def test_weights_of_the_deterministic_flow_average_to_the_evidence(getkey, network, num_steps):
    # a target with a Hessian of its own, which the control sees through the score
    target = safe_log_density(lambda x: LOG_Z + jnp.sum(jax.scipy.stats.norm.logpdf(x, 0.3, 0.7)))
    problem, d = Problem(BASE, target), jnp.asarray(1.0 / num_steps)
    control, beta = control_of(network, problem), PathKL().beta

    def log_weight(x):
        y, total = x, 0.0
        for i in range(num_steps):
            step = lambda x, i=i: sde.flow_step(control, beta, x, 1 - i * d, d)  # noqa: E731
            total = total + jnp.linalg.slogdet(jax.jacfwd(step)(y))[1]
            y = step(y)
        return target.value(y) - base_.log_prob(BASE, x) + total

    x = base_.sample(BASE, getkey(), 20_000)
    log_z, std_error = log_mean_weight(np.asarray(jax.jit(jax.vmap(log_weight))(x)))
    assert abs(log_z - LOG_Z) < 5 * std_error
    assert std_error < 0.03


def test_without_control_the_base_is_kept(getkey):
    # nothing to do: the Langevin kernels of the base are reversible, up to the length of a step
    network = ControlNetwork(DIM, width=16, rng_key=getkey())
    problem = Problem(BASE, safe_log_density(lambda x: base_.log_prob(BASE, x)))

    def spread(num_steps):
        loss = LogVariance(num_steps=num_steps, batch_size=2000)
        return float(jax.jit(lambda key: loss(network, network, problem, key, 1.0))(getkey()))

    assert spread(128) < 0.02
    assert spread(128) < 0.5 * spread(16)


def test_log_variance_has_the_gradient_of_the_path_kl(getkey, network):
    losses = [kind(num_steps=4, batch_size=4096) for kind in (PathKL, LogVariance)]

    @jax.jit
    def gradients(key):
        return [ravel_pytree(jax.grad(loss)(network, network, PROBLEM, key, 1.0))[0] for loss in losses]

    kl, log_variance = (np.mean(g, axis=0) for g in zip(*[gradients(getkey()) for _ in range(40)], strict=True))
    cosine = kl @ log_variance / np.linalg.norm(kl) / np.linalg.norm(log_variance)
    assert cosine > 0.97
    assert np.linalg.norm(log_variance) / np.linalg.norm(kl) == pytest.approx(1.0, abs=0.1)


def test_the_number_of_steps_is_checked(getkey, network):
    assert np.isfinite(PathKL(num_steps=1)(network, network, PROBLEM, getkey(), 1.0))
    with pytest.raises(ValueError, match="power of two"):
        PathKL(num_steps=3)
    with pytest.raises(ValueError, match="2 or more"):
        PathConsistency(num_steps=1)


@pytest.mark.parametrize("num_steps", [2, 8])
def test_consistency_compares_one_step_with_two_of_the_teacher(getkey, network, num_steps):
    loss = PathConsistency(num_steps=num_steps, batch_size=32, state_weight=2.0, volume_weight=3.0)
    teacher = jax.tree.map(lambda leaf: 0.5 * leaf, network)
    key = getkey()

    @jax.jit
    def candidates(network, teacher, start, length):
        x = loss.paths(network, PROBLEM, random.split(key, 3)[0])[:, start]
        t, half = jnp.array(1 - start / num_steps), jnp.array(length / num_steps / 2)

        def move(network, x, t, d):
            step = lambda x: sde.flow_step(control_of(network, PROBLEM), loss.beta, x, t, d)  # noqa: E731
            return step(x), jnp.linalg.slogdet(jax.jacfwd(step)(x))[1]

        def one(x):
            whole, log_det = move(network, x, t, 2 * half)
            middle, first = move(teacher, x, t, half)
            end, second = move(teacher, middle, t - half, half)
            return jnp.sum((whole - end) ** 2), (log_det - first - second) ** 2

        state, volume = jax.vmap(one)(x)
        return 2 * jnp.mean(state) + 3 * jnp.mean(volume)

    value, grads = jax.jit(jax.value_and_grad(lambda *nets: loss(*nets, PROBLEM, key, 1.0), argnums=(0, 1)))(
        network, teacher
    )
    # with T = 2 there is one choice of time and length, with T = 8 it is one of seven
    choices = [(s, length) for length in (2, 4, 8) if length <= num_steps for s in range(0, num_steps, length)]
    expected = [float(candidates(network, teacher, *choice)) for choice in choices]
    assert float(value) > 1e-4
    assert np.min(np.abs(np.array(expected) / float(value) - 1)) < 1e-3
    student, fixed = (ravel_pytree(g)[0] for g in grads)
    assert np.max(np.abs(student)) > 1e-4
    assert np.all(np.asarray(fixed) == 0)


@pytest.mark.slow
def test_estimated_volume_consistency_is_unbiased(getkey, network):
    teacher = jax.tree.map(lambda leaf: 0.5 * leaf, network)
    exact, estimated = (
        PathConsistency(num_steps=2, batch_size=128, state_weight=0.0, volume_weight=1.0, num_probes=n) for n in (0, 2)
    )
    keys = random.split(getkey(), 40)

    def values(loss):
        return np.asarray(
            jax.jit(lambda keys: jax.lax.map(lambda k: loss(network, teacher, PROBLEM, k, 1.0), keys))(keys)
        )

    truth = values(exact)
    difference = values(estimated) - truth
    assert np.mean(truth) > 1e-3
    assert abs(np.mean(difference)) < 4 * np.std(difference) / 40**0.5
    assert np.std(difference) / 40**0.5 < 0.2 * np.mean(truth)
