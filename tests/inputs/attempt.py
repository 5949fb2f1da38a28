"""A call with any input, and whether it ends in a result or in an error that a user can do something with."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpyro

import numpyro_onestep

_OURS = Path(numpyro_onestep.__file__).parent
_SPEAKERS = {_OURS: "this package", Path(numpyro.__file__).parent: "NumPyro", Path(__file__).parents[1]: "the test"}
_JAX = (Path(jax.__file__).parent, Path(jaxlib.__file__).parent)


def speaker(error: BaseException) -> str:
    """Who raised an error, and for libraries below NumPyro also who called them."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    who = next(
        (who for file in reversed(files) for folder, who in _SPEAKERS.items() if file.is_relative_to(folder)), ""
    )
    return f"JAX, called by {who}" if any(map(files[-1].is_relative_to, _JAX)) else who


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
