"""The objectives: frozen dataclasses with one signature, `loss(network, teacher, problem, rng_key, annealing)`.

Those of the paper on its stochastic paths are in the folder `paper`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax, random

from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.distribution import Base
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.devices import shard
from numpyro_onestep.flow import scores, steps
from numpyro_onestep.flow.network import StepNetwork

__all__ = ["Consistency", "Loss", "PathGradient"]

_PULL = 0.3  # on draws without density, in the flow's own scores


class Loss(Protocol):
    """A training objective.

    Args of a call: the network, the averaged teacher network, the problem, a random key, and the annealing λ in
    [0, 1] (the target is p0^(1−λ) γ^λ). Returns the scalar to minimise.
    """

    def __call__(
        self, network: StepNetwork, teacher: StepNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """The scalar to minimise."""
        ...


def _base_draws(base: Base, rng_key: Array, batch_size: int, wide_fraction: float) -> Array:
    """Base draws, a share of them stretched by 1 + 1/√D, one step of the radius' own spread and more."""
    num_wide = int(wide_fraction * batch_size)
    wide = (jnp.arange(batch_size) < num_wide)[:, None]
    inflate: Any = jnp.where(wide, 1 + base.dim**-0.5, 1.0)
    return shard(base_.sample(base, rng_key, batch_size, inflate))


def _cap(vectors: Array, factor: float = 20.0) -> Array:
    """Shrink the rows that are longer than `factor` times the median length; zero those that are not finite."""
    vectors = jnp.where(jnp.all(jnp.isfinite(vectors), axis=1, keepdims=True), vectors, 0.0)
    lengths = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * jnp.minimum(1.0, factor * jnp.median(lengths) / (lengths + 1e-30))


@dataclass(frozen=True)
class PathGradient:
    """Reverse KL between the n-step map's law q and the target, by its path gradient.

    Minimises E⟨sg(∇log q(y) − ∇log γ(y)), T_θ(x0)⟩ with y = T_θ(x0): over draws x0 of the base, the gradient of
    −DF-ELBO (arXiv 2512.05251, deterministic-flow ELBO) without its score term, whose expectation is zero and whose
    variance is not (Roeder et al. 2017, "sticking the landing"; Vaitl et al. 2022, path gradients). Over draws of the
    stretched base it is another objective with the same optimum, where the two scores agree. ∇log q is carried through
    the blocks in closed form, above 16 dimensions by `scores`; nothing is differentiated through a log-determinant.

    Attributes:
        num_steps: the budget n.
        batch_size: base draws in one gradient.
        wide_fraction: share of the draws taken from the stretched base, to train the tails on more draws.
    """

    num_steps: int = 1
    batch_size: int = 128
    wide_fraction: float = 0.25

    def __call__(
        self, network: StepNetwork, teacher: StepNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """The surrogate whose gradient is the path gradient; its value means nothing."""
        base, target = problem.base, problem.target
        x0 = _base_draws(base, rng_key, self.batch_size, self.wide_fraction)
        blocks = steps.blocks_of(network, self.num_steps)
        frozen = lax.stop_gradient(blocks)
        base_score = jax.vmap(lambda x: base_.score(base, x))
        if base.dim > scores.EXACT_DIM:
            y, score = scores.push_scores(frozen, random.fold_in(rng_key, 1), x0, base_score(x0))
        else:
            y, score, _ = jax.vmap(lambda x, r: steps.push_score(frozen, x, r))(x0, base_score(x0))
        value, target_score = jax.vmap(target.value_and_grad)(y)
        annealed = annealing * target_score + (1 - annealing) * base_score(y)
        # beyond a hard edge there is no gradient, and the entropy alone would drive the draws further out: pull them in
        force = jnp.where(value[:, None] > -jnp.inf, score - annealed, -_PULL * score)
        cotangent = lax.stop_gradient(_cap(force))
        return jnp.mean(jnp.sum(cotangent * jax.vmap(lambda x: steps.forward(blocks, x))(x0), axis=1))


@dataclass(frozen=True)
class Consistency:
    """State-space and volume consistency: one step of length d against two half steps of the averaged teacher.

    From a state x_t of the teacher's own trajectory, t and d = 2^-k random, the losses are
    ‖T_d(x) − T_{d/2}T_{d/2}(x)‖² (self-distillation) and (log|det ∂T_d| − log|det ∂(T_{d/2}T_{d/2})|)², the teacher's
    side held fixed (arXiv 2512.05251, state-space and volume consistency; here with exact log-determinants).

    Attributes:
        state_weight: weight of the squared distance of the states.
        volume_weight: weight of the squared difference of the log-determinants; 0 skips its computation.
        levels: d = 2^-k with k one of these.
        batch_size: states in one gradient.
    """

    state_weight: float = 1.0
    volume_weight: float = 0.0
    levels: tuple[int, ...] = (0,)
    batch_size: int = 64

    def __call__(
        self, network: StepNetwork, teacher: StepNetwork, problem: Problem, rng_key: Array, annealing: Array
    ) -> Array:
        """The weighted sum of both losses at one random (t, d)."""
        key_draw, key_level, key_time = random.split(rng_key, 3)
        x0 = shard(base_.sample(problem.base, key_draw, self.batch_size))
        d = 0.5 ** random.choice(key_level, jnp.asarray(self.levels, x0.dtype))
        num_before = jnp.floor(random.uniform(key_time, (), x0.dtype) / d).astype(int)

        def teach(x: Array, t: Array, d: Array) -> tuple[Array, Array]:
            blocks = lax.stop_gradient(teacher.step(t, d))
            return jax.vmap(lambda x: steps.forward_and_log_det(blocks, x))(x)

        x = lax.fori_loop(0, num_before, lambda i, x: teach(x, 1 - i * d, d)[0], x0)
        t = 1 - num_before * d
        middle, first = teach(x, t, d / 2)
        end, second = teach(middle, t - d / 2, d / 2)
        x, end, log_det = lax.stop_gradient((x, end, first + second))
        blocks = network.step(t, d)
        if self.volume_weight == 0:
            student = jax.vmap(lambda x: steps.forward(blocks, x))(x)
            return self.state_weight * jnp.mean(jnp.sum((student - end) ** 2, axis=1))
        student, student_log_det = jax.vmap(lambda x: steps.forward_and_log_det(blocks, x))(x)
        volume = jnp.mean((student_log_det - log_det) ** 2)
        return self.state_weight * jnp.mean(jnp.sum((student - end) ** 2, axis=1)) + self.volume_weight * volume
