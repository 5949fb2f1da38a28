"""Whether several devices give the same result, and how fast: the CPU taken as 1, 2 or 4 devices.

    python examples/benchmarks/many_devices.py                        # two targets, 1, 2 and 4 devices, three times
    python examples/benchmarks/many_devices.py sonar --devices 1 2 --repeats 1 --json rows.jsonl

Each row has a process of its own, in which XLA takes the CPU for so many devices. It runs `OneStepSampler` with its
defaults: "cold", from the first line of the process on, imports included; "warm", on new data of the same shape; and
then it makes 100,000 draws, twice, the second time with everything compiled. The numbers of devices take turns, so
that what else the machine does meets all of them.

Columns: devices; seconds cold and warm; draws a second; seconds of the processor's cores for all of it; all medians
over the repeats; then log Z, and how far log Z and the means of the samples (in standard deviations) are from those of
the first number of devices.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

HERE = Path(__file__).resolve().parent
NUM_DRAWS = 100_000


def measure(name: str) -> dict[str, Any]:
    """Everything that one process measures."""
    import numpy as np
    from answer_targets import TARGETS
    from answer_time import default_run
    from jax import device_count, random

    model, args = TARGETS[name](0)
    sampler, seen = default_run(model, args, 0)
    row = {"target": name, "devices": device_count(), "cold": time.perf_counter() - START, "log_z": seen["log_z"]}
    samples = {site: np.asarray(values, np.float64) for site, values in sampler.get_samples().items()}
    row["means"] = [x for site in samples.values() for x in np.ravel(site.mean(0))]
    row["sds"] = [x for site in samples.values() for x in np.ravel(site.std(0))]
    begin = time.perf_counter()
    model, args = TARGETS[name](1)
    sampler, _ = default_run(model, args, 0)
    row["warm"] = time.perf_counter() - begin
    for seed in (1, 2):
        begin = time.perf_counter()
        sampler.draw(random.key(seed), NUM_DRAWS)
        row["draws_a_second"] = NUM_DRAWS / (time.perf_counter() - begin)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return row | {"cores": used.ru_utime + used.ru_stime}


def main() -> None:
    """Measure and print."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "gallery")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=["eight schools", "regression, 50k rows"])
    parser.add_argument("--devices", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append one JSON line a row to this file")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.targets[0])))
        return
    import rows as rows_

    for name in options.targets:
        runs: dict[int, list[dict[str, Any]]] = {num: [] for num in options.devices}
        for _ in range(options.repeats):
            for num in options.devices:
                flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num}"
                command = [sys.executable, __file__, name, "--one"]
                environment = os.environ | {"XLA_FLAGS": flags}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                runs[num].append(json.loads(done.stdout.splitlines()[-1]))
                rows_.append(options.json, runs[num][-1:])
        first = runs[options.devices[0]][0]
        print(f"{name}\ndevices    cold    warm  draws a second   cores       log Z  off by  means off by")
        for num, of_num in runs.items():
            middle = {key: median(run[key] for run in of_num) for key in ("cold", "warm", "draws_a_second", "cores")}
            one = of_num[0]
            pairs = zip(one["means"], first["means"], first["sds"], strict=True)
            apart = max(abs(mean - known) / sd for mean, known, sd in pairs)
            print(
                f"{num:7d} {middle['cold']:7.1f} {middle['warm']:7.2f} {middle['draws_a_second']:15.0f}"
                f" {middle['cores']:7.1f} {one['log_z']:11.4f} {abs(one['log_z'] - first['log_z']):7.1e}"
                f" {apart:13.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
