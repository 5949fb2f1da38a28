"""The look at a model: NumPyro's own `initialize_model`, as one compiled program where that can be.

NumPyro computes it line by line, and JAX compiles a program for each kind of line, a hundred for a small model. Here it
is traced with abstract arrays, the model's arguments among them, and its trace is compiled: once for all data of the
same shape, as long as the model does the same. The way, the random numbers and so the point found are NumPyro's.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, random
from jax.core import Tracer
from numpyro import handlers
from numpyro.distributions.util import lazy_property
from numpyro.infer import init_to_value
from numpyro.infer.util import initialize_model
from numpyro.util import is_prng_key

from numpyro_onestep.compilation import in_transformation, jit_once
from numpyro_onestep.model.bounds import replayed
from numpyro_onestep.model.function import ALL, REAL, ModelFunction, bind, retold, trace
from numpyro_onestep.threads import alone_in_numpyro
from numpyro_onestep.traces.fingerprint import Same, fingerprint

__all__ = ["Look", "look"]

_STORED = {"param", "mutable"}  # sites whose values NumPyro keeps for all later evaluations
_FIELDS = {"sample": ("type", "fn", "value", "scale", "is_observed"), "plate": ("type", "args")}


class Look(NamedTuple):
    """What NumPyro finds.

    Attributes:
        potential_fn_gen: (*args, **kwargs) → potential energy on unconstrained values.
        postprocess_gen: (*args, **kwargs) → map from unconstrained values to constrained and deterministic sites.
        start: unconstrained values by site at which the density and its gradient are finite.
        sites: the model's sites in its own order, as NumPyro's `trace` gives them; maybe only some of their fields.
    """

    potential_fn_gen: Callable[..., Callable[[Any], Array]]
    postprocess_gen: Callable[..., Callable[[Any], Any]]
    start: dict[str, Array]
    sites: dict[str, dict[str, Any]]


def look(
    rng_key: Array,
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    *,
    init_strategy: Callable,
    forward_mode: bool = False,
) -> Look:
    """The model's sites, its potential, and a valid start.

    Raises:
        Exception: whatever NumPyro and the model raise.
    """
    arguments = args, kwargs, _values_of(init_strategy)

    def strategy(values: dict[str, Any] | None) -> Any:
        return init_strategy if values is None else init_to_value(values=values)

    def by_numpyro(rng_key: Array, args: tuple, kwargs: dict[str, Any], values: dict[str, Any] | None) -> Any:
        how = {"init_strategy": strategy(values), "dynamic_args": True, "forward_mode_differentiation": forward_mode}
        with alone_in_numpyro():
            return initialize_model(rng_key, model, model_args=args, model_kwargs=kwargs, **how)

    def within_a_trace(rng_key: Array, args: tuple, kwargs: dict[str, Any], values: dict[str, Any] | None) -> Any:
        _run_at_once(model, strategy(values), rng_key, args, kwargs)
        return by_numpyro(rng_key, args, kwargs, values)

    if is_prng_key(rng_key) and not in_transformation(rng_key, arguments):
        for kinds in (ALL, REAL):
            try:
                found = _by_one_program(within_a_trace, rng_key, arguments, kinds)
            except Exception:  # it must see more values, or is wrong: NumPyro's way below copes with it, or says so
                continue
            if found is not None:
                return found
            break
    info = by_numpyro(rng_key, *arguments)
    if any(site["type"] == "param" for site in info.model_trace.values()):
        info = by_numpyro(random.key(0), *arguments)  # a parameter's random value is the same at every look
    return Look(info.potential_fn, info.postprocess_fn, info.param_info.z, info.model_trace)


def _run_at_once(
    model: Callable[..., Any], init_strategy: Callable, rng_key: Array, args: tuple, kwargs: dict[str, Any]
) -> None:
    """Run the model once, all that does not depend on abstract arrays computed at once.

    A model may keep it for its later calls, which must not find an abstract array there: in a cache of its own, or in a
    distribution made outside of it, which is another function from then on.
    """
    with jax.ensure_compile_time_eval():
        seeded = handlers.substitute(handlers.seed(model, rng_key), substitute_fn=init_strategy)
        for site in handlers.trace(seeded).get_trace(*args, **kwargs).values():
            if site["type"] == "sample" and any(map(_keeps_values, _distributions(site["fn"]))):
                site["fn"].log_prob(site["value"])


def _keeps_values(fn: Any) -> bool:
    return any(isinstance(value, lazy_property) for kind in type(fn).__mro__ for value in vars(kind).values())


def _values_of(init_strategy: Any) -> dict[str, Any] | None:
    """The values of `init_to_value`: arguments like the data, not part of what is compiled."""
    if isinstance(init_strategy, partial) and init_strategy.func is init_to_value:
        return dict(init_strategy.keywords.get("values", {}))
    return None


def _by_one_program(find: Callable[..., Any], rng_key: Array, arguments: tuple, kinds: str) -> Look | None:
    """The same from one compiled program; None where that program cannot tell all or NumPyro has something to say.

    The model does not see the values of arrays of these `kinds`, as in `bind`.
    """
    kept: list[Any] = []

    def outputs(arguments: tuple, _: dict, rng_key: Array) -> list[Any]:
        info = find(rng_key, *arguments)
        seen, gens = info.model_trace, (info.potential_fn, info.postprocess_fn)
        if any(site["type"] in _STORED for site in seen.values()) or not all(map(_is_its_leaves, _of_samples(seen))):
            return []
        if _has_tracers(info.postprocess_fn):  # bounds computed from data or other sites
            gens = info.potential_fn, replayed(info.potential_fn)
        sound = jnp.all(jnp.stack([_is_finite(info.param_info), *_demands(seen)]))
        # pairs, since a dictionary would come back sorted
        sites = [
            (name, {key: site[key] for key in _FIELDS.get(site["type"], ("type",))}) for name, site in seen.items()
        ]
        leaves, tree = jax.tree.flatten((info.param_info.z, sites))
        # observed values are often an argument itself, which need not go through the program and lose digits there
        own = {id(leaf): array for leaf, array in zip(jax.tree.leaves(arguments), given, strict=True)}
        known = [own.get(id(leaf)) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        kept.append((gens, known, tree))
        return [sound, *(leaf for leaf, value in zip(leaves, known, strict=True) if value is None)]

    values = None if arguments[-1] is None else jax.tree.map(jnp.asarray, arguments[-1])
    arguments = (*arguments[:-1], values)
    given = jax.tree.leaves(arguments)
    function = bind(None, outputs, arguments, {}, kinds)
    closed = trace(function, rng_key)
    told = fingerprint(closed)
    if not kept or isinstance(told, Same):
        return None
    sound, *moving = _run(retold(closed, told, function.arrays), rng_key)
    if not bool(sound):
        return None
    (potential_fn_gen, postprocess_gen), known, tree = kept[-1]
    rest = iter(moving)
    start, sites = jax.tree.unflatten(tree, [next(rest) if leaf is None else leaf for leaf in known])
    return Look(potential_fn_gen, postprocess_gen, start, dict(sites))


@jit_once
def _run(function: ModelFunction, rng_key: Array) -> list[Array]:
    return function(rng_key)


def _is_its_leaves(fn: Any) -> bool:
    """Whether a distribution has its support still when put together again as a pytree; one of a user's may not."""
    again = jax.tree.map(lambda leaf: leaf, fn)
    return jax.tree.structure(again.support) == jax.tree.structure(fn.support)


