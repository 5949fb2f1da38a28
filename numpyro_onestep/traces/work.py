"""How much work a function is."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["work"]


def work(closed: ClosedJaxpr) -> int:
    """About how many numbers one evaluation computes; of matrix products also those that they read."""
    return _work(closed.jaxpr)


def _work(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [part for value in equation.params.values() for part in _parts(value)]
        if inner:
            total += equation.params.get("length", 1) * sum(map(_work, inner))
            continue
        read = equation.invars if equation.primitive.name == "dot_general" else []
        total += sum(math.prod(getattr(var.aval, "shape", ())) for var in (*equation.outvars, *read))
    return total


def _parts(value: Any) -> Iterator[Any]:
    """The traced functions among the parameters of an equation."""
    if isinstance(value, ClosedJaxpr | Jaxpr):
        yield getattr(value, "jaxpr", value)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)
