"""What tells functions from others that do something else."""

import hashlib
import re
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["Same", "fingerprint"]


class Same:
    """An object that equals itself alone, whatever its own idea of equality, and can be hashed."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def fingerprint(closed: ClosedJaxpr) -> Hashable:
    """What a function computes, constants that it closes over included: a digest of its trace.

    A model may read a global variable that has changed since it was compiled; its fingerprint then differs. Where the
    trace cannot tell (host callbacks, values of a transformation around it) each fingerprint is unique.
    """
    text, consts = re.sub(r" at 0x[0-9a-f]+", "", str(closed)), list(_consts(closed))
    hidden = getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)  # constants are not in the trace then
    if hidden or "callback" in text or any(isinstance(const, Tracer) for const in consts):
        return Same(object())
    digest = hashlib.blake2b(text.encode())
    for const in consts:
        is_key = jnp.issubdtype(jnp.result_type(const), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(const) if is_key else const)
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _consts(value: Any) -> Iterator[Any]:
    """The constants of a traced function and of all those within it."""
    if isinstance(value, ClosedJaxpr | Jaxpr):  # one and the same class in newer versions of JAX
        yield from getattr(value, "consts", ())
        for equation in value.eqns:
            yield from _consts(tuple(equation.params.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _consts(item)