def _of_samples(sites: dict[str, dict[str, Any]]) -> Iterator[Any]:
    for site in sites.values():
        if site["type"] == "sample":
            yield from _distributions(site["fn"])


def _has_tracers(value: Any) -> bool:
    """Whether a function made of `partial` holds arrays that must not outlive the trace."""
    if isinstance(value, partial):
        return _has_tracers((value.func, value.args, value.keywords))
    leaves = jax.tree.leaves(value, is_leaf=lambda leaf: isinstance(leaf, partial))
    return any(_has_tracers(leaf) if isinstance(leaf, partial) else isinstance(leaf, Tracer) for leaf in leaves)


def _is_finite(found: Any) -> Array:
    """Whether NumPyro's search ended at a point that it calls valid."""
    return jnp.isfinite(found.potential_energy) & jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found.z_grad)])
    )


def _demands(sites: dict[str, dict[str, Any]]) -> Iterator[Any]:
    """What NumPyro demands of the values that it sees, and cannot of abstract ones; it has the words if one fails.

    Observed values outside of the support need no check of their own: the density there is not finite.
    """
    for site in sites.values():
        if site["type"] == "sample" and site["scale"] is not None:
            yield jnp.all(jnp.asarray(site["scale"]) > 0)
    for fn in _of_samples(sites):
        for name, value in fn.get_args().items() if fn._validate_args else ():
            constraint = fn.arg_constraints[name]
            if not dist.constraints.is_dependent(constraint):
                yield jnp.all(jnp.asarray(constraint(value)))


def _distributions(fn: Any) -> Iterator[Any]:
    """A distribution and all that it is made of."""
    yield fn
    for value in vars(fn).values():
        for leaf in jax.tree.leaves(value, is_leaf=lambda leaf: isinstance(leaf, dist.Distribution)):
            if isinstance(leaf, dist.Distribution):
                yield from _distributions(leaf)
