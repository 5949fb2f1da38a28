"""One-step posterior draws, log evidence and ArviZ diagnostics for NumPyro models."""

import warnings as _warnings

import jaxlib as _jaxlib

from numpyro_onestep.compare import compare
from numpyro_onestep.evidence import Evidence, evidence
from numpyro_onestep.kernel import OneStep, OneStepState
from numpyro_onestep.sampler import Draws, OneStepSampler

__all__ = ["Draws", "Evidence", "OneStep", "OneStepSampler", "OneStepState", "compare", "evidence"]
__version__ = "0.1.0"

if _jaxlib.__version__ == "0.10.2":
    _warnings.warn(
        "jaxlib 0.10.2 computes wrong results on CPU (github.com/jax-ml/jax/issues/39103): batched matrix-vector "
        "products, and with them every number of this package. Install another version: pip install 'jax!=0.10.2'.",
        RuntimeWarning,
        stacklevel=2,
    )
