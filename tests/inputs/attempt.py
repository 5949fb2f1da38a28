"""A call with any input, and whether it ends in a result or in an error that a user can do something with."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpyro

import numpyro_onestep

MAX_SECONDS = 60
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
    """ "a result", or who raised what; what is neither a result nor an error that says what to do fails here."""
    shown = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")  # else JAX hides its own frames
    began, error = time.process_time(), None
    try:
        call()
    except Exception as raised:
        error = raised
    finally:
        jax.config.update("jax_traceback_filtering", shown)
    result = "a result" if error is None else f"{speaker(error)}: {type(error).__name__}: {error}"
    assert time.process_time() - began < MAX_SECONDS, result
    assert not result.startswith(("JAX, called by this package", ":")), result
    # sentences of this package end as such, those that Python makes up itself do not
    assert not result.startswith("this package") or result.endswith("."), result
    return result
