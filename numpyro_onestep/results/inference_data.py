"""A sampler's results as ArviZ data, for ArviZ 0.23 and 1.x."""

from copy import copy
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_onestep.compilation import fold_in, in_transformation
from numpyro_onestep.state import trained_flows
from numpyro_onestep.trust.evidence import Evidence

__all__ = ["evidence_in", "observed_in", "to_inference_data"]

_NUM_PROPOSALS = 1024


def to_inference_data(sampler: Any, **kwargs: Any) -> Any:
    """`az.from_numpyro(sampler)` of a `OneStepSampler`, with the evidence in `posterior.attrs` and a group `proposals`.

    The attributes are floats and strings (`log_z`, `log_z_std_error`, …, `warnings` joined by newlines), so that
    netCDF can store them. The group `proposals` holds the log weights of 1024 fresh proposals, and all observed values
    site after site, by which `compare` tells different data.

    Args:
        sampler: a `OneStepSampler` after `run`.
        **kwargs: further arguments of `az.from_numpyro`: `log_likelihood=True`, which `az.loo` needs, `coords`, `dims`,
            `prior`, `posterior_predictive` and so on.
    """
    import arviz as az
    import xarray as xr

    data = az.from_numpyro(_as_seen(sampler), **kwargs)
    key = fold_in(trained_flows(sampler.last_state)[0].train.rng_key, 2)  # type: ignore[union-attr]
    log_weights = sampler.draw(key, _NUM_PROPOSALS).log_weights
    proposals = xr.Dataset({"log_weight": ("proposal", np.asarray(log_weights))})
    observed = sampler.setup.observed
    if observed is not None:
        proposals["observed"] = "observation", observed
    if hasattr(data, "add_groups"):
        data.add_groups({"proposals": proposals}, warn_on_custom_groups=False)
    else:
        data["proposals"] = xr.DataTree(dataset=proposals)  # pyright: ignore[reportArgumentType]
    data["posterior"].attrs.update(_attributes(sampler))
    return data


def _as_seen(sampler: Any) -> Any:
    """The sampler with a model that shows its observed values without being computed.

    ArviZ runs the model once for them, line by line, for which JAX compiles a program for each kind of line. All else
    it asks of the model within transformations, where it is as it was.
    """
    model, known = sampler.sampler.model, sampler.setup.observations
    if model is None or known is None:
        return sampler

    def shown(*args: Any, **kwargs: Any) -> Any:
        if in_transformation(args, kwargs):
            return model(*args, **kwargs)
        for name, value in known.items():
            numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), np.shape(value)), obs=value)

    seen = copy(sampler)
    seen.sampler = copy(sampler.sampler)
    seen.sampler._model = shown
    return seen


def _attributes(sampler: Any) -> dict[str, float | str]:
    e = sampler.evidence
    return {
        "log_z": e.log_z,
        "log_z_std_error": e.std_error,
        "elbo": e.elbo,
        "eubo": e.eubo,
        "proposal_ess": e.ess,
        "pareto_k": e.pareto_k,
        "fold_fraction": e.fold_fraction,
        "num_proposals": float(e.num_proposals),
        "num_replicates": float(e.num_replicates),
        "num_evaluations": float(e.num_evaluations),
        "evidence_reliable": str(e.reliable),
        "evidence_warnings": "\n".join(e.warnings),
    }


def evidence_in(name: str, data: Any) -> Evidence:
    """The evidence that `to_inference_data` wrote into the attributes of ArviZ data; `name` is for the error.

    Raises:
        ValueError: if there is none.
    """
    attrs = data["posterior"].attrs
    if "log_z" not in attrs:
        raise ValueError(f"'{name}' holds no evidence: make it with `OneStepSampler.to_inference_data`.")
    warnings = attrs["evidence_warnings"]
    return Evidence(
        log_z=float(attrs["log_z"]),
        std_error=float(attrs["log_z_std_error"]),
        elbo=float(attrs["elbo"]),
        eubo=float(attrs["eubo"]),
        ess=float(attrs["proposal_ess"]),
        pareto_k=float(attrs["pareto_k"]),
        fold_fraction=float(attrs["fold_fraction"]),
        num_proposals=int(attrs["num_proposals"]),
        num_replicates=int(attrs["num_replicates"]),
        reliable=attrs["evidence_reliable"] == "True",
        warnings=tuple(warnings.split("\n")) if warnings else (),
        num_evaluations=int(attrs.get("num_evaluations", 1)),
    )


def observed_in(data: Any) -> np.ndarray | None:
    """All observed values that `to_inference_data` wrote, site after site; None if there are none."""
    groups = data.children if hasattr(data, "children") else data.groups()
    if "proposals" not in groups or "observed" not in data["proposals"].data_vars:
        return None
    return np.asarray(data["proposals"]["observed"])
