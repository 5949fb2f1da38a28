"""One-step posterior draws, log evidence and ArviZ diagnostics for NumPyro models."""

import warnings as _warnings
from importlib.metadata import version as _version

from numpyro_onestep.compare import compare
from numpyro_onestep.evidence import Evidence, evidence
from numpyro_onestep.flow_distribution import FlowDistribution, FlowTransform
from numpyro_onestep.kernel import OneStep
from numpyro_onestep.reparam import FlowReparam
from numpyro_onestep.sampler import Draws, OneStepSampler
from numpyro_onestep.state import OneStepState

__all__ = [
    "Draws",
    "Evidence",
    "FlowDistribution",
    "FlowReparam",
    "FlowTransform",
    "OneStep",
    "OneStepSampler",
    "OneStepState",
    "compare",
    "evidence",
]
__version__ = "0.1.0"

if _version("jaxlib") == "0.10.2":
    _warnings.warn(
        "jaxlib 0.10.2 computes wrong results on CPU (github.com/jax-ml/jax/issues/39103): batched matrix-vector "
        "products, and with them every number of this package. Install another version: pip install 'jax!=0.10.2'.",
        RuntimeWarning,
        stacklevel=2,
    )
