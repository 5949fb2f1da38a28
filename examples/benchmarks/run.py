"""Run the benchmark problems with default settings and print a table.

    python examples/benchmarks/run.py                        # all problems, float32, seed 0
    python examples/benchmarks/run.py funnel --seed 1 --x64  # one of them, in float64

Columns: share of effective draws among fresh proposals; log Z minus the truth and its standard error; DF-ELBO minus
the truth; fold fraction on base draws and on base draws stretched by 1.5; largest error of a posterior mean in
posterior standard deviations (against the exact moments, or a long NUTS run with --nuts); largest relative error of a
mode's weight; seconds of `warmup` (base search, compilation and training); `reliable`. One JSON line a problem goes to
--json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from numpyro.infer import MCMC, NUTS
from problems import PROBLEMS, Problem

from numpyro_onestep import OneStep, OneStepSampler, flow
from numpyro_onestep import base as base_

COLUMNS = (
    "ess",
    "log_z_error",
    "std_error",
    "elbo_gap",
    "pareto_k",
    "folds",
    "folds_inflated",
    "mean_error_sd",
    "mode_error",
    "seconds",
)


def folds_when_inflated(sampler: OneStepSampler, rng_key: jax.Array, inflate: float, num_draws: int = 2048) -> float:
    """Share of stretched base draws at which the map is not locally injective or its inverse does not return."""
    state = sampler.last_state
    blocks = flow.blocks_of(state.train.best, sampler.sampler.num_steps)

    @jax.jit
    def folded(x: jax.Array) -> jax.Array:
        y, log_det = flow.forward_and_log_det(blocks, x)
        error = jnp.max(jnp.abs(flow.inverse(blocks, y) - x))
        return jnp.isnan(log_det) | ~(error < 1e-3 * (1 + jnp.max(jnp.abs(x))))

    x0 = base_.sample(state.base, rng_key, num_draws, inflate)
    return float(jnp.mean(jax.vmap(folded)(x0)))


def flat_draws(samples: Any) -> np.ndarray:
    """All sites side by side, shape (draws, coordinates)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(samples)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def nuts_moments(problem: Problem, num_samples: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations from a long NUTS run."""
    kernel = NUTS(problem.model, potential_fn=problem.potential_fn, target_accept_prob=0.99)
    counts = {"num_warmup": 2000, "num_samples": num_samples, "num_chains": 4}
    mcmc = MCMC(kernel, **counts, chain_method="vectorized", progress_bar=False)
    mcmc.run(random.key(123))
    draws = flat_draws(mcmc.get_samples())
    return draws.mean(0), draws.std(0)


def measure(name: str, seed: int, nuts: bool = False) -> dict[str, Any]:
    """One row of the table."""
    problem = PROBLEMS[name]()
    kernel = OneStep(problem.model, potential_fn=problem.potential_fn, **problem.options)
    sampler = OneStepSampler(kernel, num_samples=2500, progress_bar=False)
    params = problem.init_params
    if params is not None:
        params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *jnp.shape(leaf))), params)
    start = time.perf_counter()
    sampler.warmup(random.key(seed), init_params=params)
    jax.block_until_ready(sampler.last_state.train.best)
    seconds = time.perf_counter() - start
    sampler.run(random.key(seed + 1), init_params=params)
    e = sampler.evidence
    draws = flat_draws(sampler.get_samples())
    moments = problem.moments or (nuts_moments(problem) if nuts else None)
    row = {
        "problem": name,
        "seed": seed,
        "float64": bool(jax.config.jax_enable_x64),
        "ess": e.ess / e.num_proposals,
        "log_z_error": e.log_z - problem.log_z,
        "std_error": e.std_error,
        "elbo_gap": e.elbo - problem.log_z,
        "pareto_k": e.pareto_k,
        "folds": e.fold_fraction,
        "folds_inflated": folds_when_inflated(sampler, random.key(5), 1.5),
        "mean_error_sd": float(np.max(np.abs(draws.mean(0) - moments[0]) / moments[1])) if moments else float("nan"),
        "mode_error": mode_error(problem, draws),
        "seconds": seconds,
        "reliable": e.reliable,
        "warnings": list(e.warnings),
    }
    return row


def mode_error(problem: Problem, draws: np.ndarray) -> float:
    """Largest relative error of a mode's weight; each draw counts for every mode by its responsibility."""
    if problem.modes is None:
        return float("nan")
    centers, weights, sd = problem.modes
    log_kernel = -0.5 * (((draws[:, None] - centers) / sd) ** 2).sum(2) + np.log(weights)
    responsibility = np.exp(log_kernel - log_kernel.max(1, keepdims=True))
    responsibility /= responsibility.sum(1, keepdims=True)
    return float(np.max(np.abs(responsibility.mean(0) / weights - 1)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help=f"any of {', '.join(PROBLEMS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--x64", action="store_true", help="double precision")
    parser.add_argument("--nuts", action="store_true", help="compare means with a long NUTS run where none are known")
    parser.add_argument("--json", type=Path, help="append one JSON line a problem to this file")
    options = parser.parse_args()
    if options.x64:
        numpyro.enable_x64()
    print(f"{'problem':22}" + "".join(f"{c:>15}" for c in COLUMNS) + "  reliable", flush=True)
    for name in options.problems or PROBLEMS:
        row = measure(name, options.seed, options.nuts)
        print(f"{name:22}" + "".join(f"{row[c]:15.4f}" for c in COLUMNS) + f"  {row['reliable']}", flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
