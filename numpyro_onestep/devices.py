"""Several devices: arrays copied to all of them, and the draws of a program shared out among them.

A program that is given an array of a mesh runs on all of its devices. What it is given and what it returns is on each
of them in full; in between the base draws, and with them all that is computed of each, are cut along their first axis.
What is summed over all draws is summed by JAX, as are the random numbers the same however they are cut.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["FOR_DRAWS", "FOR_RUNS", "current", "mesh_of", "on_all", "on_one", "over", "replicated", "row", "shard"]

_AXIS = "onestep_draws"  # a name that no mesh of the user's has
FOR_RUNS, FOR_DRAWS = 1e6, 1e4  # numbers that an evaluation computes, from which several devices are faster than one
_current: ContextVar[Mesh | None] = ContextVar("mesh of the program that is being traced", default=None)
current = _current.get


def row(mesh: Mesh | None, work: float = np.inf, enough: float = FOR_RUNS) -> Mesh | None:
    """The devices of a mesh in a row; of none all that there are, of all hosts. None where that is a single device.

    None also where no mesh is given and one evaluation of the target computes fewer numbers, `work`, than are `enough`:
    what is not cut is done on each device, and devices wait for one another.
    """
    if mesh is None and work < enough:
        return None
    devices = np.array(jax.devices()) if mesh is None else mesh.devices.ravel()
    return Mesh(devices, (_AXIS,)) if len(devices) > 1 else None


def replicated(mesh: Mesh) -> NamedSharding:
    """In full on each device."""
    return NamedSharding(mesh, PartitionSpec())


def mesh_of(*values: Any) -> Mesh | None:
    """The row of devices that one of the arrays is on; arrays that the user has cut himself are on none."""
    for leaf in jax.tree.leaves(values):
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
        if isinstance(mesh, Mesh) and mesh.axis_names == (_AXIS,):
            return mesh
    return None


def on_all(mesh: Mesh | None, values: Any) -> Any:
    """The same with all arrays, and shapes of arrays, on each device of the row; what is on several stays as it is."""
    if mesh is None:
        return values
    everywhere = replicated(mesh)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)
        if isinstance(leaf, np.ndarray | np.generic) or (isinstance(leaf, Array) and len(leaf.devices()) == 1):
            return _put(leaf, everywhere)
        return leaf

    return jax.tree.map(put, values)


def _put(leaf: Any, everywhere: NamedSharding) -> Array:
    if everywhere.is_fully_addressable:
        return jax.device_put(leaf, everywhere)
    if _is_key(leaf):
        return _rewrap(leaf, _put(random.key_data(leaf), everywhere))
    values = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    return jax.make_array_from_process_local_data(everywhere, values, values.shape)  # every host has all of it


def on_one(values: Any) -> Any:
    """The same with the arrays of a mesh on JAX's default device."""
    return jax.tree.map(lambda leaf: leaf if mesh_of(leaf) is None else _default(leaf), values)


def _default(leaf: Array) -> Array:
    if _is_key(leaf):
        return _rewrap(leaf, _default(random.key_data(leaf)))
    return jnp.asarray(np.asarray(leaf))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _rewrap(key: Array, data: Array) -> Array:
    return random.wrap_key_data(data, impl=random.key_impl(key))


@contextmanager
def over(mesh: Mesh | None) -> Iterator[None]:
    """Programs traced within share their draws out among the mesh's devices."""
    token = _current.set(mesh)
    try:
        yield
    finally:
        _current.reset(token)


def shard(draws: Array) -> Array:
    """The draws, cut along their first axis where a program is traced for several devices that share them evenly."""
    mesh = _current.get()
    if mesh is None or len(draws) % mesh.size:
        return draws
    return lax.with_sharding_constraint(draws, NamedSharding(mesh, PartitionSpec(_AXIS)))
