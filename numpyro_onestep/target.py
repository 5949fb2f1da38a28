"""A NumPyro model or a potential function as a log density on a flat unconstrained vector."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from numpyro_onestep.model_function import ModelFunction, Same, bind, fingerprint, plain

__all__ = [
    "LogDensity",
    "ModelSetup",
    "Target",
    "evidence_caveats",
    "safe_log_density",
    "setup_model",
    "setup_potential",
]


class LogDensity(Protocol):
    """log γ on R^D and its derivatives, for one point of shape (D,).

    A non-finite density is reported as −inf and its gradient as zero, so that an overflow costs a draw its weight and
    training one sample, never the run.
    """

    def value(self, x: Array, /) -> Array:
        """Log γ(x)."""
        ...

    def value_and_grad(self, x: Array, /) -> tuple[Array, Array]:
        """Log γ(x) and its gradient."""
        ...

    def hessian(self, x: Array, /) -> Array:
        """The derivative of that gradient."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Target:
    """A `LogDensity` on the unconstrained space, and a pytree, so that compiled functions take it as an argument."""

    log_density: ModelFunction
    forward_mode: bool = field(default=False, metadata={"static": True})
    reverse_only: bool = field(default=False, metadata={"static": True})

    def value(self, x: Array) -> Array:
        """Log γ(x)."""
        v = self.log_density(x)
        return jnp.where(jnp.isfinite(v), v, -jnp.inf)

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Log γ(x) and its gradient, by forward mode where reverse mode is impossible."""
        if self.forward_mode:
            v, g = self.log_density(x), jax.jacfwd(self.log_density)(x)
        else:
            v, g = jax.value_and_grad(self.log_density)(x)
        ok = jnp.isfinite(v) & jnp.all(jnp.isfinite(g))
        return jnp.where(jnp.isfinite(v), v, -jnp.inf), jnp.where(ok, g, 0.0)

    def hessian(self, x: Array) -> Array:
        """The derivative of that gradient; by reverse mode too where forward mode is impossible, as with `odeint`."""
        derivative = jax.jacrev if self.reverse_only else jax.jacfwd
        return derivative(lambda x: self.value_and_grad(x)[1])(x)


def safe_log_density(log_density: Callable[[Array], Array], forward_mode: bool = False) -> Target:
    """Guard `log_density` against non-finite values; differentiate by forward mode where reverse mode is impossible."""
    known = isinstance(log_density, ModelFunction)
    return Target(log_density if known else plain(log_density), forward_mode)


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
        identity: tells models whose functions do the same, given the same arguments, from others.
        traceable: whether the model can do with arguments whose values it cannot see.
        reverse_only: whether it has functions with rules for reverse-mode differentiation alone.
    """

    potential_fn_gen: Callable[..., Callable[[Any], Array]]
    postprocess_gen: Callable[..., Callable[[Any], Any]] | None
    unravel: Callable[[Array], Any]
    center: Array
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    observed: np.ndarray | None
    identity: Hashable
    traceable: bool
    reverse_only: bool = False

    def log_density(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Log γ on the flat unconstrained vector."""
        return bind((self.identity, "log_density"), self._log_density, args, kwargs, self.traceable)

    def constrain(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Constrained values and deterministic sites of the flat unconstrained vector."""
        return bind((self.identity, "constrain"), self._constrain, args, kwargs, self.traceable)

    def _log_density(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Array:
        return -self.potential_fn_gen(*args, **kwargs)(self.unravel(x))

    def _constrain(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Any:
        values = self.unravel(x)
        return values if self.postprocess_gen is None else self.postprocess_gen(*args, **kwargs)(values)

    def identified(self, args: tuple, kwargs: dict[str, Any]) -> "ModelSetup":
        """The same, with `traceable` found out and `identity` completed by tracing with abstract arrays."""
        tried = self._replace(traceable=True)
        try:
            fingerprints = tried._fingerprints(args, kwargs)
        except Exception:
            tried = self._replace(traceable=False)
            fingerprints = tried._fingerprints(args, kwargs)
        return tried._replace(
            identity=(self.identity, fingerprints),
            reverse_only=_is_reverse_only(tried.log_density(args, kwargs), self.center),
        )

    def _fingerprints(self, args: tuple, kwargs: dict[str, Any]) -> Hashable:
        functions = self.log_density(args, kwargs), self.constrain(args, kwargs)
        return tuple(fingerprint(function, self.center) for function in functions)


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
    identity = Same(model), tuple(names), _shapes([start[name] for name in names])
    setup = ModelSetup(
        potential_fn_gen=info.potential_fn,
        postprocess_gen=info.postprocess_fn,
        unravel=partial(_unravel_sites, names, unravel_list),
        center=center.astype(_float()),
        caveats=evidence_caveats(trace),
        notes=_factor_notes(trace),
        observed=_observed(trace),
        identity=identity,
        traceable=False,
    )
    return setup.identified(model_args, model_kwargs)


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
    setup = ModelSetup(
        potential_fn_gen=partial(_ignore_arguments, potential_fn),
        postprocess_gen=None,
        unravel=unravel,
        center=center.astype(_float()),
        caveats=(),
        notes=(note,),
        observed=None,
        identity=(Same(potential_fn), _shapes(init_params)),
        traceable=False,
    )
    return setup.identified((), {})


def _unravel_sites(names: list[str], unravel: Callable[[Array], list[Array]], flat: Array) -> dict[str, Array]:
    return dict(zip(names, unravel(flat), strict=True))


def _ignore_arguments(result: Any, *_: Any, **__: Any) -> Any:
    return result


def _is_reverse_only(log_density: ModelFunction, center: Array) -> bool:
    try:
        jax.eval_shape(Target.hessian, Target(log_density), center)
    except TypeError as error:
        return "custom_vjp" in str(error)
    except Exception:
        return False
    return False


def _shapes(tree: Any) -> Hashable:
    leaves, treedef = jax.tree.flatten(tree)
    return str(treedef), tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)


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
