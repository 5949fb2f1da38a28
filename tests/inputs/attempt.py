"""A call with any input, and whether it ends in a result or in an error that a user can do something with."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpyro

import numpyro_onestep

_OURS = Path(numpyro_onestep.__file__).parent
_TALKERS = {_OURS: "this package", Path(numpyro.__file__).parent: "NumPyro", Path(__file__).parents[1]: "the test"}


def speaker(error: BaseException) -> str:
    """Whose frame is the innermost one of a traceback, as far as it is none of a library below NumPyro."""
    frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    for file in reversed(frames):
        for folder, name in _TALKERS.items():
            if file.is_relative_to(folder):
                return f"JAX, called by {name}" if file != frames[-1] and name == "this package" else name
    return "nobody"


def attempt(call: Callable[[], Any]) -> str:
    """ "a result", or who raised what."""
    shown = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")  # else JAX hides its own frames
    try:
        call()
    except Exception as error:
        return f"{speaker(error)}: {type(error).__name__}: {error}"
    finally:
        jax.config.update("jax_traceback_filtering", shown)
    return "a result"
