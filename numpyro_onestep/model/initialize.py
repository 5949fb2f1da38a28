"""One look at a NumPyro model or a potential function, before anything is compiled: its `ModelSetup`."""

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions import biject_to

from numpyro_onestep.compilation import jit_once
from numpyro_onestep.model.bounds import bounds_move, replayed
from numpyro_onestep.model.function import NONE
from numpyro_onestep.model.look import look
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.target import Target
from numpyro_onestep.model.trace import evidence_caveats, factor_notes, masked_out, observations, observed_values
from numpyro_onestep.traces.fingerprint import Same

__all__ = ["setup_model", "setup_potential"]


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
    """Look at `model` once, by NumPyro's own `initialize_model`.

    With `fill_idle` the entries that touch nothing are looked for: where the arguments stay what they are, since which
    these entries are may depend on them.

    Raises:
        ValueError: if the model has no continuous latent site, `init_params` lacks one, or has another shape there.
        TypeError: if `init_params` is no dict of arrays.
    """
    found = look(rng_key, model, model_args, model_kwargs, init_strategy=init_strategy, forward_mode=forward_mode)
    start = _as_floats(found.start if init_params is None else init_params)
    _check_shapes(start, found.start)
    # the model's own order, parents before children, which the base's conditional scales rely on
    names = [name for name in found.sites if name in start]
    center, unravel = _flat([start[name] for name in names])
    if center.size == 0:
        raise ValueError(
            "The model has no continuous latent sites: there is nothing to sample. "
            "Check that its parameters are `numpyro.sample` statements without `obs`."
        )
    trace = found.sites
    postprocess = found.postprocess_gen
    if all(site["type"] != "deterministic" for site in trace.values()):  # else NumPyro replays the model
        moving = bounds_move(trace, found.potential_fn_gen(*model_args, **model_kwargs), found.start)
        postprocess = replayed(found.potential_fn_gen) if moving else postprocess
    identity = Same(model), tuple(names), _shapes([start[name] for name in names])
    setup = ModelSetup(
        potential_fn_gen=found.potential_fn_gen,
        postprocess_gen=postprocess,
        unravel=partial(_unravel_sites, names, unravel),
        center=center,
        caveats=(),
        notes=factor_notes(trace),
        observed=observed_values(trace),
        observations=observations(trace),
        identity=identity,
        abstract=NONE,
        forward_mode=forward_mode,
        prior_gen=partial(_draw_of_prior, model, {name: np.shape(start[name]) for name in names}),
    )
    idle = _idle(setup, trace, names, model_args, model_kwargs) if fill_idle else {}
    flat = setup._replace(idle=np.concatenate([np.ravel(idle[name]) for name in names]) if idle else None)
    caveats = evidence_caveats(trace, idle or {name: np.zeros(np.shape(start[name]), bool) for name in names})
    return flat._replace(caveats=caveats).identified(model_args, model_kwargs)


def setup_potential(potential_fn: Callable[[Any], Array], init_params: Any, forward_mode: bool = False) -> ModelSetup:
    """The same for a potential function.

    Raises:
        ValueError: if `init_params` is missing or empty, or the potential there is not a number.
    """
    if init_params is None:
        raise ValueError(
            "`init_params` must be given to `run` with `potential_fn`: it tells the parameters' structure."
        )
    init_params = _as_floats(init_params)
    _check_scalar(potential_fn, init_params)
    center, unravel = _flat(init_params)
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
        center=center,
        caveats=(),
        notes=(note,),
        observed=None,
        identity=(Same(potential_fn), _shapes(init_params)),
        abstract=NONE,
        forward_mode=forward_mode,
    )
    return setup.identified((), {})


def _unravel_sites(names: list[str], unravel: Callable[[Array], list[Array]], flat: Array) -> dict[str, Array]:
    return dict(zip(names, unravel(flat), strict=True))


def _draw_of_prior(
    model: Callable[..., Any], shapes: dict[str, tuple], args: tuple, kwargs: dict[str, Any], rng_key: Array
) -> Array:
    """A draw of the prior on the flat unconstrained vector; raises where a site has none or another shape then."""
    sites = handlers.trace(handlers.seed(model, rng_key)).get_trace(*args, **kwargs)
    values = {name: biject_to(sites[name]["fn"].support).inv(sites[name]["value"]) for name in shapes}
    if {name: jnp.shape(value) for name, value in values.items()} != shapes:
        raise ValueError("the shapes of the model's sites depend on their values")
    return jnp.concatenate([jnp.ravel(value).astype(_float()) for value in values.values()])


