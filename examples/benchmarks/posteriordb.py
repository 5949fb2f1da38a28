"""Compare the draws with reference draws of twelve posteriors of the posteriordb database.

    python examples/benchmarks/posteriordb.py                            # all posteriors, float32, seed 0
    python examples/benchmarks/posteriordb.py arK-arK --seed 1 --x64     # one of them, in float64
    python examples/benchmarks/posteriordb.py --json rows.jsonl          # resumable: keeps the rows that are there
    python examples/benchmarks/posteriordb.py --nuts                     # NUTS instead: are the models right?

Columns: dimension; largest error of a posterior mean in reference standard deviations; largest error of a standard
deviation in per cent; effective share of fresh proposals in per cent; Pareto k; log Z and its error; DF-EUBO minus
DF-ELBO; seconds of the whole run; `reliable`; and the verdict. It is "agrees" where no mean is off by more than .1 sd
and no sd by more than 10 %, else "flagged" if the run is not reliable, else "WRONG". A model with a flat prior has no
evidence; it counts as reliable if all other checks pass. With --nuts the effective share is the smallest of a
parameter, and `reliable` means no divergence and every split R-hat below 1.01.

The folder `posteriordb` in the one that ONESTEP_DATA names holds a folder for each posterior: data.json, and
reference_draws.npz with an array of shape (chains, draws) for each element of a parameter, named as in Stan. Both are
made from https://github.com/stan-dev/posteriordb, which has the models' definitions as well; here they are in
`posteriordb_models.py`.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
import numpyro
import rows as rows_
from jax import Array, random
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS
from posteriordb_models import POSTERIORS, Data

from numpyro_onestep import OneStep, OneStepSampler

COLUMNS = {"dim": 5, "mean_error_sd": 15, "sd_error_percent": 18, "ess_percent": 13, "pareto_k": 10, "log_z": 11}
COLUMNS |= {"std_error": 11, "eubo_gap": 10, "seconds": 9, "reliable": 10, "verdict": 9}  # and their widths
MAX_MEAN_ERROR, MAX_SD_ERROR = 0.1, 10.0


def load(name: str) -> tuple[Data, dict[str, np.ndarray]]:
    """Data and reference draws of a posterior."""
    folder = Path(os.environ.get("ONESTEP_DATA", "data")) / "posteriordb" / name
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing: set ONESTEP_DATA to the folder that holds posteriordb/{name}.")
    data = json.loads((folder / "data.json").read_text())
    with np.load(folder / "reference_draws.npz") as draws:
        return {key: np.array(value) if isinstance(value, list) else value for key, value in data.items()}, dict(draws)


def element(samples: dict[str, Array], name: str) -> np.ndarray:
    """Draws of a scalar by its name in Stan, such as `beta[1]`."""
    site, _, index = name.partition("[")
    draws = np.asarray(samples[site], float)
    return draws[..., int(index[:-1]) - 1] if index else draws


def summary(sampler: MCMC, draws: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the sampler says of itself: of NUTS the chains' diagnostics, of ours the evidence's."""
    if isinstance(sampler, OneStepSampler):
        e = sampler.evidence
        failed = [w for w in e.warnings if not w.startswith(("note:", "The evidence is undefined"))]
        row = {"ess_percent": 100 * e.ess / e.num_proposals, "pareto_k": e.pareto_k, "log_z": e.log_z}
        row |= {"std_error": e.std_error, "eubo_gap": e.eubo - e.elbo}
        return row | {"reliable": not failed, "warnings": list(e.warnings)}
    shares = [float(effective_sample_size(x)) / x.size for x in draws.values()]
    worst = max(float(split_gelman_rubin(x)) for x in draws.values())
    divergences = int(np.sum(sampler.get_extra_fields()["diverging"]))
    row = dict.fromkeys(("pareto_k", "log_z", "std_error", "eubo_gap"), float("nan"))
    row |= {"ess_percent": 100 * min(shares), "reliable": divergences == 0 and worst < 1.01}
    return row | {"warnings": [f"{divergences} divergences, split R-hat {worst:.3f}"]}


def measure(name: str, seed: int, nuts: bool = False) -> dict[str, Any]:
    """The row of one posterior."""
    data, reference = load(name)
    model = partial(POSTERIORS[name], data)
    common: dict[str, Any] = {"num_chains": 4, "progress_bar": False}
    if nuts:
        kernel = NUTS(model, dense_mass=True)
        sampler = MCMC(kernel, num_warmup=1000, num_samples=1000, chain_method="vectorized", **common)
    else:
        sampler = OneStepSampler(OneStep(model), num_samples=2500, **common)
    start = time.perf_counter()
    sampler.run(random.key(seed))
    samples: Any = sampler.get_samples(group_by_chain=True)
    draws = {key: element(samples, key) for key in reference}
    row: dict[str, Any] = {
        "posterior": name,
        "seed": seed,
        "float64": bool(jax.config.jax_enable_x64),
        "nuts": nuts,
        "jaxlib": jaxlib.__version__,
    }
    state: Any = sampler.last_state
    row |= {"dim": sum(leaf[0].size for leaf in jax.tree.leaves(state.z))}
    row |= summary(sampler, draws) | {"seconds": time.perf_counter() - start}
    means = {key: float(abs(draws[key].mean() - x.mean()) / x.std()) for key, x in reference.items()}
    sds = {key: 100 * float(abs(draws[key].std() / x.std() - 1)) for key, x in reference.items()}
    row |= {"mean_error_sd": max(means.values()), "worst_mean": max(means, key=lambda key: means[key])}
    row |= {"sd_error_percent": max(sds.values()), "worst_sd": max(sds, key=lambda key: sds[key])}
    agrees = row["mean_error_sd"] <= MAX_MEAN_ERROR and row["sd_error_percent"] <= MAX_SD_ERROR
    return row | {"verdict": "agrees" if agrees else "WRONG" if row["reliable"] else "flagged"}


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    cells = [f"{row[c]:{w}.4f}" if isinstance(row[c], float) else f"{row[c]!s:>{w}}" for c, w in COLUMNS.items()]
    print(f"{row['posterior']:44}" + "".join(cells), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posteriors", nargs="*", help=f"any of {', '.join(POSTERIORS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nuts", action="store_true", help="NUTS instead, of 4 chains of 1000 draws")
    parser.add_argument("--x64", action="store_true", help="double precision")
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file; skip what it already holds")
    options = parser.parse_args()
    if options.x64:
        numpyro.enable_x64()
    known = rows_.read(options.json)
    key = {"seed": options.seed, "float64": options.x64, "nuts": options.nuts}
    print(f"{'posterior':44}" + "".join(f"{c:>{w}}" for c, w in COLUMNS.items()), flush=True)
    rows = []
    for name in options.posteriors or POSTERIORS:
        done = [row for row in known if row.items() >= (key | {"posterior": name}).items()]
        rows.append(done[0] if done else measure(name, options.seed, options.nuts))
        show(rows[-1])
        rows_.append(options.json, [] if done else rows[-1:])
    counts = {v: sum(row["verdict"] == v for row in rows) for v in ("agrees", "flagged", "WRONG")}
    print(f"{len(rows)} posteriors: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()
