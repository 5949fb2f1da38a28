"""A tree of arrays and plain values as JSON and the arrays' bytes, and back: no code in it.

In the JSON plain values and lists stand as they are, all else as a dict of one entry, its kind. Arrays are numbers of
entries of a table of types, shapes and offsets.
"""

import json
import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

__all__ = ["decode", "encode", "named", "plain"]

_ALIGNMENT = 16  # bytes
_HOLDS = "use arrays, numbers, strings, None, lists, tuples and dicts with strings as keys"


def encode(about: dict[str, Any], tree: dict[str, Any]) -> tuple[bytes, list[bytes]]:
    """JSON of `about`, the structure of `tree` and the table, and the bytes of its arrays.

    Raises:
        TypeError: if there is anything else in `tree` than arrays, random keys, numbers, strings, None, lists, tuples
            and dicts with strings as keys; it says where.
    """
    table: list[Any] = []
    parts: list[bytes] = []
    structure = {name: _encode(value, name, table, parts) for name, value in tree.items()}
    text = json.dumps({**about, "tree": structure, "arrays": table}).encode()
    return text + b" " * (-len(text) % _ALIGNMENT), parts


def decode(found: dict[str, Any], whole: bytes, start: int) -> dict[str, Any]:
    """The tree of a JSON and of the arrays' bytes, which begin at `start`; arrays are views of them.

    A table that claims more than is there raises a ValueError and allocates nothing.
    """
    arrays = [_view(whole, start, *entry) for entry in found["arrays"]]
    return {name: _decode(value, arrays) for name, value in found["tree"].items()}


def plain(value: Any) -> Any:
    """Named tuples as dicts, all the way down."""
    return {name: plain(part) for name, part in value._asdict().items()} if hasattr(value, "_asdict") else value


def named(kind: Any, parts: dict[str, Any], as_array: Callable[[Any], Any]) -> Any:
    """The inverse of `plain`, for a named tuple of this type."""
    hints = get_type_hints(kind)

    def restored(hint: Any, part: Any) -> Any:
        fields = getattr(part, "keys", tuple)()
        fitting = [k for k in (hint, *get_args(hint)) if hasattr(k, "_fields") and set(k._fields) == set(fields)]
        if fitting:
            return named(fitting[0], part, as_array)
        return as_array(part) if isinstance(part, np.ndarray) else part

    return kind(**{name: restored(hints[name], part) for name, part in parts.items()})


def _encode(tree: Any, what: str, table: list[Any], parts: list[bytes]) -> Any:
    if isinstance(tree, dict):
        if not all(isinstance(name, str) for name in tree):
            raise TypeError(f"A file cannot hold {what}: its keys must be strings, not {list(tree)}.")
        return {"dict": {name: _encode(value, f"{what}['{name}']", table, parts) for name, value in tree.items()}}
    if type(tree) in (list, tuple):
        items = [_encode(value, f"{what}[{i}]", table, parts) for i, value in enumerate(tree)]
        return items if type(tree) is list else {"tuple": items}
    if isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        return {"key": [str(random.key_impl(tree)), _encode(random.key_data(tree), what, table, parts)]}
    if isinstance(tree, jax.Array | np.ndarray | np.generic):
        array = np.asarray(tree)
        if array.dtype.hasobject or array.dtype.fields:
            raise TypeError(f"A file cannot hold {what}, an array of {array.dtype}: {_HOLDS}.")
        offset = table[-1][2] + len(parts[-1]) if table else 0
        # types that NumPy does not know, such as bfloat16, have a name only
        table.append([array.dtype.name if array.dtype.kind == "V" else array.dtype.str, array.shape, offset])
        parts.append(array.tobytes() + bytes(-array.nbytes % _ALIGNMENT))
        return {"array": len(table) - 1}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"A file cannot hold {what}, of type {type(tree).__name__}: {_HOLDS}.")


def _decode(tree: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(tree, list):
        return [_decode(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "dict":
        return {name: _decode(item, arrays) for name, item in value.items()}
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in value)
    if kind == "key":
        return random.wrap_key_data(_decode(value[1], arrays), impl=value[0])
    if kind == "array":
        return arrays[value]
    raise ValueError(f"it holds a {kind!r}")


def _view(whole: bytes, start: int, dtype: str, shape: list[int], offset: int) -> np.ndarray:
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the shape {shape}")
    # raises if the bytes are not there, and for types that are references to objects
    return np.frombuffer(whole, np.dtype(dtype), math.prod(shape), start + offset).reshape(shape)
