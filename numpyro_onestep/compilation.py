"""Compiled functions of this package: in what precision, how they are compiled, and how many of them are kept.

JAX's default for float32 matrix products is TensorFloat-32 on a GPU and bfloat16 on a TPU. A flow computed so is not
the map that its log-determinant belongs to, and a log density is another one: German credit's log Z was off by 20
standard errors on an H100, with nothing to see in the weights. So all that this package computes, the model included,
has the full precision of its type, unless `jax_default_matmul_precision` says otherwise.

Each program takes hundreds of memory maps, of which a Linux process has 65,530, and so does each program of a NUTS run
or of whatever else the process compiles; without a limit a process that fits one model after the other would die of
them.
"""

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array, random
from jax.core import Tracer
from jax.sharding import Mesh

from numpyro_onestep import devices, threads

__all__ = [
    "compile_ahead",
    "fold_in",
    "full_precision",
    "in_transformation",
    "jit",
    "jit_once",
    "make_room",
    "shapes_of",
    "split",
]

# the compiler's default level makes code no faster than level 1 here; level 0 compiles in half the time again, to code
# four times slower
_FAST_CODE = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 1,
}
_FAST_COMPILATION = _FAST_CODE | {"xla_backend_optimization_level": 0}
# to try kernels for each product of small matrices takes half of all compilation, gains nothing, and chooses by the
# clock, so that the last digits differ from run to run
_ON_GPU = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
_MUCH_WORK = 2000  # numbers that one evaluation of a log density computes, from which fast code pays even if run once
_MAX_PROGRAMS = 100  # some five models' worth
_MAPS, _MAX_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_F = TypeVar("_F", bound=Callable[..., Any])

_functions: list[Any] = []
_programs: dict[Callable[..., Any], Callable[..., Any]] = {}  # of each decorated function, its program for arguments
_traces: list[None] = []  # one for each program compiled


def full_precision(function: _F) -> _F:
    """The same function, its matrix products in the full precision of their type where the user has chosen none."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        with jax.default_matmul_precision(chosen or "highest"):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def in_transformation(*values: Any) -> bool:
    """Whether these are values of a JAX transformation, or all that is computed here is part of a `jit`."""
    leaves = jax.tree.leaves((values, jax.device_put(np.zeros(()))))  # the last is traced in any `jit`
    return any(isinstance(leaf, Tracer) for leaf in leaves)


def _compiled(function: _F, static_argnames: tuple[str, ...], once: bool) -> _F:
    """`jax.jit`, with options on CPU and GPU; within another transformation, which has its own, it is plain."""

    @cache
    def counted(mesh: Mesh | None) -> Callable[..., Any]:
        @wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            _traces.append(None)
            with devices.over(mesh):
                return function(*args, **kwargs)

        return traced

    @cache
    def compiled(backend: str, fast_code: bool, mesh: Mesh | None) -> Any:
        options: dict[str, Any] = {"compiler_options": _known(_options(backend, fast_code))}
        if mesh is not None and backend:
            options["out_shardings"] = devices.replicated(mesh)
        _functions.append(jax.jit(counted(mesh), static_argnames=static_argnames, **options))
        return _functions[-1]

    def program(mesh: Mesh | None, traced: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        fast_code = not once or any(getattr(value, "work", 0) > _MUCH_WORK for value in (*args, *kwargs.values()))
        return compiled("" if traced else jax.default_backend(), fast_code, mesh)

    @full_precision  # around the call: the precision that holds there is part of what JAX knows a program by
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        traced = in_transformation(args, kwargs)
        if traced:
            return program(devices.current(), True, args, kwargs)(*args, **kwargs)
        threads.wait(call)
        mesh = devices.mesh_of(args, kwargs)
        args, kwargs = devices.on_all(mesh, (args, kwargs))
        return program(mesh, False, args, kwargs)(*args, **kwargs)

    _programs[call] = program
    return call  # type: ignore[return-value]


def compile_ahead(function: Callable[..., Any], arguments: Callable[[], tuple]) -> None:
    """Compile a function of `jit` or `jit_once` in a second thread, for a call with these arguments.

    Args:
        function: as the decorator left it.
        arguments: returns the arguments of the call to come, arrays or their shapes; called in that thread.
    """
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]

    @full_precision
    def work() -> None:
        with jax.enable_x64(wide):  # a context of the first thread does not hold in the second
            given = arguments()
            mesh = devices.mesh_of(given)
            given = devices.on_all(mesh, given)
            _programs[function](mesh, False, given, {}).lower(*given).compile()

    threads.begin(function, work)


def shapes_of(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of `jit` or `jit_once` would return, as shapes; traced once for this and for its compilation."""
    mesh = devices.mesh_of(args)
    return devices.on_all(mesh, _programs[function](mesh, False, args, {}).eval_shape(*args))


def _options(backend: str, fast_code: bool) -> dict[str, Any]:
    """The compiler options for one of JAX's backends."""
    if backend == "gpu":
        return _ON_GPU
    return (_FAST_CODE if fast_code else _FAST_COMPILATION) if backend == "cpu" else {}


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Those that this jaxlib's compiler has; where it has all that are ever wanted one small program tells it."""
    if not options or _are_known(tuple((_FAST_COMPILATION | _ON_GPU).items())):
        return options
    return {name: value for name, value in options.items() if _are_known(((name, value),))}


@cache
def _are_known(options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=dict(options))()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit(function: _F, static_argnames: tuple[str, ...] = ()) -> _F:
    """`jax.jit`, for functions that take a model as an argument; on CPU it compiles faster, to code no slower."""
    return _compiled(function, static_argnames, once=False)


def jit_once(function: _F, static_argnames: tuple[str, ...] = ()) -> _F:
    """`jit` for what runs once: on CPU it compiles faster still, to slower code unless a target's `work` is much."""
    return _compiled(function, static_argnames, once=True)


@jit_once
def split(rng_key: Array) -> tuple[Array, ...]:
    """Eight keys, the first of them those of `jax.random.split`: one program for all who split a key on the host."""
    return tuple(random.split(rng_key, 8))


@jit_once
def fold_in(rng_key: Array, data: int) -> Array:
    """`jax.random.fold_in`, on the host one program for all."""
    return random.fold_in(rng_key, data)


def make_room() -> None:
    """Give up the package's compiled programs if there are too many, and if that is not enough all of JAX's.

    Before a fit, never within one.
    """
    if _crowded():
        _traces.clear()
        for function in _functions:
            function.clear_cache()
        if _crowded():
            jax.clear_caches()


def _crowded() -> bool:
    """Whether half of the memory maps are in use; where they cannot be counted, whether there are many programs."""
    try:
        return _MAPS.read_bytes().count(b"\n") > int(_MAX_MAPS.read_text()) // 2
    except OSError:
        return len(_traces) > _MAX_PROGRAMS
