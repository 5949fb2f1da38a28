"""One-step posterior draws, log evidence and ArviZ diagnostics for NumPyro models."""

import os as _os
import warnings as _warnings
from importlib.metadata import version as _version

from numpyro_onestep.cache import enable_compilation_cache
from numpyro_onestep.check import Check
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.plots.budgets import plot_budgets
from numpyro_onestep.plots.evidence import plot_compare, plot_evidence
from numpyro_onestep.plots.training import plot_training
from numpyro_onestep.plots.weights import plot_draws, plot_weights
from numpyro_onestep.results.compare import compare
from numpyro_onestep.results.flow_distribution import FlowDistribution, FlowTransform
from numpyro_onestep.results.reparam import FlowReparam
from numpyro_onestep.run import evidence
from numpyro_onestep.sampler import Draws, OneStepSampler
from numpyro_onestep.state import OneStepState
from numpyro_onestep.trust.evidence import Evidence

__all__ = [
    "Check",
    "Draws",
    "Evidence",
    "FlowDistribution",
    "FlowReparam",
    "FlowTransform",
    "OneStep",
    "OneStepSampler",
    "OneStepState",
    "compare",
    "enable_compilation_cache",
    "evidence",
    "plot_budgets",
    "plot_compare",
    "plot_draws",
    "plot_evidence",
    "plot_training",
    "plot_weights",
]
__version__ = "0.1.0"

_cache = _os.environ.get("NUMPYRO_ONESTEP_CACHE", "")
if _cache:
    enable_compilation_cache(None if _cache == "1" else _cache)

if _version("jaxlib") in ("0.10.0", "0.10.1", "0.10.2"):
    _warnings.warn(
        f"jaxlib {_version('jaxlib')} has two defects on CPU: batched LAPACK calls may wait for one another for ever "
        "(0.10.0 to 0.10.2, repaired by jax commit 859992407d), and batched matrix-vector products are wrong (0.10.2, "
        "github.com/jax-ml/jax/issues/39103). Install another version: pip install 'jax<0.10'.",
        RuntimeWarning,
        stacklevel=2,
    )
