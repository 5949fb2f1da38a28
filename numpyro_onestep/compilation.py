"""Compilation of what runs once: there the compiler's own time is most of the cost."""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

__all__ = ["jit_once"]

_FAST = {"xla_backend_optimization_level": 1}


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` that compiles a third faster on CPU, to slower code; within another transformation plain `jax.jit`."""
    plain = jax.jit(function)
    if jax.default_backend() != "cpu":
        return plain
    fast = jax.jit(function, compiler_options=_FAST)

    def call(*args: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
        return plain(*args) if traced else fast(*args)

    return call
