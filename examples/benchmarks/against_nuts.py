"""Whether the chains of a default run agree with long NUTS, and what their draws are worth.

    python examples/benchmarks/against_nuts.py --out against_nuts.jsonl     # resumable: keeps the rows that are there
    python examples/benchmarks/against_nuts.py horseshoe --seed 1
    python examples/benchmarks/against_nuts.py Lorenz radon                 # or others of `large_targets.py`

NUTS: 4 chains of 4000 draws after 2000 of warmup, vectorized, target acceptance .95. Over all elements of all sites:
the largest difference of means in standard deviations, the standard deviations' ratios furthest from one, beside
the largest log ratio between those of two of NUTS's chains and those of the other two, smallest bulk ESS of our
4 × 1000 draws and of NUTS's, NUTS's largest r_hat and its divergences. A mean of NUTS has an error of
1/√ESS standard deviations itself. Then our log Z, and what it is known to be. `ONESTEP_DATA` names the folder with the
data of sonar and ionosphere.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
from jax import random
from numpyro.infer import MCMC, NUTS

sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

import rows
from answer_targets import LARGE, TARGETS
from ladder import train
from large_targets import LARGE_TARGETS
from problems import PROBLEMS

from numpyro_onestep import OneStep, OneStepSampler

__all__ = ["measure"]

NAMES = (
    "item response",
    "horseshoe",
    "crossed effects",
    "brownian",
    "counts_400",
    "logistic_300",
    "seeds",
    "item response, 280 persons",
    "autoregression",
)


def elementwise(function: Any, draws: dict[str, np.ndarray]) -> np.ndarray:
    """A diagnostic of ArviZ for every element of every site, as a vector."""
    return np.concatenate([np.ravel(np.asarray(function({name: value})[name])) for name, value in draws.items()])


def measure(name: str, seed: int) -> dict[str, Any]:
    """One target."""
    if name not in PROBLEMS | TARGETS | LARGE:
        model, args, known, *_ = LARGE_TARGETS[name]()
        sampler = OneStepSampler(OneStep(model), num_samples=1000, num_chains=4, progress_bar=False)
        sampler.run(random.key(seed), *args)
    else:
        sampler, known, _ = train(name, seed, "auto")
        model, args = (PROBLEMS[name]().model, ()) if name in PROBLEMS else (TARGETS | LARGE)[name](0)
    e = sampler.evidence
    nuts = MCMC(
        NUTS(model, target_accept_prob=0.95),
        num_warmup=2000,
        num_samples=4000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    nuts.run(random.key(seed + 7), *args, extra_fields=("diverging",))
    reference = {name: np.asarray(value) for name, value in nuts.get_samples(group_by_chain=True).items()}
    reference = {name: value for name, value in reference.items() if np.min(np.std(value, axis=(0, 1))) > 0}
    ours = {
        name: np.asarray(value) for name, value in sampler.get_samples(group_by_chain=True).items() if name in reference
    }
    flat = [
        np.concatenate([v.reshape(v.shape[0] * v.shape[1], -1) for v in d.values()], axis=1) for d in (ours, reference)
    ]
    sd = [np.std(draws, axis=0) for draws in flat]
    ratio = sd[0] / sd[1]
    halves = [np.std(half, axis=0) for half in np.split(flat[1], 2)]
    return {
        "target": name,
        "seed": seed,
        "dim": sampler.last_state.base.dim,  # type: ignore[union-attr]
        "mean_off": float(np.max(np.abs(np.mean(flat[0], axis=0) - np.mean(flat[1], axis=0)) / sd[1])),
        "sd_low": float(np.min(ratio)),
        "sd_high": float(np.max(ratio)),
        "halves": float(np.max(np.abs(np.log(halves[0] / halves[1])))),
        "ess": float(np.min(elementwise(az.ess, ours))),
        "nuts_ess": float(np.min(elementwise(az.ess, reference))),
        "nuts_r_hat": float(np.max(elementwise(az.rhat, reference))),
        "divergences": int(np.sum(nuts.get_extra_fields()["diverging"])),
        "log_z": e.log_z,
        "std_error": e.std_error,
        "known": float(known),
        "evaluations": e.num_evaluations,
        "reliable": e.reliable,
    }


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    print(
        f"{row['target']}, {row['dim']}-d, seed {row['seed']}: means {row['mean_off']:.2f} sd off, sds "
        f"{row['sd_low']:.2f} to {row['sd_high']:.2f} (±{row['halves']:.2f}), bulk ESS {row['ess']:.0f}; "
        f"NUTS: bulk ESS {row['nuts_ess']:.0f}, r_hat {row['nuts_r_hat']:.3f}, {row['divergences']} divergences; "
        f"log Z {row['log_z']:.3f} ± {row['std_error']:.3f} (known {row['known']:.3f}), {row['evaluations']} "
        f"evaluations, reliable {row['reliable']}",
        flush=True,
    )


def main() -> None:
    """Measure the targets that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows.fill(options.out, options.targets, options.seed, partial(measure, seed=options.seed), show)


if __name__ == "__main__":
    main()
