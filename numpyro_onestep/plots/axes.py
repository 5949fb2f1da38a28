"""Where a picture is drawn: the user's axes or new ones. matplotlib is imported where it is used."""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np

__all__ = ["FAINT", "axes_of", "ink", "one_axes", "rows_of"]

FAINT = {"lw": 1, "ls": "--", "alpha": 0.6}  # a line that says where something is


def axes_of(ax: Any, num: int, size: tuple[float, float], **options: Any) -> Any:
    """The axes given, or new ones side by side, as an array of them.

    Args:
        ax: matplotlib axes, an array or list of them, or None.
        num: how many are needed.
        size: width and height of a new figure, inches.
        **options: further arguments of `plt.subplots` for it.

    Raises:
        ValueError: if other than `num` axes are given.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        return plt.subplots(1, num, figsize=size, layout="constrained", squeeze=False, **options)[1].ravel()
    given = np.ravel(np.asarray(ax, dtype=object))
    if len(given) != num:
        raise ValueError(f"`ax` must be {num} matplotlib axes, not {len(given)}.")
    return given


def one_axes(ax: Any, size: tuple[float, float] = (5.5, 4.0)) -> Any:
    """The one axes given, or a new one."""
    return axes_of(ax, 1, size)[0]


def rows_of(ax: Any, names: Iterable[Any], remarks: Iterable[str]) -> None:
    """One row for each name, from top to bottom, with a remark below it."""
    labels = [f"{fill(str(name), 24)}\n{remark}".strip() for name, remark in zip(names, remarks, strict=True)]
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)


def ink() -> str:
    """The colour in which the user's style writes."""
    import matplotlib.pyplot as plt

    return plt.rcParams["text.color"]
