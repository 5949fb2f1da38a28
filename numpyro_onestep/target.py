"""A NumPyro model or a potential function as a log density on a flat unconstrained vector."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

__all__ = ["LogDensity", "ModelSetup", "evidence_caveats", "safe_log_density", "setup_model", "setup_potential"]


class LogDensity(NamedTuple):
    """log γ on R^D and its derivatives, for one point of shape (D,).

    A non-finite density is reported as −inf and its gradient as zero, so that an overflow costs a draw its weight and
    training one sample, never the run.
    """

    value: Callable[[Array], Array]
    value_and_grad: Callable[[Array], tuple[Array, Array]]
    hessian: Callable[[Array], Array]


def safe_log_density(log_density: Callable[[Array], Array], forward_mode: bool = False) -> LogDensity:
    """Guard `log_density` against non-finite values; differentiate by forward mode where reverse mode is impossible."""

    def value(x: Array) -> Array:
        v = log_density(x)
        return jnp.where(jnp.isfinite(v), v, -jnp.inf)

    def value_and_grad(x: Array) -> tuple[Array, Array]:
        if forward_mode:
            v, g = log_density(x), jax.jacfwd(log_density)(x)
        else:
            v, g = jax.value_and_grad(log_density)(x)
        ok = jnp.isfinite(v) & jnp.all(jnp.isfinite(g))
        return jnp.where(jnp.isfinite(v), v, -jnp.inf), jnp.where(ok, g, 0.0)

    return LogDensity(value, value_and_grad, jax.jacfwd(lambda x: value_and_grad(x)[1]))


class ModelSetup(NamedTuple):
    """What the kernel needs to know of a model or potential function, from one look at it.

    Attributes:
        potential_fn_gen: (*args, **kwargs) → potential energy on unconstrained values.
        postprocess_gen: (*args, **kwargs) → map from unconstrained values to constrained and deterministic sites;
            None for a potential function.
        unravel: flat vector (D,) → unconstrained values.
        center: a valid point, flat, shape (D,).
        caveats: why the evidence is undefined or not what its name says, in words; empty where it is sound.
        notes: what a reader of the evidence should know that no check can tell.
        observed: all observed values in rising order; None where they are not known.
    """

    potential_fn_gen: Callable[..., Callable[[Any], Array]]
    postprocess_gen: Callable[..., Callable[[Any], Any]] | None
    unravel: Callable[[Array], Any]
    center: Array
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    observed: np.ndarray | None


def setup_model(
    rng_key: Array,
    model: Callable[..., Any],
    model_args: tuple,
    model_kwargs: dict[str, Any],
    *,
    init_strategy: Callable,
    init_params: Any = None,
    forward_mode: bool = False,
) -> ModelSetup:
    """Trace `model` once with NumPyro's own `initialize_model`.

    Raises:
        ValueError: if the model has no continuous latent site.
    """
    info = initialize_model(
        rng_key,
        model,
        dynamic_args=True,
        init_strategy=init_strategy,
        model_args=model_args,
        model_kwargs=model_kwargs,
        forward_mode_differentiation=forward_mode,
    )
    start = info.param_info.z if init_params is None else init_params
    # the model's own order, parents before children, which the base's conditional scales rely on
    names = [name for name in info.model_trace if name in start]
    center, unravel_list = ravel_pytree([start[name] for name in names])
    if center.size == 0:
        raise ValueError(
            "The model has no continuous latent sites: there is nothing to sample. "
            "Check that its parameters are `numpyro.sample` statements without `obs`."
        )
    trace = info.model_trace
    return ModelSetup(
        potential_fn_gen=info.potential_fn,
        postprocess_gen=info.postprocess_fn,
        unravel=partial(_unravel_sites, names, unravel_list),
        center=center.astype(_float()),
        caveats=evidence_caveats(trace),
        notes=_factor_notes(trace),
        observed=_observed(trace),
    )


def setup_potential(potential_fn: Callable[[Any], Array], init_params: Any) -> ModelSetup:
    """The same for a potential function.

    Raises:
        ValueError: if `init_params` is missing or empty.
    """
    if init_params is None:
        raise ValueError(
            "`init_params` must be given to `run` with `potential_fn`: it tells the parameters' structure."
        )
    center, unravel = ravel_pytree(init_params)
    if center.size == 0:
        raise ValueError("`init_params` has no elements: there is nothing to sample.")
    note = (
        "note: log_z is the log integral of exp(-potential_fn); it is a model's evidence only if the potential "
        "includes every constant."
    )
    generate = partial(_ignore_arguments, potential_fn)
    return ModelSetup(generate, None, unravel, center.astype(_float()), caveats=(), notes=(note,), observed=None)


def _unravel_sites(names: list[str], unravel: Callable[[Array], list[Array]], flat: Array) -> dict[str, Array]:
    return dict(zip(names, unravel(flat), strict=True))


def _ignore_arguments(result: Any, *_: Any, **__: Any) -> Any:
    return result


def _float() -> jnp.dtype:
    return jnp.result_type(float)


def _base_distribution(fn: Any) -> Any:
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def _is_masked(fn: Any) -> bool:
    """Whether any part of a distribution is masked out."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(fn, dist.MaskedDistribution) and not _all_true(fn._mask):
            return True
        fn = fn.base_dist
    return False


def evidence_caveats(model_trace: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Reasons, one sentence each, why ∫γ is not the model's marginal likelihood; from a trace of the model."""
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
        if latent and _is_masked(site["fn"]):
            caveats.append(f"latent site '{name}' is masked, so its prior is improper where the mask is False.")
        if site["scale"] is not None and not _is_one(site["scale"]):
            caveats.append(f"site '{name}' is rescaled by `handlers.scale` or a subsampled plate.")
    return tuple(caveats)


def _factor_notes(model_trace: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    names = [
        name
        for name, site in model_trace.items()
        if site["type"] == "sample" and isinstance(_base_distribution(site["fn"]), dist.Unit)
    ]
    if not names:
        return ()
    sites = ", ".join(f"'{name}'" for name in names)
    return (f"note: the model has `factor` terms ({sites}): log_z counts them as they are, normalised or not.",)


def _observed(model_trace: dict[str, dict[str, Any]]) -> np.ndarray | None:
    sites = (site for site in model_trace.values() if site["type"] == "sample" and site["is_observed"])
    values = [site["value"] for site in sites]
    if any(isinstance(value, Tracer) for value in values):
        return None
    return np.sort(np.concatenate([np.zeros(0), *(np.ravel(np.asarray(value)).astype(float) for value in values)]))


def _is_one(scale: Any) -> bool:
    return not isinstance(scale, Tracer) and bool(np.all(np.asarray(scale) == 1))


def _all_true(mask: Any) -> bool:
    return not isinstance(mask, Tracer) and bool(np.all(np.asarray(mask)))
