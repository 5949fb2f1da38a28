"""The draws of a run as NumPyro's `MCMC` keeps them: constrained, by chain, with the extra fields asked for."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_onestep.compilation import jit
from numpyro_onestep.devices import shard
from numpyro_onestep.draws.chains import Chains
from numpyro_onestep.model.function import ModelFunction
from numpyro_onestep.model.setup import ModelSetup
from numpyro_onestep.state import OneStepState

__all__ = [
    "by_chain",
    "check_fields",
    "check_sites",
    "in_model",
    "names_site",
    "one_point",
    "over_points",
]

# fields of the state
_NOT_COLLECTED = ("base", "train", "rng_key", "x", "flow", "log_angle", "ladder_angle", "members")


def names_site(field: str) -> str:
    """The site that an extra field such as "z.x" or "~z.x" names, "" if it names none."""
    return field.partition(".")[2] if field.removeprefix("~").startswith("z.") else ""


def check_fields(fields: Sequence[str]) -> None:
    """Raise where an extra field that names no site is not one value per draw (ValueError) or none (AttributeError)."""
    several = isinstance(fields, Iterable) and not isinstance(fields, str)
    if not several or not all(isinstance(name, str) for name in fields):
        raise TypeError(f"`extra_fields` must be names, such as ('potential_energy',), not {fields!r}.")
    for name in fields:
        if names_site(name):
            continue
        if name.split(".")[0] in _NOT_COLLECTED:
            raise ValueError(f"Extra field '{name}' is not one value per draw; read it from `last_state`.")
        if name not in OneStepState._fields:
            raise AttributeError(f"OneStepState has no field '{name}'; it has {', '.join(OneStepState._fields)}.")


def check_sites(fields: Sequence[str], setup: ModelSetup, constrain: ModelFunction) -> None:
    """Raise AttributeError where an extra field names a site that is not there."""
    latent = setup.unravel(setup.center)
    shown = jax.eval_shape(constrain, setup.center) if any(name.startswith("~") for name in fields) else None
    for name in filter(names_site, fields):
        sites = shown if name.startswith("~") else latent
        if not isinstance(sites, dict) or names_site(name) not in sites:
            there = ", ".join(sites) if isinstance(sites, dict) else "none"
            raise AttributeError(f"There is no site for the extra field '{name}'; there are: {there}.")


def one_point(init_params: Any, num_chains: int, potential_fn: Callable | None) -> Any:
    """The point that one flow for all chains starts from, out of one point or one for each chain along a leading axis.

    Where every leaf is as long as there are chains it is that axis, as in NumPyro, unless the potential function can be
    evaluated at the whole alone: four chains in four dimensions.
    """
    leaves = jax.tree.leaves(init_params)
    if num_chains == 1 or any(jnp.shape(leaf)[:1] != (num_chains,) for leaf in leaves):
        return init_params
    first = jax.tree.map(lambda leaf: leaf[0], init_params)
    alone = potential_fn is not None and not _is_scalar(potential_fn, first) and _is_scalar(potential_fn, init_params)
    return init_params if alone else first


def _is_scalar(function: Callable, point: Any) -> bool:
    try:
        return jax.eval_shape(function, point).shape == ()
    except Exception:  # whatever a function raises at a point of another shape
        return False


@jit
def over_points(function: ModelFunction, points: Array) -> Any:
    """A function of one flat unconstrained point at points of shape (..., D); the results have the leading axes."""
    flat = jax.vmap(function)(shard(points.reshape(-1, points.shape[-1])))
    return jax.tree.map(lambda leaf: leaf.reshape(*points.shape[:-1], *leaf.shape[1:]), flat)


def in_model(drawn: Chains, out: ModelFunction | None) -> Chains:
    """The same draws, with the potential energy on the model's unconstrained space; see `out_of_coordinates`."""
    if out is None:
        return drawn

    def moved(fields: dict[str, Array], points: Array) -> dict[str, Array]:
        return fields | {"potential_energy": fields["potential_energy"] + over_points(out, points)[1]}

    return drawn._replace(
        fields=moved(drawn.fields, drawn.points), last_fields=moved(drawn.last_fields, drawn.last_points)
    )


def by_chain(drawn: Chains, fields: Sequence[str], constrain: ModelFunction, unravel: ModelFunction) -> dict[str, Any]:
    """Samples under "z" and the other fields by their names, every leaf with leading axes of chains and kept draws.

    Args:
        drawn: the corrected draws of a run.
        fields: which of their fields to keep; "z.site" keeps a site unconstrained as well, "~z.site" leaves it out.
        constrain: from a flat point to constrained sites.
        unravel: from a flat point to unconstrained sites.
    """
    samples = over_points(constrain, drawn.points)
    result = {"z": samples}
    for name in dict.fromkeys(fields):
        if names_site(name) and name.startswith("~"):
            samples.pop(names_site(name))
        elif names_site(name):
            result[name] = over_points(unravel, drawn.points)[names_site(name)]
        elif name != "z":
            result[name] = drawn.fields[name]
    return result
