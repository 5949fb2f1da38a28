"""One optimiser step: schedules of learning rate and annealing, Adam, the averaged network."""

import jax
import jax.numpy as jnp
import optax
from jax import Array, random
from jax.flatten_util import ravel_pytree

from numpyro_onestep.base.problem import Problem
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.training.plan import Stage
from numpyro_onestep.training.state import TrainState

__all__ = ["annealing", "init", "learning_rate", "optimize"]

_adam = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())


def init(network: StepNetwork) -> optax.OptState:
    """The optimiser's state before the first step on `network`."""
    return _adam.init(ravel_pytree(network)[0])


def optimize(
    state: TrainState,
    step: Array,
    age: Array,
    progress: Array,
    anneal: Array | bool,
    problem: Problem,
    stage: Stage,
    rng_key: Array,
    later: bool,
) -> TrainState:
    """One optimiser step; skipped where the gradient is not finite.

    Args:
        state: before the step.
        step: its number within the stage.
        age: its number within the round.
        progress: of the round, in [0, 1].
        anneal: whether the target is annealed in this round.
        problem: base and target.
        stage: objectives and peak learning rate.
        rng_key: random key of the stage.
        later: whether only the corrections of finer budgets move.
    """
    share = jnp.where(anneal, annealing(progress), 1.0)
    keys = random.split(random.fold_in(rng_key, step), len(stage.losses))

    def total(network: StepNetwork) -> Array:
        terms = [f(network, state.average, problem, k, share) for f, k in zip(stage.losses, keys, strict=True)]
        return sum(terms, start=jnp.zeros(()))

    grads = ravel_pytree(jax.grad(total)(state.network))[0]
    finite = jnp.all(jnp.isfinite(grads))
    if later:
        grads = grads * ravel_pytree(state.network.only_corrections())[0]
    updates, optimizer_state = _adam.update(jnp.where(finite, grads, 0.0), state.optimizer_state)
    optimizer_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), optimizer_state, state.optimizer_state)
    # one flat vector: far less to compile and to dispatch than twenty leaves
    params, unravel = ravel_pytree(state.network)
    # towards many modes at once, smaller steps end higher
    peak = stage.learning_rate * jnp.where(anneal, min(1.0, 2 / problem.base.dim**0.5), 1.0)
    rate = jnp.where(finite, learning_rate(progress, peak), 0.0)
    params = params - rate * jnp.asarray(updates)
    decay = jnp.where(finite, jnp.minimum(0.998, (1 + age) / (10 + age)), 1.0)
    average = ravel_pytree(state.average)[0]
    average = average + (1 - decay) * (params - average)  # exact where both are equal
    return state._replace(network=unravel(params), average=unravel(average), optimizer_state=optimizer_state)


def learning_rate(progress: Array, peak: float | Array, warm_up: float = 0.02, final: float = 0.01) -> Array:
    """Linear warm-up to `peak`, then half a cosine down to `final`·`peak`."""
    rise = jnp.minimum(1.0, progress / warm_up)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - warm_up) / (1 - warm_up), 0.0, 1.0)))
    return peak * rise * (final + (1 - final) * fall)


def annealing(progress: Array, end: float = 0.5) -> Array:
    """λ of the annealed target p0^(1−λ) γ^λ: linear, complete at `end`."""
    return jnp.minimum(1.0, progress / end)
