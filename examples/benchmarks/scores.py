"""What the scores of a batch cost, carried through a trained flow with and without a factorisation for each draw.

    python examples/benchmarks/scores.py                # all targets: some minutes
    python examples/benchmarks/scores.py sonar brownian

A flow is trained with the defaults, and 64 draws carried through it. Columns: dimension; ridges of a block;
milliseconds with the Jacobian of each draw factorised (`steps.push_score`); the same with that of the mean alone
(`scores.push_scores`); their ratio; the noise of the second, the median over draws of the length of its difference
from the exact score, in percent of the median length of the difference between the flow's score and the target's; the
same for the mean of 64 such scores, which would be an eighth of it but for what conjugate gradients leave. Times are
medians of 20, on this machine.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.compilation import jit
from numpyro_onestep.flow import steps
from numpyro_onestep.flow.block import BlockParams
from numpyro_onestep.flow.scores import push_scores
from numpyro_onestep.run import run_of

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

from answer_targets import TARGETS
from problems import PROBLEMS

NAMES = ("ionosphere", "sonar", "brownian", "double_wells_32", "horseshoe", "item response", "crossed effects")
NUM_DRAWS, NUM_CALLS = 64, 20


@jit
def factorised(blocks: BlockParams, rng_key: Array, x: Array, score: Array) -> tuple[Array, Array]:
    """Each draw by itself; the key is not used."""
    return jax.vmap(lambda x, score: steps.push_score(blocks, x, score)[:2])(x, score)


@jit
def of_a_batch(blocks: BlockParams, rng_key: Array, x: Array, score: Array) -> tuple[Array, Array]:
    """All draws together."""
    return push_scores(blocks, rng_key, x, score)


def seconds(function: Any, *args: Any) -> float:
    """The median of some calls, compiled before."""
    times = []
    for _ in range(NUM_CALLS + 1):
        begin = perf_counter()
        jax.block_until_ready(function(*args))
        times.append(perf_counter() - begin)
    return float(np.median(times[1:]))


def trained(name: str) -> Any:
    """The flow of a run with the defaults."""
    if name in TARGETS:
        model, args = TARGETS[name](0)
        sampler = OneStepSampler(OneStep(model, bridge="never"), progress_bar=False)
        sampler.run(random.key(0), *args)
    else:
        problem = PROBLEMS[name]()
        kernel = OneStep(problem.model, potential_fn=problem.potential_fn, bridge="never", **problem.options)
        sampler = OneStepSampler(kernel, progress_bar=False)
        start = None if problem.model else jax.tree.map(lambda leaf: jnp.stack(4 * [leaf]), problem.init_params)
        sampler.run(random.key(0), init_params=start)
    return run_of(sampler, "this script").flows()[0]


def length(vectors: Any) -> float:
    """The median length of the rows."""
    return float(np.median(np.linalg.norm(np.asarray(vectors, float), axis=1)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=NAMES, help=f"by default {', '.join(NAMES)}")
    options = parser.parse_args()
    columns = ("D", "ridges", "factorised", "batch", "ratio", "noise, %", "mean of 64")
    print(f"{'target':18}" + "".join(f"{c:>12}" for c in columns))
    for name in options.targets:
        flow = trained(name)
        base, blocks = flow.problem.base, steps.blocks_of(flow.network, 1)
        x = base_.sample(base, random.key(1), NUM_DRAWS)
        start = jax.vmap(lambda x, base=base: base_.score(base, x))(x)
        args = blocks, random.key(2), x, start
        y, exact = factorised(*args)
        misfit = length(exact - jax.vmap(flow.problem.target.value_and_grad)(y)[1])
        several = np.stack([of_a_batch(blocks, key, x, start)[1] for key in random.split(random.key(3), 64)])
        times = seconds(factorised, *args), seconds(of_a_batch, *args)
        errors = length(several[0] - exact), length(np.mean(several, axis=0) - exact)
        print(
            f"{name:18}{base.dim:12}{blocks.directions.shape[1]:12}{1e3 * times[0]:12.2f}{1e3 * times[1]:12.2f}"
            f"{times[0] / times[1]:12.1f}{100 * errors[0] / misfit:12.1f}{100 * errors[1] / misfit:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
