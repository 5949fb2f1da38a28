"""Whether what many evaluations draw can teach the map of one: particles of the bridge against longer training.

    python examples/benchmarks/distillation.py --out distillation.jsonl     # resumable: keeps the rows that are there
    python examples/benchmarks/distillation.py sonar --seed 1 --seconds 20

From a default run of each target the averaged network is trained on for the same time in two ways: by the path gradient
as before, and by maximum likelihood of the particles that a bridge brought to the target, 4096 of them, through the
exact inverse of the map and with no further target gradients. Each with Adam at three learning rates, half a cosine
down. Columns: one-step effective draws in percent of 16,384 before and after, and steps taken. `ONESTEP_DATA` names the
folder with the data of sonar.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random
from jax.flatten_util import ravel_pytree

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.base.problem import Problem
from numpyro_onestep.bridge.crossing import cross, sweep
from numpyro_onestep.draws.proposal import propose
from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.density import Flow
from numpyro_onestep.flow.network import StepNetwork
from numpyro_onestep.run import run_of
from numpyro_onestep.training.losses import PathGradient

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

import rows
from answer_targets import TARGETS

NAMES = "sonar", "item response", "horseshoe", "crossed effects"
RATES = 0.01, 0.002, 0.0004
NUM_SWEEPS = 4
NUM_HELD_OUT = 16_384
BLOCK = 20  # steps between two looks at the clock


def likelihood(network: StepNetwork, problem: Problem, rng_key: Array, particles: Array, size: int) -> Array:
    """Its gradient is that of −log q of some particles: ⟨∇log q(y), ∂T(x)⟩ + ∂log|det J(x)| with T(x) = y."""
    y = particles[random.randint(rng_key, (size,), 0, len(particles))]
    blocks = steps.blocks_of(network, 1)
    frozen = lax.stop_gradient(blocks)
    x = lax.stop_gradient(jax.vmap(lambda y: steps.inverse(frozen, y))(y))
    score = jax.vmap(lambda x: steps.push_score(frozen, x, base_.score(problem.base, x))[1])(x)
    end, log_det = jax.vmap(lambda x: steps.forward_and_log_det(blocks, x))(x)
    return jnp.mean(jnp.sum(lax.stop_gradient(score) * end, axis=1) + log_det)


def path_gradient(network: StepNetwork, problem: Problem, rng_key: Array, particles: Array, size: int) -> Array:
    """The objective of training, which needs no particles."""
    return PathGradient(batch_size=size)(network, network, problem, rng_key, jnp.ones(()))


@partial(jax.jit, static_argnames=("objective", "size"))
def advance(
    params: Array, state: Any, network: StepNetwork, problem: Problem, rng_key: Array, particles: Array,
    rates: Array, objective: Any, size: int,
) -> tuple[Array, Any]:  # fmt: skip
    """As many steps of Adam as there are rates."""
    _, unravel = ravel_pytree(network)
    adam = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())

    def body(carry: tuple[Array, Any], at: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
        params, state = carry
        key, rate = at
        grads = jax.grad(lambda p: objective(unravel(p), problem, key, particles, size))(params)
        updates, state = adam.update(jnp.where(jnp.isfinite(grads), grads, 0.0), state)
        return (params - rate * jnp.asarray(updates), state), None

    return lax.scan(body, (params, state), (random.split(rng_key, len(rates)), rates))[0]


def train_on(
    flow: Flow, objective: Any, particles: Array, rate: float, seconds: float, rng_key: Array
) -> tuple[Flow, int]:
    """The flow after so many seconds of an objective, compilation not counted, and the steps that it took."""
    params, unravel = ravel_pytree(flow.network)
    adam = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())
    state = adam.init(params)
    go = partial(advance, network=flow.network, problem=flow.problem, particles=particles, objective=objective, size=64)
    jax.block_until_ready(go(params, state, rng_key=rng_key, rates=jnp.zeros(BLOCK)))
    start, num, done = perf_counter(), 0, 0.0
    while done < 1:
        rates = jnp.full(BLOCK, 0.5 * rate * (1 + np.cos(np.pi * done)))
        params, state = jax.block_until_ready(go(params, state, rng_key=random.fold_in(rng_key, num), rates=rates))
        num += BLOCK
        done = (perf_counter() - start) / seconds
    return flow._replace(network=unravel(params)), num


def share(flow: Flow) -> float:
    """Effective draws of one evaluation each, in percent."""
    return (
        100
        * effective_sample_size(np.asarray(propose(flow, random.key(99), NUM_HELD_OUT, 1).log_weights))
        / NUM_HELD_OUT
    )


def measure(name: str, seed: int, seconds: float) -> dict[str, Any]:
    """One target."""
    model, args = TARGETS[name](0)
    sampler = OneStepSampler(OneStep(model), progress_bar=False)
    sampler.run(random.key(seed), *args)
    flow = run_of(sampler, "this").flows()[0]
    key_cross, key_sweep, key_train = random.split(random.key(seed + 1), 3)
    drawn = sweep(flow, key_sweep, cross(flow, key_cross).clouds, NUM_SWEEPS)
    points = jnp.reshape(drawn.points, (-1, flow.problem.base.dim))
    particles = jax.jit(jax.vmap(partial(base_.whiten_point, flow.problem.base)))(points)
    row: dict[str, Any] = {"target": name, "seed": seed, "seconds": seconds, "before": share(flow)}
    for objective in (path_gradient, likelihood):
        for rate in RATES:
            after, num = train_on(flow, objective, particles, rate, seconds, key_train)
            row[f"{objective.__name__} {rate}"] = share(after), num
    return row


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    shown = {k: f"{v[0]:.1f} % in {v[1]} steps" for k, v in row.items() if isinstance(v, list | tuple)}
    print(f"{row['target']}, seed {row['seed']}: {row['before']:.1f} % before; {shown}", flush=True)


def main() -> None:
    """Measure the targets that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    one = partial(measure, seed=options.seed, seconds=options.seconds)
    rows.fill(options.out, options.targets, options.seed, one, show)


if __name__ == "__main__":
    main()
