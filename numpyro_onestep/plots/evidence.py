"""The evidence of one or several models: estimates, errors, bounds, and what they say of the models."""

from typing import Any

import numpy as np

from numpyro_onestep.plots.axes import FAINT, axes_of, ink, one_axes, rows_of
from numpyro_onestep.results.compare import evidence_of
from numpyro_onestep.trust.evidence import with_error

__all__ = ["plot_compare", "plot_evidence"]


def plot_evidence(evidence: Any, ax: Any = None) -> Any:
    """The log evidence with its error, between its lower and its upper bound; an open circle where it is not reliable.

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
    models = evidence if several else {"": evidence}
    found = {name: evidence_of(name or "evidence", model) for name, model in models.items()}
    ax = one_axes(ax, (6.5, 1.6 + 0.6 * len(found)))
    for row, e in enumerate(found.values()):
        if not np.isfinite(e.log_z):
            ax.text(0.5, row, "undefined", transform=ax.get_yaxis_transform(), ha="center", va="center")
            continue
        bounds = [bound if np.isfinite(bound) else e.log_z for bound in (e.elbo, e.eubo)]
        ax.plot(bounds, [row, row], color="C1", lw=6, alpha=0.5, solid_capstyle="butt", label="lower to upper bound")
        _estimate(ax, e.log_z, e.std_error, row, e.reliable, "log evidence ± error")
        text = with_error(e.log_z, e.std_error)
        ax.annotate(text, (e.log_z, row), (0, 9), textcoords="offset points", ha="center")
    rows_of(ax, list(found))
    ax.tick_params(left=several)
    ax.locator_params(axis="x", nbins=5)
    ax.ticklabel_format(axis="x", useOffset=False)
    ax.set_xlabel("log evidence (nats)")
    _legend(ax)
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
    for row, (factor, error, probability, reliable) in enumerate(table[list(needed)].itertuples(index=False)):
        if not np.isfinite(factor):
            left.text(0.5, row, "undefined", transform=left.get_yaxis_transform(), ha="center", va="center")
            continue
        _estimate(left, factor, error / np.log(10), row, reliable, f"{table.index[0]} over each")
        right.barh(row, probability, color="C0", height=0.5)
        right.text(probability + 0.02, row, f"{probability:.3f}", va="center")
    for one in axes:
        rows_of(one, list(table.index))
    right.tick_params(labelleft=False)
    left.axvline(0.0, color=ink(), **FAINT)
    left.set_xlabel("log10 Bayes factor")
    right.set(xlabel="posterior model probability", xlim=(0, 1.2), xticks=(0, 0.5, 1))
    _legend(left)
    return axes


def _estimate(ax: Any, value: float, error: float, row: int, reliable: bool, label: str) -> None:
    face = "C0" if reliable else "none"
    label = label if reliable else f"{label}, not reliable"
    error = error if np.isfinite(error) else 0.0
    ax.errorbar(value, row, xerr=error, fmt="o", color="C0", mfc=face, capsize=4, label=label)


def _legend(ax: Any) -> None:
    """Each label once, above the axes."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        once = dict(zip(labels, handles, strict=True))
        ax.legend(once.values(), once.keys(), frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
