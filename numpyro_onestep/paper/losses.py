"""The paper's objectives on the controlled reverse diffusion: `loss(network, teacher, problem, rng_key, annealing)`.

They train a `ControlNetwork` as the paper does. Bases of one Gaussian or several serve; the target is not annealed,
since the diffusion itself is the annealing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.paper import log_det, sde
from numpyro_onestep.paper.control import ControlNetwork
from numpyro_onestep.paper.noise import NOISE

__all__ = ["LogVariance", "PathConsistency", "PathKL", "control_of"]


def control_of(network: ControlNetwork, problem: Problem) -> sde.Control:
    """U(x, t, d), the score of the annealed density included."""
    return lambda x, t, d: network(x, t, d, sde.annealed_score(problem.base, problem.target, x, t))


@dataclass(frozen=True)
class _OnPaths:
    """What the path objectives share.

    Attributes:
        num_steps: T, the finest resolution, a power of two.
        batch_size: paths in one gradient.
        noise: "cosine" or "linear", the schedule β(t).
    """

    num_steps: int = 32
    batch_size: int = 128
    noise: str = "cosine"

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.num_steps & (self.num_steps - 1):
            raise ValueError(f"`num_steps` must be a power of two, not {self.num_steps}.")

    @property
    def beta(self) -> Callable[[Array], Array]:
        """The noise schedule."""
        return NOISE[self.noise]

    def paths(self, network: ControlNetwork, problem: Problem, rng_key: Array) -> Array:
        """The states of simulated paths, shape (batch, T + 1, D)."""
        key_base, key_noise = random.split(rng_key)
        x0 = base_.sample(problem.base, key_base, self.batch_size)
        control = control_of(network, problem)
        keys = random.split(key_noise, self.batch_size)
        run = lambda key, x: sde.simulate(problem.base, control, self.beta, key, x, self.num_steps)  # noqa: E731
        return jax.vmap(run)(keys, x0)

    def log_weights(self, network: ControlNetwork, problem: Problem, paths: Array) -> Array:
        """Log weights of paths, shape (batch,)."""
        control = control_of(network, problem)
        weigh = lambda states: sde.path_log_weight(problem.base, problem.target, control, self.beta, states)  # noqa: E731
        return jax.vmap(weigh)(paths)


@dataclass(frozen=True)
class PathKL(_OnPaths):
    """Reverse KL between the law of the controlled paths and the noised target's: −E[log w], through the simulation."""

    def __call__(
        self, network: ControlNetwork, teacher: ControlNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """Minus the ELBO of the discrete kernels, nats."""
        return -jnp.mean(self.log_weights(network, problem, self.paths(network, problem, rng_key)))


@dataclass(frozen=True)
class LogVariance(_OnPaths):
    """Half the variance of log w over paths of the present control, held fixed: no gradient through the simulation.

    Its gradient is that of the reverse KL in expectation, with less variance near the optimum, where every log weight
    is the same (Richter et al. 2020).
    """

    def __call__(
        self, network: ControlNetwork, teacher: ControlNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """Half the variance, nats²."""
        paths = lax.stop_gradient(self.paths(network, problem, rng_key))
        return 0.5 * jnp.var(self.log_weights(network, problem, paths))


@dataclass(frozen=True)
class PathConsistency(_OnPaths):
    """State and volume consistency of the deterministic flow, from states on simulated paths.

    At a random d = 2^k/T, k ≥ 1, and a random time of that grid: ‖T_d(x) − T_{d/2}T_{d/2}(x)‖² and
    (log|det ∂T_d| − log|det ∂(T_{d/2}T_{d/2})|)², the two half steps by the averaged teacher, held fixed
    (arXiv 2512.05251).

    Attributes:
        state_weight: weight of the squared distance of the states.
        volume_weight: weight of the squared difference of the log-determinants; 0 skips their computation.
        num_probes: 0 for exact determinants. Otherwise, for many dimensions, the squared difference is the product of
            two independent estimates of it with so many probes each: as unbiased as `log_det.estimate`, it may be
            negative.
    """

    state_weight: float = 1.0
    volume_weight: float = 0.0
    num_probes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps == 1:
            raise ValueError("`num_steps` must be 2 or more: with 1 there are no half steps to compare with.")

    def __call__(
        self, network: ControlNetwork, teacher: ControlNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """The weighted sum of both losses."""
        key_path, key_level, key_time = random.split(rng_key, 3)
        key_probe = random.fold_in(key_time, 1)
        states = lax.stop_gradient(self.paths(network, problem, key_path))
        stride = 2 ** random.randint(key_level, (), 1, self.num_steps.bit_length())
        index = stride * random.randint(key_time, (), 0, self.num_steps // stride)
        x = jnp.take(states, index, axis=1)
        t, d = 1 - index / self.num_steps, stride / self.num_steps

        def compare(x: Array, keys: Array) -> tuple[Array, Array]:
            def whole(x: Array) -> Array:
                return sde.flow_step(control_of(network, problem), self.beta, x, t, d)

            def halves(x: Array) -> Array:
                control = control_of(teacher, problem)
                return sde.flow_step(
                    control, self.beta, sde.flow_step(control, self.beta, x, t, d / 2), t - d / 2, d / 2
                )

            state = jnp.sum((whole(x) - lax.stop_gradient(halves(x))) ** 2)
            if self.volume_weight == 0:
                return state, jnp.zeros(())
            pairs = keys[:1] if self.num_probes == 0 else keys
            errors = [self._log_det(whole, x, k[0]) - lax.stop_gradient(self._log_det(halves, x, k[1])) for k in pairs]
            return state, errors[0] * errors[-1]

        state, volume = jax.vmap(compare)(x, random.split(key_probe, (len(x), 2, 2)))
        return self.state_weight * jnp.mean(state) + self.volume_weight * jnp.mean(volume)

    def _log_det(self, step: Callable[[Array], Array], x: Array, rng_key: Array) -> Array:
        if self.num_probes == 0:
            return log_det.exact(step, x)
        return log_det.estimate(step, x, rng_key, self.num_probes)
