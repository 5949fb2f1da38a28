"""Fifty to 1600 dimensions: one evaluation a draw, log Z, chains and seconds of default runs.

    python examples/benchmarks/large.py --json large.jsonl            # all targets; those in the file are skipped
    python examples/benchmarks/large.py "group means" radon --seed 1

One-step ESS is of 4096 fresh draws. log Z is that of `sampler.evidence`, from a bridge where one step is not enough
(`evaluations` more than 1). `error` is against closed forms and quadrature, where there are any. Bulk ESS is the
smallest of 4 × 1000 draws. `members` are whitened given the rest. Seconds are of a whole run in a process that has
compiled nothing for the model, evidence included; the number of cores that it may use is printed too.
"""

import argparse
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import rows
from jax import random

from numpyro_onestep import OneStep, OneStepSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

from ladder import bulk_ess
from large_targets import LARGE_TARGETS

COLUMNS = "target,dim,members,one_step_ess,log_z,std_error,error,evaluations,bulk_ess,reliable,gradients,seconds,cores"


def measure(name: str, seed: int) -> dict[str, Any]:
    """A default run of one target."""
    target = LARGE_TARGETS[name]()
    kernel = OneStep(target.model, potential_fn=target.potential_fn, **target.options)
    sampler = OneStepSampler(kernel, num_samples=1000, num_chains=4, progress_bar=False)
    start = perf_counter()
    sampler.run(random.key(seed), *target.args, init_params=None if target.model else np.zeros(50, np.float32))
    found = sampler.evidence
    seconds = perf_counter() - start
    log_w = np.asarray(sampler.draw(random.key(seed + 2), 4096).log_weights, np.float64)
    w = np.exp(log_w - np.max(log_w))
    members = sampler.setup.members  # type: ignore[union-attr]
    return {
        "target": name,
        "seed": seed,
        "dim": sampler.last_state.base.dim,  # type: ignore[union-attr]
        "members": 0 if members is None else len(members.members),
        "one_step_ess": float(100 * w.sum() ** 2 / (w**2).sum() / len(w)),
        "log_z": found.log_z,
        "std_error": found.std_error,
        "error": None if np.isnan(target.log_z) else found.log_z - target.log_z,
        "evaluations": found.num_evaluations,
        "bulk_ess": bulk_ess(sampler),
        "reliable": found.reliable,
        "gradients": sampler.num_gradients,
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)),
    }


def show(row: dict[str, Any]) -> None:
    """One row of a Markdown table."""
    cells = [row[name] for name in COLUMNS.split(",")]
    texts = ["–" if c is None else f"{c:.4g}" if isinstance(c, float) and abs(c) < 100 else str(c) for c in cells]
    print("| " + " | ".join(texts) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(LARGE_TARGETS), help=f"any of {', '.join(LARGE_TARGETS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append one JSON line a target to this file; skip what it holds")
    options = parser.parse_args()
    print("| " + COLUMNS.replace(",", " | ") + " |")
    rows.fill(options.json, options.targets, options.seed, lambda name: measure(name, options.seed), show)
