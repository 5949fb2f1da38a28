"""How long a run takes on this machine's accelerator, beside its CPU, and whether larger batches pay there.

    python examples/benchmarks/devices.py                             # five targets on JAX's default device
    JAX_PLATFORMS=cpu python examples/benchmarks/devices.py           # the same on the CPU
    python examples/benchmarks/devices.py sonar --batches 64 256 1024 --json rows.jsonl

Each target has a process of its own, which runs `OneStepSampler` with its defaults: "cold", from the first line of the
process on, imports included; "warm", on new data of the same shape; and then it makes a million draws, twice, the
second time with everything compiled. With --batches the warm run is repeated with so many base draws per optimiser
step, the steps fewer in proportion but for the root (four times the batch, half the steps), each after a first run
that compiles.

Columns: device; dimension; seconds cold and warm; millions of draws a second; then for each batch seconds, iterations
and share of effective draws.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

HERE = Path(__file__).resolve().parent
FIVE = ("eight schools", "german credit", "sonar", "item response", "regression, 50k rows")
NUM_DRAWS = 1_000_000


def run(name: str, seed: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A sampler after its run with draws, audit and evidence, what came of it, and its seconds."""
    from answer_targets import TARGETS
    from answer_time import default_run

    model, args = TARGETS[name](seed)
    begin = time.perf_counter()
    sampler, seen = default_run(model, args, 0, **options)
    return sampler, {"seconds": time.perf_counter() - begin, **seen}


def measure(name: str, batches: list[int]) -> dict[str, Any]:
    """Everything that one process measures of a target."""
    import jax
    from jax import random

    sampler, first = run(name, 0)
    first["seconds"] = time.perf_counter() - START
    row: dict[str, Any] = {"target": name, "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    row |= {"dim": first["dim"], "cold": first}
    sampler, row["warm"] = run(name, 1)
    for seed in (1, 2):
        begin = time.perf_counter()
        jax.block_until_ready(sampler.draw(random.key(seed), NUM_DRAWS).log_weights)
        row["draws_a_second"] = NUM_DRAWS / (time.perf_counter() - begin)
    row["batches"] = {}
    for batch in batches:
        plan = sampler.sampler.plan(row["dim"])
        steps = max(1, round(plan.stages[0].steps_per_iteration * (64 / batch) ** 0.5))
        for _ in range(2):
            row["batches"][batch] = run(name, 1, batch_size=batch, steps_per_iteration=steps)[1]
    return row


def main() -> None:
    """Measure and print."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "gallery")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=FIVE)
    parser.add_argument("--batches", nargs="*", type=int, default=[])
    parser.add_argument("--json", type=Path, help="append one JSON line a target to this file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.targets[0], options.batches)))
        return
    import rows

    for name in options.targets:
        command = [sys.executable, __file__, name, "--one", "--batches", *map(str, options.batches)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(options.json, [row])
        print(
            f"{name:24}{row['device']:>18}{row['dim']:5d}{row['cold']['seconds']:8.1f}{row['warm']['seconds']:8.2f}"
            f"{row['draws_a_second'] / 1e6:8.2f}"
            + "".join(
                f"  {batch}: {seen['seconds']:.2f} s, {seen['iterations']}, {seen['ess']:.3f}"
                for batch, seen in row["batches"].items()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
