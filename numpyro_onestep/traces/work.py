"""How much work a function is, and all that it does."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["equations", "work"]


def work(closed: ClosedJaxpr) -> int:
    """About how many numbers one evaluation computes; of matrix products also those that they read."""
    return _work(closed.jaxpr)


def equations(closed: ClosedJaxpr) -> Iterator[Any]:
    """All equations of a traced function, those of the functions within it instead of the calls of these."""
    yield from _equations(closed.jaxpr)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        inner = list(_inner(equation))
        if not inner:
            yield equation
        for part in inner:
            yield from _equations(part)


def _work(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = list(_inner(equation))
        if inner:
            total += equation.params.get("length", 1) * sum(map(_work, inner))
            continue
        read = equation.invars if equation.primitive.name == "dot_general" else []
        total += sum(math.prod(getattr(var.aval, "shape", ())) for var in (*equation.outvars, *read))
    return total


def _inner(equation: Any) -> Iterator[Any]:
    """The traced functions among the parameters of an equation."""
    for value in equation.params.values():
        yield from _parts(value)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        yield getattr(value, "jaxpr", value)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _parts(item)
