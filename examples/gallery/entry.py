"""What a table's row is of: a model, its data, and what of it is compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Draws", "Entry"]

Draws = dict[str, np.ndarray]  # name of a site → its draws along the first axis


@dataclass(frozen=True)
class Entry:
    """A model with its data.

    Attributes:
        model: the NumPyro model.
        args: its data.
        compared: sites, latent or deterministic, whose means and standard deviations are compared, element by element.
            Left out are sites that only serve another one, and those without a standard deviation, for their logs.
        no_data: the model observes nothing, so that simulating it forward gives exact draws.
        reference: a model with the same posterior of the compared sites that is easier for NUTS: it is their reference.
        log_z: what is known of it otherwise.
        exactly: a function of a number and a generator that gives as many exact draws of the compared sites, and log Z.
    """

    model: Callable[..., None]
    args: tuple[Any, ...]
    compared: tuple[str, ...]
    no_data: bool = False
    reference: Callable[..., None] | None = None
    log_z: float = float("nan")
    exactly: Callable[[int, np.random.Generator], tuple[Draws, float]] | None = None
