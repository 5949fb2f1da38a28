"""A NumPyro model or a potential function as a log density on a flat unconstrained vector."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from numpyro.infer.util import initialize_model

from numpyro_onestep.compilation import full_precision
from numpyro_onestep.model.function import ModelFunction, Same, bind, fingerprint, plain
from numpyro_onestep.model.trace import evidence_caveats, factor_notes, masked_out, observed_values

__all__ = [
    "LARGE_DIM",
    "LogDensity",
    "ModelSetup",
    "Target",
    "safe_log_density",
    "setup_model",
    "setup_potential",
]

LARGE_DIM = 256  # above it Hessians, several Gaussian fits at once and wide networks cost too much


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
        v: Array = self.log_density(x)
        return jnp.where(jnp.isfinite(v), v, -jnp.inf)

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """Log γ(x) and its gradient, by forward mode where reverse mode is impossible."""
        v: Array
        g: Array
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
        observed: all observed values, site after site; None where they are not known.
        identity: tells models whose functions do the same, given the same arguments, from others.
        traceable: whether the model can do with arguments whose values it cannot see.
        reverse_only: whether it has functions with rules for reverse-mode differentiation alone.
        given: the positional and keyword arguments of the look; None where they were those of a transformation.
        idle: coordinates that the density does not depend on, shape (D,): masked entries of latent sites that touch
            nothing, as `obs_mask` makes them. They get a standard normal density of their own, which changes neither
            the other coordinates' posterior nor the evidence.
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
    given: tuple[tuple, dict[str, Any]] | None = None
    idle: np.ndarray | None = None

    def log_density(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Log γ on the flat unconstrained vector."""
        return bind((self.identity, "log_density"), self._log_density, args, kwargs, self.traceable)

    def constrain(self, args: tuple, kwargs: dict[str, Any]) -> ModelFunction:
        """Constrained values and deterministic sites of the flat unconstrained vector."""
        return bind((self.identity, "constrain"), self._constrain, args, kwargs, self.traceable)

    def _log_density(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Array:
        value = -self.potential_fn_gen(*args, **kwargs)(self.unravel(x))
        return value if self.idle is None else value + jnp.sum(jnp.where(self.idle, norm.logpdf(x), 0.0))

    def _constrain(self, args: tuple, kwargs: dict[str, Any], x: Array) -> Any:
        values = self.unravel(x)
        return values if self.postprocess_gen is None else self.postprocess_gen(*args, **kwargs)(values)

    def identified(self, args: tuple, kwargs: dict[str, Any]) -> "ModelSetup":
        """The same, with `traceable` found out and `identity` completed by tracing with abstract arrays."""
        tried = self._replace(traceable=True)
        try:
            fingerprints = tried._fingerprints(args, kwargs)
        except Exception:  # whatever a model raises where it must see values
            tried = self._replace(traceable=False)
            try:
                fingerprints = tried._fingerprints(args, kwargs)
            except Exception:  # it will say so where it is run
                return tried._replace(identity=Same(object()))
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        return tried._replace(
            identity=(self.identity, fingerprints),
            reverse_only=_is_reverse_only(tried.log_density(args, kwargs), self.center),
            given=None if traced else (args, kwargs),
        )

    def check_unchanged(self) -> None:
        """Compare what the model does now, given the arguments of the look, with what it did then.

        Raises:
            RuntimeError: if it differs, as after a global variable that the model reads was changed.
        """
        if isinstance(self.identity, Same) or self.given is None:  # it could not be told then either
            return
        bare, then = self.identity  # type: ignore[misc]
        now = self._replace(identity=bare)._fingerprints(*self.given)
        if any(a != b for a, b in zip(then, now, strict=True) if Same not in (type(a), type(b))):
            raise RuntimeError(
                "The model does something else now than in its last run: a variable that it reads, a handler around "
                "the run, or a setting (float64, matmul precision, NumPyro's validation) has changed since. Give data "
                "as arguments of `run`, or run again."
            )

    @full_precision
    def _fingerprints(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Hashable, ...]:
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
    fill_idle: bool = False,
) -> ModelSetup:
    """Trace `model` once with NumPyro's own `initialize_model`.

    With `fill_idle` the entries that touch nothing are looked for: where the arguments stay what they are, since which
    these entries are may depend on them.

    Raises:
        ValueError: if the model has no continuous latent site.
    """
    look = partial(
        initialize_model,
        model=model,
        dynamic_args=True,
        init_strategy=init_strategy,
        model_args=model_args,
        model_kwargs=model_kwargs,
        forward_mode_differentiation=forward_mode,
    )
    info = look(rng_key)
    if any(site["type"] == "param" for site in info.model_trace.values()):
        info = look(random.key(0))  # a parameter's random value is the same at every look
    start = _as_floats(info.param_info.z if init_params is None else init_params)
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
        caveats=(),
        notes=factor_notes(trace),
        observed=observed_values(trace),
        identity=identity,
        traceable=False,
    )
    idle = _idle(setup, trace, names, model_args, model_kwargs, forward_mode) if fill_idle else {}
    flat = setup._replace(idle=np.concatenate([np.ravel(idle[name]) for name in names]) if idle else None)
    caveats = evidence_caveats(trace, idle or {name: np.zeros(np.shape(start[name]), bool) for name in names})
    return flat._replace(caveats=caveats).identified(model_args, model_kwargs)


def setup_potential(potential_fn: Callable[[Any], Array], init_params: Any) -> ModelSetup:
    """The same for a potential function.

    Raises:
        ValueError: if `init_params` is missing or empty.
    """
    if init_params is None:
        raise ValueError(
            "`init_params` must be given to `run` with `potential_fn`: it tells the parameters' structure."
        )
    init_params = _as_floats(init_params)
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


def _as_floats(tree: Any) -> Any:
    """All leaves of one type: of mixed ones `ravel_pytree` gives each its own back, integers by cutting off digits."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, _float()), tree)


def _idle(
    setup: ModelSetup,
    model_trace: dict[str, dict[str, Any]],
    names: list[str],
    args: tuple,
    kwargs: dict[str, Any],
    forward_mode: bool,
) -> dict[str, np.ndarray]:
    """By site, the masked entries in which the gradient is exactly zero at the centre and around it; {} if none are."""
    start = setup.unravel(setup.center)
    idle = {name: masked_out(model_trace[name]["fn"], np.shape(start[name])) for name in names}
    if isinstance(setup.center, Tracer) or not any(np.any(entries) for entries in idle.values()):
        return {}
    target = Target(setup.log_density(args, kwargs), forward_mode)
    offsets = np.random.default_rng(0).normal(size=(5, len(setup.center))) * np.array([[0], [0.1], [1], [10], [100]])
    points = setup.center + jnp.asarray(offsets, setup.center.dtype)
    values, grads = jax.jit(jax.vmap(target.value_and_grad))(points)
    if isinstance(grads, Tracer):
        return {}
    still = setup.unravel(jnp.all((grads == 0) | ~jnp.isfinite(values)[:, None], axis=0).astype(setup.center.dtype))
    idle = {name: entries & (np.asarray(still[name]) == 1) for name, entries in idle.items()}
    return idle if any(np.any(entries) for entries in idle.values()) else {}
