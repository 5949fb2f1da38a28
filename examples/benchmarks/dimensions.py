"""What an optimiser step and a draw cost in time and memory, from 125 to 2000 dimensions.

    python examples/benchmarks/dimensions.py             # all: a few minutes
    python examples/benchmarks/dimensions.py 125 2000

Each dimension in a process of its own, on one core: independent Poisson counts with a Gamma rate each, as in
`large_targets.py`. Columns: dimension; milliseconds of an optimiser step with its share of the evaluations, and of a
thousand draws with their exact weights, by a compiled program; megabytes that base and training took, and those that
draws took after it, above what the process held with the model at hand. In brackets the exponent of the growth since
the first row.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

DIMS = (125, 250, 500, 1000, 2000)
COLUMNS = ("step_ms", "draws_ms", "training_mb", "draws_mb")
NUM_ITERATIONS, NUM_DRAWS = 32, 1000


def peak() -> float:
    """The most memory that this process has held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(dim: int) -> dict[str, float]:
    """One dimension, in this process."""
    import jax
    from jax import random

    sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))
    from large_targets import counts

    from numpyro_onestep import OneStep
    from numpyro_onestep.base.problem import Problem
    from numpyro_onestep.base.search import search_model
    from numpyro_onestep.draws.proposal import propose
    from numpyro_onestep.flow.density import Flow
    from numpyro_onestep.training.fit import fit, start

    target = counts(dim)
    kernel = OneStep(target.model, target_ess=1.0)  # no early end
    setup = kernel.look(random.key(0), None, target.args, {})
    before = peak()
    base = search_model(setup, (target.args, {}), 3.0, random.key(1))
    problem = Problem(base, setup.target(target.args, {}))
    plan = kernel.plan(dim, setup.work)
    found = {}
    for key in random.split(random.key(2)):  # the first time it is compiled
        begun = jax.block_until_ready(start(key, problem, plan, NUM_ITERATIONS))
        begin = perf_counter()
        trained = jax.block_until_ready(fit(begun, problem, plan, progress_bar=False))
        found["step_ms"] = 1000 * (perf_counter() - begin) / (NUM_ITERATIONS * plan.stages[0].steps_per_iteration)
    found["training_mb"] = peak() - before
    flow, after = Flow(trained.best, problem), peak()
    for key in random.split(random.key(3)):
        begin = perf_counter()
        jax.block_until_ready(propose(flow, key, NUM_DRAWS, 1))
        found["draws_ms"] = 1000 * (perf_counter() - begin)
    return found | {"draws_mb": peak() - after}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dims", nargs="*", type=int, default=DIMS, help=f"by default {', '.join(map(str, DIMS))}")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.dims[0])))
        return
    print("| D | " + " | ".join(COLUMNS) + " |")
    first = None
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for dim in options.dims:
        command = [sys.executable, __file__, str(dim), "--one"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        cells = [f"{found[c]:.3g}" for c in COLUMNS]
        if first is not None:
            growth = [math.log(max(found[c], 1) / max(first[1][c], 1)) / math.log(dim / first[0]) for c in COLUMNS]
            cells = [f"{cell} ({g:.2f})" for cell, g in zip(cells, growth, strict=True)]
        print(f"| {dim} | " + " | ".join(cells) + " |", flush=True)
        first = first or (dim, found)


if __name__ == "__main__":
    main()
