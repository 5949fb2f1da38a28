"""Functions of a model's arguments and of a point, as pytrees: compiled once for all arguments of the same shapes.

JAX compiles anew for every new function object and for every value that a function closes over. Here the arrays among
the arguments are leaves of the pytree, so arguments of the compiled code; all else, from the model itself to a number
among its arguments, is static and compared by value. The second run on new data of the same shape compiles nothing.
"""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from numpyro_onestep.threads import alone_in_numpyro
from numpyro_onestep.traces.fingerprint import Same

__all__ = [
    "ALL",
    "NONE",
    "REAL",
    "ModelFunction",
    "bind",
    "owned",
    "plain",
    "retold",
    "same_leaves",
    "trace",
]

ALL, REAL, NONE = "biuf", "f", ""  # kinds of arrays whose values a model need not see
_BLUR = 1e-5  # of an array's spread: what rounding to float32 may cost before the array stays a constant
_MAX_INTEGER = 1000  # beyond it the cube of an integer overflows 32 bits


@dataclass(frozen=True)
class _Code:
    """What is compiled: `function(arrays, x)`. Codes of equal identity do the same."""

    identity: Hashable
    function: Callable[[tuple[Array, ...], Array], Any] = field(compare=False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelFunction:
    """A function of one flat point, with the arrays among the model's arguments as leaves."""

    code: _Code = field(metadata={"static": True})
    arrays: tuple[Array, ...]

    def __call__(self, x: Array) -> Any:
        """The value at one point of shape (D,)."""
        return _traced_once(self.code)(self.arrays, x)


@lru_cache(maxsize=64)
def _traced_once(code: _Code) -> Callable[[tuple[Array, ...], Array], Any]:
    """The function as a program within programs: a model is traced once, not anew in each program that uses it."""
    return jax.jit(code.function)


class _Constant:
    """An argument that is part of the code, compared by value where that is possible, otherwise by identity."""

    def __init__(self, value: Any):
        self.value = value
        if isinstance(value, bool | int | float | complex | str | bytes):
            self.key: Hashable = (type(value), value)
        elif isinstance(value, np.ndarray | np.generic | jax.Array) and not _is_opaque(value):
            array = np.asarray(value)
            digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()
            self.key = (type(value), array.dtype.str, array.shape, digest)
        else:
            self.key = Same(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def plain(function: Callable[[Array], Any], identity: Hashable = None) -> ModelFunction:
    """A function of the point alone; equal only to itself, or to all of the same `identity`."""
    return ModelFunction(_Code(Same(function) if identity is None else identity, lambda _, x: function(x)), ())


def bind(
    identity: Hashable,
    function: Callable[..., Any],
    args: tuple,
    kwargs: dict,
    abstract: str = ALL,
    learnt: Any = None,
) -> ModelFunction:
    """`function(args, kwargs, x)` at the given arguments, or `function(args, kwargs, learnt, x)`.

    Args:
        identity: what tells this function from others; must not depend on the arrays.
        function: of the arguments and a point.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.
        abstract: kinds of arrays, as in `dtype.kind`, whose values the model need not see; others are constants.
        learnt: a pytree of arrays that are none of the model's, never constants; None for none.
    """
    leaves, treedef = jax.tree.flatten((args, kwargs))
    moving = [_can_move(leaf, abstract) for leaf in leaves]
    arrays = tuple(jnp.asarray(leaf) for leaf, moves in zip(leaves, moving, strict=True) if moves)
    constants = tuple(None if moves else _Constant(leaf) for leaf, moves in zip(leaves, moving, strict=True))

    more, learnt_treedef = jax.tree.flatten(learnt)
    merged = partial(_merge_and_call, function, treedef, constants, learnt_treedef)
    arrays += tuple(map(jnp.asarray, more))
    return ModelFunction(_Code((identity, treedef, constants, learnt_treedef), merged), arrays)


def _merge_and_call(
    function: Callable[..., Any],
    treedef: Any,
    constants: tuple,
    learnt_treedef: Any,
    arrays: tuple[Array, ...],
    x: Array,
) -> Any:
    rest = iter(arrays)
    leaves = [next(rest) if constant is None else constant.value for constant in constants]
    args, kwargs = jax.tree.unflatten(treedef, leaves)
    learnt = jax.tree.unflatten(learnt_treedef, list(rest))
    with alone_in_numpyro():
        return function(args, kwargs, x) if learnt is None else function(args, kwargs, learnt, x)


def owned(given: Any, before: Any) -> Any:
    """Arguments with copies of their NumPy arrays, which others may change; those of `before` where they are equal."""
    leaves, tree = jax.tree.flatten(given)
    old, old_tree = jax.tree.flatten(before)
    old = old if tree == old_tree else [None] * len(leaves)
    return jax.tree.unflatten(tree, [_owned_leaf(*pair) for pair in zip(leaves, old, strict=True)])


def _owned_leaf(leaf: Any, before: Any) -> Any:
    if not isinstance(leaf, np.ndarray) or leaf.dtype == object:
        return leaf
    known = isinstance(before, np.ndarray) and (leaf.dtype, leaf.shape) == (before.dtype, before.shape)
    return before if known and leaf.tobytes() == before.tobytes() else leaf.copy()


def same_leaves(a: Any, b: Any) -> bool:
    """Whether two pytrees hold the very same leaves."""
    leaves_a, tree_a = jax.tree.flatten(a)
    leaves_b, tree_b = jax.tree.flatten(b)
    return tree_a == tree_b and all(x is y for x, y in zip(leaves_a, leaves_b, strict=True))


def trace(function: ModelFunction, x: Array) -> ClosedJaxpr:
    """The function as JAX sees it, traced anew with abstract arrays.

    Raises:
        Exception: whatever the model raises where it must see values that are abstract here.
    """
    no_devices = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))  # those of `pmap` show in a trace
    with no_devices:
        return jax.make_jaxpr(function.code.function)(*jax.tree.map(_shape_of, (function.arrays, x)))


def retold(closed: ClosedJaxpr, identity: Hashable, arrays: tuple[Array, ...]) -> ModelFunction:
    """What the trace of a function does, its results in a list; equal to all of the same `identity`, a fingerprint."""
    return ModelFunction(_Code(identity, lambda arrays, x: jaxpr_as_fun(closed)(*arrays, x)), arrays)


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """An array without the devices that it lies on."""
    aval: Any = jax.typeof(array)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _is_opaque(value: Any) -> bool:
    """Whether an array's bytes cannot be read or do not tell its value."""
    return isinstance(value, Tracer) or jnp.issubdtype(value.dtype, jax.dtypes.extended) or value.dtype == object


def _can_move(leaf: Any, kinds: str) -> bool:
    """Whether an argument is an array of these kinds that JAX holds as it is, or nearly so.

    A model may work on NumPy's arrays of 64 bits before JAX sees them. A float64 array that float32 would blur, such as
    a time in seconds, must stay what it is, and so must int64 whose powers would overflow int32.
    """
    if isinstance(leaf, jax.Array):  # complex numbers and keys are arrays as well
        return kinds != NONE and getattr(leaf.dtype, "kind", REAL) not in set(ALL) - set(kinds)
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in kinds:
        return False
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if dtype == leaf.dtype:
        return True
    if leaf.dtype.kind in "iu":
        return bool(np.max(np.abs(leaf), initial=0) <= _MAX_INTEGER)
    finite = leaf[np.isfinite(leaf)]
    error = np.max(np.abs(finite - finite.astype(dtype)), initial=0.0)
    return bool(error <= _BLUR * np.std(finite)) if error > 0 else True
