"""Run the benchmark problems, trained in full and else with default settings, and print a table.

    python examples/benchmarks/run.py                         # all problems, float32, seed 0
    python examples/benchmarks/run.py funnel --seed 1 --x64   # one of them, in float64
    python examples/benchmarks/run.py --json rows.jsonl       # resumable: keeps the rows that are there
    python examples/benchmarks/run.py --target-ess 0.9        # as `OneStep` does by default: stop early
    python examples/benchmarks/run.py funnel --no-audit --budgets 2 4 8 --curve  # from one training

Columns: network evaluations a draw; share of effective draws among fresh proposals; log Z minus the truth and its
standard error; DF-ELBO and, from exact draws where there are any, DF-EUBO minus the truth; Pareto k; Sinkhorn
divergence between draws and exact draws, relative to that between exact draws (16 sets of 512 draws each, so that
perfect draws are near 1); fold fraction on base draws and on base draws stretched by 1.5; share of draws x that the
inverse recovers to 1e-4 (1 + max |x|); largest error of a posterior mean in posterior standard deviations (against the
exact moments, or a long NUTS run with --nuts), among corrected draws; largest relative error of a mode's weight, among
163,840 weighted draws; millions of target gradients of the warmup; seconds of the warmup
(base search, compilation, training and audit); `reliable`. In the JSON also `ess_median`, the median share of effective
draws of ten sets, and `inverted_inflated`, the share inverted of the stretched draws. With --budgets the finer budgets
are refined in the same warmup, and each gets a row of its own; --curve adds rows for all budgets up to 128 as they
come.

Ionosphere, sonar and German credit need their data: set ONESTEP_DATA (see `problems.read_csv`).
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import numpyro
import rows as rows_
from jax import random
from numpyro.infer import MCMC, NUTS
from problems import PROBLEMS, Problem

from numpyro_onestep import OneStep, OneStepSampler
from numpyro_onestep.base import distribution as base_
from numpyro_onestep.compilation import full_precision
from numpyro_onestep.draws.weights import effective_sample_size, log_mean_weight, pareto_k, unseen_error
from numpyro_onestep.flow import density, steps
from numpyro_onestep.run import run_of

COLUMNS = (
    "nfe",
    "ess",
    "log_z_error",
    "std_error",
    "elbo_gap",
    "eubo_gap",
    "pareto_k",
    "sinkhorn",
    "folds",
    "folds_inflated",
    "inverted",
    "mean_error_sd",
    "mode_error",
    "gradients",
    "seconds",
)
ALL_BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128)
NUM_FRESH = 16_384  # draws behind ess, log Z, ELBO and k of each budget


class Flow:
    """The trained map of one budget, with what is measured on it."""

    def __init__(self, sampler: OneStepSampler, num_steps: int):
        (trained,) = run_of(sampler, "this table").flows()
        self.base, self.problem = trained.problem.base, trained.problem
        self.blocks = steps.compiled_blocks_of(trained.network, num_steps)

    def folds_and_inverted(self, rng_key: jax.Array, inflate: float, num_draws: int = 2048) -> tuple[float, float]:
        """Share of base draws at which the map is not locally injective, and share that its inverse recovers."""

        @jax.jit
        @full_precision
        def check(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y, log_det = steps.forward_and_log_det(self.blocks, x)
            error = jnp.max(jnp.abs(steps.inverse(self.blocks, y) - x))
            # the last digits of a large y cannot tell base points apart that lie closer than its rounding
            return jnp.isnan(log_det), error < 1e-4 * (1 + jnp.max(jnp.abs(x)))

        folded, inverted = jax.vmap(check)(base_.sample(self.base, rng_key, num_draws, inflate))
        return float(jnp.mean(folded)), float(jnp.mean(inverted))

    def eubo(self, draws: jax.Array) -> float:
        """Mean log γ(z) − log q(z) over exact draws z, an upper bound of log Z; infinite if one lost its way back."""

        @jax.jit
        @full_precision
        def gap(z: jax.Array) -> jax.Array:
            return self.problem.density.value(z) - density.log_prob(self.base, self.blocks, z)

        gaps = jax.vmap(gap)(draws)
        return float(jnp.mean(jnp.where(jnp.isnan(gaps), jnp.inf, gaps)))


def sinkhorn_ratio(draws: np.ndarray, sample: Callable[[jax.Array, int], jax.Array]) -> float:
    """Mean Sinkhorn divergence of sets of draws to exact ones over that of exact ones to others: 1 for perfect draws.

    nan where ott-jax, of the `benchmark` extra, is not installed.
    """
    try:
        from ott.geometry import pointcloud
        from ott.tools.sinkhorn_divergence import sinkhorn_divergence
    except ModuleNotFoundError:
        return float("nan")

    num_sets, size = 16, 512
    total = num_sets * size
    exact, others = (sample(random.key(seed), total).reshape(num_sets, size, -1) for seed in (6, 7))
    corrected = jnp.asarray(draws[:total], exact.dtype).reshape(size, num_sets, -1).swapaxes(0, 1)
    scale = jnp.std(exact, axis=(0, 1))

    @jax.jit
    def divergence(x: jax.Array, y: jax.Array) -> jax.Array:
        return sinkhorn_divergence(pointcloud.PointCloud, x / scale, y / scale, epsilon=0.1 * x.shape[1])[0]

    ours, theirs = (sum(map(divergence, sets, exact)) for sets in (corrected, others))
    return float(ours / theirs)


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


def measure(
    name: str,
    seed: int,
    budgets: tuple[int, ...] = (),
    nuts: bool = False,
    kernel_class: type[OneStep] = OneStep,
    options: dict[str, Any] | None = None,
    curve: bool = False,
    num_warmup: int = 1000,
    target_ess: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """The rows of one problem from one training: of one step and each of `budgets`, or of all if `curve`.

    `options` are further ones of the kernel.
    """
    problem = PROBLEMS[name]()
    choices = {"budgets": budgets, "target_ess": target_ess, **problem.options, **(options or {})}
    kernel = kernel_class(problem.model, potential_fn=problem.potential_fn, **choices)
    sampler = OneStepSampler(kernel, num_warmup=num_warmup, num_samples=2500, progress_bar=False)
    params = problem.init_params
    if params is not None:
        params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *jnp.shape(leaf))), params)
    start = time.perf_counter()
    sampler.warmup(random.key(seed), init_params=params)
    jax.block_until_ready(sampler.last_state.train.best)
    seconds, gradients = time.perf_counter() - start, sampler.num_gradients / 1e6
    sampler.run(random.key(seed + 1), init_params=params)
    draws = flat_draws(sampler.get_samples())
    moments = problem.moments or (nuts_moments(problem) if nuts else None)
    for num_steps in ALL_BUDGETS if curve else (1, *budgets):
        fresh = sampler.draw(random.key(seed + 2), NUM_FRESH, num_steps=num_steps)
        log_w = fresh.log_weights
        log_z, std_error = log_mean_weight(log_w)
        tail_shape = pareto_k(log_w)
        trained = Flow(sampler, num_steps)
        folds, inverted = trained.folds_and_inverted(random.key(4), 1.0)
        folds_inflated, inverted_inflated = trained.folds_and_inverted(random.key(5), 1.5)
        row = {
            "problem": name,
            "seed": seed,
            "float64": bool(jax.config.jax_enable_x64),
            "budgets": list(budgets),
            "curve": curve,
            "audit": kernel.coverage_audit,
            "target_ess": target_ess,
            "jaxlib": jaxlib.__version__,
            "backend": jax.default_backend(),
            "nfe": num_steps,
            "ess": float(effective_sample_size(log_w)) / NUM_FRESH,
            "log_z_error": float(log_z) - problem.log_z,
            "log_z_reference_error": problem.log_z_error,
            "std_error": float(np.hypot(std_error, unseen_error(log_w, tail_shape))),
            "elbo_gap": float(jnp.mean(log_w)) - problem.log_z,
            "elbo_last": float(jnp.mean(sampler.last_state.train.elbo)),  # of the last network, kept or not
            "eubo_gap": float("nan"),
            "pareto_k": tail_shape,
            "sinkhorn": float("nan"),
            "folds": folds,
            "folds_inflated": folds_inflated,
            "inverted": inverted,
            "inverted_inflated": inverted_inflated,
            "mean_error_sd": float("nan"),
            "mode_error": float("nan"),
            "gradients": gradients,
            "seconds": seconds,
        }
        if num_steps == 1:  # of the corrected draws of the whole run
            e = sampler.evidence
            row |= {"reliable": e.reliable, "warnings": list(e.warnings)}
            row |= of_many_draws(problem, sampler, random.key(seed + 3))
            if moments:
                row["mean_error_sd"] = float(np.max(np.abs(draws.mean(0) - moments[0]) / moments[1]))
        if problem.draws is not None:
            exact = problem.draws(random.key(6), 2048)
            row["eubo_gap"] = trained.eubo(exact) - problem.log_z
            if num_steps == 1:
                row["sinkhorn"] = sinkhorn_ratio(draws, problem.draws)
        yield row


def of_many_draws(problem: Problem, sampler: OneStepSampler, rng_key: jax.Array) -> dict[str, float]:
    """Median share of effective draws, and largest relative error of a mode's weight, of ten sets of weighted draws.

    One set is too few for either: a single draw in 160,000 may cost its set, of a good flow, ten points of its share,
    and 10,000 draws leave each of forty modes 6 % of noise, the worst of them more than 20 % in one of 20 looks, were
    the draws exact.
    """
    shares, weights_of_modes = [], []
    for key in random.split(rng_key, 10):
        fresh = sampler.draw(key, NUM_FRESH, num_steps=1)
        log_w = np.asarray(fresh.log_weights, float)
        shares.append(float(effective_sample_size(log_w)) / NUM_FRESH)
        if problem.modes is not None:
            centers, weights, sd = problem.modes
            log_kernel = -0.5 * (((flat_draws(fresh.samples)[:, None] - centers) / sd) ** 2).sum(2) + np.log(weights)
            # each draw counts for every mode by its responsibility
            responsibility = np.exp(log_kernel - log_kernel.max(1, keepdims=True))
            responsibility /= responsibility.sum(1, keepdims=True)
            weights_of_modes.append(np.exp(log_w) @ responsibility)
    row = {"ess_median": float(np.median(shares)), "mode_error": float("nan")}
    if problem.modes is not None:
        total = sum(weights_of_modes)
        row["mode_error"] = float(np.max(np.abs(total / total.sum() / problem.modes[1] - 1)))
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help=f"any of {', '.join(PROBLEMS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="finer budgets to refine, such as 2 4 8")
    parser.add_argument("--target-ess", type=float, default=1.0, help="stop when so many draws are effective")
    parser.add_argument("--curve", action="store_true", help="rows for all budgets from 1 to 128")
    parser.add_argument("--no-audit", action="store_true", help="without the coverage audit: seconds of training alone")
    parser.add_argument("--x64", action="store_true", help="double precision")
    parser.add_argument("--nuts", action="store_true", help="compare means with a long NUTS run where none are known")
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it already holds")
    options = parser.parse_args()
    if options.x64:
        numpyro.enable_x64()
    budgets = tuple(options.budgets)
    extra = {"coverage_audit": not options.no_audit}
    known = rows_.read(options.json)
    columns = ("problem", "seed", "float64", "budgets", "curve", "audit")
    done = [[*(row.get(column) for column in columns), row.get("target_ess", 1.0)] for row in known]
    missing: list[str] = []
    print(f"{'problem':24}" + "".join(f"{c:>15}" for c in COLUMNS) + "  reliable", flush=True)
    for name in options.problems or PROBLEMS:
        if [
            name,
            options.seed,
            options.x64,
            list(budgets),
            options.curve,
            not options.no_audit,
            options.target_ess,
        ] in done:
            print(f"{name:24} is in {options.json} already")
            continue
        rows = []
        try:
            for row in measure(
                name,
                options.seed,
                budgets,
                options.nuts,
                options=extra,
                curve=options.curve,
                target_ess=options.target_ess,
            ):
                print(
                    f"{name:24}" + "".join(f"{row[c]:15.4f}" for c in COLUMNS) + f"  {row.get('reliable')}", flush=True
                )
                rows.append(row)
        except FileNotFoundError as error:  # of the problem's data; the others go on
            missing.append(str(error))
            print(f"{name:24} has no data")
        rows_.append(options.json, rows)
    if missing:
        raise SystemExit("\n".join(missing))


if __name__ == "__main__":
    main()
