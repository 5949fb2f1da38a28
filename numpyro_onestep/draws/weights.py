"""Log weights and what they tell: effective sample size, Pareto tail, log Z and its error."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, random

__all__ = [
    "effective_sample_size",
    "log_mean_weight",
    "pareto_k",
    "pareto_k_threshold",
    "prepare",
    "resample",
    "tail_error",
    "unseen_error",
]


def effective_sample_size(log_weights: np.ndarray) -> float:
    """(Σw)² / Σw², a count between 1 and N (Kong 1992); 0 where no weight is positive."""
    log_w = _nan_as_zero_weight(log_weights)
    top = log_w.max(initial=-np.inf)
    if not np.isfinite(top):
        return 0.0
    w = np.exp(log_w - top)
    return float(w.sum() ** 2 / np.sum(w**2))


def log_mean_weight(log_weights: np.ndarray) -> tuple[float, float]:
    """Log of the mean weight, summed in float64, and its standard error by the delta method, in nats.

    The error is infinite for a single weight, and where no weight is finite or one is infinite; then the first value
    is that of the largest weight.
    """
    log_w = _nan_as_zero_weight(log_weights)
    top = log_w.max(initial=-np.inf)
    if not np.isfinite(top):
        return float(top), float("inf")
    w = np.exp(log_w - top)
    std_error = w.std(ddof=1) / w.mean() / np.sqrt(len(w)) if len(w) > 1 else np.inf
    return float(top + np.log(w.mean())), float(std_error)


def pareto_k(log_weights: np.ndarray) -> float:
    """Shape k̂ of the generalised Pareto tail of the weights, by ArviZ (Vehtari et al. 2024).

    Below the threshold the mean of the weights has a usable error; above it a few draws decide everything. −inf if the
    weights are constant to working precision, inf if none is finite or one is infinite.
    """
    log_w = _nan_as_zero_weight(log_weights)
    if not np.isfinite(log_w.max()):
        return float("inf")
    if np.ptp(log_w) < 1e-4:
        return float("-inf")
    # weights of zero are outside the tail; a very low finite value stands for them
    log_w = np.maximum(log_w, log_w.max() - 500.0)
    return _psis()(log_w)


def prepare() -> None:
    """Import what `pareto_k` takes; a second where nothing else has."""
    _psis()


def _psis() -> Callable[[np.ndarray], float]:
    """ArviZ's estimate of the tail's shape, in either of its generations."""
    try:
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]
    except ImportError:
        import arviz as az

        return lambda log_w: float(az.psislw(log_w)[1])
    return lambda log_w: float(array_stats.psislw(-log_w)[1])


def pareto_k_threshold(num_draws: int) -> float:
    """The sample-size dependent bound min(1 − 1/log10 N, .7) on k̂ (Vehtari et al. 2024)."""
    return min(1 - 1 / np.log10(max(num_draws, 11)), 0.7)


def tail_error(log_weights: np.ndarray, pareto_k: float) -> float:
    """What the tail of the weights may add to log Z unseen, in nats: its share of the weight times 1/(1 − k̂).

    The tail are the 3√N largest weights (a fifth of all if that is fewer), counted by their excess over the next; with
    shape k̂ < 1 the mean of a generalised Pareto excess is 1/(1 − k̂) times its scale. The factor is at most 50: with
    k̂ ≥ 1 there is no mean, and only a tail that holds next to nothing can be waved through.
    """
    log_w = np.sort(_nan_as_zero_weight(log_weights))
    if not np.isfinite(log_w[-1]):
        return float("inf")
    w = np.exp(log_w - log_w[-1])
    excess = _tail_excess(w)
    return float(np.sum(excess) / w.sum() / max(1 - pareto_k, 0.02))


def unseen_error(log_weights: np.ndarray, pareto_k: float) -> float:
    """What weights larger than the largest of these may add to log Z, in nats.

    One draw in N is expected to be beyond the largest weight seen. Its weight exceeds that, in the mean of a
    generalised Pareto tail, by the tail's mean excess and k/(1 − k) times the largest one, with k one standard error
    (1 + k̂)/√M of M draws in the tail (Smith 1987) above k̂, and at most .98. The usual standard error knows nothing of
    such draws; without one the mean is low.
    """
    log_w = np.sort(_nan_as_zero_weight(log_weights))
    if not np.isfinite(log_w[-1]):
        return float("inf")
    if pareto_k == -np.inf:  # constant weights
        return 0.0
    w = np.exp(log_w - log_w[-1])
    excess = _tail_excess(w)
    k = min(pareto_k + (1 + pareto_k) / np.sqrt(len(excess)), 0.98)
    beyond = max(0.0, np.mean(excess) + k / (1 - k) * excess[-1])
    return float((1 - w.mean() + beyond) / w.sum())


def _tail_excess(w: np.ndarray) -> np.ndarray:
    """By how much the 3√N largest of the sorted weights, or a fifth of all if that is fewer, exceed the next."""
    size = max(1, int(min(3 * np.sqrt(len(w)), len(w) / 5)))
    return w[-size:] - w[-min(size + 1, len(w))]


def resample(rng_key: Array, log_weights: Array, num_draws: int) -> Array:
    """Indices of `num_draws` draws with replacement, with probability proportional to the weights."""
    log_weights = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    return random.categorical(rng_key, log_weights, shape=(num_draws,))


def _nan_as_zero_weight(log_weights: np.ndarray) -> np.ndarray:
    log_w = np.asarray(log_weights, np.float64)
    return np.where(np.isnan(log_w), -np.inf, log_w)
