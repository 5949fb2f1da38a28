"""Compiled functions of this package: how they are compiled, and for how many models they are kept.

A compiled model takes thousands of memory maps, of which a Linux process has 65,530; without a limit a process that
fits one model after the other would die of them.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, TypeVar

import jax
from jax.core import Tracer

__all__ = ["jit", "jit_once", "keep"]

_FAST = {"xla_backend_optimization_level": 1}
_MAX_MODELS = 4
_F = TypeVar("_F", bound=Callable[..., Any])

_compiled: list[Any] = []
_models: set[Hashable] = set()


def jit(function: _F, static_argnames: tuple[str, ...] = ()) -> _F:
    """`jax.jit`, for functions that take a model as an argument."""
    compiled = jax.jit(function, static_argnames=static_argnames)
    _compiled.append(compiled)
    return compiled  # type: ignore[return-value]


def jit_once(function: _F, static_argnames: tuple[str, ...] = ()) -> _F:
    """`jit` that compiles a third faster on CPU, to slower code: for what runs once in each fit.

    Within another transformation it is plain `jax.jit`.
    """
    plain = jit(function, static_argnames)
    fast = jax.jit(function, static_argnames=static_argnames, compiler_options=_FAST)
    _compiled.append(fast)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        return (plain if traced or jax.default_backend() != "cpu" else fast)(*args, **kwargs)

    return call  # type: ignore[return-value]


def keep(identity: Hashable) -> None:
    """Make room for a model's compiled code: beyond four models all of it is given up."""
    if identity not in _models and len(_models) == _MAX_MODELS:
        _models.clear()
        for compiled in _compiled:
            compiled.clear_cache()
    _models.add(identity)
