"""What one trace of a model tells about its evidence: caveats, notes, masks, the observed values."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer

__all__ = ["evidence_caveats", "factor_notes", "masked_out", "observed_values"]


def evidence_caveats(model_trace: dict[str, dict[str, Any]], idle: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Reasons, one sentence each, why ∫γ is not the model's marginal likelihood.

    From a trace of the model, and the masked entries of its latent sites that touch nothing and do no harm.
    """
    caveats = []
    for name, site in model_trace.items():
        if site["type"] == "plate":
            size, subsample_size = site["args"]
            if subsample_size is not None and subsample_size != size:
                caveats.append(f"plate '{name}' subsamples {subsample_size} of {size}: its likelihood is rescaled.")
        if site["type"] != "sample":
            continue
        latent = not site["is_observed"]
        if latent and isinstance(_base_distribution(site["fn"]), dist.ImproperUniform):
            if f"{name.removesuffix('_unwrapped')}_factor" in model_trace and name.endswith("_unwrapped"):
                caveats.append(f"site '{name}' of `CircularReparam` repeats itself without end; leave it circular.")
            else:
                caveats.append(f"site '{name}' has an improper prior: the evidence has no scale; use a proper prior.")
        if latent and name in idle and np.any(masked_out(site["fn"], idle[name].shape) & ~idle[name]):
            caveats.append(f"latent site '{name}' is masked, so its prior is improper where the mask is False.")
        if latent and site["fn"].support.is_discrete and np.any(masked_out(site["fn"], np.shape(site["value"]))):
            caveats.append(
                f"discrete site '{name}' is masked, so each of its values counts in full where the mask is False."
            )
        if site["scale"] is not None and not _is_one(site["scale"]):
            caveats.append(f"site '{name}' is rescaled by `handlers.scale` or a subsampled plate.")
    return tuple(caveats)


def factor_notes(model_trace: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """What to know of a model with `factor` terms; empty without."""
    names = [
        name
        for name, site in model_trace.items()
        if site["type"] == "sample" and isinstance(_base_distribution(site["fn"]), dist.Unit)
    ]
    if not names:
        return ()
    sites = ", ".join(f"'{name}'" for name in names)
    return (f"note: the model has `factor` terms ({sites}): log_z counts them as they are, normalised or not.",)


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
