"""What one trace of a model tells about its evidence: caveats, notes, masks, the observed values."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer

__all__ = ["evidence_caveats", "factor_notes", "masked_out", "observations", "observed_values"]


# why an evidence is undefined: the sentence about one site, and the sentence about several
_IMPROPER = (
    "site {} has an improper prior: the evidence has no scale; use a proper prior.",
    "sites {} have improper priors: the evidence has no scale; use proper priors.",
)
_UNWRAPPED = (
    "site {} of `CircularReparam` repeats itself without end; leave it circular.",
    "sites {} of `CircularReparam` repeat themselves without end; leave them circular.",
)
_MASKED = (
    "latent site {} is masked, so its prior is improper where the mask is False.",
    "latent sites {} are masked, so their priors are improper where the masks are False.",
)
_MASKED_CHOICE = (
    "discrete site {} is masked, so each of its values counts in full where the mask is False.",
    "discrete sites {} are masked, so each of their values counts in full where the masks are False.",
)
_RESCALED = (
    "site {} is rescaled by `handlers.scale` or a subsampled plate.",
    "sites {} are rescaled by `handlers.scale` or a subsampled plate.",
)
_SUBSAMPLED = ("plate {}: its likelihood is rescaled.", "plates {}: their likelihoods are rescaled.")


def evidence_caveats(model_trace: dict[str, dict[str, Any]], idle: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Reasons why ∫γ is not the model's marginal likelihood: one sentence each, about all sites of its kind.

    From a trace of the model, and the masked entries of its latent sites that touch nothing and do no harm.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name, site in model_trace.items():
        for reason, subject in _reasons(name, site, model_trace, idle):
            found.setdefault(reason, []).append(subject)
    return tuple(reason[len(named) > 1].format(_listed(named)) for reason, named in found.items())


def _reasons(
    name: str, site: dict[str, Any], model_trace: dict[str, dict[str, Any]], idle: dict[str, np.ndarray]
) -> Iterator[tuple[tuple[str, str], str]]:
    """The reasons that one site gives, each with the words that name it."""
    if site["type"] == "plate":
        size, subsample_size = site["args"]
        if subsample_size is not None and subsample_size != size:
            yield _SUBSAMPLED, f"'{name}' subsamples {subsample_size} of {size}"
    if site["type"] != "sample":
        return
    latent = not site["is_observed"]
    if latent and isinstance(_base_distribution(site["fn"]), dist.ImproperUniform):
        unwrapped = f"{name.removesuffix('_unwrapped')}_factor" in model_trace and name.endswith("_unwrapped")
        yield (_UNWRAPPED if unwrapped else _IMPROPER), f"'{name}'"
    if latent and name in idle and np.any(masked_out(site["fn"], idle[name].shape) & ~idle[name]):
        yield _MASKED, f"'{name}'"
    if latent and site["fn"].support.is_discrete and np.any(masked_out(site["fn"], np.shape(site["value"]))):
        yield _MASKED_CHOICE, f"'{name}'"
    if site["scale"] is not None and not _is_one(site["scale"]):
        yield _RESCALED, f"'{name}'"


def _listed(names: list[str]) -> str:
    """The names as a sentence has them: a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def factor_notes(model_trace: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """What to know of a model with `factor` terms; empty without, or with those of reparameterisations alone.

    These are the prior in other coordinates, as well normalised as it was.
    """
    names = [
        name
        for name, site in model_trace.items()
        if site["type"] == "sample"
        and isinstance(_base_distribution(site["fn"]), dist.Unit)
        and not _is_reparameterised(name, model_trace)
    ]
    if not names:
        return ()
    sites = ", ".join(f"'{name}'" for name in names)
    return (f"note: the model has `factor` terms ({sites}): log_z counts them as they are, normalised or not.",)


def _is_reparameterised(name: str, model_trace: dict[str, Any]) -> bool:
    """Whether a `factor` of this name is what is left of a site's prior, by the names that NumPyro and we give it."""
    scope, _, own = name.rpartition("/")
    prefix = f"{scope}/" if scope else ""
    circular = f"{name.removesuffix('_factor')}_unwrapped" in model_trace
    written = re.fullmatch(r"_(.+)_(log_prob|log_det|prior)", own)
    return circular or (written is not None and f"{prefix}{written[1]}" in model_trace)


def observed_values(model_trace: dict[str, dict[str, Any]]) -> np.ndarray | None:
    """All observed values, site after site, without masked ones; None where they cannot be seen, as within `factor`."""
    values = [np.zeros(0)]
    for site in model_trace.values():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        masks = [fn._mask for fn in _layers(site["fn"]) if isinstance(fn, dist.MaskedDistribution)]
        hidden = any(isinstance(value, Tracer) for value in (site["value"], *masks))
        if hidden or isinstance(_base_distribution(site["fn"]), dist.Unit):
            return None
        value = np.asarray(site["value"])
        values.append(value[~masked_out(site["fn"], value.shape)].astype(float))
    return np.concatenate(values)


def observations(model_trace: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The observed values by site, those of `factor` included; None where they cannot be seen."""
    sites = {name: site for name, site in model_trace.items() if site["type"] == "sample" and site["is_observed"]}
    values = {name: site["value"] for name, site in sites.items()}
    return None if any(isinstance(value, Tracer) for value in values.values()) else values


def _is_one(scale: Any) -> bool:
    return not isinstance(scale, Tracer) and bool(np.all(np.asarray(scale) == 1))


def masked_out(fn: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of an unconstrained site of this shape are masked out; all where that cannot be told."""
    out = np.zeros(shape, bool)
    for layer in _layers(fn):
        if isinstance(layer, dist.MaskedDistribution):
            out |= _dropped(layer, shape)
    return out


def _dropped(fn: dist.MaskedDistribution, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(fn._mask, Tracer):
        return np.ones(shape, bool)
    drop = ~np.asarray(fn._mask)
    if not np.any(drop) or np.all(drop):
        return np.broadcast_to(np.any(drop), shape)
    num_before = len(shape) - len(fn.batch_shape) - len(fn.event_shape)  # axes of `sample_shape`
    batch = shape[max(num_before, 0) : len(shape) - len(fn.event_shape)]
    if (
        num_before < 0
        or drop.ndim > len(batch)
        or any(size not in (1, whole) for size, whole in zip(drop.shape[::-1], batch[::-1], strict=False))
    ):
        return np.ones(shape, bool)
    spread = np.broadcast_to(drop, batch).reshape(batch + (1,) * len(fn.event_shape))
    return np.broadcast_to(spread, shape)


def _layers(fn: Any) -> Iterator[Any]:
    """A distribution, what it wraps, and so on; not beyond a transformation."""
    yield fn
    if isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        yield from _layers(fn.base_dist)


def _base_distribution(fn: Any) -> Any:
    *_, last = _layers(fn)
    return _base_distribution(last.base_dist) if isinstance(last, dist.TransformedDistribution) else last
