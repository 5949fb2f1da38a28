"""The evidence of one or several models: estimates, errors, bounds, and what they say of the models."""

from textwrap import shorten
from typing import Any

import numpy as np

from numpyro_onestep.plots.axes import FAINT, axes_of, ink, one_axes, rows_of
from numpyro_onestep.results.compare import evidence_of
from numpyro_onestep.trust.evidence import with_error

__all__ = ["plot_compare", "plot_evidence"]


def plot_evidence(evidence: Any, ax: Any = None) -> Any:
    """The log evidence with its error, over a bar from its lower to its upper bound.

    The point is hollow where the evidence is not reliable.

    Args:
        evidence: an `Evidence`, whatever `compare` takes as a model, or a dict of names and these.
        ax: matplotlib axes; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: if the dict is empty.
        TypeError: if something else is given.
    """
    several = isinstance(evidence, dict)
    if several and not evidence:
        raise ValueError("plot_evidence() needs at least one model.")
    models = evidence if several else {"evidence": evidence}
    found = {name: evidence_of(name, model) for name, model in models.items()}
    ax = one_axes(ax, (6.5, 1.6 + 0.7 * len(found)))
    for row, e in enumerate(found.values()):
        if not np.isfinite(e.log_z):
            _undefined(ax, row)
            continue
        bounds = [bound if np.isfinite(bound) else e.log_z for bound in (e.elbo, e.eubo)]
        ax.plot(bounds, [row, row], color="C1", lw=7, alpha=0.5, solid_capstyle="butt", marker="|", ms=16)
        _estimate(ax, e.log_z, e.std_error, row, e.reliable)
    values = [with_error(e.log_z, e.std_error) for e in found.values()]
    doubts = [_doubt(e.reliable) for e in found.values()]
    if several:
        rows_of(ax, found, [f"{value}{doubt}" for value, doubt in zip(values, doubts, strict=True)])
    else:
        rows_of(ax, [""], [""])
        ax.tick_params(left=False)
        ax.set_title(f"log evidence {values[0]}{doubts[0]}", fontsize="medium")
    ax.locator_params(axis="x", nbins=5)
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set_xlabel("log evidence ± error, and its bounds (nats)")
    return ax


def plot_compare(table: Any, ax: Any = None) -> Any:
    """What `compare` returns: log10 Bayes factors of the first model over each one, and posterior model probabilities.

    Args:
        table: the DataFrame that `compare` returns.
        ax: two matplotlib axes; new ones by default.

    Returns:
        An array of the two axes.

    Raises:
        TypeError: if it is not such a table.
        ValueError: if there are other than two axes.
    """
    needed = ("log10_bayes_factor", "log_bayes_factor_se", "probability", "reliable")
    if not set(needed) <= set(getattr(table, "columns", ())):
        raise TypeError(f"plot_compare() takes the table of `compare`, with the columns {', '.join(needed)}.")
    axes = left, right = axes_of(ax, 2, (9.0, 1.6 + 0.45 * len(table)), sharey=True)
    rows = table[list(needed)].itertuples(index=False)
    for row, (factor, error, probability, reliable) in enumerate(rows):
        if not np.isfinite(factor):
            _undefined(left, row)
            continue
        _estimate(left, factor, error / np.log(10), row, reliable)
        right.barh(row, probability, color="C0", height=0.5)
        right.text(probability + 0.02, row, f"{probability:.3f}", va="center")
    rows_of(left, table.index, [_doubt(reliable).strip() for reliable in table["reliable"]])
    right.tick_params(labelleft=False)
    left.axvline(0.0, color=ink(), **FAINT)
    left.set_xlabel(f"log10 Bayes factor of\n{shorten(str(table.index[0]), 40)} over each")
    right.set(xlabel="posterior model probability", xlim=(0, 1.25), xticks=(0, 0.5, 1))
    return axes


def _estimate(ax: Any, value: float, error: float, row: int, reliable: bool) -> None:
    """A point with its error, hollow where it is not reliable."""
    error = error if np.isfinite(error) else 0.0
    ax.errorbar(value, row, xerr=error, fmt="o", color="C0", mfc="C0" if reliable else "none", capsize=4)


def _undefined(ax: Any, row: int) -> None:
    ax.text(0.5, row, "undefined", transform=ax.get_yaxis_transform(), ha="center", va="center")


def _doubt(reliable: bool) -> str:
    return "" if reliable else " (not reliable)"
