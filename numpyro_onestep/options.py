"""Checks of what users give, before anything is traced; an error names the argument, its value and what it must be."""

import operator
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

__all__ = ["check_function", "check_key", "check_one_of", "check_room", "flag", "keys_shape", "mesh", "real", "whole"]

_MOST = 2**31 - 1  # of what is counted in 32 bits
_LARGEST = 3e38  # of single precision


def whole(name: str, value: Any, least: int = 1, most: int = _MOST) -> int:
    """An argument that counts something.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, not {value!r}.") from None
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}, not {number}.")
    if number > most:
        raise ValueError(f"`{name}` must be at most {most}, not {number}.")
    return number


def real(name: str, value: Any, must_be: str, holds: Callable[[float], bool]) -> float:
    """An argument that is a finite number for which something holds; `must_be` says what.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it does not hold.
    """
    try:
        number = float("" if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"`{name}` must be {must_be}, not {value!r}.") from None
    if not (abs(number) <= _LARGEST and holds(number)):
        raise ValueError(f"`{name}` must be {must_be}, not {number}.")
    return number


def flag(name: str, value: Any) -> bool:
    """An argument that is true or false; TypeError if it is neither."""
    try:
        return bool(value)
    except (TypeError, ValueError):  # of several values
        raise TypeError(f"`{name}` must be True or False, not {value!r}.") from None


def check_one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError if an argument is none of these words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, not {value!r}.")


def check_function(name: str, value: Any) -> None:
    """Raise TypeError if an argument is neither a function nor None."""
    if value is not None and not callable(value):
        raise TypeError(f"`{name}` must be a function, not {value!r}.")


def mesh(value: Any) -> Mesh | None:
    """The argument `mesh`; TypeError if it is neither a mesh nor None."""
    if not isinstance(value, Mesh | None):
        raise TypeError(f"`mesh` must be a `jax.sharding.Mesh` or None, not {value!r}.")
    return value


def check_key(rng_key: Any, num_chains: int | None = None) -> None:
    """Raise if this is no random key, typed or not, nor one for each of so many chains.

    Raises:
        TypeError: if it is something else.
        ValueError: if there are more or fewer of them.
    """
    batch = keys_shape(rng_key)
    if batch and (batch != (num_chains,) or num_chains == 0):
        each = "" if num_chains is None else f", or one for each of the {num_chains} chains"
        raise ValueError(f"`rng_key` must be one key{each}, not keys of shape {batch}.")


def keys_shape(rng_key: Any) -> tuple[int, ...]:
    """() for one random key; TypeError if it is something else."""
    dtype, shape = getattr(rng_key, "dtype", None), getattr(rng_key, "shape", ())
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return shape
    width = 2 if "threefry" in jax.config.jax_default_prng_impl else 4  # type: ignore[attr-defined]
    if dtype == np.uint32 and shape[-1:] == (width,):
        return shape[:-1]
    raise TypeError(f"`rng_key` must be a key of JAX, such as jax.random.key(0), not {rng_key!r}.")


def check_room(num_draws: int, num_bytes: int) -> None:
    """Raise ValueError if so many draws of so many bytes each do not fit into the memory of the device."""
    stats = jax.local_devices()[0].memory_stats() or {}
    needed, there = num_draws * num_bytes, stats.get("bytes_limit") or _host_memory()
    if needed > there:
        raise ValueError(
            f"{num_draws:,} draws take {needed / 1e9:,.0f} GB at least, and there are {there / 1e9:,.0f}. Draw fewer "
            "at a time."
        )


def _host_memory() -> float:
    """Bytes of the machine, as far as they can be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not in every system
        return float("inf")
