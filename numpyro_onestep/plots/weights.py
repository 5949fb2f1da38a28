"""Draws beside a reference, and their weights as a histogram or by rank."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from numpyro_onestep import options
from numpyro_onestep.compilation import fold_in
from numpyro_onestep.draws.proposal import pool
from numpyro_onestep.draws.weights import effective_sample_size, log_mean_weight, pareto_k, pareto_k_threshold
from numpyro_onestep.plots.axes import FAINT, ink, one_axes
from numpyro_onestep.run import run_of
from numpyro_onestep.state import trained_flows
from numpyro_onestep.threads import one_blas_thread

__all__ = ["fresh_log_weights", "plot_draws", "plot_weights"]

_LOWEST = -20.0  # nats below the mean weight: what is lower counts for nothing
_MAX_SHOWN = 4000


def plot_draws(draws: Mapping[str, Any], reference: Mapping[str, Any], pair: tuple[str, str], ax: Any = None) -> Any:
    """Scatter one pair of scalar quantities, ours over a reference sample.

    Args:
        draws: name → array of shape (N,).
        reference: the same names → arrays of shape (M,).
        pair: names of the horizontal and the vertical quantity.
        ax: matplotlib axes; new ones by default.

    Returns:
        The axes.
    """
    ax = one_axes(ax)
    for sample, color, label in ((reference, "C1", "NUTS"), (draws, "C0", "OneStep")):
        x, y = (np.asarray(sample[name]).ravel()[:_MAX_SHOWN] for name in pair)
        ax.plot(x, y, ".", ms=3, alpha=0.35, color=color, label=label, rasterized=True)
    ax.set(xlabel=pair[0], ylabel=pair[1])
    ax.set_title("Draws", fontsize="medium")
    ax.legend(frameon=False, markerscale=4)
    return ax


def plot_weights(
    sampler: Any, rng_key: Array | None = None, num_draws: int = 4096, kind: str = "histogram", ax: Any = None
) -> Any:
    """The log weights of fresh draws of the flow: the narrower around 0, the better the flow.

    The title has the effective sample size and Pareto k of the draws that are shown. Where log Z comes from a bridge,
    these are still those of the flow's own draws.

    Args:
        sampler: a `OneStepSampler`, or an `MCMC` around `OneStep`, after `run`.
        rng_key: random key of the fresh draws; by default one of the run's.
        num_draws: how many.
        kind: "histogram" of the log weights less the log of their mean, in nats, or "tail": the weights by rank, with
            the Pareto tail of shape k that fits the largest ones.
        ax: matplotlib axes; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: if nothing was trained, `kind` is none of these, or no draw has a finite weight.
        TypeError: if it is no `MCMC` around `OneStep`.
    """
    if kind not in ("histogram", "tail"):
        raise ValueError(f"`kind` must be 'histogram' or 'tail', not {kind!r}.")
    log_w = fresh_log_weights(sampler, "plot_weights()", rng_key, num_draws)
    relative = np.sort(log_w[np.isfinite(log_w)])[::-1] - log_mean_weight(log_w)[0]
    if len(relative) == 0:
        raise ValueError("plot_weights() has nothing to show: none of the draws has a finite weight.")
    tail_shape, ax = pareto_k(log_w), one_axes(ax)
    if kind == "histogram":
        _histogram(ax, relative)
    else:
        _tail(ax, relative, tail_shape)
    share = 100 * effective_sample_size(log_w) / num_draws
    ax.set_title(f"Weights of {num_draws} draws: ESS {share:.1f} %, Pareto k {tail_shape:.2f}", fontsize="medium")
    return ax


def _histogram(ax: Any, relative: np.ndarray) -> None:
    low = np.sum(relative < _LOWEST)
    ax.hist(np.maximum(relative, _LOWEST), bins=60, color="C0")
    ax.axvline(0.0, color=ink(), **FAINT)
    ax.set(xlabel="log weight − log mean weight (nats)", ylabel="draws", yscale="log")
    if low:
        ax.text(0.03, 0.96, f"{low} at or below {_LOWEST:.0f}", transform=ax.transAxes, va="top")


def _tail(ax: Any, relative: np.ndarray, tail_shape: float) -> None:
    """The larger half of the weights by rank; the fit is of the largest ones' excess, its scale that of the median."""
    from matplotlib.ticker import LogFormatter

    num = int(np.ceil(min(3 * np.sqrt(len(relative)), len(relative) / 5)))
    weight = np.exp(relative)
    rank = np.arange(1, len(weight) // 2 + 1)
    ax.loglog(rank, weight[: len(rank)], ".", ms=4, color="C0", label="the larger half", rasterized=True)
    ax.loglog(rank[:num], weight[:num], "o", ms=4, color="C1", label=f"the {num} largest")
    if np.isfinite(tail_shape) and tail_shape != 0 and num > 4:
        excess = lambda share: np.expm1(-tail_shape * np.log(share)) / tail_shape  # noqa: E731
        least = weight[num]
        scale = np.median(weight[:num] - least) / excess(0.5)
        fit = least + scale * excess((rank[:num] - 0.5) / num)
        label = f"Pareto tail, k {tail_shape:.2f} (trust below {pareto_k_threshold(len(relative)):.2f})"
        ax.loglog(rank[:num], fit, color=ink(), label=label)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    ax.set(xlabel="rank", ylabel="weight / mean weight")
    ax.legend(frameon=False, fontsize="small")


@one_blas_thread()
def fresh_log_weights(
    sampler: Any, what: str, rng_key: Array | None, num_draws: int, num_steps: int | None = None
) -> np.ndarray:
    """Log weights of fresh draws of the flow, shape (num_draws,); `what` needs them, for the error."""
    num_draws = options.whole("num_draws", num_draws)
    run = run_of(sampler, what)
    key: Any = fold_in(trained_flows(run.state)[0].train.rng_key, 3) if rng_key is None else rng_key  # type: ignore
    num_steps = run.kernel.num_steps if num_steps is None else num_steps
    return np.asarray(pool(run.flows(), key, num_draws, num_steps).log_weights, np.float64)
