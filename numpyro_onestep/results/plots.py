"""Pictures of a result. matplotlib is imported where it is used."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from numpyro_onestep.draws.weights import log_mean_weight

__all__ = ["plot_draws", "plot_weights"]

_OURS, _REFERENCE = "#1f5fa8", "#e07b39"


def plot_draws(draws: Mapping[str, Any], reference: Mapping[str, Any], pair: tuple[str, str], axes: Any = None) -> Any:
    """Scatter one pair of scalar quantities, ours over a reference sample.

    Args:
        draws: name → array of shape (N,).
        reference: the same names → arrays of shape (M,).
        pair: names of the horizontal and the vertical quantity.
        axes: matplotlib axes; new ones by default.
    """
    axes = _axes(axes)
    for sample, color, label in ((reference, _REFERENCE, "NUTS"), (draws, _OURS, "OneStep")):
        x, y = (np.asarray(sample[name]).ravel()[:4000] for name in pair)
        axes.plot(x, y, ".", ms=3, alpha=0.35, color=color, label=label, rasterized=True)
    axes.set(xlabel=pair[0], ylabel=pair[1], title="Draws")
    axes.legend(frameon=False, markerscale=4)
    return axes


def plot_weights(sampler: Any, rng_key: Any, num_draws: int = 4096, axes: Any = None) -> Any:
    """Histogram of normalised log weights of fresh draws: the narrower around 0, the better the flow.

    Args:
        sampler: a `OneStepSampler` after `run`.
        rng_key: random key of the fresh draws.
        num_draws: how many.
        axes: matplotlib axes; new ones by default.
    """
    axes = _axes(axes)
    log_weights = np.asarray(sampler.draw(rng_key, num_draws).log_weights, np.float64)
    finite = log_weights[np.isfinite(log_weights)]
    evidence = sampler.evidence
    axes.hist(finite - log_mean_weight(log_weights)[0], bins=80, color=_OURS)
    axes.set_yscale("log")
    share = 100 * evidence.ess / evidence.num_proposals
    axes.set(xlabel="log weight − log Z (nats)", ylabel="draws", title=f"Weights: ESS {share:.1f} %")
    return axes


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 4))[1]
