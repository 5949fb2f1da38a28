"""Compiled programs kept on disk, so that the second process does not compile what the first one has."""

import hashlib
import os
import platform
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from jaxlib.version import __version__ as jaxlib_version

__all__ = ["enable_compilation_cache"]


def enable_compilation_cache(directory: str | Path | None = None) -> Path:
    """Keep compiled programs on disk from now on, and take from there what earlier processes have compiled.

    Tracing remains; compilation, most of the time of a first run, does not. The setting is JAX's own and holds for all
    that the process compiles. Programs are kept apart by versions of jax and jaxlib and by the kind of processor, and
    only a folder that nobody else can write to is safe: a program in it is run as it is.

    NUMPYRO_ONESTEP_CACHE=1 (or a folder) in the environment does the same when this package is imported. XLA logs an
    error that means nothing for each program that it reads: from now on it logs none, unless TF_CPP_MIN_LOG_LEVEL=0 is
    in the environment or `jax_logging_level` is set.

    Args:
        directory: where to keep them; by default numpyro-onestep in $XDG_CACHE_HOME, or else in ~/.cache.

    Returns:
        The folder of this version and machine.

    Raises:
        OSError: if the folder cannot be made.
    """
    if directory is None:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numpyro-onestep"
    folder = Path(directory).expanduser() / f"jax-{jax.__version__}-jaxlib-{jaxlib_version}-{_processor()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # or a folder set after the first program would not be seen
    _silence_xla()
    return folder


def _silence_xla() -> None:
    """Have XLA log nothing, which JAX's logging level does for good where that was not set before."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":  # JAX itself makes it 1
        return
    level = jax.config.jax_logging_level  # type: ignore[attr-defined]
    jax.config.update("jax_logging_level", "CRITICAL")
    jax.config.update("jax_logging_level", level)


def _processor() -> str:
    """The kind of processor, as far as compiled code depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        known = platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(known.encode(), digest_size=6).hexdigest()}"
