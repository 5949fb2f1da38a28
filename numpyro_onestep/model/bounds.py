"""Bounds that are other sites: constrained values from the model as its density sees it, at each point anew.

NumPyro's map to constrained values takes the bounds of one trace for all points, unless the model has deterministic
sites or the support is a plain interval or half-line of one number. Where a bound that moves is within an event, an
`expand` or an improper prior, most draws would then lie outside of it. The density is right in any case: it is computed
from the model run at the point.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from numpyro import handlers

__all__ = ["bounds_move", "replayed"]


def bounds_move(
    model_trace: dict[str, dict[str, Any]], potential_fn: Callable[[dict[str, Any]], Any], values: dict[str, Any]
) -> bool:
    """Whether the support of a site depends on other sites, or cannot be seen to be fixed.

    With abstract values everything that is computed within the model is abstract, so a bound that is computed from the
    data alone counts as well: then the model is replayed without need, which costs little.

    Args:
        model_trace: a trace of the model.
        potential_fn: potential energy of unconstrained values.
        values: unconstrained values of the latent sites.
    """
    if not any(_parameters(site) for name, site in model_trace.items() if name in values):
        return False
    seen: list[bool] = []

    def look(values: dict[str, Any]) -> None:
        for name, site in _sites(potential_fn, values).items():
            if name in values:
                seen.extend(isinstance(leaf, Tracer) or leaf is None for leaf in _parameters(site))

    jax.eval_shape(look, values)
    return any(seen)


def replayed(potential_fn_gen: Callable[..., Callable[[Any], Any]]) -> Callable[..., Callable[[Any], dict[str, Any]]]:
    """(*args, **kwargs) → map from unconstrained values to constrained ones, as the density of the model has them."""

    def gen(*args: Any, **kwargs: Any) -> Callable[[Any], dict[str, Any]]:
        potential_fn = potential_fn_gen(*args, **kwargs)

        def constrain(values: dict[str, Any]) -> dict[str, Any]:
            sites = _sites(potential_fn, values)
            return {name: sites[name]["value"] if name in sites else value for name, value in values.items()}

        return constrain

    return gen


def _sites(potential_fn: Callable[[dict[str, Any]], Any], values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sites of the model as the potential is computed; the compiler drops the rest of it."""
    with handlers.trace() as sites:
        potential_fn(values)
    return sites


def _parameters(site: dict[str, Any]) -> list[Any]:
    """The parameters of a latent site's support; one None where they cannot be seen."""
    if site["type"] != "sample":
        return []
    try:
        return jax.tree.leaves(site["fn"].support)
    except NotImplementedError:  # a constraint of the user's own
        return [None]
