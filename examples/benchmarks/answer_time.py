"""How long the first answer takes, and the second, beside NUTS.

    python examples/benchmarks/answer_time.py                        # all targets, three times: hours on two CPU cores
    python examples/benchmarks/answer_time.py "eight schools" --repeats 1
    python examples/benchmarks/answer_time.py --json rows.jsonl      # resumable: keeps the runs that are there

For each target a fresh process runs stock `MCMC` with NUTS (4 chains of 1000 draws after 1000 of warmup, vectorized),
then the summary; another one `OneStepSampler` with its defaults: draws, evidence, audit, summary. Each does it twice:
"cold", from the first line of the process on, imports included, and "warm", on new data of the same shape. The two
processes run one after the other, so that a ratio compares what the same machine did within minutes.

Columns: dimension; seconds of NUTS and of OneStep, cold; their ratio; the same warm; millions of target gradients of a
cold run of OneStep; programs that it compiled; share of effective draws, one evaluation each; log Z minus the truth
where it is known; `reliable`. Medians over the repeats. At the end from and to which the cold run may take, as
`OneStep.check` foretells in a third process.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

HERE = Path(__file__).resolve().parent
COLUMNS = ("dim", "nuts", "ours", "ratio", "nuts_warm", "ours_warm", "ratio_warm", "gradients", "programs", "ess")


def count_programs() -> list[str]:
    """A list that grows by one for each program compiled from now on."""
    import jax.monitoring

    compiled: list[str] = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


def run_nuts(model: Any, args: tuple, seed: int) -> dict[str, Any]:
    """Stock `MCMC` with NUTS, and its summary."""
    from jax import random
    from numpyro.infer import MCMC, NUTS

    counts = {"num_warmup": 1000, "num_samples": 1000, "num_chains": 4}
    mcmc = MCMC(NUTS(model), **counts, chain_method="vectorized", progress_bar=False)
    mcmc.run(random.key(seed), *args)
    mcmc.print_summary()
    return {}


def run_ours(model: Any, args: tuple, seed: int) -> dict[str, Any]:
    """`OneStepSampler` with its defaults: draws, audit, evidence and summary."""
    sampler, seen = default_run(model, args, seed)
    sampler.print_summary()
    return seen


def default_run(model: Any, args: tuple, seed: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A sampler after its run, with draws, audit and evidence, and what came of it; `options` are the kernel's."""
    from jax import random

    from numpyro_onestep import OneStep, OneStepSampler

    sampler = OneStepSampler(OneStep(model, **options), progress_bar=False)
    sampler.run(random.key(seed), *args)
    evidence = sampler.evidence
    return sampler, {
        "dim": int(sampler.setup.center.shape[0]),
        "gradients": sampler.num_gradients / 1e6,
        "iterations": int(sampler.last_state.train.iteration),
        "ess": evidence.ess / evidence.num_proposals,
        "log_z": evidence.log_z,
        "std_error": evidence.std_error,
        "reliable": evidence.reliable,
    }


def foretold(model: Any, args: tuple) -> tuple[float, float]:
    """The seconds that `check` foretells."""
    from numpyro_onestep import OneStep

    return OneStep(model).check(*args).seconds


def measure(name: str, method: str) -> dict[str, Any]:
    """One process's cold and warm run; printed as JSON for the process that started it."""
    compiled = count_programs()
    from answer_targets import TARGETS

    if method == "check":
        return {"seconds": foretold(*TARGETS[name](0))}
    run = {"nuts": run_nuts, "ours": run_ours}[method]
    target, begin, result = TARGETS[name], START, {}
    for warmth in ("cold", "warm"):
        model, args = target(0 if warmth == "cold" else 1)
        with contextlib.redirect_stdout(io.StringIO()):
            seen = run(model, args, 0)
        seconds = time.perf_counter() - begin
        result[warmth] = {"seconds": seconds, "programs": len(compiled), **seen}
        compiled.clear()
        begin = time.perf_counter()
    return result


def row_of(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats; ratios pair by pair."""
    from answer_targets import LOG_Z

    def middle(*path: str) -> float:
        return median(_at(run, path) for run in runs)

    row = {"target": name, **{key: runs[0]["ours"]["cold"][key] for key in ("dim", "reliable", "log_z", "std_error")}}
    for warmth, end in (("cold", ""), ("warm", "_warm")):
        for method in ("nuts", "ours"):
            row[method + end] = middle(method, warmth, "seconds")
        row["ratio" + end] = median(r["ours"][warmth]["seconds"] / r["nuts"][warmth]["seconds"] for r in runs)
    row |= {key: middle("ours", "cold", key) for key in ("gradients", "programs", "ess")}
    row["foretold"] = runs[0]["check"]["seconds"]
    row["log_z_error"] = row["log_z"] - LOG_Z[name] if name in LOG_Z else float("nan")
    return row


def _at(tree: Any, path: tuple[str, ...]) -> float:
    for key in path:
        tree = tree[key]
    return tree


def main() -> None:
    """Measure and print."""
    sys.path.insert(0, str(HERE))
    sys.path.insert(0, str(HERE.parent / "gallery"))
    from answer_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"any of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append one JSON line a run to this file; skip what it already holds")
    parser.add_argument("--one", choices=["nuts", "ours", "check"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.targets[0], options.one)))
        return
    import rows as rows_

    known = rows_.read(options.json)
    print(
        f"{'target':24}" + "".join(f"{c:>11}" for c in COLUMNS) + f"{'log_z_error':>13}  reliable  foretold", flush=True
    )
    for name in options.targets or TARGETS:
        runs = [run for run in known if run["target"] == name]
        while len(runs) < options.repeats:
            run: dict[str, Any] = {"target": name}
            for method in ("nuts", "ours", "check"):
                command = [sys.executable, __file__, name, "--one", method]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                run[method] = json.loads(done.stdout.splitlines()[-1])
            rows_.append(options.json, [run])
            runs.append(run)
        row = row_of(name, runs)
        print(
            f"{name:24}"
            + "".join(f"{row[c]:11.3g}" for c in COLUMNS)
            + f"{row['log_z_error']:13.4f}  {row['reliable']!s:8}"
            + "  {:.0f} to {:.0f} s".format(*row["foretold"]),
            flush=True,
        )


if __name__ == "__main__":
    main()