def _check_shapes(given: Any, sites: dict[str, Any]) -> None:
    if not isinstance(given, dict) or not jax.tree_util.all_leaves(given.values()):
        raise TypeError(f"`init_params` must be a dict of arrays by site, unconstrained, not {given!r}.")
    missing = [name for name in sites if name not in given]
    if missing:
        raise ValueError(f"`init_params` lacks the sites {missing} of the model; it has {list(given)}.")
    for name, value in given.items():
        if name in sites and jnp.shape(value) != jnp.shape(sites[name]):
            raise ValueError(
                f"`init_params` has shape {jnp.shape(value)} for site '{name}', which unconstrained has "
                f"{jnp.shape(sites[name])}: give one point, or one for each chain along a leading dimension."
            )


def _check_scalar(potential_fn: Callable[[Any], Array], init_params: Any) -> None:
    kept: list[Any] = []
    try:
        jax.eval_shape(lambda z: kept.append(potential_fn(z)), init_params)
    except Exception:  # it will say so where it is run
        return
    try:
        shape, real = jnp.shape(kept[0]), jnp.issubdtype(jnp.result_type(kept[0]), jnp.floating)
    except TypeError:  # no array at all
        shape, real = None, False
    if shape != () or not real:
        what = f"an array of shape {shape} and type {jnp.result_type(kept[0])}" if shape is not None else repr(kept[0])
        raise ValueError(
            f"`potential_fn` gives {what} at `init_params`, not a real number: give one point, or one for each chain "
            "along a leading dimension as long as there are chains."
        )


def _ignore_arguments(result: Any, *_: Any, **__: Any) -> Any:
    return result


def _shapes(tree: Any) -> Hashable:
    leaves, treedef = jax.tree.flatten(tree)
    return str(treedef), tuple((jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)


def _float() -> jnp.dtype:
    return jnp.result_type(float)


def _as_floats(tree: Any) -> Any:
    """All leaves of one type: a flat vector has one, and integers would not move."""
    xp: Any = _home_of(tree)
    for leaf in jax.tree.leaves(tree):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise TypeError(f"`init_params` must be real numbers, not {leaf!r}.")
    return jax.tree.map(lambda leaf: xp.asarray(leaf, _float()), tree)


def _flat(tree: Any) -> tuple[Array, Callable[[Array], Any]]:
    """The leaves one after the other as a vector, and the way back."""
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [np.shape(leaf) for leaf in leaves]
    xp: Any = _home_of(tree)
    flat = xp.concatenate([xp.zeros(0, _float()), *map(xp.ravel, leaves)])
    return jnp.asarray(flat), partial(_unflat, treedef, shapes)


def _unflat(treedef: Any, shapes: list[tuple[int, ...]], flat: Array) -> Any:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = [part.reshape(shape) for part, shape in zip(jnp.split(flat, ends[:-1]), shapes, strict=True)]
    return jax.tree.unflatten(treedef, parts)


def _home_of(tree: Any) -> Any:
    """NumPy, where no program is compiled, unless values are abstract."""
    return jnp if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)) else np


@jit_once
def _value_and_grad(target: Target, points: Array) -> tuple[Array, Array]:
    return jax.vmap(target.value_and_grad)(points)


def _idle(
    setup: ModelSetup,
    model_trace: dict[str, dict[str, Any]],
    names: list[str],
    args: tuple,
    kwargs: dict[str, Any],
) -> dict[str, np.ndarray]:
    """By site, the masked entries in which the gradient is exactly zero at the centre and around it; {} if none are."""
    shapes = jax.eval_shape(setup.unravel, setup.center)
    idle = {name: masked_out(model_trace[name]["fn"], shapes[name].shape) for name in names}
    if isinstance(setup.center, Tracer) or not any(np.any(entries) for entries in idle.values()):
        return {}
    target = setup.target(args, kwargs)
    offsets = np.random.default_rng(0).normal(size=(5, len(setup.center))) * np.array([[0], [0.1], [1], [10], [100]])
    points = jnp.asarray(np.asarray(setup.center) + offsets, setup.center.dtype)
    values, grads = _value_and_grad(target, points)
    if isinstance(grads, Tracer):
        return {}
    still = setup.unravel(jnp.all((grads == 0) | ~jnp.isfinite(values)[:, None], axis=0).astype(setup.center.dtype))
    idle = {name: entries & (np.asarray(still[name]) == 1) for name, entries in idle.items()}
    return idle if any(np.any(entries) for entries in idle.values()) else {}
