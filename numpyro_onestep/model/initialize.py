"""One look at a NumPyro model or a potential function, before anything is compiled: its `ModelSetup`."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from numpyro_onestep.model.bounds import bounds_move, replayed
from numpyro_onestep.model.function import Same
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.model.trace import evidence_caveats, factor_notes, masked_out, observed_values

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
    """Trace `model` once with NumPyro's own `initialize_model`.

    With `fill_idle` the entries that touch nothing are looked for: where the arguments stay what they are, since which
    these entries are may depend on them.

    Raises:
        ValueError: if the model has no continuous latent site, or a value of `init_params` another shape than its site.
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
    _check_shapes(start, info.param_info.z)
    # the model's own order, parents before children, which the base's conditional scales rely on
    names = [name for name in info.model_trace if name in start]
    center, unravel_list = ravel_pytree([start[name] for name in names])
    if center.size == 0:
        raise ValueError(
            "The model has no continuous latent sites: there is nothing to sample. "
            "Check that its parameters are `numpyro.sample` statements without `obs`."
        )
    trace = info.model_trace
    postprocess = info.postprocess_fn
    if all(site["type"] != "deterministic" for site in trace.values()):  # else NumPyro replays the model
        moving = bounds_move(trace, info.potential_fn(*model_args, **model_kwargs), info.param_info.z)
        postprocess = replayed(info.potential_fn) if moving else postprocess
    identity = Same(model), tuple(names), _shapes([start[name] for name in names])
    setup = ModelSetup(
        potential_fn_gen=info.potential_fn,
        postprocess_gen=postprocess,
        unravel=partial(_unravel_sites, names, unravel_list),
        center=center.astype(_float()),
        caveats=(),
        notes=factor_notes(trace),
        observed=observed_values(trace),
        identity=identity,
        traceable=False,
        forward_mode=forward_mode,
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
        forward_mode=forward_mode,
    )
    return setup.identified((), {})


def _unravel_sites(names: list[str], unravel: Callable[[Array], list[Array]], flat: Array) -> dict[str, Array]:
    return dict(zip(names, unravel(flat), strict=True))


def _check_shapes(given: dict[str, Any], sites: dict[str, Any]) -> None:
    for name, value in given.items():
        if name in sites and jnp.shape(value) != jnp.shape(sites[name]):
            raise ValueError(
                f"`init_params` has shape {jnp.shape(value)} for site '{name}', which unconstrained has "
                f"{jnp.shape(sites[name])}: give one point, or one for each chain along a leading dimension."
            )


def _check_scalar(potential_fn: Callable[[Any], Array], init_params: Any) -> None:
    try:
        shape = jax.eval_shape(potential_fn, init_params).shape
    except Exception:  # it will say so where it is run
        return
    if shape != ():
        raise ValueError(
            f"`potential_fn` gives an array of shape {shape} at `init_params`, not a number: give one point, or one "
            "for each chain along a leading dimension as long as there are chains."
        )


def _ignore_arguments(result: Any, *_: Any, **__: Any) -> Any:
    return result


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
) -> dict[str, np.ndarray]:
    """By site, the masked entries in which the gradient is exactly zero at the centre and around it; {} if none are."""
    start = setup.unravel(setup.center)
    idle = {name: masked_out(model_trace[name]["fn"], np.shape(start[name])) for name in names}
    if isinstance(setup.center, Tracer) or not any(np.any(entries) for entries in idle.values()):
        return {}
    target = setup.target(args, kwargs)
    offsets = np.random.default_rng(0).normal(size=(5, len(setup.center))) * np.array([[0], [0.1], [1], [10], [100]])
    points = setup.center + jnp.asarray(offsets, setup.center.dtype)
    values, grads = jax.jit(jax.vmap(target.value_and_grad))(points)
    if isinstance(grads, Tracer):
        return {}
    still = setup.unravel(jnp.all((grads == 0) | ~jnp.isfinite(values)[:, None], axis=0).astype(setup.center.dtype))
    idle = {name: entries & (np.asarray(still[name]) == 1) for name, entries in idle.items()}
    return idle if any(np.any(entries) for entries in idle.values()) else {}
