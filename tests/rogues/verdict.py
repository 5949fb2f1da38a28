"""How a rogue was met: solved, flagged, or confidently wrong."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from rogue import Rogue

from numpyro_onestep import OneStep, OneStepSampler


@dataclass(frozen=True)
class Verdict:
    """What came out: errors in units of what is allowed, so that more than 1 is wrong."""

    log_z: float
    mean: float
    weight: float
    reliable: bool
    warnings: tuple[str, ...]
    seconds: float

    @property
    def word(self) -> str:
        """Solved, flagged or CONFIDENTLY WRONG."""
        if not self.reliable:
            return "flagged"
        right = all(error <= 1 for error in (self.log_z, self.mean, self.weight))  # nan is not
        return "solved" if right else "CONFIDENTLY WRONG"


def judge(rogue: Rogue, seed: int = 0) -> Verdict:
    """Run the sampler with default settings and compare."""
    sampler = OneStepSampler(
        OneStep(rogue.model, potential_fn=rogue.potential_fn), num_samples=10_000, num_chains=4, progress_bar=False
    )
    start = time.perf_counter()
    sampler.run(random.key(seed), init_params=None if rogue.model else jnp.zeros((4, rogue.dim)))
    draws = jax.tree.map(np.asarray, sampler.get_samples())
    e = sampler.evidence
    log_z = abs(e.log_z - rogue.log_z) / max(0.05, 3 * e.std_error)
    mean = np.max([0.0, *(abs(np.mean(f(draws)) - m) / sd / 0.15 for f, m, sd in rogue.means.values())])
    weight = np.max([0.0, *(abs(np.mean(f(draws)) / p - 1) / 0.25 for f, p in rogue.weights.values())])
    return Verdict(float(log_z), float(mean), float(weight), e.reliable, e.warnings, time.perf_counter() - start)
