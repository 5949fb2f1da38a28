"""A sampler's results as ArviZ data, for ArviZ 0.23 and 1.x."""

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist

from numpyro_onestep.compilation import fold_in, in_transformation
from numpyro_onestep.state import trained_flows
from numpyro_onestep.trust.evidence import Evidence

__all__ = ["evidence_in", "observed_in", "to_inference_data"]

_NAMES = {
    "std_error": "log_z_std_error",
    "ess": "proposal_ess",
    "reliable": "evidence_reliable",
    "warnings": "evidence_warnings",
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "warnings": lambda text: tuple(text.split("\n")) if text else (),
    "num_proposals": int,
    "num_replicates": int,
    "num_evaluations": int,
    "reliable": lambda text: text == "True",
    "draws_reliable": lambda text: text == "True",
}
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

    Raises:
        ValueError: if nothing was trained.
    """
    flows = trained_flows(sampler.last_state)  # or it says what is missing
    import arviz as az
    import xarray as xr

    data = az.from_numpyro(_as_seen(sampler), **kwargs)
    key = fold_in(flows[0].train.rng_key, 2)  # type: ignore[union-attr]
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
    """The fields of the evidence, as files can hold them."""
    fields: dict[str, Any] = sampler.evidence._asdict() | {"warnings": "\n".join(sampler.evidence.warnings)}
    return {_NAMES.get(n, n): str(v) if isinstance(v, bool | str) else float(v) for n, v in fields.items()}


def evidence_in(name: str, data: Any) -> Evidence:
    """The evidence that `to_inference_data` wrote into the attributes of ArviZ data; `name` is for the error.

    Raises:
        ValueError: if there is none.
    """
    attrs = data["posterior"].attrs
    if "log_z" not in attrs:
        raise ValueError(f"'{name}' holds no evidence: make it with `OneStepSampler.to_inference_data`.")
    known = {field: attrs[_NAMES.get(field, field)] for field in Evidence._fields if _NAMES.get(field, field) in attrs}
    fields = {field: _READERS.get(field, float)(value) for field, value in known.items()}
    return Evidence(**{"draws_reliable": fields["reliable"]} | fields)


def observed_in(data: Any) -> np.ndarray | None:
    """All observed values that `to_inference_data` wrote, site after site; None if there are none."""
    groups = data.children if hasattr(data, "children") else data.groups()
    if "proposals" not in groups or "observed" not in data["proposals"].data_vars:
        return None
    return np.asarray(data["proposals"]["observed"])
