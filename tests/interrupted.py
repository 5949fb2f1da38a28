"""A run that is killed again and again, and ends as if it had not been.

    python tests/interrupted.py 50              # kills, one after the other, each at a random moment

Each process starts the same run with the same checkpoint; it is killed (SIGKILL) after a random time and started again.
When as many were killed as asked for, a last one ends, and its result is compared with that of an undisturbed run, bit
for bit. After each kill the checkpoint, where there is one by then, must be whole.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from numpyro_onestep import archive, journal

_LONGEST = 0.9  # of an undisturbed process, after which one is killed at the latest


def run(checkpoint: str) -> None:
    """One whole run; prints a digest of all that it ended with."""
    import hashlib

    import jax
    import numpy as np
    import numpyro
    import numpyro.distributions as dist

    from numpyro_onestep import OneStep, OneStepSampler

    journal._INTERVAL = 0.0  # a state after every block of the training, to be killed in

    def model():
        with numpyro.plate("parts", 3):
            numpyro.sample("x", dist.Gamma(2.0, 1.0))

    sampler = OneStepSampler(OneStep(model, target_ess=1.0), num_warmup=100, num_samples=50, progress_bar=False)
    sampler.run(jax.random.key(0), checkpoint=checkpoint or None)
    result = (sampler.get_samples()["x"], *sampler.evidence[:6], sampler.num_gradients)
    print(hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in result)).hexdigest())


def start(checkpoint: Path | str, programs: str) -> subprocess.Popen:
    """A process that runs it, with its compiled programs in a folder."""
    command = [sys.executable, __file__, "--one", str(checkpoint)]
    env = os.environ | {"NUMPYRO_ONESTEP_CACHE": programs}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill(num: int, seed: int = 0) -> dict[str, int]:
    """Kill `num` runs; how many of them left a checkpoint, and whether the result was that of an undisturbed run."""
    moments = random.Random(seed)
    found = {"killed": 0, "with a checkpoint": 0, "resumed to the end": 0, "other results": 0, "damaged": 0}
    with tempfile.TemporaryDirectory() as folder:
        path, programs = Path(folder) / "run.checkpoint", f"{folder}/programs"
        start("", programs).communicate()  # compiles
        begin = time.monotonic()
        undisturbed = start("", programs).communicate()[0]
        longest = _LONGEST * (time.monotonic() - begin)
        while found["killed"] < num or path.exists():
            process = start(path, programs)
            left = None if found["killed"] == num else moments.uniform(0.2, 1) * longest
            try:
                ended = process.communicate(timeout=left)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                found["killed"] += 1
                if path.exists():
                    found["with a checkpoint"] += 1
                    try:
                        archive.read(path, journal._KIND, journal._FORMAT)
                    except ValueError:
                        found["damaged"] += 1
                continue
            found["resumed to the end"] += 1
            found["other results"] += ended != undisturbed
            path.unlink()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num", nargs="?", type=int, default=50)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is None:
        print(", ".join(f"{name}: {count}" for name, count in kill(options.num).items()))
    else:
        run(options.one)
