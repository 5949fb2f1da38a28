"""What more evaluations a draw buy: the ladder from 1 to 64, and the bridge, for each target from one training.

    python examples/benchmarks/ladder.py --out ladder.jsonl           # all targets; those in the file are skipped
    python examples/benchmarks/ladder.py sonar "item response" --seed 1 --out ladder.jsonl
    python examples/benchmarks/ladder.py --figure docs/figures/ladder.png --out ladder.jsonl  # only draws what is there

Defaults but for the number of evaluations, and that the bridge is always crossed. `gap` is log Z − ELBO in nats, log Z
that of the problem where it is known and of the bridge elsewhere; ESS is in percent of the draws. Of the bridge: log Z
and its standard error, the mean over the clouds and that of the way back, evaluations a draw, and the smallest bulk ESS
of 4 × 1000 draws. `adds` is how much longer a run with the bridge takes than one without, both with everything compiled
and evidence included. `ONESTEP_DATA` names the folder with the data of sonar and ionosphere.
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
import rows
from jax import random

from numpyro_onestep import OneStep, OneStepSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

from answer_targets import LARGE, LOG_Z, TARGETS
from problems import PROBLEMS

__all__ = ["BUDGETS", "measure"]

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
NUM_DRAWS = 2048
NAMES = (
    "sonar",
    "ionosphere",
    "double_wells_32",
    "brownian",
    "item response",
    "horseshoe",
    "crossed effects",
    "seeds",
    "counts_400",
    "logistic_300",
    "item response, 280 persons",
    "autoregression",
)


def train(name: str, seed: int, bridge: str) -> tuple[OneStepSampler, float, float]:
    """A default run of a target with its evidence, its known log Z (nan without) and its seconds."""
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {"bridge": bridge}
    init_params = None
    log_z = LOG_Z.get(name, float("nan"))
    if name in PROBLEMS:
        problem = PROBLEMS[name]()
        log_z = problem.log_z
        options |= {"model": problem.model, "potential_fn": problem.potential_fn, **problem.options}
        if problem.init_params is not None:
            init_params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *jnp.shape(leaf))), problem.init_params)
    else:
        options["model"], args = (TARGETS | LARGE)[name](0)
    sampler = OneStepSampler(OneStep(**options), progress_bar=False)
    start = perf_counter()
    sampler.run(random.key(seed), *args, init_params=init_params)
    _ = sampler.evidence
    return sampler, log_z, perf_counter() - start


def bulk_ess(sampler: OneStepSampler) -> float:
    """The smallest of all elements of all sites."""
    import arviz as az

    samples: Any = sampler.get_samples(group_by_chain=True)
    samples = samples if isinstance(samples, dict) else {"parameters": samples}
    draws = {name: np.asarray(value) for name, value in samples.items()}
    return min(float(np.min(np.asarray(az.ess({name: value})[name]))) for name, value in draws.items())


def measure(name: str, seed: int, num_draws: int = NUM_DRAWS) -> dict[str, Any]:
    """One target: the rungs of the ladder, and the bridge of the same flow."""
    sampler, known, seconds = train(name, seed, "always")
    e = sampler.evidence
    log_z = e.log_z if np.isnan(known) else known
    rungs = {}
    for num_steps in BUDGETS:
        log_w = np.asarray(sampler.draw(random.key(seed + 2), num_draws, num_steps=num_steps).log_weights, np.float64)
        w = np.exp(log_w - np.max(log_w))
        rungs[num_steps] = {
            "gap": float(log_z - np.mean(log_w)),
            "ess": float(100 * w.sum() ** 2 / (w**2).sum() / len(w)),
        }
    return {
        "target": name,
        "seed": seed,
        "dim": sampler.last_state.base.dim,  # type: ignore[union-attr]
        "known": None if np.isnan(known) else float(known),
        "rungs": rungs,
        "log_z": e.log_z,
        "std_error": e.std_error,
        "there": e.elbo,
        "back": e.eubo,
        "evaluations": e.num_evaluations,
        "reliable": e.reliable,
        "bulk_ess": bulk_ess(sampler),
        "seconds": seconds,
        # the faster of two runs: programs are given up now and then, and compiled again by the next one
        "adds": min(train(name, seed, "always")[2] for _ in range(2))
        / min(train(name, seed, "never")[2] for _ in range(2))
        - 1,
    }


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    gaps = " ".join(f"{rung['gap']:.3f}" for rung in row["rungs"].values())
    shares = " ".join(f"{rung['ess']:.0f}" for rung in row["rungs"].values())
    known = "" if row["known"] is None else f" (known {row['known']:.3f})"
    print(f"{row['target']}, {row['dim']}-d, seed {row['seed']}: gap {gaps} | ESS {shares}")
    print(
        f"    bridge {row['log_z']:.3f} ± {row['std_error']:.3f}{known}, there {row['there']:.3f}, back "
        f"{row['back']:.3f}, {row['evaluations']} evaluations, bulk ESS {row['bulk_ess']:.0f}, adds {row['adds']:.0%}, "
        f"reliable {row['reliable']}",
        flush=True,
    )


def draw(measured: list[dict[str, Any]], path: str) -> None:
    """Gap and ESS against evaluations, a line for each target, seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for i, row in enumerate(row for row in measured if row["seed"] == 0):
        how: dict[str, Any] = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--", "marker": "o", "ms": 3}
        how["label"] = f"{row['target'].replace('_', ' ')}, {row['dim']}-d"
        x = [int(n) for n in row["rungs"]]
        left.plot(x, [max(rung["gap"], 1e-3) for rung in row["rungs"].values()], **how)
        right.plot(x, [rung["ess"] for rung in row["rungs"].values()], **how)
    left.set(ylabel="log Z − ELBO, nats", yscale="log")
    right.set(ylabel="effective draws, %", ylim=(0, 101))
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set(xlabel="evaluations a draw")
        axis.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
        handlelength=3,
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(NAMES), help="names; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=NUM_DRAWS)
    parser.add_argument("--out", type=Path, help="JSON lines to append to")
    parser.add_argument("--figure", help="draw the file's rows here, and measure nothing")
    options = parser.parse_args()
    if options.figure:
        draw(rows.read(options.out), options.figure)
        return
    unknown = set(options.targets) - {*PROBLEMS, *TARGETS, *LARGE}
    if unknown:
        sys.exit(f"no such target: {', '.join(sorted(unknown))}")
    one = partial(measure, seed=options.seed, num_draws=options.draws)
    rows.fill(options.out, options.targets, options.seed, one, show)


if __name__ == "__main__":
    main()
