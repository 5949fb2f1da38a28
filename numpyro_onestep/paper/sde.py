"""The paper's stochastic sampler: the controlled reverse diffusion, its path weights and its deterministic flow.

Everything is on whitened coordinates, where the base p0 is sampled exactly. With g² = β the noising diffusion
dx = ½β∇log p0 dt + √β dW leaves p0 invariant; the sampler adds a control u to its time reversal,

    x' = x + d (½β∇log p0(x) + √β u(x, t, d)) + √(β d) ε,      from t = 1 to 0 in steps of d,

which is exact for √β u = β(∇log p_t − ∇log p0), p_t the noised target. The deterministic flow with the same marginals
is x' = x + d ½√β u (arXiv 2512.05251).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.model.target import LogDensity

__all__ = ["Control", "annealed_score", "flow_step", "path_log_weight", "simulate"]

Control = Callable[[Array, Array, Array], Array]  # u(x, t, d) of one point


def annealed_score(base: Base, target: LogDensity, x: Array, t: Array) -> Array:
    """∇log of p0^t γ^(1−t) at one point.

    It is differentiable: the Jacobian of a step holds the target's Hessian, and without it the weights of the
    deterministic flow do not average to the evidence.
    """
    return t * base_.score(base, x) + (1 - t) * target.value_and_grad(x)[1]


def _mean(base: Base, control: Control | None, beta: Callable[[Array], Array], x: Array, t: Array, d: Array) -> Array:
    """Mean of the next state; without a control that of the noising kernel, which is its own reversal."""
    drift = 0.5 * beta(t) * base_.score(base, x)
    if control is not None:
        drift = drift + jnp.sqrt(beta(t)) * control(x, t, d)
    return x + d * drift


def simulate(
    base: Base, control: Control, beta: Callable[[Array], Array], rng_key: Array, x0: Array, num_steps: int
) -> Array:
    """The states of one path, shape (num_steps + 1, D), from the base point `x0` on; differentiable in the control."""
    d = jnp.asarray(1.0 / num_steps)

    def body(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        t, noise = inputs
        x = _mean(base, control, beta, x, t, d) + jnp.sqrt(beta(t) * d) * noise
        return x, x

    times = 1 - d * jnp.arange(num_steps)
    _, states = lax.scan(body, x0, (times, random.normal(rng_key, (num_steps, *x0.shape), x0.dtype)))
    return jnp.concatenate([x0[None], states])


def path_log_weight(
    base: Base, target: LogDensity, control: Control, beta: Callable[[Array], Array], states: Array
) -> Array:
    """Log weight of a path of T + 1 `states`, with mean weight Z for every control and every number of steps.

    log γ(x_T) − log p0(x_0) + Σ log of backward over forward Gaussian kernel; its mean over simulated paths is the
    ELBO of the discrete kernels, which falls apart at few steps however good the control.
    """
    num_steps = len(states) - 1
    d = jnp.asarray(1.0 / num_steps)

    def ratio(x: Array, after: Array, t: Array) -> Array:
        forward = after - _mean(base, control, beta, x, t, d)
        backward = x - _mean(base, None, beta, after, t, d)
        return 0.5 * (jnp.sum(forward**2) - jnp.sum(backward**2)) / (beta(t) * d)

    ratios = jax.vmap(ratio)(states[:-1], states[1:], 1 - d * jnp.arange(num_steps))
    return target.value(states[-1]) - base_.log_prob(base, states[0]) + jnp.sum(ratios)


def flow_step(control: Control, beta: Callable[[Array], Array], x: Array, t: Array, d: Array) -> Array:
    """One step of the deterministic flow, x + d ½√β u(x, t, d)."""
    return x + 0.5 * d * jnp.sqrt(beta(t)) * control(x, t, d)
