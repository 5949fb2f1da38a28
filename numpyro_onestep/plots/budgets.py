"""What more evaluations a draw gain."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from numpyro_onestep.draws.weights import effective_sample_size
from numpyro_onestep.flow.steps import check_num_steps
from numpyro_onestep.plots.axes import axes_of
from numpyro_onestep.plots.weights import fresh_log_weights
from numpyro_onestep.results.compare import evidence_of
from numpyro_onestep.trust.estimate import elbo_of

__all__ = ["plot_budgets"]


def plot_budgets(
    sampler: Any,
    budgets: Sequence[int] = (1, 4, 16),
    num_draws: int = 1024,
    rng_key: Array | None = None,
    ax: Any = None,
) -> Any:
    """What more evaluations a draw gain: DF-ELBO, with log Z above it, and effective sample size of fresh draws.

    Each budget that was not used before takes a compilation, which is most of the time.

    Args:
        sampler: a `OneStepSampler`, or an `MCMC` around `OneStep`, after `run`.
        budgets: evaluations per draw, each a power of two up to 128.
        num_draws: fresh draws for each budget.
        rng_key: random key of the draws; by default one of the run's.
        ax: two matplotlib axes; new ones by default.

    Returns:
        An array of the two axes.

    Raises:
        ValueError: if nothing was trained, a budget is not a power of two, or there are other than two axes.
        TypeError: if it is no `MCMC` around `OneStep`.
    """
    for budget in budgets:
        check_num_steps(budget, "each of `budgets`")
    each = [fresh_log_weights(sampler, "plot_budgets()", rng_key, num_draws, budget) for budget in budgets]
    axes = left, right = axes_of(ax, 2, (9.0, 3.8))
    errors = [np.std(log_w[np.isfinite(log_w)]) / num_draws**0.5 for log_w in each]
    left.errorbar(budgets, [elbo_of(log_w) for log_w in each], errors, fmt="o-", color="C0", capsize=3, label="DF-ELBO")
    e = evidence_of("sampler", sampler)
    if np.isfinite(e.log_z):
        left.axhline(e.log_z, color="C1", label="log evidence ± error")
        left.axhspan(e.log_z - e.std_error, e.log_z + e.std_error, color="C1", alpha=0.25, lw=0)
    right.plot(budgets, [100 * effective_sample_size(log_w) / num_draws for log_w in each], "o-", color="C0")
    left.set(ylabel="nats")
    left.ticklabel_format(axis="y", useOffset=False)
    left.legend(frameon=False)
    right.set(ylabel="effective draws (%)", ylim=(0, 104))
    for one in axes:
        one.set_xscale("log", base=2)
        one.set_xticks(budgets, [str(budget) for budget in budgets])
        one.set_xlabel("evaluations a draw")
    return axes
