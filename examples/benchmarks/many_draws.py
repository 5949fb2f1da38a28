"""How long many draws of centered eight schools take, and how much memory.

    python examples/benchmarks/many_draws.py                       # 10^5, 10^6 and 10^7 draws, at once and as a stream
    python examples/benchmarks/many_draws.py 10000000 --chunk 0    # only at once
    python examples/benchmarks/many_draws.py 1000 --steps 8        # eight evaluations a draw

Each row has a process of its own, which trains the flow with its defaults and then draws twice: by `sampler.draw`, or
with --chunk by `sampler.draws`, of which it keeps the sums alone, as one does with a stream.

Columns: draws; of how many at a time (all: `draw`); seconds of the first and of the second time, the first with its
compilation; gigabytes of the result; the process's peak of resident memory above what it had at its first line, and
above what it had before its draws; effective share of the draws; mean of mu, weighted; log Z.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GB = 1e9


def resident() -> float:
    """Resident memory of this process in bytes."""
    import psutil

    return float(psutil.Process().memory_info().rss)


def peak() -> float:
    """The most that it ever had; Linux counts in kilobytes, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sums(draws: Any) -> Any:
    """Of the weights, their squares, and mu; and the bytes of all that was drawn."""
    import jax
    import numpy as np

    w = np.exp(np.asarray(draws.log_weights, np.float64) + 31.3)  # about log Z
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(draws))
    return np.array([w.sum(), (w**2).sum(), w @ np.asarray(draws.samples["mu"]), size])


def measure(num_draws: int, chunk: int, num_steps: int) -> dict[str, Any]:
    """One row."""
    start = resident()
    import numpy as np
    from answer_targets import TARGETS
    from answer_time import default_run
    from jax import random

    model, args = TARGETS["eight schools"](0)
    sampler, _ = default_run(model, args, 0)
    before, seconds = resident(), []
    for seed in (1, 2):
        begin = time.perf_counter()
        if chunk:
            parts = sampler.draws(random.key(seed), num_draws, chunk, num_steps=num_steps)
            seen = sum(map(sums, parts), np.zeros(4))
        else:
            seen = sums(sampler.draw(random.key(seed), num_draws, num_steps=num_steps))
        seconds.append(time.perf_counter() - begin)
    total, square, mu, size = seen
    return {
        "draws": num_draws,
        "chunk": chunk,
        "seconds": seconds,
        "size": size / GB,
        "above_start": (peak() - start) / GB,
        "above_before": (peak() - before) / GB,
        "ess": total**2 / square / num_draws,
        "mu": mu / total,
        "log_z": float(np.log(total / num_draws)) - 31.3,
    }


def main() -> None:
    """Measure and print."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "gallery")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draws", nargs="*", type=int, default=[10**5, 10**6, 10**7])
    parser.add_argument("--chunk", nargs="*", type=int, default=[0, 10**5], help="draws at a time; 0 for all at once")
    parser.add_argument("--steps", type=int, default=1, help="evaluations a draw")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.draws[0], options.chunk[0], options.steps)))
        return
    print("     draws  at a time  first s  second s  result GB  above start  above before   ess      mu     log Z")
    for num_draws in options.draws:
        for chunk in options.chunk:
            arguments = [str(num_draws), "--one", "--chunk", str(chunk), "--steps", str(options.steps)]
            command = [sys.executable, __file__, *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            first, second = row["seconds"]
            print(
                f"{num_draws:10d}  {chunk or 'all':>9}  {first:7.2f}  {second:8.2f}  {row['size']:9.3f}"
                f"  {row['above_start']:11.2f}  {row['above_before']:12.2f}  {row['ess']:.3f}  {row['mu']:.4f}"
                f"  {row['log_z']:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
